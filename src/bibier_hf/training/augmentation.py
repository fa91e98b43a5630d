"""Augmentation of the train split of each corpus, between the protocol and the features.

    recorded rows -> SDS: one draw, K draws, or one in each epoch -> synthetic rows are added -> what the trainer reads

Dev and test stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from ..augmentation.sds import StackedDataSampling
from ..data.features import InputDataset
from ..data.mixture import AugmentationArguments, Stacking
from ..data.schema import COLUMNS
from .rows import FreshDraws, RowSource, StoredDraws

MakeInputs = Callable[[DatasetDict], Mapping[str, InputDataset]]


class AugmentedCorpus:
    """A corpus whose train split is augmented.

    Attributes:
        splits: train, dev and test. With several draws, or one in each epoch, train holds the rows to draw from.
        facts: what was done, for the report: counts of `sds` (of the first draw) and of `synthetic`.
        folds: (N,) fold of each train row, if folds were given; else None.
    """

    def __init__(self, rows: DatasetDict, arguments: AugmentationArguments, folds: np.ndarray | None = None):
        """Make the draws that do not depend on the epoch.

        Args:
            rows: train, dev and test under their protocol.
            arguments: what to do; with folds a single draw.
            folds: fold of each row of [`unstacked_train`]. Clips of different folds are never stacked together, so that
                a fold that is held out is held out with every clip in it. None: no folds.

        Raises:
            ArgumentError: synthetic rows that cannot be used.
            FileNotFoundError: no synthetic corpus at its path.
        """
        train = rows["train"]
        self.facts: dict[str, Any] = {}
        self.folds = folds
        self._stacked: list[Dataset] = []
        self._places: list[list[int]] = []
        self._fresh: StackedDataSampling | None = None
        self._recorded = len(train)

        if arguments.sds is not None and arguments.sds.share:
            train = self._stack(train, arguments.sds)

        if arguments.synthetic is not None:
            synthetic, self.facts["synthetic"] = arguments.synthetic.choose(train)
            train = concatenate_datasets([train, synthetic])

        self.splits = DatasetDict(rows | {"train": train})

    def _stack(self, train: Dataset, sds: Stacking) -> Dataset:
        """Return the recorded rows, stacked if there is one draw, and keep what later epochs need."""
        folds = None if self.folds is None else self.folds[: len(train)]
        plan = sds.plan(train, parts=folds)
        self.facts["sds"] = dict(plan.report) | {"draws": sds.draws}

        if sds.draws == "every_epoch":
            self._fresh = sds
            return train

        if sds.draws > 1:
            for draw in range(sds.draws):
                plan = sds.plan(train, draw)
                self._stacked.append(sds.stacked_rows(train, plan, draw).select_columns(list(COLUMNS)))
                self._places.append(sds.places(len(train), plan))
            return train

        if self.folds is not None and folds is not None:
            # A stacked row is in the fold of its first clip, as are all its clips.
            first_clips = np.array([*range(len(train)), *plan.components])
            own = folds[first_clips[sds.places(len(train), plan)]]
            self.folds = np.concatenate([own, self.folds[len(train) :]])
        return sds(train, parts=folds).select_columns(list(COLUMNS))

    def inputs(self, make_inputs: MakeInputs) -> tuple[RowSource, InputDataset, InputDataset]:
        """Return what the model reads of train, dev and test.

        Args:
            make_inputs: computes the inputs of named splits, all at once.
        """
        names = [f"stacked_{draw}" for draw in range(len(self._stacked))]
        computed = make_inputs(DatasetDict(self.splits | dict(zip(names, self._stacked, strict=True))))
        train: RowSource = computed["train"]

        if self._stacked:
            train = self._stored_draws(computed["train"], [computed[name] for name in names])
        elif self._fresh is not None:
            train = FreshDraws(self.splits["train"], self._recorded, self._fresh)

        return train, computed["dev"], computed["test"]

    def _stored_draws(self, train: InputDataset, stacked: Sequence[InputDataset]) -> StoredDraws:
        """Return the draws over a pool of all rows: recorded, synthetic, then the stacked rows of each draw."""
        synthetic = list(range(self._recorded, len(train)))
        orders, start = [], len(train)
        for order, rows in zip(self._places, stacked, strict=True):
            # Places count the recorded rows first and then this draw's stacked ones.
            shift = start - self._recorded
            orders.append([place if place < self._recorded else place + shift for place in order] + synthetic)
            start += len(rows)

        return StoredDraws(InputDataset.concatenate([train, *stacked]), orders)


def unstacked_train(rows: DatasetDict, arguments: AugmentationArguments) -> Dataset:
    """Return the train rows before anything is stacked: the recorded rows, then the synthetic ones."""
    if arguments.synthetic is None:
        return rows["train"]
    return concatenate_datasets([rows["train"], arguments.synthetic.choose(rows["train"])[0]])
