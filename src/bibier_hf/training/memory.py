"""Memory of the process between batches."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of options in glibc's malloc.h
_LARGEST_THRESHOLD = 32 * 2**20  # that glibc takes for blocks which it asks the system for one by one
_KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Keep memory that a batch has freed for the next one.

    By default glibc returns blocks of many MB to the system as soon as they are freed and asks for them again, page by page, a moment
    later. A batch of features is made of such blocks, and on a busy CPU a good part of a training step goes into the kernel's page faults.
    Up to 1 GB stays with the process for it.

    Returns:
        whether this system's C library could be told so (glibc alone can).
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))
