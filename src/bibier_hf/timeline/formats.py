"""A timeline as text, and as smooth curves to draw. Needs NumPy and the palette alone, so that the demo takes this file
along to where the package is not installed."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..palette import EMOTION_COLORS

Chunks = Sequence[Mapping[str, Any]]

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
    prefix = "value_" if values else "p_"
    writer.writerow(["start", "end", *facts, *doubts, *(prefix + label for label in labels)])

    for chunk in chunks:
        scores, named = scores_of(chunk), named_entries(chunk)
        answer = ["; ".join(entry["label"] for entry in named), named[0]["score"] if named else ""]
        row = [*chunk["timestamp"], *([] if values else answer), chunk.get("text") or "", *map(chunk.get, doubts)]
        writer.writerow([*row, *(scores.get(label, "") for label in labels)])

    return file.getvalue()


def to_rttm(result: Mapping[str, Any], name: str) -> str:
    if is_regression(result):
        raise ValueError("An RTTM file holds labels, but this timeline has values. Write .csv, .json, .srt or .png.")

    recording = _one_field(name)
    lines = []
    for chunk in result["chunks"]:
        start, end = chunk["timestamp"]
        for entry in named_entries(chunk):
            label = _one_field(entry["label"])
            lines.append(
                f"SPEAKER {recording} 1 {start:.3f} {end - start:.3f} <NA> <NA> {label} {entry['score']:.4f} <NA>\n"
            )
    return "".join(lines)


def _one_field(text: str) -> str:
    return "_".join(text.split())


def to_srt(result: Mapping[str, Any], name: str, translations: Mapping[str, str] | None = None) -> str:
    """Subtitles; `translations` are the names of the labels in the language of the viewer."""
    chunks, cues = result["chunks"], []
    for index, chunk in enumerate(chunks):
        start, end = chunk["timestamp"]
        if index + 1 < len(chunks):
            end = min(end, chunks[index + 1]["timestamp"][0])
        if end <= start:  # two segments start together: the later one is shown
            continue

        entries = chunk["emotions"] if is_regression(result) else named_entries(chunk)
        form = "{} {:.2f}" if is_regression(result) else "{} {:.0%}"
        shown = [
            form.format((translations or {}).get(entry["label"], entry["label"]), entry["score"]) for entry in entries
        ]
        doubt = f" ({chunk['unsure_reason']})" if chunk.get("unsure") else ""
        lines = [line for line in [", ".join(shown) + doubt, *(chunk.get("text") or "").split("\n")] if line.strip()]
        if lines:
            time = f"{_srt_time(start)} --> {_srt_time(end)}"
            cues.append("\n".join([str(len(cues) + 1), time, *lines]) + "\n")

    return "\n".join(cues)


TEXT_FORMATS: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    ".json": to_json,
    ".csv": to_csv,
    ".rttm": to_rttm,
    ".srt": to_srt,
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
    labels = labels_of(chunks)
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


def named_entries(chunk: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a chunk is called: its best label, or each that is `present` where there may be several at once."""
    entries = chunk["emotions"]
    return [entry for entry in entries if entry["present"]] if "present" in entries[0] else entries[:1]


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
