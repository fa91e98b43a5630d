"""Checks that every synthetic utterance must pass before it may carry a label."""

import re
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from ...asr import WHISPER, SpeechRecognizer
from ...commandline import Section
from ...extras import require
from ...model.audio_bibier import SAMPLING_RATE
from ..tug import strip_sound_tags
from .base import Utterance

_FRAME_S = 0.05
_FULL_SCALE = 0.999


class SpeechChecks(Section):
    """Bounds of acceptable speech, as fields of a command line.

    The published system cut speech at 10 s. Here longer speech is left out, as its text would no longer match.
    """

    min_s: float = Field(0.3, ge=0, description="shortest utterance, in seconds")
    max_s: float = Field(15.0, gt=0, description="longest utterance, in seconds")
    min_level_db: float = Field(
        -45.0, le=0, description="level of the loudest 50 ms below which speech counts as silence, in dB of full scale"
    )
    max_pause_s: float = Field(2.0, gt=0, description="longest silence within an utterance, in seconds")
    max_clipped: float = Field(0.01, ge=0, le=1, description="share of samples at full scale")
    max_wer: float | None = Field(
        None, ge=0, description="word error rate of a recognizer against the text; null: not checked"
    )
    asr_model: str = Field(WHISPER, description="recognizer for max_wer: Hub id or folder")

    @cached_property
    def recognizer(self) -> SpeechRecognizer:
        """What listens to an utterance, with `max_wer`."""
        return SpeechRecognizer(self.asr_model)

    @property
    def settings(self) -> dict[str, Any]:
        """The bounds and the recognizer, as JSON values."""
        heard_by = None if self.max_wer is None else dict(self.recognizer.facts)
        return self.model_dump(exclude={"asr_model"}) | {"recognizer": heard_by}

    def fault(self, samples: np.ndarray, utterance: Utterance) -> str | None:
        """Describe what is wrong with the speech of an utterance; None if nothing is.

        Args:
            samples: float32 (samples,) at 16 kHz.
            utterance: what should have been said.
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
            (heard,) = self.recognizer([samples], utterance.language)
            rate = word_error_rate(strip_sound_tags(utterance.text), heard)
            if rate > self.max_wer:
                return f"a word error rate of {rate:.2f}, heard as {heard!r}; {self.max_wer} is allowed"

        return None


def word_error_rate(reference: str, heard: str) -> float:
    """Compute the edits (substitutions, insertions, deletions of words) per word of the reference. Case, punctuation,
    and ё versus е do not count.

    Raises:
        MissingPackageError: jiwer is not installed.
        ValueError: a reference without words.
    """
    require("jiwer")
    import jiwer

    words = [
        " ".join(re.findall(r"\w+", text.lower().replace("ё", "е").replace("'", ""))) for text in (reference, heard)
    ]
    if not words[0]:
        raise ValueError(f"The reference {reference!r} holds no words.")

    return jiwer.wer(*words)


def _levels_db(samples: np.ndarray) -> np.ndarray:
    """Return the RMS of each 50 ms in dB of full scale; a last, shorter frame is padded."""
    frame = round(_FRAME_S * SAMPLING_RATE)
    padded = np.pad(samples.astype(np.float64), (0, -len(samples) % frame)).reshape(-1, frame)
    return 10 * np.log10(np.mean(padded**2, axis=1) + 1e-12)
