"""What stands behind `recipes/train.py` and `recipes/evaluate.py`: arguments in, exit code out, errors in one line."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..data.feature_store import FeatureStoreError
from ..data.protocols import ProtocolError
from ..data.tables import CorpusError
from ..evaluation.report import metrics_table, recall_table
from ..model.audio_bibier import AudioError
from .arguments import ArgumentError, Section, parse_run_arguments, section_help
from .checkpoints import last_whole_checkpoint
from .run import run_training

USER_ERRORS = (ArgumentError, CorpusError, ProtocolError, AudioError, FeatureStoreError, FileNotFoundError)
"""What a user can mend: told without a traceback."""

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


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
            print(metrics_table(results["metrics"]["test"]))
            print(f"\n{recall_table(results['metrics']['test'])}")
            print(f"\nModel, card, results and predictions are in {run.output_dir} ({results['seconds'] / 60:.1f} minutes).")

    def how_to_go_on() -> str:
        if run is None:
            return "Interrupted."
        checkpoint = last_whole_checkpoint(run.output_dir)
        if checkpoint is None:
            return "Interrupted before the first checkpoint: start again."
        return f"Interrupted; {checkpoint} is whole. Go on with the same command and --resume_from_checkpoint true."

    return guarded(train, how_to_go_on)


def evaluate_main(arguments: Sequence[str]) -> int:
    """Score a checkpoint as the command line says; returns the exit code.

    Args:
        arguments: `MODEL [--key value] ...`.
    """

    def evaluate() -> None:
        from ..evaluation.evaluate import EvaluateArguments, evaluate_checkpoint, parse_evaluate_arguments

        if any(argument in ("-h", "--help") for argument in arguments):
            print(evaluate_help(EvaluateArguments))
            return
        parsed = parse_evaluate_arguments(list(arguments))
        results = evaluate_checkpoint(parsed)
        print(f"{parsed.model}, {parsed.split}:\n")
        print(metrics_table(results["metrics"][parsed.split]))
        print(f"\n{recall_table(results['metrics'][parsed.split])}")
        print(f"\nThe report is in {parsed.output_dir}.")

    return guarded(evaluate)


def evaluate_help(section: type[Section]) -> str:
    """Every key of an evaluation."""
    usage = ["usage: recipes/evaluate.py MODEL [--key value] [--key=value] ...", ""]
    short = ["  --corpus: a corpus by its name, official protocol", "  --data_dir: short for --corpora.0.data_dir"]
    return "\n".join([*usage, *short, *section_help(section)])


def guarded(function: Callable[[], None], interrupted: Callable[[], str] = lambda: "Interrupted.") -> int:
    """Run `function`; say in one line what a user can mend, and what to do after Ctrl-C."""
    try:
        function()
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"\n{interrupted()}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def is_main_process() -> bool:
    """Is this the first of the processes that a launcher started?"""
    return int(os.environ.get("RANK", "0")) == 0


def public_command(arguments: Sequence[str]) -> str:
    """The command line for a card: folders outside the working folder are written as PATH, and where the output went is left out."""
    shown: list[str] = []
    skipped = False
    for argument in arguments:
        if argument.startswith("--"):
            skipped = argument[2:].partition("=")[0] in ("output_dir", "overwrite", "resume_from_checkpoint")
        if not skipped:
            key, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
            private = os.path.isabs(value) or value.startswith(("..", "~"))
            shown.append(f"{key}{equals}{'PATH' if private else shlex.quote(value) if value else ''}")
    return " ".join(["accelerate launch recipes/train.py", *shown])
