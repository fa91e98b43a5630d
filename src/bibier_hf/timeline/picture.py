"""The picture of a timeline."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Not pyplot: a picture is drawn into a file, whatever the display or back end.
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..palette import FAINT, INK, emotion_color
from .formats import clock, has_speakers, is_regression, named_entries, smooth_curves

_BAR = 0.88
"""Height of a bar with probability one, in rows."""

_LONGEST_NAME = 30
"""Letters of a speaker's name that are shown."""


def draw_timeline(result: Mapping[str, Any], path: str | Path, title: str = "") -> None:
    """Draw a band per emotion over time, as high as its smoothed probability and solid where it is the strongest.

    The values of a regression are curves, each from its lowest to its highest. Below explained chunks, the stretches
    that carried the answer are marked: the larger their effect, the darker. If the chunks have speakers (and
    emotions), there is a row per speaker instead, see [`draw_speakers`].

    Args:
        result: a timeline.
        path: picture to write; the suffix selects the format.
        title: line above the picture.
    """
    regression = is_regression(result)
    if has_speakers(result) and not regression:
        draw_speakers(result, path, title)
        return

    curves = smooth_curves(result["chunks"], points=1200)
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
            mean, place = f"{means[label]:.0%}", (1.01, floor + 0.3)
            axes.annotate(mean, place, xycoords=axes.get_yaxis_transform(), color=INK, fontsize=10, va="center")

    if curves.values:
        axes.set_xlim(curves.times[0], curves.times[-1])
        axes.annotate("mean", (1.01, count), xycoords=axes.get_yaxis_transform(), color=INK, fontsize=9)
    else:
        axes.text(0.5, 0.5, "no chunks", transform=axes.transAxes, ha="center", va="center", color=INK)
    explained = [chunk for chunk in result["chunks"] if "explanation" in chunk]
    axes.set_ylim(-0.5 if explained else 0, count)
    for chunk in explained:
        _mark_effects(axes, chunk["explanation"], -0.4, 0.25)
    places, names = [count - 1 - row + 0.3 for row in range(len(curves.values))], list(curves.values)
    if explained:
        places, names = [*places, -0.3], [*names, "carried by"]
    axes.set_yticks(places, names)
    reading = "each from its lowest to its highest" if regression else "solid where the emotion is the strongest"
    _finish(axes, title, reading)
    figure.savefig(path, dpi=150)


def draw_speakers(result: Mapping[str, Any], path: str | Path, title: str = "") -> None:
    """Draw a row per speaker, in the order in which they first speak, with a bar for each chunk.

    A bar has the color of its emotion and is as high as its probability; the full height is one. Unsure ones are pale.
    The share of time of the most frequent emotion of each speaker is on the right. Stretches that carried an answer
    are marked above it.

    Args:
        result: a timeline whose chunks have speakers.
        path: picture to write; the suffix selects the format.
        title: line above the picture.
    """
    rows: dict[str | None, list[tuple[float, float, str, float, bool]]] = {}
    for chunk in result["chunks"]:
        entries = named_entries(chunk)[:1]
        bars = rows.setdefault(chunk.get("speaker"), [])
        unsure = bool(chunk.get("unsure"))
        bars += [(*chunk["timestamp"], entry["label"], entry["score"], unsure) for entry in entries]

    height = min(0.6, 20 / max(1, len(rows)))  # inches; small for a hundred speakers, but all of them are there
    figure = Figure(figsize=(11, 1.6 + height * max(1, len(rows))), layout="constrained")
    axes = figure.subplots()
    shares = {summary["speaker"]: summary.get("shares") or {} for summary in result.get("speakers", [])}
    size = min(11.0, 60 * height)

    for row, (speaker, bars) in enumerate(rows.items()):
        floor = len(rows) - 1 - row
        axes.axhline(floor, color=FAINT, linewidth=0.8, zorder=1)
        for start, end, label, score, unsure in bars:
            color = emotion_color(label)
            for height, alpha in ((_BAR, 0.15), (_BAR * score, 0.4 if unsure else 1.0)):
                axes.bar(
                    start, height, end - start, floor, align="edge", color=color, alpha=alpha, linewidth=0, zorder=3
                )
        for chunk in result["chunks"]:
            if "explanation" in chunk and chunk.get("speaker") == speaker:
                _mark_effects(axes, chunk["explanation"], floor + _BAR + 0.01, 0.07)
        if shares.get(speaker):
            label, share = next(iter(shares[speaker].items()))
            place, said = (1.01, floor + _BAR / 2), f"{label} {share:.0%}"
            across = axes.get_yaxis_transform()
            axes.annotate(said, place, xycoords=across, color=INK, fontsize=size, va="center", parse_math=False)

    if any(shares.values()):
        top = (1.01, max(1, len(rows)))
        axes.annotate("share of time", top, xycoords=axes.get_yaxis_transform(), color=INK, fontsize=9, va="bottom")
    names = [speaker or "unknown" for speaker in rows]
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names]
    axes.set_yticks([len(rows) - 1 - row + _BAR / 2 for row in range(len(rows))], names, parse_math=False)
    axes.set_ylim(0, max(1, len(rows)))
    if times := [time for chunk in result["chunks"] for time in chunk["timestamp"]]:
        axes.set_xlim(min(times), max(max(times), min(times) + 0.1))
    labels = sorted({bar[2] for bars in rows.values() for bar in bars})
    handles = [Patch(color=emotion_color(label), label=label) for label in labels]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)), frameon=False)
    reading = "a bar is as high as the probability of its emotion"
    if any(bar[4] for bars in rows.values() for bar in bars):
        reading += ", and pale if unsure"
    if any("explanation" in chunk for chunk in result["chunks"]):
        reading += "; dark marks: what carried it"
    _finish(axes, title, reading)
    axes.tick_params(axis="y", labelsize=size)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(path, dpi=150)


def _mark_effects(axes: Axes, explanation: Mapping[str, Any], floor: float, height: float) -> None:
    """Mark the stretches that carried an answer: the larger their effect, the darker."""
    stretches = [explanation["audio"][place] for place in explanation["carried_by"]["audio"]]
    largest = max((part["effect"] for part in stretches), default=0.0)
    for part in stretches:
        start, end = part["timestamp"]
        if part["effect"] > 0:
            strength = part["effect"] / largest
            axes.bar(start, height, end - start, floor, align="edge", color=INK, alpha=strength, linewidth=0, zorder=4)


def _finish(axes: Axes, title: str, reading: str) -> None:
    """Add what every picture has: the time axis, how to read it, and the title."""
    axes.tick_params(axis="y", length=0, labelsize=11, labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 1.5, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
    axes.set_xlabel(f"time (min:s); {reading}", color=INK)
    axes.set_title(title, loc="left", color=INK, parse_math=False)
