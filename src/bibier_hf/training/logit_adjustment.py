"""Logit adjustment: after training, trade the recall of rare classes for that of frequent ones, without training anew.

    logit_k - strength * ln(share of class k in the training set)

A positive strength serves UAR, as weights of the classes in the loss do, a negative one WAR and WF1. Weights that were
1 / count^e have already moved the logits by about e, so that from -e to 1 - e the answers go from those of an
unweighted to those of a balanced training. The shift goes into the biases of the classifiers: the model that is saved
needs nothing else to know of it.

Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, Section 4.1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..data.features import InputDataset
from ..evaluation.metrics import grouped_metrics, mean_over_groups
from ..model.labels_bibier import EMOTIONS
from ..model.modeling_bibier import BiBiERForEmotionClassification
from .arguments import RunArguments
from .rows import TrainingRows
from .samplers import class_counts, class_weight_exponent, corpus_weights

STRENGTH_STEP = 0.05
"""Distance of the strengths that dev chooses among."""


def adjustment_facts(
    run: RunArguments, logits: np.ndarray, train: TrainingRows, dev: InputDataset
) -> dict[str, Any] | None:
    """The shift that a run asks for, and how it was chosen; None where it asks for none.

    Args:
        run: its `logit_adjustment`, `class_weights` and `corpus_balanced_sampling`.
        logits: (N, 7), answers of the selected checkpoint on dev.
        train: the training set, whose shares of the classes count.
        dev: the N rows.

    Returns:
        `strength`; `shift`, seven numbers to be added to the logits; `chosen_on`; and, where dev chose, `dev_scores`,
        the selection metric under each strength (`{"strength", "score"}`).
    """
    if run.logit_adjustment is None:
        return None
    draws = corpus_weights(train.metadata["corpus"]) if run.corpus_balanced_sampling else None
    log_prior = class_log_prior(train.labels, len(EMOTIONS), draws)
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
    """Natural logarithm of each class's share of the training draw, less the mean over the classes; 0 for a class
    without a sample.

    Args:
        labels: (N,) class indices.
        num_classes: number of classes K.
        sample_weights: (N,) expected number of draws of each sample; None: one each.

    Returns:
        (K,)
    """
    counts = class_counts(labels, num_classes, sample_weights)
    there = counts > 0
    log_prior = np.zeros(num_classes)
    log_prior[there] = np.log(counts[there])
    log_prior[there] -= log_prior[there].mean()
    return log_prior


def strengths_to_try(exponent: float) -> list[float]:
    """From the answers of an unweighted training (-e) to those of a balanced one (1 - e), for weights 1 / count^e; 0
    is among them."""
    below, above = round(exponent / STRENGTH_STEP), round((1 - exponent) / STRENGTH_STEP)
    return [round(step * STRENGTH_STEP, 4) for step in range(-below, above + 1)]


def strength_scores(
    logits: np.ndarray, labels: ArrayLike, groups: ArrayLike, log_prior: np.ndarray, strengths: Sequence[float]
) -> dict[float, float]:
    """The selection metric (mean of UAR, WAR, MF1 and WF1) under each strength.

    Args:
        logits: (N, K).
        labels: (N,) indices of the true classes.
        groups: (N,) corpus of each row; every corpus counts the same.
        log_prior: (K,)
        strengths: what is tried.
    """
    return {
        strength: mean_over_groups(grouped_metrics(labels, (logits - strength * log_prior).argmax(1), groups))["mean"]
        for strength in strengths
    }


def best_strength(scores: dict[float, float]) -> float:
    """The strength that is best together with its two neighbours; of equal ones that which changes least.

    From one strength to the next a handful of rows change their answer, so that a single score is mostly noise.

    Args:
        scores: of each strength, in rising order.
    """
    strengths, values = list(scores), np.array(list(scores.values()))
    means = np.array([values[max(0, index - 1) : index + 2].mean() for index in range(len(values))])
    best = [
        strength
        for strength, mean in zip(strengths, means, strict=True)
        if np.isclose(mean, means.max(), rtol=0, atol=1e-12)
    ]
    return min(best, key=abs)


@torch.no_grad()
def shift_classifiers(model: BiBiERForEmotionClassification, shift: Sequence[float]) -> None:
    """Add `shift` (K,) to the logits of a model: those of the fusion and those of each modality.

    A mixture gives each class weights that sum to one, so its logits move by the same.
    """
    for layer in model.output_layers():
        layer.bias.add_(torch.tensor(shift, dtype=layer.bias.dtype, device=layer.bias.device))
