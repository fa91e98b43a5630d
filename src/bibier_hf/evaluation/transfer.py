"""The transfer matrix: classifiers trained on each corpus or several, and tested on every corpus.

    corpora x modalities -> training sets -> logistic regression on pooled features -> answers -> one sheet per test

Each test row is answered by a classifier that has seen neither the row nor anything that the test holds out, such as
its dialogue, its speaker, or its sentence. A *leaky* test, such as an official split that shares voices with train,
has a separate sheet. All numbers, tables, and pictures are computed from the sheets, which are small enough to
publish.
"""

import csv
import gzip
import io
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ..data.protocols import NUM_FOLDS, ProtocolError, stratified_group_split
from ..files import write_bytes
from ..tables import markdown_table, percent
from .bootstrap import PairedDifference, drawn_scores, paired_difference, percentile_intervals
from .metrics import classification_metrics

BOTH = "both"
FAIR, LEAKY = "fair", "leaky"
UTTERANCE, ROLE = "utterance", "role"

STRENGTHS = {"audio": 0.003, "text": 0.01}
"""Modality -> C of the logistic regression: fixed, so that nothing is tuned on a test set."""

Division = tuple[np.ndarray, np.ndarray]
"""Positions of the training rows and of the test rows."""


@dataclass(frozen=True)
class CorpusRows:
    """The rows of one corpus.

    Attributes:
        name, language: of the corpus.
        columns: `id`, `split`, `speaker`, `dialogue`, `text`, and `fold` if the corpus defines folds: N values each.
        labels: (N,) class indices.
        features: modality -> (N, D) pooled features.
    """

    name: str
    language: str
    columns: Mapping[str, Sequence[Any]]
    labels: np.ndarray
    features: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Test:
    """A test on a corpus.

    Attributes:
        corpus: name of the corpus.
        kind: `"fair"` or `"leaky"`.
        hold_out: a split of the corpus, or columns that share no value between train and test.
        group: column that the bootstrap draws whole.
    """

    __test__ = False

    corpus: str
    kind: str
    hold_out: str | Sequence[str]
    group: str


@dataclass
class Sheet:
    """The answers of all systems to the rows of one test.

    Attributes:
        corpus, kind: of the test.
        unit: `"utterance"`, or `"role"`: all utterances of one speaker in one dialogue, with their mean probabilities.
        ids, groups: (N,) names of the rows, and the groups that the bootstrap draws whole.
        labels: (N,) class indices.
        predictions: system -> (N,) class indices. A system is `audio:resd+ravdess`: what it reads, and its corpora.
    """

    corpus: str
    kind: str
    unit: str
    ids: Sequence[str]
    groups: Sequence[str]
    labels: np.ndarray
    predictions: dict[str, np.ndarray] = field(default_factory=dict)


def divide(rows: CorpusRows, hold_out: str | Sequence[str], seed: int = 42) -> list[Division]:
    """Divide the rows of a corpus such that each test row is answered once.

    Args:
        rows: of the corpus.
        hold_out: `"dev"` trains on train, any other split on everything else. The values of a column are divided into
            five folds, or used as folds if there are at most five; with two columns, every pair of folds is a test,
            and no training row shares either of them.
        seed: of the folds.

    Raises:
        ProtocolError: the corpus has no such split, or rows without a value.
    """
    if isinstance(hold_out, str):
        splits = np.asarray(rows.columns["split"])
        test = splits == hold_out
        train = splits == "train" if hold_out == "dev" else ~test
        if not test.any() or not train.any():
            raise ProtocolError(f"{rows.name} has no split '{hold_out}', or nothing else to train on.")
        return [(np.flatnonzero(train), np.flatnonzero(test))]

    folds = [_folds(rows, column, seed) for column in hold_out]
    divisions = []
    for chosen in itertools.product(*(np.unique(fold) for fold in folds)):
        same = np.array([fold == number for fold, number in zip(folds, chosen, strict=True)])
        divisions.append((np.flatnonzero(~same.any(0)), np.flatnonzero(same.all(0))))
    divisions = [(train, test) for train, test in divisions if len(test)]
    if not all(len(train) for train, _ in divisions):
        held = " and ".join(hold_out)
        raise ProtocolError(
            f"{rows.name}: nothing is left to train on once a {held} is held out. Hold out something else."
        )
    return divisions


def _folds(rows: CorpusRows, column: str, seed: int) -> np.ndarray:
    own = rows.columns.get("fold")
    if column == "dialogue" and own is not None and None not in own:
        return np.asarray(own)

    values = list(rows.columns[column])
    if missing := sum(value is None for value in values):
        raise ProtocolError(f"{rows.name}: {missing} of {len(values)} rows have no {column}, which is to be held out.")
    names = sorted(set(values))
    if len(names) <= NUM_FOLDS:
        return np.array([names.index(value) for value in values])

    shares = {str(number): 1 / NUM_FOLDS for number in range(1, NUM_FOLDS)}
    return np.array(
        [int(name) for name in stratified_group_split(rows.labels.tolist(), values, shares, seed, remainder="0")]
    )


def training_sets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield each corpus, all pairs, and all of them."""
    for size in sorted({size for size in (1, 2, len(names)) if size <= len(names)}):
        yield from itertools.combinations(names, size)


def answer_tests(
    corpora: Mapping[str, CorpusRows],
    tests: Sequence[Test],
    num_labels: int,
    standardize: str = "corpus",
    strengths: Mapping[str, float] = STRENGTHS,
    seed: int = 42,
) -> list[Sheet]:
    """Train and test every cell of the matrix.

    Args:
        corpora: by name.
        tests: of these corpora.
        num_labels: size K of the label set.
        standardize: `"corpus"`: each corpus by its own mean and standard deviation, and a corpus that was not trained
            on by those of its test rows, without their labels; `"pooled"`: by those of all training rows.
        strengths: modality -> C.
        seed: of folds and solver.

    Returns:
        one sheet per test, and one of the roles for each fair test in which every role has a single label.
    """
    sheets = []
    for test in tests:
        corpus = corpora[test.corpus]
        divisions = divide(corpus, test.hold_out, seed)
        tested = np.sort(np.concatenate([rows for _, rows in divisions]))
        answers: dict[str, np.ndarray] = {}

        for modality in corpus.features:
            readers = [name for name, rows in corpora.items() if modality in rows.features]
            for trained in training_sets(readers):
                if test.corpus not in trained and test.kind == LEAKY:
                    continue
                parts = divisions if test.corpus in trained else [(tested, tested)]
                found = np.zeros((len(corpus.labels), num_labels))
                for train, rows in parts:
                    sources = [(corpora[name], train if name == test.corpus else None) for name in trained]
                    model = _Model(sources, modality, standardize, strengths[modality], seed)
                    found[rows] = model.answer(corpus, rows, num_labels)
                answers[system_name(modality, trained)] = found

        answers |= _fused(answers, corpora)
        sheets += _sheets(test, corpus, tested, answers)
    return sheets


def system_name(modality: str, trained: Sequence[str]) -> str:
    return f"{modality}:{'+'.join(trained)}"


class _Model:
    """Logistic regression on standardized features. All classes of all corpora have the same weight.

    Args:
        sources: corpora and the rows of them to train on; None: all.
        modality, standardize, strength, seed: see [`answer_tests`].
    """

    def __init__(
        self,
        sources: Sequence[tuple[CorpusRows, np.ndarray | None]],
        modality: str,
        standardize: str,
        strength: float,
        seed: int,
    ):
        self.modality = modality
        inputs, labels, weights = [], [], []
        for corpus, rows in sources:
            rows = np.arange(len(corpus.labels)) if rows is None else rows
            inputs.append(corpus.features[modality][rows])
            labels.append(corpus.labels[rows])
            weights.append(1 / np.bincount(labels[-1])[labels[-1]])

        names = [corpus.name for corpus, _ in sources]
        if standardize == "corpus":
            self.moments = {name: _moments(values) for name, values in zip(names, inputs, strict=True)}
        else:
            self.moments = dict.fromkeys([*names, None], _moments(np.concatenate(inputs)))

        values = np.concatenate([self._scaled(name, part) for name, part in zip(names, inputs, strict=True)])
        weight, classes = np.concatenate(weights), np.concatenate(labels)
        if len(set(classes.tolist())) < 2:
            raise ProtocolError(
                f"{' and '.join(names)}: all rows to train on have the same label. Leave the corpus out."
            )

        self.regression = LogisticRegression(C=strength, max_iter=2000, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                self.regression.fit(values, classes, sample_weight=weight * len(weight) / weight.sum())
            except ConvergenceWarning as error:
                raise ProtocolError(
                    f"strengths: with {modality}: {strength:g}, no optimum was found. Lower it."
                ) from error

    def answer(self, corpus: CorpusRows, rows: np.ndarray, num_labels: int) -> np.ndarray:
        """Return probabilities (len(rows), K)."""
        probabilities = np.zeros((len(rows), num_labels))
        scaled = self._scaled(corpus.name, corpus.features[self.modality][rows])
        probabilities[:, self.regression.classes_] = self.regression.predict_proba(scaled)
        return probabilities

    def _scaled(self, name: str, values: np.ndarray) -> np.ndarray:
        """Standardize values of a corpus, by their own moments if the corpus was not trained on."""
        mean, deviation = self.moments.get(name) or self.moments.get(None) or _moments(values)
        return (values - mean) / deviation


def _moments(values: np.ndarray) -> Division:
    return values.mean(0), np.maximum(values.std(0), 1e-6)


def _fused(answers: Mapping[str, np.ndarray], corpora: Mapping[str, CorpusRows]) -> dict[str, np.ndarray]:
    """Late fusion with equal weights: the geometric mean of the probabilities. Each part is trained on the corpora
    that have its modality."""
    fused = {}
    for trained in training_sets(list(corpora)):
        readers = {
            modality: [name for name in trained if modality in corpora[name].features]
            for modality in ("audio", "text")
        }
        systems = [system_name(modality, names) for modality, names in readers.items()]
        if all(system in answers for system in systems):
            fused[system_name(BOTH, trained)] = _geometric_mean(*(answers[system] for system in systems))
    return fused


def _geometric_mean(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Geometric mean of probabilities (N, K). A class that only one of them was trained on keeps its probability
    there."""
    mean = np.sqrt(np.where(one > 0, one, other) * np.where(other > 0, other, one))
    return mean / np.maximum(mean.sum(1, keepdims=True), np.finfo(float).tiny)


def _sheets(test: Test, corpus: CorpusRows, tested: np.ndarray, answers: Mapping[str, np.ndarray]) -> list[Sheet]:
    """Return the sheet of the utterances, and a sheet of the roles if each role has a single label."""
    columns = {name: [values[row] for row in tested] for name, values in corpus.columns.items()}
    labels, groups = corpus.labels[tested], columns[test.group]
    predictions = {system: found[tested].argmax(1) for system, found in answers.items()}
    sheets = [Sheet(test.corpus, test.kind, UTTERANCE, columns["id"], groups, labels, predictions)]

    roles: dict[tuple[str, str], list[int]] = {}
    for place, role in enumerate(zip(columns["dialogue"], columns["speaker"], strict=True)):
        roles.setdefault(role, []).append(place)
    known = all(None not in role for role in roles)
    if test.kind == LEAKY or not known or any(len(set(labels[places])) > 1 for places in roles.values()):
        return sheets

    pooled = {
        system: np.array([found[tested][places].mean(0).argmax() for places in roles.values()])
        for system, found in answers.items()
    }
    first = [places[0] for places in roles.values()]
    names = ["/".join(role) for role in roles]
    role_sheet = Sheet(test.corpus, FAIR, ROLE, names, [groups[row] for row in first], labels[first], pooled)
    return [*sheets, role_sheet]


# Scores


@dataclass(frozen=True)
class Cell:
    """One system on one test.

    Attributes:
        corpus, kind, unit: of the sheet.
        modality, trained: of the system.
        uar, wf1: score, lower and upper end of the 95 % interval.
        rows, groups: number of rows and of what the bootstrap draws.
        ties_with_best: whether the paired difference from the best system of the sheet may be 0.
    """

    corpus: str
    kind: str
    unit: str
    modality: str
    trained: tuple[str, ...]
    uar: tuple[float, float, float]
    wf1: tuple[float, float, float]
    rows: int
    groups: int
    ties_with_best: bool

    @property
    def in_corpus(self) -> bool:
        return self.corpus in self.trained


@dataclass(frozen=True)
class Neighbors:
    """Two systems whose UARs follow each other on one sheet, the better one first."""

    corpus: str
    kind: str
    unit: str
    better: str
    worse: str
    uar: PairedDifference


def score_sheet(sheet: Sheet) -> tuple[list[Cell], list[Neighbors]]:
    """Score all systems of a sheet; systems in the order of the sheet, neighbors in the order of their UAR."""
    metrics = {name: classification_metrics(sheet.labels, found) for name, found in sheet.predictions.items()}
    draws = {name: drawn_scores(sheet.labels, found, sheet.groups) for name, found in sheet.predictions.items()}
    ranked = sorted(metrics, key=lambda name: (-metrics[name]["uar"], name))
    where = sheet.corpus, sheet.kind, sheet.unit

    def compare(better: str, worse: str) -> PairedDifference:
        return paired_difference(draws[better], draws[worse], metrics[better]["uar"] - metrics[worse]["uar"])

    cells = []
    for name in sheet.predictions:
        modality, _, trained = name.partition(":")
        intervals = percentile_intervals(draws[name])
        uar = metrics[name]["uar"], intervals["uar"][0], intervals["uar"][1]
        wf1 = metrics[name]["wf1"], intervals["wf1"][0], intervals["wf1"][1]
        size = len(sheet.labels), len(set(sheet.groups))
        tie = compare(ranked[0], name).tie
        cells.append(Cell(*where, modality, tuple(trained.split("+")), uar, wf1, *size, tie))

    pairs = [Neighbors(*where, better, worse, compare(better, worse)) for better, worse in itertools.pairwise(ranked)]
    return cells, pairs


# Files


def write_sheets(sheets: Sequence[Sheet], labels: Sequence[str], path: str | Path) -> None:
    """Write all answers into one compressed table with a column for each system. The same answers give the same
    bytes."""
    systems = sorted({system for sheet in sheets for system in sheet.predictions})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["corpus", "kind", "unit", "id", "group", "label", *systems])
    for sheet in sheets:
        where = [sheet.corpus, sheet.kind, sheet.unit]
        columns = [sheet.predictions.get(system) for system in systems]
        for row, (identity, group, label) in enumerate(zip(sheet.ids, sheet.groups, sheet.labels, strict=True)):
            answers = ["" if column is None else labels[column[row]] for column in columns]
            writer.writerow([*where, identity, group, labels[label], *answers])
    write_bytes(path, gzip.compress(text.getvalue().encode(), mtime=0))


def read_sheets(path: str | Path, labels: Sequence[str]) -> list[Sheet]:
    """Read a table of [`write_sheets`]."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    place = {label: number for number, label in enumerate(labels)}

    sheets = []
    for where, found in itertools.groupby(rows, key=lambda row: (row["corpus"], row["kind"], row["unit"])):
        members = list(found)
        systems = [name for name in members[0] if ":" in name and members[0][name]]
        truth = np.array([place[row["label"]] for row in members])
        predictions = {name: np.array([place[row[name]] for row in members]) for name in systems}
        ids, groups = ([row[name] for row in members] for name in ("id", "group"))
        sheets.append(Sheet(*where, ids, groups, truth, predictions))
    return sheets


# Tables


def matrix_table(cells: Sequence[Cell], facts: Mapping[str, Any]) -> str:
    """Return the matrix in Markdown: one row per system, one column per test.

    Args:
        cells: of all sheets.
        facts: `corpora`: name -> `language`, `title`, `test`, `leaky` (or None), and `seen`: modality -> whether its
            backbone was trained on the corpus: `"yes"`, `"no"` or `"unknown"`.
    """
    corpora = facts["corpora"]
    found = {(cell.corpus, cell.kind, cell.unit, cell.modality, cell.trained): cell for cell in cells}
    columns = list(dict.fromkeys((cell.corpus, cell.kind, cell.unit) for cell in cells))
    systems = systems_of(cells, list(corpora))

    head = ["reads", "trained on", *(_heading(corpora[corpus], kind, unit) for corpus, kind, unit in columns)]
    rows = []
    for modality, trained in systems:
        names = " + ".join(f"{corpora[name]['title']} ({corpora[name]['language']})" for name in trained)
        row = [modality, names]
        for column in columns:
            cell = found.get((*column, modality, trained))
            row.append("" if cell is None else _shown(cell, corpora[cell.corpus]))
        rows.append(row)
    return markdown_table(head, rows)


def systems_of(cells: Sequence[Cell], names: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return (modality, training set) of all systems: by modality, then by the number and order of the corpora."""

    def key(system: tuple[str, tuple[str, ...]]) -> tuple:
        modality, trained = system
        return ("audio", "text", BOTH).index(modality), len(trained), [names.index(name) for name in trained]

    return sorted({(cell.modality, cell.trained) for cell in cells}, key=key)


def _heading(corpus: Mapping[str, Any], kind: str, unit: str) -> str:
    what = {FAIR: corpus["test"], LEAKY: f"leaky: {corpus['leaky']}"}[kind]
    of_unit = ", roles" if unit == ROLE else ""
    return f"{corpus['title']} ({corpus['language']}), {what}{of_unit}"


def _shown(cell: Cell, corpus: Mapping[str, Any]) -> str:
    """Return UAR with its interval, and WF1; UAR is bold if it ties with the best of its column."""
    uar, lower, upper = (percent(value, 1) for value in cell.uar)
    score = f"**{uar}**" if cell.ties_with_best else uar
    mark = "" if cell.in_corpus else "→ "
    seen = " (seen)" if _seen(cell, corpus) == "yes" else ""
    return f"{mark}{score} [{lower}, {upper}] / {percent(cell.wf1[0], 1)}{seen}"


def _seen(cell: Cell, corpus: Mapping[str, Any]) -> str:
    """Return whether one of the system's backbones was trained on the corpus: yes, unknown, or no."""
    backbones = corpus["seen"]
    found = list(backbones.values()) if cell.modality == BOTH else [backbones[cell.modality]]
    return next(answer for answer in ("yes", "unknown", "no") if answer in found)


def neighbors_table(neighbors: Sequence[Neighbors], facts: Mapping[str, Any]) -> str:
    """Return the paired comparisons in Markdown."""
    rows = []
    for pair in neighbors:
        numbers = [100 * value for value in (pair.uar.difference, pair.uar.lower, pair.uar.upper)]
        shown = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*numbers)
        verdict = "tie" if pair.uar.tie else "better"
        test = _heading(facts["corpora"][pair.corpus], pair.kind, pair.unit)
        rows.append([test, pair.better, pair.worse, shown, verdict, percent(pair.uar.detectable, 1)])
    return markdown_table(["test", "system", "next", "difference in UAR", "", "detectable"], rows)


def cells_csv(cells: Sequence[Cell], facts: Mapping[str, Any]) -> str:
    """Return all cells as CSV, one row each, with shares from 0 to 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    intervals = [f"{metric}{end}" for metric in ("uar", "wf1") for end in ("", "_lower", "_upper")]
    head = ["test", "kind", "unit", "modality", "trained_on", "direction", "in_corpus", *intervals]
    writer.writerow([*head, "rows", "groups", "ties_with_best", "seen_by_backbone"])
    for cell in cells:
        languages = {facts["corpora"][name]["language"] for name in cell.trained}
        corpus = facts["corpora"][cell.corpus]
        direction = f"{'+'.join(sorted(languages))} -> {corpus['language']}"
        system = [cell.modality, "+".join(cell.trained), direction, cell.in_corpus]
        numbers = [round(value, 5) for value in (*cell.uar, *cell.wf1)]
        rest = [cell.rows, cell.groups, cell.ties_with_best, _seen(cell, corpus)]
        writer.writerow([cell.corpus, cell.kind, cell.unit, *system, *numbers, *rest])
    return text.getvalue()
