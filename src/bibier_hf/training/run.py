"""A run from its arguments to a model folder: data, model, training, selection on dev, one scoring of test, report and
card."""

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import numpy as np
from datasets import DatasetDict, concatenate_datasets

from ..data.features import DATA_COLUMNS, content_hash
from ..data.label_tables import attach_label_tables
from ..data.mixture import load_corpora, protocol_facts
from ..data.schema import SPLITS
from ..evaluation.report import Predictions, environment, write_split_report
from ..evaluation.results import RESULTS_FILE, RunResults
from ..files import write_text, writes
from ..hub.cards import CARD_FILE, write_model_card
from ..hub.eval_results import write_eval_results
from ..hub.push import open_repository, push_model
from ..kernels import load_kernels
from ..memory import keep_freed_memory
from ..model.labels_bibier import EMOTIONS
from ..model.modeling_bibier import BiBiERForEmotionClassification
from .arguments import RUN_FILE, RunArguments, stage_run
from .augmentation import AugmentedCorpus
from .checkpoints import last_whole_checkpoint
from .fit import add_adapters, build_model, calibration_facts, make_inputs, make_trainer, refit, selection_facts
from .logit_adjustment import adjustment_facts, shift_classifiers
from .output import claim_output, complete_output
from .rows import fixed_rows
from .stages import frozen_encoders, plan_folds, train_encoders


def _what_is_left(run: RunArguments, command: str | None = None) -> str:
    checkpoint = last_whole_checkpoint(run.output_dir)
    if checkpoint is None:
        return "There is no whole checkpoint yet: start again."
    return f"{checkpoint} is whole: go on with --resume_from_checkpoint true."


@writes(lambda run, command=None: run.output_dir, left=_what_is_left)
def run_training(run: RunArguments, command: str | None = None) -> RunResults:
    """Train, select on dev, score test once, and write everything into `run.output_dir`.

    The folder then holds the model with its processor and code
    (`AutoModel.from_pretrained(folder, trust_remote_code=True)`), the card `README.md`, `.eval_results`,
    `results.json`, `predictions_<split>.parquet`, `confusion_matrix_<split>_<corpus>.png`,
    `reliability_<split>_<corpus>.png` and `run.yaml`. With `push_to_hub` it is then pushed, without predictions and
    `run.yaml`.

    Args:
        run: the arguments.
        command: the command line that led here, for the card.

    Returns:
        what `results.json` holds, in every process.

    Raises:
        ArgumentError: an output folder that is taken.
        LockedError, WriteError: another run writes into the output folder, or it cannot be written.
        FileNotFoundError, CorpusError, ProtocolError, AudioError: data that are not there or not as they should be.
        PushError: a Hub that cannot be pushed to, told before training; or a push that failed, with the folder
            complete.
    """
    clock = _Clock()
    args = run.training_arguments()
    with args.main_process_first(desc="claiming the output folder"):
        finished = claim_output(run, main_process=args.should_save)
    if finished is not None:
        return finished
    if run.push_to_hub and run.hub_model_id is not None and args.should_save:
        open_repository(run.hub_model_id, private=run.hub_private_repo)

    keep_freed_memory()
    load_kernels(build_missing=True)
    # The main process prepares and fetches; the others find it done.
    with args.main_process_first(desc="loading corpora and backbones"):
        recorded, label_facts = attach_label_tables(
            load_corpora(run.corpora), [corpus.label_tables for corpus in run.corpora]
        )
        model, processor = build_model(run, args.seed)
        folds, fold_facts = plan_folds(run, model, recorded)
        augmented = {
            name: AugmentedCorpus(rows, corpus.augmentation, folds.get(name))
            for corpus, (name, rows) in zip(run.corpora, recorded.items(), strict=True)
        }
        splits = {name: corpus.splits for name, corpus in augmented.items()}
    adapters = add_adapters(run, model)
    model.to(args.device)
    clock.lap("load")
    data = make_inputs(augmented.values(), model, processor, run.feature_cache)
    clock.lap("features")

    stages = None
    with ExitStack() as until_fused:
        if run.stages.plan == "two_stage":
            train_folds = np.concatenate([corpus.folds for corpus in augmented.values()]) if folds else None
            stages, logits = train_encoders(run, model, processor, data, train_folds)
            stages |= fold_facts
            clock.lap("encoders")
            until_fused.enter_context(frozen_encoders(model))
            data = make_inputs(
                augmented.values(), model, processor, run.feature_cache
            )  # of the backbones that were trained
            data = data._replace(train=[fixed_rows(data.train).with_columns(logits)])
        fusion_run = run if stages is None else stage_run(run, "fusion", run.output_dir)
        trainer = make_trainer(fusion_run, model, processor, data.train, data.dev)
        trainer.train(resume_from_checkpoint=_where_to_resume(run))
        selection = selection_facts(trainer)
        logits_on_dev = trainer.predict_logits(data.dev)
        adjustment = adjustment_facts(run, logits_on_dev, trainer.train_dataset, data.dev)
        if adjustment is not None:
            logits_on_dev = logits_on_dev + np.array(adjustment["shift"], dtype=logits_on_dev.dtype)
        calibration = calibration_facts(run, trainer.model, logits_on_dev, data.dev)
        temperature = calibration["temperature"]
        predictions = {"dev": Predictions.from_logits(data.dev.metadata, logits_on_dev, temperature)}
        clock.lap("train")
        if run.refit_on_dev:
            trainer, adapters = refit(run, processor, [*data.train, data.dev], selection["epoch"])
            clock.lap("refit")
        if adjustment is not None:
            shift_classifiers(trainer.model, adjustment["shift"])
        predictions["test"] = Predictions.from_logits(
            data.test.metadata, trainer.predict_logits(data.test), temperature
        )
        clock.lap("test")
    model_facts = _model_facts(trainer.model, run)
    adapters.finish()
    trainer.model.config.temperature = temperature

    results = RunResults(
        model=model_facts,
        protocol={
            name: protocol_facts(corpus, rows)
            for corpus, (name, rows) in zip(run.corpora, splits.items(), strict=True)
        },
        selection=selection,
        stages=stages,
        logit_adjustment=adjustment,
        calibration=calibration
        | {
            "uncalibrated": {
                split: answers.calibration_by_corpus(calibrated=False) for split, answers in predictions.items()
            }
        },
        date=datetime.now(UTC).date().isoformat(),
        seed=args.seed,
        command=command,
        config=run.public_dump(),
        data_hash=content_hash(
            concatenate_datasets([splits[name][split] for name in splits for split in SPLITS]), DATA_COLUMNS
        ),
        data={name: _data_facts(rows) for name, rows in recorded.items()},
        augmentation={name: corpus.facts for name, corpus in augmented.items() if corpus.facts},
        soft_labels=label_facts,
        seconds=clock.total,
        seconds_by_stage=clock.laps,
        resumed=bool(run.resume_from_checkpoint),
        **environment(args.world_size),
    )
    for split, answers in predictions.items():
        results.add_split(split, answers)
    if trainer.is_world_process_zero():
        with complete_output(run.output_dir) as folder:
            trainer.model.save_pretrained(folder)
            processor.save_pretrained(folder)
            for split, answers in predictions.items():
                write_split_report(answers, split, folder)
            write_text(folder / RUN_FILE, run.to_yaml())
            write_model_card(results, folder / CARD_FILE)
            write_eval_results(results, folder)
            results.write(folder / RESULTS_FILE)
    trainer.accelerator.wait_for_everyone()
    if run.push_to_hub and run.hub_model_id is not None and trainer.is_world_process_zero():
        push_model(run.output_dir, run.hub_model_id, private=run.hub_private_repo)
    return results


def _where_to_resume(run: RunArguments) -> bool | str:
    """As the run says; a run of two stages may have been stopped before its last one began."""
    if run.resume_from_checkpoint is True and run.stages.plan == "two_stage":
        return last_whole_checkpoint(run.output_dir) is not None
    return run.resume_from_checkpoint


def _model_facts(model: BiBiERForEmotionClassification, run: RunArguments) -> dict[str, Any]:
    public = run.public_dump()
    parameters = list(model.parameters())

    def backbone_training(modality: str) -> str:
        if run.lora and modality in run.lora.backbones:
            return f"LoRA, rank {run.lora.r}"
        return "frozen" if model.config.modality_configs[modality].freeze_backbone else "trained"

    return {
        "audio_backbone": public["audio_backbone"],
        "text_backbone": public["text_backbone"],
        "audio_backbone_training": backbone_training("audio"),
        "text_backbone_training": backbone_training("text"),
        "audio_encoder": model.config.modality_configs["audio"].encoder,
        "text_encoder": model.config.modality_configs["text"].encoder,
        "fusion": model.config.fusion,
        "labels": list(EMOTIONS),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


def _data_facts(splits: DatasetDict) -> dict[str, Any]:
    """Languages, sources, licences and hours of a corpus."""
    values = {name: set() for name in ("language", "source", "license")}
    seconds = 0.0
    for rows in splits.values():
        for name, found in values.items():
            found.update(rows[name])
        seconds += sum(duration or 0.0 for duration in rows["duration_s"])
    return {name: sorted(found) for name, found in values.items()} | {"hours": round(seconds / 3600, 2)}


class _Clock:
    """Seconds of the stages of a run."""

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
