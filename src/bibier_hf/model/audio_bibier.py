"""Audio in any form -> 16 kHz mono float32, as a whole or block by block.

The only place that checks, mixes down and resamples audio; the processor, the pipeline and the corpora all call it.
"""

import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np

from .decoding_bibier import (
    MOST_CHANNELS,
    AudioError,
    AudioReader,
    check_agreement,
    check_rate,
    open_audio,
    unreadable,
)

try:
    import soxr
except ImportError:  # reported at use, with the remedy
    soxr = None

SAMPLING_RATE = 16_000
"""Hz. All supported speech backbones were trained at this rate."""

DOWNLOAD_LIMIT_BYTES = 512 * 2**20
"""Limit for a download, an open file or a pipe, because these are held in memory."""

DOWNLOAD_TIMEOUT_S = 30.0
LARGEST_CLIP_SAMPLES = 2**28
"""At the rate of the file: 1 GiB of float32, or 93 minutes at 48 kHz. Longer recordings are read in chunks."""

LOUDEST = 10.0
"""Largest amplitude that passes for audio in [-1, 1]: 20 dB above full scale."""

SILENCE = 1e-4
"""A recording is silent if it stays within this distance of its middle: 80 dB below full scale, whatever constant
offset a sound card adds."""

CANCELLED = 1e-3
"""Channels cancel if the energy of their mean is below this share of their mean energy."""

BLOCK_S = 10.0
"""Seconds to read at once."""

INPUT_FORMS = (
    "a path or an http(s) URL, the bytes of an audio file or an open one, an array with its sampling_rate, "
    '(array, rate), {"array": ..., "sampling_rate": ...}, {"raw": ..., "sampling_rate": ...} or '
    '{"path": ..., "bytes": ...}'
)


class SilentAudioError(AudioError):
    """A recording without sound, or one whose channels cancel when they are averaged."""


def decode_audio(
    audio: Any,
    sampling_rate: int | None = None,
    channel: int | None = None,
    refuse_silence: bool = False,
    refuse_canceled: bool = False,
) -> np.ndarray:
    """Decode and check audio, mix it down to mono (the mean of the channels, or one of them) and resample it to 16
    kHz.

    Args:
        audio: one of
            * `str` or `os.PathLike`: a path, or an http(s) URL (at most 512 MiB);
            * `bytes`, or a binary file open for reading (read from its position, which is then restored): an encoded
              audio file;
            * an array (NumPy, torch, nested lists) of shape (samples,), (channels, samples) or (samples, channels);
              the shorter of two axes is taken as the channels. Floats are samples in [-1, 1]; int8, int16, int32 and
              uint8 are scaled to that range. Other integers (including lists of Python ints) are refused, because
              their scale is unknown, and so are amplitudes above 10;
            * `{"array" | "raw" | "waveform": array, "sampling_rate" | "sample_rate": Hz}`;
            * `{"audio": any of these, "sampling_rate": Hz}`;
            * `{"bytes": ..., "path": ...}`, an undecoded `datasets.Audio` value;
            * `(rate, array)`, as Gradio returns it, or `(array, rate)`, as soundfile, librosa and torchaudio do;
            * an object with `get_all_samples()`, a torchcodec `AudioDecoder`.
        sampling_rate: Hz; required for a bare array, and refused if it contradicts the rate of the audio itself.
        channel: use this channel (from 0) instead of the mean of all.
        refuse_silence: raise [`SilentAudioError`] for silence and for channels that cancel in their mean.
        refuse_canceled: raise it for the latter alone.

    Returns:
        float32 array of shape (samples,): at least one sample, every value finite.

    Raises:
        FileNotFoundError: there is no file at a path.
        AudioError: anything else is wrong with the audio or its rate.
    """
    stream = AudioStream(audio, sampling_rate, channel=channel)
    blocks = []
    for block in stream:
        blocks.append(block)
        if stream.is_file and stream.mixer.count > LARGEST_CLIP_SAMPLES:
            raise AudioError(
                f"{stream.name} is longer than {stream.read_s / 60:.0f} minutes. Analyze it in chunks "
                "(chunk_length_s=...), or cut it."
            )

    if refuse_silence:
        stream.refuse_silence()
    if refuse_canceled:
        stream.refuse_canceled()
    return np.concatenate(blocks)


class AudioStream:
    """A recording as blocks of 16 kHz mono samples. Encoded files are decoded block by block, never held as a whole.

    Args:
        audio: any form of audio that [`decode_audio`] accepts.
        sampling_rate: Hz of a bare array.
        block_s: seconds in a block.
        channel: use this channel (from 0) instead of the mean of all.

    Iteration yields float32 arrays (samples,), and raises what [`decode_audio`] raises at the position of the fault.
    """

    def __init__(
        self, audio: Any, sampling_rate: int | None = None, block_s: float = BLOCK_S, channel: int | None = None
    ):
        self._source = locate_audio(audio, sampling_rate)
        self.name, self.is_file = self._source.name, self._source.file is not None
        self._block_s, self._rate = block_s, 1
        self.mixer = Mixer(self.name, channel)
        self.duration_s: float | None = None
        """Seconds in the recording, once iteration has begun; None: unknown until its end."""

    def __iter__(self) -> Iterator[np.ndarray]:
        self.mixer = Mixer(self.name, self.mixer.channel)
        with self._source.open() as reader:
            self.duration_s, self._rate = reader.duration_s, reader.rate
            resampler = StreamResampler(reader.rate, self.name)
            for frames in reader.blocks(max(1, round(self._block_s * reader.rate))):
                yield resampler.push(self.mixer.mix(frames))
            yield resampler.close()

    @property
    def read_s(self) -> float:
        """Seconds read so far."""
        return self.mixer.count / self._rate

    @property
    def peak(self) -> float:
        """Largest absolute sample so far, before resampling (1 = full scale)."""
        return self.mixer.peak

    @property
    def cancels(self) -> bool:
        """Whether the channels cancel in their mean, so far."""
        return self.mixer.cancels

    def refuse_silence(self) -> None:
        """Raise SilentAudioError if everything so far is silent, or if the channels cancel in their mean."""
        self.mixer.refuse_silence()

    def refuse_canceled(self) -> None:
        """Raise SilentAudioError if the channels cancel in their mean, so far."""
        self.mixer.refuse_canceled()


@dataclass(frozen=True)
class AudioSource:
    """Where the samples of a clip are: in an encoded file that is not open yet, or in an array.

    Args:
        name: for messages.
        file: path or content of an encoded file.
        samples: an array, if there is no file.
        rate: Hz of the array, or the rate that the user expects of the file.
    """

    name: str
    file: str | io.BytesIO | None = None
    samples: Any = None
    rate: Any = None

    def open(self) -> "AbstractContextManager[AudioReader | _ArrayReader]":
        """Return a context manager over a reader of the samples."""
        if self.file is None:
            return nullcontext(_ArrayReader(self.name, self.samples, self.rate))
        return open_audio(self.name, self.file, self.rate)


class _ArrayReader:
    """Samples in memory, with the interface of an `AudioReader`."""

    def __init__(self, name: str, samples: Any, rate: Any):
        self.rate = check_rate(rate, name)
        self._frames = as_frames(samples, name)
        self.duration_s = len(self._frames) / self.rate

    def blocks(self, samples: int) -> Iterator[np.ndarray]:
        for start in range(0, len(self._frames), samples):
            yield self._frames[start : start + samples]


def locate_audio(audio: Any, sampling_rate: int | None = None) -> AudioSource:
    """Find the samples in any form of audio (see [`decode_audio`]) without decoding a file."""
    if isinstance(audio, (str, os.PathLike)):
        return _locate_path(os.fspath(audio), sampling_rate)
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return AudioSource(f"<{len(audio)} bytes>", io.BytesIO(bytes(audio)), rate=sampling_rate)
    if is_file(audio):
        return _locate_in_file(audio, sampling_rate)
    if isinstance(audio, Mapping):
        return _locate_in_mapping(audio, sampling_rate)
    if is_rated_array(audio):
        rate, samples = audio if np.ndim(audio[0]) == 0 else reversed(audio)
        return _locate_array("<array>", samples, rate, sampling_rate)
    if hasattr(audio, "get_all_samples"):
        decoded = audio.get_all_samples()
        return _locate_array("<decoder>", decoded.data, decoded.sample_rate, sampling_rate)
    if audio is None or isinstance(audio, (bool, int, float)):
        raise AudioError(f"Audio is {audio!r}. Allowed: {INPUT_FORMS}.")
    if is_samples(audio):
        return _locate_array("<array>", audio, None, sampling_rate)

    several = "; for several clips, call the pipeline with all of them" if isinstance(audio, Iterable) else ""
    kind = f" of type {audio.dtype}" if hasattr(audio, "dtype") else ""
    raise AudioError(f"A {type(audio).__name__}{kind} is not one clip. Allowed: {INPUT_FORMS}{several}.")


def _locate_array(name: str, samples: Any, rate: Any, sampling_rate: int | None) -> AudioSource:
    check_agreement(rate, sampling_rate, name)
    rate = sampling_rate if rate is None else rate
    if rate is None:
        raise AudioError(
            f"{name} has no sampling rate. Pass sampling_rate=..., or {{'array': ..., 'sampling_rate': ...}}; a guess "
            "would change the pitch, and with it the emotion."
        )
    return AudioSource(name, samples=samples, rate=rate)


def _locate_path(path: str | bytes, sampling_rate: int | None) -> AudioSource:
    path = os.fsdecode(path)
    name = printable(path)
    if path.startswith(("http://", "https://")):
        return AudioSource(name, _download(path), rate=sampling_rate)
    if not path:
        raise AudioError(f"The audio path is an empty string. Allowed: {INPUT_FORMS}.")

    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"'{name}' is a folder, not an audio file. Pass one file, or a list of files.")
        if stat.S_ISREG(mode):
            return AudioSource(name, path, rate=sampling_rate)
        with open(path, "rb", buffering=0) as pipe:
            return AudioSource(name, _read_all(pipe, name), rate=sampling_rate)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"No audio file at '{name}'. A bare string is a path or URL, never text; for text pass {{'text': ...}}."
        ) from error
    except AudioError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise unreadable(name, error) from error


def _locate_in_file(file: Any, sampling_rate: int | None) -> AudioSource:
    name = getattr(file, "name", None)
    name = printable(os.fsdecode(name)) if isinstance(name, (str, bytes)) else f"<{type(file).__name__}>"
    try:
        position = file.tell() if getattr(file, "seekable", bool)() else None
        content = _read_all(file, name)
        if position is not None:
            file.seek(position)
    except AudioError:
        raise
    except Exception as error:  # a closed file, one that is open for writing, a network file
        raise unreadable(name, error) from error

    if position and not content.getbuffer():
        raise AudioError(f"{name} is at its end: call .seek(0) to read it again.")
    return AudioSource(name, content, rate=sampling_rate)


def _locate_in_mapping(audio: Mapping, sampling_rate: int | None) -> AudioSource:
    given = {key: value for key, value in audio.items() if value is not None}
    rate = given.get("sampling_rate", given.get("sample_rate"))
    path = str(given.get("path") or "")
    for key in ("array", "raw", "waveform"):
        if key in given:
            return _locate_array(printable(path) or "<array>", given[key], rate, sampling_rate)

    if "bytes" in given:
        if not isinstance(given["bytes"], (bytes, bytearray, memoryview)):
            raise AudioError(f"The key 'bytes' holds a {type(given['bytes']).__name__}. Pass the bytes of a file.")
        content = bytes(given["bytes"])
        return AudioSource(printable(path) or f"<{len(content)} bytes>", io.BytesIO(content), rate=sampling_rate)
    if "path" in given:
        return locate_audio(given["path"], sampling_rate)
    if "audio" in given:
        check_agreement(rate, sampling_rate, "<audio>")
        return locate_audio(given["audio"], sampling_rate if rate is None else rate)
    raise AudioError(f"A mapping with the keys {sorted(map(str, audio))} contains no audio. Allowed: {INPUT_FORMS}.")


def _download(url: str) -> io.BytesIO:
    from huggingface_hub.utils import get_session

    try:
        with get_session().stream("GET", url, timeout=DOWNLOAD_TIMEOUT_S, follow_redirects=True) as response:
            response.raise_for_status()
            return _joined(response.iter_bytes(), url)
    except AudioError:
        raise
    except Exception as error:  # HTTP errors have no common base class across versions of huggingface_hub
        raise AudioError(
            f"{url} could not be downloaded ({type(error).__name__}: {error}). Check the address, or pass a local "
            "file."
        ) from error


def _read_all(file: Any, name: str) -> io.BytesIO:
    return _joined(iter(lambda: file.read(2**20) or b"", b""), name)


def _joined(parts: Iterable[bytes], name: str) -> io.BytesIO:
    content = bytearray()
    for part in parts:
        if not isinstance(part, (bytes, bytearray)):
            raise AudioError(f"{name} is open as text. Open it with mode 'rb'.")
        content += part
        if len(content) > DOWNLOAD_LIMIT_BYTES:
            raise AudioError(
                f"{name} has more than {DOWNLOAD_LIMIT_BYTES >> 20} MiB. Save it to disk and pass the path."
            )
    return io.BytesIO(content)


def printable(name: str) -> str:
    """A path for messages, with bytes that are not UTF-8 escaped so that any terminal can print it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace") if not name.isprintable() else name


def is_file(value: Any) -> bool:
    """Whether a value is an open file (of any mode), or looks like one."""
    return callable(getattr(value, "read", None)) and not hasattr(value, "get_all_samples")


def is_rated_array(value: Any) -> bool:
    """Whether a value is one clip as `(rate, array)` or `(array, rate)`."""
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    for rate, samples in (value, value[::-1]):
        if isinstance(rate, (int, float, np.number)) and not isinstance(samples, (str, bytes, Mapping)):
            return np.ndim(samples) > 0
    return False


def is_samples(value: Any) -> bool:
    """Whether a value consists of numbers, in an array of any library or in nested lists."""
    if isinstance(value, (list, tuple)):
        return len(value) == 0 or is_samples(value[0])
    if isinstance(value, (int, float, np.number)) or hasattr(value, "detach"):
        return True
    return hasattr(value, "__array__") and np.asarray(value).dtype.kind not in "OUSMm"


def is_bare_samples(values: Any) -> bool:
    """Whether a list is one clip of plain numbers, not several clips."""
    return isinstance(values, list) and len(values) > 0 and all(isinstance(value, Number) for value in values)


def as_many(inputs: Any) -> list | Iterator | None:
    """Return the items of a collection as a list or an iterator, or None for a single clip.

    A collection is a list, a tuple, an iterator, a column of a dataset or a table, an array of paths, or the like.
    """
    if isinstance(inputs, (str, bytes, bytearray, memoryview, os.PathLike, Mapping)):
        return None
    if is_file(inputs) or is_rated_array(inputs) or is_bare_samples(inputs) or hasattr(inputs, "get_all_samples"):
        return None
    if hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):
        columns = ", ".join(map(str, inputs.columns))
        raise AudioError(
            f"A table ({type(inputs).__name__}) with the columns {columns} is not audio. Pass a column of paths, "
            "table['audio'], or its rows: table.to_dict('records')."
        )
    if isinstance(inputs, (list, tuple)) or (hasattr(inputs, "__array__") and not is_samples(inputs)):
        return list(inputs)
    if not isinstance(inputs, Iterable) or is_samples(inputs):
        return None
    return (item for item in inputs)


_SCALED = {"i1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31}


def _as_float(samples: Any, name: str) -> np.ndarray:
    if hasattr(samples, "detach"):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    try:
        array = np.asarray(samples)
    except (ValueError, TypeError) as error:
        raise AudioError(
            f"{name}: the samples do not form an array ({error}). Pass one clip at a time, or a list of arrays."
        ) from error

    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    if kind == "u1":
        return (array.astype(np.float32) - 128.0) / 128.0
    if kind in _SCALED:
        return array.astype(np.float32) / np.float32(_SCALED[kind])
    if array.dtype.kind in "iu" and array.size:
        raise AudioError(
            f"{name}: the scale of {array.dtype} samples is unknown (they range from {array.min()} to {array.max()}). "
            "Pass int16 (array.astype('int16') for 16-bit samples), int8, int32, uint8, or floats in [-1, 1]."
        )
    if array.dtype.kind != "f" and array.size:
        raise AudioError(f"{name}: samples of type {array.dtype} are not audio. Allowed: {INPUT_FORMS}.")
    with np.errstate(over="ignore"):  # the mixer reports infinite values
        return array.astype(np.float32, copy=False)


def as_frames(samples: Any, name: str) -> np.ndarray:
    """Convert samples of any type and order of axes to float32 (samples, channels)."""
    samples = _as_float(samples, name)
    if samples.size == 0:
        raise AudioError(f"{name} contains no samples (shape {samples.shape}).")
    if samples.ndim == 1:
        return samples[:, None]
    if samples.ndim != 2:
        raise AudioError(
            f"{name} has the shape {samples.shape}; allowed are (samples,), (channels, samples) and (samples, "
            "channels)."
        )

    channels = 0 if samples.shape[0] < samples.shape[1] else 1
    if samples.shape[channels] > MOST_CHANNELS:
        raise AudioError(
            f"{name} has the shape {samples.shape}, so neither axis can be the channels (at most {MOST_CHANNELS}). "
            "Pass several clips as a list of one-dimensional arrays."
        )
    return samples if channels == 1 else samples.T


class Mixer:
    """Mixes the blocks of a recording down to mono and checks every value.

    Args:
        name: of the recording, for messages.
        channel: the channel to use; None: the mean of all.
    """

    def __init__(self, name: str, channel: int | None = None):
        if channel is not None and (isinstance(channel, bool) or not isinstance(channel, int) or channel < 0):
            raise AudioError(f"channel={channel!r} is not allowed; it must be a whole number from 0, or None.")
        self.name, self.channel = name, channel
        self.count = 0
        """Samples mixed so far."""
        self.peak = 0.0
        """Largest absolute value so far."""
        self._low, self._high = np.inf, -np.inf
        self._mean_energy = self._channel_energy = 0.0

    def mix(self, frames: np.ndarray) -> np.ndarray:
        """Mix float32 (n, channels) down to (n,).

        Raises:
            AudioError: values are NaN, infinite or far too large, or there is no such channel.
        """
        channels = frames.shape[1]
        if self.channel is not None and self.channel >= channels:
            raise AudioError(
                f"{self.name} has no channel {self.channel}: it has {channels}, counted from 0. Leave out channel= to "
                "use their mean."
            )
        averages = channels > 1 and self.channel is None
        samples = frames.mean(axis=1, dtype=np.float32) if averages else frames[:, self.channel or 0]

        low, high = float(samples.min()), float(samples.max())
        if not np.isfinite(low + high):
            first = self.count + int(np.flatnonzero(~np.isfinite(samples))[0])
            raise AudioError(f"{self.name}: sample {first} is NaN or infinite. Repair or drop the recording.")
        self.peak = max(self.peak, high, -low)
        self._low, self._high = min(self._low, low), max(self._high, high)
        if self.peak > LOUDEST:
            raise AudioError(
                f"{self.name}: the amplitude {self.peak:.6g} is far outside [-1, 1]. Scale floating-point samples to "
                "that range: divide 16-bit values by 32768, or pass them as int16."
            )

        if averages:
            values = np.ascontiguousarray(frames).reshape(-1)
            self._channel_energy += float(np.dot(values, values)) / channels
            self._mean_energy += float(np.dot(samples, samples))
        self.count += len(samples)
        return samples

    @property
    def cancels(self) -> bool:
        """Whether the channels cancel in their mean."""
        loud = self._channel_energy > self.count * SILENCE**2
        return loud and self._mean_energy < CANCELLED * self._channel_energy

    def refuse_canceled(self) -> None:
        """Raise SilentAudioError if the channels cancel in their mean, so far."""
        if self.cancels:
            raise SilentAudioError(
                f"{self.name}: the channels cancel in their mean (one of them is inverted), which leaves nothing to "
                "classify. Choose one: channel=0 (--channel 0)."
            )

    def refuse_silence(self) -> None:
        """Raise SilentAudioError if everything so far is silent, or if the channels cancel in their mean."""
        self.refuse_canceled()
        swing = (self._high - self._low) / 2
        if not swing >= SILENCE:
            raise SilentAudioError(
                f"{self.name} is silent: its amplitude is {max(0.0, swing):.1g} of full scale. Leave it out, or pass "
                "its text alone."
            )


class StreamResampler:
    """Resamples mono audio to 16 kHz piece by piece; joined, the results equal the resampled whole.

    Args:
        rate: Hz of the input.
        name: of the recording, for messages.
    """

    def __init__(self, rate: int, name: str = "<stream>"):
        self.rate = check_rate(rate, name)
        self._first: np.ndarray | None = None
        self._is_empty = True  # so far
        self._filter = None
        if self.rate != SAMPLING_RATE:
            if soxr is None:
                raise ImportError(
                    f"{name} is at {rate} Hz; resampling to {SAMPLING_RATE} Hz requires the soxr package: pip install "
                    "soxr"
                )
            self._filter = soxr.ResampleStream(self.rate, SAMPLING_RATE, 1, dtype="float32", quality="HQ")

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take float32 (n,) and return float32 (m,): all that is final. The filter looks a few milliseconds ahead."""
        if self._first is None and samples.size:
            self._first = samples[:1].copy()
        if self._filter is not None:
            samples = self._filter.resample_chunk(np.ascontiguousarray(samples))
        self._is_empty = self._is_empty and not samples.size
        return samples

    def close(self) -> np.ndarray:
        """Return the rest."""
        rest = np.zeros(0, np.float32)
        if self._filter is not None:
            rest = self._filter.resample_chunk(rest, last=True)
        if self._is_empty and not rest.size and self._first is not None:
            return self._first  # too few samples for the filter: one sample is still a clip
        return rest
