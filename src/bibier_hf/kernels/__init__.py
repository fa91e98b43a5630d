"""Compiled CPU kernels of Mamba blocks: the selective scan and the causal convolution.

They are built once from the C++ in this folder, within seconds, into the user's cache, and registered as the operators
`torch.ops.bibier_hf.selective_scan` and `torch.ops.bibier_hf.causal_conv`. The model looks them up at every call and
otherwise computes the same in plain PyTorch, so it needs neither this package nor a compiler. Remote code uses them as
soon as `bibier_hf` is imported.

    import bibier_hf                    loads the kernels if they are already built
    load_kernels(build_missing=True)    builds them if needed; called by training and the benchmark
    bibier kernels                      builds them and prints the path of the library

`BIBIER_KERNEL=torch` turns them off. If they cannot be built, a warning says why, once, and plain PyTorch is used.
"""

import os

from transformers.utils import logging

from ..errors import ArgumentError
from .building import KernelError, build, library_path

__all__ = ["KernelError", "build", "kernels_wanted", "library_path", "load_kernels"]

logger = logging.get_logger(__name__)

CHOICES = ("auto", "torch")

_state: dict[str, bool] = {}
"""`in_use`: whether the kernels are in use; missing until they have been loaded or have failed."""


def kernels_wanted() -> bool:
    """Whether `BIBIER_KERNEL` allows the kernels.

    Raises:
        ArgumentError: it has another value than `auto` (the default) or `torch`.
    """
    choice = os.environ.get("BIBIER_KERNEL", "auto")
    if choice not in CHOICES:
        raise ArgumentError(f"BIBIER_KERNEL={choice!r} is not allowed; it must be one of {', '.join(CHOICES)}.")

    return choice == "auto"


def load_kernels(build_missing: bool = False) -> bool:
    """Register the compiled operators. Safe to call repeatedly, and from many processes at once.

    Args:
        build_missing: compile them if this machine has not done so yet.

    Returns:
        whether they are in use now.
    """
    if not kernels_wanted():
        return False

    if "in_use" in _state:
        return _state["in_use"]

    try:
        path = library_path()
        if not path.exists():
            if not build_missing:
                return False
            logger.warning(f"Compiling the kernels of the Mamba blocks into {path.parent}, once (a few seconds).")
            build(path)

        from .operators import register

        register(path)
        _state["in_use"] = True
    except KernelError as error:
        _state["in_use"] = False
        logger.warning(
            f"{error} Mamba blocks run in plain PyTorch, with the same results but slower (BIBIER_KERNEL=torch turns "
            "this attempt off)."
        )

    return _state["in_use"]
