"""Rows of `bibier predict FOLDER --output FILE`: a table of answers compared with the bare pipeline."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
import torch

from bibier_hf.folders import AnswerTable
from measuring import Row, compare
from serving_rows import RATE, RESD_SECONDS, pipe


def folder(count: int = 300) -> Row:
    """A table may take at most 1.15 times as long as the pipeline alone."""
    generator = torch.Generator().manual_seed(1)
    quantiles = torch.tensor(RESD_SECONDS)
    position = torch.rand(count, generator=generator) * (len(quantiles) - 1)
    seconds = torch.lerp(quantiles[position.long()], quantiles[position.long() + 1], position % 1)

    with tempfile.TemporaryDirectory() as name:
        paths = [str(Path(name) / f"{number:05}.flac") for number in range(count)]
        for path, length in zip(paths, seconds.tolist(), strict=True):
            soundfile.write(path, 0.1 * torch.randn(int(RATE * length), generator=generator).numpy(), RATE)
        pipe()(paths[:16], batch_size=16)

        table = AnswerTable(Path(name) / "answers.parquet", pipe(), pipe().model.config.label_names)
        spent = {"table": 0.0, "answers": 0.0}  # time of the processor, which a busy machine changes less

        def run(name: str, function: Callable[[], Any]) -> None:
            begin = time.process_time()
            function()
            spent[name] += time.process_time() - begin

        row = compare(
            "folder",
            "the pipeline's answers alone",
            1 / 1.15,
            lambda: run("table", lambda: table.write(paths)),
            lambda: run("answers", lambda: pipe()(paths, batch_size=table.batch_size)),
            warm_up=False,
        )
        note = f"{count} FLAC files as long as clips of RESD, to Parquet; batch_size={table.batch_size}"
        return replace(row, note=f"{note}; by processor time {spent['answers'] / spent['table']:.2f}")


FULL_ROWS = {"folder": folder}
