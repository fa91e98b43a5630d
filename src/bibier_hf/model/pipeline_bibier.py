"""The pipeline `audio-text-emotion`."""

import copyreg
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator
from transformers.utils import logging

from .answers_bibier import AnswerLabels
from .audio_bibier import AudioError, AudioStream, as_many, decode_audio, is_bare_samples, is_file
from .batching_bibier import OrderedAnswers
from .configuration_bibier import REGRESSION, SINGLE_LABEL, TASK
from .context_bibier import add_context
from .explaining_bibier import explain
from .hashing_bibier import hashed_state, is_hashed
from .importing_bibier import make_importable
from .processing_bibier import BiBiERProcessor
from .sequence_bibier import finite_logits
from .speakers_bibier import summarize_speakers
from .timeline_bibier import (
    TIMELINE_ARGUMENTS,
    Emotions,
    TimelineOptions,
    TimelineSession,
    judge_chunks,
    merge_chunks,
)
from .unsure_bibier import TOO_SHORT, audio_facts, judge
from .validation_bibier import check_switch, check_whole
from .words_bibier import load_asr

logger = logging.get_logger(__name__)

_AUDIO_KEYS = ("array", "raw", "waveform", "bytes", "path")
_RATE_KEYS = ("sampling_rate", "sample_rate")

_VARIANTS_AT_ONCE = 16
"""Batch size for the variants of a clip that explain an answer, unless that of the pipeline is larger."""


class AudioTextEmotionPipeline(Pipeline):
    """Predicts the emotion of clips, texts, or both.

    Examples:
        >>> pipe = pipeline("audio-text-emotion", model="outputs/resd", trust_remote_code=True)  # doctest: +SKIP
        >>> pipe({"audio": "clip.wav", "text": "I can't believe it!"}, top_k=1)  # doctest: +SKIP
        [{'label': 'surprise', 'score': 0.71}]

    Inputs, one or several (a list, a Series; or streamed: a generator, a dataset or a column of it) of:
        * a path or an http(s) URL of an audio file (a bare string is never text), its bytes, or an open file;
        * an array with `sampling_rate=...`, `(array, rate)`, or a Gradio value `(rate, array)`;
        * `{"array" | "raw": ..., "sampling_rate": Hz}` or an undecoded `datasets` value `{"bytes": ..., "path": ...}`;
        * `{"audio": any of these or None, "text": str or None}`; other keys of a dataset row are ignored.

    Call arguments (also accepted when the pipeline is created):
        top_k: number of labels to return, best first; None: all.
        threshold: between 0 and 1. If the best score is below it, the list starts with
            `{"label": "unsure", "score": best score}`; the labels follow (`top_k` counts only those). None: never.
            Of several labels at once: the score from which each is `present`, instead of `config.thresholds`.
        return_unsure: also say whether the answer should be trusted (see below).
        labels: names of the labels to choose from; the scores of the others are left out, and the rest sums to one.
            Case and surrounding spaces do not matter.
        label_map: `{new name: [labels to merge]}`, whose probabilities are added; labels that are not listed stay as
            they are. With `labels` as well, those are names after merging.
        sampling_rate: Hz of bare arrays.
        channel: use this channel (from 0) of recordings with one speaker per channel; None: the mean of all.
        asr: an `automatic-speech-recognition` pipeline or a model id; it transcribes audio that comes without text.
        asr_language: ISO 639 code of the spoken language, if `asr` is a model id; None: the model guesses, which small
            models do badly.
        batch_size: samples (or chunks) per step; results do not depend on it. Above 1, eight batches are read ahead
            and sorted by length; the answers keep the order of the inputs.
        chunk_length_s: analyze a recording of any length in windows of this many seconds. It is read from disk block
            by block, so memory does not grow with its length (only a given segment is held as a whole).
        hop_length_s: seconds from the start of one window to the start of the next; at most `chunk_length_s`, which is
            the default. The last window may be shorter. (Not `stride_length_s`, which is the overlap in speech
            recognition.)
        segmentation: `"fixed"`, those windows, or `"energy"`: whatever is louder than the background, in segments of
            at most `chunk_length_s` (default 15).
        segments: `(start, end)` or `{"start": s, "end": s, "speaker": str, "text": str}` in seconds, instead of
            windows; for one recording. Or the output of a diarization (anything with `itertracks(yield_label=True)`).
            They may overlap and need no order. One without length gets no emotions, unless it has a text; one that
            ends more than 0.1 s after the recording is an error.
        granularity: `"word"`, `"sentence"`, `"utterance"` (ends with a pause of half a second) or `"turn"` (of one
            speaker): what a chunk is, instead of windows. Words and sentences need the words' times: from `asr`, a
            transcript with times, or the texts of `segments`.
        return_timestamps: also return the chunks (see below).
        merge: merge neighboring chunks with the same best label.
        explain: also return which words and which quarters of a second carried the best label, by leaving out one at a
            time. It takes one run of the model for each, in batches.

    Returns:
        `[{"label": str, "score": float}, ...]` for each input, sorted by score; the scores of all labels sum to one.
        They are calibrated: the logits are divided by `config.temperature` first. By `config.problem_type`:

        * `single_label_classification`: as above.
        * `multi_label_classification`: `{"label": str, "score": float, "present": bool}`. Each score is a probability
          of its own, and `present` says whether it reaches the label's threshold.
        * `regression`: `{"label": name, "score": value}` in label order, clipped to `config.label_ranges`.

        For a recording in chunks, this is the mean over time; overlapping windows share the time they have in common.
        With `return_timestamps=True` it is
        `{"emotions": that mean, "chunks": [{"timestamp": (start, end), "text": str or None, "emotions": [...]},
        ...]}`; of a regression also `"problem_type": "regression"`. If speakers are known, each chunk has its
        `"speaker"`, and `"speakers"` has a summary of each, over all and minute by minute (`docs/conversations.md`).
        With `explain=True`, each chunk has its `"explanation"`, and the answer to a clip is
        `{"answers": [...], "explanation": {...}}`.
        A chunk's emotions equal those of the same stretch, cut out and passed to the pipeline by itself. If nothing is
        louder than the background, both lists are empty.

    With `return_unsure=True`, an answer is
    `{"answers": the list, "unsure": bool, "unsure_score": 0 to 1, "unsure_reason": str or None}`, and chunks and a
    timeline have the last three keys, too. A score of 0.5 or more means unsure. The reasons, in this order:

    * `"too short"`: the clip lasts less than `config.audio_config.shortest_s`.
    * `"too quiet"`: its loudest 50 ms stay below `config.audio_config.quietest_db`. Silence, otherwise an error, is
    that.
    * `"no speech"`: the model's speech check, if it has one, takes the clip for something else.
    * `"low confidence"`: the best score of a single label is below `threshold`, or else `config.least_confidence`.

    A recording in chunks is unsure if at least half of its time is. Text alone can only have a low confidence.

    The text of a chunk is that of its segment. Without one, it consists of the words whose middle lies in the chunk,
    from `asr` if its model returns times (Whisper, CTC; then `"words"` lists them) or from a transcript with times,
    `{"audio": ..., "text": [{"text": str, "timestamp": (start, end)}, ...]}`. Otherwise it is what `asr` hears in the
    chunk alone. Plain text with a recording in chunks is an error, because it has no timestamps.
    """

    processor: BiBiERProcessor

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any):
        self._timeline_arguments = {name: kwargs.pop(name) for name in TIMELINE_ARGUMENTS if name in kwargs}
        self._explains = kwargs.pop("explain", False)
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

        options, explains = self._timeline_options(kwargs), self._asked_to_explain(kwargs)
        if not (options.asked_for or explains):
            return super().__call__(inputs, **kwargs)

        many = isinstance(inputs, (list, Iterator, Dataset)) and not is_file(inputs)
        if many and options.segments is not None:
            raise ValueError("segments belong to one recording: call the pipeline once per recording.")
        if explains and options.merge:
            raise ValueError("explain explains chunks as they are, and merge joins them. Leave one out.")
        if explains and options.asked_for and not options.return_timestamps:
            raise ValueError(
                "explain explains the chunks of a recording, so they must be returned. Pass return_timestamps=True."
            )
        answer = functools.partial(self._timeline, options, explains) if options.asked_for else self._explained
        analyze = functools.partial(answer, *self._session_arguments(kwargs))
        if isinstance(inputs, list):
            return [analyze(item) for item in inputs]
        return map(analyze, _elements(inputs)) if many else analyze(inputs)

    def start_timeline(self, **kwargs: Any) -> TimelineSession:
        """Start the timeline of a recording that will be pushed in pieces.

        Args:
            kwargs: the call arguments for chunks, `asr` and `batch_size`.
        """
        options, explains = self._timeline_options(kwargs), self._asked_to_explain(kwargs)
        if not options.asked_for:
            raise ValueError(
                "A timeline needs chunks: pass chunk_length_s=4, segmentation='energy' or segments=[(start, end), "
                "...]."
            )
        self._refuse_merging_values(options)
        batch_size, preprocess, choice = self._session_arguments(kwargs)
        return self._start(options, explains, batch_size, preprocess, choice)

    def mean(self, chunks: Sequence[Mapping[str, Any]], **choice: Any) -> Emotions:
        """Average the emotions of chunks over time, as the pipeline does for a recording.

        Args:
            chunks: of a session, with the scores of all labels.
            choice: `top_k`, `threshold`, `labels` and `label_map` of the call; None: those of the pipeline.
        """
        labels, choice = self._answer_labels({**self._postprocess_params, **_given(choice)})
        return labels.choose(labels.mean(chunks), **choice)

    def timeline(self, chunks: Sequence[Mapping[str, Any]], **choice: Any) -> dict[str, Any]:
        """Return the timeline of chunks, as the pipeline does with `return_timestamps=True`.

        Args:
            chunks, choice: as in [`mean`].
        """
        labels, chosen = self._answer_labels({**self._postprocess_params, **_given(choice)})
        is_regression = self.model.config.problem_type == REGRESSION
        timeline: dict[str, Any] = {
            "emotions": self.mean(chunks, **choice),
            "chunks": [{**chunk, "emotions": labels.choose(chunk["emotions"], **chosen)} for chunk in chunks],
        }
        if self._returns_unsure(choice) or (chunks and "unsure" in chunks[0]):
            timeline |= judge_chunks(chunks)
        if any("speaker" in chunk for chunk in chunks):
            named = functools.partial(labels.named, threshold=chosen.get("threshold"))
            timeline["speakers"] = summarize_speakers(chunks, None if is_regression else named)
            for figures in timeline["speakers"]:
                for part in (figures, *figures["minutes"]):
                    part["emotions"] = labels.choose(labels.in_order(part["emotions"]), **chosen)
        return timeline | ({"problem_type": REGRESSION} if is_regression else {})

    def _returns_unsure(self, choice: Mapping[str, Any]) -> bool:
        return bool(choice.get("return_unsure", self._postprocess_params.get("return_unsure")))

    def _timeline_options(self, kwargs: dict[str, Any]) -> TimelineOptions:
        """Remove the arguments for chunks from those of a call."""
        given = {name: kwargs.pop(name) for name in TIMELINE_ARGUMENTS if name in kwargs}
        return TimelineOptions(**{**self._timeline_arguments, **given})

    def _asked_to_explain(self, kwargs: dict[str, Any]) -> bool:
        """Remove `explain` from the arguments of a call."""
        explains = kwargs.pop("explain", self._explains)
        check_switch("explain", explains)
        if explains and self.model.config.problem_type == REGRESSION:
            raise ValueError("explain explains a label, but this model predicts values. Leave it out.")
        return bool(explains)

    def _find_batch_size(self, kwargs: dict[str, Any]) -> int:
        """The batch size of a call, or else of the pipeline, or else 1."""
        for size in (kwargs.get("batch_size"), self._batch_size):
            check_whole("batch_size", size)
            if size is not None:
                return size
        return 1

    def _session_arguments(self, kwargs: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Return the batch size, the arguments of `preprocess` and those of `choose`."""
        batch_size = self._find_batch_size(kwargs)
        kwargs.pop("batch_size", None)
        kwargs.pop("num_workers", None)  # one recording is one stream
        preprocess, _, postprocess = self._sanitize_parameters(**kwargs)
        return batch_size, {**self._preprocess_params, **preprocess}, {**self._postprocess_params, **postprocess}

    def _refuse_merging_values(self, options: TimelineOptions) -> None:
        if options.merge and self.model.config.problem_type == REGRESSION:
            raise ValueError(
                "merge joins chunks with the same best label, but this model predicts values. Leave it out."
            )

    def _classify(self, samples: Any, batch_size: int, labels: dict[str, Any], at_once: int = 1) -> Iterator[Emotions]:
        """Score all labels of decoded clips with texts; `at_once`: the least number for a batch."""
        size = 1 if self.model.config.depends_on_batch else max(batch_size, at_once)
        return iter(self.get_iterator(samples, 0, size, {"decoded": True}, {}, labels))

    def _explained(
        self, batch_size: int, preprocess: dict[str, Any], choice: dict[str, Any], sample: Any
    ) -> dict[str, Any]:
        """Answer one clip, and explain the answer."""
        audio, text = self._clip_and_text(sample, **preprocess)
        names = ("context", "speaker") if isinstance(sample, Mapping) else ()
        around = {name: sample[name] for name in names if name in sample}
        clip = {**around, "audio": audio, "text": text}
        labels, chosen = self._answer_labels(choice)
        restricted = {name: choice[name] for name in ("labels", "label_map") if name in choice}

        def classify(variants: Iterable[dict[str, Any]]) -> Iterator[Emotions]:
            inside = ({**around, **variant} for variant in variants)
            return self._classify(inside, batch_size, restricted, _VARIANTS_AT_ONCE)

        answer = next(classify([clip]))
        whole: dict[str, Any] = {"answers": labels.choose(answer, **chosen)}
        if self._returns_unsure(choice):
            measured = {"decoded": True, "measured": True}
            whole = next(iter(self.get_iterator([clip], 0, 1, measured, {}, choice)))
        return {**whole, "explanation": explain(classify, audio, text, answer)}

    def _start(
        self,
        options: TimelineOptions,
        explains: bool,
        batch_size: int,
        preprocess: dict[str, Any],
        choice: dict[str, Any],
        timed_texts: Any = None,
    ) -> TimelineSession:
        # All of them; `top_k` and `threshold` choose from the merged chunks and from their mean.
        labels = {name: choice[name] for name in ("labels", "label_map", "return_unsure") if name in choice}
        measured = self._returns_unsure(choice)
        if measured:
            labels["least_confidence"] = choice.get("threshold")

        def classify(chunks: list[dict]) -> list[dict[str, Any]]:
            read = {"decoded": True, "measured": measured}
            answers = self.get_iterator(chunks, 0, batch_size, read, {}, labels)
            if not measured:
                return [{"emotions": answer} for answer in answers]
            return [{"emotions": answer.pop("answers"), **answer} for answer in answers]

        unanswered: dict[str, Any] = {"emotions": []}
        if measured:
            unanswered |= {"unsure": True, "unsure_score": 1.0, "unsure_reason": TOO_SHORT}
        explained = None
        if explains:
            names = {name: choice[name] for name in ("labels", "label_map") if name in choice}
            variants = functools.partial(
                self._classify, batch_size=batch_size, labels=names, at_once=_VARIANTS_AT_ONCE
            )
            explained = functools.partial(explain, variants)
        asr = preprocess.get("asr")
        return TimelineSession(classify, options, batch_size, asr, timed_texts, explained, unanswered)

    def _timeline(
        self,
        options: TimelineOptions,
        explains: bool,
        batch_size: int,
        preprocess: dict[str, Any],
        choice: dict[str, Any],
        recording: Any,
    ) -> Emotions | dict[str, Any]:
        audio, text = _split(recording)
        if audio is None:
            raise ValueError("Chunks are cut from audio, but the input has none. Leave out the arguments for chunks.")
        if isinstance(text, str) and text.strip():
            raise ValueError(
                "Plain text has no timestamps, so it cannot be aligned with the chunks of a recording. Leave it out, "
                "or pass asr=..., segments=[{'start': ..., 'end': ..., 'text': ...}], or the timed chunks of a "
                "transcript as text."
            )

        self._refuse_merging_values(options)
        timed_texts = None if isinstance(text, str) else text
        session = self._start(options, explains, batch_size, preprocess, choice, timed_texts)
        stream = AudioStream(audio, preprocess.get("sampling_rate"), channel=preprocess.get("channel"))
        chunks: list[dict] = []
        with logging.tqdm(desc="Timeline", unit="s", leave=False, disable=None) as progress:
            for block in stream:
                if progress.n == 0:
                    progress.total = stream.duration_s and round(stream.duration_s)
                    session.check_end(stream.duration_s)
                chunks += session.push(block)
                progress.update(round(len(block) / self.processor.sampling_rate))
        chunks += session.close()
        chunks.sort(key=lambda chunk: chunk["timestamp"][0])  # those of overlapping turns may not be
        if chunks:  # silence without chunks gets no emotion, which is right
            (stream.refuse_canceled if self._returns_unsure(choice) else stream.refuse_silence)()

        if options.return_timestamps:
            return self.timeline(merge_chunks(chunks) if options.merge else chunks, **choice)
        mean = self.mean(chunks, **choice)
        return {"answers": mean, **judge_chunks(chunks)} if self._returns_unsure(choice) else mean

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        sampling_rate: int | None = None,
        asr: Any = None,
        asr_language: str | None = None,
        threshold: float | None = None,
        channel: int | None = None,
        labels: Any = None,
        label_map: Any = None,
        return_unsure: bool | None = None,
        **unknown: Any,
    ) -> tuple[dict, dict, dict]:
        if "stride_length_s" in unknown:
            raise TypeError(
                "stride_length_s is not an argument of this pipeline: in speech recognition it means the overlap of "
                "two windows. Pass hop_length_s, the seconds from the start of one window to the start of the next "
                "(chunk_length_s=4, hop_length_s=2)."
            )
        if unknown:
            raise TypeError(
                f"The pipeline '{TASK}' has no argument {', '.join(sorted(unknown))}. "
                "Allowed: asr, asr_language, batch_size, channel, explain, label_map, labels, num_workers, return_unsure, "
                "sampling_rate, threshold, top_k, "
                f"{', '.join(TIMELINE_ARGUMENTS)}."
            )
        check_whole("top_k", top_k, otherwise=", or None for all labels")
        check_switch("return_unsure", return_unsure)
        if threshold is not None and (
            isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1
        ):
            raise ValueError(
                f"threshold={threshold!r} is not allowed; it must be a number from 0 to 1, or None to always name an "
                "emotion."
            )

        preprocess = {"sampling_rate": sampling_rate, "channel": channel, "asr": _as_asr(asr, asr_language)}
        preprocess["measured"] = return_unsure
        postprocess = _given({"top_k": top_k, "threshold": threshold, "labels": labels, "label_map": label_map})
        postprocess |= _given({"return_unsure": return_unsure})
        if self.model.config.problem_type == REGRESSION and postprocess.keys() & {"top_k", "threshold"}:
            raise ValueError("top_k and threshold rank classes, but this model predicts values. Leave them out.")
        self._answer_labels({**getattr(self, "_postprocess_params", {}), **postprocess})  # refuses unknown names early
        return _given(preprocess), {}, postprocess

    def _answer_labels(self, choice: Mapping[str, Any]) -> tuple[AnswerLabels, dict[str, Any]]:
        """Return the labels of an answer, and the other arguments of a choice."""
        others = dict(choice)
        labels, label_map = others.pop("labels", None), others.pop("label_map", None)
        others.pop("return_unsure", None)
        config: Any = self.model.config
        return AnswerLabels.of(config, labels, label_map), others

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> OrderedAnswers:
        """Answer inputs batch by batch."""
        audio_name = self.processor.audio_input_name

        def samples() -> Iterator[dict[str, torch.Tensor]]:
            if not num_workers:
                return map(functools.partial(self.preprocess, **preprocess_params), _elements(inputs))
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warn about forks otherwise
            kind, workers = (PipelineDataset, num_workers) if isinstance(inputs, Sized) else (PipelineIterator, 1)
            dataset = kind(inputs, self.preprocess, preprocess_params)
            return iter(DataLoader(dataset, num_workers=workers, batch_size=None, collate_fn=_as_it_is))

        def answer(batch: list[dict[str, torch.Tensor]]) -> list[Any]:
            outputs = self.forward(batch[0] if len(batch) == 1 else self.processor.pad(batch), **forward_params)
            rows = (
                {name: values[place : place + 1] for name, values in outputs.items()} for place in range(len(batch))
            )
            return [self.postprocess(row, **postprocess_params) for row in rows]

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
        measured: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Turn one input into tensors (1, L, ...) of both modalities, so that any samples can share a batch.

        Args:
            decoded: whether the audio is already what [`decode_audio`] returns.
            measured: whether to add the duration and the level of the audio, `audio_facts` (1, 1, 2).
        """
        audio, text = self._clip_and_text(inputs, sampling_rate, asr, channel, decoded, measured)
        text = add_context(inputs, text, self.model.config.text_context)
        sample = dict(self.processor.encode([audio], [text]))
        return {**sample, "audio_facts": audio_facts(audio)[None]} if measured else sample

    def _clip_and_text(
        self,
        inputs: Any,
        sampling_rate: int | None = None,
        asr: Any = None,
        channel: int | None = None,
        decoded: bool = False,
        measured: bool = False,
    ) -> tuple[np.ndarray | None, str | None]:
        """Decode the audio of one input, and find out what is said in it. Silence is an error unless it is
        measured."""
        audio, text = _split(inputs)
        if text is not None and not isinstance(text, str):
            raise TypeError(f"Text must be a string, got {type(text).__name__}: {text!r:.80}.")
        if audio is not None and not decoded:
            audio = decode_audio(
                audio, sampling_rate, channel=channel, refuse_silence=not measured, refuse_canceled=measured
            )
        if audio is not None and asr is not None and not (text and text.strip()):
            text = asr({"raw": audio, "sampling_rate": self.processor.sampling_rate})["text"]
        return audio, text

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        facts = model_inputs.pop("audio_facts", None)
        output = self.model(**model_inputs)
        found = {
            "logits": finite_logits(output.logits),
            "audio_facts": facts,
            "not_speech": getattr(output, "not_speech", None),
        }
        return {name: values for name, values in found.items() if values is not None}

    def postprocess(
        self, model_outputs: dict[str, torch.Tensor], least_confidence: float | None = None, **choice: Any
    ) -> Emotions | dict[str, Any]:
        """Turn the logits of one sample into an answer.

        Args:
            least_confidence: for `return_unsure`, if there is no `threshold` in `choice`.
            choice: the call arguments that choose from the scores.
        """
        returns_unsure = choice.get("return_unsure")
        labels, choice = self._answer_labels(choice)
        scores = labels.scores(model_outputs["logits"].flatten())
        answers = labels.choose(scores, **choice)
        if not returns_unsure:
            return answers

        config: Any = self.model.config
        confidence = scores[0]["score"] if config.problem_type == SINGLE_LABEL else None
        check = model_outputs.get("not_speech")
        verdict = judge(
            config,
            confidence,
            model_outputs["audio_facts"].flatten().tolist(),
            None if check is None else check.item(),
            choice.get("threshold", least_confidence),
        )
        return {"answers": answers, **verdict}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "call_count": 0}

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> Any:
        if is_hashed():  # by its configuration and a digest of its weights, without copying them
            return copyreg.__newobj__, (type(self),), hashed_state(self)  # ty: ignore[missing-attribute]
        return super().__reduce_ex__(protocol)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model, processor and their code, for `pipeline(model=folder, trust_remote_code=True)`."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


class _Rows(Dataset):
    """A `datasets.Dataset`, or a column of one, whose rows are read one by one when they are needed."""

    def __init__(self, rows: Sequence):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._rows[index]


def _one_or_many(inputs: Any) -> Any:
    """Return one input, or many as a list, a generator or a `torch` dataset, which transformers recognizes."""
    if hasattr(inputs, "column_names") and hasattr(inputs, "features"):  # from `datasets`
        return _Rows(inputs) if isinstance(inputs, Sized) else (row for row in inputs)
    if is_bare_samples(inputs):
        return np.asarray(inputs)  # transformers would take a list for several inputs

    many = None if isinstance(inputs, Dataset) else as_many(inputs)
    if isinstance(many, Iterator) and isinstance(inputs, Sequence):
        return _Rows(inputs)
    return inputs if many is None else many


def _elements(inputs: Any) -> Iterator:
    """Iterate over many inputs; one that cannot be read does not end the iteration."""
    return map(inputs.__getitem__, range(len(inputs))) if isinstance(inputs, Sized) else iter(inputs)


def _as_it_is(sample: Any) -> Any:
    return sample


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _split(inputs: Any) -> tuple[Any, Any]:
    """Return the audio and the text of one input, each None if it is missing."""
    if not isinstance(inputs, Mapping):
        return inputs, None
    if "audio" in inputs or "text" in inputs:
        audio, text = inputs.get("audio"), inputs.get("text")
        if audio is not None and any(inputs.get(key) is not None for key in _RATE_KEYS):
            audio = {key: inputs.get(key) for key in ("audio", *_RATE_KEYS)}
        return audio, None if isinstance(text, float) and text != text else text  # NaN in a data frame
    if any(key in inputs for key in _AUDIO_KEYS):
        return inputs, None
    raise AudioError(
        f"An input with the keys {sorted(map(str, inputs))} has neither audio nor text. "
        f"Allowed: 'audio' and/or 'text', or one of {_AUDIO_KEYS}."
    )


def _as_asr(asr: Any, language: str | None) -> Any:
    if isinstance(asr, (str, os.PathLike)):
        return load_asr(asr, language)
    if language is not None:
        raise ValueError(
            f"asr_language={language!r} needs a model id: pass asr='openai/whisper-base', or create your own pipeline "
            "with generate_kwargs={'language': ...}."
        )
    return asr


def register_task() -> None:
    """Make the task known to `transformers.pipeline`, for models passed as objects."""
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=AudioTextEmotionPipeline, pt_model=AutoModel, type="multimodal"
        )


make_importable(__name__)
