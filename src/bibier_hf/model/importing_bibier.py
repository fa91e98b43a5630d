"""Modules of code that came with a checkpoint can be imported by their names."""

import sys


def make_importable(name: str) -> None:
    """Enter a module in its package, as an import does.

    transformers runs the entry files of remote code without it. `pickle` does not mind, but `dill`, which `datasets`
    hashes with, does not find their classes there, writes them out by value, and ends in a RecursionError.

    Args:
        name: `__name__` of the module.
    """
    package, _, child = name.rpartition(".")
    if package in sys.modules:
        setattr(sys.modules[package], child, sys.modules[name])
