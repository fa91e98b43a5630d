"""Every entrance refuses what it cannot use in one line that names it, and answers what it can: no traceback, no hang,
no silent result. The cases are in `bad_inputs.py`."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

pytest.importorskip("gradio", reason="the extra 'demo' is not installed")
pytest.importorskip("starlette", reason="the extra 'serve' is not installed")

from starlette.testclient import TestClient

from bibier_hf import EMOTIONS, AudioTextEmotionPipeline, BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.commands import evaluate, predict
from bibier_hf.commands.checkpoint import load_pipeline
from bibier_hf.data.corpora import get_corpus
from bibier_hf.demo.analysis import Limits, RefusedInput, analyze
from bibier_hf.demo.texts import TEXTS
from bibier_hf.errors import UserError
from bibier_hf.serve.app import ServerOptions, build_app
from bibier_hf.serve.guard import ServerLimits
from bibier_hf.timeline import LiveEmotion

from .bad_inputs import BAD_INPUTS, COLUMNS, RATE, BadInput, good_rows
from .bibier_command import bibier
from .conftest import TINY, make_clip

HANGS_AFTER_S = 120

NAMES = {
    "table": r"|protocol needs|a label set has at least two",
    "run file": r"|^error: \w+: ",  # the key
    "archive": r"|train_sent_emo\.csv|dia0_utt0\.mp4|odd\.mp4",  # a file in it
    "turns": r"|the recording ends at",
}
"""What else the message may name, beside the file."""


@dataclass
class Place:
    """What is fit for use.

    Attributes:
        folder: six clips, `good.csv`, `good.yaml`, the corpus `prepared`, and the feature store `store`.
        checkpoint: a trained model.
        pipe: its pipeline.
        client: of a server with it.
    """

    folder: Path
    checkpoint: Path
    pipe: AudioTextEmotionPipeline
    client: TestClient


@pytest.fixture(scope="module")
def place(checkpoint, tmp_path_factory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("good")
    for number, name in enumerate(row.partition(",")[0] for row in good_rows()):
        soundfile.write(folder / name, make_clip(0.4, number), RATE)
    (folder / "good.csv").write_text("\n".join([COLUMNS, *good_rows()]) + "\n")
    write_run(folder / "good.yaml", folder / "good.csv")
    get_corpus("csv").prepare(folder / "good.csv", folder / "prepared")
    done = bibier("extract", folder / "good.yaml", "--feature_cache.directory", folder / "store")
    assert done.exit_code == 0, done.stderr

    pipe = load_pipeline(str(checkpoint))
    app = build_app(pipe, ServerOptions("bibier", ServerLimits(characters=200_000)))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Place(folder, checkpoint, pipe, client)


def write_run(path: Path, data: Path, **more: Any) -> Path:
    corpora = [{"name": "csv", "data_dir": str(data)}]
    run = {"corpora": corpora, "model": TINY, "max_steps": 1, "use_cpu": True}
    path.write_text(yaml.safe_dump(run | more))
    return path


@pytest.fixture(autouse=True)
def _ends(tmp_path, monkeypatch) -> Iterator[None]:
    """A hang is a failure, and relative outputs go to a folder of the test."""

    def stop(*_):
        raise TimeoutError(f"no answer after {HANGS_AFTER_S} s")

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANGS_AFTER_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# How each entrance refuses: it returns its error, or None after a valid answer


def check_scores(emotions: list[dict[str, Any]]) -> None:
    scores = {entry["label"]: entry["score"] for entry in emotions}
    assert sorted(scores) == sorted(EMOTIONS)
    assert all(0 <= score <= 1 for score in scores.values())
    assert sum(scores.values()) == pytest.approx(1, abs=1e-3)


def called(function: Callable[[], Any]) -> str | None:
    try:
        result = function()
        if not isinstance(result, Mapping | Sequence | tuple):
            result = list(result)
    except (ValueError, TypeError, OSError, UserError) as error:
        if isinstance(error, UnicodeError | json.JSONDecodeError):
            raise
        return str(error)
    if isinstance(result, list) and result and "score" in result[0]:
        check_scores(result)
    elif isinstance(result, dict) and "chunks" in result:
        check_scores(result["emotions"])
    return None


def commanded(*arguments: object) -> str | None:
    done = bibier(*arguments)
    assert "Traceback" not in done.output
    if done.exit_code == 0:
        return None
    assert done.exit_code in (1, 2)
    lines = done.stderr.splitlines()
    found = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    assert len(found) == 1, done.stderr
    return "\n".join(lines[found[0] :])


def as_file(case: BadInput, folder: Path) -> Path:
    path = folder / case.file
    path.write_bytes(case.given)
    return path


def damaged(case: BadInput, good: Path, folder: Path) -> Path:
    copy = folder / "odd"
    shutil.copytree(good, copy)
    case.given(copy)
    return copy


def with_clips(place: Place, folder: Path) -> None:
    for clip in place.folder.glob("*.wav"):
        os.link(clip, folder / clip.name)


# Recordings


def recording_in_pipeline(case, place, folder):
    path = as_file(case, folder)
    return called(lambda: place.pipe(str(path)))


def recording_in_timeline(case, place, folder):
    path = as_file(case, folder)
    return called(lambda: place.pipe(str(path), chunk_length_s=0.3, return_timestamps=True))


def recording_in_predict(case, place, folder):
    return commanded("predict", place.checkpoint, as_file(case, folder))


def recording_in_windows(case, place, folder):
    return commanded("predict", place.checkpoint, as_file(case, folder), "--segmentation", "energy", "--json")


def table_with_recording(case, place, folder, split) -> Path:
    with_clips(place, folder)
    as_file(case, folder)
    rows = [row.replace(f"{split}0.wav", case.file) for row in good_rows()]
    (folder / "table.csv").write_text("\n".join([COLUMNS, *rows]) + "\n")
    return folder / "table.csv"


def recording_in_prepare(case, place, folder):
    source = table_with_recording(case, place, folder, "train")
    return commanded("prepare", "csv", "--source", source, "--output_dir", folder / "out")


def recording_in_train(case, place, folder):
    run = write_run(folder / "run.yaml", table_with_recording(case, place, folder, "train"))
    return commanded("train", run, "--output_dir", folder / "out")


def recording_in_evaluate(case, place, folder):
    source = table_with_recording(case, place, folder, "test")
    return commanded("evaluate", place.checkpoint, "--corpus", "csv", "--data_dir", source, "--output_dir", "out")


def recording_in_demo(case, place, folder):
    return analyzed(place, str(as_file(case, folder)), "")


def analyzed(place: Place, audio: str | None, text: str) -> str | None:
    try:
        answer = analyze(place.pipe, audio, text, Limits(characters=200_000), TEXTS["en"])
    except RefusedInput as error:
        return str(error)
    check_scores([{"label": name, "score": score} for name, score in answer.scores.items()])
    return None


def recording_in_server(case, place, folder):
    return answered(place.client.post("/v1/emotion", files={"file": (case.file, case.given)}))


def answered(response) -> str | None:
    if response.status_code == 200:
        check_scores(response.json()["emotions"])
        return None
    assert response.status_code in (400, 413, 415, 422), response.text
    message = response.json()["error"]["message"]
    assert "/tmp" not in message
    return message


# Values


def array_in_pipeline(case, place, folder):
    return called(lambda: place.pipe(case.given))


def array_in_timeline(case, place, folder):
    return called(lambda: place.pipe(case.given, chunk_length_s=0.3, return_timestamps=True))


def array_in_processor(case, place, folder):
    return called(lambda: place.pipe.processor(audio=case.given))


def array_in_live(case, place, folder):
    live = LiveEmotion(place.pipe, chunk_length_s=0.2)
    return called(lambda: live.push(case.given["array"], case.given["sampling_rate"]) + live.close())


def text_in_pipeline(case, place, folder):
    return called(lambda: place.pipe({"text": case.given}))


def text_in_processor(case, place, folder):
    return called(lambda: place.pipe.processor(text=case.given))


def text_in_predict(case, place, folder):
    return commanded("predict", place.checkpoint, f"--text={case.given}", "--json")


def text_in_demo(case, place, folder):
    return analyzed(place, None, case.given)


def text_in_server(case, place, folder):
    body = json.dumps({"text": case.given}).encode()
    return answered(place.client.post("/v1/emotion", content=body, headers={"content-type": "application/json"}))


def request_in_server(case, place, folder):
    headers = {"content-type": "application/json"}
    return answered(place.client.post("/v1/emotion", content=case.given, headers=headers))


# Tables


def table_of(case, place, folder) -> Path:
    with_clips(place, folder)
    return as_file(case, folder)


def table_in(*command: object) -> Callable:
    """A command that reads a corpus."""

    def entrance(case, place, folder):
        options = ["--corpus", "csv", "--data_dir", table_of(case, place, folder)]
        start = [place.checkpoint if word == "CHECKPOINT" else word for word in command]
        return commanded(*start, *options, "--output_dir", folder / "out")

    return entrance


def table_in_prepare(case, place, folder):
    return commanded("prepare", "csv", "--source", table_of(case, place, folder), "--output_dir", folder / "out")


def table_in_train(case, place, folder):
    run = write_run(folder / "run.yaml", table_of(case, place, folder))
    return commanded("train", run, "--output_dir", folder / "out")


def table_in_adapt(case, place, folder):
    return commanded("adapt", place.checkpoint, table_of(case, place, folder), "--output_dir", folder / "out")


def labels_in_report(case, place, folder):
    return commanded("label", "report", as_file(case, folder))


def labels_in_train(case, place, folder):
    corpus = {"name": "csv", "data_dir": str(place.folder / "good.csv"), "label_table": str(as_file(case, folder))}
    run = write_run(folder / "run.yaml", place.folder, corpora=[corpus], soft_labels=True)
    return commanded("train", run, "--output_dir", folder / "out")


def run_file_in(command: str) -> Callable:
    return lambda case, place, folder: commanded(command, as_file(case, folder))


# Folders


def checkpoint_in_classes(case, place, folder):
    copy = damaged(case, place.checkpoint, folder)
    return called(
        lambda: (BiBiERForEmotionClassification.from_pretrained(copy), BiBiERProcessor.from_pretrained(copy))
    )


def checkpoint_in(command: str, *more: str) -> Callable:
    return lambda case, place, folder: commanded(command, damaged(case, place.checkpoint, folder), *more)


def store_in(command: str) -> Callable:
    def entrance(case, place, folder):
        name, change = case.given
        shutil.copytree(place.folder / "store", folder / "odd")
        for path in (folder / "odd").rglob(name):
            path.write_bytes(change(path.read_bytes()))
        options = ["--feature_cache.directory", folder / "odd"]
        if command == "train":
            options += ["--output_dir", folder / "out"]
        return commanded(command, place.folder / "good.yaml", *options)

    return entrance


def prepared_in(*command: object) -> Callable:
    def entrance(case, place, folder):
        corpus = damaged(case, place.folder / "prepared", folder)
        options = ["--corpus", "csv", "--data_dir", corpus, "--output_dir", folder / "out"]
        return commanded(*[place.checkpoint if word == "CHECKPOINT" else word for word in command], *options)

    return entrance


def prepared_in_train(case, place, folder):
    run = write_run(folder / "run.yaml", damaged(case, place.folder / "prepared", folder))
    return commanded("train", run, "--output_dir", folder / "out")


def archive_in_prepare(case, place, folder):
    return commanded("prepare", "meld", "--source", as_file(case, folder), "--output_dir", folder / "out")


def turns_in(option: str) -> Callable:
    def entrance(case, place, folder):
        more = ["--chunk_length_s", "0.2"] if option == "--transcript" else []
        path = as_file(case, folder)
        return commanded("predict", place.checkpoint, place.folder / "train0.wav", option, path, *more)

    return entrance


ENTRANCES: dict[str, dict[str, Callable[[BadInput, Place, Path], str | None]]] = {
    "recording": {
        "pipeline": recording_in_pipeline,
        "timeline": recording_in_timeline,
        "predict": recording_in_predict,
        "predict in windows": recording_in_windows,
        "prepare": recording_in_prepare,
        "train": recording_in_train,
        "evaluate": recording_in_evaluate,
        "demo": recording_in_demo,
        "server": recording_in_server,
    },
    "array": {
        "pipeline": array_in_pipeline,
        "timeline": array_in_timeline,
        "processor": array_in_processor,
        "live": array_in_live,
    },
    "text": {
        "pipeline": text_in_pipeline,
        "processor": text_in_processor,
        "predict": text_in_predict,
        "demo": text_in_demo,
        "server": text_in_server,
    },
    "table": {
        "prepare": table_in_prepare,
        "train": table_in_train,
        "evaluate": table_in("evaluate", "CHECKPOINT"),
        "audit": table_in("audit"),
        "baseline": table_in("baseline", "tfidf_logreg"),
        "adapt": table_in_adapt,
    },
    "label table": {"label report": labels_in_report, "train": labels_in_train},
    "run file": {name: run_file_in(name) for name in ("train", "extract", "study", "search")},
    "store": {name: store_in(name) for name in ("extract", "train")},
    "prepared corpus": {
        "train": prepared_in_train,
        "evaluate": prepared_in("evaluate", "CHECKPOINT"),
        "audit": prepared_in("audit"),
        "baseline": prepared_in("baseline", "tfidf_logreg"),
    },
    "archive": {"prepare": archive_in_prepare},
    "turns": {"predict --segments": turns_in("--segments"), "predict --transcript": turns_in("--transcript")},
    "request": {"server": request_in_server},
}
ENTRANCES["checkpoint"] = ENTRANCES["processor"] = {
    "pipeline": checkpoint_in_classes,
    "predict": checkpoint_in("predict", "--text", "So."),
    "evaluate": checkpoint_in("evaluate", "--corpus", "quickstart"),
    "adapt": checkpoint_in("adapt", "nowhere.csv", "--output_dir", "out"),
    "export": checkpoint_in("export", "--output_dir", "out"),
    "demo": checkpoint_in("demo"),
    "serve": checkpoint_in("serve", "--port", "0"),
}


def takes(case: BadInput, entrance: str) -> bool:
    """Whether an entrance can be given such a value at all."""
    if case.kind == "text":
        if entrance in ("predict", "demo"):
            return isinstance(case.given, str) and "\0" not in case.given
        return entrance != "server" or not (isinstance(case.given, bytes) or type(case.given) is object)
    if entrance == "live":
        return isinstance(case.given, dict) and {"array", "sampling_rate"} <= case.given.keys()
    return True


SAMPLE = 12
"""Of so many cases of an entrance, one runs among the fast tests."""


def parameters() -> Iterator[Any]:
    """All cases at all entrances that take them."""
    for kind, entrances in ENTRANCES.items():
        for entrance in entrances:
            cases = [case for case in BAD_INPUTS if case.kind == kind and takes(case, entrance)]
            for number, case in enumerate(cases):
                fast = number % SAMPLE == 0 and not (case.answered and entrance in ("train", "baseline", "evaluate"))
                name = f"{kind}|{entrance}|{case.name}"
                yield pytest.param(case, entrance, id=name, marks=[] if fast else pytest.mark.slow)


@pytest.fixture
def loaded_once(place, monkeypatch) -> None:
    """The good checkpoint is not loaded anew for each case."""
    monkeypatch.setattr(predict, "load_pipeline", lambda name, *_: place.pipe)
    monkeypatch.setattr(evaluate, "load_checkpoint", lambda name, *_: (place.pipe.model, place.pipe.processor))


@pytest.mark.parametrize(("case", "entrance"), parameters())
def test_a_bad_input(case: BadInput, entrance: str, place: Place, tmp_path, request):
    if case.kind not in ("checkpoint", "processor"):
        request.getfixturevalue("loaded_once")
    message = ENTRANCES[case.kind][entrance](case, place, tmp_path)
    if case.answered is True or (case.answered and entrance in case.answered):
        assert message is None, f"{case.name}: {message}"
        return

    assert message, f"{case.name}: not refused"
    assert len(message) < 6000
    if isinstance(case.given, bytes) and entrance not in ("server", "demo"):
        assert re.search(re.escape(case.file) + NAMES.get(case.kind, ""), message), message
