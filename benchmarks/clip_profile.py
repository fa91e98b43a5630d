"""Measure where the time for one clip goes with the published speech backbone, and how close that is to the machine's
peak rate.
"""

import statistics
import time
from collections.abc import Callable

import torch

from bibier_hf.model.audio_bibier import SAMPLING_RATE, decode_audio
from bibier_hf.model.mamba_bibier import MambaBlock
from extraction_rows import backbone_operations, encoder_operations, published_backbone
from model_rows import OurFusion, fusion_config
from scan_rows import initialized

SECONDS = 4


@torch.no_grad()
def profile() -> list[tuple[str, float, str]]:
    """Return (part, seconds, note) for a clip of 4 s; each part is run separately, median of five."""
    backbone = published_backbone()
    wave = torch.randn(1, SECONDS * SAMPLING_RATE)
    parts: list[tuple[str, float, str]] = []
    stereo = torch.randn(SECONDS * 44_100, 2).numpy().T
    parts.append(
        (
            "resampling from 44.1 kHz",
            median_s(lambda: decode_audio({"array": stereo, "sampling_rate": 44_100})),
            "soxr",
        )
    )
    front = backbone.feature_extractor
    operations = backbone_operations(backbone.config, wave.shape[1])
    frames = backbone.feature_projection(front(wave).transpose(1, 2))[0]
    operations -= encoder_operations(backbone.config, frames.shape[1])

    for dtype in (torch.float32, torch.bfloat16):
        front.to(dtype)
        seconds = median_s(lambda dtype=dtype: front(wave.to(dtype)))
        parts.append((f"backbone: convolutions, {_name(dtype)}", seconds, f"{operations / seconds / 1e9:.0f} GFLOP/s"))

    for dtype in (torch.float32, torch.bfloat16):
        backbone.encoder.to(dtype)
        seconds = median_s(lambda dtype=dtype: backbone.encoder(frames.to(dtype)))
        rate, peak = encoder_operations(backbone.config, frames.shape[1]) / seconds, gemm_rate(dtype, frames.shape[1])
        note = f"{rate / 1e9:.0f} of the machine's {peak / 1e9:.0f} GFLOP/s at the same GEMM: {rate / peak:.0%}"
        parts.append((f"backbone: transformer, {_name(dtype)}", seconds, note))

    block = initialized(MambaBlock(256, 512))
    x, mask = torch.randn(1, frames.shape[1], 256), torch.ones(1, frames.shape[1], dtype=torch.bool)
    parts.append(("one Mamba block", median_s(lambda: block(x, mask)), "width 256, inner 512"))
    head = OurFusion(fusion_config("biformer")).eval()
    text, text_mask = torch.randn(1, 20, 1024), torch.ones(1, 20, dtype=torch.bool)
    parts.append(("fusion and classifier", median_s(lambda: head(x, mask, text, text_mask)), "biformer, 5 layers"))

    return parts


def gemm_rate(dtype: torch.dtype, rows: int, width: int = 1024, wide: int = 4096) -> float:
    """Return the FLOP/s of this machine in the largest product of the transformer, (rows, width) x (width, wide)."""
    a, b = torch.randn(rows, width).to(dtype), torch.randn(wide, width).to(dtype)
    return 2 * rows * width * wide / median_s(lambda: torch.nn.functional.linear(a, b), repeats=25)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def median_s(function: Callable, repeats: int = 5) -> float:
    """Return the median time of a function, after a first call."""
    function()
    times = []

    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)

    return statistics.median(times)
