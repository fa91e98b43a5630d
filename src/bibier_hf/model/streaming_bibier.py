"""Audio block by block: a recording of any length in bounded memory, equal to the bit to what `decode_audio` makes of
the whole."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .audio_bibier import SAMPLING_RATE, Mixer, as_frames, check_rate, locate_audio, open_audio

try:
    import soxr
except ImportError:  # said at use, with the remedy
    soxr = None

BLOCK_S = 10.0
"""Seconds that are read at once."""


class StreamResampler:
    """Mono samples at any rate, in pieces of any sizes -> 16 kHz: side by side, the results are those of the whole
    recording.

    Args:
        rate: Hz of what comes in.
        target_rate: Hz of what goes out.
        name: of the recording, for messages.
    """

    def __init__(self, rate: int, target_rate: int = SAMPLING_RATE, name: str = "<stream>"):
        self.rate = check_rate(rate, name)
        self._first: np.ndarray | None = None
        self._given = 0
        self._filter = None
        if self.rate != target_rate:
            if soxr is None:
                raise ImportError(
                    f"{name} is at {rate} Hz; resampling to {target_rate} Hz needs the package soxr: pip install soxr"
                )
            self._filter = soxr.ResampleStream(self.rate, target_rate, 1, dtype="float32", quality="HQ")

    def push(self, samples: np.ndarray) -> np.ndarray:
        """float32 (n,) -> float32 (m,): what is certain by now; the filter looks ahead by some milliseconds."""
        if self._first is None and samples.size:
            self._first = samples[:1].copy()
        return self._count(
            samples if self._filter is None else self._filter.resample_chunk(np.ascontiguousarray(samples))
        )

    def close(self) -> np.ndarray:
        """The rest."""
        rest = np.zeros(0, np.float32)
        if self._filter is not None:
            rest = self._count(self._filter.resample_chunk(rest, last=True))
        if self._given == 0 and self._first is not None:
            return self._first  # some samples of which the filter leaves none: one sample is still a clip
        return rest

    def _count(self, samples: np.ndarray) -> np.ndarray:
        self._given += len(samples)
        return samples


class AudioStream:
    """A recording as blocks of 16 kHz mono samples. Encoded files are decoded block by block and are never whole in
    memory.

    Args:
        audio: any form of audio that [`decode_audio`] takes.
        sampling_rate: Hz of a bare array.
        block_s: seconds of a block.
        channel: use this channel (from 0) in place of the mean of all.

    Iterating gives float32 arrays (samples,), and raises what [`decode_audio`] raises, where the fault stands.
    """

    def __init__(
        self, audio: Any, sampling_rate: int | None = None, block_s: float = BLOCK_S, channel: int | None = None
    ):
        self._source = locate_audio(audio, sampling_rate)
        self._block_s = block_s
        self._mixer = Mixer(self._source.name, channel)
        self._rate = 1
        self.duration_s: float | None = None
        """Seconds of the recording, once iteration has begun; None: unknown before its end."""

    @property
    def peak(self) -> float:
        """Largest absolute sample so far, before resampling (1 = full scale)."""
        return self._mixer.peak

    @property
    def read_s(self) -> float:
        """Seconds that were read so far."""
        return self._mixer.count / self._rate

    @property
    def cancels(self) -> bool:
        """Do the channels so far cancel each other in their mean?"""
        return self._mixer.cancels

    def refuse_silence(self) -> None:
        """Say whether what came so far is silent.

        Raises:
            SilentAudioError: nothing to hear, or channels that cancel in their mean.
        """
        self._mixer.refuse_silence()

    def __iter__(self) -> Iterator[np.ndarray]:
        self._mixer = Mixer(self._source.name, self._mixer.channel)
        if self._source.file is not None:
            return self._of_file()
        return self._of_array()

    def _of_array(self) -> Iterator[np.ndarray]:
        rate = self._rate = check_rate(self._source.rate, self._source.name)
        samples = self._mixer.mix(as_frames(self._source.samples, self._source.name))
        self.duration_s = len(samples) / rate
        block = self._block(rate)
        yield from self._resampled(rate, (samples[begin : begin + block] for begin in range(0, len(samples), block)))

    def _of_file(self) -> Iterator[np.ndarray]:
        with open_audio(self._source) as reader:
            self.duration_s, self._rate = reader.duration_s, reader.rate
            blocks = reader.blocks(self._block(reader.rate))
            yield from self._resampled(reader.rate, map(self._mixer.mix, blocks))

    def _block(self, rate: int) -> int:
        return max(1, round(self._block_s * rate))

    def _resampled(self, rate: int, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        resampler = StreamResampler(rate, name=self._source.name)
        for block in blocks:
            yield resampler.push(block)
        yield resampler.close()


class SampleBuffer:
    """The part of a stream that is still needed, addressed by positions from its beginning."""

    def __init__(self):
        self._blocks: list[np.ndarray] = []
        self._start = 0
        self.end = 0
        """Samples that have come so far."""

    def append(self, samples: np.ndarray) -> None:
        if len(samples):
            self._blocks.append(samples)
            self.end += len(samples)

    def cut(self, start: int, end: int) -> np.ndarray:
        """Samples start..end, a copy."""
        position, parts = self._start, [np.zeros(0, np.float32)]
        for block in self._blocks:
            parts.append(block[max(0, start - position) : max(0, end - position)])
            position += len(block)
        return np.concatenate(parts)

    def forget_before(self, position: int) -> None:
        """Let go of whole blocks before a position."""
        while self._blocks and self._start + len(self._blocks[0]) <= position:
            self._start += len(self._blocks.pop(0))
