"""The model in the hands of other libraries: peft, accelerate, the Trainer, multiprocessing, the compiler, half
precision."""

import copy
import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoFeatureExtractor, AutoModel, AutoTokenizer, Trainer, TrainingArguments

from bibier_hf import (
    AudioTextEmotionPipeline,
    BiBiERConfig,
    BiBiERForEmotionClassification,
    BiBiERModel,
    BiBiERProcessor,
)
from bibier_hf.model.configuration_bibier import ENCODERS, FUSIONS
from bibier_hf.model.validation_bibier import CheckpointError

from ..conftest import TINY, both, merged


def build(encoder: str = "mamba", fusion: str = "biformer", **options: Any) -> BiBiERForEmotionClassification:
    """A tiny model over the embedded pair; the same at every call."""
    torch.manual_seed(0)
    config = BiBiERConfig(**merged(TINY, both(encoder=encoder), {"fusion": fusion}, options))
    return BiBiERForEmotionClassification(config).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Two clips of different lengths, with text."""
    generator = torch.Generator().manual_seed(0)
    return {
        "input_features": torch.randn(2, 20, 160, generator=generator),
        "audio_attention_mask": (torch.arange(20) < torch.tensor([[20], [11]])).long(),
        "input_ids": torch.randint(3, 250, (2, 9), generator=generator),
        "text_attention_mask": (torch.arange(9) < torch.tensor([[4], [9]])).long(),
        "labels": torch.tensor([1, 2]),
    }


@pytest.mark.parametrize(
    ("encoder", "fusion"),
    [("mamba", "bimamba"), ("transformer", "biformer"), ("lstm", "bigatedgraph"), ("frame_mlp", "late")],
)
def test_lora_on_every_linear_layer(encoder: str, fusion: str, batch: dict[str, torch.Tensor], tmp_path: Path):
    """Trains, is saved and loaded by peft, and merged into a checkpoint of this package."""
    lora = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(build(encoder, fusion), lora)
    model(**batch).loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) > 20
    assert all(p.grad is not None for p in trained.values())

    model.eval()
    with torch.no_grad():
        expected = model(**batch).logits
        assert (expected - build(encoder, fusion)(**batch).logits).abs().max() > 1e-3
        model.save_pretrained(tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(build(encoder, fusion), tmp_path / "adapter").eval()
        torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-5, rtol=0)

        model.merge_and_unload().save_pretrained(tmp_path / "merged")
        merged_model = BiBiERForEmotionClassification.from_pretrained(tmp_path / "merged").eval()
        torch.testing.assert_close(merged_model(**batch).logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_half_precision_on_a_cpu(encoder: str, fusion: str, batch: dict[str, torch.Tensor]):
    expected = build(encoder, fusion)(**batch)
    for dtype, allowed in ((torch.float16, 0.03), (torch.bfloat16, 0.25)):
        model = build(encoder, fusion).to(dtype)
        output = model(**batch | {"input_features": batch["input_features"].to(dtype)})
        if (encoder, fusion) != ("none", "late"):  # which has no weights to compute logits from raw inputs
            assert output.logits.dtype == dtype
        torch.testing.assert_close(output.logits.float(), expected.logits, atol=allowed, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_half_precision_with_the_published_defects(fusion: str, batch: dict[str, torch.Tensor]):
    """Some of them amplify rounding, so the comparison is in float16 alone."""
    expected = build("lstm", fusion, original_behavior=True)(**batch)
    for dtype in (torch.float16, torch.bfloat16):
        output = build("lstm", fusion, original_behavior=True).to(dtype)(**batch)
        assert output.logits.isfinite().all()
        if dtype == torch.float16:
            torch.testing.assert_close(output.logits.float(), expected.logits, atol=0.03, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "allowed"), [("float16", 5e-3), ("bfloat16", 3e-2)])
def test_loading_in_half_precision(dtype: str, allowed: float, batch: dict[str, torch.Tensor], tmp_path: Path):
    build().save_pretrained(tmp_path)
    model = BiBiERForEmotionClassification.from_pretrained(tmp_path, dtype=dtype).eval()
    assert model.dtype == getattr(torch, dtype)
    rates = {p.dtype for name, p in model.named_parameters() if name.endswith("A_log")}
    assert rates == {torch.float32}, "decay rates lose too much in 16 bits"
    torch.testing.assert_close(model(**batch).logits.float(), build()(**batch).logits, atol=allowed, rtol=0)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("encoder", "fusion"), [("mamba", "bimamba"), ("transformer", "biformer"), ("lstm", "late")])
def test_compiled(encoder: str, fusion: str, batch: dict[str, torch.Tensor]):
    model = build(encoder, fusion)
    torch.testing.assert_close(torch.compile(model)(**batch).logits, model(**batch).logits, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_shards_and_device_maps(device_map: Any, batch: dict[str, torch.Tensor], tmp_path: Path):
    build().save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    model = BiBiERForEmotionClassification.from_pretrained(tmp_path, device_map=device_map).eval()
    torch.testing.assert_close(model(**batch).logits, build()(**batch).logits, atol=0, rtol=0)


@torch.no_grad()
def test_a_deep_copy_is_a_model_of_its_own(batch: dict[str, torch.Tensor]):
    model = build()
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(**batch).logits, model(**batch).logits, atol=0, rtol=0)
    copied.classifier[-1].bias += 1
    torch.testing.assert_close(copied(**batch).logits, model(**batch).logits + 1)


def _scores(pipe: AudioTextEmotionPipeline, text: str) -> list[dict[str, Any]]:
    return pipe({"text": text})


@pytest.mark.slow
def test_a_pipeline_is_sent_to_another_process(processor: BiBiERProcessor, about):
    pipe = AudioTextEmotionPipeline(model=build(), processor=processor)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_scores, (pipe, "I cannot believe it!")) == about(pipe({"text": "I cannot believe it!"}))


def test_the_trainer_of_transformers(batch: dict[str, torch.Tensor], processor: BiBiERProcessor, tmp_path: Path):
    """Trains, evaluates, counts tokens, saves, resumes; what it saves can be loaded by the Auto classes."""
    rows = [{name: tensor[index] for name, tensor in batch.items()} for index in (0, 1)] * 4
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to="none",
        include_num_input_tokens_seen="all",
        disable_tqdm=True,
    )
    model = build()
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=processor)
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))
    trainer.save_model(tmp_path / "trained")

    loaded = AutoModel.from_pretrained(tmp_path / "trained").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model.eval()(**batch).logits, atol=0, rtol=0)
    assert type(BiBiERProcessor.from_pretrained(tmp_path / "trained")) is BiBiERProcessor

    arguments.max_steps = 3
    again = Trainer(build(), arguments, train_dataset=rows, eval_dataset=rows, processing_class=processor)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.state.global_step == 3


def test_the_parts_of_a_processor_load_by_themselves(checkpoint: Path, processor: BiBiERProcessor):
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    assert extractor.to_dict() == processor.feature_extractor.to_dict()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer("Не могу!").input_ids == processor.tokenizer("Не могу!").input_ids


def test_resized_token_embeddings(batch: dict[str, torch.Tensor], tmp_path: Path):
    """Every configuration says the new number, before and after saving; old tokens are as they were."""
    model = build()
    model.resize_token_embeddings(400)
    model.save_pretrained(tmp_path)
    loaded = BiBiERForEmotionClassification.from_pretrained(tmp_path).eval()
    for one in (model, loaded):
        text, backbone = one.config.text_config, one.bibier.text.backbone
        assert [text.vocab_size, text.backbone.vocab_size, backbone.config.vocab_size] == [400, 400, 400]
        assert one.get_input_embeddings().weight.shape == (400, 96)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, build()(**batch).logits, atol=1e-5, rtol=0)
        loaded(**batch | {"input_ids": batch["input_ids"] + 149})


def test_token_embeddings_that_would_not_be_saved_are_not_resized():
    """A frozen backbone that the checkpoint only names."""
    model = build(text_config={"backbone_id": "someone/bert", "freeze_backbone": True})
    with pytest.raises(ValueError, match="save_backbones='always'"):
        model.resize_token_embeddings(400)
    model.config.save_backbones = "always"
    assert model.resize_token_embeddings(400).weight.shape[0] == 400


@torch.no_grad()
@pytest.mark.parametrize("loader", [BiBiERForEmotionClassification, AutoModel])
def test_classifiers_over_a_base_model_are_new(
    loader: Any, batch: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """As transformers does it: with a warning that names them."""
    model = build()
    model.bibier.save_pretrained(tmp_path)
    monitored = logging.getLogger("transformers")
    monitored.addHandler(caplog.handler)
    try:
        loaded = loader.from_pretrained(tmp_path).eval()
    finally:
        monitored.removeHandler(caplog.handler)
    assert type(loaded) is BiBiERForEmotionClassification
    assert "newly initialized" in caplog.text
    assert "audio_head.linear.weight" in caplog.text
    output, expected = loaded(**batch), model(**batch)
    torch.testing.assert_close(output.fused_embedding, expected.fused_embedding, atol=0, rtol=0)
    assert output.logits.isfinite().all()

    loaded.save_pretrained(tmp_path / "classifier")
    again = loader.from_pretrained(tmp_path / "classifier").eval()
    torch.testing.assert_close(again(**batch).logits, output.logits, atol=0, rtol=0)


def test_a_classifier_without_its_weights_stays_an_error(tmp_path: Path):
    """The configuration says which of the two a checkpoint is."""
    build().bibier.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = [BiBiERForEmotionClassification.__name__]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"missing: audio_head\.linear\.bias"):
        BiBiERForEmotionClassification.from_pretrained(tmp_path)
    BiBiERModel.from_pretrained(tmp_path)
