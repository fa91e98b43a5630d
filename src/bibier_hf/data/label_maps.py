"""From the labels that a corpus writes to those of a label set: aliases, and the user's own mapping."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import ClassLabel, Dataset

from ..labels import UnknownLabelError, allowed_labels, checked_labels, label_key, normalize_label, suggest_label
from .clips import Clip
from .tables import TABLE_SUFFIXES, CorpusError, raise_faults, read_table

LabelMap = Mapping[str, str | None]
"""Label of a corpus -> label of the set, or None to omit these rows."""

_EXAMPLE = '{"ang": "anger"}'


class LabelReader:
    """Translates the labels of a corpus: by the user's mapping, and then by name and alias.

    Args:
        labels: the label set; None: the seven emotions.
        label_map: the mapping.

    Raises:
        LabelSetError, CorpusError: names that cannot be a label set, or a mapping to a label that is not in it.
    """

    def __init__(self, labels: Sequence[str] | None = None, label_map: LabelMap | str | None = None):
        self.labels = checked_labels(labels)
        given = read_label_map(label_map, self.labels) or {}
        self._map = {label_key(name): label for name, label in given.items()} | dict(given)

    def __call__(self, name: Any) -> str | None:
        """Return the label, or None to omit the row.

        Raises:
            UnknownLabelError: a name that has no translation.
        """
        for key in (name, label_key(name)) if isinstance(name, str) else ():
            if key in self._map:
                return self._map[key]

        return normalize_label(name, self.labels)

    def maps_any(self, names: Sequence[str]) -> bool:
        """Whether the user's mapping speaks of one of these names."""
        return not self._map.keys().isdisjoint([*names, *map(label_key, names)])


def relabeled_clips(clips: Sequence[Clip], reader: LabelReader) -> list[Clip]:
    """Translate the labels of clips; those that the mapping omits are left out and counted.

    Raises:
        CorpusError: labels without a translation, with the place where each is first met.
    """
    unknown: dict[str, str] = {}
    done = []

    for clip in clips:
        if clip.left_out:
            done.append(clip)
            continue

        try:
            label = reader(clip.label)
        except UnknownLabelError:
            unknown.setdefault(clip.label, clip.where or clip.id)
            continue

        if label is None:
            clip = replace(clip, left_out=True, remarks=(*clip.remarks, left_out_remark(clip.label)))
        else:
            clip = replace(clip, label=label)
        done.append(clip)

    raise_faults(
        unknown_faults(unknown), "The labels do not match the label set", label_remedy(unknown, reader.labels)
    )

    return done


def relabeled_rows(rows: Dataset, reader: LabelReader) -> Dataset:
    """Translate the labels of prepared rows, hard and soft; rows that the mapping omits are dropped.

    A label that the mapping omits counts nothing in a soft label; what is left is normalized.

    Raises:
        CorpusError: labels without a translation.
    """
    names = rows.features["label"].names
    if tuple(names) == reader.labels and not reader.maps_any(names):
        return rows

    used = {names[label] for label in set(rows["label"])}
    places: list[int | None] = []
    unknown = {}
    for name in names:
        try:
            label = reader(name)
        except UnknownLabelError:
            if name in used:
                unknown[name] = "the prepared rows"
            label = None
        places.append(None if label is None else reader.labels.index(label))
    raise_faults(
        unknown_faults(unknown), "The labels do not match the label set", label_remedy(unknown, reader.labels)
    )

    kept = [row for row, label in enumerate(rows["label"]) if places[label] is not None]
    rows = rows.select(kept)
    features = rows.features.copy()
    columns = {
        "label": ([places[label] for label in rows["label"]], ClassLabel(names=list(reader.labels))),
        "soft_label": (
            [_moved(soft, places, len(reader.labels)) for soft in rows["soft_label"]],
            features["soft_label"],
        ),
    }
    for name, (values, feature) in columns.items():
        rows = rows.remove_columns(name).add_column(name, values, feature=feature)

    return rows.select_columns(list(features))


def _moved(soft: Sequence[float] | None, places: Sequence[int | None], size: int) -> list[float] | None:
    """A soft label in another label set; None if nothing is left of it."""
    if soft is None:
        return None

    moved = np.zeros(size)
    for value, place in zip(soft, places, strict=True):
        if place is not None:
            moved[place] += value

    return (moved / moved.sum()).tolist() if moved.sum() > 0 else None


def left_out_remark(label: str) -> str:
    """What `corpus.json` counts for a row whose label the mapping omits."""
    return f"left out: the label {label!r}"


def unknown_faults(unknown: Mapping[str, str]) -> list[str]:
    """A fault for each unknown label, with the place where it is first met."""
    return [f"{where}: unknown label {label!r} (first of its kind)" for label, where in unknown.items()]


def label_remedy(unknown: Mapping[str, str], labels: Sequence[str]) -> str:
    """Return what to do about unknown labels."""
    example = json.dumps({name: suggest_label(name, labels) for name in list(unknown)[:12]}, ensure_ascii=False)
    return (
        f"Allowed labels: {allowed_labels(labels)}.\nOther labels need a label map: --label_map FILE.json with {example} or "
        "what you find right (to train or evaluate: --corpora.0.label_map FILE.json); null leaves such rows "
        "out. To keep them apart, name them in the label set: --labels A,B,..."
    )


def read_label_map(given: LabelMap | str | Path | None, labels: Sequence[str] | None = None) -> LabelMap | None:
    """Return a mapping of labels to names of a label set, given as a mapping, as JSON, or as a file.

    Raises:
        CorpusError: an unreadable file, or a value that is not in the label set.
    """
    if given is None:
        return None

    if not isinstance(given, Mapping):
        text = os.fspath(given)
        given = _read_text(text, "") if text.lstrip().startswith("{") else _read_file(Path(text))

    mapped: dict[str, str | None] = {}

    for name, label in given.items():
        try:
            mapped[str(name)] = None if label in (None, "") else normalize_label(label, labels)
        except UnknownLabelError as error:
            raise CorpusError(f"label_map: {name!r}: {error}") from error

    return mapped


def _read_text(text: str, where: str, kind: str = "JSON") -> Mapping[str, str | None]:
    try:
        content = json.loads(text) if kind == "JSON" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise CorpusError(f"label_map: {where}this is invalid {kind} ({error}).") from error

    if not isinstance(content, dict):
        raise CorpusError(f"label_map: {where}this must be an object such as {_EXAMPLE}.")

    return content


def _read_file(path: Path) -> Mapping[str, str | None]:
    if not path.is_file():
        raise CorpusError(
            f"label_map: there is no file {path}. Give a .json, .yaml or .csv file, or JSON such as {_EXAMPLE}."
        )

    suffix = path.suffix.lower()
    if suffix == ".json" or suffix not in TABLE_SUFFIXES:
        kind = "JSON" if suffix == ".json" else "YAML"
        try:
            return _read_text(path.read_text(encoding="utf-8-sig"), f"{path}: ", kind)
        except UnicodeDecodeError as error:
            raise CorpusError(f"label_map: {path} is not UTF-8. Save it again as UTF-8.") from error

    rows = read_table(path)
    if set(rows[0].values) != {"from", "to"}:
        raise CorpusError(f"label_map: {path} must have the columns from and to, not {list(rows[0].values)}.")

    return {row.text("from"): row.text("to") for row in rows}
