"""The processor: masks, missing modalities, refusals, any front end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, ByT5Tokenizer, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

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
