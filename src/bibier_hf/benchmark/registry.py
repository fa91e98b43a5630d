"""Every row of the benchmark by its name.

A module `*_rows.py` of this folder is found by itself. It may define

    ROWS        name -> function without arguments that gives a [`Row`]: the quick set, some seconds each
    FULL_ROWS   the same for what takes minutes: run with --full, or by name
    DATA_ROWS   the same with [`Materials`] as the argument: also needs what a user has on disk; raises [`NotAtHand`]
    where it is not
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .measuring import Row


class NotAtHand(RuntimeError):
    """What a row needs was not given or is not installed; the message says how to give it."""


@dataclass(frozen=True)
class Materials:
    """What a benchmark cannot make itself.

    Args:
        resd: folder of RESD, as it came or prepared.
        backbones: folder with `whisper-base`, `e5-small` and `smollm2`.
        rows: only so many rows of a corpus; None: all.
        epochs: of the training end to end.
        llm_backend: where the language model of `ls_llm_score` runs.
    """

    resd: Path | None = None
    backbones: Path | None = None
    rows: int | None = None
    epochs: int = 20
    llm_backend: str = "transformers"

    def folder(self, option: str, inside: str = "") -> Path:
        """The folder that `--resd` or `--backbones` names, or one inside it."""
        given: Path | None = getattr(self, option)
        if given is None:
            raise NotAtHand(f"give --{option} DIR")
        if not (given / inside).is_dir():
            raise NotAtHand(f"--{option}: there is no folder {given / inside}")
        return given / inside


def find_rows(materials: Materials) -> tuple[dict[str, Callable[[], Row]], dict[str, Callable[[], Row]]]:
    """The quick rows, and the long ones."""
    quick: dict[str, Callable[[], Row]] = {}
    full: dict[str, Callable[[], Row]] = {}
    package = importlib.import_module("bibier_hf.benchmark")
    for name in sorted(
        module.name for module in pkgutil.iter_modules(package.__path__) if module.name.endswith("_rows")
    ):
        module = importlib.import_module(f"{package.__name__}.{name}")
        quick |= getattr(module, "ROWS", {})
        full |= getattr(module, "FULL_ROWS", {})
        full |= {name: partial(row, materials) for name, row in getattr(module, "DATA_ROWS", {}).items()}
    return quick, full
