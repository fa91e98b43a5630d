"""The command behind `bibier demo`: the page of a checkpoint on this machine, or its folder for a Space."""

import os
from pathlib import Path

from ..errors import ArgumentError
from .checkpoint import load_pipeline
from .common import guarded

QUICKSTART = "outputs/quickstart"
"""Where `make quickstart` leaves its checkpoint; shown when none is named."""


MAX_PORT = 65_535


def demo_main(
    checkpoint: str = QUICKSTART,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    asr: str | None = None,
    asr_language: str | None = None,
    backbone_dir: str | None = None,
    trust_remote_code: bool = False,
    space: str | None = None,
    model_id: str | None = None,
) -> int:
    """Serve the page until Ctrl-C, or write a Space; returns the exit code.

    Args:
        checkpoint: folder or Hub id.
        host, port: where to listen; None: the first free port from 7860 on.
        asr: speech recognition model that fills in a missing text.
        asr_language: ISO 639 code of what it hears; None: it guesses.
        backbone_dir: folder with local copies of backbones that the checkpoint only names.
        trust_remote_code: run the Python code that comes with the checkpoint, instead of this package's.
        space: folder to write a Space into, instead of serving.
        model_id: checkpoint of that Space on the Hub, `owner/name`.
    """

    def demo() -> None:
        if space is not None:
            _write(space, model_id)
            return
        if port is not None and not 1 <= port <= MAX_PORT:
            raise ArgumentError(f"port: {port} is not allowed; give one from 1 to {MAX_PORT}.")
        if asr_language is not None and asr is None:
            raise ArgumentError("asr_language: is what the recogniser hears; name one with --asr as well.")
        if trust_remote_code and (backbone_dir or asr_language):
            raise ArgumentError(
                "trust_remote_code: does not go with --backbone_dir and --asr_language. Leave one out."
            )
        _serve(checkpoint, host, port, model_id, trust_remote_code, (backbone_dir, asr, asr_language))

    return guarded(demo, lambda: "The demo has ended; what visitors uploaded is deleted.")


def _write(space: str, model_id: str | None) -> None:
    if model_id is None:
        raise ArgumentError("space: name the checkpoint on the Hub that the Space shows, too: --model_id OWNER/NAME")
    _require_gradio()
    from ..demo.space import write_space

    folder = write_space(space, model_id)
    print(
        f"{folder} is a Space that shows {model_id}. Try it: BIBIER_MODEL=PATH/TO/CHECKPOINT python "
        f"{folder / 'app.py'}"
    )


def _serve(
    checkpoint: str,
    host: str,
    port: int | None,
    model_id: str | None,
    trust_remote_code: bool,
    options: tuple[str | None, str | None, str | None],
) -> None:
    if model_id is not None:
        raise ArgumentError(
            "model_id: belongs to --space FOLDER; to show a checkpoint of the Hub here, name it as the first argument."
        )
    if checkpoint == QUICKSTART and not Path(checkpoint).is_dir():
        raise ArgumentError(
            f"There is no checkpoint at {checkpoint}. Train it in some minutes (make quickstart), or name another "
            "one: "
            "bibier demo FOLDER_OR_HUB_ID"
        )
    _require_gradio()
    from ..demo.analysis import Limits
    from ..demo.app import build_app, load_remote_pipeline, make_temporary_folder, serve
    from ..demo.examples import write_examples

    pipe = load_remote_pipeline(checkpoint, options[1]) if trust_remote_code else load_pipeline(checkpoint, *options)
    limits = Limits()
    app = build_app(pipe, write_examples(make_temporary_folder()), limits)
    try:
        serve(app, limits, host=host, port=port)
    except OSError as error:
        wanted = f"port {port} of {host}" if port is not None else f"a port of {host}"
        raise ArgumentError(
            f"The page cannot listen at {wanted}: {error} Name another with --port and --host."
        ) from error


def _require_gradio() -> None:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ArgumentError("The demo needs gradio: pip install 'bibier-hf[demo]'") from error
