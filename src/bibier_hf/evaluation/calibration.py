"""Calibration: how well probabilities match how often the model is right. Three measures, reliability bins, and
temperature scaling.

For N utterances with probabilities p over K classes and true classes y:

| name | definition |
|---|---|
| `ece` | expected calibration error: utterances are sorted into 15 bins of equal width by confidence (the largest p); the mean over the bins, weighted by their size, of the difference between mean confidence and accuracy. 0 to 1 |
| `brier` | Brier score over all classes: mean over the utterances of sum_k (p_k - [k = y])^2. 0 to 2; 1 - 1 / K for a uniform distribution |
| `nll` | negative log-likelihood: mean over the utterances of -ln p_y, in nats; ln K for a uniform distribution |

With several labels at once, y is 0 or 1 for each label: `ece` sorts all N K probabilities into the bins, and `brier`
and `nll` are the means over utterances and labels.

Lower is better. Sources: Naeini et al., AAAI 2015 (ECE); Brier, Monthly Weather Review 78(1), 1950; Guo et al., ICML
2017 (temperature scaling).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, xlogy

CALIBRATION_METRICS = ("ece", "brier", "nll")

NUM_BINS = 15

LOWEST_PROBABILITY = 1e-12
"""Lower bound of probabilities in `nll`, which would be infinite if the true class had none."""

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Shares of the answers, the most confident first, of a risk-coverage curve."""

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True)
class TemperatureFit:
    """Outcome of [`fit_temperature`].

    Attributes:
        temperature: divides the logits.
        note: why it may not be the best temperature, if so.
    """

    temperature: float
    note: str | None = None


@dataclass(frozen=True)
class ReliabilityBins:
    """Utterances by confidence: bin k of K holds confidences in (k / K, (k + 1) / K]; the first bin also holds 0.

    Attributes:
        counts: (K,) utterances.
        confidence: (K,) mean confidence, 0 in empty bins.
        accuracy: (K,) share of correct predictions, 0 in empty bins.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error."""
        return float(np.sum(self.counts * np.abs(self.accuracy - self.confidence)) / np.sum(self.counts))


def calibration_metrics(labels: ArrayLike, probabilities: np.ndarray) -> dict[str, float]:
    """Compute ECE, Brier score and negative log-likelihood.

    Args:
        labels: (N,) indices of the true classes; or (N, K), 0 or 1 for each label.
        probabilities: (N, K), rows that sum to one; or one for each label.

    Returns:
        `{"ece", "brier", "nll"}`

    Raises:
        ValueError: there are no samples, or shapes do not match.
    """
    labels, probabilities = _checked(labels, probabilities)
    if labels.ndim == 2:
        surprise = xlogy(labels, np.maximum(probabilities, LOWEST_PROBABILITY))
        surprise += xlogy(1 - labels, np.maximum(1 - probabilities, LOWEST_PROBABILITY))
        return {
            "ece": reliability_bins(labels, probabilities).ece,
            "brier": float(np.square(probabilities - labels).mean()),
            "nll": float(-surprise.mean()),
        }

    truth = np.eye(probabilities.shape[1])[labels]
    of_truth = probabilities[np.arange(len(labels)), labels]
    return {
        "ece": reliability_bins(labels, probabilities).ece,
        "brier": float(np.square(probabilities - truth).sum(1).mean()),
        "nll": float(-np.log(np.maximum(of_truth, LOWEST_PROBABILITY)).mean()),
    }


def reliability_bins(labels: ArrayLike, probabilities: np.ndarray, bins: int = NUM_BINS) -> ReliabilityBins:
    """Sort predictions into bins by confidence. Arguments and errors: see [`calibration_metrics`]."""
    labels, probabilities = _checked(labels, probabilities)
    if labels.ndim == 2:
        confidence, right = probabilities.ravel(), labels.ravel()
    else:
        confidence, right = probabilities.max(1), (probabilities.argmax(1) == labels).astype(float)
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    filled = np.maximum(counts, 1)
    return ReliabilityBins(
        counts=counts,
        confidence=np.bincount(places, confidence, minlength=bins) / filled,
        accuracy=np.bincount(places, right, minlength=bins) / filled,
    )


def risk_coverage(labels: ArrayLike, probabilities: np.ndarray) -> list[dict[str, float]]:
    """Measure what it is worth to answer only when confident. Arguments and errors: see [`calibration_metrics`].

    Returns:
        for each of the `COVERAGES` the `coverage`, the `confidence` of the least confident answer that is kept, and
        the
        `risk`: the share of wrong answers among those that are kept.
    """
    labels, probabilities = _checked(labels, probabilities)
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    wrong = (probabilities.argmax(1) != labels)[order]
    points = []
    for coverage in COVERAGES:
        kept = max(1, round(coverage * len(labels)))
        point = {"coverage": coverage, "confidence": confidence[order[kept - 1]], "risk": wrong[:kept].mean()}
        points.append({name: float(value) for name, value in point.items()})
    return points


def fit_temperature(logits: np.ndarray, labels: ArrayLike, groups: ArrayLike) -> TemperatureFit:
    """Find the temperature T with the lowest negative log-likelihood of softmax(logits / T), or of sigmoid(logits / T)
    with several labels at once, with equal weights for the groups.

    Dividing by T does not change the ranking, and so no prediction. T is found by a bounded search over ln T, where
    the likelihood has a single optimum; equal inputs give identical results.

    If every prediction is correct, the likelihood grows without bound as T falls; then T stays 1.

    Args:
        logits: (N, K).
        labels: (N,) indices of the true classes; or (N, K), 0 or 1 for each label.
        groups: (N,) corpus of each row.

    Raises:
        ValueError: there are no samples, or shapes do not match.
    """
    labels, logits = _checked(labels, np.asarray(logits, dtype=np.float64))
    groups = np.asarray(groups)
    several = labels.ndim == 2
    if ((logits > 0) == labels).all() if several else (logits.argmax(1) == labels).all():
        return TemperatureFit(1.0, "every answer is right, so that any higher confidence would fit better; left at 1")
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1 / (len(sizes) * sizes[group])
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if several:
            return float(weights @ np.logaddexp(0, (1 - 2 * labels) * scaled).mean(1))
        return float(-weights @ log_softmax(scaled, axis=1)[rows, labels])

    bounds = (float(np.log(LOWEST_TEMPERATURE)), float(np.log(HIGHEST_TEMPERATURE)))
    temperature = float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))
    for bound in (LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE):
        if abs(temperature / bound - 1) < 1e-3:
            return TemperatureFit(temperature, f"the likelihood still grows at {bound:g}, the end of the range")

    return TemperatureFit(temperature)


def _checked(labels: ArrayLike, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, values = np.asarray(labels), np.asarray(values)
    if values.ndim != 2 or labels.shape not in ((len(values),), values.shape):
        raise ValueError(
            f"Labels of shape {labels.shape} and values of shape {values.shape}: they must be (N,) and (N, K)."
        )
    if len(labels) == 0:
        raise ValueError("There are no samples to score.")
    return labels, values
