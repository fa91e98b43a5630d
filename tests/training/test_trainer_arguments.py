"""Every argument of transformers' Trainer is supported in a run, or refused in one line before anything is
computed."""

import pytest
import torch
from transformers.integrations import get_available_reporting_integrations

from bibier_hf.errors import ArgumentError
from bibier_hf.training.arguments import RESERVED, TRAINING_FIELDS, run_arguments

SUPPORTED = {
    "per_device_train_batch_size": 4,
    "num_train_epochs": 1,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-6,
    "gradient_accumulation_steps": 2,
    "max_grad_norm": 0.5,
    "bf16": True,
    "activation_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "torch_empty_cache_steps": 1,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "logging_first_step": True,
    "log_on_each_node": False,
    "logging_nan_inf_filter": False,
    "log_level": "error",
    "log_level_replica": "error",
    "disable_tqdm": True,
    "report_to": "none",
    "run_name": "x",
    "project": "x",
    "trackio_space_id": "x",
    "trackio_bucket_id": "x",
    "trackio_static_space_id": "x",
    "eval_strategy": "steps",
    "eval_steps": 1,
    "eval_delay": 1,
    "per_device_eval_batch_size": 3,
    "eval_on_start": True,
    "eval_accumulation_steps": 1,
    "save_only_model": True,
    "save_strategy": "best",
    "save_steps": 1,
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "restore_callback_states_from_checkpoint": False,
    "full_determinism": True,
    "seed": 1,
    "data_seed": 3,
    "use_cpu": True,
    "dataloader_drop_last": True,
    "dataloader_num_workers": 1,
    "dataloader_pin_memory": True,
    "dataloader_persistent_workers": True,
    "dataloader_prefetch_factor": 2,
    "dataloader_multiprocessing_context": "fork",
    "ddp_find_unused_parameters": True,
    "ddp_bucket_cap_mb": 10,
    "ddp_broadcast_buffers": True,
    "ddp_static_graph": True,
    "ddp_timeout": 100,
    "skip_memory_metrics": False,
}
WITH_WORKERS = ("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context")
ELSEWHERE = {
    "fp16": "needs an accelerator",
    "tf32": "needs a GPU",
    "ddp_backend": "needs several processes",
    "torch_compile": "needs a compiler, and minutes",
    "torch_compile_backend": "as torch_compile",
    "torch_compile_mode": "as torch_compile",
}
"""What is supported, but cannot be tried here."""


@pytest.fixture(autouse=True)
def as_before():
    """Some arguments set switches of the whole process."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)


def test_every_argument_is_known_here():
    assert set(TRAINING_FIELDS) == {*SUPPORTED, *ELSEWHERE}


@pytest.mark.slow
@pytest.mark.parametrize("name", SUPPORTED)
def test_an_argument_that_is_taken_works(make_trainer, name):
    options = {name: SUPPORTED[name]}
    if name.startswith("eval_st"):
        options |= {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 1, "eval_steps": 1}
    if name in WITH_WORKERS:
        options |= {"dataloader_num_workers": 1}
    if name.endswith("_kwargs"):
        options |= {name.removesuffix("_kwargs"): True}
    trainer = make_trainer(**({"num_train_epochs": 1, "rows": 18} | options))
    trainer.train()
    assert trainer.state.best_metric is not None
    assert len(trainer.predict_logits(trainer.eval_dataset)) == 14


def test_the_last_rows_are_left_out_of_training_alone(make_trainer):
    trainer = make_trainer(rows=18, num_train_epochs=1, dataloader_drop_last=True)
    trainer.train()
    assert trainer.state.global_step == 2  # 18 rows in batches of 8
    assert len(trainer.predict_logits(trainer.eval_dataset)) == 14
    assert trainer.args.dataloader_drop_last


@pytest.mark.parametrize("name", RESERVED)
def test_an_argument_that_is_not_taken_says_why(name):
    with pytest.raises(ArgumentError, match=f"^{name}: not an option of a run; .+") as error:
        run_arguments({"corpora": [{"name": "csv"}], "output_dir": "x", name: None})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train_epochs": 0}, "num_train_epochs: Input should be greater than 0, got 0"),
        ({"max_steps": 0}, "max_steps: 0 is not allowed; it must be at least 1, or -1"),
        ({"learning_rate": -1e-4}, "learning_rate: Input should be greater than 0, got -0.0001"),
        (
            {"per_device_train_batch_size": 0},
            "per_device_train_batch_size: Input should be greater than or equal to 1",
        ),
        (
            {"gradient_accumulation_steps": 0},
            "gradient_accumulation_steps: Input should be greater than or equal to 1",
        ),
        ({"adam_beta2": 1.0}, "adam_beta2: Input should be less than 1, got 1.0"),
        ({"warmup_steps": -1}, "warmup_steps: Input should be greater than or equal to 0, got -1"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0, got -1"),
        ({"dataloader_persistent_workers": True}, "needs worker processes. Set dataloader_num_workers"),
        ({"dataloader_prefetch_factor": 2}, "needs worker processes"),
        ({"dataloader_multiprocessing_context": "spawn"}, "needs worker processes"),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant loses the gradient"),
        ({"save_only_model": True, "resume_from_checkpoint": True}, "the run cannot be resumed"),
        ({"load_best_model_at_end": False}, "must be true"),
        ({"report_to": "tensorbord"}, "report_to: 'tensorbord' is unknown. Allowed: none, "),
        ({"report_to": ["none", "nothing"]}, "report_to: "),
        ({"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 6}, "round multiple"),
    ],
    ids=str,
)
def test_values_that_would_fail_later_are_refused(options, message, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ArgumentError, match=message) as error:
        run_arguments({"corpora": [{"name": "csv"}], "output_dir": "x"} | options).training_arguments()
    assert "\n" not in str(error.value)


def test_a_back_end_of_several_processes_needs_them(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ArgumentError, match="ddp_backend: is for several processes"):
        run_arguments({"corpora": [{"name": "csv"}], "output_dir": "x", "ddp_backend": "gloo"})


@pytest.mark.skipif("tensorboard" in get_available_reporting_integrations(), reason="tensorboard is installed")
def test_a_report_that_is_not_installed_is_named():
    run = run_arguments({"corpora": [{"name": "csv"}], "output_dir": "x", "report_to": "tensorboard"})
    with pytest.raises(ArgumentError, match=r"report_to: tensorboard is not installed\. Install it \(pip install"):
        run.training_arguments()
