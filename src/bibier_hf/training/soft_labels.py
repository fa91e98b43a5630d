"""Training on soft labels: which target each sample has in each epoch (Section 3.4 of the method).

A sample with a soft label q trains on it with probability `smoothing_probability`, drawn anew in each epoch, and on
its gold label otherwise. `label_smoothing_mode`:

* `soft`: the target is the distribution itself. The loss of a sample is -sum_c w_c q_c log p_c, with the class weights
  w_c of the gold labels of the training set, scaled to mean one over it; the sum over samples is divided by their
  number.
* `argmax`: the target is the one-hot arg-max of q, the effect of the published code, which took the arg-max before its
  loss.

The draw of a row follows from (seed, epoch, id), so it is the same whatever the number of workers and processes, and
after a resume.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from torch.utils.data import Dataset as TorchDataset
from transformers.utils import logging

from ..augmentation.ls_llm_answers import blend_with_gold
from ..data.label_tables import LabelTable, mean_label_table, read_label_table
from ..data.tables import CorpusError
from ..model.labels_bibier import EMOTIONS

logger = logging.get_logger(__name__)

MODES = ("soft", "argmax")


class SmoothedLabels(TorchDataset):
    """A training set whose rows carry the target of the current epoch as `soft_label`; None stands for the gold label.

    Args:
        data: rows with `label` and `soft_label`; its `metadata` has the columns `id` and `soft_label`.
        probability: that a row trains on its soft label, in each epoch.
        mode: `"soft"` or `"argmax"`.
        gold_weight: mixed in, as by [`~bibier_hf.augmentation.ls_llm_answers.blend_with_gold`]; None: nothing.
        seed: of the draws.
    """

    def __init__(
        self, data: Any, probability: float = 1.0, mode: str = "soft", gold_weight: float | None = None, seed: int = 42
    ):
        if mode not in MODES or not 0 <= probability <= 1:
            raise ValueError(f"mode={mode!r}, probability={probability}; allowed: {', '.join(MODES)}, and 0 to 1.")
        self.data = data
        self.probability = probability
        self.mode = mode
        self.gold_weight = gold_weight
        self.seed = seed
        self._ids = list(data.metadata["id"])
        # In shared memory, so that workers that outlive an epoch see the next one too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = self.data.__getitems__(indices)
        return [
            row | {"soft_label": self._target(row, self._ids[index])} for row, index in zip(rows, indices, strict=True)
        ]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose targets (and rows, where these change) are given, in this process and its workers."""
        self._epoch.fill_(epoch)
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)

    def _target(self, row: Mapping[str, Any], row_id: str) -> np.ndarray | None:
        soft = row["soft_label"]
        if soft is None or not draw_smoothing(self.seed, int(self._epoch), row_id, self.probability):
            return None
        soft = blend_with_gold(np.asarray(soft, dtype=np.float64), int(row["label"]), self.gold_weight)
        return np.eye(len(EMOTIONS))[soft.argmax()] if self.mode == "argmax" else soft


class GoldLabels(SmoothedLabels):
    """Rows with their gold label alone: what is evaluated never has a soft target."""

    def __init__(self, data: Any):
        super().__init__(data, probability=0.0)


def draw_smoothing(seed: int, epoch: int, row_id: str, probability: float) -> bool:
    """True with this probability, as a function of its arguments alone."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{row_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < probability * 2**64


def attach_soft_labels(splits: DatasetDict, table: LabelTable) -> tuple[DatasetDict, dict[str, Any]]:
    """Put the labels of a table into the column `soft_label` of the training rows, joined by id; dev and test keep
    theirs.

    Args:
        splits: a corpus in the common schema.
        table: its labels.

    Returns:
        the corpus, and `{"table", "sha256", "rows", "soft", "hard", "unused", "other_gold"}`: training rows with and
        without a soft label, labels for no row, and rows whose gold label in the table is another.

    Raises:
        CorpusError: a table that has no label for any training row.
    """
    soft_labels = table.soft_labels()
    train = splits["train"]
    ids = list(train["id"])
    column = [soft_labels[row_id].tolist() if row_id in soft_labels else None for row_id in ids]
    found = sum(soft is not None for soft in column)
    if not found:
        raise CorpusError(
            f"labels: none of the {len(soft_labels)} ids of {table.name} (such as {next(iter(soft_labels), 'none')}) "
            "is that of a training "
            f"row (such as {ids[0]}). Is it the table of this corpus?"
        )
    gold_of = dict(zip(table.ids, table.labels, strict=True))
    other_gold = sum(
        gold_of.get(row_id, -1) not in (-1, label) for row_id, label in zip(ids, train["label"], strict=True)
    )
    facts = {"table": table.name, "sha256": table.sha256, "rows": len(ids), "soft": found, "hard": len(ids) - found}
    facts |= {"unused": len(soft_labels.keys() - set(ids)), "other_gold": other_gold}
    logger.warning_once(
        f"{table.name}: {found} of {len(ids)} training rows have a soft label, {len(ids) - found} fall back to their "
        "gold label; "
        f"{facts['unused']} labels are for no training row, {other_gold} rows have another gold label in the table."
    )
    features = train.features
    train = (
        train.remove_columns("soft_label")
        .add_column("soft_label", column, feature=features["soft_label"])
        .select_columns(list(features))
    )
    return DatasetDict({**splits, "train": train}), facts


def attach_label_tables(
    corpora: Mapping[str, DatasetDict], paths: Sequence[Sequence[str]]
) -> tuple[dict[str, DatasetDict], dict[str, Any]]:
    """[`attach_soft_labels`] to each corpus that has tables, of several their mean; returns the corpora and the facts
    by their names."""
    attached, facts = {}, {}
    for (name, splits), of_corpus in zip(corpora.items(), paths, strict=True):
        attached[name] = splits
        if of_corpus:
            table = mean_label_table([read_label_table(path) for path in of_corpus])
            attached[name], facts[name] = attach_soft_labels(splits, table)
    return attached, facts
