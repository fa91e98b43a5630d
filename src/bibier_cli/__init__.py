"""The command `bibier`, and the one entrance of every command and script.

A package of its own next to `bibier_hf`, because importing that one registers the model and so loads PyTorch: help,
completion and mistakes in the command line are answered without it.
"""

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `bibier` and exit the program with its exit code.

    Args:
        arguments: the command line without the program's name; None: that of this process.
    """
    prepare_streams()
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit("The command bibier needs the package typer: pip install 'bibier-hf[cli]'")
    app(arguments, prog_name="bibier")


def run(function: str, *arguments: Any, **options: Any) -> int:
    """Import the function behind a command and call it; returns its exit code.

    Whatever stands in the way of the import is reported as any other error: in one line.

    Args:
        function: `module:name`; it returns an exit code.
        arguments, options: passed on.
    """
    prepare_streams()
    if hindrance := _find_hindrance():
        print(f"error: {hindrance}", file=sys.stderr)
        return EXIT_USER_ERROR
    exit_code = 0

    def call() -> None:
        nonlocal exit_code
        module, _, name = function.partition(":")
        exit_code = getattr(importlib.import_module(module), name)(*arguments, **options)

    try:
        try:
            from bibier_hf.commands.common import guarded
        except Exception as error:  # the kernels are loaded when the package is imported
            if not any(kind.__name__ == "UserError" for kind in type(error).__mro__):
                raise
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR

        exit_code = guarded(call) or exit_code
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `bibier predict ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return exit_code


def _find_hindrance() -> str | None:
    """What keeps transformers from being imported."""
    if sys.flags.optimize > 1:
        return "python -OO (PYTHONOPTIMIZE=2) removes the docstrings that transformers reads. Use -O, or neither."
    try:
        os.getcwd()
    except FileNotFoundError:
        return "The working folder has been deleted. Change to another one (cd) and start again."
    return None


def prepare_streams() -> None:
    r"""Let no character end a command: what the terminal's encoding cannot write is escaped (`\u0444`), and names on
    stdin are decoded as the names of files are."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors())
