"""Memory of the process between batches."""

import ctypes
import sys

# Options of mallopt and their numbers in glibc's malloc.h. Large blocks come from the heap like small ones, which
# grows by big steps and returns memory only beyond a limit.
_OPTIONS = {"M_MMAP_MAX": (-4, 0), "M_TOP_PAD": (-2, 2**26), "M_TRIM_THRESHOLD": (-1, 2**30)}


def keep_freed_memory() -> bool:
    """Keep memory that a batch has freed for the next one.

    By default, the C library returns large blocks to the system and gets them back page by page, zeroed. On a busy
    CPU, page faults then take a good part of a training step or of the extraction of a long clip. Up to 1 GB stays
    with the process.

    Returns:
        whether this system's C library supports it (only glibc does).
    """
    if sys.platform != "linux":
        return False

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False

    return all([bool(mallopt(option, value)) for option, value in _OPTIONS.values()])
