"""Answers for many recordings as one table."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

import bibier_hf.folders
from bibier_hf import EMOTIONS
from bibier_hf.commands.checkpoint import load_pipeline
from bibier_hf.errors import ArgumentError
from bibier_hf.folders import AnswerTable

from .bibier_command import bibier

COUNT = 20
BROKEN, SILENT = 7, 13


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, clip) -> list[str]:
    """Twenty clips of different lengths in two folders; one of them cannot be used, another is silent."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "more").mkdir()
    for number in range(COUNT):
        path = folder / ("more" if number % 2 else "") / f"{number:02}.wav"
        sound = np.zeros(8000) if number == SILENT else clip(0.2 + number % 5 / 10, number)
        soundfile.write(path, sound, 16_000)
        if number == BROKEN:
            path.write_bytes(b"RIFF, but no audio")
    return sorted(map(str, folder.rglob("*.wav")))


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return load_pipeline(str(checkpoint))


def table(pipe, path, **options) -> AnswerTable:
    return AnswerTable(path, pipe, EMOTIONS, batch_size=1, **options)  # parts of eight


def test_rows_are_the_answers_of_the_pipeline(pipe, recordings, tmp_path, about):
    failed = table(pipe, tmp_path / "new" / "answers.jsonl", text="So.").write(recordings)
    rows = [json.loads(line) for line in (tmp_path / "new" / "answers.jsonl").read_text().splitlines()]
    assert failed == 1
    assert [row["input"] for row in rows] == recordings
    errors = {Path(row["input"]).stem: row["error"] for row in rows if "error" in row}
    assert sorted(errors) == [f"{BROKEN:02}"]
    assert "cannot be read as audio" in errors[f"{BROKEN:02}"]
    (silent,) = [row for row in rows if Path(row["input"]).stem == f"{SILENT}"]
    assert (silent["unsure"], silent["unsure_reason"]) == (True, "too quiet")
    for row in rows:
        if "error" not in row:
            expected = pipe({"audio": row["input"], "text": "So."}, return_unsure=True)
            assert row["emotions"] == [about(entry) for entry in expected["answers"]]
            assert (row["unsure"], row["unsure_reason"]) == (expected["unsure"], expected["unsure_reason"])
    assert os.listdir(tmp_path / "new") == ["answers.jsonl"]  # no parts, no lock


def test_all_formats_hold_the_same(pipe, recordings, tmp_path):
    for suffix in (".csv", ".jsonl", ".parquet"):
        table(pipe, tmp_path / f"answers{suffix}").write(recordings)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    rows = pq.read_table(tmp_path / "answers.parquet").to_pylist()
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))

    facts = ["input", "label", "score", "unsure", "unsure_reason", "error"]
    assert list(rows[0]) == list(cells[0]) == [*facts, *(f"p_{name}" for name in EMOTIONS)]
    for line, row, cell in zip(lines, rows, cells, strict=True):
        assert cell == {name: "" if value is None else str(value) for name, value in row.items()}
        for name in ("input", "unsure", "unsure_reason", "error"):
            assert row[name] == line.get(name)
        best = line.get("emotions", [{"label": None, "score": None}])[0]
        assert (row["label"], row["score"]) == (best["label"], best["score"])


def test_an_interrupted_job_continues_to_the_same_bytes(pipe, recordings, tmp_path, monkeypatch):
    table(pipe, tmp_path / "whole.parquet").write(recordings)
    written = []

    def write_one(path, text):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, text)

    write = bibier_hf.folders.write_text
    interrupted = table(pipe, tmp_path / "answers.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(bibier_hf.folders, "write_text", write_one)
        with pytest.raises(KeyboardInterrupt):
            interrupted.write(recordings)
    assert not (tmp_path / "answers.parquet").exists()
    before = written[0].stat().st_mtime_ns

    with pytest.raises(ArgumentError, match="unfinished job with other recordings"):
        interrupted.write(recordings[1:])
    with pytest.raises(ArgumentError, match="unfinished job with other options"):
        table(pipe, tmp_path / "answers.parquet", text="Other.").write(recordings)

    asked = []
    with monkeypatch.context() as patch:
        decode = bibier_hf.folders.decode_audio
        patch.setattr(
            bibier_hf.folders, "decode_audio", lambda path, **rest: asked.append(path) or decode(path, **rest)
        )
        assert written[0].stat().st_mtime_ns == before
        interrupted.write(recordings)
    assert sorted(asked) == recordings[8:]  # the first part is not computed again
    assert (tmp_path / "answers.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_folder_on_the_command_line(checkpoint, recordings, tmp_path):
    folder = Path(recordings[0]).parent
    done = bibier("predict", checkpoint, folder, "--output", tmp_path / "answers.csv", "--top_k", 2)
    assert done.exit_code == 1
    assert "answers.csv: 20 rows, 1 with an error." in done.stdout
    assert "clip/s" in done.stderr  # progress with rate
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [sum(bool(row[f"p_{name}"]) for name in EMOTIONS) for row in rows if not row["error"]] == [2] * 19


@pytest.mark.slow
def test_processes_share_a_job_and_survive_a_kill(checkpoint, recordings, tmp_path, repository):
    environment = os.environ | {"PYTHONPATH": str(repository / "src"), "OMP_NUM_THREADS": "1"}
    command = ["-m", "bibier_cli", "predict", str(checkpoint), *recordings * 20, "--batch_size", "1"]

    def run(*launcher: str, output: str, **options) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *launcher, *command, "--output", str(tmp_path / output)], env=environment, **options
        )

    assert run(output="one.csv").wait() == 1
    assert run("-m", "torch.distributed.run", "--nproc_per_node", "2", output="two.csv").wait() == 0

    killed = run(output="killed.csv")
    parts = tmp_path / ".killed.csv.parts"
    while len(list(parts.glob("part-*"))) < 3:
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed.csv").exists()
    assert run(output="killed.csv").wait() == 1
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "killed.csv").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["killed.csv", "one.csv", "two.csv"]
