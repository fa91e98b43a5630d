"""Confidence intervals of scores, by resampling dialogues or speakers, or clips if both are unknown."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike

DRAWS = 2000

COVERAGE = 0.95

DETECTABLE = 1.96 + 0.84
"""Smallest difference that a two-sided test at 5 % finds with a power of 80 %, in standard errors."""


@dataclass(frozen=True)
class PairedDifference:
    """The difference between two systems on the same rows.

    Attributes:
        difference: of the scores.
        lower, upper: its 95 % interval.
        detectable: the smallest detectable difference, at 5 % and a power of 80 %.
    """

    difference: float
    lower: float
    upper: float
    detectable: float

    @property
    def tie(self) -> bool:
        """Whether the interval contains 0."""
        return self.lower <= 0 <= self.upper


def bootstrap_column(rows: Mapping[str, Sequence[Any]] | Dataset) -> str:
    """Return the column whose values the bootstrap draws whole: `dialogue`, or `speaker`, or `id` (single clips).

    A column with missing values is not used, nor one with a single value, as every draw would be the same.

    Args:
        rows: with these columns.
    """
    for column in ("dialogue", "speaker"):
        values = set(rows[column])
        if None not in values and len(values) > 1:
            return column

    return "id"


def percentile_intervals(draws: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Return the 95 % interval of each score of [`drawn_scores`]: `{"uar": [lower, upper], "wf1": [lower, upper]}`."""
    return {name: percentile_interval(values) for name, values in draws.items()}


def paired_difference(
    one: dict[str, np.ndarray], other: dict[str, np.ndarray], difference: float, metric: str = "uar"
) -> PairedDifference:
    """Compare two systems by their scores in the same draws.

    Args:
        one, other: [`drawn_scores`] with the same rows, groups and seed.
        difference: of the scores on all rows.
        metric: `uar` or `wf1`.
    """
    values = one[metric] - other[metric]
    lower, upper = percentile_interval(values)
    return PairedDifference(difference, lower, upper, DETECTABLE * float(values.std(ddof=1)))


def drawn_scores(
    labels: ArrayLike, predictions: ArrayLike, groups: Sequence[Hashable], seed: int = 0
) -> dict[str, np.ndarray]:
    """Compute UAR and WF1 of `DRAWS` samples of whole groups, drawn with replacement.

    The draws depend only on the groups and the seed.

    Args:
        labels: (N,) indices of the true classes.
        predictions: (N,) indices of the predicted classes.
        groups: (N,) the groups that are drawn whole, such as the speaker of each clip.
        seed: of the draws.

    Returns:
        `{"uar": (DRAWS,), "wf1": (DRAWS,)}`
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
    return {"uar": recall.sum(1) / present.sum(1), "wf1": (f1 * truth).sum(1) / truth.sum(1)}


def percentile_interval(values: np.ndarray) -> list[float]:
    """Return the 95 % interval of drawn scores."""
    tail = (1 - COVERAGE) / 2
    return np.quantile(values, [tail, 1 - tail]).tolist()
