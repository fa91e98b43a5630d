"""Statistics and pictures of a set of soft labels, and the differences between two sets.

`uar` compares the arg-max with the gold label; it is the figure published for label sets. Most prompts contain the gold
label, so it shows how closely a model followed the label, not how well it recognizes emotions.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..data.label_tables import LabelTable
from ..data.tables import CorpusError
from ..files import write_atomically
from ..model.labels_bibier import EMOTIONS
from ..palette import INK, emotion_color
from ..tables import markdown_table
from .metrics import classification_metrics, confusion_matrix, recall_per_class
from .plots import plot_confusion_matrix

SUM_SLACK = 1e-6
"""A sum that differs more from one counts as unnormalized; the values have five decimals."""


def describe_labels(table: LabelTable) -> dict[str, Any]:
    """Compute statistics of a set of labels, over the rows that have a distribution and a gold label.

    Returns:
        `rows, failed, without_gold, uar, war, mf1, wf1, mean, recall, confusion` (rows gold, columns arg-max),
        `entropy_bits` (`mean, median, max`), `gold_probability` (`mean` and by emotion), `defects` (counts of rows:
        `negative`, `above_one`, `unnormalized`, `equal_values`, `gold_not_highest`, and the share of the last).

    Raises:
        CorpusError: the table has no such row.
    """
    labels, probabilities, predicted = _scored(table)
    entropy = entropy_bits(probabilities)
    gold = probabilities[np.arange(len(labels)), labels]
    not_highest = int((predicted != labels).sum())
    metrics = classification_metrics(labels, predicted)
    return {
        "table": table.name,
        "rows": len(table.ids),
        "failed": int((~table.labeled).sum()),
        "without_gold": int((table.labels < 0).sum()),
        **metrics,
        "recall": recall_per_class(labels, predicted),
        "confusion": confusion_matrix(labels, predicted).tolist(),
        "labels": list(EMOTIONS),
        "entropy_bits": {
            "mean": float(entropy.mean()),
            "median": float(np.median(entropy)),
            "max": float(entropy.max()),
        },
        "gold_probability": {"mean": float(gold.mean())}
        | {
            name: float(gold[labels == index].mean()) for index, name in enumerate(EMOTIONS) if (labels == index).any()
        },
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
        `rows`, `agreement` (share of equal arg-max), `jensen_shannon_bits` (`mean`, and by emotion of the gold label),
        and `mean_difference` (by gold label: mean of the second minus the first, (7,)).

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
    present = [(index, name) for index, name in enumerate(EMOTIONS) if (gold == index).any()]
    return {
        "tables": [first.name, second.name],
        "rows": len(common),
        "agreement": float((p.argmax(1) == q.argmax(1)).mean()),
        "jensen_shannon_bits": {"mean": float(divergence.mean())}
        | {name: float(divergence[gold == index].mean()) for index, name in present},
        "mean_difference": {name: (q - p)[gold == index].mean(axis=0).tolist() for index, name in present},
    }


def entropy_bits(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropies (N,) of distributions (N, 7). Negative values count as zero."""
    clipped = np.clip(probabilities, 0, None)
    clipped = clipped / clipped.sum(axis=1, keepdims=True)
    return -(clipped * np.log2(np.where(clipped > 0, clipped, 1))).sum(axis=1)


def write_label_plots(table: LabelTable, directory: str | Path) -> list[Path]:
    """Draw `labels_confusion.png`, `labels_mean.png` (mean distribution for each gold label) and
    `labels_entropy.png`."""
    labels, probabilities, predicted = _scored(table)
    directory = Path(directory)
    uar = classification_metrics(labels, predicted)["uar"]
    drawings = {
        "labels_confusion.png": lambda path: plot_confusion_matrix(
            confusion_matrix(labels, predicted), path, f"{table.name}\narg-max against gold, UAR {100 * uar:.2f} %"
        ),
        "labels_mean.png": lambda path: _plot_means(labels, probabilities, path, table.name),
        "labels_entropy.png": lambda path: _plot_entropy(labels, probabilities, path, table.name),
    }
    for name, draw in drawings.items():
        write_atomically(directory / name, draw)
    return [directory / name for name in drawings]


def report_text(numbers: dict[str, Any]) -> str:
    """Format [`describe_labels`] as text, with a Markdown table of confusion and recall."""
    lines = [
        f"{numbers['table']}: {numbers['rows']} rows, {numbers['failed']} failed",
        "",
        f"UAR of the arg-max against gold {numbers['uar']:.5f}, WAR {numbers['war']:.5f}; mean probability of the "
        "gold label "
        f"{numbers['gold_probability']['mean']:.3f}; entropy {numbers['entropy_bits']['mean']:.3f} bits "
        f"(median {numbers['entropy_bits']['median']:.3f})",
        "",
        markdown_table(
            ["gold", *numbers["labels"], "recall"],
            [
                [name, *row, None if numbers["recall"][name] is None else f"{numbers['recall'][name]:.5f}"]
                for name, row in zip(numbers["labels"], numbers["confusion"], strict=True)
            ],
        ),
    ]
    defects = numbers["defects"]
    lines += [
        "",
        f"rows with a value below zero {defects['negative']}, above one {defects['above_one']}, unnormalized "
        f"{defects['unnormalized']}, "
        f"with equal values {defects['equal_values']}, gold label not highest {defects['gold_not_highest']} "
        f"({100 * defects['share_gold_not_highest']:.2f} %)",
    ]
    return "\n".join(lines)


def _scored(table: LabelTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, distributions and arg-max of the rows that have both."""
    rows = table.labeled & (table.labels >= 0)
    if not rows.any():
        raise CorpusError(f"{table.name} has no row with a distribution and a gold label.")
    return table.labels[rows], table.probabilities[rows], table.predictions[rows]


def _plot_means(labels: np.ndarray, probabilities: np.ndarray, path: Path, title: str) -> None:
    means = np.array(
        [probabilities[labels == index].mean(axis=0) if (labels == index).any() else np.zeros(7) for index in range(7)]
    )
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(means, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(7), EMOTIONS, rotation=45, ha="right")
    axes.set_yticks(range(7), EMOTIONS)
    axes.set_xlabel("mean probability given to")
    axes.set_ylabel("gold label")
    axes.set_title(title)
    for row, column in np.ndindex(*means.shape):
        color = "white" if means[row, column] > 0.5 else "black"
        axes.text(column, row, f"{means[row, column]:.3f}", ha="center", va="center", fontsize=9, color=color)
    figure.colorbar(image)
    figure.savefig(path, dpi=150)


def _plot_entropy(labels: np.ndarray, probabilities: np.ndarray, path: Path, title: str) -> None:
    entropy = entropy_bits(probabilities)
    present = [index for index in range(7) if (labels == index).any()]
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    boxes = axes.boxplot(
        [entropy[labels == index] for index in present],
        tick_labels=[EMOTIONS[index] for index in present],
        showfliers=False,
        patch_artist=True,
        medianprops={"color": INK},
    )
    for index, box in zip(present, boxes["boxes"], strict=True):
        box.set_facecolor(emotion_color(EMOTIONS[index]))
    axes.axhline(np.log2(7), linestyle=":", color=INK)
    axes.annotate("uniform", (0.55, np.log2(7)), va="bottom", fontsize=8, color=INK)
    axes.set_ylabel("entropy in bits")
    axes.set_xlabel("gold label")
    axes.set_title(title)
    figure.savefig(path, dpi=150)
