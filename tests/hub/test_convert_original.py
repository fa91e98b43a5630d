"""Published weights give the published numbers: figures of `tests/golden`, the released audio head, and refusals."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from bibier_hf import BiBiERConfig
from bibier_hf.hub import convert_original
from bibier_hf.hub.convert_original import (
    ConversionError,
    build_model,
    convert_audio_head,
    convert_fusion,
    convert_text_head,
)
from bibier_hf.model.fusion_bibier import CrossModalLayer, Gate, PairGraph, Projection
from bibier_hf.model.mamba_bibier import MambaBlock, RMSNorm
from bibier_hf.model.sequence_bibier import KeptSteps

from ..conftest import features_of

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "published_vectors.json").read_text())
TOLERANCE = 1e-4


def fill(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The parameters of `tests/golden/README.md`."""
    weights = {}
    for key, shape in shapes.items():
        flat = np.arange(int(np.prod(shape)))
        values = 0.1 * np.sin(0.37 * flat + zlib.crc32(key.encode()) % 1000)
        last = key.rsplit(".", 1)[-1]
        if (last == "weight" and len(shape) == 1 and key != "weight") or last == "D":
            values += 1
        if last == "A":
            values += flat % shape[-1] + 1
        weights[key] = torch.tensor(values.reshape(shape), dtype=torch.float32)
    return weights


def wave(function, step: float, start: float, *shape: int) -> torch.Tensor:
    return torch.tensor(function(step * np.arange(int(np.prod(shape))) + start).reshape(shape), dtype=torch.float32)


def audio(*shape: int) -> torch.Tensor:
    return wave(np.sin, 0.11, 1, *shape)


def text(*shape: int) -> torch.Tensor:
    return wave(np.cos, 0.07, 2, *shape)


def original_shapes(name: str) -> dict[str, list[int]]:
    entry = GOLDEN["fusion"][name]
    return entry["state_dict"] if "state_dict" in entry else {"weights": [entry["kwargs"]["num_matrices"], 7]}


def inputs_of(name: str, case: dict) -> dict[str, torch.Tensor]:
    sizes, batch = GOLDEN["fusion"][name]["kwargs"], case["B"]
    inputs = {}
    if "Ta" in case:
        inputs["audio_features"] = audio(batch, case["Ta"], sizes["audio_dim"])
        inputs["text_features"] = text(batch, case["Tt"], sizes["text_dim"])
    if "WithProb" in name or name == "PredictionsFusion":
        inputs["audio_logits"], inputs["text_logits"] = wave(np.sin, 0.5, 0, batch, 7), wave(np.cos, 0.3, 0, batch, 7)
    return inputs


def converted(name: str, shapes: dict[str, list[int]] | None = None, heads: int | None = None):
    heads = heads or GOLDEN["fusion"][name]["kwargs"].get("num_transformer_heads")
    part = convert_fusion(fill(shapes or original_shapes(name)), name.split("|")[0], heads)
    return build_model(None, None, part), part


@pytest.mark.parametrize("name", GOLDEN["fusion"])
def test_fusion_vectors(name: str):
    model, _ = converted(name)
    for case in GOLDEN["fusion"][name]["cases"]:
        with torch.no_grad():
            logits = model(**inputs_of(name, case)).logits
        torch.testing.assert_close(logits, torch.tensor(case["logits"]), atol=TOLERANCE, rtol=0)


def test_the_input_projections_of_the_scan_keep_their_order():
    """Step size, B and C. In the vectors above, B and C are too small to be told apart."""
    names = [name for name in GOLDEN["fusion"] if any(".s_B." in key for key in original_shapes(name))]
    assert names
    for name in names:
        weights = fill(original_shapes(name))
        heads = GOLDEN["fusion"][name]["kwargs"].get("num_transformer_heads")
        found = [
            value
            for key, value in convert_fusion(dict(weights), name.split("|")[0], heads).weights.items()
            if key.endswith("forward_ssm.x_proj.weight")
        ]
        scans = [key.removesuffix("s_B.weight") for key in weights if key.endswith("s_B.weight")]
        assert len(found) == len(scans)
        for scan in scans:
            expected = torch.cat([weights[f"{scan}{part}.weight"] for part in ("s_D.0", "s_B", "s_C")])
            assert any(torch.equal(value, expected) for value in found)


@pytest.mark.parametrize("name", GOLDEN["fusion"])
def test_every_dead_parameter_is_reported_and_no_other(name: str):
    """What is reported as dead must not change the numbers; all the rest is in the model."""
    _, part = converted(name)
    shapes = original_shapes(name)
    without_table = [key for key in shapes if not key.endswith("positional_encoding.pe")]
    merged = 2 * sum(".s_B." in key for key in without_table)  # three projections become one
    assert len(part.weights) + len(part.dead) == len(without_table) - merged
    variant = name.split("|")[0].removesuffix("WithProb")
    dead = {key.split(".")[0] if key.startswith("fc") else ".".join(key.split(".")[:2]) for key in part.dead}
    assert dead == {
        "BiGraphFormer": {"fc_feat", "fc_temp"},
        "BiGatedFormer": {"fc_gated_feat", "fc_gated_temp"},
        "BiGatedGraphFormer": {"fc_gated_temp", "graph_fusion_feat.fc", "graph_fusion_temp.fc"},
    }.get(variant, set())


@pytest.mark.parametrize(
    ("audio_dim", "heads", "length", "batch"), [(16, 4, 12, 2), (20, 2, 12, 1), (20, 8, 30, 3), (16, 1, 5, 2)]
)
@pytest.mark.parametrize("variant", ["BiFormer", "BiGraphFormer", "BiGatedFormer", "BiGatedGraphFormer"])
def test_other_sizes_equal_a_plain_transcription(variant: str, audio_dim: int, heads: int, length: int, batch: int):
    """Equal widths (no projection), other head counts, lengths and batch sizes, against the formulas written out
    below."""
    shapes = dict(original_shapes(f"{variant}|audio_dim=20|pe=False"))
    if audio_dim == 16:
        del shapes["audio_proj.0.weight"], shapes["audio_proj.0.bias"]
    weights = fill(shapes)
    model = build_model(None, None, convert_fusion(weights, variant, heads))
    a, t = audio(batch, length, audio_dim), text(batch, 12, 24)
    with torch.no_grad():
        logits = model(audio_features=a, text_features=t).logits
    torch.testing.assert_close(logits, transcription(variant, weights, a, t, heads), atol=TOLERANCE, rtol=0)


def transcription(
    variant: str, w: dict[str, torch.Tensor], a: torch.Tensor, t: torch.Tensor, heads: int
) -> torch.Tensor:
    """The published fusion models, from their formulas alone."""
    f = nn.functional

    def linear(x, key):
        return f.linear(x, w[f"{key}.weight"], w[f"{key}.bias"])

    def norm(x, key):
        return f.layer_norm(x, x.shape[-1:], w[f"{key}.weight"], w[f"{key}.bias"])

    def projected(x, key):
        return norm(linear(x, f"{key}.0") if f"{key}.0.weight" in w else x, f"{key}.1")

    def attention(own, other, key):
        size = own.shape[-1]
        q, k, v = (
            f.linear(
                x,
                w[f"{key}.in_proj_weight"][i * size : (i + 1) * size],
                w[f"{key}.in_proj_bias"][i * size : (i + 1) * size],
            )
            .unflatten(-1, (heads, -1))
            .transpose(1, 2)
            for i, x in enumerate((own, other, own))
        )
        scores = q @ k.transpose(2, 3) / (size // heads) ** 0.5
        return linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{key}.out_proj")

    def layer(own, other, key):
        x = norm(attention(own, other, f"{key}.self_attention") + own, f"{key}.add_norm_after_attention.norm")
        y = linear(f.gelu(linear(x, f"{key}.feed_forward.layer_1")), f"{key}.feed_forward.layer_2")
        return norm(y + x, f"{key}.add_norm_after_ff.norm")

    def stretch(x, size):
        return f.interpolate(x.transpose(1, 2), size=size, mode="linear", align_corners=False).transpose(1, 2)

    def gat(nodes, key, count):
        g = (nodes @ w[f"{key}.lin.weight"].T).unflatten(-1, (count, -1))
        source, target = (g * w[f"{key}.att_src"]).sum(-1), (g * w[f"{key}.att_dst"]).sum(-1)
        out = torch.empty_like(g)
        for b in range(len(nodes)):
            for i in range(2):
                sources = [0, 1] if b == 0 else [i]
                alpha = f.leaky_relu(torch.stack([source[b, j] + target[b, i] for j in sources]), 0.2).softmax(0)
                out[b, i] = sum(alpha[n, :, None] * g[b, j] for n, j in enumerate(sources))
        return out.flatten(2) + w[f"{key}.bias"]

    def graph(x, y, key):
        nodes = torch.stack([f.relu(projected(x, f"{key}.proj_audio")), f.relu(projected(y, f"{key}.proj_text"))], 1)
        return gat(f.relu(gat(nodes, f"{key}.gat1", 2)), f"{key}.gat2", 1)

    def gate(x, y, key):
        z = (torch.cat([x, y], -1) @ w[f"{key}.WF"]).softmax(-1)
        return z * torch.tanh(x @ w[f"{key}.WF1"]) + (1 - z) * torch.tanh(y @ w[f"{key}.WF2"])

    a, t = projected(a, "audio_proj"), projected(t, "text_proj")
    shorter = min(a.shape[1], t.shape[1])
    a, t = stretch(a, shorter), stretch(t, shorter)
    for i in range(2):
        a, t = a + layer(a, t, f"audio_to_text_attn.{i}"), t + layer(t, a, f"text_to_audio_attn.{i}")
    tau = a.mean(1), t.mean(1)
    phi = tuple(
        stretch(x.mean(2, keepdim=True), 12).squeeze(2) for x in (a, t)
    )  # 12 points already, unless a clip is shorter
    if variant == "BiFormer":
        fused = [tau[0], phi[0], tau[1], phi[1]]
    elif variant == "BiGatedFormer":
        fused = [gate(*phi, "gated_feat"), gate(*tau, "gated_temp")]
    else:
        n_phi, n_tau = graph(*phi, "graph_fusion_feat"), graph(*tau, "graph_fusion_temp")
        if variant == "BiGraphFormer":
            fused = [
                projected(n_phi.mean(1), "graph_fusion_feat.fc"),
                projected(n_tau.mean(1), "graph_fusion_temp.fc"),
            ]
        else:
            r_phi, r_tau = gate(n_phi[:, 0], n_phi[:, 1], "gated_feat"), gate(n_tau[:, 0], n_tau[:, 1], "gated_temp")
            fused = [projected(n_phi.mean(1), "fc_graph_feat") + projected(r_phi, "fc_gated_feat")]
            fused += [projected(n_tau.mean(1), "fc_graph_temp") + projected(r_tau, "fc_gated_feat")]
    hidden = f.gelu(norm(linear(torch.cat(fused, -1), "classifier.0"), "classifier.1"))
    return linear(hidden, "classifier.4")


def filled(module: nn.Module, names: dict[str, str], transposed: tuple[str, ...] = ()) -> nn.Module:
    """Fills a module's parameters under their original names."""
    state = module.state_dict()
    assert set(names) == set(state)
    shapes = {
        original: list(state[ours].T.shape if ours in transposed else state[ours].shape)
        for ours, original in names.items()
    }
    weights = fill(shapes)
    module.load_state_dict(
        {ours: weights[name].T if ours in transposed else weights[name] for ours, name in names.items()}
    )
    return module.eval()


def layer_config(**options) -> BiBiERConfig:
    return BiBiERConfig(**features_of(audio=6, text=6), original_behavior=True, num_attention_heads=2, **options)


@torch.no_grad()
def test_layer_vectors():
    expected = {name: torch.tensor(values) for name, values in GOLDEN["layers"].items()}

    norm = filled(RMSNorm(6), {"weight": "weight"})
    torch.testing.assert_close(norm(audio(2, 6)), expected["rms_norm"], atol=TOLERANCE, rtol=0)

    layer = CrossModalLayer(layer_config(hidden_size=8))
    renames = {
        "attention.": "self_attention.",
        "attention_norm.": "add_norm_after_attention.norm.",
        "feed_forward_norm.": "add_norm_after_ff.norm.",
    }
    names = {}
    for key in layer.state_dict():
        prefix = next((p for p in renames if key.startswith(p)), "")
        names[key] = renames.get(prefix, "") + key.removeprefix(prefix)
    steps = KeptSteps(torch.ones(2, 5, dtype=torch.bool))
    result = filled(layer, names)(audio(2, 5, 8), steps, text(2, 5, 8), steps)
    torch.testing.assert_close(result, expected["cross_modal_layer"], atol=TOLERANCE, rtol=0)

    names = {"first.weight": "WF1", "second.weight": "WF2", "gate.weight": "WF"}
    gate = filled(Gate(6, layer_config(gated_size=4)), names, transposed=tuple(names))
    torch.testing.assert_close(gate(audio(2, 6), text(2, 6)), expected["gate"], atol=TOLERANCE, rtol=0)

    graph = PairGraph(6, layer_config())
    names = {
        key: key.replace("audio_proj", "proj_audio").replace("text_proj", "proj_text") for key in graph.state_dict()
    }
    nodes = filled(graph, names)(audio(3, 6), text(3, 6))
    torch.testing.assert_close(nodes, expected["graph_nodes"], atol=TOLERANCE, rtol=0)
    out = Projection(6, 6, 0.0)
    out = filled(out, {key: f"fc.{key}" for key in out.state_dict()})
    torch.testing.assert_close(out(nodes.mean(1)), expected["graph_mean"], atol=TOLERANCE, rtol=0)

    block = MambaBlock(6, inner_size=8, state_size=4, conv_kernel=3, dt_rank=2, decay="product").eval()
    shapes = {
        "in_proj.weight": [16, 6],
        "out_proj.weight": [6, 8],
        "s_B.weight": [4, 8],
        "s_C.weight": [4, 8],
        "s_D.0.weight": [2, 8],
    }
    shapes |= {"s_D.1.weight": [8, 2], "conv.weight": [8, 1, 3], "conv.bias": [8], "A": [8, 4], "D": [8]}
    taken = convert_original._Renamer(fill(shapes), "block")
    taken.mamba_block("", "")
    block.load_state_dict(taken.done)
    result = block(audio(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(result, expected["mamba_block"], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_encoder_vectors():
    entry = GOLDEN["encoders"]["text_head"]
    model = build_model(None, convert_text_head(fill(entry["state_dict"])), None)
    output = model(text_features=text(2, 9, 12))
    torch.testing.assert_close(output.text_logits, torch.tensor(entry["logits"]), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(output.logits, output.text_logits)
    frames, *_ = model.bibier.text.encoder(text(2, 9, 12), torch.ones(2, 9, dtype=torch.bool))
    torch.testing.assert_close(frames, torch.tensor(entry["features"]), atol=TOLERANCE, rtol=0)

    entry = GOLDEN["encoders"]["audio_head"]
    shapes = {"input_proj.weight": [8, 12], "input_proj.bias": [8], "fc.weight": [7, 8], "fc.bias": [7]}
    for block in range(2):
        for part in ("in_proj", "s_B", "s_C", "out_proj"):
            shapes |= {f"blocks.{block}.{part}.weight": [8, 8], f"blocks.{block}.{part}.bias": [8]}
        shapes |= {f"blocks.{block}.norm.weight": [8], f"blocks.{block}.norm.bias": [8]}
    model = build_model(convert_audio_head(fill(shapes)), None, None)
    mask = torch.arange(6) < torch.tensor([6, 4])[:, None]
    frames, _, pooled = model.bibier.audio.encoder(
        audio(2, 6, 12), mask
    )  # the original, too, pools over the given lengths here
    torch.testing.assert_close(model.audio_head.linear(pooled), torch.tensor(entry["logits"]), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(frames, torch.tensor(entry["hidden"]), atol=TOLERANCE, rtol=0)


def run_converter(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bibier_cli", "convert", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )


@torch.no_grad()
def test_released_audio_head_through_the_command(shared: Path, tmp_path: Path):
    done = run_converter("--audio_head", shared / "method" / "best_audio_model_2.pt", "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    model = AutoModel.from_pretrained(tmp_path / "out")
    entry = GOLDEN["encoders"]["released_audio_head"]
    features = 0.5 * wave(np.sin, 0.013, 0, 1, 50, 1024)
    output = model(audio_features=features)
    torch.testing.assert_close(output.audio_logits, torch.tensor(entry["logits"]), atol=TOLERANCE, rtol=0)
    frames, *_ = model.bibier.audio.encoder(features, torch.ones(1, 50, dtype=torch.bool))
    torch.testing.assert_close(frames.flatten()[:8], torch.tensor(entry["hidden_first8"]), atol=TOLERANCE, rtol=0)
    assert frames.mean().item() == pytest.approx(entry["hidden_mean"], abs=TOLERANCE)
    assert frames.std().item() == pytest.approx(entry["hidden_std"], abs=TOLERANCE)


@torch.no_grad()
def test_fusion_through_the_command(tmp_path: Path):
    name = "BiGraphFormerWithProb|audio_dim=20|pe=True"
    torch.save(fill(original_shapes(name)), tmp_path / "F.pt")
    done = run_converter("--fusion", tmp_path / "F.pt", "--num_transformer_heads", 4, "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "fc_feat.0.weight" in done.stdout
    model = AutoModel.from_pretrained(tmp_path / "out")
    for case in GOLDEN["fusion"][name]["cases"]:
        torch.testing.assert_close(
            model(**inputs_of(name, case)).logits, torch.tensor(case["logits"]), atol=TOLERANCE, rtol=0
        )
    assert (
        "num_transformer_heads" in run_converter("--fusion", tmp_path / "F.pt", "--output_dir", tmp_path / "no").stderr
    )
    assert not (tmp_path / "no").exists()
    (tmp_path / "file").write_text("mine")
    done = run_converter(
        "--fusion", tmp_path / "F.pt", "--num_transformer_heads", 4, "--output_dir", tmp_path / "file"
    )
    assert done.returncode == 2
    assert f"Cannot write {tmp_path / 'file'}: it is a file, not a folder" in done.stderr
    assert "Written" not in done.stdout
    assert (tmp_path / "file").read_text() == "mine"


@torch.no_grad()
def test_the_three_parts_give_the_whole_system(tmp_path: Path):
    """Over small backbones: waveform and text in, the original's chain of modules out."""
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "conv_dim": (8,) * 7,
        "feat_extract_norm": "layer",
    }
    speech = AutoConfig.for_model(
        "wav2vec2", **sizes, **convolutions, do_stable_layer_norm=True, architectures=["Wav2Vec2Model"]
    )
    words = AutoConfig.for_model("bert", **sizes, vocab_size=400)
    torch.manual_seed(0)
    for name, sub_config in (("speech", speech), ("words", words)):
        AutoModel.from_config(sub_config).save_pretrained(tmp_path / name)
    audio_shapes = {"input_proj.weight": [20, 12], "input_proj.bias": [20], "fc.weight": [7, 20], "fc.bias": [7]}
    for part in ("in_proj", "s_B", "s_C", "out_proj"):
        audio_shapes |= {f"blocks.0.{part}.weight": [20, 20], f"blocks.0.{part}.bias": [20]}
    audio_shapes |= {"blocks.0.norm.weight": [20], "blocks.0.norm.bias": [20]}
    fusion_shapes = dict(original_shapes("BiFormerWithProb|audio_dim=20|pe=False"))
    fusion_shapes["text_proj.0.weight"] = [16, 12]
    files = {
        "audio_head": audio_shapes,
        "text_head": GOLDEN["encoders"]["text_head"]["state_dict"],
        "fusion": fusion_shapes,
    }
    parts = [
        convert_audio_head(fill(files["audio_head"])),
        convert_text_head(fill(files["text_head"])),
        convert_fusion(fill(files["fusion"]), None, 4),
    ]
    system = build_model(*parts, backbones=(str(tmp_path / "speech"), str(tmp_path / "words")))
    assert len(system.config.reproduced_defects) == 10
    assert system.config.temperature == 1.0
    waveform, ids = torch.randn(1, 16_000), torch.randint(3, 300, (1, 6))
    output = system(input_values=waveform, input_ids=ids)

    features = system.bibier.audio.backbone(waveform).last_hidden_state
    tokens = nn.functional.pad(system.bibier.text.backbone(ids).last_hidden_state, (0, 0, 0, 95 - 6))
    a = build_model(parts[0], None, None)
    t = build_model(None, parts[1], None)
    frames, _, pooled = a.bibier.audio.encoder(features, torch.ones(features.shape[:2], dtype=torch.bool))
    encoded, _, pooled_text = t.bibier.text.encoder(tokens, torch.ones(1, 95, dtype=torch.bool))
    audio_logits, text_logits = a.audio_head.linear(pooled), t.text_head.linear(pooled_text)
    expected = build_model(None, None, parts[2])(
        audio_features=frames, text_features=encoded, audio_logits=audio_logits, text_logits=text_logits
    )
    torch.testing.assert_close(output.audio_logits, audio_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.text_logits, text_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=0)


def test_refusals(tmp_path: Path):
    name = "BiFormer|audio_dim=20|pe=False"
    good = fill(original_shapes(name))
    extra = {**good, "surprise.weight": torch.zeros(1)}
    missing = {key: value for key, value in good.items() if key != "text_proj.1.bias"}
    with pytest.raises(ConversionError, match=r"surprise\.weight"):
        convert_fusion(extra, None, 4)
    with pytest.raises(ConversionError, match=r"text_proj\.1\.bias"):
        build_model(None, None, convert_fusion(missing, None, 4))
    with pytest.raises(ConversionError, match="BiFormer"):
        convert_fusion(good, "BiMamba", 4)
    with pytest.raises(ConversionError, match="BiFormr does not match"):
        convert_fusion(good, "BiFormr", 4)
    with pytest.raises(ConversionError, match="num_transformer_heads"):
        convert_fusion(good)
    with pytest.raises(ConversionError, match="any known fusion"):
        convert_fusion({"a.weight": torch.zeros(1)})
    with pytest.raises(ConversionError, match="Nothing to convert"):
        build_model(None, None, None)
    text_head = convert_text_head(fill(GOLDEN["encoders"]["text_head"]["state_dict"]))
    with pytest.raises(ConversionError, match="width 12"):
        build_model(None, text_head, convert_fusion(good, None, 4))


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_code_in_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(ConversionError, match="never run"):
        convert_original.read_weights(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ConversionError, match="plain weights"):
        convert_original.read_weights(tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ConversionError, match="contain a state dict"):
        convert_original.read_weights(tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError):
        convert_original.read_weights(tmp_path / "nowhere.pt")
