"""Speech by any model of the pipeline "text-to-audio" of transformers.

Tested with a small random model; not run with a large one (Dia needs a GPU).
"""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...llm.base import public_name, resolve_revision
from ...model.audio_bibier import AudioError, decode_audio
from ...sampling import seeded_hash
from ..tug import SOUND_TAGS, clean_utterance, strip_sound_tags
from .base import SynthesisError, TextToSpeech, Utterance

DIA = "nari-labs/Dia-1.6B-0626"
"""The model of the published system, in the form that transformers loads."""

_TAG = re.compile(r"\(([^()]*)\)")

SOUND_TAG_SPELLINGS: Mapping[str, Mapping[str, str]] = {
    "dia": {tag: f"({tag})" for tag in sorted(SOUND_TAGS)},  # the published list is Dia's own
    "bark": {tag: f"[{tag}]" for tag in ("laughs", "sighs", "gasps", "clears throat")} | {"chuckle": "[laughter]"},
}
"""Model type -> its spelling of the sound tags that it performs; other tags are left out."""

GENERATION_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"dia": {"max_new_tokens": 1720}}
"""Model type -> arguments of `generate` that speech needs: by default Dia (86 tokens per second) stops after three
seconds."""


class TransformersTextToSpeech(TextToSpeech):
    """A model of the Hub or a folder.

    It speaks one utterance at a time, each with its own seed: the result does not depend on other utterances, and the
    pipeline does not know the true lengths in a padded batch.

    Args:
        model: Hub id or folder.
        revision: branch, tag or commit on the Hub.
        seed: seed of the model's random numbers, combined with the text.
        speaker: tag that begins every text; None for what the model type needs (`[S1]` for Dia).
        sound_tags: spelling of tags, `{"sighs": "[sighs]"}`; None for what the model type is known to perform. Other
            tags are left out.
        generate_kwargs, forward_params: options of the pipeline, such as `{"temperature": 1.3}`.
        dtype: type of the weights: `"auto"`, `"float16"`, ...
        device: where it runs.

    Raises:
        SynthesisError: no such model, or one that does not speak.
    """

    def __init__(
        self,
        model: str = DIA,
        revision: str | None = None,
        seed: int = 42,
        speaker: str | None = None,
        sound_tags: Mapping[str, str] | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        forward_params: Mapping[str, Any] | None = None,
        dtype: str = "auto",
        device: str = "cpu",
    ) -> None:
        from transformers import pipeline

        try:
            self.pipeline = pipeline("text-to-audio", model=model, revision=revision, device=device, dtype=dtype)
        except (OSError, ValueError, KeyError) as error:
            raise SynthesisError(f"transformers: {model} cannot be loaded for text-to-audio: {error}") from error
        self.model, self.revision, self.seed, self.dtype = model, revision, seed, dtype
        model_type = self.pipeline.model.config.model_type
        self.speaker = {"dia": "[S1]"}.get(model_type, "") if speaker is None else speaker
        self.sound_tags = dict(SOUND_TAG_SPELLINGS.get(model_type, {}) if sound_tags is None else sound_tags)
        self.generate_kwargs = dict(GENERATION_DEFAULTS.get(model_type, {})) | dict(generate_kwargs or {})
        self.forward_params = dict(forward_params or {})

    @property
    def settings(self) -> dict[str, Any]:
        names = ("seed", "dtype", "speaker", "sound_tags", "generate_kwargs", "forward_params")
        own = {name: getattr(self, name) for name in names}
        return {"backend": "transformers", "model": public_name(self.model), "revision": self._weights, **own}

    @cached_property
    def _weights(self) -> str | None:
        """The commit of a Hub id or a hash of the files of a folder, as branches move and folders change."""
        return resolve_revision(self.model, self.revision)

    def prompt(self, text: str) -> str:
        """Return the text as the model reads it: speaker tag first, sound tags in its spelling."""

        def spelling(match: re.Match) -> str:
            return self.sound_tags.get(match[1], "") if match[1] in SOUND_TAGS else match[0]

        return f"{self.speaker} {clean_utterance(_TAG.sub(spelling, text))}".strip()

    def speak(self, utterance: Utterance) -> np.ndarray:
        """Speak one utterance; voice and prosody are ignored."""
        if not any(character.isalnum() for character in strip_sound_tags(utterance.text)):
            raise SynthesisError(f"transformers: there is nothing to say in {utterance.text!r}.")

        seed = self.seed if utterance.seed is None else utterance.seed
        mixed = int.from_bytes(seeded_hash(seed, utterance.text)[:6])
        options: dict[str, Any] = {"forward_params": self.forward_params}
        if self.generate_kwargs:
            options["generate_kwargs"] = self.generate_kwargs

        devices = [self.pipeline.device] if self.pipeline.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(mixed)
            try:
                spoken = self.pipeline(self.prompt(utterance.text), **options)
            except torch.OutOfMemoryError:
                raise  # every other utterance would fail too
            # What models raise on a text that they cannot handle.
            except (RuntimeError, ValueError, IndexError) as error:
                raise SynthesisError(f"transformers: {self.model} failed on {utterance.text!r}: {error}") from error

        try:
            return decode_audio(np.atleast_1d(spoken["audio"]), sampling_rate=spoken["sampling_rate"])
        except AudioError as error:
            raise SynthesisError(
                f"transformers: no audio from {self.model} for {utterance.text!r}: {error}"
            ) from error
