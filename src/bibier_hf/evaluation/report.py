"""Predictions of a model, the files and tables that report them, and the environment they depend on."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.special import softmax

from ..files import write_atomically
from ..tables import markdown_table, percent
from .calibration import CALIBRATION_METRICS, calibration_metrics, reliability_bins, risk_coverage
from .metrics import METRICS, classification_metrics, confusion_matrix, grouped_metrics, recall_per_class
from .plots import plot_confusion_matrix, plot_reliability, plot_risk_coverage

VERSIONED_PACKAGES = "bibier-hf torch transformers accelerate datasets scikit-learn numpy soundfile soxr".split()


PROBABILITY = "p_"
"""What the column of a probability begins with, before the name of its label."""


@dataclass
class Predictions:
    """Predictions of a model on one split. Every number of a report is computed from these.

    Attributes:
        ids, corpora, languages: (N,) strings.
        labels: (N,) class indices.
        probabilities: (N, K) in label order.
        label_names: the K labels.
        uncalibrated: (N, K), before temperature scaling; None: the probabilities were not scaled.
    """

    ids: Sequence[str]
    corpora: Sequence[str]
    languages: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    label_names: Sequence[str]
    uncalibrated: np.ndarray | None = None

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
    def from_logits(cls, dataset, logits: np.ndarray, temperature: float = 1.0) -> "Predictions":
        """Build predictions from `logits` (N, K), divided by `temperature`. `dataset`: as for [`of_rows`]."""
        logits = np.asarray(logits, dtype=np.float64)
        uncalibrated = None if temperature == 1 else softmax(logits, axis=-1)
        return cls.of_rows(dataset, softmax(logits / temperature, axis=-1), uncalibrated)

    @classmethod
    def of_rows(cls, dataset, probabilities: np.ndarray, uncalibrated: np.ndarray | None = None) -> "Predictions":
        """Build predictions from probabilities (N, K) for the rows of `dataset`, with `id`, `corpus`, `language` and
        `label`, whose names it knows."""
        ids, corpora, languages = (list(dataset[name]) for name in ("id", "corpus", "language"))
        labels, names = np.asarray(dataset["label"], dtype=np.int64), dataset.features["label"].names
        return cls(ids, corpora, languages, labels, probabilities, names, uncalibrated)

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """Read a file of [`save`]. It holds the final probabilities only, not the uncalibrated ones."""
        table = pq.read_table(path)
        ids, corpora, languages, labels = (table[name].to_pylist() for name in ("id", "corpus", "language", "label"))
        columns = [name for name in table.column_names if name.startswith(PROBABILITY)]
        names = [name.removeprefix(PROBABILITY) for name in columns]
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
        )

    @property
    def predictions(self) -> np.ndarray:
        """(N,) class indices with the highest probability."""
        return np.asarray(self.probabilities).argmax(-1)

    def by_corpus(self) -> dict[str, dict[str, float]]:
        return grouped_metrics(self.labels, self.predictions, self.corpora)

    def metrics_by_corpus(self) -> dict[str, dict[str, Any]]:
        """`{corpus: {uar, war, mf1, wf1, mean, ece, brier, nll, samples, recall: {label: ...}}}`"""
        metrics: dict[str, dict[str, Any]] = {}
        for corpus, scores in self.by_corpus().items():
            labels, probabilities = self.probabilities_of_corpus(corpus)
            calibration = calibration_metrics(labels, probabilities)
            recall = recall_per_class(labels, probabilities.argmax(-1), self.label_names)
            metrics[corpus] = scores | calibration | {"samples": len(labels), "recall": recall}

        return metrics

    def by_language(self) -> dict[str, dict[str, float]]:
        return grouped_metrics(self.labels, self.predictions, self.languages)

    def probabilities_of_corpus(self, corpus: str, calibrated: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return labels (n,) and probabilities (n, K) of one corpus, with or without temperature scaling."""
        rows = np.asarray(self.corpora) == corpus
        probabilities = self.probabilities if calibrated or self.uncalibrated is None else self.uncalibrated
        return np.asarray(self.labels)[rows], np.asarray(probabilities)[rows]

    def calibration_by_corpus(self, calibrated: bool = True) -> dict[str, dict[str, float]]:
        """Return `{corpus: {"ece", "brier", "nll"}}`, in alphabetical order."""
        return {
            corpus: calibration_metrics(*self.probabilities_of_corpus(corpus, calibrated))
            for corpus in sorted({*map(str, self.corpora)})
        }

    def risk_coverage_by_corpus(self) -> dict[str, list[dict[str, float]]]:
        """Return `{corpus: [{"coverage", "confidence", "risk"}, ...]}`, in alphabetical order."""
        return {
            corpus: risk_coverage(*self.probabilities_of_corpus(corpus))
            for corpus in sorted({*map(str, self.corpora)})
        }

    def save(self, path: str | Path) -> None:
        """Write a Parquet table: `id, corpus, language, label, prediction`, and the probability of each label as
        `p_<label>`."""
        names = np.asarray(self.label_names)
        columns = {
            "id": pa.array(self.ids, pa.string()),
            "corpus": pa.array(self.corpora, pa.string()),
            "language": pa.array(self.languages, pa.string()),
            "label": pa.array(names[np.asarray(self.labels)].tolist(), pa.string()),
            "prediction": pa.array(names[self.predictions].tolist(), pa.string()),
        }
        for index, name in enumerate(names):
            columns[PROBABILITY + name] = pa.array(self.probabilities[:, index], pa.float64())
        write_atomically(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


def write_split_report(predictions: Predictions, split: str, directory: str | Path, title: str = "") -> None:
    """Write `predictions_<split>.parquet`, and for each corpus `confusion_matrix_<split>_<corpus>.png` and
    `reliability_<split>_<corpus>.png` and `risk_coverage_<split>_<corpus>.png`."""
    directory = Path(directory)
    predictions.save(directory / f"predictions_{split}.parquet")
    for corpus in sorted(set(predictions.corpora)):
        labels, probabilities = predictions.probabilities_of_corpus(corpus)
        predicted = probabilities.argmax(-1)
        uar = classification_metrics(labels, predicted)["uar"]
        heading = f"{title or corpus}, {split}: UAR {100 * uar:.1f} %"
        names = predictions.label_names
        matrix = confusion_matrix(labels, predicted, len(names))
        plot_confusion_matrix(matrix, names, directory / f"confusion_matrix_{split}_{corpus}.png", heading)

        series = {"before": False, "after temperature scaling": True}
        if predictions.uncalibrated is None:
            series = {"": True}
        bins = {
            name: reliability_bins(*predictions.probabilities_of_corpus(corpus, calibrated))
            for name, calibrated in series.items()
        }
        plot_reliability(bins, directory / f"reliability_{split}_{corpus}.png", f"{title or corpus}, {split}")
        points = risk_coverage(labels, probabilities)
        plot_risk_coverage(points, directory / f"risk_coverage_{split}_{corpus}.png", f"{title or corpus}, {split}")


def metrics_table(
    metrics: dict[str, dict[str, float]], head: str = "corpus", mean: dict[str, float] | None = None
) -> str:
    """Return a Markdown table in percent, one row per group; below several groups, their mean if given."""
    if mean is not None and len(metrics) > 1:
        metrics = metrics | {"mean": mean}
    names = (*METRICS, "mean")
    rows = [[group, *(percent(values[name]) for name in names)] for group, values in metrics.items()]

    return markdown_table([head, *map(str.upper, METRICS), "mean"], rows)


def recall_table(metrics: dict[str, dict]) -> str:
    """Return a Markdown table of the recall of each label in percent, one row per corpus; a dash without samples."""
    names = list(next(iter(metrics.values()))["recall"])
    rows = [[corpus, *(percent(values["recall"][name], 1) for name in names)] for corpus, values in metrics.items()]

    return markdown_table(["corpus", *names], rows)


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

    for corpus, conditions in numbers.items():
        for condition, values in conditions.items():
            shares = [percent(values[name]) for name in (*METRICS, "ece")]
            rows.append([corpus, condition, values["samples"], *shares, f"{values['nll']:.3f}"])

    return markdown_table(["corpus", head, "samples", *map(str.upper, METRICS), "ECE", "NLL"], rows)


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
