"""Statistics and pictures of a set of soft labels, and the differences between two sets.

`uar` compares the arg-max with the gold label; it is the figure published for label sets. Most prompts contain the
gold label, so it shows how closely a model followed the label, not how well it recognizes emotions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import entr

from ..data.label_tables import LabelTable
from ..data.tables import CorpusError
from ..palette import INK, emotion_color
from ..tables import markdown_table
from .metrics import classification_metrics, confusion_matrix, recall_per_class
from .plots import plot_confusion_matrix, plot_shares, save_figure

SUM_SLACK = 1e-6
"""A sum that differs more from one counts as unnormalized; the values have five decimals."""


def describe_labels(table: LabelTable) -> dict[str, Any]:
    """Compute statistics of a set of labels, over the rows that have a distribution and a gold label.

    Returns:
        `rows, failed, without_gold, uar, war, mf1, wf1, mean, recall, confusion` (rows gold, columns arg-max),
        `entropy_bits` (`mean, median, max`), `gold_probability` (`mean` and by label), `defects` (counts of rows:
        `negative`, `above_one`, `unnormalized`, `equal_values`, `gold_not_highest`, and the share of the last).

    Raises:
        CorpusError: the table has no such row.
    """
    names = table.label_names
    labels, probabilities, predicted = _scored(table)
    entropy = entropy_bits(probabilities)
    gold = probabilities[np.arange(len(labels)), labels]
    not_highest = int((predicted != labels).sum())
    statistics = {"mean": np.mean, "median": np.median, "max": np.max}

    return {
        "table": table.name,
        "rows": len(table.ids),
        "failed": int((~table.labeled).sum()),
        "without_gold": int((table.labels < 0).sum()),
        **classification_metrics(labels, predicted),
        "recall": recall_per_class(labels, predicted, names),
        "confusion": confusion_matrix(labels, predicted, len(names)).tolist(),
        "labels": list(names),
        "entropy_bits": {name: float(of(entropy)) for name, of in statistics.items()},
        "gold_probability": _mean_by_label(gold, labels, names),
        "defects": {
            "negative": int((probabilities < 0).any(axis=1).sum()),
            "above_one": int((probabilities > 1).any(axis=1).sum()),
            "unnormalized": int((np.abs(probabilities.sum(axis=1) - 1) > SUM_SLACK).sum()),
            "equal_values": sum(len(set(row)) < len(row) for row in probabilities.round(5).tolist()),
            "gold_not_highest": not_highest,
            "share_gold_not_highest": not_highest / len(labels),
        },
    }


def compare_labels(first: LabelTable, second: LabelTable) -> dict[str, Any]:
    """Compare two sets of labels on the rows that both have.

    Returns:
        `rows`, `agreement` (share of equal arg-max), `jensen_shannon_bits` (`mean`, and by gold label),
        and `mean_difference` (by gold label: mean of the second minus the first, (K,)).

    Raises:
        CorpusError: there are no common rows.
    """
    ours, theirs = first.soft_labels(), second.soft_labels()
    gold_of = dict(zip(first.ids, first.labels, strict=True))
    common = [key for key in ours if key in theirs and gold_of[key] >= 0]
    if not common:
        raise CorpusError(f"{first.name} and {second.name} have no labeled row in common: their ids differ.")
    p, q = np.array([ours[key] for key in common]), np.array([theirs[key] for key in common])
    gold = np.array([gold_of[key] for key in common])
    divergence = entropy_bits((p + q) / 2) - (entropy_bits(p) + entropy_bits(q)) / 2

    return {
        "tables": [first.name, second.name],
        "rows": len(common),
        "agreement": float((p.argmax(1) == q.argmax(1)).mean()),
        "jensen_shannon_bits": _mean_by_label(divergence, gold, first.label_names),
        "mean_difference": {
            first.label_names[index]: (q - p)[gold == index].mean(axis=0).tolist() for index in np.unique(gold)
        },
    }


def _mean_by_label(values: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """The mean of all values, and that of each label that occurs."""
    by_label = {names[index]: float(values[labels == index].mean()) for index in np.unique(labels)}
    return {"mean": float(values.mean())} | by_label


def entropy_bits(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropies (N,) of distributions (N, K). Negative values count as zero."""
    clipped = np.clip(probabilities, 0, None)
    return entr(clipped / clipped.sum(axis=1, keepdims=True)).sum(axis=1) / np.log(2)


def write_label_plots(table: LabelTable, directory: str | Path) -> list[Path]:
    """Draw `labels_confusion.png`, `labels_mean.png` (mean distribution for each gold label) and
    `labels_entropy.png`."""
    labels, probabilities, predicted = _scored(table)
    paths = [Path(directory) / f"labels_{name}.png" for name in ("confusion", "mean", "entropy")]
    uar = classification_metrics(labels, predicted)["uar"]
    title = f"{table.name}\narg-max against gold, UAR {100 * uar:.2f} %"

    names = table.label_names
    plot_confusion_matrix(confusion_matrix(labels, predicted, len(names)), names, paths[0], title)
    _plot_means(labels, probabilities, names, paths[1], table.name)
    _plot_entropy(labels, probabilities, names, paths[2], table.name)
    return paths


def report_text(numbers: dict[str, Any]) -> str:
    """Format [`describe_labels`] as text, with a Markdown table of confusion and recall."""
    entropy, defects = numbers["entropy_bits"], numbers["defects"]
    rows = [
        [name, *counts, None if recall is None else f"{recall:.5f}"]
        for counts, (name, recall) in zip(numbers["confusion"], numbers["recall"].items(), strict=True)
    ]
    lines = [
        f"{numbers['table']}: {numbers['rows']} rows, {numbers['failed']} failed",
        "",
        f"UAR of the arg-max against gold {numbers['uar']:.5f}, WAR {numbers['war']:.5f}; mean probability of the "
        f"gold label {numbers['gold_probability']['mean']:.3f}; entropy {entropy['mean']:.3f} bits "
        f"(median {entropy['median']:.3f})",
        "",
        markdown_table(["gold", *numbers["labels"], "recall"], rows),
        "",
        f"rows with a value below zero {defects['negative']}, above one {defects['above_one']}, unnormalized "
        f"{defects['unnormalized']}, with equal values {defects['equal_values']}, gold label not highest "
        f"{defects['gold_not_highest']} ({100 * defects['share_gold_not_highest']:.2f} %)",
    ]
    return "\n".join(lines)


def _scored(table: LabelTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, distributions and arg-max of the rows that have both."""
    rows = table.labeled & (table.labels >= 0)
    if not rows.any():
        raise CorpusError(f"{table.name} has no row with a distribution and a gold label.")
    return table.labels[rows], table.probabilities[rows], table.predictions[rows]


def _plot_means(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], path: Path, title: str) -> None:
    means = np.zeros((len(names), len(names)))
    for index in np.unique(labels):
        means[index] = probabilities[labels == index].mean(axis=0)
    cells = np.reshape([f"{mean:.3f}" for mean in means.flat], means.shape)
    axes = {"xlabel": "mean probability given to", "ylabel": "gold label", "title": title}
    plot_shares(means, cells, names, names, path, "mean probability", axes)


def _plot_entropy(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], path: Path, title: str) -> None:
    entropy = entropy_bits(probabilities)
    present = np.unique(labels)
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    boxes = axes.boxplot(
        [entropy[labels == index] for index in present],
        tick_labels=[names[index] for index in present],
        showfliers=False,
        patch_artist=True,
        medianprops={"color": INK},
    )
    for index, box in zip(present, boxes["boxes"], strict=True):
        box.set_facecolor(emotion_color(names[index]))
    axes.axhline(np.log2(len(names)), linestyle=":", color=INK)
    axes.annotate("uniform", (0.55, np.log2(len(names))), va="bottom", fontsize=8, color=INK)
    axes.set(xlabel="gold label", ylabel="entropy in bits", title=title)
    save_figure(figure, path)
