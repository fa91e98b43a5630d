"""The compiled library as PyTorch operators, with gradients, and with shapes for `torch.compile` and
`torch.export`."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from .building import KernelError

_library: ctypes.CDLL


def register(path: Path) -> None:
    """Load the library and define `torch.ops.bibier_hf.selective_scan` and `causal_conv` for CPU tensors, once per
    process.

    Raises:
        KernelError: the file is not a library that this machine can load.
    """
    global _library

    try:
        _library = ctypes.CDLL(str(path))
        _library.scan_chunk.restype = _library.scan_group.restype = ctypes.c_int64
    except (OSError, AttributeError) as error:
        raise KernelError(f"The compiled kernels cannot be loaded: {error}. Delete {path} to rebuild them.") from error

    for name, function, shapes in (
        ("selective_scan", selective_scan, _scan_shapes),
        ("selective_scan_backward", _scan_backward, _scan_backward_shapes),
        ("causal_conv", causal_conv, _conv_shapes),
        ("causal_conv_backward", _conv_backward, _conv_backward_shapes),
    ):
        operator = torch.library.custom_op(f"bibier_hf::{name}", function, mutates_args=(), device_types="cpu")
        operator.register_fake(shapes)

    torch.library.register_autograd("bibier_hf::selective_scan", _scan_gradients, setup_context=_keep_for_scan)
    torch.library.register_autograd("bibier_hf::causal_conv", _conv_gradients, setup_context=_keep_for_conv)


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    mask: Tensor | None,
    exponential: bool,
    reverse: bool,
    save_states: bool,
) -> tuple[Tensor, Tensor]:
    """Return y (B, L, D), zero at masked steps, and the states before each chunk of steps (B, chunks, N, D).

    Args:
        u, dt, A, B, C, D: as in the model's `selective_scan`, all float32 or all float64; A is exp(A) if `exponential`
            is false.
        mask: bool (B, L), True = keep.
        exponential: decay exp(dt A) instead of dt A.
        reverse: from the last step to the first.
        save_states: keep the states for a backward pass; otherwise there are no chunks.
    """
    inputs, mask, sizes = _scan_arguments(u, dt, A, B, C, D, mask)
    y, saved = _scan_shapes(u, dt, A, B, C, D, mask, exponential, reverse, save_states)
    flags = (exponential, reverse)
    _library.scan_forward(*_call(inputs, mask, sizes), *flags, _address(y), _address(saved) if save_states else None)

    return y, saved


def _scan_shapes(u, dt, A, B, C, D, mask, exponential, reverse, save_states):
    chunks = -(-u.shape[1] // _library.scan_chunk()) if save_states else 0
    return u.new_empty(u.shape), u.new_empty(u.shape[0], chunks, *A.T.shape)


def _scan_backward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    mask: Tensor | None,
    exponential: bool,
    reverse: bool,
    saved: Tensor,
    grad_y: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs, mask, sizes = _scan_arguments(u, dt, A, B, C, D, mask)
    batch, _, channels = u.shape
    groups = -(-channels // _library.scan_group(u.dtype == torch.float64))
    grads = [
        u.new_empty(shape)
        for shape in (u.shape, u.shape, (batch, *A.T.shape), (groups, *B.shape), (groups, *C.shape), (batch, channels))
    ]
    grad_y = grad_y.contiguous()
    flags = (exponential, reverse)
    _library.scan_backward(*_call(inputs, mask, sizes), *flags, _address(saved), _address(grad_y), _addresses(grads))
    grad_u, grad_dt, *parts = grads
    grad_A, grad_B, grad_C, grad_D = (part.sum(0) for part in parts)

    return grad_u, grad_dt, grad_A.T.contiguous(), grad_B, grad_C, grad_D


def _scan_backward_shapes(u, dt, A, B, C, D, mask, exponential, reverse, saved, grad_y):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (u, dt, A, B, C, D))


def _keep_for_scan(ctx, inputs, output):
    *tensors, ctx.exponential, ctx.reverse, saved_states = inputs
    if not saved_states and any(ctx.needs_input_grad):
        raise RuntimeError("selective_scan was called with save_states=False, but its inputs need gradients.")

    ctx.save_for_backward(*tensors, output[1])


def _scan_gradients(ctx, grad_y, _):
    *tensors, saved = ctx.saved_tensors
    grads = torch.ops.bibier_hf.selective_scan_backward(*tensors, ctx.exponential, ctx.reverse, saved, grad_y)
    return *grads, None, None, None, None


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, reverse: bool) -> Tensor:
    """Return the SiLU of the causal depthwise convolution of x (B, L, D) with weight (D, K) and bias (D,).

    Masked steps count as zeros and give zeros.
    """
    inputs, mask, sizes = _conv_arguments(x, weight, bias, mask)
    y = x.new_empty(x.shape)
    _library.conv_forward(*_call(inputs, mask, sizes), reverse, _address(y))

    return y


def _conv_shapes(x, weight, bias, mask, reverse):
    return x.new_empty(x.shape)


def _conv_backward(
    x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, reverse: bool, grad_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    inputs, mask, sizes = _conv_arguments(x, weight, bias, mask)
    batch, _, channels = x.shape
    grads = [x.new_empty(shape) for shape in (x.shape, (batch, *weight.T.shape), (batch, channels))]
    grad_y = grad_y.contiguous()
    _library.conv_backward(*_call(inputs, mask, sizes), reverse, _address(grad_y), _addresses(grads))

    return grads[0], grads[1].sum(0).T.contiguous(), grads[2].sum(0)


def _conv_backward_shapes(x, weight, bias, mask, reverse, grad_y):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (x, weight, bias))


def _keep_for_conv(ctx, inputs, output):
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _conv_gradients(ctx, grad_y):
    return *torch.ops.bibier_hf.causal_conv_backward(*ctx.saved_tensors, ctx.reverse, grad_y), None, None


# The functions below turn tensors into bare addresses, so they must catch every invalid argument.


def _scan_arguments(u, dt, A, B, C, D, mask):
    (batch, length, channels), states = u.shape, A.shape[1]
    wanted = (u.shape, u.shape, (channels, states), (batch, length, states), (batch, length, states), (channels,))
    _check((u, dt, A, B, C, D), wanted, mask)
    u, dt, B, C = (_rows(tensor) for tensor in (u, dt, B, C))
    strides = [stride for tensor in (u, dt, B, C) for stride in tensor.stride()[:2]]

    return (u, dt, A.T.contiguous(), B, C, D.contiguous()), _bytes(mask), (batch, length, channels, states, *strides)


def _conv_arguments(x, weight, bias, mask):
    channels = x.shape[2]
    _check((x, weight, bias), (x.shape, (channels, weight.shape[1]), (channels,)), mask)
    x = _rows(x)

    return (x, weight.T.contiguous(), bias.contiguous()), _bytes(mask), (*x.shape, weight.shape[1], *x.stride()[:2])


def _check(tensors, shapes, mask):
    dtype = tensors[0].dtype
    given = [tuple(tensor.shape) for tensor in tensors]
    if given != [tuple(shape) for shape in shapes]:
        raise ValueError(
            f"The shapes {given} do not fit together; with the first one, they must be "
            f"{[tuple(shape) for shape in shapes]}."
        )

    if dtype not in (torch.float32, torch.float64) or any(tensor.dtype != dtype for tensor in tensors):
        raise ValueError(f"All tensors must be float32 or all float64, got {[tensor.dtype for tensor in tensors]}.")

    if mask is not None and (mask.dtype != torch.bool or mask.shape != tensors[0].shape[:2]):
        raise ValueError(f"The mask must be bool {tuple(tensors[0].shape[:2])}, got {mask.dtype} {tuple(mask.shape)}.")


def _rows(tensor: Tensor) -> Tensor:
    """The tensor, copied only if its last dimension is not contiguous."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.contiguous()


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _addresses(tensors) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _call(inputs, mask, sizes) -> tuple:
    """The arguments that all functions of the library begin with."""
    return inputs[0].dtype == torch.float64, _addresses(inputs), _address(mask), (ctypes.c_int64 * len(sizes))(*sizes)
