"""Speech recognition, where an augmentation needs the words of audio that nobody transcribed."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model.audio_bibier import SAMPLING_RATE

WHISPER_WINDOW_S = 30.0


@dataclass(frozen=True)
class SpeechRecogniser:
    """Any model of the pipeline "automatic-speech-recognition", loaded at its first use in a process.

    Args:
        model: Hub id or folder; the published system uses Whisper base.
        revision: its branch, tag or commit on the Hub.
        device: where it runs.
    """

    model: str = "openai/whisper-base"
    revision: str | None = None
    device: str = "cpu"

    def __call__(self, samples: np.ndarray, language: str) -> str:
        """The transcript of one clip, stripped.

        One clip at a time, so that a transcript does not depend on the clips beside it.

        Args:
            samples: float32 (samples,) at 16 kHz.
            language: ISO 639 code; told to a multilingual Whisper, which else guesses it anew for every clip.

        Raises:
            OSError: no such model.
        """
        recognise = _load(self.model, self.revision, self.device)
        options: dict[str, Any] = {}
        if recognise.model.config.model_type == "whisper":
            options["return_timestamps"] = len(samples) > WHISPER_WINDOW_S * SAMPLING_RATE  # it then goes on window by window
            if recognise.model.generation_config.is_multilingual:
                options["generate_kwargs"] = {"language": language, "task": "transcribe"}
        return recognise({"raw": samples, "sampling_rate": SAMPLING_RATE}, **options)["text"].strip()


@functools.lru_cache(maxsize=1)
def _load(model: str, revision: str | None, device: str) -> Any:
    from transformers import pipeline

    return pipeline("automatic-speech-recognition", model=model, revision=revision, device=device)
