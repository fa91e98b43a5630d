"""`bibier serve`."""

import os
import socket
import sys
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ..errors import ArgumentError
from ..extras import require
from ..model.validation_bibier import one_line
from ..model.words_bibier import load_asr
from .checkpoint import CheckpointOptions, load_pipeline

API_KEY = "BIBIER_API_KEY"
"""Environment variable with the key that clients must send. (Options can be seen by every user of a machine.)"""


class ServeArguments(CheckpointOptions):
    """Serve a checkpoint over HTTP: emotions, transcripts in OpenAI's format, and live audio over a WebSocket.

    Examples:
      bibier serve outputs/resd
      bibier serve outputs/resd --asr openai/whisper-base --asr_language ru --port 9000
      BIBIER_API_KEY=... bibier serve OWNER/NAME --host 0.0.0.0

    If BIBIER_API_KEY is set, clients must send it (Authorization: Bearer KEY).
    On SIGTERM or Ctrl-C, the server finishes the requests in progress and exits with code 0.
    """

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="port; 0: any free one")
    name: str | None = Field(None, description="name of the model for clients; null: that of the checkpoint")
    asr: str | None = Field(None, description="speech recognizer for recordings without text: Hub id or folder")
    asr_language: str | None = Field(None, description="spoken language, such as ru; null: the recognizer guesses")
    cors_origins: list[str] = Field([], description="origins whose pages may use the server: https://example.org")
    batch_size: int = Field(16, ge=1, description="largest batch of samples from different requests")
    batch_wait_ms: float = Field(5.0, ge=0, description="longest time that a sample waits for others, in milliseconds")
    max_megabytes: int = Field(25, ge=1, description="largest file")
    max_minutes: float = Field(30, gt=0, description="longest recording")
    max_requests: int = Field(32, ge=1, description="most requests at once; further ones get status 429")
    max_live: int = Field(8, ge=1, description="most live connections at once")
    max_live_minutes: float = Field(60, gt=0, description="longest live signal")
    timeout_s: float = Field(
        60, gt=0, description="longest time for a request, in seconds; after that, it gets status 504"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.asr_language is not None and self.asr is None:
            raise ArgumentError("asr_language: give the recognizer, too: --asr MODEL.")
        return self

    def after_interrupt(self) -> str:
        return "The server has ended."


def serve(arguments: ServeArguments) -> None:
    """Serve until a signal."""
    require("fastapi", "uvicorn", "python_multipart", "websockets")
    import uvicorn

    from ..serve.app import ServerOptions, build_app
    from ..serve.guard import ServerLimits

    listening = _listen(arguments.host, arguments.port)
    pipe = load_pipeline(arguments.checkpoint, arguments.backbone_dir)
    pipe({"text": "Hello."})  # whatever is slow the first time
    limits = ServerLimits(
        megabytes=arguments.max_megabytes,
        minutes=arguments.max_minutes,
        timeout_s=arguments.timeout_s,
        concurrency=arguments.max_requests,
        live_sessions=arguments.max_live,
        live_minutes=arguments.max_live_minutes,
    )
    folder = Path(arguments.checkpoint)
    options = ServerOptions(
        name=arguments.name or (folder.resolve().name if folder.is_dir() else arguments.checkpoint),
        limits=limits,
        api_key=os.environ.get(API_KEY) or None,
        cors_origins=arguments.cors_origins,
        batch_size=arguments.batch_size,
        wait_s=arguments.batch_wait_ms / 1000,
    )
    app = build_app(pipe, options, _load_recognizer(arguments.asr, arguments.asr_language))

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=2**21,
        timeout_graceful_shutdown=int(arguments.timeout_s) + 1,
    )
    host, port = listening.getsockname()[:2]
    print(
        f"Serving {options.name} at http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)", flush=True
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn has answered what had begun, and raises the signal again
        print("The server has ended.", file=sys.stderr)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise ArgumentError(
            f"Cannot listen at port {port} of {host}: {error.strerror or error}. Name another with --port and --host."
        ) from error


def _load_recognizer(model: str | None, language: str | None) -> Any:
    if model is None:
        return None
    try:
        return load_asr(model, language)
    except OSError as error:
        raise ArgumentError(f"asr: {model} is not a speech recognition model to load: {one_line(error)}") from error
    except ValueError as error:
        raise ArgumentError(one_line(error)) from error
