"""Measure what an export costs and gains: its latency, and how far its answers drift on real utterances."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .graphs import Graph


@dataclass(frozen=True)
class Drift:
    """How far the answers of an export are from the model's.

    Attributes:
        relative: root mean square of the logit differences, relative to that of the logits.
        flipped: share of utterances with a different first label.
        utterances: number of utterances compared.
    """

    relative: float
    flipped: float
    utterances: int

    def __str__(self) -> str:
        return (
            f"{self.utterances} utterances: relative drift of the logits {self.relative:.2%}, "
            f"{round(self.flipped * self.utterances)} labels flipped ({self.flipped:.1%})"
        )


def drift(logits: np.ndarray, exact: np.ndarray) -> Drift:
    """Compare logits (N, K) with exact ones (N, K)."""
    relative = np.sqrt(np.square(logits - exact).mean() / np.square(exact).mean())
    return Drift(float(relative), float((logits.argmax(1) != exact.argmax(1)).mean()), len(exact))


def latencies(
    graph: Graph, runners: Mapping[str, Callable[[dict[str, torch.Tensor]], Any]], seconds_a_cell: float = 3.0
) -> dict[str, list]:
    """Measure each runner, in turns, on one clip of 4 s and on a batch of 16, with 16 tokens each.

    Args:
        graph: makes the inputs; rows that lack a modality in its examples have both here.
        runners: name -> what to measure.
        seconds_a_cell: approximate duration of each measurement.

    Returns:
        name -> median seconds for [one clip, a batch of 16].
    """
    table: dict[str, list] = {name: [] for name in runners}

    for batch in (1, 16):
        inputs = graph.example(batch, graph.steps([200, 16][: len(graph.inputs)]))

        for _, mask in graph.inputs:
            inputs[mask] = torch.ones_like(inputs[mask])

        times: dict[str, list[float]] = {name: [] for name in runners}

        for run in runners.values():  # warm-up
            run(inputs)

        begin = time.perf_counter()

        for repeat in range(50):
            if repeat >= 3 and time.perf_counter() - begin > seconds_a_cell * len(runners):
                break
            for name, run in runners.items():
                start = time.perf_counter()
                run(inputs)
                times[name].append(time.perf_counter() - start)

        for name, values in times.items():
            table[name].append(statistics.median(values))

    return table


def latency_table(table: Mapping[str, list[float]]) -> str:
    """Format latencies as text, with ratios to the first row."""
    reference = next(iter(table.values()))
    lines = [f"{'':<16}{'1 clip of 4 s':>22}{'batch of 16':>22}"]

    for name, values in table.items():
        cells = (
            f"{1000 * value:>10.1f} ms ({base / value:>5.2f}x)" for value, base in zip(values, reference, strict=True)
        )
        lines.append(f"{name:<16}" + "".join(f"{cell:>22}" for cell in cells))

    return "\n".join(lines)
