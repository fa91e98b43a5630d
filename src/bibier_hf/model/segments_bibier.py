"""Where the chunks of a recording start and end: fixed windows, speech found by its energy, or given segments.

Each segmenter takes the recording in pieces, and its segments do not depend on their sizes: `push(samples)` returns
the segments that are complete, `close()` the rest.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .audio_bibier import SAMPLING_RATE, AudioError

FRAME = SAMPLING_RATE // 50
"""Samples in an energy frame: 20 ms."""

ROUNDING_S = 0.1
"""Seconds by which a given segment may exceed the recording; it then ends with the recording."""


@dataclass(frozen=True)
class Turn:
    """A stretch of a recording that someone else found: a turn of a speaker, or a line of a transcript.

    Args:
        start, end: in seconds. An empty turn (`start == end`) is allowed; it has no audio.
        speaker: who speaks; None: unknown.
        text: what is said; None: unknown.
    """

    start: float
    end: float
    speaker: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording.

    Args:
        start, end: in samples at 16 kHz.
        samples: those between start and end.
        text: what is said, if it was given.
        speaker: who speaks, if it was given.
        words: the words of the text with their times, if they are known.
    """

    start: int
    end: int
    samples: np.ndarray
    text: str | None = None
    speaker: str | None = None
    words: list[dict[str, Any]] | None = None


class Segmenter(Protocol):
    def push(self, samples: np.ndarray) -> list[Segment]: ...

    def close(self) -> list[Segment]: ...


class SampleBuffer:
    """The part of a stream that is still needed, addressed by position from the start of the stream.

    Args:
        start: position of the first sample to come.
    """

    def __init__(self, start: int = 0):
        self._blocks: list[np.ndarray] = []
        self._start = self.end = start
        """Samples received so far."""

    def append(self, samples: np.ndarray) -> None:
        if len(samples):
            self._blocks.append(samples)
            self.end += len(samples)

    def cut(self, start: int, end: int) -> np.ndarray:
        """Return a copy of the samples from start to end."""
        position, parts = self._start, [np.zeros(0, np.float32)]
        for block in self._blocks:
            parts.append(block[max(0, start - position) : max(0, end - position)])
            position += len(block)
        return np.concatenate(parts)

    def forget_before(self, position: int) -> None:
        """Drop whole blocks before a position."""
        while self._blocks and self._start + len(self._blocks[0]) <= position:
            self._start += len(self._blocks.pop(0))


def frame_levels(samples: np.ndarray) -> np.ndarray:
    """Level of each whole frame in dB of full scale, -100 for silence: (n,) -> (n // FRAME,)."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    return 10 * np.log10(np.square(frames, dtype=np.float64).mean(axis=1) + 1e-10)


class FixedWindows:
    """Windows of one length at a fixed hop, until the whole recording is covered. The last one may be shorter.

    Args:
        length, hop: in samples, hop <= length.
    """

    def __init__(self, length: int, hop: int):
        self._length, self._hop = length, hop
        self._buffer = SampleBuffer()
        self._next = 0

    def push(self, samples: np.ndarray) -> list[Segment]:
        self._buffer.append(samples)
        segments = []
        while self._next + self._length <= self._buffer.end:
            segments.append(self._window(self._next + self._length))
            self._next += self._hop
            self._buffer.forget_before(self._next)
        return segments

    def close(self) -> list[Segment]:
        covered = self._next - self._hop + self._length if self._next else 0
        return [self._window(self._buffer.end)] if covered < self._buffer.end else []

    def _window(self, end: int) -> Segment:
        return Segment(self._next, end, self._buffer.cut(self._next, end))


class SpeechByEnergy:
    """Stretches that are louder than the background, by the level of 20 ms frames.

    Deterministic, and blind to anything but loudness. The background is the lowest level of the last 5 s, clipped to
    -70..-40 dB of full scale. A segment starts when the level exceeds the background by `on_db`, and ends when it has
    not exceeded it by `off_db` for `silence_s` (hysteresis: a sound that wavers between the two does not break a
    segment). It is extended by `pad_s` on either side. Segments are cut at `longest_s`, at the quietest frame of their
    second half; a sound shorter than `speech_s` is a click, not a segment.

    Args:
        longest_s: maximum seconds in a segment.
        on_db, off_db: dB above the background.
        silence_s, speech_s, pad_s: seconds.
    """

    def __init__(
        self,
        longest_s: float,
        on_db: float = 10.0,
        off_db: float = 5.0,
        silence_s: float = 0.3,
        speech_s: float = 0.1,
        pad_s: float = 0.1,
    ):
        self._on_db, self._off_db = on_db, off_db
        self._silence, self._shortest, self._pad = (_frames(seconds) for seconds in (silence_s, speech_s, pad_s))
        self._longest = max(2, _frames(longest_s) - 2 * self._pad)
        self._buffer = SampleBuffer()
        self._frame = 0  # number of frames seen
        # (frame, level) with rising levels: the first one is the lowest of the last 5 s.
        self._recent: deque[tuple[int, float]] = deque()
        self._start: int | None = None  # first frame of the open segment
        self._continued = False  # whether the open segment continues one that was cut
        self._last_loud = 0
        self._levels: list[float] = []  # of the open segment
        self._given_up_to = 0  # samples

    def push(self, samples: np.ndarray) -> list[Segment]:
        self._buffer.append(samples)
        segments = []
        for level in frame_levels(self._buffer.cut(self._frame * FRAME, self._buffer.end)).tolist():
            segments += self._look_at(level)
            self._frame += 1

        needed = self._frame if self._start is None else self._start
        self._buffer.forget_before((needed - self._pad) * FRAME)
        return segments

    def close(self) -> list[Segment]:
        return [] if self._start is None else self._end_at(self._start, self._last_loud + 1)

    def _look_at(self, level: float) -> list[Segment]:
        background = self._background(level)
        if self._start is None:
            if level > background + self._on_db:
                self._start, self._continued, self._last_loud, self._levels = self._frame, False, self._frame, [level]
            return []

        self._levels.append(level)
        if level > background + self._off_db:
            self._last_loud = self._frame
        elif self._frame - self._last_loud >= self._silence:
            return self._end_at(self._start, self._last_loud + 1)
        return self._cut(self._start) if len(self._levels) >= self._longest else []

    def _background(self, level: float) -> float:
        while self._recent and self._recent[-1][1] >= level:
            self._recent.pop()
        self._recent.append((self._frame, level))
        if self._recent[0][0] <= self._frame - _frames(5.0):
            self._recent.popleft()
        return min(max(self._recent[0][1], -70.0), -40.0)

    def _end_at(self, start: int, frame: int) -> list[Segment]:
        shortest = 1 if self._continued else self._shortest
        self._start = None
        return [self._segment(start, frame + self._pad)] if frame - start >= shortest else []

    def _cut(self, start: int) -> list[Segment]:
        half = max(1, len(self._levels) // 2)
        quietest = half + int(np.argmin(self._levels[half:]))
        segment = self._segment(start, start + quietest)
        self._start, self._continued, self._levels = start + quietest, True, self._levels[quietest:]
        return [segment]

    def _segment(self, first: int, end: int) -> Segment:
        """Return frames first..end with the pad before them, which never reaches into the previous segment."""
        start, end = max((first - self._pad) * FRAME, self._given_up_to), min(end * FRAME, self._buffer.end)
        self._given_up_to = end
        return Segment(start, end, self._buffer.cut(start, end))


class GivenSegments:
    """Segments found by someone else, such as a diarization or a transcript.

    Args:
        turns: from [`as_turns`], in order of their starts; they may overlap.

    Raises:
        AudioError: from [`check_end`] and `close`, for a segment beyond the end of the recording.
    """

    def __init__(self, turns: Any):
        self._turns = as_turns(turns)
        self._waiting = deque(self._turns)
        self._buffer = SampleBuffer()

    def check_end(self, duration_s: float) -> None:
        """Refuse segments beyond the end of a recording."""
        for index, turn in enumerate(self._turns):
            if turn.end > duration_s + ROUNDING_S or (turn.start >= duration_s and turn.end > turn.start):
                raise AudioError(
                    f"segments[{index}] is {turn.start} to {turn.end} s, but the recording ends at {duration_s:.3f} s."
                )

    def push(self, samples: np.ndarray) -> list[Segment]:
        self._buffer.append(samples)
        segments = []
        while self._waiting and _samples(self._waiting[0].end) <= self._buffer.end:
            segments.append(self._next())
        self._buffer.forget_before(_samples(self._waiting[0].start) if self._waiting else self._buffer.end)
        return segments

    def close(self) -> list[Segment]:
        self.check_end(self._buffer.end / SAMPLING_RATE)
        return [self._next() for _ in range(len(self._waiting))]

    def _next(self) -> Segment:
        turn = self._waiting.popleft()
        start = _samples(turn.start)
        end = max(start, min(_samples(turn.end), self._buffer.end))
        return Segment(start, end, self._buffer.cut(start, end), turn.text, turn.speaker)


def _frames(seconds: float) -> int:
    return round(seconds * SAMPLING_RATE / FRAME)


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLING_RATE)


_FORM = '(start, end) or {"start": ..., "end": ..., "speaker": ..., "text": ...}, in seconds'


def as_turns(segments: Any) -> list[Turn]:
    """Check segments and sort them by their starts.

    Args:
        segments: a list (or an array) of `(start, end)`, `{"start": s, "end": s, "speaker": str or None, "text": str
            or None}` or objects with these attributes, such as [`Turn`]; or the output of a diarization, which is
            anything with `itertracks(yield_label=True)`.

    Raises:
        ValueError: this is not a list of segments, or one has impossible times.
    """
    diarization = getattr(segments, "speaker_diarization", segments)
    if hasattr(diarization, "itertracks"):
        tracks = diarization.itertracks(yield_label=True)
        segments = [Turn(stretch.start, stretch.end, str(label)) for stretch, _, label in tracks]
    if isinstance(segments, np.ndarray):
        segments = segments.tolist()
    if isinstance(segments, (str, bytes, Mapping)) or not isinstance(segments, Sequence) or not segments:
        raise ValueError(f"segments={segments!r:.80} is not allowed; it must be a list of {_FORM}, with at least one.")

    turns = [_as_turn(index, segment) for index, segment in enumerate(segments)]
    return sorted(turns, key=lambda turn: (turn.start, turn.end))


def _as_turn(index: int, segment: Any) -> Turn:
    if isinstance(segment, Mapping) and {"start", "end"} <= set(segment) <= {"start", "end", "speaker", "text"}:
        turn = Turn(**segment)
    elif isinstance(segment, (tuple, list)) and len(segment) == 2:
        turn = Turn(*segment)
    elif hasattr(segment, "start") and hasattr(segment, "end"):
        speaker, text = getattr(segment, "speaker", None), getattr(segment, "text", None)
        turn = Turn(segment.start, segment.end, speaker, text)
    else:
        raise ValueError(f"segments[{index}] is {segment!r:.80}; allowed: {_FORM}.")

    start, end = turn.start, turn.end
    numbers = all(isinstance(value, (int, float, np.number)) and math.isfinite(value) for value in (start, end))
    if not numbers or not all(value is None or isinstance(value, str) for value in (turn.speaker, turn.text)):
        raise ValueError(
            f"segments[{index}] is {segment!r:.80}; start and end must be numbers of seconds, and the text a string "
            "(as well as the speaker)."
        )
    if not 0 <= start <= end:
        raise ValueError(
            f"segments[{index}] is {start} to {end} s; a segment must start at 0 or later and end after its start."
        )
    for value in (turn.speaker, turn.text):
        if value is not None and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"segments[{index}] is {segment!r:.80}; it holds half of a surrogate pair.")
    speaker = " ".join((turn.speaker or "").split()) or None
    return Turn(float(start), float(end), speaker, turn.text)
