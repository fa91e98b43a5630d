"""The page through its programming interface, as gradio_client calls it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import httpx
import huggingface_hub.constants
import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from bibier_cli import run
from bibier_hf import EMOTIONS, BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.demo import app as demo_app
from bibier_hf.demo.analysis import Limits, ModelFacts
from bibier_hf.demo.app import (
    WAITING_LIMIT,
    build_app,
    model_line,
    page_style,
    preferred_language,
    read_examples,
    serve,
)
from bibier_hf.demo.examples import write_examples
from bibier_hf.demo.texts import TEXTS
from bibier_hf.model.unsure_bibier import REASONS
from bibier_hf.palette import EMOTION_COLORS, emotion_color

from ..conftest import features_of, merged


@pytest.fixture(scope="module")
def client(pipe):
    limits = Limits(megabytes=1)
    app = build_app(pipe, limits=limits)
    serve(app, limits, wait=False)
    yield Client(app.local_url, verbose=False, analytics_enabled=False)
    app.close()


def test_a_clip_with_its_text(client, pipe, recordings):
    audio = str(recordings["short"])
    bars, voice, words, *_ = client.predict(handle_file(audio), "What a day!", "ru", api_name="/analyze")
    assert len(voice["confidences"]) == len(words["confidences"]) == 3
    assert voice["confidences"] != words["confidences"]
    expected = pipe({"audio": audio, "text": "What a day!"})
    names = TEXTS["ru"].emotions
    assert bars["label"] == names[expected[0]["label"]]
    assert {entry["label"]: entry["confidence"] for entry in bars["confidences"]} == {
        names[e["label"]]: e["score"] for e in expected
    }


def test_an_answer_that_should_not_be_trusted_says_why(client, recordings, tmp_path, clip):
    soundfile.write(tmp_path / "blink.wav", clip(0.1), 16_000)
    for language in ("en", "ru"):
        *_, doubt = client.predict(handle_file(tmp_path / "blink.wav"), "", language, api_name="/analyze")
        assert doubt["value"] == TEXTS[language].unsure["too short"]
    assert TEXTS["en"].unsure.keys() == TEXTS["ru"].unsure.keys() == set(REASONS)


def test_a_long_recording_has_a_timeline(client, recordings):
    with_warnings = client.predict(handle_file(recordings["long"]), "Words", "en", api_name="/analyze")
    bars, voice, words, bands, table, values, doubt = with_warnings
    assert (doubt["value"], doubt["visible"]) == ("", False)
    assert values == ""
    assert len(bars["confidences"]) == 7
    assert not voice
    assert not words
    assert 'class="bands"' in bands
    assert 'download="long.srt"' in bands
    assert 'download="long.csv"' in bands
    assert table["headers"] == list(TEXTS["en"].columns[:-1])  # nothing was recognized: no words
    assert table["data"][0][0] == "0:00"
    assert table["data"][-1][1] == "0:16"


def test_the_model_is_named():
    facts = ModelFacts("run", False, {"resd": False, "quickstart": True}, {"resd": 0.615}, 1 / 7)
    english, russian = (model_line(facts, TEXTS[language]) for language in ("en", "ru"))
    assert english == (
        "Model: **run** · Trained on: resd, quickstart (synthetic speech) · "
        "Average recall on the test set (UAR): 61.5%, chance level 14.3%"
    )
    for part in ("**run**", "resd, quickstart", "61,5\N{NO-BREAK SPACE}%", "14,3"):
        assert part in russian
    hub = ModelFacts("owner/name", True, {}, {}, 1 / 7)
    assert model_line(hub, TEXTS["en"]) == "Model: [owner/name](https://huggingface.co/owner/name)"
    several = ModelFacts("run", False, {}, {"resd": 0.5, "meld": 0.4}, 1 / 7)
    assert "resd 50.0%, meld 40.0%" in model_line(several, TEXTS["en"])


def test_bars_have_the_colors_of_the_palette():
    style = page_style([*EMOTIONS, "calm", '"} body {'], TEXTS["ru"])
    assert f'"гнев-confidence-set"] {{ --stat-background-fill: {EMOTION_COLORS["anger"]}; }}' in style
    assert f'"calm-confidence-set"] {{ --stat-background-fill: {emotion_color("calm")}; }}' in style
    assert "body" not in style
    assert TEXTS["ru"].upload in style
    assert TEXTS["ru"].microphone in style
    assert TEXTS["ru"].refused in style


def test_messages_reach_the_visitor(client, recordings):
    for audio, language, message in (
        (None, "en", TEXTS["en"].nothing_given),
        (handle_file(recordings["silent"]), "ru", TEXTS["ru"].silent),
    ):
        with pytest.raises(AppError) as caught:
            client.predict(audio, "", language, api_name="/analyze")
        assert message in str(caught.value)
    with pytest.raises(AppError, match=r"text\.wav cannot be read as audio"):
        client.predict(handle_file(recordings["text"]), "", "en", api_name="/analyze")


def test_only_the_analysis_is_offered_and_nothing_is_reported(client):
    assert list(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == ["/analyze"]
    config = client.config
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    assert client.src.startswith("http://127.0.0.1:")
    assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY


def test_the_answers_of_few_visitors_are_kept(pipe):
    """Each call may be another visitor; Gradio keeps the last answers of 10,000 by default."""
    app = build_app(pipe)
    serve(app, Limits(), wait=False)
    try:
        assert app.state_holder.capacity == demo_app._SESSIONS == 100
    finally:
        app.close()


def test_one_visitor_at_a_time(pipe):
    app = build_app(pipe)
    analyses = [function for function in app.fns.values() if function.name == "answer"]
    assert len(analyses) == 2
    assert {function.concurrency_limit for function in analyses} == {1}
    assert app._queue.max_size == WAITING_LIMIT


def test_a_model_of_one_modality_asks_for_it_alone(tiny_options, processor):
    from transformers import pipeline

    model = BiBiERForEmotionClassification(
        BiBiERConfig(**merged(tiny_options, features_of(text=8)), modalities=["text"])
    )
    pipe = pipeline("audio-text-emotion", model=model, processor=processor, device="cpu")
    blocks = build_app(pipe).blocks.values()
    visible = {type(block): block.visible for block in blocks if isinstance(block, (gr.Audio, gr.Textbox))}
    assert visible == {gr.Audio: False, gr.Textbox: True}


def test_uploads_are_deleted_and_examples_stay(pipe, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_app, "_SWEEP_S", 0.2)
    monkeypatch.setattr(demo_app, "_KEPT_S", 0.2)
    app = build_app(pipe, write_examples(tmp_path / "examples"))
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    serve(app, Limits(), wait=False)
    try:
        examples = sorted(folder.rglob("*.flac"))
        assert len(examples) == 5
        answer = httpx.post(
            f"{app.local_url}gradio_api/upload", files={"files": recordings["short"].open("rb")}, timeout=60
        )
        uploaded = Path(answer.json()[0])
        assert folder in uploaded.parents
        for _ in range(200):
            if not uploaded.exists():
                break
            time.sleep(0.1)
        assert not uploaded.exists()
        assert sorted(folder.rglob("*.flac")) == examples
    finally:
        app.close()


@pytest.mark.parametrize(
    ("header", "language"), [("ru-RU,ru;q=0.9,en;q=0.8", "ru"), ("en-US,ru;q=0.5", "en"), ("de", "en"), (None, "en")]
)
def test_the_page_speaks_the_language_of_the_browser(header, language):
    request = gr.Request(headers={} if header is None else {"accept-language": header})
    assert preferred_language(request) == language


def test_examples(tmp_path, pipe):
    rows, names = read_examples(write_examples(tmp_path / "examples"))
    assert len(rows) == len(names) == len(set(names)) == 5
    for audio, text in rows:
        assert len(pipe({"audio": audio, "text": text})) == 7
    first = {path.name: path.read_bytes() for path in (tmp_path / "examples").iterdir()}
    write_examples(tmp_path / "again")
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == first


def test_what_the_command_refuses(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)

    def refusal(*arguments) -> str:
        assert run("demo", arguments) == 2
        return capsys.readouterr().err

    assert "make quickstart" in refusal()  # its checkpoint is not there yet
    assert "nowhere is neither" in refusal("./nowhere")
    assert "--model_id OWNER/NAME" in refusal("--space", "space")
    assert "--space FOLDER" in refusal("outputs/x", "--model_id", "owner/name")
    assert "not a Hub id" in refusal("--space", "space", "--model_id", "not an id")
    assert "has no owner" in refusal("--space", "space", "--model_id", "name")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install 'bibier-hf[demo]'" in refusal("./nowhere")
    assert not any(tmp_path.iterdir())


def test_a_port_that_is_taken(checkpoint, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("demo", [str(checkpoint), "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1" in capsys.readouterr().err


SERVE = "import sys; from bibier_cli import run; sys.exit(run('demo', [sys.argv[1], '--port', sys.argv[2]]))"


def start_page(checkpoint: Path, temporary: Path, takes_ctrl_c: Callable[[], None]) -> tuple[subprocess.Popen, str]:
    """The process of a page, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(checkpoint), str(port)],
        env=os.environ | {"TMPDIR": str(temporary)},
        preexec_fn=takes_ctrl_c,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert "The demo runs at" in line, process.communicate()[1]
    return process, line.split()[4]


def upload(address: str, recording: Path) -> None:
    with recording.open("rb") as file:
        httpx.post(f"{address}gradio_api/upload", files={"files": file}, timeout=60).raise_for_status()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_deletes_what_was_uploaded(number, checkpoint, recordings, tmp_path, takes_ctrl_c):
    process, address = start_page(checkpoint, tmp_path, takes_ctrl_c)
    try:
        upload(address, recordings["short"])
        assert list(tmp_path.rglob("short.wav"))
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert "uploads of visitors are deleted" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("bibier-demo-*"))


@pytest.mark.slow
def test_the_next_page_deletes_what_a_killed_one_left(checkpoint, recordings, tmp_path, monkeypatch, takes_ctrl_c):
    process, address = start_page(checkpoint, tmp_path, takes_ctrl_c)
    try:
        upload(address, recordings["short"])
        monkeypatch.setattr(demo_app, "_STARTING_S", -1)
        monkeypatch.setattr(demo_app.tempfile, "tempdir", str(tmp_path))
        demo_app._remove_left_behind()
        assert list(tmp_path.rglob("short.wav"))  # of a page that is still there
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert list(tmp_path.rglob("short.wav"))
    demo_app._remove_left_behind()
    assert not list(tmp_path.glob("bibier-demo-*"))
