"""The whole model: masks, missing modalities, loss, saving and loading."""

import copy
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.model.losses_bibier import soft_cross_entropy
from bibier_hf.model.modeling_bibier import BiBiERModel

from ..conftest import both, features_of, merged

SECONDS = [0.06, 20.0, 1.0, 3.3, 0.5, 7.7]
TEXTS = ["Hi!", "Не могу поверить, что это случилось!", None, "x" * 300, "So.", None]


@pytest.fixture(scope="module")
def mixed(processor: BiBiERProcessor, clip) -> tuple[dict, list[dict]]:
    """A batch of mixed lengths with missing texts and one missing clip, and the same samples one by one."""
    clips = [clip(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    clips[4] = None
    together = processor(audio=clips, text=TEXTS, sampling_rate=16_000)
    alone = [processor(audio=[a], text=[t], sampling_rate=16_000) for a, t in zip(clips, TEXTS, strict=True)]
    return together, alone


@torch.no_grad()
def test_batch_equals_one_by_one_in_any_order(model: BiBiERForEmotionClassification, mixed: tuple[dict, list[dict]]):
    together, alone = mixed
    output = model(**together)
    single = [model(**sample) for sample in alone]
    for name in ("logits", "audio_logits", "text_logits", "fused_embedding"):
        torch.testing.assert_close(output[name], torch.cat([s[name] for s in single]), atol=1e-4, rtol=0)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = model(**{key: value[order] for key, value in together.items()})
    torch.testing.assert_close(shuffled.logits, output.logits[order], atol=1e-4, rtol=0)


@torch.no_grad()
def test_more_padding_and_its_content_change_nothing(
    model: BiBiERForEmotionClassification, mixed: tuple[dict, list[dict]]
):
    together, _ = mixed
    padded = dict(together)
    padded["input_features"] = F.pad(together["input_features"], (0, 0, 0, 70), value=9.0)
    padded["audio_attention_mask"] = F.pad(together["audio_attention_mask"], (0, 70))
    padded["input_ids"] = F.pad(together["input_ids"], (0, 13), value=5)
    padded["text_attention_mask"] = F.pad(together["text_attention_mask"], (0, 13))
    torch.testing.assert_close(model(**padded).logits, model(**together).logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_features_instead_of_raw_inputs(model: BiBiERForEmotionClassification, mixed: tuple[dict, list[dict]]):
    together, _ = mixed
    audio, audio_mask = model.encode_audio(together["input_features"], together["audio_attention_mask"])
    text, text_mask = model.encode_text(together["input_ids"], together["text_attention_mask"])
    output = model(
        audio_features=audio, audio_features_mask=audio_mask, text_features=text, text_features_mask=text_mask
    )
    torch.testing.assert_close(output.logits, model(**together).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_of_features_on_the_left_or_in_between(model: BiBiERForEmotionClassification):
    features = torch.randn(1, 6, 96)
    spread = torch.randn(1, 10, 96)
    places = [1, 2, 4, 5, 8, 9]
    spread[:, places] = features
    mask = torch.zeros(1, 10)
    mask[:, places] = 1
    expected = model(audio_features=features)
    output = model(audio_features=spread, audio_features_mask=mask)
    torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 200])
def test_any_length_from_one_frame(model: BiBiERForEmotionClassification, length: int):
    output = model(audio_features=torch.randn(2, length, 96), text_features=torch.randn(2, 1, 96))
    assert output.logits.isfinite().all()


@torch.no_grad()
def test_a_missing_modality_is_the_same_however_it_is_said(model: BiBiERForEmotionClassification):
    audio = torch.randn(2, 9, 96)
    left_out = model(audio_features=audio)
    masked = model(audio_features=audio, text_features=torch.randn(2, 4, 96), text_features_mask=torch.zeros(2, 4))
    empty = model(audio_features=audio, text_features=torch.randn(2, 0, 96))
    for other in (masked, empty):
        torch.testing.assert_close(other.logits, left_out.logits, atol=1e-6, rtol=0)
        assert (other.text_logits == 0).all()
    assert left_out.text_logits is None
    with_text = model(audio_features=audio, text_features=torch.randn(2, 4, 96))
    assert (with_text.logits - left_out.logits).abs().max() > 1e-4


def test_every_parameter_gets_a_gradient(model: BiBiERForEmotionClassification, mixed: tuple[dict, list[dict]]):
    together, _ = mixed
    model.train()
    model(**together, labels=torch.tensor([0, 1, 2, 3, 4, 5])).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.bibier.text.missing.grad.abs().sum() > 0
    assert model.bibier.audio.missing.grad.abs().sum() > 0


def loss_by_hand(logits, labels, weights):
    """Sum of w_y (-log p_y), in NumPy."""
    logits = logits.detach().double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -sum(weights[y] * log_p[row, y] for row, y in enumerate(labels))


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 1.0, 0.1, 1.4, 1.0]])
def test_loss_by_hand(model: BiBiERForEmotionClassification, weights: list[float] | None):
    model.config.class_weights, model.config.unimodal_loss_weight = weights, 0.25
    labels = [6, 0, 1]
    text_mask = torch.tensor([[1, 1], [0, 0], [1, 0]])
    inputs = {
        "audio_features": torch.randn(3, 5, 96),
        "text_features": torch.randn(3, 2, 96),
        "text_features_mask": text_mask,
    }
    output = model(**inputs, labels=torch.tensor(labels))
    w = weights or [1.0] * 7
    with_text = [0, 2]
    expected = loss_by_hand(output.logits, labels, w) + 0.25 * loss_by_hand(output.audio_logits, labels, w)
    expected += 0.25 * loss_by_hand(output.text_logits[with_text], [labels[row] for row in with_text], w)
    assert output.loss.item() == pytest.approx(expected / 3, abs=1e-5)
    assert model(**inputs, labels=torch.tensor(labels), num_items_in_batch=12).loss.item() == pytest.approx(
        expected / 12, abs=1e-5
    )
    one_hot = F.one_hot(torch.tensor(labels), 7).float()
    assert model(**inputs, labels=one_hot).loss.item() == pytest.approx(expected / 3, abs=1e-5)


def test_soft_loss_by_hand():
    logits, q = torch.randn(2, 7), torch.rand(2, 7)
    q, w = q / q.sum(-1, keepdim=True), torch.rand(7)
    log_p = logits.log_softmax(-1)
    expected = torch.stack([-sum(w[c] * q[row, c] * log_p[row, c] for c in range(7)) for row in range(2)])
    torch.testing.assert_close(soft_cross_entropy(logits, q, w), expected)


def test_parts_of_a_batch_add_up_to_its_loss(model: BiBiERForEmotionClassification):
    features, labels = torch.randn(8, 5, 96), torch.randint(0, 7, (8,))
    whole = model(audio_features=features, labels=labels).loss
    parts = [
        model(audio_features=features[i : i + 3], labels=labels[i : i + 3], num_items_in_batch=8).loss
        for i in (0, 3, 6)
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_modality_dropout_hides_one_modality_and_only_in_training(model: BiBiERForEmotionClassification):
    model.config.modality_dropout = 0.5
    both = torch.ones(4000, dtype=torch.bool)
    model.train()
    keep_audio, keep_text = model.bibier._modality_dropout(both, both)
    assert (keep_audio | keep_text).all()
    assert 0.2 < (~keep_audio).float().mean() < 0.3
    assert 0.2 < (~keep_text).float().mean() < 0.3
    only_audio = model.bibier._modality_dropout(both, ~both)
    assert only_audio[0].all()
    model.eval()
    assert all(keep.all() for keep in model.bibier._modality_dropout(both, both))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "neither audio nor text"),
        ({"audio_features": torch.randn(2, 5, 95)}, r"\(batch, time, 96\)"),
        ({"audio_features": torch.randn(2, 96)}, r"\(batch, time, 96\)"),
        ({"audio_features": torch.randn(2, 5, 96), "audio_features_mask": torch.ones(2, 4)}, "audio_features_mask"),
        ({"audio_features": torch.randn(2, 5, 96), "text_features": torch.randn(3, 5, 96)}, "same samples"),
        ({"audio_features": torch.randn(2, 5, 96), "input_features": torch.randn(2, 5, 160)}, "leave one out"),
        ({"input_values": torch.randn(2, 16_000)}, "reads input_features"),
        ({"input_ids": torch.tensor([1, 2])}, "input_ids"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(model: BiBiERForEmotionClassification, inputs: dict, message: str):
    with pytest.raises(ValueError, match=message):
        model(**inputs)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 7]), "0..6"),
        (torch.tensor([0, -1]), "0..6"),
        (torch.tensor([0]), "labels have the shape"),
        (torch.tensor([0.0, 1.0]), "labels have the shape"),
        (torch.full((2, 7), 0.5), "distributions"),
        (torch.full((2, 7), float("nan")), "distributions"),
        (torch.ones(2, 6) / 6, "labels have the shape"),
    ],
)
def test_labels_that_do_not_fit_are_refused(model: BiBiERForEmotionClassification, labels: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        model(audio_features=torch.randn(2, 5, 96), labels=labels)


def test_saving_and_loading_with_the_package_needs_no_trust(
    model: BiBiERForEmotionClassification, tmp_path: Path, mixed
):
    together, _ = mixed
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is BiBiERForEmotionClassification
    with torch.no_grad():
        torch.testing.assert_close(again(**together).logits, model(**together).logits, atol=0, rtol=0)


def test_bfloat16_keeps_the_decay_in_float32(model: BiBiERForEmotionClassification, tmp_path: Path):
    model.save_pretrained(tmp_path)
    low = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    kept = {parameter.dtype for name, parameter in low.named_parameters() if name.endswith("A_log")}
    assert kept == {torch.float32}
    features = torch.randn(2, 30, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            low(audio_features=features).logits.float(), model(audio_features=features).logits, atol=0.1, rtol=0
        )


def test_frozen_backbones_are_frozen(tiny_options: dict):
    model = BiBiERForEmotionClassification.from_backbones(
        **merged(tiny_options, {"text_config": {"freeze_backbone": True}})
    )
    assert not any(parameter.requires_grad for parameter in model.bibier.text.backbone.parameters())
    assert all(parameter.requires_grad for parameter in model.bibier.audio.backbone.parameters())
    model.train()
    assert model.bibier.audio.backbone.training
    assert not model.bibier.text.backbone.training


@pytest.fixture
def hub_backbone(tmp_path: Path, tiny_options: dict) -> tuple[BiBiERForEmotionClassification, Path]:
    """A model whose frozen text backbone carries a Hub id, and the folder that stands in for it."""
    torch.manual_seed(1)
    folder = tmp_path / "backbones" / "someone" / "tiny-bert"
    config = AutoConfig.for_model(
        "bert",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=400,
        architectures=["BertModel"],
    )
    AutoModel.from_config(config).save_pretrained(folder)
    model = BiBiERForEmotionClassification.from_backbones("embedded", str(folder), **tiny_options).eval()
    part = model.config.text_config
    part.backbone_id, part.backbone_revision = "someone/tiny-bert", "abc"
    return model, tmp_path / "backbones"


def test_a_frozen_hub_backbone_stays_out_of_the_checkpoint(hub_backbone, tmp_path: Path):
    model, folder = hub_backbone
    model.save_pretrained(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    stored = [written[f"{modality}_config"]["backbone_stored"] for modality in ("text", "audio")]
    assert stored == [False, True]
    assert model.config.text_config.backbone_stored, "saving leaves the model's own configuration as it was"
    ids = torch.randint(3, 300, (2, 6))
    for backbone_dir in (folder, {"text": folder / "someone" / "tiny-bert"}):
        again = AutoModel.from_pretrained(tmp_path / "out", backbone_dir=backbone_dir)
        with torch.no_grad():
            torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits, atol=0, rtol=0)
    again.save_pretrained(tmp_path / "again")
    assert not json.loads((tmp_path / "again" / "config.json").read_text())["text_config"]["backbone_stored"]
    with pytest.raises(OSError, match=r"someone/tiny-bert.*[\s\S]*backbone_dir"):
        AutoModel.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("save_backbones", "frozen", "stored"), [("always", True, True), ("auto", False, True), ("never", True, False)]
)
def test_save_backbones(hub_backbone, tmp_path: Path, save_backbones: str, frozen: bool, stored: bool):
    model, _ = hub_backbone
    model.config.text_config.freeze_backbone = frozen
    model.config.save_backbones = save_backbones
    if save_backbones == "never":
        with pytest.raises(ValueError, match="audio backbone has no Hub id"):
            model.save_pretrained(tmp_path / "out")
        model.config.audio_config.backbone_id = "someone/speech"
    model.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]["backbone_stored"] == stored


def test_a_model_without_backbones_reads_features_only(tiny_options: dict):
    model = BiBiERForEmotionClassification(BiBiERConfig(**merged(tiny_options, features_of(audio=5, text=4)))).eval()
    assert model(audio_features=torch.randn(1, 3, 5)).logits.shape == (1, 7)
    with pytest.raises(ValueError, match="no text backbone"):
        model(input_ids=torch.tensor([[1]]))


def test_backbone_key_changes_with_weights_and_layer(model: BiBiERForEmotionClassification):
    keys = {model.backbone_key("audio"), model.backbone_key("text")}
    model.config.audio_config.layer = 1
    keys.add(model.backbone_key("audio"))
    with torch.no_grad():
        next(model.bibier.text.backbone.parameters()).add_(1)
    keys.add(model.backbone_key("text"))
    part = model.config.text_config
    part.backbone_id, part.backbone_revision = "me/text", "abc"
    assert len(keys) == 4
    assert model.backbone_key("text") == "me/text@abc#-1"


def test_torch_compile_traces_the_fusion_of_features(model: BiBiERForEmotionClassification):
    compiled = torch.compile(model, backend="eager")
    inputs = {"audio_features": torch.randn(2, 6, 96), "text_features": torch.randn(2, 3, 96)}
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)


def test_tuple_output(model: BiBiERForEmotionClassification):
    logits, audio_logits, embedding = model(audio_features=torch.randn(1, 3, 96), return_dict=False)
    assert (logits.shape, audio_logits.shape, embedding.shape) == (
        (1, 7),
        (1, 7),
        (1, model.bibier.fusion.output_size),
    )


def test_all_modality_patterns_share_a_batch(model: BiBiERForEmotionClassification):
    masks = torch.tensor(list(itertools.product([1.0, 0.0], repeat=2)))
    output = model(
        audio_features=torch.randn(4, 3, 96),
        audio_features_mask=masks[:, :1].expand(4, 3),
        text_features=torch.randn(4, 2, 96),
        text_features_mask=masks[:, 1:].expand(4, 2),
    )
    assert output.logits.isfinite().all()
    assert output.audio_logits.any(1).tolist() == [True, True, False, False]
    assert output.text_logits.any(1).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("modality", "part", "frozen"),
    [
        ("audio", "backbone", ("bibier.audio.backbone.",)),
        ("text", "encoder", ("bibier.text.encoder.", "text_head.")),
    ],
)
def test_what_is_frozen_stays_so_when_it_is_loaded(tiny_options, tmp_path, modality, part, frozen):
    options = merged(tiny_options, {f"{modality}_config": {f"freeze_{part}": True}})
    BiBiERForEmotionClassification.from_backbones(**options).save_pretrained(tmp_path)
    model = BiBiERForEmotionClassification.from_pretrained(tmp_path)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name
    model.train()
    assert not getattr(model.streams[modality], part).training
    assert model.bibier.fusion.training


def test_training_reads_a_random_window_of_long_clips_and_evaluation_all_of_them(tiny_options: dict):
    torch.manual_seed(0)
    still = both(dropout=0.0) | {"dropout": 0.0, "modality_dropout": 0.0}
    config = BiBiERConfig(**merged(tiny_options, features_of(audio=6, text=6), still))
    whole = BiBiERForEmotionClassification(config).eval()
    cropping = copy.deepcopy(whole)
    cropping.config.audio_config.crop_frames = 4
    features, text = torch.randn(3, 9, 6), torch.randn(3, 2, 6)
    mask = torch.arange(9) < torch.tensor([9, 4, 2]).unsqueeze(1)
    inputs = {"audio_features_mask": mask.long(), "text_features": text}
    with torch.no_grad():
        torch.testing.assert_close(
            cropping(audio_features=features, **inputs).logits, whole(audio_features=features, **inputs).logits
        )
        cropping.train(), whole.train()
        windows = [
            whole(audio_features=features[:1, start : start + 4], text_features=text[:1]).logits[0]
            for start in range(6)
        ]
        found = set()
        for _ in range(60):
            logits = cropping(audio_features=features, **inputs).logits
            # clips that fit into the window are read whole
            torch.testing.assert_close(
                logits[1:],
                whole(
                    audio_features=features[1:, :4], audio_features_mask=mask[1:, :4].long(), text_features=text[1:]
                ).logits,
                atol=1e-5,
                rtol=0,
            )
            found |= {start for start, window in enumerate(windows) if torch.allclose(window, logits[0], atol=1e-5)}
    assert found == set(range(6))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"audio_config": {"encoder": "transformer"}, "text_config": {"encoder": "lstm"}, "fusion": "bigatedgraph"},
        {"audio_config": {"encoder": "frame_mlp"}, "text_config": {"encoder": "mamba"}, "fusion": "bimamba"},
    ],
    ids=str,
)
def test_checkpointed_activations_change_no_gradient(tiny_options, processor, clip, options):
    """Layers of encoders, fusion and trained backbones run a second time in the backward pass, with equal dropout."""
    found = []
    batch = processor(audio=[clip(0.4), clip(0.9)], text=["one", "a few more words"], sampling_rate=16_000)
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = BiBiERForEmotionClassification.from_backbones(**merged(tiny_options, options)).train()
        if checkpointed:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        calls = Counter()
        layers = {
            "encoder": model.bibier.audio.encoder.layers[0],
            "backbone": next(
                module for name, module in model.bibier.audio.backbone.named_modules() if name.endswith("layers.0")
            ),
        }
        for name, layer in layers.items():
            first = next(layer.children())  # later ones may not be needed a second time
            first.register_forward_hook(lambda *_, name=name, calls=calls: calls.update([name]))
        torch.manual_seed(1)
        model(**batch, labels=torch.tensor([1, 2])).loss.backward()
        found.append({name: value.grad for name, value in model.named_parameters()})
        assert calls == dict.fromkeys(layers, 2 if checkpointed else 1)
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_original_mode_gives_the_same_from_stored_features_as_from_raw_text(tiny_options: dict):
    torch.manual_seed(0)
    model = BiBiERForEmotionClassification.from_backbones(
        **merged(tiny_options, {"text_config": {"max_tokens": 30}}), original_behavior=True
    ).eval()
    ids = torch.randint(3, 200, (1, 9))
    with torch.no_grad():
        features, mask = model.encode_text(ids)
        raw = model(input_ids=ids)
        stored = model(text_features=features, text_features_mask=mask)
    torch.testing.assert_close(stored.logits, raw.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(stored.text_logits, raw.text_logits, atol=1e-6, rtol=0)


def test_a_plain_trainer_scores_the_fused_logits_and_its_checkpoint_loads(tmp_path: Path, tiny_options: dict):
    model = BiBiERForEmotionClassification.from_backbones(**tiny_options)
    rows = [{"audio_features": torch.randn(5, 96), "text_features": torch.randn(4, 96), "labels": 2}] * 3
    shapes = []
    trainer = Trainer(
        model=model,
        args=TrainingArguments(tmp_path / "run", use_cpu=True, max_steps=1, report_to=[], disable_tqdm=True),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=lambda prediction: shapes.append(prediction.predictions.shape) or {},
    )
    trainer.train()
    trainer.evaluate()
    assert shapes == [(3, 7)]
    trainer.save_model(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again.classifier[-1].weight, model.classifier[-1].weight, atol=0, rtol=0)


@torch.no_grad()
def test_a_model_without_options_is_the_embedded_pair():
    model = BiBiERForEmotionClassification(BiBiERConfig()).eval()
    assert model(audio_features=torch.randn(2, 5, 96), text_features=torch.randn(2, 3, 96)).logits.shape == (2, 7)


def recorded_model(audio: str, text: str, fusion: str, **options) -> BiBiERForEmotionClassification:
    """Over features of width 6 and 5; 2 audio blocks of width 8, 1 text block of width 12, 2 fusion layers of width
    16."""
    torch.manual_seed(0)
    encoders = {
        "audio_config": {"encoder": audio, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4},
        "text_config": {"encoder": text, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3},
    }
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "classifier_size": 8, "seg_len": 5}
    config = BiBiERConfig(**merged(features_of(audio=6, text=5), encoders, sizes, options), fusion=fusion)
    return BiBiERForEmotionClassification(config).eval()


def mixed_features() -> dict[str, torch.Tensor]:
    """Three samples of 7 frames and 4 tokens at most, with padding."""
    torch.manual_seed(1)
    return {
        "audio_features": torch.randn(3, 7, 6),
        "audio_features_mask": (torch.arange(7) < torch.tensor([7, 5, 1])[:, None]).long(),
        "text_features": torch.randn(3, 4, 5),
        "text_features_mask": (torch.arange(4) < torch.tensor([2, 4, 3])[:, None]).long(),
    }


FUSION_STATES = {"biformer": 2 * [(3, 7, 16), (3, 4, 16)], "bimamba": 2 * [(3, 4, 16)], "late": []}
FUSION_ATTENTIONS = {"biformer": 2 * [(3, 2, 7, 4), (3, 2, 4, 7)], "bimamba": [], "late": []}


@pytest.mark.parametrize("fusion", FUSION_STATES)
@pytest.mark.parametrize(
    ("audio", "text"),
    [("mamba", "transformer"), ("transformer", "lstm"), ("frame_mlp", "mamba"), ("lstm", "frame_mlp")],
)
@torch.no_grad()
def test_hidden_states_and_attentions_of_every_encoder_and_fusion(audio: str, text: str, fusion: str):
    model, inputs = recorded_model(audio, text, fusion), mixed_features()
    plain = model(**inputs)
    assert plain.hidden_states is None
    assert plain.attentions is None
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(output.logits, plain.logits, atol=1e-5, rtol=0)
    assert [tuple(state.shape) for state in output.hidden_states] == (
        3 * [(3, 7, 8)] + 2 * [(3, 4, 12)] + FUSION_STATES[fusion]
    )
    self_attentions = 2 * [(3, 4, 7, 7)] * (audio == "transformer") + [(3, 3, 4, 4)] * (text == "transformer")
    assert [tuple(weights.shape) for weights in output.attentions] == self_attentions + FUSION_ATTENTIONS[fusion]

    masks = {7: inputs["audio_features_mask"].bool(), 4: inputs["text_features_mask"].bool()}
    for weights in output.attentions:
        queries, keys = masks[weights.shape[2]], masks[weights.shape[3]]
        rows = weights.transpose(1, 2)[queries]  # (kept queries, heads, keys)
        torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:2]))
        assert not weights.transpose(1, 3)[~keys].any(), "weight on padding"

    base = model.bibier(**inputs, output_hidden_states=True)
    assert len(base.hidden_states) == len(output.hidden_states)
    assert base.attentions is None


@pytest.mark.parametrize(("encoder", "fusion"), [("transformer", "late"), ("mamba", "biformer")])
def test_the_result_has_gradients_of_recorded_states_and_attentions(encoder: str, fusion: str):
    """With padding, too, where states are packed on the way."""
    model = recorded_model(encoder, encoder, fusion)
    output = model(**mixed_features(), output_hidden_states=True, output_attentions=True)
    recorded = output.hidden_states[:-2] + output.attentions
    gradients = torch.autograd.grad(output.logits.square().sum(), recorded, allow_unused=True)
    assert all(gradient is not None for gradient in gradients)


def test_the_main_input_is_what_the_first_modality_reads():
    backbones = {"audio_config": {"hidden_size": 16}, "text_config": {"hidden_size": 16}}
    assert BiBiERForEmotionClassification(BiBiERConfig(**backbones)).main_input_name == "input_features"
    assert BiBiERModel(BiBiERConfig(modalities=["text"])).main_input_name == "input_ids"
    assert BiBiERModel(BiBiERConfig(**features_of(audio=6, text=8))).main_input_name == "audio_features"


@torch.no_grad()
def test_the_attention_that_is_returned_is_the_one_that_is_used():
    """The first cross-modal layer by hand, from the weights that are returned."""
    model, inputs = recorded_model("mamba", "mamba", "biformer"), mixed_features()
    layer = model.bibier.fusion.cross_modal.audio_layers[0]
    found = {}
    layer.register_forward_hook(lambda module, args, output: found.update(text=args[2], steps=args[3], own=args[1]))
    layer.attention.out_proj.register_forward_hook(lambda module, args, output: found.update(attended=args[0]))
    weights = model(**inputs, output_attentions=True).attentions[0]
    size = layer.attention.embed_dim
    text = found["steps"].unpack(found["text"])
    value = F.linear(text, layer.attention.in_proj_weight[2 * size :], layer.attention.in_proj_bias[2 * size :])
    expected = (weights @ value.unflatten(-1, (2, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
    attended = found["own"].unpack(found["attended"])
    kept = inputs["audio_features_mask"].bool()
    torch.testing.assert_close(attended[kept], expected[kept], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_configuration_can_ask_for_states_and_attentions():
    wanted = {"output_hidden_states": True, "output_attentions": True}
    model, inputs = recorded_model("mamba", "transformer", "biformer", **wanted), mixed_features()
    output = model(**inputs)
    assert (len(output.hidden_states), len(output.attentions)) == (9, 5)
    assert model(**inputs, output_hidden_states=False).hidden_states is None


@pytest.mark.parametrize(("wanted", "kept"), [(0, [0]), (1, [1]), ([0, -1], [0, 8]), ([], []), ([99], [])])
@torch.no_grad()
def test_single_hidden_states_can_be_asked_for(wanted: int | list[int], kept: list[int]):
    model, inputs = recorded_model("mamba", "mamba", "biformer"), mixed_features()
    every = model(**inputs, output_hidden_states=True).hidden_states
    found = model(**inputs, output_hidden_states=wanted).hidden_states
    assert [index for index, state in enumerate(found) if state is not None] == kept
    for index in kept:
        torch.testing.assert_close(found[index], every[index])


@torch.no_grad()
def test_a_missing_modality_has_no_states_of_its_encoder_but_takes_part_in_the_fusion():
    model, inputs = recorded_model("transformer", "transformer", "biformer"), mixed_features()
    audio = {name: value for name, value in inputs.items() if name.startswith("audio")}
    output = model(**audio, output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.hidden_states] == 3 * [(3, 7, 8)] + 2 * [(3, 7, 16), (3, 1, 16)]
    assert [tuple(weights.shape) for weights in output.attentions[2:]] == 2 * [(3, 2, 7, 1), (3, 2, 1, 7)]


@torch.no_grad()
def test_a_plain_tuple_has_what_the_output_has():
    model, inputs = recorded_model("mamba", "mamba", "biformer"), mixed_features()
    for part in (model, model.bibier):
        found = part(**inputs, output_hidden_states=True, return_dict=False)
        expected = part(**inputs, output_hidden_states=True).to_tuple()
        assert type(found) is tuple
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_input_embeddings_are_those_of_the_text_backbone(model: BiBiERForEmotionClassification):
    ids = torch.tensor([[5, 6, 7]])
    assert model.get_input_embeddings() is model.bibier.text.backbone.get_input_embeddings()
    assert model.bibier.get_input_embeddings() is model.get_input_embeddings()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        larger = model.resize_token_embeddings(400)
        assert larger.weight.shape == (400, 96)
        assert model.get_input_embeddings() is larger
        assert model.config.get_text_config().vocab_size == 400
        torch.testing.assert_close(model(input_ids=ids).logits, before)
        model.set_input_embeddings(torch.nn.Embedding(400, 96))
        assert (model(input_ids=ids).logits - before).abs().max() > 1e-5


def test_another_vocabulary_is_that_of_the_model_that_is_built(tiny_options: dict, tmp_path: Path):
    config = BiBiERConfig(**tiny_options)
    config.get_text_config().vocab_size = 390
    model = BiBiERForEmotionClassification(config)
    assert model.get_input_embeddings().weight.shape[0] == 390
    model.resize_token_embeddings(400)
    model.save_pretrained(tmp_path)
    again = BiBiERForEmotionClassification.from_pretrained(tmp_path)
    assert again.get_input_embeddings().weight.shape[0] == again.config.get_text_config().vocab_size == 400


def test_a_model_without_a_text_backbone_has_no_input_embeddings():
    model = recorded_model("mamba", "mamba", "late")
    with pytest.raises(NotImplementedError, match="no text backbone"):
        model.get_input_embeddings()
    with pytest.raises(NotImplementedError, match="no text backbone"):
        model.set_input_embeddings(torch.nn.Embedding(3, 5))


@torch.no_grad()
def test_the_base_model_reads_a_checkpoint_of_the_classifier(
    model: BiBiERForEmotionClassification, mixed: tuple[dict, list[dict]], tmp_path: Path
):
    together, _ = mixed
    model.save_pretrained(tmp_path / "classifier")
    base = BiBiERModel.from_pretrained(tmp_path / "classifier").eval()
    expected, output = model.bibier(**together), base(**together)
    for name in ("fused_embedding", "audio_frames", "audio_mask", "text_frames", "text_mask"):
        torch.testing.assert_close(output[name], expected[name], atol=0, rtol=0)
    torch.testing.assert_close(output.fused_embedding, model(**together).fused_embedding, atol=0, rtol=0)
    assert output.audio_mask.dtype == torch.long, "outputs are compared by subtraction"
    base.save_pretrained(tmp_path / "base")
    again = BiBiERModel.from_pretrained(tmp_path / "base").eval()
    torch.testing.assert_close(again(**together).fused_embedding, output.fused_embedding, atol=0, rtol=0)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    ("audio", "text", "fusion"), [("mamba", "transformer", "bigatedgraph"), ("lstm", "frame_mlp", "bimamba")]
)
def test_gradient_checkpointing_changes_no_gradient(audio: str, text: str, fusion: str, reentrant: bool):
    model = recorded_model(audio, text, fusion, modality_dropout=0.2).train()
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    losses = []
    for one in (model, checkpointed):
        torch.manual_seed(2)  # the dropout, too
        output = one(**mixed_features(), labels=torch.tensor([0, 3, 6]), output_attentions=True)
        output.loss.backward()
        losses.append(output.loss)
    assert any(getattr(module, "gradient_checkpointing", False) for module in checkpointed.modules())
    torch.testing.assert_close(losses[1], losses[0], atol=0, rtol=0)
    for (name, parameter), other in zip(model.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, atol=1e-6, rtol=1e-5, msg=name)
