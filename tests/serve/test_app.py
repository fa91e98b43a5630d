"""The endpoints: answers as of the pipeline, errors as of OpenAI's API, limits, and live audio."""

import asyncio
import base64
import io
import json
import re
import threading
import time

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from bibier_hf import EMOTIONS
from bibier_hf.commands.checkpoint import load_pipeline
from bibier_hf.serve.app import ServerOptions, build_app
from bibier_hf.serve.guard import Guard, RequestError, ServerLimits
from bibier_hf.serve.metrics import Metrics


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return load_pipeline(str(checkpoint))


def client_of(pipe, asr=None, limits=None, **options) -> TestClient:
    app = build_app(pipe, ServerOptions("bibier", limits or ServerLimits(), **options), asr)
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(pipe):
    with client_of(pipe) as client:
        yield client


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


class FakeWhisper:
    """Hears the same four words in each recording."""

    type = "ctc"

    def __call__(self, audio, return_timestamps=None):
        words = ("Well,", "yes.", "Of", "course.")
        chunks = [{"text": word, "timestamp": (place / 2, place / 2 + 0.4)} for place, word in enumerate(words)]
        return {"text": " ".join(words), "chunks": chunks}


def refused(response, status: int, message: str, param: str | None = None) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert message in error["message"]
    assert error["param"] == param
    assert not re.search(r"/(tmp|home|root|usr|var)|\.py", error["message"]), "no path"


# Answers


def test_emotions_are_those_of_the_pipeline(client, pipe, clip, about):
    sound = clip(1.0, 1)
    both = {"audio": {"array": sound, "sampling_rate": 16_000}, "text": "So."}
    encoded = base64.b64encode(wav(sound)).decode()
    verdict = pipe(both, return_unsure=True)
    answers = [
        client.post("/v1/emotion", files={"file": ("a.wav", wav(sound))}, data={"text": "So."}),
        client.post("/v1/emotion", json={"audio": encoded, "text": "So."}),
        client.post("/v1/emotion", json={"audio": f"data:audio/wav;base64,{encoded}", "text": "So."}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json() == {
            "model": "bibier",
            "duration": 1.0,
            "text": "So.",
            "emotions": [about(entry) for entry in pipe(both)],
            **{name: about(verdict[name]) for name in ("unsure", "unsure_score", "unsure_reason")},
        }
    alone = client.post("/v1/emotion", json={"audio": encoded, "top_k": 2}).json()
    assert alone["emotions"] == [about(entry) for entry in pipe(both["audio"], top_k=2)]
    text = client.post("/v1/emotion", data={"text": "So.", "labels": "anger, sad", "threshold": "1"}).json()
    assert text["emotions"] == [about(entry) for entry in pipe({"text": "So."}, labels=["anger", "sad"], threshold=1)]
    merged = client.post("/v1/emotion", json={"text": "So.", "label_map": {"bad": ["anger", "sad"]}}).json()
    assert "bad" in {entry["label"] for entry in merged["emotions"]}


def test_a_timeline_is_that_of_the_pipeline(client, pipe, clip, about):
    sound = clip(5.0, 3)
    options = {"chunk_length_s": 2, "hop_length_s": 1.5}
    answer = client.post("/v1/emotion", files={"file": ("a.wav", wav(sound))}, data=options).json()
    expected = pipe(sound, sampling_rate=16_000, return_timestamps=True, **options)
    assert [chunk["timestamp"] for chunk in answer["chunks"]] == [[0.0, 2.0], [1.5, 3.5], [3.0, 5.0]]
    assert [chunk["emotions"] for chunk in answer["chunks"]] == [
        [about(entry) for entry in chunk["emotions"]] for chunk in expected["chunks"]
    ]
    assert answer["emotions"] == [about(entry) for entry in expected["emotions"]]


def test_a_transcription_without_a_recognizer(client, pipe, clip, about):
    sound = clip(1.0, 1)

    def transcribe(**data):
        return client.post("/v1/audio/transcriptions", files={"file": ("a.wav", wav(sound))}, data=data)

    silent = transcribe(model="whisper-1").json()
    assert silent["text"] == ""
    assert silent["emotions"] == [about(entry) for entry in pipe(sound, sampling_rate=16_000)]
    assert silent["emotion"] == silent["emotions"][0]["label"]
    both = {"audio": {"array": sound, "sampling_rate": 16_000}, "text": "So."}
    for name in ("prompt", "text"):
        verbose = transcribe(**{name: "So.", "response_format": "verbose_json"}).json()
        (segment,) = verbose["segments"]
        assert (verbose["text"], verbose["duration"], verbose["task"]) == ("So.", 1.0, "transcribe")
        assert (segment["id"], segment["start"], segment["end"], segment["text"]) == (0, 0.0, 1.0, "So.")
        assert segment["emotions"] == [about(entry) for entry in pipe(both)]
        assert segment["emotion"] == segment["emotions"][0]["label"]
    assert transcribe(prompt="So.", response_format="text").text == "So.\n"
    refused(transcribe(stream="true"), 400, "stream", "stream")
    refused(transcribe(response_format="srt"), 400, "response_format", "response_format")


def test_a_transcription_has_the_emotion_of_each_sentence(pipe, clip, about):
    sound = clip(2.5, 2)
    with client_of(pipe, FakeWhisper()) as client:
        answer = client.post(
            "/v1/audio/transcriptions",
            files={"file": ("a.wav", wav(sound))},
            data={
                "response_format": "verbose_json",
                "timestamp_granularities[]": ["word", "segment"],
                "prompt": "not what is said",
            },
        ).json()
        emotion = client.post("/v1/emotion", files={"file": ("a.wav", wav(sound))}).json()
    assert answer["text"] == emotion["text"] == "Well, yes. Of course."
    assert [(part["start"], part["end"], part["text"]) for part in answer["segments"]] == [
        (0.0, 0.9, "Well, yes."),
        (1.0, 1.9, "Of course."),
    ]
    for part in answer["segments"]:
        piece = sound[round(part["start"] * 16_000) : round(part["end"] * 16_000)]
        expected = pipe({"audio": {"array": piece, "sampling_rate": 16_000}, "text": part["text"]})
        assert part["emotions"] == [about(entry) for entry in expected]
    assert answer["words"][1] == {"word": "yes.", "start": 0.5, "end": 0.9}


def test_models(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["labels"]) == ("bibier", "model", list(EMOTIONS))
    assert client.get("/v1/models/bibier").json() == model
    refused(client.get("/v1/models/gpt"), 404, "There is no model 'gpt'", "model")


# Refusals


def test_requests_that_are_refused(client, clip):
    def post(path="/v1/emotion", **options):
        return client.post(path, **options)

    refused(post(json={}), 400, "neither a recording", "file")
    refused(post(json={"text": "So.", "topk": 1}), 400, "topk: unknown field. Allowed: audio, labels", "topk")
    refused(post(data={"text": "So.", "topk": "1"}), 400, "topk: unknown field. Allowed: file, labels", "topk")
    refused(post(json={"text": "So.", "top_k": 0}), 400, "top_k: Input should be greater", "top_k")
    refused(post(json={"text": "So.", "labels": ["rage"]}), 400, "there is no label 'rage'", "labels")
    refused(post(json={"audio": "/etc/passwd"}), 400, "audio: is not base64", "audio")
    refused(post(json={"audio": base64.b64encode(b"no audio").decode()}), 400, "cannot be read as audio", "file")
    inverted = np.stack([clip(0.5), -clip(0.5)], axis=1)
    refused(post(files={"file": ("a.wav", wav(inverted))}), 400, "channels cancel", "file")
    refused(post(content=b"{", headers={"content-type": "application/json"}), 400, "The body is not JSON.")
    for content, message in (
        (b'{"text":' + b"[" * 100_000 + b"}", "nested too deeply"),
        (rb'{"text": "\ud800"}', "text: holds half of a surrogate pair"),
        (rb'{"text": "So.", "labels": ["\ud800", "sad"]}', "labels: holds half of a surrogate pair"),
        (rb'{"text": "So.", "label_map": {"\ud800": ["sad"]}}', "label_map: holds half of a surrogate pair"),
        (rb'{"text": "So.", "\ud800": 1}', "The name of a field holds half of a surrogate pair"),
    ):
        param = message.partition(":")[0] if ":" in message else None
        refused(post(content=content, headers={"content-type": "application/json"}), 400, message, param)
    for label_map, message in (
        (r'{"\ud800": ["anger"]}', "half of a surrogate pair"),
        ("[" * 10_000, "must be a JSON object"),
        ("{", "must be a JSON object"),
        ("[1]", "should be a valid dictionary"),
    ):
        refused(post(data={"text": "So.", "label_map": label_map}), 400, message, "label_map")
    refused(post(json={"text": "So.", "labels": ["sad"] * 1001}), 400, "at most 1000 items", "labels")
    refused(post(data={"file": "clip.wav"}), 400, "file: holds a text. Send a file: curl -F file=@clip.wav", "file")
    refused(post(content=b"x", headers={"content-type": "audio/wav"}), 415, "Send multipart/form-data")
    refused(post(json={"text": "So.", "chunk_length_s": 4}), 400, "Windows are cut from audio", "chunk_length_s")
    refused(post(json={"text": "So.", "hop_length_s": 4}), 400, "hop_length_s without chunks", "chunk_length_s")
    refused(post("/v1/audio/transcriptions", data={"model": "x"}), 400, "there is no recording", "file")
    refused(client.get("/nowhere"), 404, "Not Found")
    refused(client.get("/v1/emotion"), 405, "Method Not Allowed")


def test_limits_on_size_and_length(pipe, clip):
    limits = ServerLimits(megabytes=1, minutes=0.05, whole_s=2, windows=20, characters=10)
    with client_of(pipe, limits=limits) as client:

        def post(seconds: float, **data):
            return client.post("/v1/emotion", files={"file": ("a.wav", wav(clip(seconds)))}, data=data)

        assert post(1.0).status_code == 200
        refused(post(2.5), 413, "answered in windows", "chunk_length_s")
        assert post(2.5, chunk_length_s=1).status_code == 200
        refused(post(3.5, chunk_length_s=1), 413, "longer than 0.05 minutes", "file")
        refused(post(2.5, chunk_length_s=2.5), 400, "windows of more than 2 s", "chunk_length_s")
        refused(
            post(2.5, chunk_length_s=2, hop_length_s=0.04), 400, "hop_length_s: must be at least 0.05", "hop_length_s"
        )
        refused(post(2.5, chunk_length_s=0.2, hop_length_s=0.1), 413, "More than 20 windows", "hop_length_s")
        refused(post(1.0, text="So, so, so, so."), 413, "at most 10 characters", "text")
        refused(client.post("/v1/emotion", content=b"0" * 1_500_000), 413, "larger than a recording of 1 MB", "file")

        def stream():
            for _ in range(30):
                yield b"0" * 50_000

        form = {"content-type": "application/json"}  # without its length
        refused(client.post("/v1/emotion", content=stream(), headers=form), 413, "larger than", "file")


def test_the_pieces_of_a_request_are_added_up():
    """Servers hand on a body in pieces; the client of the other tests does not."""
    read = []

    async def application(scope, receive, send):
        while (await receive())["more_body"]:
            read.append(True)

    async def receive():
        return {"type": "http.request", "body": b"0" * 100_000, "more_body": len(read) < 50}

    async def send(message):
        raise AssertionError(message)

    guard = Guard(application, ServerLimits(megabytes=1), Metrics({}), set(), None)
    scope = {"type": "http", "method": "POST", "path": "/v1/emotion", "headers": []}
    with pytest.raises(RequestError, match="larger than a recording of 1 MB"):
        asyncio.run(guard(scope, receive, send))
    assert len(read) * 100_000 <= ServerLimits(megabytes=1).body_bytes < (len(read) + 1) * 100_000


def test_limits_on_time_and_number(pipe, monkeypatch):
    forward, go_on = pipe.forward, threading.Event()

    def slow_forward(*args, **options):
        go_on.wait(20)
        return forward(*args, **options)

    monkeypatch.setattr(pipe, "forward", slow_forward)
    with client_of(pipe, limits=ServerLimits(timeout_s=1, concurrency=1)) as client:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(client.post("/v1/emotion", json={"text": "So."})))
        thread.start()
        while "bibier_requests_active 1" not in client.get("/metrics").text:
            time.sleep(0.01)
        busy = client.post("/v1/emotion", json={"text": "So."})
        refused(busy, 429, "1 requests are being answered")
        assert busy.headers["retry-after"] == "1"
        thread.join()
        refused(answers[0], 504, "more than 1 s")
        go_on.set()
        assert client.post("/v1/emotion", json={"text": "So."}).status_code == 200


def test_a_long_recording_lets_others_pass(pipe, clip, monkeypatch):
    """The windows of a recording are asked for batch by batch, so a request that comes later is not behind them
    all."""
    forward, sizes = pipe.forward, []

    def noted_forward(inputs, **options):
        sizes.append(len(inputs["input_ids"]))
        time.sleep(0.05)
        return forward(inputs, **options)

    monkeypatch.setattr(pipe, "forward", noted_forward)
    with client_of(pipe, batch_size=2) as client:
        options = {"chunk_length_s": 0.1}
        ask = threading.Thread(
            target=lambda: client.post("/v1/emotion", files={"file": ("a.wav", wav(clip(6.0)))}, data=options)
        )
        ask.start()
        while not sizes:
            time.sleep(0.01)
        assert client.post("/v1/emotion", json={"text": "So."}).status_code == 200
        before = sum(sizes)
        ask.join()
    assert before < sum(sizes) == 61


def test_a_mistake_of_the_server_is_told_to_its_log_alone(pipe, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(pipe, "forward", fail)
    with client_of(pipe) as client:
        answer = client.post("/v1/emotion", json={"text": "So."})
        refused(answer, 500, "The server made a mistake.")
        assert answer.headers["x-request-id"]


def test_an_ended_server(pipe):
    with client_of(pipe) as client:
        pass
    client = TestClient(client.app, raise_server_exceptions=False)
    refused(client.post("/v1/emotion", json={"text": "So."}), 503, "The server is ending.")
    assert client.get("/health").status_code == 503


def test_a_key(pipe):
    with client_of(pipe, api_key="secret") as client:
        assert client.get("/health").json() == {"status": "ok"}
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            refused(client.get("/v1/models", headers=header), 401, "API key")
        assert client.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
        with client.websocket_connect("/v1/live") as socket:
            socket.send_json({"type": "start"})
            assert socket.receive_json()["error"]["code"] == "invalid_api_key"
        with client.websocket_connect("/v1/live") as socket:
            socket.send_json({"type": "start", "api_key": "secret"})
            assert socket.receive_json()["type"] == "ready"


def test_pages_of_other_origins(pipe):
    page = {"Origin": "https://example.org"}
    with client_of(pipe) as client:
        assert "access-control-allow-origin" not in client.get("/v1/models", headers=page).headers
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("/v1/live", headers=page) as socket,
        ):
            socket.receive_json()
    with client_of(pipe, cors_origins=["https://example.org"]) as client:
        answer = client.get("/v1/models", headers=page)
        assert answer.headers["access-control-allow-origin"] == "https://example.org"


def test_metrics(pipe):
    with client_of(pipe) as client:
        client.post("/v1/emotion", json={"text": "So."})
        client.post("/v1/emotion", json={})
        client.get("/nowhere/1")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    for expected in (
        'bibier_requests_total{path="/v1/emotion",status="200"} 1',
        'bibier_requests_total{path="/v1/emotion",status="400"} 1',
        'bibier_requests_total{path="other",status="404"} 1',
        'bibier_request_seconds_count{path="/v1/emotion"} 2',
        'bibier_batch_size_bucket{le="1"} 1',
        'bibier_batch_size_bucket{le="+Inf"} 1',
        "bibier_live_sessions 0",
    ):
        assert expected in lines


# Live audio


def listen(client, sound: np.ndarray, step: int, **start) -> list[dict]:
    """What the server says to a signal in pieces."""
    with client.websocket_connect("/v1/live") as socket:
        socket.send_json({"type": "start", "format": "f32le", **start})
        assert socket.receive_json()["type"] == "ready"
        for place in range(0, len(sound), step):
            socket.send_bytes(sound[place : place + step].astype("<f4").tobytes())
        socket.send_json({"type": "stop"})
        said = []
        while not said or said[-1]["type"] not in ("done", "error"):
            said.append(socket.receive_json())
    return said


@pytest.mark.parametrize("step", [3000, 100_000])
def test_live_chunks_are_those_of_the_whole(client, pipe, clip, about, step):
    sound, options = clip(3.2, 4), {"chunk_length_s": 1, "hop_length_s": 0.5}
    said = listen(client, sound, step, **options)
    expected = pipe(sound, sampling_rate=16_000, return_timestamps=True, **options)
    chunks = [message for message in said if message["type"] == "chunk"]
    assert [chunk["timestamp"] for chunk in chunks] == [list(chunk["timestamp"]) for chunk in expected["chunks"]]
    for chunk, other in zip([*chunks, said[-1]], [*expected["chunks"], expected], strict=True):
        scores = {entry["label"]: entry["score"] for entry in other["emotions"]}
        assert {entry["label"]: entry["score"] for entry in chunk["emotions"]} == about(scores)
    assert said[-1]["duration"] == 3.2


def test_partial_results_come_while_someone_speaks(client, clip):
    with client.websocket_connect("/v1/live") as socket:
        socket.send_json({"type": "start", "chunk_length_s": 10, "partial_s": 0.5, "format": "s16le"})
        socket.receive_json()
        samples = np.int16(32767 * clip(2.0, 4))
        for number in range(4):
            socket.send_bytes(samples[8000 * number : 8000 * (number + 1)].tobytes())
            message = socket.receive_json()
            assert message["type"] == "partial"
            assert message["timestamp"] == [0.0, (number + 1) / 2]
            assert {entry["label"] for entry in message["emotions"]} == set(EMOTIONS)


def test_a_slow_model_answers_less_often_but_is_not_behind(pipe, clip, monkeypatch):
    """Audio that arrived while the model was busy is answered at once, not piece by piece."""
    forward, is_busy, go_on = pipe.forward, threading.Event(), threading.Event()

    def slow_forward(*args, **options):
        is_busy.set()
        go_on.wait(60)
        return forward(*args, **options)

    monkeypatch.setattr(pipe, "forward", slow_forward)
    samples = np.int16(32767 * clip(2.5, 4))
    with client_of(pipe) as client, client.websocket_connect("/v1/live") as socket:
        socket.send_json({"type": "start", "chunk_length_s": 10, "partial_s": 0.1})
        socket.receive_json()
        socket.send_bytes(samples[:8000].tobytes())
        assert is_busy.wait(60)
        for start in range(8000, len(samples), 1600):
            socket.send_bytes(samples[start : start + 1600].tobytes())
        time.sleep(0.5)  # for their way to the server
        go_on.set()
        said = [socket.receive_json()]
        while said[-1]["timestamp"][1] < 2.5:
            said.append(socket.receive_json())
    assert said[0]["timestamp"] == [0.0, 0.5]
    assert len(said) < 10  # not 21


def test_live_connections_that_are_refused(pipe, clip):
    def first_error(*messages) -> str:
        with client.websocket_connect("/v1/live") as socket:
            for message in messages:
                (socket.send_bytes if isinstance(message, bytes) else socket.send_text)(message)
            while (said := socket.receive_json())["type"] != "error":
                pass
        return said["error"]["message"]

    start = json.dumps({"type": "start", "format": "f32le"})
    with client_of(pipe, limits=ServerLimits(live_sessions=1, live_minutes=0.02)) as client:
        assert "before the audio" in first_error(b"1234")
        assert "must be JSON" in first_error("hello")
        assert "sampling_rate" in first_error('{"type": "start", "sampling_rate": 1}')
        assert "rate: unknown field" in first_error('{"type": "start", "rate": 1}')
        assert "there is no label 'rage'" in first_error('{"type": "start", "labels": ["rage", "sad"]}')
        assert "After the start, send audio" in first_error(start, '{"type": "begin"}')
        assert "must be JSON" in first_error("[" * 100_000)
        assert "windows of more than 60 s" in first_error('{"type": "start", "chunk_length_s": 3600}')
        assert "half of a surrogate pair" in first_error(r'{"type": "start", "labels": ["\ud800", "sad"]}')
        assert "longer than 0.02 minutes" in first_error(start, clip(1.5).tobytes())
        assert "finite" in first_error(start, np.full(8000, np.nan, np.float32).tobytes())
        with client.websocket_connect("/v1/live") as socket:
            socket.send_text(start)
            assert socket.receive_json()["type"] == "ready"
            assert "1 live connections are open" in first_error(start)
    with client_of(pipe, limits=ServerLimits(idle_s=0.1)) as client:
        assert "No audio for 0.1 s." in first_error(start)
