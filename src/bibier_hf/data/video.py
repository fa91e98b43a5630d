"""Extract the audio of video clips: ffmpeg once per clip -> 16 kHz mono FLAC in a work folder that survives a kill.

ffmpeg only decodes, with all channels and at the sampling rate of the clip. Channels are averaged and resampled by
`decode_audio`, like all other audio. ffmpeg's own `-ac 1` would not average: it weighs the center of 5.1 audio by 0.29
instead of 1/6, and drops the bass channel.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from os import cpu_count
from pathlib import Path

import numpy as np
from datasets.utils import tqdm

from ..files import scratch_folder
from ..model.audio_bibier import AudioError, decode_audio
from .archives import SourceFile
from .prepare import encode_flac
from .tables import CorpusError

BYTES_PER_CLIP = 128 * 1024
"""Upper estimate for four seconds of 16-bit samples; FLAC takes about half."""


def find_ffmpeg() -> str:
    """Return the path of the ffmpeg program.

    Raises:
        CorpusError: it is not installed; the message says how to install it.
    """
    path = shutil.which("ffmpeg")
    if path is None:
        raise CorpusError(
            "Video clips are decoded by ffmpeg, which is not installed (no 'ffmpeg' in PATH). Debian and Ubuntu: "
            "apt-get install ffmpeg; macOS: brew install ffmpeg; conda: conda install -c conda-forge ffmpeg."
        )

    return path


def decode_video(path: Path, ffmpeg: str = "ffmpeg") -> np.ndarray:
    """Decode the first audio track of a media file: float32 (samples,) at 16 kHz, the mean of its channels.

    Raises:
        AudioError: there is no audio, or ffmpeg cannot decode it.
        CorpusError: ffmpeg was killed, which says nothing about the file.
    """
    options = "-map 0:a:0 -c:a pcm_f32le -f wav pipe:1".split()
    command = [ffmpeg, "-nostdin", "-v", "error", "-i", str(path), *options]
    done = subprocess.run(command, capture_output=True, check=False)

    if done.returncode < 0:
        raise CorpusError(
            f"ffmpeg was ended by signal {-done.returncode} at {path.name}. Start again: finished clips are kept."
        )

    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise AudioError(f"ffmpeg cannot decode it ({lines[-1].replace(str(path), path.name)})")

    return decode_audio(done.stdout)


def convert_clips(
    clips: Iterable[tuple[str, SourceFile]], folder: Path, total: int | None = None, description: str = "Converting"
) -> Mapping[str, Path | str]:
    """Convert clips in parallel, except for those that an earlier run has converted.

    Args:
        clips: names (`train/dia0_utt0`) and files, streamed; of a repeated name, the first is used.
        folder: receives `<name>-<key of the file>.flac`, each complete or not at all. Only one process may write to
            it.
        total: number of clips, for the progress bar.
        description: of the progress bar.

    Returns:
        name -> path of the FLAC file, or a string that says why the clip cannot be decoded.

    Raises:
        CorpusError: ffmpeg was killed.
    """
    ffmpeg = find_ffmpeg()
    workers = cpu_count() or 1
    results: dict[str, Path | str] = {}
    pending: dict[Future, str] = {}

    with scratch_folder(folder / "clips") as scratch, tqdm(total=total, desc=description, unit="clip") as bar:
        pool = ThreadPoolExecutor(workers)
        try:
            for name, file in clips:
                if name in results or name in pending.values():
                    continue

                target = folder / f"{name}-{file.key}.flac"
                if target.is_file():
                    results[name] = target
                    bar.update()
                    continue

                if len(pending) >= 2 * workers:  # keeps few clips of an archive in the scratch folder
                    _collect(pending, results, bar, wait(pending, return_when=FIRST_COMPLETED).done)

                pending[pool.submit(_convert, *_on_disk(file, name, scratch), target, ffmpeg)] = name
            _collect(pending, results, bar, wait(pending).done)
        finally:
            pool.shutdown(cancel_futures=True)

    return results


def _collect(pending: dict[Future, str], results: dict[str, Path | str], bar: tqdm, done: Iterable[Future]) -> None:
    for future in done:
        results[pending.pop(future)] = future.result()
        bar.update()


def _on_disk(file: SourceFile, name: str, scratch: Path) -> tuple[Path, Path]:
    """Return (path that ffmpeg can read, scratch path of the result).

    A clip in an archive is copied out, because mp4 cannot be decoded in one pass.
    """
    flat = scratch / name.replace("/", "-")

    if file.on_disk:
        return file.on_disk, flat.with_suffix(".flac")

    with open(flat.with_suffix(".mp4"), "wb") as copy:
        file.copy_to(copy)

    return flat.with_suffix(".mp4"), flat.with_suffix(".flac")


def _convert(source: Path, scratch: Path, target: Path, ffmpeg: str) -> Path | str:
    try:
        scratch.write_bytes(encode_flac(decode_video(source, ffmpeg)))
    except AudioError as error:
        return str(error)
    finally:
        if source.parent == scratch.parent:
            source.unlink()

    target.parent.mkdir(parents=True, exist_ok=True)
    scratch.replace(target)

    return target


def state_disk_need(clips: int, folder: Path, what: str) -> None:
    """Print how much disk space the conversion needs.

    Raises:
        CorpusError: more than is free.
    """
    need = 2 * clips * BYTES_PER_CLIP
    free = shutil.disk_usage(folder).free
    text = f"{what}: {clips} clips to convert need up to {need / 1e9:.2f} GB: half of it in {folder}, half for the prepared corpus"

    if need > free:
        raise CorpusError(
            f"{text}; only {free / 1e9:.2f} GB are free there. Free some, or set BIBIER_CACHE to another disk."
        )

    tqdm.write(f"{text} ({free / 1e9:.0f} GB are free).", file=sys.stderr)
