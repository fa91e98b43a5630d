"""Rows of an [`~bibier_hf.data.features.InputDataset`] -> the batch that the model reads."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..model.labels_bibier import EMOTIONS
from ..model.processing_bibier import BiBiERProcessor
from .features import InputSpec

UNIMODAL_LOGITS = {"audio": "audio_logits", "text": "text_logits"}
"""Columns that rows may have beside the inputs: logits (7,) that the model takes in place of those of its own
encoders."""


class FeatureCollator:
    """Pads precomputed inputs and makes their masks.

    Args:
        specs: how each modality is stored ([`~bibier_hf.data.features.input_specs`]).
        soft_labels: give distributions (B, 7), one-hot where a row has none, instead of class indices (B,).
    """

    def __init__(self, specs: dict[str, InputSpec], soft_labels: bool = False):
        self.specs = specs
        self.soft_labels = soft_labels

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """B rows -> `{name: (B, T, D) or (B, T), mask: (B, T), "labels": (B,) or (B, 7)}`; T is that of the longest
        row.

        A row without a modality has a mask of zeros; a modality that no row has is left out. Rows with
        [`UNIMODAL_LOGITS`] give them as (B, 7).
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
        return batch | {"labels": collate_labels(rows, self.soft_labels)}


class RawCollator:
    """Decodes and processes audio and text batch by batch.

    Args:
        processor: of the model.
        soft_labels: as for [`FeatureCollator`].
    """

    def __init__(self, processor: BiBiERProcessor, soft_labels: bool = False):
        self.processor = processor
        self.soft_labels = soft_labels

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """B rows with `audio`, `text` and labels -> the processor's tensors and `labels`."""
        batch = self.processor(audio=[row["audio"] for row in rows], text=[row["text"] for row in rows])
        return dict(batch) | {"labels": collate_labels(rows, self.soft_labels)}


def collate_labels(rows: Sequence[dict[str, Any]], soft: bool) -> torch.Tensor:
    """(B,) class indices, or (B, 7) distributions with the one-hot label where a row has no `soft_label`."""
    labels = torch.tensor([int(row["label"]) for row in rows])
    if not soft:
        return labels
    targets = torch.nn.functional.one_hot(labels, len(EMOTIONS)).float()
    for index, row in enumerate(rows):
        if row["soft_label"] is not None:
            targets[index] = torch.as_tensor(row["soft_label"])
    return targets
