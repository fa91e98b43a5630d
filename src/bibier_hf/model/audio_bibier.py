"""Audio in any form a user hands in -> 16 kHz mono float32.

The one place where audio is decoded, checked, mixed down and resampled; the processor, the pipeline and the corpora
all call it.
"""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    import soundfile
except ImportError:  # said at use, with the remedy
    soundfile = None
try:
    import soxr
except ImportError:
    soxr = None

SAMPLING_RATE = 16_000
"""Hz. Every backbone of the study was trained at this rate."""

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
DOWNLOAD_LIMIT_BYTES = 512 * 2**20
DOWNLOAD_TIMEOUT_S = 30.0
_MAX_CHANNELS = 64

INPUT_FORMS = (
    "a path or an http(s) URL, the bytes of an audio file, an array with its sampling_rate, "
    '{"array": ..., "sampling_rate": ...}, {"raw": ..., "sampling_rate": ...} or {"path": ..., "bytes": ...}'
)


class AudioError(ValueError):
    """Audio that cannot be used. The message says what was given, what is allowed and how to mend it."""


def decode_audio(audio: Any, sampling_rate: int | None = None, target_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Decode, check, mix down to mono (mean of the channels) and resample.

    Args:
        audio: one of
            * `str` or `os.PathLike`: a path, or an http(s) URL (at most 512 MiB);
            * `bytes`: an encoded audio file;
            * array (NumPy, torch, nested lists) of shape (samples,), (channels, samples) or (samples, channels); the
              shorter of two axes is taken as the channels. Integers are scaled to [-1, 1];
            * `{"array" | "raw": array, "sampling_rate": Hz}`;
            * `{"bytes": ..., "path": ...}`, an undecoded `datasets.Audio` value;
            * `(sampling_rate, array)`, a Gradio value;
            * an object with `get_all_samples()`, a torchcodec `AudioDecoder`.
        sampling_rate: Hz, needed for a bare array and refused where it contradicts the rate that the audio carries
            itself.
        target_rate: Hz of the result.

    Returns:
        float32 array of shape (samples,), at least one sample, every value finite.

    Raises:
        FileNotFoundError: a path that is not there.
        AudioError: anything else that is wrong with the audio or its rate.
    """
    source = locate_audio(audio, sampling_rate)
    samples, rate = (source.samples, source.rate) if source.file is None else _decode_file(source)
    rate = check_rate(rate, source.name)
    samples = as_mono(samples, source.name)
    if rate != target_rate:
        samples = _resample(samples, rate, target_rate, source.name)
    return np.ascontiguousarray(samples, dtype=np.float32)


@dataclass(frozen=True)
class AudioSource:
    """Where the samples of a clip are: in an encoded file that is still closed, or in an array with its rate.

    Args:
        name: for messages.
        file: path or content of an encoded file.
        samples, rate: an array and its Hz, where there is no file.
        expected_rate: Hz that the user says a file has.
    """

    name: str
    file: str | io.BytesIO | None = None
    samples: Any = None
    rate: Any = None
    expected_rate: int | None = None


def locate_audio(audio: Any, sampling_rate: int | None = None) -> AudioSource:
    """Find the samples in any form of audio (see [`decode_audio`]) without decoding a file."""
    if isinstance(audio, (str, os.PathLike)):
        text = os.fspath(audio)
        if text.startswith(("http://", "https://")):
            return AudioSource(text, io.BytesIO(_download(text)), expected_rate=sampling_rate)
        if not text:
            raise AudioError(f"The audio path is an empty string. Allowed: {INPUT_FORMS}.")
        if not os.path.exists(text):
            raise FileNotFoundError(
                f"No audio file at '{text}'. A bare string is a path or URL, never text; for text pass "
                f"{{'text': ...}}."
            )
        if os.path.isdir(text):
            raise AudioError(f"'{text}' is a folder, not an audio file. Pass one file, or a list of files.")
        return AudioSource(text, text, expected_rate=sampling_rate)
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return AudioSource(f"<{len(audio)} bytes>", io.BytesIO(bytes(audio)), expected_rate=sampling_rate)
    if isinstance(audio, Mapping):
        return _locate_in_mapping(audio, sampling_rate)
    if isinstance(audio, tuple) and len(audio) == 2 and np.ndim(audio[0]) == 0 and np.ndim(audio[1]) > 0:
        return _array_source("<array>", audio[1], audio[0], sampling_rate)
    if hasattr(audio, "get_all_samples"):
        decoded = audio.get_all_samples()
        return _array_source("<decoder>", decoded.data, decoded.sample_rate, sampling_rate)
    if audio is None or isinstance(audio, (bool, int, float)):
        raise AudioError(f"Audio is {audio!r}. Allowed: {INPUT_FORMS}.")
    if sampling_rate is None:
        raise AudioError(
            "An array of samples came without its sampling rate. Pass sampling_rate=..., or {'array': array, "
            "'sampling_rate': ...}; "
            "a guess would change the pitch and so the emotion."
        )
    return AudioSource("<array>", samples=audio, rate=sampling_rate)


def _locate_in_mapping(audio: Mapping, sampling_rate: int | None) -> AudioSource:
    for key in ("array", "raw"):
        if audio.get(key) is not None:
            name = str(audio.get("path") or "<array>")
            if audio.get("sampling_rate") is None and sampling_rate is None:
                raise AudioError(
                    f"{name}: {{'{key}': ...}} has no 'sampling_rate' (Hz) beside it. Add it; a guess would change "
                    "the pitch."
                )
            return _array_source(name, audio[key], audio.get("sampling_rate", sampling_rate), sampling_rate)
    if audio.get("bytes") is not None:
        name = str(audio.get("path") or f"<{len(audio['bytes'])} bytes>")
        return AudioSource(name, io.BytesIO(audio["bytes"]), expected_rate=sampling_rate)
    if audio.get("path") is not None:
        return locate_audio(audio["path"], sampling_rate)
    raise AudioError(f"A mapping with the keys {sorted(map(str, audio))} holds no audio. Allowed: {INPUT_FORMS}.")


def _array_source(name: str, samples: Any, rate: Any, expected_rate: int | None) -> AudioSource:
    _check_agreement(rate, expected_rate, name)
    return AudioSource(name, samples=samples, rate=rate)


def _check_agreement(rate: Any, expected_rate: int | None, name: str) -> None:
    if expected_rate is not None and rate is not None and int(expected_rate) != int(rate):
        raise AudioError(
            f"{name} has a sampling rate of {rate} Hz, but sampling_rate={expected_rate} was passed. Leave one of the "
            "two out."
        )


@contextmanager
def open_audio(source: AudioSource) -> Iterator[Any]:
    """The `soundfile.SoundFile` of an encoded file, its damages and its end checked."""
    if soundfile is None:
        raise ImportError("Reading audio files needs the package soundfile: pip install soundfile")
    size = os.path.getsize(source.file) if isinstance(source.file, str) else len(source.file.getbuffer())
    if size == 0:
        raise AudioError(f"{source.name} is empty (0 bytes).")
    try:
        with soundfile.SoundFile(source.file) as file:
            _check_agreement(file.samplerate, source.expected_rate, source.name)
            promised = file.frames
            yield file
            read = file.tell()
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{source.name} cannot be read as audio ({error.error_string}). Allowed: WAV, FLAC, OGG, MP3 and what "
            "else libsndfile reads; "
            "convert others (mp4, aac, m4a) first: ffmpeg -i IN -ac 1 -ar 16000 OUT.wav"
        ) from error
    # libsndfile stops at the end of a cut file without a word, so the promise of the header is held against what came.
    if 0 <= promised < 2**62 and read < promised:
        raise AudioError(
            f"{source.name} is cut: its header promises {promised} samples, {read} are there. Fetch the file again."
        )
    if missing := _missing_riff_bytes(source.file, size):
        raise AudioError(
            f"{source.name} is cut: {missing} bytes that its header promises are not there. Fetch the file again."
        )


def _decode_file(source: AudioSource) -> tuple[np.ndarray, int]:
    with open_audio(source) as file:
        return mixed_down(file.read(dtype="float32", always_2d=True)), file.samplerate


def mixed_down(frames: np.ndarray) -> np.ndarray:
    """(samples, channels) of a file -> (samples,)"""
    return frames.mean(axis=1, dtype=np.float32)


def _missing_riff_bytes(source: str | io.BytesIO, size: int) -> int:
    """Bytes that the `data` chunk of a WAV file promises beyond the file's end; 0 for other formats and for streamed
    headers."""
    if isinstance(source, str):
        with open(source, "rb") as file:
            return _missing_riff_bytes(io.BytesIO(file.read(64 * 1024)), size)
    head = bytes(source.getbuffer()[: 64 * 1024])
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 0
    position = 12
    while position + 8 <= len(head):
        chunk, length = head[position : position + 4], int.from_bytes(head[position + 4 : position + 8], "little")
        if chunk == b"data":
            streamed = length in (0, 0xFFFFFFFF, 0x7FFFFFFF)  # what writers to a pipe put there
            return 0 if streamed else max(0, position + 8 + length - size)
        position += 8 + length + length % 2
    return 0


def _download(url: str) -> bytes:
    from huggingface_hub.utils import get_session

    try:
        with get_session().stream("GET", url, timeout=DOWNLOAD_TIMEOUT_S, follow_redirects=True) as response:
            response.raise_for_status()
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > DOWNLOAD_LIMIT_BYTES:
                    raise AudioError(
                        f"{url} is larger than {DOWNLOAD_LIMIT_BYTES >> 20} MiB. Download it yourself and pass the "
                        "path."
                    )
            return bytes(body)
    except AudioError:
        raise
    except Exception as error:  # the HTTP client's errors share no base class across the versions of huggingface_hub
        raise AudioError(
            f"{url} could not be downloaded ({type(error).__name__}: {error}). Check the address, or pass a local "
            "file."
        ) from error


def check_rate(rate: Any, name: str) -> int:
    """A sampling rate as a whole number of Hz."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.integer, np.floating)) or rate % 1 != 0:
        raise AudioError(f"{name}: the sampling rate is {rate!r}; it must be a whole number of Hz, such as 16000.")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(
            f"{name}: a sampling rate of {rate} Hz is outside {LOWEST_RATE}..{HIGHEST_RATE}. Is it in kHz, or not the "
            "rate at all?"
        )
    return int(rate)


def _as_float(samples: Any, name: str) -> np.ndarray:
    if hasattr(samples, "detach"):
        samples = samples.detach().cpu().numpy()
    try:
        array = np.asarray(samples)
    except ValueError as error:
        raise AudioError(
            f"{name}: the samples do not form an array ({error}). Pass one clip at a time, or a list of arrays."
        ) from error
    if array.dtype.kind == "u" and array.dtype.itemsize == 1:
        return (array.astype(np.float32) - 128.0) / 128.0
    if array.dtype.kind == "i":
        return (
            array.astype(np.float32) / float(2 ** (8 * array.dtype.itemsize - 1))
            if array.dtype.itemsize <= 4
            else array.astype(np.float32)
        )
    if array.dtype.kind != "f":
        raise AudioError(f"{name}: samples of type {array.dtype} are not audio. Allowed: {INPUT_FORMS}.")
    return array.astype(np.float32, copy=False)


def as_mono(samples: Any, name: str) -> np.ndarray:
    """Samples of any type and any order of axes -> float32 (samples,), every value finite."""
    samples = _mono(_as_float(samples, name), name)
    if not np.isfinite(samples).all():
        bad = int(np.count_nonzero(~np.isfinite(samples)))
        raise AudioError(
            f"{name} has {bad} samples of {samples.size} that are NaN or infinite. Repair or drop the clip."
        )
    return samples


def _mono(samples: np.ndarray, name: str) -> np.ndarray:
    if samples.size == 0:
        raise AudioError(f"{name} holds no samples (shape {samples.shape}).")
    if samples.ndim == 1:
        return samples
    if samples.ndim != 2:
        raise AudioError(
            f"{name} has the shape {samples.shape}; allowed are (samples,), (channels, samples) and (samples, "
            "channels)."
        )
    channels = 0 if samples.shape[0] < samples.shape[1] else 1
    if samples.shape[channels] > _MAX_CHANNELS:
        raise AudioError(
            f"{name} has the shape {samples.shape}: neither axis can be the channels (at most {_MAX_CHANNELS}). "
            "Pass several clips as a list of one-dimensional arrays."
        )
    return mixed_down(samples if channels == 1 else samples.T)


def _resample(samples: np.ndarray, rate: int, target_rate: int, name: str) -> np.ndarray:
    if soxr is None:
        raise ImportError(
            f"{name} is at {rate} Hz; resampling to {target_rate} Hz needs the package soxr: pip install soxr"
        )
    resampled = soxr.resample(samples, rate, target_rate, quality="HQ")
    # A clip of a few samples may come out with none at all; one sample is still a clip.
    return resampled if resampled.size else samples[:1]
