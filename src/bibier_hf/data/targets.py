"""Targets other than one label: several labels at once, or values, as columns of a table.

| `problem_type` | columns of a table |
|---|---|
| `multi_label_classification` | a column of 0 and 1 for each label; or one column with the names, separated by `\\|` or `;` |
| `regression` | a column of numbers for each target, such as `valence` and `arousal` |

The rows then have the column `target` (K,), in the order of the names, and no label.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset

from ..labels import UnknownLabelError, label_key
from ..model.labels_bibier import MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
from ..text import did_you_mean
from .label_maps import LabelReader
from .schema import TARGET
from .tables import CorpusError, Row, read_number

_SEPARATOR = re.compile(r"[|;]")


def check_problem_type(name: str | None) -> str:
    """Return a problem type; None is one label.

    Raises:
        CorpusError: an unknown one.
    """
    if name is not None and name not in PROBLEM_TYPES:
        raise CorpusError(
            f"problem_type={name!r} is not allowed; it must be one of {', '.join(PROBLEM_TYPES)}."
            f"{did_you_mean(name, PROBLEM_TYPES)}"
        )

    return name or SINGLE_LABEL


def chosen_targets(rows: Dataset, names: Sequence[str]) -> Dataset:
    """Return rows with some of their targets, in this order.

    Raises:
        CorpusError: the rows have no such target.
    """
    there = {label_key(name): place for place, name in enumerate(rows.features["label"].names)}
    if missing := [name for name in names if label_key(name) not in there]:
        raise CorpusError(
            f"labels: the prepared rows have no target {', '.join(missing)}; they have "
            f"{', '.join(rows.features['label'].names)}."
        )

    places = [there[label_key(name)] for name in names]
    features = rows.features.copy()
    features["label"] = ClassLabel(names=list(names))
    chosen = [[target[place] for place in places] for target in rows[TARGET]]
    rows = rows.remove_columns(TARGET).add_column(TARGET, chosen, feature=features[TARGET])

    return rows.select_columns(list(features)).cast(features)


def value_ranges(targets: np.ndarray, names: Sequence[str]) -> list[list[float]]:
    """Return the lowest and the highest value of each target, of (N, K).

    Raises:
        CorpusError: a target with a single value.
    """
    ranges = np.stack([targets.min(0), targets.max(0)], axis=1).tolist()
    if constant := [f"{name} ({low:g})" for name, (low, high) in zip(names, ranges, strict=True) if low == high]:
        raise CorpusError(
            f"labels: {', '.join(constant)} has a single value in all training rows, so nothing can be learned. Leave it "
            "out."
        )

    return ranges


class Labeled(NamedTuple):
    """What a row of a table is labeled with; a label of None omits the row."""

    label: str | None = ""
    soft_label: list[float] | None = None
    target: list[float] | None = None


class TargetReader:
    """Reads the targets of the rows of a table.

    Args:
        problem_type: of the targets.
        labels: their names, in order.
        columns: those of the table.
        label_column: the column of several names.
        label_map: translates these names.
        ranges: name of a target -> its lowest and highest value; other values are an error.

    Attributes:
        columns: those that are read.

    Raises:
        CorpusError: columns that are missing, or given twice; ranges of no target.
    """

    def __init__(
        self,
        problem_type: str,
        labels: Sequence[str],
        columns: Sequence[str],
        label_column: str = "label",
        label_map: Mapping[str, str | None] | str | None = None,
        ranges: Mapping[str, Sequence[float]] | None = None,
    ):
        self.problem_type = problem_type
        self.labels = tuple(labels)
        self._ranges = _checked_ranges(ranges or {}, self.labels, problem_type)
        self._translate: LabelReader | None = None
        has_names = problem_type == MULTI_LABEL and label_column in columns

        by_key = {label_key(column): column for column in columns if column != label_column}
        found = {name: by_key[label_key(name)] for name in labels if label_key(name) in by_key}
        if has_names and len(found) < len(labels):
            self.columns: tuple[str, ...] = (label_column,)
            self._translate = LabelReader(labels, label_map)
            return

        if has_names:
            raise CorpusError(
                f"The labels are given twice: in the column {label_column!r}, and in columns called "
                f"{', '.join(found)}. Remove one, or name another --label_column."
            )
        if label_map is not None:
            raise CorpusError("label_map: for names of labels; this table has a column for each. Leave it out.")
        if missing := [name for name in labels if name not in found]:
            hints = [f"no column {name!r}.{did_you_mean(name, columns)}" for name in missing]
            names = f", or a column {label_column!r} with their names" if problem_type == MULTI_LABEL else ""
            raise CorpusError(
                f"{' '.join(hints)} {problem_type} takes a column of numbers for each of {', '.join(labels)}{names}. "
                f"The table has {', '.join(columns)}."
            )
        self._column_of, self.columns = found, tuple(found.values())

    def column_faults(self, columns: Sequence[str]) -> list[str]:
        """Return nothing: what is wrong with the columns has been raised."""
        return []

    def __call__(self, row: Row) -> Labeled:
        """Return the targets of a row.

        Raises:
            CorpusError: a value that is missing or not allowed, with its line and column.
        """
        if self._translate is not None:
            found = self._names(row, self._translate)
            return Labeled(target=[float(label in found) for label in self.labels])

        return Labeled(target=[self._number(row, name, column) for name, column in self._column_of.items()])

    def _names(self, row: Row, translate: LabelReader) -> list[str | None]:
        """Return the labels in the cell of a row: a text with separators, or a list. An empty cell has none."""
        (column,) = self.columns
        where, value = f"{row.where}, column {column!r}", row.values.get(column)
        names = value if isinstance(value, list) else _SEPARATOR.split(row.text(column))
        try:
            return [translate(name) for name in names if not isinstance(name, str) or name.strip()]
        except UnknownLabelError as error:
            raise CorpusError(f"{where}: {error}") from error

    def _number(self, row: Row, name: str, column: str) -> float:
        where, value = f"{row.where}, column {column!r}", row.values.get(column)
        text = str(int(value)) if isinstance(value, bool) else row.text(column)
        if not text:
            raise CorpusError(f"{where}: no number. Fill it in, or leave the row out")

        try:
            number = read_number(text)
        except ValueError:
            raise CorpusError(f"{where}: {text!r:.80} is not a number, such as 3.5") from None

        if self.problem_type == MULTI_LABEL and number not in (0, 1):
            raise CorpusError(f"{where}: {text} must be 0 (absent) or 1 (present)")
        if not math.isfinite(number):
            raise CorpusError(f"{where}: {text} must be a finite number")

        low, high = self._ranges.get(name, (-math.inf, math.inf))
        if not low <= number <= high:
            raise CorpusError(f"{where}: {text} is not from {low:g} to {high:g}")

        return number


def _checked_ranges(
    ranges: Mapping[str, Sequence[float]], labels: Sequence[str], problem_type: str
) -> dict[str, tuple[float, float]]:
    if ranges and problem_type != REGRESSION:
        raise CorpusError(f"ranges: for problem_type={REGRESSION!r}. Leave it out.")

    by_key = {label_key(label): label for label in labels}
    checked = {}
    for name, bounds in ranges.items():
        if label_key(name) not in by_key:
            raise CorpusError(f"ranges: there is no target {name!r}; there are {', '.join(labels)}.")
        numbers = [bound for bound in bounds if isinstance(bound, (int, float))]
        if len(numbers) != 2 or len(bounds) != 2 or not numbers[0] < numbers[1]:
            raise CorpusError(f"ranges: {name}: {list(bounds)} must be [lowest, highest], such as [1, 7].")
        checked[by_key[label_key(name)]] = (numbers[0], numbers[1])

    return checked
