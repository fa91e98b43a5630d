"""Dynamic int8 in torch: linear layers with weights of one scale a row and activations of one scale a step, through torchao.

A scale a step, not a tensor, keeps a sample's result independent of its batch.
"""

import copy
from typing import TypeVar

from torch import nn

from .errors import ArgumentError

Module = TypeVar("Module", bound=nn.Module)


def int8_copy(module: Module) -> Module:
    """A copy of a float32 module in evaluation mode whose linear layers compute in int8; for a CPU, to infer with.

    Also for a whole model: `pipeline("audio-text-emotion", model=int8_copy(model), processor=processor)`.

    Raises:
        ArgumentError: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError as error:
        raise ArgumentError(f"int8 needs torchao ({error}). Install it: pip install 'bibier-hf[int8]'.") from error
    quantized = copy.deepcopy(module).eval().requires_grad_(False)
    quantize_(quantized, Int8DynamicActivationInt8WeightConfig())
    return quantized
