"""RESD, the Russian Emotional Speech Dialogs: 1396 acted utterances from 50 dialogues.

License: MIT. Source: https://huggingface.co/datasets/Aniemore/resd_annotated

Each dialogue is played by two roles with one emotion each, so the speaker of an utterance determines its emotion, and
every role in the official test split also speaks in train. Report the protocol `dialogue_grouped` along with
`official` (see `bibier_hf.data.protocols`). The transcripts look like the output of speech recognition, including its
errors.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Audio, Dataset, Value, load_dataset

from ...labels import EMOTIONS, UnknownLabelError, normalize_label
from ...model.audio_bibier import decode_audio
from ..clips import Clip, check_counts, neutral_id
from ..label_maps import LabelMap, LabelReader, relabeled_clips
from ..prepare import Corpus
from ..tables import CorpusError, Row, raise_faults, read_table

OFFICIAL_COUNTS = {
    "train": dict(zip(EMOTIONS, (175, 148, 178, 174, 153, 130, 158), strict=True)),
    "test": dict(zip(EMOTIONS, (44, 37, 45, 44, 38, 32, 40), strict=True)),
}
"""Clips per label, with enthusiasm counted as surprise."""

OFFICIAL_FOLDS = (
    (2, 4, 9, 14, 15, 17, 34, 36, 37, 41, 45),
    (11, 13, 21, 24, 30, 35, 43, 48, 49),
    (1, 7, 16, 19, 26, 29, 33, 44, 50),
    (10, 12, 18, 25, 27, 28, 38, 40, 42, 47),
    (3, 5, 6, 8, 20, 22, 23, 31, 32, 39, 46),
)
"""Dialogue numbers of the five folds (`dialog_fold` in the metadata.csv layout), so that both layouts have the same
folds."""

ENTHUSIASM = ("surprise", "keep", "exclude")

# dialogue number _ emotion of one role _ emotion of the other, "_" or (dialogues 1 to 11) " ", letter of the spoken
# emotion _ turn, in which both roles may speak, in an order that the corpus does not state
_NAME = re.compile(r"(?P<dialogue>\d\d)_(?P<first>[a-z]+)_(?P<second>[a-z]+)[_ ](?P<letter>[adefhns])_(?P<turn>\d{3})")
_AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_FOLD_OF_DIALOGUE = {dialogue: fold for fold, dialogues in enumerate(OFFICIAL_FOLDS) for dialogue in dialogues}


def read_resd(
    data_dir: Path | str,
    *,
    enthusiasm: str = "surprise",
    strict_counts: bool = True,
    labels: Sequence[str] | None = None,
    label_map: LabelMap | None = None,
) -> list[Clip]:
    """Read RESD in any of its layouts.

    * `metadata.csv` with `file_name, text, emotion, split` (optionally `orig_name`) and paths relative to the folder;
    * `train.csv` and `test.csv` with `name, emotion, text` (optionally `path`), and recordings anywhere below the
      folder, found by name;
    * the data set on the Hub, by id or as a clone: Parquet with `name, speech, text, emotion`.
      `Aniemore/resd_annotated` has transcripts; `Aniemore/resd` does not (its texts are empty).

    File names and names of dialogues and speakers contain the emotion, so they are not kept: ids are hashes of the
    original name (`resd_id`, which still lets you join tables by that name), dialogues are `resd-07`, speakers
    `resd-07-a` and `resd-07-b`.

    Args:
        data_dir: the folder, or an id on the Hub.
        enthusiasm: RESD has enthusiasm instead of surprise. `"surprise"` counts it as surprise, like the published
            system, unless the label set has it; `"keep"` also stores it in a column `original_label`; `"exclude"`
            omits these 198 clips.
        strict_counts: require the published counts per split and label; False for a part of the corpus.
        labels, label_map: see [`~bibier_hf.data.label_maps.LabelReader`].

    Raises:
        CorpusError: an unknown layout, names or labels that are not from RESD, missing files, or different counts.
    """
    if enthusiasm not in ENTHUSIASM:
        raise CorpusError(f"enthusiasm={enthusiasm!r}; allowed: {', '.join(ENTHUSIASM)}.")

    clips = []
    faults = []

    for row, name, split, audio, audio_key in _read_rows(data_dir):
        parts = _NAME.fullmatch(name)
        emotion = row.text("emotion").lower()

        if not parts:
            faults.append(f"{row.where}: '{name}' is not a RESD name such as 32_happiness_enthusiasm_h_120")
            continue

        try:
            normalize_label(emotion)
        except UnknownLabelError as error:
            faults.append(f"{row.where}: {error}")
            continue

        roles = sorted((parts["first"], parts["second"]))
        if emotion not in roles or emotion[0] != parts["letter"]:
            faults.append(f"{row.where}: the emotion '{emotion}' contradicts the name '{name}'")
            continue

        if emotion == "enthusiasm" and enthusiasm == "exclude":
            continue

        number = int(parts["dialogue"])
        clips.append(
            Clip(
                id=resd_id(name),
                split=split,
                label=emotion,
                language="ru",
                audio=audio,
                text=row.text("text"),
                speaker=f"resd-{number:02d}-{'ab'[roles.index(emotion)]}",
                dialogue=f"resd-{number:02d}",
                turn=int(parts["turn"]),
                license="MIT",
                where=row.where,
                audio_key=audio_key,
                extra={"fold": _fold(row, number), "original_label": emotion if enthusiasm == "keep" else None},
            )
        )

    raise_faults(faults, f"{data_dir} does not look like RESD")

    if strict_counts:
        expected = OFFICIAL_COUNTS
        if enthusiasm == "exclude":
            expected = {split: {**row, "surprise": 0} for split, row in expected.items()}
        check_counts([replace(clip, label=normalize_label(clip.label)) for clip in clips], expected)

    # Sorted by id, so that layout and order of the tables do not matter, and neighbors reveal nothing about each
    # other.
    return relabeled_clips(sorted(clips, key=lambda clip: clip.id), LabelReader(labels, label_map))


def resd_id(name: str) -> str:
    """Return the id of the clip with this original name. Spaces count as underscores, since copies differ in that."""
    return neutral_id("resd", name.replace(" ", "_"))


def _fold(row: Row, dialogue: int) -> int | None:
    return int(row.text("dialog_fold")) if row.text("dialog_fold") else _FOLD_OF_DIALOGUE.get(dialogue)


_Found = tuple[Row, str, str, Path | Callable[[], np.ndarray], str]
"""(row, original name, split, recording, what identifies it if it is not a file)"""


def _read_rows(data_dir: Path | str) -> list[_Found]:
    if isinstance(data_dir, str):
        return _read_hub(data_dir)

    has_table = any((data_dir / name).is_file() for name in ("metadata.csv", "train.csv", "test.csv"))
    if not has_table and any(data_dir.rglob("*.parquet")):
        return _read_hub(str(data_dir))

    if (data_dir / "metadata.csv").is_file():
        found: list[_Found] = []
        for row in read_table(data_dir / "metadata.csv", ("file_name", "text", "emotion", "split")):
            path = data_dir / row.text("file_name")
            found.append((row, row.text("orig_name") or path.stem, row.text("split"), path, ""))
        return found

    tables = {split: data_dir / f"{split}.csv" for split in ("train", "test")}
    if missing := [path.name for path in tables.values() if not path.is_file()]:
        raise CorpusError(
            f"{data_dir} has no {' and no '.join(missing)}. Allowed layouts: metadata.csv (file_name, text, emotion, "
            "split) with its recordings, train.csv and test.csv (name, emotion, text) with theirs, a clone of "
            "Aniemore/resd_annotated, or that id itself."
        )

    files = _files_by_name(data_dir)
    found = []

    for split, path in tables.items():
        for row in read_table(path, ("name", "emotion", "text")):
            name = _stem(row.text("name"))
            found.append((row, name, split, _find(data_dir, row, name, split, files), ""))

    return found


def _read_hub(source: str) -> list[_Found]:
    try:
        splits = load_dataset(source)
    except ConnectionError as error:
        raise CorpusError(
            f"The Hub cannot be reached for '{source}' ({error}). Try again, or pass a folder with the corpus."
        ) from error

    found: list[_Found] = []

    for split, dataset in splits.items():
        if missing := [name for name in ("name", "speech", "emotion") if name not in dataset.column_names]:
            raise CorpusError(f"{source} has no columns {missing}; it has {dataset.column_names}.")
        dataset = dataset.cast_column("speech", Audio(decode=False))
        for index, values in enumerate(dataset.remove_columns("speech")):
            row = Row(values, f"{source} {split} row {index}")
            # The fingerprint identifies the revision of the data.
            key = f"{dataset._fingerprint} row {index}"
            found.append((row, _stem(row.text("name")), str(split), partial(_decode_row, dataset, index), key))

    return found


def _decode_row(dataset: Dataset, index: int) -> np.ndarray:
    return decode_audio(dataset[index]["speech"])


def _stem(name: str) -> str:
    name = Path(name).name
    return name.removesuffix(Path(name).suffix) if Path(name).suffix in _AUDIO_SUFFIXES else name


def _files_by_name(data_dir: Path) -> Mapping[str, list[Path]]:
    files = defaultdict(list)

    for path in sorted(data_dir.rglob("*")):
        if path.suffix.lower() in _AUDIO_SUFFIXES:
            files[path.stem.replace(" ", "_")].append(path)

    return files


def _find(data_dir: Path, row: Row, name: str, split: str, files: Mapping[str, list[Path]]) -> Path:
    if row.text("path") and (data_dir / row.text("path")).is_file():
        return data_dir / row.text("path")

    found = files.get(name.replace(" ", "_"), [])
    if len(found) > 1:  # the folders of both splits contain this name
        found = [path for path in found if split in path.relative_to(data_dir).parts]

    # A missing path is reported later, with all others.
    return found[0] if len(found) == 1 else data_dir / split / f"{name}.wav"


CORPUS = Corpus(
    name="resd",
    title="RESD: Russian Emotional Speech Dialogs",
    homepage="https://huggingface.co/datasets/Aniemore/resd_annotated",
    license="MIT",
    read=read_resd,
    hub_id="Aniemore/resd_annotated",
    on_hub=True,
    extra_features={"fold": Value("int32"), "original_label": Value("string")},
)
