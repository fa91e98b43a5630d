"""The command `bibier`: a face of the package's functions.

A package of its own beside `bibier_hf`, because importing that one registers the model and so loads PyTorch: help,
completion and mistakes in the command line are answered without it. Each command imports what it needs when it runs.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `bibier` and exit the program with its exit code.

    Args:
        arguments: the command line without the program's name; None: that of this process.
    """
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit("The command bibier needs the package typer: pip install 'bibier-hf[cli]'")
    app(arguments, prog_name="bibier")
