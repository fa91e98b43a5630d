"""The emotions of a long recording as bands over time, as a table, and as files to download."""

import base64
import html

import numpy as np

from ..palette import emotion_color
from ..timeline.formats import clock, smooth_curves, stretched, to_csv, to_srt
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
.values { display: grid; grid-template-columns: max-content 1fr; gap: 6px 24px; padding: 12px; font-size: 18px; }
.downloads { display: flex; flex-wrap: wrap; gap: 8px; margin-top: 16px; }
.downloads a { padding: 6px 14px; border: 1px solid var(--border-color-primary); border-radius: 6px; font-size: 14px;
  background: var(--background-fill-primary); color: var(--body-text-color) !important; text-decoration: none; }
"""

_POINTS = 480
"""Of each curve."""

MOST_LABELS = 12
"""Bars and bands that are shown; the files to download have all labels."""

_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200)
_MOST_TICKS = 7


def timeline_bands(answer: Answer, texts: Texts) -> str:
    """HTML: a band per emotion, the most frequent first, with its mean, above a time axis; "" without a timeline.

    The values of a regression are bands from the lowest to the highest of each, in label order.

    Args:
        answer: to a long recording.
        texts: language of the names.
    """
    if not answer.windows:
        return ""
    curves = smooth_curves(answer.windows, _POINTS)
    first, last = curves.times[0], curves.times[-1]
    rows = []

    names, form = texts.names(answer.scores), "{:.2f}" if answer.has_values else "{:.0%}"
    labels = (
        list(answer.scores) if answer.has_values else sorted(answer.scores, key=lambda label: -answer.scores[label])
    )

    for label in labels[:MOST_LABELS]:
        curve, name = curves.values[label], html.escape(names[label])
        peak = int(curve.argmax())
        layers = [(stretched(curve), 0.3)]
        if not answer.has_values:
            layers = [(curve / curves.highest, 0.3), (curves.where_strongest(label) / curves.highest, 1)]
        areas = "".join(
            f'<polygon points="{_outline(values)}" fill="{emotion_color(label)}" opacity="{opacity}"/>'
            for values, opacity in layers
        )
        rows.append(
            f'<span>{name}</span><svg viewBox="0 0 {_POINTS} 100" preserveAspectRatio="none" role="img">'
            f"<title>{name}: {form.format(curve[peak])} ({clock(round(curves.times[peak]))})</title>{areas}</svg>"
            f"<b>{form.format(answer.scores[label])}</b>"
        )

    ticks = "".join(
        f'<span style="left: {100 * (time - first) / (last - first):.2f}%">{clock(time)}</span>'
        for time in axis_times(first, last)
    )
    return f'<div class="bands">{"".join(rows)}<div class="axis">{ticks}</div></div>'


def value_list(answer: Answer, texts: Texts) -> str:
    """HTML: the values of a regression, by name; "" for probabilities, which are bars."""
    if not answer.has_values:
        return ""
    names = texts.names(answer.scores)
    rows = [f"<span>{html.escape(names[label])}</span><b>{value:.2f}</b>" for label, value in answer.scores.items()]
    return f'<div class="values">{"".join(rows)}</div>'


def axis_times(first: float, last: float) -> list[float]:
    """Round times from the first to the last second, a handful of them."""
    step = next((step for step in _STEPS_S if (last - first) / step <= _MOST_TICKS), _STEPS_S[-1])
    return np.arange(np.ceil(first / step) * step, last + 1e-6, step).tolist()


def timeline_table(answer: Answer, texts: Texts) -> dict[str, list]:
    """Headers and rows of the table: from, to, emotion, probability (of a regression, its values); words if speech
    recognition heard any."""
    names, rows = texts.names(answer.scores), []
    for chunk in answer.chunks:
        shown = [f"{entry['score']:.2f}" for entry in chunk["emotions"]]
        if not answer.has_values:
            best = chunk["emotions"][0]
            shown = [names[best["label"]], f"{best['score']:.0%}"]
        rows.append([*map(clock, chunk["timestamp"]), *shown, chunk.get("text") or ""])

    start, end, *classes, words = texts.columns
    headers = [start, end, *(names.values() if answer.has_values else classes), words]
    columns = len(headers) if any(row[-1] for row in rows) else len(headers) - 1
    return {"headers": headers[:columns], "data": [row[:columns] for row in rows]}


def download_links(answer: Answer, texts: Texts) -> str:
    """HTML: the timeline as subtitles and as a table, inside of the page, so that no file is left on the server."""
    if answer.recording is None or not answer.chunks:
        return ""
    name, kind = answer.recording.name, {"problem_type": answer.problem_type}
    subtitles = to_srt(kind | {"chunks": answer.chunks}, name, texts.names(answer.scores))
    links = (
        _link(texts.subtitles, f"{name}.srt", subtitles),
        _link(texts.table, f"{name}.csv", to_csv(kind | {"chunks": answer.windows}, name)),
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
