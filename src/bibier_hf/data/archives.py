"""Files of a folder or of a tar archive, archives inside of them included, one after the other and without unpacking
anything.

Nothing is ever written under a name that an archive gives, and links in it are not followed, so a hostile archive has
nothing to get out through; one that tries is refused all the same.
"""

import gzip
import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO

from .tables import CorpusError

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")


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
    open: Callable[[], BinaryIO]
    on_disk: Path | None = None

    @property
    def key(self) -> str:
        """Eight hex digits that change with size or time."""
        return hashlib.sha256(f"{self.size} {self.mtime}".encode()).hexdigest()[:8]

    def copy_to(self, target: BinaryIO) -> None:
        """Write the content into an open file.

        Raises:
            CorpusError: the archive around it is damaged or cut short.
        """
        with _whole(self.path), self.open() as stream:
            shutil.copyfileobj(stream, target)


@contextmanager
def _whole(path: PurePath) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError(
            f"{path} cannot be read to its end ({error}). Its archive may have been cut short: fetch it again."
        ) from error


def is_archive(name: str) -> bool:
    """Does the name end like that of a tar archive?"""
    return name.endswith(ARCHIVE_SUFFIXES)


def walk_files(source: Path) -> Iterator[SourceFile]:
    """Every regular file of a folder (those in archives after all others) or of a tar archive.

    Raises:
        CorpusError: an archive that is damaged, cut short, or that holds paths which lead out of it.
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
        with _whole(path), tarfile.open(path, "r|*") as archive:
            yield from _walk_archive(archive, inside)


def _walk_archive(archive: tarfile.TarFile, inside: PurePosixPath) -> Iterator[SourceFile]:
    for member in archive:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise CorpusError(
                f"The archive holds the path '{member.name}', which leads out of it. It is not the official one."
            )
        if not member.isreg():
            continue
        if is_archive(name.name) and not name.name.startswith("."):
            with tarfile.open(fileobj=archive.extractfile(member), mode="r|*") as inner:
                yield from _walk_archive(inner, inside / name)
        else:
            yield SourceFile(inside / name, member.size, int(member.mtime), partial(archive.extractfile, member))
