"""The pipeline over an ONNX graph: the torch pipeline's answers, without the torch model."""

import copy
import json
import multiprocessing
import pickle
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoProcessor

from bibier_hf import AudioTextEmotionPipeline, BiBiERForEmotionClassification
from bibier_hf.errors import ExportError
from bibier_hf.export import OnnxModel, OnnxPipeline, export_model
from bibier_hf.export.folder import quantize_onnx
from bibier_hf.export.measuring import drift
from bibier_hf.extras import MissingPackageError

from .conftest import TEMPERATURE

TEXT = "I can't believe it!"


@pytest.fixture(scope="module")
def onnx_pipe(exported: Path) -> OnnxPipeline:
    return OnnxPipeline.from_pretrained(exported)


@pytest.fixture(scope="module")
def torch_pipe(checkpoint: Path) -> AudioTextEmotionPipeline:
    model = BiBiERForEmotionClassification.from_pretrained(checkpoint).eval()
    model.config.temperature = TEMPERATURE
    return AudioTextEmotionPipeline(model=model, processor=AutoProcessor.from_pretrained(checkpoint), device="cpu")


@pytest.fixture
def inputs(clip) -> list[dict]:
    """Both modalities, either alone, a clip shorter than a frame, mixed lengths."""
    audio = [{"array": clip(seconds, seed), "sampling_rate": 16_000} for seed, seconds in enumerate((1.2, 0.01, 3.0))]
    return [
        {"audio": audio[0], "text": TEXT},
        {"audio": audio[1], "text": "Не могу поверить!"},
        {"audio": audio[2]},
        {"text": "a"},
    ]


def close(a: list[list[dict]], b: list[list[dict]]) -> bool:
    pairs = [
        ({e["label"]: e["score"] for e in one}, {e["label"]: e["score"] for e in other})
        for one, other in zip(a, b, strict=True)
    ]
    return all(
        one.keys() == other.keys() and all(abs(one[label] - other[label]) < 1e-4 for label in one)
        for one, other in pairs
    )


def test_the_answers_of_the_torch_pipeline(onnx_pipe, torch_pipe, inputs, monkeypatch: pytest.MonkeyPatch):
    expected = [torch_pipe(sample) for sample in inputs]
    best = torch_pipe(inputs[0], top_k=1)

    def forward(self, *args, **kwargs):
        raise AssertionError(f"{type(self).__name__} ran in torch")

    monkeypatch.setattr(nn.Module, "__call__", forward)
    assert close([onnx_pipe(sample) for sample in inputs], expected)
    for batch_size in (1, 2, 4):
        assert close(onnx_pipe(inputs, batch_size=batch_size), expected)
    assert close([onnx_pipe(inputs[0], top_k=1)], [best])
    assert [entry["label"] for entry in onnx_pipe(inputs[0])] == [entry["label"] for entry in expected[0]]
    with pytest.raises(TypeError, match="topk"):
        onnx_pipe(inputs[0], topk=1)


def test_a_recording_in_chunks(onnx_pipe, torch_pipe, clip):
    recording = {"array": clip(3.0, 5), "sampling_rate": 16_000}
    options = {
        "chunk_length_s": 1.2,
        "hop_length_s": 0.8,
        "return_timestamps": True,
        "batch_size": 2,
        "threshold": 0.99,
    }
    ours, theirs = (pipe(recording, **options) for pipe in (onnx_pipe, torch_pipe))
    assert ours["emotions"][0]["label"] == "unsure"
    assert [chunk["timestamp"] for chunk in ours["chunks"]] == [chunk["timestamp"] for chunk in theirs["chunks"]]
    assert close(*([chunk["emotions"] for chunk in told["chunks"]] for told in (ours, theirs)))


def test_a_folder_that_needs_nothing_else(exported: Path, onnx_pipe, inputs, tmp_path: Path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in exported.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert close([OnnxPipeline.from_pretrained(moved)(inputs[0])], [onnx_pipe(inputs[0])])
    with pytest.raises(ExportError, match="copy its folder"):
        onnx_pipe.save_pretrained(tmp_path)


@pytest.mark.parametrize("device", [None, -1, "cpu", torch.device("cpu")])
def test_the_device_is_the_cpu(exported: Path, device):
    assert OnnxPipeline.from_pretrained(exported, device=device).device == torch.device("cpu")


@pytest.mark.parametrize("device", [0, "cuda", "cuda:1", torch.device("cuda"), torch.device("meta")])
def test_other_devices_are_refused(exported: Path, onnx_pipe, device):
    with pytest.raises(ExportError, match="runs on the CPU"):
        OnnxPipeline.from_pretrained(exported, device=device)
    with pytest.raises(ExportError, match="runs on the CPU"):
        OnnxPipeline(model=onnx_pipe.model, processor=onnx_pipe.processor, device=device)
    with pytest.raises(ExportError, match="runs on the CPU"):
        onnx_pipe.model.to(device)


def test_into_another_process(onnx_pipe, inputs):
    """Pickled, it opens its file again; a pool that is spawned, as everywhere but on Linux, shares nothing."""
    expected = onnx_pipe(inputs[0])
    assert close([pickle.loads(pickle.dumps(onnx_pipe))(inputs[0])], [expected])
    assert close([copy.deepcopy(onnx_pipe)(inputs[0])], [expected])
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert close([pool.submit(onnx_pipe, inputs[0]).result()], [expected])


def test_what_the_graph_does_not_take(onnx_pipe, exported: Path):
    model = onnx_pipe.model
    with pytest.raises(ValueError, match="up to 1500"):
        model(input_features=torch.zeros(1, 1501, 160))
    with pytest.raises(ValueError, match="no input audio_features"):
        model(audio_features=torch.zeros(1, 5, 96))
    with pytest.raises(ValueError, match="no input for this graph"):
        model()
    with pytest.raises(ExportError, match="runs on the CPU"):
        OnnxModel(exported).to("cuda")


def test_padding_on_either_side(onnx_pipe):
    frames = torch.randn(1, 9, 160)
    left = torch.cat([torch.full((1, 4, 160), 7.0), frames], dim=1)
    mask = torch.cat([torch.zeros(1, 4), torch.ones(1, 9)], dim=1)
    together = onnx_pipe.model(input_features=left, audio_attention_mask=mask).logits
    torch.testing.assert_close(together, onnx_pipe.model(input_features=frames).logits, atol=1e-5, rtol=0)


def test_wrong_folders(tmp_path: Path, checkpoint: Path, exported: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in (tmp_path / "nowhere", checkpoint):
        with pytest.raises(ExportError, match="bibier export CHECKPOINT"):
            OnnxPipeline.from_pretrained(folder)
    manifest = (exported / "export.json").read_text()
    (tmp_path / "export.json").write_text(manifest.replace('"onnx",', '"torch",', 1))
    with pytest.raises(ExportError, match=r"torch\.export\.load"):
        OnnxPipeline.from_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"bibier-hf\[export\]"):
        OnnxPipeline.from_pretrained(exported)


def test_int8_of_the_graph(exported: Path, torch_pipe, inputs, tmp_path: Path):
    """Smaller, near, and made of integer products."""
    import onnx

    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    quantize_onnx(tmp_path / "model.onnx", tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in exported.iterdir())
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("MatMulInteger") > 20
    batch = torch_pipe.processor(
        audio=[sample.get("audio") for sample in inputs],
        text=[sample.get("text") for sample in inputs],
        sampling_rate=16_000,
    )
    with torch.no_grad():
        exact = torch_pipe.model(**batch).logits.numpy()
    assert 0 < drift(OnnxModel(tmp_path)(**batch).logits.numpy(), exact).relative < 0.2


def test_drift_by_hand():
    exact = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = drift(np.array([[1.0, 0.0], [1.0, 0.0]]), exact)
    assert (found.flipped, found.relative, found.utterances) == (0.5, 1.0, 2)
    assert "2 utterances: relative drift of the logits 100.00%, 1 labels flipped (50.0%)" in str(found)


@pytest.mark.slow
def test_a_graph_over_features_takes_the_backbones_of_a_model(torch_pipe, inputs, tmp_path: Path):
    export_model(torch_pipe.model, torch_pipe.processor, tmp_path / "features")
    with pytest.raises(ExportError, match="--part whole"):
        OnnxPipeline.from_pretrained(tmp_path / "features")(inputs[0])
    pipe = OnnxPipeline.from_pretrained(tmp_path / "features", backbones=torch_pipe.model)
    assert close(pipe(inputs, batch_size=4), [torch_pipe(sample) for sample in inputs])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("export.json", lambda old: b"[]", "export.json is damaged"),
        ("export.json", lambda old: b"{}", "export.json has no file, format"),
        ("export.json", lambda old: old.replace(b'"input_ids"', b'"ids"'), "not the graph that export.json describes"),
        ("model.onnx", lambda old: old[: len(old) // 2], "model.onnx cannot be loaded"),
    ],
)
def test_damaged_exports_are_one_line(exported: Path, tmp_path: Path, file: str, content, message: str):
    folder = shutil.copytree(exported, tmp_path / "export")
    (folder / file).write_bytes(content((folder / file).read_bytes()))
    with pytest.raises(ExportError, match=message) as caught:
        OnnxPipeline.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", [slice(None, None, -1), slice(6)])
def test_labels_other_than_the_graph_has_are_refused(exported: Path, tmp_path: Path, order: slice):
    folder = shutil.copytree(exported, tmp_path / "export")
    config = json.loads((folder / "config.json").read_text())
    names = list(config["id2label"].values())[order]
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: index for index, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="the graph has anger, disgust, fear, happy, neutral, sad, surprise"):
        OnnxPipeline.from_pretrained(folder)


def test_the_speech_check_is_in_the_graph(checkpoint: Path, processor, clip, tmp_path: Path):
    model = BiBiERForEmotionClassification.from_pretrained(checkpoint).eval()
    model.config.audio_config.speech_check = True
    torch.manual_seed(0)
    model.bibier.audio.add_speech_check().weight.normal_(0, 0.05)
    export_model(model, processor, tmp_path, part="features")

    manifest = json.loads((tmp_path / "export.json").read_text())
    assert manifest["outputs"][-1] == "not_speech"
    theirs = OnnxPipeline.from_pretrained(tmp_path, backbones=model)
    ours = AudioTextEmotionPipeline(model=model, processor=processor, device="cpu")
    for sample in ((clip(1.0), 16_000), {"audio": (clip(2.0, 1), 16_000), "text": "Hello"}, {"text": "Hello"}):
        found, expected = (pipe(sample, return_unsure=True) for pipe in (theirs, ours))
        assert found["unsure_score"] == pytest.approx(expected["unsure_score"], abs=1e-3)
        assert found["unsure_reason"] == expected["unsure_reason"]
