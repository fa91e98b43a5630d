"""Label sets of all kinds and the three problem types, from the pipeline to files, page and export."""

import csv
import json
from pathlib import Path

import pytest
import soundfile
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from bibier_hf import BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.palette import EMOTION_COLORS, emotion_color
from bibier_hf.timeline import save_timeline

from .conftest import TINY, make_clip, merged

LABEL_SETS = {
    "two": ["calm", "upset"],
    "cyrillic": ["гнев и обида", "радость", "без эмоций"],
    "eight": ["Anger", "disgust", "fear", "happy", "neutral", "sad", "surprise", "text"],
    "sixty": [f"class {place}" for place in range(60)],
}
PROBLEMS = {
    **{name: {"id2label": dict(enumerate(labels))} for name, labels in LABEL_SETS.items()},
    "several": {
        "id2label": dict(enumerate(LABEL_SETS["cyrillic"])),
        "problem_type": "multi_label_classification",
        "thresholds": [0.0, 0.0, 1.0],
    },
    "values": {
        "id2label": {0: "valence", 1: "arousal"},
        "problem_type": "regression",
        "label_ranges": [[1, 7], [-1, 1]],
    },
}


@pytest.fixture(scope="module", params=PROBLEMS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with other labels."""
    folder = tmp_path_factory.mktemp("labels") / request.param
    torch.manual_seed(0)
    BiBiERForEmotionClassification.from_backbones(**merged(TINY, PROBLEMS[request.param])).save_pretrained(folder)
    BiBiERProcessor.from_backbones().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(checkpoint: Path):
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    return pipeline("audio-text-emotion", model=model, processor=processor, device="cpu")


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, make_clip(16.0), 16_000)
    return path


def labels_of(pipe) -> list[str]:
    return pipe.model.config.label_names


def is_regression(pipe) -> bool:
    return pipe.model.config.problem_type == "regression"


def test_the_pipeline(pipe):
    names = labels_of(pipe)
    answers = pipe([{"text": "Не верю!"}, {"text": "Good"}], batch_size=2)
    assert all({entry["label"] for entry in answer} == set(names) for answer in answers)
    some = pipe({"text": "Good"}, labels=[names[1].upper(), f" {names[0]} "])
    assert {entry["label"] for entry in some} == set(names[:2])
    if pipe.model.config.problem_type == "single_label_classification":
        assert sum(entry["score"] for entry in some) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match=f"There are: {names[0]}"):
        pipe({"text": "Good"}, labels=["no such label", names[0]])


def test_timelines_in_every_form(pipe, talk: Path, tmp_path: Path):
    pytest.importorskip("matplotlib")
    names = labels_of(pipe)
    timeline = pipe(str(talk), chunk_length_s=4, return_timestamps=True)
    assert save_timeline(timeline, tmp_path / "talk.png").stat().st_size > 0
    read = json.loads(save_timeline(timeline, tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert read["emotions"] == timeline["emotions"]

    with save_timeline(timeline, tmp_path / "talk.csv", labels=names).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    prefix = "value_" if is_regression(pipe) else "p_"
    for row, chunk in zip(rows, timeline["chunks"], strict=True):
        assert {name: float(row[prefix + name]) for name in names} == {
            entry["label"]: entry["score"] for entry in chunk["emotions"]
        }

    captions = save_timeline(timeline, tmp_path / "talk.srt").read_text(encoding="utf-8").splitlines()[2::4]
    first = timeline["chunks"][0]["emotions"]
    if is_regression(pipe):
        assert captions[0] == f"valence {first[0]['score']:.2f}, arousal {first[1]['score']:.2f}"
        with pytest.raises(ValueError, match="holds labels, but this timeline has values"):
            save_timeline(timeline, tmp_path / "talk.rttm")
        return

    named = [entry for entry in first if entry["present"]] if "present" in first[0] else first[:1]
    assert captions[0] == ", ".join(f"{entry['label']} {entry['score']:.0%}" for entry in named)
    assert rows[0]["label"] == "; ".join(entry["label"] for entry in named)
    lines = save_timeline(timeline, tmp_path / "talk.rttm").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4 * len(named)
    assert all(len(line.split(" ")) == 10 for line in lines)  # no spaces in labels


@pytest.mark.parametrize("language", ["en", "ru"])
def test_the_page(pipe, talk: Path, language: str):
    pytest.importorskip("gradio")
    from bibier_hf.demo.analysis import Limits, analyze
    from bibier_hf.demo.app import build_app, page_style
    from bibier_hf.demo.texts import TEXTS
    from bibier_hf.demo.timeline_view import download_links, timeline_bands, timeline_table, value_list

    texts, names = TEXTS[language], labels_of(pipe)
    build_app(pipe)
    for audio, text in ((None, "Не верю!"), (str(talk), "")):
        answer = analyze(pipe, audio, text, Limits(), texts)
        assert set(answer.scores) == set(names)
        assert ('class="values"' in value_list(answer, texts)) == is_regression(pipe)

    bands, table = timeline_bands(answer, texts), timeline_table(answer, texts)
    assert bands.count("<svg") == min(len(names), 12)
    assert all(len(row) == len(table["headers"]) for row in table["data"])
    assert download_links(answer, texts).count("<a ") == 2
    assert emotion_color(names[0]) in page_style(names, texts)


def test_names_on_the_page():
    pytest.importorskip("gradio")
    from bibier_hf.demo.texts import TEXTS

    assert TEXTS["ru"].names(["Anger", "calm"]) == {"Anger": "гнев", "calm": "calm"}
    assert TEXTS["ru"].names(["anger", "гнев"]) == {"anger": "anger", "гнев": "гнев"}  # each keeps a bar of its own
    assert emotion_color(" Anger") == EMOTION_COLORS["anger"]


@pytest.mark.slow
def test_the_export(pipe, talk: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from bibier_hf.export import export_model
    from bibier_hf.export.onnx_pipeline import OnnxPipeline

    manifest = export_model(pipe.model, pipe.processor, tmp_path / "onnx", part="whole")
    assert manifest["labels"] == labels_of(pipe)
    exported = OnnxPipeline.from_pretrained(tmp_path / "onnx")
    names = labels_of(pipe)
    merge = (
        {"label_map": {"both": names[:2]}} if len(names) > 2 and "present" not in exported({"text": "a"})[0] else {}
    )
    for options in ({}, {"labels": names[:2]}, merge):
        found, expected = (one({"text": "Не верю!"}, **options) for one in (exported, pipe))
        assert {entry["label"] for entry in found} == {entry["label"] for entry in expected}
        scores = {entry["label"]: entry["score"] for entry in expected}
        assert all(entry["score"] == pytest.approx(scores[entry["label"]], abs=1e-4) for entry in found)


def test_the_command(pipe, checkpoint: Path, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    from bibier_hf.commands.predict import PredictArguments, predict
    from bibier_hf.errors import ArgumentError

    names = labels_of(pipe)
    run = [str(checkpoint), "--text", "Не верю!", "--json", "--labels", ",".join(names[:2])]
    assert predict(PredictArguments.from_command_line(run)) == 0
    answer = json.loads(capsys.readouterr().out)["emotions"]
    assert {entry["label"] for entry in answer} == set(names[:2])

    shown = [str(checkpoint), str(talk), "--chunk_length_s", "4", "--output", str(tmp_path / "talk.csv")]
    assert predict(PredictArguments.from_command_line(shown)) == 0
    assert names[0] in capsys.readouterr().out or len(names) > 3
    header = (tmp_path / "talk.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.split(",")[-len(names) :] == [("value_" if is_regression(pipe) else "p_") + name for name in names]

    with pytest.raises(ArgumentError, match=r"there is no label 'gone'"):
        predict(PredictArguments.from_command_line([*run[:4], "--labels", "gone"]))
    merging = [*run[:4], "--label_map", f"{{new: ['{names[0]}', '{names[1]}']}}"]
    if pipe.model.config.problem_type != "single_label_classification":
        with pytest.raises(ArgumentError, match="none to add"):
            predict(PredictArguments.from_command_line(merging))
    elif len(names) > 2:
        assert predict(PredictArguments.from_command_line(merging)) == 0
        assert len(json.loads(capsys.readouterr().out)["emotions"]) == len(names) - 1
    if is_regression(pipe):
        with pytest.raises(ArgumentError, match="top_k: ranks labels"):
            predict(PredictArguments.from_command_line([*run[:4], "--top_k", "1"]))
