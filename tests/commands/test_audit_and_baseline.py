"""`bibier audit` and `bibier baseline`."""

import json

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bibier_cli import run
from bibier_hf.commands.audit import AuditArguments
from bibier_hf.commands.baseline import BaselineArguments
from bibier_hf.errors import ArgumentError


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_datasets")


@pytest.fixture(scope="module")
def table(run_file):
    """The table of clips and texts behind the run file."""
    return run_file.parent / "small.csv"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A table of texts alone, with dialogues; each label has its word."""
    path = tmp_path_factory.mktemp("texts") / "lines.csv"
    lines = ["text,label,split,language,dialogue"]
    for number in range(140):
        label = ("anger", "disgust", "fear", "happy", "neutral", "sad", "surprise")[number % 7]
        split = ("train", "train", "dev", "test")[number // 7 % 4]
        lines.append(f"line {number} says w{number % 7},{label},{split},en,d{number // 7}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_audit_leaves_a_page_a_picture_and_json(launch, table, tmp_path):
    done = launch(
        "-m",
        "bibier_cli",
        "audit",
        "--corpus",
        "csv",
        "--data_dir",
        table,
        "--output_dir",
        tmp_path / "audit",
        "--fail_on_leak",
    )
    # Every text of this table is "text <label>": the same in train and test, with the same label.
    assert done.returncode == 1, done.stderr
    assert "## small, official: leaks" in done.stdout
    assert "not audited: speakers" in done.stdout
    results = json.loads((tmp_path / "audit" / "audit.json").read_text())
    (audit,) = results["audits"]
    assert results["verdict"]["leaks"]
    assert audit["duplicates"]["texts"]["label_from_text"]["uar"] == 1.0
    assert audit["label_tokens"]["file_names"]["rows"] == 30
    assert (tmp_path / "audit" / "audit.md").read_text() in done.stdout
    assert Image.open(tmp_path / "audit" / "audit_small.png").width > 1000


def test_texts_alone_under_two_protocols(texts, tmp_path, capsys):
    arguments = [
        "--corpus",
        "csv",
        "--data_dir",
        str(texts),
        "--protocol",
        "official,dialogue_grouped",
        "--fold",
        "all",
    ]
    assert run("audit", [*arguments, "--output_dir", str(tmp_path)]) == 0
    audits = json.loads((tmp_path / "audit.json").read_text())["audits"]
    assert [audit["title"] for audit in audits] == [
        "lines, official",
        *(f"lines, dialogue_grouped, fold {fold}" for fold in range(5)),
    ]
    assert all(audit["who_speaks"] is None and audit["duplicates"]["audio"] is None for audit in audits)
    assert not any(audit["groups"]["dialogue"]["known_rows"] for audit in audits[1:])
    assert "not audited: who speaks and duplicate recordings: train or test has no audio" in capsys.readouterr().out


def test_a_baseline_over_all_folds(launch, texts, tmp_path):
    arguments = (
        "tfidf_logreg",
        "--corpus",
        "csv",
        "--data_dir",
        texts,
        "--protocol",
        "dialogue_grouped",
        "--fold",
        "all",
    )
    done = launch("-m", "bibier_cli", "baseline", *arguments, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| lines | 100.00" in done.stdout
    assert "mean and deviation over 5 folds" in done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"]["test"]["lines"]["samples"] == 140  # every row once
    assert results["protocol"]["lines"] == {"name": "dialogue_grouped", "folds": [0, 1, 2, 3, 4], "split_seed": 42}
    assert [run["fold"] for run in results["folds"]["lines"]["runs"]] == [0, 1, 2, 3, 4]
    assert results["folds"]["lines"]["std"]["uar"] == 0.0
    assert str(texts.parent) not in json.dumps(results)
    assert sorted(pq.read_table(tmp_path / "predictions_test.parquet")["id"].to_pylist()) == sorted(
        pq.read_table(tmp_path / "predictions_dev.parquet")["id"].to_pylist()
    )
    assert (tmp_path / "confusion_matrix_test_lines.png").is_file()


def test_fusion_of_voice_and_text(table, tmp_path):
    assert (
        run("baseline", ["late_fusion", "--corpus", "csv", "--data_dir", str(table), "--output_dir", str(tmp_path)])
        == 0
    )
    (fold,) = json.loads((tmp_path / "results.json").read_text())["folds"]["small"]["runs"]
    assert fold["chosen"]["weight"] == 0.5
    assert len(fold["chosen"]["parts"]) == 2


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("audit", ["--corpus", "rsed"], "Unknown corpus 'rsed'. Did you mean resd?"),
        (
            "baseline",
            ["tfidf_logreg", "--corpus", "csv", "--data_dir", "nowhere.csv"],
            "No corpus at 'nowhere.csv'",
        ),
        (
            "baseline",
            ["who_speaks", "--corpus", "csv", "--data_dir", "TEXTS"],
            "who_speaks needs audio in every row",
        ),
    ],
)
def test_what_a_user_can_mend_is_told_in_one_line(texts, capsys, command, arguments, message):
    assert run(command, [str(texts) if argument == "TEXTS" else argument for argument in arguments]) == 2
    assert message in capsys.readouterr().err


def test_one_split_alone_cannot_be_audited(tmp_path, capsys):
    path = tmp_path / "one.csv"
    path.write_text("text,label,split,language\nyes,anger,train,en\nno,fear,train,en\n", encoding="utf-8")
    assert run("audit", ["--corpus", "csv", "--data_dir", str(path), "--output_dir", str(tmp_path / "audit")]) == 2
    assert "needs a train and a test split" in capsys.readouterr().err
    assert not (tmp_path / "audit").exists()


def test_short_forms_name_corpora_protocols_and_folds():
    def entries(*arguments):
        return AuditArguments.from_command_line(arguments).corpora

    several = entries("--corpus", "resd", "--data_dir", "x", "--protocol", "official,dialogue_grouped", "--fold", "2")
    assert [(entry.name, entry.data_dir, entry.protocol, entry.fold) for entry in several] == [
        ("resd", "x", "official", 0),
        ("resd", "x", "dialogue_grouped", 2),
    ]
    assert [
        entry.fold for entry in entries("--corpus", "resd", "--protocol", "dialogue_grouped", "--fold", "all")
    ] == [0, 1, 2, 3, 4]
    long_form = entries(
        "--corpora.0.name", "csv", "--corpora.0.options.language", "en", "--protocol", "dialogue_grouped"
    )
    assert (long_form[0].options, long_form[0].protocol) == ({"language": "en"}, "dialogue_grouped")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "corpora: is missing .*--corpus NAME"),
        (["--corpus", "resd", "--treshold", "1"], "treshold: unknown key"),
        (["--corpora.0.name", "a", "--corpora.1.name", "b", "--fold", "1"], "--fold: short for the only corpus"),
        (["--corpus", "resd", "--fold", "two"], "fold"),
    ],
)
def test_arguments_that_cannot_be_followed(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        AuditArguments.from_command_line(arguments)


def test_baselines_that_cannot_be_followed():
    with pytest.raises(
        ArgumentError, match=r"baseline: Input should be 'mfcc_svm', 'tfidf_logreg', .* got 'mfcc_smv'"
    ):
        BaselineArguments.from_command_line(["mfcc_smv", "--corpus", "resd"])
    with pytest.raises(ArgumentError, match="pooled_audio_logreg needs --audio_backbone, a Hub id"):
        BaselineArguments.from_command_line(
            ["late_fusion", "--corpus", "resd", "--parts", "[pooled_audio_logreg, tfidf_logreg]"]
        )
    parsed = BaselineArguments.from_command_line(
        ["late_fusion", "--corpus", "resd", "--parts", "[mfcc_svm, who_speaks]", "--fusion_weight", "null"]
    )
    assert isinstance(parsed, BaselineArguments)
    assert (parsed.members, parsed.fusion_weight) == (["mfcc_svm", "who_speaks"], None)
