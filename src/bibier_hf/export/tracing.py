"""What stands in for code that looks at values, and so cannot be traced, while a model is being traced.

The model's own code stays as it is: eager runs look at the data to save work (packed sequences, compiled kernels), a
graph may not.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch._higher_order_ops import scan
from torch.nn import functional as F

from ..model import mamba_bibier
from ..model.encoders_bibier import LSTMBlock


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """Within: the selective scan is one loop in the graph, LSTMs read padded sequences, and no compiled kernel or
    fused layer is used, so that the graph needs nothing but torch (or ONNX). Of this process, not of one model: trace
    in one thread."""
    replaced = [
        (mamba_bibier, "_compiled", lambda name, x: None),
        (mamba_bibier, "selective_scan", looped_scan),
        (mamba_bibier.RMSNorm, "forward", scaled_rms_norm),
        (LSTMBlock, "forward", padded_lstm),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for owner, name, value in replaced:
            setattr(owner, name, value)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
        for owner, name, value in before:
            setattr(owner, name, value)


def looped_scan(
    u: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    decay: str = "exponential",
    mask: torch.Tensor | None = None,
    reverse: bool = False,
) -> torch.Tensor:
    """[`~bibier_hf.model.mamba_bibier.selective_scan`] as one loop over the steps, of any number: ONNX's `Scan`,
    torch's `scan`."""
    exponential = decay == "exponential"
    keep = torch.ones_like(u[..., :1]) if mask is None else mask.unsqueeze(-1).to(u.dtype)
    if reverse:
        u, dt, B, C, keep = (x.flip(1) for x in (u, dt, B, C, keep))
    rates = (A if exponential else A.exp()).T.contiguous()  # (N, D): sums over N are then additions of rows

    def step(state: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        u_t, dt_t, B_t, C_t, keep_t = inputs  # (B, D), (B, D), (B, N), (B, N), (B, 1)
        if exponential:
            kept = torch.exp((dt_t * keep_t).unsqueeze(1) * rates)
        else:
            kept = torch.where(keep_t.unsqueeze(1) > 0, dt_t.unsqueeze(1) * rates, 1.0)
        state = kept * state + (dt_t * keep_t * u_t).unsqueeze(1) * B_t.unsqueeze(2)
        return state, (state * C_t.unsqueeze(2)).sum(1)

    start = u.new_zeros(u.shape[0], rates.shape[0], u.shape[2])
    _, y = scan(step, start, tuple(x.transpose(0, 1) for x in (u, dt, B, C, keep)))
    y = (y.transpose(0, 1) + u * D) * keep
    return y.flip(1) if reverse else y


def scaled_rms_norm(self: mamba_bibier.RMSNorm, x: torch.Tensor) -> torch.Tensor:
    """`RMSNorm.forward` of 1000 x, with eps a million times as large, which is the same. The optimiser of ONNX graphs
    takes an eps of 1e-8 for a zero and drops it, so that padding would become NaN."""
    scale = 1000 * torch.rsqrt((1000 * x).pow(2).mean(-1, keepdim=True) + 1e6 * self.eps)
    return x * scale * self.weight


def padded_lstm(self: LSTMBlock, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`LSTMBlock.forward` without packing, as loops: padding is on the right, so the forward direction never meets it,
    and the backward direction reads each sample turned around within its own length."""
    lengths = mask.sum(1, keepdim=True).clamp(min=1)
    step = torch.arange(x.shape[1], device=x.device)
    kept = step < lengths  # (B, T)
    outputs = [_looped_lstm(self.lstm, x, "")]
    if self.lstm.bidirectional:
        turned = torch.where(kept, lengths - 1 - step, step).unsqueeze(-1)  # its own inverse
        backward = _looped_lstm(self.lstm, x.gather(1, turned.expand(-1, -1, x.shape[2])), "_reverse")
        outputs.append(backward.gather(1, turned.expand(-1, -1, backward.shape[2])))
    return torch.cat(outputs, dim=-1) * kept.unsqueeze(-1)


def _looped_lstm(module: nn.LSTM, x: torch.Tensor, suffix: str) -> torch.Tensor:
    """One direction of a layer over x (B, T, size) -> (B, T, hidden); the gates stand in torch's order."""
    w_x, w_h, b_x, b_h = (
        getattr(module, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )

    def step(
        state: tuple[torch.Tensor, torch.Tensor], gates: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        hidden, cell = state
        entry, forget, new, out = (gates + hidden @ w_h.T).chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + entry.sigmoid() * new.tanh()
        hidden = out.sigmoid() * cell.tanh()
        return (hidden, cell), hidden.clone()

    start = x.new_zeros(x.shape[0], module.hidden_size)
    _, y = scan(step, (start, start.clone()), (F.linear(x, w_x, b_x + b_h)).transpose(0, 1))
    return y.transpose(0, 1)
