"""The processor: masks, missing modalities, refusals, any front end."""

from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoProcessor,
    AutoTokenizer,
    ByT5Tokenizer,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from bibier_hf import AudioError, BiBiERProcessor

FRONT_ENDS = {
    "embedded": None,
    "wav2vec2": Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True),
    "whisper": WhisperFeatureExtractor(feature_size=80),
}


def processor_for(front_end: str) -> BiBiERProcessor:
    extractor = FRONT_ENDS[front_end]
    return (
        BiBiERProcessor.from_backbones()
        if extractor is None
        else BiBiERProcessor(extractor, ByT5Tokenizer(), max_text_tokens=192)
    )


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_clip_is_the_same_in_any_batch(front_end: str, clip):
    processor = processor_for(front_end)
    clips = [clip(seconds) for seconds in (1 / 16_000, 0.0125, 0.06, 1.0, 2.5)]
    together = processor(audio=clips, sampling_rate=16_000)
    name = processor.audio_input_name
    assert set(together) == {name, "audio_attention_mask"}
    assert together["audio_attention_mask"].shape == together[name].shape[:2]
    for row, samples in enumerate(clips):
        alone = processor(audio=samples, sampling_rate=16_000)
        length = alone[name].shape[1]
        assert length >= 1
        assert together["audio_attention_mask"][row].sum() == alone["audio_attention_mask"].sum() == length
        torch.testing.assert_close(together[name][row, :length], alone[name][0], atol=0, rtol=0)
        assert not together[name][row, length:].any()
        assert together[name][row].isfinite().all()


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_frame_rates(front_end: str, clip):
    processor = processor_for(front_end)
    shape = processor(audio=clip(2.0), sampling_rate=16_000)[processor.audio_input_name].shape
    assert shape == {"embedded": (1, 99, 160), "wav2vec2": (1, 32_000), "whisper": (1, 200, 80)}[front_end]


def test_longer_than_the_window_of_whisper_is_not_cut(clip):
    assert processor_for("whisper")(audio=clip(33.0), sampling_rate=16_000)["input_features"].shape == (1, 3300, 80)


def test_texts_of_both_languages_survive(processor: BiBiERProcessor):
    texts = ["I can't believe it!", "Не могу поверить!"]
    out = processor(text=texts)
    assert set(out) == {"input_ids", "text_attention_mask"}
    for row, text in enumerate(texts):
        ids = out["input_ids"][row][out["text_attention_mask"][row].bool()]
        assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_long_text_is_cut_by_the_tokenizer(processor: BiBiERProcessor):
    out = processor(text="я" * 500)
    assert out["input_ids"].shape == (1, 192)
    assert out["input_ids"][0, -1] == processor.tokenizer.eos_token_id


def test_text_prefix():
    processor = BiBiERProcessor(FRONT_ENDS["wav2vec2"], ByT5Tokenizer(), text_prefix="query: ")
    assert processor.tokenizer.decode(processor(text="hi")["input_ids"][0], skip_special_tokens=True) == "query: hi"


def test_missing_rows_are_masked(processor: BiBiERProcessor, clip):
    out = processor(audio=[clip(1.0), None, clip(0.5)], text=["  ", "b", None], sampling_rate=16_000)
    assert out["audio_attention_mask"].any(1).tolist() == [True, False, True]
    assert out["text_attention_mask"].any(1).tolist() == [False, True, False]
    only_audio = processor(audio=[clip(1.0)], text=[None], sampling_rate=16_000)
    assert (only_audio["input_ids"].shape, only_audio["text_attention_mask"].sum()) == ((1, 1), 0)
    only_text = processor(audio=[None], text=["a"])
    assert (only_text["input_features"].shape, only_text["audio_attention_mask"].sum()) == ((1, 1, 160), 0)


@pytest.mark.parametrize(
    ("audio", "text", "error", "message"),
    [
        (None, None, ValueError, "neither audio nor text"),
        (None, "   ", ValueError, "neither audio nor text"),
        ([None], [None], ValueError, "Sample 0"),
        ([np.zeros(800, np.float32), None], ["a", ""], ValueError, "Sample 1"),
        (None, 5, TypeError, "must be a string"),
        (None, ["a", 5], TypeError, "sample 1 is int"),
        (None, b"bytes", TypeError, "must be a string"),
        ([np.zeros(800, np.float32)], ["a", "b"], ValueError, "1 clips and 2 texts"),
        ([], None, ValueError, "empty"),
        (np.array([np.nan], np.float32), None, AudioError, "NaN"),
    ],
)
def test_refusals(processor: BiBiERProcessor, audio, text, error: type, message: str):
    with pytest.raises(error, match=message):
        processor(audio=audio, text=text, sampling_rate=16_000)


def test_missing_sampling_rate(processor: BiBiERProcessor):
    with pytest.raises(AudioError, match="sampling rate"):
        processor(audio=np.zeros(800, np.float32))


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_save_and_load_without_trust(front_end: str, tmp_path: Path, clip):
    processor = processor_for(front_end)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is BiBiERProcessor
    for key, value in processor(audio=clip(0.7), text="привет", sampling_rate=16_000).items():
        torch.testing.assert_close(
            again(audio=clip(0.7), text="привет", sampling_rate=16_000)[key], value, atol=0, rtol=0
        )
    assert again.max_text_tokens == processor.max_text_tokens


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_saved_and_loaded_it_is_the_same_processor(front_end: str, tmp_path: Path):
    processor = processor_for(front_end)
    before = processor.to_dict()
    processor.save_pretrained(tmp_path)
    assert processor.to_dict() == before
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == before
    again.save_pretrained(tmp_path / "again")
    saved = [(folder / "processor_config.json").read_text() for folder in (tmp_path, tmp_path / "again")]
    assert saved[0] == saved[1]


def test_parts_of_a_checkpoint_load_by_themselves(checkpoint: Path, processor: BiBiERProcessor):
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    assert extractor.to_dict() == processor.feature_extractor.to_dict()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert type(tokenizer) is ByT5Tokenizer
    assert tokenizer("Да!")["input_ids"] == processor(text="Да!")["input_ids"][0].tolist()


def test_making_and_calling_a_processor_leaves_its_parts_as_they_are():
    tokenizer = ByT5Tokenizer(padding_side="left")
    out = BiBiERProcessor(FRONT_ENDS["wav2vec2"], tokenizer)(text=["a", "abc"])
    assert tokenizer.padding_side == "left"
    assert out["text_attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_names_of_the_inputs(processor: BiBiERProcessor, clip):
    out = processor(audio=clip(0.5), text="a", sampling_rate=16_000)
    assert sorted(out) == sorted(processor.model_input_names)


def test_forms_of_the_result(processor: BiBiERProcessor, clip):
    inputs = {"audio": [clip(0.5), None, clip(1.0)], "text": ["a", "abc", None], "sampling_rate": 16_000}
    tensors = processor(**inputs)
    arrays = processor(**inputs, return_tensors="np")
    lists = processor(**inputs, return_tensors=None)
    ragged = processor(**inputs, return_tensors=None, padding=False)
    for name, tensor in tensors.items():
        assert type(tensor) is torch.Tensor
        assert type(arrays[name]) is np.ndarray
        assert type(lists[name]) is type(ragged[name]) is list
        assert arrays[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(arrays[name], tensor.numpy())
        np.testing.assert_array_equal(np.asarray(lists[name]), tensor.numpy())
    assert [len(row) for row in ragged["input_ids"]] == [2, 4, 1]
    assert ragged["text_attention_mask"] == [[1, 1], [1, 1, 1, 1], [0]]
    assert [len(row) for row in ragged["input_features"]] == [24, 1, 49]
    assert [sum(row) for row in ragged["audio_attention_mask"]] == [24, 0, 49]


def test_padding_to_a_length(processor: BiBiERProcessor, clip):
    out = processor(
        audio=clip(0.5),
        text="ab",
        sampling_rate=16_000,
        padding="max_length",
        max_length=8,
        audio_kwargs={"max_length": 30},
    )
    assert out["text_attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    assert (out["input_features"].shape, out["audio_attention_mask"].sum()) == ((1, 30, 160), 24)
    assert processor(text="ab", padding="max_length")["input_ids"].shape == (1, 192)
    assert processor(text="ab", pad_to_multiple_of=5)["input_ids"].shape == (1, 5)
    assert processor(text="abcd", pad_to_multiple_of=5)["input_ids"].shape == (1, 5)
    saved = BiBiERProcessor(FRONT_ENDS["wav2vec2"], ByT5Tokenizer(padding="max_length", max_length=20))
    assert saved(text="ab")["input_ids"].shape == (1, 20)
    other = BiBiERProcessor(FRONT_ENDS["wav2vec2"], ByT5Tokenizer(max_length=20))
    assert other(text="a" * 50)["input_ids"].shape == (1, 51)  # the processor's own limit counts, 95


def test_truncation_is_one_of_texts(processor: BiBiERProcessor, clip):
    sample = {"audio": clip(1.0), "text": "abcdefgh", "sampling_rate": 16_000}
    whole = processor(**sample)
    eos = processor.tokenizer.eos_token_id
    for options in (
        {"truncation": True, "max_length": 4},
        {"text_kwargs": {"max_length": 4}},
        {"common_kwargs": {"max_length": 4, "truncation": True}},
    ):
        out = processor(**sample, **options)
        assert out["input_ids"][0].tolist() == [*whole["input_ids"][0, :3].tolist(), eos]
        assert torch.equal(out["input_features"], whole["input_features"])
    assert processor(text="я" * 200, truncation=False)["input_ids"].shape == (1, 401)
    assert processor(text="abc", add_special_tokens=False)["input_ids"].shape == (1, 3)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_audio_is_cut_where_it_is_asked_for(front_end: str, clip):
    processor = processor_for(front_end)
    sample = {"audio": [clip(1.0), clip(0.1)], "sampling_rate": 16_000}
    name = processor.audio_input_name
    out = processor(**sample, audio_kwargs={"truncation": True, "max_length": 20})
    assert out[name].shape[:2] == (2, 20)
    assert torch.equal(out[name][0], processor(**sample)[name][0, :20])
    with pytest.raises(ValueError, match="truncation without max_length"):
        processor(**sample, audio_kwargs={"truncation": True})


def test_options_by_themselves_and_by_modality(processor: BiBiERProcessor, clip):
    flat = processor(audio=clip(0.5), text="ab", sampling_rate=16_000, return_tensors="np")
    nested = processor(
        audio=clip(0.5),
        text="ab",
        audio_kwargs={"sampling_rate": 16_000},
        common_kwargs={"return_tensors": "np"},
        text_kwargs={},
    )
    for name, array in flat.items():
        np.testing.assert_array_equal(nested[name], array)
    mixed = processor(text="ab", common_kwargs={"return_tensors": "np"}, return_tensors=None)
    assert type(mixed["input_ids"]) is list
    given = {"max_length": 3}
    processor(text="abcdef", text_kwargs=given)
    assert given == {"max_length": 3}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samplingrate": 16_000}, TypeError, "no option samplingrate. Allowed: .*sampling_rate"),
        ({"text_kwargs": {"sampling_rate": 16_000}}, TypeError, "no option sampling_rate in text_kwargs"),
        ({"audio_kwargs": {"device": "cuda"}}, TypeError, "no option device in audio_kwargs"),
        ({"common_kwargs": {"crop_size": 3}}, TypeError, "no option crop_size"),
        ({"text_kwargs": {"padding": True}, "padding": True}, ValueError, "padding: given twice, in text_kwargs and"),
        ({"padding": "longst"}, ValueError, "padding='longst' is not allowed; it must be one of"),
        ({"return_tensors": "tf"}, ValueError, "'tf' is not allowed"),
        ({"max_length": 0}, ValueError, "max_length=0 is not allowed"),
        ({"pad_to_multiple_of": 1.5}, ValueError, "pad_to_multiple_of=1.5 is not allowed"),
        ({"padding": False}, ValueError, "rows of 2 to 3 steps, which do not form a tensor. Pass padding=True"),
    ],
)
def test_refused_options(processor: BiBiERProcessor, options: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        processor(text=["a", "ab"], **options)


def test_a_rate_that_is_said_once(processor: BiBiERProcessor, clip, monkeypatch: pytest.MonkeyPatch):
    expected = processor(audio=clip(0.5), sampling_rate=16_000)["input_features"]
    monkeypatch.setattr(BiBiERProcessor, "audio_kwargs", {"sampling_rate": 16_000, "return_tensors": "pt"})
    assert torch.equal(processor(audio=clip(0.5))["input_features"], expected)


def test_columns_of_tables(processor: BiBiERProcessor, clip):
    texts = ["a", "abc"]
    clips = [{"array": clip(0.1 * (row + 1)).tolist(), "sampling_rate": 16_000} for row in range(2)]
    expected = processor(audio=clips, text=texts)
    table = datasets.Dataset.from_dict({"audio": clips, "text": texts})
    for audio, text in (
        (table["audio"], table["text"]),
        (pandas.Series(clips), pandas.Series(texts)),
        (np.array(clips, dtype=object), np.array(texts)),
        (tuple(clips), tuple(texts)),
    ):
        for name, tensor in processor(audio=audio, text=text).items():
            assert torch.equal(tensor, expected[name])
    assert processor(text=pandas.Series(["a", None]), audio=clips)["text_attention_mask"].sum(1).tolist() == [2, 0]
    assert processor(text=["a", float("nan")], audio=clips)["text_attention_mask"].sum(1).tolist() == [2, 0]


def test_halves_of_surrogate_pairs(processor: BiBiERProcessor):
    """As `json.loads` gives them for cut or escaped emoji."""
    for text, meant in (("a\ud83d", "a\ufffd"), ("\ud83d\ude00", "\U0001f600"), ("😀 ok", "😀 ok")):
        assert torch.equal(processor(text=text)["input_ids"], processor(text=meant)["input_ids"])


def test_encode_takes_decoded_clips(processor: BiBiERProcessor, clip):
    for name, tensor in processor.encode([clip(0.5), None], ["a", "b"]).items():
        assert torch.equal(tensor, processor(audio=[clip(0.5), None], text=["a", "b"], sampling_rate=16_000)[name])
    with pytest.raises(ValueError, match="Sample 0 has neither"):
        processor.encode([None], [" "])


def test_samples_are_padded_to_a_batch(processor: BiBiERProcessor, clip):
    texts, clips = ["abc", "a", None], [clip(0.1), None, clip(1.0)]
    together = processor(audio=clips, text=texts, sampling_rate=16_000)
    alone = [processor(audio=[c], text=[t], sampling_rate=16_000) for c, t in zip(clips, texts, strict=True)]
    for name, tensor in processor.pad(alone).items():
        assert torch.equal(tensor, together[name])


def test_maps_over_a_dataset_are_found_again(processor: BiBiERProcessor, tmp_path: Path):
    """Nothing is computed twice: the processor is hashed, and saving or using it does not change its hash."""
    calls = []

    def tokenize(row: dict) -> dict:
        return {"ids": processor(text=row["text"], return_tensors=None)["input_ids"][0]}

    datasets.Dataset.from_dict({"text": ["a", "да"]}).save_to_disk(tmp_path / "rows")
    paths = []
    for _ in range(2):
        mapped = datasets.load_from_disk(tmp_path / "rows").map(tokenize)
        paths.append([file["filename"] for file in mapped.cache_files])
        calls.append(mapped["ids"][1])
        processor.save_pretrained(tmp_path / "processor")
    assert paths[0] == paths[1] != []
    assert calls[0] == calls[1] == processor(text="да")["input_ids"][0].tolist()


def test_e5_prefix_follows_from_the_name(tmp_path: Path):
    for name, prefix in [
        ("multilingual-e5-small", "query: "),
        ("e5_base", "query: "),
        ("xlm-roberta-base", ""),
        ("bge5", ""),
    ]:
        ByT5Tokenizer().save_pretrained(tmp_path / name)
        (tmp_path / name / "config.json").write_text('{"model_type": "t5"}')
        assert BiBiERProcessor.from_backbones(text=str(tmp_path / name)).text_prefix == prefix


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
def test_windows_of_a_long_clip_are_samples_of_their_own(kind: str, clip):
    front_end = (
        WhisperFeatureExtractor(feature_size=80, chunk_length=2)
        if kind == "whisper"
        else Wav2Vec2FeatureExtractor(do_normalize=True)
    )
    processor = BiBiERProcessor(front_end, ByT5Tokenizer(), max_window_s=2)
    quiet, loud = 0.001 * clip(2.0, 1), clip(1.3, 2)  # a quiet window before a loud one
    name = processor.audio_input_name
    whole = processor(audio=np.concatenate([quiet, loud]), sampling_rate=16_000)[name][0]
    alone = [processor(audio=window, sampling_rate=16_000)[name][0] for window in (quiet, loud)]
    torch.testing.assert_close(whole, torch.cat(alone), atol=0, rtol=0)


def test_as_many_frames_as_bands(clip):
    processor = BiBiERProcessor(WhisperFeatureExtractor(feature_size=80), ByT5Tokenizer())
    square = processor(audio=clip(0.8), sampling_rate=16_000)["input_features"][0]
    longer = processor(audio=clip(0.81), sampling_rate=16_000)["input_features"][0]
    assert square.shape == (80, 80)
    assert (square[:70] - longer[:70]).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("content", "message"), [(None, "has no tokenizer vocabulary"), ("[1]", "tokenizer cannot be read")]
)
def test_a_text_backbone_without_a_usable_tokenizer_is_refused(tmp_path, content, message):
    from transformers import BertConfig

    BertConfig(vocab_size=50).save_pretrained(tmp_path)
    if content is not None:
        (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        BiBiERProcessor.from_backbones(text=str(tmp_path))
