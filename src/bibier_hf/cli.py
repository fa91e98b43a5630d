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


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="a checkpoint (folder or Hub id)")],
    output_dir: Annotated[str, typer.Option("--output_dir", help="a new folder, or an earlier export to replace")],
    format: Annotated[str, typer.Option(help="onnx or torch (torch.export)")] = "onnx",
    part: Annotated[str, typer.Option(help="features: above the backbones; whole: from what the processor gives")] = "features",
    int8: Annotated[bool, typer.Option("--int8", help="linear layers of the ONNX graph in dynamic int8")] = False,
    backbone_dir: Annotated[str | None, typer.Option("--backbone_dir", help="local copies of backbones that the checkpoint names")] = None,
    corpus: Annotated[str | None, typer.Option(help="compare the answers with the model's on this corpus")] = None,
    data_dir: Annotated[str | None, typer.Option("--data_dir", help="where that corpus is")] = None,
    split: Annotated[str, typer.Option(help="train, dev or test of that corpus")] = "test",
    latency: Annotated[bool, typer.Option("--latency", help="measure torch, torch.export, ONNX Runtime and int8 side by side")] = False,
) -> None:
    """Write a graph that runs without the model's code: ONNX or torch.export, checked against the model.

    Examples: bibier export outputs/quickstart --output_dir onnx/quickstart --part whole; bibier export outputs/resd --output_dir onnx/resd
    --int8 --corpus resd --data_dir PATH --latency
    """
    from .commands.export import export_main

    code = export_main(
        source,
        output_dir,
        format=format,
        part=part,
        int8=int8,
        backbone_dir=backbone_dir,
        corpus=corpus,
        data_dir=data_dir,
        split=split,
        latency=latency,
    )
    raise typer.Exit(code)
