"""Compile the C++ kernels into a shared library in the user's cache."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from ..errors import UserError
from ..files import locked, write_atomically

SOURCES = ("selective_scan.cpp", "causal_conv.cpp")
HEADERS = ("vectors.h",)
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fopenmp")
VECTOR_FLAGS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}
"""CPU capability detected by PyTorch -> compiler flags. Never `-march=native`: different machines may share a
cache."""


class KernelError(UserError, RuntimeError):
    """The kernels cannot be built or loaded; the message says why and what would help."""


def library_path() -> Path:
    """Return the path of the library for these sources, flags and kind of CPU, whether or not it exists."""
    digest = hashlib.blake2b(repr((_flags(), sys.platform, platform.machine())).encode(), digest_size=8)

    for name in (*SOURCES, *HEADERS):
        digest.update((Path(__file__).parent / name).read_bytes())

    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")

    return Path(cache) / "bibier_hf" / "kernels" / f"mamba-{digest.hexdigest()}.so"


def build(path: Path) -> None:
    """Compile the library. Concurrent processes wait for the first; the file appears complete or not at all.

    Raises:
        KernelError: there is no compiler, it fails, or the folder cannot be written.
    """
    command = [*_compiler(), *_flags(), *(str(Path(__file__).parent / name) for name in SOURCES)]

    def compile_into(file: Path) -> None:
        done = subprocess.run([*command, "-o", str(file)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise KernelError(f"The kernels did not compile ({shlex.join(command)}):\n{done.stderr[-2000:]}\n")

    try:
        with locked(path, file=True, wait=True):
            if not path.exists():
                write_atomically(path, compile_into)
    except OSError as error:
        raise KernelError(
            f"The kernels cannot be built in {path.parent}: {error} XDG_CACHE_HOME names another place."
        ) from error


def _flags() -> tuple[str, ...]:
    return FLAGS + VECTOR_FLAGS.get(torch.backends.cpu.get_cpu_capability(), ())


def _compiler() -> list[str]:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]

    for name in names:
        try:
            program, *options = shlex.split(name)
        except ValueError as error:  # only spaces, or an unclosed quote
            raise KernelError(
                f"CXX={name!r} names no compiler ({error}). Unset it, or name one, such as g++."
            ) from error
        if found := shutil.which(program):
            return [found, *options]

    raise KernelError(
        f"There is no C++ compiler (looked for {', '.join(names)}); install GCC or Clang, or name one in CXX."
    )
