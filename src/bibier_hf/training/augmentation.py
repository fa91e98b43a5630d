"""Augmentation of the train split of each corpus, between the protocol and the features.

    recorded rows -> SDS: one draw, K draws, or a fresh one each epoch -> synthetic rows beside them -> what the
    trainer reads

Dev and test are handed through as they are.
"""

import bisect
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from torch.utils.data import Dataset as TorchDataset

from ..asr import SpeechRecogniser
from ..augmentation.sds import StackedDataSampling
from ..data.features import InputDataset
from ..data.mixture import AugmentationArguments, StackingArguments, SyntheticArguments
from ..data.prepare import load_prepared
from ..data.schema import COLUMNS
from ..errors import ArgumentError
from ..model.labels_bibier import EMOTIONS

MakeInputs = Callable[[DatasetDict], Mapping[str, InputDataset]]


class AugmentedCorpus:
    """A corpus whose train split is augmented.

    Attributes:
        splits: train, dev and test. With several draws, or fresh ones, train holds the rows that are drawn from.
        facts: what was done, for the report: counts of `sds` (of the first draw) and of `synthetic`.
        folds: (N,) fold of each train row, where folds were given; else None.
    """

    def __init__(self, rows: DatasetDict, arguments: AugmentationArguments, folds: np.ndarray | None = None):
        """Draw what is drawn ahead.

        Args:
            rows: train, dev and test under their protocol.
            arguments: what to do; with folds a single draw.
            folds: fold of each row of [`unstacked_train`]; clips of different folds are then never stacked together,
                so that a fold that is held out is held out with every clip in it. None: no folds.

        Raises:
            ArgumentError: options of SDS that make no sense together, or synthetic rows that cannot be used.
            FileNotFoundError: no synthetic corpus at its path.
        """
        train = rows["train"]
        self.facts: dict[str, Any] = {}
        self.folds = folds
        self._stacked: list[Dataset] = []
        self._places: list[list[int]] = []
        self._fresh: StackedDataSampling | None = None
        self._recorded = len(train)
        if arguments.sds.share:
            sds = make_sds(arguments.sds)
            recorded_folds = None if folds is None else folds[: len(train)]
            plan = sds.plan(train, parts=recorded_folds)
            self.facts["sds"] = dict(plan.report) | {"draws": arguments.sds.draws}
            if arguments.sds.draws == "every_epoch":
                self._fresh = sds
            elif arguments.sds.draws == 1:
                if folds is not None and recorded_folds is not None:
                    # A stacked row is in the fold of its first clip, as all its clips are.
                    first_clips = np.array([*range(len(train)), *plan.components])
                    own = recorded_folds[first_clips[sds.places(len(train), plan)]]
                    self.folds = np.concatenate([own, folds[len(train) :]])
                train = sds(train, parts=recorded_folds).select_columns(list(COLUMNS))
            else:
                for draw in range(arguments.sds.draws):
                    plan = sds.plan(train, draw)
                    self._stacked.append(sds.stacked_rows(train, plan, draw).select_columns(list(COLUMNS)))
                    self._places.append(sds.places(len(train), plan))
        if arguments.synthetic.path is not None:
            synthetic, self.facts["synthetic"] = choose_synthetic(train, arguments.synthetic)
            train = concatenate_datasets([train, synthetic])
        self.splits = DatasetDict(rows | {"train": train})

    def inputs(self, make_inputs: MakeInputs) -> dict[str, "InputDataset | EpochInputs"]:
        """What the model reads of train, dev and test.

        Args:
            make_inputs: computes the inputs of named splits, all at once.
        """
        names = [f"stacked_{draw}" for draw in range(len(self._stacked))]
        computed = make_inputs(DatasetDict(self.splits | dict(zip(names, self._stacked, strict=True))))
        train: InputDataset | EpochInputs = computed["train"]
        if self._stacked:
            # The places count all recorded rows first and then the stacked ones; in the pool synthetic rows lie
            # between them.
            added = len(train) - self._recorded
            places = [
                [place if place < self._recorded else place + added for place in order]
                + list(range(self._recorded, self._recorded + added))
                for order in self._places
            ]
            train = EpochInputs([StoredDraws(train, [computed[name] for name in names], places)])
        elif self._fresh is not None:
            train = EpochInputs([FreshDraws(self.splits["train"], self._recorded, self._fresh)])
        return {"train": train, "dev": computed["dev"], "test": computed["test"]}


def unstacked_train(rows: DatasetDict, arguments: AugmentationArguments) -> Dataset:
    """The train rows before anything is stacked: the recorded ones, then the synthetic ones that are added."""
    if arguments.synthetic.path is None:
        return rows["train"]
    return concatenate_datasets([rows["train"], choose_synthetic(rows["train"], arguments.synthetic)[0]])


def make_sds(arguments: StackingArguments) -> StackedDataSampling:
    """The augmentation that a run file describes.

    Raises:
        ArgumentError: options that make no sense together.
    """
    options = arguments.model_dump(include=set(StackingArguments.model_fields) - {"draws", "asr_model"})
    transcribe = SpeechRecogniser(arguments.asr_model) if arguments.text == "asr" else None
    try:
        return StackedDataSampling(**options, transcribe=transcribe)
    except ValueError as error:
        raise ArgumentError(f"augmentation.sds: {error}") from error


def choose_synthetic(train: Dataset, arguments: SyntheticArguments) -> tuple[Dataset, dict[str, Any]]:
    """Synthetic rows for a corpus, as rows of it: of each class floor(ratio * available), uniformly without
    replacement.

    Args:
        train: the rows that they go to; only synthetic rows in the languages of these are available.
        arguments: where they are, and how many.

    Returns:
        the rows, and of each label how many were available and used.

    Raises:
        ArgumentError: no synthetic rows there, rows that are not synthetic, or none in the languages of the corpus.
        FileNotFoundError: no prepared corpus there.
    """
    assert arguments.path is not None
    prepared = load_prepared(arguments.path)
    if "train" not in prepared:
        raise ArgumentError(f"augmentation.synthetic.path: {arguments.path} has no train split.")
    rows = prepared["train"].select_columns(list(COLUMNS))
    if others := set(rows["source"]) - {"synthetic"}:
        raise ArgumentError(
            f"augmentation.synthetic.path: {arguments.path} holds rows that are {' and '.join(sorted(others))}, not "
            "synthetic. "
            "Give them as a corpus of their own, which is then split by a protocol."
        )
    languages = set(train["language"])
    available: dict[str, list[int]] = {label: [] for label in EMOTIONS}
    columns = rows.select_columns(["id", "language", "label"]).to_dict()
    for row, (language, label) in enumerate(zip(columns["language"], columns["label"], strict=True)):
        if language in languages:
            available[EMOTIONS[label]].append(row)
    if not any(available.values()):
        raise ArgumentError(
            f"augmentation.synthetic.path: {arguments.path} holds {', '.join(sorted(set(columns['language'])))}, "
            f"but the corpus is in {', '.join(sorted(languages))}."
        )
    ratios = arguments.ratio if isinstance(arguments.ratio, dict) else dict.fromkeys(EMOTIONS, arguments.ratio)
    chosen = []
    for label, members in available.items():
        # The smallest hashes are a uniform sample that depends on neither order nor number of the other rows.
        members.sort(key=lambda row: hashlib.sha256(f"{arguments.seed}/{columns['id'][row]}".encode()).digest())
        chosen += members[: math.floor(ratios.get(label, 0.0) * len(members) + 1e-9)]
    selected = rows.select(sorted(chosen))
    used = Counter(EMOTIONS[label] for label in selected["label"])
    corpus = train["corpus"][0]
    for name, value in (("corpus", corpus), ("split", "train")):
        selected = selected.remove_columns(name).add_column(name, [value] * len(selected), feature=rows.features[name])
    counts = {label: {"available": len(members), "used": used[label]} for label, members in available.items()}
    return selected.select_columns(list(COLUMNS)).cast(train.features), counts


class EpochSource(Protocol):
    """Training rows that may change from epoch to epoch, but not in number.

    Attributes:
        metadata: the rows of the first draw, without audio.
    """

    metadata: Dataset

    def fetch(self, indices: Sequence[int], epoch: int) -> list[dict[str, Any]]:
        """Rows as [`~bibier_hf.data.features.InputDataset`] gives them."""
        ...


class Unchanging:
    """The same rows in every epoch."""

    def __init__(self, inputs: InputDataset):
        self.inputs = inputs
        self.metadata = inputs.metadata

    def fetch(self, indices: Sequence[int], epoch: int) -> list[dict[str, Any]]:
        return self.inputs.__getitems__(indices)


class StoredDraws:
    """One of K stored draws in each epoch, in turn.

    Args:
        train: rows that are not stacked in some draw.
        stacked: the stacked rows of each draw.
        places: of each draw, which rows of (train, its stacked rows) it consists of.
    """

    def __init__(self, train: InputDataset, stacked: Sequence[InputDataset], places: Sequence[Sequence[int]]):
        self.train = train
        self.stacked = stacked
        self.places = places
        self.metadata = concatenate_datasets([train.metadata, stacked[0].metadata]).select(places[0])

    def fetch(self, indices: Sequence[int], epoch: int) -> list[dict[str, Any]]:
        draw = epoch % len(self.stacked)
        places = [self.places[draw][index] for index in indices]
        return _gather([self.train.__getitems__, self.stacked[draw].__getitems__], [0, len(self.train)], places)


class FreshDraws:
    """Rows that are stacked anew in every epoch, from raw audio.

    A row is a function of seed, epoch and its id, so it does not matter which worker makes it.

    Args:
        rows: with audio.
        stackable: how many of them, from the first, are stacked and stacked from; synthetic rows stand behind these.
        sds: how.
    """

    def __init__(self, rows: Dataset, stackable: int, sds: StackedDataSampling):
        self.rows = rows
        self.recorded = rows.select(range(stackable))
        self.sds = sds
        self._drawn: tuple[int, list[tuple[int, ...]]] | None = None
        self.metadata = rows.select([parts[0] for parts in self._draw(0)]).remove_columns(["audio", "text"])

    def fetch(self, indices: Sequence[int], epoch: int) -> list[dict[str, Any]]:
        fetched = []
        for index in indices:
            parts = [self.rows[row] for row in self._draw(epoch)[index]]
            row = self.sds.merge(parts, epoch) if len(parts) > 1 else parts[0]
            fetched.append({name: row[name] for name in ("audio", "text", "label", "soft_label")})
        return fetched

    def _draw(self, epoch: int) -> list[tuple[int, ...]]:
        """The rows that each row of this epoch is made of; cheap, but asked for by every batch"""
        if self._drawn is None or self._drawn[0] != epoch:
            plan = self.sds.plan(self.recorded, epoch)
            pool = [(row,) for row in range(len(self.recorded))] + list(plan.components.values())
            order = [pool[place] for place in self.sds.places(len(self.recorded), plan)]
            self._drawn = epoch, order + [(row,) for row in range(len(self.recorded), len(self.rows))]
        return self._drawn[1]


class EpochInputs(TorchDataset):
    """Training rows of several sources, one after the other, in the epoch that is set.

    The epoch lies in shared memory, so that workers which live through several epochs see it.
    """

    def __init__(self, sources: Sequence[EpochSource]):
        self.sources = list(sources)
        self.metadata = concatenate_datasets([source.metadata for source in sources])
        self.labels = np.asarray(self.metadata["label"], dtype=np.int64)
        self._starts = np.cumsum([0, *(len(source.metadata) for source in sources)]).tolist()
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.metadata)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) seconds of each row, in the first draw."""
        return np.array([duration or 0.0 for duration in self.metadata["duration_s"]])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose rows are given from now on."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        epoch = int(self._epoch)
        return _gather([partial(source.fetch, epoch=epoch) for source in self.sources], self._starts, indices)


def fixed_rows(data: InputDataset | EpochInputs) -> InputDataset:
    """Rows that are the same in every epoch, where no others can be.

    Raises:
        TypeError: rows that are drawn anew in each epoch.
    """
    if not isinstance(data, InputDataset):
        raise TypeError("These rows are drawn anew in each epoch; here they must stay the same.")
    return data


def join_inputs(parts: Sequence[InputDataset | EpochInputs]) -> InputDataset | EpochInputs:
    """The rows of several data sets one after the other."""
    fixed = [part for part in parts if isinstance(part, InputDataset)]
    if len(fixed) == len(parts):
        return InputDataset.concatenate(fixed)
    return EpochInputs(
        [
            source
            for part in parts
            for source in (part.sources if isinstance(part, EpochInputs) else [Unchanging(part)])
        ]
    )


def _gather(
    parts: Sequence[Callable[[list[int]], list[dict[str, Any]]]], starts: Sequence[int], places: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows by their places in parts that lie end to end, each part read once"""
    by_part: dict[int, list[int]] = {}
    for place in places:
        by_part.setdefault(bisect.bisect_right(starts, place) - 1, []).append(place)
    rows: dict[int, dict[str, Any]] = {}
    for number, members in by_part.items():
        rows.update(zip(members, parts[number]([place - starts[number] for place in members]), strict=True))
    return [rows[place] for place in places]
