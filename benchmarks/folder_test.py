"""Compare `bibier predict FOLDER --output answers.parquet` with the bare pipeline, on the recordings of a folder.

    python benchmarks/folder_test.py bibier-tiny PATH/TO/ravdess/wavs --clips 1000

Both answer the same recordings, a quarter at a time, taking turns. Processor times depend less than wall times on what
else the machine does.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bibier_hf.commands.checkpoint import load_pipeline
from bibier_hf.commands.predict import expand_inputs
from bibier_hf.folders import AnswerTable

QUARTERS = 4


def main(arguments: Sequence[str]) -> None:
    """Measure and print both times and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("recordings", help="folder of recordings")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=16)
    options = parser.parse_args(arguments)

    pipe: Any = load_pipeline(options.checkpoint)
    paths = list(expand_inputs([options.recordings]))[: options.clips]
    pipe(paths[: options.batch_size], batch_size=options.batch_size)
    spent = {"table": [0.0, 0.0], "pipeline": [0.0, 0.0]}

    def run(name: str, function: Callable[[], Any]) -> None:
        wall, busy = time.perf_counter(), time.process_time()
        function()
        spent[name][0] += time.perf_counter() - wall
        spent[name][1] += time.process_time() - busy

    with tempfile.TemporaryDirectory() as folder:
        for quarter in range(QUARTERS):
            some = paths[quarter::QUARTERS]
            table = AnswerTable(
                Path(folder) / f"{quarter}.parquet", pipe, pipe.model.config.label_names, batch_size=options.batch_size
            )
            turns = [
                ("table", lambda table=table, some=some: table.write(some)),
                ("pipeline", lambda some=some: pipe(some, batch_size=options.batch_size, return_unsure=True)),
            ]
            for name, function in turns if quarter % 2 else reversed(turns):
                run(name, function)

    for name, (wall, busy) in spent.items():
        print(f"{name:<10}{len(paths)} recordings: {wall:.1f} s, {busy:.1f} s of the processor")
    ratios = [ours / theirs for ours, theirs in zip(spent["table"], spent["pipeline"], strict=True)]
    print(f"table / pipeline: {ratios[0]:.2f}, by processor time {ratios[1]:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
