"""Augmentation of the train split of each corpus, between the protocol and the features.

    recorded rows -> SDS: one draw, K draws, or a fresh one each epoch -> synthetic rows beside them -> what the
    trainer reads

Dev and test are handed through as they are.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from ..asr import SpeechRecogniser
from ..augmentation.sds import StackedDataSampling
from ..data.features import InputDataset
from ..data.mixture import AugmentationArguments, StackingArguments, SyntheticArguments
from ..data.prepare import load_prepared
from ..data.schema import COLUMNS
from ..errors import ArgumentError
from ..model.labels_bibier import EMOTIONS
from ..sampling import sample_by_hash
from .rows import FreshDraws, RowSource, StoredDraws

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
        wanted = math.floor(ratios.get(label, 0.0) * len(members) + 1e-9)
        chosen += sample_by_hash(members, wanted, columns["id"].__getitem__, arguments.seed)
    selected = rows.select(sorted(chosen))
    used = Counter(EMOTIONS[label] for label in selected["label"])
    corpus = train["corpus"][0]
    for name, value in (("corpus", corpus), ("split", "train")):
        selected = selected.remove_columns(name).add_column(name, [value] * len(selected), feature=rows.features[name])
    counts = {label: {"available": len(members), "used": used[label]} for label, members in available.items()}
    return selected.select_columns(list(COLUMNS)).cast(train.features), counts
