"""Find the rows of a table: in a file, in a folder, in a saved data set, or on the Hub."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Audio, ClassLabel, Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..files import describe_write_error
from ..model.audio_bibier import decode_audio
from .tables import TABLE_SUFFIXES, CorpusError, Row, is_stream, raise_faults, read_table

SOURCE_SUFFIXES = (*TABLE_SUFFIXES, ".parquet")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".m4a", ".aiff", ".aif", ".au")
SPLIT_NAMES = {name: name for name in ("train", "dev", "test")} | dict.fromkeys(("val", "valid", "validation"), "dev")


@dataclass(frozen=True)
class StoredAudio:
    """A recording within a data set; calling it decodes it to 16 kHz."""

    dataset: Dataset
    column: str
    index: int
    key: str
    channel: int | None = None

    def __call__(self) -> np.ndarray:
        value = self.dataset[self.index][self.column]
        return decode_audio(value, channel=self.channel, refuse_silence=True)


@dataclass(frozen=True)
class FoundRow:
    """A row, the folder that its paths start in, and the split that its place names."""

    row: Row
    folder: Path
    split: str = ""


def read_source(source: Path | str, subset: str | None = None, **options: Any) -> list[FoundRow]:
    """Read the rows of a table.

    Args:
        source: a file; a folder that holds one table, a table or folder for each split, or a folder for each label; a
            data set as `save_to_disk` writes it; or (str) the id of a data set on the Hub.
        subset: of a data set on the Hub.
        options: of [`~bibier_hf.data.tables.read_table`].

    Raises:
        CorpusError: nothing there that can be read.
    """
    if isinstance(source, str):
        return _rows_of_splits(_load_from_hub(source, subset), source)

    if subset is not None:
        raise CorpusError(f"subset={subset!r} is for data sets on the Hub, and {source} is here. Leave it out.")

    if not source.is_dir():
        folder = Path.cwd() if is_stream(source) else source.parent
        return [FoundRow(row, folder) for row in _read_file(source, options)]

    if _is_saved(source):
        try:
            return _rows_of_splits(load_from_disk(str(source)), source.name)
        except (OSError, ValueError, KeyError) as error:
            raise CorpusError(f"{source} is not a readable data set ({error}). Save it again.") from error

    return _read_folder(source, options)


def source_name(source: Path | str) -> str:
    """The name of a table, or of its folder if it is called `metadata` or consists of several files."""
    if isinstance(source, str):
        return source.rpartition("/")[2]

    if source.is_dir() and not _is_saved(source):
        tables = _tables_in(source)
        source = tables[0] if len(tables) == 1 else source

    return source.absolute().parent.name if source.stem == "metadata" else source.absolute().stem


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _tables_in(folder: Path) -> list[Path]:
    """The tables in a folder; only the one called `metadata` if there is one."""
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in SOURCE_SUFFIXES)
    named = [path for path in tables if path.stem == "metadata"]

    return named if len(named) == 1 else tables


def _read_folder(source: Path, options: Mapping[str, Any]) -> list[FoundRow]:
    tables = _tables_in(source)
    if len(tables) == 1:
        return [FoundRow(row, source) for row in _read_file(tables[0], options)]

    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    parts = tables or folders
    splits = [SPLIT_NAMES.get(part.stem.lower(), "") for part in parts]

    if not all(splits):
        if tables:
            raise CorpusError(
                f"{source} must be a table ({', '.join(SOURCE_SUFFIXES)}), hold one for each split, or hold exactly "
                f"one; found: {', '.join(path.name for path in tables)}."
            )
        return list(_read_label_folders(source, folders))

    if not parts:
        raise CorpusError(
            f"{source} must be a table ({', '.join(SOURCE_SUFFIXES)}), hold a folder for each label, or hold exactly "
            "one; found: none."
        )

    rows = [
        replace(found, split=split)
        for part, split in zip(parts, splits, strict=True)
        for found in (
            _read_folder(part, options)
            if part.is_dir()
            else [FoundRow(row, source) for row in _read_file(part, options)]
        )
    ]

    return rows if len(set(splits)) > 1 else [replace(found, split="") for found in rows]


def _read_label_folders(source: Path, folders: list[Path]) -> Iterator[FoundRow]:
    """A row for each recording in the folders, which are called like their labels."""
    faults = []

    for folder in folders:
        for path in sorted(folder.iterdir()):
            name = f"{folder.name}/{path.name}"
            if path.name.startswith("."):
                continue
            if path.is_dir():
                faults.append(f"{name}: a folder within the folder of a label")
            elif path.suffix.lower() not in AUDIO_SUFFIXES:
                faults.append(f"{name}: not audio; allowed: {', '.join(AUDIO_SUFFIXES)}")
            else:
                yield FoundRow(Row({"audio": name, "label": folder.name}, f"{source.name}/{name}"), source)

    raise_faults(faults, f"{source} has no table, so it must hold LABEL/FILE or SPLIT/LABEL/FILE", "Move them away.")


def _read_file(path: Path, options: Mapping[str, Any]) -> list[Row]:
    if path.suffix.lower() != ".parquet":
        return read_table(path, **options)

    if given := {name: value for name, value in options.items() if value is not None}:
        raise CorpusError(f"{path.name}: {', '.join(given)} does not apply to .parquet. Leave it out.")

    try:
        if not pq.read_metadata(path).num_rows:
            raise CorpusError(f"{path} has no rows.")
        dataset = Dataset.from_parquet(str(path))
    except CorpusError:
        raise
    except (OSError, ValueError, DatasetGenerationError) as error:
        if describe_write_error(error) is not None:  # the cache cannot be written
            raise
        raise CorpusError(
            f"{path} is not a readable Parquet file ({_first_line(error.__cause__ or error)})."
        ) from error

    return list(_rows_of(dataset, path.name))


def _load_from_hub(name: str, subset: str | None) -> DatasetDict:
    try:
        return load_dataset(name, subset)
    except (OSError, ValueError, DatasetGenerationError) as error:
        if describe_write_error(error) is not None:
            raise
        reason = " ".join(str(error).split())[:300]
        raise CorpusError(f"{name} cannot be loaded from the Hub ({reason}).") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or repr(error)


def _rows_of_splits(splits: DatasetDict | Dataset, name: str) -> list[FoundRow]:
    if isinstance(splits, Dataset):
        return [FoundRow(row, Path.cwd()) for row in _rows_of(splits, name)]

    if len(splits) == 1:
        (dataset,) = splits.values()
        return [FoundRow(row, Path.cwd()) for row in _rows_of(dataset, name)]

    unknown = [split for split in splits if str(split).lower() not in SPLIT_NAMES]
    if unknown:
        raise CorpusError(f"{name} has the splits {unknown}; allowed: {', '.join(SPLIT_NAMES)}. Save it without them.")

    return [
        FoundRow(row, Path.cwd(), SPLIT_NAMES[str(split).lower()])
        for split, dataset in splits.items()
        for row in _rows_of(dataset, f"{name} {split}")
    ]


def _rows_of(dataset: Dataset, name: str) -> Iterator[Row]:
    """The rows of a data set: labels by name, recordings left where they are."""
    key = dataset._fingerprint  # identifies the content
    recordings = [column for column, feature in dataset.features.items() if _is_audio(feature)]
    classes = {column: kind for column, kind in dataset.features.items() if isinstance(kind, ClassLabel)}
    there = {column: dataset.data.column(column).is_valid().to_pylist() for column in recordings}

    for column in recordings:
        if isinstance(dataset.features[column], Audio):
            dataset = dataset.cast_column(column, Audio(decode=False))

    others = [column for column in dataset.column_names if column not in recordings]
    cells = dataset.select_columns(others) if others else [{}] * len(dataset)

    for index, values in enumerate(cells):
        row: dict[str, Any] = dict(values)
        for column, kind in classes.items():
            row[column] = None if row[column] is None or row[column] < 0 else kind.int2str(row[column])
        for column in recordings:
            row[column] = StoredAudio(dataset, column, index, f"{key} {index}") if there[column][index] else None

        yield Row(row, f"{name} row {index + 1}")


def _is_audio(feature: Any) -> bool:
    """Whether a column holds files: as `datasets.Audio`, as bytes, or as bytes with a path."""
    if isinstance(feature, Mapping):
        return "bytes" in feature

    return isinstance(feature, Audio) or getattr(feature, "dtype", None) in ("binary", "large_binary")
