"""Mamba: selective state-space blocks over sequences of features, masked and in either direction.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), equations 1 to 4 and algorithm 2.
The parameters of `SelectiveSSM` carry the names and shapes of the `mamba-ssm` package, whose CUDA kernels are used when they are installed.

    x (B, L, D) -- in_proj --+-- a -- conv1d, SiLU -- selective scan --+-- (*) -- out_proj -- (B, L, D)
                             +-- z -------------- SiLU ----------------+
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

try:  # CUDA kernels; neither can be imported without a GPU
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn as _cuda_scan
except (ImportError, OSError, RuntimeError):  # what absent packages, broken builds and missing drivers raise
    _cuda_scan = None

_CHUNK_ELEMENTS = 2**19
"""State elements (steps x B x D x N) that are materialised at once: small enough for the cache, large enough to amortise a call."""


def selective_scan(
    u: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    decay: str = "exponential",
) -> torch.Tensor:
    """Selective state-space recurrence, exact, linear in L, with memory for a few steps of states only.

        h_t = decay_t h_{t-1} + dt_t B_t u_t,    y_t = C_t h_t + D u_t,    h_0 = 0,    decay_t = exp(dt_t A)

    A step with dt = 0 leaves the state as it was, which is how padding is skipped.

    Args:
        u: input, (B, L, D).
        dt: step sizes >= 0, (B, L, D).
        A: decay rates < 0, (D, N).
        B, C: input and output matrices of each step, (B, L, N).
        D: skip weights, (D,).
        decay: `"exponential"`, or `"product"`: decay_t = dt_t exp(A), the published code's formula, under which padding is not skipped.

    Returns:
        y, (B, L, D), in the dtype of `u`; states are kept in float32 (float64 for float64 input).
    """
    if u.is_cuda and _cuda_scan is not None and decay == "exponential":
        y = _cuda_scan(u.transpose(1, 2), dt.transpose(1, 2), A.float(), B.transpose(1, 2), C.transpose(1, 2), D.float())
        return y.transpose(1, 2).to(u.dtype)
    dtype = torch.promote_types(u.dtype, torch.float32)
    u_, dt, A, B, C = (tensor.to(dtype) for tensor in (u, dt, A, B, C))
    A = A.T if decay == "exponential" else A.T.exp()
    return (_ChunkedScan.apply(u_, dt, A, B, C, decay == "exponential") + u_ * D.to(dtype)).to(u.dtype)


class _ChunkedScan(torch.autograd.Function):
    """The scan without the skip term.

    Chunks of time are materialised one after the other as (steps, B, N, D) tensors, so that all exponentials and products are a few
    large calls and the recurrence itself is one fused multiply-add a step; D stands last because sums over N are then additions of long
    rows. Backward keeps the state at each chunk's start and recomputes the rest. A comes as (N, D).
    """

    @staticmethod
    def forward(ctx, u, dt, A, B, C, exponential):
        steps = _chunk_steps(u, A)
        state = u.new_zeros(u.shape[0], *A.shape)
        outputs, starts = [], []
        for begin in range(0, u.shape[1], steps):
            starts.append(state)
            part = slice(begin, begin + steps)
            _, states = _chunk_states(u[:, part], dt[:, part], A, B[:, part], state, exponential)
            outputs.append(torch.matmul(C[:, part].transpose(0, 1).unsqueeze(-2), states).squeeze(-2))  # (steps, B, D)
            state = states[-1].clone()
        ctx.save_for_backward(u, dt, A, B, C, torch.stack(starts))
        ctx.exponential = exponential
        return torch.cat(outputs).transpose(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y):
        u, dt, A, B, C, starts = ctx.saved_tensors
        steps = _chunk_steps(u, A)
        grad_u, grad_dt, grad_B, grad_C = (torch.empty_like(tensor) for tensor in (u, dt, B, C))
        grad_A = torch.zeros_like(A)
        carry = torch.zeros_like(starts[0])  # gradient that reaches a chunk's last state from the chunk after it
        for index in reversed(range(len(starts))):
            part = slice(index * steps, (index + 1) * steps)
            u_c, dt_c, B_c, C_c, gy_c = (t[:, part].transpose(0, 1) for t in (u, dt, B, C, grad_y))  # (steps, B, ...)
            decay, states = _chunk_states(u[:, part], dt[:, part], A, B[:, part], starts[index], ctx.exponential)
            # dL/dh_t = C_t dy_t + decay_{t+1} dL/dh_{t+1}
            grad_h = gy_c.unsqueeze(-2) * C_c.unsqueeze(-1)  # (steps, B, N, D)
            grad_h[-1] += carry
            for step in range(len(grad_h) - 2, -1, -1):
                grad_h[step].addcmul_(decay[step + 1], grad_h[step + 1])
            carry = decay[0] * grad_h[0]
            x_c = dt_c * u_c
            grad_C[:, part] = (gy_c.unsqueeze(-2) * states).sum(-1).transpose(0, 1)
            grad_B[:, part] = (x_c.unsqueeze(-2) * grad_h).sum(-1).transpose(0, 1)
            grad_x = torch.matmul(B_c.unsqueeze(-2), grad_h).squeeze(-2)  # of dt u, (steps, B, D)
            # dL/d(dt A), from here on in place: decay_t h_{t-1} dL/dh_t, without the first factor where dt A is the decay itself
            grad_dtA = decay.mul_(grad_h) if ctx.exponential else grad_h
            grad_dtA[0].mul_(starts[index])
            grad_dtA[1:].mul_(states[:-1])
            grad_A += (grad_dtA * dt_c.unsqueeze(-2)).sum((0, 1))
            grad_dt[:, part] = (grad_dtA.mul_(A).sum(-2) + u_c * grad_x).transpose(0, 1)
            grad_u[:, part] = (dt_c * grad_x).transpose(0, 1)
        return grad_u, grad_dt, grad_A, grad_B, grad_C, None


def _chunk_steps(u: torch.Tensor, A: torch.Tensor) -> int:
    return max(1, min(u.shape[1], _CHUNK_ELEMENTS // (u.shape[0] * A.numel())))


def _chunk_states(
    u: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, state: torch.Tensor, exponential: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(decay, states), both (steps, B, N, D), of a chunk that starts from `state` (B, N, D)."""
    dt = dt.transpose(0, 1)
    decay = dt.unsqueeze(-2) * A
    if exponential:
        decay.exp_()
    states = (dt * u.transpose(0, 1)).unsqueeze(-2) * B.transpose(0, 1).unsqueeze(-1)
    for step in range(len(states)):
        state = states[step].addcmul_(decay[step], state)
    return decay, states


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dimension (SPEC of the method, Section 3.2)."""

    def __init__(self, size: int, eps: float = 1e-8):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (x * scale.to(x.dtype)) * self.weight


class SelectiveSSM(nn.Module):
    """Causal depthwise convolution, then the selective scan, in one direction of time.

    Args:
        size: D, channels.
        state_size: N, states a channel.
        conv_kernel: width of the convolution.
        dt_rank: rank of the projection to the step sizes.
        decay: `"exponential"`: decay exp(-dt exp(A_log)) and a bias of its own for the step size. `"product"`: the published code's
            exp(-A) dt, where D is that bias, too; nothing keeps the decay below one.
    """

    def __init__(self, size: int, state_size: int, conv_kernel: int, dt_rank: int, decay: str = "exponential"):
        super().__init__()
        self.state_size, self.dt_rank, self.decay = state_size, dt_rank, decay
        self.conv1d = nn.Conv1d(size, size, conv_kernel, groups=size, padding=conv_kernel - 1)
        self.x_proj = nn.Linear(size, dt_rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(dt_rank, size, bias=decay == "exponential")
        name = "A_log" if decay == "exponential" else "A"
        self.register_parameter(name, nn.Parameter(torch.empty(size, state_size)))
        self.D = nn.Parameter(torch.empty(size))

    def init_parameters(self) -> None:
        """The initialisation of the Mamba paper: A = -(1..N), step sizes log-uniform in 0.001..0.1, D = 1. `"product"`: A = 1..N, D = 1."""
        rates = torch.arange(1, self.state_size + 1, dtype=torch.float32, device=self.D.device)
        init.ones_(self.D)
        if self.decay == "exponential":
            init.copy_(self.A_log, rates.log().expand_as(self.A_log))
            init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
            low, high = math.log(1e-3), math.log(1e-1)
            dt = torch.exp(torch.rand(self.D.shape[0], device=self.D.device) * (high - low) + low)
            init.copy_(self.dt_proj.bias, dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        else:
            init.copy_(self.A, rates.expand_as(self.A))
        bound = self.conv1d.kernel_size[0] ** -0.5
        init.uniform_(self.conv1d.weight, -bound, bound)
        init.zeros_(self.conv1d.bias)

    def forward(self, a: torch.Tensor, mask: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        """(B, L, D), bool mask (B, L) with True = keep -> (B, L, D). Values at masked steps are of no meaning."""
        if reverse:  # padding comes first then; it is skipped like anywhere else
            a, mask = a.flip(1), mask.flip(1)
        keep = mask.unsqueeze(-1)
        a = self.conv1d((a * keep).transpose(1, 2))[..., : a.shape[1]].transpose(1, 2)
        a = F.silu(a)
        dt, B, C = self.x_proj(a).split([self.dt_rank, self.state_size, self.state_size], dim=-1)
        exponential = self.decay == "exponential"
        dt = F.softplus((self.dt_proj(dt) if exponential else self.dt_proj(dt) + self.D).float()) * keep
        A = -torch.exp(self.A_log.float()) if exponential else -self.A.float()
        y = selective_scan(a, dt, A, B, C, self.D, self.decay)
        return y.flip(1) if reverse else y


class MambaBlock(nn.Module):
    """Gated selective state-space block (module docstring), optionally with a second scan from the end of each sequence.

    Args:
        size: width of input and output.
        inner_size: D of the scan.
        state_size, conv_kernel, dt_rank, decay: those of [`SelectiveSSM`]; dt_rank None: size / 16.
        bidirectional: add a scan in the reverse direction, with parameters of its own; the two share the projections in and out.
    """

    def __init__(
        self,
        size: int,
        inner_size: int,
        state_size: int = 16,
        conv_kernel: int = 4,
        dt_rank: int | None = None,
        bidirectional: bool = False,
        decay: str = "exponential",
    ):
        super().__init__()
        options = (inner_size, state_size, conv_kernel, dt_rank or max(1, size // 16), decay)
        self.in_proj = nn.Linear(size, 2 * inner_size, bias=False)
        self.forward_ssm = SelectiveSSM(*options)
        self.backward_ssm = SelectiveSSM(*options) if bidirectional else None
        self.out_proj = nn.Linear(inner_size, size, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, size), bool mask (B, L) -> (B, L, size)"""
        a, z = self.in_proj(x).chunk(2, dim=-1)
        y = self.forward_ssm(a, mask)
        if self.backward_ssm is not None:
            y = y + self.backward_ssm(a, mask, reverse=True)
        return self.out_proj(y * F.silu(z))
