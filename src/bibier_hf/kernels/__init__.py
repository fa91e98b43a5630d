"""Compiled kernels for a CPU: the selective scan and the causal convolution of Mamba blocks.

They are built from the C++ beside this file, once, in a few seconds, into the user's cache, and registered as the
operators `torch.ops.bibier_hf.selective_scan` and `torch.ops.bibier_hf.causal_conv`. The model looks those up at each
call and else does the same in plain torch, so that it needs neither this package nor a compiler: remote code gains
from them as soon as `bibier_hf` is imported.

    import bibier_hf                  loads what is built already, compiles nothing
    load_kernels(build_missing=True)  what long work does first (training, extraction, the benchmark): compiles, and
    says so python -m bibier_hf.kernels       compiles and prints where the library is

`BIBIER_KERNEL` chooses: `auto` (the default; whatever fails is told once, and the torch path is used), `torch`
(never), `cpp` (compiled at import if need be; whatever fails is an error).
"""

import os
from pathlib import Path

from transformers.utils import logging

from ..errors import ArgumentError
from .building import KernelError, build, library_path

logger = logging.get_logger(__name__)

CHOICES = ("auto", "torch", "cpp")

_state: dict[str, Path | KernelError] = {}
"""`loaded`: the library in use; `failed`: why there is none, told once."""


def kernel_choice() -> str:
    """What `BIBIER_KERNEL` says: `"auto"`, `"torch"` or `"cpp"`."""
    choice = os.environ.get("BIBIER_KERNEL", "auto")
    if choice not in CHOICES:
        raise ArgumentError(f"BIBIER_KERNEL={choice!r} is not allowed; it must be one of {', '.join(CHOICES)}.")
    return choice


def load_kernels(build_missing: bool = False) -> bool:
    """Register the compiled operators; safe to call again, and from many processes at once.

    Args:
        build_missing: compile them if this machine has not yet done so.

    Returns:
        whether they are in use now.

    Raises:
        KernelError: they cannot be built or loaded, and `BIBIER_KERNEL=cpp` asks for them.
    """
    choice = kernel_choice()
    if choice == "torch" or "loaded" in _state or "failed" in _state:
        return choice != "torch" and "loaded" in _state
    try:
        path = library_path()
        if not path.exists():
            if not (build_missing or choice == "cpp"):
                return False
            logger.warning(f"Compiling the kernels of the Mamba blocks, once, into {path.parent} (some seconds).")
            build(path)
        from .operators import register

        register(path)
    except KernelError as error:
        if choice == "cpp":
            raise
        _state["failed"] = error
        logger.warning(
            f"{error} Mamba blocks run in plain torch, with equal results and more slowly (BIBIER_KERNEL=torch: not "
            "to try)."
        )
        return False
    _state["loaded"] = path
    return True
