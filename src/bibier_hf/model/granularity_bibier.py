"""Words, sentences and utterances as segments of a recording, and which speaker says which word."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .audio_bibier import SAMPLING_RATE
from .segments_bibier import ROUNDING_S, GivenSegments, SampleBuffer, Segment, Turn
from .words_bibier import Words, joined

GRANULARITIES = ("word", "sentence", "utterance", "turn")
PAUSE_S = 0.5
"""Silence between two words that ends an utterance."""

LONGEST_GROUP_S = 15.0
"""Maximum seconds in a sentence or an utterance; the word that would exceed it starts the next one."""

_SENTENCE_ENDS, _CLOSING = ".!?…。！？", "\"'”’»)]"


class WordGroups:
    """Words, sentences or utterances as segments. They are cut at the times of words.

    A sentence ends with `.`, `!`, `?` or `…`; an utterance ends with a pause of [`PAUSE_S`]. Both end where the
    speaker changes, and before they exceed [`LONGEST_GROUP_S`].

    Args:
        words: in order of time. Those of the samples to push must be in it before they are pushed.
        granularity: `"word"`, `"sentence"` or `"utterance"`.
    """

    def __init__(self, words: Words, granularity: str):
        self._words, self._granularity = words, granularity
        self._buffer = SampleBuffer()
        self._open: list[dict[str, Any]] = []
        self._next = 0

    def push(self, samples: np.ndarray) -> list[Segment]:
        self._buffer.append(samples)
        segments = []
        while self._next < len(self._words):
            word = self._words[self._next]
            if _at(word, 1) > self._buffer.end:
                break
            if self._open and starts_group(self._open, word, self._granularity):
                segments.append(self._segment())
            self._open.append(word)
            self._next += 1

        needed = self._open[:1] + self._words[self._next : self._next + 1]
        self._buffer.forget_before(min([self._buffer.end, *(_at(word, 0) for word in needed)]))
        return segments

    def close(self) -> list[Segment]:
        segments = []
        for index in range(self._next, len(self._words)):  # said after the end, by a transcript with other times
            if self._open and starts_group(self._open, self._words[index], self._granularity):
                segments.append(self._segment())
            self._open.append(self._words[index])
        return segments + ([self._segment()] if self._open else [])

    def _segment(self) -> Segment:
        group, self._open = self._open, []
        return group_segment(group, self._buffer, group[0].get("speaker"))


class TurnGroups:
    """Words, sentences or utterances within given turns. A turn without words is one segment.

    The words of a turn are those of its own text, whose letters share its time equally, or those that `words` has for
    it ([`words_of_turns`]).

    Args:
        turns: as for [`GivenSegments`].
        granularity: as for [`WordGroups`].
        words: of the recording, or None.
    """

    def __init__(self, turns: Sequence[Turn], granularity: str, words: Words | None):
        self._turns = GivenSegments(turns)
        self._all, self._granularity, self._words = turns, granularity, words

    def check_end(self, duration_s: float) -> None:
        self._turns.check_end(duration_s)

    def push(self, samples: np.ndarray) -> list[Segment]:
        return [part for turn in self._turns.push(samples) for part in self._parts(turn)]

    def close(self) -> list[Segment]:
        return [part for turn in self._turns.close() for part in self._parts(turn)]

    def _parts(self, turn: Segment) -> list[Segment]:
        start, end = turn.start / SAMPLING_RATE, turn.end / SAMPLING_RATE
        if turn.text is not None:
            own = Words()
            own.add([{"text": turn.text, "timestamp": (start, end)}])
            words = own.between(start, float("inf"))
        else:
            words = [] if self._words is None else words_of_turn(self._words, turn, self._all)
        if not words:
            return [turn]

        groups: list[list[dict[str, Any]]] = []
        for word in words:
            if not groups or starts_group(groups[-1], word, self._granularity):
                groups.append([])
            groups[-1].append(word)

        samples = SampleBuffer(turn.start)
        samples.append(turn.samples)
        return [group_segment(group, samples, turn.speaker, turn.start, turn.end) for group in groups]


def group_segment(
    group: Sequence[dict[str, Any]],
    samples: SampleBuffer,
    speaker: str | None,
    first: int = 0,
    last: int | None = None,
) -> Segment:
    """Return the segment of a group of words, within samples `first` to `last` of a recording."""
    last = samples.end if last is None else last
    start = min(max(_at(group[0], 0), first), last)
    end = max(start, min(_at(group[-1], 1), last))
    return Segment(start, end, samples.cut(start, end), joined(group), speaker, list(group))


def starts_group(group: Sequence[dict[str, Any]], word: dict[str, Any], granularity: str) -> bool:
    """Tell whether a word starts a new sentence or utterance after those of a group."""
    if granularity == "word" or word.get("speaker") != group[-1].get("speaker"):
        return True
    if word["timestamp"][1] - group[0]["timestamp"][0] > LONGEST_GROUP_S:
        return True
    if granularity == "sentence":
        return group[-1]["text"].rstrip(_CLOSING).endswith(tuple(_SENTENCE_ENDS))
    return word["timestamp"][0] - group[-1]["timestamp"][1] >= PAUSE_S


def words_of_turn(words: Words, turn: Segment, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The words whose middle lies in a turn. Of overlapping turns without a text of their own, a word belongs to the
    one with which it shares the most time, or else to the one that starts first."""
    start, end = turn.start / SAMPLING_RATE, turn.end / SAMPLING_RATE
    overlapping = [other for other in turns if other.text is None and other.start < end and other.end > start]
    mine = []
    for word in words.between(start, end):
        owner = max(overlapping, key=lambda other: _shared(word, other), default=None)
        if owner is None or (round(owner.start * SAMPLING_RATE), owner.speaker) == (turn.start, turn.speaker):
            mine.append(word)
    return mine


def speaker_turns(timed_texts: Sequence[dict[str, Any]]) -> list[Turn]:
    """Join the texts of a transcript to turns: neighbors of the same speaker.

    Raises:
        ValueError: the transcript names no speakers.
    """
    words = Words()
    words.add(timed_texts)
    groups: list[list[dict[str, Any]]] = []
    for index in range(len(words)):
        if not groups or words[index].get("speaker") != groups[-1][-1].get("speaker"):
            groups.append([])
        groups[-1].append(words[index])
    if not any("speaker" in group[0] for group in groups):
        raise ValueError(
            "granularity='turn' needs speakers: pass segments=[...], or texts with times and a 'speaker'."
        )
    return [
        Turn(group[0]["timestamp"][0], group[-1]["timestamp"][1], group[0].get("speaker"), joined(group))
        for group in groups
    ]


def lines_at_once(timed_texts: Sequence[Mapping[str, Any]]) -> list[Turn] | None:
    """The lines of a transcript as turns if different speakers speak at once, so that their words have no common
    order; otherwise None."""
    lines: list[Turn] = []
    for timed in timed_texts:
        start, end = timed["timestamp"]
        if start is None or end is None or not 0 <= start <= end:
            return None
        lines.append(Turn(start, end, timed.get("speaker"), timed["text"]))
    lines.sort(key=lambda line: line.start)
    last_end: dict[str | None, float] = {}
    for line in lines:
        others = (end for speaker, end in last_end.items() if speaker != line.speaker)
        if min(line.end, max(others, default=0.0)) - line.start > ROUNDING_S:
            return lines
        last_end[line.speaker] = max(line.end, last_end.get(line.speaker, 0.0))
    return None


def _shared(word: dict[str, Any], turn: Turn) -> float:
    """Seconds that a word shares with a turn."""
    start, end = word["timestamp"]
    if not turn.start <= (start + end) / 2 <= turn.end:
        return -1.0
    return min(end, turn.end) - max(start, turn.start)


def _at(word: dict[str, Any], side: int) -> int:
    return round(word["timestamp"][side] * SAMPLING_RATE)
