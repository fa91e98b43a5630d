"""Mixing samples in pairs in training: by hand, only in training, with labels, missing modalities and every
parameter."""

import pytest
import torch

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.model.losses_bibier import soft_cross_entropy
from bibier_hf.model.sequence_bibier import Mixup, masked_quantiles

from ..conftest import both, features_of, merged

OPTIONS = both(hidden_size=8) | {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
NO_DROPOUT = both(dropout=0.0) | {"dropout": 0.0, "modality_dropout": 0.0}


def small_model(*parts: dict, **options) -> BiBiERForEmotionClassification:
    torch.manual_seed(0)
    return BiBiERForEmotionClassification(
        BiBiERConfig(**merged(features_of(audio=6, text=5), OPTIONS, *parts, options))
    )


def test_sequences_by_hand():
    mixup = Mixup(2, 0.5, torch.device("cpu"))
    mixup.partner, mixup.weight = torch.tensor([1, 0]), torch.tensor([0.75, 1.0])
    x = torch.tensor([[[4.0], [8.0]], [[1.0], [99.0]]])  # the second sample has one step
    mixed, mask = mixup.sequences(x, torch.tensor([[True, True], [True, False]]))
    torch.testing.assert_close(mixed, torch.tensor([[[3.25], [6.0]], [[1.0], [0.0]]]))
    assert mask.all()


def test_the_loss_is_that_of_mixed_labels():
    model = small_model(NO_DROPOUT, mixup_alpha=0.4, unimodal_loss_weight=0.0).train()
    inputs = {"audio_features": torch.randn(4, 3, 6), "text_features": torch.randn(4, 2, 5)}
    labels = torch.tensor([0, 1, 2, 3])
    torch.manual_seed(7)
    output = model(**inputs, labels=labels)
    torch.manual_seed(7)
    mixup = Mixup(4, 0.4, torch.device("cpu"))
    one_hot = torch.nn.functional.one_hot(labels, 7).float()
    targets = mixup.weight[:, None] * one_hot + (1 - mixup.weight[:, None]) * one_hot[mixup.partner]
    torch.testing.assert_close(output.loss, soft_cross_entropy(output.logits, targets).mean())


def test_only_in_training():
    model = small_model(NO_DROPOUT, {"audio_config": {"statistics": True}}, mixup_alpha=0.4)
    inputs = {"audio_features": torch.randn(4, 3, 6), "text_features": torch.randn(4, 2, 5)}
    plain = model.eval()(**inputs).logits
    torch.testing.assert_close(model(**inputs).logits, plain)
    assert (model.train()(**inputs).logits - plain).abs().max() > 1e-3
    model.config.mixup_alpha = 0.0
    torch.testing.assert_close(model(**inputs).logits, plain)


def test_a_weight_of_one_changes_nothing(monkeypatch):
    model = small_model(NO_DROPOUT, both(statistics=True), mixup_alpha=0.4)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    inputs = {
        "audio_features": torch.randn(3, 3, 6),
        "audio_features_mask": mask,
        "text_features": torch.randn(3, 2, 5),
    }
    labels = torch.tensor([0, 1, 2])
    plain = model.eval()(**inputs, labels=labels).loss
    monkeypatch.setattr(torch, "randperm", torch.arange)  # every sample is its own partner
    torch.testing.assert_close(model.train()(**inputs, labels=labels).loss, plain)


@pytest.mark.parametrize("fusion", ["biformer", "late", "bimamba"])
def test_every_parameter_learns_with_missing_modalities(fusion: str):
    model = small_model(both(statistics=True, dropout=0.0), mixup_alpha=0.4, fusion=fusion, dropout=0.0).train()
    mask = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 0]])
    text_mask = torch.tensor([[0, 0], [1, 1], [1, 0], [0, 0]])
    inputs = {
        "audio_features": torch.randn(4, 3, 6),
        "text_features": torch.randn(4, 2, 5),
        "text_features_mask": text_mask,
    }
    model(**inputs, audio_features_mask=mask, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_precomputed_logits_are_mixed_too():
    model = small_model(NO_DROPOUT, mixup_alpha=0.4).train()
    inputs = {"audio_features": torch.randn(4, 3, 6), "text_features": torch.randn(4, 2, 5)}
    logits = torch.randn(4, 7)
    torch.manual_seed(3)
    output = model(**inputs, audio_logits=logits)
    torch.manual_seed(3)
    torch.testing.assert_close(output.audio_logits, Mixup(4, 0.4, torch.device("cpu"))(logits))


def test_a_negative_alpha_is_refused():
    with pytest.raises(ValueError, match=r"mixup_alpha=-1.*at least 0"):
        small_model(mixup_alpha=-1)


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_masked_quantiles_equal_those_of_the_kept_steps(length: int, with_gradient: bool):
    torch.manual_seed(length)
    x, levels = torch.randn(3, 7, 4, requires_grad=with_gradient), (0.0, 0.1, 0.5, 0.75, 1.0)
    mask = torch.arange(7) < torch.tensor([7, length, 0])[:, None]
    found = masked_quantiles(x, mask, levels)
    assert found.shape == (3, 5, 4)
    for row, kept in enumerate((7, length)):
        torch.testing.assert_close(found[row], torch.quantile(x[row, :kept], torch.tensor(levels), dim=0))
    assert found[2].eq(0).all()
