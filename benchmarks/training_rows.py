"""Rows on a whole training run on a real corpus, and on the cost of its loader."""

import contextlib
import functools
import pickle
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import TrainingArguments

import textbook
from bibier_hf.data.collator import FeatureCollator
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.features import InputDataset, InputExtractor
from bibier_hf.model.backbones_bibier import encode_audio, encode_text
from bibier_hf.model.modeling_bibier import BiBiERForEmotionClassification
from bibier_hf.model.processing_bibier import BiBiERProcessor
from bibier_hf.quantization import cpu_has_bfloat16
from bibier_hf.training.optimization import optimizer_cls_and_kwargs
from bibier_hf.training.samplers import EpochSampler
from measuring import Row, compare
from model_rows import TEXT_LENGTH, fusion_config, our_fusion, train_step
from registry import Materials

BATCH = 8


def resd_end_to_end(materials: Materials, own_value: bool = True) -> Row:
    """Features of RESD's training split and epochs of BiFormer at the published sizes over them, once a side.

    Ours: length buckets, in bfloat16 where the CPU has it, into mapped shards, then batches of similar length without
        work on padding.
    Theirs: one clip at a time in float32 into one pickle, then shuffled batches padded to their longest, texts to 95.
    """
    epochs = materials.epochs if own_value else max(1, materials.epochs // 4)  # without a goal, fewer are enough
    rows = load_corpus("resd", materials.folder("resd"))["train"]
    rows = rows.select(range(min(len(rows), materials.rows or 64)))
    model, processor = _backbones(materials)
    sizes = _widths(model)
    seconds: dict[str, float] = {}

    with tempfile.TemporaryDirectory() as folder:
        with _timed(seconds, "our extraction"):
            compute_dtype = "bfloat16" if cpu_has_bfloat16() else "float32"
            extractor = InputExtractor(model, processor, "bfloat16", compute_dtype, cache_dir=folder)
            data = extractor.inputs({"train": rows})["train"]

        with _timed(seconds, "their extraction"):
            _extract_into_pickle(model, processor, rows, Path(folder) / "features.pickle")

        torch.manual_seed(0)
        ours = our_fusion(fusion_config("biformer", own_value, *sizes))
        theirs = textbook.Fusion("biformer", *sizes)
        sampler, loader = _our_loader(data, extractor)

        with open(Path(folder) / "features.pickle", "rb") as file:
            kept = pickle.load(file)

        optimizers = torch.optim.Adam(ours.parameters()), torch.optim.Adam(theirs.parameters())

        for epoch in range(epochs):
            with _timed(seconds, "our epochs"):
                sampler.set_epoch(epoch)
                for batch in loader:
                    train_step(ours, optimizers[0], _fusion_inputs(batch), batch["labels"])
            with _timed(seconds, "their epochs"):
                for audio, text, labels in _their_batches(kept, epoch):
                    train_step(theirs, optimizers[1], (audio, text), labels)

    name = "resd_end_to_end" if own_value else "resd_end_to_end_native"
    ours_s, theirs_s = (seconds[f"{side} extraction"] + seconds[f"{side} epochs"] for side in ("our", "their"))
    parts = ", ".join(
        f"{part} {seconds[f'our {part}']:.0f} s against {seconds[f'their {part}']:.0f} s"
        for part in ("extraction", "epochs")
    )
    what = f"{len(rows)} clips, whisper-base and e5-small in {compute_dtype}, {epochs} epochs of biformer, batches of {BATCH}"
    note = f"{what}: {parts}"
    against = "clip by clip into a pickle, then padded batches"
    goal = 2.0 if own_value else None
    ranges = (ours_s, ours_s), (theirs_s, theirs_s)

    return Row(name, against, theirs_s / ours_s, goal, ours_s, theirs_s, *ranges, 1, note)


def optimizer_step() -> Row:
    """AdamW over as many parameters as the layers of e5-small have, as the trainer builds it and as torch does by
    default on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        optimizer_class, options = optimizer_cls_and_kwargs(
            "adamw", TrainingArguments(output_dir=folder, use_cpu=True)
        )

    sides = []
    unfused: dict[str, Any] = options | {"fused": None}

    for kwargs in (options, unfused):
        parameters = [torch.nn.Parameter(torch.zeros(384, 1536)) for _ in range(36)]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        sides.append(optimizer_class(parameters, **kwargs).step)

    return compare(
        "optimizer_step", "torch's default loop over the parameters", None, *sides, note="AdamW, 21 million parameters"
    )


def loader_share(materials: Materials) -> Row:
    """A training step compared with the time that it waits for its batch: mapped features, collated in the training
    process."""
    rows = load_corpus("resd", materials.folder("resd"))["train"]
    rows = rows.select(range(min(len(rows), materials.rows or 128)))
    model, processor = _backbones(materials)
    waits, steps = [], []

    with tempfile.TemporaryDirectory() as folder:
        extractor = InputExtractor(model, processor, cache_dir=folder)
        _, loader = _our_loader(extractor.inputs({"train": rows})["train"], extractor)
        fusion = our_fusion(fusion_config("biformer", False, *_widths(model)))
        optimizer = torch.optim.Adam(fusion.parameters())
        start = time.perf_counter()

        for batch in loader:
            ready = time.perf_counter()
            train_step(fusion, optimizer, _fusion_inputs(batch), batch["labels"])
            start, waited = time.perf_counter(), ready - start
            waits.append(waited)
            steps.append(start - ready)

    wait, step = statistics.median(waits), statistics.median(steps)
    note = f"waiting for data takes {sum(waits) / (sum(waits) + sum(steps)):.1%} of an epoch; no workers, batches of {BATCH}"
    against = "the training step that uses the batch"

    return Row(
        "loader",
        against,
        step / wait,
        10.0,
        wait,
        step,
        (min(waits), max(waits)),
        (min(steps), max(steps)),
        len(waits),
        note,
    )


def _backbones(materials: Materials) -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    audio, text = (str(materials.folder("backbones", name)) for name in ("whisper-base", "e5-small"))
    return BiBiERForEmotionClassification.from_backbones(audio, text), BiBiERProcessor.from_backbones(audio, text)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], part: str) -> Generator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start


def _widths(model: BiBiERForEmotionClassification) -> tuple[int, int]:
    """Of the features of audio and text."""
    audio, text = (config.widths[0] for config in model.config.modality_configs.values())
    return audio, text


def _our_loader(data: InputDataset, extractor: InputExtractor) -> tuple[EpochSampler, DataLoader]:
    """As the trainer makes it, in batches of similar length."""
    sampler = EpochSampler(len(data), seed=42, lengths=data.lengths, group_size=BATCH)
    return sampler, DataLoader(data, batch_size=BATCH, sampler=sampler, collate_fn=FeatureCollator(extractor.specs))


def _fusion_inputs(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    audio, text = (
        (batch[f"{modality}_features"], batch[f"{modality}_features_mask"].bool()) for modality in ("audio", "text")
    )
    return *audio, *text


@torch.no_grad()
def _extract_into_pickle(
    model: BiBiERForEmotionClassification, processor: BiBiERProcessor, rows: Dataset, path: Path
) -> None:
    """Sections 2.1 and 3.1: utterance by utterance; texts filled with zeros to 95 positions."""
    kept = []

    for row in rows:
        audio = processor(audio=[row["audio"]])
        frames, mask = encode_audio(
            model.streams["audio"].require_backbone(),
            audio[processor.audio_input_name],
            audio["audio_attention_mask"],
            [-1],
            model.config.modality_configs["audio"].max_window_s,
        )
        text = processor(text=[row["text"]])
        backbone = model.streams["text"].require_backbone()
        states, _ = encode_text(backbone, text["input_ids"], text["text_attention_mask"], [-1])
        full = F.pad(states[0], (0, 0, 0, TEXT_LENGTH - states.shape[1]))
        kept.append({"audio": frames[0, mask[0]], "text": full, "label": row["label"]})

    with open(path, "wb") as file:
        pickle.dump(kept, file)


def _their_batches(kept: list[dict], epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Section 7: shuffled, audio padded with zeros to the longest of the batch."""
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(epoch)).tolist()

    for start in range(0, len(order), BATCH):
        batch = [kept[index] for index in order[start : start + BATCH]]
        audio = pad_sequence([row["audio"] for row in batch], batch_first=True)
        yield audio, torch.stack([row["text"] for row in batch]), torch.tensor([row["label"] for row in batch])


ROWS = {"optimizer_step": optimizer_step}

DATA_ROWS = {
    "resd_end_to_end": resd_end_to_end,
    "resd_end_to_end_native": functools.partial(resd_end_to_end, own_value=False),
    "loader": loader_share,
}
