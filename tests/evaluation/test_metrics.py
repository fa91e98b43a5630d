"""Metrics against numbers worked out by hand."""

import numpy as np
import pytest

from bibier_hf import EMOTIONS
from bibier_hf.evaluation.metrics import (
    METRICS,
    classification_metrics,
    confusion_matrix,
    grouped_metrics,
    mean_over_groups,
    recall_per_class,
)

ANGER, DISGUST, FEAR, HAPPY = 0, 1, 2, 3


def test_metrics_of_a_small_example():
    # anger: 3 samples, 2 found; happy: 1 sample, found; one anger is taken for happy.
    metrics = classification_metrics([ANGER, ANGER, ANGER, HAPPY], [ANGER, ANGER, HAPPY, HAPPY])
    # F1 anger = 2 * 1 * (2/3) / (1 + 2/3) = 0.8; F1 happy = 2 * 0.5 * 1 / 1.5 = 2/3
    assert metrics["uar"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["war"] == pytest.approx(3 / 4)
    assert metrics["mf1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert metrics["wf1"] == pytest.approx((3 * 0.8 + 2 / 3) / 4)
    assert metrics["mean"] == pytest.approx(sum(metrics[name] for name in METRICS) / 4)


def test_a_class_that_is_only_predicted_is_no_class_of_the_average():
    # Averaged over predicted classes as well (scikit-learn's default), UAR would be 1/4.
    assert classification_metrics([ANGER, ANGER], [ANGER, FEAR])["uar"] == pytest.approx(1 / 2)


def test_a_class_that_is_never_predicted_counts_zero():
    metrics = classification_metrics([ANGER, DISGUST], [ANGER, ANGER])
    assert metrics["uar"] == pytest.approx(1 / 2)
    assert metrics["mf1"] == pytest.approx((2 / 3 + 0) / 2)


def test_confusion_matrix_and_recalls_cover_all_classes():
    labels, predictions = [ANGER, ANGER, HAPPY], [ANGER, FEAR, HAPPY]
    matrix = confusion_matrix(labels, predictions, 7)
    assert matrix.shape == (7, 7)
    assert matrix[ANGER, FEAR] == 1
    assert matrix.sum() == 3
    recalls = recall_per_class(labels, predictions, EMOTIONS)
    assert recalls["anger"] == 0.5
    assert recalls["happy"] == 1.0
    assert recalls["disgust"] is None


def test_groups_count_the_same_whatever_their_size():
    labels = [ANGER] * 10 + [HAPPY, ANGER]
    predictions = [ANGER] * 10 + [ANGER, HAPPY]
    groups = grouped_metrics(labels, predictions, ["big"] * 10 + ["small"] * 2)
    assert groups["big"]["uar"] == 1.0
    assert groups["small"]["uar"] == 0.0
    assert mean_over_groups(groups)["uar"] == 0.5
    third = {"third": dict.fromkeys(groups["big"], 0.8)}
    assert mean_over_groups(groups | third)["uar"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([], [], "no samples"),
        ([0, 1], [0], "shape"),
        ([0], [-1], "class index"),
        ([0.5], [0], "class index"),
    ],
)
def test_what_is_no_prediction_is_refused(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(np.array(labels, dtype=type(labels[0]) if labels else int), predictions)


def test_a_class_outside_the_label_set_is_refused():
    with pytest.raises(ValueError, match="class indices from 0 to 6"):
        confusion_matrix([7], [0], 7)
