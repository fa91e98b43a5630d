"""Graphs: what stands in for untraceable code computes the same, and so does the graph of every fusion and encoder."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Wav2Vec2Config, WhisperConfig

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.errors import ExportError
from bibier_hf.export import MANIFEST, export_model
from bibier_hf.export import folder as folder_module
from bibier_hf.export.folder import onnx_runner
from bibier_hf.export.graphs import make_graph, trace
from bibier_hf.model import mamba_bibier
from bibier_hf.model.encoders_bibier import LSTMBlock

from ..conftest import both, features_of, merged


def prefix_mask(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable], Any]:
    """`exporting(function)`: what it gives while a graph is being exported"""

    def run(function: Callable) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(torch.compiler, "is_exporting", lambda: True)
            return function()

    return run


@pytest.mark.parametrize("decay", ["exponential", "product"])
def test_the_loop_is_the_scan(decay: str, exporting):
    torch.manual_seed(0)
    batch, length, channels, states = 3, 7, 5, 4
    u, dt = torch.randn(batch, length, channels), torch.rand(batch, length, channels)
    B, C = torch.randn(batch, length, states), torch.randn(batch, length, states)
    inputs = u, dt, -torch.rand(channels, states), B, C, torch.randn(channels), decay
    for mask in (None, prefix_mask(7, 3, 1)):
        for reverse in (False, True):
            expected = mamba_bibier.selective_scan(*inputs, mask, reverse)
            looped = exporting(lambda mask=mask, reverse=reverse: mamba_bibier.selective_scan(*inputs, mask, reverse))
            torch.testing.assert_close(looped, expected, atol=1e-5, rtol=1e-5)


def test_the_scaled_norm_is_the_norm(exporting):
    norm, x = mamba_bibier.RMSNorm(5), torch.randn(2, 3, 5)
    x[0, 0] = 0
    torch.testing.assert_close(exporting(lambda: norm(x)), norm(x))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_loops_are_the_lstm(bidirectional: bool, exporting):
    torch.manual_seed(0)
    block, x, mask = LSTMBlock(8, bidirectional), torch.randn(3, 6, 8), prefix_mask(6, 4, 1)
    torch.testing.assert_close(exporting(lambda: block(x, mask)), block(x, mask), atol=1e-6, rtol=1e-5)


def test_tracing_leaves_everything_as_it_was(tiny_options: dict, monkeypatch: pytest.MonkeyPatch):
    """A trace that fails, too."""
    model = features_model(tiny_options)
    exporting = []

    def fail(*args):
        exporting.append(torch.compiler.is_exporting())
        raise KeyError

    with monkeypatch.context() as patched:
        patched.setattr(mamba_bibier, "_looped_scan", fail)
        with contextlib.suppress(Exception):
            trace(make_graph(model, "features"))
        assert exporting
        assert all(exporting)
        assert not torch.compiler.is_exporting()
        assert model(audio_features=torch.randn(1, 3, 6)).logits.isfinite().all()  # without the loop


def features_model(tiny_options: dict, **options) -> BiBiERForEmotionClassification:
    torch.manual_seed(0)
    config = BiBiERConfig(**merged(tiny_options, features_of(audio=6, text=8), options))
    return BiBiERForEmotionClassification(config).eval()


def assert_same(model: BiBiERForEmotionClassification, graph, run, shapes) -> None:
    for seed, (batch, *lengths) in enumerate(shapes):
        inputs = graph.example(batch, lengths[: len(graph.inputs)], seed)
        with torch.no_grad():
            expected = model(**inputs)
        for name, output in zip(graph.output_names, run(inputs), strict=True):
            torch.testing.assert_close(torch.from_numpy(output), expected[name], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_features_as_onnx(tiny_options: dict, tmp_path: Path):
    """One file for any batch and length: one step, padding, holes in a mask, a missing modality."""
    model = features_model(
        tiny_options, text_config={"encoder": "lstm"}, add_unimodal_logits=True, audio_config={"statistics": True}
    )
    manifest = export_model(model, None, tmp_path / "out")
    assert json.loads((tmp_path / "out" / MANIFEST).read_text()) == manifest
    assert manifest["inputs"] == ["audio_features", "audio_features_mask", "text_features", "text_features_mask"]
    assert manifest["outputs"] == ["logits", "audio_logits", "text_logits"]
    assert manifest["parity"]["largest_difference"] < 1e-4
    graph, run = make_graph(model, "features"), onnx_runner(tmp_path / "out" / manifest["file"])
    assert_same(model, graph, run, [(1, 1, 1), (1, 2, 2), (2, 1, 30), (6, 50, 20), (1, 2000, 95)])
    inputs = graph.example(2, [6, 5])
    inputs["audio_features_mask"] = torch.tensor([[0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1]])
    with torch.no_grad():
        expected = model(**inputs).logits
    torch.testing.assert_close(torch.from_numpy(run(inputs)[0]), expected, atol=1e-4, rtol=0)


def test_features_as_torch_export(tiny_options: dict, tmp_path: Path):
    options = {"fusion": "bimamba", "num_hidden_layers": 1, "original_behavior": ["unidirectional"]}
    encoders = {"audio_config": {"encoder": "frame_mlp"}, "text_config": {"encoder": "transformer"}}
    model = features_model(tiny_options, **encoders, **options)
    manifest = export_model(model, None, tmp_path / "out", format="torch")
    loaded = torch.export.load(tmp_path / "out" / manifest["file"]).module()

    def run(inputs: dict[str, torch.Tensor]) -> list:
        return [output.numpy() for output in loaded(*inputs.values())]

    assert_same(model, make_graph(model, "features"), run, [(1, 1, 1), (1, 2, 2), (2, 1, 30), (6, 50, 20)])


VARIANTS = [
    *({"fusion": fusion} for fusion in ("biformer", "bigraph", "bigated", "bigatedgraph", "bimamba", "late")),
    {**both(encoder="lstm"), "original_behavior": ["unidirectional"]},
    {"audio_config": {"encoder": "lstm"}, "text_config": {"encoder": "frame_mlp"}},
    both(encoder="transformer"),
    both(encoder="none"),
    {"modalities": ["audio"]},
    {"modalities": ["text"], "text_config": {"encoder": "transformer"}},
    {"original_behavior": ["own_value"], "positional_encoding": True},
    {"original_behavior": ["product_decay", "unnormalized_encoders", "softmax_gate"], "fusion": "bigated"},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options.values())))
def test_every_variant_in_both_forms(options: dict, tiny_options: dict, tmp_path: Path):
    model = features_model(tiny_options, **options)
    graph = make_graph(model, "features")
    program = trace(graph)
    folder_module.write_onnx(program, graph, tmp_path / "model.onnx")
    for run in (onnx_runner(tmp_path / "model.onnx"), folder_module.torch_runner(program)):
        assert_same(model, graph, run, [(1, 1, 1), (1, 2, 2), (2, 1, 30), (6, 50, 20), (1, 700, 95)])


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_the_whole_of_a_wav2vec2(format: str, tiny_options: dict, tmp_path: Path):
    """A backbone that reads the waveform; shorter clips than its first frame are lengthened by silence."""
    torch.manual_seed(0)
    config = BiBiERConfig.from_backbones(small_wav2vec2("layer"), "embedded", **tiny_options)
    model = BiBiERForEmotionClassification(config).eval()
    manifest = export_model(model, None, tmp_path / "out", format=format, part="whole")
    assert manifest["inputs"] == ["input_values", "audio_attention_mask", "input_ids", "text_attention_mask"]
    assert manifest["longest"] == {"audio": 480_000, "text": config.text_config.max_tokens}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_the_whole_of_a_whisper(format: str, tiny_options: dict, tmp_path: Path):
    torch.manual_seed(0)
    sizes = {
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_layers": 1,
    }
    whisper = WhisperConfig(**sizes, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=60, pad_token_id=0)
    audio = {"encoder": "frame_mlp", "cepstrum": True}
    options = merged(tiny_options, {"modalities": ["audio"], "audio_config": audio})
    config = BiBiERConfig.from_backbones(whisper, None, **options)
    manifest = export_model(
        BiBiERForEmotionClassification(config).eval(), None, tmp_path / "out", format=format, part="whole"
    )
    assert manifest["inputs"] == ["input_features", "audio_attention_mask"]
    assert manifest["longest"] == {"audio": 2998}


def small_wav2vec2(norm: str) -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
        do_stable_layer_norm=True,
    )


def test_what_no_graph_can_be_made_of(tiny_options: dict, model: BiBiERForEmotionClassification, tmp_path: Path):
    def refused(match: str, model: BiBiERForEmotionClassification, **options) -> None:
        with pytest.raises(ExportError, match=match):
            export_model(model, None, tmp_path / "out", **options)

    refused("depend on its batch", features_model(tiny_options, original_behavior=True))
    refused("no audio backbone", features_model(tiny_options), part="whole")
    refused("must be one of features, whole, samples", model, part="head")
    refused("must be one of onnx, torch", model, format="tflite")
    refused("int8_copy", model, format="torch", int8=True)
    config = BiBiERConfig.from_backbones(small_wav2vec2("group"), "embedded", **tiny_options)
    refused("mixes padding", BiBiERForEmotionClassification(config), part="whole")
    logits_only = {"fusion": "late", "audio_config": {"encoder": "none", "feature_size": None}}
    refused("computed elsewhere", features_model(tiny_options, **logits_only))
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(model: BiBiERForEmotionClassification, checkpoint: Path):
    before = sorted(checkpoint.iterdir())
    with pytest.raises(ExportError, match="is not an export"):
        export_model(model, None, checkpoint)
    assert sorted(checkpoint.iterdir()) == before


def test_a_graph_that_differs_is_not_written(tiny_options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An earlier export that is in place stays."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / MANIFEST).write_text("earlier")
    monkeypatch.setattr(folder_module, "TOLERANCE", -1.0)  # nothing is as near
    model = features_model(tiny_options, **both(encoder="frame_mlp"), fusion="late")
    with pytest.raises(ExportError, match="differs from the model"):
        export_model(model, None, folder, format="torch")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {MANIFEST: "earlier"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
