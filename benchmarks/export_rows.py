"""Rows on replacements of the float32 model in torch: ONNX Runtime and int8, with the loss of precision of int8.
Extra: export."""

import functools
import importlib
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from transformers import Wav2Vec2Model

from bibier_hf.export.folder import Runner, onnx_runner, quantize_onnx, write_onnx
from bibier_hf.export.graphs import Graph, make_graph, trace
from bibier_hf.export.measuring import drift
from bibier_hf.model.audio_bibier import SAMPLING_RATE
from bibier_hf.model.backbones_bibier import encode_audio
from bibier_hf.model.modeling_bibier import BiBiERForEmotionClassification
from bibier_hf.quantization import int8_copy
from extraction_rows import published_backbone
from measuring import Row, compare

_FRAMES, _TOKENS = 200, 16  # of one clip of 4 s


def _need(*packages: str) -> None:
    """Raises ModuleNotFoundError, by which a row is left out, before anything is built."""
    for package in packages:
        importlib.import_module(package)


@functools.cache
def _graphs() -> tuple[Graph, Runner, Runner]:
    """The whole model with the embedded backbones and random weights: as a graph in ONNX Runtime, and the same in
    int8."""
    _need("onnx", "onnxscript", "onnxruntime")
    torch.manual_seed(0)
    graph = make_graph(BiBiERForEmotionClassification.from_backbones(), "whole")
    program = trace(graph)

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("exact.onnx", "int8.onnx")]
        write_onnx(program, graph, files[0])
        quantize_onnx(*files)
        exact, int8 = map(onnx_runner, files)
        return graph, exact, int8


def onnx(batch: int = 1) -> Row:
    graph, exact, _ = _graphs()
    inputs = graph.example(batch, [_FRAMES, _TOKENS])

    @torch.inference_mode()
    def eager() -> None:
        graph.model(**inputs)

    note = f"whole model, embedded pair, {batch} clips of up to 4 s"

    return compare(
        "onnx" if batch == 1 else f"onnx_{batch}", "torch, float32", None, lambda: exact(inputs), eager, note
    )


def int8_onnx(batch: int = 1) -> Row:
    graph, exact, quantized = _graphs()
    inputs = graph.example(batch, [_FRAMES, _TOKENS])
    row = compare("int8_onnx", "ONNX Runtime, float32", None, lambda: quantized(inputs), lambda: exact(inputs))
    many = [graph.example(1, [20 + seed, 1 + seed], seed) for seed in range(32)]
    logits, wanted = (
        torch.cat([torch.from_numpy(run(sample)[0]) for sample in many]).numpy() for run in (quantized, exact)
    )

    return replace(row, note=f"whole model, embedded pair, random weights; {drift(logits, wanted)}")


def int8_backbone(clips: int = 2, seconds: float = 4.0) -> Row:
    """The published speech backbone with random weights, in torch."""
    backbone = published_backbone()
    quantized, audio = int8_copy(backbone), torch.randn(clips, int(seconds * SAMPLING_RATE))

    @torch.inference_mode()
    def features(model: Wav2Vec2Model) -> torch.Tensor:
        return encode_audio(model, audio, None, layers=[-1], max_window_s=30.0)[0]

    exact, quick = features(backbone), features(quantized)
    costs = f"relative drift of the features {(quick - exact).norm() / exact.norm():.1%}"
    note = f"{clips} clips of {seconds:.0f} s, wav2vec2-large of 12 layers; {costs}"
    run = (lambda: features(quantized)), (lambda: features(backbone))

    return compare("int8_backbone", "torch, float32", None, *run, note=note, budget_s=15, warm_up=False)


FULL_ROWS = {"onnx": onnx, "onnx_16": lambda: onnx(16), "int8_onnx": int8_onnx, "int8_backbone": int8_backbone}
