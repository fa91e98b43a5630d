"""Encoded audio files -> blocks of float32 samples, by libsndfile or by ffmpeg."""

import io
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

import numpy as np

from .containers_bibier import Container, Pieces, inspect_container
from .ffmpeg_bibier import FfmpegError, ffmpeg_path, open_with_ffmpeg

try:
    import soundfile
except ImportError:  # reported at use, with the remedy
    soundfile = None

MOST_CHANNELS = 64
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000

_LARGEST_FLAC_FRAME = 2**17
_LAST_BLOCK = 1024
_BLOCK_VALUES = 2**20
"""Values (samples x channels) to decode at once."""

_CONVERT = "Convert it first: ffmpeg -i IN -ac 1 -ar 16000 OUT.wav"


class AudioError(ValueError):
    """Unusable audio. The message says what was given, what is allowed and how to fix it."""


def check_rate(rate: Any, name: str) -> int:
    """Return a sampling rate as a whole number of Hz; refuse any other value."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.integer, np.floating)) or rate % 1 != 0:
        raise AudioError(f"{name}: the sampling rate is {rate!r}; it must be a whole number of Hz, such as 16000.")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(
            f"{name}: a sampling rate of {rate} Hz is outside {LOWEST_RATE}..{HIGHEST_RATE}. Pass it in Hz, not kHz."
        )
    return int(rate)


def check_agreement(rate: Any, expected: Any, name: str) -> None:
    """Refuse audio whose rate is not the one the user expects; None: unknown."""
    if expected is not None and rate is not None and check_rate(expected, name) != check_rate(rate, name):
        raise AudioError(
            f"{name} has a sampling rate of {rate} Hz, but sampling_rate={expected} was passed. Leave one of them out."
        )


def unreadable(name: str, error: Exception) -> AudioError:
    """The error for a file that the system does not let us read."""
    if isinstance(error, PermissionError):
        return AudioError(f"{name} cannot be read: permission denied. Ask its owner, or run: chmod +r FILE")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return AudioError(f"{name} cannot be read ({reason}).")


class AudioReader:
    """An open audio file: its samples in blocks, and a check that none are missing.

    Args:
        name: for messages.
        decoder: has `samplerate`, `channels`, and `read(n) -> (at most n, channels)`.
        container: what the structure of the file says.
        left: returns how many bytes of the file the decoder has not read yet.
    """

    def __init__(self, name: str, decoder: Any, container: Container, left: Callable[[], int]):
        self.name = name
        self.rate = check_rate(decoder.samplerate, name)
        self.channels: int = decoder.channels
        self._decoder, self._container, self._left = decoder, container, left
        if self.channels > MOST_CHANNELS:
            raise AudioError(f"{name} has {self.channels} channels; at most {MOST_CHANNELS} are allowed.")
        self._expected = decoder.frames if 0 < decoder.frames < 2**40 else 0
        self.duration_s: float | None = container.duration_s or self._expected / self.rate or None
        """Seconds; None: unknown until the end."""

    def blocks(self, samples: int) -> Iterator[np.ndarray]:
        """Yield float32 (at most `samples`, channels) until the end of the file.

        Raises:
            AudioError: the file is damaged, empty or truncated.
        """
        size = min(samples, max(1, _BLOCK_VALUES // self.channels))
        read, promised = 0, self._container.frames
        while promised is None or read < promised:
            count = size if promised is None else min(size, promised - read)
            if self._expected:  # libsndfile fills the unread part of a block with zeros, which takes time
                count = min(count, max(self._expected - read, _LAST_BLOCK))
            with _decoding(self.name):
                block = self._read(count)
            if not len(block):
                break
            read += len(block)
            yield block

        cut = self._container.cut
        if promised is not None and read < promised:
            cut = f"its header promises {promised} samples, but only {read} are present"
        if cut:
            raise AudioError(f"{self.name} is truncated: {cut}. Download or copy the file again.")
        if read < self._container.at_least * 0.99 - 5 * 1152:
            raise AudioError(
                f"{self.name}: only {read} of {self._container.at_least} samples could be decoded. {_CONVERT}"
            )
        if not read:
            raise AudioError(f"{self.name} contains no samples.")

    def _read(self, count: int) -> np.ndarray:
        if not self._container.may_stop_short:
            return self._decoder.read(count, dtype="float32", always_2d=True)

        block = np.full((count, self.channels), np.nan, np.float32)
        try:
            return self._decoder.read(out=block)
        except soundfile.LibsndfileError:  # ty: ignore[missing-union-attribute] - `open_audio` needs the package
            if self._left() > _LARGEST_FLAC_FRAME:  # damage, not the end
                raise
            return block[: int(np.argmax(np.isnan(block[:, -1])))]  # what was decoded before the error


@contextmanager
def _decoding(name: str) -> Generator[None]:
    """Turn whatever a decoder raises into an AudioError that names the file."""
    try:
        yield
    except (AudioError, ImportError, MemoryError):
        raise
    except Exception as error:  # the errors of libsndfile and soundfile have no common base class
        reason = getattr(error, "error_string", None) or str(error) or type(error).__name__
        raise AudioError(f"{name} cannot be read as audio ({reason}). {_CONVERT}") from error


@contextmanager
def open_audio(name: str, file: str | io.BytesIO, rate: int | None = None) -> Generator[AudioReader]:
    """Open an encoded file with libsndfile, or else with ffmpeg if it is installed.

    Args:
        name: for messages.
        file: a path, or the content.
        rate: Hz that the user expects; None: any.

    Raises:
        AudioError: the file cannot be opened or read.
    """
    if soundfile is None:
        raise ImportError("Reading audio files requires the soundfile package: pip install soundfile")

    with ExitStack() as stack:
        opened: BinaryIO | io.FileIO
        if isinstance(file, str):
            try:
                opened = stack.enter_context(open(file, "rb", buffering=0))
                size = os.fstat(opened.fileno()).st_size
            except OSError as error:
                raise unreadable(name, error) from error
        else:
            opened, size = file, len(file.getbuffer())
        if size == 0:
            raise AudioError(f"{name} is empty (0 bytes).")

        decoder, container = _find_decoder(name, file, opened, size, stack)
        check_agreement(decoder.samplerate, rate, name)
        view = container.view
        yield AudioReader(name, decoder, container, lambda: size - opened.tell() if view is None else view.left)


def _find_decoder(
    name: str, file: str | io.BytesIO, opened: BinaryIO | io.FileIO, size: int, stack: ExitStack
) -> tuple[Any, Container]:
    decoder, refusal = None, None
    for search in (False, True):
        with _decoding(name):
            container = inspect_container(opened, size, search)
        if search and container.view is None:
            break
        try:
            decoder = stack.enter_context(_open_soundfile(opened, container))
        except Exception as error:  # of any class, see _decoding
            refusal = error
            continue
        if decoder.format != "MP3" or container != Container():
            return decoder, container
        # MPEG frames after other bytes: libsndfile would estimate how many there are, so search for them.

    if decoder is not None:
        return decoder, container
    try:
        return stack.enter_context(open_with_ffmpeg(file)), Container(cut=container.cut)
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
            f"{name} cannot be read as audio ({reason.rstrip('.')}). Allowed: WAV, FLAC, OGG, MP3 and other formats "
            f"of libsndfile. {remedy} Pass samples without a header as an array with sampling_rate=..."
        ) from refusal


def _open_soundfile(file: BinaryIO | io.FileIO, container: Container) -> Any:
    if container.links:
        return _ChainedFile(file, container.links)

    target = file if container.view is None else container.view
    target.seek(0)
    if target is file and not isinstance(file, io.BytesIO) and os.name == "posix":
        # By its number: libsndfile then reads without Python, and the name (its bytes, its ".raw") does not matter.
        return _without_seeking(file.fileno(), closefd=False)
    return _without_seeking(target)


def _without_seeking(file: Any, **options: Any) -> Any:
    """Open a `SoundFile` that never seeks.

    soundfile seeks around each read if it can. Sequential reading does not need that, and seeking fails in a FLAC file
    of unknown length.
    """
    assert soundfile is not None  # `open_audio` has checked
    opened = soundfile.SoundFile(file, **options)
    opened._info.seekable = 0
    return opened


class _ChainedFile:
    """Consecutive Ogg streams in one file, read as one; libsndfile alone stops after the first.

    Has the interface of a `soundfile.SoundFile` that cannot seek.
    """

    def __init__(self, file: Any, links: Sequence[tuple[int, int]]):
        self._file, self._links = file, list(links)
        self._open = None
        self.frames = 0
        for number, link in enumerate(links, 1):
            with self._stream(link) as stream:
                if number == 1:
                    self.samplerate, self.channels, self.format = stream.samplerate, stream.channels, stream.format
                if (stream.samplerate, stream.channels) != (self.samplerate, self.channels):
                    raise AudioError(
                        f"stream {number} of {len(links)} has {stream.samplerate} Hz and {stream.channels} channels, "
                        f"but the first one has {self.samplerate} Hz and {self.channels}"
                    )
                self.frames += stream.frames

    def _stream(self, link: tuple[int, int]) -> Any:
        return _without_seeking(Pieces([(self._file, *link)]))

    def __enter__(self) -> "_ChainedFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.close()

    def read(self, frames: int, **options: Any) -> np.ndarray:
        """Return the next samples as float32 (at most `frames`, channels); an empty array marks the end."""
        while True:
            if self._open is not None and len(block := self._open.read(frames, **options)):
                return block
            self.__exit__()
            if not self._links:
                return np.zeros((0, self.channels), np.float32)
            self._open = self._stream(self._links.pop(0))
