"""What stands before every request: the key, limits on size, time and number, and metrics; and the form of errors."""

import asyncio
import hmac
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse

from .metrics import SECONDS, Metrics

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN_PATHS = ("/health",)
"""Answered without a key."""

_KINDS = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    413: ("invalid_request_error", "too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
}


@dataclass(frozen=True)
class ServerLimits:
    """What clients may ask for.

    Args:
        megabytes: size of a recording as a file.
        minutes: length of a recording.
        whole_s: length of a recording that is answered without windows, and of a window, in seconds.
        windows: of a recording.
        characters: length of a text.
        timeout_s: seconds for one request, with its upload.
        concurrency: requests at once.
        live_sessions: live connections at once.
        live_minutes: length of a live signal.
        idle_s: a live connection without audio for so many seconds is closed.
    """

    megabytes: int = 25
    minutes: float = 30
    whole_s: float = 60
    windows: int = 10_000
    characters: int = 4000
    timeout_s: float = 60
    concurrency: int = 32
    live_sessions: int = 8
    live_minutes: float = 60
    idle_s: float = 30

    @property
    def body_bytes(self) -> int:
        """Size of a request: base64 takes four characters for three bytes."""
        return self.megabytes * 1_000_000 * 4 // 3 + 4 * self.characters + 64_000


class RequestError(HTTPException):
    """A request that is refused.

    Args:
        status: HTTP status.
        message: for the client.
        param: the field that is wrong.
    """

    def __init__(self, status: int, message: str, param: str | None = None):
        super().__init__(status, message, {"Retry-After": "1"} if status in (429, 503) else None)
        self.param = param


def error_body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's API writes it."""
    kind, code = _KINDS.get(status, ("invalid_request_error", "invalid_request"))
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(error_body(status, message, param), status, headers)


class Guard:
    """ASGI middleware around the whole application; see the module.

    Args:
        app: the application.
        limits: of a request.
        metrics: receives the number and the time of requests.
        paths: known paths; others count as "other".
        api_key: key that clients must send as `Authorization: Bearer KEY`; None: none.
    """

    def __init__(self, app: Any, limits: ServerLimits, metrics: Metrics, paths: set[str], api_key: str | None):
        self._app, self._limits, self._metrics = app, limits, metrics
        self._paths, self._api_key = paths, api_key
        self.active = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        begin, request_id, status = time.perf_counter(), uuid.uuid4().hex, 0

        async def send_noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, send_noted)
                return

            counts = scope["method"] == "POST"
            self.active += counts
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    await self._app(scope, self._limited(receive), send_noted)
            except TimeoutError:
                if status:  # the answer had begun
                    raise
                message = f"The request took more than {self._limits.timeout_s:g} s."
                await error_response(504, message)(scope, receive, send_noted)
            finally:
                self.active -= counts
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            spent = time.perf_counter() - begin
            self._metrics.count("bibier_requests_total", "Requests.", path=path, status=str(status))
            self._metrics.observe("bibier_request_seconds", "Time of requests.", spent, SECONDS, path=path)

    def _refusal(self, scope: Mapping[str, Any]) -> JSONResponse | None:
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN_PATHS and not self.has_key(headers.get(b"authorization", b"")):
            headers = {"WWW-Authenticate": "Bearer"}
            return error_response(401, "The API key is missing or wrong (Authorization: Bearer KEY).", None, headers)

        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            return error_response(413, self._too_large(), "file")
        if scope["method"] == "POST" and self.active >= self._limits.concurrency:
            message = f"{self._limits.concurrency} requests are being answered. Try again in a moment."
            return error_response(429, message, None, {"Retry-After": "1"})
        return None

    def has_key(self, authorization: bytes) -> bool:
        """Whether a header `Authorization` has the key; true if none is needed."""
        if self._api_key is None:
            return True
        kind, _, key = authorization.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._api_key.encode())

    def _too_large(self) -> str:
        return f"The request is larger than a recording of {self._limits.megabytes} MB."

    def _limited(self, receive: Receive) -> Receive:
        """Count the bytes of a body, whatever its headers say."""
        received = 0

        async def receive_counted() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limits.body_bytes:
                raise RequestError(413, self._too_large(), "file")
            return message

        return receive_counted
