"""Any corpus as a table: a CSV, TSV or JSON Lines file of `audio, text, label`, one row per utterance.

| column | required | meaning |
|---|---|---|
| `audio` | this or `text` | path relative to the table's folder (or absolute) |
| `text` | this or `audio` | transcript |
| `label` | unless soft | a name of the label set (default: the seven emotions) or a known alias, in any case; others need a `label_map` |
| `anger` ... `surprise` | no | probabilities (or votes) of all labels by name; in JSON lines also `"soft_label": {"anger": 0.7, ...}` |
| `split` | no | `train`, `dev` (also `val`, `valid`, `validation`) or `test`; in all rows or in none |
| `language`, `speaker`, `dialogue`, `id`, `license`, `source` | no | as in the common schema |

`label_column` reads the label from another column.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...labels import UnknownLabelError
from ...text import did_you_mean
from ..clips import Clip, neutral_id
from ..label_maps import LabelMap, LabelReader, label_remedy, left_out_remark, unknown_faults
from ..prepare import Corpus
from ..protocols import connected_groups, stratified_group_split
from ..schema import SPLITS
from ..tables import TABLE_SUFFIXES, CorpusError, Row, is_stream, option_forms, raise_faults, read_number, read_table

OTHER_COLUMNS = ("soft_label", "split", "language", "speaker", "dialogue", "id", "license", "source")
"""Columns next to audio, text and label."""

GROUP_BY = ("auto", "speaker", "dialogue", "none")
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
    labels: Sequence[str] | None = None,
    label_map: LabelMap | str | None = None,
    label_column: str = "label",
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
        labels: the label set; None: the seven emotions.
        label_map: labels of the table -> labels of the set, such as `{"ang": "anger", "xxx": null}`, where null omits
            these rows; or a JSON or YAML file with that mapping, or a CSV file with the columns `from` and `to`.
        label_column: column of the label.

    Raises:
        CorpusError: unknown columns, labels or splits, rows with neither audio nor text, or unreadable values, with
            their lines.
    """
    table = find_table(data_dir)
    folder = Path.cwd() if is_stream(table) else table.parent
    rows = read_table(table)
    translate = LabelReader(labels, label_map)
    known = tuple(dict.fromkeys(("audio", "text", label_column, "label", *OTHER_COLUMNS)))
    # A label that is called like a column can have no column of probabilities.
    soft_columns = translate.labels if set(known).isdisjoint(translate.labels) else ()
    columns = tuple(dict.fromkeys(column for row in rows for column in row.values))
    _check_columns(table, columns, (*known, *soft_columns), soft_columns, label_column, ignore_columns, language)

    if group_by not in GROUP_BY:
        raise CorpusError(f"group_by={group_by!r}; allowed: {', '.join(GROUP_BY)}.")

    corpus = corpus or _default_name(table)
    faults: list[str] = []
    unknown: dict[str, str] = {}
    ids: dict[str, str] = {}
    recordings: dict[Path, str] = {}
    clips = []

    for row in rows:
        if misfit := _misfit(row, {*known, *soft_columns}):
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
            label, soft_label = _read_label(row, label_column, soft_columns, translate)
        except UnknownLabelError:
            unknown.setdefault(row.text(label_column), row.where)
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
                remarks=() if label else (left_out_remark(row.text(label_column)),),
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

    faults += unknown_faults(unknown)
    raise_faults(faults, f"{table} cannot be used", label_remedy(unknown, translate.labels) if unknown else "")
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


def _check_columns(
    table: Path,
    columns: Sequence[str],
    known: Sequence[str],
    soft_columns: Sequence[str],
    label_column: str,
    ignored: Sequence[str],
    language: str | None,
) -> None:
    faults = []

    for column in columns:
        if column not in known and column not in ignored:
            faults.append(f"unknown column {column!r}.{did_you_mean(column, known)}")

    if "audio" not in columns and "text" not in columns:
        faults.append("neither a column 'audio' nor a column 'text'")

    present = [label for label in soft_columns if label in columns]
    if present and len(present) < len(soft_columns):
        faults.append(f"the columns {present} without the other labels; soft labels need all {len(soft_columns)}")

    if not {label_column, "soft_label", *present} & set(columns):
        faults.append(f"no column {label_column!r} (nor soft labels)")

    if "language" not in columns and language is None:
        faults.append(f"no column 'language'; add one, or set it for all rows: {option_forms('language', 'en')}")

    remedy = f"Allowed columns: {', '.join(known)}. Rename them, or list columns to skip in the option ignore_columns."
    raise_faults(faults, f"The columns of {table} do not match", remedy)


def _misfit(row: Row, known: Collection[str]) -> str | None:
    """Return what is wrong with a cell, such as a list in a line of JSON."""
    for column in row.values:
        if column in known and column != "soft_label":
            try:
                row.text(column)
            except CorpusError as error:
                return str(error)

    return None


def _read_label(
    row: Row, label_column: str, soft_columns: Sequence[str], translate: LabelReader
) -> tuple[str | None, list[float] | None]:
    """Return (label, its probabilities or None). Without a label, the row is omitted.

    A row with only a soft label gets the most probable label.
    """
    soft = row.values.get("soft_label")
    if soft in (None, ""):
        soft = {name: row.values[name] for name in soft_columns if row.text(name)} or None

    if soft is None:
        return translate(row.text(label_column)), None

    probabilities = _read_distribution(row, soft, translate)

    if row.text(label_column):
        return translate(row.text(label_column)), probabilities

    best = max(probabilities)
    if probabilities.count(best) > 1:
        raise CorpusError(f"{row.where}: no label, and the soft label has no single maximum")

    return translate.labels[probabilities.index(best)], probabilities


def _read_distribution(row: Row, soft: Any, translate: LabelReader) -> list[float]:
    if not isinstance(soft, Mapping):
        # Published tables use at least two orders, so a list without names cannot be trusted.
        raise CorpusError(
            f'{row.where}: the soft label must name its labels: {{"anger": 0.7, ...}}, or be in columns with these names'
        )

    values = dict.fromkeys(translate.labels, 0.0)

    for name, value in soft.items():
        try:
            number = read_number(value) if isinstance(value, str) else float(value)
            label = translate(name)
        except (TypeError, ValueError, OverflowError) as error:
            raise CorpusError(f"{row.where}: the soft label of {name!r} is {value!r:.80} ({error})") from error
        if label is not None:
            values[label] += number

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
    homepage="a table of your own",
    license="as its rows say",
    read=read_csv,
    column=lambda options, data_dir: options["corpus"] or _default_name(find_table(Path(data_dir or "."))),
)
