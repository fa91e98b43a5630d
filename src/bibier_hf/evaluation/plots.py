"""Plots of reports."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

# Not pyplot, which depends on the display.
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from ..model.labels_bibier import EMOTIONS
from ..palette import ACCENT, FAINT, INK, SERIES_COLORS
from .calibration import ReliabilityBins

Spread = tuple[float, float, float]
"""Mean, lowest and highest of a number over folds."""


def plot_confusion_matrix(matrix: np.ndarray, path: str | Path, title: str = "") -> None:
    """Draw a confusion matrix with the count and the share of the true class in each cell.

    Args:
        matrix: (7, 7) counts, rows = true classes, in label order.
        path: picture to write; the suffix selects the format.
        title: line above the picture.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(EMOTIONS), len(EMOTIONS)):
        raise ValueError(
            f"A confusion matrix over {len(EMOTIONS)} classes must be square of that size, not {matrix.shape}."
        )
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)

    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(EMOTIONS)), EMOTIONS, rotation=45, ha="right")
    axes.set_yticks(
        range(len(EMOTIONS)), [f"{name} ({total})" for name, total in zip(EMOTIONS, totals[:, 0], strict=True)]
    )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (samples)")
    axes.set_title(title)
    for row, column in np.ndindex(*matrix.shape):
        axes.text(
            column,
            row,
            f"{matrix[row, column]}\n{shares[row, column]:.0%}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shares[row, column] > 0.5 else INK,
        )
    figure.colorbar(image, label="share of the true class", format=PercentFormatter(1.0))
    figure.savefig(path, dpi=150)


def plot_reliability(series: Mapping[str, ReliabilityBins], path: str | Path, title: str = "") -> None:
    """Draw a reliability diagram: accuracy over confidence, and below it how many answers have that confidence. Each
    series gets a panel.

    The shaded part of a bar is the gap between accuracy and confidence: above the bar where answers are
    overconfident, inside it where they are underconfident.

    Args:
        series: name (may be empty) -> bins, such as before and after calibration.
        path: picture to write; the suffix selects the format.
        title: line above the picture.
    """
    figure = Figure(figsize=(4.6 * len(series) + 0.6, 5.4), layout="constrained")
    panels = figure.subplots(2, len(series), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
    for (name, bins), (axes, histogram) in zip(series.items(), panels.T, strict=True):
        number = len(bins.counts)
        centres, width, filled = (np.arange(number) + 0.5) / number, 1 / number, bins.counts > 0
        axes.bar(centres[filled], bins.accuracy[filled], width, color=ACCENT, edgecolor="white", label="accuracy")
        gap = (bins.confidence - bins.accuracy)[filled]
        axes.bar(
            centres[filled],
            gap,
            width,
            bottom=bins.accuracy[filled],
            color=SERIES_COLORS[1],
            alpha=0.4,
            edgecolor=SERIES_COLORS[1],
            label="gap to the confidence",
        )
        axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="calibrated")
        axes.set_title(f"{name}: ECE {bins.ece:.1%}".removeprefix(": "), fontsize=10)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        histogram.bar(centres, bins.counts, width, color=FAINT, edgecolor="white")
        histogram.set_xlabel("confidence (largest probability)")
        histogram.xaxis.set_major_formatter(PercentFormatter(1.0))
        for panel in (axes, histogram):
            panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("accuracy")
    panels[0, 0].yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[0, 0].legend(loc="upper left", frameon=False, fontsize=8)
    panels[1, 0].set_ylabel("answers")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def plot_noise(
    curves: Mapping[str, Mapping[float, float]],
    levels: Mapping[str, float],
    path: str | Path,
    title: str = "",
    noise: str = "white",
) -> None:
    """Draw UAR over the signal-to-noise ratio.

    Args:
        curves: inputs of the model -> SNR in dB -> UAR; the value at infinity is that of clean audio.
        levels: inputs that noise does not change -> UAR, drawn as horizontal lines.
        path: picture to write; the suffix selects the format.
        title: line above the picture.
        noise: name of the noise, for the axis.
    """
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    ratios = sorted({ratio for curve in curves.values() for ratio in curve}, reverse=True)
    for number, (name, curve) in enumerate(curves.items()):
        places = [place for place, ratio in enumerate(ratios) if ratio in curve]
        axes.plot(
            places, [curve[ratios[place]] for place in places], marker="o", color=_series_color(number), label=name
        )
    for number, (name, value) in enumerate(levels.items(), start=len(curves)):
        axes.axhline(value, color=_series_color(number), linestyle=":", label=name)
    axes.axhline(1 / len(EMOTIONS), color="black", linestyle="--", linewidth=1, label="chance")
    axes.set_xticks(range(len(ratios)), ["clean" if np.isinf(ratio) else f"{ratio:g} dB" for ratio in ratios])
    axes.set_xlabel(f"signal-to-noise ratio ({noise} noise)")
    axes.set_ylabel("UAR")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def plot_leakage(
    series: Mapping[str, tuple[Mapping[str, Spread | None], Mapping[str, Spread | None]]],
    chance_uar: float,
    path: str | Path,
    title: str = "",
) -> None:
    """Draw how well the label of test rows can be guessed without hearing the emotion, and how many test rows are
    affected. Each protocol has its color.

    Args:
        series: protocol -> (source of the label -> UAR, what is shared with train -> share of the test rows), each
            value as (mean, lowest, highest) over the folds; None if it was not audited.
        chance_uar: UAR by chance.
        path: picture to write; the suffix selects the format.
        title: line above the picture.
    """
    panels = ("UAR of the emotion when only this is known", "share of test rows that share it with train")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for side, (axes, label) in enumerate(zip(figure.subplots(1, 2), panels, strict=True)):
        names = list(next(iter(series.values()))[side])
        height = 0.8 / len(series)
        for place, sides in enumerate(series.values()):
            for row, name in enumerate(names):
                position = row + (place - (len(series) - 1) / 2) * height
                color = _series_color(place)
                interval = sides[side][name]
                if interval is None:
                    axes.text(0.01, position, "not audited", va="center", fontsize=8, color=color)
                    continue
                mean, lowest, highest = interval
                axes.barh(position, mean, 0.9 * height, color=color)
                if highest > lowest:
                    axes.plot([lowest, highest], [position, position], color="black", linewidth=1)
                axes.text(highest + 0.01, position, f"{mean:.1%}", va="center", fontsize=8)
        if side == 0:
            axes.axvline(chance_uar, color="black", linestyle="--", linewidth=1)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    handles: list[Patch | Line2D] = [
        Patch(color=_series_color(place), label=protocol) for place, protocol in enumerate(series)
    ]
    handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label=f"chance ({chance_uar:.1%})"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def _series_color(number: int) -> str:
    return SERIES_COLORS[number % len(SERIES_COLORS)]
