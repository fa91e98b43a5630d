"""From what a visitor gave to scores, or to a message that says what to do. Knows nothing of the page."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import cached_file

from .texts import Texts

QUIET_PEAK = 0.01
"""Fraction of full scale; below it the visitor is warned."""

RESULTS_FILE = "results.json"
"""What training leaves in a checkpoint: the data, and the scores on its test set."""


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for, and which recordings get a timeline.

    Args:
        megabytes: size of a file.
        minutes: length of a recording.
        characters: length of a text.
        timeline_from_s: recordings of at least this many seconds get a timeline.
        window_s: length of its windows in seconds; they do not overlap.
        live_s: seconds of a live voice that an answer is about.
    """

    megabytes: int = 50
    minutes: float = 30
    characters: int = 1000
    timeline_from_s: float = 15.0
    window_s: float = 3.0
    live_s: float = 4.0


@dataclass(frozen=True)
class ModelFacts:
    """What the page says of its model.

    Args:
        name: Hub id, or the last part of a folder's path.
        on_hub: whether the name is a Hub id.
        corpora: training corpus -> whether it is synthetic speech.
        uar: corpus -> average recall on its test set, 0 to 1.
        chance: recall of a guess.
    """

    name: str
    on_hub: bool
    corpora: dict[str, bool]
    uar: dict[str, float]
    chance: float

    @classmethod
    def of(cls, pipe: Any) -> "ModelFacts":
        """Read the facts of a pipeline's model; those of training are empty without its [`RESULTS_FILE`]."""
        config = pipe.model.config
        source = config.name_or_path
        on_hub = bool(source) and not os.path.isdir(source)
        file = source and cached_file(
            source,
            RESULTS_FILE,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        results = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        test = results.get("metrics", {}).get("test", {})
        return cls(
            name=source if on_hub else Path(source).resolve().name,
            on_hub=on_hub,
            corpora={name: "synthetic" in data["source"] for name, data in results.get("data", {}).items()},
            uar={name: metrics["uar"] for name, metrics in test.items() if "uar" in metrics},
            chance=1 / len(config.label_names),
        )


@dataclass(frozen=True)
class Recording:
    """Length in seconds, largest absolute sample (1 = full scale), and the name of its file without suffix."""

    duration_s: float
    peak: float
    name: str


@dataclass(frozen=True)
class Answer:
    """What is shown.

    Args:
        scores: label -> probability, or value of a regression; for a long recording the mean over time.
        by_modality: "audio" and "text" -> label -> probability, by the model's own head for each; empty unless the
            model has both heads and got both a voice and words.
        windows: windows of a long recording, as in the pipeline's chunks.
        chunks: the same, with neighbors of the same best label joined.
        recording: facts of the recording; None without one.
        text_unused: a text came with a long recording, where it is not known when its words are said.
        problem_type: of the model, as transformers names it.
        unsure_reason: why the answer should not be trusted, if so.
        explanation: what carried the answer to a clip, once it was asked for.
    """

    scores: dict[str, float]
    by_modality: dict[str, dict[str, float]] = field(default_factory=dict)
    windows: list[dict[str, Any]] = field(default_factory=list)
    chunks: list[dict[str, Any]] = field(default_factory=list)
    recording: Recording | None = None
    text_unused: bool = False
    problem_type: str = "single_label_classification"
    unsure_reason: str | None = None
    explanation: dict[str, Any] | None = None

    def doubt(self, texts: Texts) -> str:
        """Why the answer should not be trusted, for the visitor; "" if it may be."""
        return "" if self.unsure_reason is None else texts.unsure[self.unsure_reason]

    @property
    def has_values(self) -> bool:
        """Whether the scores are values of a regression, not probabilities."""
        return self.problem_type == "regression"


@dataclass(frozen=True)
class Heard:
    """The last seconds of a live voice: rate in Hz, and samples of one channel."""

    rate: int
    samples: np.ndarray

    @classmethod
    def of(cls, piece: tuple[int, np.ndarray] | None, before: "Heard | None", longest_s: float) -> "Heard | None":
        """What was heard before and the next piece, a value of Gradio; None: nothing more."""
        if piece is None:
            return None
        rate, samples = piece
        samples = samples[:, 0] if samples.ndim > 1 else samples
        if before is not None and before.rate == rate:
            samples = np.concatenate([before.samples, samples])
        return cls(rate, samples[-round(longest_s * rate) :])


class RefusedInput(ValueError):
    """Input that cannot be analyzed; the message tells the visitor, in their language, why and what to do."""


def analyze(
    pipe: Any,
    audio: str | None,
    text: str,
    limits: Limits,
    texts: Texts,
    progress: Callable[[float, float], None] = lambda done_s, all_s: None,
) -> Answer:
    """Analyze a recording, a text, or both.

    Args:
        pipe: a pipeline "audio-text-emotion", of the package or of a checkpoint's remote code.
        audio: path of a recording.
        text: what is said; blank for none.
        limits: what is allowed.
        texts: language of the messages.
        progress: called with the seconds of a long recording that are done, and all of them.

    Raises:
        RefusedInput: nothing given, more than the limits allow, silence, or a file that cannot be read.
    """
    text = text.strip()
    # The classes of this very pipeline: remote code brings its own.
    code = sys.modules[type(pipe).__module__]
    if audio is None and not text:
        raise RefusedInput(texts.nothing_given)
    if len(text) > limits.characters:
        raise RefusedInput(texts.text_too_long.format(given=len(text), allowed=limits.characters))
    recording = None if audio is None else inspect_recording(audio, limits, texts, code)

    try:
        if audio is None or recording is None or recording.duration_s < limits.timeline_from_s:
            return _answer_to_clip(pipe, {"audio": audio, "text": text or None}, recording)

        windows = []
        session, stream = (
            pipe.start_timeline(chunk_length_s=limits.window_s, return_unsure=True),
            code.AudioStream(audio),
        )
        for block in stream:
            windows += session.push(block, flush=True)
            progress(stream.read_s, recording.duration_s)
        windows += session.close()
    except code.AudioError as error:
        # The visitor knows the file's name, not where the server put it.
        message = str(error) if audio is None else str(error).replace(os.fspath(audio), Path(audio).name)
        raise RefusedInput(texts.unreadable.format(message=message)) from error

    kind = pipe.model.config.problem_type
    return Answer(
        as_scores(pipe.mean(windows)),
        windows=windows,
        chunks=windows if kind == "regression" else code.merge_chunks(windows),
        recording=recording,
        text_unused=bool(text),
        problem_type=kind,
        unsure_reason=code.judge_chunks(windows)["unsure_reason"],
    )


def answer_live(pipe: Any, heard: Heard) -> Answer | None:
    """Answer the last seconds of a live voice; None if they are less than half a second, or silent."""
    code = sys.modules[type(pipe).__module__]
    if len(heard.samples) < heard.rate / 2:
        return None
    try:
        samples = code.decode_audio((heard.rate, heard.samples), refuse_silence=True)
    except code.AudioError:
        return None
    answer = pipe({"array": samples, "sampling_rate": pipe.processor.sampling_rate}, return_unsure=True)
    kind = pipe.model.config.problem_type
    return Answer(as_scores(answer["answers"]), problem_type=kind, unsure_reason=answer["unsure_reason"])


def explain(pipe: Any, audio: str | None, text: str) -> dict[str, Any] | None:
    """What carried the answer to a clip that [`analyze`] has answered; None if the pipeline cannot tell.

    Args:
        pipe, audio, text: as for [`analyze`].
    """
    if pipe.model.config.problem_type == "regression":
        return None
    return pipe({"audio": audio, "text": text.strip() or None}, explain=True)["explanation"]


def inspect_recording(path: str, limits: Limits, texts: Texts, code: Any) -> Recording | None:
    """Measure a recording, block by block; None if it cannot be read (the pipeline says why).

    Args:
        path: the file.
        limits: what is allowed.
        texts: language of the messages.
        code: module with the `AudioStream` and `AudioError` of the pipeline.

    Raises:
        RefusedInput: larger or longer than allowed, silent, or with channels that cancel each other out.
    """
    megabytes = os.path.getsize(path) / 1e6
    if megabytes > limits.megabytes:
        raise RefusedInput(texts.file_too_large.format(given=texts.number(megabytes), allowed=limits.megabytes))

    try:
        stream = code.AudioStream(path)
        for _ in stream:
            minutes = max(stream.read_s, stream.duration_s or 0.0) / 60
            if minutes > limits.minutes:
                given = texts.number(minutes)
                raise RefusedInput(texts.recording_too_long.format(given=given, allowed=limits.minutes))
    except code.AudioError:
        return None

    try:
        stream.refuse_silence()
    except code.AudioError as error:
        raise RefusedInput(texts.canceled if stream.cancels else texts.silent) from error
    return Recording(stream.read_s, stream.peak, Path(path).stem)


def _answer_to_clip(pipe: Any, sample: dict[str, Any], recording: Recording | None) -> Answer:
    """The pipeline's answer, and what the model's heads for voice and words say alone."""
    outputs: list[Any] = []
    hook = pipe.model.register_forward_hook(lambda model, inputs, output: outputs.append(output))
    try:
        answer = pipe(sample, return_unsure=True)
    finally:
        hook.remove()

    scores = as_scores(answer["answers"])
    facts: dict[str, Any] = {"recording": recording, "unsure_reason": answer["unsure_reason"]}
    config = pipe.model.config
    heads = {"audio": outputs[-1].audio_logits, "text": outputs[-1].text_logits}
    kind = config.problem_type
    trained = config.unimodal_loss_weight > 0 or config.add_unimodal_logits or config.fusion == "late"
    # The logits of a modality that is missing are zeros.
    if not trained or any(logits is None or not logits.any() for logits in heads.values()):
        return Answer(scores, problem_type=kind, **facts)
    by_modality = {name: as_scores(pipe.postprocess({"logits": logits})) for name, logits in heads.items()}
    return Answer(scores, by_modality, problem_type=kind, **facts)


def as_scores(emotions: list[dict[str, Any]]) -> dict[str, float]:
    """`[{"label": ..., "score": ...}, ...]` -> label -> score"""
    return {entry["label"]: entry["score"] for entry in emotions}
