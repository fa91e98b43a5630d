"""Rows on how cost grows with the length of a recording: extraction, pipeline, and timeline, each in a separate
process.

A second of a long recording must cost no more time than a second of a short one, and the timeline no more memory.
Extraction and pipeline hold the whole recording (its samples, front-end frames and features), so their memory grows
with it; the notes say how. Times are those of the processor, all threads together: an hour is not measured in turns
with a minute, and what else the machine does must not count.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

from measuring import Row, apart, grown_by
from serving_rows import pipe

FILE_RATE = 22_050
"""Hz of the recording on disk, so that resampling is measured, too."""

QUICK_S, FULL_S = (10, 60, 300), (10, 60, 300, 3600)
CHUNKS = {"chunk_length_s": 4, "return_timestamps": True, "batch_size": 8}


class Cost(NamedTuple):
    """Of one recording: seconds of it, seconds of processor time, and the most bytes that the process held
    meanwhile."""

    length_s: int
    seconds: float
    peak: int

    @property
    def rate(self) -> float:
        """Seconds of processor time for a second of audio"""
        return self.seconds / self.length_s


def write_noise(path: Path, length_s: int) -> None:
    """A recording of noise whose loudness changes every second, 16 bit; block by block."""
    generator = np.random.default_rng(0)

    with soundfile.SoundFile(path, "w", FILE_RATE, channels=1, subtype="PCM_16") as file:
        for _ in range(length_s):
            file.write(generator.uniform(0.01, 0.2) * generator.standard_normal(FILE_RATE, dtype=np.float32))


@torch.no_grad()
def _extraction(path: str) -> None:
    inputs = pipe().processor(audio=path)
    model: Any = pipe().model
    model.encode_audio(inputs[pipe().processor.audio_input_name], inputs["audio_attention_mask"])


def _pipeline(path: str) -> None:
    pipe()(path)


def _timeline(path: str) -> None:
    pipe()(path, **CHUNKS)


WORKS: dict[str, Callable[[str], None]] = {"extraction": _extraction, "pipeline": _pipeline, "timeline": _timeline}


@functools.cache
def costs(work: str, lengths_s: tuple[int, ...]) -> list[Cost]:
    """Run a work over recordings, the shortest first, in a process of its own; once for all rows that ask for it."""
    return apart(_costs, work, lengths_s)


def _costs(work: str, lengths_s: Sequence[int]) -> list[Cost]:
    import psutil

    measured: list[Cost] = []

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.wav"
        for length in (lengths_s[0], *lengths_s):  # the first one twice: it warms up
            write_noise(path, length)
            before, start = psutil.Process().memory_info().rss, time.process_time()
            grown = grown_by(functools.partial(WORKS[work], str(path)))
            measured.append(Cost(length, time.process_time() - start, before + grown))

    return measured[1:]


def growth(work: str, lengths_s: tuple[int, ...] = QUICK_S, name: str | None = None) -> Row:
    """A second of one minute against a second of the longer recording that costs most."""
    return time_row(name or f"growth_{work}", costs(work, lengths_s))


def time_row(name: str, measured: Sequence[Cost]) -> Row:
    """Costs of 10 s, of a minute, and of longer recordings -> the row of their times."""
    minute, *longer = measured[1:]
    worst = max(longer, key=lambda cost: cost.rate)

    return _row(name, f"{minute.length_s} s of audio", minute.rate / worst.rate, worst, minute, measured)


def memory(lengths_s: tuple[int, ...] = QUICK_S, name: str = "growth_memory") -> Row:
    """What the timeline of a long recording holds at most against that of a short one: the last of the lengths and 5
    minutes (or 60 s)."""
    return memory_row(name, costs("timeline", lengths_s))


def memory_row(name: str, measured: Sequence[Cost]) -> Row:
    short = next((cost for cost in measured if cost.length_s == 300 and cost is not measured[-1]), measured[1])
    longest = measured[-1]
    against = f"peak of {short.length_s} s; {longest.length_s} s of timeline"

    return _row(name, against, short.peak / longest.peak, longest, short, measured)


def _row(name: str, against: str, ratio: float, ours: Cost, theirs: Cost, measured: Sequence[Cost]) -> Row:
    note = ", ".join(f"{cost.length_s} s: {1000 * cost.rate:.1f} ms/s, {cost.peak >> 20} MiB" for cost in measured)
    ranges = (ours.seconds, ours.seconds), (theirs.seconds, theirs.seconds)
    return Row(name, against, ratio, 1 / 1.2, ours.seconds, theirs.seconds, *ranges, 1, note)


ROWS = {**{f"growth_{work}": functools.partial(growth, work) for work in WORKS}, "growth_memory": memory}

FULL_ROWS = {
    **{f"growth_{work}_1h": functools.partial(growth, work, FULL_S, f"growth_{work}_1h") for work in WORKS},
    "growth_memory_1h": functools.partial(memory, FULL_S, "growth_memory_1h"),
}
