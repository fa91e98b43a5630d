"""`bibier export`."""

import tempfile
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from ..errors import ArgumentError
from ..export.folder import FILES, RUNNER, export_model, onnx_runner, quantize_onnx, torch_runner, write_onnx
from ..export.graphs import Graph, make_graph, trace
from ..export.measuring import drift, latencies, latency_table
from ..export.onnx_pipeline import OnnxModel
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from .checkpoint import CheckpointOptions, load_checkpoint


class ExportArguments(CheckpointOptions):
    """Export a checkpoint as a graph that runs without the model's code, and compare it with the model.

    Examples:
      bibier export outputs/quickstart --output_dir onnx/quickstart --part whole
      bibier export bibier-tiny --output_dir onnx/tiny --part samples
      bibier export outputs/resd --output_dir onnx/resd --int8 --corpus resd --data_dir PATH/TO/resd --latency
    """

    output_dir: str = Field(description="a new folder, or an earlier export to replace")
    format: Literal["onnx", "torch"] = Field("onnx", description="onnx, or torch (torch.export)")
    part: Literal["features", "whole", "samples"] = Field(
        "features",
        description="features: everything after the backbones; whole: everything after the processor; samples: "
        "everything, from raw samples, to run without this package",
    )
    int8: bool = Field(False, description="also write the ONNX graph with linear layers in dynamic int8")
    corpus: str | None = Field(None, description="also compare predictions with the model's on this corpus")
    data_dir: str | None = Field(None, description="folder or file of that corpus")
    split: Literal["train", "dev", "test"] = Field("test", description="split of that corpus")
    latency: bool = Field(False, description="measure the latency of torch, torch.export, ONNX Runtime, and int8")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.data_dir is not None and self.corpus is None:
            raise ArgumentError("data_dir: give the name of the corpus, --corpus as well, or leave it out.")
        if self.corpus is not None and self.format != "onnx":
            raise ArgumentError("corpus: answers are compared for --format onnx only.")
        if self.part == "samples" and (self.corpus is not None or self.latency):
            raise ArgumentError("part: samples does not go with --corpus or --latency; compare with --part whole.")
        return self

    def after_interrupt(self) -> str:
        return f"{self.output_dir} is unchanged."


def export(arguments: ExportArguments) -> None:
    """Export the checkpoint and print how close it is to the model.

    Raises:
        ExportError: a model that cannot be exported like this.
    """
    model, processor = load_checkpoint(arguments.checkpoint, arguments.backbone_dir)
    model.eval()

    folder = Path(arguments.output_dir)
    manifest = export_model(model, processor, folder, arguments.format, arguments.part, arguments.int8)
    size = sum(path.stat().st_size for path in folder.glob(f"{manifest['file']}*")) / 1e6
    print(f"{folder}: {arguments.part} of {arguments.checkpoint} as {arguments.format}, {size:.1f} MB")
    print(f"inputs {', '.join(manifest['inputs'])}; outputs {', '.join(manifest['outputs'])}")

    parity = manifest["parity"]
    print(
        f"largest difference of a logit from the model, {parity['cases']} batches of mixed lengths: "
        f"{parity['largest_difference']:.1e}"
    )
    if arguments.part == "samples":
        print(f"run it without this package: python {folder / RUNNER} clip.wav")
    if arguments.int8:
        print(f"in int8, on the same random inputs: {parity['int8']['largest_difference']:.1e}")
    if arguments.corpus is not None:
        answers = compare_answers(model, processor, arguments.corpus, arguments)
        print(f"{arguments.corpus}, {arguments.split}, {answers}")
    if arguments.latency:
        print(f"\n{latency_of(make_graph(model, arguments.part))}")


def compare_answers(
    model: BiBiERForEmotionClassification, processor: BiBiERProcessor, corpus: str, arguments: ExportArguments
) -> Any:
    """[`Drift`][bibier_hf.export.measuring.Drift] of the export on a split of the corpus, one utterance at a time."""
    from ..data.mixture import CorpusArguments, FeatureCacheArguments, load_corpora
    from ..data.reader import InputReader
    from ..evaluation.prediction import predict_logits

    exported = OnnxModel(arguments.output_dir, backbones=model)
    cache = FeatureCacheArguments(enabled=exported.manifest["part"] == "features")
    reader = InputReader(model, processor, cache)
    source = CorpusArguments(name=corpus, data_dir=arguments.data_dir)
    names, problem = model.config.label_names, str(model.config.problem_type)
    dataset = reader.split(load_corpora([source], names, problem, [arguments.split]), arguments.split)

    exact, logits = (
        predict_logits(which, dataset, reader.collator, batch_size=1)  # ty: ignore[invalid-argument-type] - called alike
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
