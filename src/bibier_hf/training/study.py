"""Several runs that are compared: variants of one run file, each with several seeds and over the folds of a protocol.

    study.yaml -> variants x protocols x seeds x folds -> run_training of each -> folds pooled -> mean and deviation
    over the seeds

Every run has a folder of its own below `output_dir`; one that is finished is read instead of trained again, so a study
that was stopped goes on where it was.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import Field

from ..commandline import Section, checked_section, load_yaml
from ..data.protocols import NUM_FOLDS
from ..errors import ArgumentError
from ..evaluation.metrics import METRICS
from ..evaluation.report import Predictions
from ..evaluation.results import RESULTS_FILE, RunResults
from ..files import write_json
from ..run_files import find_run_file
from ..tables import markdown_table
from .arguments import RunArguments, read_run
from .output import last_progress
from .run import run_training

SCORED_SPLITS = ("dev", "test")
NUMBERS = (*METRICS, "mean")
OFFICIAL = "official"


class StudyArguments(Section):
    """A study file."""

    run: str = Field(description="run file that every run begins with; relative to the study file")
    output_dir: str = Field(description="folder of the runs and of the comparison")
    seeds: list[int] = Field(default_factory=lambda: [42], min_length=1, description="seed of each repetition")
    protocols: dict[str, list[int] | None] = Field(
        default_factory=lambda: {OFFICIAL: None},
        min_length=1,
        description="protocol of the first corpus -> its folds; null: all of them",
    )
    common: dict[str, Any] = Field(
        default_factory=dict, description="dotted keys of the run and their values, for every variant"
    )
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"base": {}},
        min_length=1,
        description="name -> dotted keys of the run and their values; the others are compared with the first",
    )
    keep_models: bool = Field(False, description="keep the weights; else only results and predictions stay")


@dataclass(frozen=True)
class StudyRun:
    """One run of a study."""

    variant: str
    protocol: str
    seed: int
    fold: int | None
    arguments: RunArguments

    @property
    def folder(self) -> Path:
        return Path(self.arguments.output_dir)


def read_study(path: str | Path) -> StudyArguments:
    """Read a study file, by its path or by the name of one of the package.

    Raises:
        ArgumentError: no such file, no valid YAML, an unknown key or a wrong value.
    """
    path = find_run_file(path, "study")
    study = checked_section(StudyArguments, load_yaml(path))
    run = path.parent / study.run
    if not run.is_file():
        raise ArgumentError(f"run: there is no run file {run}. Name one relative to {path}.")
    return study.model_copy(update={"run": str(run)})


def plan_runs(
    study: StudyArguments, overrides: Mapping[str, Any] = MappingProxyType({}), only: Sequence[str] = ()
) -> list[StudyRun]:
    """All runs of a study, checked before the first one begins.

    Args:
        study: the study.
        overrides: dotted keys and their values, for every run.
        only: variants to run; empty: all.

    Raises:
        ArgumentError: an unknown variant, a fold that is none, or a run that cannot be followed.
    """
    if unknown := sorted(set(only) - set(study.variants)):
        raise ArgumentError(f"only: there is no variant {unknown[0]!r}. Allowed: {', '.join(study.variants)}.")
    runs = []
    for variant, changes in study.variants.items():
        if only and variant not in only:
            continue
        for protocol, folds in study.protocols.items():
            for seed in study.seeds:
                for fold in [None] if protocol == OFFICIAL else range(NUM_FOLDS) if folds is None else folds:
                    place = Path(variant) / (protocol if fold is None else f"{protocol}-{fold}") / f"seed-{seed}"
                    keys = {
                        "corpora.0.protocol": protocol,
                        "seed": seed,
                        "output_dir": str(Path(study.output_dir) / place),
                    }
                    keys |= {} if fold is None else {"corpora.0.fold": fold}
                    try:
                        run = read_run(study.run, study.common | changes | dict(overrides) | keys)
                        runs.append(StudyRun(variant, protocol, seed, fold, run))
                    except ArgumentError as error:
                        raise ArgumentError(f"variant {variant!r}: {error}") from error
    return runs


def run_study(runs: Sequence[StudyRun], keep_models: bool = False, say: Callable[[str], None] = print) -> None:
    """Train what is not finished yet, one run after the other.

    Args:
        runs: of [`plan_runs`].
        keep_models: keep the weights of each run.
        say: gets a line a run.

    Raises:
        ArgumentError: a folder that holds a run with other arguments.
    """
    for number, run in enumerate(runs, 1):
        heading = f"run {number} of {len(runs)}: {run.folder}"
        if (run.folder / RESULTS_FILE).is_file():
            _refuse_other_arguments(run)
            say(f"{heading}: finished before")
            continue
        say(heading)
        resume = last_progress(run.folder) is not None
        results = run_training(
            run.arguments.model_copy(update={"resume_from_checkpoint": resume, "overwrite": not resume})
        )
        if not keep_models:
            for path in (*run.folder.glob("model*.safetensors*"), *run.folder.glob("*_adapter/*.safetensors")):
                path.unlink()
        say(f"  dev {_percent(results.metrics_mean['dev'])}, test {_percent(results.metrics_mean['test'])}")


def _percent(metrics: dict[str, float]) -> str:
    return " ".join(f"{name.upper()} {100 * metrics[name]:.2f}" for name in METRICS)


def _refuse_other_arguments(run: StudyRun) -> None:
    """A finished folder must be this run's: what it was trained with stands in its results."""
    trained = RunResults.load(run.folder / RESULTS_FILE).config
    wanted = json.loads(json.dumps(run.arguments.public_dump()))
    passing = ("overwrite", "resume_from_checkpoint")
    changed = sorted(
        key for key in trained.keys() | wanted.keys() if key not in passing and trained.get(key) != wanted.get(key)
    )
    if changed:
        raise ArgumentError(
            f"{run.folder} was finished with other values of {', '.join(changed)}. Remove it, or give the study "
            "another output_dir."
        )


def compare(study: StudyArguments, runs: Sequence[StudyRun]) -> dict[str, Any]:
    """What the finished runs say.

    Folds are pooled: every row of a corpus is answered once by a model that has not seen it. A variant is reported for
    the seeds whose folds are all finished.

    Returns:
        `{"runs": {"finished", "missing"}, "comparison": [{"variant", "protocol", "corpus", "split", "seeds", "metrics": {name: {"mean",
        "std", "values"}}, "difference": the same, paired by seed with the first variant, or None},
        ...]}`; `std` is the sample standard deviation, None of one seed.
    """
    finished = [run for run in runs if (run.folder / RESULTS_FILE).is_file()]
    rows: list[dict[str, Any]] = []
    for variant in study.variants:
        for protocol in study.protocols:
            of_seed = {}
            for seed in study.seeds:
                parts = [run for run in runs if (run.variant, run.protocol, run.seed) == (variant, protocol, seed)]
                if parts and all(run in finished for run in parts):
                    of_seed[seed] = {
                        split: _pooled([run.folder for run in parts], split).by_corpus() for split in SCORED_SPLITS
                    }
            if not of_seed:
                continue
            for split in SCORED_SPLITS:
                for corpus in next(iter(of_seed.values()))[split]:
                    values = {seed: metrics[split][corpus] for seed, metrics in of_seed.items()}
                    rows.append(
                        {"variant": variant, "protocol": protocol, "corpus": corpus, "split": split, "by_seed": values}
                    )
    first = {
        (row["protocol"], row["corpus"], row["split"]): row
        for row in rows
        if row["variant"] == next(iter(study.variants))
    }
    return {
        "runs": {"finished": len(finished), "missing": [str(run.folder) for run in runs if run not in finished]},
        "comparison": [_summary(row, first.get((row["protocol"], row["corpus"], row["split"]))) for row in rows],
    }


def _pooled(folders: Sequence[Path], split: str) -> Predictions:
    return Predictions.concatenate([Predictions.load(folder / f"predictions_{split}.parquet") for folder in folders])


def _summary(row: dict[str, Any], first: dict[str, Any] | None) -> dict[str, Any]:
    values, difference = row["by_seed"], None
    if first is not None and first is not row:
        shared = [seed for seed in values if seed in first["by_seed"]]
        if shared:
            difference = {
                name: _spread([values[seed][name] - first["by_seed"][seed][name] for seed in shared])
                for name in NUMBERS
            }
    return {
        **{key: row[key] for key in ("variant", "protocol", "corpus", "split")},
        "seeds": list(values),
        "metrics": {name: _spread([metrics[name] for metrics in values.values()]) for name in NUMBERS},
        "difference": difference,
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation, "values": [float(value) for value in values]}


def comparison_table(comparison: Sequence[dict[str, Any]]) -> str:
    """Markdown table in percent: mean +- standard deviation over the seeds, and the difference to the first variant,
    paired by seed."""
    shown = ("uar", "wf1", "mean")
    rows = []

    for row in comparison:
        cells = [row["variant"], row["protocol"], row["corpus"], row["split"], len(row["seeds"])]
        cells += [_shown(row["metrics"][name]) for name in shown]
        cells.append("" if row["difference"] is None else _shown(row["difference"]["mean"], signed=True))
        rows.append(cells)

    names = [name.upper() if name in METRICS else name for name in shown]
    return markdown_table(["variant", "protocol", "corpus", "split", "seeds", *names, "difference of the mean"], rows)


def _shown(spread: dict[str, Any], signed: bool = False) -> str:
    sign = "+" if signed else ""
    text = f"{100 * spread['mean']:{sign}.2f}"
    return text if spread["std"] is None else f"{text} ± {100 * spread['std']:.2f}"


def write_comparison(study: StudyArguments, runs: Sequence[StudyRun]) -> dict[str, Any]:
    """Write [`compare`] into `output_dir/study.json`, and return it."""
    report = {"study": study.model_dump() | {"run": Path(study.run).name}} | compare(study, runs)
    write_json(Path(study.output_dir) / "study.json", report)
    return report
