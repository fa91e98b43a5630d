"""Unimodal encoders: features of one backbone -> encoded frames and unimodal logits (Sections 2 and 3 of the method).

features (B, T, D_feature) -> LayerNorm -> Linear -> N x [x + block(norm(x))] -> norm -> frames (B, T, size)
                                                                                 masked mean -> Linear -> logits (B, K)
"""

from collections.abc import Callable

import torch
from torch import nn

from .configuration_bibier import BiBiERConfig
from .mamba_bibier import MambaBlock, RMSNorm


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over time of the kept steps: (B, T, D), bool (B, T) -> (B, D); zeros where none is kept."""
    keep = mask.unsqueeze(-1)
    return (x * keep).sum(1) / keep.sum(1).clamp(min=1)


class ResidualLayer(nn.Module):
    """x + Dropout(block(RMSNorm(x)))"""

    def __init__(self, size: int, block: nn.Module, dropout: float):
        super().__init__()
        self.norm = RMSNorm(size)
        self.block = block
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(self.block(self.norm(x), mask))


def _mamba(config: BiBiERConfig, size: int) -> nn.Module:
    return MambaBlock(
        size,
        inner_size=config.mamba_expand * size,
        state_size=config.mamba_state_size,
        conv_kernel=config.mamba_conv_kernel,
        dt_rank=config.mamba_dt_rank,
        bidirectional=config.bidirectional,
    )


ENCODER_BLOCKS: dict[str, Callable[[BiBiERConfig, int], nn.Module]] = {"mamba": _mamba}
"""Name in the config -> a function that builds one block: (config, size) -> module of (x (B, T, size), mask (B, T)) -> (B, T, size)."""


class UnimodalEncoder(nn.Module):
    """Encoder and classifier of one modality (module docstring).

    Args:
        config: the model's configuration.
        modality: `"audio"` or `"text"`; picks the `audio_*` or `text_*` options.
    """

    def __init__(self, config: BiBiERConfig, modality: str):
        super().__init__()
        size = getattr(config, f"{modality}_encoder_size")
        build = ENCODER_BLOCKS[getattr(config, f"{modality}_encoder")]
        layers = getattr(config, f"{modality}_encoder_layers")
        self.input_norm = nn.LayerNorm(config.feature_size(modality))
        self.input_proj = nn.Linear(config.feature_size(modality), size)
        self.dropout = nn.Dropout(config.encoder_dropout)
        self.layers = nn.ModuleList(ResidualLayer(size, build(config, size), config.encoder_dropout) for _ in range(layers))
        self.final_norm = RMSNorm(size)
        self.classifier = nn.Linear(size, config.num_labels)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, D_feature), bool mask (B, T) -> frames (B, T, size), logits (B, K)"""
        x = self.dropout(self.input_proj(self.input_norm(features)))
        for layer in self.layers:
            x = layer(x, mask)
        x = self.final_norm(x)
        return x, self.classifier(self.dropout(masked_mean(x, mask)))
