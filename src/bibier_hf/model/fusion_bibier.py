"""Fusion: encoded frames of both modalities -> one vector for the classifier.

    audio (B, T_a, D_a) -> project -+-> N x cross-modal layers -+-> tau, phi -+
                                    |     (audio <-> text)      |             +-> combine -> (B, output_size)
    text  (B, T_t, D_t) -> project -+---------------------------+-> tau, phi -+

tau (B, H) is the mean over time. phi (B, L) is the mean over features: a curve over time, resampled to L = `seg_len`
points. The four members of the Former family differ in how they combine the four vectors:

    biformer       concatenation
    bigraph        a two-node graph (audio, text) for tau and one for phi
    bigated        a gate for tau and one for phi
    bigatedgraph   graphs, then gates over their nodes, added

`bimamba` concatenates both sequences along the features, runs Mamba blocks over them and concatenates tau and phi of
the result. `late`, which has no module here, mixes the unimodal logits.

Attention takes keys and values from the other modality, at its own length. Padding is masked everywhere, so a result
never depends on its batch. `original_behavior` reproduces the bugs of the published code, one by one or all at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_bibier import BiBiERConfig
from .mamba_bibier import RMSNorm, mamba_block
from .sequence_bibier import (
    Dropout,
    KeptSteps,
    Recorder,
    attention_weights,
    drop,
    masked_mean,
    resample,
    sinusoids,
)


class UnevenLayerNorm(nn.LayerNorm):
    """LayerNorm whose weights start near one, not at one.

    At one, its output has mean zero over the features. phi would be rounding noise, which later norms amplify.
    """


class Projection(nn.Sequential):
    """Linear -> LayerNorm -> Dropout.

    Args:
        in_size, out_size: widths.
        dropout: rate.
        entrance: whether a modality enters the fusion here; equal widths then need no linear layer.
    """

    def __init__(self, in_size: int, out_size: int, dropout: float, entrance: bool = False):
        linear = nn.Identity() if entrance and in_size == out_size else nn.Linear(in_size, out_size)
        norm = UnevenLayerNorm(out_size) if entrance else nn.LayerNorm(out_size)
        super().__init__(linear, norm, Dropout(dropout))


class FeedForward(nn.Module):
    """layer_2(Dropout(GELU(layer_1(x))))."""

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.layer_1 = nn.Linear(size, size)
        self.layer_2 = nn.Linear(size, size)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer_2(self.dropout(F.gelu(self.layer_1(x))))


class CrossModalLayer(GradientCheckpointingLayer):
    """Post-norm transformer layer whose queries come from one modality and whose keys come from the other."""

    def __init__(self, config: BiBiERConfig):
        super().__init__()
        size = config.hidden_size
        self.own_value = config.reproduces("own_value")
        self.dropout_on_residual = config.reproduces("residual_dropout")
        self.attention = nn.MultiheadAttention(
            size, config.num_attention_heads, dropout=config.dropout, batch_first=True
        )
        self.attention_norm = nn.LayerNorm(size)
        self.feed_forward = FeedForward(size, config.dropout)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, own: Tensor, own_steps: KeptSteps, other: Tensor, other_steps: KeptSteps, record: Recorder | None = None
    ) -> Tensor:
        """Update the steps of one modality from the other.

        Both are packed by their `KeptSteps`, with at least one step per sample; the result has the shape of `own`.
        """
        attended = self._attend(own, own_steps, other, other_steps, record)
        x = self.attention_norm(self._add(own, attended))
        return self.feed_forward_norm(self._add(x, self.feed_forward(x)))

    def _attend(
        self, own: Tensor, own_steps: KeptSteps, other: Tensor, other_steps: KeptSteps, record: Recorder | None
    ) -> Tensor:
        """Apply `self.attention` to the kept steps only; packed ones sample by sample, which needs no mask."""
        module, dropout = self.attention, self.attention.dropout if self.training else 0.0
        weight, bias, size = module.in_proj_weight, module.in_proj_bias, module.embed_dim
        if self.own_value:
            sources = zip((own, other, own), weight.chunk(3), bias.chunk(3), strict=True)
            query, key, value = (F.linear(*source) for source in sources)
        else:
            query = F.linear(own, weight[:size], bias[:size])
            key, value = F.linear(other, weight[size:], bias[size:]).chunk(2, dim=-1)
        query, key, value = (
            x.unflatten(-1, (module.num_heads, -1)) for x in (query, key, value)
        )  # (..., heads, width)
        value_steps = own_steps if self.own_value else other_steps

        if record is not None and record.attentions is not None:
            query, key = _padded_heads(query, own_steps), _padded_heads(key, other_steps)
            weights = attention_weights(query, key, other_steps.mask[:, None, None])
            weights = weights * own_steps.mask[:, None, :, None]  # (B, heads, T, S), zero for padded queries
            record.attention(weights)
            attended = (drop(weights, dropout) @ _padded_heads(value, value_steps)).transpose(1, 2)
            return module.out_proj(own_steps.pack(attended.flatten(-2)))

        if own_steps.index is None and other_steps.index is None:
            mask = None if other_steps.all_kept else other_steps.mask[:, None, None]
            attended = _attention(query, key, value, dropout, mask)
        else:
            samples = zip(own_steps.split(query), other_steps.split(key), value_steps.split(value), strict=True)
            attended = own_steps.join([_attention(*sample, dropout) for sample in samples])
        return module.out_proj(attended.flatten(-2))

    def _add(self, residual: Tensor, branch: Tensor) -> Tensor:
        return self.dropout(residual) + branch if self.dropout_on_residual else residual + self.dropout(branch)


def _padded_heads(x: Tensor, steps: KeptSteps) -> Tensor:
    """Unpack (S, heads, width) -> (B, heads, T, width)."""
    return steps.unpack(x.flatten(-2)).unflatten(-1, x.shape[-2:]).transpose(1, 2)


def _attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, mask: Tensor | None = None) -> Tensor:
    """Attention with dropout.

    Args:
        query: (..., T, heads, width).
        key, value: (..., S, heads, width).
        dropout: rate.
        mask: bool, broadcast to (..., heads, T, S).

    Returns:
        The shape of `query`.
    """
    query, key, value = (x.transpose(-3, -2) for x in (query, key, value))
    if dropout == 0 or mask is not None or query.device.type != "cpu":
        lead = (None,) * (4 - query.dim())  # torch has its faster kernels for batches only
        attended = F.scaled_dot_product_attention(
            query[lead], key[lead], value[lead], attn_mask=mask, dropout_p=dropout
        )
        return attended.reshape(query.shape).transpose(-3, -2)

    # On a CPU, torch has no fast path with dropout.
    return (drop(attention_weights(query, key), dropout) @ value).transpose(-3, -2)


class CrossModalEncoder(nn.Module):
    """Projects both modalities to width H, then lets them exchange information in pairs of cross-modal layers.

    Both layers of a pair read the same inputs, and their outputs are added to them.
    """

    def __init__(self, config: BiBiERConfig):
        super().__init__()
        self.same_length = config.reproduces("own_value")
        self.encode_layers = config.positional_encoding and config.reproduces("layer_positions")
        self.encode_input = config.positional_encoding and not self.encode_layers
        size, dropout = config.hidden_size, config.dropout
        self.audio_proj = Projection(config.modality_configs["audio"].hidden_size, size, dropout, entrance=True)
        self.text_proj = Projection(config.modality_configs["text"].hidden_size, size, dropout, entrance=True)
        self.audio_layers = nn.ModuleList(CrossModalLayer(config) for _ in range(config.num_hidden_layers))
        self.text_layers = nn.ModuleList(CrossModalLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, audio: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor, record: Recorder | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map audio (B, T_a, D_a), its mask, text (B, T_t, D_t) and its mask to the same of width H (and of one length
        with `own_value`)."""
        audio_steps, text_steps = KeptSteps(audio_mask), KeptSteps(text_mask)
        audio, text = self.audio_proj(audio_steps.pack(audio)), self.text_proj(text_steps.pack(text))  # (S, H)
        if self.same_length:
            audio, audio_mask, text, text_mask = to_shorter(
                audio_steps.unpack(audio), audio_mask, text_steps.unpack(text), text_mask
            )
            audio_steps, text_steps = KeptSteps(audio_mask), KeptSteps(text_mask)
            audio, text = audio_steps.pack(audio), text_steps.pack(text)
        if self.encode_input:
            audio, text = _with_positions(audio, audio_steps), _with_positions(text, text_steps)

        for audio_layer, text_layer in zip(self.audio_layers, self.text_layers, strict=True):
            a, t = audio, text
            if self.encode_layers:
                a, t = _with_positions(audio, audio_steps), _with_positions(text, text_steps)
            audio, text = (
                audio + audio_layer(a, audio_steps, t, text_steps, record),
                text + text_layer(t, text_steps, a, audio_steps, record),
            )
            if record:  # continue from the recorded tensors, so that gradients reach them
                audio = audio_steps.pack(record.state(audio_steps.unpack(audio)))
                text = text_steps.pack(record.state(text_steps.unpack(text)))

        return audio_steps.unpack(audio), audio_mask, text_steps.unpack(text), text_mask


def _with_positions(x: Tensor, steps: KeptSteps) -> Tensor:
    batch, length = steps.mask.shape
    return x + steps.pack(sinusoids(length, x.shape[-1], x.device, x.dtype).expand(batch, -1, -1))


def to_shorter(
    audio: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Resample both modalities of each sample to the length of the shorter one, (B, T, H).

    A sequence of one step, such as the stand-in for a missing modality, takes the length of the other, of which
    nothing would be left otherwise.
    """
    a, t = audio_mask.sum(1), text_mask.sum(1)
    lengths = torch.where(torch.minimum(a, t) == 1, torch.maximum(a, t), torch.minimum(a, t))
    # A graph that is compiled or exported cannot look at the lengths, so its size is enough for any.
    size = audio.shape[1] + text.shape[1] - 1 if torch.compiler.is_compiling() else None
    return *resample(audio, audio_mask, lengths, size), *resample(text, text_mask, lengths, size)


class GraphAttention(nn.Module):
    """Graph attention (Velickovic et al., 2018; PyG's `GATConv`) on two nodes with edges in both directions and
    self-loops.

    Args:
        in_size: width of a node.
        out_size: width of a node per head, afterwards.
        heads: number of heads, which are concatenated.
        first_pair_only: connect only the nodes of the first sample (published code); the others see just themselves.
    """

    def __init__(self, in_size: int, out_size: int, heads: int, first_pair_only: bool):
        super().__init__()
        self.first_pair_only = first_pair_only
        self.lin = nn.Linear(in_size, heads * out_size, bias=False)
        self.att_src = nn.Parameter(torch.empty(1, heads, out_size))
        self.att_dst = nn.Parameter(torch.empty(1, heads, out_size))
        self.bias = nn.Parameter(torch.empty(heads * out_size))

    def forward(self, nodes: Tensor) -> Tensor:
        """Map (B, 2, in_size) -> (B, 2, heads * out_size)."""
        g = self.lin(nodes).unflatten(-1, self.att_src.shape[1:])  # (B, 2, heads, out)
        source, target = (g * self.att_src).sum(-1), (g * self.att_dst).sum(-1)  # (B, 2, heads)
        scores = F.leaky_relu(target.unsqueeze(2) + source.unsqueeze(1), 0.2)  # (B, to, from, heads)

        if self.first_pair_only:
            no_edge = ~torch.eye(2, dtype=torch.bool, device=nodes.device).expand(len(nodes), 2, 2).clone()
            no_edge[0] = False
            scores = scores.masked_fill(no_edge.unsqueeze(-1), -torch.inf)

        out = torch.einsum("bijh,bjhd->bihd", scores.softmax(2), g)  # (B, 2, heads, out)
        return out.flatten(2) + self.bias


class PairGraph(nn.Module):
    """Two graph attention layers over one vector per modality: (B, size) twice -> (B, 2, size)."""

    def __init__(self, size: int, config: BiBiERConfig):
        super().__init__()
        first_pair_only = config.reproduces("first_pair_graph")
        self.audio_proj = Projection(size, size, 0.0)
        self.text_proj = Projection(size, size, 0.0)
        self.gat1 = GraphAttention(size, size, config.num_graph_heads, first_pair_only)
        self.gat2 = GraphAttention(config.num_graph_heads * size, size, 1, first_pair_only)

    def forward(self, audio: Tensor, text: Tensor) -> Tensor:
        nodes = torch.stack([F.relu(self.audio_proj(audio)), F.relu(self.text_proj(text))], dim=1)
        return self.gat2(F.relu(self.gat1(nodes)))


class Gate(nn.Module):
    """z h_1 + (1 - z) h_2 with h_i = tanh(W_i x_i) and z = sigmoid(W [x_1, x_2]) of width G.

    With `softmax_gate`, as published, z is normalized over its G entries. Each is then about 1 / G, and the second
    input dominates.
    """

    def __init__(self, size: int, config: BiBiERConfig):
        super().__init__()
        self.softmax = config.reproduces("softmax_gate")
        self.first = nn.Linear(size, config.gated_size, bias=False)
        self.second = nn.Linear(size, config.gated_size, bias=False)
        self.gate = nn.Linear(2 * size, config.gated_size, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Map (B, size) twice -> (B, G)."""
        z = self.dropout(self.gate(torch.cat([first, second], dim=-1)))
        z = z.softmax(-1) if self.softmax else z.sigmoid()
        return z * self.dropout(self.first(first).tanh()) + (1 - z) * self.dropout(self.second(second).tanh())


class Fusion(nn.Module):
    """Maps (audio, audio_mask, text, text_mask, recorder or None) to (B, output_size)."""

    output_size: int


class FormerFusion(Fusion):
    """The Former family: cross-modal layers, then tau and phi of both modalities, then `combine`."""

    def __init__(self, config: BiBiERConfig):
        super().__init__()
        self.seg_len = config.seg_len
        self.cross_modal = CrossModalEncoder(config)

    def forward(
        self, audio: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor, record: Recorder | None = None
    ) -> Tensor:
        """Map (B, T_a, D_a), bool (B, T_a), (B, T_t, D_t), bool (B, T_t) -> (B, output_size)."""
        audio, audio_mask, text, text_mask = self.cross_modal(audio, audio_mask, text, text_mask, record)
        return self.combine(
            *temporal_and_feature_pools(audio, audio_mask, self.seg_len),
            *temporal_and_feature_pools(text, text_mask, self.seg_len),
        )

    def combine(self, tau_audio: Tensor, phi_audio: Tensor, tau_text: Tensor, phi_text: Tensor) -> Tensor:
        """Map tau (B, H) and phi (B, L) of both modalities -> (B, output_size)."""
        raise NotImplementedError


def temporal_and_feature_pools(x: Tensor, mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Pool (B, T, H), bool (B, T) -> tau (B, H), the mean over time, and phi (B, length), the resampled mean over
    features."""
    curve = x.mean(-1, keepdim=True)  # (B, T, 1)
    return masked_mean(x, mask), resample(curve, mask, length)[0].squeeze(-1)


class BiFormerFusion(FormerFusion):
    """[tau(audio), phi(audio), tau(text), phi(text)]."""

    def __init__(self, config: BiBiERConfig):
        super().__init__(config)
        self.output_size = 2 * (config.hidden_size + config.seg_len)

    def combine(self, tau_audio: Tensor, phi_audio: Tensor, tau_text: Tensor, phi_text: Tensor) -> Tensor:
        return torch.cat([tau_audio, phi_audio, tau_text, phi_text], dim=-1)


class BiGraphFusion(FormerFusion):
    """[graph(phi), graph(tau)], each the projected mean of its two nodes."""

    def __init__(self, config: BiBiERConfig):
        super().__init__(config)
        self.output_size = config.seg_len + config.hidden_size
        self.graph_phi, self.graph_tau = PairGraph(config.seg_len, config), PairGraph(config.hidden_size, config)
        self.out_phi, self.out_tau = (Projection(size, size, 0.0) for size in (config.seg_len, config.hidden_size))

    def combine(self, tau_audio: Tensor, phi_audio: Tensor, tau_text: Tensor, phi_text: Tensor) -> Tensor:
        phi, tau = self.graph_phi(phi_audio, phi_text).mean(1), self.graph_tau(tau_audio, tau_text).mean(1)
        return torch.cat([self.out_phi(phi), self.out_tau(tau)], dim=-1)


class BiGatedFusion(FormerFusion):
    """[gate(phi), gate(tau)]."""

    def __init__(self, config: BiBiERConfig):
        super().__init__(config)
        self.output_size = 2 * config.gated_size
        self.gate_phi, self.gate_tau = Gate(config.seg_len, config), Gate(config.hidden_size, config)

    def combine(self, tau_audio: Tensor, phi_audio: Tensor, tau_text: Tensor, phi_text: Tensor) -> Tensor:
        return torch.cat([self.gate_phi(phi_audio, phi_text), self.gate_tau(tau_audio, tau_text)], dim=-1)


class BiGatedGraphFusion(FormerFusion):
    """For phi and for tau: the projected mean of the graph's nodes plus the projected gate over them."""

    def __init__(self, config: BiBiERConfig):
        super().__init__(config)
        width, dropout = config.gated_size, config.dropout
        self.output_size = 2 * width
        self.graph_phi, self.graph_tau = PairGraph(config.seg_len, config), PairGraph(config.hidden_size, config)
        self.gate_phi, self.gate_tau = Gate(config.seg_len, config), Gate(config.hidden_size, config)
        self.nodes_phi = Projection(config.seg_len, width, dropout)
        self.nodes_tau = Projection(config.hidden_size, width, dropout)
        self.gated_phi = Projection(width, width, dropout)
        self.gated_tau = None if config.reproduces("shared_gate_projection") else Projection(width, width, dropout)

    def combine(self, tau_audio: Tensor, phi_audio: Tensor, tau_text: Tensor, phi_text: Tensor) -> Tensor:
        phi, tau = self.graph_phi(phi_audio, phi_text), self.graph_tau(tau_audio, tau_text)  # (B, 2, L), (B, 2, H)

        gated_tau = self.gated_phi if self.gated_tau is None else self.gated_tau
        f_phi = self.nodes_phi(phi.mean(1)) + self.gated_phi(self.gate_phi(phi[:, 0], phi[:, 1]))
        f_tau = self.nodes_tau(tau.mean(1)) + gated_tau(self.gate_tau(tau[:, 0], tau[:, 1]))
        return torch.cat([f_phi, f_tau], dim=-1)


class BiMambaFusion(Fusion):
    """Both sequences, concatenated along the features -> Mamba blocks, u + RMSNorm(block(u)) -> [tau(u), phi(u)]."""

    def __init__(self, config: BiBiERConfig):
        super().__init__()
        size = config.hidden_size
        self.seg_len, self.fills_with_zeros = config.seg_len, config.reproduces("unmasked")
        self.output_size = size + config.seg_len
        self.audio_proj = Projection(config.modality_configs["audio"].hidden_size, size, config.dropout)
        self.text_proj = Projection(config.modality_configs["text"].hidden_size, size, config.dropout)
        self.fusion_proj = Projection(2 * size, size, config.dropout)
        self.blocks = nn.ModuleList(mamba_block(config, config) for _ in range(config.num_hidden_layers))
        self.norms = nn.ModuleList(RMSNorm(size) for _ in range(config.num_hidden_layers))

    def forward(
        self, audio: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor, record: Recorder | None = None
    ) -> Tensor:
        """Map (B, T_a, D_a), bool (B, T_a), (B, T_t, D_t), bool (B, T_t) -> (B, output_size)."""
        audio, mask, text, _ = to_shorter(self.audio_proj(audio), audio_mask, self.text_proj(text), text_mask)
        u = self.fusion_proj(torch.cat([audio, text], dim=-1))  # (B, T, H)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            u = u + norm(block(u, mask))
            if record:
                record.state(u)

        if self.fills_with_zeros and u.shape[1] <= self.seg_len:  # as published: phi is zero-padded, not stretched
            phi = F.pad(u.mean(-1), (0, self.seg_len - u.shape[1]))
            return torch.cat([u.mean(1), phi], dim=-1)
        return torch.cat(temporal_and_feature_pools(u, mask, self.seg_len), dim=-1)


FUSIONS: dict[str, Callable[[BiBiERConfig], Fusion]] = {
    "biformer": BiFormerFusion,
    "bigraph": BiGraphFusion,
    "bigated": BiGatedFusion,
    "bigatedgraph": BiGatedGraphFusion,
    "bimamba": BiMambaFusion,
}
"""Name in the config -> module. Its keys and `"late"` are `FUSIONS` of the configuration."""


class Classifier(nn.Sequential):
    """Linear -> LayerNorm -> GELU -> Dropout -> Linear."""

    def __init__(self, in_size: int, config: BiBiERConfig):
        super().__init__(
            nn.Linear(in_size, config.classifier_size),
            nn.LayerNorm(config.classifier_size),
            nn.GELU(),
            Dropout(config.dropout),
            nn.Linear(config.classifier_size, len(config.label_names)),
        )


class LogitMixture(nn.Module):
    """Weighted sum of M logit vectors, with learned weights that sum to one over the M for each of K classes.

    Args:
        count: M.
        classes: K.
    """

    def __init__(self, count: int, classes: int):
        super().__init__()
        self.weights = nn.Parameter(torch.empty(count, classes))

    def forward(self, logits: list[Tensor], present: list[Tensor]) -> Tensor:
        """Mix M logits (B, K) into (B, K).

        Args:
            logits: M tensors (B, K).
            present: M tensors, bool (B,): which samples have them. Absent logits give their weight to the others.
        """
        keep = torch.stack(present, dim=1).unsqueeze(-1)  # (B, M, 1)
        keep = keep | ~keep.any(1, keepdim=True)
        weights = self.weights.masked_fill(~keep, -torch.inf).softmax(1)  # (B, M, K)
        return (weights * torch.stack(logits, dim=1)).sum(1)
