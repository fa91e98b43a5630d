"""Markdown tables for reports, cards and the terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

MISSING = "–"
"""Cell for a value that does not exist."""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table.

    Args:
        head: column titles.
        rows: cells of each row; every cell is converted with `str`, None becomes a dash.
    """
    lines = [_line(head), "|---" * len(head) + "|"]
    lines += [_line(row) for row in rows]

    return "\n".join(lines)


def percent(value: float | None, digits: int = 2) -> str | None:
    """Format a share as a percentage without the sign; None stays None."""
    return None if value is None else f"{100 * value:.{digits}f}"


def percent_range(lower: float, upper: float) -> str:
    """Format two shares as `48.1 to 52.3`."""
    return f"{percent(lower, 1)} to {percent(upper, 1)}"


def _line(cells: Sequence[Any]) -> str:
    texts = [MISSING if cell is None else str(cell).replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(texts)} |"
