"""The order of the training samples: a function of seed and epoch alone.

The same order comes out in every process and after every resume, since nothing is drawn from a global generator.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Random order of the samples, or draws that give every corpus the same share, newly shuffled in each epoch.

    With several corpora the published system draws with replacement, each sample with weight 1 / |its corpus|, as many
    draws as there are samples: every corpus then contributes the same number of samples on average.

    Args:
        num_samples: size N of the training set.
        seed: the order of epoch e follows from (seed, e).
        corpora: (N,) name of the corpus of each sample, for balanced draws; None: every sample once an epoch.
        lengths: (N,) lengths for batches of similar length; None: no grouping.
        group_size: samples of one optimiser step (global batch), with `lengths`.
    """

    POOL = (
        50  # batches that are sorted by length together: enough to save padding, few enough to keep the order random
    )

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
        """Choose the epoch whose order `iter` gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # SeedSequence mixes both numbers: seed 1 in epoch 2 has nothing in common with seed 2 in epoch 1.
        generator = np.random.default_rng([self.seed, self.epoch])
        if self.weights is None:
            order = generator.permutation(self.num_samples)
        else:
            order = generator.choice(self.num_samples, size=self.num_samples, p=self.weights / self.weights.sum())
        if self.lengths is not None:
            order = self._group_by_length(order, self.lengths, generator)
        return iter(order.tolist())

    def _group_by_length(self, order: np.ndarray, lengths: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Sort pools of the random order by length and shuffle the resulting batches; an incomplete batch stays
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
    """(N,) weight 1 / |corpus| of each sample, scaled to mean 1."""
    _, index, counts = np.unique(np.asarray(corpora), return_inverse=True, return_counts=True)
    return len(index) / (len(counts) * counts[index])


_EXPONENTS = {"balanced": 1.0, "sqrt": 0.5, "none": 0.0}


def class_weights(
    labels: ArrayLike, num_classes: int, mode: str | float, sample_weights: ArrayLike | None = None
) -> list[float] | None:
    """Weights of the classes in the loss, from the label counts of the training draw.

    `balanced` weighs a class by 1 / count, `sqrt` by 1 / sqrt(count), a number *e* by 1 / count^e: more of it serves
    UAR, less of it WAR and WF1. Weights are scaled so that the mean weight of the drawn samples is 1, which leaves the
    size of the loss and so the meaning of the learning rate alone. A class without a sample gets 0.

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
    """e of the weights 1 / count^e that `mode` stands for: `"balanced"`, `"sqrt"`, `"none"` or e itself."""
    if not isinstance(mode, str):
        return mode
    if mode not in _EXPONENTS:
        raise ValueError(
            f"Unknown class_weights {mode!r}. Use one of: {', '.join(_EXPONENTS)}; or an exponent from 0 to 1."
        )
    return _EXPONENTS[mode]


def class_counts(labels: ArrayLike, num_classes: int, sample_weights: ArrayLike | None = None) -> np.ndarray:
    """(num_classes,) expected draws of each class in an epoch; arguments: [`class_weights`]."""
    return np.bincount(labels, weights=sample_weights, minlength=num_classes).astype(float)
