"""UAR, WAR, MF1 and WF1, for this package and for the `evaluate` module in this folder."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import f1_score, recall_score


def averages(references: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """Compute recall and F1, averaged over the classes in `references`, unweighted and weighted by class size.

    Args:
        references: (N,) true classes.
        predictions: (N,) predicted classes.

    Returns:
        `{"uar", "war", "mf1", "wf1", "mean"}`, each in [0, 1]; `mean` is the mean of the four.
    """
    # By default, scikit-learn also averages over classes that are only predicted, whose recall is undefined.
    options = {"labels": np.unique(references), "zero_division": 0}
    metrics = {
        "uar": recall_score(references, predictions, average="macro", **options),
        "war": recall_score(references, predictions, average="weighted", **options),
        "mf1": f1_score(references, predictions, average="macro", **options),
        "wf1": f1_score(references, predictions, average="weighted", **options),
    }
    return {name: float(value) for name, value in metrics.items()} | {"mean": float(np.mean(list(metrics.values())))}
