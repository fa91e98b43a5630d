"""[`BiBiERTrainer`]: transformers' Trainer with this project's loss, sampling, selection and checkpoints."""

import os
import shutil
from collections import defaultdict
from collections.abc import Generator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, SequentialSampler
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy, rotate_checkpoints
from transformers.utils import logging

from ..data.features import InputDataset
from ..errors import ArgumentError
from ..evaluation.metrics import SELECTION_METRIC, mean_over_groups
from ..evaluation.problems import problem_of
from ..model.configuration_bibier import BiBiERConfig
from ..model.encoders_bibier import StatisticsPooling
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from ..model.sequence_bibier import finite_logits
from .arguments import RunArguments
from .checkpoints import STAGING_FOLDER, checkpoint_problems, last_whole_checkpoint, remove_staging
from .optimization import create_published_scheduler, decay_parameter_names, optimizer_cls_and_kwargs
from .progress import Progress, without_bars
from .rows import RunInputs, SoftTargets, TrainingRows
from .samplers import EpochSampler, class_weights, corpus_weights

logger = logging.get_logger(__name__)


# Only the fused logits are scored. The others are absent from a batch without speech (or text), and differ in shape.
class BiBiERTrainer(Trainer):
    """Trainer of [`BiBiERForEmotionClassification`].

    On top of transformers' Trainer:

    * **Loss.** The sum over the samples divided by the size of the global batch: one process with batch 8, eight
      accumulated steps of one sample, and two processes with four samples each give the same gradient. (If the size of
      the training set is not a multiple of the global batch, several processes fill the last batch with repeated
      samples; `dataloader_drop_last` drops it.)
    * **Order.** A function of seed and epoch ([`EpochSampler`]), the same in every process and after every resume.
    * **Selection.** By `eval_score`, averaged over the corpora: the mean of UAR, WAR, MF1 and WF1, or that of another
        problem ([`~bibier_hf.evaluation.problems`]).
    * **Checkpoints.** Written aside, then renamed. A resume takes the last complete one, and fails rather than
      restoring it in part.

    Args:
        run: the arguments of the run.
        model: gets the class weights and the feature statistics of the training rows.
        data: rows to train on, and dev to select a checkpoint on.
        processor: saved with every checkpoint.
        title: what is trained, for the progress display.
        overrides: fields of [`~transformers.TrainingArguments`] that differ from those of the run.
    """

    model: BiBiERForEmotionClassification
    train_dataset: TrainingRows

    def __init__(
        self,
        run: RunArguments,
        model: BiBiERForEmotionClassification,
        data: RunInputs,
        processor: BiBiERProcessor | None = None,
        title: str = "training",
        **overrides: Any,
    ):
        args = run.training_arguments(**overrides)
        num_labels = len(model.config.label_names)
        smoothing = (run.smoothing_probability, run.label_smoothing_mode, run.gold_weight, args.seed)
        targets = SoftTargets(num_labels, *smoothing)
        train = TrainingRows(data.train, targets if run.soft_labels else None, data.disturber)
        corpora = list(train.metadata["corpus"])
        balanced = run.corpus_balanced_sampling and len(set(corpora)) > 1

        fit_statistics(model, train)
        draws = corpus_weights(corpora) if balanced else None
        model.config.class_weights = class_weights(train.labels, num_labels, run.class_weights, sample_weights=draws)

        self.run = run
        self.problem = problem_of(data.dev.rows)
        self.train_corpora = corpora if balanced else None
        self.train_lengths = train.lengths if run.group_by_length else None
        # Not passed to the Trainer, which would write the tokenizer's special tokens into the configuration of the
        # text backbone.
        self.processor = processor
        self._sampler: EpochSampler | None = None
        self._staging: Path | None = None
        super().__init__(
            model=model,
            args=args,
            data_collator=data.collator,
            train_dataset=train,
            eval_dataset=data.dev,
            compute_metrics=self._score,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(run.optimizer, args),
        )

        self.progress = Progress(title, self.problem)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.progress)
        self.early_stopping = None
        if run.patience is not None and args.eval_strategy != IntervalStrategy.NO:
            self.early_stopping = EarlyStoppingCallback(run.patience)
            self.add_callback(self.early_stopping)
        self.add_callback(_Bookkeeping(self))

    # Loss

    def _get_num_items_in_batch(self, batch_samples: list[dict], device: torch.device) -> torch.Tensor | int | None:
        """Count the samples of the global batch. The Trainer counts the numbers in `labels`, and a soft label has
        one for each class."""
        one_a_sample = [{"labels": torch.ones(len(batch["labels"]))} for batch in batch_samples if "labels" in batch]
        return super()._get_num_items_in_batch(one_a_sample, device)

    # Order of the samples

    def _get_train_sampler(self, train_dataset: Sized | None = None) -> EpochSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        self._sampler = EpochSampler(
            len(dataset),
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            corpora=self.train_corpora,
            lengths=self.train_lengths,
            group_size=self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
        )
        return self._sampler

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """As in transformers, but with every row: `dataloader_drop_last` applies to training only."""
        with self._keeping_every_row():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        """As [`get_eval_dataloader`]."""
        with self._keeping_every_row():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _keeping_every_row(self) -> Generator[None]:
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def _get_eval_sampler(self, eval_dataset) -> SequentialSampler | None:
        # Metrics match predictions and rows by their order. With None, Accelerate distributes the rows in order.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    # Optimization

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As in transformers, but backbones may have their own learning rate."""
        if self.optimizer is None and self.run.backbone_learning_rate is not None:
            assert self.optimizer_cls_and_kwargs is not None  # given in `__init__`
            optimizer_class, options = self.optimizer_cls_and_kwargs
            self.optimizer_cls_and_kwargs = (
                optimizer_class,
                options | {"params": self._parameter_groups(model or self.model)},
            )
        return super().create_optimizer(model)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Return [`~bibier_hf.training.optimization.decay_parameter_names`]; transformers looks for other names."""
        return decay_parameter_names(model)

    def _parameter_groups(self, model: torch.nn.Module) -> list[dict[str, Any]]:
        decayed = self.get_decay_parameter_names(model)
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((".backbone." in name, name in decayed), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.run.backbone_learning_rate if in_backbone else self.args.learning_rate,
                "weight_decay": self.args.weight_decay if decays else 0.0,
            }
            for (in_backbone, decays), parameters in groups.items()
        ]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Create a published schedule that transformers lacks, else that of transformers."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            assert optimizer is not None  # created before the schedule
            samples = len(self.train_dataset)
            batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            steps_per_epoch = max(1, samples // batch if self.args.dataloader_drop_last else -(-samples // batch))
            self.lr_scheduler = create_published_scheduler(
                self.run.scheduler, optimizer, self.args.learning_rate, num_training_steps, steps_per_epoch
            )
            self._created_lr_scheduler = self.lr_scheduler is not None
        return super().create_scheduler(num_training_steps, optimizer)

    # Evaluation

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As in transformers, but with the fused logits only."""
        unscored = BiBiERConfig.keys_to_ignore_at_inference  # all but the logits
        return super().prediction_step(model, inputs, prediction_loss_only, [*(ignore_keys or []), *unscored])

    def predict_logits(self, dataset, split: str = "dev") -> np.ndarray:
        """Return the logits (N, K) of a dataset, in the order of its rows; the same in every process.

        Args:
            dataset: N rows.
            split: name of the bar.

        Raises:
            CheckpointError: the logits are not finite.
        """
        # The metrics need the rows of the evaluation set.
        compute_metrics, self.compute_metrics = self.compute_metrics, None
        self.progress.split = split
        try:
            return finite_logits(torch.from_numpy(self.predict(dataset).predictions)).numpy()
        finally:
            self.compute_metrics = compute_metrics
            self.progress.split = "dev"

    def _score(self, prediction: EvalPrediction) -> dict[str, float]:
        """Score the evaluation set: over the corpora, and by corpus and language if there are several."""
        assert isinstance(self.eval_dataset, InputDataset)
        names, rows = self.problem.metrics, self.eval_dataset.metadata
        fitted = {"label_ranges": self.model.config.label_ranges}
        answers = self.problem.answers(np.asarray(prediction.predictions, dtype=np.float64), fitted)
        by_corpus, by_language = (
            self.problem.by_group(self.eval_dataset.labels, answers, rows[column], fitted)
            for column in ("corpus", "language")
        )
        mean = mean_over_groups(by_corpus, self.problem.columns)
        scores = {SELECTION_METRIC: mean[self.problem.selection]} | {name: mean[name] for name in names}
        for groups in (by_corpus, by_language):
            if len(groups) > 1:
                scores |= {f"{group}_{name}": values[name] for group, values in groups.items() for name in names}
        return scores

    def selection(self) -> dict[str, Any]:
        """Return which checkpoint was selected, by which metric, and the history of dev."""
        evaluations = [entry for entry in self.state.log_history if f"eval_{SELECTION_METRIC}" in entry]
        chosen = next(entry for entry in evaluations if entry["step"] == self.state.best_global_step)
        history = [
            {"epoch": entry["epoch"], "dev_loss": entry["eval_loss"]}
            | {f"dev_{name}": entry[f"eval_{name}"] for name in (SELECTION_METRIC, *self.problem.metrics)}
            for entry in evaluations
        ]
        return {
            "metric": self.problem.formula,
            "value": self.state.best_metric,
            "epoch": chosen["epoch"],
            "step": self.state.best_global_step,
            "epochs_run": self.state.epoch,
            "history": history,
        }

    # Checkpoints

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs: Any):
        """As in transformers, but `resume_from_checkpoint=True` takes the last complete checkpoint.

        Raises:
            ValueError: there is no complete checkpoint, or the given one is incomplete.
        """
        checkpoint: str | Path | None = None
        if resume_from_checkpoint is True:
            checkpoint = self.last_checkpoint
            if checkpoint is None:
                raise ValueError(
                    f"{self.args.output_dir} holds no complete checkpoint to resume from. Leave resume_from_checkpoint "
                    "out to start over."
                )
        elif resume_from_checkpoint:
            checkpoint = resume_from_checkpoint
        if checkpoint is not None:
            if problems := checkpoint_problems(checkpoint):
                raise ValueError(
                    f"{checkpoint} is not a complete checkpoint: {'; '.join(problems)}. Take an earlier one."
                )
            self._stay_stopped(checkpoint)
        if self.args.should_save:
            remove_staging(self.run_dir)
        return super().train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint), **kwargs)

    @property
    def run_dir(self) -> Path:
        """`args.output_dir`, which transformers always sets."""
        assert self.args.output_dir is not None
        return Path(self.args.output_dir)

    @property
    def last_checkpoint(self) -> Path | None:
        """The last complete checkpoint of the run; None before the first one."""
        return last_whole_checkpoint(self.run_dir)

    def _stay_stopped(self, checkpoint: str | Path) -> None:
        """Train no further if the run was killed after its patience had run out, but before it ended."""
        if self.early_stopping is None:
            return
        state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
        stored = state.stateful_callbacks.get(type(self.early_stopping).__name__)
        if (
            stored
            and stored["attributes"]["early_stopping_patience_counter"] >= self.early_stopping.early_stopping_patience
        ):
            self.args.max_steps = state.global_step

    def _save_checkpoint(self, model, trial) -> None:
        """As in transformers, but into a staging folder that is renamed when it is complete."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        final, staging = self.run_dir / name, self.run_dir / STAGING_FOLDER
        self._staging = staging
        try:
            with without_bars():
                super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        # The Trainer has recorded the path of the best checkpoint in the staging folder.
        if self.state.best_model_checkpoint == str(staging / name):
            self.state.best_model_checkpoint = str(final)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(staging / name / TRAINER_STATE_NAME))
            if final.exists():  # from an earlier run that was resumed before this step
                shutil.rmtree(final)
            os.replace(staging / name, final)
            staging.rmdir()
            rotate_checkpoints(
                output_dir=str(self.run_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.processor is not None and self.args.should_save:
            self.processor.save_pretrained(self.run_dir if output_dir is None else output_dir)

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint that restores the model only in part; transformers would continue with a warning.

        Frozen backbones with a Hub id are not stored in checkpoints; the model already has them.

        Raises:
            ValueError: the checkpoint lacks weights of the model, or has others.
        """
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        frozen_modules = tuple({_module(name) for name in frozen} - {_module(name) for name in trained})
        missing = [key for key in load_result.missing_keys if key in trained or not key.startswith(frozen_modules)]
        if missing or load_result.unexpected_keys:
            raise ValueError(
                "The checkpoint does not fit the model, so nothing would be restored reliably. "
                f"Missing from it: {_some(missing)}. Unknown to the model: {_some(load_result.unexpected_keys)}. "
                "Resume with the same backbones and model options."
            )


class _Bookkeeping(TrainerCallback):
    """Restores state that Trainer does not restore on resume or at the end of training."""

    def __init__(self, trainer: BiBiERTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """Make sure that the best checkpoint exists, or the run would end with weights that it did not select."""
        if args.load_best_model_at_end and state.best_global_step:
            recorded = state.best_model_checkpoint or ""
            moved = os.path.join(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
            state.best_model_checkpoint = recorded if os.path.isdir(recorded) else moved
            if problems := checkpoint_problems(state.best_model_checkpoint):
                raise ValueError(
                    f"The best checkpoint so far, {state.best_model_checkpoint}, is not complete: "
                    f"{'; '.join(problems)}. Put it back, or start over."
                )

    def on_epoch_begin(self, args, state, control, **kwargs):
        # With several processes, Accelerate does not reach the sampler after a resume within an epoch.
        epoch = int(state.epoch or 0)
        if self.trainer._sampler is not None:
            self.trainer._sampler.set_epoch(epoch)
        self.trainer.train_dataset.set_epoch(epoch)

    def on_epoch_end(self, args, state, control, **kwargs):
        """If training ends before the first evaluation (`eval_delay`), evaluate and save at its end."""
        ended = control.should_training_stop or state.global_step >= state.max_steps
        evaluated = any(f"eval_{SELECTION_METRIC}" in entry for entry in state.log_history)
        if ended and not evaluated and args.eval_strategy != IntervalStrategy.NO:
            control.should_evaluate = control.should_save = True


def fit_statistics(model: BiBiERForEmotionClassification, train: TrainingRows) -> None:
    """Standardize the statistics of encoders that pool them ([`~bibier_hf.model.encoders_bibier.StatisticsPooling`])
    over the training set.

    Raises:
        ArgumentError: no features are stored, because the backbone is trained or the feature cache is off.
    """
    for modality, stream in model.streams.items():
        encoder, name = stream.encoder, f"{modality}_features"
        pools = encoder is not None and any(isinstance(module, StatisticsPooling) for module in encoder.modules())
        if not pools or stream.config.freeze_encoder:
            continue

        found: dict[StatisticsPooling, list[torch.Tensor]] = defaultdict(list)
        for index in range(len(train)):
            row = train[index]
            if name not in row:
                option = "statistics" if encoder.statistics is not None else "cepstrum"
                raise ArgumentError(
                    f"model.{modality}_config.{option} needs stored features of a frozen backbone. Leave feature_cache "
                    f"enabled and model.{modality}_config.freeze_backbone true, or leave it out."
                )
            if len(row[name]):
                features = row[name].unsqueeze(0)
                mask = torch.ones(features.shape[:2], dtype=torch.bool)
                for pooling, part in encoder.pooled_parts(features):
                    found[pooling].append(pooling.read(part, mask))

        for pooling, rows in found.items():
            statistics = torch.cat(rows)
            pooling.fit(statistics.mean(0), statistics.std(0, correction=0))


def _module(name: str) -> str:
    """Return the part of the model that holds a parameter: `bibier.audio.backbone.`, `classifier.`, ..."""
    return ".".join(name.split(".")[: 3 if name.startswith("bibier.") else 1]) + "."


def _some(keys: Sequence[str], limit: int = 5) -> str:
    if not keys:
        return "nothing"
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")
