"""Few clips, new labels: a logistic regression becomes the last layers of a frozen model."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.data.collator import FeatureCollator
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.bootstrap import drawn_scores, percentile_intervals
from bibier_hf.evaluation.metrics import classification_metrics
from bibier_hf.evaluation.prediction import predict_logits
from bibier_hf.training.adapt import (
    DEFAULT_STRENGTH,
    STRENGTHS,
    States,
    _as_linear,
    _fit_path,
    adapt_model,
    choose_in_parts,
    cross_validate,
    decisions,
    make_folds,
    pooled_states,
    replace_labels,
    speaker_warnings,
)

from .conftest import SPECS

LABELS = ["нет", "не знаю", "да"]


@pytest.mark.parametrize(
    "options",
    [
        {"fusion": "biformer"},
        {"fusion": "bigated", "add_unimodal_logits": True},
        {"fusion": "late"},
        {"modalities": ["audio"]},
        {"modalities": ["text"]},
    ],
)
@pytest.mark.parametrize("names", [LABELS, ["no", "yes"]])
def test_the_logits_are_the_decision_function_of_the_regression(feature_model, feature_rows, options, names, tmp_path):
    rows, collator = feature_rows(36, 0), FeatureCollator(SPECS)
    if "modalities" in options:
        (modality,) = options["modalities"]
        rows = rows.select([row for row in range(36) if len(rows[row][f"{modality}_features"])])
        collator = FeatureCollator({modality: SPECS[modality]})
    model = feature_model(**options).eval()
    labels = np.arange(len(rows)) % len(names)
    replace_labels(model, names)
    states = pooled_states(model, rows, collator)
    adaptation = adapt_model(model, states, labels, [None] * len(rows))

    model.save_pretrained(tmp_path)
    saved = BiBiERForEmotionClassification.from_pretrained(tmp_path).eval()
    assert saved.config.label_names == names
    assert saved.config.temperature == pytest.approx(adaptation.temperature)
    logits = predict_logits(saved, rows, collator, batch_size=5)
    assert np.allclose(logits, adaptation.decisions(model, states), atol=1e-4)
    if len(names) == 2:  # the decision function of scikit-learn is one number
        assert isinstance(adaptation.classifier[-1], LogisticRegression)
        assert adaptation.classifier[-1].coef_.shape[0] == 1


def test_unimodal_classifiers_that_do_not_count_are_adapted_too(feature_model, feature_rows):
    rows, model = feature_rows(40, 0), feature_model(fusion="biformer").eval()
    labels = rows.labels % 2
    replace_labels(model, ["even", "odd"])
    states = pooled_states(model, rows, FeatureCollator(SPECS))
    adapt_model(model, states, labels, [None] * 40)
    for name, head in model.heads.items():
        has = states.present[name]
        answers = states.values[name][has] @ head.linear.weight.detach().numpy().T + head.linear.bias.detach().numpy()
        assert (answers.argmax(1) == labels[has]).mean() > 0.9


def test_the_rest_of_the_model_is_unchanged(feature_model, feature_rows):
    model, rows = feature_model().eval(), feature_rows(24, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    replace_labels(model, LABELS)
    adapt_model(model, pooled_states(model, rows, FeatureCollator(SPECS)), np.arange(24) % 3, [None] * 24)
    last = ("audio_head.linear", "text_head.linear", "classifier.4", "trained_labels")
    assert all(
        torch.equal(before[name], value) for name, value in model.state_dict().items() if not name.startswith(last)
    )


def _separable(count: int, classes: int = 3, width: int = 16, seed: int = 0) -> tuple[States, np.ndarray]:
    """`count` clips of each class around a point of their own, as if they came from an audio model."""
    labels = np.repeat(np.arange(classes), count)
    values = 0.2 * np.random.default_rng(seed).standard_normal((len(labels), width)).astype(np.float32)
    values[np.arange(len(labels)), labels] += 1
    return States({"audio": values}, {"audio": np.ones(len(labels), bool)}), labels


@pytest.fixture
def audio_model(tiny_options):
    from ..conftest import features_of, merged

    torch.manual_seed(0)
    options = merged(tiny_options, features_of(audio=6), {"modalities": ["audio"]})
    model = BiBiERForEmotionClassification(BiBiERConfig(**options)).eval()
    replace_labels(model, LABELS)
    return model


@pytest.mark.parametrize("count", [8, 16, 32])
def test_separable_labels_are_recovered(audio_model, count):
    train, labels = _separable(count)
    speakers = [f"s{row % 4}" for row in range(len(labels))]
    adaptation = adapt_model(audio_model, train, labels, speakers)
    assert adaptation.by_speaker
    assert adaptation.folds == 4
    assert adaptation.warnings == ["4 folds instead of 5: нет has 4 speakers."]
    assert classification_metrics(labels, adaptation.logits.argmax(1))["uar"] > 0.9

    others, truth = _separable(10, seed=1)
    assert classification_metrics(truth, adaptation.decisions(audio_model, others).argmax(1))["uar"] > 0.9


def test_dev_replaces_the_cross_validation(audio_model):
    train, labels = _separable(4)
    dev = _separable(6, seed=1)
    adaptation = adapt_model(audio_model, train, labels, [None] * 12, (*dev, [None] * 18))
    assert adaptation.folds == 0
    assert adaptation.logits.shape == (18, 3)
    assert len(adaptation.strengths) == 5


def test_no_fold_is_answered_with_what_it_has_chosen():
    train, labels = _separable(10)
    values = train.values["audio"] + np.random.default_rng(2).standard_normal((30, 16))
    folds, *_ = make_folds(labels, [None] * 30, LABELS)
    honest = cross_validate(values, labels, folds, seed=0)
    assert len(honest.strengths) == 5

    for fold, (_, asked) in enumerate(folds):
        changed = labels.copy()
        changed[asked] = (changed[asked] + 1) % 3
        found = cross_validate(values, changed, folds, seed=0)
        assert found.strengths[fold] == honest.strengths[fold]
        assert np.array_equal(found.logits[asked], honest.logits[asked])
        assert np.array_equal(found.temperatures[asked], honest.temperatures[asked])
        assert not np.array_equal(found.logits, honest.logits)


def test_no_part_of_dev_is_answered_with_what_it_has_chosen():
    labels, speakers = np.arange(40) % 3, [f"s{row % 8}" for row in range(40)]
    noise = np.random.default_rng(0).standard_normal((len(STRENGTHS), 40, 3)) + np.eye(3)[labels]
    answers = dict(zip(STRENGTHS, noise, strict=True))
    honest = choose_in_parts(answers, labels, speakers)
    assert len(honest.strengths) == 5

    changed = labels.copy()
    part = [row for row in range(40) if speakers[row] == "s0"]
    changed[part] = (changed[part] + 1) % 3
    found = choose_in_parts(answers, changed, speakers)
    assert np.array_equal(found.logits[part], honest.logits[part])
    assert np.array_equal(found.temperatures[part], honest.temperatures[part])

    alone = choose_in_parts({strength: each[:1] for strength, each in answers.items()}, labels[:1], [None])
    assert alone.strengths == [alone.strength]


@pytest.mark.parametrize(("count", "speakers"), [(2, None), (3, None), (20, 2)])
def test_few_folds_choose_from_what_they_have(audio_model, count, speakers):
    train, labels = _separable(count)
    names = [f"s{row % speakers}" if speakers else None for row in range(len(labels))]
    adaptation = adapt_model(audio_model, train, labels, names)
    assert adaptation.folds == len(adaptation.strengths) == min(count, speakers or count)
    assert set(adaptation.strengths) <= set(STRENGTHS)
    if count == 2:  # nothing to choose by
        assert adaptation.strength == DEFAULT_STRENGTH


def test_more_values_than_clips_are_the_same_regression():
    values, labels = np.random.default_rng(0).standard_normal((12, 40)), np.arange(12) % 3
    for strength, classifier in _fit_path(values, labels, seed=0):
        scaled = StandardScaler().fit_transform(values)
        plain = LogisticRegression(C=strength, class_weight="balanced", tol=1e-6, max_iter=5000).fit(scaled, labels)
        assert np.allclose(decisions(classifier, values), plain.decision_function(scaled), atol=0.1)
        weight, bias = _as_linear(classifier)
        assert np.allclose(values @ weight.T + bias, decisions(classifier, values))


def test_two_classes_share_the_decision_function():
    train, labels = _separable(8, classes=2)
    classifier = make_pipeline(StandardScaler(), LogisticRegression()).fit(train.values["audio"], labels)
    logits = decisions(classifier, train.values["audio"])
    assert np.allclose(logits[:, 1] - logits[:, 0], classifier.decision_function(train.values["audio"]))
    assert np.allclose(softmax(logits, axis=1), classifier.predict_proba(train.values["audio"]))


def test_confounded_speakers_are_a_warning():
    labels = np.repeat(np.arange(3), 12)
    confounded = [f"s{label}" for label in labels]
    (warning,) = speaker_warnings(labels, confounded, LABELS)
    assert warning.startswith(
        "Speakers are confounded with labels: the speaker alone predicts the label with UAR 100.0 %"
    )
    crossed = [f"s{row % 3}" for row in range(36)]
    assert speaker_warnings(labels, crossed, LABELS) == []
    assert speaker_warnings(labels, [None] * 36, LABELS) == []
    assert speaker_warnings(labels, ["one"] * 36, LABELS) == []

    folds, by_speaker, (remark,) = make_folds(labels, confounded, LABELS)
    assert not by_speaker
    assert len(folds) == 5
    assert remark.startswith("The folds share speakers, because нет has 1 of them")


def test_folds_keep_speakers_apart_and_hold_all_labels():
    labels = np.arange(60) % 3
    speakers = [f"s{row // 3 % 7}" for row in range(57)] + [None] * 3
    folds, by_speaker, remarks = make_folds(labels, speakers, LABELS)
    assert by_speaker
    assert remarks == []
    assert sorted(np.concatenate([asked for _, asked in folds]).tolist()) == list(range(60))
    for learned, asked in folds:
        assert {speakers[row] for row in learned} & {speakers[row] for row in asked} <= {None}
        assert set(labels[learned]) == {0, 1, 2}


def test_fewer_clips_than_folds_are_told(audio_model):
    train, labels = _separable(3)
    adaptation = adapt_model(audio_model, train, labels, [None] * 9)
    assert adaptation.folds == 3
    assert adaptation.warnings == ["3 folds instead of 5: нет has 3 clips."]
    few = np.array([0] * 5 + [1] * 3 + [2])
    with pytest.raises(ArgumentError, match=r"^label: each label needs 2 clips or more; да 1\. Add clips"):
        adapt_model(audio_model, train, few, [None] * 9)


def test_a_model_without_classifiers_of_its_own_is_refused(feature_model):
    model = feature_model(fusion="late", audio_config={"encoder": "none"}, text_config={"encoder": "none"})
    with pytest.raises(ArgumentError, match=r"^checkpoint: it has no classifier of its own for audio and text"):
        pooled_states(model, [], None)


def test_the_interval_grows_with_what_is_drawn_together():
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    right = np.repeat(generator.random(10) < 0.6, 20)  # a speaker is understood, or not
    answers = np.where(right, labels, 1 - labels)
    score = classification_metrics(labels, answers)
    by_clip = percentile_intervals(drawn_scores(labels, answers, range(200)))
    by_speaker = percentile_intervals(drawn_scores(labels, answers, [row // 20 for row in range(200)]))
    for name in ("uar", "wf1"):
        assert by_speaker[name][0] <= by_clip[name][0] <= score[name] <= by_clip[name][1] <= by_speaker[name][1]
    assert percentile_intervals(drawn_scores(labels, labels, range(200))) == {"uar": [1.0, 1.0], "wf1": [1.0, 1.0]}
