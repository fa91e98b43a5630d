"""The pipeline `audio-text-emotion`."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from transformers import Pipeline, pipeline
from transformers.utils import logging

from .audio_bibier import AudioError, decode_audio
from .configuration_bibier import TASK

logger = logging.get_logger(__name__)

UNSURE = "unsure"
"""Label that stands first where the best score is below the threshold."""

_AUDIO_KEYS = ("array", "raw", "bytes", "path")


class AudioTextEmotionPipeline(Pipeline):
    """Emotion of one or many clips and/or texts.

    Example:
        >>> pipe = pipeline("audio-text-emotion", model="outputs/resd", trust_remote_code=True)  # doctest: +SKIP
        >>> pipe({"audio": "clip.wav", "text": "I can't believe it!"}, top_k=1)  # doctest: +SKIP
        [{'label': 'surprise', 'score': 0.71}]

    Inputs, one or a list, a generator or a dataset (streamed) of:
        * a path or an http(s) URL of an audio file (a bare string is never text), or its bytes;
        * an array with `sampling_rate=...`, or a Gradio value `(rate, array)`;
        * `{"array" | "raw": ..., "sampling_rate": Hz}` or an undecoded `datasets` value `{"bytes": ..., "path": ...}`;
        * `{"audio": any of these or None, "text": str or None}`; further keys of a dataset's row are ignored.

    Call arguments (all may be set when the pipeline is made, too):
        top_k: labels to return, best first; None: all.
        threshold: between 0 and 1. Where the best score is below it, the list begins with `{"label": "unsure", "score": best score}`; the
            labels follow as ever (`top_k` counts them alone). None: never.
        sampling_rate: Hz of bare arrays.
        asr: an `automatic-speech-recognition` pipeline or a model id; it fills in the text where there is audio and no text.
        batch_size: samples a step; results do not depend on it.

    Returns:
        `[{"label": str, "score": float}, ...]` for each input, sorted by score; the scores of all labels sum to one. They are calibrated:
        the logits are divided by `config.temperature` first.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("The pipeline needs the model's processor: pass processor=AutoProcessor.from_pretrained(...).")

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        if isinstance(inputs, (list, tuple)) and len(inputs) == 0:
            return []
        if hasattr(inputs, "column_names") and hasattr(inputs, "features"):  # a datasets.Dataset is many inputs, not one
            inputs = (row for row in inputs)
        elif isinstance(inputs, Iterator):
            inputs = (item for item in inputs)
        elif isinstance(inputs, tuple) and not _is_gradio_value(inputs):
            inputs = list(inputs)
        elif isinstance(inputs, list) and all(isinstance(value, (int, float)) for value in inputs):
            inputs = np.asarray(inputs, dtype=np.float32)  # one clip as bare numbers
        if self.model.config.depends_on_batch and (kwargs.get("batch_size") or self._batch_size or 1) > 1:
            logger.warning_once(
                "This model reproduces defects of the published code that make a result depend on its batch "
                f"({', '.join(self.model.config.reproduced_defects)}); batch_size=1 is used."
            )
            kwargs["batch_size"] = 1
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        sampling_rate: int | None = None,
        asr: Any = None,
        threshold: float | None = None,
        **unknown: Any,
    ) -> tuple[dict, dict, dict]:
        if unknown:
            raise TypeError(
                f"The pipeline '{TASK}' has no argument {', '.join(sorted(unknown))}. "
                "Allowed: asr, batch_size, num_workers, sampling_rate, threshold, top_k."
            )
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k={top_k!r} is not allowed; it must be a whole number from 1, or None for all labels.")
        if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1):
            raise ValueError(f"threshold={threshold!r} is not allowed; it must be a number from 0 to 1, or None to always name an emotion.")
        preprocess: dict[str, Any] = {}
        if sampling_rate is not None:
            preprocess["sampling_rate"] = sampling_rate
        if asr is not None:
            preprocess["asr"] = _as_asr(asr)
        postprocess = {"top_k": top_k, "threshold": threshold}
        return preprocess, {}, {name: value for name, value in postprocess.items() if value is not None}

    def preprocess(self, inputs: Any, sampling_rate: int | None = None, asr: Any = None) -> dict[str, torch.Tensor]:
        audio, text = _split(inputs)
        if text is not None and not isinstance(text, str):
            raise TypeError(f"Text must be a string, got {type(text).__name__}: {text!r:.80}.")
        if audio is not None:
            audio = decode_audio(audio, sampling_rate)
            if asr is not None and not (text and text.strip()):
                text = asr({"raw": audio, "sampling_rate": self.processor.sampling_rate})["text"]
        # Lists of one: both modalities always have their tensors, so that any samples can share a batch.
        return dict(self.processor(audio=[audio], text=[text], sampling_rate=self.processor.sampling_rate))

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"logits": self.model(**model_inputs).logits}

    def postprocess(
        self, model_outputs: dict[str, torch.Tensor], top_k: int | None = None, threshold: float | None = None
    ) -> list[dict[str, Any]]:
        scores = (model_outputs["logits"].float() / self.model.config.temperature).softmax(-1).flatten()
        order = scores.argsort(descending=True, stable=True)[:top_k].tolist()
        answer = [{"label": self.model.config.id2label[index], "score": scores[index].item()} for index in order]
        if threshold is not None and answer[0]["score"] < threshold:
            answer.insert(0, {"label": UNSURE, "score": answer[0]["score"]})
        return answer

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Model, processor and the code of both: a folder that `pipeline(model=folder, trust_remote_code=True)` loads."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


def _is_gradio_value(value: tuple) -> bool:
    return len(value) == 2 and np.ndim(value[0]) == 0 and not isinstance(value[0], (str, bytes)) and np.ndim(value[1]) > 0


def _split(inputs: Any) -> tuple[Any, Any]:
    """(audio or None, text or None) of one input"""
    if not isinstance(inputs, Mapping):
        return inputs, None
    if "audio" in inputs or "text" in inputs:
        return inputs.get("audio"), inputs.get("text")
    if any(key in inputs for key in _AUDIO_KEYS):
        return inputs, None
    raise AudioError(
        f"An input with the keys {sorted(map(str, inputs))} holds neither audio nor text. "
        f"Allowed: 'audio' and/or 'text', or one of {_AUDIO_KEYS}."
    )


def _as_asr(asr: Any) -> Any:
    return pipeline("automatic-speech-recognition", model=asr) if isinstance(asr, (str, os.PathLike)) else asr
