"""Damaged checkpoints: one line that names the file, never a traceback, never an answer from random weights."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.commands.checkpoint import load_checkpoint
from bibier_hf.commands.describe import summary
from bibier_hf.errors import ArgumentError
from bibier_hf.model.validation_bibier import CheckpointError

from ..bad_inputs import NO_CONFIGURATION
from ..bibier_command import bibier
from ..conftest import features_of, merged

WEIGHTS = "model.safetensors"


@pytest.fixture
def damaged(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "damaged"))


OPTIONS: list[dict[str, Any]] = [
    {"model_type": "bert"},
    {"model_type": None},
    {"model_type": ["bibier"]},
    {"hidden_size": "big"},
    {"hidden_size": None},
    {"hidden_size": 16.5},
    {"hidden_size": [16]},
    {"hidden_size": {}},
    {"hidden_size": 0},
    {"hidden_size": -16},
    {"hidden_size": 10**12},
    {"hidden_size": 10_000_000},
    {"hidden_size": 32},
    {"num_hidden_layers": 10_000_000},
    {"num_hidden_layers": 2},
    {"audio_config": {"num_hidden_layers": 10_000_000}},
    {"text_config": {"num_hidden_layers": -1}},
    {"text_config": {"hidden_size": 10**9}},
    {"seg_len": 10**10},
    {"num_attention_heads": 0},
    {"num_attention_heads": 3},
    {"mamba_expand": 1e12},
    {"mamba_expand": "Infinity"},
    {"mamba_state_size": 10**8},
    {"audio_config": {"max_window_s": 1e400}},
    {"dropout": "0.1"},
    {"dropout": 2},
    {"temperature": 0},
    {"temperature": None},
    {"fusion": "magic"},
    {"fusion": 5},
    {"fusion": "bigraph"},
    {"audio_config": {"encoder": ["mamba"]}},
    {"modalities": "audio"},
    {"modalities": ["text", "audio"]},
    {"modalities": ["audio"]},
    {"class_weights": [1.0, 2.0]},
    {"class_weights": "all"},
    {"id2label": []},
    {"id2label": {}},
    {"id2label": "anger"},
    {"id2label": {"a": "anger"}},
    {"id2label": {"0": "anger", "2": "sad"}},
    {"id2label": {str(index): "anger" for index in range(7)}},
    {"id2label": {str(index): index for index in range(7)}},
    {"id2label": {"0": "anger", "1": "sad"}, "label2id": None},
    {"label2id": {"anger": 6}},
    {"audio_config": 5},
    {"audio_config": []},
    {"audio_config": "wav2vec2"},
    {"audio_config": {"model_type": "nonsense"}},
    {"audio_config": {"model_type": "bert"}},
    {"audio_config": {"model_type": ["bert"]}},
    {"audio_config": None},
    {"audio_config": {"backbone": 5}},
    {"audio_config": {"backbone": []}},
    {"audio_config": {"backbone": "wav2vec2"}},
    {"audio_config": {"backbone": {"model_type": "nonsense"}}},
    {"audio_config": {"backbone": {"model_type": "bert"}}},
    {"audio_config": {"backbone": {"model_type": ["bert"]}}},
    {"audio_config": {"backbone": None}},
    {"text_config": {"backbone": {"model_type": "bert", "hidden_size": "wide"}}},
    {"text_config": {"backbone": {"model_type": "bert", "hidden_size": 10**9}}},
    {"text_config": {"backbone": {"model_type": "bert", "num_hidden_layers": 10_000_000}}},
    {"text_config": {"backbone": {"model_type": "bert", "vocab_size": -1}}},
    {"text_config": {"backbone": {"model_type": "bert", "vocab_size": 10**13}}},
    {"text_config": {"backbone": {"model_type": "bert", "hidden_act": "nonsense"}}},
    {"text_config": {"backbone_stored": False}},
    {"text_config": {"backbone_stored": False, "backbone_id": "/nowhere"}},
    {"text_config": {"layer": 99}},
    {"original_behavior": ["nonsense"]},
    {"original_behavior": "all"},
    {"dtype": "float77"},
]


def check_message(error: pytest.ExceptionInfo, folder: Path) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert str(folder) in message
    assert len(message) < 2000


@pytest.mark.parametrize("name", NO_CONFIGURATION)
def test_a_config_that_is_no_configuration(name: str, damaged: Path):
    (damaged / "config.json").write_bytes(NO_CONFIGURATION[name])
    with pytest.raises(ArgumentError, match=r"config\.json") as error:
        load_checkpoint(str(damaged))
    check_message(error, damaged)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        BiBiERForEmotionClassification.from_pretrained(damaged)
    with pytest.raises(ArgumentError, match=r"config\.json"):
        summary(str(damaged))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: json.dumps(options)[:60])
def test_a_config_with_wrong_values(options: dict[str, Any], damaged: Path):
    file = damaged / "config.json"
    file.write_text(json.dumps(merged(json.loads(file.read_text()), options)))
    with pytest.raises(ArgumentError, match=r"config\.json|weights|backbone") as error:
        load_checkpoint(str(damaged))
    check_message(error, damaged)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage",
    [cut, lambda _: b"", lambda content: content[:4], lambda _: pickle.dumps({"x": 1}), lambda content: content[::-1]],
    ids=["cut", "empty", "cut in the header", "a pickle", "reversed"],
)
def test_damaged_weights(damage: Callable[[bytes], bytes], damaged: Path):
    file = damaged / WEIGHTS
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ArgumentError, match="weights cannot be loaded") as error:
        load_checkpoint(str(damaged))
    check_message(error, damaged)


def test_a_pickle_beside_no_weights_runs_no_code(damaged: Path, tmp_path: Path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (damaged / WEIGHTS).unlink()
    torch.save({"x": Payload()}, damaged / "pytorch_model.bin")
    with pytest.raises(ArgumentError, match="damaged") as error:
        load_checkpoint(str(damaged))
    check_message(error, damaged)
    assert not (tmp_path / "ran").exists()


def test_no_weights(damaged: Path):
    (damaged / WEIGHTS).unlink()
    with pytest.raises(ArgumentError, match=r"model\.safetensors") as error:
        load_checkpoint(str(damaged))
    check_message(error, damaged)


@pytest.mark.parametrize("file", ["processor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content", [None, b"", b"[]", b"null", b"{", b"[" * 100_000], ids=lambda content: repr(content)[:12]
)
def test_a_damaged_processor(file: str, content: bytes | None, damaged: Path):
    if content is None:
        (damaged / file).unlink()
    else:
        (damaged / file).write_bytes(content)
    with pytest.raises(ArgumentError, match="processor") as error:
        load_checkpoint(str(damaged))
    check_message(error, damaged)


def test_missing_and_unknown_tensors_are_named(damaged: Path):
    weights = load_file(damaged / WEIGHTS)
    del weights["classifier.4.bias"]
    weights["left.over"] = torch.zeros(1)
    save_file(weights, damaged / WEIGHTS, metadata={"format": "pt"})
    for load in (load_checkpoint, AutoModel.from_pretrained):
        with pytest.raises(ValueError, match=r"missing: classifier\.4\.bias; unknown to the model: left\.over"):
            load(str(damaged))


def test_the_first_answer_that_is_not_finite_is_an_error(damaged: Path):
    weights = load_file(damaged / WEIGHTS)
    weights["classifier.4.bias"][2] = torch.nan
    save_file(weights, damaged / WEIGHTS, metadata={"format": "pt"})
    done = bibier("predict", damaged, "--text", "hello", "--json")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "not finite" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("reverse_label2id", [False, True])
def test_labels_in_another_order_than_the_weights(reverse_label2id: bool, damaged: Path):
    file = damaged / "config.json"
    config = json.loads(file.read_text())
    names = list(config["id2label"].values())[::-1]
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    if reverse_label2id:
        config["label2id"] = {name: index for index, name in enumerate(names)}
    file.write_text(json.dumps(config))
    with pytest.raises(
        ArgumentError,
        match="anger, disgust, fear, happy, neutral, sad, surprise" if reverse_label2id else "contradicts",
    ):
        load_checkpoint(str(damaged))


def test_labels_that_were_changed_in_memory_do_not_load_again(checkpoint: Path, tmp_path: Path):
    model = BiBiERForEmotionClassification.from_pretrained(checkpoint)
    model.config.id2label = {index: name for index, name in enumerate("abcdefg")}
    model.config.label2id = None
    model.save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match="has the labels a, b, c, d, e, f, g, but the weights were trained with other"
    ):
        BiBiERForEmotionClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "names",
    ["abcd", "tuvwxyz", ["surprise", "sad", "neutral", "happy", "fear", "disgust", "anger"]],
    ids=["4", "7", "reversed"],
)
@pytest.mark.parametrize("auto", [False, True], ids=["class", "AutoModel"])
def test_new_labels(names: Any, auto: bool, tmp_path: Path, tiny_options: dict):
    torch.manual_seed(0)
    old = BiBiERForEmotionClassification.from_backbones(
        **tiny_options, class_weights=[1, 2, 3, 4, 5, 6, 7], temperature=2.0, add_unimodal_logits=True
    )
    old.save_pretrained(tmp_path / "old")
    load = (AutoModel if auto else BiBiERForEmotionClassification).from_pretrained
    labels = {"num_labels": len(names), "id2label": dict(enumerate(names))}
    with pytest.raises(CheckpointError, match="ignore_mismatched_sizes=True"):
        load(tmp_path / "old", **labels)
    model = load(tmp_path / "old", **labels, ignore_mismatched_sizes=True)
    assert list(model.config.id2label.values()) == list(names)
    assert (model.config.class_weights, model.config.temperature) == (None, 1.0)
    same = dict(old.named_parameters())
    for name, parameter in model.named_parameters():
        in_head = name == "mixture.weights" or name.endswith(
            ("_head.linear.weight", "_head.linear.bias", ".4.weight", ".4.bias")
        )
        if not in_head:
            torch.testing.assert_close(parameter, same[name], atol=0, rtol=0)
        elif not name.endswith("bias"):  # which starts from zero
            assert parameter.shape != same[name].shape or not torch.equal(parameter, same[name]), name
    model(audio_features=torch.randn(2, 5, 96), labels=torch.tensor([0, 1])).loss.backward()
    model.save_pretrained(tmp_path / "new")
    again = load(tmp_path / "new")
    torch.testing.assert_close(again.classifier[-1].weight, model.classifier[-1].weight, atol=0, rtol=0)
    assert again.config.label2id == {name: index for index, name in enumerate(names)}


def test_keys_that_others_write_are_kept_on_load(checkpoint: Path, tmp_path: Path):
    model = BiBiERForEmotionClassification.from_pretrained(checkpoint)
    model.config.use_cache = False
    model.config.my_note = {"run": 3}
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert (again.config.use_cache, again.config.my_note) == (False, {"run": 3})
    assert BiBiERConfig.from_dict(again.config.to_dict()).my_note == {"run": 3}
    with pytest.raises(ValueError, match="no option 'use_cache'"):
        BiBiERConfig(**features_of(audio=8, text=8), use_cache=False)
