"""The order of the training samples, which depends only on seed and epoch.

It is the same in every process and after a resume, as no global generator is used.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Random order of the samples in each epoch, or draws that give every corpus the same share.

    With several corpora the published system draws as many samples as there are, with replacement, each with weight
    1 / |its corpus|: every corpus then contributes the same number of samples on average.

    Args:
        num_samples: size N of the training set.
        seed: the order of epoch e depends on (seed, e).
        corpora: (N,) corpus of each sample, for balanced draws; None: every sample once per epoch.
        lengths: (N,) lengths, for batches of similar length; None: random batches.
        group_size: samples per optimizer step (global batch), with `lengths`.
    """

    # Batches that are sorted by length together: enough to save padding, few enough to keep the order random.
    POOL = 50

    def __init__(
        self,
        num_samples: int,
        seed: int,
        corpora: Sequence[str] | None = None,
        lengths: Sequence[float] | np.ndarray | None = None,
        group_size: int = 1,
    ):
        if num_samples < 1:
            raise ValueError("There is no training sample.")
        self.num_samples = num_samples
        self.seed = seed
        self.weights = None if corpora is None else corpus_weights(corpora)
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.group_size = group_size
        self.epoch = 0
        for name, values in (("corpora", corpora), ("lengths", lengths)):
            if values is not None and len(values) != num_samples:
                raise ValueError(f"{name}: {len(values)} values for {num_samples} samples.")

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the sampler gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # SeedSequence mixes both numbers: seed 1 in epoch 2 is unrelated to seed 2 in epoch 1.
        generator = np.random.default_rng([self.seed, self.epoch])
        if self.weights is None:
            order = generator.permutation(self.num_samples)
        else:
            order = generator.choice(self.num_samples, size=self.num_samples, p=self.weights / self.weights.sum())

        if self.lengths is not None:
            order = self._group_by_length(order, self.lengths, generator)
        return iter(order.tolist())

    def _group_by_length(self, order: np.ndarray, lengths: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Sort pools of the random order by length, and shuffle the resulting batches; an incomplete batch stays
        last."""
        pool = self.POOL * self.group_size
        batches = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(-lengths[part], kind="stable")]
            batches += [part[at : at + self.group_size] for at in range(0, len(part), self.group_size)]

        last = [batches.pop()] if len(batches[-1]) < self.group_size else []
        return np.concatenate([batches[index] for index in generator.permutation(len(batches))] + last)


def corpus_weights(corpora: Sequence[str]) -> np.ndarray:
    """Return (N,) weights 1 / |corpus|, scaled to mean 1."""
    _, index, counts = np.unique(np.asarray(corpora), return_inverse=True, return_counts=True)
    return len(index) / (len(counts) * counts[index])


_EXPONENTS = {"balanced": 1.0, "sqrt": 0.5, "none": 0.0}


def class_weights(
    labels: ArrayLike, num_classes: int, mode: str | float, sample_weights: ArrayLike | None = None
) -> list[float] | None:
    """Compute the weights of the classes in the loss from the label counts of the drawn samples.

    `balanced` weights a class by 1 / count, `sqrt` by 1 / sqrt(count), a number *e* by 1 / count^e: a larger exponent
    favors UAR, a smaller one WAR and WF1. Weights are scaled so that the mean weight of the drawn samples is 1, which
    keeps the scale of the loss and so the meaning of the learning rate. A class without samples gets 0.

    Args:
        labels: (N,) class indices.
        num_classes: number of classes.
        mode: `"balanced"`, `"sqrt"`, `"none"` or the exponent, from 0 (none) to 1 (balanced).
        sample_weights: (N,) expected number of draws of each sample; None: one each.

    Returns:
        A list of `num_classes` weights, or None for `"none"`.
    """
    if mode == "none":
        return None

    exponent, counts = class_weight_exponent(mode), class_counts(labels, num_classes, sample_weights)
    weights = np.zeros(num_classes)
    weights[counts > 0] = counts[counts > 0] ** -exponent
    return (weights * counts.sum() / (weights * counts).sum()).tolist()


def class_weight_exponent(mode: str | float) -> float:
    """Return the exponent e of the weights 1 / count^e: that of `"balanced"`, `"sqrt"` or `"none"`, or e itself."""
    if not isinstance(mode, str):
        return mode
    if mode not in _EXPONENTS:
        raise ValueError(
            f"Unknown class_weights {mode!r}. Use one of: {', '.join(_EXPONENTS)}; or an exponent from 0 to 1."
        )
    return _EXPONENTS[mode]


def class_counts(labels: ArrayLike, num_classes: int, sample_weights: ArrayLike | None = None) -> np.ndarray:
    """Return (num_classes,) expected draws of each class in an epoch (arguments: [`class_weights`])."""
    return np.bincount(labels, weights=sample_weights, minlength=num_classes).astype(float)
