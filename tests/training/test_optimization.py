"""Optimisers and schedules by their published names."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from transformers import TrainingArguments

from bibier_hf import BiBiERForEmotionClassification
from bibier_hf.training.optimization import (
    OPTIMIZERS,
    SCHEDULERS,
    create_published_scheduler,
    decay_parameter_names,
    optimizer_cls_and_kwargs,
    scheduler_arguments,
)

from ..conftest import merged

LEARNING_RATE = 1e-3


@pytest.fixture
def args(tmp_path):
    return TrainingArguments(output_dir=str(tmp_path), learning_rate=LEARNING_RATE, use_cpu=True)


def small_optimizer(args, name="adamw"):
    cls, options = optimizer_cls_and_kwargs(name, args)
    return cls([torch.nn.Parameter(torch.ones(3))], **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_loss(args, name):
    optimizer = small_optimizer(args, name)
    (parameter,) = optimizer.param_groups[0]["params"]
    assert optimizer.param_groups[0]["lr"] == LEARNING_RATE
    for _ in range(3):
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step()
    assert (parameter < 1).all()


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_one_kernel_gives_the_update_of_the_loop(args, name):
    cls, options = optimizer_cls_and_kwargs(name, args)
    assert options["fused"]
    found = []
    for fused in (True, False):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 9))
        optimizer = cls([parameter], **(options | {"fused": fused, "weight_decay": 0.1}))
        for _ in range(5):
            optimizer.zero_grad()
            (parameter**3).sum().backward()
            optimizer.step()
        found.append(parameter.detach())
    torch.testing.assert_close(*found)
    assert not torch.equal(found[0], torch.linspace(-1, 1, 9))


def test_sgd_has_the_published_momentum(args):
    assert small_optimizer(args, "sgd").param_groups[0]["momentum"] == 0.9


def test_unknown_names_are_refused(args):
    with pytest.raises(ValueError, match="Unknown optimizer 'adm'"):
        optimizer_cls_and_kwargs("adm", args)
    with pytest.raises(ValueError, match="Unknown scheduler 'step'"):
        scheduler_arguments("step", warmup_given=False)


def published_rates(args, name, steps, steps_per_epoch):
    optimizer = small_optimizer(args)
    scheduler = create_published_scheduler(name, optimizer, LEARNING_RATE, steps, steps_per_epoch)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_torchs_annealing_epoch_by_epoch(args):
    epochs, steps_per_epoch = 5, 3
    optimizer = small_optimizer(args)
    reference = CosineAnnealingLR(optimizer, T_max=epochs, eta_min=1e-6)
    expected = []
    for _ in range(epochs):
        expected += [optimizer.param_groups[0]["lr"]] * steps_per_epoch
        optimizer.step()
        reference.step()
    assert published_rates(args, "cosine", epochs * steps_per_epoch, steps_per_epoch) == pytest.approx(expected)


def test_onecycle_peaks_at_the_learning_rate(args):
    rates = published_rates(args, "onecycle", 20, 5)
    assert max(rates) == pytest.approx(LEARNING_RATE)
    assert rates[0] < LEARNING_RATE / 20
    assert rates[-1] < LEARNING_RATE / 1e3
    assert isinstance(create_published_scheduler("onecycle", small_optimizer(args), LEARNING_RATE, 20, 5), OneCycleLR)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in ("cosine", "onecycle")])
def test_the_other_schedules_are_those_of_transformers(args, name):
    assert create_published_scheduler(name, small_optimizer(args), LEARNING_RATE, 10, 5) is None
    assert "lr_scheduler_type" in scheduler_arguments(name, warmup_given=False)


def test_plateau_has_the_published_options():
    assert scheduler_arguments("plateau", warmup_given=False)["lr_scheduler_kwargs"] == {
        "mode": "max",
        "factor": 0.5,
        "patience": 2,
        "min_lr": 1e-7,
    }


def test_weight_decay_spares_norms_biases_and_the_state_space(tiny_options):
    model = BiBiERForEmotionClassification.from_backbones(
        **merged(tiny_options, {"fusion": "bimamba", "audio_config": {"statistics": True}})
    )
    decayed = set(decay_parameter_names(model))
    spared = {name for name, _ in model.named_parameters()} - decayed
    for part in ("A_log", ".D", "norm.weight", "norms.0.weight", "bias", "audio.missing"):
        assert any(name.endswith(part) for name in spared), part
        assert not any(name.endswith(part) for name in decayed), part
    inside = {f"bibier.{name}.weight" for name in ("fusion.blocks.0.in_proj", "audio.encoder.input_proj")}
    assert inside | {"classifier.4.weight"} <= decayed
    own = {name for name in spared if ".backbone." not in name}
    layers = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Embedding)
    for name in own:
        module = model.get_submodule(name.rpartition(".")[0])
        assert name.endswith("bias") or not isinstance(module, layers), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_may_get_its_first_gradient_late(name):
    """As the stand-in of a modality that no early sample lacks."""
    early, late = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer_class, options = optimizer_cls_and_kwargs(name, TrainingArguments(output_dir="x", learning_rate=0.1))
    optimizer = optimizer_class([early, late], **options)
    for parameters in ([early], [early, late], [early]):
        optimizer.zero_grad()
        sum(parameter.square().sum() for parameter in parameters).backward()
        optimizer.step()
    assert (early < 1).all()
    assert (late < 1).all()
