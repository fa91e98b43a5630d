"""Logits of a model for the rows of a data set, with all their modalities or with one left out.

A condition names what the model gets of each utterance: both modalities, only audio, or only text. Conditions are
compared on the same rows: those that have every modality the model reads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.features import InputDataset
from ..errors import ArgumentError
from ..model.configuration_bibier import MODALITIES
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.sequence_bibier import finite_logits

logger = logging.get_logger(__name__)

CONDITIONS = {"both": MODALITIES, "audio": ("audio",), "text": ("text",)}
"""Condition -> modalities that the model gets."""

Batch = dict[str, torch.Tensor]

_MODALITY_OF_INPUT = {"input_values": "audio", "input_features": "audio", "input_ids": "text"}


def conditions_of(model: BiBiERForEmotionClassification) -> list[str]:
    """Return the conditions for a model: all of them, or the only modality that it reads."""
    modalities = model.config.modalities
    return list(CONDITIONS) if len(modalities) == 2 else list(modalities)


def complete_rows(splits: Mapping[str, DatasetDict], split: str, modalities: Sequence[str]) -> np.ndarray:
    """Return the positions of the rows that have all these modalities, in the joined split of all corpora.

    Raises:
        ArgumentError: a corpus has no such rows.
    """
    positions, start = [], 0
    for corpus, rows in ((corpus, parts[split]) for corpus, parts in splits.items()):
        has = {
            "audio": np.array([duration is not None for duration in rows["duration_s"]], dtype=bool),
            "text": np.array([bool(text and text.strip()) for text in rows["text"]], dtype=bool),
        }
        found = np.flatnonzero(np.all([has[modality] for modality in modalities], axis=0))
        if len(found) == 0:
            missing = f"No row of {corpus}, {split}, has {' and '.join(modalities)}."
            raise ArgumentError(f"modalities, conditions: {missing} Leave that corpus out.")
        positions.append(start + found)
        start += len(rows)
    return np.concatenate(positions)


def predict_logits(
    model: BiBiERForEmotionClassification,
    dataset: InputDataset,
    collator: Any,
    batch_size: int,
    name: str = "Predicting",
) -> np.ndarray:
    """Compute the logits (N, 7) of a data set, in the order of its rows.

    Args:
        model: in evaluation mode.
        dataset: N rows.
        collator: for these rows.
        batch_size: rows per batch, of similar length. A model whose results depend on the batch gets one at a time.
        name: of the progress bar.
    """
    return predict_conditions(model, dataset, collator, batch_size, ["both"], name)["both"]


@torch.inference_mode()
def predict_conditions(
    model: BiBiERForEmotionClassification,
    dataset: InputDataset,
    collator: Any,
    batch_size: int,
    conditions: Sequence[str],
    name: str = "Predicting",
) -> dict[str, np.ndarray]:
    """Compute `{condition: logits (N, 7)}` for some of `CONDITIONS`; the rows must have their modalities. Arguments:
    see [`predict_logits`]."""
    if model.config.depends_on_batch and batch_size > 1:
        logger.warning_once(model.config.batch_warning)
        batch_size = 1
    order = np.argsort(-dataset.lengths, kind="stable")
    shape = len(dataset), len(model.config.label_names)
    logits = {condition: np.empty(shape, dtype=np.float32) for condition in conditions}
    batches = [part.tolist() for part in np.array_split(order, -(-len(order) // batch_size))]
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collator)
    for rows, batch in zip(batches, tqdm(loader, desc=name, unit="batch"), strict=True):
        batch = {name: values.to(model.device) for name, values in batch.items() if name != "labels"}
        if len(conditions) > 1:
            batch = _with_audio_features(model, batch)
        for condition, answers in logits.items():
            given = {name: values for name, values in batch.items() if _modality(name) in CONDITIONS[condition]}
            # Zeros, as for a sample without the modality, if no sample of the batch has one.
            answers[rows] = finite_logits(model(**given).logits).float().cpu().numpy() if given else 0
    return logits


def _modality(name: str) -> str:
    """Return the modality of an argument of the model."""
    return _MODALITY_OF_INPUT.get(name) or name.split("_")[0]


def _with_audio_features(model: BiBiERForEmotionClassification, batch: Batch) -> Batch:
    """Replace raw audio by features, so that the backbone runs once for all conditions."""
    raw = next((batch[name] for name in ("input_values", "input_features") if name in batch), None)
    if raw is None or "audio" not in model.config.modalities:
        return batch
    features, mask = model.encode_audio(raw, batch["audio_attention_mask"])
    others = {name: values for name, values in batch.items() if _modality(name) != "audio"}
    return others | {"audio_features": features, "audio_features_mask": mask}
