"""A whole run in process: what it leaves behind, and what it refuses."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax
from transformers import pipeline

from bibier_hf import EMOTIONS, BiBiERForEmotionClassification
from bibier_hf.commands.evaluate import EvaluateArguments, _calibrate, evaluate_checkpoint
from bibier_hf.data.mixture import AugmentationArguments, CorpusArguments, load_corpora
from bibier_hf.data.protocols import ProtocolError
from bibier_hf.data.reader import InputReader
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.calibration import fit_temperature
from bibier_hf.evaluation.metrics import classification_metrics
from bibier_hf.evaluation.report import Predictions
from bibier_hf.evaluation.results import RunResults
from bibier_hf.files import WriteError, filled_folder
from bibier_hf.training.arguments import run_arguments
from bibier_hf.training.augmentation import AugmentedCorpus
from bibier_hf.training.build import build_model
from bibier_hf.training.rows import RunInputs
from bibier_hf.training.run import calibration_facts, run_training
from bibier_hf.training.trainer import BiBiERTrainer

from ..conftest import merged
from .conftest import run_inputs


@pytest.fixture
def finished(small_run):
    """A finished run and its results."""
    run = small_run()
    return run, run_training(run, command="accelerate launch recipes/train.py small.yaml")


def test_a_run_leaves_a_model_and_a_report(finished, corpus_table, tmp_path):
    run, results = finished
    folder = Path(run.output_dir)
    assert json.loads((folder / "results.json").read_text()) == results.to_json()
    for name in ("uar", "war", "mf1", "wf1"):
        assert 0 <= results.metrics["test"]["small"][name] <= 1
        assert 0 <= results.metrics["dev"]["small"][name] <= 1
    assert set(results.metrics_by_language["test"]) == {"en", "ru"}
    assert results.protocol["small"]["name"] == "official"
    assert results.protocol["small"]["samples"] == {"train": 14, "dev": 7, "test": 7}
    assert results.seed == 42
    assert {"git", "versions", "hardware", "data_hash", "seconds"} <= results.to_json().keys()

    table = pq.read_table(folder / "predictions_test.parquet")
    assert table.num_rows == 7
    assert sum(table[f"p_{name}"][0].as_py() for name in EMOTIONS) == pytest.approx(1)
    assert (folder / "confusion_matrix_test_small.png").is_file()
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".eval_results"]

    model = BiBiERForEmotionClassification.from_pretrained(folder)
    # the weights of the training draw, two samples of each class: all one
    assert model.config.class_weights == pytest.approx([1.0] * 7)
    answers = pipeline("audio-text-emotion", model=str(folder), trust_remote_code=True)(
        str(corpus_table.parent / "test00.wav")
    )
    assert {answer["label"] for answer in answers} == set(EMOTIONS)

    for name in ("results.json", "README.md", "config.json", "processor_config.json", "tokenizer_config.json"):
        assert str(tmp_path) not in (folder / name).read_text(), name


def test_the_temperature_is_fitted_on_dev_and_stored(finished):
    run, results = finished
    folder, calibration = Path(run.output_dir), results.calibration
    assert calibration["samples"] == 7
    assert calibration["fitted_on"] == "dev, answered by the selected checkpoint"
    assert calibration["temperature"] != 1
    assert json.loads((folder / "config.json").read_text())["temperature"] == calibration["temperature"]
    before, after = calibration["uncalibrated"]["dev"]["small"], results.metrics["dev"]["small"]
    assert after["nll"] < before["nll"]
    table = pq.read_table(folder / "predictions_dev.parquet").to_pylist()
    assert after["nll"] == pytest.approx(-sum(math.log(row[f"p_{row['label']}"]) for row in table) / 7)
    assert {path.name for path in folder.glob("reliability_*.png")} == {
        "reliability_dev_small.png",
        "reliability_test_small.png",
    }


def test_what_is_chosen_is_chosen_on_dev_and_not_on_test(small_run, tmp_path, write_table):
    """Selection, adjustment and temperature are computed again from the predictions on dev; on test, where only angry
    clips are, each of them is another."""
    folder = tmp_path / "skewed"
    folder.mkdir()
    table = write_table(folder, "skewed", train=18)
    lines = table.read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines):
        if line.startswith("test"):
            audio, text, _, *rest = line.split(",")
            lines[index] = ",".join([audio, text, "anger", *rest])
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = small_run(
        corpora=[{"name": "csv", "data_dir": str(table)}],
        logit_adjustment="dev",
        class_weights="none",
        num_train_epochs=3,
        seed=1,
    )
    results = run_training(run)
    rows = {
        split: Predictions.load(Path(run.output_dir) / f"predictions_{split}.parquet") for split in ("dev", "test")
    }
    assert rows["dev"].labels.tolist() == list(range(7))
    assert rows["test"].labels.tolist() == [0] * 7

    temperature, adjustment = results.calibration["temperature"], results.logit_adjustment
    logits = {split: temperature * np.log(answers.probabilities) for split, answers in rows.items()}
    assert fit_temperature(logits["dev"], rows["dev"].labels, ["x"] * 7).temperature == pytest.approx(
        temperature, rel=1e-3
    )
    assert fit_temperature(logits["test"], [0] * 7, ["x"] * 7).temperature != pytest.approx(temperature, rel=0.01)
    unshifted = {split: values - np.array(adjustment["shift"]) for split, values in logits.items()}
    selected = classification_metrics(rows["dev"].labels, unshifted["dev"].argmax(1))
    assert results.selection["value"] == pytest.approx(selected["mean"])
    assert classification_metrics([0] * 7, unshifted["test"].argmax(1))["mean"] != pytest.approx(selected["mean"])
    counts = np.bincount([index % 7 for index in range(18)])
    prior = np.log(counts) - np.log(counts).mean()
    for entry in adjustment["dev_scores"]:
        answers = (unshifted["dev"] - entry["strength"] * prior).argmax(1)
        assert entry["score"] == pytest.approx(classification_metrics(rows["dev"].labels, answers)["mean"])
    chosen = [entry for entry in results.selection["history"] if entry["epoch"] == results.selection["epoch"]]
    assert chosen[0]["dev_score"] == max(entry["dev_score"] for entry in results.selection["history"])


def test_every_corpus_counts_the_same_for_the_temperature(feature_model, feature_rows, monkeypatch, tmp_path):
    """In a run and in `evaluate --calibrate`: 4 rows that are sure and wrong weigh as much as 10 sensible ones."""
    run, rows, model = (
        run_arguments({"corpora": [{"name": "csv"}], "output_dir": "x"}),
        feature_rows(14),
        feature_model(),
    )
    corpora = np.asarray(rows.metadata["corpus"])
    logits = 2 * np.eye(7)[rows.labels]
    logits[corpora == "b"] = 2 * np.eye(7)[(rows.labels[corpora == "b"] + 1) % 7]
    logits += 0.5 * np.random.default_rng(0).standard_normal(logits.shape)

    def mean_nll(temperature: float) -> float:
        of_truth = log_softmax(logits / temperature, axis=1)[np.arange(14), rows.labels]
        return -(of_truth[corpora == "a"].mean() + of_truth[corpora == "b"].mean()) / 2

    candidates = np.geomspace(0.05, 20, 4001)
    best = candidates[np.argmin([mean_nll(temperature) for temperature in candidates])]
    assert calibration_facts(run, model, logits, rows)["temperature"] == pytest.approx(best, rel=5e-3)
    pooled = fit_temperature(logits, rows.labels, ["x"] * 14).temperature
    assert pooled != pytest.approx(best, rel=0.05)
    model.save_pretrained(tmp_path)
    _calibrate(str(tmp_path), model, logits, rows, "dev")
    assert json.loads((tmp_path / "config.json").read_text())["temperature"] == pytest.approx(best, rel=5e-3)


@pytest.mark.parametrize(
    ("options", "fitted"),
    [
        ({}, True),
        ({"calibrate": False}, False),
        ({"model": {"original_behavior": True}}, False),
        ({"calibrate": True, "model": {"original_behavior": True}}, True),
    ],
)
def test_no_temperature_is_fitted_unasked_for_published_behaviour(feature_model, feature_rows, options, fitted):
    run = run_arguments({"corpora": [{"name": "csv"}], "output_dir": "x"} | options)
    logits = 3 * np.random.default_rng(0).standard_normal((14, 7))
    facts = calibration_facts(run, feature_model(**run.model), logits, feature_rows(14))
    assert (facts["temperature"] != 1) == fitted
    assert (facts["fitted_on"] is not None) == fitted


def test_evaluating_the_checkpoint_gives_the_scores_of_the_run(finished, about, tmp_path):
    run, results = finished
    again = evaluate_checkpoint(
        EvaluateArguments.from_command_line([run.output_dir, "--output_dir", str(tmp_path / "scores")])
    )
    assert again.metrics["test"] == about(results.metrics["test"])
    assert again.calibration["temperature"] == results.calibration["temperature"]
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {
        "evaluation_test.json",
        "predictions_test.parquet",
        "confusion_matrix_test_small.png",
        "reliability_test_small.png",
        "risk_coverage_test_small.png",
    }


def test_a_run_fits_when_answers_are_unsure(small_run, corpus_table, tmp_path):
    run = small_run(unsure={"clips": 10, "sounds": 2, "coverage": 0.6})
    results = run_training(run)
    folder = Path(run.output_dir)
    assert results.unsure["speech_check"]["sounds"] == 90
    assert results.unsure["coverage"] == 0.6
    assert [point["coverage"] for point in results.risk_coverage["test"]["small"]][:2] == [1.0, 0.95]
    assert "### When not to answer" in (folder / "README.md").read_text()

    config = json.loads((folder / "config.json").read_text())
    assert config["least_confidence"] == results.unsure["least_confidence"]
    assert config["audio_config"]["speech_check"] is True
    answer = pipeline("audio-text-emotion", model=str(folder), trust_remote_code=True)(
        str(corpus_table.parent / "test00.wav"), return_unsure=True
    )
    assert 0 <= answer["unsure_score"] <= 1

    arguments = [run.output_dir, "--output_dir", str(tmp_path / "dev"), "--split", "dev", "--fit_unsure"]
    options = ["--unsure.clips", "10", "--unsure.sounds", "2", "--unsure.coverage", "0.8"]
    again = evaluate_checkpoint(EvaluateArguments.from_command_line(arguments + options))
    assert again.unsure["speech_check"] == results.unsure["speech_check"]
    assert again.unsure["least_confidence"] <= results.unsure["least_confidence"]
    assert RunResults.load(folder / "results.json").unsure == again.unsure
    changed = json.loads((folder / "config.json").read_text())
    assert changed["least_confidence"] == again.unsure["least_confidence"]

    with pytest.raises(ArgumentError, match="fit_unsure: fitting on test"):
        evaluate_checkpoint(EvaluateArguments.from_command_line([run.output_dir, "--fit_unsure"]))
    with pytest.raises(ArgumentError, match="Give --fit_unsure as well"):
        evaluate_checkpoint(EvaluateArguments.from_command_line([run.output_dir, "--unsure.coverage", "0.5"]))


@pytest.mark.parametrize("with_predictions", [True, False])
def test_another_temperature_reaches_results_and_card(finished, about, with_predictions):
    run, results = finished
    folder = Path(run.output_dir)
    if not with_predictions:
        (folder / "predictions_test.parquet").unlink()
    arguments = [run.output_dir, "--output_dir", str(folder / "train"), "--split", "train", "--calibrate", "true"]
    fitted = evaluate_checkpoint(EvaluateArguments.from_command_line(arguments)).calibration["temperature"]
    assert fitted != pytest.approx(results.calibration["temperature"], rel=0.01)
    again = RunResults.load(folder / "results.json")
    assert again.calibration["temperature"] == fitted
    assert (again.calibration["fitted_on"], again.calibration["samples"]) == ("train, after training", 14)
    assert again.calibration["uncalibrated"] == results.calibration["uncalibrated"]
    card = (folder / "README.md").read_text()
    assert f"divided by the temperature {fitted:.4g}, fitted on train, after training" in card
    for split in ("dev", "test"):
        arguments = [run.output_dir, "--split", split, "--output_dir", str(folder / split)]
        scores = evaluate_checkpoint(EvaluateArguments.from_command_line(arguments)).metrics[split]
        if split == "test" and not with_predictions:
            for name in ("ece", "brier", "nll"):
                scores["small"].pop(name)
        assert again.metrics[split] == about(scores)
    assert ("ECE: expected calibration error" in card) == with_predictions


def test_evaluating_takes_another_corpus_and_split(finished, about, corpus_table, tmp_path):
    run, results = finished
    arguments = [
        run.output_dir,
        "--corpus",
        "csv",
        "--data_dir",
        str(corpus_table),
        "--split",
        "dev",
        "--output_dir",
        str(tmp_path),
    ]
    again = evaluate_checkpoint(EvaluateArguments.from_command_line([*arguments, "--feature_cache.enabled", "false"]))
    assert again.metrics["dev"] == about(results.metrics["dev"])


def test_a_table_of_test_rows_alone_can_be_evaluated(finished, about, corpus_table, tmp_path):
    run, results = finished
    lines = corpus_table.read_text(encoding="utf-8").splitlines()
    table = corpus_table.with_name("alone.csv")
    table.write_text("\n".join([lines[0], *(line for line in lines if ",test," in line)]), encoding="utf-8")

    arguments = [run.output_dir, "--corpus", "csv", "--data_dir", str(table), "--output_dir", str(tmp_path / "alone")]
    alone = evaluate_checkpoint(EvaluateArguments.from_command_line(arguments))
    assert alone.metrics["test"]["alone"] == about(results.metrics["test"]["small"])

    with pytest.raises(ProtocolError, match="needs a train split; the corpus has test"):
        evaluate_checkpoint(EvaluateArguments.from_command_line([*arguments, "--split", "dev"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"checkpoint: is missing \(folder or Hub id of a trained model, or bibier-small"),
        (["nowhere"], r"corpora: is missing .*--corpus NAME"),
        (["nowhere", "--corpus", "csv", "--splt", "dev"], r"splt: unknown key\. Did you mean split\?"),
        (["nowhere", "--corpus", "csv", "--split", "all"], "split: "),
        (["nowhere", "--corpus", "csv", "--conditions", "pink:3"], "conditions.*unknown name"),
    ],
)
def test_an_evaluation_that_cannot_be_followed_is_named(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        EvaluateArguments.from_command_line(arguments)


@pytest.mark.parametrize(
    ("name", "message"), [("empty", "holds no checkpoint"), ("nowhere", "nor bibier-small or bibier-tiny, which come")]
)
def test_a_checkpoint_that_is_not_there_is_named(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    arguments = EvaluateArguments.from_command_line([str(tmp_path / name), "--corpus", "csv"])
    with pytest.raises(ArgumentError, match=message):
        evaluate_checkpoint(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conditions", "white:5", "g711", "white:5"], "each condition once"),
        (["--conditions", "white:1000"], "from -10 to 100"),
        (["--add_to_results", "true"], "nothing to add"),
        (["--add_to_results", "true", "--modalities", "true"], r"holds no results\.json"),
    ],
)
def test_what_cannot_be_measured_is_named_before_anything_is_computed(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        evaluate_checkpoint(EvaluateArguments.from_command_line(["nowhere", "--corpus", "csv", *arguments]))


def test_numbers_of_another_corpus_are_not_added_to_the_results(finished, write_table, tmp_path):
    run, results = finished
    (tmp_path / "other").mkdir()
    table = write_table(tmp_path / "other", train=7)
    arguments = [
        run.output_dir,
        "--corpus",
        "csv",
        "--data_dir",
        str(table),
        "--modalities",
        "true",
        "--add_to_results",
        "true",
    ]
    with pytest.raises(ArgumentError, match="the run has other corpora or another protocol"):
        evaluate_checkpoint(EvaluateArguments.from_command_line(arguments))
    assert RunResults.load(Path(run.output_dir) / "results.json") == results


def test_a_model_of_text_hears_no_noise(small_run, tiny_options, corpus_table, tmp_path):
    run = small_run(model=tiny_options | {"modalities": ["text"]})
    model, processor, _ = build_model(run)
    model.save_pretrained(tmp_path / "text")
    processor.save_pretrained(tmp_path / "text")
    arguments = [str(tmp_path / "text"), "--corpus", "csv", "--data_dir", str(corpus_table)]
    with pytest.raises(ArgumentError, match="takes only text, so there is no audio to disturb"):
        evaluate_checkpoint(EvaluateArguments.from_command_line([*arguments, "--conditions", "white:0"]))


def test_a_finished_run_is_not_overwritten_unasked(finished, small_run):
    run, results = finished
    with pytest.raises(ArgumentError, match="holds a finished run"):
        run_training(run)
    assert run_training(small_run(resume_from_checkpoint=True)) == results
    stray = Path(run.output_dir) / "notes.txt"
    stray.write_text("mine")
    assert run_training(small_run(overwrite=True)).metrics == results.metrics
    assert stray.read_text() == "mine"


def test_an_unfinished_run_is_not_overwritten_unasked(finished):
    run, _ = finished
    (Path(run.output_dir) / "results.json").unlink()
    with pytest.raises(ArgumentError, match="--resume_from_checkpoint true to continue"):
        run_training(run)


def test_a_run_killed_before_its_report_resumes_to_the_same_results(finished, small_run):
    run, results = finished
    (Path(run.output_dir) / "results.json").unlink()
    again = run_training(small_run(resume_from_checkpoint=True))
    assert again.metrics == results.metrics
    assert again.selection == results.selection


def test_nothing_to_resume_is_said_before_anything_is_computed(small_run):
    with pytest.raises(ArgumentError, match="holds no complete checkpoint"):
        run_training(small_run(resume_from_checkpoint=True))


def test_an_output_that_cannot_be_written_is_named(small_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"Cannot write .*: a part of the path is a file"):
        run_training(small_run(output_dir=str(tmp_path / "file" / "out")))


def test_missing_data_are_named(small_run, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_training(small_run(corpora=[{"name": "csv", "data_dir": str(tmp_path / "nowhere.csv")}]))


def test_a_corpus_stands_once(small_run, corpus_table):
    corpus = {"name": "csv", "data_dir": str(corpus_table)}
    with pytest.raises(ArgumentError, match="'small' is given twice"):
        run_training(small_run(corpora=[corpus, corpus]))


def test_two_corpora_are_balanced_and_scored_apart(small_run, corpus_table):
    corpora = [
        {"name": "csv", "data_dir": str(corpus_table)},
        {"name": "csv", "data_dir": str(corpus_table), "options": {"corpus": "other"}},
    ]
    results = run_training(small_run(corpora=corpora, num_train_epochs=1))
    assert set(results.metrics["test"]) == {"small", "other"}
    for name, value in results.metrics_mean["test"].items():
        assert value == pytest.approx(sum(results.metrics["test"][corpus][name] for corpus in ("small", "other")) / 2)


def test_refitting_trains_on_dev_as_long_as_the_selected_checkpoint(small_run):
    # batches of 8: two steps an epoch of 14 training samples, three of 14 + 7
    results = run_training(small_run(refit_on_dev=True))
    folder = Path(small_run().output_dir)
    epoch = round(results.selection["epoch"])
    state = json.loads((folder / "refit" / f"checkpoint-{3 * epoch}" / "trainer_state.json").read_text())
    assert state["epoch"] == epoch
    refitted = load_file(folder / "refit" / f"checkpoint-{3 * epoch}" / "model.safetensors")
    final = load_file(folder / "model.safetensors")
    selected = load_file(folder / f"checkpoint-{2 * epoch}" / "model.safetensors")
    assert all(torch.equal(final[name], refitted[name]) for name in final)
    assert any(not torch.equal(final[name], selected[name]) for name in final)
    # Nothing is left to calibrate it on: the temperature is that of the selected checkpoint.
    assert results.calibration["fitted_on"] == "dev, answered by the selected checkpoint before the refit"
    assert (
        BiBiERForEmotionClassification.from_pretrained(folder).config.temperature == results.calibration["temperature"]
    )


def test_a_refit_on_test_is_scored_before_it(small_run, tmp_path):
    options = {"refit_on_dev": True, "refit_on_test": ["small"], "num_train_epochs": 1}
    results = run_training(small_run(**options))
    folder = Path(small_run().output_dir)
    plain = run_training(small_run(num_train_epochs=1, output_dir=str(tmp_path / "plain")))
    assert results.metrics == plain.metrics

    # batches of 8: 14 + 7 + 7 samples
    state = json.loads((folder / "refit" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["epoch"] == 1
    with pytest.raises(ArgumentError, match="refit_on_test: there is no corpus 'large'; there are small"):
        run_training(small_run(**options | {"refit_on_test": ["large"], "output_dir": str(tmp_path / "other")}))


def test_the_output_appears_as_a_whole(tmp_path):
    (tmp_path / "results.json").write_text("old")

    def fail() -> None:
        with filled_folder(tmp_path, last="results.json") as staging:
            (staging / "model.safetensors").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (tmp_path / "results.json").read_text() == "old"
    assert not (tmp_path / "model.safetensors").exists()
    with filled_folder(tmp_path, last="results.json") as staging:
        (staging / "results.json").write_text("new")
        (staging / "model.safetensors").write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "model.safetensors"}
    assert (tmp_path / "results.json").read_text() == "new"


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_a_model_of_one_modality_is_trained_by_the_same_run_file(small_run, tiny_options, corpus_table, modality):
    corpus = {"name": "csv", "data_dir": str(corpus_table)}
    if modality == "text":  # a quarter of the rows has none, which a model of text alone cannot read
        lines = corpus_table.read_text(encoding="utf-8").splitlines()
        with_text = [line.replace(",,", ",some words,") for line in lines]
        corpus_table.write_text("\n".join(with_text) + "\n", encoding="utf-8")
    run = small_run(corpora=[corpus], model=tiny_options | {"modalities": [modality]}, num_train_epochs=1)
    results = run_training(run)
    other = "text" if modality == "audio" else "audio"
    weights = load_file(Path(run.output_dir) / "model.safetensors")
    parts = {".".join(name.split(".")[:3]) for name in weights if name.startswith("bibier.")}
    assert parts == {f"bibier.{modality}.backbone", f"bibier.{modality}.encoder"}
    tops = {name.split(".")[0] for name in weights}
    assert tops == {"bibier", f"{modality}_head", "trained_labels"}
    config = BiBiERForEmotionClassification.from_pretrained(run.output_dir).config
    assert config.to_dict()[f"{other}_config"]["backbone"] is None
    pipe = pipeline("audio-text-emotion", model=run.output_dir, trust_remote_code=True)
    both = {"audio": str(corpus_table.parent / "test00.wav"), "text": "some words"}
    assert pipe(both) == pipe({modality: both[modality]})
    with pytest.raises(ValueError, match=f"reads only {modality}|neither audio nor text that this model reads"):
        pipe({other: both[other]})
    assert 0 <= results.metrics["test"]["small"]["uar"] <= 1


def test_frozen_parameters_stay_and_backbones_have_a_learning_rate_of_their_own(small_run):
    options = {
        "frozen": ["bibier.text.backbone.embeddings", "bibier.fusion"],
        "backbone_learning_rate": 1e-5,
        "scheduler": "onecycle",
    }
    run = small_run(**options, num_train_epochs=1)
    run_training(run)
    before, *_ = build_model(run)
    after = load_file(Path(run.output_dir) / "model.safetensors")
    steps = {name: (after[name] - value).abs().max().item() for name, value in before.state_dict().items()}
    assert {name for name, step in steps.items() if step == 0} >= {
        name for name in steps if name.startswith(("bibier.text.backbone.embeddings", "bibier.fusion"))
    }
    in_backbones = max(step for name, step in steps.items() if ".backbone." in name)
    assert 0 < in_backbones < 1e-4 < max(steps.values())
    with pytest.raises(
        ArgumentError,
        match=r"frozen: no parameter's name begins with 'nothing'\. They begin with .*bibier\.audio\.backbone\.",
    ):
        build_model(small_run(frozen=["nothing"]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"fusion": "biforrmer"}}, "fusion='biforrmer' is not allowed; it must be one of late, biformer"),
        (
            {"model": {"audio_config": {"cepstrum": True}}},
            r"audio_config\.cepstrum=True is not allowed; .* needs Whisper's log-mel input",
        ),
        (
            {"audio_backbone": "/no/such/folder"},
            r"audio_backbone '/no/such/folder' .* a Hub id, a folder with a config\.json, or 'embedded'",
        ),
    ],
)
def test_a_model_that_cannot_be_built_is_an_error_of_the_run(small_run, values, message):
    with pytest.raises(ArgumentError, match=message):  # which commands print without a traceback
        build_model(small_run(**values))


def test_a_run_hands_the_trainer_what_it_was_asked_for(small_run):
    run = small_run(
        backbone_learning_rate=3e-5, patience=4, optimizer="sgd", scheduler="onecycle", corpus_balanced_sampling=True
    )
    model, processor, _ = build_model(run)
    corpora = load_corpora(run.corpora)
    reader = InputReader(model, processor, run.feature_cache)
    train, dev, test = AugmentedCorpus(corpora["small"], AugmentationArguments()).inputs(reader.inputs)
    trainer = BiBiERTrainer(run, model, RunInputs([train], dev, test, reader.collator), processor)
    assert trainer.run.backbone_learning_rate == 3e-5
    assert trainer.early_stopping.early_stopping_patience == 4
    assert (trainer.run.scheduler, trainer.optimizer_cls_and_kwargs[0]) == ("onecycle", torch.optim.SGD)
    assert trainer.processor is processor
    assert trainer.train_corpora is None  # one corpus
    assert trainer.train_lengths is None
    assert list(trainer.eval_dataset.metadata["corpus"]) == ["small"] * 7
    assert list(trainer.eval_dataset.metadata["language"]) == list(corpora["small"]["dev"]["language"])
    assert [row["label"] for row in trainer.eval_dataset] == list(corpora["small"]["dev"]["label"])
    assert [row["label"] for row in trainer.train_dataset] == list(corpora["small"]["train"]["label"])


def test_batches_are_grouped_by_length_if_asked_for(small_run, feature_model, feature_rows):
    rows = feature_rows()
    trainer = BiBiERTrainer(small_run(group_by_length=True), feature_model(), run_inputs(rows, feature_rows(14, 1)))
    np.testing.assert_array_equal(trainer.train_lengths, rows.lengths)


@pytest.mark.parametrize("balanced", [True, False])
def test_class_weights_follow_the_draws(small_run, feature_model, feature_rows, balanced):
    """Corpus `a` is twice as large as `b`: with balanced draws a sample of `b` counts twice."""
    model, rows = feature_model(), feature_rows(22)
    data = run_inputs(rows, feature_rows(14, 1))
    trainer = BiBiERTrainer(small_run(corpus_balanced_sampling=balanced), model, data)
    corpora = np.array(rows.metadata["corpus"])
    sizes = {name: (corpora == name).sum() for name in ("a", "b")}
    draws = np.array([len(rows) / 2 / sizes[name] if balanced else 1.0 for name in corpora])
    counts = np.array([draws[rows.labels == label].sum() for label in range(7)])
    expected = counts.sum() / (7 * counts)
    np.testing.assert_allclose(model.config.class_weights, expected, rtol=1e-6)
    assert (trainer.train_corpora is not None) == balanced


def test_options_of_the_cache_reach_the_stores(small_run, tmp_path):
    cache = {"directory": str(tmp_path / "stores"), "dtype": "float16", "compute_dtype": "int8", "batch_size": 3}
    run = small_run(feature_cache=cache)
    model, processor, _ = build_model(run)
    extractor = InputReader(model, processor, run.feature_cache).extractor
    assert extractor.stores["audio"].folder.parent == tmp_path / "stores"
    assert extractor.stores["audio"].dtype == torch.float16
    assert (extractor.compute_dtype, extractor.batch_size) == (torch.int8, 3)


def test_the_same_seed_gives_the_same_model_and_another_another(small_run):
    models = [build_model(small_run(seed=seed))[0].state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert any(not torch.equal(models[0][name], models[2][name]) for name in models[0])


def test_the_processor_reads_texts_as_the_run_says(small_run, tiny_options):
    _, processor, _ = build_model(
        small_run(text_prefix="query: ", model=merged(tiny_options, {"text_config": {"max_tokens": 9}}))
    )
    assert processor.text_prefix == "query: "
    assert processor.max_text_tokens == 9


def test_a_corpus_is_split_as_its_protocol_says(write_table, tmp_path, monkeypatch):
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    table = write_table(tmp_path, "own", train=84)
    lines = table.read_text(encoding="utf-8").splitlines()
    lines = [lines[0], *(line.replace(",dev,", ",train,") for line in lines[1:])]  # no dev split of its own
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def ids(**options):
        corpus = CorpusArguments(name="csv", data_dir=str(table), **options)
        splits = load_corpora([corpus])
        ((name, rows),) = splits.items()
        assert name == options.get("options", {}).get("corpus", "own")
        return {split: list(rows[split]["id"]) for split in ("train", "dev", "test")}

    plain = ids()
    assert len(plain["dev"]) == 7 * round(0.12 * 13)  # 13 clips of each label
    assert len(ids(dev_share=0.4)["dev"]) == 7 * round(0.4 * 13)
    assert set(ids(split_seed=1)["dev"]) != set(plain["dev"])
    assert ids(options={"corpus": "renamed"})["test"] != plain["test"]  # ids carry the name
    folds = [ids(protocol="speaker_independent", fold=fold) for fold in (0, 1)]
    assert set(folds[0]["dev"]) == set(folds[1]["test"]) != set(plain["test"])
