"""The emotions of a long recording as bands over time, as a table, and as files to download."""

import base64
import html

import numpy as np

from ..palette import emotion_color
from ..timeline.formats import clock, smooth_curves, to_csv, to_srt
from .analysis import Answer
from .texts import Texts

STYLE = """
.bands { display: grid; grid-template-columns: max-content 1fr 3em; column-gap: 12px; font-size: 14px; }
.bands > * { align-self: end; }
.bands svg { width: 100%; height: 38px; display: block; border-bottom: 1px solid var(--border-color-primary); }
.bands b { font-weight: 500; text-align: right; }
.bands .axis { grid-column: 2; position: relative; height: 24px; font-size: 12px; opacity: 0.75; }
.bands .axis span { position: absolute; top: 4px; transform: translateX(-50%); white-space: nowrap; }
.bands .axis span:first-child { transform: none; }
.bands .axis span[style*="left: 100"] { transform: translateX(-100%); }
.downloads { display: flex; flex-wrap: wrap; gap: 8px; margin-top: 16px; }
.downloads a { padding: 6px 14px; border: 1px solid var(--border-color-primary); border-radius: 6px; font-size: 14px;
  background: var(--background-fill-primary); color: var(--body-text-color) !important; text-decoration: none; }
"""

_POINTS = 480
"""Of each curve."""

_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200)
_MOST_TICKS = 7


def timeline_bands(answer: Answer, texts: Texts) -> str:
    """HTML: a band per emotion, the most frequent first, with its mean, above a time axis; "" without a timeline.

    Args:
        answer: to a long recording.
        texts: language of the names.
    """
    if not answer.windows:
        return ""
    curves = smooth_curves(answer.windows, _POINTS)
    first, last = curves.times[0], curves.times[-1]
    rows = []

    for label in sorted(curves.values, key=lambda label: -answer.scores[label]):
        curve, name = curves.values[label], html.escape(texts.emotion(label))
        peak = int(curve.argmax())
        areas = "".join(
            f'<polygon points="{_outline(values / curves.highest)}" fill="{emotion_color(label)}" opacity="{opacity}"/>'
            for values, opacity in ((curve, 0.3), (curves.where_strongest(label), 1))
        )
        rows.append(
            f'<span>{name}</span><svg viewBox="0 0 {_POINTS} 100" preserveAspectRatio="none" role="img">'
            f"<title>{name}: {curve[peak]:.0%} ({clock(round(curves.times[peak]))})</title>{areas}</svg>"
            f"<b>{answer.scores[label]:.0%}</b>"
        )

    ticks = "".join(
        f'<span style="left: {100 * (time - first) / (last - first):.2f}%">{clock(time)}</span>'
        for time in axis_times(first, last)
    )
    return f'<div class="bands">{"".join(rows)}<div class="axis">{ticks}</div></div>'


def axis_times(first: float, last: float) -> list[float]:
    """Round times from the first to the last second, a handful of them."""
    step = next((step for step in _STEPS_S if (last - first) / step <= _MOST_TICKS), _STEPS_S[-1])
    return np.arange(np.ceil(first / step) * step, last + 1e-6, step).tolist()


def timeline_table(answer: Answer, texts: Texts) -> dict[str, list]:
    """Headers and rows of the table: from, to, emotion, probability; words if speech recognition heard any."""
    rows = []
    for chunk in answer.chunks:
        best = chunk["emotions"][0]
        start, end = chunk["timestamp"]
        rows.append(
            [clock(start), clock(end), texts.emotion(best["label"]), f"{best['score']:.0%}", chunk.get("text") or ""]
        )

    columns = 5 if any(row[-1] for row in rows) else 4
    return {"headers": texts.columns[:columns], "data": [row[:columns] for row in rows]}


def download_links(answer: Answer, texts: Texts) -> str:
    """HTML: the timeline as subtitles and as a table, inside of the page, so that no file is left on the server."""
    if answer.recording is None or not answer.chunks:
        return ""
    result, name = {"chunks": answer.chunks}, answer.recording.name
    links = (
        _link(texts.subtitles, f"{name}.srt", to_srt(result, name, texts.emotions)),
        _link(texts.table, f"{name}.csv", to_csv({"chunks": answer.windows}, name)),
    )
    return f'<div class="downloads">{"".join(links)}</div>'


def _link(caption: str, name: str, content: str) -> str:
    data = base64.b64encode(content.encode()).decode()
    return (
        f'<a download="{html.escape(name)}" href="data:application/octet-stream;base64,{data}">'
        f"{html.escape(caption)}</a>"
    )


def _outline(values: np.ndarray) -> str:
    """Points of a polygon under a curve from 0 to 1, in a box of `_POINTS` x 100, y pointing down."""
    x = np.linspace(0, _POINTS, len(values))
    curve = " ".join(f"{at:.1f},{100 - 100 * value:.1f}" for at, value in zip(x, values, strict=True))
    return f"0,100 {curve} {_POINTS},100"
