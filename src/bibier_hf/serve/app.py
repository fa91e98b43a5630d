"""The endpoints of the server."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from ..model.answers_bibier import AnswerLabels
from ..model.audio_bibier import SAMPLING_RATE, AudioError, AudioStream
from ..model.configuration_bibier import MULTI_LABEL, REGRESSION
from ..model.pipeline_bibier import AudioTextEmotionPipeline
from ..model.segments_bibier import Segment
from ..model.timeline_bibier import Emotions, TimelineOptions, judge_chunks, merge_chunks
from .batching import ModelWorker, QueuedPipeline, Stopped
from .guard import Guard, RequestError, ServerLimits, error_response
from .live import LiveDesk
from .metrics import CONTENT_TYPE, SIZES, Metrics
from .requests import Choice, EmotionFields, TranscriptionFields, read_request
from .transcripts import Recognizer, Spoken

T = TypeVar("T")

WINDOW_S = 15.0
"""Long recordings without a transcript are answered in windows of this length."""

_SHORTEST_S = 0.1
"""Segments that are shorter are widened: a word may last no time at all."""


@dataclass(frozen=True)
class ServerOptions:
    """How to serve.

    Args:
        name: of the model, for clients.
        limits: what clients may ask for.
        api_key: key that clients must send; None: none.
        cors_origins: origins whose pages may use the server, such as https://example.org.
        batch_size: samples that are computed together at most.
        wait_s: longest time that a sample waits for others.
    """

    name: str
    limits: ServerLimits = field(default_factory=ServerLimits)
    api_key: str | None = None
    cors_origins: Sequence[str] = ()
    batch_size: int = 16
    wait_s: float = 0.005


def build_app(pipe: AudioTextEmotionPipeline, options: ServerOptions, asr: Any = None) -> Any:
    """Build the server, an ASGI application.

    Args:
        pipe: the pipeline, without a recognizer.
        options: how to serve.
        asr: speech recognition pipeline for recordings without a transcript.
    """
    desk = _Desk(pipe, options, asr)
    app: Any = Guard(desk.app, options.limits, desk.metrics, desk.paths, options.api_key)
    desk.guard = app
    if options.cors_origins:
        app = CORSMiddleware(app, allow_origins=options.cors_origins, allow_methods=["*"], allow_headers=["*"])
    return app


class _Desk:
    """The endpoints, and what they share."""

    guard: Guard

    def __init__(self, pipe: AudioTextEmotionPipeline, options: ServerOptions, asr: Any):
        self.pipe, self.options, self.limits = pipe, options, options.limits
        self.config: Any = pipe.model.config
        self.recognizer = None if asr is None else Recognizer(asr)
        self.decoders = ThreadPoolExecutor(4, thread_name_prefix="bibier-decode")
        self.listener = ThreadPoolExecutor(1, thread_name_prefix="bibier-listen")  # one at a time
        self.created = int(time.time())
        self.metrics = Metrics(
            {
                "bibier_requests_active": ("Requests being answered.", lambda: self.guard.active),
                "bibier_samples_waiting": ("Samples waiting for the model.", lambda: self.worker.waiting),
                "bibier_live_sessions": ("Open live connections.", lambda: self.live.active),
            }
        )
        self.worker = ModelWorker(pipe, options.batch_size, options.wait_s, self._note_batch)
        self.queued = QueuedPipeline(self.worker)
        self.live = LiveDesk(self.queued, options.limits, self.metrics)
        self.app = self._build()
        self.paths = {getattr(route, "path", "") for route in self.app.routes}

    def _note_batch(self, size: int) -> None:
        self.metrics.observe("bibier_batch_size", "Samples computed together.", size, SIZES)

    def _build(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
            yield
            await asyncio.to_thread(self.worker.close)

        app = FastAPI(title="BiBiER", lifespan=lifespan, docs_url=None, redoc_url=None)
        app.add_exception_handler(HTTPException, _tell)
        app.add_exception_handler(Stopped, _tell_end)
        app.add_exception_handler(ClientDisconnect, _tell_no_one)
        app.add_exception_handler(Exception, _tell_nothing)

        app.get("/health")(self.health)
        app.get("/metrics")(self.show_metrics)
        app.get("/v1/models")(self.list_models)
        app.get("/v1/models/{name:path}")(self.show_model)
        app.post("/v1/emotion")(self.answer_emotion)
        app.post("/v1/audio/transcriptions", response_model=None)(self.transcribe)
        app.websocket("/v1/live")(self.serve_live)
        return app

    # --- about the server ---

    async def health(self) -> JSONResponse:
        running = self.worker.is_running
        return JSONResponse({"status": "ok" if running else "ending"}, 200 if running else 503)

    async def show_metrics(self) -> Response:
        return Response(self.metrics.render(), media_type=CONTENT_TYPE)

    async def list_models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._model()]}

    async def show_model(self, name: str) -> dict[str, Any]:
        if name != self.options.name:
            raise RequestError(404, f"There is no model {name!r}. There is {self.options.name!r}.", "model")
        return self._model()

    def _model(self) -> dict[str, Any]:
        config = self.config
        return {
            "id": self.options.name,
            "object": "model",
            "created": self.created,
            "owned_by": "bibier_hf",
            "labels": list(config.label_names),
            "modalities": list(config.modalities),
            "problem_type": config.problem_type,
        }

    # --- answers ---

    async def answer_emotion(self, request: Request) -> dict[str, Any]:
        """Answer a recording, a text, or both."""
        content, fields = await read_request(request, EmotionFields, self.limits)
        labels, windows = self._answers(fields), fields.windows(self.limits)
        ranks = {name: getattr(fields, name) for name in ("top_k", "threshold") if getattr(fields, name) is not None}
        if self._is_regression and (ranks or fields.merge):
            raise RequestError(400, "top_k, threshold and merge rank labels, but this model predicts values.")

        text = (fields.text or "").strip() or None
        if content is None and text is None:
            raise RequestError(400, "There is neither a recording (file, or audio in JSON) nor a text.", "file")
        answer: dict[str, Any] = {"model": self.options.name}

        if content is None:
            if windows:
                raise RequestError(400, "Windows are cut from audio, but the request has none.", "chunk_length_s")
            found = await self._answer(None, text, fields)
            return answer | {"text": text, **found, "emotions": labels.choose(found["emotions"], **ranks)}

        samples = await self._decode(content, fields.channel)
        answer["duration"] = round(len(samples) / SAMPLING_RATE, 3)
        if not windows:
            self._refuse_long(samples)
            if text is None and self.recognizer is not None:
                text = " ".join(spoken.text for spoken in await self._recognize(samples, None)) or None
            found = await self._answer(samples, text, fields)
            return answer | {"text": text, **found, "emotions": labels.choose(found["emotions"], **ranks)}

        if text is not None:
            raise RequestError(400, "A text has no times, so it cannot be aligned with windows.", "text")
        pieces = await self._cut(samples, windows)
        spoken = await self._recognize(samples, None) if self.recognizer is not None else []
        chunks = await self._answer_pieces(samples, [_with_words(piece, spoken) for piece in pieces], fields)
        whole = {"emotions": labels.choose(labels.mean(chunks), **ranks), **judge_chunks(chunks)}
        shown = merge_chunks(chunks) if fields.merge else chunks
        shown = [chunk | {"emotions": labels.choose(chunk["emotions"], **ranks)} for chunk in shown]
        return answer | whole | {"chunks": shown}

    async def transcribe(self, request: Request) -> dict[str, Any] | Response:
        """Transcribe a recording as OpenAI's API does, with the emotion of each segment."""
        content, fields = await read_request(request, TranscriptionFields, self.limits)
        labels, windows = self._answers(fields), fields.windows(self.limits)
        if fields.stream:
            raise RequestError(400, "stream: is not available here. Use /v1/live for live audio.", "stream")
        if content is None:
            raise RequestError(400, "file: there is no recording in the request.", "file")

        samples = await self._decode(content, fields.channel)
        duration = len(samples) / SAMPLING_RATE
        text = fields.text if self.recognizer is not None else fields.text or fields.prompt
        text = (text or "").strip()

        if text:
            self._refuse_long(samples)
            segments = [Spoken(0.0, duration, text)]
        elif self.recognizer is not None:
            segments = await self._recognize(samples, fields.language)
        else:
            long = len(samples) > self.limits.whole_s * SAMPLING_RATE
            windows = windows or ({"chunk_length_s": WINDOW_S} if long else {})
            segments = await self._cut(samples, windows) if windows else []
        segments = segments or [Spoken(0.0, duration, "")]

        text = " ".join(segment.text for segment in segments if segment.text)
        if fields.response_format == "text":
            return PlainTextResponse(text + "\n")

        chunks = await self._answer_pieces(samples, segments, fields)
        whole = labels.choose(labels.mean(chunks))
        answer: dict[str, Any] = {"text": text, "emotion": self._best(whole), "emotions": whole} | judge_chunks(chunks)
        if fields.response_format == "json":
            return answer

        answer |= {"task": "transcribe", "language": fields.language or "unknown", "duration": round(duration, 3)}
        answer["segments"] = [
            self._segment(number, spoken, chunk | {"emotions": labels.choose(chunk["emotions"])})
            for number, (spoken, chunk) in enumerate(zip(segments, chunks, strict=True))
        ]
        if "word" in fields.timestamp_granularities:
            answer["words"] = [
                {"word": word["text"], "start": word["timestamp"][0], "end": word["timestamp"][1]}
                for segment in segments
                for word in segment.words
            ]
        return answer

    async def serve_live(self, socket: WebSocket) -> None:
        origin, host = socket.headers.get("origin"), socket.headers.get("host")
        is_foreign = origin is not None and origin.partition("://")[2] != host
        if is_foreign and not {origin, "*"} & set(self.options.cors_origins):
            await socket.close(1008, "This origin is not allowed.")
            return
        await self.live.serve(socket, self.guard.has_key)

    # --- parts of answers ---

    @property
    def _is_regression(self) -> bool:
        return self.config.problem_type == REGRESSION

    def _answers(self, fields: Choice) -> AnswerLabels:
        try:
            return AnswerLabels.of(self.config, fields.labels, fields.label_map)
        except ValueError as error:
            raise RequestError(400, str(error), "labels") from error

    def _refuse_long(self, samples: np.ndarray) -> None:
        if len(samples) > self.limits.whole_s * SAMPLING_RATE:
            message = f"Recordings of more than {self.limits.whole_s:g} s are answered in windows: chunk_length_s=4."
            raise RequestError(413, message, "chunk_length_s")

    async def _decode(self, content: bytes, channel: int | None) -> np.ndarray:
        """Decode a recording in another thread.

        Raises:
            RequestError: it cannot be read, its channels cancel, or it is longer than allowed.
        """
        longest = self.limits.minutes * 60

        def decode() -> np.ndarray:
            stream, blocks = AudioStream(content, channel=channel), []
            for block in stream:
                blocks.append(block)
                if max(stream.read_s, stream.duration_s or 0.0) > longest:
                    message = f"The recording is longer than {self.limits.minutes:g} minutes."
                    raise RequestError(413, message, "file")
            stream.refuse_canceled()
            return np.concatenate(blocks)

        try:
            samples = await _in(self.decoders, decode)
        except AudioError as error:
            raise RequestError(400, f"The recording cannot be used. {error}", "file") from error
        seconds = len(samples) / SAMPLING_RATE
        self.metrics.count("bibier_audio_seconds_total", "Seconds of audio received.", seconds)
        return samples

    async def _recognize(self, samples: np.ndarray, language: str | None) -> list[Spoken]:
        recognizer, canceled = self.recognizer, threading.Event()
        assert recognizer is not None
        try:
            return await _in(self.listener, lambda: recognizer(samples, language, canceled.is_set))
        except asyncio.CancelledError:
            canceled.set()
            raise

    async def _cut(self, samples: np.ndarray, windows: dict[str, Any]) -> list[Spoken]:
        """The pieces of a timeline, without words."""
        options = TimelineOptions(**{name: value for name, value in windows.items() if name != "merge"})

        def cut() -> list[Spoken]:
            segmenter, pieces = options.segmenter(), []
            for start in range(0, len(samples), SAMPLING_RATE):  # a segment has a copy of its samples: keep few
                pieces += map(_without_words, segmenter.push(samples[start : start + SAMPLING_RATE]))
                if len(pieces) > self.limits.windows:
                    message = f"More than {self.limits.windows} windows: choose a larger hop_length_s."
                    raise RequestError(413, message, "hop_length_s")
            return [*pieces, *map(_without_words, segmenter.close())]

        return await _in(self.decoders, cut)

    async def _answer(self, samples: np.ndarray | None, text: str | None, fields: Choice) -> dict[str, Any]:
        outputs = await asyncio.wrap_future(self.worker.submit({"audio": samples, "text": text}))
        return self.worker.answer(outputs, fields.labels, fields.label_map, getattr(fields, "threshold", None))

    async def _answer_pieces(
        self, samples: np.ndarray, pieces: Sequence[Spoken], fields: Choice
    ) -> list[dict[str, Any]]:
        """Chunks with the scores of all labels, of pieces of a recording.

        They are asked for batch by batch, so that the samples of other requests come in between.
        """
        chunks = []
        for first in range(0, len(pieces), self.options.batch_size):
            batch = pieces[first : first + self.options.batch_size]
            spans = [_widened(piece, len(samples)) for piece in batch]
            asked = [
                self._answer(samples[start:end], piece.text or None, fields)
                for piece, (start, end) in zip(batch, spans, strict=True)
            ]
            for piece, answer in zip(batch, await asyncio.gather(*asked), strict=True):
                timestamp = piece.start, max(piece.end, piece.start + 1e-3)
                chunks.append({"timestamp": timestamp, "text": piece.text or None, **answer})
        return chunks

    def _best(self, emotions: Emotions) -> str | None:
        """The best label, those that are present, or None of a regression."""
        if self._is_regression:
            return None
        if self.config.problem_type == MULTI_LABEL:
            return ", ".join(entry["label"] for entry in emotions if entry["present"])
        return emotions[0]["label"]

    def _segment(self, number: int, spoken: Spoken, chunk: dict[str, Any]) -> dict[str, Any]:
        """A segment as OpenAI's API has it. What recognizers here do not tell (tokens, probabilities) is empty or
        0."""
        return {
            "id": number,
            "seek": 0,
            "start": round(spoken.start, 3),
            "end": round(spoken.end, 3),
            "text": spoken.text,
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": 0.0,
            "compression_ratio": 0.0,
            "no_speech_prob": 0.0,
            "emotion": self._best(chunk["emotions"]),
            **{name: chunk[name] for name in ("emotions", "unsure", "unsure_score", "unsure_reason")},
        }


async def _in(threads: Executor, function: Callable[[], T]) -> T:
    """Run a function in another thread; a request that is given up does not wait for its end."""
    return await asyncio.get_running_loop().run_in_executor(threads, function)


def _without_words(piece: Segment) -> Spoken:
    return Spoken(piece.start / SAMPLING_RATE, piece.end / SAMPLING_RATE, "")


def _with_words(piece: Spoken, spoken: Sequence[Spoken]) -> Spoken:
    """A piece with the words whose middle lies in it."""
    words = [
        word for segment in spoken for word in segment.words if piece.start <= sum(word["timestamp"]) / 2 < piece.end
    ]
    return Spoken(piece.start, piece.end, " ".join(word["text"] for word in words), words)


def _widened(piece: Spoken, count: int) -> tuple[int, int]:
    """First and last sample of a piece, at least [`_SHORTEST_S`] if the recording is that long."""
    start, end = round(piece.start * SAMPLING_RATE), min(round(piece.end * SAMPLING_RATE), count)
    missing = max(0, round(_SHORTEST_S * SAMPLING_RATE) - (end - start))
    start = max(0, min(start - missing // 2, count - round(_SHORTEST_S * SAMPLING_RATE)))
    return start, max(end, min(count, start + round(_SHORTEST_S * SAMPLING_RATE)))


async def _tell(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, str(error.detail), getattr(error, "param", None), error.headers)


async def _tell_end(request: Request, error: Exception) -> JSONResponse:
    return error_response(503, "The server is ending. Try again in a moment.", None, {"Retry-After": "1"})


async def _tell_no_one(request: Request, error: Exception) -> Response:
    """The client went away while it sent its request."""
    return Response(status_code=499)


async def _tell_nothing(request: Request, error: Exception) -> JSONResponse:
    """The details of a mistake in the server are for its log."""
    return error_response(500, "The server made a mistake. Its log says more.")
