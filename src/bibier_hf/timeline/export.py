"""A timeline as a file: JSON and CSV for programs, RTTM for diarization tools, SRT and VTT for video players, PNG for
people."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..extras import require
from ..files import write_atomically
from .formats import TEXT_FORMATS, to_csv

TIMELINE_FORMATS = (*TEXT_FORMATS, ".png")
"""Suffixes of the files that a timeline can be written to."""


def save_timeline(
    result: Mapping[str, Any],
    path: str | Path,
    name: str | None = None,
    labels: Sequence[str] | None = None,
) -> Path:
    """Write the timeline of a recording; the suffix of the path selects the format.

    * `.json`: exactly what the pipeline returned.
    * `.csv`: one row per chunk, `start,end,label,score,text` and a column `p_<label>` for each label with its
      probability (empty where the pipeline did not return it, see `top_k`).
    * `.rttm`: one line per chunk, `SPEAKER <recording> 1 <start> <duration> <NA> <NA> <label> <score> <NA>`. The label
      takes the field of the speaker's name and its probability that of the confidence, so RTTM tools group and draw
      emotions as they do speakers. If the chunks have speakers, their names keep that field, and the label takes the
      one before it (the subtype).
    * `.srt`, `.vtt`: subtitles, `<label> <score in %>` and the spoken text below it. Players show one subtitle at a
      time, so each ends where the next one starts. With speakers, the name comes first (`Name: ` or `<v Name>`), and
      subtitles of people who speak at the same time overlap.
    * `.png`: the probability of each emotion over time, smoothed; with speakers, a row for each, with a bar for each
      chunk (needs matplotlib).

    With speakers, `.csv` has a column `speaker` after `end`. `per_minute(result)` is the summary of the speakers as a
    timeline, which can be written to the same formats; `.csv` then has `seconds`, `turns`, `confidence` and a column
    `share_<label>` for each label, too.

    Of several labels at once, the label of a chunk is each that is `present`. A regression has no labels: `.csv` holds
    `start,end,text` and a column `value_<name>` for each value, `.srt`, `.vtt` and `.png` show the values, and there
    is no `.rttm`.

    Args:
        result: what the pipeline returns with `return_timestamps=True`, or `LiveEmotion.timeline`.
        path: file to write, in one step; its folder is created if needed.
        name: name of the recording in RTTM lines and above the picture; None: the name of the file.
        labels: the labels of the CSV's columns, in order; None: those in the result, emotions first.

    Returns:
        path

    Raises:
        ValueError: another suffix, a result without chunks, or RTTM of a regression.
        MissingPackageError: a picture without matplotlib.
        WriteError: the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    name = os.fsencode(name or path.stem).decode("utf-8", "replace")
    if suffix not in TIMELINE_FORMATS:
        raise ValueError(
            f"'{path.name}' has the suffix '{path.suffix}'; a timeline is written as one of "
            f"{', '.join(TIMELINE_FORMATS)}."
        )
    if not (isinstance(result, Mapping) and isinstance(result.get("chunks"), list)):
        raise ValueError(
            "This is not a timeline: it has no 'chunks'. Call the pipeline with return_timestamps=True and, for "
            "instance, chunk_length_s=4."
        )

    if suffix == ".png":
        require("matplotlib")
        from .picture import draw_timeline

        write_atomically(path, lambda new: draw_timeline(result, new, name))
    else:
        text = to_csv(result, name, labels) if suffix == ".csv" else TEXT_FORMATS[suffix](result, name)
        write_atomically(path, lambda new: new.write_text(text, encoding="utf-8", newline=""))
    return path
