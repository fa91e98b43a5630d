"""The configuration says what is wrong with itself."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from bibier_hf import EMOTIONS, BiBiERConfig
from bibier_hf.model.configuration_bibier import ORIGINAL_BEHAVIOR, BiBiERAudioConfig, BiBiERTextConfig

from ..conftest import both, features_of, merged


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
        ({"audio_encoder": "lstm"}, r"did you mean audio_config={'encoder': \.\.\.}\?"),
        ({"text_max_tokens": 20}, r"did you mean text_config={'max_tokens': \.\.\.}\?"),
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
        (
            {"audio_config": {"backbone_stored": False}},
            r"requires audio_config\.backbone and audio_config\.backbone_id",
        ),
    ],
)
def test_refusals(options: dict, message: str, features_only: dict):
    with pytest.raises(ValueError, match=message):
        BiBiERConfig(**merged(features_only, options))


def test_refusals_that_concern_backbones():
    bert = AutoConfig.for_model("bert")
    audio = features_of(audio=8)
    with pytest.raises(ValueError, match=r"Neither audio_config\.backbone"):
        BiBiERConfig(audio_config={"backbone": None})
    with pytest.raises(ValueError, match="contradicts"):
        BiBiERConfig(**audio, text_config={"backbone": bert, "feature_size": 9})
    with pytest.raises(ValueError, match=r"0\.\.12"):
        BiBiERConfig(**audio, text_config={"backbone": bert, "layer": 13})
    with pytest.raises(ValueError, match=r"requires text_config\.backbone and text_config\.backbone_id"):
        BiBiERConfig(**audio, text_config={"backbone": bert, "backbone_stored": False})


def test_wrong_types_are_refused(features_only: dict):
    with pytest.raises(Exception, match="hidden_size"):
        BiBiERConfig(hidden_size="big", **features_only)


def test_without_arguments_it_is_the_embedded_pair():
    config = BiBiERConfig()
    assert (type(config.audio_config), type(config.text_config)) == (BiBiERAudioConfig, BiBiERTextConfig)
    assert (config.audio_config.backbone.model_type, config.text_config.backbone.model_type) == (
        "wav2vec2-bert",
        "bert",
    )
    assert config.to_json_string() == BiBiERConfig.from_backbones().to_json_string()


def test_the_text_config_is_that_of_the_text():
    config = BiBiERConfig(text_config={"backbone": AutoConfig.for_model("bert", vocab_size=77)})
    assert config.get_text_config() is config.text_config
    assert config.get_text_config().vocab_size == 77
    assert BiBiERConfig.from_dict(config.to_dict()).text_config.vocab_size == 77


def test_the_same_options_serve_for_many_models():
    options = both(hidden_size=16)
    BiBiERConfig(**options)
    assert options == both(hidden_size=16)


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_an_unknown_option_of_a_modality_is_refused_with_a_hint(modality: str):
    with pytest.raises(
        ValueError, match=rf"{modality}_config has no option 'hiden_size' \(did you mean 'hidden_size'\?\)"
    ):
        BiBiERConfig(**{f"{modality}_config": {"hiden_size": 3}})
    with pytest.raises(ValueError, match=rf"{modality}_config\.hidden_size=0 is not allowed; it must be at least 1"):
        BiBiERConfig(**{f"{modality}_config": {"hidden_size": 0}})


def test_an_option_of_the_other_modality_is_unknown():
    with pytest.raises(ValueError, match="text_config has no option 'cepstrum'"):
        BiBiERConfig(text_config={"cepstrum": True})
    with pytest.raises(ValueError, match="audio_config has no option 'max_tokens'"):
        BiBiERConfig(audio_config={"max_tokens": 3})


def test_keys_of_a_newer_version_are_kept_on_load_wherever_they_are(tmp_path: Path):
    written = BiBiERConfig().to_dict()
    written["new_one"] = 1
    written["audio_config"]["new_option"] = {"of": "audio"}
    written["text_config"]["new_option"] = ["of", "text"]
    config = BiBiERConfig.from_dict(written)
    config.save_pretrained(tmp_path)
    for found in (config, BiBiERConfig.from_pretrained(tmp_path)):
        assert found.new_one == 1
        assert found.audio_config.new_option == {"of": "audio"}
        assert found.text_config.new_option == ["of", "text"]


def test_no_backbone_stays_no_backbone(tmp_path: Path):
    config = BiBiERConfig(**features_of(audio=8, text=9))
    config.save_pretrained(tmp_path)
    again = BiBiERConfig.from_pretrained(tmp_path)
    for modality, width in (("audio", 8), ("text", 9)):
        part = again.modality_configs[modality]
        assert (part.backbone, part.feature_size) == (None, width)
    assert again.to_json_string() == config.to_json_string()
    without = BiBiERConfig.from_backbones(
        None, None, audio_config={"feature_size": 8}, text_config={"feature_size": 9}
    )
    assert without.to_json_string() == BiBiERConfig(**features_of(audio=8, text=9)).to_json_string()


@pytest.mark.parametrize("options", [{}, {"audio_config": {"hidden_size": 16}}], ids=["none", "some"])
def test_a_modality_that_is_not_read_has_no_backbone_unless_one_is_named(options: dict):
    assert BiBiERConfig(**options, modalities=["text"]).audio_config.backbone is None
    named = BiBiERConfig(**merged(options, {"audio_config": {"backbone": "embedded"}}), modalities=["text"])
    assert named.audio_config.backbone is not None


def test_a_list_of_defects_survives_saving(features_only: dict, tmp_path: Path):
    config = BiBiERConfig(**features_only, original_behavior=["softmax_gate", "unmasked"])
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.original_behavior == ["softmax_gate", "unmasked"]
    assert [name for name in ORIGINAL_BEHAVIOR if again.reproduces(name)] == ["unmasked", "softmax_gate"]
    assert again.depends_on_batch
    assert not BiBiERConfig(**features_only, original_behavior=["first_pair_graph"]).depends_on_batch
    assert BiBiERConfig(**features_only, original_behavior=["first_pair_graph"], fusion="bigraph").depends_on_batch


def test_an_unknown_defect_is_refused(features_only: dict):
    with pytest.raises(
        ValueError, match=r"'softmx_gate'.* is not allowed; it must be True, False, or a list of unmasked"
    ):
        BiBiERConfig(**features_only, original_behavior=["softmx_gate"])
    with pytest.raises(Exception, match="original_behavior"):
        BiBiERConfig(**features_only, original_behavior="softmax_gate")


def test_what_is_allowed_lists_the_options_of_that_configuration_alone():
    """Not those that transformers has for every configuration; labels are the model's."""
    with pytest.raises(ValueError, match="Allowed: ") as nested:
        BiBiERConfig(text_config={"colour": 1})
    allowed = str(nested.value).partition("Allowed: ")[2].rstrip(".").split(", ")
    assert {"backbone", "encoder", "max_tokens"} <= set(allowed)
    assert not {"id2label", "problem_type", "return_dict", "cepstrum"} & set(allowed)

    with pytest.raises(ValueError, match="Allowed: ") as whole:
        BiBiERConfig(colour=1)
    allowed = str(whole.value).partition("Allowed: ")[2].rstrip(".").split(", ")
    assert {"audio_config", "fusion", "id2label", "num_labels", "problem_type"} <= set(allowed)
    assert not {"return_dict"} & set(allowed)
