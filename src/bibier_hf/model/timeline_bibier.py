"""Emotion over the course of a long recording: chunks, what is said in each, their emotions, and means over time.

samples -- (words, with speech recognition) -- segmenter -- batches of chunks -- model -- chunks with emotions --
merged, mean
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from .audio_bibier import SAMPLING_RATE
from .granularity_bibier import GRANULARITIES, TurnGroups, WordGroups, lines_at_once, speaker_turns, words_of_turn
from .segments_bibier import FixedWindows, GivenSegments, Segment, Segmenter, SpeechByEnergy, Turn, as_turns
from .unsure_bibier import NO_SPEECH, REASONS
from .validation_bibier import check_switch
from .words_bibier import WordRecognizer, Words, joined

SEGMENTATIONS = ("fixed", "energy")
SHORTEST_CHUNK_S, SHORTEST_HOP_S = 0.1, 0.01
LONGEST_SPEECH_S = 15.0
"""Maximum seconds in a segment of `segmentation="energy"`, unless `chunk_length_s` is given."""

Emotions = list[dict[str, Any]]
"""[{"label": str, "score": float}, ...], best first; the values of a regression are in label order."""


@dataclass(frozen=True)
class TimelineOptions:
    """How to segment a long recording and what to return (arguments of the pipeline, which describes them).

    Raises:
        ValueError: an argument is out of range, or contradicts another.
    """

    chunk_length_s: float | None = None
    hop_length_s: float | None = None
    segmentation: str | None = None
    segments: Any = None
    granularity: str | None = None
    return_timestamps: bool = False
    merge: bool = False

    def __post_init__(self):
        for name in ("return_timestamps", "merge"):
            check_switch(name, getattr(self, name))
        if not self.asked_for:
            unused = [name for name in ("hop_length_s", "return_timestamps", "merge") if getattr(self, name)]
            if unused:
                raise ValueError(
                    f"{' and '.join(unused)} without chunks: pass chunk_length_s=4 for windows of 4 s, "
                    "segmentation='energy' for speech found by its energy, segments=[(start, end), ...], or "
                    "granularity='sentence' for the sentences of a transcript."
                )
            return

        if self.segmentation not in (None, *SEGMENTATIONS):
            allowed = ", ".join(map(repr, SEGMENTATIONS))
            raise ValueError(f"segmentation={self.segmentation!r} is not allowed; it must be one of {allowed}.")
        for name, shortest in (("chunk_length_s", SHORTEST_CHUNK_S), ("hop_length_s", SHORTEST_HOP_S)):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if value is not None and not (is_number and shortest <= value < float("inf")):
                raise ValueError(
                    f"{name}={value!r} is not allowed; it must be a number of seconds, at least {shortest:g}."
                )

        if self.granularity not in (None, *GRANULARITIES):
            allowed = ", ".join(map(repr, GRANULARITIES))
            raise ValueError(f"granularity={self.granularity!r} is not allowed; it must be one of {allowed}.")
        if self.segments is not None:
            self._refuse("segments", "chunk_length_s", "hop_length_s", "segmentation")
        elif self.granularity is not None:
            self._refuse("granularity", "chunk_length_s", "hop_length_s", "segmentation")
        elif self.segmentation == "energy":
            self._refuse("segmentation='energy'", "hop_length_s")
        elif self.chunk_length_s is None:
            raise ValueError("segmentation='fixed' needs a window length: pass chunk_length_s=4 for windows of 4 s.")
        elif self.hop_length_s is not None and self.hop_length_s > self.chunk_length_s:
            raise ValueError(
                f"hop_length_s={self.hop_length_s} exceeds chunk_length_s={self.chunk_length_s}, which would leave "
                "gaps between the windows. It is the time from the start of one window to the start of the next."
            )

    def _refuse(self, given: str, *names: str) -> None:
        if others := [name for name in names if getattr(self, name) is not None]:
            raise ValueError(f"{given} and {' and '.join(others)} exclude each other; leave one out.")

    @property
    def asked_for(self) -> bool:
        """Whether to return a timeline at all, not one answer for the whole clip."""
        names = ("chunk_length_s", "segmentation", "segments", "granularity")
        return any(getattr(self, name) is not None for name in names)

    def segmenter(self, turns: Sequence[Turn] | None = None, words: Words | None = None) -> Segmenter:
        """Return what cuts the recording.

        Args:
            turns: None: `segments`.
            words: those of the recording with their times, or None; they may be added later.
        """
        if turns is None and self.segments is not None:
            turns = as_turns(self.segments)
        texts = words is not None or any(turn.text for turn in turns or ())
        if self.granularity in ("word", "sentence") and not texts:
            raise ValueError(
                f"granularity={self.granularity!r} needs words with their times: pass asr='openai/whisper-base', the "
                "timed chunks of a transcript as text, or segments with texts."
            )
        if turns is not None:
            whole = self.granularity is None or self.granularity == "turn"
            return GivenSegments(turns) if whole else TurnGroups(turns, self.granularity, words)
        if words is not None and self.granularity in ("word", "sentence", "utterance"):
            return WordGroups(words, self.granularity)
        if self.granularity == "turn":
            raise ValueError(
                "granularity='turn' needs speakers: pass segments=[{'start': ..., 'end': ..., 'speaker': ...}, ...]."
            )
        if self.segmentation == "energy" or self.granularity == "utterance":
            return SpeechByEnergy(self.chunk_length_s or LONGEST_SPEECH_S)

        assert self.chunk_length_s is not None  # checked in `__post_init__`
        hop_s = self.chunk_length_s if self.hop_length_s is None else self.hop_length_s
        return FixedWindows(round(self.chunk_length_s * SAMPLING_RATE), round(hop_s * SAMPLING_RATE))


TIMELINE_ARGUMENTS = tuple(field.name for field in fields(TimelineOptions))


class TimelineSession:
    """Analyzes a recording that arrives in pieces, chunk by chunk. The result does not depend on the size of the
    pieces.

    A chunk is `{"timestamp": (start, end), "speaker": str or None, "text": str or None, "emotions": [...]}`, in
    seconds; `"speaker"` is there if any speaker is known. If the times of words are known, `"words"` lists them. The
    emotions of a chunk without audio and text, such as an empty turn, are an empty list.

    Args:
        classify: maps a list of `{"audio": float32 (n,) at 16 kHz, "text": ...}` to `{"emotions": scores of all
            labels}` for each, and what else its chunk gets.
        options: how to segment; `return_timestamps` and `merge` are left to the caller.
        batch_size: chunks to classify together.
        asr: speech recognition, for chunks without a text of their own.
        timed_texts: a transcript with times, `[{"text": ..., "timestamp": (start, end)}, ...]`, each perhaps with a
            `"speaker"`, instead of speech recognition; or what a speech recognition pipeline returns,
            `{"text": ..., "chunks": [...]}`.
        explained: maps samples, text, emotions and start of a chunk to its `"explanation"`; None: there is none.
        unanswered: what a chunk gets that has neither audio nor text.
    """

    def __init__(
        self,
        classify: Callable[[list[dict]], list[dict[str, Any]]],
        options: TimelineOptions,
        batch_size: int = 1,
        asr: Any = None,
        timed_texts: Any = None,
        explained: Callable[[np.ndarray | None, str | None, Emotions, float], dict[str, Any]] | None = None,
        unanswered: Mapping[str, Any] = MappingProxyType({"emotions": []}),
    ):
        self.classify, self._batch_size = classify, batch_size
        self._explained, self._unanswered = explained, unanswered
        self._words = self._recognizer = self._asr = None
        if isinstance(timed_texts, Mapping):
            timed_texts = timed_texts.get("chunks") or []
        if timed_texts is not None:
            self._words = Words()
            self._words.add(timed_texts)
        elif asr is not None and WordRecognizer.can_use(asr):
            self._words = Words()
            self._recognizer = WordRecognizer(asr, self._words)
        else:
            self._asr = asr

        self._turns = None if options.segments is None else as_turns(options.segments)
        if self._turns is None and options.granularity is not None and timed_texts is not None:
            self._turns = lines_at_once(timed_texts)
            if self._turns is not None:
                self._words = None  # each line has its own
            elif options.granularity == "turn":
                self._turns = speaker_turns(timed_texts)
        self._segmenter = options.segmenter(self._turns, self._words)
        named = self._turns if self._turns is not None else timed_texts or []
        self._has_speakers = any(_speaker(part) is not None for part in named)
        self._waiting: list[Segment] = []

    def check_end(self, duration_s: float | None) -> None:
        """Refuse given segments beyond the end of the recording, if it is known in advance."""
        if isinstance(self._segmenter, (GivenSegments, TurnGroups)) and duration_s is not None:
            self._segmenter.check_end(duration_s)

    def push(self, samples: np.ndarray, flush: bool = False) -> list[dict]:
        """Take mono float32 (n,) at 16 kHz and return the chunks of full batches; `flush`: of all complete chunks."""
        if self._recognizer is not None:
            samples = self._recognizer.push(samples)
        self._waiting += self._segmenter.push(samples)
        return self._classified(flush)

    def close(self) -> list[dict]:
        """Return the remaining chunks."""
        if self._recognizer is not None:
            self._waiting += self._segmenter.push(self._recognizer.close())
        self._waiting += self._segmenter.close()
        return self._classified(flush=True)

    def _classified(self, flush: bool) -> list[dict]:
        chunks: list[dict] = []
        while len(self._waiting) >= (1 if flush else self._batch_size):
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            begun = [self._begin(segment) for segment in batch]
            samples: list[dict[str, Any]] = [
                {"audio": segment.samples if len(segment.samples) else None, "text": chunk["text"]}
                for segment, chunk in zip(batch, begun, strict=True)
            ]
            spoken = [sample for sample in samples if _has_content(sample)]
            answers = iter(self.classify(spoken) if spoken else [])
            for chunk, sample in zip(begun, samples, strict=True):
                answer = next(answers) if _has_content(sample) else self._unanswered
                chunks.append({**chunk, **answer})
                if self._explained is not None and answer["emotions"]:
                    start = chunk["timestamp"][0]
                    explanation = self._explained(sample["audio"], sample["text"], answer["emotions"], start)
                    chunks[-1]["explanation"] = explanation
        return chunks

    def _begin(self, segment: Segment) -> dict:
        """Return a chunk without its emotions."""
        start, end = segment.start / SAMPLING_RATE, segment.end / SAMPLING_RATE
        chunk: dict[str, Any] = {"timestamp": (start, end)}
        if self._has_speakers:
            chunk["speaker"] = segment.speaker
        chunk["text"] = segment.text
        if segment.words is not None:
            chunk["words"] = segment.words
        elif segment.text is None and self._words is not None:
            owned = self._has_speakers and self._turns is not None
            between = words_of_turn(self._words, segment, self._turns) if owned else self._words.between(start, end)
            chunk["words"] = between
            chunk["text"] = joined(between)
        elif segment.text is None and self._asr is not None and len(segment.samples):
            chunk["text"] = self._asr({"raw": segment.samples, "sampling_rate": SAMPLING_RATE})["text"].strip() or None
        return chunk


def _speaker(part: Any) -> str | None:
    return part.speaker if isinstance(part, Turn) else part.get("speaker")


def _has_content(sample: Mapping[str, Any]) -> bool:
    return sample["audio"] is not None or bool(sample["text"] and sample["text"].strip())


def time_shares(spans: Sequence[tuple[float, float]]) -> np.ndarray:
    """Seconds that each span contributes to the total, where overlapping spans share an instant equally.

    The shares add up to the time covered.
    """
    if not len(spans):
        return np.zeros(0)

    borders, places = np.unique(np.asarray(spans, dtype=np.float64), return_inverse=True)
    starts, ends = places.reshape(-1, 2).T
    depth = np.cumsum(np.bincount(starts, minlength=len(borders)) - np.bincount(ends, minlength=len(borders)))
    until = np.concatenate([[0.0], np.cumsum(np.diff(borders) / np.maximum(depth[:-1], 1))])
    return until[ends] - until[starts]


def mean_emotions(chunks: Sequence[Mapping[str, Any]]) -> Emotions:
    """Average the chunks' scores over time, best first; without chunks, return an empty list.

    Each chunk counts by its duration. Overlapping windows share the time they have in common, so no part of the
    recording weighs more than another. Chunks without emotions do not count.

    Raises:
        ValueError: the chunks do not have scores of the same labels.
    """
    chunks = [chunk for chunk in chunks if chunk["emotions"]]
    if not chunks:
        return []

    labels = [entry["label"] for entry in chunks[0]["emotions"]]
    if any({entry["label"] for entry in chunk["emotions"]} != set(labels) for chunk in chunks):
        raise ValueError(
            "The chunks have scores of different labels. Average chunks with all labels (top_k=None, no threshold)."
        )

    shares = time_shares([chunk["timestamp"] for chunk in chunks])
    if not shares.any():  # texts of empty turns
        shares = np.ones(len(chunks))
    sums = dict.fromkeys(labels, 0.0)
    for chunk, share in zip(chunks, shares.tolist(), strict=True):
        for entry in chunk["emotions"]:
            sums[entry["label"]] += share * entry["score"]
    means = [{"label": label, "score": value / float(shares.sum())} for label, value in sums.items()]
    return sorted(means, key=lambda entry: -entry["score"])


def judge_chunks(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Decide whether to trust the mean over chunks that were judged one by one.

    It is unsure if at least half of the time is. The score is the median over time; the reason is the one that lasts
    longest. Without chunks, nothing was said.
    """
    if not chunks:
        return {"unsure": True, "unsure_score": 1.0, "unsure_reason": NO_SPEECH}

    shares = time_shares([chunk["timestamp"] for chunk in chunks])
    scores = np.array([chunk["unsure_score"] for chunk in chunks])
    order = np.argsort(-scores, kind="stable")
    middle = int(np.searchsorted(np.cumsum(shares[order]), shares.sum() / 2 * (1 - 1e-9)))
    score = float(scores[order][min(middle, len(chunks) - 1)])

    lasting = dict.fromkeys(REASONS, 0.0)
    for chunk, share in zip(chunks, shares.tolist(), strict=True):
        if chunk["unsure_reason"] is not None:
            lasting[chunk["unsure_reason"]] += share
    reason = max(lasting, key=lambda name: lasting[name]) if score >= 0.5 else None
    return {"unsure": score >= 0.5, "unsure_score": score, "unsure_reason": reason}


def merge_chunks(chunks: Sequence[Mapping[str, Any]]) -> list[dict]:
    """Merge neighboring chunks that touch or overlap and have the same best label and speaker.

    A merged chunk lasts from the first start to the last end. Its emotions are their mean over time
    ([`mean_emotions`]). Its text is what is said in all of them: each word once if the times of words are known, or
    else the texts in order. Chunks of different labels still overlap as their windows do.

    Args:
        chunks: in the order of their starts, with the scores of all labels.
    """
    runs: list[list[Mapping[str, Any]]] = []
    for chunk in chunks:
        last = runs[-1] if runs else []
        touches = any(chunk["timestamp"][0] <= part["timestamp"][1] for part in last)
        if touches and _best(last[-1]) == _best(chunk):
            last.append(chunk)
        else:
            runs.append([chunk])
    return [_merged(run) for run in runs]


def _merged(run: list[Mapping[str, Any]]) -> dict:
    if len(run) == 1:
        return dict(run[0])

    merged: dict[str, Any] = {"timestamp": (run[0]["timestamp"][0], max(chunk["timestamp"][1] for chunk in run))}
    if "speaker" in run[0]:
        merged["speaker"] = run[0]["speaker"]
    if all("words" in chunk for chunk in run):
        words = {word["timestamp"] + (word["text"],): word for chunk in run for word in chunk["words"]}
        merged |= {"text": joined(words.values()), "words": list(words.values())}
    else:
        merged["text"] = " ".join(chunk["text"] for chunk in run if chunk["text"]) or None
    merged["emotions"] = mean_emotions(run)
    return merged | (judge_chunks(run) if "unsure" in run[0] else {})


def _best(chunk: Mapping[str, Any]) -> tuple[str | None, str | None]:
    return chunk["emotions"][0]["label"] if chunk["emotions"] else None, chunk.get("speaker")
