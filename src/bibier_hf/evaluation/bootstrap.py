"""How sure a score is: intervals by resampling speakers, or clips where speakers are unknown."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

DRAWS = 2000

COVERAGE = 0.95


def bootstrap_intervals(
    labels: ArrayLike, predictions: ArrayLike, groups: Sequence[Hashable], seed: int = 0
) -> dict[str, list[float]]:
    """Compute the 95 % interval of UAR and WF1 by drawing whole groups with replacement (percentile bootstrap).

    Args:
        labels: (N,) indices of the true classes.
        predictions: (N,) indices of the predicted classes.
        groups: (N,) what is drawn together, such as the speaker of each clip.
        seed: of the draws.

    Returns:
        `{"uar": [lower, upper], "wf1": [lower, upper]}`
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    place_of = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    places = np.array([place_of[group] for group in groups])
    classes = int(max(labels.max(), predictions.max())) + 1

    confusions = np.zeros((len(place_of), classes, classes))
    np.add.at(confusions, (places, labels, predictions), 1)
    count = len(place_of)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    matrices = np.tensordot(drawn, confusions, axes=1)  # (DRAWS, K, K)

    truth, answers = matrices.sum(2), matrices.sum(1)
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    present = truth > 0
    recall = np.divide(hits, truth, out=np.zeros_like(hits), where=present)
    f1 = np.divide(2 * hits, truth + answers, out=np.zeros_like(hits), where=present)
    scores = {"uar": recall.sum(1) / present.sum(1), "wf1": (f1 * truth).sum(1) / truth.sum(1)}

    tail = (1 - COVERAGE) / 2
    return {name: np.quantile(values, [tail, 1 - tail]).tolist() for name, values in scores.items()}
