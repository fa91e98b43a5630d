"""`bibier augment` within the process."""

import hashlib
import io
import json
import re
import threading
from collections import Counter
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bibier_cli import run as bibier
from bibier_hf import EMOTIONS
from bibier_hf.augmentation.preview import render_preview
from bibier_hf.commands import augment as module
from bibier_hf.data.corpora import get_corpus, load_corpus
from bibier_hf.data.prepare import load_prepared, read_info
from bibier_hf.data.synthetic import balancing_counts
from bibier_hf.files import locked
from bibier_hf.model.audio_bibier import decode_audio


@pytest.fixture
def table(tmp_path, monkeypatch) -> Path:
    """English clips of 0.2 s: in train 2 of each emotion, 5 of them neutral; one of each in dev and test."""
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    lines = ["audio,text,label,split,language,speaker,dialogue"]
    rows = [("train", label) for label in EMOTIONS * 2] + [("train", "neutral")] * 3
    rows += [(split, label) for split in ("dev", "test") for label in EMOTIONS]
    for index, (split, label) in enumerate(rows):
        soundfile.write(tmp_path / f"{index}.wav", np.resize([1, -1], 3_200) * (index + 1) / 100, 16_000)
        lines.append(f"{index}.wav,this is sentence {index},{label},{split},en,s{index % 3},d{index % 4}")
    path = tmp_path / "toy.csv"
    path.write_text("\n".join(lines))
    return path


def run(*arguments) -> int:
    name, *rest = map(str, arguments)
    return bibier(f"augment {name}", rest)


def test_a_stacked_corpus_is_a_corpus_of_the_same_reader(table, tmp_path, capsys):
    out = tmp_path / "stacked"
    assert (
        run("sds", "--corpus", "csv", "--data_dir", table, "--output_dir", out, "--target_s", "0.5", "--share", "0.5")
        == 0
    )
    assert "8 of 17 train rows stacked (8 wanted); " in capsys.readouterr().out
    info = read_info(out)
    assert info["sds"]["share"] == 0.5
    assert info["sds"]["counts"]["stacked"] == 8
    assert str(tmp_path) not in json.dumps(info)
    stored, original = load_prepared(out), load_corpus("csv", table)
    assert Counter(stored["train"]["source"]) == {"recorded": 9, "stacked": 8}
    for split in ("dev", "test"):
        assert stored[split].remove_columns("components").to_list() == original[split].to_list()
    for row in stored["train"]:
        if row["source"] == "stacked":
            with soundfile.SoundFile(io.BytesIO(row["audio"]["bytes"])) as file:
                assert "not one recording" in file.comment
            first = next(other for other in original["train"] if other["id"] == row["components"][0]["id"])
            np.testing.assert_array_equal(decode_audio(row["audio"])[:3_200], decode_audio(first["audio"]))
    assert load_corpus("csv", out)["train"].to_list() == stored["train"].to_list()


def test_template_utterances_balance_a_corpus(table, tmp_path, capsys):
    out = tmp_path / "tug"
    assert run("tug", "--corpus", "csv", "--data_dir", table, "--output_dir", out, "--seed", "3") == 0
    assert "-> " in capsys.readouterr().out
    rows = load_prepared(out)["train"]
    assert Counter(EMOTIONS[label] for label in rows["label"]) == {
        label: 3 for label in EMOTIONS if label != "neutral"
    }
    assert set(rows["source"]) == {"synthetic"}
    assert set(rows["language"]) == {"en"}
    assert set(rows["license"]) == {"MIT"}
    for row in rows:
        with soundfile.SoundFile(io.BytesIO(row["audio"]["bytes"])) as file:
            assert "Synthetic speech" in file.comment
        assert row["speaker"].startswith("en")
    info = read_info(out)
    assert info["left_out"] == []
    assert info["speech"] == {"backend": "espeak", "version": metadata.version("espeakng-loader"), "seed": 42}
    assert not (tmp_path / "tug.speech").exists()


def test_a_second_process_is_told_who_writes(tmp_path, capsys):
    """Without the lock it lost the clips that the first one removed at its end ("No audio file at ...")."""
    out = tmp_path / "corpus"
    command = ["tug", "--counts.sad", 2, "--languages", "[en]", "--output_dir", out]
    inside, done = threading.Event(), threading.Event()

    def hold():
        with locked(out):
            inside.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(60)
    assert run(*command) == 2
    done.set()
    holder.join()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert f"{out} is being written by process" in line
    assert not (tmp_path / "corpus.speech").exists()
    assert run(*command) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"corpus"}


def test_utterances_may_be_text_only_and_counts_given(tmp_path):
    out = tmp_path / "text"
    assert (
        run(
            "tug",
            "--counts.sad",
            "4",
            "--counts.fear",
            "2",
            "--tts",
            "none",
            "--languages",
            "[ru]",
            "--output_dir",
            out,
        )
        == 0
    )
    rows = load_prepared(out)["train"]
    assert Counter(EMOTIONS[label] for label in rows["label"]) == {"sad": 4, "fear": 2}
    assert rows["audio"] == rows["duration_s"] == [None] * 6
    # the same seed writes the same bytes
    digests = {hashlib.sha256((out / "train.parquet").read_bytes()).hexdigest()}
    assert (
        run(
            "tug",
            "--counts.sad",
            "4",
            "--counts.fear",
            "2",
            "--tts",
            "none",
            "--languages",
            "[ru]",
            "--output_dir",
            out,
        )
        == 0
    )
    digests.add(hashlib.sha256((out / "train.parquet").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_what_cannot_be_spoken_is_listed_and_left_out(tmp_path, capsys):
    out = tmp_path / "tug"
    arguments = [
        "tug",
        "--counts.sad",
        "12",
        "--languages",
        "[en]",
        "--output_dir",
        out,
        "--attempts",
        "1",
        "--keep_speech",
        "true",
    ]
    assert run(*arguments, "--checks.max_s", "5.0") == 0
    info = read_info(out)
    assert 0 < len(info["left_out"]) < 12
    assert len(load_prepared(out)["train"]) + len(info["left_out"]) == 12
    assert all("s are allowed" in entry["reason"] for entry in info["left_out"])
    assert f"{len(info['left_out'])} utterances could not be spoken" in capsys.readouterr().out
    assert len(list((tmp_path / "tug.speech").rglob("*.flac"))) == len(load_prepared(out)["train"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sds", "--output_dir", "x"], "corpora: is missing (the corpus; give --corpus NAME)"),
        (["sds", "--corpus", "quickstart", "--output_dir", "x", "--draws", "3"], "draws"),
        (["sds", "--corpus", "quickstart", "--output_dir", "x", "--shore", "1"], "Did you mean share?"),
        (["tug", "--output_dir", "x"], "Give one of --count N"),
        (["tug", "--output_dir", "x", "--count", "100000000", "--tts", "none"], "are possible"),
        (
            ["tug", "--output_dir", "x", "--count", "2", "--tts_options.volume", "3"],
            "unexpected keyword argument 'volume'. Allowed: seed",
        ),
        (
            ["tug", "--output_dir", "x", "--count", "2", "--components", "nowhere"],
            "no components in nowhere/en/anger.json",
        ),
        (["preview", "--augmented", "nowhere"], "holds no prepared corpus"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert message in errors
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_command_and_key(capsys):
    assert run("preview", "--help") == run("components", "--help") == run("tug", "--help") == run("sds", "--help") == 0
    text = capsys.readouterr().out
    for part in ("preview", "components", "--checks.max_wer [null]", "--target_s [4.0]"):
        assert part in text


def test_balancing_counts_by_hand():
    assert balancing_counts(["sad", "sad", "sad", "fear"], EMOTIONS) == {
        label: {"sad": 0, "fear": 2}.get(label, 3) for label in EMOTIONS
    }


# The page


def test_the_page_plays_rows_and_their_components(table, tmp_path):
    out, page = tmp_path / "stacked", tmp_path / "page.html"
    assert (
        run("sds", "--corpus", "csv", "--data_dir", table, "--output_dir", out, "--target_s", "0.5", "--share", "0.5")
        == 0
    )
    assert run("preview", "--augmented", out, "--data_dir", table, "--output", page, "--count", "3") == 0
    text = page.read_text()
    assert "9 recorded rows, 8 stacked rows; 3 augmented ones" in text
    assert "data:image/png;base64," in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    rows = load_prepared(out)["train"]
    shown = [row for row in rows if f"<strong>{row['id']}</strong>" in text]
    assert len(shown) == 3
    for row in shown:
        assert all(part["id"] in text for part in row["components"])
    assert text.count("<audio") == 3 + sum(len(row["components"]) for row in shown)
    with pytest.raises(ValueError, match="not among the recorded rows"):
        render_preview(rows, load_corpus("csv", table)["dev"], "title")
    with pytest.raises(ValueError, match="no stacked or synthetic row"):
        render_preview(load_corpus("csv", table)["train"], None, "title")


def test_the_page_shows_utterances_and_escapes_them(tmp_path):
    out, page = tmp_path / "tug", tmp_path / "page.html"
    assert run("tug", "--counts.sad", "3", "--tts", "none", "--languages", "[en]", "--output_dir", out) == 0
    assert run("preview", "--augmented", out, "--output", page) == 0
    text = page.read_text()
    assert "3 synthetic rows" in text
    assert "<audio" not in text
    rows = load_prepared(out)["train"]
    nasty = rows.remove_columns("text").add_column("text", ["<script>alert(1)</script>"] * len(rows))
    assert "<script>" not in render_preview(nasty, None, "a & b")


# Components


def test_components_are_written_as_they_are_accepted_and_not_asked_for_twice(table, tmp_path, monkeypatch, capsys):
    pairs = [f"{first} {second}" for first in "abcdefgh" for second in "ijklmnop"]
    good = {"subjects": [f"The {pair}" for pair in pairs], "verbs": [f"takes {pair}" for pair in pairs]}
    good |= {
        "interjections": [f"Oh {pair}." for pair in pairs[:20]],
        "contexts": [f"and gives {pair}" for pair in pairs],
    }
    good |= {"templates": ["{i} {s} {v}, {c}.", "{s} {v}, {c}.", "{i} {s} {v}.", "{s} {v}!", "{s}: {v}, {c}!"]}
    asked = []

    def ask(conversation):
        asked.append(conversation[0]["content"])
        return json.dumps(good)

    monkeypatch.setattr(module, "language_model", lambda arguments: ask)
    out = tmp_path / "components"
    arguments = [
        "components",
        "--corpus",
        "csv",
        "--data_dir",
        table,
        "--languages",
        "[en]",
        "--model",
        "m",
        "--output_dir",
        out,
    ]
    assert run(*arguments, "--emotions", "[sad]", "--examples", "1") == 0
    assert run(*arguments, "--emotions", "[sad, fear]") == 0
    assert "exists already" in capsys.readouterr().out
    assert len(asked) == 2
    assert "Emotion: sad" in asked[0]
    assert "- this is sentence" in asked[0]
    own = ["--components", out, "--counts.fear", "5", "--languages", "[en]", "--tts", "none"]
    assert run("tug", *own, "--output_dir", tmp_path / "tug") == 0
    assert len(load_prepared(tmp_path / "tug")["train"]) == 5


def test_a_preview_over_a_corpus_that_was_prepared_under_its_own_name(table, tmp_path, capsys):
    """The clips come from the prepared folder, or from the table by the options with which it was prepared."""
    lines = [line.replace(",language", "").replace(",en,", ",") for line in table.read_text().splitlines()]
    table.write_text("\n".join(lines))
    prepared, out, page = tmp_path / "prepared", tmp_path / "stacked", tmp_path / "preview.html"
    get_corpus("csv").prepare(table, prepared, corpus="mine", language="en")
    stack = (
        "sds",
        "--corpus",
        "csv",
        "--data_dir",
        prepared,
        "--output_dir",
        out,
        "--target_s",
        "0.5",
        "--share",
        "0.5",
    )
    assert run(*stack) == 0
    assert read_info(out)["name"] == "mine"
    for source in (prepared, table):
        assert run("preview", "--augmented", out, "--data_dir", source, "--output", page, "--count", "3") == 0
        assert "data:audio/" in page.read_text()
    other = tmp_path / "other"
    get_corpus("csv").prepare(table, other, corpus="other", language="en")
    capsys.readouterr()
    assert run("preview", "--augmented", out, "--data_dir", other, "--output", page) == 2
    assert "was stacked from 'mine'" in capsys.readouterr().err
