"""Dynamic int8 in PyTorch: linear layers through FBGEMM, which PyTorch includes on x86, with or without VNNI.

Weights have one scale per row, activations one per step. A scale per tensor would make a sample's result depend on its
batch.
"""

import copy
import warnings
from typing import TypeVar

import torch
from torch import nn

from .errors import ArgumentError

Module = TypeVar("Module", bound=nn.Module)

_LEVELS = 63
"""Levels of an activation on either side of zero: seven bits. Without VNNI, the kernel adds pairs of products in 16
bits, at most 2 x 127 x 127."""


class Int8Linear(nn.Module):
    """A linear layer with int8 weights for inference on a CPU: (..., in_features) -> (..., out_features), both
    float32.

    Args:
        linear: the float32 layer.
    """

    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scales = weight.abs().amax(1).clamp_min(1e-12).double() / 127
        self._packed = _packed(weight, scales)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12)
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / scale, 1 / _LEVELS, _LEVELS + 1, self._packed
        )
        return product * scale if self.bias is None else torch.addcmul(self.bias, product, scale)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def int8_copy(module: Module) -> Module:
    """Return a copy of a float32 module, in evaluation mode, whose linear layers compute in int8, for inference on
    x86.

    It also works for a whole model: `pipeline("audio-text-emotion", model=int8_copy(model), processor=processor)`.

    Raises:
        ArgumentError: this build of PyTorch has no FBGEMM.
    """
    # PyTorch has announced that it will remove quantized tensors.
    if "fbgemm" not in torch.backends.quantized.supported_engines or not hasattr(torch, "quantize_per_channel"):
        raise ArgumentError(
            f"int8 runs on x86 CPUs, through FBGEMM, which torch {torch.__version__} does not include here. Use "
            "float32 or bfloat16."
        )

    quantized = copy.deepcopy(module).eval().requires_grad_(False)

    for name, linear in [(name, part) for name, part in quantized.named_modules() if type(part) is nn.Linear]:
        parent, _, own = name.rpartition(".")
        setattr(quantized.get_submodule(parent), own, Int8Linear(linear))

    return quantized


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16. If not, PyTorch is several times slower in it than in float32."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _packed(weight: torch.Tensor, scales: torch.Tensor) -> torch.ScriptObject:
    engine = torch.backends.quantized.engine
    # The engine determines the layout; oneDNN's has no operator that takes float32.
    torch.backends.quantized.engine = "fbgemm"

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*quantized tensor creation functions")
            zeros = torch.zeros(len(scales), dtype=torch.long)
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(quantized, None)
    finally:
        torch.backends.quantized.engine = engine
