"""Audio that libsndfile cannot read (m4a, mp4, webm, aac, wma, ...) through the program ffmpeg, where it is installed.

ffmpeg runs without a shell, reads local files of known formats only, no playlists and no network, and its output is
read block by block.
"""

import os
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

PROGRAM = "ffmpeg"
PATIENCE_S = 60.0
"""Seconds without any output after which ffmpeg is ended."""

_LARGEST_BLOCK_BYTES = 256 * 2**20
"""What ffmpeg may allocate at once."""

_FORMATS = (
    "aac,ac3,eac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,flac,flv,gsm,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,"
    "mpeg,mpegts,ogg,tak,tta,w64,wav,wv"
)
"""Demultiplexers of files that hold their own sound. Playlists (HLS, concat) would name other files."""


class FfmpegError(Exception):
    """ffmpeg is not there or cannot decode the file; the message is a part of a sentence."""


def ffmpeg_path() -> str | None:
    """The program in PATH, or None."""
    return shutil.which(PROGRAM)


class FfmpegReader:
    """Samples of the first sound track of a file; looks like a `soundfile.SoundFile` that cannot seek.

    Raises:
        FfmpegError: no sound, or none that ffmpeg can decode.
    """

    frames = 0
    format = "ffmpeg"

    def __init__(self, process: subprocess.Popen):
        assert process.stdout is not None
        assert process.stderr is not None
        self._process, self._stdout, self._stderr = process, process.stdout, process.stderr
        self._said = b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        head = self._take(24)
        if len(head) < 24 or head[:4] != b".snd":
            raise self._error()
        start, _, _, self.samplerate, self.channels = np.frombuffer(head[4:], ">u4").tolist()
        self._take(start - 24)

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """float32 (at most `frames`, channels); none at the end"""
        width = 4 * self.channels
        content = self._take(frames * width)
        if not content and self._process.wait(PATIENCE_S) != 0:
            raise self._error()
        whole = content[: len(content) // width * width]
        return np.frombuffer(whole, ">f4").astype(np.float32).reshape(-1, self.channels)

    def close(self) -> None:
        """End ffmpeg, whether it is done or not."""
        self._process.kill()
        self._process.wait()
        self._listener.join(1.0)
        self._stdout.close()
        self._stderr.close()

    def _take(self, count: int) -> bytes:
        """`count` bytes of output, fewer at its end"""
        taken = bytearray()
        while len(taken) < count:
            if os.name == "posix" and not select.select([self._stdout], [], [], PATIENCE_S)[0]:
                self._process.kill()
                raise FfmpegError(f"ffmpeg gave no sound for {PATIENCE_S:.0f} s and was ended")
            part = self._stdout.read(min(count - len(taken), 2**20))
            if not part:
                break
            taken += part
        return bytes(taken)

    def _listen(self) -> None:
        while part := self._stderr.read(4096):
            self._said = (self._said + part)[-4096:]

    def _error(self) -> FfmpegError:
        self._process.kill()
        self._process.wait()
        self._listener.join(1.0)
        lines = self._said.decode(errors="replace").strip().splitlines() or ["no message"]
        return FfmpegError(lines[-1].rpartition(": ")[2])


@contextmanager
def open_with_ffmpeg(file: str | BinaryIO) -> Generator[FfmpegReader]:
    """Decode a file by its path, or the content of an open one.

    Raises:
        FfmpegError: ffmpeg is not installed, or cannot decode it.
    """
    program = ffmpeg_path()
    if program is None:
        raise FfmpegError("ffmpeg is not installed")
    with tempfile.TemporaryDirectory(prefix="bibier-audio-") as folder:
        if not isinstance(file, str):
            path = os.path.join(folder, "audio")  # on disk, as the index of an mp4 file may be at its end
            with open(path, "wb") as copy:
                file.seek(0)
                shutil.copyfileobj(file, copy)
            file = path
        command = [program, "-nostdin", "-hide_banner", "-v", "error", "-threads", "1"]
        command += ["-max_alloc", str(_LARGEST_BLOCK_BYTES), "-protocol_whitelist", "file,pipe"]
        command += ["-format_whitelist", _FORMATS, "-i", f"file:{os.path.abspath(file)}", "-map", "0:a:0"]
        command += ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        reader = None
        try:
            reader = FfmpegReader(process)
            yield reader
        finally:
            if reader is not None:
                reader.close()
            else:
                process.kill()
                process.wait()
                process.stdout.close()
                process.stderr.close()
