"""Unimodal encoders: features of one backbone -> encoded frames and unimodal logits (Sections 2 and 3 of the method).

features (B, T, D_feature) -> LayerNorm -> Linear -> N layers -> RMSNorm -> frames (B, T, size)
                     |                                           masked mean --+-- Linear -> logits (B, K)
                     +-- statistics over time -> hidden layer (option) --------+
cepstrum (B, T, M) of the input -- statistics over time -> hidden layer (option) --+
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_bibier import BiBiERConfig
from .mamba_bibier import MambaBlock, RMSNorm
from .sequence_bibier import Dropout, Mixup, masked_mean, masked_quantiles, sinusoids


class ResidualLayer(GradientCheckpointingLayer):
    """x + Dropout(block(RMSNorm(x)))"""

    def __init__(self, size: int, block: nn.Module, dropout: float):
        super().__init__()
        self.norm = RMSNorm(size)
        self.block = block
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(self.block(self.norm(x), mask))


class SelfAttentionLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer with padding masked; the perceptron is four times as wide."""

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, heads, dropout=dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), Dropout(dropout), nn.Linear(4 * size, size)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y = self.attention_norm(x)
        ignore = ~mask & mask.any(
            1, keepdim=True
        )  # a row without any step attends to anything rather than to nothing (NaN)
        x = x + self.dropout(self.attention(y, y, y, key_padding_mask=ignore, need_weights=False)[0])
        return x + self.dropout(self.feed_forward(x))


class LSTMBlock(nn.Module):
    """LSTM over the kept steps of each sample, in one or both directions; the width is kept."""

    def __init__(self, size: int, bidirectional: bool):
        super().__init__()
        self.lstm = nn.LSTM(size, size // 2 if bidirectional else size, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])[0]


class FrameMLPLayer(GradientCheckpointingLayer):
    """LayerNorm(x + Dropout(W_out ReLU(u + W_B u + W_C u))) with u = W_in x, each frame by itself.

    The block of the published audio head, which carries the name of Mamba there but has neither a state nor a
    convolution.
    """

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.in_proj, self.s_B, self.s_C, self.out_proj = (nn.Linear(size, size) for _ in range(4))
        self.norm = nn.LayerNorm(size)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        u = self.in_proj(x)
        return self.norm(x + self.dropout(self.out_proj(F.relu(u + self.s_B(u) + self.s_C(u)))))


def _mamba(config: BiBiERConfig, size: int) -> nn.Module:
    block = MambaBlock(
        size,
        inner_size=max(1, round(config.mamba_expand * size)),
        state_size=config.mamba_state_size,
        conv_kernel=config.mamba_conv_kernel,
        dt_rank=config.mamba_dt_rank,
        bidirectional=config.bidirectional,
        decay=config.ssm_decay,
    )
    return ResidualLayer(size, block, config.encoder_dropout)


ENCODER_LAYERS: dict[str, Callable[[BiBiERConfig, int], nn.Module]] = {
    "mamba": _mamba,
    "transformer": lambda config, size: SelfAttentionLayer(
        size, config.encoder_attention_heads, config.encoder_dropout
    ),
    "lstm": lambda config, size: ResidualLayer(size, LSTMBlock(size, config.bidirectional), config.encoder_dropout),
    "frame_mlp": lambda config, size: FrameMLPLayer(size, config.encoder_dropout),
}
"""Name in the config -> what builds one layer: (config, size) -> module of (x (B, T, size), bool mask (B, T)) -> (B,
T, size)."""


class StatisticsPooling(nn.Module):
    """Statistics of the features over time -> standardised -> hidden layer.

    The statistics are mean and standard deviation (Snyder et al., 2018) and five quantiles, F = 7 D numbers. They
    differ far less between clips than features do between frames, so each of them is brought to mean zero and variance
    one over the clips of the training set: what [`fit`] was told, else nothing.
    """

    QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

    def __init__(self, feature_size: int, size: int, dropout: float):
        super().__init__()
        inputs = (2 + len(self.QUANTILES)) * feature_size
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        self.hidden = nn.Sequential(
            Dropout(dropout / 2), nn.Linear(inputs, size), nn.LayerNorm(size), nn.GELU(), Dropout(dropout)
        )
        self.out = nn.Linear(size, size)

    @classmethod
    def statistics(cls, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T, D), bool mask (B, T) -> mean, standard deviation and quantiles (B, F)"""
        features = features.float()
        mean = masked_mean(features, mask)
        variance = masked_mean((features - mean.unsqueeze(1)).square(), mask)
        # The root has no slope at zero, where a clip of one frame is.
        quantiles = masked_quantiles(features, mask, cls.QUANTILES).flatten(1)
        return torch.cat([mean, (variance + 1e-12).sqrt(), quantiles], dim=-1)

    def fit(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Take mean and standard deviation of the statistics over the training set, (F,) each."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, features: torch.Tensor, mask: torch.Tensor, mixup: Mixup | None = None) -> torch.Tensor:
        """(B, T, D), bool mask (B, T) -> (B, size)"""
        standardised = ((self.statistics(features, mask) - self.mean) / self.std).clamp(-10, 10)
        if mixup is not None:
            standardised = mixup(standardised)
        return self.out(self.hidden(standardised.to(features.dtype)))


class UnimodalEncoder(nn.Module):
    """Encoder and classifier of one modality (module docstring).

    Args:
        config: the model's configuration.
        modality: `"audio"` or `"text"`; picks the `audio_*` or `text_*` options.
    """

    def __init__(self, config: BiBiERConfig, modality: str):
        super().__init__()
        name, size = getattr(config, f"{modality}_encoder"), getattr(config, f"{modality}_encoder_size")
        layers, projects = (
            getattr(config, f"{modality}_encoder_layers"),
            getattr(config, f"{modality}_input_projection"),
        )
        feature_size, cepstrum_size = config.backbone_size(modality), config.cepstrum_size(modality)
        self.widths = [feature_size, cepstrum_size]
        self.input_norm = nn.LayerNorm(feature_size) if config.encoder_norms else nn.Identity()
        self.input_proj = nn.Linear(feature_size, size) if projects else nn.Identity()
        self.positional_encoding = name == "transformer"
        self.dropout = Dropout(config.encoder_dropout)
        self.layers = nn.ModuleList(ENCODER_LAYERS[name](config, size) for _ in range(layers))
        self.final_norm = RMSNorm(size) if config.encoder_norms else nn.Identity()
        statistics = getattr(config, f"{modality}_statistics")
        self.statistics = StatisticsPooling(feature_size, size, config.encoder_dropout) if statistics else None
        self.cepstrum = StatisticsPooling(cepstrum_size, size, config.encoder_dropout) if cepstrum_size else None
        self.classifier = nn.Linear(size, config.num_labels)

    def pooled_parts(self, features: torch.Tensor) -> list[tuple[StatisticsPooling, torch.Tensor]]:
        """Those parts of features (..., D_feature) of which statistics are taken, each with what takes them."""
        frames, cepstrum = features.split(self.widths, dim=-1)
        parts = [(self.statistics, frames), (self.cepstrum, cepstrum)]
        return [(pooling, part) for pooling, part in parts if pooling is not None]

    def forward(
        self, features: torch.Tensor, mask: torch.Tensor, mixup: Mixup | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, T, D_feature), bool mask (B, T) -> frames (B, T, size) and their mask, one vector for all of them (B,
        size), logits (B, K); of the mixed samples with `mixup`."""
        statistics = [pooling(part, mask, mixup) for pooling, part in self.pooled_parts(features)]
        features = features[..., : self.widths[0]]
        x = self.input_proj(self.input_norm(features))
        if mixup is not None:
            x, mask = mixup.sequences(x, mask)
        if self.positional_encoding:
            x = x + sinusoids(x.shape[1], x.shape[2], x.device, x.dtype)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, mask)
        x = self.final_norm(x)
        pooled = sum(statistics, masked_mean(x, mask))
        return x, mask, pooled, self.classifier(self.dropout(pooled))
