"""The four metrics of the method, for a group of utterances, and by corpus and language.

All are computed over a whole group, never averaged over batches, and lie in [0, 1]:

| name | definition |
|---|---|
| `uar` | unweighted average recall: mean of the recall over the classes |
| `war` | weighted average recall: the recall weighted by the size of the class, which is the accuracy |
| `mf1` | macro F1: mean of F1 over the classes |
| `wf1` | weighted F1: F1 weighted by the size of the class |

`mean` is the average of the four. A checkpoint is selected by it on dev, averaged over the corpora.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from .bibier_metrics.averages import averages

METRICS = ("uar", "war", "mf1", "wf1")
"""Names of the four metrics, in the published order."""

SELECTION_METRIC = "score"
"""Name of the selection metric in the trainer."""

METRIC_MODULE = Path(__file__).parent / "bibier_metrics"
"""Folder of the four metrics as a module of `evaluate` (`evaluate.load(str(METRIC_MODULE))`). It is also a Space."""


def classification_metrics(labels: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """Compute UAR, WAR, MF1, WF1 and their mean.

    The averages are over the classes in `labels`. The recall of a class without samples is undefined, and a class that
    is only predicted already lowers the recall of the samples it was predicted for.

    Args:
        labels: (N,) indices of the true classes.
        predictions: (N,) indices of the predicted classes.

    Returns:
        `{"uar", "war", "mf1", "wf1", "mean"}`, each in [0, 1].

    Raises:
        ValueError: there are no samples, lengths differ, or an index is not a class.
    """
    return averages(*_checked(labels, predictions))


def recall_per_class(labels: ArrayLike, predictions: ArrayLike, names: Sequence[str]) -> dict[str, float | None]:
    """Compute the recall of each label, by its name; None if it has no samples."""
    matrix = confusion_matrix(labels, predictions, len(names))
    return {
        name: float(row[index] / row.sum()) if row.sum() else None
        for index, (name, row) in enumerate(zip(names, matrix, strict=True))
    }


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, num_labels: int) -> np.ndarray:
    """Count (K, K) samples by true class (row) and predicted class (column), in label order."""
    labels, predictions = _checked(labels, predictions)
    if max(labels.max(), predictions.max()) >= num_labels:
        raise ValueError(f"Labels and predictions must be class indices from 0 to {num_labels - 1}.")

    return sklearn_confusion_matrix(labels, predictions, labels=np.arange(num_labels))


def grouped_metrics(labels: ArrayLike, predictions: ArrayLike, groups: ArrayLike) -> dict[str, dict[str, float]]:
    """Compute [`classification_metrics`] of each group.

    Args:
        labels: (N,) indices of the true classes.
        predictions: (N,) indices of the predicted classes.
        groups: (N,) name of the corpus or language of each sample.

    Returns:
        `{group: {"uar", ..., "mean"}}`, groups in alphabetical order.
    """
    labels, predictions = _checked(labels, predictions)
    groups = np.asarray(groups)
    if len(groups) != len(labels):
        raise ValueError(f"{len(labels)} labels, but {len(groups)} group names: give one for each sample.")
    return {
        str(group): classification_metrics(labels[groups == group], predictions[groups == group])
        for group in np.unique(groups)
    }


def mean_over_groups(
    metrics: dict[str, dict[str, float]], names: Sequence[str] = (*METRICS, "mean")
) -> dict[str, float]:
    """Average each metric over the groups, with equal weights."""
    return {name: float(np.mean([group[name] for group in metrics.values()])) for name in names}


def _checked(labels: ArrayLike, predictions: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(
            f"Labels and predictions must have the shape (N,), not {labels.shape} and {predictions.shape}."
        )
    if len(labels) == 0:
        raise ValueError("There are no samples to score.")
    for what, values in (("label", labels), ("prediction", predictions)):
        if not np.issubdtype(values.dtype, np.integer) or values.min() < 0:
            raise ValueError(f"A {what} must be a class index, from 0.")
    return labels, predictions
