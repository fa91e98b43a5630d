"""The command behind `bibier evaluate` and `recipes/evaluate.py`: scoring a trained checkpoint on a split of any corpus."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.features import InputDataset, content_hash
from ..evaluation.report import Predictions, environment, metrics_table, recall_table, write_json, write_split_report
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..training.arguments import RUN_FILE, ArgumentError, CorpusArguments, FeatureCacheArguments
from ..training.fit import make_collator, make_inputs
from ..training.run import load_corpora, protocol_facts
from ..training.sections import Section, apply_overrides, checked_section, expand_data_dir, load_yaml, section_help
from .checkpoint import load_checkpoint
from .common import guarded

JSON_FLAG = "--json"


class EvaluateArguments(Section):
    """What to score, and on what."""

    model: str = Field(description="folder or Hub id of a checkpoint")
    corpora: list[CorpusArguments] = Field(min_length=1, description="what to score it on; default: what it was trained on")
    split: str = Field("test", pattern="^(train|dev|test)$", description="train, dev or test")
    output_dir: str = Field(description="where the report is written; default: evaluation in the folder of the checkpoint")
    batch_size: int = Field(16, ge=1, description="utterances a step")
    backbone_dir: str | None = Field(None, description="folder with local copies of the backbones that the checkpoint only names")
    feature_cache: FeatureCacheArguments = Field(default_factory=FeatureCacheArguments)


def parse_evaluate_arguments(arguments: list[str]) -> EvaluateArguments:
    """`MODEL [--key value] ...` -> arguments; corpora and protocols of the checkpoint's own run are the defaults.

    Raises:
        ArgumentError: anything that cannot be followed.
    """
    if not arguments or arguments[0].startswith("-"):
        raise ArgumentError("Give the folder or the Hub id of a checkpoint as the first argument.")
    model, *rest = arguments
    content: dict[str, Any] = {"model": model, "output_dir": str(Path(model) / "evaluation")}
    run_file = Path(model) / RUN_FILE
    if run_file.is_file():
        run = load_yaml(run_file)
        content |= {key: run[key] for key in ("corpora", "feature_cache") if key in run}
    apply_overrides(content, rest, EvaluateArguments)
    if "corpus" in content:  # short for another corpus than that of the run
        content["corpora"] = [{"name": content.pop("corpus")}]
    if "corpora" not in content:
        raise ArgumentError(f"{model} does not say what it was trained on. Give --corpus and --data_dir.")
    return checked_section(EvaluateArguments, expand_data_dir(content))


def evaluate_checkpoint(arguments: EvaluateArguments) -> dict[str, Any]:
    """Score a checkpoint and write `evaluation_<split>.json`, `predictions_<split>.parquet` and a confusion matrix a corpus.

    Returns:
        the content of the JSON file: `metrics.{split}.{corpus}` as in `results.json`, protocol, data hash and environment.

    Raises:
        ArgumentError: a checkpoint that is not there.
        FileNotFoundError, CorpusError, ProtocolError: data that are not there or not as they should be.
    """
    model, processor = load_checkpoint(arguments.model, arguments.backbone_dir)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    splits = load_corpora(arguments.corpora)
    dataset = make_inputs(splits, model, processor, arguments.feature_cache)[arguments.split]
    collator = make_collator(model, processor, arguments.feature_cache)
    predictions = Predictions.from_logits(dataset.metadata, predict_logits(model, dataset, collator, arguments.batch_size))
    folder, split = Path(arguments.output_dir), arguments.split
    numbers = write_split_report(predictions, split, folder)
    results = {
        "checkpoint": Path(arguments.model).name if os.path.isdir(arguments.model) else arguments.model,
        "protocol": {name: protocol_facts(corpus, rows) for corpus, (name, rows) in zip(arguments.corpora, splits.items(), strict=True)},
        "data_hash": {name: content_hash(rows[split]) for name, rows in splits.items()},
        "metrics": {split: numbers["metrics"]},
        "metrics_by_language": {split: numbers["languages"]},
        "metrics_mean": {split: numbers["mean"]},
        **environment(),
    }
    write_json(folder / f"evaluation_{split}.json", results)
    return results


@torch.inference_mode()
def predict_logits(model: BiBiERForEmotionClassification, dataset: InputDataset, collator: Any, batch_size: int) -> np.ndarray:
    """Logits (N, 7) of the rows of a data set, in order.

    Args:
        model: in evaluation mode.
        dataset: N rows.
        collator: that fits them.
        batch_size: rows a step; clips of similar length go together.
    """
    order = np.argsort(-dataset.lengths, kind="stable")
    logits = np.empty((len(dataset), model.config.num_labels), dtype=np.float32)
    loader = DataLoader(
        dataset, batch_sampler=[part.tolist() for part in np.array_split(order, -(-len(order) // batch_size))], collate_fn=collator
    )
    for rows, batch in zip(loader.batch_sampler, tqdm(loader, desc="Predicting", unit="batch"), strict=True):
        batch = {name: values.to(model.device) for name, values in batch.items() if name != "labels"}
        logits[rows] = model(**batch).logits.float().cpu().numpy()
    return logits


def evaluate_main(arguments: Sequence[str]) -> int:
    """Score a checkpoint as the command line says; returns the exit code.

    Args:
        arguments: `MODEL [--key value] ...`; with `--json` the report goes to stdout as JSON, and nothing else does.
    """

    def evaluate() -> None:
        if any(argument in ("-h", "--help") for argument in arguments):
            print(evaluate_help())
            return
        parsed = parse_evaluate_arguments([argument for argument in arguments if argument != JSON_FLAG])
        results = evaluate_checkpoint(parsed)
        if JSON_FLAG in arguments:
            print(json.dumps(results, indent=2, ensure_ascii=False))
            return
        print(f"{parsed.model}, {parsed.split}:\n")
        print(metrics_table(results["metrics"][parsed.split]))
        print(f"\n{recall_table(results['metrics'][parsed.split])}")
        print(f"\nThe report is in {parsed.output_dir}.")

    return guarded(evaluate)


def evaluate_help() -> str:
    """Every key of an evaluation."""
    usage = ["usage: recipes/evaluate.py MODEL [--key value] [--key=value] ...", ""]
    short = [
        "  --corpus: a corpus by its name, official protocol",
        "  --data_dir: short for --corpora.0.data_dir",
        f"  {JSON_FLAG}: the report as JSON on stdout, instead of tables",
    ]
    return "\n".join([*usage, *short, *section_help(EvaluateArguments)])
