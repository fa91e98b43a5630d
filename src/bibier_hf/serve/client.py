"""A client for live audio. Needs NumPy and `websockets` alone."""

import contextlib
import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from ..errors import UserError


class LiveError(UserError, RuntimeError):
    """The server refused or ended a live connection; the message says why."""


class LiveClient:
    """The emotions of a live signal, computed by a server (`bibier serve`).

    Used like [`~bibier_hf.timeline.LiveEmotion`], but `push` does not wait: it returns the chunks that have arrived.
    Each result has `arrived`, the `time.perf_counter()` of its arrival.

    Args:
        url: address of the server, such as `ws://127.0.0.1:8000` or `http://127.0.0.1:8000`.
        api_key: key of the server, if it needs one.
        partial_s: seconds of audio between partial results; None: none.
        timeout_s: longest time to wait for the connection and, at the end, for the last results.
        options: `chunk_length_s`, `hop_length_s`, `segmentation`, `labels`, `label_map`.

    Examples:
        >>> with LiveClient("ws://127.0.0.1:8000", chunk_length_s=4, hop_length_s=2) as live:  # doctest: +SKIP
        ...     for samples in microphone:
        ...         for chunk in live.push(samples, sampling_rate=48_000):
        ...             print(chunk["timestamp"], chunk["emotions"][0])
        ...         print(live.partial)
        ...     print(live.close())
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        partial_s: float | None = 0.5,
        timeout_s: float = 30.0,
        **options: Any,
    ):
        self._url = url.rstrip("/").replace("http", "ws", 1) if url.startswith("http") else url.rstrip("/")
        self._api_key, self._timeout_s = api_key, timeout_s
        self._options = {"partial_s": partial_s} | options
        self._socket: Any = None
        self._opened = contextlib.ExitStack()
        self._rate = 0
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._failure: str | None = None
        self._ended = threading.Event()
        self.partial: dict[str, Any] | None = None
        """The last partial result: `{"timestamp": (start, end), "emotions": [...]}`."""
        self.emotions: list[dict[str, Any]] | None = None
        """The mean over the whole signal, after `close`."""

    def push(self, samples: Any, sampling_rate: int) -> list[dict[str, Any]]:
        """Send the next piece, mono float samples in [-1, 1] or int16; returns the chunks that have arrived since.

        Raises:
            LiveError: the server refused the connection or ended it.
            ValueError: a different rate than before, or several channels.
        """
        samples = np.asarray(samples)
        if samples.ndim != 1:
            raise ValueError(f"The samples have the shape {samples.shape}; send one channel.")
        if self._socket is None:
            self._connect(sampling_rate)
        elif sampling_rate != self._rate:
            raise ValueError(f"The stream began at {self._rate} Hz, but these samples are at {sampling_rate} Hz.")

        if samples.dtype != np.int16:
            samples = np.clip(np.rint(samples * 32768.0), -32768, 32767)
        self._send(samples.astype("<i2").tobytes())
        return list(self._arrived())

    def close(self) -> list[dict[str, Any]]:
        """End the signal, and wait for the remaining chunks.

        Raises:
            LiveError: the server ended the connection, or does not answer.
        """
        if self._socket is None:
            return []
        self._send(json.dumps({"type": "stop"}))
        if not self._ended.wait(self._timeout_s):
            self._failure = f"{self._url} did not answer within {self._timeout_s:g} s."
        self._disconnect()
        return list(self._arrived())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._disconnect()

    def _connect(self, rate: int) -> None:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else None
        try:
            self._socket = self._opened.enter_context(
                connect(
                    f"{self._url}/v1/live",
                    additional_headers=headers,
                    open_timeout=self._timeout_s,
                    max_size=2**22,
                    compression=None,  # sound does not get smaller by it
                )
            )
        except (OSError, WebSocketException) as error:
            raise LiveError(f"{self._url} cannot be reached ({error}). Start it: bibier serve CHECKPOINT") from error

        self._rate = rate
        self._socket.send(json.dumps({"type": "start", "sampling_rate": rate, "format": "s16le", **self._options}))
        threading.Thread(target=self._listen, args=(self._socket,), daemon=True).start()

    def _disconnect(self) -> None:
        self._opened.close()
        self._socket = None

    def _listen(self, socket: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            for message in socket:
                self._take(json.loads(message))
        except ConnectionClosed as error:
            self._failure = self._failure or f"{self._url} ended the connection ({error})."
        self._ended.set()

    def _take(self, message: dict[str, Any]) -> None:
        kind = message.pop("type")
        if kind == "error":
            self._failure = f"{self._url}: {message['error']['message']}"
        elif kind == "partial":
            self.partial = _timed(message)
        elif kind == "chunk":
            self._inbox.put(_timed(message))
        elif kind == "done":
            self.emotions = message["emotions"]

    def _send(self, content: str | bytes) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            self._socket.send(content)
        except ConnectionClosed:
            self._ended.wait(self._timeout_s)  # for what the server said
            self._failure = self._failure or f"{self._url} ended the connection."
            raise LiveError(self._failure) from None

    def _arrived(self) -> Iterator[dict[str, Any]]:
        if self._failure is not None:
            raise LiveError(self._failure)
        while not self._inbox.empty():
            yield self._inbox.get()


def _timed(message: Mapping[str, Any]) -> dict[str, Any]:
    return {**message, "timestamp": tuple(message["timestamp"]), "arrived": time.perf_counter()}
