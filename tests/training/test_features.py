"""Inputs computed once: the same as computed anew, found again when nothing changed, never when something did."""

import numpy as np
import pytest
import torch
from datasets import Audio, concatenate_datasets

from bibier_hf.data.collator import FeatureCollator, RawCollator, collate_labels
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.features import InputSpec, content_hash, input_specs, precomputed_inputs, raw_inputs
from bibier_hf.data.protocols import apply_protocol


@pytest.fixture
def splits(corpus_table):
    return apply_protocol(load_corpus("csv", corpus_table))


@pytest.fixture
def frozen_model(model):
    for modality in ("audio", "text"):
        setattr(model.config, f"freeze_{modality}_backbone", True)
    model._freeze_backbones()
    return model


def cached_files(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "features").glob("*.arrow"))


@pytest.mark.parametrize("frozen", [True, False])
def test_cached_inputs_give_the_logits_of_raw_ones(splits, model, processor, frozen, tmp_path):
    for modality in ("audio", "text"):
        setattr(model.config, f"freeze_{modality}_backbone", frozen)
    specs = input_specs(model, processor)
    assert [spec.name for spec in specs.values()] == (["audio_features", "text_features"] if frozen else ["input_features", "input_ids"])
    cached, raw = precomputed_inputs(splits, model, processor, batch_size=5), raw_inputs(splits)
    collate_cached, collate_raw = FeatureCollator(specs), RawCollator(processor)
    for split in splits:
        rows = list(range(len(cached[split])))
        with torch.no_grad():
            left = model(**collate_cached(cached[split].__getitems__(rows)))
            right = model(**collate_raw([raw[split][row] for row in rows]))
        torch.testing.assert_close(left.logits, right.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(left.loss, right.loss, rtol=1e-4, atol=1e-4)
        assert cached[split].metadata["id"] == splits[split]["id"]
    assert len(cached_files(tmp_path)) == 1


def test_the_cache_is_hit_whatever_the_splits(splits, frozen_model, processor, tmp_path, monkeypatch):
    before = precomputed_inputs(splits, frozen_model, processor)
    calls = []
    monkeypatch.setattr(frozen_model, "encode_audio", lambda *args: calls.append(args))
    shuffled = concatenate_datasets(list(splits.values())).shuffle(seed=1)
    other = {"train": shuffled.select(range(20)), "test": shuffled.select(range(20, len(shuffled)))}
    after = precomputed_inputs(other, frozen_model, processor)
    assert calls == []
    wanted = after["test"].metadata["id"][3]
    for rows in before.values():
        for index, name in enumerate(rows.metadata["id"]):
            if name == wanted:
                np.testing.assert_array_equal(rows[index]["audio_features"], after["test"][3]["audio_features"])
    assert len(cached_files(tmp_path)) == 1


def test_whatever_the_values_depend_on_is_a_miss(splits, frozen_model, processor, tmp_path):
    def count(changed=splits, **options):
        precomputed_inputs(changed, frozen_model, processor, **options)
        return len(cached_files(tmp_path))

    assert count() == 1
    assert count(dtype="float16") == 2
    frozen_model.config.audio_layer = 1
    assert count() == 3
    processor.max_text_tokens, kept = 8, processor.max_text_tokens
    assert count() == 4
    processor.max_text_tokens = kept
    with torch.no_grad():
        next(frozen_model.text_backbone.parameters()).add_(1.0)
    assert count() == 5

    def louder(row):
        content = bytearray(row["audio"]["bytes"])
        content[-1] ^= 1
        return {"audio": {"bytes": bytes(content), "path": row["audio"]["path"]}}

    feature = Audio(sampling_rate=16_000, decode=False)
    first, rest = splits["train"].select([0]), splits["train"].select(range(1, len(splits["train"])))
    assert content_hash(first) != content_hash(first.map(lambda row: {"text": row["text"] + "!"}))
    assert content_hash(first) != content_hash(first.map(louder).cast_column("audio", feature))
    assert content_hash(rest) == content_hash(rest.map(lambda row: {"duration_s": 1.0}))


def test_float16_halves_the_numbers_and_refuses_what_does_not_fit(splits, frozen_model, processor, monkeypatch):
    rows = precomputed_inputs(splits, frozen_model, processor, dtype="float16")["train"]
    assert rows.inputs.features["audio_features"].feature.dtype == "float16"
    exact = precomputed_inputs(splits, frozen_model, processor)["train"][1]["audio_features"]
    np.testing.assert_allclose(rows[1]["audio_features"], exact, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        for name, parameter in frozen_model.audio_backbone.named_parameters():
            if name.endswith("final_layer_norm.weight"):
                parameter.fill_(1e6)
    with pytest.raises(ValueError, match=r"do not fit into float16\. Set feature_cache\.dtype to float32"):
        precomputed_inputs(splits, frozen_model, processor, dtype="float16")


def test_broken_weights_are_refused(splits, frozen_model, processor):
    with torch.no_grad():
        next(frozen_model.text_backbone.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="text_features: the backbone gave NaN"):
        precomputed_inputs(splits, frozen_model, processor)


def test_ids_must_be_unique(splits, model, processor):
    with pytest.raises(ValueError, match="same id"):
        precomputed_inputs({"train": splits["train"], "test": splits["train"]}, model, processor)


def test_collating_pads_and_masks_by_hand():
    specs = {
        "audio": InputSpec("audio_features", "audio_features_mask", 2, "float32", from_backbone=True),
        "text": InputSpec("input_ids", "text_attention_mask", None, "int32", from_backbone=False),
    }
    rows = [
        {"audio_features": np.float32([1, 2, 3, 4]), "input_ids": np.int32([7]), "label": 3, "soft_label": None},
        {"audio_features": np.float32([]), "input_ids": np.int32([8, 9]), "label": 0, "soft_label": None},
    ]
    batch = FeatureCollator(specs)(rows)
    assert batch["audio_features"].tolist() == [[[1, 2], [3, 4]], [[0, 0], [0, 0]]]
    assert batch["audio_features_mask"].tolist() == [[1, 1], [0, 0]]
    assert batch["input_ids"].tolist() == [[7, 0], [8, 9]]
    assert batch["input_ids"].dtype == torch.int64
    assert batch["text_attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["labels"].tolist() == [3, 0]
    alone = FeatureCollator(specs)(rows[1:])
    assert "audio_features" not in alone
    assert "audio_features_mask" not in alone


def test_soft_labels_fall_back_to_the_hard_one():
    soft = [0.5, 0.5, 0, 0, 0, 0, 0]
    rows = [{"label": 1, "soft_label": soft}, {"label": 2, "soft_label": None}]
    assert collate_labels(rows, soft=True).tolist() == [soft, [0, 0, 1, 0, 0, 0, 0]]
    assert collate_labels(rows, soft=False).tolist() == [1, 2]
