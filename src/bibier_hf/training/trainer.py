"""[`BiBiERTrainer`]: transformers' Trainer with the loss, the sampling, the selection and the checkpoints of this
project."""

import os
import shutil
from collections.abc import Generator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
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
from ..evaluation.metrics import METRICS, SELECTION_FORMULA, SELECTION_METRIC, grouped_metrics, mean_over_groups
from ..model.labels_bibier import EMOTIONS
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from ..model.sequence_bibier import finite_logits
from .arguments import RunArguments
from .checkpoints import STAGING_FOLDER, checkpoint_problems, last_whole_checkpoint, remove_staging
from .fit import fit_statistics, make_collator
from .optimization import create_published_scheduler, decay_parameter_names, optimizer_cls_and_kwargs
from .progress import Progress, without_bars
from .rows import RowSource, SoftTargets, TrainingRows
from .samplers import EpochSampler, class_weights, corpus_weights

logger = logging.get_logger(__name__)

# Only the fused logits are scored. The others may be absent from a batch in which nobody speaks (or writes), and
# differ in shape.
_UNSCORED_OUTPUTS = ["audio_logits", "text_logits", "fused_embedding", "hidden_states", "attentions"]


class BiBiERTrainer(Trainer):
    """Trainer of [`BiBiERForEmotionClassification`].

    On top of transformers' Trainer:

    * **Loss.** A sum over samples divided by the number of samples of the global batch: one process with batch 8,
      eight accumulated steps of one sample and two processes with four each give the same gradient. (Where the
      training set does not divide by the global batch, several processes fill the last one with repeated samples;
      `dataloader_drop_last` leaves it out.)
    * **Order.** A function of seed and epoch ([`EpochSampler`]), the same in every process and after every resume.
    * **Selection.** Per corpus the mean of UAR, WAR, MF1 and WF1, averaged over the corpora, under the name
      `eval_score`.
    * **Checkpoints.** Written aside and renamed. A resume takes the last whole one, and fails rather than restoring
      only a part.

    Args:
        run: the arguments of the run.
        model: gets the class weights and the feature statistics of the training rows.
        processor: saved with every checkpoint.
        sources: training rows of each corpus.
        dev: rows to select a checkpoint on; without them the trainer neither evaluates nor selects.
        title: what is trained, for the progress display.
        overrides: fields of [`~transformers.TrainingArguments`] that differ from those of the run.
    """

    model: BiBiERForEmotionClassification
    train_dataset: TrainingRows

    def __init__(
        self,
        run: RunArguments,
        model: BiBiERForEmotionClassification,
        processor: BiBiERProcessor,
        sources: Sequence[RowSource],
        dev: InputDataset | None = None,
        title: str = "training",
        **overrides: Any,
    ):
        args = run.training_arguments(**overrides)
        targets = SoftTargets(run.smoothing_probability, run.label_smoothing_mode, run.gold_weight, args.seed)
        train = TrainingRows(sources, targets if run.soft_labels else None)
        corpora = list(train.metadata["corpus"])
        balanced = run.corpus_balanced_sampling and len(set(corpora)) > 1

        fit_statistics(model, train)
        draws = corpus_weights(corpora) if balanced else None
        model.config.class_weights = class_weights(
            train.labels, len(EMOTIONS), run.class_weights, sample_weights=draws
        )

        self.run = run
        self.train_corpora = corpora if balanced else None
        self.train_lengths = train.lengths if run.group_by_length else None
        # Not handed to the Trainer: it would write the tokenizer's special tokens into the configuration of the text
        # backbone.
        self.processor = processor
        self._sampler: EpochSampler | None = None
        self._staging: Path | None = None
        super().__init__(
            model=model,
            args=args,
            data_collator=make_collator(model, processor, run.feature_cache),
            train_dataset=train,
            eval_dataset=dev,
            compute_metrics=None if dev is None else self._score,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(run.optimizer, args),
        )

        self.progress = Progress(title, bars=not args.disable_tqdm)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.progress)
        self.early_stopping = None
        if dev is not None and run.patience is not None:
            self.early_stopping = EarlyStoppingCallback(run.patience)
            self.add_callback(self.early_stopping)
        self.add_callback(_Bookkeeping(self))

    # Loss

    def _get_num_items_in_batch(self, batch_samples: list[dict], device: torch.device) -> torch.Tensor | int | None:
        """Number of samples of the global batch; the Trainer counts numbers in `labels`, of which a soft one has
        seven."""
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
        """As in transformers, with every row: `dataloader_drop_last` is about training."""
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
        # Metrics join predictions and rows by their order. None lets Accelerate share the rows out in order.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    # Optimisation

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As in transformers, with a learning rate of the backbones' own."""
        if self.optimizer is None and self.run.backbone_learning_rate is not None:
            assert self.optimizer_cls_and_kwargs is not None  # given in `__init__`
            optimizer_class, options = self.optimizer_cls_and_kwargs
            self.optimizer_cls_and_kwargs = (
                optimizer_class,
                options | {"params": self._parameter_groups(model or self.model)},
            )
        return super().create_optimizer(model)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """[`~bibier_hf.training.optimization.decay_parameter_names`]; transformers' own goes by names that ours do not
        have."""
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
        """The published schedules that transformers lacks; else transformers' own."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            assert optimizer is not None  # made before the schedule
            samples = len(self.train_dataset)
            batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            steps_per_epoch = max(1, samples // batch if self.args.dataloader_drop_last else -(-samples // batch))
            self.lr_scheduler = create_published_scheduler(
                self.run.scheduler,
                optimizer,
                self.args.learning_rate,
                num_training_steps,
                steps_per_epoch,
            )
            self._created_lr_scheduler = self.lr_scheduler is not None
        return super().create_scheduler(num_training_steps, optimizer)

    # Evaluation

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As in transformers, with the fused logits alone."""
        return super().prediction_step(model, inputs, prediction_loss_only, [*(ignore_keys or []), *_UNSCORED_OUTPUTS])

    def predict_logits(self, dataset, split: str = "dev") -> np.ndarray:
        """Logits (N, 7) of the rows of a dataset, in order; the same in every process. `split` names the bar.

        Raises:
            CheckpointError: NaN or infinite ones.
        """
        # The metrics know the rows of the evaluation set only.
        compute_metrics, self.compute_metrics = self.compute_metrics, None
        self.progress.split = split
        try:
            return finite_logits(torch.from_numpy(self.predict(dataset).predictions)).numpy()
        finally:
            self.compute_metrics = compute_metrics
            self.progress.split = "dev"

    def _score(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of the evaluation set: of each corpus, of each language, and over the corpora."""
        assert isinstance(self.eval_dataset, InputDataset)
        rows = self.eval_dataset.metadata
        predicted, labels = np.argmax(prediction.predictions, -1), np.asarray(prediction.label_ids)
        labels = labels.argmax(-1) if labels.ndim == 2 else labels
        by_corpus = grouped_metrics(labels, predicted, rows["corpus"])
        mean = mean_over_groups(by_corpus)
        scores = {SELECTION_METRIC: mean["mean"]} | {name: mean[name] for name in METRICS}
        for groups in (by_corpus, grouped_metrics(labels, predicted, rows["language"])):
            if len(groups) > 1:
                scores |= {f"{group}_{name}": values[name] for group, values in groups.items() for name in METRICS}
        return scores

    def selection(self) -> dict[str, Any]:
        """After training: which checkpoint was selected, by what, and the history of dev."""
        evaluations = [entry for entry in self.state.log_history if f"eval_{SELECTION_METRIC}" in entry]
        chosen = next(entry for entry in evaluations if entry["step"] == self.state.best_global_step)
        history = [
            {"epoch": entry["epoch"], "dev_loss": entry["eval_loss"]}
            | {f"dev_{name}": entry[f"eval_{name}"] for name in (SELECTION_METRIC, *METRICS)}
            for entry in evaluations
        ]
        return {
            "metric": SELECTION_FORMULA,
            "value": self.state.best_metric,
            "epoch": chosen["epoch"],
            "step": self.state.best_global_step,
            "epochs_run": self.state.epoch,
            "history": history,
        }

    # Checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        """As in transformers; `resume_from_checkpoint=True` takes the last whole checkpoint, and none is an error.

        Raises:
            ValueError: nothing to resume from, or a checkpoint that is not whole.
        """
        checkpoint: str | Path | None = None
        if resume_from_checkpoint is True:
            checkpoint = last_whole_checkpoint(self.run_dir)
            if checkpoint is None:
                raise ValueError(
                    f"{self.args.output_dir} holds no whole checkpoint to resume from. Leave resume_from_checkpoint "
                    "out to start anew."
                )
        elif resume_from_checkpoint:
            checkpoint = resume_from_checkpoint
        if checkpoint is not None:
            if problems := checkpoint_problems(checkpoint):
                raise ValueError(
                    f"{checkpoint} is not a whole checkpoint: {'; '.join(problems)}. Take an earlier one."
                )
            self._stay_stopped(checkpoint)
        if self.args.should_save:
            remove_staging(self.run_dir)
        return super().train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint), **kwargs)

    @property
    def run_dir(self) -> Path:
        """`args.output_dir`, which transformers sets where it was left out."""
        assert self.args.output_dir is not None
        return Path(self.args.output_dir)

    def _stay_stopped(self, checkpoint: str | Path) -> None:
        """A run that was killed after its patience had ended, but before it closed, has no further step to do."""
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
        """As in transformers, but into a staging folder that is renamed when all of it is there."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        final, staging = self.run_dir / name, self.run_dir / STAGING_FOLDER
        self._staging = staging
        try:
            with without_bars():
                super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        # The Trainer has recorded where it saw the best checkpoint while it was still in the staging folder.
        if self.state.best_model_checkpoint == str(staging / name):
            self.state.best_model_checkpoint = str(final)
        self._wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(staging / name / TRAINER_STATE_NAME))
            if final.exists():  # left by an earlier run that went on from before this step
                shutil.rmtree(final)
            os.replace(staging / name, final)
            staging.rmdir()
            rotate_checkpoints(
                output_dir=str(self.run_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        self._wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.processor is not None and self.args.should_save:
            self.processor.save_pretrained(self.run_dir if output_dir is None else output_dir)

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _wait_for_everyone(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint that restores only a part, where transformers goes on with a warning.

        Frozen backbones that are fetched by their id are not in a checkpoint; the model at hand already has them.

        Raises:
            ValueError: weights that are in one of the two only.
        """
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        frozen_modules = tuple({_module(name) for name in frozen} - {_module(name) for name in trained})
        missing = [key for key in load_result.missing_keys if key in trained or not key.startswith(frozen_modules)]
        if missing or load_result.unexpected_keys:
            raise ValueError(
                "The checkpoint does not fit the model, so nothing would be restored reliably. "
                f"Missing from it: {_some(missing)}. Unknown to the model: {_some(load_result.unexpected_keys)}. "
                "Resume with the backbones and the model options that the run was started with."
            )


class _Bookkeeping(TrainerCallback):
    """What must be right after a resume, and at the end, and is not by itself."""

    def __init__(self, trainer: BiBiERTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """The best checkpoint so far must be there, or the run would end with other weights than it selected."""
        if args.load_best_model_at_end and state.best_global_step:
            recorded = state.best_model_checkpoint or ""
            moved = os.path.join(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
            state.best_model_checkpoint = recorded if os.path.isdir(recorded) else moved
            if problems := checkpoint_problems(state.best_model_checkpoint):
                raise ValueError(
                    f"The best checkpoint of the run so far, {state.best_model_checkpoint}, is not whole: "
                    f"{'; '.join(problems)}. "
                    "Put it back, or start anew."
                )

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Accelerate does not reach the sampler in several processes that resume within an epoch.
        epoch = int(state.epoch or 0)
        if self.trainer._sampler is not None:
            self.trainer._sampler.set_epoch(epoch)
        self.trainer.train_dataset.set_epoch(epoch)

    def on_epoch_end(self, args, state, control, **kwargs):
        """A training that ends before its first evaluation (`eval_delay`) is evaluated and saved where it ends."""
        ended = control.should_training_stop or state.global_step >= state.max_steps
        evaluated = any(f"eval_{SELECTION_METRIC}" in entry for entry in state.log_history)
        if ended and not evaluated and args.eval_strategy != IntervalStrategy.NO:
            control.should_evaluate = control.should_save = True


def _module(name: str) -> str:
    """Which part of the model a parameter is in: `bibier.audio.backbone.`, `classifier.`, ..."""
    return ".".join(name.split(".")[: 3 if name.startswith("bibier.") else 1]) + "."


def _some(keys: Sequence[str], limit: int = 5) -> str:
    if not keys:
        return "nothing"
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")
