"""Studies: planned and refused before anything is trained, finished runs kept, folds pooled and seeds averaged by
hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from bibier_hf import EMOTIONS
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.metrics import METRICS, classification_metrics
from bibier_hf.evaluation.report import Predictions, environment
from bibier_hf.evaluation.results import RunResults
from bibier_hf.training import study as study_module
from bibier_hf.training.study import StudyArguments, compare, comparison_table, plan_runs, run_study

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def study_file(tmp_path: Path):
    def write(**content) -> Path:
        (tmp_path / "run.yaml").write_text("corpora: [{name: quickstart}]\nnum_train_epochs: 1\n", encoding="utf-8")
        path = tmp_path / "study.yaml"
        content = {"run": "run.yaml", "output_dir": str(tmp_path / "out")} | content
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def finish(run, labels: list[int], answers: list[int]) -> None:
    """Write what a run leaves that answered so."""
    probabilities = np.eye(7)[answers]
    predictions = Predictions(
        [str(i) for i in range(len(labels))],
        ["q"] * len(labels),
        ["en"] * len(labels),
        np.array(labels),
        probabilities,
        EMOTIONS,
    )
    for split in ("dev", "test"):
        predictions.save(run.folder / f"predictions_{split}.parquet")
    config = run.arguments.public_dump()
    facts = {"model": {}, "protocol": {}, "selection": {}, "data": {}}
    RunResults(**facts, config=config, seed=run.seed, seconds=1.0, **environment()).write(run.folder / "results.json")


def test_variants_protocols_seeds_and_folds_are_planned(study_file):
    study = StudyArguments.read(
        study_file(
            seeds=[1, 2],
            protocols={"official": None, "dialogue_grouped": [0, 3]},
            common={"model.dropout": 0.2, "weight_decay": 0.3},
            variants={"base": {}, "slow": {"learning_rate": 1e-5, "model.dropout": 0.3}},
        )
    )
    runs = plan_runs(study, {"num_train_epochs": 3})
    assert len(runs) == 2 * 2 * 3
    assert len({run.folder for run in runs}) == len(runs)
    assert [(run.seed, run.variant) for run in runs[::3]] == [(1, "base"), (1, "slow"), (2, "base"), (2, "slow")]
    slow = next(
        run for run in runs if (run.variant, run.protocol, run.seed, run.fold) == ("slow", "dialogue_grouped", 2, 3)
    )
    assert slow.arguments.training["learning_rate"] == 1e-5
    assert slow.arguments.training["num_train_epochs"] == 3
    assert slow.arguments.training["seed"] == 2
    assert (slow.arguments.model["dropout"], runs[0].arguments.model["dropout"]) == (0.3, 0.2)
    assert slow.arguments.training["weight_decay"] == 0.3
    assert (slow.arguments.corpora[0].protocol, slow.arguments.corpora[0].fold) == ("dialogue_grouped", 3)
    assert len(plan_runs(StudyArguments.read(study_file(protocols={"dialogue_grouped": None})))) == 5


@pytest.mark.parametrize(
    ("content", "only", "message"),
    [
        ({"seed": [1]}, [], r"seed: unknown key\. Did you mean seeds\?"),
        ({"variants": {"base": {"lerning_rate": 1}}}, [], r"variant 'base'.*Did you mean learning_rate"),
        ({"variants": {"base": {}}}, ["bass"], r"there is no variant 'bass'\. Allowed: base"),
        ({"run": "nowhere.yaml"}, [], r"there is no run file .*nowhere\.yaml"),
        ({"seeds": [1, 1]}, [], r"seeds: give each seed once, got \[1, 1\]"),
        ({"protocols": {"dialogue_grouped": [0, 0]}}, [], r"protocols\.dialogue_grouped: give each fold once"),
        ({"protocols": {"dialogue_grouped": []}}, [], r"protocols\.dialogue_grouped: .* at least one"),
        ({"protocols": {"dialogue_grouped": [5]}}, [], r"protocols\.dialogue_grouped\.0: .* less than 5, got 5"),
        ({"protocols": {"official": [0]}}, [], r"protocols\.official: it has no folds"),
        (
            {"protocols": {"dialog_grouped": None}},
            [],
            r"unknown protocol 'dialog_grouped'\. Allowed: official, dialogue",
        ),
        ({"variants": {"../out": {}}}, [], r"'\.\./out' cannot be the name of a folder"),
        ({"variants": {"base": {"seed": 1}}}, [], r"seed: the study sets it for each run\. Give `seeds`"),
        (
            {"common": {"corpora.0.fold": 1}},
            [],
            r"corpora\.0\.fold: the study sets it for each run\. Give `protocols`",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused_at_once(study_file, content: dict, only: list, message: str):
    with pytest.raises(ArgumentError, match=message):
        plan_runs(StudyArguments.read(study_file(**content)), only=only)


def test_keys_of_the_study_are_not_overridden(study_file):
    for key, value in (("seed", 7), ("output_dir", "x"), ("corpora.0.protocol", "official"), ("corpora.0.fold", 1)):
        with pytest.raises(ArgumentError, match=f"{key}: the study sets it for each run"):
            plan_runs(StudyArguments.read(study_file()), {key: value})


def test_without_protocols_those_of_the_run_file_are_used(study_file, tmp_path):
    path = study_file()
    corpus = "{name: quickstart, protocol: dialogue_grouped, fold: 2}"
    (tmp_path / "run.yaml").write_text(f"corpora: [{corpus}]\n", encoding="utf-8")
    (run,) = plan_runs(StudyArguments.read(path))
    assert (run.protocol, run.fold, run.folder.parent.name) == ("dialogue_grouped", 2, "dialogue_grouped-2")


def test_runs_do_not_change_the_study_or_each_other(study_file):
    """The corpora of a variant are a list, which keys of one run would lead into."""
    variants = {"own": {"corpora": [{"name": "quickstart"}]}}
    common = {"corpora.0.data_dir": "first"}
    protocols = {"official": None, "dialogue_grouped": [3]}
    study = StudyArguments.read(study_file(seeds=[1, 2], protocols=protocols, variants=variants, common=common))
    before = study.model_dump()
    runs = plan_runs(study, {"corpora.0.data_dir": "given"})
    assert study.model_dump() == before
    assert [run.arguments.corpora[0].data_dir for run in runs] == ["given"] * 4  # it comes after the variant
    assert {(run.protocol, run.arguments.corpora[0].fold) for run in runs} == {
        ("official", 0),
        ("dialogue_grouped", 3),
    }


def test_an_unfinished_run_continues_only_with_the_same_arguments(study_file, monkeypatch):
    study = StudyArguments.read(study_file())
    (run,) = plan_runs(study)
    resumed = []

    def train(arguments):
        resumed.append(arguments.resume_from_checkpoint)
        (run.folder / "stages").mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(study_module, "run_training", train)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_study([run], say=lambda line: None)
    assert resumed == [False, True]
    with pytest.raises(ArgumentError, match="was started with other values of learning_rate"):
        run_study(plan_runs(study, {"learning_rate": 1e-3}), say=lambda line: None)
    assert len(resumed) == 2


def test_folds_are_pooled_and_seeds_averaged(study_file):
    study = StudyArguments.read(
        study_file(
            seeds=[1, 2],
            protocols={"dialogue_grouped": [0, 1]},
            variants={"base": {}, "other": {"learning_rate": 1e-4}},
        )
    )
    runs = plan_runs(study)
    answers = {("base", 1): [0, 0], ("base", 2): [0, 1], ("other", 1): [0, 1], ("other", 2): [0, 1]}
    for run in runs:
        finish(run, [0, 1] if run.fold == 0 else [2, 2], answers[run.variant, run.seed] if run.fold == 0 else [2, 0])
    report = compare(study, runs)
    assert report["runs"] == {"finished": 8, "missing": []}
    base, other = (
        next(row for row in report["comparison"] if row["variant"] == name and row["split"] == "test")
        for name in ("base", "other")
    )
    by_hand = [classification_metrics([0, 1, 2, 2], found)["uar"] for found in ([0, 0, 2, 0], [0, 1, 2, 0])]
    assert base["metrics"]["uar"]["values"] == by_hand
    assert base["metrics"]["uar"]["std"] == pytest.approx(abs(by_hand[0] - by_hand[1]) / np.sqrt(2))
    assert base["difference"] is None
    assert other["difference"]["uar"]["values"] == [by_hand[1] - by_hand[0], 0.0]
    assert "| other | dialogue_grouped | q | test | 2 |" in comparison_table(report["comparison"])


def test_published_scores_stand_beside_the_official_test_scores(study_file):
    scores = {"q": {"uar": 50.44, "mean": 45.5}}
    published = {"differs": "another backbone", "scores": {"other": scores}}
    variants = {"base": {}, "other": {"learning_rate": 1e-4}}
    study = StudyArguments.read(study_file(variants=variants, published=published))
    runs = plan_runs(study)
    for run in runs:
        finish(run, [0, 1], [0, 1])
    comparison = compare(study, runs)["comparison"]
    lines = comparison_table(comparison).splitlines()
    assert lines[0].endswith("| difference of the mean | published | not comparable because |")
    (found,) = [line for line in lines if "another backbone" in line]
    assert found.startswith("| other | official | q | test |")
    assert "| UAR 50.44, mean 45.50 | another backbone |" in found
    assert sum("published" in row for row in comparison) == 1
    assert "published" not in comparison_table([row for row in comparison if row["variant"] == "base"])

    with pytest.raises(ArgumentError, match=r"published\.scores: there is no variant 'bass'\. Allowed: base, other"):
        StudyArguments.read(study_file(variants=variants, published=published | {"scores": {"bass": scores}}))


def test_a_seed_counts_when_all_its_folds_are_finished(study_file):
    study = StudyArguments.read(study_file(seeds=[1, 2], protocols={"dialogue_grouped": [0, 1]}))
    runs = plan_runs(study)
    for run in runs[:3]:
        finish(run, [0, 1], [0, 1])
    report = compare(study, runs)
    assert {tuple(row["seeds"]) for row in report["comparison"]} == {(1,)}
    assert report["runs"]["missing"] == [str(runs[3].folder)]


def test_finished_runs_are_kept_and_must_be_the_same(study_file, monkeypatch):
    monkeypatch.setattr(study_module, "run_training", lambda run: pytest.fail("a finished run was trained again"))
    study = StudyArguments.read(study_file())
    (run,) = plan_runs(study)
    finish(run, [0, 1], [0, 1])
    said: list[str] = []
    run_study([run], say=said.append)
    assert said == [f"run 1 of 1: {run.folder}: already finished"]
    with pytest.raises(ArgumentError, match="finished with other values of learning_rate"):
        run_study(plan_runs(study, {"learning_rate": 1e-3}))


@pytest.mark.parametrize("keep_models", [False, True])
def test_checkpoints_and_stages_are_removed_with_the_model(study_file, monkeypatch, keep_models: bool):
    (run,) = plan_runs(StudyArguments.read(study_file()))
    weights = ["model.safetensors", "checkpoint-5/optimizer.pt", "stages/fusion/checkpoint-2/model.safetensors"]

    def train(arguments):
        for name in weights:
            (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (run.folder / name).touch()
        finish(run, [0, 1], [0, 1])
        return SimpleNamespace(metrics_mean=dict.fromkeys(("dev", "test"), dict.fromkeys(METRICS, 0.5)))

    monkeypatch.setattr(study_module, "run_training", train)
    run_study([run], keep_models, say=lambda line: None)
    assert [(run.folder / name).exists() for name in weights] == [keep_models] * 3
    assert (run.folder / "results.json").is_file()
    assert (run.folder / "predictions_test.parquet").is_file()


@pytest.mark.parametrize("path", sorted((RECIPES / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_of_the_repository_can_be_planned(path: Path):
    study = StudyArguments.read(path)
    labels = {"corpora.0.label_table": "t.csv"} if path.stem == "meld_labels" else {}
    folder = {} if path.stem == "published_corpora" else {"data_dir": "data"}
    assert plan_runs(study, folder | labels)


def test_a_run_is_announced_with_its_seed_and_fold(study_file, monkeypatch):
    runs = plan_runs(StudyArguments.read(study_file(seeds=[1, 2, 3], protocols={"dialogue_grouped": [0, 3]})))
    for run in runs:
        run.folder.mkdir(parents=True)
        finish(run, [0, 1], [0, 1])
    said = []
    run_study(runs, say=said.append)
    assert said[0] == f"run 1 of 6: {runs[0].folder} (seed 1 of 3, fold 1 of 2): already finished"
    assert said[-1] == f"run 6 of 6: {runs[-1].folder} (seed 3 of 3, fold 2 of 2): already finished"
