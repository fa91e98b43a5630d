"""`bibier label` as a user launches it: killed in the middle, with a real small language model, beside vLLM's
transformers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from bibier_hf import EMOTIONS
from bibier_hf.augmentation.ls_llm_store import AnswerStore
from bibier_hf.data.label_tables import read_label_table

FAKE_SERVER = Path(__file__).parents[1] / "llm" / "fake_server.py"
ROWS = 40


@pytest.fixture
def text_corpus(tmp_path) -> Path:
    table = tmp_path / "corpus.csv"
    lines = ["text,label,split,language"]
    lines += [f"utterance {number},{EMOTIONS[number % 7]},train,en" for number in range(ROWS)]
    lines += [f"the assistant said {number},{EMOTIONS[number % 7]},test,en" for number in range(7)]
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture
def launch(repository, tmp_path):
    """`launch(*arguments)` -> a started `bibier label`."""

    def start(*arguments, python=sys.executable) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "BIBIER_CACHE": str(tmp_path / "cache")}
        command = [python, "-m", "bibier_cli", "label", *map(str, arguments)]
        return subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


@pytest.fixture
def slow_server(tmp_path):
    """(address, file of questions) of a server in a process of its own, 0.2 s an answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "questions.jsonl"
    process = subprocess.Popen(
        [sys.executable, str(FAKE_SERVER), str(port), str(log), "0.2"], stdout=subprocess.PIPE, text=True
    )
    yield process.stdout.readline().strip(), log
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_killed_run_goes_on(launch, text_corpus, slow_server, tmp_path):
    """kill -9 after some answers; the same command then asks only what was not answered, and every row ends once."""
    url, log = slow_server
    output = tmp_path / "labels.csv"
    store = tmp_path / "labels.csv.answers.sqlite"
    command = [
        "corpus",
        "--corpus",
        "csv",
        "--data_dir",
        text_corpus,
        "--backend",
        "openai",
        "--base_url",
        url,
        "--model",
        "tiny",
    ]
    command += ["--backend_options.concurrency", "2", "--output", output]
    process = launch(*command)
    deadline = time.monotonic() + 240
    while not store.is_file() or not log.is_file() or len(log.read_text().splitlines()) < 10:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    kept = len(AnswerStore(store))
    asked_before = _questions_of_a_quiet_server(log)
    assert 0 < kept < ROWS

    done = launch(*command)
    out, err = done.communicate(timeout=240)
    assert done.returncode == 0, err
    assert f"{ROWS} rows labeled, 0 failed" in out
    asked = Counter(map(json.loads, log.read_text().splitlines()))
    # Only what was under way when the process died is asked again: at most one a connection.
    assert sum(asked.values()) - len(asked) == sum(asked_before.values()) - kept <= 2
    assert len(asked) == ROWS
    table = read_label_table(output)
    assert len(set(table.ids)) == ROWS
    assert table.labeled.all()
    assert {"status", "raw", "model", "revision", "prompt_hash", "sampling", "seed"} <= set(
        output.read_text().splitlines()[0].split(",")
    )


def _questions_of_a_quiet_server(log: Path) -> Counter[str]:
    """What was asked, once a second has brought nothing new: a question may reach the server after the death of who
    asked it."""
    content, since = log.read_text(), time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.1)
        if log.read_text() != content:
            content, since = log.read_text(), time.monotonic()
    return Counter(map(json.loads, content.splitlines()))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    folder = os.environ.get("BIBIER_BACKBONES")
    if not folder or not (Path(folder) / "smollm2").is_dir():
        pytest.skip("no small language model: BIBIER_BACKBONES names no folder with smollm2")
    return Path(folder).resolve() / "smollm2"


@pytest.mark.slow
def test_a_real_model_labels_and_recognises(launch, text_corpus, smollm2, tmp_path):
    output = tmp_path / "labels.parquet"
    corpus = ["--corpus", "csv", "--data_dir", text_corpus, "--backend", "transformers", "--model", smollm2]
    label = launch("corpus", *corpus, "--way", "score", "--gold_weight", "0.1", "--limit", "6", "--output", output)
    out, err = label.communicate(timeout=600)
    assert label.returncode == 0, err
    assert "6 rows labeled, 0 failed" in out
    table = read_label_table(output)
    assert table.predictions.tolist() == table.labels.tolist()  # what the gold weight is for
    recognise = launch("recognize", *corpus, "--shots", "1", "--output_dir", tmp_path / "recognition")
    out, err = recognise.communicate(timeout=600)
    assert recognise.returncode == 0, err
    results = json.loads((tmp_path / "recognition" / "recognition_test.json").read_text())
    assert results["metrics"]["test"]["corpus"]["samples"] == 7
    assert (tmp_path / "recognition" / "predictions_test.parquet").is_file()


@pytest.mark.slow
def test_vllm_labels_in_its_own_environment(launch, text_corpus, smollm2, tmp_path):
    python = os.environ.get("BIBIER_VLLM_PYTHON")
    if not python:
        pytest.skip("no vLLM: BIBIER_VLLM_PYTHON names no interpreter that has it")
    options = [
        f"--backend_options.{option}" for option in ("dtype=bfloat16", "max_model_len=1024", "enforce_eager=true")
    ]
    corpus = [
        "--corpus",
        "csv",
        "--data_dir",
        text_corpus,
        "--backend",
        "vllm",
        "--model",
        smollm2,
        *options,
        "--limit",
        "6",
    ]
    for way in ("score", "generate"):
        label = launch("corpus", *corpus, "--way", way, "--output", tmp_path / f"{way}.csv", python=python)
        out, err = label.communicate(timeout=900)
        assert label.returncode == 0, err[-3000:]
        assert (
            "6 rows labeled, 0 failed" in out or way == "generate"
        )  # the form holds; whether the numbers add up is up to the model
        assert len(read_label_table(tmp_path / f"{way}.csv").ids) == 6
