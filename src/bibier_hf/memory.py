"""Memory of the process between batches."""

import ctypes
import sys

# Options of mallopt and their numbers in glibc's malloc.h. Large blocks come from the heap like small ones, which
# grows by big steps and returns memory only beyond a limit.
_OPTIONS = {"M_MMAP_MAX": (-4, 0), "M_TOP_PAD": (-2, 2**26), "M_TRIM_THRESHOLD": (-1, 2**30)}


def keep_freed_memory() -> bool:
    """Keep memory that a batch has freed for the next one.

    By default glibc returns blocks of many MB to the system as soon as they are freed and asks for them again, page by
    page, a moment later. A batch of features is made of such blocks, and on a busy CPU a good part of a training step,
    or of the extraction of a long clip, goes into the kernel's page faults. Up to 1 GB stays with the process for it.

    Returns:
        whether this system's C library could be told so (glibc alone can).
    """
    if sys.platform != "linux":
        return False

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False

    return all([bool(mallopt(option, value)) for option, value in _OPTIONS.values()])
