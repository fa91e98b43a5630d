"""Rows of an [`~bibier_hf.data.features.InputDataset`] -> the batch that the model reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..model.labels_bibier import EMOTIONS
from ..model.processing_bibier import BiBiERProcessor
from .features import InputSpec


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
        """B rows -> `{name: (B, T, D) or (B, T), mask: (B, T), "labels": (B,) or (B, 7)}`; T is that of the longest row.

        A row without a modality has a mask of zeros; a modality that no row has is left out.
        """
        batch = {}
        for spec in self.specs.values():
            values = [np.asarray(row[spec.name]) for row in rows]
            lengths = np.array([len(value) // (spec.width or 1) for value in values])
            if not lengths.any():
                continue
            # Flat rows are copied as they lie: T steps of D numbers are T * D numbers from the start of the padded row.
            padded = np.zeros((len(rows), lengths.max() * (spec.width or 1)), dtype=np.int64 if spec.dtype == "int32" else np.float32)
            for row, value in enumerate(values):
                padded[row, : len(value)] = value
            shape = (len(rows), lengths.max(), spec.width) if spec.width else padded.shape
            batch[spec.name] = torch.from_numpy(padded.reshape(shape))
            batch[spec.mask] = torch.from_numpy((np.arange(lengths.max()) < lengths[:, None]).astype(np.int64))
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
