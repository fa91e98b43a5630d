"""Any corpus as a table of `audio, text, label`, one row per utterance: CSV, TSV, JSON, Excel, Parquet, or a data set.

| column | required | meaning |
|---|---|---|
| `audio` | this or `text` | path relative to the table's folder (or absolute), or https URL, or the file itself (Parquet) |
| `text` | this or `audio` | transcript |
| `label` | unless soft | a name of the label set (default: the seven emotions) or a known alias, in any case; others need a `label_map` |
| `anger` ... `surprise` | no | probabilities (or votes) of all labels by name; in JSON lines also `"soft_label": {"anger": 0.7, ...}` |
| `split` | no | `train`, `dev` (also `val`, `valid`, `validation`) or `test`; in all rows or in none |
| `turn` | no | place of the utterance in its dialogue, a whole number, for [`~bibier_hf.data.context`] |
| a column for each target | no | with another `problem_type`: numbers, or 0 and 1 ([`~bibier_hf.data.targets`]) |
| `language`, `speaker`, `dialogue`, `id`, `license`, `source` | no | as in the common schema |

Options such as `label_column` name the columns that are called otherwise. A folder for each label is a table as well.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ...labels import UnknownLabelError, checked_labels
from ...model.labels_bibier import SINGLE_LABEL
from ...text import did_you_mean
from ..clips import Clip, neutral_id
from ..downloads import download_all
from ..label_maps import LabelMap, LabelReader, label_remedy, left_out_remark, unknown_faults
from ..prepare import Corpus, cache_folder
from ..protocols import connected_groups, stratified_group_split
from ..schema import least_labels
from ..table_sources import SPLIT_NAMES, FoundRow, StoredAudio, read_source, source_name
from ..tables import CorpusError, Row, option_forms, raise_faults, read_number
from ..targets import Labeled, TargetReader

COLUMNS = (
    "audio",
    "text",
    "label",
    "soft_label",
    "split",
    "language",
    "speaker",
    "dialogue",
    "turn",
    "id",
    "license",
    "source",
)
GROUP_BY = ("auto", "speaker", "dialogue", "none")
_URL = re.compile(r"https?://", re.IGNORECASE)


def read_csv(
    data_dir: Path | str,
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
    problem_type: str = SINGLE_LABEL,
    ranges: Mapping[str, Sequence[float]] | None = None,
    audio_column: str = "audio",
    text_column: Sequence[str] = ("text",),
    speaker_column: str = "speaker",
    dialogue_column: str = "dialogue",
    language_column: str = "language",
    split_column: str = "split",
    id_column: str = "id",
    encoding: str | None = None,
    separator: Literal["comma", "semicolon", "tab", "pipe"] | None = None,
    sheet: str | None = None,
    subset: str | None = None,
) -> list[Clip]:
    """Read a table of utterances.

    Args:
        data_dir: a file; a folder with exactly one table (or one named `metadata`), or one for each split; a folder
            with a folder of recordings for each label; a data set written by `save_to_disk`; or (str) the id of a data
            set on the Hub.
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
        label_column: column of the label, or, with several labels at once, of their names, separated by `|` or `;`.
        problem_type: what the labels are, as transformers names it.
        ranges: of a regression: lowest and highest value of a target, such as `{"valence": [1, 7]}`; others are an
            error.
        audio_column: column of the recording; a column `file_name` needs no option.
        text_column: columns of the transcript; of several, the first that is not empty counts.
        speaker_column, dialogue_column, language_column, split_column, id_column: name of that column.
        encoding: of a text file, such as cp1251; None: UTF-8, or what the byte order mark names.
        separator: of the cells; None: the only one in the header.
        sheet: of an Excel workbook; None: the only one with rows.
        subset: of a data set on the Hub.

    Raises:
        CorpusError: unknown columns, labels or splits, rows with neither audio nor text, or unreadable values, with
            their lines.
    """
    if group_by not in GROUP_BY:
        raise CorpusError(f"group_by={group_by!r}; allowed: {', '.join(GROUP_BY)}.")

    found = read_source(data_dir, subset, encoding=encoding, separator=separator, sheet=sheet)
    columns = tuple(dict.fromkeys(column for each in found for column in each.row.values))
    if audio_column == "audio" and "audio" not in columns and "file_name" in columns:  # as `datasets` calls it
        audio_column = "file_name"

    names = {
        "audio": audio_column,
        "label": label_column,
        "speaker": speaker_column,
        "dialogue": dialogue_column,
        "language": language_column,
        "turn": "turn",
        "split": split_column,
        "id": id_column,
        "license": "license",
        "source": "source",
    }
    texts = (text_column,) if isinstance(text_column, str) else tuple(text_column)
    known = tuple(dict.fromkeys((*texts, *names.values(), *COLUMNS)))
    _check_named_columns(data_dir, columns, names, texts)
    if problem_type == SINGLE_LABEL:
        reader = _ClassReader(LabelReader(labels, label_map), label_column, known)
    else:
        targets = checked_labels(labels, least_labels(problem_type))
        reader = TargetReader(problem_type, targets, columns, label_column, label_map, ranges)
        del names["label"]  # its cells may be lists
    known = tuple(dict.fromkeys((*known, *reader.columns)))
    faults = reader.column_faults(columns)
    _check_columns(data_dir, columns, known, faults, names, texts, ignore_columns, language)

    has_split = split_column in columns
    if any(each.split for each in found):
        if has_split:
            raise CorpusError(
                f"{data_dir} names splits twice: by files or folders, and in the column {split_column!r}."
            )
        has_split = True

    not_read = _replaced_columns(columns, names, texts, ignore_columns)
    downloads = _download(found, audio_column)
    corpus = corpus or source_name(data_dir)
    faults: list[str] = []
    unknown: dict[str, str] = {}
    ids: dict[str, str] = {}
    recordings: dict[Path, str] = {}
    clips = []
    keys = []

    for each in found:
        row = each.row
        stored = row.values.get(audio_column)
        try:
            cells = _read_cells(row, names, texts)
            if isinstance(stored, StoredAudio):
                audio, name = replace(stored, channel=channel), row.where
            else:
                audio, name = _locate_audio(cells["audio"], each, downloads)
        except CorpusError as error:
            faults.append(str(error))
            continue

        if audio is None and not cells["text"]:
            faults.append(f"{row.where}: neither audio nor text")
            continue

        if isinstance(audio, Path) and recordings.setdefault(audio, row.where) != row.where:
            faults.append(f"{row.where}: the recording {cells['audio']} is already in {recordings[audio]}")

        if ids.setdefault(cells["id"], row.where) != row.where and cells["id"]:
            faults.append(f"{row.where}: the id '{cells['id']}' is already in {ids[cells['id']]}")

        try:
            labeled = reader(row)
        except UnknownLabelError:
            unknown.setdefault(cells["label"], f"{row.where}, column {label_column!r}")
            continue
        except CorpusError as error:
            faults.append(str(error))
            continue

        turn = None
        if cells["turn"]:
            try:
                turn = int(cells["turn"].removesuffix(".0"))  # spreadsheets write whole numbers so
            except ValueError:
                faults.append(f"{row.where}: the turn is {cells['turn']!r}; it must be a whole number")

        split = each.split or SPLIT_NAMES.get(cells["split"].lower(), "")
        if has_split and not split:
            faults.append(f"{row.where}: the split is {cells['split']!r}; allowed: {', '.join(SPLIT_NAMES)}")

        read_as = ((row.read_as,) if row.read_as else ()) + not_read
        keys.append(name)
        clips.append(
            Clip(
                id=cells["id"],  # missing ids are filled in below
                split=split,
                label=labeled.label or "",
                left_out=labeled.label is None,
                remarks=(left_out_remark(cells["label"]),) if labeled.label is None else read_as,
                language=(cells["language"] or language or "").lower(),
                audio=audio,
                audio_key=stored.key if isinstance(stored, StoredAudio) else "",
                channel=channel,
                text=cells["text"],
                speaker=cells["speaker"] or None,
                dialogue=cells["dialogue"] or None,
                turn=turn,
                soft_label=labeled.soft_label,
                target=labeled.target,
                source=cells["source"] or "recorded",
                license=cells["license"] or license,
                where=row.where,
            )
        )

    faults += unknown_faults(unknown)
    raise_faults(faults, f"{data_dir} cannot be used", label_remedy(unknown, reader.labels) if unknown else "")
    clips = _with_ids(clips, corpus, keys)

    if has_split:
        return clips

    left_out = [clip for clip in clips if clip.left_out]
    kept = [clip for clip in clips if not clip.left_out]
    kinds = [kind for kind in ("speaker", "dialogue") if names[kind] in columns]

    return left_out + _with_splits(kept, kinds, group_by, {"dev": dev_share, "test": test_share}, seed)


def _check_named_columns(
    source: Path | str, columns: Sequence[str], names: Mapping[str, str], texts: Sequence[str]
) -> None:
    """Refuse a column that an option names and the table does not have."""
    named = [(kind, column) for kind, column in names.items() if kind != column]
    named += [("text", column) for column in texts if column != "text"]

    for kind, column in named:
        if column not in columns:
            raise CorpusError(
                f"{kind}_column={column!r}: {source} has no such column.{did_you_mean(column, columns)} "
                f"It has {', '.join(columns)}."
            )


def _replaced_columns(
    columns: Sequence[str], names: Mapping[str, str], texts: Sequence[str], ignored: Sequence[str]
) -> tuple[str, ...]:
    """Return a remark for each column that would be read if no option named another one."""
    chosen = {kind: [column] for kind, column in names.items()} | {"text": list(texts)}
    return tuple(
        f"the column {kind!r} is not read: {kind}_column names {', '.join(named)}"
        for kind, named in chosen.items()
        if kind in columns and kind not in (*names.values(), *texts, *ignored)
    )


def _check_columns(
    source: Path | str,
    columns: Sequence[str],
    known: Sequence[str],
    of_labels: Sequence[str],
    names: Mapping[str, str],
    texts: Sequence[str],
    ignored: Sequence[str],
    language: str | None,
) -> None:
    unknown = [column for column in columns if column not in known and column not in ignored]
    faults = [f"unknown column {column!r}.{did_you_mean(column, known)}" for column in unknown]

    if not {names["audio"], *texts} & set(columns):
        faults.append(f"neither a column {names['audio']!r} nor a column {texts[0]!r}")

    faults += of_labels
    if names["language"] not in columns and language is None:
        faults.append(f"no column 'language'; add one, or set it for all rows: {option_forms('language', 'en')}")

    remedy = (
        f"Allowed columns: {', '.join(known)}. Rename them, name yours (such as --label_column NAME), or list columns "
        f"to skip in the option ignore_columns: --ignore_columns {','.join(unknown) or 'NAME,NAME'}."
    )
    raise_faults(faults, f"The columns of {source} do not match", remedy)


def _read_cells(row: Row, names: Mapping[str, str], texts: Sequence[str]) -> dict[str, str]:
    """The texts of a row by kind of column.

    Raises:
        CorpusError: a cell that is no text, such as a list in a line of JSON.
    """
    cells = {
        kind: "" if isinstance(row.values.get(column), StoredAudio) else row.text(column)
        for kind, column in names.items()
    }
    written = [row.text(column) for column in texts]

    return cells | {"text": next(filter(None, written), "")}


def _download(found: Sequence[FoundRow], column: str) -> dict[str, Path | str]:
    """Download the recordings that are given by URL."""
    values = [each.row.values.get(column) for each in found]
    urls = [value.strip() for value in values if isinstance(value, str) and _URL.match(value.strip())]

    return download_all(urls, cache_folder().parent / "downloads")


def _locate_audio(cell: str, found: FoundRow, downloads: Mapping[str, Path | str]) -> tuple[Path | None, str]:
    """Return the file of a recording, and a name of it that stays the same if the table is moved."""
    if not cell:
        return None, ""

    if _URL.match(cell):
        file = downloads[cell]
        if isinstance(file, str):
            raise CorpusError(f"{found.row.where}: {file}")
        return file, cell

    path = found.folder / cell

    return path, path.relative_to(found.folder).as_posix() if path.is_relative_to(found.folder) else str(path)


class _ClassReader:
    """Reads the label of the rows of a table, and its probabilities.

    Args:
        translate: the label set.
        column: of the label.
        known: columns that mean something else.

    Attributes:
        columns: of probabilities.
    """

    def __init__(self, translate: LabelReader, column: str, known: Sequence[str]):
        self.labels, self._translate, self._column = translate.labels, translate, column
        # A label that is called like a column can have no column of probabilities.
        self.columns = self.labels if set(known).isdisjoint(self.labels) else ()

    def column_faults(self, columns: Sequence[str]) -> list[str]:
        """Return what is wrong with the columns of a table."""
        faults = []
        present = [label for label in self.columns if label in columns]
        if present and len(present) < len(self.columns):
            faults.append(f"the columns {present} without the other labels; soft labels need all {len(self.columns)}")
        if not {self._column, "soft_label", *present} & set(columns):
            faults.append(f"no column {self._column!r} (nor soft labels)")

        return faults

    def __call__(self, row: Row) -> Labeled:
        """Return the label of a row, None to omit it, and its probabilities.

        A row with only a soft label gets the most probable label.
        """
        soft = row.values.get("soft_label")
        if soft in (None, ""):
            soft = {name: row.values[name] for name in self.columns if row.text(name)} or None

        if soft is None:
            return Labeled(self._translate(row.text(self._column)))

        probabilities = _read_distribution(row, soft, self._translate)
        if row.text(self._column):
            return Labeled(self._translate(row.text(self._column)), probabilities)

        best = max(probabilities)
        if probabilities.count(best) > 1:
            raise CorpusError(f"{row.where}: no label, and the soft label has no single maximum")

        return Labeled(self.labels[probabilities.index(best)], probabilities)


def _read_distribution(row: Row, soft: Any, translate: LabelReader) -> list[float]:
    if not isinstance(soft, Mapping):
        # Published tables use at least two orders, so a list without names cannot be trusted.
        raise CorpusError(
            f'{row.where}: the soft label must name its labels: {{"anger": 0.7, ...}}, or be in columns with these '
            "names"
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


def _with_ids(clips: Sequence[Clip], corpus: str, names: Sequence[str]) -> list[Clip]:
    """Give rows without an id a `neutral_id` by the names of their recordings; repeated texts are numbered."""
    counts: dict[str, int] = {}
    done = []

    for clip, name in zip(clips, names, strict=True):
        if not clip.id:
            key = "\n".join((name, clip.text, clip.language))
            counts[key] = counts.get(key, 0) + 1
            clip = replace(clip, id=neutral_id(corpus, f"{key}\n{counts[key]}"))
        done.append(clip)

    return done


def _with_splits(
    clips: Sequence[Clip], there: Sequence[str], group_by: str, shares: Mapping[str, float], seed: int
) -> list[Clip]:
    kinds = there if group_by == "auto" else [group_by]

    if group_by in ("speaker", "dialogue") and group_by not in there:
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
    on_hub=True,
    column=lambda options, data_dir: options["corpus"] or source_name(data_dir or Path()),
)
