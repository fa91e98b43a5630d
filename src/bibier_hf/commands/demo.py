"""The command behind `bibier demo`: the page of a checkpoint on this machine, or its folder for a Space."""

import os
import tempfile
from pathlib import Path

from ..errors import ArgumentError
from .common import guarded

QUICKSTART = "outputs/quickstart"
"""Where `make quickstart` leaves its checkpoint; shown when none is named."""


def demo_main(
    checkpoint: str = QUICKSTART,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    asr: str | None = None,
    space: str | None = None,
    model_id: str | None = None,
) -> int:
    """Serve the page until Ctrl-C, or write a Space; returns the exit code.

    Args:
        checkpoint: folder or Hub id.
        host, port: where to listen; None: the first free port from 7860 on.
        asr: speech recognition model that fills in a missing text.
        space: folder to write a Space into, instead of serving.
        model_id: checkpoint of that Space on the Hub, `owner/name`.
    """
    return guarded(
        lambda: _write(space, model_id) if space is not None else _serve(checkpoint, host, port, asr, model_id)
    )


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


def _serve(checkpoint: str, host: str, port: int | None, asr: str | None, model_id: str | None) -> None:
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
    from ..demo.app import build_app, load_pipeline, serve
    from ..demo.examples import write_examples

    try:
        pipe = load_pipeline(checkpoint, asr)
    except OSError as error:
        raise ArgumentError(
            f"{checkpoint} is neither a folder with a checkpoint nor one on the Hub that can be fetched: {error}"
        ) from error
    limits = Limits()
    with tempfile.TemporaryDirectory(prefix="bibier-examples-") as examples:
        app = build_app(pipe, write_examples(examples), limits)
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
