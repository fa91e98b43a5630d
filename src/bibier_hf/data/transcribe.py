"""Transcripts for recordings that come without, written while a corpus is prepared; what wrote them stands in its
facts."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedConfig

from ..asr import SpeechRecogniser
from ..llm.base import resolve_revision
from .tables import CorpusError


class Transcriber(Protocol):
    """Anything that writes transcripts.

    Attributes:
        facts: what the texts depend on, as JSON values. They stand in `corpus.json` and decide whether a cached corpus
            is still good.
    """

    facts: Mapping[str, Any]

    def __call__(self, clips: Sequence[np.ndarray], language: str) -> list[str]:
        """Texts of clips (float32, 16 kHz) in a language (ISO 639 code), in their order; "" where nothing is heard."""


class AsrTranscriber:
    """A speech recognition model of transformers. It is loaded at the first clip, so a corpus that stands in the cache
    costs nothing.

    Clips are decoded in fixed batches ([`~bibier_hf.asr.SpeechRecogniser`]): equal clips give equal texts on equal
    hardware.

    Args:
        model: Hub id or folder; with multilingual Whisper the language of the rows is passed on.
        batch_size: clips that are decoded together.
    """

    def __init__(self, model: str, batch_size: int = 8):
        self.model = model
        self.batch_size = batch_size

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """A folder is named by the hash of its files, a model on the Hub by its commit: no path of this machine gets
        into a corpus.

        Raises:
            CorpusError: no such model.
        """
        folder = Path(self.model)
        name, revision = (
            (folder.name, resolve_revision(self.model)) if folder.is_dir() else (self.model, self._config._commit_hash)
        )
        return {"name": name, "revision": revision, "batch_size": self.batch_size}

    @cached_property
    def _config(self) -> PreTrainedConfig:
        try:
            return AutoConfig.from_pretrained(self.model)
        except (OSError, ValueError) as error:
            raise CorpusError(
                f"asr={self.model!r} is no speech recognition model: neither a folder nor to be had from the Hub "
                f"({error}). "
                "Pass an id such as openai/whisper-base, or the folder of such a model."
            ) from error

    @cached_property
    def _recogniser(self) -> SpeechRecogniser:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return SpeechRecogniser(
            self.model, getattr(self._config, "_commit_hash", None), device
        )  # a folder has no commit

    def __call__(self, clips: Sequence[np.ndarray], language: str) -> list[str]:
        return self._recogniser.transcribe(clips, language, self.batch_size)


def as_transcriber(asr: str | Transcriber | None) -> Transcriber | None:
    """A model's id or folder as a `Transcriber`, anything else as it is.

    Raises:
        CorpusError: no such model; said here, before a corpus is read.
    """
    transcriber = AsrTranscriber(asr) if isinstance(asr, str) else asr
    if transcriber is not None:
        _ = transcriber.facts
    return transcriber
