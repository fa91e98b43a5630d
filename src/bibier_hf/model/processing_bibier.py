"""Audio and text in any form -> the tensors that the model reads."""

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer, ByT5Tokenizer, SeamlessM4TFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .audio_bibier import SAMPLING_RATE, decode_audio
from .configuration_bibier import EMBEDDED, BiBiERConfig

_SHORTEST_SPECTRAL_CLIP = 800
"""Samples (50 ms). Spectral front ends need more than one window of samples; a shorter clip is lengthened by
silence."""


class BiBiERProcessor(ProcessorMixin):
    """Speech at any rate and text -> padded tensors with a mask for each modality.

    Audio is decoded, mixed down to mono (mean of the channels) and resampled to 16 kHz; each clip goes through the
    backbone's feature extractor by itself, so that its values do not depend on its batch. The two masks carry the
    names of their modality, unlike those of the two sub-processors, which would collide.

    Args:
        feature_extractor: of the speech backbone.
        tokenizer: of the text backbone.
        max_text_tokens: longer texts are cut by the tokenizer, special tokens included.
        text_prefix: put before every text, for backbones that were trained with one (`"query: "` for E5).
    """

    def __init__(
        self, feature_extractor: Any, tokenizer: Any, max_text_tokens: int = 95, text_prefix: str = "", **kwargs: Any
    ):
        self.max_text_tokens = max_text_tokens
        self.text_prefix = text_prefix
        tokenizer.padding_side = "right"
        super().__init__(feature_extractor, tokenizer, **kwargs)

    @classmethod
    def from_backbones(
        cls,
        audio: str = EMBEDDED,
        text: str = EMBEDDED,
        audio_revision: str | None = None,
        text_revision: str | None = None,
        max_text_tokens: int | None = None,
        text_prefix: str | None = None,
    ) -> "BiBiERProcessor":
        """The processor for a pair of backbones; the arguments are those of [`BiBiERConfig.from_backbones`].

        Args:
            audio, text: Hub id or folder of a backbone, or `"embedded"`.
            audio_revision, text_revision: revision of a Hub id.
            max_text_tokens: None takes 95, and 192 for the byte-level embedded text backbone.
            text_prefix: None takes `"query: "` where the name of the text backbone says E5, else nothing.
        """
        if audio == EMBEDDED:
            feature_extractor = SeamlessM4TFeatureExtractor(
                feature_size=80, num_mel_bins=80, stride=2, padding_value=0.0
            )
        else:
            feature_extractor = AutoFeatureExtractor.from_pretrained(audio, revision=audio_revision)
        tokenizer = (
            ByT5Tokenizer() if text == EMBEDDED else AutoTokenizer.from_pretrained(text, revision=text_revision)
        )
        if max_text_tokens is None:
            max_text_tokens = 192 if text == EMBEDDED else BiBiERConfig.max_text_tokens
        if text_prefix is None:
            name = os.path.basename(str(text).rstrip("/\\"))
            text_prefix = "query: " if re.search(r"(^|[-_])e5([-_]|$)", name, re.IGNORECASE) else ""
        return cls(feature_extractor, tokenizer, max_text_tokens=max_text_tokens, text_prefix=text_prefix)

    @property
    def sampling_rate(self) -> int:
        """Hz of the audio that the backbone reads."""
        return self.feature_extractor.sampling_rate

    @property
    def audio_input_name(self) -> str:
        """`"input_features"` (spectral frames) or `"input_values"` (waveform)"""
        return self.feature_extractor.model_input_names[0]

    @property
    def model_input_names(self) -> list[str]:
        return [self.audio_input_name, "audio_attention_mask", "input_ids", "text_attention_mask"]

    def __call__(
        self,
        audio: Any = None,
        text: str | Sequence[str | None] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """One sample or a batch of them.

        Args:
            audio: one clip in any form that [`decode_audio`] takes, or a list of clips; None in a list: this sample
                has no audio.
            text: one text, or a list; None or blank in a list: this sample has no text.
            sampling_rate: Hz of bare arrays.
            return_tensors: `"pt"`, the only form.

        Returns:
            `input_values` (B, S) or `input_features` (B, F, M) and `audio_attention_mask` if audio was given;
            `input_ids` and `text_attention_mask` (B, T) if text was given. 1 = keep; a row of zeros has no such
            modality.

        Raises:
            AudioError, FileNotFoundError: audio that cannot be used.
            TypeError: text that is not a string.
            ValueError: nothing at all, or numbers of clips and texts that differ.
        """
        if return_tensors != "pt":
            raise ValueError(
                f"return_tensors={return_tensors!r} is not supported; the model reads PyTorch tensors ('pt')."
            )
        clips, texts = _as_clips(audio), _as_texts(text)
        if clips is None and texts is None:
            raise ValueError("There is neither audio nor text. Pass audio=, text=, or both.")
        if clips is not None and texts is not None and len(clips) != len(texts):
            raise ValueError(
                f"There are {len(clips)} clips and {len(texts)} texts; they must be the same samples (None where one "
                "is missing)."
            )
        for index in range(len(clips if clips is not None else texts)):
            if (clips is None or clips[index] is None) and (texts is None or texts[index] is None):
                raise ValueError(f"Sample {index} has neither audio nor text (a blank text counts as none).")
        data = {}
        if clips is not None:
            data.update(
                self._audio_inputs([None if clip is None else decode_audio(clip, sampling_rate) for clip in clips])
            )
        if texts is not None:
            data.update(self._text_inputs(texts))
        return BatchFeature(data)

    def _audio_inputs(self, clips: list[np.ndarray | None]) -> dict[str, torch.Tensor]:
        frames = [None if clip is None else self._front_end(clip) for clip in clips]
        shape = next((f.shape[1:] for f in frames if f is not None), None)
        if shape is None:  # no audio in the whole batch: one masked step
            shape = () if self.audio_input_name == "input_values" else (self._bands,)
        length = max((len(f) for f in frames if f is not None), default=1)
        inputs = torch.zeros(len(frames), length, *shape)
        mask = torch.zeros(len(frames), length, dtype=torch.long)
        for row, values in enumerate(frames):
            if values is not None:
                inputs[row, : len(values)] = torch.from_numpy(values)
                mask[row, : len(values)] = 1
        return {self.audio_input_name: inputs, "audio_attention_mask": mask}

    @property
    def _bands(self) -> int:
        return self.feature_extractor.feature_size * getattr(self.feature_extractor, "stride", 1)

    def _front_end(self, clip: np.ndarray) -> np.ndarray:
        """Waveform (S,) -> what the backbone reads, unpadded: (S,) or (F, M)"""
        spectral = self.audio_input_name == "input_features"
        if spectral and len(clip) < _SHORTEST_SPECTRAL_CLIP:
            clip = np.pad(clip, (0, _SHORTEST_SPECTRAL_CLIP - len(clip)))
        out = self.feature_extractor(
            clip, sampling_rate=SAMPLING_RATE, padding="longest", truncation=False, return_tensors="np"
        )
        values = np.asarray(out[self.audio_input_name][0], dtype=np.float32)
        if spectral and values.shape[0] == self._bands and values.shape[1] != self._bands:
            values = values.T  # Whisper puts the bands first
        return np.ascontiguousarray(values)

    def _text_inputs(self, texts: list[str | None]) -> dict[str, torch.Tensor]:
        present = [row for row, text in enumerate(texts) if text is not None]
        pad = self.tokenizer.pad_token_id or 0
        if not present:
            return {
                "input_ids": torch.full((len(texts), 1), pad),
                "text_attention_mask": torch.zeros(len(texts), 1, dtype=torch.long),
            }
        encoded = self.tokenizer(
            [self.text_prefix + texts[row] for row in present],
            padding=True,
            truncation=True,
            max_length=self.max_text_tokens,
            return_attention_mask=True,
            return_tensors="pt",
        )
        input_ids = torch.full((len(texts), encoded["input_ids"].shape[1]), pad)
        mask = torch.zeros_like(input_ids)
        input_ids[present], mask[present] = encoded["input_ids"], encoded["attention_mask"]
        return {"input_ids": input_ids, "text_attention_mask": mask}


def _as_clips(audio: Any) -> list | None:
    """None, one clip or many -> None or a list"""
    if audio is None:
        return None
    many = isinstance(audio, list) and not all(
        np.isscalar(value) and not isinstance(value, (str, bytes)) for value in audio
    )
    if isinstance(audio, list) and not audio:
        raise ValueError("The list of clips is empty.")
    return audio if many else [audio]


def _as_texts(text: Any) -> list[str | None] | None:
    if text is None:
        return None
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, (list, tuple)):
        raise TypeError(f"Text must be a string or a list of strings, got {type(text).__name__}: {text!r:.80}.")
    for index, value in enumerate(texts):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"Text must be a string; sample {index} is {type(value).__name__}: {value!r:.80}.")
    return [value if value is not None and value.strip() else None for value in texts]


BiBiERProcessor.register_for_auto_class()
