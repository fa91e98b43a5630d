"""LoRA on the backbones from the run file: trained, saved in both forms, loaded in a clean process, compared."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperConfig, WhisperModel

from bibier_hf import EMOTIONS, BiBiERForEmotionClassification
from bibier_hf.commands.adapt import AdaptArguments, run_adaptation
from bibier_hf.commands.evaluate import EvaluateArguments, evaluate_checkpoint
from bibier_hf.errors import ArgumentError
from bibier_hf.model.backbones_bibier import load_backbone
from bibier_hf.training.lora import as_adapter
from bibier_hf.training.run import run_training

from ..conftest import both, merged


def test_merged_and_adapter_predict_what_was_trained(small_run, backbones, tmp_path, about):
    predictions, adapted = {}, {}
    for save in ("merged", "adapter"):
        run = small_run(
            **backbones,
            lora={"r": 4, "alpha": 32.0, "save": save, "targets": ["q_proj", "query"]},
            num_train_epochs=2,
            output_dir=str(tmp_path / save),
        )
        results = run_training(run)
        assert results.model["audio_backbone_training"] == "LoRA, rank 4"
        folder = Path(run.output_dir)
        again = evaluate_checkpoint(
            EvaluateArguments.from_command_line([run.output_dir, "--output_dir", str(tmp_path / f"{save}-scores")])
        )
        assert again.metrics["test"] == about(results.metrics["test"])
        trained, loaded = (
            pq.read_table(path / "predictions_test.parquet") for path in (folder, tmp_path / f"{save}-scores")
        )
        predictions[save] = torch.tensor([trained[f"p_{name}"].to_pylist() for name in EMOTIONS])
        torch.testing.assert_close(
            torch.tensor([loaded[f"p_{name}"].to_pylist() for name in EMOTIONS]), predictions[save], atol=1e-5, rtol=0
        )
        few = [run.output_dir, str(run.corpora[0].data_dir), "--output_dir", str(tmp_path / f"{save}-few")]
        run_adaptation(AdaptArguments.from_command_line(few))
        adapted[save] = BiBiERForEmotionClassification.from_pretrained(tmp_path / f"{save}-few").eval()
    torch.testing.assert_close(predictions["merged"], predictions["adapter"])
    sample = {"input_values": torch.randn(2, 8_000), "input_ids": torch.randint(3, 300, (2, 12))}
    with torch.no_grad():
        states = [model.bibier(**sample).fused_embedding for model in adapted.values()]
        answers = [model(**sample).logits.softmax(-1) for model in adapted.values()]
    torch.testing.assert_close(*states, atol=1e-4, rtol=0)
    torch.testing.assert_close(*answers, atol=0.02, rtol=0)
    assert (tmp_path / "adapter-few" / "audio_adapter").is_dir()

    base = load_file(Path(backbones["audio_backbone"]) / "model.safetensors")
    weight = "encoder.layers.0.attention.q_proj.weight"
    merged, beside = (load_file(tmp_path / save / "model.safetensors") for save in ("merged", "adapter"))
    assert merged.keys() == beside.keys()
    assert not torch.equal(merged[f"bibier.audio.backbone.{weight}"], base[weight])
    assert torch.equal(beside[f"bibier.audio.backbone.{weight}"], base[weight])
    adapter = load_file(tmp_path / "adapter" / "audio_adapter" / "adapter_model.safetensors")
    assert all(value.abs().max() > 0 for value in adapter.values())
    assert not (tmp_path / "merged" / "audio_adapter").exists()
    for path in (*(tmp_path / "adapter").glob("*.json"), *(tmp_path / "adapter" / "audio_adapter").glob("*.json")):
        assert str(tmp_path.parent) not in path.read_text(), path


def test_an_adapter_loads_without_the_package_and_survives_saving_again(small_run, backbones, tmp_path):
    run = small_run(**backbones, lora={"backbones": ["text"], "save": "adapter"}, num_train_epochs=1)
    run_training(run)
    code = """
import json, sys
class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "bibier_hf":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoPackage())
import torch
from transformers import AutoModel, AutoProcessor
folder, again = sys.argv[1:]
answers = []
for _ in range(2):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
    answers.append(model(**processor(text="What a day")).logits[0].tolist())
    model.save_pretrained(again)
    folder = again
print(json.dumps(answers))
"""
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", code, run.output_dir, str(tmp_path / "again")]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = json.loads(done.stdout.splitlines()[-1])
    assert first == second
    model = BiBiERForEmotionClassification.from_pretrained(run.output_dir)
    assert any("lora_" in name for name, _ in model.bibier.text.backbone.named_parameters())
    assert not any("lora_" in name for name, _ in model.bibier.audio.backbone.named_parameters())


def test_only_adapters_and_heads_are_trained(small_run, backbones):
    run = small_run(**backbones, lora={}, num_train_epochs=1)
    results = run_training(run)
    checkpoint = next(Path(run.output_dir).glob("checkpoint-*"))
    weights = load_file(checkpoint / "model.safetensors")
    base = load_file(Path(backbones["text_backbone"]) / "model.safetensors")
    prefix = "bibier.text.backbone."
    inside = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    assert any(".lora_A." in key and "intermediate.dense" in key for key in inside)
    for key, value in inside.items():
        if ".lora_" not in key:
            assert torch.equal(value, base[key.replace(".base_layer.", ".")]), key
    assert 0 < results.model["trained_parameters"] < results.model["parameters"]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(small_run, backbones, tmp_path):
    whole = small_run(**backbones, lora={"r": 2}, num_train_epochs=2, output_dir=str(tmp_path / "whole"))
    run_training(whole)
    part = small_run(**backbones, lora={"r": 2}, num_train_epochs=2, output_dir=str(tmp_path / "part"))
    run_training(part)
    # as if killed after the first epoch
    for path in Path(part.output_dir).iterdir():
        if path.name in ("results.json", "model.safetensors", "checkpoint-4"):
            path.unlink() if path.is_file() else subprocess.run(["rm", "-r", str(path)], check=True)
    resumed = small_run(
        **backbones, lora={"r": 2}, num_train_epochs=2, output_dir=str(tmp_path / "part"), resume_from_checkpoint=True
    )
    run_training(resumed)
    assert (tmp_path / "part" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_backbone": "embedded", "lora": {}}, "the embedded audio backbone is trained from scratch"),
        (
            {"lora": {"targets": ["no_such_layer"]}},
            r"lora\.targets: \['no_such_layer'\] does not fit .* linear layers are .*q_proj",
        ),
    ],
)
def test_adapters_that_do_not_fit_are_named(small_run, backbones, options, message):
    with pytest.raises(ArgumentError, match=message):
        run_training(small_run(**(backbones | options)))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"lora": {"r": 4}}, {}], ids=["lora", "trained"])
def test_checkpointed_activations_end_in_the_same_weights(small_run, backbones, tmp_path, options):
    content = {**backbones, **options, "num_train_epochs": 1, "optimizer": "sgd"}
    content["model"] = merged(small_run().model, both(freeze_backbone=False))
    weights = []
    for checkpointed in (False, True):
        run = small_run(**content, gradient_checkpointing=checkpointed, output_dir=str(tmp_path / str(checkpointed)))
        run_training(run)
        weights.append(load_file(Path(run.output_dir) / "model.safetensors"))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6)


def test_what_training_changed_becomes_an_adapter(backbones):
    """An adapter of full rank answers as the trained backbone does; one of half the rank holds a part of the
    change."""
    torch.manual_seed(0)
    published = backbones["text_backbone"]
    trained = load_backbone(published).eval()
    for module in trained.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.1)
            torch.nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, mean=1, std=0.1)
            torch.nn.init.normal_(module.bias, std=0.1)
    ids = torch.tensor([[40, 50, 60, 70]])
    with torch.no_grad():
        expected = trained(ids).last_hidden_state
        adapted, share = as_adapter(trained, load_backbone(published).eval(), 512)
        assert adapted._hf_peft_config_loaded
        torch.testing.assert_close(adapted.eval()(ids).last_hidden_state, expected, atol=1e-4, rtol=1e-4)
        assert share == pytest.approx(1, abs=1e-6)

        cut, share = as_adapter(trained, load_backbone(published).eval(), 8)
        assert 0.1 < share < 0.95
        assert not torch.allclose(cut.eval()(ids).last_hidden_state, expected, atol=1e-3)

    with pytest.raises(ArgumentError, match="training did not change the backbone"):
        as_adapter(load_backbone(published), load_backbone(published), 8)
    other = load_backbone(backbones["audio_backbone"])
    with pytest.raises(ArgumentError, match="has no layer like"):
        as_adapter(trained, other, 8)


@pytest.mark.filterwarnings("ignore:.*lora_bias=True.*")
def test_layers_without_a_bias_become_an_adapter():
    """Whisper's keys have none."""
    small = {
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_attention_heads": 2,
    }
    config = WhisperConfig(**small, num_mel_bins=8, max_source_positions=20)
    torch.manual_seed(0)
    trained, published = (WhisperModel(config).encoder.eval() for _ in range(2))
    for name, parameter in published.named_parameters():
        if "layers" not in name:
            parameter.data = trained.get_parameter(name).data.clone()
    trained.layer_norm.load_state_dict(published.layer_norm.state_dict())

    frames = torch.randn(1, 8, 40)
    with torch.no_grad():
        expected = trained(frames).last_hidden_state
        adapted, share = as_adapter(trained, published, 16)
        torch.testing.assert_close(adapted.eval()(frames).last_hidden_state, expected, atol=1e-4, rtol=1e-4)
    assert share == pytest.approx(1, abs=1e-6)
