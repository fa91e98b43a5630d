"""A timeline as text, and as smooth curves to draw. Needs NumPy and the palette alone, so that the demo takes this
file along to where the package is not installed."""

import csv
import html
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..palette import EMOTION_COLORS

Chunks = Sequence[Mapping[str, Any]]

SUMMARY_FIGURES = ("seconds", "turns", "confidence")
"""What the chunks of [`per_minute`] have besides the means and shares of the emotions."""

_FINEST_CURVE = 150
"""Of a long recording, curves show nothing shorter than this fraction of it."""


def to_json(result: Mapping[str, Any], name: str) -> str:
    return json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(result: Mapping[str, Any], name: str, labels: Sequence[str] | None = None) -> str:
    """Table; `labels` are those of the columns, in order. None: those in the result."""
    chunks, values = result["chunks"], is_regression(result)
    labels = labels_of(chunks) if labels is None else labels
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    facts = ["text"] if values else ["label", "score", "text"]
    doubts = ["unsure", "unsure_reason"] if chunks and "unsure" in chunks[0] else []
    prefix, speakers = "value_" if values else "p_", ["speaker"] if has_speakers(result) else []
    figures = [name for name in SUMMARY_FIGURES if any(name in chunk for chunk in chunks)]
    shares = labels if any("shares" in chunk for chunk in chunks) else []
    columns = [*(prefix + label for label in labels), *figures, *(f"share_{label}" for label in shares)]
    writer.writerow(["start", "end", *speakers, *facts, *doubts, *columns])

    for chunk in chunks:
        scores, named = scores_of(chunk), named_entries(chunk)
        answer = ["; ".join(entry["label"] for entry in named), named[0]["score"] if named else ""]
        speaker = [chunk.get("speaker") or ""] if speakers else []
        row = [*chunk["timestamp"], *speaker, *([] if values else answer), chunk.get("text") or ""]
        row += [*map(chunk.get, doubts), *(scores.get(label, "") for label in labels)]
        row += [*(chunk.get(name, "") for name in figures), *(chunk["shares"].get(label, 0.0) for label in shares)]
        writer.writerow(row)

    return file.getvalue()


def to_rttm(result: Mapping[str, Any], name: str) -> str:
    if is_regression(result):
        raise ValueError("An RTTM file holds labels, but this timeline has values. Write .csv, .json, .srt or .png.")

    recording = _one_field(name)
    lines, speakers = [], has_speakers(result)
    for chunk in result["chunks"]:
        start, end = chunk["timestamp"]
        for entry in named_entries(chunk):
            names = f"<NA> {_one_field(entry['label'])}"
            if speakers:
                names = f"{_one_field(entry['label'])} {_one_field(chunk.get('speaker') or '')}"
            lines.append(
                f"SPEAKER {recording} 1 {start:.3f} {end - start:.3f} <NA> {names} {entry['score']:.4f} <NA>\n"
            )
    return "".join(lines)


def _one_field(text: str) -> str:
    return "_".join(text.split()) or "<NA>"


def to_srt(result: Mapping[str, Any], name: str, translations: Mapping[str, str] | None = None) -> str:
    """Subtitles; `translations` are the names of the labels in the language of the viewer."""
    blocks = []
    for start, end, speaker, lines in _cues(result, translations):
        first = f"{speaker}: {lines[0]}" if speaker else lines[0]
        time = f"{_srt_time(start)} --> {_srt_time(end)}"
        said = "\n".join([first, *lines[1:]]).replace("-->", "->")  # what is said is no time
        blocks.append(f"{len(blocks) + 1}\n{time}\n{said}\n")

    return "\n".join(blocks)


def to_vtt(result: Mapping[str, Any], name: str, translations: Mapping[str, str] | None = None) -> str:
    """Subtitles for web pages, with the speaker as `<v Name>`; `translations` as for [`to_srt`]."""
    blocks = ["WEBVTT\n"]
    for start, end, speaker, lines in _cues(result, translations):
        time = f"{_srt_time(start)} --> {_srt_time(end)}".replace(",", ".")
        voice = f"<v {html.escape(speaker, quote=False)}>" if speaker else ""
        said = "\n".join(html.escape(line, quote=False).replace("-->", "->") for line in lines)
        blocks.append(f"{time}\n{voice}{said}\n")

    return "\n".join(blocks)


def _cues(
    result: Mapping[str, Any], translations: Mapping[str, str] | None
) -> Iterator[tuple[float, float, str | None, list[str]]]:
    """Start, end, speaker and lines of each subtitle.

    Players show one subtitle at a time, so each ends where the next one starts; with speakers, they keep their times,
    because people do speak at the same time.
    """
    chunks, speakers = result["chunks"], has_speakers(result)
    form = "{} {:.2f}" if is_regression(result) else "{} {:.0%}"
    for index, chunk in enumerate(chunks):
        start, end = chunk["timestamp"]
        if index + 1 < len(chunks) and not speakers:
            end = min(end, chunks[index + 1]["timestamp"][0])
        if end <= start:  # two segments start together: the later one is shown
            continue

        entries = chunk["emotions"] if is_regression(result) else named_entries(chunk)
        shown = [
            form.format((translations or {}).get(entry["label"], entry["label"]), entry["score"]) for entry in entries
        ]
        doubt = f" ({chunk['unsure_reason']})" if chunk.get("unsure") else ""
        said = (chunk.get("text") or "").splitlines()
        lines = [line for line in [", ".join(shown) + doubt, *said] if line.strip()]
        if lines:
            yield start, end, " ".join((chunk.get("speaker") or "").split()) or None, lines


TEXT_FORMATS: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    ".json": to_json,
    ".csv": to_csv,
    ".rttm": to_rttm,
    ".srt": to_srt,
    ".vtt": to_vtt,
}
"""Suffix -> function (result, name of the recording) -> content of the file."""


@dataclass(frozen=True)
class Curves:
    """Smoothed scores over time.

    Args:
        times: (T,), seconds.
        values: label -> (T,); at each time they sum to one if the chunks hold the scores of all labels. Zero where no
            chunk is.
        strongest: (T,), the label with the largest value; "" where there is none, or where the pipeline is unsure.
    """

    times: np.ndarray
    values: dict[str, np.ndarray]
    strongest: np.ndarray

    @property
    def highest(self) -> float:
        """Largest value of all; 1 where there is none."""
        return max((float(curve.max()) for curve in self.values.values()), default=0.0) or 1.0

    def where_strongest(self, label: str) -> np.ndarray:
        """The curve of a label where it is the strongest, zero elsewhere."""
        return np.where(self.strongest == label, self.values[label], 0.0)


def smooth_curves(chunks: Chunks, points: int = 400) -> Curves:
    """The scores of chunks, constant within each, smoothed by a bell curve.

    It is narrower than most chunks, but for long recordings it covers many of them, which would be a barcode one by
    one. Where chunks overlap, all of them count.

    Args:
        chunks: of a timeline, in any order.
        points: number of times, evenly spaced from the first start to the last end.
    """
    labels, chunks = labels_of(chunks), [chunk for chunk in chunks if chunk["emotions"]]
    if not chunks:
        return Curves(np.zeros(0), {}, np.zeros(0, str))

    starts, ends = np.array([chunk["timestamp"] for chunk in chunks], dtype=float).T
    scores = np.array([[scores_of(chunk).get(label, 0.0) for label in labels] for chunk in chunks])
    width = max(np.quantile(ends - starts, 0.25) / 3, (ends.max() - starts.min()) / _FINEST_CURVE, 1e-3)
    times = np.linspace(starts.min(), ends.max(), points)
    sure = np.array([chunk["emotions"][0]["label"] != "unsure" and not chunk.get("unsure") for chunk in chunks])
    values, strongest = np.zeros((points, len(labels))), [""] * points

    for place, time in enumerate(times):
        if not ((starts <= time) & (time <= ends)).any():  # silence between segments
            continue
        shares = np.tanh((time - starts) / width) - np.tanh((time - ends) / width)
        values[place] = shares @ scores / shares.sum()
        if shares @ sure > shares.sum() / 2:
            strongest[place] = labels[int(np.argmax((shares * sure) @ scores))]

    return Curves(times, dict(zip(labels, values.T, strict=True)), np.array(strongest))


def is_regression(result: Mapping[str, Any]) -> bool:
    """Whether a timeline holds values, not probabilities."""
    return result.get("problem_type") == "regression"


def has_speakers(result: Mapping[str, Any]) -> bool:
    """Whether the chunks of a timeline have speakers."""
    return any("speaker" in chunk for chunk in result["chunks"])


def named_entries(chunk: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a chunk is called: its best label, or each that is `present` where there may be several at once. Nothing
    for an empty turn."""
    entries = chunk["emotions"]
    several = bool(entries) and "present" in entries[0]
    return [entry for entry in entries if entry["present"]] if several else entries[:1]


def per_minute(result: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of the speakers as a timeline: a chunk for each speaker and minute, with the mean emotions.

    Its chunks also have the `seconds`, `turns`, `shares` and `confidence` of the summary; the text is None. The last
    minute ends with the recording's last chunk.

    Raises:
        ValueError: a timeline without speakers.
    """
    if "speakers" not in result:
        raise ValueError("This timeline has no speakers. Call the pipeline with segments=[Turn(start, end, speaker)].")
    last = max((chunk["timestamp"][1] for chunk in result["chunks"]), default=0.0)
    chunks: list[dict[str, Any]] = []
    for speaker in result["speakers"]:
        for minute in speaker["minutes"]:
            start, end = minute["timestamp"]
            known = {"timestamp": (start, min(end, max(last, start))), "speaker": speaker["speaker"], "text": None}
            chunks.append(known | {name: value for name, value in minute.items() if name != "timestamp"})
    return {**result, "chunks": sorted(chunks, key=lambda chunk: chunk["timestamp"][0])}


def labels_of(chunks: Chunks) -> list[str]:
    """The labels that chunks hold scores of: the emotions in the order of the palette, then others by name."""
    found = {label for chunk in chunks for label in scores_of(chunk)}
    return [label for label in EMOTION_COLORS if label in found] + sorted(found - set(EMOTION_COLORS))


def scores_of(chunk: Mapping[str, Any]) -> dict[str, float]:
    """label -> score; "unsure", which the pipeline puts first below its threshold, is not one of the labels."""
    return {entry["label"]: entry["score"] for entry in chunk["emotions"] if entry["label"] != "unsure"}


def stretched(values: np.ndarray) -> np.ndarray:
    """Values from their lowest to their highest as 0 to 1; constant ones as one half."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.full_like(values, 0.5)


def clock(seconds: float) -> str:
    """65 -> "1:05", 72.5 -> "1:12.5", 3725 -> "1:02:05"; tenths only where there are any."""
    whole, tenths = divmod(round(10 * seconds), 10)
    minutes, rest = divmod(whole, 60)
    text = f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
    return f"{text}.{tenths}" if tenths else text


def _srt_time(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"
