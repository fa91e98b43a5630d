"""The emotions of a long recording as a strip of colours and as a table."""

import html
from collections.abc import Sequence
from typing import Any

from .texts import Texts

COLOURS = {
    "anger": "#d1495b",
    "disgust": "#6a994e",
    "fear": "#7b5ea7",
    "happy": "#f2b134",
    "neutral": "#a7b0ba",
    "sad": "#3d7ea6",
    "surprise": "#ef7f45",
}

STYLE = """
.strip { display: flex; height: 44px; border-radius: 8px; overflow: hidden; gap: 1px; }
.strip > div { min-width: 1px; }
.strip-axis { display: flex; justify-content: space-between; font-size: 12px; opacity: 0.75; margin: 4px 0 10px; }
.strip-legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 14px; }
.strip-legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
"""

_TICKS = 5


def clock(seconds: float) -> str:
    """72.5 -> "1:12.5"; tenths only where there are any."""
    tenths = round(10 * seconds)
    text = f"{tenths // 600}:{tenths // 10 % 60:02d}"
    return f"{text}.{tenths % 10}" if tenths % 10 else text


def timeline_strip(chunks: Sequence[dict[str, Any]], texts: Texts) -> str:
    """HTML: a coloured field for each part, as wide as it is long, over a time axis and a legend; parts lie end to
    end.

    Args:
        chunks: `{"timestamp": (start, end) in seconds, "emotions": [best, ...]}`, in order.
        texts: language of the emotions.
    """
    if not chunks:
        return ""
    first, last = chunks[0]["timestamp"][0], chunks[-1]["timestamp"][1]
    fields, shown = [], []
    for chunk in chunks:
        best = chunk["emotions"][0]
        start, end = chunk["timestamp"]
        shown.append(best["label"])
        hint = f"{clock(start)} - {clock(end)}: {texts.emotions[best['label']]} {best['score']:.0%}"
        colour = COLOURS[best["label"]]
        fields.append(
            f'<div style="flex: {end - start:.3f} 0 0; background: {colour}" title="{html.escape(hint)}"></div>'
        )
    ticks = "".join(
        f"<span>{clock(round(first + (last - first) * tick / (_TICKS - 1)))}</span>" for tick in range(_TICKS)
    )
    legend = "".join(
        f'<span><i style="background: {colour}"></i>{html.escape(texts.emotions[label])}</span>'
        for label, colour in COLOURS.items()
        if label in shown
    )
    return f'<div class="strip">{"".join(fields)}</div><div class="strip-axis">{ticks}</div><div class="strip-legend">{legend}</div>'


def timeline_rows(chunks: Sequence[dict[str, Any]], texts: Texts) -> list[list[str]]:
    """Rows of the table: from, to, emotion, probability."""
    rows = []
    for chunk in chunks:
        best = chunk["emotions"][0]
        start, end = chunk["timestamp"]
        rows.append([clock(start), clock(end), texts.emotions[best["label"]], f"{best['score']:.0%}"])
    return rows
