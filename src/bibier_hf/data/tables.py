"""Read CSV, TSV and JSON Lines files into rows that know their line, for errors that name it."""

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ..errors import UserError
from ..text import valid_text

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")

MAX_LINE = 1 << 22
"""Characters of the longest line or cell that is read; far more than any transcript."""

_DELIMITERS = ",;\t"
_MISSING = ("nan", "NaN", "<NA>")  # what pandas writes for a missing text
_DECIMAL_COMMA = re.compile(r"\s*-?[01],\d+\s*")


class CorpusError(UserError, ValueError):
    """A corpus that cannot be read or prepared. The message lists every fault and how to fix it."""


@dataclass(frozen=True)
class Row:
    """One line of a table: `values` by column name, and `where`, such as `metadata.csv line 7`."""

    values: dict[str, Any]
    where: str

    def text(self, column: str) -> str:
        """Return the value as a stripped string, or "" if the column or the value is missing or pandas' NaN.

        Raises:
            CorpusError: the value is a list, an object or a Boolean.
        """
        value = self.values.get(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""

        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise CorpusError(f"{self.where}: {column!r} is {json.dumps(value)[:80]}; it must be a text or a number")

        text = valid_text(str(value)).strip()

        return "" if text in _MISSING else text


def read_number(text: str) -> float:
    """Parse a number, with a decimal comma if it cannot be anything else: `0,25` and `1,0`, but not `1,250`."""
    if _DECIMAL_COMMA.fullmatch(text) and not re.fullmatch(r"\s*-?1,\d*[1-9]\d*\s*", text):
        text = text.replace(",", ".")

    return float(text)


def is_stream(path: Path) -> bool:
    """Whether the path is a pipe or terminal, such as `/dev/stdin`, which can be read only once."""
    return path.exists() and not path.is_file() and not path.is_dir()


def read_table(path: Path, needed: Sequence[str] = ()) -> list[Row]:
    """Read all rows of a `.csv`, `.tsv` or `.jsonl` file, or of a pipe that holds one of them.

    The encoding is UTF-8, with or without a byte order mark, or Excel's UTF-16. The header of a CSV file shows whether
    commas, semicolons or tabs separate the cells.

    Args:
        path: the file.
        needed: columns that it must have.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: another suffix or encoding, no rows, missing columns, or lines that do not match the header; all of
            them are named.
    """
    suffix = path.suffix.lower()
    stream = is_stream(path)
    if suffix not in TABLE_SUFFIXES and not stream:
        raise CorpusError(f"{path} is not a table that can be read. Allowed: {', '.join(TABLE_SUFFIXES)}.")

    try:
        with open(path, "rb") as file:
            encoding = "utf-16" if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
            # newline="": quoted cells keep their own line breaks, as the csv module asks for.
            lines = _lines(io.TextIOWrapper(file, encoding=encoding, newline=""), path.name)
            first = next((line for line in lines if line[1].strip()), (1, ""))
            lines = itertools.chain([first], lines)

            if suffix == ".jsonl" or (stream and first[1].lstrip().startswith("{")):
                rows, faults = _read_jsonl(lines, path.name)
            else:
                rows, faults = _read_csv(lines, path.name, "\t" if suffix == ".tsv" else ",")
    except UnicodeError as error:
        where = f"byte {error.start}: {error.reason}" if isinstance(error, UnicodeDecodeError) else str(error)
        raise CorpusError(f"{path} is not UTF-8 ({where}). Save it again as UTF-8.") from error

    raise_faults(faults, f"{path} has lines that cannot be read")

    if not rows:
        raise CorpusError(f"{path} has no rows.")

    if missing := [name for name in needed if name not in rows[0].values]:
        raise CorpusError(f"{path.name} has no columns {missing}; it has {list(rows[0].values)}.")

    return rows


def _lines(file: TextIO, name: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of each line, never more than the longest allowed line at once."""
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return

        if len(line) > MAX_LINE:
            raise CorpusError(f"{name} line {number} is longer than {MAX_LINE} characters, so this is not a table.")

        yield number, line


def _read_csv(lines: Iterator[tuple[int, str]], name: str, default: str) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    faults: list[str] = []
    header: list[str] | None = None
    first, line = next(lines)
    if match := re.fullmatch(r"sep=(.)\s*", line):  # Excel's own way of naming the delimiter
        delimiter, skipped = match[1], first
    else:
        delimiter, skipped = _delimiter(line, default), first - 1
        lines = itertools.chain([(first, line)], lines)

    csv.field_size_limit(MAX_LINE)
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    before = 0

    try:
        for cells in reader:
            # A cell may hold line breaks: a row is named by the line that it starts on.
            where, before = f"{name} line {skipped + before + 1}", reader.line_num
            if not any(cell.strip() for cell in cells):  # spreadsheets keep rows that were emptied
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                twice = sorted({column for column in header if header.count(column) > 1})
                if twice:
                    raise CorpusError(f"{name} has the columns {twice} more than once.")
            elif len(cells) != len(header):
                faults.append(
                    f"{where}: {len(cells)} cells, but the header has {len(header)} (separated by {delimiter!r}); put "
                    "text that contains the separator in quotes"
                )
            else:
                rows.append(Row(dict(zip(header, cells, strict=True)), where))
    except csv.Error as error:
        faults.append(f"{name} line {skipped + reader.line_num}: {error}")

    if [row.values.get("") for row in rows] == [str(number) for number in range(len(rows))]:
        for row in rows:  # the index that pandas writes
            del row.values[""]

    return rows, faults


def _delimiter(header: str, default: str) -> str:
    """Return the delimiter that splits the header into most columns; the default wins a tie."""

    def cells(delimiter: str) -> int:
        try:
            return len(next(csv.reader([header], delimiter=delimiter)))
        except csv.Error:
            return 0

    return max([default, *_DELIMITERS], key=cells)


def _read_jsonl(lines: Iterator[tuple[int, str]], name: str) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    faults: list[str] = []

    for number, line in lines:
        where = f"{name} line {number}"

        if not line.strip():
            continue

        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits, brackets within brackets
            faults.append(f"{where}: invalid JSON ({error})")
            continue

        if isinstance(values, dict):
            rows.append(Row(values, where))
        else:
            faults.append(f"{where}: a {type(values).__name__}, but every line must be an object")

    return rows, faults


def raise_faults(faults: list[str], heading: str, remedy: str = "", shown: int = 20) -> None:
    """Raise one CorpusError that lists the faults (the first `shown`), if there are any."""
    if not faults:
        return

    lines = [f"{heading} ({len(faults)}):", *(f"  {fault}" for fault in faults[:shown])]

    if len(faults) > shown:
        lines.append(f"  ... and {len(faults) - shown} more")

    if remedy:
        lines.append(remedy)

    raise CorpusError("\n".join(lines))


def option_forms(name: str, value: Any) -> str:
    """How to pass an option of a reader: in Python, to `bibier prepare`, and to every other command."""
    flag = f"--{name} {value}" if not isinstance(value, bool) else f"--{name}" if value else f"--no-{name}"
    nested = f"--corpora.0.options.{name} {str(value).lower() if isinstance(value, bool) else value}"

    return f"{name}={value!r} (to prepare: {flag}; to train or evaluate: {nested})"
