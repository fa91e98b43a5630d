"""`bibier serve` as a process: the clients of others, the page of the documentation, and its end."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from bibier_hf import EMOTIONS
from bibier_hf.commands.checkpoint import load_pipeline
from bibier_hf.serve import LiveClient
from bibier_hf.serve.client import LiveError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"

pytestmark = pytest.mark.slow


class Server:
    """A running server.

    Args:
        checkpoint: what it serves.
        options: further arguments.
    """

    def __init__(self, checkpoint: Path, *options: str, **environment: str):
        command = [sys.executable, "-m", "bibier_cli", "serve", str(checkpoint), "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )
        self.url = re.search(r"http://\S+", self.process.stdout.readline())[0]

    def end(self) -> tuple[int, str]:
        """Send SIGTERM; returns the exit code and what was written to stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=300)
        return self.process.returncode, errors


@pytest.fixture(scope="module")
def server(checkpoint) -> Iterator[Server]:
    server = Server(checkpoint)
    yield server
    if server.process.poll() is None:
        code, errors = server.end()
        assert code == 0, errors
        assert "Traceback" not in errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory, clip) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    soundfile.write(folder / "clip.wav", clip(1.0, 1), 16_000)
    soundfile.write(folder / "talk.wav", clip(9.0, 3), 16_000)
    return folder


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_commands_of_the_page(server, folder):
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("curl")]
    answers = []
    for line in lines:
        command = shlex.split(line.replace("http://127.0.0.1:8000", server.url))
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        answers.append(json.loads(done.stdout))
    assert [len(answer["emotions"]) for answer in answers] == [2, 7, 7]
    assert [chunk["timestamp"] for chunk in answers[2]["chunks"]] == [[0.0, 4.0], [2.0, 6.0], [4.0, 8.0], [6.0, 9.0]]


@pytest.mark.parametrize("number", [0, 1])
def test_the_python_of_the_page(server, folder, number):
    """OpenAI's own client, and live audio."""
    code = blocks("python")[number].replace("127.0.0.1:8000", server.url.removeprefix("http://"))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    if number == 0:
        start, end, *said = done.stdout.split()
        assert (start, end, " ".join(said[:-1])) == ("0.0", "1.0", "I can't believe it!")
        assert said[-1] in EMOTIONS
    else:
        assert [line.split(" {")[0] for line in done.stdout.splitlines()[:4]] == [
            "(0.0, 4.0)",
            "(2.0, 6.0)",
            "(4.0, 8.0)",
            "(6.0, 9.0)",
        ]


def test_errors_in_the_client_of_openai(server, folder):
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["bibier"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")
    with pytest.raises(openai.BadRequestError, match="cannot be read as audio") as error:
        client.audio.transcriptions.create(file=("a.wav", b"no audio"), model="bibier")
    assert error.value.param == "file"
    answer = client.audio.transcriptions.create(file=(folder / "clip.wav").open("rb"), model="bibier")
    assert answer.text == ""
    assert answer.emotion in EMOTIONS
    assert (
        client.audio.transcriptions.create(
            file=(folder / "clip.wav").open("rb"), model="bibier", prompt="So.", response_format="text"
        ).strip()
        == "So."
    )


def test_a_live_client_hears_what_the_pipeline_hears(server, checkpoint, clip, about):
    sound, options = clip(3.3, 2), {"chunk_length_s": 1, "hop_length_s": 0.5}
    with LiveClient(server.url, **options) as live:
        chunks = [
            chunk for start in range(0, len(sound), 4000) for chunk in live.push(sound[start : start + 4000], 16_000)
        ]
        chunks += live.close()
    expected = load_pipeline(str(checkpoint))(
        np.rint(sound * 32768) / 32768, sampling_rate=16_000, return_timestamps=True, **options
    )
    assert [chunk["timestamp"] for chunk in chunks] == [chunk["timestamp"] for chunk in expected["chunks"]]
    for found, wanted in zip(
        [*(chunk["emotions"] for chunk in chunks), live.emotions],
        [*(chunk["emotions"] for chunk in expected["chunks"]), expected["emotions"]],
        strict=True,
    ):
        assert {entry["label"]: entry["score"] for entry in found} == about(
            {entry["label"]: entry["score"] for entry in wanted}
        )


def test_a_live_client_tells_what_is_wrong(server):
    def speak(live: LiveClient) -> None:
        for _ in range(100):
            live.push(np.zeros(1600, np.float32), 16_000)
            time.sleep(0.05)

    with pytest.raises(LiveError, match="there is no label 'rage'"):
        speak(LiveClient(server.url, labels=["rage", "sad"]))
    with pytest.raises(LiveError, match="cannot be reached"):
        LiveClient("ws://127.0.0.1:9", timeout_s=2).push(np.zeros(1600, np.float32), 16_000)
    with pytest.raises(ValueError, match="send one channel"):
        LiveClient(server.url).push(np.zeros((2, 1600), np.float32), 16_000)


def test_requests_that_have_begun_are_answered_at_the_end(checkpoint, clip, folder):
    server = Server(checkpoint, "--batch_wait_ms", "2000", BIBIER_API_KEY="secret")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server.url}/v1/models")
    statuses, headers = [], {"Authorization": "Bearer secret"}

    def ask() -> None:
        answer = httpx.post(f"{server.url}/v1/emotion", json={"text": "So."}, headers=headers, timeout=300)
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while "bibier_requests_active 3" not in httpx.get(f"{server.url}/metrics", headers=headers, timeout=300).text:
        time.sleep(0.05)
    code, errors = server.end()
    for thread in threads:
        thread.join()
    assert (code, statuses) == (0, [200] * 3), errors
    assert errors.splitlines()[-1] == "The server has ended."
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")
