"""The graph that takes raw samples, and the file that runs it with NumPy and ONNX Runtime alone."""

import ast
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import ByT5Tokenizer, Wav2Vec2FeatureExtractor, WhisperConfig, WhisperFeatureExtractor

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification, BiBiERProcessor, shipped_checkpoint
from bibier_hf.errors import ExportError
from bibier_hf.export import OnnxModel, export_model, runner
from bibier_hf.export.compacting import as_bytes, as_half, compact_weights
from bibier_hf.export.front_end import WaveformFrontEnd, WhisperFrontEnd
from bibier_hf.export.graphs import make_graph
from bibier_hf.export.runner import EmotionGraph

from ..conftest import merged
from .test_graphs import small_wav2vec2

TEXTS = ("I can't believe it!", "Не могу поверить!  Ёлки\u200b…", "a" * 500, "«Ну и ну» № 5 ½ 😀 <pad>", "x\ud83dy")


def readable_log_mel(clip: np.ndarray, mel: np.ndarray, size: int = 400, hop: int = 160) -> np.ndarray:
    """Log-mel frames of Whisper, frame by frame: (S,) -> (F, M)."""
    clip = np.pad(clip.astype(np.float64), (0, max(0, 800 - len(clip))))
    mirrored = np.pad(clip, size // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    frames = []

    for number in range(len(clip) // hop):
        power = np.abs(np.fft.rfft(mirrored[number * hop : number * hop + size] * window)) ** 2
        frames.append([math.log10(max(power @ band, 1e-10)) for band in mel.T])

    return (np.maximum(frames, np.max(frames) - 8) + 4) / 4


@pytest.fixture
def clips(clip) -> list[np.ndarray]:
    """Speech-like noise of several lengths, a tone with a click, silence, less than a window of the transform."""
    tone = np.sin(np.arange(4001) / 5).astype(np.float32)
    tone[2000] = 1
    return [clip(1.23, 0), tone, np.zeros(1601, np.float32), clip(0.01, 1)]


def as_batch(clips: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips, with noise where there should be nothing: what is padding must not count."""
    samples = torch.randn(len(clips), max(map(len, clips)))
    for row, clip in enumerate(clips):
        samples[row, : len(clip)] = torch.from_numpy(clip)
    return samples, torch.tensor([len(clip) for clip in clips])


def test_log_mel_is_that_of_a_loop_and_of_whisper(clips):
    extractor = WhisperFeatureExtractor(feature_size=20)
    frames, counts = WhisperFrontEnd(extractor, max_window_s=30.0)(*as_batch(clips))

    for row, clip in enumerate(clips):
        ours = frames[row, : counts[row]].numpy()
        padded = np.pad(clip, (0, max(0, 800 - len(clip))))
        theirs = extractor(padded, sampling_rate=16_000, padding="longest", truncation=False, return_tensors="np")
        np.testing.assert_allclose(ours, readable_log_mel(clip, extractor.mel_filters), atol=2e-4)
        np.testing.assert_allclose(ours, theirs["input_features"][0].T, atol=2e-4)
        assert not frames[row, counts[row] :].any()


def test_a_missing_clip_has_no_frames():
    _, counts = WhisperFrontEnd(WhisperFeatureExtractor(), 30.0)(torch.randn(2, 900), torch.tensor([0, 1]))
    assert counts.tolist() == [0, 5]


@pytest.mark.parametrize("normalizes", [True, False])
def test_waveforms_are_normalized_without_their_padding(clips, normalizes: bool):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalizes)
    values, counts = WaveformFrontEnd(extractor, max_window_s=30.0)(*as_batch(clips))

    for row, clip in enumerate(clips):
        theirs = extractor(clip, sampling_rate=16_000, return_tensors="np")["input_values"][0]
        np.testing.assert_allclose(values[row, : counts[row]].numpy(), theirs, atol=1e-4)


def test_what_has_no_graph_of_samples(checkpoint: Path, processor: BiBiERProcessor, tmp_path: Path):
    model = BiBiERForEmotionClassification.from_pretrained(checkpoint).eval()

    def refused(match: str, processor: BiBiERProcessor | None, **options) -> None:
        with pytest.raises(ExportError, match=match) as caught:
            export_model(model, processor, tmp_path / "out", part="samples", **options)
        assert "\n" not in str(caught.value)

    refused("no graph has the front end SeamlessM4TFeatureExtractor", processor)
    refused("the processor is needed", None)
    refused("needs format='onnx'", processor, format="torch")
    with pytest.raises(ExportError, match="dither"):
        WhisperFrontEnd(WhisperFeatureExtractor(dither=0.1), 30.0)
    assert not list(tmp_path.iterdir())


def test_short_types_only_where_nothing_is_lost(tmp_path: Path):
    exact = torch.randn(64, 64).to(torch.float8_e4m3fn).float().numpy()
    half = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float16).astype(np.float32)
    full = np.full((64, 64), 1 / 3, np.float32)
    assert as_bytes(exact) is not None
    assert as_bytes(half) is None
    assert as_half(half) is not None
    assert as_half(full) is None
    assert as_half(np.full((2, 2), 1e9, np.float32)) is None

    weights = {"exact": exact, "half": half, "full": full}
    steps = ["x", "a", "b", "c"]
    nodes = [
        onnx.helper.make_node("MatMul", [steps[place], name], [steps[place + 1]]) for place, name in enumerate(weights)
    ]
    shape = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "products",
        [shape("x", onnx.TensorProto.FLOAT, [1, 64])],
        [shape("c", onnx.TensorProto.FLOAT, [1, 64])],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "model.onnx")

    def run() -> np.ndarray:
        session = runner.onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        return session.run(None, {"x": np.ones((1, 64), np.float32)})[0]

    before, size = run(), (tmp_path / "model.onnx").stat().st_size
    compact_weights(tmp_path / "model.onnx")
    np.testing.assert_array_equal(run(), before)
    assert (tmp_path / "model.onnx").stat().st_size < 0.7 * size


def test_the_runner_needs_nothing_of_the_package():
    imported = set()
    for node in ast.walk(ast.parse(Path(runner.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "soundfile", "soxr", "tokenizers"}


@pytest.fixture(scope="module")
def tiny() -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    folder = shipped_checkpoint("bibier-tiny")
    return BiBiERForEmotionClassification.from_pretrained(folder).eval(), BiBiERProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def tiny_export(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "tiny"
    export_model(*tiny, folder, part="samples")
    return folder


@torch.no_grad()
def torch_logits(tiny, clip: np.ndarray | None, text: str | None) -> np.ndarray:
    model, processor = tiny
    given = {"audio": clip, "sampling_rate": 16_000} if clip is not None else {}
    if text is not None:
        given["text"] = text
    return model(**processor(**given)).logits.numpy()


@pytest.mark.slow
def test_answers_of_the_model_from_raw_samples(tiny, tiny_export: Path, clips, clip):
    """Alone and in a batch, at any length: a recording of several windows ends in a rest of a few samples."""
    _, processor = tiny
    graph = EmotionGraph(tiny_export)
    long = np.concatenate([clip(6.0, 3), clip(6.0, 4), clip(0.02, 5)])
    samples = [*clips, long, None, clip(2.0, 7)]
    texts = [*TEXTS, "What a day!", None]
    expected = np.concatenate([torch_logits(tiny, *sample) for sample in zip(samples, texts, strict=True)])
    alone = np.concatenate([graph.logits([one], [text])["logits"] for one, text in zip(samples, texts, strict=True)])
    np.testing.assert_allclose(alone, expected, atol=1e-4)
    np.testing.assert_allclose(graph.logits(samples, texts)["logits"], expected, atol=1e-4)

    for text in TEXTS:
        assert graph.tokens([text])[0][0].tolist() == processor(text=text)["input_ids"][0].tolist()
    with pytest.raises(ValueError, match="nothing that this model reads"):
        graph.logits([None], [" "])

    manifest = json.loads((tiny_export / "export.json").read_text())
    assert manifest["outputs"] == ["logits", "audio_logits", "text_logits", "not_speech"]
    assert manifest["samples"]["window"] == 96_000
    assert sorted(path.name for path in tiny_export.iterdir()) == [
        "export.json",
        "model.onnx",
        "run.py",
        "tokenizer.json",
    ]
    assert (tiny_export / "model.onnx").stat().st_size < 11e6
    assert b".py" not in (tiny_export / "model.onnx").read_bytes()  # where the exporter ran
    with pytest.raises(ExportError, match=r"its own run\.py"):
        OnnxModel(tiny_export)


@pytest.mark.slow
def test_it_runs_without_torch(tiny, tiny_export: Path, clip, tmp_path: Path):
    import soundfile

    wave = (np.stack([clip(1.5, 0), clip(1.5, 1)], 1) * 32767).astype(np.int16)
    soundfile.write(tmp_path / "clip.wav", wave, 16_000)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from run import EmotionGraph; "
        "print(EmotionGraph()(sys.argv[2], sys.argv[3])); "
        "assert not {'torch', 'transformers', 'bibier_hf'} & set(sys.modules), sorted(sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tiny_export), str(tmp_path / "clip.wav"), TEXTS[1]]
    answers = ast.literal_eval(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    logits = torch_logits(tiny, (wave / 32768).mean(1).astype(np.float32), TEXTS[1])
    scores = torch.from_numpy(logits[0] / tiny[0].config.temperature).softmax(0)
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(
        dict(zip(tiny[0].config.label_names, scores.tolist(), strict=True)), abs=1e-4
    )
    shown = subprocess.run(
        [sys.executable, tiny_export / "run.py", "--text", "What a day!"], capture_output=True, text=True, check=True
    )
    assert len(shown.stdout.splitlines()) == 7


@pytest.mark.slow
def test_int8_keeps_the_front_end(tiny, tmp_path: Path, clip):
    manifest = export_model(*tiny, tmp_path / "int8", part="samples", int8=True)
    assert manifest["parity"]["int8"]["largest_difference"] < 1
    operators = [node.op_type for node in onnx.load(tmp_path / "int8" / "model.onnx").graph.node]
    assert operators.count("MatMulInteger") > 20
    assert "Conv" in operators
    found = EmotionGraph(tmp_path / "int8").logits([clip(2.0, 0)])["logits"]
    np.testing.assert_allclose(found, torch_logits(tiny, clip(2.0, 0), None), atol=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
def test_other_backbones(kind: str, tiny_options: dict, tmp_path: Path, clip):
    """With windows of less than the model's positions, frames to the encoder instead of statistics, and bytes."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
    whisper = WhisperConfig(**sizes, vocab_size=60, pad_token_id=0)
    extractor = WhisperFeatureExtractor() if kind == "whisper" else Wav2Vec2FeatureExtractor(do_normalize=True)
    backbone = whisper if kind == "whisper" else small_wav2vec2("layer")
    options = merged(tiny_options, {"audio_config": {"encoder": "frame_mlp", "max_window_s": 1.5}})
    model = BiBiERForEmotionClassification(BiBiERConfig.from_backbones(backbone, "embedded", **options)).eval()
    processor = BiBiERProcessor(extractor, ByT5Tokenizer(), 192, max_window_s=1.5)
    export_model(model, processor, tmp_path / "out", part="samples")
    graph = EmotionGraph(tmp_path / "out")
    samples = [clip(0.2, 0), clip(1.5, 1), np.concatenate([clip(3.0, 2), clip(0.01, 3)])]
    expected = np.concatenate(
        [torch_logits((model, processor), one, text) for one, text in zip(samples, TEXTS[:3], strict=True)]
    )
    np.testing.assert_allclose(graph.logits(samples, TEXTS[:3])["logits"], expected, atol=1e-4)
    assert make_graph(model, "samples", processor).front_end.window == 24_000
