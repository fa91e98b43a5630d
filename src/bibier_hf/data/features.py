"""What a model reads, computed once: features of frozen backbones, and the output of the front end for trained ones.

[`InputExtractor`] fills one store per modality ([`~bibier_hf.data.feature_store`]) and returns data sets that read
from it.
"""

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from torch.utils.data import Dataset as TorchDataset
from transformers.utils import logging

from ..model.audio_bibier import SAMPLING_RATE
from ..model.backbones_bibier import runs_in_equal_lengths
from ..model.configuration_bibier import MODALITIES
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from ..quantization import cpu_has_bfloat16, int8_copy
from .disturbances import NOTE, Voices, heard, note_key, with_notes
from .feature_store import Extraction, FeatureStore, StoredRows, row_key
from .prepare import cache_folder
from .schema import TARGET, truth_of

logger = logging.get_logger(__name__)

PROCESSING_VERSION = 3
"""Bump whenever the same input would yield different values; this invalidates cached rows."""

DATA_COLUMNS = ("id", "corpus", "split", "audio", "text", "language", "label", "soft_label")
"""The columns that a result depends on, which `data_hash` covers; and `target`, if there is one."""

_SECONDS_A_CLIP = 10.0
"""Limit of padded audio per clip of a batch: some clips of corpora last minutes."""

_SECONDS_ON_CPU = 10.0
"""Limit of padded audio per batch on a CPU: batches speed up short clips, but slow down long ones, which exceed the
caches (`benchmarks/run.py --only extraction_fp32_buckets`)."""


@dataclass(frozen=True)
class InputSpec:
    """How one modality reaches the model.

    Attributes:
        name: argument of the model: `audio_features`, `input_values`, `input_features`, `text_features` or
            `input_ids`.
        mask: name of its mask.
        width: size D of one step of (T, D) values; None for (T,) values.
        dtype: type of the stored numbers.
        from_backbone: whether it is the output of a frozen backbone, or the input of a trained one.
    """

    name: str
    mask: str
    width: int | None
    dtype: str
    from_backbone: bool


def input_specs(
    model: BiBiERForEmotionClassification, processor: BiBiERProcessor, dtype: str = "float32"
) -> dict[str, InputSpec]:
    """Return `{"audio": InputSpec, "text": InputSpec}` for the modalities of a model: features of a frozen backbone,
    or what a trained backbone reads.

    Args:
        model: the model to train.
        processor: its processor.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`, for values that are not token ids.
    """
    specs = {}
    for modality in model.config.modalities:
        config = model.config.modality_configs[modality]
        if config.freeze_backbone:
            name, mask, width = f"{modality}_features", f"{modality}_features_mask", config.feature_size
            specs[modality] = InputSpec(name, mask, width, dtype, from_backbone=True)
        elif modality == "text":
            specs[modality] = InputSpec("input_ids", "text_attention_mask", None, "int32", from_backbone=False)
        else:
            name = processor.audio_input_name
            silence = processor(audio=[np.zeros(SAMPLING_RATE // 10, np.float32)], sampling_rate=SAMPLING_RATE)
            width = silence[name].shape[2] if silence[name].ndim == 3 else None
            specs[modality] = InputSpec(name, "audio_attention_mask", width, dtype, from_backbone=False)

    return specs


class InputDataset(TorchDataset):
    """Rows for the collator: what the model reads, and the labels.

    Args:
        rows: N rows in the common schema.
        columns: precomputed inputs, name -> N stored rows ([`InputExtractor`]). Without them each row carries its
            `audio` and `text`, for [`~bibier_hf.data.collator.RawCollator`]; rows with a note
            ([`~bibier_hf.data.disturbances.NOTE`]) are disturbed as they are read.
        voices: for babble, in rows without columns.

    Attributes:
        labels: classes (N,), or targets (N, K).
    """

    def __init__(self, rows: Dataset, columns: Mapping[str, StoredRows] | None = None, voices: Voices | None = None):
        self.rows = rows
        self.voices = voices
        self.columns = dict(columns or {})
        for name, values in self.columns.items():
            if len(values) != len(rows):
                raise ValueError(f"{len(rows)} rows, but {len(values)} of {name}.")

        self.metadata = rows.remove_columns([name for name in ("audio", "text") if name in rows.column_names])
        self.labels = truth_of(rows)
        raw = () if self.columns else ("audio", "text")
        if raw and NOTE in rows.column_names:
            raw = ("audio", "text", "id", NOTE)
        target = [name for name in rows.column_names if name == TARGET]
        self._read = rows.select_columns([*raw, "label", "soft_label", *target])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        batch = self._read[list(indices)]
        if NOTE in batch:
            rows = zip(batch["audio"], batch.pop(NOTE), batch.pop("id"), strict=True)
            batch["audio"] = [heard(audio, note, clip, self.voices) for audio, note, clip in rows]

        return [
            {name: column[index] for name, column in self.columns.items()}
            | {name: values[place] for name, values in batch.items()}
            for place, index in enumerate(indices)
        ]

    def fetch(self, indices: Sequence[int], epoch: int) -> list[dict[str, Any]]:
        """Return some rows, which are the same in every epoch ([`~bibier_hf.training.rows.RowSource`])."""
        return self.__getitems__(indices)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) cost of each row, for batches of similar cost: stored steps of all modalities, else seconds."""
        if self.columns:
            return np.sum([column.lengths for column in self.columns.values()], axis=0)
        return np.array([duration or 0.0 for duration in self.metadata["duration_s"]])

    def select(self, indices: Sequence[int] | np.ndarray) -> "InputDataset":
        """Return some of the rows."""
        columns = {name: column.select(indices) for name, column in self.columns.items()}
        return InputDataset(self.rows.select(indices), columns, self.voices)

    def with_columns(self, columns: Mapping[str, StoredRows]) -> "InputDataset":
        """Return the same rows with additional stored columns."""
        return InputDataset(self.rows, self.columns | dict(columns))

    @classmethod
    def concatenate(cls, parts: Sequence["InputDataset"]) -> "InputDataset":
        """Join several data sets with the same columns."""
        rows = concatenate_datasets([part.rows for part in parts])
        columns = {name: StoredRows.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        return cls(rows, columns)


def raw_inputs(splits: DatasetDict | Mapping[str, Dataset], voices: Voices | None = None) -> dict[str, InputDataset]:
    """Return splits whose audio and text are processed batch by batch, by
    [`~bibier_hf.data.collator.RawCollator`]."""
    return {str(split): InputDataset(rows, voices=voices) for split, rows in splits.items()}


class InputExtractor:
    """Computes what a model reads, or finds it in the stores. Create one per run: it hashes weights without a Hub id.

    Args:
        model: the model, with its frozen backbones.
        processor: its processor.
        dtype: type of the stored numbers: `"float32"`, `"float16"` or `"bfloat16"`.
        compute_dtype: type that the backbones compute in: `"float32"`, `"bfloat16"`, or `"int8"` for their linear
            layers only ([`~bibier_hf.quantization.int8_copy`]). [`drift`][InputExtractor.drift] measures the loss of
            precision.
        batch_size: clips per batch, of similar length.
        cache_dir: folder of the stores; default: `features` in the folder that BIBIER_CACHE names, else in `bibier_hf`
            in the Hugging Face home.

    Attributes:
        specs: [`input_specs`].
        stores: `{"audio": FeatureStore, "text": FeatureStore}`.
    """

    def __init__(
        self,
        model: BiBiERForEmotionClassification,
        processor: BiBiERProcessor,
        dtype: str = "float32",
        compute_dtype: str = "float32",
        batch_size: int = 16,
        cache_dir: str | os.PathLike | None = None,
    ):
        self.model = model.eval()
        self.processor = processor
        self.compute_dtype = getattr(torch, compute_dtype)
        if self.compute_dtype == torch.bfloat16 and model.device.type == "cpu" and not cpu_has_bfloat16():
            logger.warning(
                "This CPU has no bfloat16 instructions, so bfloat16 is slower than float32. On x86, int8 is faster."
            )

        self.batch_size = batch_size
        self.specs = input_specs(model, processor, dtype)
        directory = Path(cache_dir) if cache_dir is not None else cache_folder().with_name("features")
        self.stores = {
            modality: FeatureStore(
                directory, spec.name, self._recipe(modality, spec), spec.width, getattr(torch, spec.dtype)
            )
            for modality, spec in self.specs.items()
        }

        # Cached per object, not per class: another extractor may have other weights.
        self._backbone = cache(self._cast_backbone)

    def inputs(
        self, splits: DatasetDict | Mapping[str, Dataset], voices: Voices | None = None
    ) -> dict[str, InputDataset]:
        """Compute the inputs of splits in the common schema, for [`~bibier_hf.data.collator.FeatureCollator`].

        Rows with a note ([`~bibier_hf.data.disturbances.NOTE`]) are disturbed; the store keeps clean and disturbed
        clips apart.

        Args:
            splits: rows by the name of their split.
            voices: for babble.

        Raises:
            AudioError: a clip that cannot be decoded.
            FeatureStoreError: a store that cannot be read or written.
            ValueError: features that are not finite, or that the type cannot hold.
        """
        pooled = read_columns(list(splits.values()))
        keys = row_keys(pooled, voices)
        self.extract(pooled, keys, voices)
        columns = {spec.name: self.stores[modality].rows(keys[modality]) for modality, spec in self.specs.items()}

        datasets, start = {}, 0
        for split, rows in splits.items():
            indices = range(start, start := start + len(rows))
            datasets[split] = InputDataset(rows, {name: column.select(indices) for name, column in columns.items()})

        return datasets

    def extract(
        self,
        dataset: Dataset,
        keys: Mapping[str, Sequence[bytes | None]] | None = None,
        voices: Voices | None = None,
    ) -> dict[str, Extraction]:
        """Compute the rows that the stores lack.

        Args:
            dataset: rows with `audio`, `text` and `duration_s`, and with notes also `id`.
            keys: their [`row_keys`], if known.
            voices: for babble.
        """
        keys = row_keys(dataset, voices) if keys is None else keys
        lengths = {
            "audio": [duration or 0.0 for duration in dataset["duration_s"]],
            "text": [len(text or "") for text in dataset["text"]],
        }
        longest = _SECONDS_ON_CPU if self.model.device.type == "cpu" else self.batch_size * _SECONDS_A_CLIP
        limits = {"audio": longest, "text": None}

        return {
            modality: store.extract(
                keys[modality],
                lengths[modality],
                lambda positions, modality=modality: self._compute(modality, dataset, positions, voices=voices),
                self.batch_size,
                limits[modality],
            )
            for modality, store in self.stores.items()
        }

    def drift(self, dataset: Dataset, rows: int = 16) -> dict[str, dict[str, float]]:
        """Compare stored features with float32 features computed one clip at a time.

        Args:
            dataset: rows whose features are stored.
            rows: number of rows to compare, spread over all lengths.

        Returns:
            modality -> `relative` (root mean square of the differences over that of the values), `largest` (absolute
            difference) and `cosine` (the smallest of all steps). Modalities without a frozen backbone or without rows
            are left out.
        """
        drift = {}
        keys = row_keys(dataset)
        durations = np.array([duration or 0.0 for duration in dataset["duration_s"]])

        for modality, spec in self.specs.items():
            present = np.array([key is not None for key in keys[modality]])
            by_length = [int(position) for position in np.argsort(durations, kind="stable") if present[position]]
            if not spec.from_backbone or not by_length:
                continue

            chosen = [by_length[place] for place in np.unique(np.linspace(0, len(by_length) - 1, rows).astype(int))]
            stored = self.stores[modality].rows([keys[modality][position] for position in chosen])
            exact = [self._compute(modality, dataset, [position], torch.float32)[0] for position in chosen]
            drift[modality] = difference(torch.cat(list(stored)).double(), torch.cat(exact).double())

        return drift

    @torch.no_grad()
    def _compute(
        self,
        modality: str,
        dataset: Dataset,
        positions: list[int],
        dtype: torch.dtype | None = None,
        voices: Voices | None = None,
    ) -> list[torch.Tensor]:
        batch = dataset[positions]
        if modality == "audio" and NOTE in batch:
            rows = zip(batch["audio"], batch[NOTE], batch["id"], strict=True)
            batch["audio"] = [heard(audio, note, clip, voices) for audio, note, clip in rows]

        inputs = self.processor(**{modality: batch[modality]})
        if modality == "text":
            values, mask = inputs["input_ids"], inputs["text_attention_mask"]
        else:
            values, mask = inputs[self.processor.audio_input_name], inputs["audio_attention_mask"]

        if self.specs[modality].from_backbone:
            backbone = self._backbone(modality, dtype or self.compute_dtype)
            values, mask = values.to(self.model.device), mask.to(self.model.device)
            values, mask = self.model.streams[modality].run_backbone(backbone, values, mask)

        return [row[keep.bool()].cpu() for row, keep in zip(values, mask, strict=True)]

    def _cast_backbone(self, modality: str, dtype: torch.dtype) -> torch.nn.Module:
        backbone = self.model.streams[modality].require_backbone()
        runs_in_equal_lengths(backbone)  # found with the exact weights; copies inherit the answer
        if dtype == torch.int8:
            return int8_copy(backbone)
        # A copy, as casting back would not restore the lost digits.
        return backbone if backbone.dtype == dtype else copy.deepcopy(backbone).to(dtype)

    def _recipe(self, modality: str, spec: InputSpec) -> dict[str, Any]:
        """Return what the values depend on apart from the utterance."""
        recipe: dict[str, Any] = {"processing_version": PROCESSING_VERSION}
        if spec.from_backbone:
            recipe["backbone"] = self.model.backbone_key(modality)
            recipe["compute_dtype"] = str(self.compute_dtype).removeprefix("torch.")
        if modality == "text":
            tokenizer = self.processor.tokenizer
            return recipe | {
                "tokenizer": tokenizer_hash(tokenizer),
                "text_prefix": self.processor.text_prefix,
                "max_text_tokens": self.processor.max_text_tokens,
            }
        front_end = json.loads(self.processor.feature_extractor.to_json_string())
        front_end.pop("auto_map", None)  # where the code of a saved processor is
        return recipe | {
            "sampling_rate": SAMPLING_RATE,
            "channels": "mean",
            "front_end": front_end,
            "max_window_s": self.model.config.modality_configs["audio"].max_window_s,
        }


def difference(values: torch.Tensor, exact: torch.Tensor) -> dict[str, float]:
    """Compare (T, D) values with exact ones ([`InputExtractor.drift`])."""
    return {
        "relative": ((values - exact).square().mean() / exact.square().mean()).sqrt().item(),
        "largest": (values - exact).abs().max().item(),
        "cosine": torch.nn.functional.cosine_similarity(values, exact, dim=-1).min().item(),
    }


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash everything that determines the token ids of a text: vocabulary, rules and special tokens."""
    rules = tokenizer.get_vocab()
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # These depend on the last call, not on the tokenizer.
        rules |= {"padding": None, "truncation": None}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    content = [type(tokenizer).__name__, rules, special]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def read_columns(parts: Sequence[Dataset]) -> Dataset:
    """Return the columns of all parts that their inputs depend on, with notes if any part has them."""
    names = ["id", "audio", "text", "duration_s"]
    if any(NOTE in rows.column_names for rows in parts):
        parts = [rows if NOTE in rows.column_names else with_notes(rows, [None] * len(rows)) for rows in parts]
        names.append(NOTE)

    return concatenate_datasets([rows.select_columns(names) for rows in parts])


def row_keys(dataset: Dataset, voices: Voices | None = None) -> dict[str, list[bytes | None]]:
    """Return `{"audio": (N,), "text": (N,)}`: the key of the content of each utterance; None for a missing modality.

    Args:
        dataset: rows, some of which may be disturbed.
        voices: for babble.
    """
    keys: dict[str, list[bytes | None]] = {modality: [] for modality in MODALITIES}
    noted = NOTE in dataset.column_names
    for row in _undecoded_rows(dataset, (*MODALITIES, "id", NOTE) if noted else MODALITIES):
        content = None if row["audio"] is None else _audio_bytes(row["audio"])
        if content is not None and noted and row[NOTE] is not None:
            content += note_key(row[NOTE], row["id"], voices)
        keys["audio"].append(None if content is None else row_key(content))
        keys["text"].append(row_key(row["text"].encode()) if row["text"] and row["text"].strip() else None)
    return keys


def content_hash(dataset: Dataset, columns: Sequence[str] = DATA_COLUMNS) -> str:
    """Hash the values of some columns and the targets, row by row; audio counts by its bytes."""
    digest = hashlib.sha256()
    columns = [*columns, *(name for name in dataset.column_names if name == TARGET)]
    for row in _undecoded_rows(dataset, columns):
        values = dict(row)
        if values.get("audio") is not None:
            values["audio"] = hashlib.sha256(_audio_bytes(values["audio"])).hexdigest()
        digest.update(json.dumps(values, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def _audio_bytes(audio: Mapping[str, Any]) -> bytes:
    return Path(audio["path"]).read_bytes() if audio["bytes"] is None else audio["bytes"]


def _undecoded_rows(dataset: Dataset, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    # Plain Arrow values, so that nothing is decoded, whatever the format of the data set.
    for batch in dataset.select_columns(list(columns)).with_format("arrow").iter(64):
        yield from batch.to_pylist()
