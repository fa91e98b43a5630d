"""Who speaks when, from the files of other tools: RTTM, JSON, CSV, SRT, and VTT."""

import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from ..model.segments_bibier import Turn, as_turns
from ..model.validation_bibier import one_line

TURN_FORMATS = (".rttm", ".json", ".csv", ".srt", ".vtt")
"""Suffixes of the files that turns can be read from."""

_NOBODY = ("", "<NA>")
_NAME = re.compile(r"\s*\[?([^:\[\]]{1,60})\]?:\s+(?=\S)")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]*)>")
_TAG = re.compile(r"</?[^>]*>")
_TIMES = re.compile(r"\s*([\d:.,]+)\s+-->\s+([\d:.,]+)(?:\s|$)")

Row = tuple[str, Turn]
"""Where it was read ("line 3"), and the turn."""


def read_turns(path: str | Path, recording: str | None = None) -> list[Turn]:
    """Read the turns of a recording, or its transcript with times; the suffix of the file selects the format.

    * `.rttm`: the `SPEAKER` lines of a diarization.
    * `.json`: a list of `{"start", "end", "speaker", "text"}`, or an object with such a list as `segments` (Whisper,
      WhisperX), `turns`, `diarization` or `chunks` (of a timeline; `timestamp` stands for start and end).
    * `.csv`: columns `start`, `end` (or `duration`), and perhaps `speaker` and `text`, separated by `,`, `;` or tabs.
    * `.srt`, `.vtt`: subtitles. The speaker is `<v Name>`, or `Name:` at the start of a line. Such a name has at most
      four words, none of which starts with a small letter.

    Args:
        path: the file, in UTF-8.
        recording: name of the recording, to select its lines if an RTTM file has several; None: there must be only
            one.

    Returns:
        The turns in order of their starts. They may overlap or be empty (`start == end`).

    Raises:
        ArgumentError: a file that cannot be read, or a turn with impossible times; the message names the line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        raise ArgumentError(f"'{path}' is a folder; turns are read from a file: {', '.join(TURN_FORMATS)}.")
    if suffix not in TURN_FORMATS:
        raise ArgumentError(
            f"'{path.name}' has the suffix '{path.suffix}'; turns are read from {', '.join(TURN_FORMATS)}."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path} is not UTF-8. Save it as UTF-8.") from error
    except OSError as error:
        raise ArgumentError(f"{path} cannot be read: {error.strerror}.") from error

    try:
        rows = list(_from_rttm(text, recording) if suffix == ".rttm" else _READERS[suffix](text))
    except _BadRow as error:
        raise ArgumentError(f"{path}, {error}") from error
    if not rows:
        raise ArgumentError(f"{path} holds no turns.")

    for place, turn in rows:
        try:
            as_turns([turn])
        except ValueError as error:
            raise ArgumentError(f"{path}, {place}: {str(error).removeprefix('segments[0] is ')}") from error
    return as_turns([turn for _, turn in rows])


def timed_texts(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    """Turns with texts as a transcript for the pipeline: `[{"text": str, "timestamp": (start, end)}, ...]`, with
    `"speaker"` where it is known."""
    return [
        {"text": turn.text, "timestamp": (turn.start, turn.end)}
        | ({} if turn.speaker is None else {"speaker": turn.speaker})
        for turn in turns
        if turn.text
    ]


class _BadRow(ValueError):
    """A row that cannot be read; the message starts with its place."""


def _from_rttm(text: str, recording: str | None) -> list[Row]:
    rows: dict[str, list[Row]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        if len(fields) < 8:
            raise _BadRow(f"line {number}: a SPEAKER line has at least 8 fields, this one has {len(fields)}.")

        start = _seconds(fields[3], f"line {number}")
        end = round(start + _seconds(fields[4], f"line {number}"), 6)
        rows.setdefault(fields[1], []).append((f"line {number}", Turn(start, end, _name(fields[7]))))

    wanted = None if recording is None else "_".join(recording.split())
    if len(rows) > 1 and wanted not in rows:
        given = "" if wanted is None else f", but not of {wanted}"
        raise _BadRow(f"it has turns of several recordings ({', '.join(rows)}){given}. Leave one in the file.")
    return rows[wanted] if len(rows) > 1 and wanted is not None else [row for part in rows.values() for row in part]


def _from_json(text: str) -> Iterable[Row]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise _BadRow(f"line {error.lineno}: this is not JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:
        raise _BadRow(f"file: this JSON is too deep, or has too large a number ({one_line(error)}).") from error
    if isinstance(content, Mapping):
        content = next(
            (content[key] for key in ("segments", "turns", "diarization", "chunks") if key in content), None
        )
    if not isinstance(content, list):
        raise _BadRow('file: allowed is a list of {"start": s, "end": s, "speaker": ..., "text": ...}.')

    for number, entry in enumerate(content):
        place = f"entry {number}"
        if not isinstance(entry, Mapping):
            raise _BadRow(f'{place} is {entry!r:.80}; allowed: {{"start": s, "end": s, "speaker": ..., "text": ...}}.')
        times = entry.get("timestamp") or [entry.get("start"), entry.get("end")]
        if not isinstance(times, list) or len(times) != 2:
            raise _BadRow(f"{place}: its timestamp {times!r:.40} is not [start, end].")
        start, end = (_seconds(value, place) for value in times)
        yield place, Turn(start, end, _name(entry.get("speaker")), _words(entry.get("text")))


def _from_csv(text: str) -> Iterable[Row]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = {(name or "").strip().casefold(): name for name in reader.fieldnames or []}
    if "start" not in names or not ({"end", "duration"} & set(names)):
        raise _BadRow(f"line 1: columns start and end (or duration) are needed; there are {', '.join(names)}.")

    for row in _csv_rows(reader):
        place = f"line {reader.line_num}"
        start = _seconds(row[names["start"]], place)
        if "end" in names:
            end = _seconds(row[names["end"]], place)
        else:
            end = round(start + _seconds(row[names["duration"]], place), 6)
        speaker, said = (row[names[name]] if name in names else None for name in ("speaker", "text"))
        yield place, Turn(start, end, _name(speaker), _words(said))


def _csv_rows(reader: csv.DictReader) -> Iterator[dict[str, Any]]:
    try:
        yield from reader
    except csv.Error as error:
        raise _BadRow(f"line {reader.line_num}: this is not CSV ({error}).") from error


def _from_subtitles(text: str) -> Iterable[Row]:
    lines = text.splitlines()
    for number, line in enumerate(lines):
        times = _TIMES.match(line)
        if times is None:
            continue
        place = f"line {number + 1}"
        start, end = (_clock_seconds(value, place) for value in times.groups())

        said: list[str] = []
        for following in lines[number + 1 :]:
            if not following.strip():
                break
            said.append(following)
        for speaker, words in _voices(said):
            yield place, Turn(start, end, speaker, words)


def _voices(lines: list[str]) -> list[tuple[str | None, str | None]]:
    """The speakers of a subtitle and what each says."""
    parts: list[tuple[str | None, list[str]]] = []
    for line in lines:
        pieces = _VOICE.split(line)
        first = _plain(pieces[0]).removeprefix("- ")
        named = _NAME.match(first)
        if named and _is_name(named[1]):
            parts.append((_name(named[1]), [first[named.end() :]]))
            continue
        if _plain(pieces[0]):
            if not parts:
                parts.append((None, []))
            parts[-1][1].append(_plain(pieces[0]))
        parts += [
            (_name(html.unescape(name)), [_plain(said)]) for name, said in zip(pieces[1::2], pieces[2::2], strict=True)
        ]
    return [(speaker, _words(" ".join(said))) for speaker, said in parts] or [(None, None)]


_READERS: dict[str, Callable[[str], Iterable[Row]]] = {
    ".json": _from_json,
    ".csv": _from_csv,
    ".srt": _from_subtitles,
    ".vtt": _from_subtitles,
}


def _is_name(text: str) -> bool:
    words = text.split()
    return len(words) <= 4 and text[:1].isalpha() and not any(word[0].islower() for word in words)


def _plain(text: str) -> str:
    return html.unescape(_TAG.sub("", text)).strip()


def _name(value: Any) -> str | None:
    name = "" if value is None else " ".join(str(value).split())
    return None if name in _NOBODY else name


def _words(value: Any) -> str | None:
    return " ".join(value.split()) or None if isinstance(value, str) else None


def _seconds(value: Any, place: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise _BadRow(f"{place}: {value!r:.40} is not a number of seconds.") from None


def _clock_seconds(value: str, place: str) -> float:
    """`00:01:02,500`, `01:02.500` -> 62.5"""
    try:
        parts = ["0", "0", *value.replace(",", ".").split(":")]
        if len(parts) > 5:
            raise ValueError
        hours, minutes, seconds = parts[-3:]
        return round(3600 * int(hours) + 60 * int(minutes) + float(seconds), 3)
    except ValueError:
        raise _BadRow(f"{place}: {value!r} is not a time such as 00:01:02,500.") from None
