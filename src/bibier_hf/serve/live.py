"""Live audio over a WebSocket.

    client: {"type": "start", "sampling_rate": 16000, "format": "s16le", "chunk_length_s": 4, "hop_length_s": 2}
    server: {"type": "ready", ...}
    client: binary messages, the samples of one channel
    server: {"type": "partial", "timestamp": [1.5, 3.0], "emotions": [...]}    the last seconds, every `partial_s`
    server: {"type": "chunk", "timestamp": [0.0, 4.0], "emotions": [...]}      each window, once
    client: {"type": "stop"}
    server: the remaining chunks, then {"type": "done", "duration": 12.3, "emotions": the mean}

Whatever has arrived is processed at once, so a slow model answers less often but is never behind by more than one
step. Partial results are left out while there is more audio to process.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect

from ..model.audio_bibier import AudioError
from ..timeline.live import LiveEmotion
from .batching import QueuedPipeline, Stopped
from .guard import RequestError, ServerLimits, error_body
from .metrics import SECONDS, Metrics
from .requests import LiveFields, check_fields

logger = logging.getLogger(__name__)

START_S = 10.0
"""Seconds that a client has for its first message."""

MOST_WAITING_S = 10.0
"""Seconds of audio that may wait; a client that sends faster is slowed down."""

WINDOW_S, HOP_S = 4.0, 2.0
"""Windows of a client that names none."""

_TYPES = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
_CLOSING = {401: 1008, 413: 1009, 429: 1013, 500: 1011, 503: 1012}


class LiveDesk:
    """Serves live connections.

    Args:
        pipe: where their chunks are computed.
        limits: of a connection.
        metrics: receives the time from audio to answer.
    """

    def __init__(self, pipe: QueuedPipeline, limits: ServerLimits, metrics: Metrics):
        self._pipe, self._limits, self._metrics = pipe, limits, metrics
        self._threads = ThreadPoolExecutor(limits.live_sessions, thread_name_prefix="bibier-live")
        self.active = 0

    async def serve(self, socket: WebSocket, has_key: Callable[[bytes], bool]) -> None:
        """Serve a connection to its end."""
        await socket.accept()
        counted = False
        try:
            fields = await self._start(socket, has_key)
            if self.active >= self._limits.live_sessions:
                raise RequestError(429, f"{self._limits.live_sessions} live connections are open. Try again later.")
            self.active += 1
            counted = True
            await self._serve(socket, fields)
            await socket.close()
        except WebSocketDisconnect:
            return
        except RequestError as error:
            await _refuse(socket, error)
        except (AudioError, ValueError) as error:
            await _refuse(socket, RequestError(400, str(error)))
        except Stopped:
            await _refuse(socket, RequestError(503, "The server is ending."))
        except Exception:
            logger.exception("A live connection failed.")
            await _refuse(socket, RequestError(500, "The server made a mistake. Its log says more."))
        finally:
            self.active -= counted

    async def _start(self, socket: WebSocket, has_key: Callable[[bytes], bool]) -> LiveFields:
        """Read the first message."""
        try:
            async with asyncio.timeout(START_S):
                message = await _receive(socket)
        except TimeoutError as error:
            raise RequestError(400, f"No first message within {START_S:g} s.") from error
        if not isinstance(message, dict):
            raise RequestError(400, 'Send {"type": "start", ...} before the audio.', "type")

        fields = check_fields(LiveFields, message)
        key = f"Bearer {fields.api_key}".encode() if fields.api_key else b""
        if not has_key(key or socket.headers.get("authorization", "").encode()):
            raise RequestError(401, "The API key is missing or wrong (api_key, or Authorization: Bearer KEY).")
        return fields

    async def _serve(self, socket: WebSocket, fields: LiveFields) -> None:
        windows = fields.windows(self._limits) or {"chunk_length_s": WINDOW_S, "hop_length_s": HOP_S}
        live = LiveEmotion(self._pipe, **windows, **fields.names)  # ty: ignore[invalid-argument-type]
        inbox = _Inbox(fields, self._limits)
        await socket.send_json({"type": "ready", "sampling_rate": fields.sampling_rate, **windows})

        reader = asyncio.create_task(_read(socket, inbox))
        try:
            since_partial_s, loop = 0.0, asyncio.get_running_loop()
            while True:
                samples, arrived = await inbox.take()
                for chunk in await loop.run_in_executor(self._threads, live.push, samples, fields.sampling_rate):
                    await socket.send_json({"type": "chunk", **chunk})
                    self._note(loop.time() - arrived, "chunk")

                since_partial_s += len(samples) / fields.sampling_rate
                if inbox.is_over:
                    break
                if fields.partial_s is not None and since_partial_s >= fields.partial_s and not inbox.has_more:
                    since_partial_s = 0.0
                    now = await loop.run_in_executor(self._threads, live.now)
                    if now is not None:
                        await socket.send_json({"type": "partial", **now})
                        self._note(loop.time() - arrived, "partial")

            for chunk in await loop.run_in_executor(self._threads, live.close):
                await socket.send_json({"type": "chunk", **chunk})
            emotions = live.timeline["emotions"]
            await socket.send_json({"type": "done", "duration": round(inbox.received_s, 3), "emotions": emotions})
        finally:
            reader.cancel()

    def _note(self, seconds: float, kind: str) -> None:
        text = "From the arrival of live audio to its answer."
        self._metrics.observe("bibier_live_seconds", text, seconds, SECONDS, kind=kind)


class _Inbox:
    """Audio that has arrived and waits to be processed."""

    def __init__(self, fields: LiveFields, limits: ServerLimits):
        self._kind, self._rate, self._limits = _TYPES[fields.format], fields.sampling_rate, limits
        self._bytes = bytearray()
        self._changed = asyncio.Condition()
        self._arrived = 0.0
        self._error: Exception | None = None
        self._count = 0
        self._ended = False

    @property
    def received_s(self) -> float:
        return self._count / self._kind.itemsize / self._rate

    @property
    def has_more(self) -> bool:
        return len(self._bytes) >= self._kind.itemsize

    @property
    def is_over(self) -> bool:
        return self._ended and not self.has_more

    async def put(self, content: bytes) -> None:
        """Add audio; waits while too much is waiting."""
        async with self._changed:
            most = MOST_WAITING_S * self._rate * self._kind.itemsize
            await self._changed.wait_for(lambda: len(self._bytes) < most)
            self._bytes += content
            self._count += len(content)
            self._arrived = asyncio.get_running_loop().time()
            if self.received_s > self._limits.live_minutes * 60:
                raise RequestError(413, f"The signal is longer than {self._limits.live_minutes:g} minutes.")
            self._changed.notify_all()

    async def end(self, error: Exception | None = None) -> None:
        async with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    async def take(self) -> tuple[np.ndarray, float]:
        """Wait for audio; returns all of it, and when the last of it arrived."""
        try:
            async with asyncio.timeout(self._limits.idle_s), self._changed:
                await self._changed.wait_for(lambda: self.has_more or self._ended)
                if self._error is not None:
                    raise self._error
                whole = len(self._bytes) - len(self._bytes) % self._kind.itemsize
                samples = np.frombuffer(bytes(self._bytes[:whole]), self._kind)
                del self._bytes[:whole]
                self._changed.notify_all()
        except TimeoutError as error:
            raise RequestError(400, f"No audio for {self._limits.idle_s:g} s.") from error

        if self._kind.kind == "i":
            return samples.astype(np.float32) / 32768, self._arrived
        return samples.astype(np.float32), self._arrived


async def _read(socket: WebSocket, inbox: _Inbox) -> None:
    """Move what a client sends into the inbox, until it stops."""
    try:
        while True:
            message = await _receive(socket)
            if isinstance(message, bytes):
                await inbox.put(message)
            elif message.get("type") == "stop":
                await inbox.end()
                return
            else:
                raise RequestError(400, 'After the start, send audio, or {"type": "stop"}.', "type")
    except Exception as error:
        await inbox.end(error)


async def _receive(socket: WebSocket) -> bytes | dict[str, Any]:
    """The next message: bytes, or an object."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    if message.get("bytes") is not None:
        return message["bytes"]
    try:
        value = json.loads(message["text"])
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "A text message must be JSON.") from error
    if not isinstance(value, dict):
        raise RequestError(400, 'A text message must be an object, such as {"type": "stop"}.')
    return value


async def _refuse(socket: WebSocket, error: RequestError) -> None:
    """Tell a client what is wrong, and close."""
    message = str(error.detail)
    try:
        await socket.send_json({"type": "error", **error_body(error.status_code, message, error.param)})
        await socket.close(_CLOSING.get(error.status_code, 1008))
    except (WebSocketDisconnect, RuntimeError):  # the client has gone
        return
