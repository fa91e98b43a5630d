"""From what a visitor gave to scores, or to a message that says what to do; knows nothing of the page."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .texts import Texts

QUIET_PEAK = 0.01
"""Of full scale; the visitor is warned below it."""


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for, and from which length a recording is cut into windows.

    Args:
        megabytes: of a file.
        minutes: of a recording.
        characters: of a text.
        timeline_from_s: recordings of at least this many seconds get a timeline.
        window_s: length of its windows, seconds; they stand side by side.
    """

    megabytes: int = 50
    minutes: float = 30
    characters: int = 1000
    timeline_from_s: float = 15.0
    window_s: float = 3.0


@dataclass(frozen=True)
class Recording:
    """Length in seconds, and the largest absolute sample (1 = full scale)."""

    duration_s: float
    peak: float


@dataclass(frozen=True)
class Answer:
    """What is shown.

    Args:
        scores: label -> probability; of a long recording the mean over time.
        chunks: parts of a long recording, as the pipeline gives them.
        recording: what it is like; None where there is none.
        text_unused: a text came beside a long recording: nothing tells when its words are said.
    """

    scores: dict[str, float]
    chunks: list[dict[str, Any]] = field(default_factory=list)
    recording: Recording | None = None
    text_unused: bool = False


class RefusedInput(ValueError):
    """What a visitor gave cannot be judged; the message tells them, in their language, why and what to do."""


def analyse(pipe: Any, audio: str | None, text: str, limits: Limits, texts: Texts) -> Answer:
    """Judge a recording, a text, or both.

    Args:
        pipe: a pipeline "audio-text-emotion", of the package or of a checkpoint's remote code.
        audio: path of a recording.
        text: what is said; blank for none.
        limits: what is allowed.
        texts: language of the messages.

    Raises:
        RefusedInput: nothing given, more than the limits allow, silence, or a file that cannot be read.
    """
    text = text.strip()
    # The classes of this very pipeline: remote code brings its own.
    code = sys.modules[type(pipe).__module__]
    if audio is None and not text:
        raise RefusedInput(texts.nothing_given)
    if len(text) > limits.characters:
        raise RefusedInput(texts.text_too_long.format(given=len(text), allowed=limits.characters))
    recording = None if audio is None else inspect_recording(audio, limits, texts, code)
    try:
        if recording is None or recording.duration_s < limits.timeline_from_s:
            return Answer(_scores(pipe({"audio": audio, "text": text or None})), recording=recording)
        answer = pipe(audio, chunk_length_s=limits.window_s, return_timestamps=True, merge=True)
        return Answer(_scores(answer["emotions"]), answer["chunks"], recording, text_unused=bool(text))
    except code.AudioError as error:
        # The visitor knows the file's name, not where the server put it.
        message = str(error) if audio is None else str(error).replace(os.fspath(audio), Path(audio).name)
        raise RefusedInput(texts.unreadable.format(message=message)) from error


def inspect_recording(path: str, limits: Limits, texts: Texts, code: Any) -> Recording | None:
    """Length and loudness of a recording, read in blocks; None where it cannot be read (the pipeline says why).

    Args:
        path: of the recording.
        limits: what is allowed.
        texts: language of the messages.
        code: module with the `AudioStream` and `AudioError` of the pipeline.

    Raises:
        RefusedInput: larger or longer than allowed, silent, or with channels that cancel each other.
    """
    megabytes = os.path.getsize(path) / 1e6
    if megabytes > limits.megabytes:
        raise RefusedInput(texts.file_too_large.format(given=megabytes, allowed=limits.megabytes))
    try:
        stream = code.AudioStream(path)
        for _ in stream:
            minutes = max(stream.read_s, stream.duration_s or 0.0) / 60
            if minutes > limits.minutes:
                raise RefusedInput(texts.recording_too_long.format(given=minutes, allowed=limits.minutes))
    except code.AudioError:
        return None
    try:
        stream.refuse_silence()
    except code.AudioError as error:
        raise RefusedInput(texts.cancelled if stream.cancels else texts.silent) from error
    return Recording(stream.read_s, stream.peak)


def _scores(emotions: list[dict[str, Any]]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in emotions}
