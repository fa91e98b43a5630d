"""The command `bibier` (extra `cli`): faces of the package's functions."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=True, help="Emotion recognition from speech and text, in English and Russian.")


@app.callback()
def _bibier() -> None:
    """Keeps `describe` a sub-command while it is the only one."""


@app.command()
def describe(source: Annotated[str, typer.Argument(help="a checkpoint (folder or Hub id) or a run file (.yaml)")]) -> None:
    """Print what a model is made of: modules, shapes, parameters, and the options that reproduce the published code's defects.

    Examples: bibier describe outputs/resd; bibier describe recipes/resd.yaml
    """
    from .commands.describe import describe as summary

    try:
        typer.echo(summary(source))
    except (OSError, ValueError) as error:
        typer.echo(f"bibier describe: {error}", err=True)
        raise typer.Exit(2) from error
