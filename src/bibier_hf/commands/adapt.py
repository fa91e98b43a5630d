"""`bibier adapt`."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets
from pydantic import Field
from scipy.special import softmax
from transformers.utils import CONFIG_NAME

from ..commandline import Positional, shown
from ..data.features import DATA_COLUMNS, content_hash
from ..data.mixture import LABELS_HELP, CorpusArguments, FeatureCacheArguments, data_facts, protocol_facts
from ..data.prepare import INFO_FILE
from ..data.reader import InputReader
from ..data.table_sources import FoundRow, read_source
from ..data.tables import is_stream
from ..errors import ArgumentError
from ..evaluation.bootstrap import drawn_scores, percentile_intervals
from ..evaluation.report import Predictions, environment, write_split_report
from ..evaluation.results import RESULTS_FILE, RunResults
from ..files import filled_folder, writes
from ..hub.cards import CARD_FILE, write_model_card
from ..hub.eval_results import write_eval_results
from ..labels import label_key
from ..model.configuration_bibier import MODALITIES, SINGLE_LABEL
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..tables import markdown_table, percent, percent_range
from ..training.adapt import MOST_FOLDS, Adaptation, adapt_model, draw_clips, pooled_states, replace_labels
from ..training.build import model_facts
from .checkpoint import CheckpointOptions, load_checkpoint
from .corpora import CorpusOptions, warn_of_context
from .train import public_value


class AdaptArguments(CheckpointOptions, CorpusOptions):
    """Adapt a trained model to your own labels with a few clips of each.

    Examples:
      bibier adapt outputs/resd calls.csv --options.language en --output_dir outputs/calls
      bibier adapt outputs/resd --corpus ravdess --data_dir PATH/TO/ravdess --clips_per_label 16 --output_dir outputs/16

    TABLE is any table that `bibier prepare csv` reads. The labels are those in the table, unless --labels or
    --label_map says otherwise.
    The model stays frozen, and a logistic regression on its pooled states becomes its last layers. All rows but those
    of a split `test` are learned from; the score is cross-validated over speakers, or over clips where speakers are
    unknown.
    """

    table: Annotated[str | None, Positional("TABLE")] = Field(
        None, description="table of audio, text and label; or name a corpus with --corpus and --data_dir"
    )
    corpora: list[CorpusArguments] = Field(min_length=1, max_length=1, description="the corpus")
    output_dir: str = Field(description="folder of the adapted checkpoint and its report")
    labels: list[str] | None = Field(None, description=f"{LABELS_HELP.partition(';')[0]}; null: those of the table")
    clips_per_label: int | None = Field(None, ge=1, description="learn from this many clips of each label; null: all")
    dev: bool = Field(False, description="score on the split dev, instead of cross-validation")
    folds: int = Field(MOST_FOLDS, ge=2, description="folds of the cross-validation, if there are enough clips")
    batch_size: int = Field(16, ge=1, description="utterances per step")
    seed: int = Field(42, ge=0, description="seed of the draw of clips and folds")
    feature_cache: FeatureCacheArguments = Field(default_factory=FeatureCacheArguments)

    @classmethod
    def complete(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Take a table for the corpus csv."""
        if content.pop("problem_type", SINGLE_LABEL) != SINGLE_LABEL:
            raise ArgumentError(
                "problem_type: adapt fits one label for each clip. For several labels at once, or values, train with "
                "init_from: CHECKPOINT and frozen: [bibier.audio, bibier.text]."
            )
        if content.get("table") is not None:
            if given := [key for key in ("corpus", "data_dir", "corpora") if key in content]:
                raise ArgumentError(f"{given[0]}: TABLE is given as well. Leave out one of them.")
            content |= {"corpus": "csv", "data_dir": content["table"]}
        return super().complete(content)

    def after_interrupt(self) -> str:
        return f"{self.output_dir} is unchanged. Features that were computed are kept."


@writes(lambda arguments, *_: arguments.output_dir, left="What was there before is whole.")
def run_adaptation(arguments: AdaptArguments, command: str | None = None) -> RunResults:
    """Adapt the checkpoint and write the new one with its `results.json`, card and answers.

    Cross-validated answers, or those to dev, count as `dev`; those to the rows of a split `test` as `test`.

    Raises:
        ArgumentError: a checkpoint or labels that cannot be used, too few clips, or a folder with results.
        FileNotFoundError, CorpusError, ProtocolError, AudioError: data that are missing or invalid.
    """
    start = time.perf_counter()
    folder = Path(arguments.output_dir)
    if taken := [name for name in (RESULTS_FILE, CONFIG_NAME) if (folder / name).is_file()]:
        raise ArgumentError(f"output_dir: {folder} holds a model already ({taken[0]}). Give another output_dir.")

    (corpus,) = arguments.corpora
    splits = _learned_rows(arguments, corpus)
    names = splits["train"].features["label"].names

    model, processor = load_checkpoint(arguments.checkpoint, arguments.backbone_dir)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    replace_labels(model, names)
    if "text" in model.config.modalities:
        warn_of_context([corpus], [splits["train"]["corpus"][0]], model.config)
        learned = None if corpus.context is None else corpus.context.model_dump()
        model.config.text_context = learned  # what the pipeline takes from now on
    model.eval()
    _require_modality(splits, model)
    reader = InputReader(model, processor, arguments.feature_cache)
    states = {
        split: pooled_states(model, inputs, reader.collator, arguments.batch_size)
        for split, inputs in reader.inputs(splits).items()
    }
    computed = time.perf_counter()

    truth = {split: np.asarray(rows["label"]) for split, rows in splits.items()}
    speakers = splits["train"]["speaker"]
    dev = (states["dev"], truth["dev"], list(splits["dev"]["speaker"])) if arguments.dev else None
    adaptation = adapt_model(
        model, states["train"], truth["train"], list(speakers), dev, arguments.folds, arguments.seed
    )
    answered = {"dev": splits["dev" if arguments.dev else "train"]}
    scaled = softmax(adaptation.logits / adaptation.temperatures[:, None], axis=1)
    predictions = {"dev": Predictions.of_rows(answered["dev"], scaled, softmax(adaptation.logits, axis=1))}
    if "test" in splits:
        answered["test"], logits = splits["test"], adaptation.decisions(model, states["test"])
        predictions["test"] = Predictions.from_logits(splits["test"], logits, adaptation.temperature)
    uncalibrated = {split: answers.calibration_by_corpus(calibrated=False) for split, answers in predictions.items()}

    source = Path(arguments.checkpoint)
    source = source.resolve().name if source.is_dir() else arguments.checkpoint
    trained = sum(layer.weight.numel() + layer.bias.numel() for layer in model.output_layers())
    results = RunResults(
        model={"adapted_from": source} | model_facts(model, dict.fromkeys(MODALITIES, (source, "frozen")), trained),
        protocol={answered["dev"]["corpus"][0]: _protocol(corpus, splits, arguments.dev)},
        selection={
            "metric": "negative log-likelihood, balanced over the labels",
            "C": adaptation.strength,
            "C_by_fold": adaptation.strengths,
        },
        calibration={
            "temperature": adaptation.temperature,
            "fitted_on": _described(adaptation),
            "samples": len(answered["dev"]),
            "note": adaptation.note,
            "uncalibrated": uncalibrated,
        },
        adaptation=_adaptation_facts(arguments, adaptation, answered, predictions, truth["train"], names),
        date=datetime.now(UTC).date().isoformat(),
        seed=arguments.seed,
        command=command,
        config={"model": {}, "lora": None, "refit_on_dev": False, "labels": names},
        data={answered["dev"]["corpus"][0]: data_facts(splits)},
        data_hash=content_hash(concatenate_datasets(list(splits.values())), DATA_COLUMNS),
        seconds=round(time.perf_counter() - start, 1),
        seconds_by_stage={"features": round(computed - start, 1), "fit": round(time.perf_counter() - computed, 1)},
        **environment(),
    )
    for split, answers in predictions.items():
        results.add_split(split, answers)

    with filled_folder(folder, last=RESULTS_FILE) as new:
        model.save_pretrained(new)
        processor.save_pretrained(new)
        for split, answers in predictions.items():
            write_split_report(answers, split, new)
        write_model_card(results, new / CARD_FILE)
        write_eval_results(results, new)
        results.write(new / RESULTS_FILE)
    return results


def _learned_rows(arguments: AdaptArguments, corpus: CorpusArguments) -> DatasetDict:
    """Load the rows to learn from (`train`), and those of `dev` and `test` that are not; without unused labels."""
    table, labels, unsplit = _read_table(corpus), arguments.labels, False
    if table is not None:
        unsplit = not any(
            each.split or corpus.options.get("split_column", "split") in each.row.values for each in table
        )
        if labels is None and corpus.label_map is None:
            labels = _labels_in(table, corpus.label_column or "label")
    if unsplit:  # the split that the reader draws is not used, so it need not separate speakers
        corpus = corpus.model_copy(update={"options": {"group_by": "none"} | corpus.options})
    rows = corpus.load(labels)

    if unsplit:
        if arguments.dev:
            raise ArgumentError("dev: the table has no column split. Add one, or leave --dev out to cross-validate.")
        rows = DatasetDict({"train": concatenate_datasets(list(rows.values()))})
    elif table is None:
        rows = corpus.split(rows)
    if "train" not in rows:
        raise ArgumentError("split: no row is of the split train, so there is nothing to learn from.")
    if arguments.dev and "dev" not in rows:
        raise ArgumentError("dev: no row is of the split dev. Leave --dev out to cross-validate.")
    if "dev" in rows and not arguments.dev:
        rows["train"] = concatenate_datasets([rows["train"], rows.pop("dev")])
    return _used_labels(_drawn(rows, arguments.clips_per_label, arguments.seed))


def _read_table(corpus: CorpusArguments) -> list[FoundRow] | None:
    """Read a table for its labels and columns; None for a prepared corpus, for one that can be read only once, and where
    loading it will say what is wrong."""
    path = Path(corpus.data_dir or "")
    if corpus.name != "csv" or not path.exists() or is_stream(path) or (path / INFO_FILE).is_file():
        return None
    options = {name: corpus.options.get(name) for name in ("subset", "encoding", "separator", "sheet")}
    return read_source(path, **options)


def _labels_in(table: Sequence[FoundRow], column: str) -> list[str] | None:
    """Return the labels of a table in alphabetical order, each as it is first written."""
    found: dict[str, str] = {}
    for each in table:
        if name := each.row.text(column).strip():
            found.setdefault(label_key(name), name)
    return [found[key] for key in sorted(found)] or None


def _drawn(rows: DatasetDict, count: int | None, seed: int) -> DatasetDict:
    """Draw clips of each label from train."""
    if count is not None:
        rows["train"] = rows["train"].select(draw_clips(np.asarray(rows["train"]["label"]), count, seed))
    return rows


def _used_labels(rows: DatasetDict) -> DatasetDict:
    """Leave out the labels that train has no row of, and the rows of other splits with such labels."""
    names, used = rows["train"].features["label"].names, sorted(set(rows["train"]["label"]))
    if len(used) < 2:
        raise ArgumentError(f"label: all rows have the label {names[used[0]]}. A model needs at least two labels.")
    if len(used) == len(names):
        return rows

    place_of = {label: place for place, label in enumerate(used)}
    kept = DatasetDict()
    for split, part in rows.items():
        part = part.select([row for row, label in enumerate(part["label"]) if label in place_of])
        labels = [place_of[label] for label in part["label"]]
        features = ClassLabel(names=[names[label] for label in used])
        if len(part):
            part = part.remove_columns(["label", "soft_label"]).add_column("label", labels, feature=features)
            kept[split] = part.add_column("soft_label", [None] * len(part))
    return kept


def _require_modality(splits: DatasetDict, model: BiBiERForEmotionClassification) -> None:
    """Refuse rows that a model of one modality cannot read."""
    if len(model.config.modalities) > 1:
        return
    (modality,) = model.config.modalities
    for split, rows in splits.items():
        values = [value is not None for value in rows["duration_s"]] if modality == "audio" else rows["text"]
        if missing := sum(not value for value in values):
            raise ArgumentError(
                f"checkpoint: it reads only {modality}, which {missing} of {len(rows)} rows of {split} do not have. "
                "Leave these rows out, or adapt another checkpoint."
            )


def _protocol(corpus: CorpusArguments, splits: DatasetDict, dev: bool) -> dict[str, Any]:
    facts = protocol_facts(corpus, splits)
    return facts if dev or "test" in splits else facts | {"name": "cross-validation"}


def _described(adaptation: Adaptation) -> str:
    """Return what the scores come from."""
    if not adaptation.folds:
        return "dev"
    unit = "speakers" if adaptation.by_speaker else "clips"
    return f"cross-validated answers ({adaptation.folds} folds over {unit})"


def _adaptation_facts(
    arguments: AdaptArguments,
    adaptation: Adaptation,
    answered: dict[str, Dataset],
    predictions: dict[str, Predictions],
    labels: np.ndarray,
    names: Sequence[str],
) -> dict[str, Any]:
    intervals, units = {}, {}
    for split, rows in answered.items():
        speakers = list(rows["speaker"])
        known = len(set(speakers) - {None}) > 1
        groups = [name if known and name is not None else f"clip {row}" for row, name in enumerate(speakers)]
        found = predictions[split]
        intervals[split] = percentile_intervals(drawn_scores(found.labels, found.predictions, groups, arguments.seed))
        units[split] = "speakers" if known else "clips"

    counts = Counter(labels.tolist())
    return {
        "scored_on": _described(adaptation),
        "clips": {name: counts[index] for index, name in enumerate(names)},
        "C": adaptation.strength,
        "folds": adaptation.folds,
        "intervals": intervals,
        "interval_over": units,
        "warnings": adaptation.warnings,
    }


def _command(arguments: AdaptArguments) -> str:
    """The command line for a card, without folders of this machine."""
    (corpus,) = arguments.corpora
    source = f"--corpus {public_value(corpus.name)}" if arguments.table is None else public_value(arguments.table)
    words = ["bibier adapt", public_value(arguments.checkpoint), source]
    for key in ("clips_per_label", "dev", "folds", "seed"):
        if (value := getattr(arguments, key)) != AdaptArguments.model_fields[key].default:
            words.append(f"--{key} {shown(value)}")
    return " ".join(words)


def adapt(arguments: AdaptArguments) -> None:
    """Adapt the checkpoint, and print how good it is."""
    results = run_adaptation(arguments, _command(arguments))
    facts = results.adaptation
    assert facts is not None  # of an adaptation

    for warning in facts["warnings"]:
        print(f"Warning: {warning}")
    rows = []
    for split, intervals in facts["intervals"].items():
        metrics, scored = results.metrics_mean[split], facts["scored_on"] if split == "dev" else "test"
        shown = [f"{percent(metrics[name], 1)} ({percent_range(*ends)})" for name, ends in intervals.items()]
        rows.append([scored, *shown, facts["interval_over"][split]])
    print(markdown_table(["scored on", "UAR, % (95 % interval)", "WF1, % (95 % interval)", "drawn"], rows))

    (recall,) = [metrics["recall"] for metrics in results.metrics["dev"].values()]
    table = [[name, count, percent(recall[name], 1)] for name, count in facts["clips"].items()]
    print(f"\n{markdown_table(['label', 'clips', 'recall, %'], table)}")
    print(
        f"\nC {facts['C']:g}, temperature {results.calibration['temperature']:.3f}. The checkpoint is in "
        f"{arguments.output_dir} ({results.seconds:.0f} s)."
    )
