"""Operations on padded sequences: packing, attention, pooling, resampling, mixup; and a recorder of hidden states."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.configuration_utils import PreTrainedConfig

from .validation_bibier import CheckpointError


class Recorder:
    """Collects the hidden states and attention weights that a call should return.

    Args:
        config: of the model; its `output_hidden_states` and `output_attentions` apply where the caller passes None.
        hidden_states: True, or the indices of the ones to return (negative indices count from the end).
        attentions: whether to collect attention weights.
    """

    def __init__(
        self, config: PreTrainedConfig, hidden_states: bool | int | list[int] | None, attentions: bool | None
    ):
        hidden_states = config.output_hidden_states if hidden_states is None else hidden_states
        attentions = config.output_attentions if attentions is None else attentions
        wants_states = hidden_states is not None and hidden_states is not False  # 0 is an index
        self.hidden_states: list[Tensor] | None = [] if wants_states else None
        self.attentions: list[Tensor] | None = [] if attentions else None
        self._selected = None if isinstance(hidden_states, bool) else hidden_states

    def __bool__(self) -> bool:
        return self.hidden_states is not None or self.attentions is not None

    def state(self, x: Tensor) -> Tensor:
        """Record a hidden state (B, T, D) and return it."""
        if self.hidden_states is not None:
            self.hidden_states.append(x)
        return x

    def attention(self, weights: Tensor) -> None:
        """Record attention weights (B, heads, T, S)."""
        if self.attentions is not None:
            self.attentions.append(weights)

    @property
    def outputs(self) -> dict[str, Any]:
        """The fields of a model output, with None for each hidden state that was not requested."""
        states = self.hidden_states
        if states is not None and self._selected is not None:
            indices = [self._selected] if isinstance(self._selected, int) else self._selected
            wanted = {index % len(states) for index in indices if -len(states) <= index < len(states)}
            states = [state if index in wanted else None for index, state in enumerate(states)]
        return {
            "hidden_states": None if states is None else tuple(states),
            "attentions": None if self.attentions is None else tuple(self.attentions),
        }


class KeptSteps:
    """Packs the kept steps of a padded batch, so that per-step operations skip the padding.

    Only on a CPU, where padding costs time. On other devices, in compiled graphs, and without padding, sequences stay
    as they are. Per-step operations accept both forms.

    Args:
        mask: bool (B, T), True = keep.
    """

    def __init__(self, mask: Tensor):
        self.mask = mask
        can_look = mask.device.type == "cpu" and not torch.compiler.is_compiling()
        self.all_kept = can_look and bool(mask.all())
        """Whether there is known to be no padding."""
        self.index = mask.flatten().nonzero().squeeze(1) if can_look and not self.all_kept else None

    def pack(self, x: Tensor) -> Tensor:
        """Pack (B, T, D) -> (S, D), the S kept steps of all samples."""
        return x if self.index is None else x.flatten(0, 1).index_select(0, self.index)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split packed steps into those of each sample, (T_i, D)."""
        return x.unbind() if self.index is None else x.split(self.mask.sum(1).tolist())

    def join(self, samples: list[Tensor]) -> Tensor:
        """Undo `split`."""
        return torch.stack(samples) if self.index is None else torch.cat(samples)

    def unpack(self, x: Tensor) -> Tensor:
        """Undo `pack`: (S, D) -> (B, T, D), with zeros in the padding."""
        if self.index is None:
            return x
        padded = x.new_zeros(self.mask.numel(), x.shape[-1])
        padded.index_copy_(0, self.index, x)  # in place: no second copy of the zeros
        return padded.unflatten(0, self.mask.shape)


def attention_weights(query: Tensor, key: Tensor, keep: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention weights.

    Args:
        query: (..., T, D).
        key: (..., S, D).
        keep: bool, broadcast to (..., T, S); None: attend to every key.

    Returns:
        (..., T, S), rows sum to one.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if keep is not None:
        scores = scores.masked_fill(~keep, -torch.inf)
    return scores.softmax(-1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Average the kept steps over time: (B, T, D), bool (B, T) -> (B, D); zeros for a sample without any."""
    keep = mask.unsqueeze(-1)
    return (x * keep).sum(1) / keep.sum(1).clamp(min=1)


def masked_quantiles(x: Tensor, mask: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Quantiles of the kept steps over time, with linear interpolation; zeros for a sample without any.

    Args:
        x: (B, T, D).
        mask: bool (B, T).
        levels: Q levels in 0..1.

    Returns:
        (B, Q, D)
    """
    last = (mask.sum(1, keepdim=True) - 1).clamp(min=0)  # (B, 1)
    position = last * torch.tensor(levels, device=x.device, dtype=torch.float32)  # (B, Q)
    left = position.floor().long()
    right = torch.minimum(left + 1, last)
    ordered = _sorted_over_time(x.masked_fill(~mask.unsqueeze(-1), torch.inf))
    ends = (ordered.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[2])) for index in (left, right))
    values = torch.lerp(*ends, (position - left).to(x.dtype).unsqueeze(-1))
    return torch.where(mask.any(1)[:, None, None], values, 0.0)


def _sorted_over_time(x: Tensor) -> Tensor:
    if x.device.type == "cpu" and not x.requires_grad and not torch.compiler.is_compiling():
        return torch.from_numpy(np.sort(x.numpy(), axis=1))  # the same, about ten times as fast
    return x.sort(1).values


def resample(x: Tensor, mask: Tensor, lengths: Tensor | int, size: int | None = None) -> tuple[Tensor, Tensor]:
    """Interpolate the kept steps of each sample linearly to a new length (half-pixel centers, no anti-aliasing).

    Args:
        x: (B, T, D).
        mask: bool (B, T), True for the first n_i >= 1 steps of sample i.
        lengths: new length m_i of each sample, (B,), or one for all.
        size: steps M in the padded result, at least the largest m_i; None: exactly that.

    Returns:
        (B, M, D) and its bool mask (B, M). Sample i starts with
        `F.interpolate(x[i, :n_i], size=m_i, mode="linear", align_corners=False)`, followed by zeros.
    """
    given = mask.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    if isinstance(lengths, int):
        lengths, size = torch.full_like(given[:, 0], lengths), lengths
    wanted = lengths.unsqueeze(1)
    size = int(lengths.max()) if size is None else size

    step = torch.arange(size, device=x.device)
    position = ((step + 0.5) * (given / wanted) - 0.5).clamp(min=0)  # (B, M), in steps of the input
    position = torch.minimum(position, (given - 1).to(position.dtype))
    left = position.floor().long()
    right = torch.minimum(left + 1, given - 1)
    ends = (x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[2])) for index in (left, right))
    values = torch.lerp(*ends, (position - left).to(x.dtype).unsqueeze(-1))  # (B, M, D)

    keep = step < wanted  # (B, M)
    return values * keep.unsqueeze(-1), keep


def random_window(x: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Crop each sample to a random window of `size` steps.

    Args:
        x: (B, T, D).
        mask: bool (B, T), with the kept steps first.
        size: steps in a window.

    Returns:
        (B, min(T, size), D) and its bool mask.
    """
    if x.shape[1] <= size:
        return x, mask

    lengths = mask.sum(1)
    start = (torch.rand(len(x), device=x.device) * ((lengths - size).clamp(min=0) + 1)).long()
    step = torch.arange(size, device=x.device)
    index = (start.unsqueeze(1) + step).unsqueeze(-1).expand(-1, -1, x.shape[2])
    return x.gather(1, index), step < lengths.unsqueeze(1)


class Mixup:
    """Mixes each sample of a training batch with a random partner (mixup; Zhang et al., 2018).

    Args:
        batch: number of samples B.
        alpha: the weight of each pair is drawn from Beta(alpha, alpha); a small alpha gives weights near 0 or 1.
        device: of the tensors to mix.
    """

    def __init__(self, batch: int, alpha: float, device: torch.device):
        self.partner = torch.randperm(batch, device=device)
        self.weight = torch.distributions.Beta(alpha, alpha).sample((batch,)).to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """Return w_i x_i + (1 - w_i) x_partner(i) for x (B, ...)."""
        return torch.lerp(x[self.partner], x, self.weight.to(x.dtype).reshape(-1, *(1,) * (x.dim() - 1)))

    def sequences(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mix sequences (B, T, D) with mask (B, T) step by step; a pair is as long as the longer one."""
        return self(x * mask.unsqueeze(-1)), self.present(mask)

    def present(self, there: Tensor) -> Tensor:
        """Whether a sample or its partner is present: bool (B, ...) -> bool (B, ...)."""
        return there | there[self.partner]


def sinusoids(length: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Positional encoding (length, size) for an even size: sines at even dimensions, cosines at odd ones, with
    wavelengths from 2 pi to 20000 pi."""
    angle = torch.arange(length, device=device, dtype=torch.float32).unsqueeze(1) * torch.exp(
        torch.arange(0, size, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / size)
    )
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(dtype)


class Dropout(nn.Dropout):
    """`nn.Dropout` that uses [`drop`]."""

    def forward(self, input: Tensor) -> Tensor:
        return drop(input, self.p) if self.training else input


def drop(x: Tensor, p: float) -> Tensor:
    """`F.dropout(x, p)`, three times as fast on a CPU: one 64-bit random number serves four elements, so p is rounded
    to 1/65536."""
    dropped = round(p * 2**16)  # of 65536 values
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < dropped < 2**16:
        return F.dropout(x, p)
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    keep = (bits[: x.numel()].view(x.shape) >= dropped - 2**15).to(x.dtype)
    return x * keep.mul_(2**16 / (2**16 - dropped))


def finite_logits(logits: Tensor) -> Tensor:
    """Return logits unchanged, or raise CheckpointError if some are NaN or infinite."""
    if not bool(torch.isfinite(logits).all()):
        raise CheckpointError(
            "The model's logits are not finite (NaN or infinity): its weights are damaged or its dtype is too narrow. "
            "Train it again, or load it with dtype=torch.float32."
        )
    return logits
