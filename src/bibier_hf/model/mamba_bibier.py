"""Mamba: selective state-space blocks over sequences of features, masked and in either direction.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), equations 1 to 4 and
    algorithm 2.
The parameters of `SelectiveSSM` have the names and shapes of the `mamba-ssm` package. Its kernels run on accelerators,
from the Hub (`from_pretrained(..., use_kernels=True)`) or from the installed package.

    x (B, L, D) -- in_proj --+-- a -- conv1d, SiLU -- selective scan --+-- (*) -- out_proj -- (B, L, D)
                             +-- z -------------- SiLU ----------------+
"""

import math

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan
from torch.nn import functional as F
from transformers import initialization as init
from transformers.integrations import use_kernel_func_from_hub_with_fallback, use_kernelized_func

from .configuration_bibier import BiBiERConfig, ModalityConfig
from .sequence_bibier import KeptSteps

_CHUNK_ELEMENTS = 2**19
"""State elements (steps x B x D x N) to materialize at once: few enough for the cache, many enough to amortize a
call."""


def _compiled(name: str, x: Tensor):
    """Return the operator that `bibier_hf.kernels` compiles for CPUs, if it is loaded and `x` is on the CPU.

    Exported graphs use torch only.
    """
    usable = x.device.type == "cpu" and not torch.compiler.is_exporting()
    return getattr(torch.ops.bibier_hf, name, None) if usable else None


def _on_accelerator(x: Tensor) -> bool:
    """Whether kernels from the Hub or from installed packages can run; on a CPU they would fail or fall back."""
    return x.device.type not in ("cpu", "meta") and not torch.compiler.is_exporting()


@use_kernel_func_from_hub_with_fallback("selective_scan_fn", "mamba_ssm")
def selective_scan_fn(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    use_mambapy: bool = False,
    use_associative_scan: bool = False,
    **kwargs,
) -> Tensor:
    """The scan in the layout of `mamba-ssm`, for accelerators: (B, D, L), A (D, N), B and C (B, N, L) -> (B, D, L).

    A kernel from the Hub can only replace a function with the same parameters; those after D are unused here.
    """
    u, dt, B, C = (tensor.transpose(1, 2) for tensor in (hidden_states, dt, B, C))
    y = _ChunkedScan.apply(u, dt, A.T, B, C, True, None)
    return (y if D is None else y + u * D).transpose(1, 2)


@use_kernel_func_from_hub_with_fallback("causal_conv1d_fn", "causal_conv1d")
def causal_conv1d_fn(
    hidden_states: Tensor, weight: Tensor, bias: Tensor, activation: str | None = None, **kwargs
) -> Tensor:
    """Causal depthwise convolution in the layout of `causal-conv1d`, for accelerators: (B, D, L) -> (B, D, L)."""
    taps = weight.shape[1]
    y = F.conv1d(F.pad(hidden_states, (taps - 1, 0)), weight.unsqueeze(1), bias, groups=len(weight))
    return F.silu(y) if activation == "silu" else y


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    decay: str = "exponential",
    mask: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """Selective state-space recurrence: exact, linear in L, with only a few steps of states in memory.

        h_t = decay_t h_{t-1} + dt_t B_t u_t,    y_t = C_t h_t + D u_t,    h_0 = 0,    decay_t = exp(dt_t A)

    Uses a `mamba-ssm` kernel on an accelerator or the compiled kernel of `bibier_hf` on a CPU if available, or else
    torch.

    Args:
        u: input, (B, L, D).
        dt: step sizes >= 0, (B, L, D).
        A: decay rates < 0, (D, N).
        B, C: input and output matrices of each step, (B, L, N).
        D: skip weights, (D,).
        decay: `"exponential"`, or `"product"`: decay_t = dt_t exp(A), the formula of the published code.
        mask: bool (B, L), True = keep: other steps do not change the state, and y is zero there.
        reverse: whether to run from the last step to the first.

    Returns:
        y, (B, L, D), in the dtype of `u`; states are kept in float32 (float64 for float64 input).
    """
    dtype, exponential = u.dtype, decay == "exponential"
    u, dt, A, B, C, D = (tensor.to(torch.promote_types(dtype, torch.float32)) for tensor in (u, dt, A, B, C, D))
    if not exponential:
        A = A.exp()

    if (kernel := _compiled("selective_scan", u)) is not None:
        return kernel(u, dt, A, B, C, D, mask, exponential, reverse, torch.is_grad_enabled())[0].to(dtype)

    if mask is not None:
        dt = dt * mask.unsqueeze(-1)  # a step of size zero
    if reverse:
        u, dt, B, C = (tensor.flip(1) for tensor in (u, dt, B, C))
        mask = None if mask is None else mask.flip(1)

    if torch.compiler.is_exporting():
        y = _looped_scan(u, dt, A, B, C, exponential, mask) + u * D
    elif _on_accelerator(u) and exponential and u.dtype == torch.float32:
        u_, dt_, B_, C_ = (tensor.transpose(1, 2).contiguous() for tensor in (u, dt, B, C))
        y = selective_scan_fn(u_, dt_, A, B_, C_, D).transpose(1, 2)
    else:
        y = _ChunkedScan.apply(u, dt, A.T, B, C, exponential, mask) + u * D

    if mask is not None:
        y = y * mask.unsqueeze(-1)
    return (y.flip(1) if reverse else y).to(dtype)


def _looped_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, exponential: bool, mask: Tensor | None
) -> Tensor:
    """The scan without the skip term as one loop over any number of steps, for exported graphs (torch's `scan`, ONNX's
    `Scan`)."""
    keep = torch.ones_like(u[..., :1]) if mask is None else mask.unsqueeze(-1).to(u.dtype)
    rates = A.T.contiguous()  # (N, D): sums over N are then additions of rows

    def step(state: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        u_t, dt_t, B_t, C_t, keep_t = inputs  # (B, D), (B, D), (B, N), (B, N), (B, 1)
        kept = dt_t.unsqueeze(1) * rates
        kept = torch.exp(kept) if exponential else torch.where(keep_t.unsqueeze(1) > 0, kept, 1.0)
        state = kept * state + (dt_t * u_t).unsqueeze(1) * B_t.unsqueeze(2)
        return state, (state * C_t.unsqueeze(2)).sum(1)

    start = u.new_zeros(u.shape[0], rates.shape[0], u.shape[2])
    _, y = scan(step, start, tuple(x.transpose(0, 1) for x in (u, dt, B, C, keep)))
    return y.transpose(0, 1)


class _ChunkedScan(torch.autograd.Function):
    """The scan without the skip term.

    Chunks of time are materialized in turn as (steps, B, N, D) tensors, so that all exponentials and products are a
    few large calls and the recurrence itself is one fused multiply-add per step. D comes last, because sums over N are
    then additions of long rows. Backward keeps the state at the start of each chunk and recomputes the rest. A is (N,
    D).
    """

    @staticmethod
    def forward(ctx, u, dt, A, B, C, exponential, mask):
        steps = _chunk_steps(u, A)
        state = u.new_zeros(u.shape[0], *A.shape)
        outputs, starts = [], []
        for begin in range(0, u.shape[1], steps):
            starts.append(state)
            part = slice(begin, begin + steps)
            _, states = _chunk_states(
                u[:, part], dt[:, part], A, B[:, part], state, exponential, None if mask is None else mask[:, part]
            )
            outputs.append(torch.matmul(C[:, part].transpose(0, 1).unsqueeze(-2), states).squeeze(-2))  # (steps, B, D)
            state = states[-1].clone()
        ctx.save_for_backward(u, dt, A, B, C, torch.stack(starts), mask)
        ctx.exponential = exponential
        return torch.cat(outputs).transpose(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y):
        u, dt, A, B, C, starts, mask = ctx.saved_tensors
        steps = _chunk_steps(u, A)
        grad_u, grad_dt, grad_B, grad_C = (torch.empty_like(tensor) for tensor in (u, dt, B, C))
        grad_A = torch.zeros_like(A)
        carry = torch.zeros_like(starts[0])  # gradient of a chunk's last state from the next chunk
        for index in reversed(range(len(starts))):
            part = slice(index * steps, (index + 1) * steps)
            u_c, dt_c, B_c, C_c, gy_c = (t[:, part].transpose(0, 1) for t in (u, dt, B, C, grad_y))  # (steps, B, ...)
            mask_c = None if mask is None else mask[:, part]
            decay, states = _chunk_states(
                u[:, part], dt[:, part], A, B[:, part], starts[index], ctx.exponential, mask_c
            )

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

            # dL/d(dt A) = decay_t h_{t-1} dL/dh_t, without the first factor if dt A is the decay itself. From here on,
            # everything is in place.
            grad_dtA = decay.mul_(grad_h) if ctx.exponential else grad_h
            grad_dtA[0].mul_(starts[index])
            grad_dtA[1:].mul_(states[:-1])
            grad_A += (grad_dtA * dt_c.unsqueeze(-2)).sum((0, 1))
            grad_dt[:, part] = (grad_dtA.mul_(A).sum(-2) + u_c * grad_x).transpose(0, 1)
            grad_u[:, part] = (dt_c * grad_x).transpose(0, 1)
        return grad_u, grad_dt, grad_A, grad_B, grad_C, None, None


def _chunk_steps(u: Tensor, A: Tensor) -> int:
    return max(1, min(u.shape[1], _CHUNK_ELEMENTS // (u.shape[0] * A.numel())))


def _chunk_states(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, state: Tensor, exponential: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return decay and states, both (steps, B, N, D), of a chunk that starts from `state` (B, N, D)."""
    dt = dt.transpose(0, 1)
    decay = dt.unsqueeze(-2) * A
    if exponential:
        decay.exp_()
    elif mask is not None:
        decay.masked_fill_(~mask.T[..., None, None], 1)
    states = (dt * u.transpose(0, 1)).unsqueeze(-2) * B.transpose(0, 1).unsqueeze(-1)
    for step in range(len(states)):
        state = states[step].addcmul_(decay[step], state)
    return decay, states


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None = None, reverse: bool = False) -> Tensor:
    """SiLU of a causal depthwise convolution.

        y_t = silu(bias + sum_k weight_k x_{t - (K - 1) + k})

    Args:
        x: (B, L, D).
        weight: (D, K).
        bias: (D,).
        mask: bool (B, L), True = keep: other steps count as zeros, and the result is undefined there.
        reverse: whether to run from the last step to the first.

    Returns:
        y, (B, L, D), in the dtype of `x`.
    """
    dtype = x.dtype
    x, weight, bias = (tensor.to(torch.promote_types(dtype, torch.float32)) for tensor in (x, weight, bias))
    if (kernel := _compiled("causal_conv", x)) is not None:
        return kernel(x, weight, bias, mask, reverse).to(dtype)

    if mask is not None:
        x = x * mask.unsqueeze(-1)
    taps, (_, length, size) = weight.shape[1], x.shape
    kernel_fits = taps in (2, 3, 4) and size % 8 == 0 and x.dtype == torch.float32
    if _on_accelerator(x) and kernel_fits:
        x = (x.flip(1) if reverse else x).contiguous()
        y = causal_conv1d_fn(x.transpose(1, 2), weight, bias, activation="silu").transpose(1, 2)
        return (y.flip(1) if reverse else y).to(dtype)

    x = F.pad(x, (0, 0, 0, taps - 1) if reverse else (0, 0, taps - 1, 0))
    y = bias
    for tap in range(taps):
        start = taps - 1 - tap if reverse else tap
        y = torch.addcmul(y, x[:, start : start + length], weight[:, tap])
    return F.silu(y).to(dtype)


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dimension."""

    def __init__(self, size: int, eps: float = 1e-8):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            # The same, scaled: the optimizer of ONNX graphs drops an eps of 1e-8 as zero, and padding becomes NaN.
            scale = 1000 * torch.rsqrt((1000 * x).pow(2).mean(-1, keepdim=True) + 1e6 * self.eps)
            return x * scale * self.weight
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (x * scale.to(x.dtype)) * self.weight


@use_kernelized_func([selective_scan_fn, causal_conv1d_fn])
class SelectiveSSM(nn.Module):
    """Causal depthwise convolution, then the selective scan, in one direction of time.

    Args:
        size: number of channels D.
        state_size: states per channel N.
        conv_kernel: width of the convolution.
        dt_rank: rank of the projection to the step sizes.
        decay: `"exponential"`: decay exp(-dt exp(A_log)), and a separate bias of the step size. `"product"`: exp(-A)
            dt as in the published code, where D is also that bias and nothing keeps the decay below one.
    """

    A_log: nn.Parameter
    A: nn.Parameter

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
        """Initialize as in the Mamba paper: A = -(1..N), step sizes log-uniform in 0.001..0.1, D = 1.

        With `"product"`, A = 1..N and D = 1.
        """
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
        init.zeros_(self.conv1d.bias)  # ty: ignore[invalid-argument-type] - it has a bias

    def forward(self, a: Tensor, mask: Tensor, reverse: bool = False) -> Tensor:
        """Map (B, L, D), bool mask (B, L), True = keep -> (B, L, D). Values at masked steps are undefined."""
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        a = causal_conv(a, weight, bias, mask, reverse)  # ty: ignore[invalid-argument-type] - it has a bias
        dt, B, C = self.x_proj(a).split([self.dt_rank, self.state_size, self.state_size], dim=-1)
        exponential = self.decay == "exponential"
        dt = F.softplus((self.dt_proj(dt) if exponential else self.dt_proj(dt) + self.D).float())
        A = -torch.exp(self.A_log.float()) if exponential else -self.A.float()
        return selective_scan(a, dt, A, B, C, self.D, self.decay, mask, reverse)


class MambaBlock(nn.Module):
    """Gated selective state-space block (see the diagram at the top of this module), optionally bidirectional.

    Args:
        size: width of input and output.
        inner_size: D of the scan.
        state_size, conv_kernel, dt_rank, decay: as in [`SelectiveSSM`]; dt_rank None: size / 16.
        bidirectional: whether to add a scan in the reverse direction, with its own parameters but the same projections
            in and out.
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

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (B, L, size), bool mask (B, L) -> (B, L, size)."""
        steps = KeptSteps(mask)
        a, z = self.in_proj(steps.pack(x)).chunk(2, dim=-1)
        a = steps.unpack(a)  # (B, L, D)
        y = self.forward_ssm(a, mask)
        if self.backward_ssm is not None:
            y = y + self.backward_ssm(a, mask, reverse=True)
        return steps.unpack(self.out_proj(steps.pack(y) * F.silu(z)))


def mamba_block(config: BiBiERConfig, sizes: BiBiERConfig | ModalityConfig) -> MambaBlock:
    """Build a block from the configuration.

    Args:
        config: of the model, which determines the behavior.
        sizes: the configuration with the sizes: that of a modality, or of the model for the fusion.
    """
    return MambaBlock(
        sizes.hidden_size,
        inner_size=max(1, round(sizes.mamba_expand * sizes.hidden_size)),
        state_size=sizes.mamba_state_size,
        conv_kernel=sizes.mamba_conv_kernel,
        dt_rank=sizes.mamba_dt_rank,
        bidirectional=not config.reproduces("unidirectional"),
        decay="product" if config.reproduces("product_decay") else "exponential",
    )
