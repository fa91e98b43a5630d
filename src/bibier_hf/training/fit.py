"""The pieces of a run: model, inputs, collator, trainer, and what was selected."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import DatasetDict
from transformers import TrainerCallback, set_seed

from ..data.collator import FeatureCollator, RawCollator
from ..data.features import InputDataset, InputExtractor, input_specs, raw_inputs
from ..data.mixture import FeatureCacheArguments
from ..errors import ArgumentError
from ..evaluation.calibration import fit_temperature
from ..evaluation.metrics import METRICS, SELECTION_FORMULA, SELECTION_METRIC
from ..model.configuration_bibier import EMBEDDED, MODALITIES
from ..model.encoders_bibier import StatisticsPooling
from ..model.labels_bibier import EMOTIONS
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from .arguments import RunArguments
from .augmentation import AugmentedCorpus
from .checkpoints import last_whole_checkpoint
from .lora import LoraAdapters
from .output import REFIT_FOLDER
from .rows import RowSource, SoftTargets, TrainingRows
from .samplers import class_weights, corpus_weights
from .trainer import BiBiERTrainer


def build_model(run: RunArguments, seed: int) -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    """A new model and its processor; the same weights in every process and at every resume.

    Args:
        run: backbones and options.
        seed: of the initial weights.

    Raises:
        ArgumentError: options of the model that are unknown or contradict each other, or a backbone that cannot be
            used.
    """
    set_seed(seed)
    read = run.model.get("modalities") or MODALITIES
    audio, text = (
        name if modality in read else None
        for modality, name in (("audio", run.audio_backbone), ("text", run.text_backbone))
    )
    revisions = {"audio_revision": run.audio_revision, "text_revision": run.text_revision}
    try:
        model = BiBiERForEmotionClassification.from_backbones(audio, text, **revisions, **run.model)
    except ValueError as error:
        raise ArgumentError(str(error)) from error
    except OSError as error:
        raise ArgumentError(
            f"audio_backbone {audio!r} or text_backbone {text!r} cannot be loaded; each is a Hub id, a folder with a "
            "config.json, "
            f"or {EMBEDDED!r}: {error}"
        ) from error
    _freeze(model, run.frozen)
    # The processor always knows both modalities; what the model does not read costs nothing there.
    processor = BiBiERProcessor.from_backbones(
        audio or EMBEDDED,
        text or EMBEDDED,
        **revisions,
        max_text_tokens=model.config.modality_configs["text"].max_tokens,
        max_window_s=model.config.modality_configs["audio"].max_window_s,
        text_prefix=run.text_prefix,
    )
    return model, processor


def _freeze(model: BiBiERForEmotionClassification, prefixes: Sequence[str]) -> None:
    for prefix in prefixes:
        parameters = [parameter for name, parameter in model.named_parameters() if name.startswith(prefix)]
        if not parameters:
            parts = sorted({".".join(name.split(".")[:4]) for name, _ in model.named_parameters()})
            raise ArgumentError(
                f"frozen: no parameter's name begins with '{prefix}'. They begin with {', '.join(parts)}."
            )
        for parameter in parameters:
            parameter.requires_grad_(False)


def add_adapters(run: RunArguments, model: BiBiERForEmotionClassification) -> LoraAdapters:
    """The adapters that the run asks for, in place in the model's backbones."""
    return LoraAdapters(model, run.lora, {"audio": run.audio_backbone, "text": run.text_backbone})


class RunInputs(NamedTuple):
    """What the model reads in a run, over all corpora. The training rows stay apart by corpus ([`TrainingRows`] joins
    them)."""

    train: list[RowSource]
    dev: InputDataset
    test: InputDataset


def make_inputs(
    corpora: Iterable[AugmentedCorpus],
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    cache: FeatureCacheArguments,
) -> RunInputs:
    """Return what the model reads: computed once, by all processes, or batch by batch in training."""
    compute = make_extractor(model, processor, cache).inputs if cache.enabled else raw_inputs
    train, dev, test = zip(*(corpus.inputs(compute) for corpus in corpora), strict=True)
    return RunInputs(list(train), InputDataset.concatenate(dev), InputDataset.concatenate(test))


def inputs_of_split(
    corpora: Mapping[str, DatasetDict],
    split: str,
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    cache: FeatureCacheArguments,
) -> InputDataset:
    """Return what the model reads of one split, over all corpora; nothing is computed for the other splits."""
    compute = make_extractor(model, processor, cache).inputs if cache.enabled else raw_inputs
    return InputDataset.concatenate([compute({split: rows[split]})[split] for rows in corpora.values()])


def make_extractor(
    model: BiBiERForEmotionClassification, processor: BiBiERProcessor, cache: FeatureCacheArguments
) -> InputExtractor:
    """What fills the stores of a run."""
    return InputExtractor(model, processor, cache.dtype, cache.compute_dtype, cache.batch_size, cache.directory)


def make_collator(
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    cache: FeatureCacheArguments,
) -> FeatureCollator | RawCollator:
    """The collator for the rows of [`make_inputs`]."""
    if not cache.enabled:
        return RawCollator(processor)
    return FeatureCollator(input_specs(model, processor, cache.dtype))


def fit_statistics(model: BiBiERForEmotionClassification, train: TrainingRows) -> None:
    """Standardise the statistics of encoders that pool them ([`~bibier_hf.model.encoders_bibier.StatisticsPooling`])
    over the training set.

    Raises:
        ArgumentError: features that are not stored, as the backbone is trained or nothing is computed beforehand.
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
                    f"model.{modality}_config.{option} needs stored features of a frozen backbone. Leave feature_cache enabled and "
                    f"model.{modality}_config.freeze_backbone true, or leave it out."
                )
            if len(row[name]):
                features = row[name].unsqueeze(0)
                mask = torch.ones(features.shape[:2], dtype=torch.bool)
                for pooling, part in encoder.pooled_parts(features):
                    found[pooling].append(pooling.statistics(part, mask))
        for pooling, rows in found.items():
            statistics = torch.cat(rows)
            pooling.fit(statistics.mean(0), statistics.std(0, correction=0))


def make_trainer(
    run: RunArguments,
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    sources: Sequence[RowSource],
    dev: InputDataset | None,
    **overrides: Any,
) -> BiBiERTrainer:
    """The trainer of a run; without `dev` it neither evaluates nor selects."""
    args = run.training_arguments(**overrides)
    targets = SoftTargets(run.smoothing_probability, run.label_smoothing_mode, run.gold_weight, args.seed)
    train = TrainingRows(sources, targets if run.soft_labels else None)
    fit_statistics(model, train)
    draws = draws_per_sample(run, train)
    model.config.class_weights = class_weights(train.labels, len(EMOTIONS), run.class_weights, sample_weights=draws)
    groups = (
        None if dev is None else {"corpus": list(dev.metadata["corpus"]), "language": list(dev.metadata["language"])}
    )
    lengths = train.lengths if run.group_by_length else None
    balanced = None if draws is None else list(train.metadata["corpus"])
    return BiBiERTrainer(
        model=model,
        args=args,
        data_collator=make_collator(model, processor, run.feature_cache),
        train_dataset=train,
        eval_dataset=dev,
        processing_class=processor,
        optimizer=run.optimizer,
        scheduler=run.scheduler,
        backbone_learning_rate=run.backbone_learning_rate,
        train_corpora=balanced,
        train_lengths=lengths,
        eval_groups=groups,
        patience=run.patience if dev is not None else None,
    )


def draws_per_sample(run: RunArguments, train: TrainingRows) -> np.ndarray | None:
    """(N,) how often each training sample is drawn in an epoch, on average; None where every one is drawn once."""
    corpora = list(train.metadata["corpus"])
    return corpus_weights(corpora) if run.corpus_balanced_sampling and len(set(corpora)) > 1 else None


def refit(
    run: RunArguments, processor: BiBiERProcessor, sources: Sequence[RowSource], epochs: float
) -> tuple[BiBiERTrainer, LoraAdapters]:
    """Train anew on train + dev, on the same schedule, for as many epochs as the selected checkpoint had seen."""
    model, _ = build_model(run, run.training_arguments().seed)
    adapters = add_adapters(run, model)
    folder = Path(run.output_dir) / REFIT_FOLDER
    trainer = make_trainer(
        run,
        model,
        processor,
        sources,
        None,
        output_dir=str(folder),
        eval_strategy="no",
        load_best_model_at_end=False,
        save_strategy="epoch",
    )
    trainer.add_callback(_StopAfter(epochs))
    trainer.train(
        resume_from_checkpoint=bool(run.resume_from_checkpoint) and last_whole_checkpoint(folder) is not None
    )
    return trainer, adapters


class _StopAfter(TrainerCallback):
    """Ends training after a number of epochs, which may end within one."""

    def __init__(self, epochs: float):
        self.epochs = epochs

    def on_step_end(self, args, state, control, **kwargs):
        if state.epoch >= self.epochs:
            control.should_training_stop = True


def selection_facts(trainer: BiBiERTrainer) -> dict[str, Any]:
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
        "metric": SELECTION_FORMULA,
        "value": state.best_metric,
        "epoch": chosen["epoch"],
        "step": state.best_global_step,
        "epochs_run": state.epoch,
        "history": history,
    }


def calibration_facts(
    run: RunArguments, model: BiBiERForEmotionClassification, logits: np.ndarray, dev: InputDataset
) -> dict[str, Any]:
    """The temperature of the pipeline, and what it was fitted on; 1 where the run asks for none.

    A refit trains on dev, so nothing is left to calibrate it on: it keeps the temperature of the selected checkpoint.

    Args:
        run: its `calibrate` and `refit_on_dev`.
        model: of the selected checkpoint.
        logits: (N, 7), its answers on dev.
        dev: the N rows; every corpus counts the same.
    """
    wanted = not model.config.original_behavior if run.calibrate is None else run.calibrate
    if not wanted:
        return {"temperature": 1.0, "fitted_on": None, "samples": 0, "note": None}
    fit = fit_temperature(logits, dev.labels, dev.metadata["corpus"])
    fitted_on = "dev, answered by the selected checkpoint" + (" before the refit" if run.refit_on_dev else "")
    return {"temperature": fit.temperature, "fitted_on": fitted_on, "samples": len(dev), "note": fit.note}
