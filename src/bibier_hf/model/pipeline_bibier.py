"""The pipeline `audio-text-emotion`."""

import copyreg
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator
from transformers.utils import logging

from .audio_bibier import AudioError, as_many, decode_audio, is_file, is_rated_array
from .batching_bibier import OrderedAnswers
from .configuration_bibier import TASK
from .hashing_bibier import hashed_state, is_hashed
from .importing_bibier import make_importable
from .processing_bibier import BiBiERProcessor, is_bare_samples
from .sequence_bibier import finite_logits
from .streaming_bibier import AudioStream
from .timeline_bibier import (
    TIMELINE_ARGUMENTS,
    Emotions,
    TimelineOptions,
    TimelineSession,
    mean_emotions,
    merge_chunks,
)
from .words_bibier import load_asr

logger = logging.get_logger(__name__)

UNSURE = "unsure"
"""Label that stands first where the best score is below the threshold."""

_AUDIO_KEYS = ("array", "raw", "waveform", "bytes", "path")
_RATE_KEYS = ("sampling_rate", "sample_rate")


class AudioTextEmotionPipeline(Pipeline):
    """Emotion of one or many clips and/or texts.

    Examples:
        >>> pipe = pipeline("audio-text-emotion", model="outputs/resd", trust_remote_code=True)  # doctest: +SKIP
        >>> pipe({"audio": "clip.wav", "text": "I can't believe it!"}, top_k=1)  # doctest: +SKIP
        [{'label': 'surprise', 'score': 0.71}]

    Inputs, one or several (a list or a Series; or streamed: a generator, a dataset or a column of it) of:
        * a path or an http(s) URL of an audio file (a bare string is never text), its bytes, or an open file;
        * an array with `sampling_rate=...`, `(array, rate)`, or a Gradio value `(rate, array)`;
        * `{"array" | "raw": ..., "sampling_rate": Hz}` or an undecoded `datasets` value `{"bytes": ..., "path": ...}`;
        * `{"audio": any of these or None, "text": str or None}`; further keys of a dataset's row are ignored.

    Call arguments (all may be set when the pipeline is made, too):
        top_k: labels to return, best first; None: all.
        threshold: between 0 and 1. Where the best score is below it, the list begins with
            `{"label": "unsure", "score": best score}`; the labels follow as ever (`top_k` counts them alone). None:
            never.
        sampling_rate: Hz of bare arrays.
        channel: judge this channel (from 0) of recordings with a speaker on each; None: the mean of all.
        asr: an `automatic-speech-recognition` pipeline or a model id; it fills in the text where there is audio and no
            text.
        asr_language: ISO 639 code of what is spoken, for `asr` by its id; None: it guesses, which small models do
            badly.
        batch_size: samples (or chunks) a step; results do not depend on it. Above 1, eight batches are read ahead and
            sorted by length; the answers come in the order of the inputs.
        chunk_length_s: analyse a recording of any length in windows of so many seconds. It is read from disk block by
            block: memory does not grow with its length (that of a given segment is whole in memory).
        hop_length_s: seconds from one window's start to the next one's; at most `chunk_length_s`, which is the default.
            The last window may be shorter. (Not `stride_length_s`, which means the overlap in speech recognition.)
        segmentation: `"fixed"`, those windows, or `"energy"`: what is louder than the background, at most
            `chunk_length_s` (15) at once.
        segments: `(start, end)` or `{"start": s, "end": s, "text": str}` in seconds, in place of windows; for one
            recording.
        return_timestamps: tell the chunks, too (below).
        merge: neighbouring chunks of the same best label become one.

    Returns:
        `[{"label": str, "score": float}, ...]` for each input, sorted by score; the scores of all labels sum to one.
        They are calibrated: the logits are divided by `config.temperature` first. Of a recording in chunks it is the
        mean over time: an instant that several windows cover counts once, divided evenly among them. With
        `return_timestamps=True`
        `{"emotions": that mean, "chunks": [{"timestamp": (start, end), "text": str or None, "emotions": [...]}, ...]}`; each chunk's emotions are those of the same stretch cut out and given to the pipeline by itself. Where nothing is louder than the background, both are empty lists.

    The text of a chunk: that of its segment; else the words whose middle lies in it, by `asr` if its model gives times
    (Whisper, CTC; then they stand in `"words"`) or from
    `{"audio": ..., "text": [{"text": str, "timestamp": (start, end)}, ...]}`, the `chunks` of a transcript; else what
    `asr` hears in the chunk alone. A plain text beside a recording in chunks is an error: nothing says when it is
    said.
    """

    processor: BiBiERProcessor

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any):
        self._timeline_arguments = {name: kwargs.pop(name) for name in TIMELINE_ARGUMENTS if name in kwargs}
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError(
                "The pipeline needs the model's processor: pass processor=AutoProcessor.from_pretrained(...)."
            )

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        inputs = _one_or_many(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        if self._find_batch_size(kwargs) > 1 and self.model.config.depends_on_batch:
            logger.warning_once(self.model.config.batch_warning)
            kwargs["batch_size"] = 1
        options = self._timeline_options(kwargs)
        if not options.asked_for:
            return super().__call__(inputs, **kwargs)
        many = isinstance(inputs, (list, Iterator, Dataset)) and not is_file(inputs)
        if many and options.segments is not None:
            raise ValueError("segments belong to one recording: call the pipeline for each recording with its own.")
        analyse = functools.partial(self._timeline, options=options, **self._session_arguments(kwargs))
        if isinstance(inputs, list):
            return [analyse(item) for item in inputs]
        return map(analyse, _elements(inputs)) if many else analyse(inputs)

    def start_timeline(self, **kwargs: Any) -> TimelineSession:
        """A recording that is still to come, to be pushed in pieces; takes the call arguments for chunks, `asr` and
        `batch_size`."""
        options = self._timeline_options(kwargs)
        if not options.asked_for:
            raise ValueError(
                "A timeline needs chunks: pass chunk_length_s=4, segmentation='energy' or segments=[(start, end), "
                "...]."
            )
        arguments = self._session_arguments(kwargs)
        return TimelineSession(
            arguments["classify"], options, arguments["batch_size"], arguments["preprocess"].get("asr")
        )

    def _timeline_options(self, kwargs: dict[str, Any]) -> TimelineOptions:
        """Takes the arguments for chunks out of those of a call."""
        given = {name: kwargs.pop(name) for name in TIMELINE_ARGUMENTS if name in kwargs}
        return TimelineOptions(**{**self._timeline_arguments, **given})

    def _find_batch_size(self, kwargs: dict[str, Any]) -> int:
        """That of a call, else that of the pipeline, else 1."""
        for size in (kwargs.get("batch_size"), self._batch_size):
            if size is not None:
                if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                    raise ValueError(f"batch_size={size!r} is not allowed; it must be a whole number from 1.")
                return size
        return 1

    def _session_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        batch_size = self._find_batch_size(kwargs)
        kwargs.pop("batch_size", None)
        kwargs.pop("num_workers", None)  # one recording is one stream
        preprocess, _, postprocess = self._sanitize_parameters(**kwargs)
        return {
            "preprocess": {**self._preprocess_params, **preprocess},
            "choice": {**self._postprocess_params, **postprocess},
            "batch_size": batch_size,
            "classify": lambda chunks: list(self.get_iterator(chunks, 0, batch_size, {"decoded": True}, {}, {})),
        }

    def _timeline(
        self,
        recording: Any,
        options: TimelineOptions,
        preprocess: dict[str, Any],
        choice: dict[str, Any],
        batch_size: int,
        classify: Callable[[list[dict]], list[Emotions]],
    ) -> Emotions | dict[str, Any]:
        audio, text = _split(recording)
        if audio is None:
            raise ValueError(
                "A recording is analysed in chunks of its audio, and here is none. Leave the arguments for chunks out."
            )
        if isinstance(text, str) and text.strip():
            raise ValueError(
                "A plain text says nothing of when it is said, so it cannot be laid over the chunks of a recording. "
                "Leave it out; or pass "
                "asr=...; or segments=[{'start': ..., 'end': ..., 'text': ...}]; or as text the timed chunks of a "
                "transcript."
            )
        timed_texts = None if text is None or isinstance(text, str) else text
        session = TimelineSession(classify, options, batch_size, preprocess.get("asr"), timed_texts)
        chunks: list[dict] = []
        stream = AudioStream(audio, preprocess.get("sampling_rate"), channel=preprocess.get("channel"))
        with logging.tqdm(desc="Timeline", unit="s", leave=False, disable=None) as progress:
            for block in stream:
                if progress.n == 0:
                    progress.total = stream.duration_s and round(stream.duration_s)
                    session.check_end(stream.duration_s)
                chunks += session.push(block)
                progress.update(round(len(block) / self.processor.sampling_rate))
        chunks += session.close()
        if chunks:  # without any, nobody's emotion is told
            stream.refuse_silence()
        emotions = choose(mean_emotions(chunks), **choice)
        if not options.return_timestamps:
            return emotions
        told = merge_chunks(chunks) if options.merge else chunks
        return {
            "emotions": emotions,
            "chunks": [{**chunk, "emotions": choose(chunk["emotions"], **choice)} for chunk in told],
        }

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        sampling_rate: int | None = None,
        asr: Any = None,
        asr_language: str | None = None,
        threshold: float | None = None,
        channel: int | None = None,
        **unknown: Any,
    ) -> tuple[dict, dict, dict]:
        if "stride_length_s" in unknown:
            raise TypeError(
                "stride_length_s is not an argument of this pipeline: in speech recognition it means the overlap of "
                "two windows. Pass hop_length_s, the seconds from one window's start to the next one's "
                "(chunk_length_s=4, hop_length_s=2)."
            )
        if unknown:
            raise TypeError(
                f"The pipeline '{TASK}' has no argument {', '.join(sorted(unknown))}. "
                "Allowed: asr, asr_language, batch_size, channel, num_workers, sampling_rate, threshold, top_k, "
                f"{', '.join(TIMELINE_ARGUMENTS)}."
            )
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(
                f"top_k={top_k!r} is not allowed; it must be a whole number from 1, or None for all labels."
            )
        if threshold is not None and (
            isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1
        ):
            raise ValueError(
                f"threshold={threshold!r} is not allowed; it must be a number from 0 to 1, or None to always name an "
                "emotion."
            )
        preprocess: dict[str, Any] = {}
        if sampling_rate is not None:
            preprocess["sampling_rate"] = sampling_rate
        if channel is not None:
            preprocess["channel"] = channel
        if asr is not None:
            preprocess["asr"] = _as_asr(asr, asr_language)
        elif asr_language is not None:
            raise ValueError(
                f"asr_language={asr_language!r} is for speech recognition: pass asr='openai/whisper-base', too."
            )
        postprocess = {"top_k": top_k, "threshold": threshold}
        return preprocess, {}, {name: value for name, value in postprocess.items() if value is not None}

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> OrderedAnswers:
        """The answers to inputs, batch by batch."""
        audio_name = self.processor.audio_input_name

        def samples() -> Iterator[dict[str, torch.Tensor]]:
            if not num_workers:
                return map(functools.partial(self.preprocess, **preprocess_params), _elements(inputs))
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the tokenizers warn of forks otherwise
            kind, workers = (PipelineDataset, num_workers) if isinstance(inputs, Sized) else (PipelineIterator, 1)
            dataset = kind(inputs, self.preprocess, preprocess_params)
            return iter(DataLoader(dataset, num_workers=workers, batch_size=None, collate_fn=_as_it_is))

        def answer(batch: list[dict[str, torch.Tensor]]) -> list[Emotions]:
            outputs = self.forward(batch[0] if len(batch) == 1 else self.processor.pad(batch), **forward_params)
            return [self.postprocess({"logits": logits[None]}, **postprocess_params) for logits in outputs["logits"]]

        return OrderedAnswers(
            samples,
            answer,
            batch_size,
            length=lambda sample: (sample[audio_name].shape[1], sample["input_ids"].shape[1]),
            count=len(inputs) if isinstance(inputs, Sized) else None,
        )

    def preprocess(
        self,
        inputs: Any,
        sampling_rate: int | None = None,
        asr: Any = None,
        channel: int | None = None,
        decoded: bool = False,
    ) -> dict[str, torch.Tensor]:
        """One input -> tensors (1, L, ...) of both modalities, so that any samples can share a batch.

        Args:
            decoded: the audio is an array as [`decode_audio`] returns it.
        """
        audio, text = _split(inputs)
        if text is not None and not isinstance(text, str):
            raise TypeError(f"Text must be a string, got {type(text).__name__}: {text!r:.80}.")
        if audio is not None and not decoded:
            audio = decode_audio(audio, sampling_rate, channel=channel, refuse_silence=True)
        if audio is not None and asr is not None and not (text and text.strip()):
            text = asr({"raw": audio, "sampling_rate": self.processor.sampling_rate})["text"]
        return dict(self.processor.encode([audio], [text]))

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"logits": finite_logits(self.model(**model_inputs).logits)}

    def postprocess(self, model_outputs: dict[str, torch.Tensor], **choice: Any) -> Emotions:
        scores = (model_outputs["logits"].float() / self.model.config.temperature).softmax(-1).flatten()
        names, order = self.model.config.label_names, scores.argsort(descending=True, stable=True).tolist()
        return choose([{"label": names[index], "score": scores[index].item()} for index in order], **choice)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "call_count": 0}

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> Any:
        if is_hashed():  # by its configuration and a digest of its weights, not by a copy of them
            return copyreg.__newobj__, (type(self),), hashed_state(self)  # ty: ignore[missing-attribute]
        return super().__reduce_ex__(protocol)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Model, processor and the code of both: a folder that `pipeline(model=folder, trust_remote_code=True)`
        loads."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


def choose(emotions: Emotions, top_k: int | None = None, threshold: float | None = None) -> Emotions:
    """What is told of all labels and their scores, best first."""
    told = emotions[:top_k]
    if threshold is not None and told and told[0]["score"] < threshold:
        told = [{"label": UNSURE, "score": told[0]["score"]}, *told]
    return told


class _Rows(Dataset):
    """A `datasets.Dataset`, or a column of one, whose rows are read one by one when they are needed."""

    def __init__(self, rows: Sequence):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._rows[index]


def _one_or_many(inputs: Any) -> Any:
    """Inputs of a call -> one input, or many as a list, a generator or a `torch` dataset, which transformers knows as
    such."""
    if hasattr(inputs, "column_names") and hasattr(inputs, "features"):  # of `datasets`
        return _Rows(inputs) if isinstance(inputs, Sized) else (row for row in inputs)
    if isinstance(inputs, Dataset) or is_file(inputs) or is_rated_array(inputs):
        return inputs
    if isinstance(inputs, Iterator):
        return (item for item in inputs)
    if isinstance(inputs, (list, tuple)):
        return np.asarray(inputs) if is_bare_samples(inputs) else list(inputs)
    many = as_many(inputs)
    return _Rows(inputs) if isinstance(many, Iterator) and isinstance(inputs, Sequence) else many


def _elements(inputs: Any) -> Iterator:
    """An iterator over many inputs, which goes on behind an input that cannot be read."""
    return map(inputs.__getitem__, range(len(inputs))) if isinstance(inputs, Sized) else iter(inputs)


def _as_it_is(sample: Any) -> Any:
    return sample


def _split(inputs: Any) -> tuple[Any, Any]:
    """(audio or None, text or None) of one input"""
    if not isinstance(inputs, Mapping):
        return inputs, None
    if "audio" in inputs or "text" in inputs:
        audio, text = inputs.get("audio"), inputs.get("text")
        if audio is not None and any(inputs.get(key) is not None for key in _RATE_KEYS):
            audio = {key: inputs.get(key) for key in ("audio", *_RATE_KEYS)}
        return audio, None if isinstance(text, float) and text != text else text  # NaN of a data frame
    if any(key in inputs for key in _AUDIO_KEYS):
        return inputs, None
    raise AudioError(
        f"An input with the keys {sorted(map(str, inputs))} holds neither audio nor text. "
        f"Allowed: 'audio' and/or 'text', or one of {_AUDIO_KEYS}."
    )


def _as_asr(asr: Any, language: str | None) -> Any:
    if isinstance(asr, (str, os.PathLike)):
        return load_asr(asr, language)
    if language is not None:
        raise ValueError(
            "asr_language is for asr=... by its id; tell the pipeline that you made: generate_kwargs={'language': "
            "...}."
        )
    return asr


def register_task() -> None:
    """Make `transformers.pipeline` know the task, for a model that is passed as an object."""
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=AudioTextEmotionPipeline, pt_model=AutoModel, type="multimodal"
        )


make_importable(__name__)
