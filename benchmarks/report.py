"""Rows as a line of text, JSON and a Markdown table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bibier_hf.files import write_text
from bibier_hf.tables import markdown_table
from measuring import Row


def line(row: Row) -> str:
    """A row of the printed table."""
    return (
        f"{row.name:<28}{row.ratio:>8.2f}x{_goal(row):>7}  {1000 * row.ours_s:>8.1f} ms{1000 * row.theirs_s:>9.1f} ms "
        " "
        f"{row.against}{f' ({row.note})' if row.note else ''}"
    )


def write_rows(
    path: Path, rows: Sequence[Row], facts: Mapping[str, str | int], earlier: Sequence[Mapping[str, Any]] = ()
) -> None:
    """A list of rows as JSON, each with the facts of the machine and whether it met its goal, after those of
    `earlier` runs."""
    content = [*earlier, *(row.as_dict() | {"reached": row.reached, "run": dict(facts)} for row in rows)]
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What [`write_rows`] wrote; nothing where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def row_of_earlier_run(values: Mapping[str, Any], facts: Mapping[str, str | int]) -> Row:
    """A row of [`read_rows`]; its note says when and on what it was measured, where that differs from `facts`."""
    row, run = Row.from_dict(values), values["run"]
    told = ("commit", "date", "processor", "instructions", "threads")
    differing = [f"{key} {run.get(key, 'not known')}" for key in told if run.get(key) != facts[key]]

    return replace(row, note="; ".join(filter(None, [row.note, ", ".join(differing)])))


def markdown(
    rows: Sequence[Row],
    facts: Mapping[str, str | int],
    skipped: Mapping[str, str],
    profiles: Mapping[str, Sequence[tuple[str, float, str]]] = MappingProxyType({}),
    picture: str | None = None,
) -> str:
    """A page with the facts of the machine, the picture and the table.

    Args:
        rows: what was measured.
        facts: of the machine and the code.
        skipped: rows that did not run, and why.
        profiles: heading -> (part, seconds, note).
        picture: path of the picture, as seen from the page.
    """
    cells = [
        [
            f"`{row.name}`",
            row.against,
            f"{row.ratio:.2f}",
            _goal(row),
            _met(row),
            _seconds(row.ours_s),
            _seconds(row.theirs_s),
            row.note,
        ]
        for row in rows
    ]
    cells += [[f"`{name}`", "", "", "", "not run", "", "", reason] for name, reason in skipped.items()]

    lines = [
        "# Benchmark",
        "",
        "Written by `benchmarks/run.py`. Each ratio is theirs / ours, from medians of repeats in turn. "
        "Higher is better.",
        "",
    ]
    lines += [", ".join(f"{key}: {value}" for key, value in facts.items()) + ".", ""]

    if picture:
        caption = (
            "The picture has one row of each kind that compares two times; the table has all rows and their goals."
        )
        lines += [f"![Times faster than the usual way]({picture})", "", caption, ""]

    lines.append(markdown_table(["what", "against", "ratio", "goal", "met", "ours", "theirs", "note"], cells))

    for heading, parts in profiles.items():
        table = markdown_table(
            ["part", "time", ""], [[part, _seconds(seconds), note] for part, seconds, note in parts]
        )
        lines += ["", f"## {heading}", "", table]

    return "\n".join(lines) + "\n"


def _met(row: Row) -> str:
    if row.goal is None:
        return ""

    return "yes" if row.reached else "**no**"


def _goal(row: Row) -> str:
    return "" if row.goal is None else f"{row.goal:.2f}"


def _seconds(seconds: float) -> str:
    if seconds == 0:
        return ""  # a row that measures something else

    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
