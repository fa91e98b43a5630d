"""Export a model to a self-contained folder: the graph, configuration, processor and a manifest."""

import copy
import importlib
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ExportError
from ..extras import require
from ..files import is_vacant, replaced_folder, write_json
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from ..model.validation_bibier import one_line
from .compacting import compact_weights
from .graphs import Graph, SamplesGraph, make_graph, trace

MANIFEST = "export.json"
FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
"""Format -> file name of the graph."""

RUNNER, TOKENIZER = "run.py", "tokenizer.json"
"""Of a graph of raw samples: the file that runs it, and the tokenizer."""

TOLERANCE = 1e-4
"""Largest absolute difference between a logit of a float32 graph and of the model."""


def export_model(
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor | None,
    output_dir: str | os.PathLike,
    format: str = "onnx",
    part: str = "features",
    int8: bool = False,
) -> dict[str, Any]:
    """Write the graph of a model, compare it with the model, and move it into place only if they agree.

    Args:
        model: a trained model; it is not changed.
        processor: its processor, saved with the graph; None if there is none.
        output_dir: a new folder, or an earlier export, which is replaced.
        format: `"onnx"` or `"torch"` (`torch.export.load(folder / "model.pt2").module()`).
        part: `"features"`: everything above the backbones; `"whole"`: everything after the processor; `"samples"`:
            everything from raw samples and token ids, in ONNX only, with a file that runs it without this package.
        int8: dynamic int8 for the linear layers of an ONNX graph (ONNX Runtime). Its activations have one scale per
            tensor, so a result may depend slightly on its batch.

    Returns:
        the manifest: `format`, `part`, `file`, `int8`, `inputs`, `outputs`, `longest` (steps of each modality; null:
            any), `labels` in the order of the logits, `parity` (`largest_difference` of a logit over `cases` batches
            of random inputs), `versions`.

    Raises:
        ExportError: the model has no such graph, the graph differs from the model, or the folder contains something
            else.
        MissingPackageError: a package of the extra `export`.
    """
    if format not in FILES:
        raise ExportError(f"format={format!r} is not allowed; it must be one of {', '.join(FILES)}.")

    if int8 and format != "onnx":
        raise ExportError(
            "int8=True needs format='onnx'. In PyTorch, bibier_hf.quantization.int8_copy(model) gives int8 layers."
        )

    if part == "samples" and format != "onnx":
        raise ExportError("part='samples' needs format='onnx'.")

    if format == "onnx":
        require("onnx", "onnxscript", "onnxruntime")

    folder = Path(output_dir)
    if folder.exists() and not (folder / MANIFEST).is_file() and not is_vacant(folder):
        raise ExportError(
            f"output_dir: {folder} exists and is not an export, so it is not replaced. Choose another folder."
        )

    with replaced_folder(folder) as part_folder:
        graph = make_graph(model, part, processor)
        program = trace(graph)
        file = part_folder / FILES[format]

        if format == "onnx":
            packages = ("torch", "onnx", "onnxruntime")
            write_onnx(program, graph, file)
            if part == "samples":
                compact_weights(file)
            run = onnx_runner(file)
        else:
            packages = ("torch",)
            # Through memory, because torch's own writer aborts the process on a full disk.
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
            file.write_bytes(buffer.getbuffer())
            run = torch_runner(program)

        parity = measure_parity(graph, run)
        if not parity["largest_difference"] <= TOLERANCE:
            raise ExportError(
                f"The graph differs from the model by {parity['largest_difference']:.2g} in a logit, more than "
                f"{TOLERANCE}; nothing was written. Please report the configuration of this model."
            )

        if int8:
            quantize_onnx(file, file, exact="front_end." if part == "samples" else None)
            if part == "samples":
                compact_weights(file)
            parity["int8"] = measure_parity(graph, onnx_runner(file))

        manifest = {
            "format": format,
            "part": part,
            "file": FILES[format],
            "int8": int8,
            "inputs": graph.input_names,
            "outputs": graph.output_names,
            "longest": dict(zip(model.config.modalities, graph.longest, strict=True)),
            "labels": model.config.label_names,
            "parity": parity,
            "versions": {name: importlib.import_module(name).__version__ for name in packages},
        }

        if isinstance(graph, SamplesGraph):
            manifest |= samples_facts(graph)
            write_runner(part_folder, graph)
        else:
            model.config.save_pretrained(part_folder)

            if processor is not None:
                processor.save_pretrained(part_folder)

        write_json(part_folder / MANIFEST, manifest)

    return manifest


def samples_facts(graph: SamplesGraph) -> dict[str, Any]:
    """What a program needs to feed a graph of raw samples and to read its logits, for the manifest."""
    config, processor = graph.model.config, graph.processor
    facts: dict[str, Any] = {
        "answers": {
            "problem_type": config.problem_type,
            "temperature": config.temperature,
            "label_ranges": config.label_ranges,
            "least_confidence": config.least_confidence,
        }
    }

    if graph.front_end is not None:
        audio: Any = config.audio_config
        facts["samples"] = {
            "sampling_rate": processor.sampling_rate,
            "window": graph.front_end.window,
            "shortest": graph.front_end.shortest,
            "shortest_s": audio.shortest_s,
            "quietest_db": audio.quietest_db,
            "not_speech_threshold": audio.not_speech_threshold,
        }

    if "text" in config.modalities:
        facts["text"] = {
            "tokenizer": TOKENIZER if processor.tokenizer.is_fast else "bytes",
            "longest": processor.max_text_tokens,
            "prefix": processor.text_prefix,
            "pad": processor.tokenizer.pad_token_id or 0,
        }

    return facts


def write_runner(folder: Path, graph: SamplesGraph) -> None:
    """Write the file that runs a graph of raw samples, and its tokenizer."""
    shutil.copyfile(Path(__file__).with_name("runner.py"), folder / RUNNER)

    tokenizer = graph.processor.tokenizer
    if "text" in graph.model.config.modalities and tokenizer.is_fast:
        plain = copy.deepcopy(tokenizer.backend_tokenizer)
        plain.no_truncation()
        plain.no_padding()
        plain.save(os.fspath(folder / TOKENIZER))


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """Read the manifest of an export.

    Raises:
        ExportError: the folder holds no export, or its manifest is damaged.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ExportError(
            f"{folder} has no {MANIFEST}. Create an export: bibier export CHECKPOINT --output_dir {folder}."
        )

    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        missing = {"format", "part", "file", "inputs", "outputs", "longest", "labels"} - manifest.keys()
    except (ValueError, AttributeError, RecursionError) as error:
        raise ExportError(f"{path} is damaged ({one_line(error)}). Export the model again.") from error

    if missing:
        raise ExportError(f"{path} has no {', '.join(sorted(missing))}. Export the model again.")

    return manifest


def write_onnx(program: torch.export.ExportedProgram, graph: Graph, file: Path) -> None:
    """Translate a traced graph to ONNX. Weights above 2 GB go into a second file."""
    # It warns about a missing torchvision, which no graph uses.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # torch, of torch
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=graph.input_names,
            output_names=graph.output_names,
            verbose=False,
            optimize=True,
        )

    assert exported is not None  # as `f` is not given

    for node in exported.model.graph.all_nodes():  # the exporter notes where it was, with paths of this machine
        node.metadata_props.clear()

    exported.save(file)


def quantize_onnx(file: Path, target: Path, *, exact: str | None = None) -> None:
    """Quantize the matrix products with constant weights to dynamic int8, one scale per weight column.

    Args:
        file: the float32 graph.
        target: the int8 graph; may be the same file.
        exact: products with weights of this prefix stay in float32.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folded = target.with_suffix(".folded.onnx")  # weights as they enter the products: transposed, constants computed
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = os.fspath(folded)
    onnxruntime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folded).graph
    vectors = {weight.name for weight in graph.initializer if len(weight.dims) < 2}  # ONNX Runtime fails on them
    excluded = [
        node.name
        for node in graph.node
        if vectors.intersection(node.input) or (exact and any(name.startswith(exact) for name in node.input))
    ]

    # Seven bits a weight: without VNNI a CPU adds pairs of products in 16 bits, which eight would overflow.
    quantize_dynamic(
        folded,
        target,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        nodes_to_exclude=excluded,
    )
    folded.unlink()


Runner = Callable[[dict[str, torch.Tensor]], list[np.ndarray]]
"""Maps named inputs of a graph to its outputs."""


def onnx_session(file: str | os.PathLike) -> Any:
    """Open an `onnxruntime.InferenceSession` on the CPU, with as many threads as PyTorch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()

    return onnxruntime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])


def onnx_runner(file: str | os.PathLike) -> Runner:
    """Return a runner of an ONNX file."""
    session = onnx_session(file)
    return lambda inputs: session.run(None, {name: values.numpy() for name, values in inputs.items()})


def torch_runner(program: torch.export.ExportedProgram) -> Runner:
    """Return a runner of an exported program."""
    module = program.module()
    return lambda inputs: [output.numpy() for output in module(*inputs.values())]


@torch.no_grad()
def measure_parity(graph: Graph, run: Runner) -> dict[str, Any]:
    """Compare a graph with its model on batches of random inputs of mixed lengths, none of them used for tracing.

    Some samples lack a modality.

    Returns:
        `largest_difference` of any output, and the number of `cases`.
    """
    differences = []

    for seed, (batch, *lengths) in enumerate(graph.parity_shapes):
        lengths = lengths[: len(graph.inputs)]
        inputs = graph.example(batch, graph.steps(lengths), seed)
        output = graph.reference(inputs)
        expected = [output[name].numpy() for name in graph.output_names]
        differences += [np.abs(got - want).max() for got, want in zip(run(inputs), expected, strict=True)]

    return {"largest_difference": float(np.max(differences)), "cases": len(graph.parity_shapes)}
