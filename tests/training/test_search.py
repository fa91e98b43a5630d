"""Searches: every combination paid for once, chosen on dev, resumable, one table."""

import json
import sys
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.report import environment
from bibier_hf.evaluation.results import RunResults
from bibier_hf.extras import MissingPackageError
from bibier_hf.training import study as study_module
from bibier_hf.training.search import (
    SearchArguments,
    Trial,
    best_rows,
    greedy,
    run_search,
    trial_arguments,
    with_optuna,
)

RECIPES = Path(__file__).parents[2] / "recipes"
SPACE = {"learning_rate": [1e-3, 1e-4], "weight_decay": [0.0, 0.1, 0.2]}


def trial(values, score: float) -> Trial:
    return Trial(dict(values), {"uar": score, "war": score, "mf1": score, "wf1": score, "mean": score}, 1.0)


def landscape(values) -> float:
    return 0.5 - abs(values["weight_decay"] - 0.1) - 100 * abs(values["learning_rate"] - 1e-4)


def test_greedy_goes_from_key_to_key():
    tried = []

    def attempt(values):
        tried.append(dict(values))
        return trial(values, landscape(values))

    best = greedy(SPACE, attempt)
    assert best.values == {"learning_rate": 1e-4, "weight_decay": 0.1}
    distinct = {json.dumps(values) for values in tried}
    assert len(distinct) == 4  # two rates, and then the two other decays with the better rate
    assert {"learning_rate": 1e-3, "weight_decay": 0.2} not in tried


def test_of_equal_scores_the_first_stays():
    assert greedy(SPACE, lambda values: trial(values, 0.5)).values == {"learning_rate": 1e-3, "weight_decay": 0.0}


def test_optuna_finds_the_best_and_repeats_itself(tmp_path):
    pytest.importorskip("optuna")
    runs = []
    for _ in range(2):
        tried = []

        def attempt(values, tried=tried):
            tried.append(dict(values))
            return trial(values, landscape(values))

        with_optuna(SPACE, attempt, 20, seed=1, output_dir=tmp_path)
        assert len(tried) == 20
        assert {"learning_rate": 1e-4, "weight_decay": 0.1} in tried[:15]
        runs.append(tried)
    assert runs[0] == runs[1]


@pytest.fixture
def search_file(tmp_path: Path):
    def write(**content) -> Path:
        (tmp_path / "run.yaml").write_text("corpora: [{name: quickstart}]\nnum_train_epochs: 1\n", encoding="utf-8")
        path = tmp_path / "search.yaml"
        content = {"run": "run.yaml", "output_dir": str(tmp_path / "out"), "space": SPACE} | content
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Instead of training, write results whose dev score follows from the arguments."""
    folders = []

    def run_training(arguments):
        folders.append(arguments.output_dir)
        score = landscape(arguments.training)
        facts = {"model": {}, "protocol": {}, "selection": {}, "data": {}}
        metrics = {"uar": score, "war": score, "mf1": score, "wf1": score, "mean": score}
        results = RunResults(
            **facts,
            config=arguments.public_dump(),
            seed=1,
            seconds=2.0,
            metrics_mean={"dev": metrics, "test": metrics},
            **environment(),
        )
        results.write(Path(arguments.output_dir) / "results.json")
        return results

    monkeypatch.setattr(study_module, "run_training", run_training)
    return folders


def test_trials_are_kept_and_stand_in_one_table(search_file, trained, tmp_path):
    search = SearchArguments.read(search_file())
    said: list[str] = []
    trials = run_search(search, {"num_train_epochs": 3}, say=said.append)
    assert len(trials) == len(trained) == len(set(trained)) == 4
    assert said[0] == "trial 1: learning_rate=0.001, weight_decay=0.0"
    assert next(best_rows(trials)) == ["3", "50.00", "learning_rate=0.0001, weight_decay=0.1"]

    table = pq.read_table(tmp_path / "out" / "trials.parquet").to_pydict()
    assert table["trial"] == [1, 2, 3, 4]
    assert table["learning_rate"] == ["0.001", "0.0001", "0.0001", "0.0001"]
    assert table["dev_mean"] == [item.score for item in trials]
    assert table["seconds"] == [2.0] * 4
    assert not [name for name in table if "test" in name]

    again = run_search(search, {"num_train_epochs": 3}, say=said.append)
    assert len(trained) == 4
    assert again == trials


def test_optuna_needs_its_extra(search_file, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'bibier-hf\[search\]'"):
        run_search(SearchArguments.read(search_file(method="optuna")))
    assert not trained


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"space": {"lerning_rate": [1.0]}}, r"Did you mean learning_rate"),
        ({"space": {"learning_rate": []}}, r"space\.learning_rate: there are no values"),
        ({"space": {"learning_rate": [1e-4, "fast"]}}, r"learning_rate"),
        ({"run": "nowhere.yaml"}, r"there is no run file"),
        ({"method": "random"}, r"method"),
        ({"space": {"seed": [1, 2]}}, r"seed: the search sets it for each run\. Give `seed` in the search file"),
        ({"common": {"output_dir": "x"}}, r"output_dir: the search sets it"),
        ({"space": {"hub_model_id": [date(2026, 1, 1)]}}, r"hub_model_id: Input should be a valid string"),
    ],
)
def test_what_cannot_be_searched_is_refused_at_once(search_file, trained, content, message):
    with pytest.raises(ArgumentError, match=message):
        run_search(SearchArguments.read(search_file(**content)))
    assert not trained


def test_overrides_do_not_get_lost(search_file, trained):
    search = SearchArguments.read(search_file())
    for key in ("seed", "output_dir"):
        with pytest.raises(ArgumentError, match=f"{key}: the search sets it"):
            run_search(search, {key: "1"})
    with pytest.raises(ArgumentError, match="learning_rate: the search tries values of its own"):
        run_search(search, {"learning_rate": 0.5})
    assert not trained

    corpora = [[{"name": "quickstart"}], [{"name": "resd"}]]
    search = SearchArguments.read(search_file(space={"corpora": corpora}))
    run = trial_arguments(search, {"corpora": corpora[1]}, {"corpora.0.data_dir": "given"})
    assert (run.corpora[0].name, run.corpora[0].data_dir) == ("resd", "given")
    assert corpora[1] == [{"name": "resd"}]


@pytest.mark.parametrize("path", sorted((RECIPES / "searches").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_searches_of_the_repository_can_be_planned(path: Path):
    search = SearchArguments.read(path)
    for key, values in search.space.items():
        for value in values:
            trial_arguments(search, {key: value}, {"data_dir": "data"})
