"""`bibier train`."""

import os
import shlex
import sys
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from ..commandline import Positional, shown
from ..evaluation.report import metrics_table, recall_table
from ..files import is_main_process
from ..training.arguments import OUTPUT_FIELDS, RunFile
from ..training.output import last_progress
from ..training.run import run_training


class TrainArguments(RunFile):
    """Train a model, select it on dev, score it once on test, and write the model, its results, and its card.

    Examples:
      bibier train
      bibier train resd --data_dir PATH/TO/resd --corpora.0.protocol dialogue_grouped
      bibier train my_run.yaml --model.dropout 0.2 --resume_from_checkpoint true
      accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH/TO/resd

    The command line overrides the run file. Use dots for nested keys.
    """

    run_file: Annotated[str, Positional("RUN")] = Field(  # ty: ignore[incompatible-mutable-override]
        "quickstart",
        description="run file (YAML): its path, or the name of one that comes with the package, such as resd",
    )

    def after_interrupt(self) -> str:
        progress = last_progress(self.run.output_dir)
        if progress is None:
            return "There is no checkpoint yet: start again."
        return f"{progress} is whole. Continue with the same command and --resume_from_checkpoint true."


def train(arguments: TrainArguments) -> None:
    """Run [`run_training`] and print the scores."""
    run = arguments.run
    results = run_training(run, command=public_command(arguments.run_file, arguments.overrides))

    if is_main_process():
        print(f"\n{run.output_dir}, test:\n")
        print(metrics_table(results.metrics["test"]))
        print(f"\n{recall_table(results.metrics['test'])}")
        minutes = results.seconds / 60
        print(f"\nModel, card, results and predictions are in {run.output_dir} ({minutes:.1f} minutes).")


def public_command(run_file: str, overrides: Mapping[str, Any]) -> str:
    """The command line for a card, without folders of this machine and without where the output goes."""
    launched = os.path.basename(sys.argv[0]) == "train.py"
    words = ["accelerate launch recipes/train.py" if launched else "bibier train", public_value(run_file)]

    for key, value in overrides.items():
        if key not in OUTPUT_FIELDS:
            words += [f"--{key}", public_value(shown(value))]
    return " ".join(words)


def public_value(value: str) -> str:
    """A value of a command line for a card: quoted, and without a folder of this machine."""
    private = os.path.isabs(value) or value.startswith(("..", "~"))
    return "PATH" if private else shlex.quote(value)
