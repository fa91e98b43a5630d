"""Write files and folders so that they appear as a whole, by one process at a time, with one-line errors.

    with locked(folder):                        # a second writer gets an error that names the first
        write_json(folder / "a.json", {...})    # the old file stays until the new one is complete

    with replaced_folder(folder) as new:        # the old folder stays until the new one is complete
        (new / "b.txt").write_text("...")

Work in progress lives in hidden scratch folders next to its target, `.<name>.<random>.bibier`. Each contains a lock
file that is locked as long as its process lives, so that leftovers of killed processes can be told from folders in
use; the next writer removes them. Locks are `flock`s, which end with their process. They need Linux or macOS;
elsewhere, and on file systems without locks, nothing is locked.
"""

import contextlib
import ctypes
import errno
import functools
import json
import logging
import os
import re
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_SCRATCH = re.compile(r"\..*\.[0-9a-f]{8}\.bibier")
_REPLACED = ".replaced"
_POLL_S = 0.2


Remark = str | Callable[..., str]
"""A sentence, or a function that makes it."""


class WriteError(UserError, OSError):
    """A file or folder that cannot be written. The message says which one, what is left and how to go on."""


class LockedError(UserError, RuntimeError):
    """A folder that another process is writing. The message says which process."""


# --- files ---------------------------------------------------------------------------------------------------------


def write_atomically(
    path: str | os.PathLike, write: Callable[[Path], Any], left: Remark = "An earlier file of that name is unchanged."
) -> None:
    """Let `write` fill a file in a scratch folder, then move it into place in one step.

    Args:
        path: the file; its folder is created if needed.
        write: receives the path to write to.
        left: what is left after a write error, as a sentence.

    Raises:
        WriteError: the file cannot be written; an earlier version is unchanged.
    """
    path = Path(path)

    with write_errors(path, left):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path) as scratch:
            write(scratch / path.name)
            os.replace(scratch / path.name, path)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8 in one step."""
    write_atomically(path, lambda new: new.write_text(text, encoding="utf-8"))


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write `content` in one step."""
    write_atomically(path, lambda new: new.write_bytes(content))


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write `content` as indented JSON in one step. NaN raises a ValueError, since JSON has none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


# --- folders -------------------------------------------------------------------------------------------------------


@contextmanager
def scratch_folder(target: str | os.PathLike) -> Generator[Path]:
    """Create an empty hidden folder next to `target`, on the same file system, and remove it at the end.

    Leftovers of killed processes next to `target` are removed first.
    """
    target = Path(os.path.abspath(target))
    if target.parent not in _tidied:
        remove_leftovers(target.parent)
        _tidied.add(target.parent)

    folder, lock = _make_scratch(target)

    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock)


def _make_scratch(target: Path) -> tuple[Path, int | None]:
    """Return the new folder and the descriptor of its lock."""
    while True:
        folder = target.parent / f".{target.name[:100]}.{secrets.token_hex(4)}.bibier"
        folder.mkdir()
        try:
            return folder, _try_lock(folder / LOCK_FILE)
        except (_Held, FileNotFoundError):  # another process took it for a leftover before it was locked
            continue
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


_tidied: set[Path] = set()
"""Folders that this process has cleared of leftovers. Once is enough, and listing a large folder takes time."""


@contextmanager
def temporary_folder(name: str = "bibier") -> Generator[Path]:
    """Create a scratch folder in the system's temporary folder."""
    with scratch_folder(Path(tempfile.gettempdir()) / name) as folder:
        yield folder


def is_vacant(folder: str | os.PathLike) -> bool:
    """Whether the path is a folder with nothing in it but, possibly, a lock."""
    return os.path.isdir(folder) and all(name == LOCK_FILE for name in os.listdir(folder))


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the scratch folders in `folder` that do not belong to a living process."""
    try:
        found = [entry.path for entry in os.scandir(folder) if _is_scratch(entry)]
    except OSError:
        return

    for path in map(Path, found):
        with contextlib.suppress(OSError, _Held):
            lock = _try_lock(path / LOCK_FILE)
            try:
                _restore(path)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                _unlock(lock)


def _is_scratch(entry: os.DirEntry) -> bool:
    return (
        _SCRATCH.fullmatch(entry.name) is not None
        and entry.is_dir(follow_symlinks=False)
        and fcntl is not None
        # Without a lock file, its process was killed, or is about to create it.
        and (os.path.exists(os.path.join(entry.path, LOCK_FILE)) or time.time() - entry.stat().st_mtime > 60)
    )


@contextmanager
def replaced_folder(target: str | os.PathLike) -> Generator[Path]:
    """Provide an empty folder to fill, which then replaces `target` and everything in it.

    After an error, or a kill at any moment, `target` is unchanged: the two folders are exchanged in one step if the
    system can (Linux). Elsewhere, the next writer completes or undoes an exchange that was interrupted.

    Raises:
        LockedError: another process is writing `target`.
        WriteError: `target` cannot be written.
    """
    target = Path(os.path.realpath(target))

    with locked(target, left="The folder is unchanged."), scratch_folder(target) as scratch:
        new = scratch / target.name
        new.mkdir()
        yield new
        lock = _try_lock(new / LOCK_FILE)  # before others can see the new folder
        _swap(new, target, scratch / _REPLACED)
        _take_over(target, lock)


@contextmanager
def filled_folder(folder: str | os.PathLike, last: str | None = None) -> Generator[Path]:
    """Provide an empty folder to fill, whose files are then moved into `folder`, next to the existing ones.

    Args:
        folder: where the files go.
        last: the file that marks the folder as complete. An old one is removed before any file is moved; the new one
            is moved last.

    Raises:
        LockedError: another process is writing `folder`.
        WriteError: `folder` cannot be written.
    """
    folder = Path(os.path.realpath(folder))

    with locked(folder), scratch_folder(folder / "files") as scratch:
        new = scratch / "files"
        new.mkdir()
        yield new

        if last is not None:
            (folder / last).unlink(missing_ok=True)

        for path in sorted(new.iterdir(), key=lambda path: path.name == last):
            target = folder / path.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            os.replace(path, target)


def _swap(new: Path, target: Path, aside: Path) -> None:
    if not exchange(new, target):
        aside.mkdir()
        os.replace(target, aside / target.name)
        try:
            os.replace(new, target)
        except BaseException:
            os.replace(aside / target.name, target)
            raise


def _restore(scratch: Path) -> None:
    """Restore a folder that a killed process had moved aside but not yet replaced."""
    aside = scratch / _REPLACED

    for old in aside.iterdir() if aside.is_dir() else ():
        target = scratch.parent / old.name
        if not target.exists():
            os.replace(old, target)
            (target / LOCK_FILE).unlink(missing_ok=True)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step. Returns False if the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return False

    here, exchange_flag = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if call(here, os.fsencode(first), here, os.fsencode(second), exchange_flag) == 0:
        return True

    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False

    raise OSError(code, os.strerror(code), str(second))


# --- locks ---------------------------------------------------------------------------------------------------------


class _Held(Exception):
    """Another process holds the lock; the message says which one."""


class _Lock:
    """A lock on a folder or file, held by this process."""

    def __init__(self, path: Path, descriptors: list[int], made: list[Path]):
        self.path = path
        self.descriptors = descriptors
        self.made = made
        self.depth = 1
        self.thread = threading.get_ident()


_locks: dict[Path, _Lock] = {}
_descriptors: set[int] = set()


@contextmanager
def locked(
    path: str | os.PathLike, *, left: Remark = "", file: bool = False, wait: bool = False, reading: bool = False
) -> Generator[None]:
    """Be the only process that writes a folder. Write errors within the block become a [`WriteError`].

    The thread that holds the lock may take it again.

    Args:
        path: the folder. It is created if needed, and removed if it is still empty at the end.
        left: what is left after a write error, as a sentence.
        file: `path` is a file.
        wait: wait for the other process instead of raising.
        reading: only keep others from writing. A folder that cannot be written then needs no lock.

    Raises:
        LockedError: another process holds the lock.
        WriteError: the folder cannot be written.
    """
    path = Path(os.path.realpath(path))

    with write_errors(path, left):
        held = _locks.get(path)
        if held is not None and held.thread == threading.get_ident():
            held.depth += 1
            try:
                yield
            finally:
                held.depth -= 1
            return

        held = _acquire(path, file, wait, reading)
        _locks[path] = held

        try:
            yield
        finally:
            del _locks[path]
            _release(held)


def _acquire(path: Path, is_file: bool, wait: bool, reading: bool) -> _Lock:
    folder = path.parent if is_file else path
    remove_leftovers(path.parent)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    told = False

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / (f".{path.name}{LOCK_FILE}" if is_file else LOCK_FILE)
        while True:
            try:
                descriptor = _try_lock(file)
                break
            except FileNotFoundError:  # its last owner removed the folder that it had created
                folder.mkdir(parents=True, exist_ok=True)
            except _Held as error:
                if not wait:
                    raise LockedError(f"{path} is being written by {error}. Wait, or choose another place.") from error

                if not told:
                    logger.warning(f"Waiting for {error}, which writes {path}.")

                told = True
                time.sleep(_POLL_S)
    except OSError as error:
        if reading and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return _Lock(path, [], [])
        raise

    if not is_file:
        remove_leftovers(folder)

    return _Lock(file, [] if descriptor is None else [descriptor], made)


def _take_over(target: Path, descriptor: int | None) -> None:
    """Register that a locked folder was replaced by one that is locked by `descriptor`."""
    if target in _locks and descriptor is not None:
        _locks[target].descriptors.append(descriptor)
        _locks[target].made = []


def _release(held: _Lock) -> None:
    if held.descriptors:
        with contextlib.suppress(OSError):
            held.path.unlink(missing_ok=True)

    with contextlib.suppress(OSError):
        for folder in held.made:  # the innermost first
            folder.rmdir()

    for descriptor in held.descriptors:
        _unlock(descriptor)


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def _try_lock(file: Path) -> int | None:
    """Lock `file`, creating it if needed, and return its descriptor; None if there are no locks.

    Raises:
        _Held: another process holds it.
        OSError: the file cannot be created.
    """
    if fcntl is None:
        return None

    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

            if not _is_still(file, descriptor):  # its last owner has removed it
                os.close(descriptor)
                continue

            with contextlib.suppress(OSError):  # on a full disk, the lock works without a name in it
                os.ftruncate(descriptor, 0)
                os.write(descriptor, _this_process().encode(errors="replace"))

            _descriptors.add(descriptor)
            return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise _Held(holder or "another process") from None
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                return None
            raise


def _is_still(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _this_process() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    program = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:2]]) if sys.argv and sys.argv[0] else "python"
    return f"process {os.getpid()} on {socket.gethostname()} since {since} ({program})"


def _forget_locks() -> None:
    """Drop the parent's locks in a forked worker, which must not keep them alive when the parent is killed."""
    for descriptor in _descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)

    _descriptors.clear()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


# --- errors --------------------------------------------------------------------------------------------------------

_FULL = "no space is left on the disk. Free some, or choose a place on another disk."
_FORBIDDEN = "permission denied. Change the permissions, or choose another place."
_WRITE_ERRORS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the disk quota is used up. Free some space, or choose a place on another disk.",
    errno.EFBIG: "the file is too large for this file system. Choose a place on another disk.",
    errno.EROFS: "the file system is read-only. Choose another place.",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.ENOTDIR: "a part of the path is a file, not a folder. Choose another place.",
    errno.EEXIST: "it is a file, not a folder. Choose another place.",
    errno.EISDIR: "it is a folder, not a file. Choose another name.",
    errno.ENAMETOOLONG: "the name is too long. Choose a shorter one.",
    errno.EBUSY: "it is in use or a mount point. Choose a folder within it.",
    errno.EIO: "the disk reports an error. Check it, or choose a place on another disk.",
}

_NUMBER = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)
"""How libraries written in C++ and Rust state the number of an error in their messages."""

_BY_TEXT = ("safetensors", "sqlite3", "onnx", "soundfile", "pyarrow")
"""Modules whose own error classes are checked as well."""

_TEXTS = {
    "no space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,  # SQLite
    "enforce fail at inline_container": errno.ENOSPC,  # torch.save
    "pytorchstreamwriter failed": errno.ENOSPC,
    "requested and ": errno.ENOSPC,  # NumPy: "4096 requested and 512 written"
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "attempt to write a readonly database": errno.EACCES,  # SQLite
    "unable to open database file": errno.EACCES,
}


def describe_write_error(error: BaseException) -> str | None:
    """Return what a write error means and how to go on, in a sentence or two; None for other errors.

    Errors of safetensors, PyTorch, PyArrow and SQLite carry no number and are recognized by their text.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return _WRITE_ERRORS.get(error.errno)

    if isinstance(error, (OSError, RuntimeError)) or type(error).__module__.startswith(_BY_TEXT):
        text = str(error).lower()
        numbers = [int(number) for number in _NUMBER.findall(text)]
        numbers += [number for part, number in _TEXTS.items() if part in text]
        return next((_WRITE_ERRORS[number] for number in numbers if number in _WRITE_ERRORS), None)

    return None


@contextmanager
def write_errors(path: str | os.PathLike, left: Remark = "") -> Generator[None]:
    """Turn write errors within the block into a one-line [`WriteError`].

    Args:
        path: what is written; named unless the error names a file.
        left: what is left now, as a sentence.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        meaning = describe_write_error(error)
        if meaning is None:
            raise
        raise as_write_error(error, path, meaning, left if isinstance(left, str) else left()) from error


def as_write_error(error: BaseException, path: str | os.PathLike | None, meaning: str, left: str = "") -> WriteError:
    """Return the [`WriteError`] for an error with a known `meaning`. `path`: what was written; None: unknown."""
    named = getattr(error, "filename", None)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # of a copy, its target is full
        named = getattr(error, "filename2", None) or named
    named = None if named is None or isinstance(named, int) else os.path.abspath(os.fsdecode(named))
    if named is not None and any(map(_SCRATCH.fullmatch, Path(named).parts)):
        named = None

    if path is None:
        what = "Cannot write" if named is None else f"Cannot use {named}"
    else:
        root = os.path.realpath(path)
        related = named is None or os.path.realpath(named).startswith(root) or root.startswith(named)
        what = f"Cannot {'write' if related else 'use'} {named or os.fspath(path)}"

    found = WriteError(" ".join(filter(None, [f"{what}: {meaning}", left])))
    found.errno = getattr(error, "errno", None)

    return found


def is_main_process() -> bool:
    """Whether this is the first of the processes that a launcher started."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def locked_by_first_process(path: str | os.PathLike, left: Remark = "", file: bool = False) -> Generator[None]:
    """Like [`locked`], for several processes of one launcher: the first takes the lock for all."""
    with locked(path, left=left, file=file) if is_main_process() else write_errors(path, left):
        yield


def writes(folder: Callable[..., str | os.PathLike | None], left: Remark = "", file: bool = False) -> Callable:
    """Decorator that runs a function under [`locked_by_first_process`].

    Args:
        folder: `folder(*args, **kwargs)` returns the folder that the function writes, or None.
        left: what is left after a write error; a function receives the same arguments.
        file: the path is a file.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            path = folder(*args, **kwargs)
            if path is None:
                return function(*args, **kwargs)

            told = left if isinstance(left, str) else functools.partial(left, *args, **kwargs)

            with locked_by_first_process(path, told, file):
                return function(*args, **kwargs)

        return run

    return decorate
