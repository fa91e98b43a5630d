"""Answers with a modality missing are those of the model to the other one alone."""

import numpy as np
import pytest
import torch

from bibier_hf.data.collator import FeatureCollator, RawCollator
from bibier_hf.data.features import InputExtractor, input_specs, raw_inputs
from bibier_hf.evaluation.prediction import complete_rows, conditions_of, predict_conditions, predict_logits


@pytest.fixture(scope="module")
def splits(make_row, make_splits, voice):
    """Seven test rows; the second is a text alone, the fourth has a blank text."""
    samples = [voice(110 + 20 * number, number, 0.3 + 0.05 * number) for number in range(7)]
    samples[1] = None
    return make_splits(
        [
            make_row(number, "test", number, samples[number], **({"text": " "} if number == 3 else {}))
            for number in range(7)
        ]
    )


@pytest.mark.parametrize("stored", [True, False])
def test_conditions_are_what_the_model_is_given(splits, model, processor, stored, tmp_path):
    rows = complete_rows({"planted": splits}, "test", ["audio", "text"])
    assert rows.tolist() == [0, 2, 4, 5, 6]
    inputs = InputExtractor(model, processor, cache_dir=tmp_path).inputs(splits) if stored else raw_inputs(splits)
    collator = FeatureCollator(input_specs(model, processor)) if stored else RawCollator(processor)
    assert conditions_of(model) == ["both", "audio", "text"]
    found = predict_conditions(model, inputs["test"].select(rows), collator, 2, conditions_of(model))
    for place, row in enumerate(splits["test"].select(rows)):
        given = {"both": ("audio", "text"), "audio": ("audio",), "text": ("text",)}
        for condition, names in given.items():
            with torch.no_grad():
                expected = model(**processor(**{name: row[name] for name in names})).logits[0].numpy()
            np.testing.assert_allclose(found[condition][place], expected, atol=1e-4)
    assert not np.allclose(found["audio"], found["text"], atol=1e-2)


def test_rows_keep_their_order_whatever_the_batch(splits, model, processor):
    rows, collator = raw_inputs(splits)["test"], RawCollator(processor)
    np.testing.assert_allclose(
        predict_logits(model, rows, collator, 1), predict_logits(model, rows, collator, 4), atol=1e-4
    )


def test_rows_are_counted_over_all_corpora(splits):
    corpora = {"a": splits, "b": splits}
    assert complete_rows(corpora, "test", ["audio"]).tolist() == [0, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13]
    with pytest.raises(ValueError, match="No row of b, test, has audio and text"):
        complete_rows({"a": splits, "b": {"test": splits["test"].select([1, 3])}}, "test", ["audio", "text"])
