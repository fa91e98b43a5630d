"""Speech recognition, where nobody wrote down what is said: missing transcripts of a corpus, stacked clips, checks of
synthetic speech."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .llm.base import resolve_revision
from .model.audio_bibier import SAMPLING_RATE
from .model.words_bibier import load_asr, whisper_language

WINDOW_S = 30.0
"""Whisper reads 30 s at a time; longer clips are decoded window by window, along its own time stamps."""


@dataclass(frozen=True)
class SpeechRecogniser:
    """Any model of the pipeline "automatic-speech-recognition", loaded at its first use in a process.

    Decoding is greedy, in float32: equal clips give equal texts on equal hardware.

    Args:
        model: Hub id or folder; the published system uses Whisper base.
        revision: its branch, tag or commit on the Hub.
        device: where it runs.
    """

    model: str = "openai/whisper-base"
    revision: str | None = None
    device: str = "cpu"

    @property
    def facts(self) -> dict[str, Any]:
        """What the transcripts depend on, fit for JSON: the model's name and the commit or hash of its files.

        Raises:
            LLMError: no such model.
        """
        name = Path(self.model).resolve().name if os.path.isdir(self.model) else self.model
        return {"model": name, "revision": resolve_revision(self.model, self.revision)}

    def __call__(self, samples: np.ndarray, language: str) -> str:
        """The transcript of one clip by itself, so that it does not depend on the clips beside it.

        Args:
            samples: float32 (samples,) at 16 kHz.
            language: ISO 639 code; told to a multilingual Whisper, which else guesses it anew for every clip.

        Raises:
            OSError: no such model.
        """
        (text,) = self.transcribe([samples], language, batch_size=1)
        return text

    def transcribe(self, clips: Sequence[np.ndarray], language: str, batch_size: int) -> list[str]:
        """The transcripts of clips in their order, stripped; `batch_size` of those up to 30 s are decoded together.

        Raises:
            OSError: no such model.
        """
        recognise = _load(self.model, self.revision, self.device)
        texts: dict[int, str] = {}
        for long in (False, True):
            chosen = [index for index, clip in enumerate(clips) if (len(clip) > WINDOW_S * SAMPLING_RATE) == long]
            if not chosen:
                continue
            inputs = [{"raw": clips[index], "sampling_rate": SAMPLING_RATE} for index in chosen]
            results = recognise(
                inputs, batch_size=1 if long else batch_size, **_whisper_arguments(recognise, language, long)
            )
            texts |= {index: result["text"].strip() for index, result in zip(chosen, results, strict=True)}
        return [texts[index] for index in range(len(clips))]


@functools.lru_cache(maxsize=1)
def _load(model: str, revision: str | None, device: str) -> Any:
    import torch

    return load_asr(model, revision=revision, device=device, dtype=torch.float32)


def _whisper_arguments(recognise: Any, language: str, long: bool) -> dict[str, Any]:
    if recognise.type != "seq2seq_whisper":
        return {}
    arguments = {"num_beams": 1, "do_sample": False} | whisper_language(recognise, language)
    return {"generate_kwargs": arguments, "return_timestamps": long}
