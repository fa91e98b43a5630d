"""Makes modules of code that came with a checkpoint importable by name."""

import sys


def make_importable(name: str) -> None:
    """Set a module as an attribute of its package, as an import does.

    transformers runs the entry files of remote code without this. `pickle` does not mind, but `dill`, which `datasets`
    hashes with, does not find their classes, writes them out by value, and fails with a RecursionError.

    Args:
        name: `__name__` of the module.
    """
    package, _, child = name.rpartition(".")
    if package in sys.modules:
        setattr(sys.modules[package], child, sys.modules[name])
