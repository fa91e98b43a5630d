"""Commands that write, each in a process of its own, and folders with faults to run them into."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from bibier_cli import run
from bibier_hf import EMOTIONS
from bibier_hf.data.corpora import get_corpus

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def inputs(tmp_path_factory, checkpoint, tiny_options) -> Path:
    """A folder with all that the commands read."""
    folder = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(0)
    lines = ["audio,text,label,split,language,speaker,dialogue"]
    for split, count in (("train", 21), ("dev", 7), ("test", 7)):
        for index in range(count):
            name, label = f"{split}{index:02d}", index % len(EMOTIONS)
            time = np.arange(int(generator.uniform(3000, 8000))) / 16_000
            clip = 0.3 * np.sin(2 * np.pi * (200 + 150 * label) * time)
            soundfile.write(folder / f"{name}.wav", clip.astype(np.float32), 16_000)
            lines.append(f"{name}.wav,text {name},{EMOTIONS[label]},{split},en,{split}{index % 3},d{index % 4}")
    (folder / "small.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "corpora": [{"name": "csv", "data_dir": str(folder / "small.csv")}],
        "model": tiny_options,
        "num_train_epochs": 3,
        "learning_rate": 1e-3,
        "use_cpu": True,
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(settings))
    (folder / "checkpoint").symlink_to(checkpoint)
    get_corpus("csv").prepare(folder / "small.csv", folder / "prepared")
    corpus = ["--corpus", "csv", "--data_dir", str(folder / "prepared")]
    assert run("augment sds", [*corpus, "--output_dir", str(folder / "stacked"), "--target_s", "0.8"]) == 0
    return folder


@pytest.fixture(scope="session")
def language_model(tmp_path_factory) -> Iterator[str]:
    """Address of a server that answers every question the same."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "questions.jsonl"
    fake = HERE.parent / "llm" / "fake_server.py"
    process = subprocess.Popen(
        [sys.executable, str(fake), str(port), str(log), "0.05"], stdout=subprocess.PIPE, text=True
    )
    yield process.stdout.readline().strip()
    process.kill()
    process.wait()


@dataclass
class Run:
    """A command that was started."""

    ask: Callable
    pid: int
    log: Path

    def wait(self, timeout: float = 300) -> tuple[int, str]:
        """(exit code, what it printed)"""
        code = self.ask(wait=self.pid, timeout=timeout)
        assert code is not None, f"it does not end:\n{self.output}"
        return code, self.output

    @property
    def running(self) -> bool:
        return self.ask(wait=self.pid, timeout=0) is None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def end(self, number: int = signal.SIGKILL) -> tuple[int, str]:
        if self.running:
            os.kill(self.pid, number)
        return self.wait()


class Runner:
    """Starts commands."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder = folder
        self.environment = environment
        self.count = 0
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "server.py")],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request):
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(
        self,
        name: str,
        out: Path,
        *more: str,
        obey_permissions: bool = False,
        folder_is_gone: bool = False,
        **environment: str,
    ) -> Run:
        self.count += 1
        folder, log = self.folder / f"run{self.count}", self.folder / f"run{self.count}.log"
        folder.mkdir()
        pid = self.ask(
            run=name,
            out=str(out),
            more=list(more),
            log=str(log),
            folder=str(folder),
            folder_is_gone=folder_is_gone,
            obey_permissions=obey_permissions,
            environment={"BIBIER_CACHE": str(self.folder / "cache")} | environment,
        )
        return Run(self.ask, pid, log)

    def run(self, *arguments, **options) -> tuple[int, str]:
        """(exit code, what it printed)"""
        return self.start(*arguments, **options).wait()


@pytest.fixture(scope="session")
def runner(tmp_path_factory, inputs, language_model, repository) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tmp").mkdir()
    environment = {
        "PYTHONPATH": str(repository / "src"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder / "tmp"),
        "INPUTS": str(inputs),
        "LANGUAGE_MODEL": language_model,
    }
    runner = Runner(folder, environment)
    yield runner
    runner.server.stdin.close()
    runner.server.wait(60)


@dataclass(frozen=True)
class Outcome:
    """What an uninterrupted run left: how long it took, and its files."""

    seconds: float
    content: dict[str, object]
    size: int


@pytest.fixture(scope="session")
def uninterrupted(runner, tmp_path_factory) -> Callable[[str, str], Outcome]:
    """`uninterrupted(name, output)` -> the outcome of a command, run once a session."""
    known: dict[str, Outcome] = {}

    def outcome(name: str, output: str) -> Outcome:
        if name not in known:
            out = tmp_path_factory.mktemp(name) / output
            start = time.monotonic()
            code, text = runner.run(name, out)
            assert code == 0, text
            files = [path for path in out.parent.rglob("*") if path.is_file()]
            size = sum(-(-path.stat().st_size // 4096) * 4096 for path in files)
            known[name] = Outcome(time.monotonic() - start, content(out.parent), size)
        return known[name]

    return outcome


_CHANGING = ("seconds", "seconds_by_stage", "resumed", "date", "config", "command", "output_dir")
"""What differs from run to run in the JSON files of equal results."""


def content(folder: Path) -> dict[str, object]:
    """Name -> content of all files of a folder that must be equal after equal runs; locks and scratch are among them.

    Of checkpoints, pictures and programs of torch only the names are looked at, of SQLite and cards nothing.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or "checkpoint-" in name or path.suffix == ".sqlite" or name.endswith(("-wal", "-shm")):
            continue
        if path.suffix == ".json":
            found[name] = _without_changing(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix in (".png", ".pt2", ".yaml") or path.name == "README.md":
            found[name] = None
        else:
            found[name] = path.read_bytes()
    return found


def _without_changing(value):
    if isinstance(value, dict):
        return {key: _without_changing(each) for key, each in value.items() if key not in _CHANGING}
    return [_without_changing(each) for each in value] if isinstance(value, list) else value


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """`small_disk(bytes)` -> a folder on a file system of that size; needs root on Linux."""
    mounted = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        _mount(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)])
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def read_only_disk(small_disk) -> Callable[[], Path]:
    """`read_only_disk()` -> a folder on a file system that is mounted read-only."""

    def mount() -> Path:
        folder = small_disk(2**20)
        _mount(["mount", "-o", "remount,ro", str(folder)])
        return folder

    return mount


def _mount(command: list[str]) -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root on Linux")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
