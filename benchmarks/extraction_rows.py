"""Rows on feature extraction into a store, with the published speech backbone. Its weights are random, because speed
does not depend on them.

Each side decodes, encodes and writes its rows into an empty store.
"""

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from datasets import Audio, Dataset
from torch.nn import functional as F
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from bibier_hf.data.features import InputExtractor, difference, row_keys
from bibier_hf.data.prepare import encode_flac
from bibier_hf.memory import keep_freed_memory
from bibier_hf.model.audio_bibier import SAMPLING_RATE
from bibier_hf.model.configuration_bibier import BiBiERConfig
from bibier_hf.model.modeling_bibier import BiBiERForEmotionClassification
from bibier_hf.model.processing_bibier import BiBiERProcessor
from bibier_hf.quantization import cpu_has_bfloat16
from measuring import Row, compare, row_of_times, take_turns
from registry import Unavailable

ONE_BY_ONE = {"batch_size": 1}
FP32_BUCKETS = {"batch_size": 16}
BF16_BUCKETS = {"batch_size": 16, "compute_dtype": "bfloat16", "dtype": "bfloat16"}
INT8_BUCKETS = {"batch_size": 16, "compute_dtype": "int8", "dtype": "bfloat16"}

FEW, MANY = 8, 64
"""Clips of the quick and the full rows."""

_GEMM_ROWS = 1600
"""Frames of a batch of two clips of 16 s, a usual one here."""


def published_config() -> Wav2Vec2Config:
    """The architecture of audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim."""
    return Wav2Vec2Config(
        hidden_size=1024,
        num_hidden_layers=12,
        num_attention_heads=16,
        intermediate_size=4096,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
    )


def published_backbone() -> Wav2Vec2Model:
    torch.manual_seed(0)
    return Wav2Vec2Model(published_config()).eval()


@functools.cache
def audio_model() -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    """An audio-only model with [`published_backbone`], and its processor."""
    model = BiBiERForEmotionClassification(
        BiBiERConfig(modalities=["audio"], audio_config={"backbone": published_config()}), build_backbones=False
    )
    model.attach_backbone("audio", published_backbone())
    front_end = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)

    return model, BiBiERProcessor(front_end, BiBiERProcessor.from_backbones().tokenizer)


@functools.cache
def sounding_clips(count: int, longest_s: float = 16.0) -> Dataset:
    """Sweeps in noise, of 0.5 to `longest_s` seconds, in random order."""
    generator = np.random.default_rng(0)
    rows = {
        "audio": [],
        "text": [""] * count,
        "duration_s": generator.permutation(np.linspace(0.5, longest_s, count)).tolist(),
    }

    for seconds in rows["duration_s"]:
        time_s = np.arange(int(SAMPLING_RATE * seconds)) / SAMPLING_RATE
        clip = 0.3 * np.sin(2 * np.pi * (generator.uniform(100, 300) + 40 * time_s) * time_s)
        clip += 0.05 * generator.standard_normal(len(time_s))
        rows["audio"].append({"bytes": encode_flac(clip.astype(np.float32)), "path": None})

    return Dataset.from_dict(rows).cast_column("audio", Audio(sampling_rate=SAMPLING_RATE, decode=False))


def extraction_of(clips: Dataset, folder: str, **options) -> Callable[[], torch.Tensor]:
    """What extracts all clips anew at each call: their features one after the other, (frames, D). Its extractor is
    made beforehand."""
    extractor = InputExtractor(*audio_model(), cache_dir=folder, **options)
    store = extractor.stores["audio"]
    extractor.extract(sounding_clips(1))  # casts the weights, fills caches

    def run() -> torch.Tensor:
        shutil.rmtree(store.folder)
        extractor.extract(clips)
        return torch.cat(list(store.rows(row_keys(clips)["audio"])))

    return run


_WAYS = {
    "fp32": (FP32_BUCKETS, None),
    "bf16": (BF16_BUCKETS, 2.0),
    "int8": (INT8_BUCKETS, None if cpu_has_bfloat16() else 2.0),
}
"""Type -> options of the extractor and goal. int8 has one on processors that would otherwise compute in float32."""


@functools.cache
def extractions(count: int) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    """Seconds and values of all ways of extracting, in turns with clip by clip in float32. All keep freed memory."""
    keep_freed_memory()
    clips = sounding_clips(count)
    ways = {"one": ONE_BY_ONE} | {name: options for name, (options, _) in _WAYS.items()}
    if not cpu_has_bfloat16():
        del ways["bf16"]
    values: dict[str, torch.Tensor] = {}

    with contextlib.ExitStack() as stack:
        runs = {
            name: extraction_of(clips, stack.enter_context(tempfile.TemporaryDirectory()), **options)
            for name, options in ways.items()
        }

        def run(name: str) -> None:
            values[name] = runs[name]()

        return take_turns({name: functools.partial(run, name) for name in runs}, budget_s=40), values


def extraction(way: str, count: int) -> Row:
    """One way of extracting against clip by clip in float32, and how far its values are from those."""
    if way == "bf16":
        _need_bfloat16()

    times, values = extractions(count)
    row = row_of_times(_row_name(way, count), "one clip at a time, float32", _WAYS[way][1], times[way], times["one"])
    drift = difference(values[way].double(), values["one"].double())
    rates = [sum(sounding_clips(count)["duration_s"]) / seconds for seconds in (row.ours_s, row.theirs_s)]
    note = f"{count} clips of 0.5 to 16 s, {rates[0]:.1f} against {rates[1]:.1f} s of audio a second; "

    return replace(row, note=note + f"relative drift {drift['relative']:.2%}, lowest cosine {drift['cosine']:.5f}")


def _row_name(way: str, count: int) -> str:
    return f"extraction_{way}_buckets" + ("_64" if count == MANY else "")


def gemm_share(count: int = FEW) -> Row:
    """How much of the machine's own rate in a matrix product the extraction reaches: products of as many operations,
    beside it.

    In bfloat16, or in float32 on a CPU without instructions for that.
    """
    keep_freed_memory()
    clips = sounding_clips(count)
    operations = sum(
        backbone_operations(published_config(), int(seconds * SAMPLING_RATE)) for seconds in clips["duration_s"]
    )
    dtype, way = (torch.bfloat16, BF16_BUCKETS) if cpu_has_bfloat16() else (torch.float32, FP32_BUCKETS)
    a, b = torch.randn(_GEMM_ROWS, 1024).to(dtype), torch.randn(4096, 1024).to(dtype)
    products = round(operations / (2 * _GEMM_ROWS * 1024 * 4096))

    def multiply() -> None:
        for _ in range(products):
            F.linear(a, b)

    name = str(dtype).removeprefix("torch.")

    with tempfile.TemporaryDirectory() as folder:
        ours = extraction_of(clips, folder, **way)
        against = f"as many operations in {name} matrix products"
        row = compare("extraction_gemm_share", against, 0.65, ours, multiply, budget_s=10, warm_up=False)

    rates = f"{operations / row.ours_s / 1e9:.0f} of {operations / row.theirs_s / 1e9:.0f} GFLOP/s"

    return replace(row, note=f"{rates}, decoding, padding and writing included")


def backbone_operations(config: Wav2Vec2Config, samples: int) -> int:
    """Floating point operations of a clip in the products and convolutions of a wav2vec2."""
    total, frames, width_in = 0, samples, 1

    for width, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = (frames - kernel) // stride + 1
        total += 2 * frames * width_in * width * kernel
        width_in = width

    return total + 2 * frames * width_in * config.hidden_size + encoder_operations(config, frames)


def encoder_operations(config: Wav2Vec2Config, frames: int) -> int:
    """Those of its transformer alone."""
    width = config.hidden_size
    layer = 2 * frames * (4 * width**2 + 2 * width * config.intermediate_size) + 4 * frames**2 * width
    positions = 2 * frames * width * width // config.num_conv_pos_embedding_groups * config.num_conv_pos_embeddings

    return config.num_hidden_layers * layer + positions


def _need_bfloat16() -> None:
    if not cpu_has_bfloat16():
        raise Unavailable("this CPU has no bf16 instructions")


ROWS = {_row_name(way, FEW): functools.partial(extraction, way, FEW) for way in _WAYS} | {
    "extraction_gemm_share": gemm_share
}

FULL_ROWS = {_row_name(way, MANY): functools.partial(extraction, way, MANY) for way in _WAYS}
