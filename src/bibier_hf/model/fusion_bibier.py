"""Fusion: encoded frames of both modalities -> one vector for the classifier (Sections 4 and 5 of the method).

    audio (B, T_a, D_a) -> project -+-> N x cross-modal layers -+-> tau(audio) (B, H), phi(audio) (B, L) -+
                                    |  (audio <-> text)         |                                         +-> (B, output_size)
    text  (B, T_t, D_t) -> project -+---------------------------+-> tau(text)  (B, H), phi(text)  (B, L) -+

tau is the mean over time, phi the mean over features, a curve over time that is resampled to L = `seg_len` points.

The published system lets each modality attend with its own sequence as the value, so that the other one enters through the
attention weights only, cuts both sequences to one length, and knows no padding. Here keys and values come from the other modality,
at its own length, and padding is masked everywhere; a result therefore never depends on the batch it was computed in.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_bibier import BiBiERConfig
from .encoders_bibier import masked_mean


def resample_to_length(x: torch.Tensor, mask: torch.Tensor, length: int) -> torch.Tensor:
    """Linear interpolation (half-pixel centres, no anti-aliasing) of each sample's valid part to one length.

    Args:
        x: (B, T).
        mask: bool (B, T), True for the first n_i >= 1 steps of sample i.
        length: L, points to produce.

    Returns:
        (B, L), for each sample what `F.interpolate(x[i, :n_i], size=length, mode="linear", align_corners=False)` gives.
    """
    last = mask.sum(1, keepdim=True).clamp(min=1) - 1  # (B, 1)
    centre = torch.arange(length, device=x.device, dtype=torch.float32) + 0.5
    position = (centre * ((last + 1) / length) - 0.5).clamp(min=0)  # (B, L), in steps of the input
    position = torch.minimum(position, last.to(position.dtype))
    left = position.floor().long()
    right = torch.minimum(left + 1, last)
    fraction = (position - left).to(x.dtype)
    return torch.lerp(x.gather(1, left), x.gather(1, right), fraction)


def sinusoids(length: int, size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Positional encoding (length, size): sines at even, cosines at odd dimensions, wavelengths 2 pi to 20000 pi."""
    angle = torch.arange(length, device=device, dtype=torch.float32).unsqueeze(1) * torch.exp(
        torch.arange(0, size, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / size)
    )
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(dtype)


class Projection(nn.Sequential):
    """Linear -> LayerNorm -> Dropout"""

    def __init__(self, in_size: int, out_size: int, dropout: float):
        super().__init__(nn.Linear(in_size, out_size), nn.LayerNorm(out_size), nn.Dropout(dropout))


class FeedForward(nn.Module):
    """layer_2(Dropout(GELU(layer_1(x))))"""

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.layer_1 = nn.Linear(size, size)
        self.layer_2 = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer_2(self.dropout(F.gelu(self.layer_1(x))))


class CrossModalLayer(nn.Module):
    """Transformer layer whose queries come from one modality and whose keys and values come from the other (post-norm)."""

    def __init__(self, config: BiBiERConfig):
        super().__init__()
        size = config.hidden_size
        self.attention = nn.MultiheadAttention(size, config.num_attention_heads, dropout=config.dropout, batch_first=True)
        self.attention_norm = nn.LayerNorm(size)
        self.feed_forward = FeedForward(size, config.dropout)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, own: torch.Tensor, other: torch.Tensor, other_mask: torch.Tensor) -> torch.Tensor:
        """own (B, T, H), other (B, S, H), bool mask of the other (B, S) with at least one True a row -> (B, T, H)"""
        attended, _ = self.attention(own, other, other, key_padding_mask=~other_mask, need_weights=False)
        x = self.attention_norm(own + self.dropout(attended))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class CrossModalEncoder(nn.Module):
    """Projects both modalities to width H and lets them exchange information through `num_fusion_layers` pairs of cross-modal layers.

    Both layers of a pair read the same inputs, and their outputs are added to them.
    """

    def __init__(self, config: BiBiERConfig):
        super().__init__()
        self.positional_encoding = config.positional_encoding
        self.audio_proj = Projection(config.audio_encoder_size, config.hidden_size, config.dropout)
        self.text_proj = Projection(config.text_encoder_size, config.hidden_size, config.dropout)
        self.audio_layers = nn.ModuleList(CrossModalLayer(config) for _ in range(config.num_fusion_layers))
        self.text_layers = nn.ModuleList(CrossModalLayer(config) for _ in range(config.num_fusion_layers))

    def forward(
        self, audio: torch.Tensor, audio_mask: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T_a, D_a), (B, T_a), (B, T_t, D_t), (B, T_t) -> (B, T_a, H), (B, T_t, H)"""
        audio, text = self.audio_proj(audio), self.text_proj(text)
        if self.positional_encoding:
            audio = audio + sinusoids(audio.shape[1], audio.shape[2], audio.device, audio.dtype)
            text = text + sinusoids(text.shape[1], text.shape[2], text.device, text.dtype)
        for audio_layer, text_layer in zip(self.audio_layers, self.text_layers, strict=True):
            audio, text = audio + audio_layer(audio, text, text_mask), text + text_layer(text, audio, audio_mask)
        return audio, text


class BiFormerFusion(nn.Module):
    """Cross-modal transformer; concatenates [tau(audio), phi(audio), tau(text), phi(text)]."""

    def __init__(self, config: BiBiERConfig):
        super().__init__()
        self.seg_len = config.seg_len
        self.output_size = 2 * (config.hidden_size + config.seg_len)
        self.cross_modal = CrossModalEncoder(config)

    def forward(self, audio: torch.Tensor, audio_mask: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
        """(B, T_a, D_a), bool (B, T_a), (B, T_t, D_t), bool (B, T_t) -> (B, output_size)"""
        audio, text = self.cross_modal(audio, audio_mask, text, text_mask)
        pooled = []
        for x, mask in ((audio, audio_mask), (text, text_mask)):
            pooled += [masked_mean(x, mask), resample_to_length(x.mean(-1), mask, self.seg_len)]
        return torch.cat(pooled, dim=-1)


FUSIONS: dict[str, type[nn.Module]] = {"biformer": BiFormerFusion}
"""Name in the config -> module of (audio, audio_mask, text, text_mask) -> (B, output_size)."""


class Classifier(nn.Sequential):
    """Linear -> LayerNorm -> GELU -> Dropout -> Linear"""

    def __init__(self, in_size: int, config: BiBiERConfig):
        super().__init__(
            nn.Linear(in_size, config.classifier_size),
            nn.LayerNorm(config.classifier_size),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.classifier_size, config.num_labels),
        )
