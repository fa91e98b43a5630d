"""The command `bibier` (extra `cli`): faces of the package's functions."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=True, help="Emotion recognition from speech and text, in English and Russian.")


@app.callback()
def _bibier() -> None:
    """Options of all commands would stand here."""


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


@app.command()
def demo(
    checkpoint: Annotated[str, typer.Argument(help="folder or Hub id of a checkpoint")] = "outputs/quickstart",
    host: Annotated[str, typer.Option(help="address to listen at")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="default: the first free one from 7860 on")] = None,
    asr: Annotated[str | None, typer.Option(help="speech recognition model that fills in a missing text")] = None,
    space: Annotated[str | None, typer.Option(help="write a Space into this folder instead of serving")] = None,
    model_id: Annotated[str | None, typer.Option("--model_id", help="checkpoint of that Space on the Hub, OWNER/NAME")] = None,
) -> None:
    """Show a checkpoint on a web page: microphone or file, text, bars and a timeline.

    Examples: bibier demo; bibier demo outputs/resd --port 7860; bibier demo --space outputs/space --model_id OWNER/NAME
    """
    from .commands.demo import demo_main

    raise typer.Exit(demo_main(checkpoint, host=host, port=port, asr=asr, space=space, model_id=model_id))
