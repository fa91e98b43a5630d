"""Logit adjustment: after training, trade the recall of rare classes for that of frequent ones.

    logit_k - strength * ln(share of class k in the training set)

A positive strength favors UAR, as class weights in the loss do; a negative one favors WAR and WF1. Class weights of
1 / count^e have already moved the logits by about e, so strengths from -e to 1 - e range from unweighted to balanced
training. The shift is added to the biases of the classifiers and saved with the model.

Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, Section 4.1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..data.features import InputDataset
from ..evaluation.metrics import grouped_metrics, mean_over_groups
from .arguments import RunArguments
from .rows import TrainingRows
from .samplers import class_counts, class_weight_exponent, corpus_weights

STRENGTH_STEP = 0.05
"""Step between the strengths to choose from on dev."""


def adjustment_facts(
    run: RunArguments, logits: np.ndarray, train: TrainingRows, dev: InputDataset
) -> dict[str, Any] | None:
    """Choose the shift of the logits; return None if the run asks for none.

    Args:
        run: with `logit_adjustment`, `class_weights` and `corpus_balanced_sampling`.
        logits: (N, K), logits of the selected checkpoint on dev.
        train: the training set, for the shares of the classes.
        dev: the N rows.

    Returns:
        `strength`; `shift`, a number for each class to add to the logits; `chosen_on`; and, if chosen on dev,
        `dev_scores`: the selection metric for each strength (`{"strength", "score"}`).
    """
    if run.logit_adjustment is None:
        return None
    draws = corpus_weights(train.metadata["corpus"]) if run.corpus_balanced_sampling else None
    log_prior = class_log_prior(train.labels, logits.shape[1], draws)
    if run.logit_adjustment != "dev":
        return {
            "strength": run.logit_adjustment,
            "shift": (-run.logit_adjustment * log_prior).tolist(),
            "chosen_on": None,
        }
    exponent = class_weight_exponent(run.class_weights)
    scores = strength_scores(logits, dev.labels, dev.metadata["corpus"], log_prior, strengths_to_try(exponent))
    strength = best_strength(scores)
    return {
        "strength": strength,
        "shift": (-strength * log_prior).tolist(),
        "chosen_on": f"dev, answered by the selected checkpoint{' before the refit' if run.refit_on_dev else ''}",
        "dev_scores": [{"strength": tried, "score": score} for tried, score in scores.items()],
    }


def class_log_prior(labels: ArrayLike, num_classes: int, sample_weights: ArrayLike | None = None) -> np.ndarray:
    """Return the natural logarithm of each class's share of the training draws, minus the mean over the classes; 0 for
    a class without a sample.

    Args:
        labels: (N,) class indices.
        num_classes: number of classes K.
        sample_weights: (N,) expected number of draws of each sample; None: one each.

    Returns:
        (K,)
    """
    counts = class_counts(labels, num_classes, sample_weights)
    present = counts > 0
    log_prior = np.zeros(num_classes)
    log_prior[present] = np.log(counts[present])
    log_prior[present] -= log_prior[present].mean()
    return log_prior


def strengths_to_try(exponent: float) -> list[float]:
    """Return the strengths from -e (unweighted training) to 1 - e (balanced), including 0, for weights 1 / count^e."""
    below, above = round(exponent / STRENGTH_STEP), round((1 - exponent) / STRENGTH_STEP)
    return [round(step * STRENGTH_STEP, 4) for step in range(-below, above + 1)]


def strength_scores(
    logits: np.ndarray, labels: ArrayLike, groups: ArrayLike, log_prior: np.ndarray, strengths: Sequence[float]
) -> dict[float, float]:
    """Return the selection metric (mean of UAR, WAR, MF1 and WF1) for each strength.

    Args:
        logits: (N, K).
        labels: (N,) indices of the true classes.
        groups: (N,) corpus of each row; every corpus has the same weight.
        log_prior: (K,)
        strengths: to try.
    """
    return {
        strength: mean_over_groups(grouped_metrics(labels, (logits - strength * log_prior).argmax(1), groups))["mean"]
        for strength in strengths
    }


def best_strength(scores: dict[float, float]) -> float:
    """Return the strength with the best mean score over itself and its two neighbors; of equal ones, the smallest.

    From one strength to the next, only a few rows change their class, so a single score is mostly noise.

    Args:
        scores: by strength, in ascending order.
    """
    strengths, values = list(scores), np.array(list(scores.values()))
    means = np.array([values[max(0, index - 1) : index + 2].mean() for index in range(len(values))])
    best = [
        strength
        for strength, mean in zip(strengths, means, strict=True)
        if np.isclose(mean, means.max(), rtol=0, atol=1e-12)
    ]
    return min(best, key=abs)
