"""The words of a recording and when they are said: a transcript with times, or speech recognition that gives them."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from transformers import AutoConfig, WhisperTokenizer, pipeline

from .audio_bibier import SAMPLING_RATE
from .segments_bibier import FRAME, frame_levels

_WINDOW, _SPAN = 30 * SAMPLING_RATE, 5 * SAMPLING_RATE
"""Speech recognition reads at most 30 s at a time, cut at the quietest frame of the last 5 s."""

_SHORTEST = SAMPLING_RATE // 10
"""The fewest samples that every speech model can read; shorter audio is padded with silence."""


class Words:
    """The words of a recording in order of time: `{"text": str, "timestamp": (start, end)}`, in seconds; with
    `"speaker"` if it is known."""

    def __init__(self):
        self._words: list[dict[str, Any]] = []
        self._middles: list[float] = []

    def add(self, timed_texts: Sequence[Mapping[str, Any]], start_s: float = 0.0, end_s: float = math.inf) -> None:
        """Add the `chunks` of a speech recognition pipeline for audio between start_s and end_s of the recording.

        The time of a text with several words is divided in proportion to their letters. A missing start is the end of
        the words before, a missing end that of the audio.

        Raises:
            ValueError: a chunk of another form.
        """
        last = start_s
        for timed in timed_texts:
            begin, end = _checked_times(timed)
            begin = last if begin is None else min(max(start_s + begin, last), end_s)
            end = end_s if end is None else min(max(start_s + end, begin), end_s)
            end = begin if math.isinf(end) else end

            words = timed["text"].split()
            borders = begin + (end - begin) * np.cumsum([0, *map(len, words)]) / max(1, sum(map(len, words)))
            speaker = {"speaker": timed["speaker"]} if timed.get("speaker") is not None else {}
            for word, (from_s, to_s) in zip(words, pairwise(borders.tolist()), strict=True):
                self._words.append({"text": word, "timestamp": (round(from_s, 3), round(to_s, 3)), **speaker})
                self._middles.append((from_s + to_s) / 2)

            last = end

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, place: Any) -> Any:
        return self._words[place]

    def between(self, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """Return the words whose middle is in start_s <= t < end_s."""
        first, last = np.searchsorted(self._middles, [start_s, end_s])
        return self._words[first:last]


def load_asr(model: str | os.PathLike, language: str | None = None, **options: Any) -> Any:
    """Load a speech recognition pipeline.

    Args:
        model: Hub id or folder.
        language: ISO 639 code of the speech, for models that take one (multilingual Whisper). None: the model guesses
            it every 30 s, and small models guess badly.
        options: options of `transformers.pipeline`.

    Raises:
        ValueError: a language that the model does not know.
    """
    if AutoConfig.from_pretrained(model).model_type == "whisper":
        # A repacked Whisper may come with a general tokenizer, which cannot decode its timestamps.
        options["tokenizer"] = WhisperTokenizer.from_pretrained(model)
    asr = pipeline("automatic-speech-recognition", model=os.fspath(model), **options)

    known = _whisper_languages(asr)  # only the loaded model knows
    if language and known and language not in known:
        raise ValueError(
            f"asr_language={language!r} is not a language of {model}; it knows: {', '.join(sorted(known))}."
        )

    generate_kwargs = whisper_language(asr, language)
    if not generate_kwargs:
        return asr
    return pipeline(
        "automatic-speech-recognition",
        model=asr.model,
        tokenizer=asr.tokenizer,
        feature_extractor=asr.feature_extractor,
        device=asr.device,
        generate_kwargs=generate_kwargs,
    )


def whisper_language(asr: Any, language: str | None) -> dict[str, str]:
    """Return the options that set the language of a multilingual Whisper; {} for other models and languages, and for
    English-only models, which refuse them."""
    return {"language": language, "task": "transcribe"} if language in _whisper_languages(asr) else {}


def _whisper_languages(asr: Any) -> set[str]:
    """Languages of a multilingual Whisper; empty for any other model."""
    table = getattr(getattr(asr.model, "generation_config", None), "lang_to_id", None) or {}
    return {token.strip("<|>") for token in table}


class WordRecognizer:
    """Recognizes the words of a stream, in blocks of at most 30 s that end at a quiet place, so that memory is
    bounded.

    Args:
        asr: a speech recognition pipeline whose model gives times: words from CTC models and from Whisper with
            alignment heads, else Whisper's segments.
        words: receives the words.
    """

    def __init__(self, asr: Any, words: Words):
        self._asr, self._words = asr, words
        self._times: str | bool = "word"
        if asr.type == "seq2seq_whisper" and getattr(asr.model.generation_config, "alignment_heads", None) is None:
            self._times = True
        self._waiting = np.zeros(0, np.float32)
        self._done = 0

    @staticmethod
    def can_use(asr: Any) -> bool:
        """Tell whether a pipeline gives times. Others (plain sequence-to-sequence models, functions) transcribe each
        chunk separately."""
        return getattr(asr, "type", None) in ("ctc", "ctc_with_lm", "tdt", "seq2seq_whisper")

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples and return those whose words are known."""
        self._waiting = np.concatenate([self._waiting, samples])
        known = [np.zeros(0, np.float32)]
        while len(self._waiting) >= _WINDOW:
            known.append(self._recognize(self._quiet_place()))
        return np.concatenate(known)

    def close(self) -> np.ndarray:
        """Return the remaining samples."""
        return self._recognize(len(self._waiting)) if len(self._waiting) else self._waiting

    def _quiet_place(self) -> int:
        begin = _WINDOW - _SPAN
        return begin + int(frame_levels(self._waiting[begin:_WINDOW]).argmin()) * FRAME + FRAME // 2

    def _recognize(self, count: int) -> np.ndarray:
        samples, self._waiting = self._waiting[:count], self._waiting[count:]
        audible = np.pad(samples, (0, max(0, _SHORTEST - count)))
        answer = self._asr({"raw": audible, "sampling_rate": SAMPLING_RATE}, return_timestamps=self._times)
        start, self._done = self._done, self._done + count
        self._words.add(answer["chunks"], start / SAMPLING_RATE, self._done / SAMPLING_RATE)
        return samples


def joined(words: Iterable[Mapping[str, Any]]) -> str | None:
    """Join words into a text; None if there are none."""
    return " ".join(word["text"] for word in words) or None


def _checked_times(timed: Any) -> tuple[float | None, float | None]:
    if not (
        isinstance(timed, Mapping) and isinstance(timed.get("text"), str) and len(timed.get("timestamp") or ()) == 2
    ):
        raise ValueError(
            f'{timed!r:.80} is not a text with its time; allowed: {{"text": str, "timestamp": (start, end)}}, in '
            "seconds."
        )
    for value in timed["timestamp"]:
        if value is not None and not (isinstance(value, (int, float, np.number)) and math.isfinite(value)):
            raise ValueError(f"{timed!r:.80}: its times must be numbers of seconds, or None where they are unknown.")
    return timed["timestamp"]
