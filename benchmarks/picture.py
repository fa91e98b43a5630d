"""Draw how many times faster the package is than the usual way of doing the same thing.

Only rows that compare two times are drawn, one of each kind; the table has all of them, with their goals.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bibier_hf.files import write_atomically
from bibier_hf.palette import ACCENT, FAINT, INK, SERIES_COLORS
from measuring import Row

GROUPS = {
    "Clips of 1 to 12 s, against wav2vec2-base": {
        "bibier-tiny_wav2vec2": "bibier-tiny, against pipeline()",
        "bibier-tiny_wav2vec2_onnx": "bibier-tiny, against ONNX Runtime",
        "bibier-small_wav2vec2": "bibier-small, against pipeline()",
        "bibier-small_wav2vec2_onnx": "bibier-small, against ONNX Runtime",
    },
    "Selective scan of Mamba, against": {
        "scan_forward": "a plain loop, inference",
        "scan_training": "a plain loop, training",
        "scan_mambapy": "the parallel scan of mambapy, training",
        "scan_transformers": "a Mamba block of transformers, training",
    },
    "Training, against the plain published way": {
        "fusion_bimamba_32": "one step of the fusion bimamba",
        "fusion_bigraph_32": "one step of the fusion bigraph",
        "fusion_bigated_32": "one step of the fusion bigated",
        "fusion_bigatedgraph_32": "one step of the fusion bigatedgraph",
        "fusion_biformer_32": "one step of the fusion biformer",
        "resd_end_to_end": "features and 20 epochs on 64 clips of RESD",
    },
    "Features of clips, against one at a time in float32": {
        "extraction_fp32_buckets_64": "grouped by length, float32",
        "extraction_bf16_buckets_64": "grouped by length, bfloat16",
        "extraction_int8_buckets_64": "grouped by length, int8",
    },
    "Inference": {
        "front_end_embedded": "log-mel frames, against SeamlessM4TFeatureExtractor",
        "front_end_whisper": "log-mel frames, against WhisperFeatureExtractor",
        "text_encoder": "texts of mixed length, against padding and a plain loop",
        "pipeline_batch": "pipeline in batches of 16, against a loop over clips",
        "onnx": "ONNX, one clip at a time, against PyTorch",
        "onnx_16": "ONNX, 16 clips at a time, against PyTorch",
        "int8_onnx": "ONNX in int8, against ONNX in float32",
    },
    "Labels by a language model": {
        "ls_llm_score": "scores of the seven labels, against generated answers",
    },
}
"""Heading -> row -> what it is, in words."""

_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 200, 1000)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the ratios of the rows in [`GROUPS`] as bars on a logarithmic axis; rows that were not run are left out."""
    ratios = {row.name: row.ratio for row in rows}
    lines: list[tuple[str, float | None]] = []
    for heading, names in GROUPS.items():
        measured: list[tuple[str, float | None]] = [
            (words, ratios[name]) for name, words in names.items() if name in ratios
        ]
        lines += [(heading, None), *measured] if measured else []

    gap = 0.6  # above a heading, in rows
    headings = sum(ratio is None for _, ratio in lines)
    places = [
        row + gap * sum(ratio is None for _, ratio in lines[1 : row + 1]) for row in range(len(lines))
    ]  # of the rows, from the top

    figure = Figure(figsize=(9, 0.27 * (len(lines) + gap * headings) + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xlim(
        min([0.5, *(0.9 * ratio for _, ratio in lines if ratio)]),
        max([10, *(2 * ratio for _, ratio in lines if ratio)]),
    )

    for place, (words, ratio) in zip(places, lines, strict=True):
        if ratio is None:
            axes.text(
                -0.01, place, words, transform=axes.get_yaxis_transform(), ha="right", va="center", weight="bold"
            )
            continue
        color = ACCENT if ratio >= 1 else SERIES_COLORS[1]
        axes.barh(place, ratio - 1, left=1, height=0.72, color=color)
        axes.annotate(
            f"{ratio:.2g}×" if ratio < 10 else f"{ratio:.0f}×",
            (max(ratio, 1), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )

    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_yticks(places, [words if ratio else "" for words, ratio in lines])
    axes.tick_params(axis="both", length=0)
    axes.tick_params(axis="x", labeltop=True)
    axes.set_ylim(max(places, default=0) + 0.7, -0.7)
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}×"))
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("times faster, logarithmic (left of 1×: slower)")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150))
