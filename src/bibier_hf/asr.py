"""Speech recognition for audio without a transcript: clips of a corpus, stacked clips, checks of synthetic speech."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AutoConfig

from .errors import ArgumentError
from .llm.base import public_name, resolve_revision
from .model.audio_bibier import SAMPLING_RATE
from .model.words_bibier import load_asr, whisper_language

WHISPER = "openai/whisper-base"
"""The recognizer of the published system."""

WINDOW_S = 30.0
"""Whisper reads 30 s at a time; longer clips are decoded window by window, along its own timestamps."""


class Transcriber(Protocol):
    """Anything that writes transcripts."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the texts depend on, as JSON values. They are recorded with the texts and decide whether a cached
        corpus is still valid."""

    def __call__(self, clips: Sequence[np.ndarray], language: str) -> list[str]:
        """Transcribe clips (float32, 16 kHz) in a language (ISO 639 code); "" where nothing is heard."""


@dataclass(frozen=True)
class SpeechRecognizer:
    """Any model of the pipeline "automatic-speech-recognition", loaded at its first use in a process.

    Decoding is greedy, in float32 and in fixed batches: equal clips give equal texts on equal hardware.

    Args:
        model: Hub id or folder.
        device: where it runs.
        batch_size: clips of at most 30 s that are decoded together.
    """

    model: str = WHISPER
    device: str = "cpu"
    batch_size: int = 1

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """Name of the model, the commit or hash of its files, and the batch size; no path of this machine.

        Raises:
            ArgumentError: no such model.
        """
        try:
            config = AutoConfig.from_pretrained(self.model)
        except (OSError, ValueError) as error:
            raise ArgumentError(
                f"{self.model!r} is not a speech recognition model: neither a folder nor available on the Hub "
                f"({error}). Give a Hub id such as {WHISPER}, or a folder."
            ) from error

        revision = resolve_revision(self.model) if Path(self.model).is_dir() else config._commit_hash
        return {"name": public_name(self.model), "revision": revision, "batch_size": self.batch_size}

    def __call__(self, clips: Sequence[np.ndarray], language: str) -> list[str]:
        """Transcribe clips, in order, without surrounding blanks.

        Args:
            clips: float32 (samples,) at 16 kHz.
            language: ISO 639 code, passed to a multilingual Whisper, which would otherwise guess it for every clip.

        Raises:
            OSError: no such model.
        """
        recognize = _load(self.model, self.device)
        texts: dict[int, str] = {}

        for long in (False, True):
            chosen = [index for index, clip in enumerate(clips) if (len(clip) > WINDOW_S * SAMPLING_RATE) == long]
            if not chosen:
                continue

            inputs = [{"raw": clips[index], "sampling_rate": SAMPLING_RATE} for index in chosen]
            options: dict[str, Any] = {"batch_size": 1 if long else self.batch_size}
            if recognize.type == "seq2seq_whisper":
                greedy = {"num_beams": 1, "do_sample": False}
                generate_kwargs = greedy | whisper_language(recognize, language)
                options |= {"generate_kwargs": generate_kwargs, "return_timestamps": long}
            results = recognize(inputs, **options)
            texts |= {index: result["text"].strip() for index, result in zip(chosen, results, strict=True)}

        return [texts[index] for index in range(len(clips))]


def as_transcriber(asr: str | Transcriber | None) -> Transcriber | None:
    """Turn the id or folder of a model into a transcriber; anything else is returned unchanged.

    Raises:
        ArgumentError: no such model. This is checked before a corpus is read.
    """
    if asr is None:
        return None

    if isinstance(asr, str):
        asr = SpeechRecognizer(asr, "cuda" if torch.cuda.is_available() else "cpu", batch_size=8)
    _ = asr.facts
    return asr


@lru_cache(maxsize=1)
def _load(model: str, device: str) -> Any:
    return load_asr(model, device=device, dtype=torch.float32)
