"""Audio in any form a user hands in -> 16 kHz mono float32.

The one place where audio is decoded, checked, mixed down and resampled; the processor, the pipeline and the corpora
all call it.
"""

import io
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from .containers_bibier import Container, Pieces, inspect_container
from .ffmpeg_bibier import FfmpegError, ffmpeg_path, open_with_ffmpeg

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
"""Of a download, an open file or a pipe; these are in memory as a whole."""

DOWNLOAD_TIMEOUT_S = 30.0
LARGEST_CLIP_SAMPLES = 2**28
"""At the rate of the file: 1 GiB of float32, or 93 minutes at 48 kHz. Longer recordings are read in chunks."""

LOUDEST = 10.0
"""Largest amplitude that passes for sound in [-1, 1]: 20 dB over full scale."""

SILENCE = 1e-4
"""Recordings that move by less than this around their middle are silent: 80 dB below full scale, whatever constant
offset a sound card adds."""

CANCELLED = 1e-3
"""Channels cancel where the energy of their mean is below this share of the mean energy of the channels."""

_MAX_CHANNELS = 64
_LARGEST_FLAC_FRAME = 2**17
_LAST_BLOCK = 1024
_BLOCK_VALUES = 2**20
"""Values (samples x channels) that are decoded at once."""

INPUT_FORMS = (
    "a path or an http(s) URL, the bytes of an audio file or an open one, an array with its sampling_rate, "
    '(array, rate), {"array": ..., "sampling_rate": ...}, {"raw": ..., "sampling_rate": ...} or '
    '{"path": ..., "bytes": ...}'
)


class AudioError(ValueError):
    """Audio that cannot be used. The message says what was given, what is allowed and how to mend it."""


class SilentAudioError(AudioError):
    """A recording without sound, or one whose channels cancel when they are averaged."""


def decode_audio(
    audio: Any,
    sampling_rate: int | None = None,
    target_rate: int = SAMPLING_RATE,
    channel: int | None = None,
    refuse_silence: bool = False,
) -> np.ndarray:
    """Decode, check, mix down to mono (the mean of the channels, or one of them) and resample.

    Args:
        audio: one of
            * `str` or `os.PathLike`: a path, or an http(s) URL (at most 512 MiB);
            * `bytes`, or a binary file that is open for reading (read from its position, which is then restored):
              an encoded audio file;
            * array (NumPy, torch, nested lists) of shape (samples,), (channels, samples) or (samples, channels); the
              shorter of two axes is taken as the channels. Floats are samples in [-1, 1]; int8, int16, int32 and
              uint8 are scaled to it; other integers (lists of Python ints, too) are refused, as their scale is
              unknown, and so are amplitudes above 10;
            * `{"array" | "raw" | "waveform": array, "sampling_rate" | "sample_rate": Hz}`;
            * `{"audio": any of these, "sampling_rate": Hz}`;
            * `{"bytes": ..., "path": ...}`, an undecoded `datasets.Audio` value;
            * `(rate, array)`, a Gradio value, or `(array, rate)`, as soundfile, librosa and torchaudio give it;
            * an object with `get_all_samples()`, a torchcodec `AudioDecoder`.
        sampling_rate: Hz, needed for a bare array and refused where it contradicts the rate that the audio carries
            itself.
        target_rate: Hz of the result.
        channel: use this channel (from 0) in place of the mean of all.
        refuse_silence: raise [`SilentAudioError`] for silence, and where the channels cancel in their mean.

    Returns:
        float32 array of shape (samples,), at least one sample, every value finite.

    Raises:
        FileNotFoundError: a path that is not there.
        AudioError: anything else that is wrong with the audio or its rate.
    """
    source = locate_audio(audio, sampling_rate)
    if source.file is None:
        rate, mixer = check_rate(source.rate, source.name), Mixer(source.name, channel)
        samples = mixer.mix(as_frames(source.samples, source.name))
    else:
        with open_audio(source) as reader:
            rate, mixer, parts = reader.rate, Mixer(source.name, channel), []
            for frames in reader.blocks():
                parts.append(mixer.mix(frames))
                if mixer.count > LARGEST_CLIP_SAMPLES:
                    raise AudioError(
                        f"{source.name} is longer than {LARGEST_CLIP_SAMPLES / rate / 60:.0f} minutes. Analyse it in "
                        "chunks (chunk_length_s=...), or cut it."
                    )
        samples = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if refuse_silence:
        mixer.refuse_silence()
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
        return _locate_path(os.fspath(audio), sampling_rate)
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return AudioSource(f"<{len(audio)} bytes>", io.BytesIO(bytes(audio)), expected_rate=sampling_rate)
    if is_file(audio):
        return _locate_in_file(audio, sampling_rate)
    if isinstance(audio, Mapping):
        return _locate_in_mapping(audio, sampling_rate)
    if is_rated_array(audio):
        rate, samples = audio if np.ndim(audio[0]) == 0 else reversed(audio)
        return _array_source("<array>", samples, rate, sampling_rate)
    if hasattr(audio, "get_all_samples"):
        decoded = audio.get_all_samples()
        return _array_source("<decoder>", decoded.data, decoded.sample_rate, sampling_rate)
    if audio is None or isinstance(audio, (bool, int, float)):
        raise AudioError(f"Audio is {audio!r}. Allowed: {INPUT_FORMS}.")
    if not is_samples(audio):
        several = "; for several clips, call the pipeline with all of them" if isinstance(audio, Iterable) else ""
        kind = f" of type {audio.dtype}" if hasattr(audio, "dtype") else ""
        raise AudioError(f"A {type(audio).__name__}{kind} is not one clip. Allowed: {INPUT_FORMS}{several}.")
    if sampling_rate is None:
        raise AudioError(
            "An array of samples came without its sampling rate. Pass sampling_rate=..., or {'array': array, "
            "'sampling_rate': ...}; a guess would change the pitch and so the emotion."
        )
    return AudioSource("<array>", samples=audio, rate=sampling_rate)


def is_file(value: Any) -> bool:
    """Is it an open file (of whatever mode), or looks like one?"""
    return callable(getattr(value, "read", None)) and not hasattr(value, "get_all_samples")


def is_rated_array(value: Any) -> bool:
    """Is it one clip as `(rate, array)` or `(array, rate)`?"""
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    for rate, samples in (value, value[::-1]):
        if isinstance(rate, (int, float, np.number)) and not isinstance(samples, (str, bytes, Mapping)):
            return np.ndim(samples) > 0
    return False


def is_samples(value: Any) -> bool:
    """Is it numbers, in an array of any library or in nested lists?"""
    if isinstance(value, (list, tuple)):
        return len(value) == 0 or is_samples(value[0])
    if isinstance(value, (int, float, np.number)) or hasattr(value, "detach"):
        return True
    return hasattr(value, "__array__") and np.asarray(value).dtype.kind not in "OUSMm"


def as_many(inputs: Any) -> Any:
    """A collection of clips that is no list (a column of a data set or a table, an array of paths, a set) -> a list
    or an iterator of them; whatever else comes back as it is."""
    if isinstance(inputs, (str, bytes, bytearray, memoryview, os.PathLike, Mapping, list, tuple)):
        return inputs
    if is_file(inputs) or hasattr(inputs, "get_all_samples"):
        return inputs
    if hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):
        columns = ", ".join(map(str, inputs.columns))
        raise AudioError(
            f"A table ({type(inputs).__name__}) with the columns {columns} is not audio. Pass a column of paths, "
            "table['audio'], or its rows: table.to_dict('records')."
        )
    if isinstance(inputs, Iterator) or not isinstance(inputs, Iterable) or is_samples(inputs):
        return inputs
    return list(inputs) if hasattr(inputs, "__array__") else (item for item in inputs)


def _locate_path(path: str | bytes, sampling_rate: int | None) -> AudioSource:
    path = os.fsdecode(path)
    name = printable(path)
    if path.startswith(("http://", "https://")):
        return AudioSource(name, io.BytesIO(_download(path)), expected_rate=sampling_rate)
    if not path:
        raise AudioError(f"The audio path is an empty string. Allowed: {INPUT_FORMS}.")
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"No audio file at '{name}'. A bare string is a path or URL, never text; for text pass {{'text': ...}}."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise _not_readable(name, error) from error
    if stat.S_ISDIR(mode):
        raise AudioError(f"'{name}' is a folder, not an audio file. Pass one file, or a list of files.")
    if stat.S_ISREG(mode):
        return AudioSource(name, path, expected_rate=sampling_rate)
    try:
        with open(path, "rb", buffering=0) as pipe:
            return AudioSource(name, io.BytesIO(_read_all(pipe, name)), expected_rate=sampling_rate)
    except OSError as error:
        raise _not_readable(name, error) from error


def _locate_in_file(file: Any, sampling_rate: int | None) -> AudioSource:
    name = getattr(file, "name", None)
    name = printable(os.fsdecode(name)) if isinstance(name, (str, bytes)) else f"<{type(file).__name__}>"
    try:
        position = file.tell() if getattr(file, "seekable", bool)() else None
        content = _read_all(file, name)
        if not content and position:
            raise AudioError(f"{name} is at its end: call .seek(0) to read it again.")
        if position is not None:
            file.seek(position)
    except AudioError:
        raise
    except Exception as error:  # a closed file, one that is open for writing, a network's
        raise _not_readable(name, error) from error
    return AudioSource(name, io.BytesIO(content), expected_rate=sampling_rate)


def _read_all(file: Any, name: str) -> bytes:
    content = bytearray()
    while part := file.read(2**20):
        if not isinstance(part, (bytes, bytearray)):
            raise AudioError(f"{name} is open as text. Open it with mode 'rb'.")
        content += part
        if len(content) > DOWNLOAD_LIMIT_BYTES:
            raise AudioError(f"{name} gives more than {DOWNLOAD_LIMIT_BYTES >> 20} MiB. Pass the path of a file.")
    return bytes(content)


def printable(name: str) -> str:
    """A path for messages: bytes that are not UTF-8 as escapes, so that any terminal can print it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace") if not name.isprintable() else name


def _not_readable(name: str, error: Exception) -> AudioError:
    if isinstance(error, PermissionError):
        return AudioError(f"{name} cannot be read: permission denied. Ask its owner, or: chmod +r FILE")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return AudioError(f"{name} cannot be read ({reason}).")


def _locate_in_mapping(audio: Mapping, sampling_rate: int | None) -> AudioSource:
    rate = next((audio[key] for key in ("sampling_rate", "sample_rate") if audio.get(key) is not None), None)
    for key in ("array", "raw", "waveform"):
        if audio.get(key) is not None:
            name = printable(str(audio.get("path") or "<array>"))
            if rate is None and sampling_rate is None:
                raise AudioError(
                    f"{name}: {{'{key}': ...}} has no 'sampling_rate' (Hz). Add it; a guess would change the pitch."
                )
            return _array_source(name, audio[key], sampling_rate if rate is None else rate, sampling_rate)
    if audio.get("bytes") is not None:
        content = bytes(audio["bytes"])
        name = printable(str(audio.get("path") or f"<{len(content)} bytes>"))
        return AudioSource(name, io.BytesIO(content), expected_rate=sampling_rate)
    if audio.get("path") is not None:
        return locate_audio(audio["path"], sampling_rate)
    if audio.get("audio") is not None:
        if rate is not None:
            _check_agreement(rate, sampling_rate, "<audio>")
        return locate_audio(audio["audio"], sampling_rate if rate is None else rate)
    raise AudioError(f"A mapping with the keys {sorted(map(str, audio))} holds no audio. Allowed: {INPUT_FORMS}.")


def _array_source(name: str, samples: Any, rate: Any, expected_rate: int | None) -> AudioSource:
    _check_agreement(rate, expected_rate, name)
    return AudioSource(name, samples=samples, rate=rate)


def _check_agreement(rate: Any, expected_rate: int | None, name: str) -> None:
    if expected_rate is not None and rate is not None and check_rate(expected_rate, name) != check_rate(rate, name):
        raise AudioError(
            f"{name} has a sampling rate of {rate} Hz, but sampling_rate={expected_rate} was passed. Leave one of the "
            "two out."
        )


class AudioReader:
    """An encoded file that is open: its samples in blocks, and a check of its end.

    Args:
        name: for messages.
        decoder: gives `samplerate`, `channels` and `read(n) -> (at most n, channels)`.
        container: what the structure of the file says.
        left: gives the bytes of the file that the decoder has not read yet.
    """

    def __init__(self, name: str, decoder: Any, container: Container, left: Callable[[], int]):
        self.name = name
        self.rate = check_rate(decoder.samplerate, name)
        self.channels: int = decoder.channels
        self._decoder, self._container, self._left = decoder, container, left
        if self.channels > _MAX_CHANNELS:
            raise AudioError(f"{name} has {self.channels} channels; at most {_MAX_CHANNELS} are allowed.")
        self._expected = decoder.frames if 0 < decoder.frames < 2**40 else 0
        self.duration_s: float | None = container.duration_s or self._expected / self.rate or None
        """Seconds; None: unknown before the end."""

    def blocks(self, samples: int | None = None) -> Iterator[np.ndarray]:
        """float32 (at most `samples`, channels) up to the end of the file.

        Raises:
            AudioError: damage, no samples, or an end that is missing.
        """
        size = max(1, _BLOCK_VALUES // self.channels)
        size = size if samples is None else min(size, samples)
        read, promised = 0, self._container.frames
        while promised is None or read < promised:
            count = size if promised is None else min(size, promised - read)
            if self._expected:  # libsndfile fills what it does not read of a block with zeros, which takes time
                count = min(count, max(self._expected - read, _LAST_BLOCK))
            with _decoding(self.name):
                block = self._read(count)
            if not len(block):
                break
            read += len(block)
            yield block
        if promised is not None and read < promised:
            raise AudioError(
                f"{self.name} is cut: its header promises {promised} samples, {read} are there. Fetch the file again."
            )
        if self._container.cut:
            raise AudioError(f"{self.name} is cut: {self._container.cut}. Fetch the file again.")
        if read < self._container.at_least * 0.99 - 5 * 1152:
            raise AudioError(f"{self.name}: {read} of {self._container.at_least} samples could be decoded. {_CONVERT}")
        if not read:
            raise AudioError(f"{self.name} holds no samples.")

    def _read(self, count: int) -> np.ndarray:
        if not self._container.may_stop_short:
            return self._decoder.read(count, dtype="float32", always_2d=True)
        block = np.full((count, self.channels), np.nan, np.float32)
        try:
            return self._decoder.read(out=block)
        except soundfile.LibsndfileError:  # ty: ignore[missing-union-attribute] - `open_audio` needs the package
            if self._left() > _LARGEST_FLAC_FRAME:  # damage, not the end
                raise
            return block[: int(np.argmax(np.isnan(block[:, -1])))]  # what came before the error


_CONVERT = "Convert it first: ffmpeg -i IN -ac 1 -ar 16000 OUT.wav"


@contextmanager
def _decoding(name: str) -> Generator[None]:
    """Whatever a decoder raises -> AudioError with the file's name."""
    try:
        yield
    except (AudioError, ImportError, MemoryError):
        raise
    except Exception as error:  # libsndfile's errors, and those that soundfile raises around them, have no common base
        reason = getattr(error, "error_string", None) or str(error) or type(error).__name__
        raise AudioError(f"{name} cannot be read as audio ({reason}). {_CONVERT}") from error


@contextmanager
def open_audio(source: AudioSource) -> Generator[AudioReader]:
    """The reader of an encoded file: by libsndfile, else by ffmpeg where it is installed.

    Raises:
        AudioError: a file that cannot be opened or read.
    """
    if soundfile is None:
        raise ImportError("Reading audio files needs the package soundfile: pip install soundfile")
    with ExitStack() as stack:
        assert source.file is not None  # an array has nothing to open
        if isinstance(source.file, str):
            try:
                file = stack.enter_context(open(source.file, "rb", buffering=0))
                size = os.fstat(file.fileno()).st_size
            except OSError as error:
                raise _not_readable(source.name, error) from error
        else:
            file, size = source.file, len(source.file.getbuffer())
        if size == 0:
            raise AudioError(f"{source.name} is empty (0 bytes).")
        decoder, container = _find_decoder(source, file, size, stack)
        _check_agreement(decoder.samplerate, source.expected_rate, source.name)
        view = container.view
        yield AudioReader(source.name, decoder, container, lambda: size - file.tell() if view is None else view.left)


def _find_decoder(
    source: AudioSource, file: BinaryIO | io.FileIO, size: int, stack: ExitStack
) -> tuple[Any, Container]:
    decoder, refusal = None, None
    for search in (False, True):
        with _decoding(source.name):
            container = inspect_container(file, size, search)
        if search and container.view is None:
            break
        try:
            if container.links:
                decoder = stack.enter_context(_ChainedFile(file, container.links))
            else:
                decoder = stack.enter_context(_open_soundfile(file, container))
        except Exception as error:  # of any class, see _decoding
            refusal = error
            continue
        if decoder.format != "MP3" or container != Container():
            return decoder, container
        # MPEG frames behind other bytes, whose number libsndfile would estimate: they are searched.
    if decoder is not None:
        return decoder, container
    try:
        content = source.file if isinstance(source.file, str) else file
        return stack.enter_context(open_with_ffmpeg(content)), Container(cut=container.cut)
    except FfmpegError as error:
        reason = getattr(refusal, "error_string", None) or str(refusal)
        if ffmpeg_path() is None:
            remedy = (
                "m4a, mp4, webm, aac and wma need the program ffmpeg, which is not installed: install it, or convert "
                "them elsewhere: ffmpeg -i IN -ac 1 -ar 16000 OUT.wav"
            )
        else:
            remedy = f"ffmpeg cannot read it either ({error})."
        raise AudioError(
            f"{source.name} cannot be read as audio ({reason.rstrip('.')}). Allowed: WAV, FLAC, OGG, MP3 and what else "
            f"libsndfile reads. {remedy} Samples without a header are passed as an array with sampling_rate=..."
        ) from refusal


def _open_soundfile(file: BinaryIO, container: Container) -> Any:
    target = file if container.view is None else container.view
    target.seek(0)
    if target is file and not isinstance(file, io.BytesIO) and os.name == "posix":
        # By its number: libsndfile then reads without Python, and the name (its bytes, its ".raw") plays no part.
        return _reading_on(file.fileno(), closefd=False)
    return _reading_on(target)


def _reading_on(file: Any, **options: Any) -> Any:
    """A `SoundFile` that does not seek. soundfile seeks around each read where it can. Reading straight on needs none
    of that, and seeking fails in a FLAC file of unknown length."""
    assert soundfile is not None  # `open_audio` has asked for it
    opened = soundfile.SoundFile(file, **options)
    opened._info.seekable = 0
    return opened


class _ChainedFile:
    """Ogg streams one after another in one file, read as one; libsndfile alone stops after the first.

    Looks like a `soundfile.SoundFile` that cannot seek.
    """

    def __init__(self, file: BinaryIO, links: Sequence[tuple[int, int]]):
        self._views = [Pieces([(file, start, length)]) for start, length in links]
        self._open = None
        self.frames = 0
        for number, view in enumerate(self._views, 1):
            with _reading_on(view) as link:
                if number == 1:
                    self.samplerate, self.channels, self.format = link.samplerate, link.channels, link.format
                if (link.samplerate, link.channels) != (self.samplerate, self.channels):
                    raise AudioError(
                        f"stream {number} of {len(links)} has {link.samplerate} Hz and {link.channels} channels, the "
                        f"first one {self.samplerate} Hz and {self.channels}"
                    )
                self.frames += link.frames

    def __enter__(self) -> "_ChainedFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.close()

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """float32 (at most `frames`, channels); none at the end"""
        while True:
            if self._open is not None and len(block := self._open.read(frames, dtype=dtype, always_2d=always_2d)):
                return block
            self.__exit__()
            if not self._views:
                return np.zeros((0, self.channels), np.float32)
            view = self._views.pop(0)
            view.seek(0)
            self._open = _reading_on(view)


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
            f"{name}: the scale of {array.dtype} samples is unknown (they reach from {array.min()} to {array.max()}). "
            "Pass int16 (array.astype('int16') for 16-bit samples), int8, int32, uint8, or floats in [-1, 1]."
        )
    if array.dtype.kind != "f" and array.size:
        raise AudioError(f"{name}: samples of type {array.dtype} are not audio. Allowed: {INPUT_FORMS}.")
    with np.errstate(over="ignore"):  # an infinite value is told below
        return array.astype(np.float32, copy=False)


def as_frames(samples: Any, name: str) -> np.ndarray:
    """Samples of any type and any order of axes -> float32 (samples, channels)"""
    samples = _as_float(samples, name)
    if samples.size == 0:
        raise AudioError(f"{name} holds no samples (shape {samples.shape}).")
    if samples.ndim == 1:
        return samples[:, None]
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
    return samples if channels == 1 else samples.T


class Mixer:
    """Blocks of a recording -> mono, each value checked.

    Args:
        name: of the recording, for messages.
        channel: the channel to take; None: the mean of all.
    """

    def __init__(self, name: str, channel: int | None = None):
        if channel is not None and (isinstance(channel, bool) or not isinstance(channel, int) or channel < 0):
            raise AudioError(f"channel={channel!r} is not allowed; it must be a whole number from 0, or None.")
        self.name, self.channel = name, channel
        self.count = 0
        """Samples that were mixed so far."""
        self.peak = 0.0
        """Largest absolute value so far."""
        self._low, self._high = np.inf, -np.inf
        self._mean_energy = self._channel_energy = 0.0

    def mix(self, frames: np.ndarray) -> np.ndarray:
        """float32 (n, channels) -> (n,)

        Raises:
            AudioError: NaN, infinite or far too large values, or no such channel.
        """
        channels = frames.shape[1]
        if self.channel is not None and self.channel >= channels:
            raise AudioError(
                f"{self.name} has no channel {self.channel}: it has {channels}, counted from 0. Leave channel= out for "
                "their mean."
            )
        if channels == 1 or self.channel is not None:
            samples = frames[:, self.channel or 0]
        else:
            samples = frames.mean(axis=1, dtype=np.float32)
        low, high = float(samples.min()), float(samples.max())
        if not np.isfinite(low + high):
            first = self.count + int(np.flatnonzero(~np.isfinite(samples))[0])
            raise AudioError(f"{self.name}: sample {first} is NaN or infinite. Repair or drop the recording.")
        self.peak = max(self.peak, high, -low)
        self._low, self._high = min(self._low, low), max(self._high, high)
        if self.peak > LOUDEST:
            raise AudioError(
                f"{self.name}: the amplitude {self.peak:.6g} is far outside [-1, 1]. Floating-point samples must be "
                "scaled to it: divide 16-bit values by 32768, or pass them as int16."
            )
        if channels > 1 and self.channel is None:
            values = np.ascontiguousarray(frames).reshape(-1)
            self._channel_energy += float(np.dot(values, values)) / channels
            self._mean_energy += float(np.dot(samples, samples))
        self.count += len(samples)
        return samples

    @property
    def cancels(self) -> bool:
        """Do the channels cancel each other in their mean?"""
        loud = self._channel_energy > self.count * SILENCE**2
        return loud and self._mean_energy < CANCELLED * self._channel_energy

    def refuse_silence(self) -> None:
        """Say whether everything so far was silent.

        Raises:
            SilentAudioError: nothing to hear, or channels that cancel in their mean.
        """
        if self.cancels:
            raise SilentAudioError(
                f"{self.name}: the channels cancel each other in their mean (one of them is inverted), so that nothing "
                "is left to judge. Choose one: channel=0 (--channel 0)."
            )
        swing = (self._high - self._low) / 2
        if not swing >= SILENCE:
            raise SilentAudioError(
                f"{self.name} is silent: its amplitude is {max(0.0, swing):.1g} of full scale. There is no emotion in "
                "it; leave it out, or pass its text alone."
            )


def _resample(samples: np.ndarray, rate: int, target_rate: int, name: str) -> np.ndarray:
    if soxr is None:
        raise ImportError(
            f"{name} is at {rate} Hz; resampling to {target_rate} Hz needs the package soxr: pip install soxr"
        )
    resampled = soxr.resample(samples, rate, target_rate, quality="HQ")
    # A clip of a few samples may come out with none at all; one sample is still a clip.
    return resampled if resampled.size else samples[:1]
