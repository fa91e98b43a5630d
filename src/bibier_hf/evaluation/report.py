"""Predictions of a model, the files and tables that report them, and the environment they depend on."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..data.schema import truth_of
from ..files import write_atomically
from ..model.labels_bibier import SINGLE_LABEL
from ..tables import markdown_table, percent
from .calibration import CALIBRATION_METRICS
from .problems import PROBLEMS, Fitted, Problem, problem_of, problem_scored

VERSIONED_PACKAGES = "bibier-hf torch transformers accelerate datasets scikit-learn numpy soundfile soxr".split()


@dataclass
class Predictions:
    """Predictions of a model on one split. Every number of a report is computed from these.

    Attributes:
        ids, corpora, languages: (N,) strings.
        labels: (N,) class indices, or (N, K) targets.
        probabilities: (N, K) in label order; values of a regression.
        label_names: the K labels.
        uncalibrated: (N, K), before temperature scaling; None: the probabilities were not scaled.
        problem: how answers are scored and stored.
        fitted: what they depend on, such as thresholds.
    """

    ids: Sequence[str]
    corpora: Sequence[str]
    languages: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    label_names: Sequence[str]
    uncalibrated: np.ndarray | None = None
    problem: Problem = PROBLEMS[SINGLE_LABEL]
    fitted: Fitted = field(default_factory=dict)

    def __post_init__(self):
        sizes = {len(self.ids), len(self.corpora), len(self.languages), len(self.labels), len(self.probabilities)}
        if len(sizes) != 1:
            raise ValueError(f"Every column of the predictions must have the same length, not {sorted(sizes)}.")
        if not np.isfinite(self.probabilities).all():
            raise ValueError(
                "The model gave NaN or infinite probabilities: training diverged. Lower `learning_rate` or set "
                "`max_grad_norm`."
            )

    @classmethod
    def from_logits(cls, dataset, logits: np.ndarray, temperature: float = 1.0, **fitted: Any) -> "Predictions":
        """Build predictions from `logits` (N, K), divided by `temperature`.

        Args:
            dataset: the rows, as for [`of_rows`].
            logits: of a model.
            temperature: of the model.
            fitted: what else it was fitted with.
        """
        logits, problem = np.asarray(logits, dtype=np.float64), problem_of(dataset)
        fitted |= {"temperature": temperature}
        uncalibrated = None if temperature == 1 else problem.answers(logits, fitted | {"temperature": 1.0})
        return cls.of_rows(dataset, problem.answers(logits, fitted), uncalibrated, fitted)

    @classmethod
    def of_rows(
        cls, dataset, probabilities: np.ndarray, uncalibrated: np.ndarray | None = None, fitted: Fitted | None = None
    ) -> "Predictions":
        """Build predictions from answers (N, K) for the rows of `dataset`, with `id`, `corpus`, `language` and
        `label`, whose names it knows, or `target`."""
        ids, corpora, languages = (list(dataset[name]) for name in ("id", "corpus", "language"))
        labels, names = truth_of(dataset), dataset.features["label"].names
        problem = problem_of(dataset)
        return cls(ids, corpora, languages, labels, probabilities, names, uncalibrated, problem, fitted or {})

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """Read a file of [`save`] with one label for each clip. It holds the final probabilities only, not the
        uncalibrated ones."""
        table = pq.read_table(path)
        ids, corpora, languages, labels = (table[name].to_pylist() for name in ("id", "corpus", "language", "label"))
        prefix = PROBLEMS[SINGLE_LABEL].prefix
        columns = [name for name in table.column_names if name.startswith(prefix)]
        names = [name.removeprefix(prefix) for name in columns]
        probabilities = np.stack([table[name].to_numpy() for name in columns], axis=1)
        return cls(ids, corpora, languages, np.array([names.index(label) for label in labels]), probabilities, names)

    @classmethod
    def concatenate(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Join the rows of all parts."""
        scaled = any(part.uncalibrated is not None for part in parts)
        before = [part.probabilities if part.uncalibrated is None else part.uncalibrated for part in parts]
        return cls(
            ids=[value for part in parts for value in part.ids],
            corpora=[value for part in parts for value in part.corpora],
            languages=[value for part in parts for value in part.languages],
            labels=np.concatenate([part.labels for part in parts]),
            probabilities=np.concatenate([part.probabilities for part in parts]),
            label_names=parts[0].label_names,
            uncalibrated=np.concatenate(before) if scaled else None,
            problem=parts[0].problem,
            fitted=parts[0].fitted,
        )

    @property
    def predictions(self) -> np.ndarray:
        """(N,) class indices with the highest probability; (N, K) what is present, or values."""
        return self.problem.decide(np.asarray(self.probabilities), self.fitted)

    def by_corpus(self) -> dict[str, dict[str, float]]:
        return self._grouped(self.corpora)

    def metrics_by_corpus(self) -> dict[str, dict[str, Any]]:
        """`{corpus: {uar, war, mf1, wf1, mean, ece, brier, nll, samples, recall: {label: ...}}}`, or those of another
        problem."""
        metrics: dict[str, dict[str, Any]] = {}
        for corpus, scores in self.by_corpus().items():
            labels, answers = self.probabilities_of_corpus(corpus)
            of_labels = self.problem.of_labels(labels, answers, self.fitted, self.label_names)
            metrics[corpus] = scores | self.problem.calibration(labels, answers) | {"samples": len(labels)} | of_labels

        return metrics

    def by_language(self) -> dict[str, dict[str, float]]:
        return self._grouped(self.languages)

    def _grouped(self, groups: Sequence[str]) -> dict[str, dict[str, float]]:
        return self.problem.by_group(np.asarray(self.labels), np.asarray(self.probabilities), groups, self.fitted)

    def probabilities_of_corpus(self, corpus: str, calibrated: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return labels (n,) and probabilities (n, K) of one corpus, with or without temperature scaling."""
        rows = np.asarray(self.corpora) == corpus
        probabilities = self.probabilities if calibrated or self.uncalibrated is None else self.uncalibrated
        return np.asarray(self.labels)[rows], np.asarray(probabilities)[rows]

    def calibration_by_corpus(self, calibrated: bool = True) -> dict[str, dict[str, float]]:
        """Return `{corpus: {"ece", "brier", "nll"}}`, in alphabetical order; nothing of values."""
        found = {
            corpus: self.problem.calibration(*self.probabilities_of_corpus(corpus, calibrated))
            for corpus in sorted({*map(str, self.corpora)})
        }
        return {corpus: numbers for corpus, numbers in found.items() if numbers}

    def risk_coverage_by_corpus(self) -> dict[str, list[dict[str, float]]]:
        """Return `{corpus: [{"coverage", "confidence", "risk"}, ...]}`, in alphabetical order; nothing without one
        answer."""
        found = {
            corpus: self.problem.risk_coverage(*self.probabilities_of_corpus(corpus))
            for corpus in sorted({*map(str, self.corpora)})
        }
        return {corpus: points for corpus, points in found.items() if points}

    def save(self, path: str | Path) -> None:
        """Write a Parquet table: `id, corpus, language, label, prediction`, and the probability of each label as
        `p_<label>`; of several labels at once `true_<label>`, `present_<label>` and `p_<label>`, of values
        `true_<label>` and `value_<label>`."""
        columns = {
            "id": pa.array(self.ids, pa.string()),
            "corpus": pa.array(self.corpora, pa.string()),
            "language": pa.array(self.languages, pa.string()),
        }
        truth = self.problem.truth_columns(np.asarray(self.labels), self.predictions, self.label_names)
        columns |= {name: pa.array(values) for name, values in truth.items()}
        for index, name in enumerate(self.label_names):
            columns[self.problem.prefix + name] = pa.array(self.probabilities[:, index], pa.float64())
        write_atomically(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


def write_split_report(predictions: Predictions, split: str, directory: str | Path, title: str = "") -> None:
    """Write `predictions_<split>.parquet`, and for each corpus `confusion_matrix_<split>_<corpus>.png` and
    `reliability_<split>_<corpus>.png` and `risk_coverage_<split>_<corpus>.png`, or `values_<split>_<corpus>.png` of a
    regression."""
    directory = Path(directory)
    predictions.save(directory / f"predictions_{split}.parquet")
    for corpus in sorted(set(predictions.corpora)):
        series = {"before": False, "after temperature scaling": True}
        if predictions.uncalibrated is None:
            series = {"": True}
        labels, _ = predictions.probabilities_of_corpus(corpus)
        answers = {
            name: predictions.probabilities_of_corpus(corpus, calibrated)[1] for name, calibrated in series.items()
        }
        names, heading = predictions.label_names, f"{title or corpus}, {split}"
        predictions.problem.draw(labels, answers, predictions.fitted, names, directory, f"{split}_{corpus}", heading)


def metrics_table(
    metrics: dict[str, dict[str, float]], head: str = "corpus", mean: dict[str, float] | None = None
) -> str:
    """Return a Markdown table, shares in percent, one row per group; below several groups, their mean if given."""
    problem = problem_scored(next(iter(metrics.values())))
    if mean is not None and len(metrics) > 1:
        metrics = metrics | {"mean": mean}
    rows = [
        [group, *(problem.shown(name, values[name]) for name in problem.columns)] for group, values in metrics.items()
    ]

    return markdown_table([head, *map(problem.title, problem.columns)], rows)


def recall_table(metrics: dict[str, dict]) -> str:
    """Return a Markdown table of the scores of each label, such as its recall in percent, one row per corpus and
    score; a dash without samples."""
    first = next(iter(metrics.values()))
    problem = problem_scored(first)
    rows = []
    for key, title in problem.label_scores.items():
        metric = key.removesuffix("_by_label")
        for corpus, values in metrics.items():
            shown = [problem.shown(metric, value, 1) for value in values[key].values()]
            rows.append([f"{corpus}, {title}" if title else corpus, *shown])

    return markdown_table(["corpus", *next(first[key] for key in problem.label_scores)], rows)


def calibration_table(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table of ECE in percent, Brier score and negative log-likelihood.

    There are two rows per corpus, before and after temperature scaling, or one if nothing was scaled.

    Args:
        before, after: corpus -> `{"ece", "brier", "nll"}`.
    """
    rows = []

    for corpus, values in after.items():
        scaled = any(before[corpus][name] != values[name] for name in CALIBRATION_METRICS)
        states = {"before": before[corpus], "after": values} if scaled else {"not scaled": values}
        for state, numbers in states.items():
            rows.append([corpus, state, percent(numbers["ece"]), f"{numbers['brier']:.4f}", f"{numbers['nll']:.4f}"])

    return markdown_table(["corpus", "", *map(str.upper, CALIBRATION_METRICS)], rows)


def risk_table(points: Sequence[Mapping[str, float]]) -> str:
    """Return a Markdown table of a risk-coverage curve, in percent."""
    rows = [
        [f"{100 * point['coverage']:.0f}", percent(1 - point["risk"], 1), f"{point['confidence']:.2f}"]
        for point in points
    ]
    return markdown_table(["answered", "right among them", "least confidence"], rows)


def conditions_table(numbers: dict[str, dict[str, dict[str, float]]], head: str) -> str:
    """Return a Markdown table with one row per corpus and condition or noise level; all but NLL in percent.

    Args:
        numbers: corpus -> condition -> its metrics.
        head: title of the column of conditions.
    """
    rows = []
    problem = problem_scored(next(iter(next(iter(numbers.values())).values())))
    calibrated: list[str] = []

    for corpus, conditions in numbers.items():
        for condition, values in conditions.items():
            row = [
                corpus,
                condition,
                values["samples"],
                *(problem.shown(name, values[name]) for name in problem.metrics),
            ]
            if "ece" in values:
                calibrated = ["ECE", "NLL"]
                row += [percent(values["ece"]), f"{values['nll']:.3f}"]
            rows.append(row)

    return markdown_table(["corpus", head, "samples", *map(problem.title, problem.metrics), *calibrated], rows)


def environment(world_size: int = 1) -> dict[str, Any]:
    """Return `git`, `versions` and `hardware`: what results depend on besides data and arguments."""
    return {"git": _LOADED_FROM, "versions": _versions(), "hardware": _hardware(world_size)}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # this package, if it runs from its sources
            continue
    return versions


def _git_state() -> dict[str, str | bool] | None:
    """Return the commit of the source tree; None if the package was installed from a wheel or git is missing."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", folder, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # The package may be installed inside the work tree of another repository, which does not track it.
        if not git("ls-files", __file__):
            return None
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {"commit": git("rev-parse", "HEAD"), "dirty": dirty}
    except (OSError, subprocess.CalledProcessError):
        return None


def _hardware(world_size: int) -> dict[str, str | int]:
    hardware = {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processes": world_size,
    }
    if torch.cuda.is_available():
        hardware |= {"gpu": torch.cuda.get_device_name(), "gpus": torch.cuda.device_count()}
    return hardware


def _processor_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


_LOADED_FROM = _git_state()
"""Read when the code is loaded: by the end of a long run, the work tree may hold other code."""
