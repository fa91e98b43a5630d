"""Baselines choose on dev, answer for test, and name what a corpus lacks."""

import numpy as np
import pytest
from datasets import DatasetDict

from bibier_hf.evaluation.acoustics import FUNCTIONALS
from bibier_hf.evaluation.baselines import (
    MODALITY,
    BaselineError,
    Outcome,
    corpus_features,
    fuse,
    pooled_features,
    run_baseline,
)
from bibier_hf.evaluation.metrics import classification_metrics

SIGNS = ("furious", "revolting", "terrified", "glad", "table", "weeping", "sudden")


@pytest.fixture(scope="module")
def texts(make_row, make_splits):
    """A word in each text tells its label."""
    rows, number = [], 0
    for split, count in (("train", 70), ("dev", 21), ("test", 28)):
        for place in range(count):
            row = make_row(number, split, place % 7)
            rows.append(row | {"text": f"{row['text']} {SIGNS[place % 7]}"})
            number += 1
    return make_splits(rows)


def score(splits, outcome, split="test"):
    return classification_metrics(splits[split]["label"], outcome.probabilities[split].argmax(1))


def test_text_baseline_reads_the_words(texts):
    features = corpus_features("tfidf_logreg", texts, None)
    outcome = run_baseline("tfidf_logreg", texts, features)
    assert score(texts, outcome)["uar"] == 1.0
    for split in ("dev", "test"):
        assert outcome.probabilities[split].shape == (len(texts[split]), 7)
        np.testing.assert_allclose(outcome.probabilities[split].sum(1), 1)


def test_test_labels_and_texts_do_not_reach_the_choice(texts):
    features = corpus_features("tfidf_logreg", texts, None)
    outcome = run_baseline("tfidf_logreg", texts, features)
    tampered = {
        identity: "nothing" if identity in set(texts["test"]["id"]) else text for identity, text in features.items()
    }
    again = run_baseline("tfidf_logreg", texts, tampered)
    assert again.chosen == outcome.chosen
    np.testing.assert_array_equal(again.probabilities["dev"], outcome.probabilities["dev"])
    assert np.ptp(again.probabilities["test"], axis=0).max() < 1e-12  # one text, one answer


def test_dev_chooses_and_the_refit_learns_from_dev(texts):
    """With a C that learns nothing and one that does, dev takes the second; a refit changes test but never what is
    said of dev."""
    texts = DatasetDict(texts | {"train": texts["train"].select(range(64))})  # one class is the commonest
    options = {
        "features": corpus_features("tfidf_logreg", texts, None),
        "class_weights": "none",
        "strengths": [1e-9, 10.0],
    }
    with_refit = run_baseline("tfidf_logreg", texts, **options)
    without = run_baseline("tfidf_logreg", texts, **options, refit_on_dev=False)
    assert with_refit.chosen["C"] == without.chosen["C"] == 10.0
    np.testing.assert_array_equal(with_refit.probabilities["dev"], without.probabilities["dev"])
    assert np.abs(with_refit.probabilities["test"] - without.probabilities["test"]).max() > 1e-3


def test_class_weights_help_the_rare_class(make_row, make_splits):
    rows = []
    for number in range(180):
        split = ("train", "dev", "test")[number % 3]
        label = 4 if number % 10 < 8 else 3
        rows.append(make_row(number, split, label, text="same words" if number % 4 else f"same words {label}"))
    splits = make_splits(rows)
    features = corpus_features("tfidf_logreg", splits, None)
    recalls = {
        weights: score(splits, run_baseline("tfidf_logreg", splits, features, weights, strengths=[0.1]))["uar"]
        for weights in ("balanced", "none")
    }
    assert recalls["balanced"] > recalls["none"] == 0.5


def test_voices_tell_the_emotion_where_speakers_are_shared(corpus_of_speakers):
    shared, apart = corpus_of_speakers(shared=True), corpus_of_speakers(shared=False)
    features = corpus_features("who_speaks", shared, None)
    assert {values.shape for values in features.values()} == {(FUNCTIONALS,)}
    outcome = run_baseline("who_speaks", shared, features)
    assert score(shared, outcome)["uar"] > 0.8
    assert set(np.unique(outcome.probabilities["test"])) == {0.0, 1.0}  # it names a speaker and has no doubts
    assert score(shared, run_baseline("mfcc_svm", shared, features))["uar"] > 0.5
    other = corpus_features("who_speaks", apart, None)
    assert score(apart, run_baseline("who_speaks", apart, other))["uar"] < 0.4


def test_two_classes_are_enough(corpus_of_speakers):
    splits = corpus_of_speakers(shared=True).filter(lambda label: label in (0, 3), input_columns="label")
    outcome = run_baseline("mfcc_svm", splits, corpus_features("mfcc_svm", splits, None))
    assert outcome.probabilities["test"].shape == (len(splits["test"]), 7)
    assert set(outcome.probabilities["test"].argmax(1)) <= {0, 3}


@pytest.mark.parametrize("name", MODALITY)
def test_a_missing_modality_is_named(name, make_row, make_splits):
    rows = [make_row(number, split, 0, text="") for number, split in enumerate(("train", "dev", "test"))]
    with pytest.raises(
        BaselineError, match=f"{name} needs {MODALITY[name]} in every row; 1 of 1 rows of train have none"
    ):
        corpus_features(name, make_splits(rows), None)


def test_who_speaks_needs_names(corpus_of_speakers):
    splits = corpus_of_speakers(shared=True)
    features = corpus_features("who_speaks", splits, None)
    nameless = splits.map(lambda row: {"speaker": None}, features=splits["train"].features)
    with pytest.raises(BaselineError, match="needs the speaker of every row; 70 of 70 have none"):
        run_baseline("who_speaks", nameless, features)


def test_fusion_is_a_weighted_mean_and_dev_chooses_the_weight():
    right, wrong = np.eye(7)[[1, 2, 3]], np.eye(7)[[0, 0, 0]]  # of equal ones argmax takes the first
    one = Outcome({"dev": wrong, "test": wrong}, {"C": 1.0})
    other = Outcome({"dev": right, "test": right}, {"C": 2.0})
    half = fuse(one, other, [1, 2, 3])
    np.testing.assert_allclose(half.probabilities["test"], (right + wrong) / 2)
    chosen = fuse(one, other, [1, 2, 3], weight=None)
    assert chosen.chosen["weight"] == 0.4  # the closest to one half that is right
    assert chosen.chosen["dev_score"] == 1.0
    np.testing.assert_allclose(chosen.probabilities["test"], 0.4 * wrong + 0.6 * right)


def test_pooled_features_are_mean_and_deviation_of_each_utterance(make_row, make_splits, tmp_path):
    """Against the text backbone itself, one text at a time."""
    from transformers import BertConfig, BertModel, ByT5Tokenizer

    backbone = tmp_path / "backbone"
    config = BertConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model = BertModel(config).eval()
    model.save_pretrained(backbone)
    tokenizer = ByT5Tokenizer()
    tokenizer.save_pretrained(backbone)
    splits = make_splits([make_row(number, split, 0) for number, split in enumerate(("train", "dev", "test"))])
    pooled = pooled_features(splits, "text", str(backbone), layer=1, cache_dir=str(tmp_path / "cache"))
    assert set(pooled) == {splits[split]["id"][0] for split in splits}
    for split in splits:
        states = model(
            **tokenizer(splits[split]["text"][0], return_tensors="pt"), output_hidden_states=True
        ).hidden_states[1][0]
        expected = np.concatenate([states.mean(0).detach(), states.std(0, unbiased=False).detach()])
        np.testing.assert_allclose(pooled[splits[split]["id"][0]], expected, atol=1e-5)
