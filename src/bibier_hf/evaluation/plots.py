"""Pictures of a report."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # not pyplot: a picture is drawn into a file, whatever display or back end there is
from matplotlib.ticker import PercentFormatter

from ..model.labels_bibier import EMOTIONS


def plot_confusion_matrix(matrix: np.ndarray, path: str | Path, title: str = "") -> None:
    """Draw a confusion matrix with the count and the share of the true class in each cell.

    Args:
        matrix: (7, 7) counts, rows = true classes, in label order.
        path: picture to write; the suffix decides the format.
        title: line over the picture.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(EMOTIONS), len(EMOTIONS)):
        raise ValueError(f"A confusion matrix over {len(EMOTIONS)} classes must be square of that size, not {matrix.shape}.")
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)

    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(EMOTIONS)), EMOTIONS, rotation=45, ha="right")
    axes.set_yticks(range(len(EMOTIONS)), [f"{name} ({total})" for name, total in zip(EMOTIONS, totals[:, 0], strict=True)])
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
            color="white" if shares[row, column] > 0.5 else "black",
        )
    figure.colorbar(image, label="share of the true class", format=PercentFormatter(1.0))
    figure.savefig(path, dpi=150)
