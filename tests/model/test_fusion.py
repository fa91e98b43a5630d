"""Fusion building blocks against torch's own functions, a slow twin, and by hand."""

import pytest
import torch
from torch.nn import functional as F

from bibier_hf import BiBiERConfig
from bibier_hf.model.configuration_bibier import ENCODERS
from bibier_hf.model.configuration_bibier import FUSIONS as FUSION_NAMES
from bibier_hf.model.encoders_bibier import ENCODER_LAYERS
from bibier_hf.model.fusion_bibier import FUSIONS, Gate, GraphAttention, LogitMixture, _attention, to_shorter
from bibier_hf.model.sequence_bibier import Dropout, drop, masked_mean, resample, sinusoids

from ..conftest import both, features_of, merged

GRAPHS = ("bigraph", "bigatedgraph")


def config(**options) -> BiBiERConfig:
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "seg_len": 12,
        "gated_size": 6,
        "dropout": 0.0,
    }
    return BiBiERConfig(
        **merged(features_of(audio=10, text=11), both(encoder="none"), sizes, {"classifier_size": 8}, options)
    )


def fusion(name: str, **options) -> torch.nn.Module:
    """A fusion with random weights everywhere, biases too."""
    torch.manual_seed(0)
    module = FUSIONS[name](config(fusion=name, **options)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module


def prefix_mask(lengths: list[int], size: int) -> torch.Tensor:
    return torch.arange(size) < torch.tensor(lengths)[:, None]


def test_the_names_in_the_config_are_those_that_can_be_built():
    assert (*ENCODER_LAYERS, "statistics", "none") == ENCODERS
    assert ("late", *FUSIONS) == FUSION_NAMES


@pytest.mark.parametrize("length", [1, 2, 12, 95])
def test_resampling_equals_interpolate_of_each_valid_part(length: int):
    torch.manual_seed(0)
    x, lengths = torch.randn(6, 40, 3), [1, 2, 3, 12, 39, 40]
    result, kept = resample(x, prefix_mask(lengths, 40), length)
    assert kept.all()
    for row, n in enumerate(lengths):
        expected = F.interpolate(x[row, :n].T[None], size=length, mode="linear", align_corners=False)[0].T
        torch.testing.assert_close(result[row], expected, atol=1e-5, rtol=1e-5)


def test_resampling_each_sample_to_a_length_of_its_own():
    torch.manual_seed(0)
    x, lengths, wanted = torch.randn(3, 20, 2), [20, 7, 3], [5, 7, 11]
    result, kept = resample(x, prefix_mask(lengths, 20), torch.tensor(wanted))
    assert kept.sum(1).tolist() == wanted
    for row, (n, m) in enumerate(zip(lengths, wanted, strict=True)):
        expected = F.interpolate(x[row, :n].T[None], size=m, mode="linear", align_corners=False)[0].T
        torch.testing.assert_close(result[row, :m], expected, atol=1e-5, rtol=1e-5)
        assert not result[row, m:].any()


def test_masked_mean_by_hand():
    x = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    torch.testing.assert_close(masked_mean(x, mask), torch.tensor([[2.0], [0.0]]))


def test_sinusoids_by_hand():
    table = sinusoids(3, 4, torch.device("cpu"), torch.float32)
    position = torch.tensor(2.0)
    expected = torch.stack([position.sin(), position.cos(), (position / 100).sin(), (position / 100).cos()])
    torch.testing.assert_close(table[2], expected)


def test_the_shorter_modality_sets_the_length_unless_it_is_one_step():
    audio, text = torch.randn(3, 9, 2), torch.randn(3, 5, 2)
    _, audio_mask, _, text_mask = to_shorter(audio, prefix_mask([9, 1, 4], 9), text, prefix_mask([5, 5, 1], 5))
    assert audio_mask.sum(1).tolist() == text_mask.sum(1).tolist() == [5, 5, 4]


@pytest.mark.parametrize("positional_encoding", [False, True])
@pytest.mark.parametrize("name", FUSIONS)
def test_padding_never_changes_a_fusion(name: str, positional_encoding: bool):
    module = fusion(name, positional_encoding=positional_encoding)
    audio, text = torch.randn(4, 30, 10), torch.randn(4, 9, 11)
    lengths = list(zip([1, 14, 30, 5], [9, 1, 4, 7], strict=True))
    audio_mask, text_mask = prefix_mask([n for n, _ in lengths], 30), prefix_mask([m for _, m in lengths], 9)
    with torch.no_grad():
        together = module(audio, audio_mask, text, text_mask)
        assert together.shape == (4, module.output_size)
        for row, (n, m) in enumerate(lengths):
            part = slice(row, row + 1)
            alone = module(audio[part, :n], audio_mask[part, :n], text[part, :m], text_mask[part, :m])
            torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("modality", ["audio", "text"])
def test_a_change_of_one_modality_of_one_sample_changes_that_sample_alone(name: str, modality: str):
    module = fusion(name)
    inputs = {"audio": torch.randn(3, 8, 10), "text": torch.randn(3, 5, 11)}
    masks = torch.ones(3, 8, dtype=torch.bool), torch.ones(3, 5, dtype=torch.bool)
    changed = {key: value.clone() for key, value in inputs.items()}
    changed[modality][2] += torch.randn_like(changed[modality][2])
    with torch.no_grad():
        before = module(inputs["audio"], masks[0], inputs["text"], masks[1])
        after = module(changed["audio"], masks[0], changed["text"], masks[1])
    torch.testing.assert_close(before[:2], after[:2], atol=1e-6, rtol=0)
    assert (before[2] - after[2]).abs().max() > 1e-3


@pytest.mark.parametrize(("defects", "reaches"), [([], True), (["own_value"], False)])
def test_the_value_of_the_attention(defects: list[str], reaches: bool):
    """With keys that do not tell steps apart, only the value carries anything across."""
    module = fusion("biformer", original_behavior=defects)
    audio, text = torch.randn(1, 6, 10), torch.randn(1, 6, 11)
    mask = torch.ones(1, 6, dtype=torch.bool)
    with torch.no_grad():
        for layer in module.cross_modal.audio_layers:
            layer.attention.in_proj_weight[16:32] = 0
        before = module.cross_modal(audio, mask, text, mask)[0]
        after = module.cross_modal(audio, mask, torch.randn(1, 6, 11), mask)[0]
    assert ((before - after).abs().max() > 1e-3) == reaches


class PairByPair(torch.nn.Module):
    """Graph attention as its paper writes it: node by node, edge by edge."""

    def __init__(self, layer: GraphAttention):
        super().__init__()
        self.layer = layer

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        layer, (heads, size) = self.layer, self.layer.att_src.shape[1:]
        rows = []
        for sample, pair in enumerate(nodes):
            connected = sample == 0 or not layer.first_pair_only
            for i in range(2):
                sources = [0, 1] if connected else [i]
                parts = []
                for k in range(heads):
                    W = layer.lin.weight[k * size : (k + 1) * size]
                    e = [
                        F.leaky_relu(layer.att_src[0, k] @ (W @ pair[j]) + layer.att_dst[0, k] @ (W @ pair[i]), 0.2)
                        for j in sources
                    ]
                    alpha = torch.stack(e).softmax(0)
                    parts.append(sum(a * (W @ pair[j]) for a, j in zip(alpha, sources, strict=True)))
                rows.append(torch.cat(parts) + layer.bias)
        return torch.stack(rows).reshape(len(nodes), 2, -1)


@pytest.mark.parametrize("first_pair_only", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
def test_graph_attention_equals_its_definition(first_pair_only: bool, heads: int):
    torch.manual_seed(0)
    layer = GraphAttention(5, 4, heads, first_pair_only)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
        nodes = torch.randn(3, 2, 5)
        torch.testing.assert_close(layer(nodes), PairByPair(layer)(nodes), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [1, 2])
def test_graph_attention_equals_pyg(heads: int):
    """On the graph in which the two nodes of every sample are joined; PyG adds the self-loops."""
    pyg = pytest.importorskip(
        "torch_geometric.nn", reason="torch_geometric, the oracle of this test, is not installed"
    )
    torch.manual_seed(0)
    theirs = pyg.GATConv(5, 4, heads=heads, negative_slope=0.2)
    ours = GraphAttention(5, 4, heads, first_pair_only=False)
    ours.load_state_dict(theirs.state_dict())
    nodes = torch.randn(4, 2, 5)
    edges = torch.tensor([(2 * b + i, 2 * b + 1 - i) for b in range(4) for i in range(2)]).T
    with torch.no_grad():
        torch.testing.assert_close(ours(nodes).flatten(0, 1), theirs(nodes.flatten(0, 1), edges), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(("defects", "connected"), [([], True), (["first_pair_graph"], False)])
def test_the_graph_joins_audio_and_text_of_every_sample(name: str, defects: list[str], connected: bool):
    """The defect and its mending: with "first_pair_graph", the audio node of any sample but the first knows nothing of
    the text."""
    graph = fusion(name, original_behavior=defects).graph_tau
    audio, text = torch.randn(3, 16), torch.randn(3, 16)
    changed = text.clone()
    changed[2] += torch.randn(16)
    with torch.no_grad():
        difference = (graph(audio, text)[2, 0] - graph(audio, changed)[2, 0]).abs().max().item()
    assert (difference > 1e-4) == connected
    assert connected or difference == 0


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_gate_by_hand(kind: str):
    torch.manual_seed(0)
    gate = Gate(3, config(original_behavior=["softmax_gate"] if kind == "softmax" else False)).eval()
    first, second = torch.randn(2, 3), torch.randn(2, 3)
    z = torch.cat([first, second], -1) @ gate.gate.weight.T
    z = torch.sigmoid(z) if kind == "sigmoid" else torch.softmax(z, -1)
    expected = z * torch.tanh(first @ gate.first.weight.T) + (1 - z) * torch.tanh(second @ gate.second.weight.T)
    torch.testing.assert_close(gate(first, second), expected)


def test_the_softmax_gate_lets_the_second_modality_dominate():
    """The published defect: z is about 1 / G."""
    gate = Gate(16, config(original_behavior=["softmax_gate"], gated_size=128)).eval()
    z = gate.gate(torch.randn(100, 32)).softmax(-1)
    assert z.mean().item() == pytest.approx(1 / 128)


def test_mixture_by_hand_and_with_an_absent_modality():
    mixture = LogitMixture(2, 3)
    with torch.no_grad():
        mixture.weights.copy_(torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]))
    a, b = torch.randn(3, 3), torch.randn(3, 3)
    share = torch.sigmoid(torch.tensor([0.0, 1.0, 2.0]))
    has_a, has_b = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    result = mixture([a, b], [has_a, has_b])
    torch.testing.assert_close(result, torch.stack([share * a[0] + (1 - share) * b[0], a[1], b[2]]))


def test_dropout_falls_on_the_branch_or_on_the_residual():
    """With dropout of nearly one, what is left of a layer tells where it falls."""
    for where, defects in (("branch", []), ("residual", ["residual_dropout"])):
        module = fusion("biformer", original_behavior=defects, dropout=0.999)
        layer = module.cross_modal.audio_layers[0].train()
        residual, branch = torch.full((1, 1, 16), 5.0), torch.full((1, 1, 16), 7.0)
        assert layer._add(residual, branch).min().item() == pytest.approx({"branch": 5.0, "residual": 7.0}[where])


@pytest.mark.parametrize("shape", [(3, 7, 2, 4), (7, 2, 4)])
def test_attention_with_dropout_that_drops_nothing_is_attention(shape):
    torch.manual_seed(0)
    query, key, value = (torch.randn(*shape, requires_grad=True) for _ in range(3))
    results = []
    for dropout in (0.0, 1e-12):  # so rare that it never happens, by the other path
        out = _attention(query, key, value, dropout)
        results.append((out, *torch.autograd.grad(out.square().sum(), (query, key, value))))
    assert results[0][0].shape == shape
    for exact, got in zip(*results, strict=True):
        torch.testing.assert_close(got, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drop_drops_its_share_and_keeps_the_mean(dtype):
    torch.manual_seed(0)
    x = torch.ones(1001, 333, dtype=dtype, requires_grad=True)  # a size that four does not divide
    y = drop(x, 0.15)
    assert y.dtype == dtype
    factor = 2**16 / (2**16 - round(0.15 * 2**16))
    assert set(y.detach().unique().tolist()) == {0.0, torch.tensor(factor, dtype=dtype).item()}
    share = (y == 0).double().mean(0)
    assert abs(share.mean() - 0.15) < 0.002
    assert (share - 0.15).abs().max() < 0.06  # 5 standard deviations: no column is special
    pairs = (y[:, :-1] == 0) & (y[:, 1:] == 0)
    assert abs(pairs.double().mean() - 0.15**2) < 0.001  # neighbors are drawn by themselves
    y.float().sum().backward()
    assert torch.equal(x.grad, y.detach())  # of ones
    torch.manual_seed(0)
    assert torch.equal(drop(x, 0.15), y)


def test_dropout_layer_drops_in_training_alone():
    x = torch.ones(50, 50)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert not torch.equal(Dropout(0.5)(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert not Dropout(1.0)(x).any()
