"""The four metrics of the method, for one group of utterances and per corpus and language.

All are computed globally over a group, never as a mean over batches, and lie in [0, 1]:

| name | is |
|---|---|
| `uar` | unweighted average recall: mean over the classes of the recall |
| `war` | weighted average recall: the recall weighted by the size of the class, which is the accuracy |
| `mf1` | macro F1: mean over the classes of F1 |
| `wf1` | weighted F1: F1 weighted by the size of the class |

`mean` is the average of the four. A checkpoint is selected by it on dev, averaged over the corpora.
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from ..model.labels_bibier import EMOTIONS
from .bibier_metrics.averages import averages

METRICS = ("uar", "war", "mf1", "wf1")
"""Names of the four metrics in the order they are published."""

SELECTION_METRIC = "score"
"""Name under which the trainer knows the selection metric."""

SELECTION_FORMULA = "mean of UAR, WAR, MF1 and WF1 on dev, averaged over the corpora"
"""What it is."""

METRIC_MODULE = Path(__file__).parent / "bibier_metrics"
"""Folder of the four metrics as a module of `evaluate`: `evaluate.load(str(METRIC_MODULE))`; as it stands it is a
Space, too."""


def classification_metrics(labels: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """UAR, WAR, MF1, WF1 and their mean.

    The averages run over the classes that occur in `labels`: the recall of a class without a sample is undefined, and
    a class that is only predicted already costs the recall of the samples it was given to.

    Args:
        labels: (N,) indices of the true classes.
        predictions: (N,) indices of the predicted classes.

    Returns:
        `{"uar", "war", "mf1", "wf1", "mean"}`, each in [0, 1].

    Raises:
        ValueError: no samples, unequal lengths, or an index that is no class.
    """
    return averages(*_checked(labels, predictions))


def recall_per_class(labels: ArrayLike, predictions: ArrayLike) -> dict[str, float | None]:
    """Recall of each emotion; None where no sample has it."""
    matrix = confusion_matrix(labels, predictions)
    return {
        name: float(row[index] / row.sum()) if row.sum() else None
        for index, (name, row) in enumerate(zip(EMOTIONS, matrix, strict=True))
    }


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike) -> np.ndarray:
    """(7, 7) counts: row = true class, column = predicted class, both in label order."""
    labels, predictions = _checked(labels, predictions)
    return sklearn_confusion_matrix(labels, predictions, labels=np.arange(len(EMOTIONS)))


def grouped_metrics(labels: ArrayLike, predictions: ArrayLike, groups: ArrayLike) -> dict[str, dict[str, float]]:
    """[`classification_metrics`] of each group.

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


def mean_over_groups(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Average of each metric over the groups, every group counting the same whatever its size."""
    return {name: float(np.mean([group[name] for group in metrics.values()])) for name in (*METRICS, "mean")}


def _checked(labels: ArrayLike, predictions: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(
            f"Labels of shape {labels.shape} and predictions of shape {predictions.shape}: both must be (N,)."
        )
    if len(labels) == 0:
        raise ValueError("There are no samples to score.")
    for what, values in (("label", labels), ("prediction", predictions)):
        if not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() >= len(EMOTIONS):
            raise ValueError(
                f"A {what} must be a class index from 0 to {len(EMOTIONS) - 1}, in the order {', '.join(EMOTIONS)}."
            )
    return labels, predictions
