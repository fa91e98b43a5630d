"""Functions over padded sequences: packing, mean, quantiles, resampling, mixup, sinusoids, dropout; and the recorder
of hidden states."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .validation_bibier import CheckpointError


class Recorder:
    """Hidden states and attention weights of one call, as far as they are asked for.

    Args:
        hidden_states: True, or the indices of those that are wanted (negative ones count from the end).
        attentions: collect attention weights.
    """

    def __init__(self, hidden_states: bool | int | list[int] | None = False, attentions: bool | None = False):
        wants_states = hidden_states is not None and hidden_states is not False  # 0 is an index
        self.hidden_states: list[torch.Tensor] | None = [] if wants_states else None
        self.attentions: list[torch.Tensor] | None = [] if attentions else None
        self._selected = None if isinstance(hidden_states, bool) else hidden_states

    def __bool__(self) -> bool:
        return self.hidden_states is not None or self.attentions is not None

    def state(self, x: torch.Tensor) -> torch.Tensor:
        """Keep a hidden state, (B, T, D), and return it."""
        if self.hidden_states is not None:
            self.hidden_states.append(x)
        return x

    def attention(self, weights: torch.Tensor) -> None:
        """Keep attention weights, (B, heads, T, S)."""
        if self.attentions is not None:
            self.attentions.append(weights)

    @property
    def outputs(self) -> dict[str, Any]:
        """The fields of a model output; None in place of a hidden state that is not wanted."""
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
    """The kept steps of a padded batch, side by side, for what treats each step by itself: no work is done on padding.

    On a CPU only, where that work is what a batch costs; on other devices, in compiled graphs and without padding,
    sequences stay as they are. Functions of single steps take both forms alike.
    """

    def __init__(self, mask: torch.Tensor):
        """mask: bool (B, T)"""
        self.mask = mask
        looked_at = mask.device.type == "cpu" and not torch.compiler.is_compiling()
        self.all_kept = looked_at and bool(mask.all())
        """Is there no padding, as far as one looks?"""
        self.index = mask.flatten().nonzero().squeeze(1) if looked_at and not self.all_kept else None

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (S, D), the S kept steps of all samples"""
        return x if self.index is None else x.flatten(0, 1).index_select(0, self.index)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Packed steps -> those of each sample, (T_i, D)"""
        return x.unbind() if self.index is None else x.split(self.mask.sum(1).tolist())

    def join(self, samples: list[torch.Tensor]) -> torch.Tensor:
        """The reverse of `split`"""
        return torch.stack(samples) if self.index is None else torch.cat(samples)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """(S, D) -> (B, T, D), zeros in the padding"""
        if self.index is None:
            return x
        padded = x.new_zeros(self.mask.numel(), x.shape[-1])
        return padded.index_copy_(0, self.index, x).unflatten(
            0, self.mask.shape
        )  # in place: no second copy of the zeros


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over time of the kept steps: (B, T, D), bool (B, T) -> (B, D); zeros where none is kept."""
    keep = mask.unsqueeze(-1)
    return (x * keep).sum(1) / keep.sum(1).clamp(min=1)


def masked_quantiles(x: torch.Tensor, mask: torch.Tensor, levels: tuple[float, ...]) -> torch.Tensor:
    """Quantiles over time of the kept steps, linear between them: (B, T, D), bool (B, T), Q levels in 0..1 -> (B, Q,
    D); zeros where no step is kept."""
    last = (mask.sum(1, keepdim=True) - 1).clamp(min=0)  # (B, 1)
    position = last * torch.tensor(levels, device=x.device, dtype=torch.float32)  # (B, Q)
    left = position.floor().long()
    right = torch.minimum(left + 1, last)
    ordered = _sorted_over_time(x.masked_fill(~mask.unsqueeze(-1), torch.inf))
    ends = (ordered.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[2])) for index in (left, right))
    values = torch.lerp(*ends, (position - left).to(x.dtype).unsqueeze(-1))
    return torch.where(mask.any(1)[:, None, None], values, 0.0)


def _sorted_over_time(x: torch.Tensor) -> torch.Tensor:
    if x.device.type == "cpu" and not x.requires_grad and not torch.compiler.is_compiling():
        return torch.from_numpy(np.sort(x.numpy(), axis=1))  # the same, some ten times as fast
    return x.sort(1).values


def resample(
    x: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor | int, size: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear interpolation along time (half-pixel centres, no anti-aliasing) of each sample's kept part to a length of
    its own.

    Args:
        x: (B, T, D).
        mask: bool (B, T), True for the first n_i >= 1 steps of sample i.
        lengths: the length m_i of each sample's result, (B,), or one for all.
        size: steps M of the padded result, at least the largest m_i; None: just that.

    Returns:
        (B, M, D), for each sample what `F.interpolate(x[i, :n_i], size=m_i, mode="linear", align_corners=False)`
        gives, zeros after it, and the bool mask (B, M) of the result.
    """
    given = mask.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    if isinstance(lengths, int):
        lengths, size = torch.full_like(given[:, 0], lengths), lengths
    wanted = lengths.unsqueeze(1)
    size = int(lengths.max()) if size is None else size
    step = torch.arange(size, device=x.device)
    position = ((step + 0.5) * (given / wanted) - 0.5).clamp(min=0)  # (B, size), in steps of the input
    position = torch.minimum(position, (given - 1).to(position.dtype))
    left = position.floor().long()
    right = torch.minimum(left + 1, given - 1)
    index = (left.unsqueeze(-1).expand(-1, -1, x.shape[2]), right.unsqueeze(-1).expand(-1, -1, x.shape[2]))
    keep = step < wanted
    values = torch.lerp(x.gather(1, index[0]), x.gather(1, index[1]), (position - left).to(x.dtype).unsqueeze(-1))
    return values * keep.unsqueeze(-1), keep


def random_window(x: torch.Tensor, mask: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A window of `size` steps at a random place of each longer sample: (B, T, D), bool (B, T) with the kept steps
    first -> the same of length min(T, size)."""
    if x.shape[1] <= size:
        return x, mask
    lengths = mask.sum(1)
    start = (torch.rand(len(x), device=x.device) * ((lengths - size).clamp(min=0) + 1)).long()
    step = torch.arange(size, device=x.device)
    index = (start.unsqueeze(1) + step).unsqueeze(-1).expand(-1, -1, x.shape[2])
    return x.gather(1, index), step < lengths.unsqueeze(1)


class Mixup:
    """Mixes the samples of a batch in pairs, in training (Zhang et al., 2018): each with one partner by a weight of
    its own.

    Args:
        batch: number of samples B.
        alpha: the weights come from Beta(alpha, alpha); the smaller, the closer to 0 or 1.
        device: of what is to be mixed.
    """

    def __init__(self, batch: int, alpha: float, device: torch.device):
        self.partner = torch.randperm(batch, device=device)
        self.weight = torch.distributions.Beta(alpha, alpha).sample((batch,)).to(device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """w_i x_i + (1 - w_i) x_partner(i) of x (B, ...)"""
        return torch.lerp(x[self.partner], x, self.weight.to(x.dtype).reshape(-1, *(1,) * (x.dim() - 1)))

    def sequences(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of sequences (B, T, D) with their bool mask (B, T), step by step; of different lengths the longer
        one counts."""
        return self(x * mask.unsqueeze(-1)), self.present(mask)

    def present(self, there: torch.Tensor) -> torch.Tensor:
        """Is there anything of a sample or of its partner? bool (B, ...) -> bool (B, ...)"""
        return there | there[self.partner]


def sinusoids(length: int, size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Positional encoding (length, size), size even: sines at even, cosines at odd dimensions, wavelengths 2 pi to
    20000 pi."""
    angle = torch.arange(length, device=device, dtype=torch.float32).unsqueeze(1) * torch.exp(
        torch.arange(0, size, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / size)
    )
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(dtype)


class Dropout(nn.Dropout):
    """`nn.Dropout` by [`drop`]."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return drop(input, self.p) if self.training else input


def drop(x: torch.Tensor, p: float) -> torch.Tensor:
    """`F.dropout(x, p)`. On a CPU one random number of 64 bits serves four elements, which takes a third of the time;
    p is rounded to 1/65536 for that."""
    dropped = round(p * 2**16)  # of 65536 values
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < dropped < 2**16:
        return F.dropout(x, p)
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    keep = (bits[: x.numel()].view(x.shape) >= dropped - 2**15).to(x.dtype)
    return x * keep.mul_(2**16 / (2**16 - dropped))


def finite_logits(logits: torch.Tensor) -> torch.Tensor:
    """The logits as they are.

    Raises:
        CheckpointError: NaN or infinite ones.
    """
    if not bool(torch.isfinite(logits).all()):
        raise CheckpointError(
            "The model's answer is not finite (NaN or infinity): its weights are damaged, or its number type is too "
            "narrow. Train it again or load it with dtype=torch.float32."
        )
    return logits
