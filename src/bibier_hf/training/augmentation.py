"""Augmentation of the train split of each corpus, between the protocol and the features.

    recorded rows -> SDS: one draw, K draws, or one in each epoch -> synthetic rows are added
    -> clean and disturbed versions -> what the trainer reads

Dev and test stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from ..data.disturbances import DisturbanceSection, Voices
from ..data.features import InputDataset
from ..data.mixture import AugmentationArguments
from ..data.schema import COLUMNS
from .rows import DisturbedDraws, FreshDraws, RowSource, StoredDraws

MakeInputs = Callable[[Mapping[str, Dataset], Voices | None], Mapping[str, InputDataset]]


class AugmentedCorpus:
    """A corpus whose train split is augmented: [`stack`][AugmentedCorpus.stack] it, then read its inputs.

    Args:
        rows: train, dev and test under their protocol.
        arguments: what to do.

    Raises:
        ArgumentError: synthetic rows that cannot be used.
        FileNotFoundError: no synthetic corpus at its path.

    Attributes:
        splits: train, dev and test. With several draws, or one in each epoch, train holds the rows to draw from: the
            recorded rows, then the synthetic ones.
        facts: what was done, for the report: counts of `sds` (of the first draw) and of `synthetic`.
        folds: (N,) fold of each train row, if folds were given; else None.
    """

    def __init__(self, rows: DatasetDict, arguments: AugmentationArguments):
        self.facts: dict[str, Any] = {}
        self.folds: np.ndarray | None = None
        self._sds = arguments.sds if arguments.sds is not None and arguments.sds.share else None
        self._recorded = rows["train"]
        self._synthetic: list[Dataset] = []
        self._stacked: list[Dataset] = []
        self._places: list[list[int]] = []

        if arguments.synthetic is not None:
            synthetic, self.facts["synthetic"] = arguments.synthetic.choose(rows["train"])
            self._synthetic = [synthetic]

        self.splits = DatasetDict(rows | {"train": concatenate_datasets([self._recorded, *self._synthetic])})

    def stack(self, folds: np.ndarray | None = None) -> None:
        """Make the draws that do not depend on the epoch.

        Args:
            folds: fold of each train row, with a single draw. Clips of different folds are never stacked together, so
                that a fold that is held out is held out with every clip in it. None: no folds.
        """
        self.folds = folds
        sds, recorded = self._sds, self._recorded
        if sds is None:
            return

        parts = None if folds is None else folds[: len(recorded)]
        plan = sds.plan(recorded, parts=parts)
        self.facts["sds"] = dict(plan.report) | {"draws": sds.draws}
        if sds.draws == "every_epoch":
            return

        if sds.draws > 1:
            for draw in range(sds.draws):
                plan = sds.plan(recorded, draw)
                self._stacked.append(sds.stacked_rows(recorded, plan, draw).select_columns(list(COLUMNS)))
                self._places.append(sds.places(len(recorded), plan))
            return

        if folds is not None:
            # A stacked row is in the fold of its first clip, as are all its clips.
            first_clips = np.array([*range(len(recorded)), *plan.components])
            own = folds[first_clips[sds.places(len(recorded), plan)]]
            self.folds = np.concatenate([own, folds[len(recorded) :]])
        stacked = sds(recorded, parts=parts).select_columns(list(COLUMNS))
        self.splits["train"] = concatenate_datasets([stacked, *self._synthetic])

    def inputs(
        self, make_inputs: MakeInputs, disturbances: DisturbanceSection | None = None
    ) -> tuple[RowSource, InputDataset, InputDataset]:
        """Return what the model reads of train, dev and test.

        Args:
            make_inputs: computes the inputs of named splits, all at once.
            disturbances: with it, train also has stored disturbed versions, drawn in each epoch.
        """
        names = [f"stacked_{draw}" for draw in range(len(self._stacked))]
        splits = {str(split): rows for split, rows in self.splits.items()}
        splits |= dict(zip(names, self._stacked, strict=True))
        parts = ["train", *names]
        if disturbances is not None:
            for part in parts:
                for number, rows in enumerate(disturbances.stored_versions(splits[part]), 1):
                    splits[f"{part}_disturbed_{number}"] = rows

        computed = make_inputs(splits, self.voices if disturbances is not None else None)
        train = self._source([computed[part] for part in parts])
        if disturbances is not None:
            versions: list[RowSource] = [train]
            for number in range(1, disturbances.draws + 1):
                disturbed = [computed[f"{part}_disturbed_{number}"].columns for part in parts]
                clean = [computed[part].rows for part in parts]
                versions.append(self._source(list(map(InputDataset, clean, disturbed))))
            train = DisturbedDraws(versions, disturbances)

        return train, computed["dev"], computed["test"]

    @property
    def voices(self) -> Voices:
        """The recorded training clips, for babble."""
        return Voices(self._recorded)

    def _source(self, parts: Sequence[InputDataset]) -> RowSource:
        """Return the rows to train on: `parts` are train, and the stacked rows of each draw."""
        if self._stacked:
            return self._stored_draws(parts[0], parts[1:])
        if self._sds is not None and self._sds.draws == "every_epoch":
            return FreshDraws(self.splits["train"], len(self._recorded), self._sds)
        return parts[0]

    def _stored_draws(self, train: InputDataset, stacked: Sequence[InputDataset]) -> StoredDraws:
        """Return the draws over a pool of all rows: recorded, synthetic, then the stacked rows of each draw."""
        recorded = len(self._recorded)
        synthetic = list(range(recorded, len(train)))
        orders, start = [], len(train)
        for order, rows in zip(self._places, stacked, strict=True):
            # Places count the recorded rows first and then this draw's stacked ones.
            shift = start - recorded
            orders.append([place if place < recorded else place + shift for place in order] + synthetic)
            start += len(rows)

        return StoredDraws(InputDataset.concatenate([train, *stacked]), orders)
