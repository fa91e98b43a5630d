"""The losses, one for each `problem_type`, and the check of the labels that they take."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .configuration_bibier import MULTI_LABEL, REGRESSION, SINGLE_LABEL, BiBiERConfig

_EPSILON = 1e-8
"""Keeps the concordance of two equal constants finite."""


def make_loss(config: BiBiERConfig, device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the loss of a model: a function of logits (B, K), targets (B, K) and `present`, bool (B,).

    It returns the sum over the samples that are present. The concordance belongs to a batch, not to a sample, so each
    sample contributes the loss of its batch: accumulated over several batches, each counts by its size.
    """
    given = config.class_weights or [1.0] * len(config.label_names)
    weights = torch.tensor(given, dtype=torch.float32, device=device)

    if config.problem_type == REGRESSION:
        return lambda logits, targets, present: ccc_loss(logits, targets, weights, present) * present.sum()

    per_sample = soft_cross_entropy if config.problem_type == SINGLE_LABEL else binary_cross_entropy
    return lambda logits, targets, present: (per_sample(logits, targets, weights) * present).sum()


def soft_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy of each sample with a soft target: -sum_c w_c q_c log p_c.

    Args:
        logits: (B, K).
        targets: q, (B, K), rows sum to one; one-hot for hard labels.
        weights: w, (K,).

    Returns:
        (B,), float32
    """
    log_p = F.log_softmax(logits.float(), dim=-1)
    targets = targets.float() if weights is None else targets.float() * weights
    return -(targets * log_p).sum(-1)


def binary_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy of each sample with independent labels: the mean over c of -w_c (q_c log p_c + (1 - q_c) log(1 -
    p_c)), where p is the sigmoid of the logits.

    Args:
        logits: (B, K).
        targets: q, (B, K), from 0 (absent) to 1 (present).
        weights: w, (K,).

    Returns:
        (B,), float32
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return (losses * weights).mean(-1)


def ccc_loss(values: Tensor, targets: Tensor, weights: Tensor, present: Tensor) -> Tensor:
    """One minus the concordance correlation coefficient (Lin, 1989), the weighted mean over the targets.

        CCC = 2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))^2)

    It is 1 where x = y, and lower for a wrong order, a wrong scale or an offset. A single sample has no variance;
    its loss is the squared error.

    Args:
        values: x, (B, K), what the model predicts.
        targets: y, (B, K).
        weights: (K,).
        present: bool (B,), the samples that count.

    Returns:
        scalar, float32
    """
    x, y, keep = values.float(), targets.float(), present.float().unsqueeze(1)
    count = keep.sum().clamp(min=1)

    def mean(z: Tensor) -> Tensor:
        return (z * keep).sum(0) / count

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean((x - mean_x) ** 2), mean((y - mean_y) ** 2)
    cov = mean((x - mean_x) * (y - mean_y))

    ccc = 2 * cov / (var_x + var_y + (mean_x - mean_y) ** 2 + _EPSILON)
    squared_error = mean((x - y) ** 2)
    losses = torch.where(count > 1, 1 - ccc, squared_error)

    return (losses * weights).sum() / weights.sum().clamp(min=_EPSILON)


def checked_targets(labels: Tensor, batch: int, config: BiBiERConfig) -> Tensor:
    """Convert the labels of a batch to targets (B, K).

    Args:
        labels: `single_label_classification`: integers (B,), or distributions (B, K); `multi_label_classification`:
            numbers from 0 to 1, (B, K); `regression`: finite numbers, (B, K), or (B,) for one target.
        batch: B.
        config: of the model.

    Raises:
        ValueError: a wrong shape, or values that are no such labels.
    """
    count, kind = len(config.label_names), config.problem_type
    checked = not torch.compiler.is_compiling()
    if kind == SINGLE_LABEL:
        return _as_distribution(labels, batch, count, checked)

    if kind == REGRESSION and count == 1 and labels.shape == (batch,):
        labels = labels.unsqueeze(1)
    if labels.shape != (batch, count):
        names = f"a column for each of {', '.join(config.label_names)}"
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}; {kind} takes ({batch}, {count}), with {names}."
        )

    labels = labels.float()
    if checked and kind == MULTI_LABEL and not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError("The labels of multi_label_classification must be from 0 (absent) to 1 (present).")
    if checked and not labels.isfinite().all():
        raise ValueError("The labels of regression must be finite numbers. Leave rows without a value out.")
    return labels


def _as_distribution(labels: Tensor, batch: int, classes: int, checked: bool) -> Tensor:
    """Convert hard labels (B,) or soft ones (B, K) to (B, K)."""
    if labels.dim() == 1 and len(labels) == batch and not labels.is_floating_point():
        if checked and ((labels < 0) | (labels >= classes)).any():
            raise ValueError(
                f"Hard labels must be in 0..{classes - 1}, got {sorted(set(labels.tolist()) - set(range(classes)))}."
            )
        return F.one_hot(labels.long(), classes).float()

    if labels.shape == (batch, classes) and labels.is_floating_point():
        sums = labels.float().sum(-1)
        if checked and not ((labels >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)):
            raise ValueError(
                "Soft labels must be distributions: no value below zero or NaN, and rows that sum to one."
            )
        return labels

    raise ValueError(
        f"labels have the shape {tuple(labels.shape)} and the dtype {labels.dtype}; "
        f"allowed are integers ({batch},) or floats ({batch}, {classes})."
    )
