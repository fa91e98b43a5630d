"""Unimodal encoders: backbone features -> encoded frames, and one vector for the unimodal head.

features (B, T, D_feature) -> LayerNorm -> Linear -> N layers -> RMSNorm -> frames (B, T, size)
                     |                                              masked mean --+-- pooled (B, size)
                     +-- statistics over time -> hidden layer (option) -----------+
cepstrum (B, T, M) of the input -- statistics over time -> hidden layer (option) -+
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_bibier import NUM_STATISTICS, BiBiERConfig, ModalityConfig
from .mamba_bibier import RMSNorm, mamba_block
from .sequence_bibier import (
    Dropout,
    Mixup,
    Recorder,
    attention_weights,
    drop,
    masked_mean,
    masked_quantiles,
    sinusoids,
)


class ResidualLayer(GradientCheckpointingLayer):
    """x + Dropout(block(RMSNorm(x)))"""

    def __init__(self, size: int, block: nn.Module, dropout: float):
        super().__init__()
        self.norm = RMSNorm(size)
        self.block = block
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, record: Recorder | None = None) -> Tensor:
        return x + self.dropout(self.block(self.norm(x), mask))


class SelfAttentionLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer with masked padding; the feed-forward layer is four times as wide."""

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, heads, dropout=dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), Dropout(dropout), nn.Linear(4 * size, size)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, record: Recorder | None = None) -> Tensor:
        y = self.attention_norm(x)
        # A sample without any step attends to everything rather than to nothing, which would give NaN.
        keep = mask | ~mask.any(1, keepdim=True)
        attended = self_attention(self.attention, y, keep, self.training, record)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(x))


def self_attention(
    module: nn.MultiheadAttention, x: Tensor, keep: Tensor, training: bool, record: Recorder | None = None
) -> Tensor:
    """Apply `module` to x (B, T, D) with keys where `keep` (B, T), without its fused fast path, which cannot be
    exported."""
    query, key, value = (
        part.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)  # (B, heads, T, width)
        for part in F.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
    )
    keep, dropout = keep[:, None, None], module.dropout if training else 0.0
    if record is None or record.attentions is None:
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=keep, dropout_p=dropout)
    else:
        weights = attention_weights(query, key, keep)
        record.attention(weights)
        attended = drop(weights, dropout) @ value
    return module.out_proj(attended.transpose(1, 2).flatten(2))


class LSTMBlock(nn.Module):
    """LSTM over the kept steps of each sample, in one or both directions, that keeps the width."""

    def __init__(self, size: int, bidirectional: bool):
        super().__init__()
        self.lstm = nn.LSTM(size, size // 2 if bidirectional else size, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return self._unpacked(x, mask)
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])[0]

    def _unpacked(self, x: Tensor, mask: Tensor) -> Tensor:
        """Compute the same with loops, for exported graphs.

        Padding is on the right, so the forward direction never reaches it. For the backward direction, each sample is
        reversed within its own length.
        """
        lengths = mask.sum(1, keepdim=True).clamp(min=1)
        step = torch.arange(x.shape[1], device=x.device)
        kept = step < lengths  # (B, T)
        outputs = [_looped_lstm(self.lstm, x, "")]
        if self.lstm.bidirectional:
            reversed_step = torch.where(kept, lengths - 1 - step, step).unsqueeze(-1)  # its own inverse
            backward = _looped_lstm(self.lstm, x.gather(1, reversed_step.expand(-1, -1, x.shape[2])), "_reverse")
            outputs.append(backward.gather(1, reversed_step.expand(-1, -1, backward.shape[2])))
        return torch.cat(outputs, dim=-1) * kept.unsqueeze(-1)


def _looped_lstm(module: nn.LSTM, x: Tensor, suffix: str) -> Tensor:
    """Run one direction of an LSTM layer: (B, T, size) -> (B, T, hidden). The gates are in torch's order."""
    w_x, w_h, b_x, b_h = (
        getattr(module, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )

    def step(state: tuple[Tensor, Tensor], gates: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        hidden, cell = state
        entry, forget, new, out = (gates + hidden @ w_h.T).chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + entry.sigmoid() * new.tanh()
        hidden = out.sigmoid() * cell.tanh()
        return (hidden, cell), hidden.clone()

    start = x.new_zeros(x.shape[0], module.hidden_size)
    _, y = scan(step, (start, start.clone()), F.linear(x, w_x, b_x + b_h).transpose(0, 1))
    return y.transpose(0, 1)


class FrameMLPLayer(GradientCheckpointingLayer):
    """LayerNorm(x + Dropout(W_out ReLU(u + W_B u + W_C u))) with u = W_in x, for each frame separately.

    The layer of the published audio head, where it is called Mamba although it has neither a state nor a convolution.
    """

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.in_proj, self.s_B, self.s_C, self.out_proj = (nn.Linear(size, size) for _ in range(4))
        self.norm = nn.LayerNorm(size)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, record: Recorder | None = None) -> Tensor:
        u = self.in_proj(x)
        return self.norm(x + self.dropout(self.out_proj(F.relu(u + self.s_B(u) + self.s_C(u)))))


def _mamba(config: BiBiERConfig, modality: ModalityConfig) -> nn.Module:
    return ResidualLayer(modality.hidden_size, mamba_block(config, modality), modality.dropout)


def _transformer(config: BiBiERConfig, modality: ModalityConfig) -> nn.Module:
    return SelfAttentionLayer(modality.hidden_size, modality.num_attention_heads, modality.dropout)


def _lstm(config: BiBiERConfig, modality: ModalityConfig) -> nn.Module:
    block = LSTMBlock(modality.hidden_size, not config.reproduces("unidirectional"))
    return ResidualLayer(modality.hidden_size, block, modality.dropout)


def _frame_mlp(config: BiBiERConfig, modality: ModalityConfig) -> nn.Module:
    return FrameMLPLayer(modality.hidden_size, modality.dropout)


ENCODER_LAYERS: dict[str, Callable[[BiBiERConfig, ModalityConfig], nn.Module]] = {
    "mamba": _mamba,
    "transformer": _transformer,
    "lstm": _lstm,
    "frame_mlp": _frame_mlp,
}
"""Name in the config -> builder of one layer: a module that maps x (B, T, size), bool mask (B, T) and a recorder or
None to (B, T, size)."""


class StatisticsPooling(nn.Module):
    """Statistics of the features over time -> standardized -> hidden layer.

    The statistics are mean and standard deviation (Snyder et al., 2018) and five quantiles, F = 7 D numbers. They vary
    far less between clips than features do between frames, so each is standardized over the training set, once [`fit`]
    has been called.

    Args:
        feature_size: D.
        size: width of the result.
        dropout: dropout rate.
        given: whether it is called with statistics, (B, 1, F), instead of with frames.
    """

    QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
    mean: Tensor
    std: Tensor

    def __init__(self, feature_size: int, size: int, dropout: float, given: bool = False):
        super().__init__()
        self.given = given
        inputs = NUM_STATISTICS * feature_size
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        self.hidden = nn.Sequential(
            Dropout(dropout / 2), nn.Linear(inputs, size), nn.LayerNorm(size), nn.GELU(), Dropout(dropout)
        )
        self.out = nn.Linear(size, size)

    @classmethod
    def statistics(cls, features: Tensor, mask: Tensor) -> Tensor:
        """Mean, standard deviation and quantiles: (B, T, D), bool mask (B, T) -> (B, F)."""
        features = features.float()
        mean = masked_mean(features, mask)
        variance = masked_mean((features - mean.unsqueeze(1)).square(), mask)
        # The square root has no gradient at zero, the variance of a clip of one frame.
        quantiles = masked_quantiles(features, mask, cls.QUANTILES).flatten(1)
        return torch.cat([mean, (variance + 1e-12).sqrt(), quantiles], dim=-1)

    def read(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return the statistics (B, F) of frames (B, T, D), or those that are given."""
        return features[:, 0].float() if self.given else self.statistics(features, mask)

    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and standard deviation of the statistics over the training set, (F,) each."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, features: Tensor, mask: Tensor, mixup: Mixup | None = None) -> Tensor:
        """(B, T, D), bool mask (B, T) -> (B, size)"""
        standardized = ((self.read(features, mask) - self.mean) / self.std).clamp(-10, 10)
        if mixup is not None:
            standardized = mixup(standardized)
        return self.out(self.hidden(standardized.to(features.dtype)))


class UnimodalEncoder(nn.Module):
    """Encoder of one modality (see the diagram at the top of this module).

    Args:
        config: of the model.
        modality: of this modality.
    """

    def __init__(self, config: BiBiERConfig, modality: ModalityConfig):
        super().__init__()
        size, dropout = modality.hidden_size, modality.dropout
        self.widths = modality.widths
        feature_size, cepstrum_size = self.widths
        normalizes = not config.reproduces("unnormalized_encoders")

        self.input_norm = nn.LayerNorm(feature_size) if normalizes else nn.Identity()
        self.input_proj = nn.Linear(feature_size, size) if modality.input_projection else nn.Identity()
        self.positional_encoding = modality.encoder == "transformer"
        self.dropout = Dropout(dropout)
        build = ENCODER_LAYERS[modality.encoder]
        self.layers = nn.ModuleList(build(config, modality) for _ in range(modality.num_hidden_layers))
        self.final_norm = RMSNorm(size) if normalizes else nn.Identity()

        self.statistics = StatisticsPooling(feature_size, size, dropout) if modality.statistics else None
        self.cepstrum = StatisticsPooling(cepstrum_size, size, dropout) if cepstrum_size else None

    def pooled_parts(self, features: Tensor) -> list[tuple[StatisticsPooling, Tensor]]:
        """Pair each statistics pooling of this encoder with its part of features (..., D_feature)."""
        frames, cepstrum = features.split(self.widths, dim=-1)
        parts = [(self.statistics, frames), (self.cepstrum, cepstrum)]
        return [(pooling, part) for pooling, part in parts if pooling is not None]

    def forward(
        self, features: Tensor, mask: Tensor, mixup: Mixup | None = None, record: Recorder | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode (B, T, D_feature), bool mask (B, T) -> frames (B, T, size), their mask, and one vector (B, size).

        With `mixup`, the results are those of the mixed samples.
        """
        statistics = [pooling(part, mask, mixup) for pooling, part in self.pooled_parts(features)]

        x = self.input_proj(self.input_norm(features[..., : self.widths[0]]))  # (B, T, size)
        if mixup is not None:
            x, mask = mixup.sequences(x, mask)
        if self.positional_encoding:
            x = x + sinusoids(x.shape[1], x.shape[2], x.device, x.dtype)
        x = self.dropout(x)

        if record:
            record.state(x)
        for layer in self.layers:
            x = layer(x, mask, record)
            if record:
                record.state(x)

        x = self.final_norm(x)
        return x, mask, sum(statistics, masked_mean(x, mask))


class StatisticsEncoder(nn.Module):
    """Statistics over time -> one vector, which is also its only frame.

    Args:
        config: of the model.
        modality: of this modality.
    """

    def __init__(self, config: BiBiERConfig, modality: ModalityConfig):
        super().__init__()
        self.statistics = StatisticsPooling(modality.frame_size, modality.hidden_size, modality.dropout, given=True)

    def pooled_parts(self, features: Tensor) -> list[tuple[StatisticsPooling, Tensor]]:
        """Pair the statistics pooling with features (..., F)."""
        return [(self.statistics, features)]

    def forward(
        self, features: Tensor, mask: Tensor, mixup: Mixup | None = None, record: Recorder | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode (B, 1, F), bool mask (B, 1) as [`UnimodalEncoder`] does."""
        pooled = self.statistics(features, mask, mixup)
        frames = pooled.unsqueeze(1)
        if record:
            record.state(frames)
        return frames, mask if mixup is None else mixup.present(mask), pooled


def build_encoder(config: BiBiERConfig, modality: ModalityConfig) -> UnimodalEncoder | StatisticsEncoder:
    """Build the encoder of a modality."""
    return (StatisticsEncoder if modality.encoder == "statistics" else UnimodalEncoder)(config, modality)
