"""Inputs computed once: the same as computed anew, found again when nothing changed, never when something did."""

import pytest
import torch
from datasets import Audio, concatenate_datasets
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import DataLoader
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from bibier_hf import BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.data.collator import FeatureCollator, RawCollator, collate_labels
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.features import (
    InputExtractor,
    InputSpec,
    content_hash,
    input_specs,
    raw_inputs,
    row_keys,
    tokenizer_hash,
)
from bibier_hf.data.prepare import encode_flac
from bibier_hf.data.protocols import apply_protocol
from bibier_hf.model.audio_bibier import decode_audio
from bibier_hf.training.rows import SoftTargets


@pytest.fixture(scope="module")
def splits(tmp_path_factory, write_table):
    folder = tmp_path_factory.mktemp("corpus")
    return apply_protocol(load_corpus("csv", write_table(folder), cache_dir=folder / "cache"))


@pytest.fixture(autouse=True)
def _stores_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def frozen_model(model):
    for modality in ("audio", "text"):
        model.config.modality_configs[modality].freeze_backbone = True
    model.freeze()
    return model


def precompute(splits, model, processor, **options):
    return InputExtractor(model, processor, **options).inputs(splits)


def folders(tmp_path):
    """The stores that there are."""
    return sorted(path.name for path in (tmp_path / "cache" / "features").glob("*"))


@pytest.mark.parametrize("frozen", [True, False])
def test_stored_inputs_give_the_logits_of_raw_ones(splits, model, processor, frozen, tmp_path):
    for modality in ("audio", "text"):
        model.config.modality_configs[modality].freeze_backbone = frozen
    specs = input_specs(model, processor)
    assert [spec.name for spec in specs.values()] == (
        ["audio_features", "text_features"] if frozen else ["input_features", "input_ids"]
    )
    stored, raw = precompute(splits, model, processor, batch_size=5), raw_inputs(splits)
    collate_stored, collate_raw = FeatureCollator(specs), RawCollator(processor)
    for split in splits:
        rows = list(range(len(stored[split])))
        with torch.no_grad():
            left = model(**collate_stored(stored[split].__getitems__(rows)))
            right = model(**collate_raw([raw[split][row] for row in rows]))
        torch.testing.assert_close(left.logits, right.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(left.loss, right.loss, rtol=1e-4, atol=1e-4)
        assert stored[split].metadata["id"] == splits[split]["id"]
    assert len(folders(tmp_path)) == 2


def test_features_are_those_of_each_utterance_alone(splits, frozen_model, processor):
    stored = precompute(splits, frozen_model, processor, batch_size=5)["train"]
    for row, stored_row in zip(splits["train"], stored, strict=True):
        with torch.no_grad():
            alone, _ = frozen_model.encode_audio(*processor(audio=[row["audio"]]).values())
            torch.testing.assert_close(stored_row["audio_features"], alone[0], rtol=1e-4, atol=1e-4)
            if row["text"]:
                alone, _ = frozen_model.encode_text(*processor(text=[row["text"]]).values())
                torch.testing.assert_close(stored_row["text_features"], alone[0], rtol=1e-4, atol=1e-4)
            else:
                assert stored_row["text_features"].shape == (0, alone.shape[-1])


def test_a_model_of_one_modality_has_inputs_of_one(splits, tiny_options, processor, tmp_path):
    model = BiBiERForEmotionClassification.from_backbones(modalities=["audio"], **tiny_options)
    assert list(precompute(splits, model, processor)["dev"][0]) == ["input_features", "label", "soft_label"]
    assert len(folders(tmp_path)) == 1


def test_rows_are_found_whatever_the_splits(splits, frozen_model, processor, tmp_path, monkeypatch):
    before = precompute(splits, frozen_model, processor)
    monkeypatch.setattr(InputExtractor, "_compute", lambda *args: pytest.fail("computed anew"))
    shuffled = concatenate_datasets(list(splits.values())).shuffle(seed=1)
    other = {"train": shuffled.select(range(20)), "test": shuffled.select(range(20, len(shuffled)))}
    after = precompute(other, frozen_model, processor)
    wanted = after["test"].metadata["id"][3]
    for rows in before.values():
        for index, name in enumerate(rows.metadata["id"]):
            if name == wanted:
                assert torch.equal(rows[index]["audio_features"], after["test"][3]["audio_features"])


def changed_audio(row):
    return {"audio": {"bytes": encode_flac(decode_audio(row["audio"]) / 2), "path": row["audio"]["path"]}}


def changed_text(row):
    return {"text": row["text"] + "!"}


@pytest.mark.parametrize(("change", "computed"), [(changed_audio, ("audio", 1)), (changed_text, ("text", 1))])
def test_a_changed_utterance_is_computed_anew_and_no_other(splits, frozen_model, processor, change, computed):
    rows = splits["train"].select(range(1, 6))
    extractor = InputExtractor(frozen_model, processor)
    assert {modality: done.computed for modality, done in extractor.extract(rows).items()} == {"audio": 5, "text": 4}
    feature = Audio(sampling_rate=16_000, decode=False)
    changed = concatenate_datasets(
        [rows.select([0]).map(change).cast_column("audio", feature), rows.select(range(1, 5))]
    )
    done = extractor.extract(changed)
    assert {modality: done[modality].computed for modality in done} == {"audio": 0, "text": 0} | dict([computed])


def test_whatever_the_values_depend_on_is_a_miss(splits, frozen_model, processor, tmp_path):
    def new_folders(**options):
        """The modalities of the stores that appear."""
        before = folders(tmp_path) if (tmp_path / "cache" / "features").exists() else []
        precompute(splits, frozen_model, processor, **options)
        return [name.partition("_")[0] for name in folders(tmp_path) if name not in before]

    assert new_folders() == ["audio", "text"]
    assert new_folders() == []
    assert new_folders(batch_size=3) == []
    assert new_folders(dtype="float16") == ["audio", "text"]
    assert new_folders(dtype="bfloat16") == ["audio", "text"]
    assert new_folders(compute_dtype="bfloat16") == ["audio", "text"]
    config = frozen_model.config
    for name, value, changed in (
        ("audio.layer", 1, "audio"),
        ("text.layer", 1, "text"),
        ("audio.max_window_s", 0.3, "audio"),
        ("audio.backbone_id", "owner/speech", None),  # without a revision the weights' hash counts
        ("audio.backbone_revision", "one", "audio"),
        ("audio.backbone_revision", "two", "audio"),
    ):
        modality, _, option = name.partition(".")
        setattr(config.modality_configs[modality], option, value)
        assert new_folders() == ([changed] if changed else []), (name, value)
    for name, value in (("max_text_tokens", 8), ("text_prefix", "query: ")):
        kept = getattr(processor, name)
        setattr(processor, name, value)
        assert new_folders() == ["text"]
        setattr(processor, name, kept)
    processor.feature_extractor.sampling_rate, kept = 8000, processor.feature_extractor.sampling_rate
    try:
        assert InputExtractor(frozen_model, processor).stores["audio"].folder.name not in folders(tmp_path)
    finally:
        processor.feature_extractor.sampling_rate = kept
    with torch.no_grad():
        next(frozen_model.bibier.text.backbone.parameters()).add_(1.0)
    assert new_folders() == ["text"]


def test_a_saved_checkpoint_finds_the_features_of_its_run(splits, frozen_model, processor, tmp_path):
    precompute(splits, frozen_model, processor)
    before = folders(tmp_path)
    frozen_model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    saved = [kind.from_pretrained(tmp_path / "saved") for kind in (BiBiERForEmotionClassification, BiBiERProcessor)]
    precompute(splits, *saved)
    assert folders(tmp_path) == before


def test_a_tokenizer_is_known_by_what_it_does():
    def tokenizer(*words):
        vocabulary = {word: number for number, word in enumerate(["[UNK]", "[PAD]", *words])}
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")), unk_token="[UNK]", pad_token="[PAD]"
        )

    one = tokenizer("a", "b")
    before = tokenizer_hash(one)
    one(["a", "a b"], padding=True, truncation=True, max_length=1)  # which the tokenizer remembers
    assert tokenizer_hash(one) == before == tokenizer_hash(tokenizer("a", "b")) != tokenizer_hash(tokenizer("b", "a"))
    assert (
        tokenizer_hash(ByT5Tokenizer())
        == tokenizer_hash(ByT5Tokenizer())
        != tokenizer_hash(ByT5Tokenizer(extra_ids=0))
    )


def test_the_hash_of_a_corpus_is_that_of_its_content(splits):
    feature = Audio(sampling_rate=16_000, decode=False)
    first, rest = splits["train"].select([0]), splits["train"].select(range(1, len(splits["train"])))
    assert content_hash(first) != content_hash(first.map(changed_text))
    assert content_hash(first) != content_hash(first.map(changed_audio).cast_column("audio", feature))
    assert content_hash(rest) == content_hash(rest.map(lambda row: {"duration_s": 1.0}))


@pytest.mark.parametrize(
    "options", [{"dtype": "float16"}, {"dtype": "bfloat16"}, {"compute_dtype": "bfloat16"}, {"compute_dtype": "int8"}]
)
def test_fewer_digits_drift_and_the_drift_is_told(splits, frozen_model, processor, options):
    if "int8" in options.values() and "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("torch has no FBGEMM here")
    weights = frozen_model.state_dict()
    extractor = InputExtractor(frozen_model, processor, **options)
    rows = splits["train"]
    extractor.extract(rows)
    exact = torch.cat([frozen_model.encode_audio(*processor(audio=[row["audio"]]).values())[0][0] for row in rows])
    stored = torch.cat(list(extractor.stores["audio"].rows(row_keys(rows)["audio"])))
    drift = extractor.drift(rows, rows=len(rows))["audio"]
    assert drift["largest"] == pytest.approx((stored - exact).abs().max().item(), rel=0.05)
    assert 0 < drift["relative"] < 0.02
    assert 0.99 < drift["cosine"] < 1
    assert all(value.dtype == torch.float32 for value in weights.values() if value.is_floating_point())
    exact_drift = InputExtractor(frozen_model, processor)
    exact_drift.extract(rows)
    assert exact_drift.drift(rows)["audio"]["relative"] < 1e-5


def test_float16_refuses_what_does_not_fit(splits, frozen_model, processor):
    with torch.no_grad():
        for name, parameter in frozen_model.bibier.audio.backbone.named_parameters():
            if name.endswith("final_layer_norm.weight"):
                parameter.fill_(1e6)
    with pytest.raises(ValueError, match=r"do not fit into float16\. Use float32 or bfloat16"):
        precompute(splits, frozen_model, processor, dtype="float16")


def test_broken_weights_are_refused(splits, frozen_model, processor):
    with torch.no_grad():
        next(frozen_model.bibier.text.backbone.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="text_features: the backbone returned NaN"):
        precompute(splits, frozen_model, processor)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_the_same_batches(splits, model, processor, workers):
    dataset = precompute(splits, model, processor)["train"]
    collator = FeatureCollator(input_specs(model, processor))
    batches = list(DataLoader(dataset, batch_size=4, collate_fn=collator, num_workers=workers))
    for start, batch in zip(range(0, len(dataset), 4), batches, strict=True):
        wanted = collator([dataset[index] for index in range(start, min(start + 4, len(dataset)))])
        assert batch.keys() == wanted.keys()
        assert all(torch.equal(batch[name], wanted[name]) for name in wanted)


def test_collating_pads_and_masks_by_hand():
    specs = {
        "audio": InputSpec("audio_features", "audio_features_mask", 2, "float32", from_backbone=True),
        "text": InputSpec("input_ids", "text_attention_mask", None, "int32", from_backbone=False),
    }
    features = torch.tensor([[1.0, 2], [3, 4]], dtype=torch.bfloat16)
    rows = [
        {"audio_features": features, "input_ids": torch.tensor([7]).int(), "label": 3, "soft_label": None},
        {"audio_features": features[:0], "input_ids": torch.tensor([8, 9]).int(), "label": 0, "soft_label": None},
    ]
    batch = FeatureCollator(specs)(rows)
    assert batch["audio_features"].tolist() == [[[1, 2], [3, 4]], [[0, 0], [0, 0]]]
    assert batch["audio_features"].dtype == torch.float32
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
    targets = [{"target": SoftTargets(7).target(row, "a", epoch=0)} for row in rows]
    assert collate_labels(targets).tolist() == [soft, [0, 0, 1, 0, 0, 0, 0]]
    assert collate_labels(rows).tolist() == [1, 2]


def test_rows_of_similar_cost_are_known_by_their_steps(splits, frozen_model, processor):
    stored = precompute(splits, frozen_model, processor)["train"]
    expected = [sum(len(rows[index]) for rows in stored.columns.values()) for index in range(len(stored))]
    assert stored.lengths.tolist() == expected
    assert raw_inputs(splits)["train"].lengths.tolist() == pytest.approx(
        [duration or 0.0 for duration in splits["train"]["duration_s"]]
    )
