"""Store the weights of an ONNX graph in fewer bits where that loses nothing.

A checkpoint whose weights are stored in 8 or 16 bits is loaded in float32, and so is its graph. The values are still
those of the short type, so they are stored as such, and two operators at the start of the graph restore them. ONNX
Runtime does that once, when it loads the graph.
"""

from pathlib import Path

import numpy as np
import torch

_FEWEST = 1024
"""Smaller weights are left alone."""

_EIGHT_BITS = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().nan_to_num(0).numpy()
"""Value of each byte of `float8_e4m3fn`. As a table, because not every build of ONNX Runtime has this type."""

_TABLE = "eight_bits"


def compact_weights(file: Path) -> None:
    """Rewrite an ONNX file with the float32 weights that fit exactly in 8 or 16 bits stored like that."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(file)
    graph = model.graph
    kept, short, nodes = [], [], []

    for initializer in graph.initializer:
        name = initializer.name
        values = numpy_helper.to_array(initializer) if initializer.data_type == TensorProto.FLOAT else None

        if values is None or values.size < _FEWEST:
            kept.append(initializer)
        elif (codes := as_bytes(values)) is not None:
            short.append(numpy_helper.from_array(codes, f"{name}.bytes"))
            nodes += [
                helper.make_node("Cast", [f"{name}.bytes"], [f"{name}.index"], to=TensorProto.INT32),
                helper.make_node("Gather", [_TABLE, f"{name}.index"], [name]),
            ]
        elif (half := as_half(values)) is not None:
            short.append(numpy_helper.from_array(half, f"{name}.half"))
            nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
        else:
            kept.append(initializer)

    table = numpy_helper.from_array(_EIGHT_BITS, _TABLE)
    body = [*nodes, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend([table, *kept, *short])
    graph.node.extend(body)
    onnx.save(model, file)


def as_bytes(values: np.ndarray) -> np.ndarray | None:
    """Return the bytes of float32 values in `float8_e4m3fn`, or None if they do not fit exactly."""
    codes = torch.from_numpy(values.copy()).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    return codes if np.array_equal(_EIGHT_BITS[codes], values) else None


def as_half(values: np.ndarray) -> np.ndarray | None:
    """Return float32 values in float16, or None if they do not fit exactly."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else None
