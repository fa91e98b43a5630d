"""CSV, TSV and JSON-lines files -> rows that remember their line, with errors that name it."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")


class CorpusError(UserError, ValueError):
    """A corpus that cannot be read or prepared as it is. The message lists every fault found and how to mend it."""


@dataclass(frozen=True)
class Row:
    """One line of a table: `values` by column name and `where`, such as `metadata.csv line 7`."""

    values: dict[str, Any]
    where: str

    def text(self, column: str) -> str:
        """The value as a stripped string; "" where the column or the value is missing."""
        value = self.values.get(column)
        return "" if value is None else str(value).strip()


def read_table(path: Path) -> list[Row]:
    """All rows of a `.csv`, `.tsv` or `.jsonl` file (UTF-8, with or without a byte order mark).

    Raises:
        FileNotFoundError: no such file.
        CorpusError: another suffix, another encoding, no rows, or lines that do not fit the header; all of these lines
            are named.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise CorpusError(f"{path} is no table that can be read. Allowed: {', '.join(TABLE_SUFFIXES)}.")
    try:
        # newline="": quoted cells keep their own line breaks, as the csv module asks for.
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows, faults = _read_jsonl(file, path.name) if path.suffix.lower() == ".jsonl" else _read_csv(file, path)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}). Save it again as UTF-8."
        ) from error
    raise_faults(faults, f"{path} has lines that cannot be read")
    if not rows:
        raise CorpusError(f"{path} has no rows.")
    return rows


def _read_csv(file: Any, path: Path) -> tuple[list[Row], list[str]]:
    reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    rows: list[Row] = []
    faults: list[str] = []
    header: list[str] | None = None
    before = 0
    try:
        for cells in reader:
            # A cell may hold line breaks: a row is named by the line that it starts on.
            where, before = f"{path.name} line {before + 1}", reader.line_num
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                twice = sorted({name for name in header if header.count(name) > 1})
                if twice:
                    raise CorpusError(f"{path} names the columns {twice} more than once.")
            elif len(cells) != len(header):
                faults.append(
                    f"{where}: {len(cells)} cells, but the header has {len(header)}; put text that holds the "
                    "separator in quotes"
                )
            else:
                rows.append(Row(dict(zip(header, cells, strict=True)), where))
    except csv.Error as error:
        faults.append(f"{path.name} line {reader.line_num}: {error}")
    return rows, faults


def _read_jsonl(file: Any, name: str) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    faults: list[str] = []
    for number, line in enumerate(file, start=1):
        where = f"{name} line {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            faults.append(f"{where}: no valid JSON ({error.msg} at column {error.colno})")
            continue
        if isinstance(values, dict):
            rows.append(Row(values, where))
        else:
            faults.append(f"{where}: a {type(values).__name__}, but every line must be an object")
    return rows, faults


def demand_columns(rows: list[Row], names: tuple[str, ...], table: str) -> None:
    """Raise a CorpusError that names the columns that a table lacks, if there are any."""
    if missing := [name for name in names if name not in rows[0].values]:
        raise CorpusError(f"{table} lacks the columns {missing}; it has {list(rows[0].values)}.")


def raise_faults(faults: list[str], heading: str, remedy: str = "", shown: int = 20) -> None:
    """Raise one CorpusError that lists the faults (the first `shown` of them), if there are any."""
    if not faults:
        return
    lines = [f"{heading} ({len(faults)}):", *(f"  {fault}" for fault in faults[:shown])]
    if len(faults) > shown:
        lines.append(f"  ... and {len(faults) - shown} more")
    if remedy:
        lines.append(remedy)
    raise CorpusError("\n".join(lines))
