"""Measures of calibration against slow readable twins and numbers worked out by hand; temperature scaling against a
known temperature."""

import math

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.special import softmax

from bibier_hf import EMOTIONS
from bibier_hf.evaluation.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_PROBABILITY,
    calibration_metrics,
    fit_temperature,
    reliability_bins,
)
from bibier_hf.evaluation.plots import plot_conditions, plot_reliability
from bibier_hf.evaluation.report import Predictions, calibration_table


def slow_metrics(labels, probabilities, bins=15):
    """The three measures, an utterance at a time."""
    members = {number: [] for number in range(bins)}
    brier = nll = 0.0
    for label, row in zip(labels, probabilities, strict=True):
        confidence, answer = max(row), list(row).index(max(row))
        number = next(number for number in range(bins) if confidence <= (number + 1) / bins or number == bins - 1)
        members[number].append((confidence, answer == label))
        brier += sum((p - (k == label)) ** 2 for k, p in enumerate(row))
        nll -= math.log(row[label])
    ece = 0.0
    for rows in members.values():
        if rows:
            confidence = sum(confidence for confidence, _ in rows) / len(rows)
            accuracy = sum(right for _, right in rows) / len(rows)
            ece += len(rows) / len(labels) * abs(accuracy - confidence)
    return {"ece": ece, "brier": brier / len(labels), "nll": nll / len(labels)}


def drawn(count: int, temperature: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(logits, labels) of which softmax(logits / temperature) is the distribution that the labels were drawn from."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.standard_normal((count, 7))
    labels = np.array([generator.choice(7, p=row) for row in softmax(logits, axis=1)])
    return temperature * logits, labels


@pytest.mark.parametrize("seed", range(5))
def test_measures_equal_their_slow_twins(seed):
    logits, labels = drawn(97, temperature=1.7, seed=seed)
    probabilities = softmax(logits, axis=1)
    assert calibration_metrics(labels, probabilities) == pytest.approx(slow_metrics(labels, probabilities))


def test_measures_by_hand():
    # Two answers with confidence 0.8, one of them right: accuracy 0.5, gap 0.3.
    probabilities = np.array([[0.8, 0.2, 0, 0, 0, 0, 0], [0.8, 0.2, 0, 0, 0, 0, 0]])
    metrics = calibration_metrics([0, 1], probabilities)
    assert metrics["ece"] == pytest.approx(0.3)
    # (0.2^2 + 0.2^2 + 0.8^2 + 0.8^2) / 2
    assert metrics["brier"] == pytest.approx(0.68)
    assert metrics["nll"] == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)


def test_uniform_certain_and_impossible_answers():
    uniform = np.full((7, 7), 1 / 7)
    assert calibration_metrics(np.arange(7), uniform) == pytest.approx(
        {"ece": 0, "brier": 6 / 7, "nll": math.log(7)}, abs=1e-12
    )
    assert calibration_metrics(np.arange(7), np.eye(7)) == {"ece": 0, "brier": 0, "nll": 0}
    wrong = calibration_metrics([1], np.eye(7)[:1])
    assert wrong == pytest.approx({"ece": 1, "brier": 2, "nll": -math.log(LOWEST_PROBABILITY)})
    assert wrong["nll"] == pytest.approx(12 * math.log(10))
    nearly = np.full((1, 7), 1e-9)
    nearly[0, 0] = 1 - 6e-9
    assert calibration_metrics([1], nearly)["nll"] == pytest.approx(9 * math.log(10))


def test_a_confidence_on_a_border_belongs_to_the_bin_below():
    row = [0.6, 0.4, 0, 0, 0, 0, 0]
    assert reliability_bins([0], np.array([row]), bins=5).counts.tolist() == [0, 0, 1, 0, 0]
    assert reliability_bins([0], np.eye(7)[:1], bins=5).counts.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(("labels", "shape"), [([], (0, 7)), ([0], (2, 7)), ([0], (7,))])
def test_what_cannot_be_scored_is_refused(labels, shape):
    with pytest.raises(ValueError, match=r"no samples|must be \(N,\)"):
        calibration_metrics(np.array(labels, dtype=int), np.full(shape, 1 / 7))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature):
    logits, labels = drawn(20_000, temperature)
    fit = fit_temperature(logits, labels, ["a"] * len(labels))
    assert fit.temperature == pytest.approx(temperature, rel=0.03)
    assert fit.note is None
    assert fit == fit_temperature(logits, labels, ["a"] * len(labels))


def test_no_temperature_nearby_fits_better():
    logits, labels = drawn(300, 3.0, seed=3)
    best = fit_temperature(logits, labels, ["a"] * 300).temperature

    def nll(value):
        return calibration_metrics(labels, softmax(logits / value, axis=1))["nll"]

    assert all(nll(best) < nll(best * factor) for factor in (0.5, 0.99, 1.01, 2))


def test_over_confidence_shrinks():
    logits, labels = drawn(5000, 3.0)
    fit = fit_temperature(logits, labels, ["a"] * len(labels))
    before, after = (calibration_metrics(labels, softmax(logits / value, axis=1)) for value in (1.0, fit.temperature))
    assert before["ece"] > 0.15
    assert after["ece"] < 0.02
    assert after["nll"] < before["nll"]
    assert after["brier"] < before["brier"]


def test_every_corpus_counts_the_same():
    many, few = drawn(8000, 1.0, seed=1), drawn(400, 4.0, seed=2)
    logits, labels = (np.concatenate(parts) for parts in zip(many, few, strict=True))
    pooled = fit_temperature(logits, labels, ["a"] * 8400).temperature
    balanced = fit_temperature(logits, labels, ["a"] * 8000 + ["b"] * 400).temperature
    repeated = fit_temperature(
        np.concatenate([many[0], *[few[0]] * 20]), np.concatenate([many[1], *[few[1]] * 20]), ["a"] * 16000
    ).temperature
    assert pooled < 0.9 * balanced
    assert balanced == pytest.approx(repeated, rel=1e-4)


def test_what_cannot_be_fitted_is_said():
    right = fit_temperature(5 * np.eye(7), np.arange(7), ["a"] * 7)
    assert right.temperature == 1.0
    assert "every answer is right" in right.note
    wrong = fit_temperature(5 * np.eye(7), np.roll(np.arange(7), 1), ["a"] * 7)
    assert wrong.temperature == pytest.approx(HIGHEST_TEMPERATURE, rel=1e-3)
    assert "the end of the range" in wrong.note


def as_rows(columns: dict) -> Dataset:
    return Dataset.from_dict(columns).cast_column("label", ClassLabel(names=list(EMOTIONS)))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20))
def test_no_temperature_changes_an_answer(seed, temperature):
    logits = np.random.default_rng(seed).normal(scale=4, size=(20, 7)).astype(np.float32)
    columns = {"id": list("x" * 20), "corpus": ["x"] * 20, "language": ["en"] * 20, "label": [0] * 20}
    predictions = Predictions.from_logits(as_rows(columns), logits, temperature)
    np.testing.assert_array_equal(predictions.predictions, logits.argmax(1))


def test_predictions_know_what_they_were_before():
    logits, labels = drawn(40, 3.0)
    columns = {"id": list("x" * 40), "corpus": ["x", "y"] * 20, "language": ["en"] * 40, "label": labels}
    columns = as_rows(columns)
    plain, calibrated = Predictions.from_logits(columns, logits), Predictions.from_logits(columns, logits, 3.0)
    assert (
        calibrated.calibration_by_corpus(calibrated=False)
        == plain.calibration_by_corpus()
        == plain.calibration_by_corpus(False)
    )
    joined = Predictions.concatenate([plain, calibrated]).uncalibrated
    np.testing.assert_array_equal(joined, np.concatenate([plain.probabilities] * 2))
    assert Predictions.concatenate([plain, plain]).uncalibrated is None
    rows = np.arange(0, 40, 2)
    metrics = calibrated.metrics_by_corpus()["x"]
    expected = slow_metrics(labels[rows], softmax(logits[rows] / 3.0, axis=1))
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    table = calibration_table(plain.calibration_by_corpus(), calibrated.metrics_by_corpus())
    assert table.splitlines()[3].startswith(f"| x | after | {100 * expected['ece']:.2f} |")


def test_pictures_can_be_read(tmp_path):
    logits, labels = drawn(100, 3.0)
    series = {
        name: reliability_bins(labels, softmax(logits / value, axis=1))
        for name, value in (("before", 1.0), ("after", 3.0))
    }
    plot_reliability(series, tmp_path / "reliability.png", "x")
    points = {
        "speech and text": {"clean": (0.7, 0.6, 0.8), "white:20": (0.6, 0.5, 0.7), "g711": (0.3, 0.2, 0.4)},
        "speech alone": {"clean": (0.6, 0.5, 0.7), "white:20": (0.5, 0.4, 0.6), "g711": (0.2, 0.2, 0.2)},
    }
    plot_conditions(points, {"text alone": 0.4}, 7, tmp_path / "conditions.png", "x")
    for name in ("reliability", "conditions"):
        with Image.open(tmp_path / f"{name}.png") as image:
            image.load()
            assert min(image.size) > 500
