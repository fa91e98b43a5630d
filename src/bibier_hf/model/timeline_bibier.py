"""Emotion over the time of a long recording: chunks, what is said in each, the model's answer to each, and means of
answers.

samples -- (words, if there is speech recognition) -- segmenter -- batches of chunks -- model -- chunks with emotions
-- merged, mean
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .audio_bibier import SAMPLING_RATE
from .segments_bibier import FixedWindows, GivenSegments, Segment, Segmenter, SpeechByEnergy
from .words_bibier import Recogniser, Words, joined

SEGMENTATIONS = ("fixed", "energy")
SHORTEST_CHUNK_S, SHORTEST_HOP_S = 0.1, 0.01
LONGEST_SPEECH_S = 15.0
"""Seconds of a segment of `segmentation="energy"` at most, where `chunk_length_s` does not say."""

Emotions = list[dict[str, Any]]
"""[{"label": str, "score": float}, ...], best first."""


@dataclass(frozen=True)
class TimelineOptions:
    """How a long recording is cut and what is told of it; the arguments of the pipeline.

    Args:
        chunk_length_s: seconds of a window; with `segmentation="energy"`, of a segment at most.
        hop_length_s: seconds from the start of one window to the start of the next; at most `chunk_length_s`, which is
            the default (no overlap).
        segmentation: `"fixed"`, windows of one length, or `"energy"`, [`SpeechByEnergy`].
        segments: those of [`GivenSegments`], in place of both.
        return_timestamps: tell the chunks, too, not their mean alone.
        merge: [`merge_chunks`].

    Raises:
        ValueError: what does not fit together, or makes no sense by itself.
    """

    chunk_length_s: float | None = None
    hop_length_s: float | None = None
    segmentation: str | None = None
    segments: Sequence | None = None
    return_timestamps: bool = False
    merge: bool = False

    def __post_init__(self):
        if not self.asked_for:
            named = [name for name in ("hop_length_s", "return_timestamps", "merge") if getattr(self, name)]
            if named:
                raise ValueError(
                    f"{' and '.join(named)} without chunks: pass chunk_length_s=4 for windows of 4 s, "
                    "segmentation='energy' for speech "
                    "found by its energy, or segments=[(start, end), ...]."
                )
            return
        if self.segmentation not in (None, *SEGMENTATIONS):
            raise ValueError(
                f"segmentation={self.segmentation!r} is not allowed; it must be one of "
                f"{', '.join(map(repr, SEGMENTATIONS))}."
            )
        for name, shortest in (("chunk_length_s", SHORTEST_CHUNK_S), ("hop_length_s", SHORTEST_HOP_S)):
            value = getattr(self, name)
            number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if value is not None and not (number and shortest <= value < float("inf")):
                raise ValueError(
                    f"{name}={value!r} is not allowed; it must be a number of seconds, at least {shortest:g}."
                )
        if self.segments is not None:
            self._refuse("segments", "chunk_length_s", "hop_length_s", "segmentation")
        elif self.segmentation == "energy":
            self._refuse("segmentation='energy'", "hop_length_s")
        elif self.chunk_length_s is None:
            raise ValueError(
                "segmentation='fixed' needs the length of its windows: pass chunk_length_s=4 for windows of 4 s."
            )
        elif self.hop_length_s is not None and self.hop_length_s > self.chunk_length_s:
            raise ValueError(
                f"hop_length_s={self.hop_length_s} is more than chunk_length_s={self.chunk_length_s}, which "
                "would leave gaps between "
                "the windows. It is the time from one window's start to the next; equal lengths put windows side by "
                "side."
            )

    def _refuse(self, given: str, *names: str) -> None:
        if beside := [name for name in names if getattr(self, name) is not None]:
            raise ValueError(f"{given} and {' and '.join(beside)} exclude each other; leave one out.")

    @property
    def asked_for(self) -> bool:
        """Is this a timeline at all, not one answer to the whole clip?"""
        return not (self.chunk_length_s is None and self.segmentation is None and self.segments is None)

    def segmenter(self) -> Segmenter:
        if self.segments is not None:
            return GivenSegments(self.segments)
        if self.segmentation == "energy":
            return SpeechByEnergy(self.chunk_length_s or LONGEST_SPEECH_S)
        assert self.chunk_length_s is not None  # checked in `__post_init__`
        length = round(self.chunk_length_s * SAMPLING_RATE)
        hop = length if self.hop_length_s is None else round(self.hop_length_s * SAMPLING_RATE)
        return FixedWindows(length, hop)


TIMELINE_ARGUMENTS = tuple(field.name for field in fields(TimelineOptions))


class TimelineSession:
    """A recording that comes in pieces, analysed chunk by chunk. What it gives does not depend on the sizes of the
    pieces.

    Args:
        classify: answers a list of `{"audio": float32 (n,) at 16 kHz, "text": ...}` with the scores of all labels for
            each.
        options: how to cut; `return_timestamps` and `merge` are for whoever puts the chunks together.
        batch_size: chunks that are answered together.
        asr: speech recognition, for chunks without a text of their own.
        timed_texts: `[{"text": ..., "timestamp": (start, end)}, ...]`, a transcript with times, in place of speech
            recognition.

    A chunk is `{"timestamp": (start, end), "text": str or None, "emotions": [...]}`, seconds; with words whose times
    are known they stand in `"words"`.
    """

    def __init__(
        self,
        classify: Callable[[list[dict]], list[Emotions]],
        options: TimelineOptions,
        batch_size: int = 1,
        asr: Any = None,
        timed_texts: Sequence[Mapping[str, Any]] | None = None,
    ):
        self._classify, self._batch_size = classify, batch_size
        self._segmenter = options.segmenter()
        self._words = self._recogniser = self._asr = None
        if timed_texts is not None:
            self._words = Words()
            self._words.add(timed_texts)
        elif asr is not None and Recogniser.can_use(asr):
            self._words = Words()
            self._recogniser = Recogniser(asr, self._words)
        else:
            self._asr = asr
        self._waiting: list[Segment] = []

    def check_end(self, duration_s: float | None) -> None:
        """Refuse given segments beyond the end of the recording, where it is known beforehand."""
        if isinstance(self._segmenter, GivenSegments) and duration_s is not None:
            self._segmenter.check_end(duration_s)

    def push(self, samples: np.ndarray, flush: bool = False) -> list[dict]:
        """Takes mono samples at 16 kHz, float32 (n,); gives the chunks of whole batches, or with `flush` all that are
        complete."""
        if self._recogniser is not None:
            samples = self._recogniser.push(samples)
        self._waiting += self._segmenter.push(samples)
        return self._analyse(flush)

    def close(self) -> list[dict]:
        """The chunks that were still open."""
        if self._recogniser is not None:
            self._waiting += self._segmenter.push(self._recogniser.close())
        self._waiting += self._segmenter.close()
        return self._analyse(flush=True)

    def _analyse(self, flush: bool) -> list[dict]:
        chunks: list[dict] = []
        while len(self._waiting) >= (1 if flush else self._batch_size):
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            begun = [self._begin(segment) for segment in batch]
            inputs = [
                {"audio": segment.samples, "text": chunk["text"]} for segment, chunk in zip(batch, begun, strict=True)
            ]
            chunks += [
                {**chunk, "emotions": emotions} for chunk, emotions in zip(begun, self._classify(inputs), strict=True)
            ]
        return chunks

    def _begin(self, segment: Segment) -> dict:
        """A chunk before its emotions."""
        start, end = segment.start / SAMPLING_RATE, segment.end / SAMPLING_RATE
        chunk: dict[str, Any] = {"timestamp": (start, end), "text": segment.text}
        if segment.text is None and self._words is not None:
            chunk["words"] = self._words.between(start, end)
            chunk["text"] = joined(chunk["words"])
        elif segment.text is None and self._asr is not None:
            chunk["text"] = self._asr({"raw": segment.samples, "sampling_rate": SAMPLING_RATE})["text"].strip() or None
        return chunk


def time_shares(spans: Sequence[tuple[float, float]]) -> np.ndarray:
    """Seconds of each span; an instant that several spans cover is divided evenly among them. So the shares add up to
    the time covered."""
    if not len(spans):
        return np.zeros(0)
    borders, places = np.unique(np.asarray(spans, dtype=np.float64), return_inverse=True)
    starts, ends = places.reshape(-1, 2).T
    depth = np.cumsum(np.bincount(starts, minlength=len(borders)) - np.bincount(ends, minlength=len(borders)))
    until = np.concatenate([[0.0], np.cumsum(np.diff(borders) / np.maximum(depth[:-1], 1))])
    return until[ends] - until[starts]


def mean_emotions(chunks: Sequence[Mapping[str, Any]]) -> Emotions:
    """Mean of the chunks' scores over time, best first; [] of none.

    Each chunk counts by its duration. At an instant that several windows cover, each of them counts for an equal part
    of it: no stretch of the recording weighs more than another because windows overlap there.

    Raises:
        ValueError: chunks that do not tell the scores of the same labels.
    """
    if not chunks:
        return []
    labels = [entry["label"] for entry in chunks[0]["emotions"]]
    if any({entry["label"] for entry in chunk["emotions"]} != set(labels) for chunk in chunks):
        raise ValueError(
            "The chunks tell the scores of different labels. Take means of chunks with all labels (top_k=None, no "
            "threshold)."
        )
    shares = time_shares([chunk["timestamp"] for chunk in chunks])
    sums = dict.fromkeys(labels, 0.0)
    for chunk, share in zip(chunks, shares.tolist(), strict=True):
        for entry in chunk["emotions"]:
            sums[entry["label"]] += share * entry["score"]
    means = [{"label": label, "score": value / float(shares.sum())} for label, value in sums.items()]
    return sorted(means, key=lambda entry: -entry["score"])


def merge_chunks(chunks: Sequence[Mapping[str, Any]]) -> list[dict]:
    """Neighbours that touch or overlap and have the same best label become one chunk.

    It lasts from the first one's start to the last one's end; its emotions are their mean over time
    ([`mean_emotions`]), its text what is said in all of them: each word once where the times of words are known, else
    the texts one after the other. Chunks of different labels overlap as their windows do.

    Args:
        chunks: in the order of their starts, with the scores of all labels.
    """
    runs: list[list[Mapping[str, Any]]] = []
    for chunk in chunks:
        last = runs[-1] if runs else None
        if (
            last
            and _best(last[-1]) == _best(chunk)
            and chunk["timestamp"][0] <= max(part["timestamp"][1] for part in last)
        ):
            last.append(chunk)
        else:
            runs.append([chunk])
    return [_merged(run) for run in runs]


def _merged(run: list[Mapping[str, Any]]) -> dict:
    if len(run) == 1:
        return dict(run[0])
    merged: dict[str, Any] = {"timestamp": (run[0]["timestamp"][0], max(chunk["timestamp"][1] for chunk in run))}
    if all("words" in chunk for chunk in run):
        words = {word["timestamp"] + (word["text"],): word for chunk in run for word in chunk["words"]}
        merged |= {"text": joined(words.values()), "words": list(words.values())}
    else:
        merged["text"] = " ".join(chunk["text"] for chunk in run if chunk["text"]) or None
    return {**merged, "emotions": mean_emotions(run)}


def _best(chunk: Mapping[str, Any]) -> str:
    return chunk["emotions"][0]["label"]
