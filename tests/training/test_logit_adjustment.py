"""Logit adjustment: shares and strengths by hand, the shift of every kind of model, and whole runs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bibier_hf import BiBiERForEmotionClassification
from bibier_hf.commands.evaluate import EvaluateArguments, evaluate_checkpoint
from bibier_hf.evaluation.metrics import classification_metrics
from bibier_hf.training.arguments import run_arguments
from bibier_hf.training.logit_adjustment import (
    adjustment_facts,
    best_strength,
    class_log_prior,
    strength_scores,
    strengths_to_try,
)
from bibier_hf.training.run import run_training

from .conftest import SPECS, WIDTH, write_corpus_table


def test_log_prior_by_hand():
    # shares 2/4, 1/4 and 1/4, in logarithms less their mean; a class without a sample is left alone
    assert class_log_prior([0, 0, 1, 3], 4) == pytest.approx([2 / 3 * np.log(2), -np.log(2) / 3, 0, -np.log(2) / 3])
    # drawn as often as the other, a class is as frequent
    assert class_log_prior([0, 0, 1], 2, sample_weights=[0.5, 0.5, 1.0]) == pytest.approx([0, 0])


@pytest.mark.parametrize(("exponent", "ends"), [(0, (0, 1)), (0.5, (-0.5, 0.5)), (1, (-1, 0)), (0.33, (-0.35, 0.65))])
def test_strengths_go_from_an_unweighted_to_a_balanced_training(exponent, ends):
    strengths = strengths_to_try(exponent)
    assert (strengths[0], strengths[-1]) == ends
    assert 0 in strengths
    assert np.diff(strengths) == pytest.approx(0.05)


def test_the_best_strength_is_so_with_its_neighbours():
    # a peak by itself loses to a plateau, and ends have one neighbour
    assert best_strength({-0.15: 0.5, -0.1: 0.9, -0.05: 0.5, 0.0: 0.7, 0.05: 0.8, 0.1: 0.7, 0.15: 0.6}) == 0.05
    assert best_strength({-0.1: 0.9, -0.05: 0.8, 0.0: 0.5}) == -0.1
    assert best_strength({-0.1: 0.7, -0.05: 0.7, 0.0: 0.7, 0.05: 0.7}) == 0  # of equal ones the smallest change


def test_scores_count_every_corpus_the_same():
    generator = np.random.default_rng(0)
    logits, labels = generator.standard_normal((30, 7)), generator.integers(7, size=30)
    groups, log_prior = np.array(["a"] * 25 + ["b"] * 5), generator.standard_normal(7)
    (score,) = strength_scores(logits, labels, groups, log_prior, [0.3]).values()
    answers = [
        int(np.argmax([value - 0.3 * prior for value, prior in zip(row, log_prior, strict=True)])) for row in logits
    ]
    by_hand = [
        classification_metrics(labels[rows], np.array(answers)[rows])["mean"] for rows in (slice(25), slice(25, 30))
    ]
    assert score == pytest.approx(sum(by_hand) / 2)


def test_dev_finds_the_shift_that_the_logits_lack(feature_rows):
    # Answers that are right but for what the shares of the classes in training add to them.
    train, dev = feature_rows(24, 0), feature_rows(14, 1)
    one_of_each = [int(np.flatnonzero(train.labels == label)[0]) for label in range(7)]
    train = train.select(np.array(59 * one_of_each[:1] + one_of_each))
    log_prior = class_log_prior(train.labels, 7)
    logits = np.eye(7)[dev.labels] + 0.6 * log_prior
    options = {"class_weights": "none", "corpus_balanced_sampling": False, "logit_adjustment": "dev"}
    run = run_arguments({"corpora": [{"name": "csv"}], "output_dir": "x"} | options)
    facts = adjustment_facts(run, logits, train, dev)
    # right from 0.4 on, after which (0.6 - strength) * ln(60) is no longer above one; so are its neighbours from 0.45
    # on
    assert facts["strength"] == 0.45
    assert ((logits + facts["shift"]).argmax(1) == dev.labels).all()
    scores = {entry["strength"]: entry["score"] for entry in facts["dev_scores"]}
    assert scores[facts["strength"]] == 1 > scores[0]

    given = adjustment_facts(run.model_copy(update={"logit_adjustment": 0.2}), logits, train, dev)
    assert given["shift"] == pytest.approx(-0.2 * log_prior)
    assert given["chosen_on"] is None
    assert adjustment_facts(run.model_copy(update={"logit_adjustment": None}), logits, train, dev) is None


@pytest.mark.parametrize(
    "options",
    [
        {"fusion": "late"},
        {"fusion": "biformer", "add_unimodal_logits": True},
        {"fusion": "bigated", "add_unimodal_logits": False},
        {"modalities": ["text"]},
        {"fusion": "late", "original_behavior": True},
    ],
)
def test_the_shift_moves_every_answer_by_the_same(feature_model, options):
    model = feature_model(**options).eval()
    torch.manual_seed(1)
    for parameter in model.parameters():  # a mixture starts with equal weights
        parameter.data += 0.3 * torch.randn_like(parameter)
    inputs = {f"{name}_features": torch.randn(3, 4, WIDTH) for name in SPECS if name in model.config.modalities}
    shift = torch.linspace(-2, 1, 7)
    with torch.inference_mode():
        before = model(**inputs)
        alone = model(text_features=inputs["text_features"])
        model.shift_logits(shift.tolist())
        torch.testing.assert_close(model(**inputs).logits, before.logits + shift, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            model(text_features=inputs["text_features"]).logits, alone.logits + shift, atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(model(**inputs).text_logits, before.text_logits + shift, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("refit", [False, True])
def test_a_run_scores_and_saves_the_adjusted_model(small_run, about, tmp_path, refit):
    table = write_corpus_table(tmp_path, train=17)  # three of the first classes, two of the others
    options = {"corpora": [{"name": "csv", "data_dir": str(table)}], "refit_on_dev": refit}
    plain = run_training(small_run(**options, output_dir=str(tmp_path / "plain")))
    adjusted = run_training(small_run(**options, output_dir=str(tmp_path / "adjusted"), logit_adjustment=0.8))
    assert plain.logit_adjustment is None
    shift = adjusted.logit_adjustment["shift"]
    assert max(shift) > 0 > min(shift)

    folders = [tmp_path / name for name in ("plain", "adjusted")]
    models = [BiBiERForEmotionClassification.from_pretrained(folder) for folder in folders]
    moved = models[1].audio_head.linear.bias - models[0].audio_head.linear.bias
    torch.testing.assert_close(moved, torch.tensor(shift))

    again = evaluate_checkpoint(
        EvaluateArguments.from_command_line([str(folders[1]), "--output_dir", str(tmp_path / "scores")])
    )
    assert again.metrics["test"] == about(adjusted.metrics["test"])
    if not refit:  # the answers on dev are those of the model that is saved, shifted
        again = evaluate_checkpoint(
            EvaluateArguments.from_command_line(
                [str(folders[1]), "--split", "dev", "--output_dir", str(tmp_path / "dev")]
            )
        )
        assert again.metrics["dev"] == about(adjusted.metrics["dev"])
    assert "times the logarithm of its share" in Path(folders[1], "README.md").read_text(encoding="utf-8")
    assert "times the logarithm of its share" not in Path(folders[0], "README.md").read_text(encoding="utf-8")
