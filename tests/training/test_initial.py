"""A run that starts from a trained checkpoint."""

import logging

import pytest
import torch
from transformers.utils.logging import get_logger

from bibier_hf import EMOTIONS, BiBiERConfig, BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.results import RunResults
from bibier_hf.model.configuration_bibier import SINGLE_LABEL
from bibier_hf.training.arguments import run_arguments
from bibier_hf.training.build import build_model
from bibier_hf.training.initial import load_initial
from bibier_hf.training.run import run_training

from ..conftest import TINY, merged

THREE = ["негатив", "без эмоций", "позитив"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`trained(name, **options)` -> folder of a checkpoint."""

    def build(name: str = "trained", **options):
        folder = tmp_path_factory.mktemp("checkpoints") / name
        torch.manual_seed(3)
        BiBiERForEmotionClassification(BiBiERConfig(**merged(TINY, options))).save_pretrained(folder)
        BiBiERProcessor.from_backbones().save_pretrained(folder)
        return str(folder)

    return build


def starting_from(checkpoint: str, **keys):
    return run_arguments({"corpora": [{"name": "quickstart"}], "output_dir": "out", "init_from": checkpoint, **keys})


def test_all_weights_are_those_of_the_checkpoint(trained):
    folder = trained(temperature=2.0, class_weights=[2.0] + [1.0] * 6)
    model, processor, _ = build_model(starting_from(folder))
    expected = BiBiERForEmotionClassification.from_pretrained(folder).state_dict()
    assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())
    assert model.config.temperature == 1
    assert model.config.class_weights is None
    assert processor.max_text_tokens == BiBiERProcessor.from_pretrained(folder).max_text_tokens


@pytest.mark.parametrize("labels", [THREE, ["no", "yes"], list(EMOTIONS[::-1])])
def test_other_labels_get_new_classifiers_and_keep_the_rest(trained, labels, caplog, monkeypatch):
    monkeypatch.setattr(get_logger("bibier_hf"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    folder = trained(add_unimodal_logits=True, temperature=2.0)
    of_labels = {"id2label": dict(enumerate(labels)), "problem_type": SINGLE_LABEL, "label_ranges": None}
    model, _ = load_initial(starting_from(folder), of_labels)
    expected = BiBiERForEmotionClassification.from_pretrained(folder).state_dict()

    changed = {
        name
        for name, value in model.state_dict().items()
        if value.shape != expected[name].shape or not torch.equal(value, expected[name])
    }
    layers = {"audio_head.linear", "text_head.linear", "classifier.4", "mixture"}
    weights = {f"{layer}.weight" for layer in layers - {"mixture"}} | {"mixture.weights", "trained_labels"}
    assert weights <= changed <= weights | {f"{layer}.bias" for layer in layers}
    assert model.config.label_names == labels
    assert model.config.temperature == 1
    (message,) = [record.getMessage() for record in caplog.records if "these layers are new" in record.getMessage()]
    assert all(layer in message for layer in layers)
    assert "\n" not in message


def test_free_options_of_the_run_replace_those_of_the_checkpoint(trained):
    folder = trained()
    options = {"dropout": 0.4, "audio_config": {"freeze_encoder": True}, "hidden_size": 16}
    model, *_ = build_model(starting_from(folder, model=options, frozen=["bibier.fusion"]))
    assert model.config.dropout == 0.4
    assert model.config.audio_config.freeze_encoder
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert free
    assert not any(name.startswith(("bibier.fusion", "bibier.audio.encoder")) for name in free)


def test_contradictions_are_told_in_one_line(trained, tmp_path):
    folder = trained()
    for keys, message in (
        ({"model": {"hidden_size": 32}}, r"^model\.hidden_size: .* was trained with 16, so 32 does not fit"),
        ({"model": {"text_config": {"encoder": "lstm"}}}, r"^model\.text_config\.encoder: .*'mamba', so 'lstm'"),
        ({"model": {"dropout": 2.0}}, r"^init_from: .* cannot be used: .*dropout"),
        ({"text_prefix": "query: "}, r"^text_prefix: .* was trained with ''\. Leave it out\.$"),
    ):
        with pytest.raises(ArgumentError, match=message) as error:
            build_model(starting_from(folder, **keys))
        assert "\n" not in str(error.value)
    with pytest.raises(ArgumentError, match=r"^text_backbone: init_from brings its own backbones\."):
        starting_from(folder, text_backbone="intfloat/e5-small")
    with pytest.raises(ArgumentError, match=r"^init_from: .*nothing is neither a folder .* bibier-tiny, which come"):
        build_model(starting_from(str(tmp_path / "nothing")))
    with pytest.raises(ArgumentError, match=r"^init_from: bibier-tny is neither .* Did you mean bibier-tiny\?$"):
        build_model(starting_from("bibier-tny"))


def test_a_run_starts_from_a_checkpoint(small_run, trained, tmp_path):
    folder = trained("first", audio_config={"backbone": None}, modalities=["text"])
    labels = list(EMOTIONS[::-1])
    run = small_run(init_from=folder, labels=labels, model={}, num_train_epochs=1)
    rows = [line for line in (tmp_path / "corpus" / "small.csv").read_text(encoding="utf-8").splitlines()]
    (tmp_path / "corpus" / "small.csv").write_text(
        "\n".join(line for line in rows if ",," not in line), encoding="utf-8"
    )
    run_training(run)
    results = RunResults.load(tmp_path / "out" / "results.json")
    assert results.config["init_from"] == "first"  # without the folders of this machine
    assert results.model["text_backbone"] == "first"
    assert results.model["modalities"] == ["text"]
    assert results.model["labels"] == labels
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "started from the checkpoint `first`" in card
    assert BiBiERForEmotionClassification.from_pretrained(tmp_path / "out").config.label_names == labels


def test_adapters_are_trained_on_the_backbone_of_a_checkpoint(trained):
    folder = trained(modalities=["text"], audio_config={"backbone": None})
    model, _, adapters = build_model(starting_from(folder, lora={"backbones": ["text"], "r": 2}))
    free = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "backbone" in name]
    assert free
    assert all("lora_" in name for name in free)
    adapters.finish()
    expected = BiBiERForEmotionClassification.from_pretrained(folder).state_dict()
    assert model.state_dict().keys() == expected.keys()
    with pytest.raises(ArgumentError, match=r"^lora\.backbones: the model does not read audio\. Leave 'audio' out\.$"):
        build_model(starting_from(folder, lora={}))


def test_a_shipped_checkpoint_is_a_start(small_run):
    """It has a speech check, whose output is not scored."""
    run = small_run(init_from="bibier-tiny", model={}, num_train_epochs=1)
    results = run_training(run)
    assert set(results.metrics) == {"dev", "test"}
    again = BiBiERForEmotionClassification.from_pretrained(run.output_dir)
    assert again.config.audio_config.backbone_stored
