"""Soft labels: distributions over a label set, in label order."""

import numpy as np
from numpy.typing import ArrayLike

UNITS = 100_000
"""Published probabilities have five decimals: whole multiples of one part in this many."""


class DistributionError(ValueError):
    """Numbers that cannot be made a distribution over the emotions."""


def finish_distribution(values: ArrayLike, gold: int | None = None, gold_weight: float | None = None) -> np.ndarray:
    """Turn a number for each label into a distribution (K,) of five decimals that sum to exactly one.

    Negative numbers count as zero. The rest is normalized, mixed with the gold label and rounded; the largest number
    absorbs the rounding error. The published code adds jitter to break ties, which made zeros negative; this does not.

    Args:
        values: (K,) in label order.
        gold: index of the gold label.
        gold_weight: as for [`blend_with_gold`].

    Raises:
        DistributionError: numbers that are not finite, or none above zero.
    """
    clipped = np.clip(np.asarray(values, dtype=np.float64), 0, None)
    if clipped.ndim != 1 or not np.isfinite(clipped).all() or clipped.max() <= 0:
        raise DistributionError("finite numbers are needed, at least one of them above zero")

    if not np.isfinite(clipped.sum()):
        clipped = clipped / clipped.max()

    probabilities = blend_with_gold(clipped / clipped.sum(), gold, gold_weight)
    units = np.rint(probabilities * UNITS).astype(int)
    largest = probabilities.argmax()
    units[largest] += UNITS - units.sum()

    while (other := units.argmax()) != largest:  # a negative remainder, or a tie after rounding
        units[[largest, other]] += 1, -1

    while gold is not None and gold_weight is not None and (np.delete(units, gold) >= units[gold]).any():
        # Rounding made a narrow lead a tie.
        other = int(np.where(np.arange(len(units)) == gold, -1, units).argmax())
        units[[gold, other]] += 1, -1
    return units / UNITS


def blend_with_gold(probabilities: np.ndarray, gold: int | None, gold_weight: float | None) -> np.ndarray:
    """Return `(1 - w) probabilities + w one_hot(gold)`, with the gold label highest.

    Args:
        probabilities: (K,), sum one.
        gold: index of the gold label.
        gold_weight: smallest w, in [0, 1]; w grows where the gold label would not be highest. None: no blending.
    """
    if gold_weight is None:
        return probabilities
    if gold is None or not 0 <= gold_weight <= 1:
        raise ValueError(f"gold_weight={gold_weight} with the gold label {gold}: give a weight in [0, 1] and a label.")

    # How far the strongest other emotion leads. At the tie, (1 - w) p_gold + w = (1 - w) p_other.
    lead = np.delete(probabilities, gold).max() - probabilities[gold]
    weight = min(1.0, max(gold_weight, (lead + 2 / UNITS) / (1 + lead))) if lead > -0.5 else gold_weight
    return (1 - weight) * probabilities + weight * np.eye(len(probabilities))[gold]
