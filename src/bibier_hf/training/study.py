"""Compare variants of one run file over several seeds and the folds of a protocol.

    study.yaml -> variants x protocols x seeds x folds -> one run each -> pool folds -> mean and deviation over seeds

Every run has its own folder in `output_dir`. Finished runs are read, not trained again, so a stopped study continues
where it left off.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ..commandline import Section, checked_section, load_yaml, section_help
from ..data.protocols import NUM_FOLDS, PROTOCOLS
from ..errors import ArgumentError
from ..evaluation.metrics import METRICS
from ..evaluation.report import Predictions
from ..evaluation.results import RESULTS_FILE, RunResults
from ..files import is_main_process, write_json
from ..model.configuration_bibier import SINGLE_LABEL
from ..run_files import find_run_file
from ..tables import markdown_table
from .arguments import STAGES_FOLDER, RunArguments, read_run
from .checkpoints import list_checkpoints
from .output import REFIT_FOLDER, last_progress
from .run import run_training

SCORED_SPLITS = ("dev", "test")
NUMBERS = (*METRICS, "mean")
OFFICIAL = "official"
STARTED_FILE = "study_run.json"
"""File with the arguments of an unfinished run, in its folder."""


class RunPlan(Section):
    """A file that plans several runs.

    Attributes:
        kind: what the file is: study or search.
        own_keys: key of a run that the plan sets itself -> key of the file that sets it.
    """

    kind: ClassVar[str]
    own_keys: ClassVar[Mapping[str, str]]

    run: str = Field(description="run file of every run, relative to this file")
    output_dir: str = Field(description="folder for the runs and the table of their scores")
    common: dict[str, Any] = Field(default_factory=dict, description="dotted run keys and their values, for every run")
    keep_models: bool = Field(False, description="keep the weights; false: keep only results and predictions")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read such a file, given by its path or, if it comes with the package, by its name.

        Raises:
            ArgumentError: there is no such file, it is not valid YAML, or a key or value is invalid.
        """
        path = find_run_file(path, cls.kind)
        plan = checked_section(cls, load_yaml(path))
        run = path.parent / plan.run
        if not run.is_file():
            raise ArgumentError(f"run: there is no run file {run}. Name one relative to {path}.")
        return plan.model_copy(update={"run": str(run)})

    @classmethod
    def key_help(cls) -> list[str]:
        """Return a headline, and one entry for each key of the file."""
        keys = [line.replace("  --", "  ", 1) for line in section_help(cls)]
        return ["", f"Keys of the {cls.kind} file:", *keys]

    def refuse_own_keys(self, keys: Iterable[str]) -> None:
        """Refuse dotted keys of a run that the plan sets itself, rather than ignore them."""
        for key in keys:
            if key in self.own_keys:
                raise ArgumentError(
                    f"{key}: the {self.kind} sets it for each run. Give `{self.own_keys[key]}` in the {self.kind} file."
                )

    def run_arguments(self, *parts: Mapping[str, Any]) -> RunArguments:
        """Read the run file with dotted keys: the common ones, then those of each part.

        Keys of a later part come last, so that they also win over `corpora`, which sets all of it.
        """
        keys: dict[str, Any] = {}
        for part in (self.common, *parts):
            keys = {key: value for key, value in keys.items() if key not in part} | dict(part)

        run = read_run(self.run, keys)
        if run.problem_type != SINGLE_LABEL:
            raise ArgumentError(f"problem_type: a {self.kind} compares runs with one label for each clip.")
        return run


class Published(Section):
    """Published scores, shown next to those on test under the official protocol."""

    differs: str = Field(description="why they cannot be compared")
    scores: dict[str, dict[str, dict[Literal["uar", "war", "mf1", "wf1", "mean"], float]]] = Field(
        description="variant -> corpus -> metric -> percent"
    )


class StudyArguments(RunPlan):
    """A study file."""

    kind = "study"
    own_keys = {
        "seed": "seeds",
        "output_dir": "output_dir",
        "corpora.0.protocol": "protocols",
        "corpora.0.fold": "protocols",
    }

    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: [42], min_length=1, description="seed of each repetition"
    )
    protocols: dict[str, list[Annotated[int, Field(ge=0, lt=NUM_FOLDS)]] | None] | None = Field(
        None,
        min_length=1,
        description="protocol of the first corpus -> its folds, or null for all; without this key, as in the run file",
    )
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"base": {}},
        min_length=1,
        description="name -> dotted run keys and their values; compared with the first variant",
    )
    published: Published | None = Field(None, description="published scores of some variants, and how they differ")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for protocol, folds in (self.protocols or {}).items():
            if protocol not in PROTOCOLS:
                raise ArgumentError(f"protocols: unknown protocol {protocol!r}. Allowed: {', '.join(PROTOCOLS)}.")
            if folds is not None and protocol == OFFICIAL:
                raise ArgumentError(f"protocols.{OFFICIAL}: it has no folds. Give null.")
            if folds is not None and len(set(folds)) != max(1, len(folds)):
                raise ArgumentError(f"protocols.{protocol}: give each fold once, and at least one, got {folds}.")

        if len(set(self.seeds)) < len(self.seeds):
            raise ArgumentError(f"seeds: give each seed once, got {self.seeds}.")
        for name, keys in {"common": self.common, **self.variants}.items():
            if Path(name).name != name:
                raise ArgumentError(f"variants: {name!r} cannot be the name of a folder. Give another name.")
            self.refuse_own_keys(keys)
        if self.published is not None and (unknown := sorted(set(self.published.scores) - set(self.variants))):
            raise ArgumentError(
                f"published.scores: there is no variant {unknown[0]!r}. Allowed: {', '.join(self.variants)}."
            )
        return self


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


def plan_runs(
    study: StudyArguments, overrides: Mapping[str, Any] = MappingProxyType({}), only: Sequence[str] = ()
) -> list[StudyRun]:
    """Plan all runs of a study, and check them before the first one starts. All variants are trained with the first
    seed before any is trained with the next, so that even a stopped study can compare them.

    Args:
        study: the study.
        overrides: dotted keys and their values, for every run.
        only: variants to run; empty: all.

    Raises:
        ArgumentError: a variant is unknown, or the arguments of a run are invalid.
    """
    if unknown := sorted(set(only) - set(study.variants)):
        raise ArgumentError(f"only: there is no variant {unknown[0]!r}. Allowed: {', '.join(study.variants)}.")
    study.refuse_own_keys(overrides)
    variants = {name: changes for name, changes in study.variants.items() if not only or name in only}
    runs = []
    for seed, (variant, changes) in product(study.seeds, variants.items()):
        try:
            for protocol, fold in _splits(study, changes, overrides):
                place = Path(variant) / (protocol if fold is None else f"{protocol}-{fold}") / f"seed-{seed}"
                keys = {
                    "corpora.0.protocol": protocol,
                    "corpora.0.fold": fold or 0,
                    "seed": seed,
                    "output_dir": str(Path(study.output_dir) / place),
                }
                run = study.run_arguments(changes, overrides, keys)
                runs.append(StudyRun(variant, protocol, seed, fold, run))
        except ArgumentError as error:
            raise ArgumentError(f"variant {variant!r}: {error}") from error
    return runs


def _splits(study: StudyArguments, *given: Mapping[str, Any]) -> Iterator[tuple[str, int | None]]:
    """Yield protocol and fold of each run of a variant."""
    protocols = study.protocols
    if protocols is None:
        first = study.run_arguments(*given).corpora[0]
        protocols = {first.protocol: None if first.protocol == OFFICIAL else [first.fold]}

    for protocol, folds in protocols.items():
        for fold in [None] if protocol == OFFICIAL else range(NUM_FOLDS) if folds is None else folds:
            yield protocol, fold


def run_study(runs: Sequence[StudyRun], keep_models: bool = False, say: Callable[[str], None] = print) -> None:
    """Train the runs that are not finished yet, one at a time.

    Args:
        runs: from [`plan_runs`].
        keep_models: keep the weights of each run.
        say: prints a line.

    Raises:
        ArgumentError: a folder has a run with other arguments.
    """
    for number, run in enumerate(runs, 1):
        heading = f"run {number} of {len(runs)}: {run.folder}{_place(run, runs)}"
        started = run.folder / STARTED_FILE
        if (run.folder / RESULTS_FILE).is_file():
            _refuse_other_arguments(run, RunResults.load(run.folder / RESULTS_FILE).config, "finished")
            say(f"{heading}: already finished")
            continue

        say(heading)
        resume = last_progress(run.folder) is not None
        if resume and started.is_file():
            _refuse_other_arguments(run, json.loads(started.read_text(encoding="utf-8")), "started")
        elif is_main_process():
            write_json(started, run.arguments.public_dump())
        arguments = run.arguments.model_copy(update={"resume_from_checkpoint": resume, "overwrite": not resume})
        results = run_training(arguments)
        if not keep_models:
            _remove_weights(run.folder)
        if is_main_process():
            started.unlink(missing_ok=True)
        say(f"  dev {_percent(results.metrics_mean['dev'])}, test {_percent(results.metrics_mean['test'])}")


def _remove_weights(folder: Path) -> None:
    """Remove the weights of a finished run, and its checkpoints, stages, and refit, which hold copies of them."""
    for path in (*folder.glob("model*.safetensors*"), *folder.glob("*_adapter/*.safetensors")):
        path.unlink()

    for path in (*list_checkpoints(folder), folder / STAGES_FOLDER, folder / REFIT_FOLDER):
        shutil.rmtree(path, ignore_errors=True)


def _place(run: StudyRun, runs: Sequence[StudyRun]) -> str:
    """Return ` (seed 2 of 3, fold 3 of 5)`, without the parts that have only one value."""
    related = [other for other in runs if (other.variant, other.protocol) == (run.variant, run.protocol)]
    parts = []
    for name in ("seed", "fold"):
        values = list(dict.fromkeys(getattr(other, name) for other in related))
        if len(values) > 1:
            parts.append(f"{name} {values.index(getattr(run, name)) + 1} of {len(values)}")

    return f" ({', '.join(parts)})" if parts else ""


def _percent(metrics: dict[str, float]) -> str:
    return " ".join(f"{name.upper()} {100 * metrics[name]:.2f}" for name in METRICS)


def _refuse_other_arguments(run: StudyRun, trained: Mapping[str, Any], what: str) -> None:
    """Make sure that a folder belongs to this run, by the arguments that it was started or finished with."""
    wanted = run.arguments.public_dump()
    changed = sorted(key for key in trained.keys() | wanted.keys() if trained.get(key) != wanted.get(key))
    if changed:
        raise ArgumentError(
            f"{run.folder} was {what} with other values of {', '.join(changed)}. Remove it, or give the study "
            "another output_dir."
        )


def compare(study: StudyArguments, runs: Sequence[StudyRun]) -> dict[str, Any]:
    """Compare the variants over the finished runs.

    Folds are pooled: every row of a corpus is scored once, by a model that has not seen it. A variant is reported for
    those seeds whose folds are all finished.

    Returns:
        `{"runs": {"finished", "missing"}, "comparison": [{"variant", "protocol", "corpus", "split", "seeds",
        "metrics": {name: {"mean", "std", "values"}}, "difference"}, ...]}`. `difference` has the same form as
        `metrics`: the difference from the first variant, paired by seed, or None. `std` is the sample standard
            deviation, or None
        for one seed.
    """
    missing = [str(run.folder) for run in runs if not (run.folder / RESULTS_FILE).is_file()]
    of_seed: dict[tuple[str, str, int], list[Path]] = {}
    for run in runs:
        of_seed.setdefault((run.variant, run.protocol, run.seed), []).append(run.folder)

    scores: dict[tuple[str, str, str, str], dict[int, dict[str, float]]] = {}
    for (variant, protocol, seed), folders in of_seed.items():
        if any(str(folder) in missing for folder in folders):
            continue
        for split in SCORED_SPLITS:
            answers = [Predictions.load(folder / f"predictions_{split}.parquet") for folder in folders]
            for corpus, metrics in Predictions.concatenate(answers).by_corpus().items():
                scores.setdefault((variant, protocol, corpus, split), {})[seed] = metrics

    first = next(iter(study.variants))
    comparison = []
    for (variant, *where), by_seed in scores.items():
        reference = {} if variant == first else scores.get((first, *where), {})
        shared = [seed for seed in by_seed if seed in reference]
        difference = {
            name: _spread([by_seed[seed][name] - reference[seed][name] for seed in shared])
            for name in NUMBERS
            if shared
        }
        comparison.append(
            dict(zip(("variant", "protocol", "corpus", "split"), (variant, *where), strict=True))
            | {
                "seeds": list(by_seed),
                "metrics": {name: _spread([metrics[name] for metrics in by_seed.values()]) for name in NUMBERS},
                "difference": difference or None,
            }
            | _published(study, variant, *where)
        )

    return {"runs": {"finished": len(runs) - len(missing), "missing": missing}, "comparison": comparison}


def _published(study: StudyArguments, variant: str, protocol: str, corpus: str, split: str) -> dict[str, Any]:
    """Return the published scores of a row and why they cannot be compared, or {} if there are none."""
    if study.published is None or (protocol, split) != (OFFICIAL, "test"):
        return {}
    scores = study.published.scores.get(variant, {}).get(corpus)
    return {} if scores is None else {"published": {"scores": scores, "differs": study.published.differs}}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation, "values": [float(value) for value in values]}


def comparison_table(comparison: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table in percent: mean and standard deviation over the seeds, the difference from the first
    variant, paired by seed, and published scores with the reason why they cannot be compared."""
    shown = ("uar", "wf1", "mean")
    has_published = any("published" in row for row in comparison)
    rows = []

    for row in comparison:
        cells = [row["variant"], row["protocol"], row["corpus"], row["split"], len(row["seeds"])]
        cells += [_shown(row["metrics"][name]) for name in shown]
        cells.append("" if row["difference"] is None else _shown(row["difference"]["mean"], signed=True))
        if has_published:
            published = row.get("published", {"scores": {}, "differs": None})
            scores = published["scores"]
            numbers = [f"{_name(name)} {scores[name]:.2f}" for name in NUMBERS if name in scores]
            cells += [", ".join(numbers) or None, published["differs"]]
        rows.append(cells)

    head = ["variant", "protocol", "corpus", "split", "seeds", *map(_name, shown), "difference of the mean"]
    return markdown_table([*head, *(["published", "not comparable because"] if has_published else [])], rows)


def _name(metric: str) -> str:
    return metric.upper() if metric in METRICS else metric


def _shown(spread: dict[str, Any], signed: bool = False) -> str:
    sign = "+" if signed else ""
    text = f"{100 * spread['mean']:{sign}.2f}"
    return text if spread["std"] is None else f"{text} ± {100 * spread['std']:.2f}"


def write_comparison(study: StudyArguments, runs: Sequence[StudyRun]) -> dict[str, Any]:
    """Write the comparison to `output_dir/study.json` and return it."""
    report = {"study": study.model_dump() | {"run": Path(study.run).name}} | compare(study, runs)
    write_json(Path(study.output_dir) / "study.json", report)
    return report
