"""The fields of requests, from JSON, from forms, and from the first message of a live connection."""

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import UploadFile

from ..model.timeline_bibier import TIMELINE_ARGUMENTS, TimelineOptions
from .guard import RequestError, ServerLimits

Fields = TypeVar("Fields", bound="Choice")

MOST_LABELS = 1000
"""That a request may name."""

MOST_OVERLAP = 40
"""Windows that may hold the same moment: a hop is at least this fraction of a window."""


class Choice(BaseModel):
    """What every request may choose. Values of forms are texts, so they are converted."""

    model_config = ConfigDict(extra="forbid")

    labels: list[str] | None = Field(None, max_length=MOST_LABELS)
    label_map: dict[str, list[str] | str] | None = Field(None, max_length=MOST_LABELS)
    chunk_length_s: float | None = Field(None, gt=0)
    hop_length_s: float | None = Field(None, gt=0)
    segmentation: Literal["fixed", "energy"] | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("label_map", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError) as error:
            raise RequestError(400, "label_map: must be a JSON object.", "label_map") from error

    @property
    def names(self) -> dict[str, Any]:
        """The choice of labels, as the pipeline takes it."""
        return {"labels": self.labels, "label_map": self.label_map}

    def windows(self, limits: ServerLimits) -> dict[str, Any]:
        """Arguments of a timeline; {} if none is wanted.

        Raises:
            RequestError: they contradict each other, or the windows are too long or too close.
        """
        given = {name: getattr(self, name) for name in TIMELINE_ARGUMENTS if getattr(self, name, None) is not None}
        try:
            if not TimelineOptions(**given).asked_for:
                return {}
        except ValueError as error:
            raise RequestError(400, str(error), "chunk_length_s") from error

        length_s = self.chunk_length_s or 0.0
        if length_s > limits.whole_s:
            message = f"chunk_length_s: windows of more than {limits.whole_s:g} s are not allowed."
            raise RequestError(400, message, "chunk_length_s")
        if self.hop_length_s is not None and self.hop_length_s < length_s / MOST_OVERLAP:
            message = f"hop_length_s: must be at least {length_s / MOST_OVERLAP:g}, 1/{MOST_OVERLAP} of a window."
            raise RequestError(400, message, "hop_length_s")
        return given


class EmotionFields(Choice):
    """Fields of `/v1/emotion` beside the recording."""

    text: str | None = None
    model: str | None = None
    top_k: int | None = Field(None, ge=1)
    threshold: float | None = Field(None, ge=0, le=1)
    channel: int | None = Field(None, ge=0)
    merge: bool = False


class TranscriptionFields(Choice):
    """Fields of `/v1/audio/transcriptions` beside the recording: those of OpenAI, and those of a choice."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    text: str | None = None
    response_format: Literal["json", "text", "verbose_json"] = "json"
    temperature: float | None = None
    timestamp_granularities: list[Literal["word", "segment"]] = Field(["segment"], alias="timestamp_granularities[]")
    stream: bool = False
    channel: int | None = Field(None, ge=0)


class LiveFields(Choice):
    """The first message of a live connection."""

    type: Literal["start"] = "start"
    sampling_rate: int = Field(16_000, ge=8000, le=192_000)
    format: Literal["s16le", "f32le"] = "s16le"
    partial_s: float | None = Field(0.5, ge=0.1)
    api_key: str | None = None


async def read_request(request: Request, fields: type[Fields], limits: ServerLimits) -> tuple[bytes | None, Fields]:
    """Return the recording of a request, and its other fields.

    Raises:
        RequestError: a body that cannot be read, unknown fields, or too large a recording.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        audio, values = await asyncio.to_thread(_from_json, await request.body())
    elif kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        audio, values = await _from_form(request, limits)
    else:
        raise RequestError(415, "Send multipart/form-data, or application/json with base64 audio.")

    if audio is not None and len(audio) > limits.megabytes * 1_000_000:
        message = f"The recording has {len(audio) / 1e6:.1f} MB; at most {limits.megabytes} MB are allowed."
        raise RequestError(413, message, "file")

    checked = check_fields(fields, values, "audio" if kind == "application/json" else "file")
    for name in ("text", "prompt"):
        text = getattr(checked, name, None) or ""
        if len(text) > limits.characters:
            raise RequestError(413, f"{name}: at most {limits.characters} characters are allowed.", name)
    return audio, checked


def check_fields(fields: type[Fields], values: Mapping[str, Any], recording: str | None = None) -> Fields:
    """Validate fields.

    Args:
        recording: name of the field of the recording, which is not among `fields`.

    Raises:
        RequestError: the first one that is wrong.
    """
    for name, value in values.items():
        if not _is_text(name):
            raise RequestError(400, "The name of a field holds half of a surrogate pair. Send whole characters.")
        if not _is_text(value):
            raise RequestError(400, f"{name}: holds half of a surrogate pair. Send whole characters.", name)
    try:
        checked = fields.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "extra_forbidden":
            known = [field.alias or name for name, field in fields.model_fields.items()]
            allowed = ", ".join([recording, *known] if recording else known)
            raise RequestError(400, f"{name}: unknown field. Allowed: {allowed}.", name) from error
        raise RequestError(400, f"{name}: {first['msg']}.", name) from error
    if not _is_text(checked.label_map):  # from JSON within a form
        raise RequestError(400, "label_map: holds half of a surrogate pair. Send whole characters.", "label_map")
    return checked


def _is_text(value: Any) -> bool:
    """Whether everything in a value can be written as UTF-8, which half of a surrogate pair cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_json(body: bytes) -> tuple[bytes | None, dict[str, Any]]:
    try:
        values = json.loads(body)
    except ValueError as error:
        raise RequestError(400, "The body is not JSON.") from error
    except RecursionError as error:
        raise RequestError(400, "The body is nested too deeply. Send an object of plain fields.") from error
    if not isinstance(values, dict):
        raise RequestError(400, 'The body must be an object, such as {"text": "..."}.')

    encoded = values.pop("audio", None)
    if encoded is None:
        return None, values
    if not isinstance(encoded, str):
        raise RequestError(400, "audio: must be base64, with or without data:audio/...;base64, before it.", "audio")
    try:
        return base64.b64decode(encoded.rpartition("base64,")[2], validate=True), values
    except binascii.Error as error:
        raise RequestError(400, f"audio: is not base64 ({error}).", "audio") from error


async def _from_form(request: Request, limits: ServerLimits) -> tuple[bytes | None, dict[str, Any]]:
    audio, values = None, {}
    form = await request.form(max_files=1, max_fields=64, max_part_size=16 * limits.characters)
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in ("file", "audio"):
                    raise RequestError(400, f"{name}: a recording goes into the field file.", name)
                audio = await value.read()
            elif name in ("file", "audio"):
                raise RequestError(400, f"{name}: holds a text. Send a file: curl -F {name}=@clip.wav", name)
            elif name.endswith("[]"):
                values.setdefault(name, []).append(value)
            else:
                values[name] = value
    finally:
        await form.close()
    return audio, values
