"""The picture of a timeline."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import (
    Figure,
)  # not pyplot: a picture is drawn into a file, whatever display or back end there is
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from ..model.labels_bibier import EMOTIONS

EMOTION_COLOURS = {
    "anger": "#d1495b",
    "disgust": "#66a182",
    "fear": "#7b5ea7",
    "happy": "#edae49",
    "neutral": "#a3a8ad",
    "sad": "#2e6f9e",
    "surprise": "#e58bb5",
}
"""One for each emotion; a label of another kind ("unsure") is white with a grey edge."""


def draw_timeline(result: Mapping[str, Any], path: str | Path, title: str = "") -> None:
    """Draw a timeline: above, a bar a chunk in the colour of its best label and as high as its probability; below, the
    probabilities of all labels stacked. Where chunks overlap, the border between them is drawn in the middle of the
    overlap.

    Args:
        result: a timeline.
        path: picture to write; the suffix decides the format.
        title: line over the picture.
    """
    chunks = result["chunks"]
    spans = drawn_spans([tuple(chunk["timestamp"]) for chunk in chunks])
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    best_axes, all_axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.15))
    scores = [{entry["label"]: entry["score"] for entry in chunk["emotions"]} for chunk in chunks]
    bests = [chunk["emotions"][0] for chunk in chunks]
    tops = np.zeros(len(chunks))
    labels = [*EMOTIONS, *sorted({best["label"] for best in bests} - set(EMOTIONS))]
    for label in labels:
        heights = np.array([best["score"] if best["label"] == label else 0.0 for best in bests])
        _draw_bars(best_axes, spans, np.zeros(len(chunks)), heights, label)
        if label in EMOTION_COLOURS:
            bottoms, tops = tops, tops + [told.get(label, 0.0) for told in scores]
            _draw_bars(all_axes, spans, bottoms, tops, label)
    if not chunks:
        best_axes.text(0.5, 0.5, "no chunks", transform=best_axes.transAxes, ha="center", va="center", color="#8a8f94")
    for axes, label in ((best_axes, "best label"), (all_axes, "all labels")):
        axes.set_ylim(0, 1)
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.spines[["top", "right"]].set_visible(False)
        if spans:
            axes.set_xlim(spans[0][0], max(end for _, end in spans))
    best_axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    best_axes.set_axisbelow(True)
    best_axes.set_title(title, loc="left")
    all_axes.set_xlabel("time (min:s)")
    all_axes.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 1.5, 2, 3, 6, 10]))
    all_axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
    handles = [Patch(facecolor=_face(label), edgecolor=_edge(label), label=label) for label in labels]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    figure.savefig(path, dpi=150)


def _draw_bars(
    axes: Axes, spans: list[tuple[float, float]], bottoms: np.ndarray, tops: np.ndarray, label: str
) -> None:
    """Bars of one label as one collection: an hour has thousands."""
    bars = [
        [(start, bottom), (start, top), (end, top), (end, bottom)]
        for (start, end), bottom, top in zip(spans, bottoms, tops, strict=True)
        if top > bottom
    ]
    axes.add_collection(PolyCollection(bars, facecolors=_face(label), edgecolors=_edge(label), linewidths=0.3))


def _face(label: str) -> str:
    return EMOTION_COLOURS.get(label, "white")


def _edge(label: str) -> str:
    return EMOTION_COLOURS.get(label, "#8a8f94")


def drawn_spans(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans in the order of their starts -> the same without overlaps: neighbours meet in the middle of what they
    share."""
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    for index, ((_, end), (start, _)) in enumerate(pairwise(spans)):
        if start < end:
            ends[index] = starts[index + 1] = (start + end) / 2
    return [(start, max(start, end)) for start, end in zip(starts, ends, strict=True)]


def clock(seconds: float) -> str:
    """3725 -> 1:02:05, 65 -> 1:05"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
