"""The configuration says what is wrong with itself."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from bibier_hf import EMOTIONS, BiBiERConfig

from ..conftest import features_of, merged


@pytest.fixture
def features_only() -> dict:
    return features_of(audio=8, text=8)


def test_label_order(features_only: dict):
    config = BiBiERConfig(**features_only)
    assert [config.id2label[index] for index in range(7)] == list(EMOTIONS)
    assert EMOTIONS == ("anger", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert config.label2id["surprise"] == 6


def test_whole_numbers_are_class_weights_too(features_only: dict):
    assert BiBiERConfig(class_weights=[1, 2, 0.5, 1, 1, 1, 1], **features_only).class_weights[1] == 2


def test_another_label_set(features_only: dict):
    config = BiBiERConfig(id2label={0: "calm", 1: "upset"}, **features_only)
    assert (config.num_labels, config.label2id) == (2, {"calm": 0, "upset": 1})


@pytest.mark.parametrize("audio", ["wav2vec2", "wavlm", "hubert", "wav2vec2-bert", "whisper"])
@pytest.mark.parametrize("text", ["bert", "xlm-roberta", "modernbert", "jina_embeddings_v3"])
def test_round_trip_with_any_pair(audio: str, text: str, tmp_path: Path):
    config = BiBiERConfig.from_backbones(AutoConfig.for_model(audio), AutoConfig.for_model(text), hidden_size=64)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again).__name__ == "BiBiERConfig"
    kinds = [modality.backbone.model_type for modality in again.modality_configs.values()]
    assert (*kinds, again.hidden_size) == (audio, text, 64)
    assert again.audio_config.feature_size == again.audio_config.backbone.hidden_size
    assert again.to_json_string() == config.to_json_string()


def test_embedded_pair_reads_longer_texts_and_is_trained():
    config = BiBiERConfig.from_backbones()
    assert config.text_config.max_tokens == 192
    assert not config.audio_config.freeze_backbone
    assert not config.text_config.freeze_backbone


def test_a_folder_leaves_no_trace_in_the_config(tmp_path: Path):
    AutoConfig.for_model("bert", hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path / "text")
    config = BiBiERConfig.from_backbones("embedded", str(tmp_path / "text"))
    assert config.text_config.backbone_id is None
    assert str(tmp_path) not in config.to_json_string(use_diff=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layers": 3}, "did you mean 'num_hidden_layers'"),
        ({"nonsense_xyz": 3}, "no option 'nonsense_xyz'"),
        ({"fusion": "magic"}, "one of"),
        ({"temperature": 0.0}, "temperature=0.0 is not allowed; it must be above 0 and finite"),
        ({"temperature": float("inf")}, "above 0 and finite"),
        ({"audio_config": {"encoder": "gru"}}, "one of"),
        ({"hidden_size": 30, "num_attention_heads": 8}, "multiple of num_attention_heads=8"),
        ({"hidden_size": 0}, "at least 1"),
        ({"num_hidden_layers": -1}, "at least 0"),
        ({"dropout": 1.5}, r"\[0, 1\)"),
        ({"modality_dropout": -0.1}, r"\[0, 1\)"),
        ({"mamba_dt_rank": 0}, "at least 1"),
        ({"audio_config": {"max_window_s": 0.5}}, r"audio_config\.max_window_s=0\.5 .* at least 1"),
        ({"unimodal_loss_weight": -1}, "at least 0"),
        ({"class_weights": [1.0, 2.0]}, "7 numbers"),
        ({"hidden_size": 15, "num_attention_heads": 5, "positional_encoding": True}, "even"),
        ({"audio_config": {"backbone_stored": False}}, r"needs audio_config\.backbone and audio_config\.backbone_id"),
    ],
)
def test_refusals(options: dict, message: str, features_only: dict):
    with pytest.raises(ValueError, match=message):
        BiBiERConfig(**merged(features_only, options))


def test_refusals_that_concern_backbones():
    bert = AutoConfig.for_model("bert")
    audio = features_of(audio=8)
    with pytest.raises(ValueError, match=r"neither audio_config\.backbone"):
        BiBiERConfig(audio_config={"backbone": None})
    with pytest.raises(ValueError, match="contradicts"):
        BiBiERConfig(**audio, text_config={"backbone": bert, "feature_size": 9})
    with pytest.raises(ValueError, match=r"0\.\.12"):
        BiBiERConfig(**audio, text_config={"backbone": bert, "layer": 13})
    with pytest.raises(ValueError, match=r"needs text_config\.backbone and text_config\.backbone_id"):
        BiBiERConfig(**audio, text_config={"backbone": bert, "backbone_stored": False})


def test_wrong_types_are_refused(features_only: dict):
    with pytest.raises(Exception, match="hidden_size"):
        BiBiERConfig(hidden_size="big", **features_only)
