"""`bibier baseline`."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from datasets import DatasetDict, concatenate_datasets
from pydantic import Field, model_validator

from ..commandline import Positional
from ..data.features import content_hash
from ..data.mixture import FeatureCacheArguments, protocol_facts
from ..errors import ArgumentError
from ..evaluation.baselines import MODALITY, Outcome, corpus_features, fuse, pooled_features, run_baseline
from ..evaluation.metrics import METRICS
from ..evaluation.report import Predictions, environment, metrics_table, recall_table, write_split_report
from ..evaluation.results import RESULTS_FILE, BaselineResults
from ..files import writes
from ..tables import percent
from .corpora import CorpusOptions

LATE_FUSION = "late_fusion"
BASELINES = (*MODALITY, LATE_FUSION)


class BaselineArguments(CorpusOptions):
    """Fit a scikit-learn baseline that a model has to beat, and report it like a training run.

    Examples:
      bibier baseline mfcc_svm --corpus resd --data_dir PATH/TO/resd
      bibier baseline mfcc_svm --corpus resd --data_dir PATH/TO/resd --protocol dialogue_grouped --fold all
      bibier baseline tfidf_logreg --corpus csv --data_dir PATH/TO/table.csv --class_weights none
      bibier baseline late_fusion --corpus resd --data_dir PATH/TO/resd
      bibier baseline late_fusion --corpus resd --data_dir PATH/TO/resd --parts pooled_audio_logreg,pooled_text_logreg
          --audio_backbone openai/whisper-base --text_backbone intfloat/multilingual-e5-small
      bibier baseline who_speaks --corpus resd --data_dir PATH/TO/resd

    Writes results.json, predictions and confusion matrices.
    """

    baseline: Annotated[Literal[BASELINES], Positional("BASELINE")] = Field(description=", ".join(BASELINES))
    output_dir: str = Field(description="folder of results.json and predictions; default: outputs/baseline-<name>")
    class_weights: Literal["balanced", "none"] = Field("balanced", description="weights of the classes in training")
    strengths: list[float] | None = Field(None, description="values of C to try on dev; null: those of the baseline")
    refit_on_dev: bool = Field(True, description="train again on train + dev with what dev chose, before scoring test")
    parts: list[Literal[tuple(MODALITY)]] = Field(
        ["mfcc_svm", "tfidf_logreg"], min_length=2, max_length=2, description="the two baselines of late_fusion"
    )
    fusion_weight: float | None = Field(0.5, ge=0, le=1, description="weight of the first part; null: chosen on dev")
    audio_backbone: str | None = Field(None, description="speech model of pooled_audio_logreg: Hub id or folder")
    audio_revision: str | None = Field(None, description="its branch, tag or commit on the Hub")
    audio_layer: int = Field(-1, ge=-1, description="hidden state to pool; -1: the output")
    text_backbone: str | None = Field(None, description="text model of pooled_text_logreg: Hub id or folder")
    text_revision: str | None = Field(None, description="its branch, tag or commit on the Hub")
    text_layer: int = Field(-1, ge=-1, description="hidden state to pool; -1: the output")
    feature_cache: FeatureCacheArguments = Field(default_factory=FeatureCacheArguments)
    seed: int = Field(42, ge=0, description="seed of the solver; the split has corpora.0.split_seed")

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"output_dir": f"outputs/baseline-{given['baseline']}"} if "baseline" in given else {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for modality in ("audio", "text"):
            if f"pooled_{modality}_logreg" in self.members and getattr(self, f"{modality}_backbone") is None:
                raise ArgumentError(f"pooled_{modality}_logreg needs --{modality}_backbone, a Hub id or a folder.")
        return self

    @property
    def members(self) -> list[str]:
        """The baselines to fit."""
        return list(self.parts) if self.baseline == LATE_FUSION else [self.baseline]


@writes(lambda arguments: arguments.output_dir, left="What was there before is whole.")
def run_baselines(arguments: BaselineArguments) -> BaselineResults:
    """Fit and score the baseline under every protocol and fold; write `results.json` and predictions.

    The folds of a corpus are reported one by one, and pooled: each row is answered by the model that has not seen it.

    Returns:
        the content of `results.json`: metrics as in a training run, and `folds.{corpus}` with the `runs` (fold, choices
        of dev, metrics) and the `mean` and `std` of each test metric over the folds.

    Raises:
        ArgumentError: two protocols of one corpus, or a baseline that a corpus does not allow.
        FileNotFoundError, CorpusError, ProtocolError, AudioError: data that are missing or invalid.
    """
    start = time.perf_counter()
    answers: dict[str, list[Predictions]] = {"dev": [], "test": []}
    protocols: dict[str, list[dict[str, Any]]] = {}
    folds: dict[str, list[dict[str, Any]]] = {}
    hashes: dict[str, str] = {}
    features: dict[str, dict[str, Any]] = {}

    for corpus in arguments.corpora:
        rows = corpus.load(arguments.labels)
        splits = corpus.split(rows)
        name, facts = splits["train"]["corpus"][0], protocol_facts(corpus, splits)
        for earlier in protocols.get(name, []):
            if earlier["name"] != facts["name"] or earlier.get("fold") == facts.get("fold"):
                raise ArgumentError(
                    f"corpora: '{name}' appears twice; results are kept by corpus. Give one protocol (with all its "
                    "folds) per run."
                )

        if name not in features:
            features[name] = _features(arguments, rows)
            hashes[name] = content_hash(concatenate_datasets(list(rows.values())))

        outcome = _outcome(arguments, splits, features[name])
        metrics = {}
        for split, parts in answers.items():
            parts.append(Predictions.of_rows(splits[split], outcome.probabilities[split]))
            metrics[split] = parts[-1].by_corpus()[name]

        run = {"fold": corpus.fold, "chosen": dict(outcome.chosen), "metrics": metrics}
        protocols.setdefault(name, []).append(facts)
        folds.setdefault(name, []).append(run)

    results = BaselineResults(
        baseline=arguments.baseline,
        protocol={name: _joined(facts) for name, facts in protocols.items()},
        seed=arguments.seed,
        config=_public(arguments),
        data_hash=hashes,
        folds={name: {"runs": runs} | _spread(runs) for name, runs in folds.items()},
        **environment(),
    )

    folder = Path(arguments.output_dir)
    for split, parts in answers.items():
        pooled = Predictions.concatenate(parts)
        write_split_report(pooled, split, folder)
        results.add_split(split, pooled)

    results.seconds = round(time.perf_counter() - start, 1)
    results.write(folder / RESULTS_FILE)
    return results


def _features(arguments: BaselineArguments, rows: DatasetDict) -> dict[str, Any]:
    """What each baseline reads of a corpus."""
    cache = arguments.feature_cache.model_dump(include={"dtype", "compute_dtype", "batch_size"})
    cache["cache_dir"] = arguments.feature_cache.directory

    found = {}
    for member in arguments.members:
        pooled = None
        if member.startswith("pooled_"):
            modality = MODALITY[member]
            source = {name: getattr(arguments, f"{modality}_{name}") for name in ("backbone", "revision", "layer")}
            pooled = partial(pooled_features, modality=modality, **source, **cache)
        found[member] = corpus_features(member, rows, pooled)
    return found


def _outcome(arguments: BaselineArguments, splits: DatasetDict, features: Mapping[str, Any]) -> Outcome:
    options = arguments.model_dump(include={"class_weights", "strengths", "refit_on_dev", "seed"})
    outcomes = [run_baseline(member, splits, features[member], **options) for member in arguments.members]
    if arguments.baseline == LATE_FUSION:
        return fuse(*outcomes, splits["dev"]["label"], arguments.fusion_weight)
    return outcomes[0]


def _joined(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How a corpus was split: the facts of its only split, or what all folds share."""
    if len(facts) == 1:
        return facts[0]
    shared = {key: facts[0][key] for key in ("name", "split_seed")}
    return shared | {"folds": [entry["fold"] for entry in facts]}


def _spread(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    values = {name: [run["metrics"]["test"][name] for run in runs] for name in (*METRICS, "mean")}
    return {
        statistic: {name: float(function(numbers)) for name, numbers in values.items()}
        for statistic, function in (("mean", np.mean), ("std", np.std))
    }


def _public(arguments: BaselineArguments) -> dict[str, Any]:
    """The arguments, without folders of this machine."""
    content = arguments.model_dump(exclude={"output_dir", "seed", "corpora"})
    content["feature_cache"].pop("directory")
    for name in ("audio_backbone", "text_backbone"):
        if content[name] is not None and Path(content[name]).is_dir():
            content[name] = Path(content[name]).resolve().name
    return content


def baseline(arguments: BaselineArguments) -> None:
    """Fit and score the baseline, and print its scores."""
    results = run_baselines(arguments)
    metrics = results.metrics["test"]
    print(f"{arguments.baseline}, test:\n")
    print(metrics_table(metrics))

    for name, folds in results.folds.items():
        if (count := len(folds["runs"])) > 1:
            mean, deviation = ({key: percent(value, 1) for key, value in folds[of].items()} for of in ("mean", "std"))
            spread = ", ".join(f"{key.upper()} {mean[key]} ± {deviation[key]}" for key in METRICS)
            print(f"\n{name}, mean and deviation over {count} folds (the table pools them): {spread}")

    print(f"\n{recall_table(metrics)}")
    print(f"\nResults and predictions are in {arguments.output_dir} ({results.seconds:.0f} s).")
