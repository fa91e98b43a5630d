"""Recipes are launched as a user launches them, on a small table of clips."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from bibier_hf import EMOTIONS


@pytest.fixture(scope="module")
def environment(repository, tmp_path_factory) -> dict[str, str]:
    """Offline, with caches of its own and one thread a process; `bibier_hf` is found whether it is installed or
    not."""
    path = os.pathsep.join([str(repository / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    cache = str(tmp_path_factory.mktemp("cache"))
    return os.environ | {
        "PYTHONPATH": path,
        "BIBIER_CACHE": cache,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, tiny_options) -> Path:
    """A run over 30 short clips with a tiny model, with dropout, in YAML."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    lines = ["audio,text,label,split,language"]
    for split, count in (("train", 16), ("dev", 7), ("test", 7)):
        for index in range(count):
            label = index % len(EMOTIONS)
            clip = 0.3 * np.sin(
                2 * np.pi * (200 + 150 * label) * np.arange(int(generator.uniform(3000, 8000))) / 16_000
            )
            soundfile.write(folder / f"{split}{index:02d}.wav", clip.astype(np.float32), 16_000)
            lines.append(
                f"{split}{index:02d}.wav,text {label},{EMOTIONS[label]},{split},{'en' if index % 2 else 'ru'}"
            )
    (folder / "small.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {
        "corpora": [{"name": "csv", "data_dir": str(folder / "small.csv")}],
        "model": tiny_options,
        "num_train_epochs": 4,
        "learning_rate": 1e-3,
        "use_cpu": True,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def launch(repository, environment):
    """`launch("recipes/train.py", ...)` -> the finished process; `launcher=[...]` for another one than Python."""

    def run(*arguments, launcher=(sys.executable,)) -> subprocess.CompletedProcess:
        command = [*launcher, *map(str, arguments)]
        process = subprocess.Popen(
            command,
            cwd=repository,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=240)
        finally:
            if process.poll() is None:  # with whatever a launcher started
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    return run
