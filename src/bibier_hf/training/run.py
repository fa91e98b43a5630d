"""A run from its arguments to a model folder: data, model, training, selection on dev, one scoring of test, report and card."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import DatasetDict, concatenate_datasets
from transformers import TrainerCallback, set_seed

from ..data.collator import FeatureCollator, RawCollator
from ..data.corpora import load_corpus
from ..data.features import DATA_COLUMNS, InputDataset, content_hash, input_specs, precomputed_inputs, raw_inputs
from ..data.protocols import apply_protocol
from ..evaluation.metrics import METRICS, SELECTION_METRIC
from ..evaluation.report import RESULTS_FILE, Predictions, environment, split_metrics, write_json, write_split_report
from ..hub.cards import write_model_card
from ..model.configuration_bibier import EMOTIONS
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from .arguments import RUN_FILE, ArgumentError, CorpusArguments, FeatureCacheArguments, RunArguments
from .augmentation import AugmentedCorpus, EpochInputs, SetEpoch, join_inputs
from .checkpoints import last_whole_checkpoint
from .lora import LoraAdapters
from .output import REFIT_FOLDER, claim_output, complete_output
from .samplers import class_weights, corpus_weights
from .trainer import BiBiERTrainer

SPLITS = ("train", "dev", "test")


def run_training(run: RunArguments, command: str | None = None) -> dict[str, Any]:
    """Train, select on dev, score test once, and write everything into `run.output_dir`.

    The folder then holds the model with its processor and code (`AutoModel.from_pretrained(folder, trust_remote_code=True)`), the
    card `README.md`, `results.json`, `predictions_<split>.parquet`, `confusion_matrix_<split>_<corpus>.png` and `run.yaml`.

    Args:
        run: the arguments.
        command: the command line that led here, for the card.

    Returns:
        the content of `results.json`, in every process.

    Raises:
        ArgumentError: an output folder that is taken or cannot be written.
        FileNotFoundError, CorpusError, ProtocolError, AudioError: data that are not there or not as they should be.
    """
    clock = _Clock()
    args = run.training_arguments()
    with args.main_process_first(desc="claiming the output folder"):
        finished = claim_output(run, main_process=args.should_save)
    if finished is not None:
        return finished

    # The main process prepares, fetches and computes; the others find it done.
    with args.main_process_first(desc="loading corpora and backbones"):
        recorded = load_corpora(run.corpora)
        augmented = [AugmentedCorpus(rows, corpus.augmentation) for corpus, rows in zip(run.corpora, recorded.values(), strict=True)]
        splits = {name: corpus.splits for name, corpus in zip(recorded, augmented, strict=True)}
        model, processor = build_model(run, args.seed)
    adapters = add_adapters(run, model)
    model.to(args.device)
    clock.lap("load")
    with args.main_process_first(desc="computing features"):
        make = partial(make_inputs, model=model, processor=processor, cache=run.feature_cache)
        inputs = [corpus.inputs(make) for corpus in augmented]
    data = {split: join_inputs([corpus[split] for corpus in inputs]) for split in SPLITS}
    clock.lap("features")

    trainer = _make_trainer(run, model, processor, data["train"], data["dev"])
    trainer.train(resume_from_checkpoint=run.resume_from_checkpoint)
    selection = _selection(trainer)
    predictions = {"dev": Predictions.from_logits(data["dev"].metadata, trainer.predict_logits(data["dev"]))}
    clock.lap("train")
    if run.refit_on_dev:
        trainer, adapters = _refit(run, processor, join_inputs([data["train"], data["dev"]]), selection["epoch"])
        clock.lap("refit")
    predictions["test"] = Predictions.from_logits(data["test"].metadata, trainer.predict_logits(data["test"]))
    clock.lap("test")
    model_facts = _model_facts(trainer.model, run)
    adapters.finish()

    results = {
        "model": model_facts,
        "protocol": {name: protocol_facts(corpus, rows) for corpus, (name, rows) in zip(run.corpora, splits.items(), strict=True)},
        "selection": selection,
        "seed": args.seed,
        "command": command,
        "config": run.public_dump(),
        **environment(args.world_size),
        "data_hash": content_hash(concatenate_datasets([splits[name][split] for name in splits for split in SPLITS]), DATA_COLUMNS),
        "data": {name: _data_facts(rows) for name, rows in recorded.items()},
        "augmentation": {name: corpus.facts for name, corpus in zip(recorded, augmented, strict=True) if corpus.facts},
        "seconds": clock.total,
        "seconds_by_stage": clock.laps,
        "resumed": bool(run.resume_from_checkpoint),
        "metrics": {},
        "metrics_by_language": {},
        "metrics_mean": {},
    }
    for split, answers in predictions.items():
        numbers = split_metrics(answers)
        results["metrics"][split] = numbers["metrics"]
        results["metrics_by_language"][split] = numbers["languages"]
        results["metrics_mean"][split] = numbers["mean"]
    if trainer.is_world_process_zero():
        with complete_output(run.output_dir) as folder:
            trainer.model.save_pretrained(folder)
            processor.save_pretrained(folder)
            for split, answers in predictions.items():
                write_split_report(answers, split, folder)
            (folder / RUN_FILE).write_text(run.to_yaml(), encoding="utf-8")
            write_model_card(results, folder / "README.md")
            write_json(folder / RESULTS_FILE, results)
    trainer.accelerator.wait_for_everyone()
    return results


def load_corpora(corpora: Sequence[CorpusArguments]) -> dict[str, DatasetDict]:
    """train, dev and test of each corpus under its protocol, by the name that its rows carry, in the given order.

    Raises:
        ArgumentError: two corpora whose rows carry the same name, by which results are kept.
    """
    splits = {}
    for corpus in corpora:
        rows = load_corpus(corpus.name, corpus.data_dir, **corpus.options)
        rows = apply_protocol(rows, corpus.protocol, fold=corpus.fold, seed=corpus.split_seed, dev_share=corpus.dev_share)
        name = rows["train"]["corpus"][0]
        if name in splits:
            raise ArgumentError(f"corpora: '{name}' stands twice, and results are kept by the name of the corpus. Leave one out.")
        splits[name] = rows
    return splits


def build_model(run: RunArguments, seed: int) -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    """A new model and its processor; the same weights in every process and at every resume.

    Args:
        run: backbones and options.
        seed: of the initial weights.
    """
    set_seed(seed)
    model = BiBiERForEmotionClassification.from_backbones(
        run.audio_backbone, run.text_backbone, audio_revision=run.audio_revision, text_revision=run.text_revision, **run.model
    )
    processor = BiBiERProcessor.from_backbones(
        run.audio_backbone,
        run.text_backbone,
        audio_revision=run.audio_revision,
        text_revision=run.text_revision,
        max_text_tokens=model.config.max_text_tokens,
        text_prefix=run.text_prefix,
    )
    return model, processor


def add_adapters(run: RunArguments, model: BiBiERForEmotionClassification) -> LoraAdapters:
    """The adapters that the run asks for, in place in the model's backbones."""
    return LoraAdapters(model, run.lora, {"audio": run.audio_backbone, "text": run.text_backbone})


def make_inputs(
    splits: DatasetDict, model: BiBiERForEmotionClassification, processor: BiBiERProcessor, cache: FeatureCacheArguments
) -> dict[str, InputDataset]:
    """What the model reads of each split of a corpus, computed once or to be computed batch by batch."""
    if not cache.enabled:
        return raw_inputs(splits)
    return precomputed_inputs(splits, model, processor, cache.dtype, cache.batch_size, cache.directory)


def make_collator(
    model: BiBiERForEmotionClassification, processor: BiBiERProcessor, cache: FeatureCacheArguments, soft_labels: bool = False
) -> FeatureCollator | RawCollator:
    """The collator for the rows of [`make_inputs`]."""
    if not cache.enabled:
        return RawCollator(processor, soft_labels)
    return FeatureCollator(input_specs(model, processor, cache.dtype), soft_labels)


def _make_trainer(
    run: RunArguments,
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    train: InputDataset | EpochInputs,
    dev: InputDataset | None,
    **overrides: Any,
) -> BiBiERTrainer:
    """The trainer of a run; without `dev` it neither evaluates nor selects."""
    corpora = list(train.metadata["corpus"])
    balanced = run.corpus_balanced_sampling and len(set(corpora)) > 1
    model.config.class_weights = class_weights(
        train.labels, len(EMOTIONS), run.class_weights, sample_weights=corpus_weights(corpora) if balanced else None
    )
    groups = None if dev is None else {"corpus": list(dev.metadata["corpus"]), "language": list(dev.metadata["language"])}
    trainer = BiBiERTrainer(
        model=model,
        args=run.training_arguments(**overrides),
        data_collator=make_collator(model, processor, run.feature_cache, run.soft_labels),
        train_dataset=train,
        eval_dataset=dev,
        processing_class=processor,
        optimizer=run.optimizer,
        scheduler=run.scheduler,
        train_corpora=corpora if balanced else None,
        train_lengths=[duration or 0.0 for duration in train.metadata["duration_s"]] if run.group_by_length else None,
        eval_groups=groups,
        patience=run.patience if dev is not None else None,
    )
    if isinstance(train, EpochInputs):
        trainer.add_callback(SetEpoch(train))
    return trainer


def _refit(
    run: RunArguments, processor: BiBiERProcessor, data: InputDataset | EpochInputs, epochs: float
) -> tuple[BiBiERTrainer, LoraAdapters]:
    """Train anew on train + dev, on the same schedule, for as many epochs as the selected checkpoint had seen."""
    model, _ = build_model(run, run.training_arguments().seed)
    adapters = add_adapters(run, model)
    folder = Path(run.output_dir) / REFIT_FOLDER
    trainer = _make_trainer(
        run, model, processor, data, None, output_dir=str(folder), eval_strategy="no", load_best_model_at_end=False, save_strategy="epoch"
    )
    trainer.add_callback(_StopAfter(epochs))
    trainer.train(resume_from_checkpoint=bool(run.resume_from_checkpoint) and last_whole_checkpoint(folder) is not None)
    return trainer, adapters


class _StopAfter(TrainerCallback):
    """Ends training after a number of epochs, which may end within one."""

    def __init__(self, epochs: float):
        self.epochs = epochs

    def on_step_end(self, args, state, control, **kwargs):
        if state.epoch >= self.epochs:
            control.should_training_stop = True


def _selection(trainer: BiBiERTrainer) -> dict[str, Any]:
    """Which checkpoint was chosen, by what, and the course of the training."""
    state = trainer.state
    evaluations = [entry for entry in state.log_history if f"eval_{SELECTION_METRIC}" in entry]
    chosen = next(entry for entry in evaluations if entry["step"] == state.best_global_step)
    history = [
        {"epoch": entry["epoch"], "dev_loss": entry["eval_loss"]}
        | {f"dev_{name}": entry[f"eval_{name}"] for name in (SELECTION_METRIC, *METRICS)}
        for entry in evaluations
    ]
    return {
        "metric": "mean of UAR, WAR, MF1 and WF1 on dev, averaged over the corpora",
        "value": state.best_metric,
        "epoch": chosen["epoch"],
        "step": state.best_global_step,
        "epochs_run": state.epoch,
        "history": history,
    }


def _model_facts(model: BiBiERForEmotionClassification, run: RunArguments) -> dict[str, Any]:
    public = run.public_dump()
    parameters = list(model.parameters())

    def backbone_training(modality: str) -> str:
        if run.lora and modality in run.lora.backbones:
            return f"LoRA, rank {run.lora.r}"
        return "frozen" if getattr(model.config, f"freeze_{modality}_backbone") else "trained"

    return {
        "audio_backbone": public["audio_backbone"],
        "text_backbone": public["text_backbone"],
        "audio_backbone_training": backbone_training("audio"),
        "text_backbone_training": backbone_training("text"),
        "audio_encoder": model.config.audio_encoder,
        "text_encoder": model.config.text_encoder,
        "fusion": model.config.fusion,
        "labels": list(EMOTIONS),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


def protocol_facts(corpus: CorpusArguments, splits: DatasetDict) -> dict[str, Any]:
    """How a corpus was split, and into how many samples."""
    facts = {"name": corpus.protocol, "fold": corpus.fold} if corpus.protocol != "official" else {"name": corpus.protocol}
    return facts | {"split_seed": corpus.split_seed, "samples": {split: len(rows) for split, rows in splits.items()}}


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
