"""Files of a report: what is in them, and that they are there whole or not at all."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bibier_hf import EMOTIONS
from bibier_hf.evaluation import report
from bibier_hf.evaluation.plots import plot_confusion_matrix
from bibier_hf.evaluation.report import (
    Predictions,
    environment,
    metrics_table,
    recall_table,
    write_split_report,
)


@pytest.fixture
def predictions() -> Predictions:
    probabilities = np.full((4, 7), 0.1)
    probabilities[[0, 1, 2, 3], [0, 0, 3, 3]] = 0.4
    return Predictions(
        ["a", "b", "c", "d"],
        ["x", "x", "x", "y"],
        ["en", "ru", "ru", "ru"],
        np.array([0, 3, 3, 0]),
        probabilities,
        EMOTIONS,
    )


def test_the_split_report_has_every_file(predictions, tmp_path):
    write_split_report(predictions, "test", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "predictions_test.parquet",
        "confusion_matrix_test_x.png",
        "confusion_matrix_test_y.png",
        "reliability_test_x.png",
        "reliability_test_y.png",
        "risk_coverage_test_x.png",
        "risk_coverage_test_y.png",
    }


def test_the_parquet_file_names_every_column(predictions, tmp_path):
    predictions.save(tmp_path / "predictions_dev.parquet")
    table = pq.read_table(tmp_path / "predictions_dev.parquet")
    assert table.column_names == [
        "id",
        "corpus",
        "language",
        "label",
        "prediction",
        *(f"p_{name}" for name in EMOTIONS),
    ]
    assert table["label"].to_pylist() == ["anger", "happy", "happy", "anger"]
    assert table["prediction"].to_pylist() == ["anger", "anger", "happy", "happy"]
    assert table["p_happy"].to_pylist() == [0.1, 0.1, 0.4, 0.4]


def test_diverged_predictions_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite"):
        Predictions(["a"], ["x"], ["en"], np.array([0]), np.full((1, 7), np.nan), EMOTIONS)


def test_unequal_columns_are_refused():
    with pytest.raises(ValueError, match="same length"):
        Predictions(["a", "b"], ["x"], ["en"], np.array([0]), np.full((1, 7), 1 / 7), EMOTIONS)


def test_tables_are_markdown_in_percent():
    recall = dict.fromkeys(EMOTIONS, 0.5) | {"fear": None}
    metrics = {"resd": {"uar": 0.5, "war": 0.25, "mf1": 1.0, "wf1": 0.0, "mean": 0.4375, "recall": recall}}
    assert metrics_table(metrics).splitlines()[-1] == "| resd | 50.00 | 25.00 | 100.00 | 0.00 | 43.75 |"
    assert recall_table(metrics).splitlines()[-1] == "| resd | 50.0 | 50.0 | – | 50.0 | 50.0 | 50.0 | 50.0 |"


def test_the_environment_names_versions_but_nothing_private():
    facts = environment(world_size=2)
    assert {"python", "torch", "transformers"} <= set(facts["versions"])
    assert facts["hardware"]["processes"] == 2
    text = json.dumps(facts)
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text


def test_the_confusion_matrix_is_a_picture_that_can_be_read(tmp_path):
    plot_confusion_matrix(np.arange(49).reshape(7, 7), EMOTIONS, tmp_path / "matrix.png", title="x")
    with Image.open(tmp_path / "matrix.png") as image:
        image.load()
        assert min(image.size) > 800


def test_a_confusion_matrix_with_an_empty_class_can_be_drawn(tmp_path):
    plot_confusion_matrix(np.diag([1, 0, 1, 1, 1, 1, 1]), EMOTIONS, tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").stat().st_size > 0


def test_a_matrix_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="square of that size"):
        plot_confusion_matrix(np.zeros((3, 3)), EMOTIONS, tmp_path / "matrix.png")


def test_the_commit_is_that_of_the_code_that_was_loaded(monkeypatch):
    loaded = report.environment()["git"]
    monkeypatch.setattr(report, "_git_state", lambda: {"commit": "made during the run", "dirty": False})
    assert report.environment()["git"] == loaded
