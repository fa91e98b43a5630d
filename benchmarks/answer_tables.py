"""Model answers in small CSV files, and the tables made from them.

    # anger,calm                                       the labels
    id,group,label,adapt 8 1,adapt 8 2                 what is drawn together, the true label, one column per model
    ravdess-0c1d,3,0,1,1

Labels and answers are positions in the list of labels. `benchmarks/other_labels.py` writes these files into its output
folder; those behind docs/results.md are in `benchmarks/answers/`.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from bibier_hf.evaluation.bootstrap import drawn_scores, paired_difference, percentile_interval
from bibier_hf.evaluation.metrics import classification_metrics
from bibier_hf.tables import markdown_table, percent, percent_range
from bibier_hf.training.study import StudyArguments

METHODS = {
    "adapt": "`bibier adapt`, from the model trained on RESD",
    "scratch": "the same model, trained from scratch",
    "regression": "logistic regression on statistics of its features",
}
"""Method of the few-shot comparison -> what it is called in the table."""

TARGETS = {
    "resd_enthusiasm-official": ("RESD with enthusiasm, official", "`bibier study resd_enthusiasm`", "dialogues"),
    "resd_enthusiasm-dialogue_grouped": ("the same, dialogue_grouped", "the same", "dialogues"),
    "meld_sentiment-official": ("MELD text, sentiment", "`bibier study meld_sentiment`", "dialogues"),
    "ravdess_intensity-speaker_independent": ("RAVDESS, intensity", "`bibier study ravdess_intensity`", "actors"),
}
"""File of answers -> corpus and target, command, what is drawn."""


@dataclass(frozen=True)
class Answers:
    """Answers of some models to the same N rows.

    Attributes:
        ids, groups: (N,) names; rows of a group are drawn together.
        names: of the labels.
        labels: (N,) positions in `names`.
        columns: name of a model -> its answers (N,).
    """

    ids: Sequence[str]
    groups: Sequence[str]
    names: Sequence[str]
    labels: np.ndarray
    columns: Mapping[str, np.ndarray]

    def write(self, path: Path) -> None:
        numbers = {group: number for number, group in enumerate(dict.fromkeys(self.groups))}
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(f"# {','.join(self.names)}\n")
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "group", "label", *self.columns])
            groups = [numbers[group] for group in self.groups]
            writer.writerows(zip(self.ids, groups, self.labels, *self.columns.values(), strict=True))

    @classmethod
    def read(cls, path: Path) -> "Answers":
        with open(path, encoding="utf-8", newline="") as file:
            names = file.readline().removeprefix("# ").strip().split(",")
            (_, _, _, *models), *rows = csv.reader(file)
        ids, groups, labels, *answers = zip(*rows, strict=True)
        columns = {name: np.array(column, dtype=int) for name, column in zip(models, answers, strict=True)}
        return cls(ids, groups, names, np.array(labels, dtype=int), columns)

    def drawn(self, column: str) -> dict[str, np.ndarray]:
        """Return the scores of a model in each draw of the bootstrap."""
        return drawn_scores(self.labels, self.columns[column], self.groups)

    def scores(self, columns: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
        """Return `{"uar": (score of each model, interval of their mean), "wf1": ...}`."""
        drawn = [self.drawn(name) for name in columns]
        found = [classification_metrics(self.labels, self.columns[name]) for name in columns]
        return {
            name: (
                [each[name] for each in found],
                percentile_interval(np.mean([each[name] for each in drawn], axis=0)),
            )
            for name in ("uar", "wf1")
        }


def target_table(folder: Path) -> str:
    """Return a row for each study of another target."""
    rows = []
    for name, (target, command, unit) in TARGETS.items():
        if (folder / f"{name}.csv").is_file():
            answers = Answers.read(folder / f"{name}.csv")
            scores = answers.scores(list(answers.columns))
            used = len(set(answers.labels.tolist()))
            shown = [
                f"{percent(fmean(values), 1)} ({percent_range(*interval)})" for values, interval in scores.values()
            ]
            rows.append([target, command, used, len(answers.labels), *shown, unit])
    return markdown_table(["target", "command", "classes in test", "rows", "UAR", "WF1", "drawn"], rows)


def few_shot_table(folder: Path) -> str:
    """Return a row for each method and number of clips: mean, range over the draws and interval of the mean."""
    answers = Answers.read(folder / "few_shot.csv")
    rows = []
    for count in dict.fromkeys(int(name.split()[1]) for name in answers.columns):
        for method, title in METHODS.items():
            columns = [name for name in answers.columns if name.split()[:2] == [method, str(count)]]
            if columns:
                scores = answers.scores(columns)
                (uar, interval), (wf1, _) = scores["uar"], scores["wf1"]
                span, mean = percent_range(min(uar), max(uar)), percent(fmean(uar), 1)
                rows.append([count, title, mean, span, percent_range(*interval), percent(fmean(wf1), 1)])
    head = [
        "clips per class",
        "method",
        "UAR, mean of the draws",
        "lowest to highest",
        "95 % interval of the mean",
        "WF1",
    ]
    return markdown_table(head, rows)


def study_table(study: StudyArguments, answers: Answers, corpus: str) -> str:
    """Return a row for each variant of a study: scores over the seeds, the difference to the first variant that is
    there, and the published scores, with what keeps them from being compared.

    Args:
        study: whose variants and published scores are shown.
        answers: with a column `"{variant} {seed}"` for each run.
        corpus: of the answers, whose published scores are shown.
    """
    columns = {name: [each for each in answers.columns if each.rpartition(" ")[0] == name] for name in study.variants}
    drawn = {
        name: {"uar": np.mean([answers.drawn(column)["uar"] for column in of_variant], axis=0)}
        for name, of_variant in columns.items()
        if of_variant
    }
    published = study.published.scores if study.published is not None else {}
    scores = {name: answers.scores(columns[name]) for name in drawn}
    first = next(iter(drawn))
    rows = []

    for name in drawn:
        (uar, interval), (wf1, _) = scores[name]["uar"], scores[name]["wf1"]
        difference = None
        if name != first:
            found = paired_difference(drawn[name], drawn[first], fmean(uar) - fmean(scores[first]["uar"][0]))
            tie = " (tie)" if found.tie else ""
            difference = f"{100 * found.difference:+.1f} [{100 * found.lower:+.1f}, {100 * found.upper:+.1f}]{tie}"

        numbers = [
            f"{'mean' if metric == 'mean' else metric.upper()} {value:.1f}"
            for metric, value in published.get(name, {}).get(corpus, {}).items()
        ]
        differs = study.published.differs if study.published is not None and numbers else None
        cells = [name, len(uar), percent(fmean(uar), 1), percent_range(min(uar), max(uar)), percent_range(*interval)]
        rows.append([*cells, percent(fmean(wf1), 1), difference, ", ".join(numbers) or None, differs])

    head = ["variant", "seeds", "UAR", "lowest to highest", "95 % interval", "WF1", f"UAR, difference from `{first}`"]
    return markdown_table([*head, "published", "not comparable because"], rows)
