"""Read the files of a folder or a tar archive one after the other, nested archives included, without unpacking them.

Nothing is written under a name from an archive, and links are not followed, so a hostile archive cannot write
anywhere. Archives with paths that lead out of them are refused, and so are archives whose headers announce far more
bytes than an archive of their size can hold; this is checked before anything is read or written.
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
from typing import IO, Any

from .tables import CorpusError

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")

MAX_RATIO = 100
"""Bytes that one byte of an archive may expand to. Recordings expand to 1 to 3, tables to 10."""

FREE_BYTES = 1 << 30
"""Bytes that any archive may hold, whatever its own size."""

MAX_FILE_BYTES = 1 << 30
"""Size of the largest file that is read from an archive: a clip or a table."""

MAX_MEMBERS = 1_000_000
MAX_HEADER_BYTES = 1 << 20
"""Size of the largest header, such as a long name, which tarfile reads into memory."""


@dataclass(frozen=True)
class SourceFile:
    """A regular file on disk or in an archive.

    Attributes:
        path: relative to the folder or archive that was opened; nested archives count as folders.
        size: in bytes.
        mtime: in seconds; the same in an archive and in what was unpacked from it.
        open: opens the file; in an archive only until the next file is requested.
        on_disk: path of the file, unless it is in an archive.
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
            CorpusError: the surrounding archive is damaged or truncated.
        """
        with _whole(self.path), self.open() as stream:
            shutil.copyfileobj(stream, target)


class _Budget:
    """The bytes and files that an archive and the archives inside it may still expand to.

    Args:
        name: of the outermost archive.
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
            raise CorpusError(f"The archive {self.name} holds too many {what}. This is not the official archive.")


class _CheckedTarInfo(tarfile.TarInfo):
    """A header that is checked before the data after it is read into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        too_large = self.type in _HEADER_TYPES and self.size > MAX_HEADER_BYTES
        if too_large or self.size < 0 or self.type == tarfile.GNUTYPE_SPARSE:
            raise _unusual(self.name)

        return super()._proc_member(archive)  # ty: ignore[missing-attribute] - private to tarfile

    def _refuse_sparse(self, *_: object) -> None:
        raise _unusual(self.name)

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


_HEADER_TYPES = (*tarfile.GNU_TYPES, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


def _unusual(name: str) -> CorpusError:
    return CorpusError(
        f"The archive holds '{name[:100]}', a sparse file or a header of an impossible size. This is not the official "
        "archive."
    )


@contextmanager
def _whole(path: PurePath) -> Generator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, RecursionError) as error:
        raise CorpusError(
            f"{path} cannot be read to its end ({error}). The archive may be truncated: download it again."
        ) from error


def is_archive(name: str) -> bool:
    """Whether the name ends like that of a tar archive."""
    return name.endswith(ARCHIVE_SUFFIXES)


def walk_files(source: Path) -> Iterator[SourceFile]:
    """Yield every regular file of a tar archive or a folder, files in archives last.

    Raises:
        CorpusError: an archive is damaged or truncated, holds paths that lead out of it, or announces more bytes than
            an archive of its size can hold.
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
        with _whole(path), _opened(name=path) as archive:
            yield from _walk_archive(archive, inside, _Budget(path.name, path.stat().st_size))


def _opened(**source: Any) -> tarfile.TarFile:
    try:
        return tarfile.open(mode="r|*", tarinfo=_CheckedTarInfo, **source)
    except TypeError as error:  # raised by tarfile
        raise tarfile.ReadError("the header of gzip is incomplete") from error


def _walk_archive(archive: tarfile.TarFile, inside: PurePosixPath, budget: _Budget) -> Iterator[SourceFile]:
    read = 0
    while (member := archive.next()) is not None:
        archive.members = []  # tarfile keeps all of them  # ty: ignore[missing-attribute]
        budget.spend(archive.offset - read)  # includes the content of this member, which is still to be read
        read = archive.offset
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise CorpusError(
                f"The archive holds the path '{member.name}', which leads out of it. This is not the official archive."
            )

        if not member.isreg():
            continue

        if is_archive(name.name) and not name.name.startswith("."):
            with _opened(fileobj=archive.extractfile(member)) as inner:
                yield from _walk_archive(inner, inside / name, budget)
        else:
            yield SourceFile(inside / name, member.size, int(member.mtime), partial(_extract, archive, member))


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    if member.size > MAX_FILE_BYTES:
        raise CorpusError(f"'{member.name}' in the archive has {member.size} bytes; the limit is {MAX_FILE_BYTES}.")

    content = archive.extractfile(member)
    assert content is not None  # a regular file

    return content
