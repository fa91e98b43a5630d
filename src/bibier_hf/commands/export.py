"""The command behind `bibier export`: a checkpoint as an ONNX or torch.export graph, compared with the model."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from ..errors import ArgumentError
from ..export.folder import FILES, export_model, onnx_runner, quantize_onnx, torch_runner, write_onnx
from ..export.graphs import Graph, make_graph, trace
from ..export.measuring import drift, latencies, latency_table
from ..export.onnx_pipeline import OnnxModel
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from .checkpoint import load_checkpoint
from .common import guarded

SPLITS = ("train", "dev", "test")


def export_main(source: str, output_dir: str, **options: Any) -> int:
    """[`export`] as a command; returns the exit code."""
    return guarded(
        lambda: print(export(source, output_dir, **options)), lambda: f"Interrupted; {output_dir} is as it was."
    )


def export(
    source: str,
    output_dir: str,
    *,
    format: str = "onnx",
    part: str = "features",
    int8: bool = False,
    backbone_dir: str | None = None,
    corpus: str | None = None,
    data_dir: str | None = None,
    split: str = "test",
    latency: bool = False,
) -> str:
    """Export a checkpoint; returns what to tell the user.

    Args:
        source: folder or Hub id of a checkpoint.
        output_dir, format, part, int8: as in [`export_model`].
        backbone_dir: folder with local copies of backbones that the checkpoint only names.
        corpus, data_dir, split: compare the answers of the export with the model's on a split of a corpus.
        latency: measure torch, torch.export, ONNX Runtime and int8 side by side.

    Raises:
        ArgumentError, ExportError: what cannot be followed or exported.
        FileNotFoundError, CorpusError: data that are not there or not as they should be.
    """
    if split not in SPLITS:
        raise ArgumentError(f"split: {split!r} is not allowed; give one of {', '.join(SPLITS)}.")
    if data_dir is not None and corpus is None:
        raise ArgumentError(
            "data_dir: says where a corpus is; name the corpus with --corpus as well, or leave it out."
        )
    if corpus is not None and format != "onnx":
        raise ArgumentError("corpus: the comparison of answers is for --format onnx.")
    model, processor = load_checkpoint(source, backbone_dir)
    model.eval()
    manifest = export_model(model, processor, output_dir, format, part, int8)
    parity = manifest["parity"]
    lines = [
        f"{output_dir}: {part} of {source} as {format}, {_megabytes(Path(output_dir) / manifest['file']):.1f} MB",
        f"inputs {', '.join(manifest['inputs'])}; outputs {', '.join(manifest['outputs'])}",
        f"largest difference of a logit from the model, {parity['cases']} batches of mixed lengths: "
        f"{parity['largest_difference']:.1e}",
    ]
    if int8:
        lines.append(f"in int8, on the same random inputs: {parity['int8']['largest_difference']:.1e}")
    if corpus is not None:
        lines.append(f"{corpus}, {split}, {compare_answers(model, processor, output_dir, corpus, data_dir, split)}")
    if latency:
        lines += ["", latency_of(make_graph(model, part))]
    return "\n".join(lines)


def compare_answers(
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    folder: str,
    corpus: str,
    data_dir: str | None,
    split: str,
) -> Any:
    """[`Drift`][bibier_hf.export.measuring.Drift] of an ONNX export on a split of a corpus, one utterance at a
    time."""
    from ..data.mixture import CorpusArguments, FeatureCacheArguments, load_corpora
    from ..evaluation.prediction import predict_logits
    from ..training.fit import inputs_of_split, make_collator

    exported = OnnxModel(folder, backbones=model)
    cache = FeatureCacheArguments(enabled=exported.manifest["part"] == "features")
    corpora = load_corpora([CorpusArguments(name=corpus, data_dir=data_dir)])
    dataset = inputs_of_split(corpora, split, model, processor, cache)
    collator = make_collator(model, processor, cache)
    exact, logits = (
        predict_logits(which, dataset, collator, batch_size=1)  # ty: ignore[invalid-argument-type] - called alike
        for which in (model, exported)
    )
    return drift(logits, exact)


def latency_of(graph: Graph) -> str:
    """The table of a graph: torch, torch.export, ONNX Runtime, int8."""
    program = trace(graph)
    with tempfile.TemporaryDirectory() as temporary:
        exact, quantized = (Path(temporary) / name for name in (FILES["onnx"], "int8.onnx"))
        write_onnx(program, graph, exact)
        quantize_onnx(exact, quantized)

        @torch.inference_mode()
        def eager(inputs: dict[str, torch.Tensor]) -> Any:
            return graph.model(**inputs)

        runners = {
            "torch": eager,
            "torch.export": torch.inference_mode()(torch_runner(program)),
            "onnxruntime": onnx_runner(exact),
            "onnxruntime int8": onnx_runner(quantized),
        }
        return f"{torch.get_num_threads()} threads\n{latency_table(latencies(graph, runners))}"


def _megabytes(file: Path) -> float:
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*")) / 1e6
