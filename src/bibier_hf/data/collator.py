"""Collators: rows of an [`~bibier_hf.data.features.InputDataset`] -> the batch that the model reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ..model.processing_bibier import BiBiERProcessor
from .features import InputSpec

UNIMODAL_LOGITS = {"audio": "audio_logits", "text": "text_logits"}
"""Optional columns of rows: logits (7,) that replace those of the model's own encoders."""


class FeatureCollator:
    """Pads precomputed inputs and builds their masks.

    Args:
        specs: how each modality is stored ([`~bibier_hf.data.features.input_specs`]).
    """

    def __init__(self, specs: dict[str, InputSpec]):
        self.specs = specs

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Turn B rows into `{name: (B, T, D) or (B, T), mask: (B, T), "labels": ...}`, where T is the longest row.

        A row that lacks a modality gets a mask of zeros; a modality that no row has is left out. Rows with
        [`UNIMODAL_LOGITS`] give them as (B, 7). Labels: [`collate_labels`].
        """
        batch = {}
        for modality, spec in self.specs.items():
            values = [row[spec.name] for row in rows]
            lengths = torch.tensor([len(value) for value in values])
            if not lengths.any():
                continue

            padded = pad_sequence(values, batch_first=True)
            batch[spec.name] = padded.float() if padded.is_floating_point() else padded.long()
            batch[spec.mask] = (torch.arange(padded.shape[1]) < lengths[:, None]).long()

            if (name := UNIMODAL_LOGITS[modality]) in rows[0]:
                batch[name] = pad_sequence([row[name] for row in rows], batch_first=True)

        return batch | {"labels": collate_labels(rows)}


class RawCollator:
    """Decodes and processes audio and text batch by batch.

    Args:
        processor: the model's processor.
    """

    def __init__(self, processor: BiBiERProcessor):
        self.processor = processor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Turn B rows with `audio` and `text` into the processor's tensors and `labels`."""
        batch = self.processor(audio=[row["audio"] for row in rows], text=[row["text"] for row in rows])
        return dict(batch) | {"labels": collate_labels(rows)}


def collate_labels(rows: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Return class indices (B,), or floats (B, K) where rows carry a `target`: of their corpus, or a distribution that
    [`~bibier_hf.training.rows.TrainingRows`] draws with soft labels."""
    if "target" in rows[0]:
        return torch.tensor(np.array([row["target"] for row in rows]), dtype=torch.float32)
    return torch.tensor([int(row["label"]) for row in rows])
