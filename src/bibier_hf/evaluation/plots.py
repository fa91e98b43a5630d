"""Plots of reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Not pyplot, which depends on the display.
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from ..files import write_atomically
from ..palette import ACCENT, FAINT, INK, SERIES_COLORS
from .calibration import ReliabilityBins

MAX_CELLS = 15
"""Most rows of a matrix whose cells show their numbers."""

Spread = tuple[float, float, float]
"""Mean, lowest and highest of a number over folds."""


@dataclass(frozen=True)
class TransferPoint:
    """One point of [`plot_transfer`].

    Attributes:
        system: its position in the list of systems.
        uar, lower, upper: score, and its interval.
        look: "new" (the corpus was not trained on), "trained on other rows of the corpus", "leaky", or "roles".
    """

    system: int
    uar: float
    lower: float
    upper: float
    look: str


def plot_confusion_matrix(matrix: np.ndarray, names: Sequence[str], path: str | Path, title: str = "") -> None:
    """Draw a confusion matrix with the count and the share of the true class in each cell.

    Args:
        matrix: (K, K) counts, rows = true classes, in label order.
        names: the K labels.
        path: picture to write; the suffix selects the format.
        title: line above the picture.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(names), len(names)):
        raise ValueError(f"A matrix of {len(names)} classes must be square of that size, not {matrix.shape}.")
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)

    counts_and_shares = zip(matrix.flat, shares.flat, strict=True)
    cells = np.reshape([f"{count}\n{share:.0%}" for count, share in counts_and_shares], matrix.shape)
    rows = [f"{name} ({total})" for name, total in zip(names, totals[:, 0], strict=True)]
    labels = {"xlabel": "predicted", "ylabel": "true (samples)", "title": title}
    plot_shares(shares, cells, rows, names, path, "share of the true class", labels)


def plot_shares(
    shares: np.ndarray,
    cells: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    path: str | Path,
    shade: str,
    labels: dict[str, str],
) -> None:
    """Draw shares (K, K) as shades of blue, each with a text in its `cells` (K, K), unless there are too many to read.

    Args:
        shares: in [0, 1].
        cells: texts.
        rows, columns: names of the rows and of the columns.
        path: picture to write.
        shade: what the shade shows.
        labels: `xlabel`, `ylabel` and `title`.
    """
    larger = max(0, len(columns) - MAX_CELLS) * 0.2
    figure = Figure(figsize=(7.5 + larger, 6.5 + larger), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(**labels)

    for (row, column), share in np.ndenumerate(shares) if len(columns) <= MAX_CELLS else ():
        color = "white" if share > 0.5 else INK
        axes.text(column, row, cells[row, column], ha="center", va="center", fontsize=9, color=color)

    figure.colorbar(image, label=shade, format=PercentFormatter(1.0))
    save_figure(figure, path)


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
        look = {"color": SERIES_COLORS[1], "alpha": 0.4, "edgecolor": SERIES_COLORS[1]}
        axes.bar(centres[filled], gap, width, bins.accuracy[filled], label="gap to the confidence", **look)
        axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="calibrated")
        axes.set_title(f"{name}: ECE {bins.ece:.1%}".removeprefix(": "), fontsize=10)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        histogram.bar(centres, bins.counts, width, color=FAINT, edgecolor="white")
        histogram.set_xlabel("confidence")
        histogram.xaxis.set_major_formatter(PercentFormatter(1.0))
        for panel in (axes, histogram):
            panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("accuracy")
    panels[0, 0].yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[0, 0].legend(loc="upper left", frameon=False, fontsize=8)
    panels[1, 0].set_ylabel("answers")
    figure.suptitle(title)
    save_figure(figure, path)


def plot_risk_coverage(points: Sequence[Mapping[str, float]], path: str | Path, title: str = "") -> None:
    """Draw the share of wrong answers among the most confident ones, over their share of all answers.

    Args:
        points: `coverage` and `risk` ([`~bibier_hf.evaluation.calibration.risk_coverage`]).
        path: picture to write; the suffix selects the format.
        title: line above the picture.
    """
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot([point["coverage"] for point in points], [point["risk"] for point in points], color=ACCENT, marker="o")
    axes.set(xlim=(0, 1.02), ylim=(0, None), xlabel="answered, the most confident first", ylabel="wrong among them")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10)
    save_figure(figure, path)


def plot_values(
    truth: np.ndarray, values: np.ndarray, titles: Sequence[str], path: str | Path, title: str = ""
) -> None:
    """Draw predicted over true values, a panel for each target.

    Args:
        truth, values: (N, K).
        titles: of the K panels.
        path: picture to write; the suffix selects the format.
        title: line above the picture.
    """
    rows, width = -(-len(titles) // 4), min(len(titles), 4)
    figure = Figure(figsize=(3.6 * width + 0.6, 3.8 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, width, squeeze=False).ravel()
    for axes in panels[len(titles) :]:
        axes.set_axis_off()
    for axes, name, true, found in zip(panels, titles, truth.T, values.T, strict=False):
        ends = [min(true.min(), found.min()), max(true.max(), found.max())]
        axes.plot(ends, ends, color="black", linestyle="--", linewidth=1)
        axes.scatter(true, found, s=10, color=ACCENT, alpha=0.5, linewidths=0)
        axes.set_title(name, fontsize=10)
        axes.set(xlabel="true", ylabel="predicted")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    save_figure(figure, path)


def plot_conditions(
    series: Mapping[str, Mapping[str, tuple[float, float, float]]],
    levels: Mapping[str, float],
    num_labels: int,
    path: str | Path,
    title: str = "",
) -> None:
    """Draw the UAR under each condition with its interval.

    Args:
        series: inputs of the model -> condition -> UAR and the ends of its interval.
        levels: inputs that no condition changes -> UAR, drawn as vertical lines.
        num_labels: size of the label set, for the level of chance.
        path: picture to write; the suffix selects the format.
        title: line above the picture.
    """
    names = list(next(iter(series.values())))
    figure = Figure(figsize=(6.5, 0.3 * len(names) + 2.6), layout="constrained")
    axes = figure.subplots()
    height = 0.5 / len(series)

    for number, (given, points) in enumerate(series.items()):
        values, lower, upper = np.array([points[name] for name in names]).T
        places = np.arange(len(names)) + (number - (len(series) - 1) / 2) * height
        errors = np.maximum([values - lower, upper - values], 0)
        axes.errorbar(values, places, xerr=errors, fmt="o", markersize=4, color=_series_color(number), label=given)

    for number, (given, value) in enumerate(levels.items(), start=len(series)):
        axes.axvline(value, color=_series_color(number), linestyle=":", label=given)
    axes.axvline(1 / num_labels, color="black", linestyle="--", linewidth=1, label="chance")

    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="UAR", title=title)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


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
        axes.set(xlim=(0, 1.15), xticks=np.linspace(0, 1, 6), xlabel=label)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.spines[["top", "right"]].set_visible(False)
    handles: list[Any] = [Patch(color=_series_color(place), label=name) for place, name in enumerate(series)]
    handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label=f"chance ({chance_uar:.1%})"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(title)
    save_figure(figure, path)


def plot_transfer(
    panels: Mapping[str, Sequence[TransferPoint]],
    systems: Sequence[tuple[str, str]],
    chance_uar: float,
    path: str | Path,
) -> None:
    """Draw the UAR of each system on each test with its interval. A panel is a test; colors are what a system reads.

    Args:
        panels: title -> its points.
        systems: what each reads and what it was trained on, from top to bottom.
        chance_uar: UAR by chance.
        path: picture to write; the suffix selects the format.
    """
    figure = Figure(figsize=(3.6 * len(panels) + 2.6, 0.34 * len(systems) + 1.9), layout="constrained")
    reads = list(dict.fromkeys(modality for modality, _ in systems))
    looks: dict[str, dict[str, Any]] = {
        "new": {"marker": "o"},
        "trained on other rows of the corpus": {"marker": "s"},
        "leaky": {"marker": "x"},
        "roles": {"marker": "D", "markerfacecolor": "white"},
    }

    for axes, (title, points) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for point in points:
            row = point.system + {"roles": 0.25, "leaky": -0.25}.get(point.look, 0)
            color = _series_color(reads.index(systems[point.system][0]))
            axes.plot([point.lower, point.upper], [row, row], color=color, linewidth=1.2)
            axes.plot(point.uar, row, color=color, linestyle="", markersize=5, **looks[point.look])
        axes.axvline(chance_uar, color="black", linestyle="--", linewidth=1)
        axes.set(title=title, xlabel="UAR", xlim=(0, 1))
        axes.title.set_fontsize(10)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_yticks(range(len(systems)), [f"{modality}: {trained}" for modality, trained in systems])
        axes.grid(axis="x", color=FAINT, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(len(systems) - 0.4, -0.6)

    used = {point.look for points in panels.values() for point in points}
    handles: list[Any] = [
        Line2D([], [], color=INK, linestyle="", label=look, **style) for look, style in looks.items() if look in used
    ]
    handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label=f"chance ({chance_uar:.1%})"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    save_figure(figure, path)


def _series_color(number: int) -> str:
    return SERIES_COLORS[number % len(SERIES_COLORS)]


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in one step."""
    write_atomically(path, lambda new: figure.savefig(new, dpi=150))
