"""The slow sides: the published formulas (Sections 3 to 5 of the method) written down plainly, as a textbook would.

One step of the scan at a time over materialized (B, L, D, N) tensors, batches padded and unmasked, a general
graph library for graphs of two nodes. They have the published parameters and sizes, so only the way of
computing differs.
"""

import torch
from torch import nn
from torch.nn import functional as F


def scan(
    u: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor
) -> torch.Tensor:
    """u, dt (B, L, D), A (D, N), B and C (B, L, N), D (D,) -> y (B, L, D)"""
    decay = torch.exp(dt.unsqueeze(-1) * A)  # (B, L, D, N)
    inputs = dt.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1)
    h = torch.zeros_like(decay[:, 0])
    outputs = []

    # unbind: the gradient of an index would be as large as the whole tensor, for each step anew
    for decay_t, inputs_t, C_t in zip(decay.unbind(1), inputs.unbind(1), C.unbind(1), strict=True):
        h = decay_t * h + inputs_t
        outputs.append((h * C_t.unsqueeze(1)).sum(-1))

    return torch.stack(outputs, dim=1) + D * u


def scan_mambapy(
    u: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor
) -> torch.Tensor:
    """The same with the parallel scan of the `mambapy` package."""
    from mambapy.pscan import pscan

    decay = torch.exp(dt.unsqueeze(-1) * A)
    states = pscan(decay, dt.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1))

    return (states @ C.unsqueeze(-1)).squeeze(-1) + D * u


class MambaBlock(nn.Module):
    """Section 3.3, with the decay exp(-dt exp(A_log))."""

    def __init__(self, d_input: int, d_model: int, states: int = 16, kernel: int = 4):
        super().__init__()
        rank = d_model // 16
        self.in_proj = nn.Linear(d_input, 2 * d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_input, bias=False)
        self.s_B, self.s_C = nn.Linear(d_model, states, bias=False), nn.Linear(d_model, states, bias=False)
        self.s_D = nn.Sequential(nn.Linear(d_model, rank, bias=False), nn.Linear(rank, d_model))
        self.conv = nn.Conv1d(d_model, d_model, kernel, padding=kernel - 1, groups=d_model)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(d_model, 1))
        self.D = nn.Parameter(torch.ones(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, gate = self.in_proj(x).chunk(2, dim=-1)
        a = F.silu(self.conv(a.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        y = scan(a, F.softplus(self.s_D(a)), -torch.exp(self.A_log), self.s_B(a), self.s_C(a), self.D)

        return self.out_proj(y * F.silu(gate))


class RMSNorm(nn.Module):
    """Section 3.2."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-8).pow(-0.5) * self.weight


class TextEncoder(nn.Module):
    """Section 3.4: two blocks over 95 positions, whatever the length of the text, and the mean over all of them."""

    def __init__(self, d_input: int = 1024, d_model: int = 512, layers: int = 2, classes: int = 7):
        super().__init__()
        self.layers = nn.ModuleList(MambaBlock(d_input, d_model) for _ in range(layers))
        self.norms = nn.ModuleList(RMSNorm(d_input) for _ in range(layers))
        self.fc_out = nn.Linear(d_input, classes)

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            s = s + layer(norm(s))

        return self.fc_out(s.mean(1))


class AttentionLayer(nn.Module):
    """Section 4, TransformerEncoderLayer: keys of the other modality, queries and values of the own."""

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(size, heads, dropout=dropout, batch_first=True)
        self.layer_1, self.layer_2 = nn.Linear(size, size), nn.Linear(size, size)
        self.norm_1, self.norm_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, key: torch.Tensor, value: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        x = self.norm_1(self.attention(query, key, value)[0] + self.dropout(query))
        return self.norm_2(self.layer_2(self.dropout(F.gelu(self.layer_1(x)))) + self.dropout(x))


class GraphFusion(nn.Module):
    """Section 4, GraphFusionLayer, with an edge in both directions for every pair; `torch_geometric` passes the
    messages."""

    def __init__(self, size: int, heads: int = 2):
        super().__init__()
        from torch_geometric.nn import GATConv

        self.proj_audio = nn.Sequential(nn.Linear(size, size), nn.LayerNorm(size))
        self.proj_text = nn.Sequential(nn.Linear(size, size), nn.LayerNorm(size))
        self.gat1 = GATConv(size, size, heads=heads)  # ty: ignore[abstract-class-instantiation]
        self.gat2 = GATConv(heads * size, size)  # ty: ignore[abstract-class-instantiation]

    def forward(self, audio: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        nodes = torch.stack([F.relu(self.proj_audio(audio)), F.relu(self.proj_text(text))], dim=1)
        batch, _, size = nodes.shape
        first = 2 * torch.arange(batch)
        edges = torch.stack([torch.cat([first, first + 1]), torch.cat([first + 1, first])])

        return self.gat2(F.relu(self.gat1(nodes.reshape(2 * batch, size), edges)), edges).reshape(batch, 2, size)


class Gate(nn.Module):
    """Section 4, GAL."""

    def __init__(self, size: int, gated: int, dropout: float):
        super().__init__()
        self.first, self.second = nn.Linear(size, gated, bias=False), nn.Linear(size, gated, bias=False)
        self.both, self.dropout = nn.Linear(2 * size, gated, bias=False), nn.Dropout(dropout)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        h1, h2 = self.dropout(self.first(first).tanh()), self.dropout(self.second(second).tanh())
        z = self.dropout(self.both(torch.cat([first, second], dim=-1))).sigmoid()
        return z * h1 + (1 - z) * h2


def _projection(in_size: int, out_size: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_size, out_size), nn.LayerNorm(out_size), nn.Dropout(dropout))


class Fusion(nn.Module):
    """Sections 5.2 and 5.3: padded sequences of both modalities, the longer one cut to the shorter one's length ->
    logits."""

    def __init__(
        self,
        variant: str,
        audio_size: int = 256,
        text_size: int = 1024,
        size: int = 256,
        length: int = 95,
        layers: int = 5,
        heads: int = 16,
        gated: int = 128,
        classes: int = 7,
        dropout: float = 0.15,
    ):
        super().__init__()
        self.variant, self.length = variant, length
        self.audio_proj, self.text_proj = _projection(audio_size, size, dropout), _projection(text_size, size, dropout)

        if variant == "bimamba":
            self.fusion_proj = _projection(2 * size, size, dropout)
            self.blocks = nn.ModuleList(MambaBlock(size, size, kernel=6) for _ in range(layers))
            self.norms = nn.ModuleList(RMSNorm(size) for _ in range(layers))
        else:
            self.audio_layers = nn.ModuleList(AttentionLayer(size, heads, dropout) for _ in range(layers))
            self.text_layers = nn.ModuleList(AttentionLayer(size, heads, dropout) for _ in range(layers))

        if "graph" in variant:
            self.graph_phi, self.graph_tau = GraphFusion(length), GraphFusion(size)

        if "gated" in variant:
            self.gate_phi, self.gate_tau = Gate(length, gated, dropout), Gate(size, gated, dropout)

        if variant == "bigraph":
            self.out_phi, self.out_tau = _projection(length, length, 0.0), _projection(size, size, 0.0)

        if variant == "bigatedgraph":
            self.nodes_phi, self.nodes_tau = _projection(length, gated, dropout), _projection(size, gated, dropout)
            self.gated_phi, self.gated_tau = _projection(gated, gated, dropout), _projection(gated, gated, dropout)

        width = {"biformer": 2 * (size + length), "bigraph": size + length, "bimamba": size + length}.get(
            variant, 2 * gated
        )
        self.classifier = nn.Sequential(
            nn.Linear(width, 256), nn.LayerNorm(256), nn.GELU(), nn.Dropout(dropout), nn.Linear(256, classes)
        )

    def forward(self, audio: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """(B, T_a, D_a), (B, T_t, D_t) -> (B, K)"""
        audio, text = self.audio_proj(audio), self.text_proj(text)
        shorter = min(audio.shape[1], text.shape[1])
        audio, text = _resampled(audio, shorter), _resampled(text, shorter)

        if self.variant == "bimamba":
            u = self.fusion_proj(torch.cat([audio, text], dim=-1))
            for block, norm in zip(self.blocks, self.norms, strict=True):
                u = u + norm(block(u))
            return self.classifier(torch.cat([u.mean(1), _curve(u, self.length)], dim=-1))

        for audio_layer, text_layer in zip(self.audio_layers, self.text_layers, strict=True):
            a, t = audio_layer(text, audio, audio), text_layer(audio, text, text)
            audio, text = audio + a, text + t

        phi = _curve(audio, self.length), _curve(text, self.length)
        tau = audio.mean(1), text.mean(1)

        return self.classifier(torch.cat(self._combined(phi, tau), dim=-1))

    def _combined(
        self, phi: tuple[torch.Tensor, torch.Tensor], tau: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        if self.variant == "biformer":
            return *phi, *tau

        if self.variant == "bigated":
            return self.gate_phi(*phi), self.gate_tau(*tau)

        phi, tau = self.graph_phi(*phi), self.graph_tau(*tau)

        if self.variant == "bigraph":
            return self.out_phi(phi.mean(1)), self.out_tau(tau.mean(1))

        return (
            self.nodes_phi(phi.mean(1)) + self.gated_phi(self.gate_phi(phi[:, 0], phi[:, 1])),
            self.nodes_tau(tau.mean(1)) + self.gated_tau(self.gate_tau(tau[:, 0], tau[:, 1])),
        )


def _resampled(x: torch.Tensor, length: int) -> torch.Tensor:
    if x.shape[1] == length:
        return x

    return F.interpolate(x.transpose(1, 2), size=length, mode="linear", align_corners=False).transpose(1, 2)


def _curve(x: torch.Tensor, length: int) -> torch.Tensor:
    return _resampled(x.mean(-1, keepdim=True), length).squeeze(-1)
