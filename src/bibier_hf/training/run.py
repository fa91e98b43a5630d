"""A training run, from its arguments to a model folder. [`Run`] has one method for each step."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from datasets import concatenate_datasets
from transformers import TrainerCallback

from ..data.disturbances import Disturber
from ..data.features import DATA_COLUMNS, InputDataset, content_hash
from ..data.label_tables import attach_label_tables
from ..data.mixture import data_facts, label_names, load_corpora, protocol_facts
from ..data.reader import InputReader
from ..data.schema import SPLITS, truth_of
from ..data.targets import value_ranges
from ..errors import ArgumentError
from ..evaluation.conditions import score_conditions
from ..evaluation.problems import fitted_of, problem_of
from ..evaluation.report import Predictions, environment, write_split_report
from ..evaluation.results import RESULTS_FILE, RunResults
from ..evaluation.unsure import fit_unsure
from ..files import filled_folder, write_text, writes
from ..hub.cards import CARD_FILE, write_model_card
from ..hub.eval_results import write_eval_results
from ..hub.push import open_repository, push_model
from ..kernels import load_kernels
from ..memory import keep_freed_memory
from ..model.configuration_bibier import REGRESSION
from ..model.modeling_bibier import BiBiERForEmotionClassification
from .arguments import RUN_FILE, RunArguments
from .augmentation import AugmentedCorpus
from .build import build_model, model_facts
from .checkpoints import last_whole_checkpoint
from .logit_adjustment import adjustment_facts
from .output import REFIT_FOLDER, claim_output
from .progress import without_bars
from .rows import RunInputs, fixed_rows
from .stages import frozen_encoders, plan_folds, train_encoders
from .trainer import BiBiERTrainer


def _what_is_left(arguments: RunArguments, command: str | None = None) -> str:
    checkpoint = last_whole_checkpoint(arguments.output_dir)
    if checkpoint is None:
        return "There is no complete checkpoint yet: start again."
    return f"{checkpoint} is complete: continue with --resume_from_checkpoint true."


@writes(lambda arguments, command=None: arguments.output_dir, left=_what_is_left)
def run_training(arguments: RunArguments, command: str | None = None) -> RunResults:
    """Train, select on dev, score test once, and write everything into `output_dir`.

    The folder then holds the model with its processor and code
    (`AutoModel.from_pretrained(folder, trust_remote_code=True)`), the card `README.md`, `.eval_results`,
    `results.json`, `predictions_<split>.parquet`, `confusion_matrix_<split>_<corpus>.png`,
    `reliability_<split>_<corpus>.png`, `risk_coverage_<split>_<corpus>.png` and `run.yaml`. With `push_to_hub` it is
    then pushed, without predictions and `run.yaml`.

    Args:
        arguments: of the run.
        command: the command line, for the card.

    Returns:
        what `results.json` holds, in every process.

    Raises:
        ArgumentError: the output folder is taken.
        LockedError, WriteError: another run writes into the output folder, or it cannot be written.
        FileNotFoundError, CorpusError, ProtocolError, AudioError: missing or malformed data.
        PushError: the Hub cannot be pushed to (raised before training), or the push failed; the folder is complete.
    """
    run = Run(arguments, command)
    finished = run.claim_folder()
    if finished is not None:
        return finished

    run.prepare()
    with run.encoders_trained():
        run.fit()
        run.select()
        run.refit()
        run.test()
        run.disturb()
    run.write()
    run.push()

    return run.results


class Run:
    """A training run; its methods are its steps, in the order of [`run_training`].

    Attributes:
        arguments: of the run.
        args: those of the trainer.
        config: the arguments in the report, without folders of this machine.
        recorded: corpus -> its splits, before augmentation.
        augmented: corpus -> its splits with their augmentation.
        model, processor: the model in training, and its processor.
        adapters: LoRA in the backbones of the model.
        data: what the model reads of train, dev and test.
        trainer: of the last stage.
        reader: how the model reads rows.
        conditions: scores on disturbed speech, for the results.
        predictions: split -> answers of the selected checkpoint.
        results: content of `results.json`.
    """

    trainer: BiBiERTrainer
    results: RunResults

    def __init__(self, arguments: RunArguments, command: str | None = None):
        self.arguments = arguments
        self.command = command
        self.config = arguments.public_dump()
        self.args = arguments.training_arguments()
        self.seconds = _Seconds()
        self.predictions: dict[str, Predictions] = {}
        self.stages: dict[str, Any] | None = None
        self.unsure: dict[str, Any] = {}
        self.conditions: dict[str, Any] = {}

    def claim_folder(self) -> RunResults | None:
        """Check that no earlier run is overwritten and that the Hub accepts a push.

        Returns:
            the results, if the run is resumed but already finished.
        """
        with self.args.main_process_first(desc="claiming the output folder"):
            finished = claim_output(self.arguments, main_process=self.args.should_save)
        if finished is None and self.pushed_to is not None:
            open_repository(self.pushed_to, private=self.arguments.hub_private_repo)

        return finished

    def prepare(self) -> None:
        """Load corpora and backbones, and compute what the model reads."""
        if self.arguments.keep_freed_memory:
            keep_freed_memory()
        load_kernels(build_missing=True)
        corpora = self.arguments.corpora

        # The main process prepares and downloads; the others find it done.
        with self.args.main_process_first(desc="loading corpora and backbones"):
            tables = [corpus.label_tables for corpus in corpora]
            self.recorded, self.label_facts = attach_label_tables(
                load_corpora(corpora, self.arguments.labels, self.arguments.problem_type), tables
            )
            if unknown := set(self.arguments.refit_on_test) - set(self.recorded):
                raise ArgumentError(
                    f"refit_on_test: there is no corpus {min(unknown)!r}; there are {', '.join(self.recorded)}."
                )
            self._build_model()
            self.augmented = {
                name: AugmentedCorpus(rows, corpus.augmentation)
                for corpus, (name, rows) in zip(corpora, self.recorded.items(), strict=True)
            }
            self.folds, self.fold_facts = plan_folds(self.arguments, self.model, self.augmented)
            for name, corpus in self.augmented.items():
                corpus.stack(self.folds.get(name))

        self.seconds.lap("load")

        self._read_inputs()
        self.seconds.lap("features")

    def _build_model(self) -> None:
        """Build a model for the labels of the corpora."""
        train = [splits["train"] for splits in self.recorded.values()]
        names, ranges = label_names(train[0]), None
        if self.arguments.problem_type == REGRESSION:
            ranges = value_ranges(np.concatenate([truth_of(rows) for rows in train]), names)
        self.model, self.processor, self.adapters = build_model(self.arguments, names, ranges)

    def _read_inputs(self) -> None:
        self.reader = reader = InputReader(
            self.model.to(self.args.device), self.processor, self.arguments.feature_cache
        )
        disturbances = self.arguments.disturbances
        stored = disturbances if reader.extractor is not None else None
        read = [corpus.inputs(reader.inputs, stored) for corpus in self.augmented.values()]
        train, dev, test = zip(*read, strict=True)
        self.test_inputs = dict(zip(self.augmented, test, strict=True))

        disturber = None
        if disturbances is not None and stored is None:
            disturber = Disturber(disturbances, {name: corpus.voices for name, corpus in self.augmented.items()})
        dev, test = InputDataset.concatenate(dev), InputDataset.concatenate(test)
        self.data = RunInputs(train, dev, test, reader.collator, disturber)

    @contextmanager
    def encoders_trained(self) -> Generator[None]:
        """Stage 1 of a training in two stages; within the block the encoders are frozen."""
        if self.arguments.stages.plan != "two_stage":
            yield
            return

        folds = np.concatenate([corpus.folds for corpus in self.augmented.values()]) if self.folds else None
        facts, logits = train_encoders(self.arguments, self.model, self.data, folds)
        self.stages = facts | self.fold_facts
        self.seconds.lap("encoders")

        with frozen_encoders(self.model):
            self._read_inputs()  # features of the trained backbones
            self.data = replace(self.data, train=[fixed_rows(self.data.train).with_columns(logits)])
            yield

    def fit(self) -> None:
        """Train, with dev to select a checkpoint on."""
        arguments, title, resume = self.arguments, "training", self.arguments.resume_from_checkpoint
        if self.stages is not None:
            arguments, title = arguments.stage_runs["fusion"], "fusion (stage 3 of 3)"

        self.trainer = BiBiERTrainer(arguments, self.model, self.data, self.processor, title)
        if resume is True:  # unless the run was stopped before its last stage
            resume = self.trainer.last_checkpoint
        self.trainer.train(resume_from_checkpoint=resume)
        self.model = self.trainer.model
        self.selection = self.trainer.selection()

    def select(self) -> None:
        """Choose the shift and the temperature of the logits, on dev."""
        dev, logits = self.data.dev, self.trainer.predict_logits(self.data.dev)
        self.adjustment = adjustment_facts(self.arguments, logits, self.trainer.train_dataset, dev)
        if self.adjustment is not None:
            logits = logits + np.array(self.adjustment["shift"], dtype=logits.dtype)

        self.calibration = calibration_facts(self.arguments, self.model, logits, dev)
        kept = {name: self.calibration[name] for name in ("temperature", "thresholds") if name in self.calibration}
        self.fitted = fitted_of(self.model.config) | kept
        self.predictions["dev"] = Predictions.from_logits(dev.metadata, logits, **self.fitted)
        self.seconds.lap("train")

    def refit(self) -> None:
        """With `refit_on_dev`, train a new model on train + dev, for as many epochs as the selected checkpoint.

        If it also learns from test rows, test is scored first.
        """
        if not self.arguments.refit_on_dev:
            return

        from_test = [self.test_inputs[name] for name in self.arguments.refit_on_test]
        if from_test:
            self.test()

        self._build_model()
        folder = Path(self.arguments.output_dir) / REFIT_FOLDER
        self.trainer = BiBiERTrainer(
            self.arguments,
            self.model,
            replace(self.data, train=[*self.data.train, self.data.dev, *from_test]),
            self.processor,
            title="refit on train + dev" + (" + test" if from_test else ""),
            output_dir=str(folder),
            eval_strategy="no",
            load_best_model_at_end=False,
            save_strategy="epoch",
        )
        self.trainer.add_callback(_StopAfter(self.selection["epoch"]))
        self.trainer.train(resume_from_checkpoint=self.trainer.last_checkpoint)
        self.model = self.trainer.model
        self.seconds.lap("refit")

    def test(self) -> None:
        """Score test, once, and shift the logits of the final model."""
        if self.adjustment is not None:
            self.model.shift_logits(self.adjustment["shift"])
        if "test" in self.predictions:
            return

        logits = self.trainer.predict_logits(self.data.test, "test")
        self.predictions["test"] = Predictions.from_logits(self.data.test.metadata, logits, **self.fitted)
        self.seconds.lap("test")

    def disturb(self) -> None:
        """With `conditions`, score test on disturbed speech."""
        conditions = self.arguments.conditions
        if conditions:
            model, size = self.model.eval(), self.args.per_device_eval_batch_size
            self.conditions = score_conditions(
                model, self.reader, self.recorded, "test", conditions, self.fitted["temperature"], size
            )
            self.seconds.lap("conditions")

    def write(self) -> None:
        """Write model, processor, predictions, pictures, results and card; all of them appear at once."""
        self._fit_unsure()
        self.results = self._results()  # before adapters are merged
        self.adapters.finish()
        for name, value in self.fitted.items():
            setattr(self.model.config, name, value)

        if self.args.should_save:
            with filled_folder(self.arguments.output_dir, last=RESULTS_FILE) as folder, without_bars():
                self.model.save_pretrained(folder)
                self.processor.save_pretrained(folder)
                for split, answers in self.predictions.items():
                    write_split_report(answers, split, folder)
                write_text(folder / RUN_FILE, self.arguments.to_yaml())
                write_model_card(self.results, folder / CARD_FILE)
                write_eval_results(self.results, folder)
                self.results.write(folder / RESULTS_FILE)
        self.trainer.accelerator.wait_for_everyone()

    def _fit_unsure(self) -> None:
        """With `unsure`, fit when the answers of the model are unsure; only the process that saves does."""
        audio = self.model.base_model.audio
        if not audio.config.freeze_backbone:
            audio.speech_check, audio.config.speech_check = None, False  # that of `init_from` knew another backbone
        if self.arguments.unsure is not None and self.args.should_save:
            dev = self.predictions["dev"].probabilities
            self.unsure = fit_unsure(self.model, self.processor, self.recorded, dev, self.arguments.unsure)
            self.seconds.lap("unsure")

    def push(self) -> None:
        """With `push_to_hub`, push the folder to the Hub."""
        if self.pushed_to is not None:
            push_model(self.arguments.output_dir, self.pushed_to, private=self.arguments.hub_private_repo)

    @property
    def pushed_to(self) -> str | None:
        """Id on the Hub in the process that pushes; None if nothing is pushed."""
        return self.arguments.hub_model_id if self.arguments.push_to_hub and self.args.should_save else None

    def _backbones(self) -> dict[str, tuple[str, str]]:
        """Return name and training of the backbone of each modality."""
        found = {}
        for modality, part in self.model.config.modality_configs.items():
            training = "frozen" if part.freeze_backbone else "trained"
            if self.arguments.lora and modality in self.arguments.lora.backbones:
                training = f"LoRA, rank {self.arguments.lora.r}"
            found[modality] = self.config["init_from"] or self.config[f"{modality}_backbone"], training

        return found

    def _results(self) -> RunResults:
        uncalibrated = {
            split: answers.calibration_by_corpus(calibrated=False) for split, answers in self.predictions.items()
        }
        splits = {name: corpus.splits for name, corpus in self.augmented.items()}
        rows = concatenate_datasets([corpus[split] for corpus in splits.values() for split in SPLITS])
        results = RunResults(
            model=model_facts(self.model, self._backbones(), self.model.num_parameters(only_trainable=True)),
            protocol={
                name: protocol_facts(corpus, rows)
                for corpus, (name, rows) in zip(self.arguments.corpora, splits.items(), strict=True)
            },
            selection=self.selection,
            stages=self.stages,
            logit_adjustment=self.adjustment,
            calibration=self.calibration | {"uncalibrated": uncalibrated},
            unsure=self.unsure,
            date=datetime.now(UTC).date().isoformat(),
            seed=self.args.seed,
            command=self.command,
            config=self.config,
            data={name: data_facts(corpus) for name, corpus in self.recorded.items()},
            data_hash=content_hash(rows, DATA_COLUMNS),
            augmentation={name: corpus.facts for name, corpus in self.augmented.items() if corpus.facts},
            soft_labels=self.label_facts,
            seconds=self.seconds.total,
            seconds_by_stage=self.seconds.laps,
            resumed=bool(self.arguments.resume_from_checkpoint),
            **self.conditions,
            **environment(self.args.world_size),
        )
        for split, answers in self.predictions.items():
            results.add_split(split, answers)

        return results


def calibration_facts(
    arguments: RunArguments, model: BiBiERForEmotionClassification, logits: np.ndarray, dev: InputDataset
) -> dict[str, Any]:
    """Fit the temperature of the pipeline on dev, 1 if the run does not calibrate; and with several labels at once
    `thresholds`.

    A refit trains on dev, so it has no data to calibrate on and keeps the temperature of the selected checkpoint.

    Args:
        arguments: with `calibrate` and `refit_on_dev`.
        model: the selected checkpoint.
        logits: (N, K), its logits on dev.
        dev: the N rows; every corpus has the same weight.
    """
    wanted = not model.config.original_behavior if arguments.calibrate is None else arguments.calibrate
    logits = np.asarray(logits, dtype=np.float64)
    fitted, note = problem_of(dev.rows).fit(logits, dev.labels, dev.metadata["corpus"], wanted)
    if not fitted or not (wanted or "thresholds" in fitted):
        return {"temperature": 1.0, "fitted_on": None, "samples": 0, "note": None}

    fitted_on = "dev, answered by the selected checkpoint" + (" before the refit" if arguments.refit_on_dev else "")
    return fitted | {"fitted_on": fitted_on, "samples": len(dev), "note": note or None}


class _StopAfter(TrainerCallback):
    """Ends training after a number of epochs, possibly within one."""

    def __init__(self, epochs: float):
        self.epochs = epochs

    def on_step_end(self, args, state, control, **kwargs):
        if state.epoch >= self.epochs:
            control.should_training_stop = True


class _Seconds:
    """Wall-clock time of the steps of a run."""

    def __init__(self):
        self.start = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self.last, 1)
        self.last = now

    @property
    def total(self) -> float:
        return round(self.last - self.start, 1)
