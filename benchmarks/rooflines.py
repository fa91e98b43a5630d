"""What bounds the rows that miss their goal: the time that their operations need at this machine's own rates.

Operations in products, convolutions and attention count at the rate of a matrix product of the same type; everything
else at the rate at which this machine reads and writes memory. The sum is the time that an implementation of the same
steps needs at least, unless it fuses them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import textbook
from bibier_hf.quantization import Int8Linear, cpu_has_bfloat16, int8_copy
from clip_profile import gemm_rate, median_s
from extraction_rows import published_backbone
from model_rows import AUDIO_SIZE, TEXT_LENGTH, TEXT_SIZE, fusion_config, lengths, our_fusion, padded, train_step

SECONDS, FRAMES = 16, 800
"""Of the clip of the backbones."""

Part = tuple[str, float, str]
"""What, seconds, and a remark."""


class _BytesMoved(TorchDispatchMode):
    """Counts what operators other than products read and write."""

    PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "linear", "scaled_dot_product")

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0].strip("_")
        if not func.is_view and not name.startswith(self.PRODUCTS):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


@dataclass(frozen=True)
class Machine:
    """Rates of this machine: operations per second by type, and bytes per second."""

    products: dict[str, float]
    memory: float

    @classmethod
    @functools.cache
    def measured(cls) -> "Machine":
        products = {"float32": gemm_rate(torch.float32, FRAMES), "int8": _int8_rate()}
        if cpu_has_bfloat16():
            products["bfloat16"] = gemm_rate(torch.bfloat16, FRAMES)
        x = torch.zeros(2**24)
        y = torch.empty_like(x)

        return cls(products, 2 * x.numel() * x.element_size() / median_s(lambda: torch.mul(x, 2, out=y)))


def rooflines() -> list[Part]:
    """Time and bound of the speech backbone in each type, and of a step of bimamba."""
    machine = Machine.measured()
    rates = [
        (f"matrix product, {dtype}", 0.0, f"{rate / 1e9:.0f} GFLOP/s") for dtype, rate in machine.products.items()
    ]
    parts = [*rates, ("memory", 0.0, f"{machine.memory / 1e9:.1f} GB/s, a product with a number, 64 MiB in and out")]

    return parts + _backbones(machine) + _bimamba(machine)


@torch.no_grad()
def _backbones(machine: Machine) -> list[Part]:
    backbone, wave = published_backbone(), torch.randn(1, SECONDS * 16_000)
    operations = _operations(lambda: backbone(wave))
    linear = sum(
        2 * FRAMES * part.in_features * part.out_features
        for part in backbone.encoder.modules()
        if isinstance(part, torch.nn.Linear)
    )
    parts: list[Part] = []

    for dtype in machine.products:
        if dtype == "int8":
            model, inputs = int8_copy(backbone), wave
            needed = {"float32": operations - linear, "int8": linear}
        else:
            kind: torch.dtype = getattr(torch, dtype)
            model, inputs, needed = published_backbone().to(kind), wave.to(kind), {dtype: operations}
        run = functools.partial(model, inputs)
        parts.append(_part(f"speech backbone, {SECONDS} s, {dtype}", run, needed, machine))

    return parts


def _bimamba(machine: Machine, batch: int = 8) -> list[Part]:
    """The steps of the row `fusion_bimamba_8`."""
    torch.manual_seed(0)
    audio, audio_mask = padded(lengths(batch, 30, 400), AUDIO_SIZE)
    text, text_mask = padded(lengths(batch, 3, 60).flip(0), TEXT_SIZE)
    full_text = F.pad(text, (0, 0, 0, TEXT_LENGTH - text.shape[1]))
    labels = torch.arange(batch) % 7
    ours, theirs = our_fusion(fusion_config("bimamba")), textbook.Fusion("bimamba")
    steps: dict[str, Callable[[], Any]] = {
        name: functools.partial(train_step, model, torch.optim.Adam(model.parameters()), inputs, labels)
        for name, model, inputs in (
            ("a step of bimamba, batch of 8", ours, (audio, audio_mask, text, text_mask)),
            ("the same, plain transcription", theirs, (audio, full_text)),
        )
    }

    return [_part(name, run, {"float32": _operations(run)}, machine) for name, run in steps.items()]


def _part(name: str, run: Callable[[], Any], operations: dict[str, int], machine: Machine) -> Part:
    seconds = median_s(run, repeats=3)

    with _BytesMoved() as moved:
        run()

    products = sum(count / machine.products[dtype] for dtype, count in operations.items())
    memory = moved.total / machine.memory
    bound = products + memory
    note = (
        f"at least {1000 * bound:.0f} ms: products {1000 * products:.0f}, other operators {1000 * memory:.0f} "
        f"({moved.total / 2**30:.2f} GiB); that is {bound / seconds:.0%} of the time, products alone {products / seconds:.0%}"
    )

    return name, seconds, note


def _operations(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()

    return counter.get_total_flops()


def _int8_rate(width: int = 1024, wide: int = 4096) -> float:
    """Like [`gemm_rate`], in int8, including the scaling of the activations."""
    layer, x = Int8Linear(torch.nn.Linear(width, wide, bias=False)), torch.randn(FRAMES, width)
    with torch.inference_mode():
        return 2 * FRAMES * width * wide / median_s(lambda: layer(x), repeats=25)
