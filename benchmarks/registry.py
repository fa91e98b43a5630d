"""Find all rows of the benchmark by name.

Every module `*_rows.py` in this folder is found automatically. It may define

    ROWS        name -> function without arguments that returns a [`Row`]; a few seconds each
    FULL_ROWS   the same for rows that take minutes; run with --full or by name
    DATA_ROWS   the same for functions of [`Materials`]; they raise [`Unavailable`] if something is missing
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from measuring import Row


class Unavailable(RuntimeError):
    """A row lacks something that must be passed or installed; the message says how."""


@dataclass(frozen=True)
class Materials:
    """What the benchmark cannot generate.

    Args:
        resd: folder of RESD, raw or prepared.
        backbones: folder with `whisper-base`, `e5-small` and `smollm2`.
        rows: number of corpus rows to use; None: each row's own.
        epochs: epochs of the end-to-end training.
        llm: language model of `ls_llm_score`; None: `smollm2` of `backbones`.
        llm_backend: where that language model runs.
    """

    resd: Path | None = None
    backbones: Path | None = None
    rows: int | None = None
    epochs: int = 20
    llm: str | None = None
    llm_backend: str = "transformers"

    def folder(self, option: str, inside: str = "") -> Path:
        """Return the folder passed as `--resd` or `--backbones`, or a folder inside it."""
        given: Path | None = getattr(self, option)

        if given is None:
            raise Unavailable(f"pass --{option} DIR")

        if not (given / inside).is_dir():
            raise Unavailable(f"--{option}: there is no folder {given / inside}")

        return given / inside


def find_rows(materials: Materials) -> tuple[dict[str, Callable[[], Row]], dict[str, Callable[[], Row]]]:
    """Return the quick rows and the long ones."""
    quick: dict[str, Callable[[], Row]] = {}
    full: dict[str, Callable[[], Row]] = {}

    for path in sorted(Path(__file__).parent.glob("*_rows.py")):
        module = importlib.import_module(path.stem)
        quick |= getattr(module, "ROWS", {})
        full |= getattr(module, "FULL_ROWS", {})
        full |= {name: partial(row, materials) for name, row in getattr(module, "DATA_ROWS", {}).items()}

    return quick, full
