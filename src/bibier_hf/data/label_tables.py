"""Tables of soft labels: those that `bibier label corpus` writes, and the published ones, keyed by the ids of prepared
corpora.

| column | meaning |
|---|---|
| `id` | id of the row in its corpus; published tables have `video_name` instead, which is translated |
| `label` | gold label; `ground_truth` in published tables |
| `anger` ... `surprise`, or the names of another label set | the distribution; empty in a row that failed |
| `prediction` | optional: its arg-max, which decides ties; `llm_best_label` in published tables |

Other columns (provenance, raw answers) are ignored.
"""

import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetDict
from transformers.utils import logging

from ..labels import checked_labels, normalize_label
from ..soft_labels import DistributionError, finish_distribution
from .corpora.meld import meld_id
from .corpora.resd import resd_id
from .tables import TABLE_SUFFIXES, CorpusError, Row, is_stream, raise_faults, read_number, read_table

logger = logging.get_logger(__name__)

MAX_ROWS = 5_000_000
"""More rows than any emotion corpus has; a small Parquet file can claim billions."""

MAX_VALUE = 1e6
"""Numbers above this are not probabilities, percentages or votes."""

PUBLISHED_COLUMNS = ("video_name", "ground_truth", "llm_best_label")

_MELD_NAME = re.compile(r"dia\d+_utt\d+")
_RESD_NAME = re.compile(r"\d\d_[a-z]+_[a-z]+[_ ][adefhns]_\d{3}")


@dataclass(frozen=True)
class LabelTable:
    """Soft labels as read from a file, not yet validated as distributions.

    Attributes:
        name: name of the file.
        sha256: hash of its content.
        ids: (N,) ids.
        labels: (N,) index of the gold label; -1 if missing.
        probabilities: (N, K) in label order; NaN in rows that failed.
        predictions: (N,) arg-max; the table decides ties; -1 in rows that failed.
        label_names: the K labels.
    """

    name: str
    sha256: str
    ids: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    predictions: np.ndarray
    label_names: tuple[str, ...] = checked_labels(None)

    @property
    def labeled(self) -> np.ndarray:
        """(N,) which rows have a distribution."""
        return np.logical_not(np.isnan(self.probabilities).any(axis=1))

    def soft_labels(self) -> dict[str, np.ndarray]:
        """Return `{id: (K,)}` for the labeled rows, as distributions: negative numbers count as zero, the sum is one.

        Raises:
            CorpusError: rows that cannot be made a distribution.
        """
        found = {}
        faults = []
        for index in np.flatnonzero(self.labeled):
            try:
                found[self.ids[index]] = finish_distribution(self.probabilities[index])
            except DistributionError as error:
                faults.append(f"{self.ids[index]}: {error}")

        raise_faults(faults, f"{self.name} has rows that are not distributions")
        return found


def read_label_table(path: str | Path, labels: Sequence[str] | None = None) -> LabelTable:
    """Read a table of soft labels: `.csv`, `.tsv`, `.jsonl` or `.parquet`.

    Names in published tables become ids: `32_happiness_enthusiasm_h_120` of RESD, `dia0_utt0` of MELD train.

    Args:
        path: the file.
        labels: the label set; None: the seven emotions.

    Raises:
        FileNotFoundError: no such file.
        CorpusError: lists missing columns, values that are not numbers, unknown gold labels, and repeated ids.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no table of soft labels at {path}.")
    if path.is_dir():
        raise CorpusError(f"{path} is a folder, not a table of soft labels.")

    label_names = checked_labels(labels)
    rows = _read_rows(path, label_names)
    own_columns = "id" in rows[0].values
    id_column, label_column, best_column = ("id", "label", "prediction") if own_columns else PUBLISHED_COLUMNS
    if missing := [name for name in (id_column, label_column, *label_names) if name not in rows[0].values]:
        raise CorpusError(
            f"{path.name} lacks the columns {missing}. A table of soft labels has id (or video_name), label (or "
            f"ground_truth) and a column for each label; this one has {list(rows[0].values)}."
        )

    ids: dict[str, None] = {}
    gold, probabilities, predictions, faults = [], [], [], []
    for row in rows:
        try:
            name = row.text(id_column)
            key = name if own_columns else published_id(name)
            if not name:
                faults.append(f"{row.where}: no id")
            elif key in ids:
                faults.append(f"{row.where}: {name!r} is repeated")
            ids[key] = None
            gold.append(_read_label(row, label_column, label_names))
            probabilities.append(_read_probabilities(row, label_names))
            predictions.append(_highest(probabilities[-1], _read_label(row, best_column, label_names)))
        except CorpusError as error:  # names the line
            faults.append(str(error))
        except ValueError as error:
            faults.append(f"{row.where}: {error}")

    raise_faults(faults, f"{path.name} cannot be used")
    digest = hashlib.sha256(b"" if is_stream(path) else path.read_bytes()).hexdigest()
    arrays = map(np.array, (gold, probabilities, predictions))
    return LabelTable(path.name, digest, tuple(ids), *arrays, label_names)


def mean_label_table(tables: Sequence[LabelTable]) -> LabelTable:
    """Average several tables, such as the answers of several teachers, over those that label a row.

    Args:
        tables: at least one; a row may be missing in some. Its gold label comes from the first table that has one.

    Raises:
        CorpusError: rows that cannot be made a distribution.
    """
    if len(tables) == 1:
        return tables[0]

    gold: dict[str, int] = {}
    found: dict[str, list[np.ndarray]] = {}
    for table in tables:
        for row_id, label in zip(table.ids, table.labels.tolist(), strict=True):
            if gold.setdefault(row_id, label) == -1:
                gold[row_id] = label
        for row_id, distribution in table.soft_labels().items():
            found.setdefault(row_id, []).append(distribution)

    label_names = tables[0].label_names
    nothing = [np.full(len(label_names), np.nan)]
    probabilities = np.array([np.mean(found.get(row_id, nothing), axis=0) for row_id in gold])
    predictions = np.array([_highest(row, -1) for row in probabilities.tolist()])
    name, digest = ", ".join(table.name for table in tables), ", ".join(table.sha256 for table in tables)
    return LabelTable(
        name, digest, tuple(gold), np.array(list(gold.values())), probabilities, predictions, label_names
    )


def attach_soft_labels(splits: DatasetDict, table: LabelTable) -> tuple[DatasetDict, dict[str, Any]]:
    """Write the labels of a table into the column `soft_label` of the training rows, joined by id. Dev and test keep
    theirs.

    Args:
        splits: a corpus in the common schema.
        table: its labels.

    Returns:
        the corpus, and `{"table", "sha256", "rows", "soft", "hard", "unused", "other_gold"}`: training rows with and
        without a soft label, labels that match no row, and rows whose gold label differs in the table.

    Raises:
        CorpusError: no training row has a label in the table.
    """
    soft_labels = table.soft_labels()
    train = splits["train"]
    ids = list(train["id"])
    column = [soft_labels[row_id].tolist() if row_id in soft_labels else None for row_id in ids]
    found = sum(soft is not None for soft in column)
    if not found:
        raise CorpusError(
            f"label_table: none of the {len(soft_labels)} ids in {table.name} (such as {next(iter(soft_labels), 'none')}) "
            f"belongs to a training row (such as {ids[0]}). Does the table belong to this corpus?"
        )

    gold_of = dict(zip(table.ids, table.labels, strict=True))
    other_gold = sum(
        gold_of.get(row_id, -1) not in (-1, label) for row_id, label in zip(ids, train["label"], strict=True)
    )
    facts = {
        "table": table.name,
        "sha256": table.sha256,
        "rows": len(ids),
        "soft": found,
        "hard": len(ids) - found,
        "unused": len(soft_labels.keys() - set(ids)),
        "other_gold": other_gold,
    }
    logger.warning_once(
        f"{table.name}: {found} of {len(ids)} training rows have a soft label, {len(ids) - found} fall back to their "
        f"gold label; {facts['unused']} labels match no training row, {other_gold} rows have a different gold label "
        "in the table."
    )

    features = train.features
    rest = train.remove_columns("soft_label")
    train = rest.add_column("soft_label", column, feature=features["soft_label"]).select_columns(list(features))
    return DatasetDict({**splits, "train": train}), facts


def attach_label_tables(
    corpora: Mapping[str, DatasetDict], paths: Sequence[Sequence[str]]
) -> tuple[dict[str, DatasetDict], dict[str, Any]]:
    """Apply [`attach_soft_labels`] to each corpus that has tables, with the mean of several tables.

    Returns:
        the corpora and the facts, by name of the corpus.
    """
    attached, facts = {}, {}
    for (name, splits), of_corpus in zip(corpora.items(), paths, strict=True):
        attached[name] = splits
        if of_corpus:
            names = splits["train"].features["label"].names
            table = mean_label_table([read_label_table(path, names) for path in of_corpus])
            attached[name], facts[name] = attach_soft_labels(splits, table)

    return attached, facts


def write_label_table(columns: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Write a table with at least `id`, `label` and a column for each label, as `.parquet` or `.csv` by its suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
        return

    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def published_id(name: str) -> str:
    """Translate a name in a published table to an id; a name of another form is returned unchanged."""
    if _MELD_NAME.fullmatch(name):
        return meld_id("train", name)
    return resd_id(name) if _RESD_NAME.fullmatch(name) else name


def _read_rows(path: Path, labels: Sequence[str]) -> list[Row]:
    if path.suffix == ".parquet":
        values = _read_parquet(path, labels)
        rows = [Row(row, f"{path.name} row {number}") for number, row in enumerate(values, 1)]
        if not rows:
            raise CorpusError(f"{path} has no rows.")
        return rows

    if path.suffix not in TABLE_SUFFIXES and not is_stream(path):
        raise CorpusError(
            f"{path} is not a table of soft labels. Allowed: {', '.join([*TABLE_SUFFIXES, '.parquet'])}."
        )
    return read_table(path)


def _read_parquet(path: Path, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Read the columns that are needed here, unless the file claims too many rows."""
    needed = {"id", "label", "prediction", *PUBLISHED_COLUMNS, *labels}
    try:
        with pq.ParquetFile(path) as file:
            chosen = [name for name in file.schema_arrow.names if name in needed]
            if file.metadata.num_rows > MAX_ROWS:
                raise CorpusError(f"{path} has {file.metadata.num_rows} rows; at most {MAX_ROWS} are read.")
            rows = file.read(chosen).to_pylist()
            # The message about missing columns names those that exist.
            return rows if chosen else [dict.fromkeys(file.schema_arrow.names) for _ in rows]
    except (pa.ArrowException, OSError, OverflowError) as error:
        raise CorpusError(f"{path} is not a readable Parquet file ({error}).") from error


def _read_label(row: Row, column: str, labels: Sequence[str]) -> int:
    return labels.index(normalize_label(row.text(column), labels)) if row.text(column) else -1


def _highest(probabilities: list[float], named: int) -> int:
    if np.isnan(probabilities).any():
        return -1

    highest = max(probabilities)
    return named if named >= 0 and probabilities[named] == highest else probabilities.index(highest)


def _read_probabilities(row: Row, labels: Sequence[str]) -> list[float]:
    cells = [row.text(name) for name in labels]
    if not any(cells):
        return [float("nan")] * len(labels)
    if missing := [name for name, cell in zip(labels, cells, strict=True) if not cell]:
        raise ValueError(f"no number for {', '.join(missing)}")

    values = [read_number(cell) for cell in cells]
    if not np.isfinite(values).all() or max(map(abs, values)) > MAX_VALUE:
        raise ValueError(f"the distribution {values} is not finite, or above {MAX_VALUE:g}")
    return values
