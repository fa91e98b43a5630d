"""The rows that a model trains on, which may change from epoch to epoch.

[`TrainingRows`] joins the rows of several corpora and knows the current epoch: some corpora draw other rows in each
epoch, and with soft labels each row draws its target.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Dataset as TorchDataset

from ..augmentation.sds import StackedDataSampling
from ..data.collator import FeatureCollator, RawCollator
from ..data.disturbances import DisturbanceSection, Disturber
from ..data.features import InputDataset
from ..data.schema import truth_of
from ..soft_labels import blend_with_gold


class RowSource(Protocol):
    """Training rows of one corpus: an [`~bibier_hf.data.features.InputDataset`], or rows drawn for each epoch.

    Attributes:
        metadata: the rows of epoch 0, without audio. The number of rows is the same in every epoch.
        lengths: (N,) cost of each of these rows, for batches of similar cost.
    """

    metadata: Dataset

    @property
    def lengths(self) -> np.ndarray: ...

    def fetch(self, indices: Sequence[int], epoch: int) -> list[dict[str, Any]]:
        """Return some rows of an epoch, in the form of [`~bibier_hf.data.features.InputDataset`]."""
        ...


@dataclass(frozen=True)
class RunInputs:
    """What a model reads in a run, over all corpora.

    Attributes:
        train: rows of each corpus, which [`TrainingRows`] joins.
        dev: rows to select a checkpoint on.
        test: rows to score.
        collator: turns rows into a batch.
        disturber: disturbs the raw audio of training rows; None: nothing does.
    """

    train: Sequence[RowSource]
    dev: InputDataset
    test: InputDataset
    collator: FeatureCollator | RawCollator
    disturber: Disturber | None = None


class StoredDraws:
    """One of several stored draws in each epoch, in turn.

    Args:
        pool: the rows of all draws.
        orders: for each draw, the places of its rows in the pool.
    """

    def __init__(self, pool: InputDataset, orders: Sequence[list[int]]):
        self.pool = pool
        self.orders = orders
        self.metadata = pool.metadata.select(orders[0])

    @property
    def lengths(self) -> np.ndarray:
        return self.pool.lengths[self.orders[0]]

    def fetch(self, indices: Sequence[int], epoch: int) -> list[dict[str, Any]]:
        order = self.orders[epoch % len(self.orders)]
        return self.pool.__getitems__([order[index] for index in indices])


class DisturbedDraws:
    """The clean rows or one of their stored disturbed versions, drawn for each row in each epoch.

    Args:
        versions: the same rows, clean and then disturbed.
        section: how to draw.
    """

    def __init__(self, versions: Sequence[RowSource], section: DisturbanceSection):
        self.versions = versions
        self.section = section
        self.metadata = versions[0].metadata
        self._ids = list(self.metadata["id"])

    @property
    def lengths(self) -> np.ndarray:
        return self.versions[0].lengths

    def fetch(self, indices: Sequence[int], epoch: int) -> list[dict[str, Any]]:
        chosen = np.array([self.section.version(self._ids[index], epoch) for index in indices], dtype=np.int64)
        rows: list[dict[str, Any]] = [{}] * len(indices)
        for number in np.unique(chosen):
            places = np.flatnonzero(chosen == number)
            fetched = self.versions[number].fetch([indices[place] for place in places], epoch)
            for place, row in zip(places, fetched, strict=True):
                rows[place] = row

        return rows


class FreshDraws:
    """Rows that are stacked from raw audio in every epoch.

    A row depends only on seed, epoch and id, so it does not matter which worker makes it.

    Args:
        rows: rows with audio.
        stackable: number of leading rows that are stacked; synthetic rows follow them and stay as they are.
        sds: how to stack.
    """

    def __init__(self, rows: Dataset, stackable: int, sds: StackedDataSampling):
        self.rows = rows
        self.recorded = rows.select(range(stackable))
        self.sds = sds
        self._drawn: tuple[int, list[tuple[int, ...]]] | None = None
        self.metadata = rows.select([parts[0] for parts in self._draw(0)]).remove_columns(["audio", "text"])

    @property
    def lengths(self) -> np.ndarray:
        return np.array([duration or 0.0 for duration in self.metadata["duration_s"]])

    def fetch(self, indices: Sequence[int], epoch: int) -> list[dict[str, Any]]:
        fetched = []
        for index in indices:
            parts = [self.rows[row] for row in self._draw(epoch)[index]]
            row = self.sds.merge(parts, epoch) if len(parts) > 1 else parts[0]
            fetched.append({name: row[name] for name in ("audio", "text", "label", "soft_label")})

        return fetched

    def _draw(self, epoch: int) -> list[tuple[int, ...]]:
        """Return the rows that each row of this epoch is made of. Cheap, but every batch asks for it."""
        if self._drawn is None or self._drawn[0] != epoch:
            plan = self.sds.plan(self.recorded, epoch)
            pool = [(row,) for row in range(len(self.recorded))] + list(plan.components.values())
            order = [pool[place] for place in self.sds.places(len(self.recorded), plan)]
            self._drawn = epoch, order + [(row,) for row in range(len(self.recorded), len(self.rows))]

        return self._drawn[1]


@dataclass(frozen=True)
class SoftTargets:
    """Chooses the target of each row in each epoch.

    A row with a soft label q trains on q with the given probability, drawn in each epoch, and on its gold label
    otherwise. With `mode="soft"` the target is the distribution: the loss of a sample is -sum_c w_c q_c log p_c, where
    the class weights w_c come from the gold labels of the training set. With `mode="argmax"` the target is the one-hot
    arg-max of q, which is what the published code trains on.

    The draw depends only on seed, epoch and id: it is the same in every process and worker, and after a resume.

    Args:
        probability: probability that a row with a soft label trains on it.
        mode: `"soft"` or `"argmax"`.
        gold_weight: see [`~bibier_hf.soft_labels.blend_with_gold`]; None mixes nothing in.
        seed: seed of the draws.
        num_labels: number of classes K.
    """

    num_labels: int
    probability: float = 1.0
    mode: Literal["soft", "argmax"] = "soft"
    gold_weight: float | None = None
    seed: int = 42

    def target(self, row: Mapping[str, Any], row_id: str, epoch: int) -> np.ndarray:
        """Return the distribution (K,) that a row trains on in an epoch."""
        gold, soft = int(row["label"]), row["soft_label"]
        one_hot = np.eye(self.num_labels)
        if soft is None or not self.draws_soft(row_id, epoch):
            return one_hot[gold]

        soft = blend_with_gold(np.asarray(soft, dtype=np.float64), gold, self.gold_weight)
        return one_hot[soft.argmax()] if self.mode == "argmax" else soft

    def draws_soft(self, row_id: str, epoch: int) -> bool:
        """Decide whether a row trains on its soft label in an epoch."""
        digest = hashlib.blake2b(f"{self.seed}/{epoch}/{row_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.probability * 2**64


class TrainingRows(TorchDataset):
    """The training rows of all sources, one after the other, in the current epoch.

    Args:
        sources: rows of each corpus.
        soft_targets: with it, rows carry their `target` of the epoch; None trains on gold labels.
        disturber: with it, raw audio is disturbed.
    """

    def __init__(
        self,
        sources: Sequence[RowSource],
        soft_targets: SoftTargets | None = None,
        disturber: Disturber | None = None,
    ):
        self.sources = list(sources)
        self.soft_targets = soft_targets
        self.disturber = disturber
        self.metadata = concatenate_datasets([source.metadata for source in sources])
        self.labels = truth_of(self.metadata)

        self._ids, self._corpora = list(self.metadata["id"]), list(self.metadata["corpus"])
        self._starts = np.cumsum([0, *(len(source.metadata) for source in sources)])
        # In shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.metadata)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= len(self):  # ends a loop over the rows
            raise IndexError(index)
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        epoch = int(self._epoch)
        places = np.asarray(indices)
        owners = np.searchsorted(self._starts, places, side="right") - 1

        rows: list[dict[str, Any]] = [{}] * len(places)
        for number, source in enumerate(self.sources):
            own = np.flatnonzero(owners == number)
            fetched = source.fetch((places[own] - self._starts[number]).tolist(), epoch)
            for place, row in zip(own, fetched, strict=True):
                rows[place] = row

        if self.disturber is not None:
            for index, row in zip(indices, rows, strict=True):
                row["audio"] = self.disturber(row["audio"], self._ids[index], self._corpora[index], epoch)

        if self.soft_targets is not None:
            for index, row in zip(indices, rows, strict=True):
                row["target"] = self.soft_targets.target(row, self._ids[index], epoch)

        return rows

    @property
    def lengths(self) -> np.ndarray:
        """(N,) cost of each row in epoch 0, for batches of similar cost."""
        return np.concatenate([source.lengths for source in self.sources])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose rows and targets are given from now on, in this process and its workers."""
        self._epoch.fill_(epoch)


def fixed_rows(sources: Sequence[RowSource]) -> InputDataset:
    """Join sources whose rows are the same in every epoch.

    Raises:
        TypeError: a source that draws its rows in each epoch.
    """
    fixed = [source for source in sources if isinstance(source, InputDataset)]
    if len(fixed) < len(sources):
        raise TypeError("These rows are drawn in each epoch, but here they must stay the same.")

    return InputDataset.concatenate(fixed)
