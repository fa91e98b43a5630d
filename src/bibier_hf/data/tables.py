"""Read CSV, TSV, JSON, JSON Lines and Excel files into rows that know their line, for errors that name it."""

import codecs
import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from zipfile import BadZipFile

from ..errors import UserError
from ..extras import require
from ..text import valid_text

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".xlsx")
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}

MAX_LINE = 1 << 22
"""Characters of the longest line or cell that is read; far more than any transcript."""

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OPTIONS = {
    ".csv": ("encoding", "separator"),
    ".tsv": ("encoding", "separator"),
    ".jsonl": ("encoding",),
    ".json": ("encoding",),
    ".xlsx": ("sheet",),
}
_MISSING = ("nan", "NaN", "<NA>")  # what pandas writes for a missing text
_DECIMAL_COMMA = re.compile(r"\s*-?[01],\d+\s*")


class CorpusError(UserError, ValueError):
    """A corpus that cannot be read or prepared. The message lists every fault and how to fix it."""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        values: by column name.
        where: place for messages, such as `metadata.csv line 7`.
        read_as: how the file was read, unless it is UTF-8 separated by commas.
    """

    values: dict[str, Any]
    where: str
    read_as: str = ""

    def text(self, column: str) -> str:
        """Return the value as a stripped string, or "" if the column or the value is missing or pandas' NaN.

        Raises:
            CorpusError: the value is a list, an object or a Boolean.
        """
        value = self.values.get(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""

        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            shown = json.dumps(value, default=str, ensure_ascii=False)[:80]
            raise CorpusError(f"{self.where}: {column!r} is {shown}; it must be a text or a number")

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


def read_table(
    path: Path,
    needed: Sequence[str] = (),
    *,
    encoding: str | None = None,
    separator: str | None = None,
    sheet: str | None = None,
) -> list[Row]:
    """Read all rows of a table, or of a pipe that holds CSV or JSON Lines.

    Args:
        path: a `.csv`, `.tsv`, `.jsonl`, `.json` (a list of objects) or `.xlsx` file.
        needed: columns that it must have.
        encoding: None: that of the byte order mark, otherwise UTF-8.
        separator: a name in `SEPARATORS`; None: the only one in the header.
        sheet: of a workbook; None: the only one that is not empty.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: another suffix or encoding, no rows, missing columns, or lines that do not match the header; all
            of them are named.
        MissingPackageError: a workbook, and the extra `excel` is not installed.
    """
    suffix = path.suffix.lower()
    stream = is_stream(path)
    if suffix not in TABLE_SUFFIXES and not stream:
        raise CorpusError(f"{path} is not a table that can be read. Allowed: {', '.join(TABLE_SUFFIXES)}.")

    for name, value in {"encoding": encoding, "separator": separator, "sheet": sheet}.items():
        if value is not None and not stream and name not in _OPTIONS[suffix]:
            raise CorpusError(f"{path.name}: {name}={value!r} does not apply to {suffix}. Leave it out.")

    if separator is not None and separator not in SEPARATORS:
        raise CorpusError(f"separator={separator!r}; allowed: {', '.join(SEPARATORS)}.")

    if suffix == ".xlsx":
        rows, faults = _read_xlsx(path, sheet)
    else:
        rows, faults = _read_text(path, suffix, stream, encoding, separator)

    raise_faults(faults, f"{path} has lines that cannot be read")

    if not rows:
        raise CorpusError(f"{path} has no rows.")

    if missing := [name for name in needed if name not in rows[0].values]:
        raise CorpusError(f"{path.name} has no columns {missing}; it has {list(rows[0].values)}.")

    return rows


def _read_text(
    path: Path, suffix: str, stream: bool, encoding: str | None, separator: str | None
) -> tuple[list[Row], list[str]]:
    used = encoding or "utf-8"

    try:
        with open(path, "rb") as file:
            used = _encoding(path, file.peek(4), encoding)
            # newline="": quoted cells keep their own line breaks, as the csv module asks for.
            text = io.TextIOWrapper(file, encoding="utf-8-sig" if used == "utf-8" else used, newline="")
            if suffix == ".json":
                return _read_json(text, path.name)

            lines = _lines(text, path.name)
            first = next((line for line in lines if line[1].strip()), (1, ""))
            lines = itertools.chain([first], lines)
            if suffix == ".jsonl" or (stream and first[1].lstrip().startswith("{")):
                return _read_jsonl(lines, path.name)

            return _read_csv(lines, path, used, SEPARATORS.get(separator or ""))
    except LookupError as error:
        raise CorpusError(f"encoding={encoding!r}: {error}. Use a name such as cp1251.") from error
    except UnicodeError as error:
        raise CorpusError(f"{path} is not {used.upper()} ({_place_of(error, path, used)}") from error


def _encoding(path: Path, start: bytes, given: str | None) -> str:
    """The encoding that the byte order mark names; without one, the given one or UTF-8."""
    found = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    if found and given and not codecs.lookup(given).name.startswith(found):
        raise CorpusError(f"{path} has the byte order mark of {found.upper()}. Leave out encoding={given!r}.")

    return found or given or "utf-8"


def _place_of(error: UnicodeError, path: Path, encoding: str) -> str:
    """Where the first line is that cannot be decoded, what it would be as cp1251, and what to do."""
    if encoding != "utf-8" or not path.is_file():
        return f"{error}). Save it again as UTF-8."

    with open(path, "rb") as file:
        number, line = next((number, line) for number, line in enumerate(file, 1) if not _is_utf8(line))

    shown = line.decode("cp1251", "replace").strip()[:80]

    return (
        f"line {number}; as cp1251 it is {shown!r}). If that is right, pass {option_forms('encoding', 'cp1251')}; "
        "otherwise save the table again as UTF-8."
    )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False

    return True


def _lines(file: TextIO, name: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of each line, never more than the longest allowed line at once."""
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return

        if len(line) > MAX_LINE:
            raise CorpusError(f"{name} line {number} is longer than {MAX_LINE} characters, so this is not a table.")
        if "\0" in line:
            raise CorpusError(
                f"{name} line {number} has null characters. UTF-16 without a byte order mark needs "
                f"{option_forms('encoding', 'utf-16-le')}."
            )

        yield number, line


def _read_csv(
    lines: Iterator[tuple[int, str]], path: Path, encoding: str, separator: str | None
) -> tuple[list[Row], list[str]]:
    first, line = next(lines)
    skipped = first - 1
    if match := re.fullmatch(r"sep=(.)\s*", line):  # Excel's own way of naming the separator
        separator, skipped = separator or match[1], first
    else:
        separator = separator or _separator(line, path)
        lines = itertools.chain([(first, line)], lines)

    read_as = ""
    if encoding != "utf-8" or separator not in (",", "\t" if path.suffix == ".tsv" else ","):
        read_as = f"read as {encoding.upper()}, separated by {separator!r}"

    csv.field_size_limit(MAX_LINE)
    reader = csv.reader((line for _, line in lines), delimiter=separator, strict=True)

    def numbered() -> Iterator[tuple[str, list[str]]]:
        before = 0
        try:
            for cells in reader:
                # A cell may hold line breaks: a row is named by the line that it starts on.
                where, before = f"{path.name} line {skipped + before + 1}", reader.line_num
                yield where, cells
        except csv.Error as error:
            raise CorpusError(f"{path.name} line {skipped + reader.line_num}: {error}") from error

    hint = f" (separated by {separator!r}); put text that contains the separator in quotes"

    return _rows_of_cells(numbered(), path.name, hint, read_as)


def _rows_of_cells(
    lines: Iterable[tuple[str, Sequence[Any]]], name: str, hint: str, read_as: str
) -> tuple[list[Row], list[str]]:
    """Make rows of (where, cells), of which the first are the header."""
    rows: list[Row] = []
    faults: list[str] = []
    header: list[str] | None = None

    for where, cells in lines:
        if not any(str(cell).strip() for cell in cells):  # spreadsheets keep rows that were emptied
            continue

        if header is None:
            header = [str(cell).strip() for cell in cells]
            twice = sorted({column for column in header if header.count(column) > 1})
            if twice:
                raise CorpusError(f"{name} has the columns {twice} more than once.")
        elif len(cells) != len(header):
            faults.append(f"{where}: {len(cells)} cells, but the header has {len(header)}{hint}")
        else:
            rows.append(Row(dict(zip(header, cells, strict=True)), where, read_as))

    if [str(row.values.get("")) for row in rows] == [str(number) for number in range(len(rows))]:
        for row in rows:  # the index that pandas writes
            del row.values[""]

    return rows, faults


def _separator(header: str, path: Path) -> str:
    """Return the only separator in the header outside of quotes; a tab in a `.tsv` file comes first."""
    bare = re.sub(r'"[^"]*"', "", header)
    found = {name: separator for name, separator in SEPARATORS.items() if separator in bare}
    if path.suffix.lower() == ".tsv" and "tab" in found:
        return "\t"
    if len(found) > 1:
        raise CorpusError(
            f"{path.name}: the header {header.strip()[:80]!r} has several separators ({', '.join(found)}). Pass "
            f"{option_forms('separator', next(iter(found)))}, or put such names in quotes."
        )

    return next(iter(found.values()), ",")


def _read_xlsx(path: Path, sheet: str | None) -> tuple[list[Row], list[str]]:
    require("openpyxl")
    import openpyxl

    try:
        content = io.BytesIO(path.read_bytes())
        book = openpyxl.load_workbook(content, data_only=True)
    except FileNotFoundError:
        raise
    except (BadZipFile, KeyError, ValueError, OSError) as error:  # OSError: no workbook in it
        raise CorpusError(f"{path} is not a readable .xlsx workbook ({error}). Save it again.") from error

    filled = {
        page.title: page for page in book.worksheets if any(cell is not None for row in page.values for cell in row)
    }
    if sheet is None and len(filled) > 1:
        raise CorpusError(
            f"{path.name} has the sheets {list(filled)}. Pass one: {option_forms('sheet', next(iter(filled)))}."
        )
    if sheet is not None and sheet not in filled:
        raise CorpusError(f"sheet={sheet!r}: {path.name} has no such sheet with rows; it has {list(filled)}.")
    if not filled:
        return [], []

    page = filled[sheet or next(iter(filled))]
    faults = [
        f"{_row_of(page, cell.row, path)}: the cell {cell.coordinate} is the error {cell.value}"
        for row in page.iter_rows()
        for cell in row
        if cell.data_type == "e"
    ]
    lines = [
        (_row_of(page, number, path), ["" if cell is None else cell for cell in row])
        for number, row in enumerate(page.values, 1)
    ]
    # A sheet keeps the width of cells that were emptied.
    used = max(column for _, row in lines for column, cell in enumerate(row, 1) if str(cell).strip())
    lines = [(where, row[:used]) for where, row in lines]
    rows, _ = _rows_of_cells(lines, path.name, "", f"read from the sheet {page.title!r}")

    return rows, faults


def _row_of(page: Any, number: int, path: Path) -> str:
    return f"{path.name} sheet {page.title!r} row {number}"


def _read_json(file: TextIO, name: str) -> tuple[list[Row], list[str]]:
    try:
        content = json.load(file)
    except json.JSONDecodeError as error:
        hint = " One object per line is JSON Lines: call it .jsonl." if error.msg == "Extra data" else ""
        place = f"line {error.lineno} column {error.colno}"
        raise CorpusError(f"{name} {place}: invalid JSON ({error.msg}).{hint}") from error
    except UnicodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{name}: unreadable JSON ({error}).") from error

    if not isinstance(content, list):
        raise CorpusError(f"{name} is a {type(content).__name__}; it must be a list of objects, one for each row.")

    faults = [
        f"{name} entry {number}: a {type(values).__name__}, but every entry must be an object"
        for number, values in enumerate(content, 1)
        if not isinstance(values, dict)
    ]

    return [Row(values, f"{name} entry {number}") for number, values in enumerate(content, 1) if not faults], faults


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
    shown = str(value).lower() if isinstance(value, bool) else value

    return f"{name}={value!r} (to prepare: --{name} {shown}; to adapt or evaluate: --options.{name} {shown}; to train: --corpora.0.options.{name} {shown})"
