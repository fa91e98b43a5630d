"""What is held against every synthetic utterance before it may carry a label."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ...model.audio_bibier import SAMPLING_RATE
from ..tug import strip_sound_tags
from .base import Utterance

_FRAME_S = 0.05
_FULL_SCALE = 0.999


@dataclass(frozen=True)
class SpeechChecks:
    """Bounds of acceptable speech.

    Args:
        min_s, max_s: duration. (The published system cut speech at 10 s; longer speech is left out here, as its text
            would not fit.)
        min_level_db: level of the loudest 50 ms, relative to full scale (RMS); below it is silence.
        max_pause_s: longest stretch below `min_level_db` between the first and the last sound.
        max_clipped: share of samples at full scale.
        max_wer: word error rate of what `transcribe` hears against the text; None: not listened to.
        transcribe: `(samples, language) -> text` ([`~bibier_hf.asr.SpeechRecogniser`]), needed for `max_wer`.
    """

    min_s: float = 0.3
    max_s: float = 15.0
    min_level_db: float = -45.0
    max_pause_s: float = 2.0
    max_clipped: float = 0.01
    max_wer: float | None = None
    transcribe: Callable[[np.ndarray, str], str] | None = None

    def __post_init__(self) -> None:
        if self.max_wer is not None and self.transcribe is None:
            raise ValueError(
                "SpeechChecks: max_wer needs transcribe=..., such as SpeechRecogniser('openai/whisper-base')."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The bounds and the recogniser, fit for JSON."""
        bounds = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "transcribe"}
        if self.transcribe is None:
            return bounds | {"transcribe": None}
        facts = getattr(self.transcribe, "facts", None)
        return bounds | {"transcribe": str(self.transcribe) if facts is None else dict(facts)}

    def fault(self, samples: np.ndarray, utterance: Utterance) -> str | None:
        """What is wrong with the speech of an utterance; None where nothing is.

        Args:
            samples: float32 (samples,) at 16 kHz.
            utterance: what was to be said.
        """
        seconds = len(samples) / SAMPLING_RATE
        if not self.min_s <= seconds <= self.max_s:
            return f"{seconds:.2f} s long; {self.min_s} to {self.max_s} s are allowed"
        loud = _levels_db(samples) >= self.min_level_db
        if not loud.any():
            return f"silence: nothing above {self.min_level_db} dB"
        sounding = np.flatnonzero(loud)
        pause = (np.diff(sounding).max(initial=1) - 1) * _FRAME_S
        if pause > self.max_pause_s:
            return f"a pause of {pause:.1f} s; {self.max_pause_s} s are allowed"
        clipped = float(np.mean(np.abs(samples) >= _FULL_SCALE))
        if clipped > self.max_clipped:
            return f"{clipped:.1%} of the samples clipped; {self.max_clipped:.1%} are allowed"
        if self.max_wer is not None:
            assert self.transcribe is not None
            heard = self.transcribe(samples, utterance.language)
            rate = word_error_rate(strip_sound_tags(utterance.text), heard)
            if rate > self.max_wer:
                return f"a word error rate of {rate:.2f}, heard as {heard!r}; {self.max_wer} is allowed"
        return None


def word_error_rate(reference: str, heard: str) -> float:
    """Edits (substitutions, insertions, deletions of words) per word of the reference; case, punctuation and ё for е
    do not count.

    Raises:
        ImportError: the package jiwer is not installed.
        ValueError: a reference without words.
    """
    try:
        import jiwer
    except ImportError as error:
        raise ImportError("Word error rates need the package jiwer: pip install 'bibier-hf[tts]'") from error
    words = [
        " ".join(re.findall(r"\w+", text.lower().replace("ё", "е").replace("'", ""))) for text in (reference, heard)
    ]
    if not words[0]:
        raise ValueError(f"The reference {reference!r} holds no words.")
    return jiwer.wer(*words)


def _levels_db(samples: np.ndarray) -> np.ndarray:
    """RMS of each 50 ms in dB relative to full scale; the last, shorter frame counts as one"""
    frame = round(_FRAME_S * SAMPLING_RATE)
    padded = np.pad(samples.astype(np.float64), (0, -len(samples) % frame)).reshape(-1, frame)
    return 10 * np.log10(np.mean(padded**2, axis=1) + 1e-12)
