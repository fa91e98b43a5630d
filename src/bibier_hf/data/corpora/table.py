"""Any corpus as a table: a CSV, TSV or JSON Lines file of `audio, text, label`, one row per utterance.

| column | required | meaning |
|---|---|---|
| `audio` | this or `text` | path relative to the table's folder (or absolute) |
| `text` | this or `audio` | transcript |
| `label` | unless soft | one of the seven emotions or a known alias, in any case; other labels need a `label_map` |
| `anger` ... `surprise` | no | seven probabilities (or votes) by name; in JSON lines also `"soft_label": {"anger": 0.7, ...}` |
| `split` | no | `train`, `dev` (also `val`, `valid`, `validation`) or `test`; in all rows or in none |
| `language`, `speaker`, `dialogue`, `id`, `license`, `source` | no | as in the common schema |
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...labels import ALLOWED_LABELS, UnknownLabelError, normalize_label, suggest_label
from ...model.labels_bibier import EMOTIONS
from ...text import did_you_mean
from ..clips import Clip, neutral_id
from ..prepare import Corpus
from ..protocols import connected_groups, stratified_group_split
from ..schema import SPLITS
from ..tables import TABLE_SUFFIXES, CorpusError, Row, is_stream, option_forms, raise_faults, read_number, read_table

COLUMNS = (
    "audio",
    "text",
    "label",
    "soft_label",
    *EMOTIONS,
    "split",
    "language",
    "speaker",
    "dialogue",
    "id",
    "license",
    "source",
)
GROUP_BY = ("auto", "speaker", "dialogue", "none")
_Translate = Callable[[Any], str | None]
_SPLIT_ALIASES = {"val": "dev", "valid": "dev", "validation": "dev"}


def read_csv(
    data_dir: Path,
    *,
    corpus: str | None = None,
    language: str | None = None,
    license: str = "unknown",
    group_by: str = "auto",
    dev_share: float = 0.12,
    test_share: float = 0.2,
    seed: int = 42,
    ignore_columns: Sequence[str] = (),
    channel: int | None = None,
    label_map: Mapping[str, str | None] | str | None = None,
) -> list[Clip]:
    """Read a table of utterances.

    Args:
        data_dir: the file, or a folder with exactly one table (or one named `metadata`).
        corpus: value of the column `corpus`; None: the name of the file (or of the folder, if the file is named
            `metadata`).
        language: of all rows, if the table has no such column.
        license: of all rows, if the table has no such column.
        group_by: without a column `split`, the rows are split here, stratified by label. `"auto"` keeps speakers and
            dialogues together, if there are such columns; `"speaker"` or `"dialogue"` only one of them; `"none"`
            neither (scores will then be too high).
        dev_share, test_share, seed: of that split.
        ignore_columns: columns to ignore. Any other unknown column is an error, as it may be misspelled.
        channel: use this channel (from 0) of multichannel recordings; None: their mean.
        label_map: labels of the table -> emotions, such as `{"ang": "anger", "xxx": null}`, where null omits these
            rows; or a JSON file with that mapping, or a CSV file with the columns `label` and `emotion`.

    Raises:
        CorpusError: unknown columns, labels or splits, rows with neither audio nor text, or unreadable values, with
            their lines.
    """
    table = find_table(data_dir)
    folder = Path.cwd() if is_stream(table) else table.parent
    rows = read_table(table)
    given = read_label_map(label_map) or {}
    translate = partial(_translate, label_map={name.strip().lower(): to for name, to in given.items()} | given)
    columns = tuple(dict.fromkeys(column for row in rows for column in row.values))
    _check_columns(table, columns, ignore_columns, language)

    if group_by not in GROUP_BY:
        raise CorpusError(f"group_by={group_by!r}; allowed: {', '.join(GROUP_BY)}.")

    corpus = corpus or _default_name(table)
    faults: list[str] = []
    unknown: dict[str, str] = {}
    ids: dict[str, str] = {}
    recordings: dict[Path, str] = {}
    clips = []

    for row in rows:
        if misfit := _misfit(row):
            faults.append(misfit)
            continue

        audio = folder / row.text("audio") if row.text("audio") else None
        if audio is None and not row.text("text"):
            faults.append(f"{row.where}: neither audio nor text")
            continue

        if audio is not None and recordings.setdefault(audio, row.where) != row.where:
            faults.append(f"{row.where}: the recording {row.text('audio')} is already in {recordings[audio]}")

        if ids.setdefault(row.text("id"), row.where) != row.where and row.text("id"):
            faults.append(f"{row.where}: the id '{row.text('id')}' is already in {ids[row.text('id')]}")

        try:
            label, soft_label = _read_label(row, translate)
        except UnknownLabelError:
            unknown.setdefault(row.text("label"), row.where)
            continue
        except CorpusError as error:
            faults.append(str(error))
            continue

        split = _SPLIT_ALIASES.get(row.text("split").lower(), row.text("split").lower())
        if "split" in columns and split not in SPLITS:
            faults.append(
                f"{row.where}: the split is {row.text('split')!r}; allowed: {', '.join((*SPLITS, *_SPLIT_ALIASES))}"
            )

        clips.append(
            Clip(
                id=row.text("id"),  # missing ids are filled in below
                split=split,
                label=label or "",
                left_out=label is None,
                remarks=() if label else (f"left out: the label {row.text('label')!r}",),
                language=(row.text("language") or language or "").lower(),
                audio=audio,
                channel=channel,
                text=row.text("text"),
                speaker=row.text("speaker") or None,
                dialogue=row.text("dialogue") or None,
                soft_label=soft_label,
                source=row.text("source") or "recorded",
                license=row.text("license") or license,
                where=row.where,
            )
        )

    faults += [f"{where}: unknown label {label!r} (first of its kind)" for label, where in unknown.items()]
    raise_faults(faults, f"{table} cannot be used", _label_remedy(unknown) if unknown else "")
    clips = _with_ids(clips, corpus, folder)

    if "split" in columns:
        return clips

    left_out = [clip for clip in clips if clip.left_out]
    kept = [clip for clip in clips if not clip.left_out]

    return left_out + _with_splits(kept, columns, group_by, {"dev": dev_share, "test": test_share}, seed)


def find_table(data_dir: Path) -> Path:
    """Return the table at a path: the file itself, the only table in a folder, or the one named `metadata`."""
    if data_dir.is_file() or is_stream(data_dir):
        return data_dir

    tables = sorted(path for path in data_dir.iterdir() if path.suffix.lower() in TABLE_SUFFIXES)
    named = [path for path in tables if path.stem == "metadata"]
    found = tables if len(tables) == 1 else named
    if len(found) != 1:
        there = ", ".join(path.name for path in tables) or "none"
        raise CorpusError(
            f"{data_dir} must be a table ({', '.join(TABLE_SUFFIXES)}) or hold exactly one; found: {there}."
        )

    return found[0]


def _default_name(table: Path) -> str:
    return table.absolute().parent.name if table.stem == "metadata" else table.stem


def _check_columns(table: Path, columns: Sequence[str], ignored: Sequence[str], language: str | None) -> None:
    faults = []

    for column in columns:
        if column not in COLUMNS and column not in ignored:
            faults.append(f"unknown column {column!r}.{did_you_mean(column, COLUMNS)}")

    if "audio" not in columns and "text" not in columns:
        faults.append("neither a column 'audio' nor a column 'text'")

    present = [emotion for emotion in EMOTIONS if emotion in columns]
    if present and len(present) < len(EMOTIONS):
        faults.append(f"the columns {present} without the other emotions; soft labels need all seven")

    if not {"label", "soft_label", *present} & set(columns):
        faults.append("no column 'label' (nor soft labels)")

    if "language" not in columns and language is None:
        faults.append(f"no column 'language'; add one, or set it for all rows: {option_forms('language', 'en')}")

    remedy = (
        f"Allowed columns: {', '.join(COLUMNS)}. Rename them, or list columns to skip in the option ignore_columns."
    )
    raise_faults(faults, f"The columns of {table} do not match", remedy)


def read_label_map(given: Mapping[str, str | None] | str | Path | None) -> dict[str, str | None] | None:
    """Return a mapping of labels to full names of emotions, given as a mapping, as JSON, or as a file.

    Raises:
        CorpusError: an unreadable file, or a value that is not an emotion.
    """
    if given is None:
        return None

    if not isinstance(given, Mapping):
        text = os.fspath(given)
        given = _read_label_json(text, "") if text.lstrip().startswith("{") else _read_label_file(Path(text))

    mapped: dict[str, str | None] = {}

    for name, emotion in given.items():
        try:
            mapped[str(name)] = None if emotion in (None, "") else normalize_label(emotion)
        except UnknownLabelError as error:
            raise CorpusError(f"label_map: {name!r}: {error}") from error

    return mapped


def _read_label_json(text: str, where: str) -> Mapping[str, str | None]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"label_map: {where}this is invalid JSON ({error}).") from error

    if not isinstance(content, dict):
        raise CorpusError(f'label_map: {where}this must be an object such as {{"ang": "anger"}}.')

    return content


def _read_label_file(path: Path) -> Mapping[str, str | None]:
    if not path.is_file():
        raise CorpusError(
            f'label_map: there is no file {path}. Give a .json or .csv file, or JSON such as {{"ang": "anger"}}.'
        )

    if path.suffix.lower() == ".json":
        try:
            return _read_label_json(path.read_text(encoding="utf-8-sig"), f"{path}: ")
        except UnicodeDecodeError as error:
            raise CorpusError(f"label_map: {path} is not UTF-8. Save it again as UTF-8.") from error

    rows = read_table(path)
    if set(rows[0].values) != {"label", "emotion"}:
        raise CorpusError(f"label_map: {path} must have the columns label and emotion, not {list(rows[0].values)}.")

    return {row.text("label"): row.text("emotion") for row in rows}


def _translate(name: Any, label_map: Mapping[str, str | None]) -> str | None:
    """Map a label of a table to an emotion, by the user's mapping and then by the common aliases; None omits the
    row."""
    for key in (name, name.strip().lower() if isinstance(name, str) else name):
        if key in label_map:
            return label_map[key]

    return normalize_label(name)


def _label_remedy(unknown: Mapping[str, str]) -> str:
    example = json.dumps({name: suggest_label(name) for name in list(unknown)[:12]}, ensure_ascii=False)
    return (
        f"Allowed labels: {ALLOWED_LABELS}.\nOther labels need a label map: --label_map FILE.json with {example} or "
        "what you find right (to train or evaluate: --corpora.0.options.label_map FILE.json); null leaves such rows "
        "out."
    )


def _misfit(row: Row) -> str | None:
    """Return what is wrong with a cell, such as a list in a line of JSON."""
    for column in row.values:
        if column in COLUMNS and column != "soft_label":
            try:
                row.text(column)
            except CorpusError as error:
                return str(error)

    return None


def _read_label(row: Row, translate: _Translate) -> tuple[str | None, list[float] | None]:
    """Return (label, seven probabilities or None). Without a label, the row is omitted.

    A row with only a soft label gets the most probable label.
    """
    soft = row.values.get("soft_label")
    if soft in (None, ""):
        soft = {emotion: row.values[emotion] for emotion in EMOTIONS if row.text(emotion)} or None

    if soft is None:
        return translate(row.text("label")), None

    probabilities = _read_distribution(row, soft, translate)

    if row.text("label"):
        return translate(row.text("label")), probabilities

    best = max(probabilities)
    if probabilities.count(best) > 1:
        raise CorpusError(f"{row.where}: no label, and the soft label has no single maximum")

    return EMOTIONS[probabilities.index(best)], probabilities


def _read_distribution(row: Row, soft: Any, translate: _Translate) -> list[float]:
    if not isinstance(soft, Mapping):
        # Published tables use at least two orders, so a list without names cannot be trusted.
        raise CorpusError(
            f'{row.where}: the soft label must name its emotions: {{"anger": 0.7, ...}}, or be in seven columns with '
            "these names"
        )

    values = dict.fromkeys(EMOTIONS, 0.0)

    for name, value in soft.items():
        try:
            number = read_number(value) if isinstance(value, str) else float(value)
            emotion = translate(name)
        except (TypeError, ValueError, OverflowError) as error:
            raise CorpusError(f"{row.where}: the soft label of {name!r} is {value!r:.80} ({error})") from error
        if emotion is not None:
            values[emotion] += number

    highest = max(values.values())
    if not all(map(math.isfinite, values.values())) or min(values.values()) < 0 or highest <= 0:
        raise CorpusError(f"{row.where}: soft labels must be at least 0 and not all 0, but they are {dict(soft)}")

    scaled = [value / highest for value in values.values()]  # so that the sum cannot overflow

    return [value / math.fsum(scaled) for value in scaled]


def _with_ids(clips: Sequence[Clip], corpus: str, folder: Path) -> list[Clip]:
    """Give rows without an id a `neutral_id`; repeated texts without audio are numbered."""
    counts: dict[str, int] = {}
    done = []

    for clip in clips:
        if not clip.id:
            # Relative to the table, so that a corpus that was moved keeps its ids.
            name = (
                clip.audio.relative_to(folder).as_posix()
                if isinstance(clip.audio, Path) and clip.audio.is_relative_to(folder)
                else str(clip.audio or "")
            )
            key = "\n".join((name, clip.text, clip.language))
            counts[key] = counts.get(key, 0) + 1
            clip = replace(clip, id=neutral_id(corpus, f"{key}\n{counts[key]}"))
        done.append(clip)

    return done


def _with_splits(
    clips: Sequence[Clip], columns: Sequence[str], group_by: str, shares: Mapping[str, float], seed: int
) -> list[Clip]:
    kinds = [kind for kind in ("speaker", "dialogue") if kind in columns] if group_by == "auto" else [group_by]

    if group_by in ("speaker", "dialogue") and group_by not in columns:
        raise CorpusError(f"group_by={group_by!r}, but the table has no column {group_by!r}.")

    keys = [
        [f"{kind}:{value}" for kind in kinds if kind != "none" and (value := getattr(clip, kind))] for clip in clips
    ]
    groups = connected_groups([clip.id for clip in clips], keys)

    try:
        splits = stratified_group_split([clip.label for clip in clips], groups, shares, seed)
    except ValueError as error:
        raise CorpusError(
            f"The table has no column 'split' and cannot be split here: {error} Add the column, or choose another "
            f"group_by than {group_by!r} (allowed: {', '.join(GROUP_BY)})."
        ) from error

    return [replace(clip, split=split) for clip, split in zip(clips, splits, strict=True)]


CORPUS = Corpus(
    name="csv",
    title="A table of utterances",
    resolve={"label_map": read_label_map},
    homepage="a table of your own",
    license="as its rows say",
    read=read_csv,
    column=lambda options, data_dir: options["corpus"] or _default_name(find_table(Path(data_dir or "."))),
)
