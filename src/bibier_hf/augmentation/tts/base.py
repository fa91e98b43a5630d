"""What all speech back ends share: utterances, prosody, the interface and the error."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ...errors import UserError


class SynthesisError(UserError, RuntimeError):
    """An utterance could not be spoken. It is never replaced by silence."""


@dataclass(frozen=True)
class Prosody:
    """How an utterance is spoken, in the units of eSpeak NG.

    Args:
        rate_wpm: words per minute, 80 to 450.
        pitch: base pitch, 0 to 99; 50 leaves the voice unchanged.
        pitch_range: liveliness of the melody, 0 (monotone) to 99; 50 leaves the voice unchanged.
        volume: loudness, 10 to 200; lively voices clip above about 80.
    """

    rate_wpm: int = 165
    pitch: int = 50
    pitch_range: int = 50
    volume: int = 64

    LIMITS = MappingProxyType({"rate_wpm": (80, 450), "pitch": (0, 99), "pitch_range": (0, 99), "volume": (10, 200)})

    def __post_init__(self) -> None:
        for name, (low, high) in self.LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"Prosody: {name}={getattr(self, name)!r} is outside {low}..{high}.")

    @classmethod
    def clipped(cls, **values: float) -> "Prosody":
        """Create a prosody with every value rounded and clipped to its limits."""
        return cls(**{name: round(float(np.clip(value, *cls.LIMITS[name]))) for name, value in values.items()})


DEFAULT_PROSODY = Prosody()

EMOTION_PROSODY: Mapping[str, Prosody] = {
    "anger": Prosody(rate_wpm=215, pitch=34, pitch_range=85, volume=85),
    "disgust": Prosody(rate_wpm=132, pitch=24, pitch_range=60, volume=58),
    "fear": Prosody(rate_wpm=235, pitch=80, pitch_range=22, volume=48),
    "happy": Prosody(rate_wpm=190, pitch=70, pitch_range=90, volume=70),
    "neutral": Prosody(rate_wpm=165, pitch=48, pitch_range=38, volume=62),
    "sad": Prosody(rate_wpm=112, pitch=36, pitch_range=12, volume=40),
    "surprise": Prosody(rate_wpm=150, pitch=92, pitch_range=99, volume=72),
}
"""Follows common findings on vocal affect: arousal raises rate, pitch, range and loudness; sadness and disgust lower
them."""


@dataclass(frozen=True)
class Utterance:
    """What to say, and how.

    Args:
        text: words; sound tags such as "(sighs)" are performed or left out, never read aloud.
        language: ISO 639 code.
        id: name of the utterance in a corpus.
        voice: a voice of the back end; None for its default.
        prosody: ignored by back ends without such controls.
        emotion: one of `EMOTIONS`, for back ends that take it as a word.
        seed: seed of the back end's random numbers; None for the back end's own.
    """

    text: str
    language: str
    id: str = ""
    voice: str | None = None
    prosody: Prosody = DEFAULT_PROSODY
    emotion: str | None = None
    seed: int | None = None


class TextToSpeech(ABC):
    """A speech back end."""

    languages: tuple[str, ...] | None = None
    """Languages that it speaks; None if only the user knows."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What its speech depends on apart from the utterance, as JSON values for fingerprints and reports. Contains
        no path of this machine."""

    @abstractmethod
    def speak(self, utterance: Utterance) -> np.ndarray:
        """Speak one utterance.

        Returns:
            float32 array of shape (samples,) at 16 kHz, the same for the same utterance.

        Raises:
            SynthesisError: the utterance could not be spoken.
        """

    def synthesize(self, text: str, *, language: str, **how: Any) -> np.ndarray:
        """Speak a text; `how` are further arguments of `Utterance`."""
        return self.speak(Utterance(text, language, **how))

    def speak_batch(self, utterances: Sequence[Utterance]) -> list[np.ndarray | SynthesisError]:
        """Speak several utterances; the result of a failed one is its error."""
        return [self.try_to_speak(utterance) for utterance in utterances]

    def try_to_speak(self, utterance: Utterance) -> np.ndarray | SynthesisError:
        """Speak an utterance, and return the error if it fails."""
        try:
            return self.speak(utterance)
        except SynthesisError as error:
            return error
