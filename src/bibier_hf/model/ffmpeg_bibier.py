"""Audio that libsndfile cannot read (m4a, mp4, webm, aac, wma, ...), decoded by the `ffmpeg` program if it is
installed.

ffmpeg runs without a shell and may only open local files of known formats: no playlists, no network. Its output is
read block by block.
"""

import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

PROGRAM = "ffmpeg"
PATIENCE_S = 60.0
"""ffmpeg is stopped after this many seconds without output."""

_LARGEST_BLOCK_BYTES = 256 * 2**20
"""The most memory ffmpeg may allocate at once."""

_FORMATS = (
    "aac,ac3,eac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,flac,flv,gsm,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,"
    "mpeg,mpegts,ogg,tak,tta,w64,wav,wv"
)
"""Demuxers for files that contain their own audio. Playlists (HLS, concat) would point to other files."""


class FfmpegError(Exception):
    """ffmpeg is missing or cannot decode the file. The message is part of a sentence."""


def ffmpeg_path() -> str | None:
    """Return the path of the program, or None if it is not installed."""
    return shutil.which(PROGRAM)


class FfmpegReader:
    """Samples of the first audio track, with the interface of a `soundfile.SoundFile` that cannot seek.

    Args:
        process: a running ffmpeg that writes an AU file of big-endian float32 samples to stdout.
        errors: the file that receives its stderr.

    Raises:
        FfmpegError: there is no audio, or ffmpeg cannot decode it.
    """

    frames = 0
    format = "ffmpeg"

    def __init__(self, process: subprocess.Popen, errors: BinaryIO):
        self._process, self._errors = process, errors

        head = self._take(24)
        if len(head) < 24 or head[:4] != b".snd":
            raise self._error()

        start, _, _, self.samplerate, self.channels = np.frombuffer(head[4:], ">u4").tolist()
        self._take(start - 24)

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Return the next samples as float32 (at most `frames`, channels); an empty array marks the end."""
        width = 4 * self.channels
        content = self._take(frames * width)
        if not content and self._process.wait(PATIENCE_S) != 0:
            raise self._error()

        whole = content[: len(content) // width * width]
        return np.frombuffer(whole, ">f4").astype(np.float32).reshape(-1, self.channels)

    def _take(self, count: int) -> bytes:
        """Read `count` bytes of output, or fewer at the end."""
        stdout = self._process.stdout
        assert stdout is not None
        taken = bytearray()
        while len(taken) < count:
            if os.name == "posix" and not select.select([stdout], [], [], PATIENCE_S)[0]:
                self._process.kill()
                raise FfmpegError(f"ffmpeg produced no output for {PATIENCE_S:.0f} s and was stopped")
            part = stdout.read(min(count - len(taken), 2**20))
            if not part:
                break
            taken += part
        return bytes(taken)

    def _error(self) -> FfmpegError:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read()[-4096:].decode(errors="replace").strip().splitlines() or ["no message"]
        return FfmpegError(lines[-1].rpartition(": ")[2])


@contextmanager
def open_with_ffmpeg(file: str | BinaryIO) -> Generator[FfmpegReader]:
    """Decode a file given by its path, or the content of an open one.

    Raises:
        FfmpegError: ffmpeg is not installed, or it cannot decode the file.
    """
    program = ffmpeg_path()
    if program is None:
        raise FfmpegError("ffmpeg is not installed")

    with tempfile.TemporaryDirectory(prefix="bibier-audio-") as folder:
        if not isinstance(file, str):
            path = os.path.join(folder, "audio")  # on disk, because an mp4 file may have its index at the end
            with open(path, "wb") as copy:
                file.seek(0)
                shutil.copyfileobj(file, copy)
            file = path

        command = [program, "-nostdin", "-hide_banner", "-v", "error", "-threads", "1"]
        command += ["-max_alloc", str(_LARGEST_BLOCK_BYTES), "-protocol_whitelist", "file,pipe"]
        command += ["-format_whitelist", _FORMATS, "-i", f"file:{os.path.abspath(file)}", "-map", "0:a:0"]
        command += ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        with (
            open(os.path.join(folder, "errors"), "w+b") as errors,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, bufsize=0
            ) as process,
        ):
            try:
                yield FfmpegReader(process, errors)
            finally:
                process.kill()
