"""The commands of `bibier`. Nothing of `bibier_hf` is imported before a command runs."""

from importlib.metadata import version
from typing import Annotated, Literal

import typer

from . import run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,  # help as it is written here: plain text, examples on lines of their own
    pretty_exceptions_enable=False,
    help="Emotion recognition from speech and text, in English and Russian.",
    epilog="bibier COMMAND --help shows examples. bibier --install-completion teaches your shell the commands and options.",
)

Split = Literal["train", "dev", "test"]

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="folder or Hub id of a trained model", show_default=False)
]
BackboneDir = Annotated[
    str | None,
    typer.Option(
        "--backbone_dir", metavar="DIR", help="folder with local copies of backbones that the checkpoint only names"
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bibier {version('bibier-hf')}")
        raise typer.Exit


@app.callback()
def _bibier(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keeps a command's name a part of the command line, however few there are."""


@app.command()
def predict(
    checkpoint: Checkpoint,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[AUDIO|FOLDER|URL|-]...",
            help="what to hear; - reads paths from stdin, one a line",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="what is said in each of the clips, or a text alone")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="an English and a Russian test clip of the embedded corpus")
    ] = False,
    top_k: Annotated[
        int | None, typer.Option("--top_k", min=1, help="emotions to tell, best first [3; all with --json]")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", min=0, max=1, help="say unsure where the best score is below it")
    ] = None,
    channel: Annotated[
        int | None,
        typer.Option("--channel", min=0, help="judge one channel (from 0) of each recording [the mean of all]"),
    ] = None,
    asr: Annotated[
        str | None, typer.Option("--asr", metavar="MODEL", help="id or folder of a recogniser for clips without text")
    ] = None,
    asr_language: Annotated[
        str | None,
        typer.Option(
            "--asr_language", metavar="CODE", help="what is spoken, such as ru; small recognisers guess badly"
        ),
    ] = None,
    chunk_length_s: Annotated[
        float | None, typer.Option("--chunk_length_s", help="seconds of the windows of long recordings")
    ] = None,
    hop_length_s: Annotated[
        float | None, typer.Option("--hop_length_s", help="from one window's start to the next [--chunk_length_s]")
    ] = None,
    segmentation: Annotated[
        str | None,
        typer.Option("--segmentation", metavar="WAY", help="fixed (windows), or energy (where somebody speaks)"),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="join neighbouring windows of the same best emotion")] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", metavar="FILE", help="write the timeline of one recording: .json .csv .rttm .srt .png"
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="a JSON object a line, one for each input, on stdout")
    ] = False,
    backbone_dir: BackboneDir = None,
) -> None:
    """Tell the emotions of clips and texts.

    \b
    Examples:
      bibier predict outputs/resd clip.wav --text "I can't believe it!" --top_k 3
      bibier predict outputs/resd recordings/ other.flac --json > answers.jsonl
      find recordings -name '*.wav' | bibier predict outputs/resd - --json
      bibier predict outputs/resd --text "I can't believe it!"
      bibier predict outputs/resd talk.wav --chunk_length_s 4 --hop_length_s 2 --output talk.srt
      bibier predict outputs/resd talk.wav --segmentation energy --merge --asr openai/whisper-base --asr_language ru

    \b
    Answers go to stdout; progress and messages go to stderr.
    Exit code: 0 all answered; 1 an input failed (the others are answered); 2 a mistake in the
    command line, or nothing to do; 130 interrupted.
    """
    exit_code = run(
        "bibier_hf.commands.predict:predict_main",
        model=checkpoint,
        inputs=inputs or [],
        text=text,
        demo=demo,
        top_k=top_k,
        threshold=threshold,
        channel=channel,
        asr=asr,
        asr_language=asr_language,
        chunk_length_s=chunk_length_s,
        hop_length_s=hop_length_s,
        segmentation=segmentation,
        merge=merge,
        output=output,
        as_json=as_json,
        backbone_dir=backbone_dir,
    )
    raise typer.Exit(exit_code)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def evaluate(
    context: typer.Context,
    checkpoint: Checkpoint,
    corpus: Annotated[
        str | None, typer.Option("--corpus", metavar="NAME", help="what to score it on [what it was trained on]")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data_dir", metavar="PATH", help="folder or file of the corpus")
    ] = None,
    split: Annotated[Split | None, typer.Option("--split", help="[test]")] = None,
    output_dir: Annotated[
        str | None, typer.Option("--output_dir", metavar="DIR", help="for the report [CHECKPOINT/evaluation]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch_size", min=1, help="utterances a step [16]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the report as JSON on stdout, instead of tables")] = False,
    backbone_dir: BackboneDir = None,
) -> None:
    """Score a checkpoint on a split of a corpus.

    \b
    Examples:
      bibier evaluate outputs/resd --corpus resd --data_dir PATH/TO/resd
      bibier evaluate outputs/resd --data_dir PATH/TO/resd --split dev --json | jq .metrics
      bibier evaluate outputs/resd --data_dir PATH/TO/resd --corpora.0.protocol dialogue_grouped
      bibier evaluate outputs/resd --data_dir PATH/TO/resd --split dev --calibrate true

    Every key of recipes/evaluate.py is understood, those with dots, too.

    \b
    Exit code: 0 done; 2 a mistake in the command line, or data or a checkpoint that cannot be used;
    130 interrupted.
    """
    options = {
        "corpus": corpus,
        "data_dir": data_dir,
        "split": split,
        "output_dir": output_dir,
        "batch_size": batch_size,
    }
    given = {name: value for name, value in (options | {"backbone_dir": backbone_dir}).items() if value is not None}
    arguments = [f"--{name}={value}" for name, value in given.items()] + (["--json"] if as_json else [])
    raise typer.Exit(run("bibier_hf.commands.evaluate:evaluate_main", [checkpoint, *arguments, *context.args]))


@app.command()
def describe(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="a checkpoint (folder or Hub id) or a run file (.yaml)", show_default=False
        ),
    ],
) -> None:
    """Print what a model is made of: modules, shapes, parameters, and the options that reproduce the published code's
    defects.

    \b
    Examples:
      bibier describe outputs/resd
      bibier describe recipes/resd.yaml
    """
    raise typer.Exit(run("bibier_hf.commands.describe:describe_main", source))


@app.command()
def demo(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="folder or Hub id of a trained model")
    ] = "outputs/quickstart",
    host: Annotated[str, typer.Option("--host", help="address to listen at")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65_535, help="[the first free one from 7860 on]")
    ] = None,
    asr: Annotated[
        str | None, typer.Option("--asr", metavar="MODEL", help="recogniser that fills in a missing text")
    ] = None,
    asr_language: Annotated[
        str | None, typer.Option("--asr_language", metavar="CODE", help="what is spoken, such as ru")
    ] = None,
    backbone_dir: BackboneDir = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust_remote_code", help="run the Python code that comes with the checkpoint; else none is run"
        ),
    ] = False,
    space: Annotated[
        str | None, typer.Option("--space", metavar="DIR", help="write a Space there instead of serving")
    ] = None,
    model_id: Annotated[
        str | None, typer.Option("--model_id", metavar="OWNER/NAME", help="checkpoint of that Space on the Hub")
    ] = None,
) -> None:
    """Show a checkpoint on a web page: microphone or file, text, bars and a timeline.

    \b
    Examples:
      bibier demo
      bibier demo outputs/resd --port 7860
      bibier demo --space outputs/space --model_id OWNER/NAME
    """
    raise typer.Exit(
        run(
            "bibier_hf.commands.demo:demo_main",
            checkpoint,
            host=host,
            port=port,
            asr=asr,
            asr_language=asr_language,
            backbone_dir=backbone_dir,
            trust_remote_code=trust_remote_code,
            space=space,
            model_id=model_id,
        )
    )


@app.command()
def export(
    checkpoint: Checkpoint,
    output_dir: Annotated[
        str, typer.Option("--output_dir", metavar="DIR", help="a new folder, or an earlier export to replace")
    ],
    format: Annotated[Literal["onnx", "torch"], typer.Option("--format", help="ONNX, or torch.export")] = "onnx",
    part: Annotated[
        Literal["features", "whole"],
        typer.Option("--part", help="features: above the backbones; whole: from what the processor gives"),
    ] = "features",
    int8: Annotated[bool, typer.Option("--int8", help="linear layers of the ONNX graph in dynamic int8")] = False,
    corpus: Annotated[
        str | None, typer.Option("--corpus", metavar="NAME", help="compare the answers with the model's on it")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data_dir", metavar="PATH", help="folder or file of that corpus")
    ] = None,
    split: Annotated[Split, typer.Option("--split", help="of that corpus")] = "test",
    latency: Annotated[
        bool, typer.Option("--latency", help="measure torch, torch.export, ONNX Runtime and int8 side by side")
    ] = False,
    backbone_dir: BackboneDir = None,
) -> None:
    """Write a graph that runs without the model's code, checked against the model.

    \b
    Examples:
      bibier export outputs/quickstart --output_dir onnx/quickstart --part whole
      bibier export outputs/resd --output_dir onnx/resd --int8 --corpus resd --data_dir PATH/TO/resd --latency
    """
    exit_code = run(
        "bibier_hf.commands.export:export_main",
        checkpoint,
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
    raise typer.Exit(exit_code)
