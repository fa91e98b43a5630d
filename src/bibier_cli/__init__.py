"""The command `bibier`.

A separate package, because importing `bibier_hf` loads PyTorch, which the list of commands, the version, and a
misspelled command do not need.
"""

import difflib
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train:train", "train a model from a run file"),
    "adapt": ("adapt:adapt", "adapt a checkpoint to your own labels with a few clips"),
    "join": ("join:join", "make a bimodal checkpoint of a speech and a text checkpoint"),
    "evaluate": ("evaluate:evaluate", "score a checkpoint on a corpus"),
    "predict": ("predict:predict", "predict the emotions of clips, folders, URLs and texts"),
    "describe": ("describe:describe", "show modules, shapes and parameters of a model"),
    "demo": ("demo:demo", "serve a web page with a checkpoint, or write a Space"),
    "serve": ("serve:serve", "serve a checkpoint over HTTP, and live audio over a WebSocket"),
    "export": ("export:export", "export a checkpoint to ONNX or torch.export"),
    "prepare": ("prepare:prepare", "convert a corpus to Parquet in the common schema"),
    "extract": ("extract:extract", "compute backbone features before training"),
    "augment sds": ("augment:stack", "write a corpus of stacked clips (SDS)"),
    "augment tug": ("augment:utter", "write a corpus of template utterances (TUG)"),
    "augment preview": ("augment:preview", "write a page to listen to augmented rows"),
    "augment components": ("augment:write_components", "let a language model write components for TUG"),
    "label corpus": ("label:label_corpus", "label a corpus with a language model (LS-LLM)"),
    "label recognize": ("label:recognize_corpus", "score a language model as an emotion recognizer"),
    "label report": ("label:report_labels", "describe a table of soft labels, or compare two"),
    "audit": ("audit:audit", "find out what a split gives away"),
    "baseline": ("baseline:baseline", "score a scikit-learn baseline"),
    "study": ("study:study", "compare variants of a run over seeds and folds"),
    "search": ("search:search", "search for the options of a run that do best on dev"),
    "transfer": ("transfer:transfer", "score what is learned from one corpus on the others"),
    "push model": ("push:push_model", "push a trained model to the Hub"),
    "push dataset": ("push:push_dataset", "push a prepared corpus or a table of soft labels to the Hub"),
    "push space": ("push:push_space", "push a Space to the Hub"),
    "convert": ("convert:convert", "convert the published weights"),
    "kernels": ("kernels:kernels", "compile the CPU kernels"),
    "completion": ("completion:completion", "print completions for bash, zsh or fish"),
}
"""Command -> its function in `bibier_hf.commands`, and what it does."""

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `bibier` and exit the program with its exit code.

    Args:
        arguments: the command line without the program's name; None: that of this process.
    """
    prepare_streams()
    sys.exit(_printing(_dispatch, list(sys.argv[1:] if arguments is None else arguments)))


def _printing(function: Callable[..., int], *arguments: object) -> int:
    """Call a function that prints, and return its exit code. It ends quietly if the reader of a pipe has gone, as in
    `bibier predict ... | head`."""
    try:
        exit_code = function(*arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def _dispatch(arguments: list[str]) -> int:
    """Answer what needs no PyTorch; run anything else."""
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    group = arguments.pop(0) if arguments and arguments[0] in groups else ""
    prefix = f"{group} " if group else ""

    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(prefix))
        return 0 if arguments else EXIT_USER_ERROR
    if arguments[0] == "--version" and not group:
        print(f"bibier {version('bibier-hf')}")
        return 0

    name, *rest = arguments
    if prefix + name in COMMANDS:
        return run(prefix + name, rest)

    known = sorted({command.removeprefix(prefix).split()[0] for command in COMMANDS if command.startswith(prefix)})
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {prefix}{close[0]}?" if close else f"Allowed: {', '.join(known)}."
    print(f"error: {prefix}{name}: unknown command. {hint}", file=sys.stderr)
    return EXIT_USER_ERROR


def _overview(prefix: str) -> str:
    """The commands that begin so, one line each."""
    shown = {name: summary for name, (_, summary) in COMMANDS.items() if name.startswith(prefix)}
    lines = [
        f"usage: bibier {prefix}COMMAND [--key value] ...",
        "",
        "Emotion recognition from speech and text, in English and Russian.",
        "",
        *(f"  {name:<19} {summary}" for name, summary in shown.items()),
        "",
        f"bibier {prefix}COMMAND --help shows all options and examples; bibier --version shows the version.",
    ]
    return "\n".join(lines)


def run(command: str, arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code.

    Args:
        command: a name in `COMMANDS`, or `module:function` of a function that takes one
            [`~bibier_hf.commandline.Section`].
        arguments: its command line.
    """
    return _printing(_run, command, arguments)


def _run(command: str, arguments: Sequence[str]) -> int:
    prepare_streams()
    if obstacle := _find_obstacle():
        print(f"error: {obstacle}", file=sys.stderr)
        return EXIT_USER_ERROR

    function = f"bibier_hf.commands.{COMMANDS[command][0]}" if command in COMMANDS else command
    usage = f"bibier {command}" if command in COMMANDS else f"python {os.path.basename(sys.argv[0])}"
    try:
        runner = importlib.import_module("bibier_hf.commands.common")
        return runner.run_command(usage, function, list(arguments))
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:  # the kernels are loaded when the package is imported
        if not any(kind.__name__ == "UserError" for kind in type(error).__mro__):
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


def _find_obstacle() -> str | None:
    """What would keep transformers from being imported."""
    if sys.flags.optimize > 1:
        return "python -OO (PYTHONOPTIMIZE=2) removes the docstrings that transformers reads. Use -O, or neither."
    try:
        os.getcwd()
    except FileNotFoundError:
        return "The working folder has been deleted. Change to another one (cd) and start again."
    return None


def prepare_streams() -> None:
    r"""Keep characters from ending a command: what the terminal's encoding cannot write is escaped (`\u0444`), and names
    on stdin are decoded as file names are."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors())
