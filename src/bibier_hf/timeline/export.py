"""A timeline as a file: JSON and CSV for programs, RTTM for tools of diarisation, SRT for video players, PNG for
people."""

import csv
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..extras import require
from ..files import write_atomically
from ..model.labels_bibier import EMOTIONS


def save_timeline(result: Mapping[str, Any], path: str | Path, name: str | None = None) -> Path:
    """Write the timeline of a recording; the suffix of the path decides the form.

    * `.json`: as the pipeline gives it.
    * `.csv`: a row a chunk, `start,end,label,score,text` and a probability for each emotion (empty where it was not
      told, see `top_k`).
    * `.rttm`: a line a chunk, ten fields with blanks between them,
      `SPEAKER <recording> 1 <start> <duration> <NA> <NA> <label> <score> <NA>`: the best label stands in the field of
      the speaker's name, so that tools for RTTM group and draw emotions as they do speakers; its probability stands in
      the field of the confidence.
    * `.srt`: subtitles, `<label> <score in %>` and below it what is said. Players show one at a time, so each ends
      where the next begins.
    * `.png`: the best label and its probability over time, and all probabilities below (needs matplotlib).

    Args:
        result: what the pipeline gives with `return_timestamps=True`, or `LiveEmotion.timeline`.
        path: file to write, in one step; its folder is made if needed.
        name: of the recording, in RTTM lines and over the picture; None: the name of the file.

    Returns:
        path

    Raises:
        ValueError: another suffix, or a result without chunks.
        MissingPackageError: `.png` without matplotlib.
        WriteError: the file cannot be written.
        MissingPackageError: a picture without matplotlib.
    """
    path = Path(path)
    name = os.fsencode(name or path.stem).decode("utf-8", "replace")
    write = TIMELINE_FORMATS.get(path.suffix.lower())
    if write is None:
        raise ValueError(
            f"'{path.name}' has the suffix '{path.suffix}'; a timeline is written as one of "
            f"{', '.join(TIMELINE_FORMATS)}."
        )
    if not (isinstance(result, Mapping) and isinstance(result.get("chunks"), list)):
        raise ValueError(
            "This is no timeline: it has no 'chunks'. Call the pipeline with return_timestamps=True and, for "
            "instance, chunk_length_s=4."
        )
    write_atomically(path, lambda new: write(result, new, name))
    return path


def _write_json(result: Mapping[str, Any], path: Path, name: str) -> None:
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _write_csv(result: Mapping[str, Any], path: Path, name: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["start", "end", "label", "score", "text", *EMOTIONS])
        for chunk in result["chunks"]:
            best, scores = chunk["emotions"][0], _scores(chunk)
            row = [*chunk["timestamp"], best["label"], best["score"], chunk.get("text") or ""]
            writer.writerow([*row, *(scores.get(label, "") for label in EMOTIONS)])


def _write_rttm(result: Mapping[str, Any], path: Path, name: str) -> None:
    recording = "_".join(name.split())
    lines = []
    for chunk in result["chunks"]:
        (start, end), best = chunk["timestamp"], chunk["emotions"][0]
        lines.append(
            f"SPEAKER {recording} 1 {start:.3f} {end - start:.3f} <NA> <NA> {best['label']} {best['score']:.4f} <NA>\n"
        )
    path.write_text("".join(lines), encoding="utf-8")


def _write_srt(result: Mapping[str, Any], path: Path, name: str) -> None:
    chunks, cues = result["chunks"], []
    for index, chunk in enumerate(chunks):
        (start, end), best = chunk["timestamp"], chunk["emotions"][0]
        if index + 1 < len(chunks):
            end = min(end, chunks[index + 1]["timestamp"][0])
        if end <= start:  # two segments that begin together: the later one is shown
            continue
        lines = [f"{best['label']} {best['score']:.0%}", *(chunk.get("text") or "").split("\n")]
        time = f"{_srt_time(start)} --> {_srt_time(end)}"
        cues.append("\n".join([str(len(cues) + 1), time, *filter(str.strip, lines)]) + "\n")
    path.write_text("\n".join(cues), encoding="utf-8")


def _srt_time(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"


def _write_png(result: Mapping[str, Any], path: Path, name: str) -> None:
    require("matplotlib")
    from .picture import draw_timeline

    draw_timeline(result, path, name)


def _scores(chunk: Mapping[str, Any]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in chunk["emotions"]}


TIMELINE_FORMATS: dict[str, Callable[[Mapping[str, Any], Path, str], None]] = {
    ".json": _write_json,
    ".csv": _write_csv,
    ".rttm": _write_rttm,
    ".srt": _write_srt,
    ".png": _write_png,
}
"""Suffix -> what writes (result, path, name)."""
