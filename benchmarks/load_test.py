"""Put a server under load: requests of several clients at once, live audio at the speed of speech, memory.

    python benchmarks/load_test.py                                  # a small untrained model
    python benchmarks/load_test.py outputs/resd --requests 500 --clients 8 --json outputs/load.json

It starts `bibier serve` on this machine, and ends it by SIGTERM while requests are being answered. The bare pipeline
answers 100 of the clips in this process, one at a time and in batches, half of them before and half after the server
ran. Times of the processor depend less on what else the machine does.
"""

import argparse
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile

from bibier_hf import BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.commands.checkpoint import load_pipeline
from bibier_hf.demo.analysis import Heard, Limits, answer_live
from bibier_hf.demo.app import LIVE_EVERY_S
from bibier_hf.files import write_json
from bibier_hf.serve import LiveClient
from serving_rows import RATE, RESD_SECONDS

MICROPHONE_RATE = 48_000

LIVE_S = 20
"""Length of the live signals in seconds."""


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table; returns 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="folder or Hub id; without it, a small untrained model")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, help="length of the clips; without it, lengths of RESD's clips")
    parser.add_argument("--live", type=int, default=2, help="live signals at once")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = options.checkpoint or _untrained(Path(folder) / "bibier")
        clips = _clips(options.requests, options.seconds)
        figures: dict[str, Any] = {"requests": options.requests, "clients": options.clients, "cores": os.cpu_count()}
        figures |= {"seconds of audio in a request": sum(map(_seconds, clips)) / len(clips)}
        pipeline = _Pipeline(checkpoint)
        pipeline.measure(clips[:50])
        with _Server(checkpoint) as server:
            figures |= _measure_requests(server, clips, options.clients)
            pipeline.measure(clips[50:100])
            figures |= _measure_live(server, options.live)
            figures |= pipeline.measure_microphone()
            figures |= _measure_end(server, clips[: options.clients])
        figures |= pipeline.figures()

    for name, value in figures.items():
        print(f"{name:<42}{value:>12.4g}" if isinstance(value, float) else f"{name:<42}{value:>12}")
    if options.json:
        write_json(options.json, figures)
    return 1 if figures["failed requests"] or figures["cut off at the end"] else 0


def _untrained(folder: Path) -> str:
    BiBiERForEmotionClassification.from_backbones(hidden_size=64, num_hidden_layers=2).save_pretrained(folder)
    BiBiERProcessor.from_backbones().save_pretrained(folder)
    return str(folder)


def _clips(count: int, fixed: float | None) -> list[bytes]:
    """FLAC files of noise, of a fixed length or as long as clips of RESD."""
    random = np.random.default_rng(0)
    seconds = np.interp(random.uniform(0, len(RESD_SECONDS) - 1, count), range(len(RESD_SECONDS)), RESD_SECONDS)
    if fixed is not None:
        seconds[:] = fixed
    files = []
    for length in seconds:
        file = io.BytesIO()
        noise = np.asarray(0.1 * random.standard_normal(round(RATE * length)), np.float32)
        soundfile.write(file, noise, RATE, format="FLAC")
        files.append(file.getvalue())
    return files


def _seconds(clip: bytes) -> float:
    return soundfile.info(io.BytesIO(clip)).duration


class _Pipeline:
    """The bare pipeline in this process."""

    def __init__(self, checkpoint: str):
        self._pipe: Any = load_pipeline(checkpoint)
        self._times: list[float] = []
        self._batched = self._batched_busy = self._busy = 0.0

    def measure(self, clips: list[bytes]) -> None:
        self._pipe(clips[:16], batch_size=16)
        busy = time.process_time()
        self._times += [_time(lambda clip=clip: self._pipe(clip, return_unsure=True)) for clip in clips]
        self._busy += time.process_time() - busy

        busy = time.process_time()
        self._batched += _time(lambda: self._pipe(clips, batch_size=16, return_unsure=True))
        self._batched_busy += time.process_time() - busy

    def figures(self) -> dict[str, Any]:
        count = len(self._times)
        return {
            "pipeline, p50 (s)": float(np.median(self._times)),
            "pipeline, p95 (s)": float(np.quantile(self._times, 0.95)),
            "pipeline, clips per second": count / sum(self._times),
            "pipeline, processor time per clip (s)": self._busy / count,
            "pipeline in batches, clips per second": count / self._batched,
            "pipeline in batches, processor time (s)": self._batched_busy / count,
        }

    def measure_microphone(self) -> dict[str, Any]:
        """What the demo does with each piece of a live voice, once its window is full."""
        random, heard, times = np.random.default_rng(0), None, []
        for _ in range(2 * LIVE_S):
            piece = (0.1 * random.standard_normal(round(MICROPHONE_RATE * LIVE_EVERY_S))).astype(np.float32)
            begin = time.perf_counter()
            heard = Heard.of((MICROPHONE_RATE, piece), heard, Limits().live_s)
            assert heard is not None
            answer_live(self._pipe, heard)
            times.append(time.perf_counter() - begin)
        return {
            "microphone of the demo, p50 (s)": float(np.median(times)),
            "microphone of the demo, p95 (s)": float(np.quantile(times, 0.95)),
        }


class _Server:
    """`bibier serve` in a process of its own."""

    def __init__(self, checkpoint: str):
        command = [sys.executable, "-m", "bibier_cli", "serve", checkpoint, "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "_Server":
        assert self.process.stdout is not None
        address = re.search(r"http://\S+", self.process.stdout.readline())
        assert address is not None, "the server did not start"
        self.url = address[0]
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def busy_s(self) -> float:
        """Time of the processor so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    @property
    def megabytes(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6


def _measure_requests(server: _Server, clips: list[bytes], clients: int) -> dict[str, Any]:
    with httpx.Client(timeout=120) as client:
        for clip in clips[:20]:
            _ask(client, server, clip)
    times: list[float] = []
    memory: list[float] = []
    failures: list[str] = []
    waiting = iter(list(clips))
    lock = threading.Lock()

    def work() -> None:
        with httpx.Client(timeout=120) as client:
            while True:
                with lock:
                    clip = next(waiting, None)
                    memory.append(server.megabytes)
                if clip is None:
                    return
                begin = time.perf_counter()
                status = _ask(client, server, clip)
                times.append(time.perf_counter() - begin)
                if status != 200:
                    failures.append(str(status))

    busy = server.busy_s
    whole = _time(lambda: _in_threads(work, clients))
    busy = server.busy_s - busy
    tenth = max(1, len(memory) // 10)
    return {
        "server, p50 (s)": float(np.median(times)),
        "server, p95 (s)": float(np.quantile(times, 0.95)),
        "server, clips per second": len(clips) / whole,
        "server, processor time per clip (s)": busy / len(clips),
        "failed requests": len(failures),
        "server's memory, first tenth (MB)": float(np.median(memory[tenth : 2 * tenth])),
        "server's memory, last tenth (MB)": float(np.median(memory[-tenth:])),
    }


def _ask(client: httpx.Client, server: _Server, clip: bytes) -> int:
    return client.post(f"{server.url}/v1/emotion", files={"file": ("clip.flac", clip)}).status_code


def _measure_live(server: _Server, count: int) -> dict[str, Any]:
    """From the moment that the last sample of a result was spoken to its arrival."""
    partial: list[float] = []
    final: list[float] = []

    def speak() -> None:
        random = np.random.default_rng(threading.get_ident())
        live = LiveClient(server.url, chunk_length_s=4, hop_length_s=2, partial_s=0.5, timeout_s=300)
        begin, seen, step = time.perf_counter(), None, 0.1
        for number in range(round(LIVE_S / step)):
            time.sleep(max(0.0, begin + (number + 1) * step - time.perf_counter()))
            for chunk in live.push(0.1 * random.standard_normal(round(RATE * step)).astype(np.float32), RATE):
                final.append(chunk["arrived"] - begin - chunk["timestamp"][1])
            if live.partial is not None and live.partial is not seen:
                seen = live.partial
                partial.append(seen["arrived"] - begin - seen["timestamp"][1])
        live.close()

    _in_threads(speak, count)
    return {
        "live signals": count,
        "live, partial result, p50 (s)": float(np.median(partial)),
        "live, partial result, p95 (s)": float(np.quantile(partial, 0.95)),
        "live, chunk, p50 (s)": float(np.median(final)),
        "live, chunk, p95 (s)": float(np.quantile(final, 0.95)),
    }


def _measure_end(server: _Server, clips: list[bytes]) -> dict[str, Any]:
    """End the server while it answers."""
    statuses: list[int] = []

    def work() -> None:
        clip = clips[len(statuses) % len(clips)]
        with httpx.Client(timeout=120) as client:
            started.release()
            try:
                statuses.append(_ask(client, server, clip))
            except httpx.HTTPError:
                statuses.append(0)

    started = threading.Semaphore(0)
    threads = [threading.Thread(target=work) for _ in clips]
    for thread in threads:
        thread.start()
    for _ in threads:
        started.acquire()
    time.sleep(0.3)  # all are connected
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    return {"cut off at the end": sum(status != 200 for status in statuses), "exit code": server.process.wait()}


def _time(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _in_threads(function: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=function) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
