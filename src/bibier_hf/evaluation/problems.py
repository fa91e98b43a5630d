"""What a problem type means for answers: how logits become answers, how these are scored, shown, and stored.

| `problem_type` | answers | metrics | a checkpoint is selected by |
|---|---|---|---|
| `single_label_classification` | probabilities that sum to one | UAR, WAR, MF1, WF1 | their mean |
| `multi_label_classification` | a probability for each label | macro F1, micro F1, mAP | mAP |
| `regression` | values | CCC, Pearson, MAE | CCC |

* macro F1, mAP: mean of F1 and of the average precision over the labels that occur; micro F1: of all labels together.
* CCC: concordance correlation coefficient (Lin, 1989); Pearson: correlation; MAE: mean absolute error. Each is the
mean
  over the targets.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from datasets import Dataset
from scipy.special import expit, softmax
from sklearn.metrics import average_precision_score, f1_score

from ..data.schema import problem_type_of
from ..model.labels_bibier import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..tables import percent
from .calibration import calibration_metrics, fit_temperature, reliability_bins, risk_coverage
from .metrics import METRICS, classification_metrics, confusion_matrix, recall_per_class
from .plots import plot_confusion_matrix, plot_reliability, plot_risk_coverage, plot_values

if TYPE_CHECKING:  # labels and reports are also made beside a transformers that is too old for the model
    from ..model.configuration_bibier import BiBiERConfig

Fitted = dict[str, Any]
"""What was fitted, as a configuration keeps it: `temperature`, `thresholds`, `label_ranges`."""

_MODEL_FIELDS = ("temperature", "thresholds", "label_ranges")


class Problem:
    """One label for each clip; the others differ from it.

    Attributes:
        name: as transformers names it.
        metrics: scores of a group of clips, the most important one first.
        selection: the score by which a checkpoint is selected.
        formula: what it is.
        titles: metric -> title in tables; others are in upper case.
        label_scores: scores of each label, in the metrics of a corpus -> title in tables.
        prefix: of the columns of answers in a file of predictions.
        unit: of the scores.
    """

    name: ClassVar[str] = SINGLE_LABEL
    metrics: ClassVar[tuple[str, ...]] = METRICS
    selection: ClassVar[str] = "mean"
    formula: ClassVar[str] = "mean of UAR, WAR, MF1 and WF1 on dev, averaged over the corpora"
    titles: ClassVar[Mapping[str, str]] = MappingProxyType({"mean": "mean"})
    label_scores: ClassVar[Mapping[str, str]] = MappingProxyType({"recall": ""})
    prefix: ClassVar[str] = "p_"
    unit: ClassVar[str] = " in percent"

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics of a table."""
        return tuple(dict.fromkeys((*self.metrics, self.selection)))

    def title(self, metric: str) -> str:
        return self.titles.get(metric, metric.upper())

    def shown(self, metric: str, value: float | None, digits: int = 2) -> str | None:
        """Format a score; shares in percent."""
        return percent(value, digits)

    def fit(
        self, logits: np.ndarray, truth: np.ndarray, corpora: Sequence[str], calibrate: bool
    ) -> tuple[Fitted, str]:
        """Fit to the logits (N, K) of dev what a configuration keeps; returns it with a remark, or ""."""
        if not calibrate:
            return {"temperature": 1.0}, ""
        found = fit_temperature(logits, truth, corpora)
        return {"temperature": found.temperature}, found.note or ""

    def answers(self, logits: np.ndarray, fitted: Fitted) -> np.ndarray:
        """Turn logits (N, K) into answers, as the pipeline does."""
        return softmax(logits / fitted.get("temperature", 1.0), axis=-1)

    def decide(self, answers: np.ndarray, fitted: Fitted) -> np.ndarray:
        """Return what is predicted: classes (N,), presence (N, K), or values (N, K)."""
        return answers.argmax(-1)

    def score(self, truth: np.ndarray, answers: np.ndarray, fitted: Fitted) -> dict[str, float]:
        """Compute the metrics of a group of clips."""
        return classification_metrics(truth, self.decide(answers, fitted))

    def by_group(
        self, truth: np.ndarray, answers: np.ndarray, groups: Sequence[str], fitted: Fitted
    ) -> dict[str, dict[str, float]]:
        """Compute the metrics of each group, in alphabetical order."""
        members = np.asarray(groups)
        return {
            str(group): self.score(truth[members == group], answers[members == group], fitted)
            for group in np.unique(members)
        }

    def calibration(self, truth: np.ndarray, answers: np.ndarray) -> dict[str, float]:
        """Compute how well probabilities match what is true; {} for values."""
        return calibration_metrics(truth, answers)

    def risk_coverage(self, truth: np.ndarray, answers: np.ndarray) -> list[dict[str, float]]:
        """Measure what it is worth to answer only when confident; [] without a single answer."""
        return risk_coverage(truth, answers)

    def of_labels(
        self, truth: np.ndarray, answers: np.ndarray, fitted: Fitted, names: Sequence[str]
    ) -> dict[str, dict[str, float | None]]:
        """Compute `label_scores`, by label; None without a sample."""
        return {"recall": recall_per_class(truth, self.decide(answers, fitted), names)}

    def truth_columns(self, truth: np.ndarray, decided: np.ndarray, names: Sequence[str]) -> dict[str, list]:
        """Return the columns of a file of predictions that come before the answers."""
        named = np.asarray(names)
        return {"label": named[truth].tolist(), "prediction": named[decided].tolist()}

    def draw(
        self,
        truth: np.ndarray,
        series: Mapping[str, np.ndarray],
        fitted: Fitted,
        names: Sequence[str],
        folder: Path,
        corpus: str,
        heading: str,
    ) -> None:
        """Draw the pictures of a corpus.

        Args:
            truth: of its clips.
            series: name -> their answers; the last ones are final.
            fitted: with the answers.
            names: of the labels.
            folder: where to write.
            corpus: end of the names of the files.
            heading: line above the pictures.
        """
        final = list(series.values())[-1]
        decided = self.decide(final, fitted)
        uar = classification_metrics(truth, decided)["uar"]
        matrix = confusion_matrix(truth, decided, len(names))
        title = f"{heading}: UAR {100 * uar:.1f} %"
        plot_confusion_matrix(matrix, names, folder / f"confusion_matrix_{corpus}.png", title)
        bins = {name: reliability_bins(truth, answers) for name, answers in series.items()}
        plot_reliability(bins, folder / f"reliability_{corpus}.png", heading)
        plot_risk_coverage(self.risk_coverage(truth, final), folder / f"risk_coverage_{corpus}.png", heading)


class SeveralLabels(Problem):
    """Several labels at once, or none."""

    name = MULTI_LABEL
    metrics = ("macro_f1", "micro_f1", "map")
    selection = "map"
    formula = "mean average precision (mAP) on dev, averaged over the corpora"
    titles = MappingProxyType({"macro_f1": "macro F1", "micro_f1": "micro F1", "map": "mAP"})
    label_scores = MappingProxyType({"f1_by_label": "F1", "precision_by_label": "average precision"})

    def fit(self, logits, truth, corpora, calibrate):
        fitted, remark = super().fit(logits, truth, corpora, calibrate)
        scores = self.answers(logits, fitted)
        thresholds = [best_threshold(truth[:, label], scores[:, label]) for label in range(truth.shape[1])]
        return fitted | {"thresholds": thresholds}, remark

    def answers(self, logits, fitted):
        return expit(logits / fitted.get("temperature", 1.0))

    def decide(self, answers, fitted):
        thresholds = fitted.get("thresholds")
        return answers >= (0.5 if thresholds is None else np.array(thresholds))

    def score(self, truth, answers, fitted):
        decided, there = self.decide(answers, fitted), truth.any(0)
        if not there.any():
            return dict.fromkeys(self.metrics, 0.0)
        return {
            "macro_f1": float(f1_score(truth[:, there], decided[:, there], average="macro", zero_division=0)),
            "micro_f1": float(f1_score(truth, decided, average="micro", zero_division=0)),
            "map": float(average_precision_score(truth[:, there], answers[:, there], average="macro")),
        }

    def risk_coverage(self, truth, answers):
        return []

    def of_labels(self, truth, answers, fitted, names):
        decided = self.decide(answers, fitted)
        scores: dict[str, dict[str, float | None]] = {name: {} for name in self.label_scores}
        for label, name in enumerate(names):
            there, of_label = truth[:, label].any(), (truth[:, label], answers[:, label])
            f1 = f1_score(truth[:, label], decided[:, label], zero_division=0)
            scores["f1_by_label"][name] = float(f1) if there else None
            scores["precision_by_label"][name] = float(average_precision_score(*of_label)) if there else None
        return scores

    def truth_columns(self, truth, decided, names):
        columns = {f"true_{name}": truth[:, label].astype(int).tolist() for label, name in enumerate(names)}
        return columns | {f"present_{name}": decided[:, label].tolist() for label, name in enumerate(names)}

    def draw(self, truth, series, fitted, names, folder, corpus, heading):
        bins = {name: reliability_bins(truth, answers) for name, answers in series.items()}
        plot_reliability(bins, folder / f"reliability_{corpus}.png", heading)


class Regression(Problem):
    """Values, such as valence and arousal."""

    name = REGRESSION
    metrics = ("ccc", "pearson", "mae")
    selection = "ccc"
    formula = "concordance correlation coefficient (CCC) on dev, averaged over the targets and the corpora"
    titles = MappingProxyType({"pearson": "Pearson"})
    label_scores = MappingProxyType({"ccc_by_label": "CCC", "pearson_by_label": "Pearson", "mae_by_label": "MAE"})
    prefix = "value_"
    unit = ""

    def shown(self, metric, value, digits=2):
        return None if value is None else f"{value:.3f}"

    def fit(self, logits, truth, corpora, calibrate):
        return {}, ""

    def answers(self, logits, fitted):
        ranges = fitted.get("label_ranges")
        return logits if ranges is None else np.clip(logits, *np.array(ranges).T)

    def decide(self, answers, fitted):
        return answers

    def score(self, truth, answers, fitted):
        return {name: float(np.mean(values)) for name, values in agreement(truth, answers).items()}

    def calibration(self, truth, answers):
        return {}

    def risk_coverage(self, truth, answers):
        return []

    def of_labels(self, truth, answers, fitted, names):
        return {
            f"{metric}_by_label": dict(zip(names, values.tolist(), strict=True))
            for metric, values in agreement(truth, answers).items()
        }

    def truth_columns(self, truth, decided, names):
        return {f"true_{name}": truth[:, label].tolist() for label, name in enumerate(names)}

    def draw(self, truth, series, fitted, names, folder, corpus, heading):
        (answers,) = series.values()
        ccc = [f"{name}: CCC {value:.3f}" for name, value in zip(names, agreement(truth, answers)["ccc"], strict=True)]
        plot_values(truth, answers, ccc, folder / f"values_{corpus}.png", heading)


PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in (Problem(), SeveralLabels(), Regression())}


def problem_of(rows: Dataset) -> Problem:
    """Return the problem that rows are for."""
    return PROBLEMS[problem_type_of(rows.features)]


def problem_scored(metrics: Mapping[str, Any]) -> Problem:
    """Return the problem that has these metrics."""
    return next(problem for problem in PROBLEMS.values() if problem.metrics[0] in metrics)


def fitted_of(config: "BiBiERConfig") -> Fitted:
    """Return what a model was fitted with."""
    return {name: getattr(config, name) for name in _MODEL_FIELDS}


def best_threshold(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the threshold with the highest F1, halfway between two scores; of equal ones, that nearest to 0.5.

    Args:
        truth: (N,) 0 or 1; without a 1, the threshold is 0.5.
        scores: (N,) from 0 to 1.
    """
    if not truth.any():
        return 0.5

    order = np.argsort(scores)
    sorted_scores, positives = scores[order], truth[order]
    # Threshold k is below score k: of the scores from k on, hits[k] are right.
    hits = positives[::-1].cumsum()[::-1]
    f1 = 2 * hits / (positives.sum() + np.arange(len(scores), 0, -1))
    below = np.concatenate([[0.0], sorted_scores[:-1]])
    thresholds = (below + sorted_scores) / 2
    f1[1:][sorted_scores[1:] == sorted_scores[:-1]] = -1  # nothing lies between equal scores

    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(thresholds[best[np.abs(thresholds[best] - 0.5).argmin()]])


def agreement(truth: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
    """Compute `ccc`, `pearson` and `mae` of each target, (K,), of truth and values (N, K).

    Where one of them does not vary, there is no correlation: Pearson is 0, and CCC as well, unless both are equal.
    """
    mean_x, mean_y = values.mean(0), truth.mean(0)
    var_x, var_y = values.var(0), truth.var(0)
    cov = ((values - mean_x) * (truth - mean_y)).mean(0)
    apart, spread = var_x + var_y + (mean_x - mean_y) ** 2, np.sqrt(var_x * var_y)

    return {
        "ccc": np.divide(2 * cov, apart, out=np.ones_like(cov), where=apart > 0),
        "pearson": np.divide(cov, spread, out=np.zeros_like(cov), where=spread > 0),
        "mae": np.abs(values - truth).mean(0),
    }
