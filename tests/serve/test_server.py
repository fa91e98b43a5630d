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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
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

    def __init__(self, checkpoint: Path, *options: str, port: int = 0, **environment: str):
        command = [sys.executable, "-m", "bibier_cli", "serve", str(checkpoint), "--port", str(port), *options]
        command += ["--timeout_s", "600"]  # on a busy machine
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )
        self.url = re.search(r"http://\S+", self.process.stdout.readline())[0]

    @property
    def megabytes(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, str]:
        """Send SIGTERM; returns the exit code and what was written to stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=700)
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


def in_threads(function, count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(function, number) for number in range(count)]:
            done.result()


def test_many_requests_of_the_client_of_openai_leave_no_trace(server, folder):
    """500 requests from 8 clients: all are answered alike, and the memory of the server does not grow."""
    import openai

    clip, memory, answers = (folder / "clip.wav").read_bytes(), [], []

    def ask(number: int) -> None:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=600) as client:
            while len(memory) < 500:
                memory.append(server.megabytes)
                answer = client.audio.transcriptions.create(
                    file=("clip.wav", clip), model="bibier", response_format="verbose_json", prompt="So."
                )
                answers.append({entry["label"]: entry["score"] for entry in answer.emotions})

    in_threads(ask, 8)
    assert len(answers) >= 500
    for label, score in answers[0].items():
        assert [answer[label] for answer in answers] == pytest.approx([score] * len(answers), abs=1e-4)
    assert np.median(memory[-50:]) - np.median(memory[100:150]) < 16


def test_a_killed_server_loses_nothing_that_it_answered(checkpoint, folder):
    """Clients that ask again after a crash get the answers that they would have got without it."""
    import openai

    clip, answers, server = (folder / "clip.wav").read_bytes(), {}, Server(checkpoint)
    port, crashes = int(server.url.rpartition(":")[2]), []
    enough, is_back = threading.Event(), threading.Event()

    def ask(client_number: int) -> None:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=600)
        for number in range(20):
            text = f"So, {client_number}, {number}."
            while text not in answers:
                try:
                    answer = client.audio.transcriptions.create(file=("a.wav", clip), model="bibier", prompt=text)
                except openai.APIConnectionError:
                    crashes.append(text)
                    is_back.wait(300)
                else:
                    answers[text] = {entry["label"]: entry["score"] for entry in answer.emotions}
            if len(answers) >= 20:
                enough.set()

    clients = threading.Thread(target=in_threads, args=(ask, 4))
    clients.start()
    assert enough.wait(300)
    server.kill()
    again = Server(checkpoint, port=port)
    is_back.set()
    clients.join()
    code, errors = again.end()

    assert (code, len(answers)) == (0, 80), errors
    assert crashes, "the crash came too late"
    pipe = load_pipeline(str(checkpoint))
    expected = pipe([{"audio": clip, "text": text} for text in answers], batch_size=8)
    for found, wanted in zip(answers.values(), expected, strict=True):
        assert found == pytest.approx({entry["label"]: entry["score"] for entry in wanted}, abs=1e-4)


def test_a_live_connection_is_told_that_the_server_ends(checkpoint):
    server = Server(checkpoint)
    live = LiveClient(server.url, chunk_length_s=1, timeout_s=300)
    live.push(np.zeros(1600, np.float32), 16_000)
    code, errors = server.end()
    assert (code, "Traceback" in errors) == (0, False), errors
    with pytest.raises(LiveError, match=r"ended the connection|is ending"):
        speak(live)


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
    with LiveClient(server.url, timeout_s=300, **options) as live:
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


def speak(live: LiveClient) -> None:
    for _ in range(100):
        live.push(np.zeros(1600, np.float32), 16_000)
        time.sleep(0.05)


def test_a_live_client_tells_what_is_wrong(server):
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
