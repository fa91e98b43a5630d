"""Transcripts of recordings, as segments with times."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..model.audio_bibier import SAMPLING_RATE
from ..model.words_bibier import WordRecognizer, Words, joined, whisper_language
from .guard import RequestError

SENTENCE_ENDS = (".", "!", "?", "…")
PAUSE_S = 0.8
"""A silence that ends a segment."""

LONGEST_S = 15.0
"""A segment ends at the first word after so many seconds."""

_STEP = 10 * SAMPLING_RATE


@dataclass(frozen=True)
class Spoken:
    """Something that is said.

    Args:
        start, end: seconds.
        text: the words; "" if they are not known.
        words: each word with its time, if known.
    """

    start: float
    end: float
    text: str
    words: Sequence[Mapping[str, Any]] = field(default_factory=list)


class Recognizer:
    """Speech recognition of whole recordings; to be called by one thread at a time.

    Args:
        asr: a pipeline "automatic-speech-recognition".
    """

    def __init__(self, asr: Any):
        self._asr = asr

    def __call__(self, samples: np.ndarray, language: str | None, is_canceled: Callable[[], bool]) -> list[Spoken]:
        """Transcribe a recording at 16 kHz.

        Args:
            samples: float32 (n,).
            language: ISO 639 code; None: that of the server, or a guess.
            is_canceled: asked from time to time; then the result is worthless.

        Raises:
            RequestError: a language that the recognizer does not know.
        """
        asr = _InLanguage(self._asr, language) if language else self._asr
        if is_canceled():
            return []
        if not WordRecognizer.can_use(asr):
            text = asr({"raw": samples, "sampling_rate": SAMPLING_RATE})["text"].strip()
            return [Spoken(0.0, len(samples) / SAMPLING_RATE, text)] if text else []

        words = Words()
        recognizer = WordRecognizer(asr, words)
        for start in range(0, len(samples), _STEP):
            if is_canceled():
                return []
            recognizer.push(samples[start : start + _STEP])
        recognizer.close()
        return list(sentences(words.between(0.0, float("inf"))))


class _InLanguage:
    """A recognizer that is told the language of each request."""

    def __init__(self, asr: Any, language: str):
        self._asr, self.type, self.model = asr, getattr(asr, "type", None), getattr(asr, "model", None)
        self._options = {"generate_kwargs": whisper_language(asr, language)} if self.type == "seq2seq_whisper" else {}
        if self._options == {"generate_kwargs": {}}:
            raise RequestError(400, f"language: the recognizer does not know {language!r}.", "language")

    def __call__(self, audio: Any, **options: Any) -> Any:
        return self._asr(audio, **options, **self._options)


def sentences(words: Sequence[Mapping[str, Any]]) -> Iterator[Spoken]:
    """Group words into segments, which end at the end of a sentence, before a pause, or after [`LONGEST_S`]."""
    group: list[Mapping[str, Any]] = []
    for word in words:
        if group:
            pause = word["timestamp"][0] - group[-1]["timestamp"][1]
            length = word["timestamp"][1] - group[0]["timestamp"][0]
            if pause > PAUSE_S or length > LONGEST_S or group[-1]["text"].endswith(SENTENCE_ENDS):
                yield _spoken(group)
                group = []
        group.append(word)
    if group:
        yield _spoken(group)


def _spoken(words: list[Mapping[str, Any]]) -> Spoken:
    return Spoken(words[0]["timestamp"][0], words[-1]["timestamp"][1], joined(words) or "", words)
