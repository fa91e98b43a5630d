"""What a model reads, computed once: features of frozen backbones, and the front end's output for those that are trained.

A corpus is processed as a whole, whatever its splits, into one memory-mapped Arrow file whose name is a hash of all that the values
depend on: every utterance's audio and text, the backbones with their revision and layer, the processor, and the type of the numbers.
So the five folds of a corpus share one file, and a changed clip, revision or option never meets an old one.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, List, Value, concatenate_datasets
from torch.utils.data import Dataset as TorchDataset

from ..model.audio_bibier import SAMPLING_RATE
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from .prepare import cache_folder

FORMAT_VERSION = 1
"""Raised when equal input gives other values than before, so that old files are left alone."""

DATA_COLUMNS = ("id", "corpus", "split", "audio", "text", "language", "label", "soft_label")
"""What a result depends on: the columns behind `data_hash`."""


@dataclass(frozen=True)
class InputSpec:
    """How one modality reaches the model.

    Attributes:
        name: argument of the model: `audio_features`, `input_values`, `input_features`, `text_features` or `input_ids`.
        mask: name of its mask.
        width: size D of one step of (T, D) values; None for (T,) ones.
        dtype: type of the stored numbers.
        from_backbone: is it what a frozen backbone gives, or what one that is trained reads?
    """

    name: str
    mask: str
    width: int | None
    dtype: str
    from_backbone: bool


def input_specs(model: BiBiERForEmotionClassification, processor: BiBiERProcessor, dtype: str = "float32") -> dict[str, InputSpec]:
    """`{"audio": InputSpec, "text": InputSpec}`: backbone features where the backbone is frozen, else what the backbone reads.

    Args:
        model: the model to be trained.
        processor: its processor.
        dtype: `"float32"` or `"float16"`, for values that are not token ids.
    """
    specs = {}
    for modality in ("audio", "text"):
        if getattr(model.config, f"freeze_{modality}_backbone"):
            width = model.config.feature_size(modality)
            specs[modality] = InputSpec(f"{modality}_features", f"{modality}_features_mask", width, dtype, from_backbone=True)
        elif modality == "text":
            specs[modality] = InputSpec("input_ids", "text_attention_mask", None, "int32", from_backbone=False)
        else:
            silence = processor(audio=[np.zeros(SAMPLING_RATE // 10, np.float32)], sampling_rate=SAMPLING_RATE)
            shape = silence[processor.audio_input_name].shape
            width = shape[2] if len(shape) == 3 else None
            specs[modality] = InputSpec(processor.audio_input_name, "audio_attention_mask", width, dtype, from_backbone=False)
    return specs


class InputDataset(TorchDataset):
    """Rows for the collator: what the model reads, with labels, in the order of `metadata`.

    Args:
        metadata: N rows with `id`, `corpus`, `language`, `label`, `soft_label`, `duration_s`, ... (no audio).
        inputs: N rows with a flat list of numbers a modality ([`precompute`]), or with raw `audio` and `text`.
    """

    def __init__(self, metadata: Dataset, inputs: Dataset):
        if len(metadata) != len(inputs):
            raise ValueError(f"{len(metadata)} rows of metadata, but {len(inputs)} of inputs.")
        self.metadata = metadata
        self.inputs = inputs
        self.labels = np.asarray(metadata["label"], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.metadata)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        columns = self.inputs[list(indices)]
        soft_labels = self.metadata[list(indices)]["soft_label"]
        return [
            {name: values[row] for name, values in columns.items()} | {"label": self.labels[index], "soft_label": soft_labels[row]}
            for row, index in enumerate(indices)
        ]

    @classmethod
    def concatenate(cls, parts: Sequence["InputDataset"]) -> "InputDataset":
        """The rows of several data sets one after the other."""
        return cls(concatenate_datasets([part.metadata for part in parts]), concatenate_datasets([part.inputs for part in parts]))


def raw_inputs(splits: DatasetDict) -> dict[str, InputDataset]:
    """Splits of a corpus whose audio and text are processed batch by batch, by [`~bibier_hf.data.collator.RawCollator`]."""
    return {split: InputDataset(_metadata(rows), rows.select_columns(["audio", "text"])) for split, rows in splits.items()}


def precomputed_inputs(
    splits: DatasetDict,
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    dtype: str = "float32",
    batch_size: int = 16,
    cache_dir: str | os.PathLike | None = None,
) -> dict[str, InputDataset]:
    """Splits of one corpus with everything computed that no training step changes.

    Args:
        splits: a corpus in the common schema.
        model: says which backbones are frozen, and runs them.
        processor: its processor.
        dtype: `"float32"` or `"float16"`.
        batch_size: clips that go through a backbone together; they are of similar length.
        cache_dir: where the Arrow files are; default: `features` in the folder that BIBIER_CACHE names, else in `bibier_hf` in the
            Hugging Face home.

    Returns:
        a data set a split, for [`~bibier_hf.data.collator.FeatureCollator`].

    Raises:
        AudioError: a clip that cannot be decoded.
        ValueError: two rows with one id, or features that float16 cannot hold.
    """
    pooled = concatenate_datasets([rows.select_columns(["id", "audio", "text", "duration_s"]) for rows in splits.values()])
    ids = np.asarray(pooled["id"])
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if len(set(ids)) != len(ids):
        raise ValueError("Two rows of a corpus have the same id; ids must be unique.")
    computed = precompute(pooled.select(order), model, processor, dtype, batch_size, cache_dir).with_format("numpy")
    return {
        split: InputDataset(_metadata(rows), computed.select(np.searchsorted(ids, np.asarray(rows["id"]))))
        for split, rows in splits.items()
    }


def precompute(
    dataset: Dataset,
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    dtype: str = "float32",
    batch_size: int = 16,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """The inputs of every row, as flat lists of numbers, from the cache or computed now (arguments: [`precomputed_inputs`]).

    Args:
        dataset: rows with `id`, `audio`, `text` and `duration_s`.
        model: as there.
        processor: as there.
        dtype: as there.
        batch_size: as there.
        cache_dir: as there.

    Returns:
        as many rows in the same order; the columns are the names of [`input_specs`], a missing modality is an empty list.
    """
    specs = input_specs(model, processor, dtype)
    key = hashlib.sha256(
        json.dumps([FORMAT_VERSION, content_hash(dataset, ("id", "audio", "text")), _sources(model, processor, specs)]).encode()
    )
    folder = Path(cache_dir) if cache_dir is not None else cache_folder().with_name("features")
    folder.mkdir(parents=True, exist_ok=True)
    # Clips of similar length go together, the longest first: what does not fit into memory fails at once.
    durations = np.asarray([duration or 0.0 for duration in dataset["duration_s"]])
    by_length = np.argsort(-durations, kind="stable")
    model.eval()
    computed = dataset.select(by_length).map(
        _input_function(model, processor, specs),
        batched=True,
        batch_size=batch_size,
        writer_batch_size=4 * batch_size,
        remove_columns=dataset.column_names,
        features=Features({spec.name: List(Value(spec.dtype)) for spec in specs.values()}),
        cache_file_name=str(folder / f"{key.hexdigest()[:32]}.arrow"),
        new_fingerprint=key.hexdigest()[:32],
        load_from_cache_file=True,
        desc="Computing " + " and ".join(spec.name for spec in specs.values()),
    )
    return computed.select(np.argsort(by_length))


def content_hash(dataset: Dataset, columns: Sequence[str] = DATA_COLUMNS) -> str:
    """Hash of the values of some columns, row by row; audio counts by its bytes, wherever they are."""
    digest = hashlib.sha256()
    for row in _undecoded_rows(dataset, columns):
        values = dict(row)
        if values.get("audio") is not None:
            content = values["audio"]["bytes"]
            content = Path(values["audio"]["path"]).read_bytes() if content is None else content
            values["audio"] = hashlib.sha256(content).hexdigest()
        digest.update(json.dumps(values, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def _undecoded_rows(dataset: Dataset, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    # Plain Arrow values: nothing is decoded, whatever the format of the data set.
    for batch in dataset.select_columns(list(columns)).with_format("arrow").iter(64):
        yield from batch.to_pylist()


def _metadata(rows: Dataset) -> Dataset:
    return rows.remove_columns(["audio", "text"])


def _sources(model: BiBiERForEmotionClassification, processor: BiBiERProcessor, specs: dict[str, InputSpec]) -> dict[str, Any]:
    """What the values depend on beside the utterances themselves."""
    sources: dict[str, Any] = {"specs": [[spec.name, spec.width, spec.dtype] for spec in specs.values()]}
    for modality, spec in specs.items():
        if spec.from_backbone:
            sources[modality] = model.backbone_key(modality)
    sources["audio_front_end"] = json.loads(processor.feature_extractor.to_json_string())
    sources["text_front_end"] = [
        type(processor.tokenizer).__name__,
        processor.tokenizer.name_or_path if specs["text"].from_backbone else "",
        len(processor.tokenizer),
        processor.text_prefix,
        processor.max_text_tokens,
    ]
    sources["max_window_s"] = model.config.max_window_s
    return sources


def _input_function(
    model: BiBiERForEmotionClassification, processor: BiBiERProcessor, specs: dict[str, InputSpec]
) -> Callable[[dict[str, list]], dict[str, list[np.ndarray]]]:
    """A function of a batch of rows for `Dataset.map`."""
    encoders = {"audio": model.encode_audio, "text": model.encode_text}
    raw_names = {"audio": (processor.audio_input_name, "audio_attention_mask"), "text": ("input_ids", "text_attention_mask")}

    @torch.no_grad()
    def compute(batch: dict[str, list]) -> dict[str, list[np.ndarray]]:
        inputs = processor(audio=batch["audio"], text=batch["text"])
        columns = {}
        for modality, spec in specs.items():
            values, mask = (inputs[name].to(model.device) for name in raw_names[modality])
            if spec.from_backbone:
                values, mask = encoders[modality](values, mask)
            columns[spec.name] = [_checked(row[keep.bool()].flatten().cpu().numpy(), spec) for row, keep in zip(values, mask, strict=True)]
        return columns

    return compute


def _checked(values: np.ndarray, spec: InputSpec) -> np.ndarray:
    """`values` in the type to be stored."""
    if not np.isfinite(values).all():
        raise ValueError(f"{spec.name}: the backbone gave NaN or infinite values; its weights are damaged or its type is too narrow.")
    if spec.dtype == "float16" and values.size and np.abs(values).max() > np.finfo(np.float16).max:
        raise ValueError(
            f"{spec.name}: values up to {np.abs(values).max():.3g} do not fit into float16. Set feature_cache.dtype to float32."
        )
    return values.astype(spec.dtype)
