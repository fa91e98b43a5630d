"""The trainer: what a step is worth, what is selected, and that a resumed run is the run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from bibier_hf.evaluation.metrics import METRICS
from bibier_hf.training.checkpoints import STAGING_FOLDER, list_checkpoints
from bibier_hf.training.trainer import BiBiERTrainer

from ..conftest import both


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_equal(left, right, **tolerance):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(
            left[name],
            right[name],
            **(tolerance or {"rtol": 0, "atol": 0}),
            msg=lambda text, name=name: f"{name}: {text}",
        )


class StopAt(TrainerCallback):
    """Ends training after a step as a kill would: nothing is closed."""

    class Killed(Exception):
        pass

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise self.Killed


@pytest.mark.parametrize("soft_labels", [False, True])
@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (2, 4)])
def test_accumulated_steps_equal_one_large_batch(make_trainer, tmp_path, soft_labels, batch, accumulation):
    # 22 rows: the last step of an epoch has 6 samples, of a whole batch or of fewer accumulated ones
    options = {"rows": 22, "soft_labels": soft_labels, "num_train_epochs": 1, "optimizer": "sgd", "scheduler": "none"}
    options["max_grad_norm"] = 0.0  # clipping would hide gradients of the wrong size
    whole = make_trainer(per_device_train_batch_size=8, **options)
    parts = make_trainer(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        output_dir=str(tmp_path / "parts"),
        **options,
    )
    whole.train()
    parts.train()
    assert whole.state.global_step == parts.state.global_step == 3
    assert_equal(weights(whole.model), weights(parts.model), rtol=1e-4, atol=1e-6)


def test_the_loss_is_divided_by_samples_not_by_numbers_in_soft_labels(make_trainer):
    trainer = make_trainer(soft_labels=True)
    batches = [{"labels": torch.zeros(3, 7)}, {"labels": torch.zeros(2, 7)}]
    assert trainer._get_num_items_in_batch(batches, torch.device("cpu")) == 5
    assert trainer._get_num_items_in_batch([{"labels": torch.zeros(4, dtype=torch.long)}], torch.device("cpu")) == 4
    assert trainer._get_num_items_in_batch([{"audio_features": torch.zeros(1)}], torch.device("cpu")) is None


def test_training_learns_and_selects_by_the_mean_over_corpora(make_trainer):
    trainer = make_trainer(num_train_epochs=15)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_score"] > before["eval_score"] + 0.3
    assert after["eval_score"] == pytest.approx(trainer.state.best_metric)
    for name in METRICS:
        assert after[f"eval_{name}"] == pytest.approx((after[f"eval_a_{name}"] + after[f"eval_b_{name}"]) / 2)
        assert f"eval_ru_{name}" in after
    assert after["eval_score"] == pytest.approx(np.mean([after[f"eval_{name}"] for name in METRICS]))


def test_the_best_checkpoint_is_loaded_at_the_end(make_trainer):
    trainer = make_trainer(num_train_epochs=4, learning_rate=0.05)
    trainer.train()
    best = max(entry["eval_score"] for entry in trainer.state.log_history if "eval_score" in entry)
    assert trainer.evaluate()["eval_score"] == pytest.approx(best)
    assert Path(trainer.state.best_model_checkpoint).is_dir()
    assert STAGING_FOLDER not in trainer.state.best_model_checkpoint


@pytest.mark.parametrize(
    ("options", "evaluated_at"),
    [
        ({"eval_delay": 2}, [6]),
        ({"eval_delay": 9}, [6]),
        ({"eval_delay": 9, "max_steps": 4}, [4]),
        ({"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 100, "save_steps": 100}, [6]),
        ({"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 6, "save_steps": 6}, [6]),
        ({"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4}, [4, 6]),
        ({"save_strategy": "best", "eval_delay": 9}, [6]),
    ],
    ids=str,
)
def test_a_training_that_ends_before_its_first_evaluation_is_evaluated_at_its_end(make_trainer, options, evaluated_at):
    trainer = make_trainer(num_train_epochs=2, **options)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_score" in entry] == evaluated_at
    assert trainer.state.best_global_step in evaluated_at
    assert Path(trainer.state.best_model_checkpoint).name == f"checkpoint-{trainer.state.best_global_step}"
    assert Path(trainer.state.best_model_checkpoint).is_dir()


def test_predictions_come_in_the_order_of_the_rows(make_trainer, feature_rows):
    trainer = make_trainer()
    rows = feature_rows(14, 1)
    trainer.model.eval()
    with torch.no_grad():
        one_by_one = [trainer.model(**trainer.data_collator([rows[index]])).logits[0].numpy() for index in range(14)]
    np.testing.assert_allclose(trainer.predict_logits(rows), one_by_one, atol=1e-5)


def test_patience_ends_training(make_trainer):
    trainer = make_trainer(num_train_epochs=30, patience=2, learning_rate=1e-12)
    trainer.train()
    assert trainer.state.epoch == 3  # the first evaluation is the best; two more do not beat it


@pytest.mark.parametrize(
    "options",
    [
        {"scheduler": "huggingface_cosine"},
        {"scheduler": "plateau", "optimizer": "rmsprop"},
        {"scheduler": "cosine", "optimizer": "lion", "learning_rate": 1e-3},
        {"scheduler": "onecycle", "optimizer": "sgd"},
        {"scheduler": "none", "optimizer": "adam", "corpus_balanced_sampling": True},
        {
            "eval_strategy": "steps",
            "save_strategy": "steps",
            "eval_steps": 2,
            "save_steps": 2,
            "corpus_balanced_sampling": True,
        },
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_a_resumed_run_ends_with_the_same_weights(make_trainer, feature_model, tmp_path, options):
    noisy = both(dropout=0.3) | {"dropout": 0.3, "modality_dropout": 0.3}  # the random state must be restored, too
    options = {"num_train_epochs": 4, "save_total_limit": 10, **options}
    whole = make_trainer(model=feature_model(**noisy), **options)
    whole.train()

    resumed_options = options | {"output_dir": str(tmp_path / "killed")}
    killed = make_trainer(model=feature_model(**noisy), **resumed_options)
    killed.add_callback(StopAt(8))
    with pytest.raises(StopAt.Killed):
        killed.train()
    resumed = make_trainer(model=feature_model(**noisy), **resumed_options)
    resumed.train(resume_from_checkpoint=True)

    assert resumed.state.global_step == whole.state.global_step
    assert resumed.state.best_metric == whole.state.best_metric
    assert_equal(weights(whole.model), weights(resumed.model))
    assert resumed._get_learning_rate() == whole._get_learning_rate()


def test_a_run_that_was_killed_when_its_patience_had_ended_does_not_go_on(make_trainer, tmp_path):
    options = {"num_train_epochs": 30, "patience": 2, "learning_rate": 1e-12, "save_total_limit": None}
    trainer = make_trainer(**options)
    trainer.train()
    again = make_trainer(**options)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == trainer.state.global_step
    assert_equal(weights(trainer.model), weights(again.model))


def test_a_failed_save_leaves_no_half_checkpoint(make_trainer, monkeypatch):
    trainer = make_trainer(num_train_epochs=3)

    def fail(self, output_dir):
        if self.state.global_step > 3:
            raise OSError("No space left on device")
        super(BiBiERTrainer, self)._save_optimizer_and_scheduler(output_dir)

    monkeypatch.setattr(BiBiERTrainer, "_save_optimizer_and_scheduler", fail)
    with pytest.raises(OSError, match="No space left"):
        trainer.train()
    folder = Path(trainer.args.output_dir)
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-3"]
    assert (folder / STAGING_FOLDER).is_dir()
    monkeypatch.undo()
    again = make_trainer(num_train_epochs=3)
    again.train(resume_from_checkpoint=True)
    assert not (folder / STAGING_FOLDER).exists()
    assert again.state.global_step == 9


def test_a_training_leaves_checkpoints_and_nothing_half(make_trainer):
    trainer = make_trainer(num_train_epochs=2, save_total_limit=None)
    trainer.train()
    assert sorted(path.name for path in Path(trainer.args.output_dir).iterdir()) == ["checkpoint-3", "checkpoint-6"]


def test_backbones_have_their_own_learning_rate(make_trainer, model):
    trainer = make_trainer(
        model=model, optimizer="sgd", learning_rate=1e-2, weight_decay=0.5, backbone_learning_rate=1e-4
    )
    trainer.create_optimizer()
    rates = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    decayed = trainer.get_decay_parameter_names(model)
    for name, parameter in model.named_parameters():
        rate = 1e-4 if ".backbone." in name else 1e-2
        assert rates.pop(id(parameter)) == (rate, 0.5 if name in decayed else 0.0), name
    assert not rates


def test_what_a_killed_save_left_is_no_obstacle(make_trainer):
    trainer = make_trainer(num_train_epochs=1)
    staging = Path(trainer.args.output_dir) / STAGING_FOLDER
    (staging / "checkpoint-99").mkdir(parents=True)
    trainer.train()
    assert [path.name for path in Path(trainer.args.output_dir).iterdir()] == ["checkpoint-3"]


def test_a_damaged_checkpoint_is_passed_over(make_trainer, caplog):
    trainer = make_trainer(num_train_epochs=3, save_total_limit=None)
    trainer.train()
    newest = list_checkpoints(trainer.args.output_dir)[0]
    cut = newest / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    again = make_trainer(num_train_epochs=3)
    again.train(resume_from_checkpoint=True)
    assert_equal(weights(trainer.model), weights(again.model))


def test_a_resume_without_the_best_checkpoint_is_refused(make_trainer):
    trainer = make_trainer(num_train_epochs=3, save_total_limit=None, learning_rate=1e-12)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name == "checkpoint-3"
    shutil.rmtree(best)
    with pytest.raises(ValueError, match="best checkpoint so far"):
        make_trainer(num_train_epochs=3, learning_rate=1e-12).train(resume_from_checkpoint=True)


def test_a_run_whose_folder_was_moved_finds_its_best_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer(num_train_epochs=3, learning_rate=1e-12)
    trainer.train()
    moved = tmp_path / "moved"
    Path(trainer.args.output_dir).rename(moved)
    again = make_trainer(num_train_epochs=3, learning_rate=1e-12, output_dir=str(moved))
    again.train(resume_from_checkpoint=True)
    assert Path(again.state.best_model_checkpoint) == moved / "checkpoint-3"


def test_nothing_to_resume_from_is_an_error(make_trainer, tmp_path):
    with pytest.raises(ValueError, match="no complete checkpoint"):
        make_trainer().train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="is not a complete checkpoint"):
        make_trainer().train(resume_from_checkpoint=str(tmp_path / "nothing"))


def test_a_checkpoint_of_another_model_is_refused_not_half_restored(make_trainer, feature_model):
    trainer = make_trainer()
    trainer.train()
    deeper = make_trainer(model=feature_model(num_hidden_layers=2), num_train_epochs=4)
    with pytest.raises(ValueError, match=r"does not fit the model.*Missing from it: bibier\.fusion"):
        deeper.train(resume_from_checkpoint=True)


def test_the_frozen_external_backbone_is_not_in_the_checkpoint_and_not_missed(make_trainer, feature_model):
    model = feature_model()
    model.bibier.audio.backbone = torch.nn.Linear(2, 2).requires_grad_(False)
    model.config.audio_config.backbone_stored = True
    trainer = make_trainer(model=model)
    partial = {
        name: value for name, value in model.state_dict().items() if not name.startswith("bibier.audio.backbone.")
    }
    trainer._issue_warnings_after_load(model.load_state_dict(partial, strict=False))
    model.bibier.audio.backbone.requires_grad_(True)
    with pytest.raises(ValueError, match=r"bibier\.audio\.backbone"):
        trainer._issue_warnings_after_load(model.load_state_dict(partial, strict=False))


def test_old_checkpoints_are_rotated_but_never_the_best(make_trainer):
    trainer = make_trainer(num_train_epochs=6, save_total_limit=1, learning_rate=1e-12)
    trainer.train()
    # with an even smaller learning rate the first epoch stays the best one
    assert {path.name for path in list_checkpoints(trainer.args.output_dir)} <= {"checkpoint-3", "checkpoint-18"}
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-3"
    shutil.rmtree(trainer.args.output_dir)
