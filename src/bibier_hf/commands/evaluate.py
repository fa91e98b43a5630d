"""`bibier evaluate`."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import DatasetDict
from pydantic import Field
from scipy.special import softmax
from transformers.utils import CONFIG_NAME

from ..commandline import load_yaml
from ..data.disturbances import CONDITIONS_HELP, Conditions
from ..data.features import InputDataset, content_hash
from ..data.mixture import FeatureCacheArguments, load_corpora, protocol_facts
from ..data.reader import InputReader
from ..errors import ArgumentError
from ..evaluation.calibration import CALIBRATION_METRICS, fit_temperature
from ..evaluation.conditions import losses_table, score_conditions, uar_points
from ..evaluation.plots import plot_conditions
from ..evaluation.prediction import complete_rows, conditions_of, predict_conditions, predict_logits
from ..evaluation.problems import fitted_of
from ..evaluation.report import (
    Predictions,
    calibration_table,
    conditions_table,
    environment,
    metrics_table,
    recall_table,
    risk_table,
    write_split_report,
)
from ..evaluation.results import RESULTS_FILE, EvaluationResults, ResultsError, RunResults
from ..evaluation.unsure import UnsureSection, fit_unsure, least_confidence, store_unsure, unsure_text
from ..files import write_json, writes
from ..hub.cards import CARD_FILE, write_model_card
from ..model.configuration_bibier import SINGLE_LABEL
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from ..training.arguments import RUN_FILE
from .checkpoint import CheckpointOptions, load_checkpoint
from .common import to_json
from .corpora import CorpusOptions, given_labels, warn_of_context

_GIVEN = {"both": "speech and text", "audio": "speech alone", "text": "text alone"}


class EvaluateArguments(CheckpointOptions, CorpusOptions):
    """Score a checkpoint on a split of a corpus, by default the one that it was trained on.

    Examples:
      bibier evaluate outputs/resd --data_dir PATH/TO/resd --split dev --json | jq .metrics
      bibier evaluate outputs/quickstart --corpus resd --data_dir PATH/TO/resd --output_dir outputs/transfer
      bibier evaluate outputs/resd --data_dir PATH/TO/resd --corpora.0.protocol dialogue_grouped
      bibier evaluate outputs/resd --data_dir PATH/TO/resd --modalities
      bibier evaluate outputs/resd --data_dir PATH/TO/resd --conditions white:20 babble:10 g711 mp3:32
      bibier evaluate outputs/resd --data_dir PATH/TO/resd --conditions all
      bibier evaluate outputs/resd --data_dir PATH/TO/resd --split dev --calibrate
      bibier evaluate outputs/resd --data_dir PATH/TO/resd --split dev --fit_unsure --unsure.coverage 0.8

    Writes metrics, recall per class, calibration, pictures (PNG), predictions (Parquet), and a report (JSON).
    """

    split: Literal["train", "dev", "test"] = Field("test", description="train, dev or test")
    output_dir: str = Field(
        description="folder of the report; default: CHECKPOINT/evaluation, or evaluation-NAME for another corpus; "
        "outputs/CHECKPOINT/... if that is not a folder"
    )
    batch_size: int = Field(16, ge=1, description="utterances per step")
    as_json: bool = Field(False, alias="json", description="print the report as JSON instead of tables")
    feature_cache: FeatureCacheArguments = Field(default_factory=FeatureCacheArguments)
    modalities: bool = Field(False, description="also score speech alone and text alone, on rows that have both")
    conditions: Conditions = Field([], description=CONDITIONS_HELP + "; implies modalities")
    conditions_seed: int = Field(0, ge=0, description="seed of the disturbances")
    calibrate: bool = Field(
        False,
        description="first fit the temperature on this split (train or dev), and store it in the checkpoint's config.json, "
        "results, and card",
    )
    fit_unsure: bool = Field(
        False,
        description="fit what makes answers unsure: the confidence limit on this split (train or dev), and the speech check on "
        "train; store both in the checkpoint",
    )
    unsure: UnsureSection = Field(default_factory=UnsureSection)
    add_to_results: bool = Field(
        False, description=f"add modalities and conditions to the checkpoint's {RESULTS_FILE}, which its card shows"
    )

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the checkpoint was trained on, unless another corpus is given."""
        if "checkpoint" not in given:
            return {}
        folder = Path(given["checkpoint"])
        # A new folder with the name of a checkpoint elsewhere would be mistaken for it later.
        place = folder if folder.is_dir() else Path("outputs") / folder.name
        content: dict[str, Any] = {"output_dir": str(place / "evaluation")}

        run_file = folder / RUN_FILE
        if run_file.is_file():
            run = load_yaml(run_file)
            content |= {key: run[key] for key in ("corpora", "feature_cache") if key in run}

        if "corpus" in given:
            content.pop("corpora", None)
            content["output_dir"] += f"-{_corpus_name(given)}"
        return content


def _corpus_name(given: Mapping[str, Any]) -> str:
    """Return the name of the `--corpus` for a folder; for a table, that of its file."""
    file = Path(str(given.get("data_dir") or "")).stem
    name = file if given["corpus"] == "csv" and file else Path(str(given["corpus"])).stem
    return re.sub(r"[^\w.-]+", "_", name)


def _refuse_to_overwrite(folder: Path, split: str, protocol: dict[str, Any]) -> None:
    """Raise an error rather than overwrite a training run, or the evaluation of another corpus or protocol."""
    if (folder / RESULTS_FILE).is_file():
        raise ArgumentError(f"output_dir: {folder} holds the results of a run. Give another --output_dir.")

    file = folder / f"evaluation_{split}.json"
    try:
        earlier = EvaluationResults.load(file).protocol
    except (FileNotFoundError, ResultsError):
        return

    if earlier != protocol:
        raise ArgumentError(
            f"output_dir: {file} is about other corpora or another protocol ({', '.join(earlier)}). Give another "
            "--output_dir."
        )


def evaluate_checkpoint(arguments: EvaluateArguments) -> EvaluationResults:
    """Score a checkpoint, and write `evaluation_<split>.json`, `predictions_<split>.parquet`, and for each corpus a
    confusion matrix and a reliability diagram.

    Probabilities are those of the pipeline, with the temperature of the checkpoint, which `calibrate` refits first.

    Returns:
        the content of the JSON file. `calibration` holds the `temperature`, and ECE, Brier score, and NLL without it
        (`uncalibrated.{split}.{corpus}`).

    Raises:
        ArgumentError: the checkpoint does not exist, rows lack the modality to score, or the folder has other results.
        FileNotFoundError, CorpusError, ProtocolError: data is missing or invalid.
    """
    _refuse_contradictions(arguments)
    model, processor = load_checkpoint(arguments.checkpoint, arguments.backbone_dir)
    return _evaluate(arguments, model, processor)


def _changed_checkpoint(arguments: EvaluateArguments, *_: Any) -> str | None:
    """The folder of the checkpoint, if the evaluation changes it."""
    changes = arguments.calibrate or arguments.fit_unsure or arguments.add_to_results
    return arguments.checkpoint if changes else None


@writes(lambda arguments, *_: arguments.output_dir, left="What was there before is whole.")
@writes(_changed_checkpoint, left="What was there before is whole.")
def _evaluate(
    arguments: EvaluateArguments, model: BiBiERForEmotionClassification, processor: BiBiERProcessor
) -> EvaluationResults:
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    if arguments.conditions and "audio" not in model.config.modalities:
        raise ArgumentError(
            "conditions: the checkpoint takes only text, so there is no audio to disturb. Leave them out."
        )
    for key in ("calibrate", "conditions") if model.config.problem_type != SINGLE_LABEL else ():
        if getattr(arguments, key):
            raise ArgumentError(
                f"{key}: works only for models with one label per clip; this one is for {model.config.problem_type}."
            )

    folder, checkpoint, split = Path(arguments.output_dir), Path(arguments.checkpoint), arguments.split
    names = given_labels(arguments, model.config)
    needed = [split, "train"] if arguments.fit_unsure else [split]
    splits = load_corpora(arguments.corpora, names, str(model.config.problem_type), needed)
    protocol = {
        name: protocol_facts(corpus, rows)
        for corpus, (name, rows) in zip(arguments.corpora, splits.items(), strict=True)
    }
    warn_of_context(arguments.corpora, splits, model.config)
    run = RunResults.load(checkpoint / RESULTS_FILE) if arguments.add_to_results else None
    if run is not None and run.protocol != protocol:
        raise ArgumentError("add_to_results: the run has other corpora or another protocol. Leave it out.")
    _refuse_to_overwrite(folder, split, protocol)

    reader = InputReader(model, processor, arguments.feature_cache)
    dataset = reader.split(splits, split)
    logits = predict_logits(model, dataset, reader.collator, arguments.batch_size)
    fitted = {}
    if arguments.calibrate:
        fitted = {"fitted_on": split, "note": _calibrate(arguments.checkpoint, model, logits, dataset, split)}

    predictions = Predictions.from_logits(dataset.metadata, logits, **fitted_of(model.config))
    write_split_report(predictions, split, folder)
    unsure = {}
    if arguments.fit_unsure:
        unsure = fit_unsure(model, processor, splits, predictions.probabilities, arguments.unsure)
        store_unsure(checkpoint, model)
        if (checkpoint / RESULTS_FILE).is_file():
            earlier = RunResults.load(checkpoint / RESULTS_FILE)
            _rewrite_run(checkpoint, replace(earlier, unsure=earlier.unsure | unsure))

    uncalibrated = {split: predictions.calibration_by_corpus(calibrated=False)}
    results = EvaluationResults(
        checkpoint=checkpoint.name if checkpoint.is_dir() else arguments.checkpoint,
        protocol=protocol,
        data_hash={name: content_hash(rows[split]) for name, rows in splits.items()},
        calibration={"temperature": model.config.temperature, "uncalibrated": uncalibrated} | fitted,
        unsure=unsure,
        **environment(),
    )
    results.add_split(split, predictions)

    if arguments.modalities or arguments.conditions:
        found = robustness(arguments, model, splits, dataset, reader)
        results = replace(results, **found)
        if run is not None:  # keeps other splits
            run = RunResults.load(checkpoint / RESULTS_FILE)  # as `calibrate` has left it
            _rewrite_run(checkpoint, replace(run, **{key: getattr(run, key) | found[key] for key in found}))

    results.write(folder / f"evaluation_{split}.json")
    return results


def _calibrate(
    checkpoint: str, model: BiBiERForEmotionClassification, logits: np.ndarray, dataset: InputDataset, split: str
) -> str | None:
    """Fit the temperature to these logits (N, 7) of a split, and store it in the model and its checkpoint. Returns a note
    for the report."""
    fit = fit_temperature(logits, dataset.labels, dataset.metadata["corpus"])
    folder, before, least = Path(checkpoint), model.config.temperature, model.config.least_confidence
    if least is not None:  # the new limit accepts as many answers as the old one
        coverage = (softmax(logits / before, axis=-1).max(1) >= least).mean()
        model.config.least_confidence = least_confidence(softmax(logits / fit.temperature, axis=-1), float(coverage))
    if (folder / RESULTS_FILE).is_file():
        calibration = {"temperature": fit.temperature, "fitted_on": f"{split}, after training", "note": fit.note}
        _recalibrate_run(folder, before, calibration | {"samples": len(dataset)})

    model.config.temperature = fit.temperature
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    changed = {"temperature": fit.temperature, "least_confidence": model.config.least_confidence}
    write_json(folder / CONFIG_NAME, config | changed)
    return fit.note


def _recalibrate_run(folder: Path, before: float, calibration: dict[str, Any]) -> None:
    """Recompute the results, predictions, pictures, and card of a training run for another temperature.

    Numbers that cannot be computed from the stored predictions are removed, as they belong to the old temperature.

    Args:
        folder: of the run.
        before: temperature of the stored predictions.
        calibration: the new `temperature`, and what it was fitted on.
    """
    results = RunResults.load(folder / RESULTS_FILE)
    for split, by_corpus in results.metrics.items():
        file = folder / f"predictions_{split}.parquet"
        if file.is_file():
            stored = Predictions.load(file)
            logits = before * np.log(np.maximum(stored.probabilities, np.finfo(float).tiny))
            scaled = softmax(logits / calibration["temperature"], axis=-1)
            answers = replace(stored, probabilities=scaled, uncalibrated=softmax(logits, axis=-1))
            write_split_report(answers, split, folder)
            results.metrics[split] = answers.metrics_by_corpus()
        else:
            for numbers in by_corpus.values():
                for name in CALIBRATION_METRICS:
                    numbers.pop(name, None)

    results.calibration |= calibration
    _rewrite_run(folder, replace(results, modalities={}, conditions={}, conditions_audio={}, conditions_settings={}))


def _rewrite_run(folder: Path, results: RunResults) -> None:
    """Write the results of a training run, and its card."""
    results.write(folder / RESULTS_FILE)
    if (folder / CARD_FILE).is_file():
        write_model_card(results, folder / CARD_FILE)


def robustness(
    arguments: EvaluateArguments,
    model: BiBiERForEmotionClassification,
    splits: dict[str, DatasetDict],
    dataset: InputDataset,
    reader: InputReader,
) -> dict[str, Any]:
    """Score the model with missing modalities and disturbed speech, on the rows that have all of its modalities.

    Args:
        arguments: split, conditions and batch size.
        model: the checkpoint, in evaluation mode.
        splits: the corpora.
        dataset: their rows of the split, as the model reads them.
        reader: how it reads them.

    Returns:
        `modalities.{split}.{corpus}.{both, audio, text}`, and with conditions also what
        [`~bibier_hf.evaluation.conditions.score_conditions`] returns. Draws `conditions_<split>_<corpus>.png`.
    """
    split, temperature, given = arguments.split, model.config.temperature, conditions_of(model)
    data = dataset.select(complete_rows(splits, split, model.config.modalities))
    logits = predict_conditions(model, data, reader.collator, arguments.batch_size, given, "Missing modalities")
    alone: dict[str, dict[str, Any]] = {corpus: {} for corpus in splits}
    for name in given:
        predictions = Predictions.from_logits(data.metadata, logits[name], **fitted_of(model.config))
        for corpus, metrics in predictions.metrics_by_corpus().items():
            alone[corpus][name] = metrics

    found: dict[str, Any] = {"modalities": {split: alone}}
    if not arguments.conditions:
        return found

    batch_size, seed = arguments.batch_size, arguments.conditions_seed
    found |= score_conditions(model, reader, splits, split, arguments.conditions, temperature, batch_size, seed)
    for corpus, scores in alone.items():
        heard = [name for name in given if name != "text"]
        series = {
            _GIVEN[name]: uar_points(found[key][split][corpus])
            for name, key in zip(heard, ("conditions", "conditions_audio"), strict=False)
        }
        levels = {_GIVEN["text"]: scores["text"]["uar"]} if "text" in scores else {}
        path = Path(arguments.output_dir) / f"conditions_{split}_{corpus}.png"
        plot_conditions(series, levels, len(model.config.label_names), path, f"{corpus}, {split}")

    return found


def _refuse_contradictions(arguments: EvaluateArguments) -> None:
    for name, kept in (("calibrate", "temperature"), ("fit_unsure", "limits")):
        if not getattr(arguments, name):
            continue
        if arguments.split == "test":
            raise ArgumentError(f"{name}: fitting on test would make its scores meaningless. Give --split dev.")
        if not (Path(arguments.checkpoint) / CONFIG_NAME).is_file():
            verb = "are" if kept == "limits" else "is"
            raise ArgumentError(
                f"{name}: {arguments.checkpoint} is not a folder with a {CONFIG_NAME}, where the {kept} {verb} kept."
            )

    if arguments.unsure != UnsureSection() and not arguments.fit_unsure:
        raise ArgumentError("unsure: these options fit when answers are unsure. Give --fit_unsure as well.")
    if not arguments.add_to_results:
        return
    if not (arguments.modalities or arguments.conditions):
        raise ArgumentError("add_to_results: there is nothing to add. Give --modalities or --conditions.")
    if not (Path(arguments.checkpoint) / RESULTS_FILE).is_file():
        raise ArgumentError(f"add_to_results: {arguments.checkpoint} holds no {RESULTS_FILE} of a run. Leave it out.")


def evaluate(arguments: EvaluateArguments) -> None:
    """Score the checkpoint and print the report."""
    results = evaluate_checkpoint(arguments)
    if arguments.as_json:
        print(to_json(results.to_json(), indent=2))
        return

    split = arguments.split
    metrics = results.metrics[split]
    print(f"{arguments.checkpoint}, {split}:\n")
    print(metrics_table(metrics))
    print(f"\n{recall_table(metrics)}")

    calibration = results.calibration
    fitted = f", fitted on {split} and kept in {arguments.checkpoint}" if arguments.calibrate else ""
    if calibration["uncalibrated"][split]:
        print(f"\nCalibration, temperature {calibration['temperature']:.3f}{fitted} (ECE in percent):\n")
        print(calibration_table(calibration["uncalibrated"][split], metrics))
    if calibration.get("note"):
        print(f"\nNote: {calibration['note']}.")

    for corpus, points in results.risk_coverage[split].items():
        print(f"\nMost confident answers first, {corpus}, in percent:\n\n{risk_table(points)}")
    if results.unsure:
        print(f"\n{unsure_text(results.unsure)}")

    if results.modalities:
        print("\nInput of the model:\n")
        print(conditions_table(results.modalities[split], "given"))
    for key, given in (("conditions", "with the text, if it reads text"), ("conditions_audio", "speech alone")):
        if numbers := getattr(results, key):
            print(f"\nDisturbed speech, {given} (loss against clean speech, in points):\n")
            print(losses_table(numbers[split]))

    print(f"\nThe report is in {arguments.output_dir}.")
