"""Rows of the selective scan, at the sizes of the published text model: B 32, L 95, D 512, N 16."""

import functools
from collections.abc import Callable

import torch
from torch import nn

import textbook
from bibier_hf.model.mamba_bibier import MambaBlock, SelectiveSSM, selective_scan
from measuring import Row, compare, peak_bytes

BATCH, LENGTH, CHANNELS, STATES = 32, 95, 512, 16
NAIVE = "naive loop over (B, L, D, N) tensors"
LIMIT = "one exp over all B L D N elements"


@functools.cache
def inputs() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    u, dt = torch.randn(BATCH, LENGTH, CHANNELS), 0.1 * torch.rand(BATCH, LENGTH, CHANNELS)
    B, C = torch.randn(BATCH, LENGTH, STATES), torch.randn(BATCH, LENGTH, STATES)
    A = -torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1)

    return tuple(tensor.requires_grad_() for tensor in (u, dt, A, B, C, torch.ones(CHANNELS)))


@torch.no_grad()
def forward(scan: Callable) -> None:
    scan(*inputs())


def forward_backward(scan: Callable) -> None:
    torch.autograd.grad(scan(*inputs()).sum(), inputs())


def scan_forward() -> Row:
    run = functools.partial(forward, selective_scan), functools.partial(forward, textbook.scan)
    return compare("scan_forward", NAIVE, 8, *run)


def scan_training() -> Row:
    run = functools.partial(forward_backward, selective_scan), functools.partial(forward_backward, textbook.scan)
    return compare("scan_training", NAIVE, 8, *run)


def scan_mambapy() -> Row:
    run = (
        functools.partial(forward_backward, selective_scan),
        functools.partial(forward_backward, textbook.scan_mambapy),
    )
    return compare("scan_mambapy", "parallel scan of mambapy", 8, *run)


def scan_transformers() -> Row:
    """Whole blocks: the plain path of transformers cannot be called without its projections."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(
        hidden_size=CHANNELS // 2, expand=2, state_size=STATES, conv_kernel=4, time_step_rank=16, use_bias=False
    )
    theirs, ours = MambaMixer(config, layer_idx=0), initialized(MambaBlock(CHANNELS // 2, CHANNELS, STATES, 4, 16))
    x, mask = torch.randn(BATCH, LENGTH, CHANNELS // 2), torch.ones(BATCH, LENGTH, dtype=torch.bool)

    def train(block: nn.Module, *arguments: torch.Tensor) -> None:
        output = block(*arguments)
        (output[0] if isinstance(output, tuple) else output).sum().backward()

    run = functools.partial(train, ours, x, mask), functools.partial(train, theirs, x)

    return compare(
        "scan_transformers",
        "MambaMixer of transformers, plain path",
        20,
        *run,
        note="whole block, width 256",
        warm_up=False,
    )


def limit_forward() -> Row:
    """How close the scan is to the work that no exact scan can avoid."""
    return _limit("limit_forward", 1 / 2, functools.partial(forward, selective_scan))


def limit_training() -> Row:
    return _limit("limit_training", 1 / 7, functools.partial(forward_backward, selective_scan))


def _limit(name: str, goal: float, ours: Callable[[], None]) -> Row:
    exponents = -torch.rand(BATCH, LENGTH, CHANNELS, STATES)
    result = torch.empty_like(exponents)
    return compare(name, LIMIT, goal, ours, lambda: torch.exp(exponents, out=result), note="limit / ours")


def scan_memory() -> Row:
    sides = {
        name: peak_bytes(functools.partial(forward_backward, scan), prepare=_prepare)
        for name, scan in (("ours", selective_scan), ("theirs", textbook.scan))
    }
    ours, theirs = (sides[side] / 2**20 for side in ("ours", "theirs"))
    note = f"peak of memory, not time: {ours:.0f} MiB against {theirs:.0f} MiB"

    return Row("scan_memory", NAIVE, theirs / max(ours, 1.0), 5, 0.0, 0.0, (0.0, 0.0), (0.0, 0.0), 1, note)


def _prepare() -> None:
    """Inputs, kernels and whatever torch sets up at its first backward pass."""
    forward_backward(lambda u, dt, A, B, C, D: u.sum() + dt.sum() + A.sum() + B.sum() + C.sum() + D.sum())
    u, dt, A, B, C, D = small = [tensor[:1, :2] if tensor.dim() == 3 else tensor for tensor in inputs()]
    torch.autograd.grad(selective_scan(u, dt, A, B, C, D).sum(), small)


def initialized(module: nn.Module) -> nn.Module:
    """Parameters as a model initializes them."""
    for part in module.modules():
        if isinstance(part, SelectiveSSM):
            with torch.no_grad():
                part.init_parameters()

    return module


ROWS = {
    "scan_forward": scan_forward,
    "scan_training": scan_training,
    "scan_mambapy": scan_mambapy,
    "scan_transformers": scan_transformers,
    "limit_forward": limit_forward,
    "limit_training": limit_training,
    "scan_memory": scan_memory,
}
