"""`bibier demo`."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..commandline import Positional
from ..errors import ArgumentError
from ..extras import require
from .checkpoint import CheckpointOptions, load_checkpoint, load_pipeline

QUICKSTART = "outputs/quickstart"
"""The checkpoint of `make quickstart`, shown by default."""


class DemoArguments(CheckpointOptions):
    """Show a checkpoint on a web page: microphone or file, text, bars and a timeline. Or write the folder of a Space.

    Examples:
      bibier demo
      bibier demo outputs/resd --port 7860
      bibier demo --space outputs/space --model_id OWNER/NAME
      bibier demo bibier-tiny --space outputs/page --sdk static
    """

    checkpoint: Annotated[str, Positional("CHECKPOINT")] = Field(
        QUICKSTART, description="folder or Hub id of a trained model"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int | None = Field(None, ge=1, le=65_535, description="port; null: the first free one, starting at 7860")
    asr: str | None = Field(None, description="speech recognizer that fills in missing text: Hub id or folder")
    asr_language: str | None = Field(None, description="spoken language, such as ru; null: the recognizer guesses")
    trust_remote_code: bool = Field(False, description="run the Python code that comes with the checkpoint")
    space: str | None = Field(None, description="folder to write a Space into, instead of serving")
    model_id: str | None = Field(None, description="checkpoint on the Hub that the Space shows: OWNER/NAME")
    sdk: Literal["gradio", "static"] = Field(
        "gradio", description="of the Space: gradio, or static: CHECKPOINT itself, computed in the visitor's browser"
    )
    int8: bool = Field(False, description="quantize the model of a static Space")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sdk == "static":
            if self.space is None:
                raise ArgumentError("sdk: goes with --space FOLDER, the folder to write the static page into.")
            return self

        if self.int8:
            raise ArgumentError("int8: goes with --sdk static.")
        if self.space is not None:
            if self.model_id is None:
                raise ArgumentError("space: name the checkpoint of the Space, too: --model_id OWNER/NAME.")
            return self

        if self.model_id is not None:
            raise ArgumentError(
                "model_id: goes with --space FOLDER. To show a checkpoint of the Hub here, name it as the first argument."
            )
        if self.asr_language is not None and self.asr is None:
            raise ArgumentError("asr_language: give the recognizer, too: --asr MODEL.")
        if self.trust_remote_code and (self.backbone_dir or self.asr_language):
            raise ArgumentError("trust_remote_code: does not go with --backbone_dir or --asr_language. Leave one out.")
        if self.checkpoint == QUICKSTART and not Path(self.checkpoint).is_dir():
            raise ArgumentError(
                f"There is no checkpoint at {self.checkpoint}. Train it in a few minutes (make quickstart, or bibier "
                "train), or name another one: bibier demo FOLDER_OR_HUB_ID"
            )
        return self

    def after_interrupt(self) -> str:
        return "The demo has ended; uploads of visitors are deleted." if self.space is None else ""


def demo(arguments: DemoArguments) -> None:
    """Serve the page until Ctrl-C, or write a Space."""
    if arguments.space is not None and arguments.sdk == "static":
        _write_static_space(arguments.space, arguments)
        return

    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    require("gradio")
    if arguments.space is not None and arguments.model_id is not None:
        _write_space(arguments.space, arguments.model_id)
    else:
        _serve(arguments)


def _write_space(space: str, model_id: str) -> None:
    from ..demo.space import write_space

    folder = write_space(space, model_id)
    command = f"BIBIER_MODEL=PATH/TO/CHECKPOINT python {folder / 'app.py'}"
    print(f"{folder} is a Space that shows {model_id}. Try it: {command}")


def _write_static_space(space: str, arguments: DemoArguments) -> None:
    from ..demo.static_space import write_static_space

    model, processor = load_checkpoint(arguments.checkpoint, arguments.backbone_dir)
    name = arguments.model_id or Path(arguments.checkpoint).name
    folder = write_static_space(space, model.eval(), processor, name, arguments.model_id, arguments.int8)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"{folder} is a page of {size:.1f} MB that needs no server. Try it: python -m http.server -d {folder}")


def _serve(arguments: DemoArguments) -> None:
    from ..demo.analysis import Limits
    from ..demo.app import build_app, load_remote_pipeline, make_temporary_folder, serve
    from ..demo.examples import write_examples

    if arguments.trust_remote_code:
        pipe = load_remote_pipeline(arguments.checkpoint, arguments.asr)
    else:
        pipe = load_pipeline(arguments.checkpoint, arguments.backbone_dir, arguments.asr, arguments.asr_language)

    limits = Limits()
    app = build_app(pipe, write_examples(make_temporary_folder()), limits)
    host, port = arguments.host, arguments.port
    try:
        serve(app, limits, host=host, port=port)
    except OSError as error:
        wanted = f"port {port} of {host}" if port is not None else f"a port of {host}"
        raise ArgumentError(f"Cannot listen at {wanted}: {error} Name another with --port and --host.") from error
