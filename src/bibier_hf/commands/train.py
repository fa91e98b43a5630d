"""The command behind `recipes/train.py`."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.report import metrics_table, recall_table
from ..training.arguments import OUTPUT_FIELDS, parse_run_arguments
from ..training.output import last_progress
from ..training.run import run_training
from .common import guarded, is_main_process


def train_main(arguments: Sequence[str], default_file: Path | None = None) -> int:
    """Train as the command line says; returns the exit code.

    Args:
        arguments: `[FILE.yaml] [--key value] ...`.
        default_file: run file when none is given.
    """
    run = None

    def train() -> None:
        nonlocal run
        run = parse_run_arguments(arguments, default_file)
        results = run_training(run, command=public_command(arguments))
        if is_main_process():
            print(f"\n{run.output_dir}, test:\n")
            print(metrics_table(results.metrics["test"]))
            print(f"\n{recall_table(results.metrics['test'])}")
            print(
                f"\nModel, card, results and predictions are in {run.output_dir} ({results.seconds / 60:.1f} minutes)."
            )

    def how_to_go_on() -> str:
        if run is None:
            return "Interrupted."
        progress = last_progress(run.output_dir)
        if progress is None:
            return "Interrupted before the first checkpoint: start again."
        return f"Interrupted; {progress} is whole. Go on with the same command and --resume_from_checkpoint true."

    return guarded(train, how_to_go_on)


def public_command(arguments: Sequence[str]) -> str:
    """The command line for a card: folders outside the working folder are written as PATH, and where the output went
    is left out."""
    shown: list[str] = []
    skipped = False
    for argument in arguments:
        if argument.startswith("--"):
            skipped = argument[2:].partition("=")[0] in OUTPUT_FIELDS
        if not skipped:
            key, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
            private = os.path.isabs(value) or value.startswith(("..", "~"))
            shown.append(f"{key}{equals}{'PATH' if private else shlex.quote(value) if value else ''}")
    return " ".join(["accelerate launch recipes/train.py", *shown])
