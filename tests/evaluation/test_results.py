"""Results are assembled in one place, written and read again, and a foreign file is refused in one line."""

import json

import numpy as np
import pytest

from bibier_hf import EMOTIONS
from bibier_hf.evaluation.report import Predictions, environment
from bibier_hf.evaluation.results import EvaluationResults, ResultsError, RunResults

FACTS = {"model": {"fusion": "late"}, "protocol": {}, "selection": {}, "data": {}, "config": {}}


@pytest.fixture
def results() -> RunResults:
    return RunResults(**FACTS, seed=1, seconds=2.0, **environment())


def test_a_split_adds_the_metrics_of_corpora_languages_and_their_mean(results):
    probabilities = np.full((4, 7), 0.1)
    probabilities[[0, 1, 2, 3], [0, 0, 3, 3]] = 0.4
    corpora, languages = ["x", "x", "x", "y"], ["en", "ru", "ru", "ru"]
    results.add_split(
        "test", Predictions(list("abcd"), corpora, languages, np.array([0, 3, 3, 0]), probabilities, EMOTIONS)
    )

    metrics = results.metrics["test"]
    assert metrics["x"]["war"] == pytest.approx(2 / 3)
    assert metrics["x"]["samples"] == 3
    assert metrics["x"]["recall"]["happy"] == 0.5
    assert {"ece", "brier", "nll"} <= metrics["x"].keys()
    assert metrics["y"]["uar"] == 0.0
    assert results.metrics_mean["test"]["war"] == pytest.approx(1 / 3)
    assert set(results.metrics_by_language["test"]) == {"en", "ru"}


def test_what_is_written_is_read_again(results, tmp_path):
    results.conditions = {"test": {"x": {"white:0": {"uar": 0.5}}}}
    results.write(tmp_path / "results.json")
    assert RunResults.load(tmp_path / "results.json") == results


def test_only_what_was_measured_on_request_is_left_out(results):
    assert (
        not {"calibration", "modalities", "conditions", "conditions_audio", "conditions_settings"}
        & results.to_json().keys()
    )
    assert {"stages": None, "augmentation": {}}.items() <= results.to_json().items()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "does not hold the results of a training run"),
        ("{}", "does not hold the results of a training run: git: "),
        (FACTS | {"seed": "one", "seconds": 1.0} | environment(), "seed: .*valid integer"),
        (FACTS | {"seed": 1, "seconds": 1.0, "extra": 1} | environment(), "extra: "),
    ],
)
def test_a_foreign_file_is_refused_in_one_line(content, message, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ResultsError, match=message) as caught:
        RunResults.load(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_evaluation_is_not_taken_for_a_run(tmp_path):
    evaluation = EvaluationResults(checkpoint="outputs/small", protocol={}, **environment())
    evaluation.write(tmp_path / "evaluation_test.json")
    with pytest.raises(ResultsError, match="a training run"):
        RunResults.load(tmp_path / "evaluation_test.json")
