"""The picture of a timeline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Not pyplot: a picture is drawn into a file, whatever the display or back end.
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..palette import FAINT, INK, emotion_color
from .formats import clock, is_regression, smooth_curves


def draw_timeline(result: Mapping[str, Any], path: str | Path, title: str = "") -> None:
    """Draw a band per emotion over time, as high as its smoothed probability and solid where it is the strongest.

    The values of a regression are curves, each from its lowest to its highest.

    Args:
        result: a timeline.
        path: picture to write; the suffix selects the format.
        title: line above the picture.
    """
    curves, regression = smooth_curves(result["chunks"], points=1200), is_regression(result)
    means = {entry["label"]: entry["score"] for entry in result.get("emotions", [])}
    count = max(1, len(curves.values))
    figure = Figure(figsize=(11, 1.2 + 0.5 * count), layout="constrained")
    axes = figure.subplots()

    for row, (label, values) in enumerate(curves.values.items()):
        floor, scale, color = count - 1 - row, 0.88 / curves.highest, emotion_color(label)
        axes.axhline(floor, color=FAINT, linewidth=0.8, zorder=1)
        axes.fill_between(curves.times, floor, floor + scale * values, color=color, alpha=0.3, linewidth=0)
        strongest = scale * curves.where_strongest(label)
        solid = strongest > 0
        axes.fill_between(curves.times, floor, floor + strongest, solid, color=color, linewidth=0, zorder=3)
        if label in means:
            mean = f"{means[label]:.0%}"
            axes.annotate(mean, (1.01, floor + 0.3), xycoords=axes.get_yaxis_transform(), color=INK, fontsize=10)

    if curves.values:
        axes.set_xlim(curves.times[0], curves.times[-1])
        axes.annotate("mean", (1.01, count), xycoords=axes.get_yaxis_transform(), color=INK, fontsize=9)
    else:
        axes.text(0.5, 0.5, "no chunks", transform=axes.transAxes, ha="center", va="center", color=INK)
    axes.set_ylim(0, count)
    axes.set_yticks([count - 1 - row + 0.3 for row in range(len(curves.values))], list(curves.values))
    axes.tick_params(axis="y", length=0, labelsize=11, labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 1.5, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
    reading = "each from its lowest to its highest" if regression else "solid where the emotion is the strongest"
    axes.set_xlabel(f"time (min:s); {reading}", color=INK)
    axes.set_title(title, loc="left", color=INK)
    figure.savefig(path, dpi=150)
