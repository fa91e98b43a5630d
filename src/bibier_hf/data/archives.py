"""Files of a folder or of a tar archive, archives inside of them included, one after the other and without unpacking
anything.

Nothing is ever written under a name that an archive gives, and links in it are not followed, so a hostile archive has
nothing to get out through; one that tries is refused all the same. So is one that claims to hold far more than it can:
before anything is read or written, the sizes in its headers are counted.
"""

import gzip
import hashlib
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import IO

from .tables import CorpusError

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")

MAX_RATIO = 100
"""Bytes that a byte of an archive may become; recordings become 1 to 3, tables 10."""

FREE_BYTES = 1 << 30
"""Bytes that any archive may hold, whatever its own size."""

MAX_FILE_BYTES = 1 << 30
"""Size of the largest file that is read from an archive: a clip or a table."""

MAX_MEMBERS = 1_000_000
MAX_HEADER_BYTES = 1 << 20
"""Size of a header, such as a long name: tarfile reads it into memory."""


@dataclass(frozen=True)
class SourceFile:
    """A regular file on disk or in an archive.

    Attributes:
        path: relative to the folder or archive that was opened; archives inside count as folders.
        size: in bytes.
        mtime: seconds; an archive and what was unpacked from it agree in it.
        open: opens the file; in an archive only until the next file is asked for.
        on_disk: its path, if it is a file of its own.
    """

    path: PurePosixPath
    size: int
    mtime: int
    open: Callable[[], IO[bytes]]
    on_disk: Path | None = None

    @property
    def key(self) -> str:
        """Eight hex digits that change with size or time."""
        return hashlib.sha256(f"{self.size} {self.mtime}".encode()).hexdigest()[:8]

    def copy_to(self, target: IO[bytes]) -> None:
        """Write the content into an open file.

        Raises:
            CorpusError: the archive around it is damaged or cut short.
        """
        with _whole(self.path), self.open() as stream:
            shutil.copyfileobj(stream, target)


class _Budget:
    """What an archive, with those inside of it, may still become.

    Args:
        size: of the outermost archive, in bytes.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.bytes_left = FREE_BYTES + MAX_RATIO * size
        self.members_left = MAX_MEMBERS

    def spend(self, size: int) -> None:
        self.bytes_left -= size
        self.members_left -= 1
        if self.bytes_left < 0 or self.members_left < 0:
            what = "bytes for its own size" if self.bytes_left < 0 else f"files (over {MAX_MEMBERS})"
            raise CorpusError(f"The archive {self.name} holds too many {what}. It is not the official one.")


class _CheckedTarInfo(tarfile.TarInfo):
    """A header that is checked before what follows it is read into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        too_large = self.type in _HEADER_TYPES and self.size > MAX_HEADER_BYTES
        if too_large or self.size < 0 or self.type == tarfile.GNUTYPE_SPARSE:
            raise _unusual(self.name)
        return super()._proc_member(archive)  # ty: ignore[missing-attribute] - private to tarfile

    def _refuse_sparse(self, *_: object) -> None:
        raise _unusual(self.name)

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


_HEADER_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def _unusual(name: str) -> CorpusError:
    return CorpusError(
        f"The archive holds '{name[:100]}', a sparse file or a header of an impossible size. It is not the official one."
    )


@contextmanager
def _whole(path: PurePath) -> Generator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, RecursionError) as error:
        raise CorpusError(
            f"{path} cannot be read to its end ({error}). Its archive may have been cut short: fetch it again."
        ) from error


def is_archive(name: str) -> bool:
    """Does the name end like that of a tar archive?"""
    return name.endswith(ARCHIVE_SUFFIXES)


def walk_files(source: Path) -> Iterator[SourceFile]:
    """Every regular file of a folder (those in archives after all others) or of a tar archive.

    Raises:
        CorpusError: an archive that is damaged, cut short, that holds paths which lead out of it, or far more bytes
            than an archive of its size can.
    """
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.is_file())
        for path in files:
            if not is_archive(path.name):
                stat = path.stat()
                name = PurePosixPath(path.relative_to(source).as_posix())
                yield SourceFile(name, stat.st_size, int(stat.st_mtime), partial(open, path, "rb"), path)
        archives = [path for path in files if is_archive(path.name) and not path.name.startswith(".")]
    else:
        archives = [source]
    for path in archives:
        inside = PurePosixPath(path.relative_to(source).as_posix()) if path != source else PurePosixPath()
        with _whole(path), tarfile.open(path, "r|*", tarinfo=_CheckedTarInfo) as archive:
            yield from _walk_archive(archive, inside, _Budget(path.name, path.stat().st_size))


def _walk_archive(archive: tarfile.TarFile, inside: PurePosixPath, budget: _Budget) -> Iterator[SourceFile]:
    read = 0
    while (member := archive.next()) is not None:
        archive.members = []  # tarfile keeps all of them  # ty: ignore[missing-attribute]
        budget.spend(archive.offset - read)  # with the content of this one, which is still to be read
        read = archive.offset
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise CorpusError(
                f"The archive holds the path '{member.name}', which leads out of it. It is not the official one."
            )
        if not member.isreg():
            continue
        if is_archive(name.name) and not name.name.startswith("."):
            with tarfile.open(fileobj=archive.extractfile(member), mode="r|*", tarinfo=_CheckedTarInfo) as inner:
                yield from _walk_archive(inner, inside / name, budget)
        else:
            yield SourceFile(inside / name, member.size, int(member.mtime), partial(_extract, archive, member))


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    if member.size > MAX_FILE_BYTES:
        raise CorpusError(
            f"'{member.name}' in the archive has {member.size} bytes; at most {MAX_FILE_BYTES} are read."
        )
    content = archive.extractfile(member)
    assert content is not None  # a regular file
    return content
