"""MELD, the Multimodal EmotionLines Dataset: 13708 utterances from 1432 dialogues of the series Friends.

License of the annotation: GPL-3.0; the clips are excerpts of the series. Source: https://github.com/declare-lab/MELD,
clips: http://web.eecs.umich.edu/~mihalcea/downloads/MELD.Raw.tar.gz (10.9 GB)

Most clips have 5.1 audio; as everywhere in the package, the mean of all channels is used. The published system uses
channel 0 only. Two clips cannot be decoded and three are cut wrongly (`KNOWN_FAULTS`): the published system omits the
former and keeps the latter.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from ...files import locked, write_bytes
from ...labels import EMOTIONS, UnknownLabelError, normalize_label
from ..archives import SourceFile, is_archive, walk_files
from ..clips import Clip, check_counts
from ..label_maps import LabelMap, LabelReader, relabeled_clips
from ..prepare import FORMAT_VERSION, Corpus, cache_folder
from ..tables import CorpusError, Row, option_forms, raise_faults, read_table
from ..text import mend_text
from ..video import convert_clips, find_ffmpeg, state_disk_need

LICENSE = "GPL-3.0"

OFFICIAL_COUNTS = {
    "train": dict(zip(EMOTIONS, (1109, 271, 268, 1743, 4710, 683, 1205), strict=True)),
    "dev": dict(zip(EMOTIONS, (153, 22, 40, 163, 470, 111, 150), strict=True)),
    "test": dict(zip(EMOTIONS, (345, 68, 50, 402, 1256, 208, 281), strict=True)),
}
"""Rows per label: 9989, 1109 and 2610 in all."""

TABLES = {f"{split}_sent_emo.csv": split for split in OFFICIAL_COUNTS}
CLIP_FOLDERS = {"train_splits": "train", "dev_splits_complete": "dev", "output_repeated_splits_test": "test"}

SENTIMENTS = ("negative", "neutral", "positive")
LABEL_COLUMNS: dict[str, tuple[str, ...] | None] = {"Emotion": None, "Sentiment": SENTIMENTS}
"""What can be the label -> the label set that it brings; None: the seven emotions."""

UNDECODABLE, OUTLIER = "the clip cannot be decoded", "the clip is cut wrongly"
KNOWN_FAULTS = {
    "train/dia125_utt3": UNDECODABLE,
    "dev/dia110_utt7": UNDECODABLE,
    "test/dia38_utt4": OUTLIER,  # 304.96 s for seven words
    "test/dia220_utt0": OUTLIER,  # 235.07 s for three words
    "train/dia309_utt0": OUTLIER,  # 41.05 s
}
"""Faults of clips in the official archive. The annotation of these rows is correct."""

TEXT_MENDED = "text mended (quotes, ellipses, wrongly decoded characters, blanks at the ends)"

TREATMENTS = {"undecodable": ("text_only", "drop"), "outliers": ("keep", "text_only", "drop")}

ROLES = frozenset(
    "customer director doctor flight-attendant girl guy man nurse receptionist student the-casting-director "
    "the-director the-interviewer "
    "the-dry-cleaner the-instructor the-waiter teacher ticket-counter-attendant tour-guide waitress woman".split()
)
"""Names in the column `Speaker` that mean a different person in every episode."""

_SEVERAL = re.compile(r"\band\b|^(all|both|the guys|her-friends)$", re.IGNORECASE)
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "Season", "Episode")


def read_meld(
    data_dir: Path,
    *,
    text_only: bool = False,
    undecodable: str = "text_only",
    outliers: str = "keep",
    strict_counts: bool = True,
    labels: Sequence[str] | None = None,
    label_map: LabelMap | None = None,
    label_column: str = "Emotion",
) -> list[Clip]:
    """Read MELD from the official archive, or from a folder with its unpacked content: nested archives or their
    folders.

    The tables are `train_sent_emo.csv`, `dev_sent_emo.csv` and `test_sent_emo.csv`, anywhere in it. The clips
    `dia0_utt0.mp4` etc. are in `train_splits`, `dev_splits_complete` and `output_repeated_splits_test`; other files
    are ignored. Each clip is converted once, into the cache; after an interruption, only the missing ones are. (Once
    the corpus is prepared, you may delete `meld-clips` there.)

    * Quotes, ellipses and wrongly decoded characters in the texts are repaired (`mend_text`).
    * Ids are `meld-train-dia0_utt0`, since names of clips repeat across splits; `dialogue` is `meld-train-dia0`.
    * `speaker` is `meld-rachel`. Names that mean a role (`ROLES`) are valid within their episode: `meld-s03e07-woman`.
      If several people speak at once, there is no speaker.

    Args:
        data_dir: the archive or folder.
        text_only: read only the texts, without clips and ffmpeg.
        undecodable: what to do with the two clips that are known to be undecodable: "text_only" keeps the row without
            audio, "drop" omits it. Any other undecodable clip is an error.
        outliers: what to do with the three clips that are known to be cut wrongly (41 to 305 s for a few words):
            "keep", "text_only" or "drop".
        strict_counts: require the published counts per split and emotion; False for a part of the corpus.
        labels, label_map: see [`~bibier_hf.data.label_maps.LabelReader`].
        label_column: `"Emotion"`, or `"Sentiment"`: negative, neutral or positive.

    Raises:
        CorpusError: no tables or clips, rows or counts that are not from MELD, missing or undecodable clips (all are
            named), a damaged archive, no ffmpeg, or not enough disk space.
    """
    chosen = {"undecodable": undecodable, "outliers": outliers}

    for name, allowed in TREATMENTS.items():
        if chosen[name] not in allowed:
            raise CorpusError(f"{name}={chosen[name]!r}; allowed: {', '.join(allowed)}.")
        if text_only and chosen[name] != allowed[0]:
            raise CorpusError(
                f"{name}={chosen[name]!r} applies to clips, but text_only=True reads none. Remove one of the two."
            )

    if label_column not in LABEL_COLUMNS:
        raise CorpusError(f"label_column={label_column!r}; allowed: {', '.join(LABEL_COLUMNS)}.")

    tables, audio = _find_source(data_dir, text_only)
    rows = _read_tables(data_dir, tables)

    if not text_only and not audio:
        raise CorpusError(
            f"{data_dir} has no clips (dia0_utt0.mp4, ... in {', '.join(CLIP_FOLDERS)}, or archives with these). For "
            f"the texts alone give {option_forms('text_only', True)}."
        )

    faults: list[str] = []
    clips = []
    written = {}

    for split, row in rows:
        try:
            clip, name = _to_clip(split, row)
        except (UnknownLabelError, CorpusError) as error:
            faults.append(f"{row.where}: {error}")
            continue
        written[clip.id] = row.text(label_column)
        clips.append(
            clip if text_only else _with_audio(clip, name, audio.get(name, "there is no such clip"), chosen, faults)
        )

    raise_faults(
        faults, f"{data_dir} cannot be used as MELD", "Converted clips are kept. Repair or download these files again."
    )

    if strict_counts:
        check_counts(clips, OFFICIAL_COUNTS)

    clips.sort(key=lambda clip: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", clip.id)])

    clips = [replace(clip, label=written[clip.id]) for clip in clips]
    reader = LabelReader(labels or LABEL_COLUMNS[label_column], label_map)

    return relabeled_clips(clips, reader)


def meld_id(split: str, name: str) -> str:
    """Return the id of a clip from its split and its published name, such as `dia0_utt0`, which repeats across
    splits."""
    return f"meld-{split}-{name}"


def _read_tables(data_dir: Path, tables: Mapping[str, Path]) -> list[tuple[str, Row]]:
    if not tables:
        raise CorpusError(
            f"{data_dir} has none of MELD's tables: {', '.join(TABLES)}. Pass the official archive or its "
            "unpacked content."
        )

    rows = []

    for split in (split for split in OFFICIAL_COUNTS if split in tables):
        rows += [(split, row) for row in read_table(tables[split], _COLUMNS)]

    return rows


def _to_clip(split: str, row: Row) -> tuple[Clip, str]:
    """Return (row without audio, name of its clip)."""
    numbers = [row.text(column) for column in ("Dialogue_ID", "Utterance_ID", "Season", "Episode")]
    if not all(number.isdecimal() for number in numbers):
        raise CorpusError(f"Dialogue_ID, Utterance_ID, Season and Episode are {numbers}; all must be numbers")

    dialogue, utterance, season, episode = map(int, numbers)
    # Not row.text(), whose strip() would remove an ellipsis that is still a control character (\x85).
    written = row.values["Utterance"]
    text = mend_text(written)
    clip = Clip(
        id=meld_id(split, f"dia{dialogue}_utt{utterance}"),
        split=split,
        label=normalize_label(row.text("Emotion")),
        language="en",
        text=text,
        speaker=_speaker(row.values["Speaker"], season, episode),
        dialogue=meld_id(split, f"dia{dialogue}"),
        turn=utterance,
        license=LICENSE,
        where=row.where,
        remarks=(TEXT_MENDED,) if text != written else (),
    )

    return clip, f"{split}/dia{dialogue}_utt{utterance}"


def _speaker(written: str, season: int, episode: int) -> str | None:
    name = mend_text(written)
    if _SEVERAL.search(name):
        return None

    # "Joey/Drake": Joey in the role of Drake.
    slug = re.sub(r"[^a-z0-9]+", "-", name.partition("/")[0].lower()).strip("-")
    if slug in ROLES or "#" in name or "No." in name:
        return f"meld-s{season:02d}e{episode:02d}-{slug}"

    return f"meld-{slug}"


def _with_audio(clip: Clip, name: str, audio: Path | str, chosen: Mapping[str, str], faults: list[str]) -> Clip:
    """Return the clip with its recording. Options decide about known faults; unknown ones are appended to `faults`."""
    known = KNOWN_FAULTS.get(name)
    if isinstance(audio, Path) and known != OUTLIER:
        return replace(clip, audio=audio)

    if isinstance(audio, str) and known != UNDECODABLE:
        faults.append(f"{name}.mp4: {audio}")
        return clip

    treatment = chosen["outliers" if known == OUTLIER else "undecodable"]
    remark = {"keep": "kept", "text_only": "without audio", "drop": "left out"}[treatment]

    return replace(
        clip,
        audio=audio if treatment == "keep" else None,
        left_out=treatment == "drop",
        remarks=(*clip.remarks, f"{remark}: {known}"),
    )


def _find_source(data_dir: Path, text_only: bool) -> tuple[dict[str, Path], dict[str, Path | str]]:
    """Return (split -> table, name of a clip -> FLAC file or fault), from an index if this source was scanned
    before."""
    folder = cache_folder() / "meld-clips"
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / f"index-{_source_key(data_dir)}{'-text' if text_only else ''}.json"

    with locked(folder, wait=True):  # several training processes may come at once
        if found := _read_index(index):
            return found

        tables: dict[str, Path] = {}
        audio: dict[str, Path | str] = {}
        files = _walk(data_dir, folder, tables)

        if text_only:
            while len(tables) < len(TABLES) and next(files, None):
                pass
        else:
            audio = _convert(data_dir, files, folder)

        _write_index(index, tables, audio)

    return tables, audio


def _read_index(index: Path) -> tuple[dict[str, Path], dict[str, Path | str]] | None:
    if not index.is_file():
        return None

    found = json.loads(index.read_text(encoding="utf-8"))
    tables, audio = ({name: index.parent / path for name, path in found[kind].items()} for kind in ("tables", "audio"))
    whole = all(path.is_file() for path in (*tables.values(), *audio.values()))

    return (tables, audio | found["undecodable"]) if whole else None


def _write_index(index: Path, tables: Mapping[str, Path], audio: Mapping[str, Path | str]) -> None:
    undecodable = {name: reason for name, reason in audio.items() if isinstance(reason, str)}
    if undecodable.keys() - KNOWN_FAULTS.keys():
        return  # try them again next time

    done = {name: path for name, path in audio.items() if isinstance(path, Path)}
    found = {
        kind: {name: path.relative_to(index.parent).as_posix() for name, path in paths.items()}
        for kind, paths in (("tables", tables), ("audio", done))
    }
    write_bytes(index, json.dumps(found | {"undecodable": undecodable}).encode())


def _walk(data_dir: Path, folder: Path, tables: dict[str, Path]) -> Iterator[tuple[str, SourceFile]]:
    """Yield the name and file of every clip. Tables are copied into the work folder and entered in `tables`."""
    for file in walk_files(data_dir):
        if file.path.name in TABLES:
            buffer = io.BytesIO()
            file.copy_to(buffer)
            content = buffer.getvalue()
            path = folder / "tables" / hashlib.sha256(content).hexdigest()[:16] / file.path.name
            if tables.setdefault(TABLES[file.path.name], path) != path:
                raise CorpusError(
                    f"{data_dir} contains {file.path.name} twice, with different content; the second is {file.path}."
                )

            write_bytes(path, content)
        elif name := _clip_name(file.path):
            yield name, file


def _clip_name(path: PurePath) -> str | None:
    """Return a name such as `train/dia0_utt0`, or None if it is not a clip (`._dia0_utt0.mp4`,
    `final_videos_testdia0_utt0.mp4`).
    """
    split = CLIP_FOLDERS.get(path.parent.name)
    return f"{split}/{path.stem}" if split and re.fullmatch(r"dia\d+_utt\d+\.mp4", path.name) else None


def _convert(data_dir: Path, files: Iterator[tuple[str, SourceFile]], folder: Path) -> dict[str, Path | str]:
    on_disk = [path for path in data_dir.rglob("*") if path.is_file()] if data_dir.is_dir() else [data_dir]
    number = sum(_clip_name(path) is not None for path in on_disk)

    if any(is_archive(path.name) for path in on_disk):  # its content is not known yet
        number = sum(sum(row.values()) for row in OFFICIAL_COUNTS.values())

    if not number:
        for _ in files:  # for the tables
            pass
        return {}

    find_ffmpeg()  # fail before any work is done
    done = sum(1 for _ in folder.rglob("*.flac"))
    if number > done:
        state_disk_need(number - done, folder, "MELD")

    return dict(convert_clips(files, folder, number, "Converting meld"))


def _source_key(data_dir: Path) -> str:
    """Return a key that changes with name, size or time of any table, clip or archive, and with the format."""
    digest = hashlib.sha256(f"{FORMAT_VERSION}\n".encode())

    for path in sorted(data_dir.rglob("*")) if data_dir.is_dir() else [data_dir]:
        if path.name in TABLES or is_archive(path.name) or _clip_name(path):
            stat = path.stat()
            name = path.relative_to(data_dir).as_posix() if data_dir.is_dir() else path.name
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())

    return digest.hexdigest()[:16]


CORPUS = Corpus(
    name="meld",
    title="MELD: Multimodal EmotionLines Dataset",
    homepage="https://github.com/declare-lab/MELD",
    hub_id="declare-lab/MELD",
    license=LICENSE,
    label_columns={"Sentiment": SENTIMENTS},
    read=read_meld,
    not_to_rehost="its clips are excerpts of a television series, whose rights are not the authors' of the corpus to give; the GPL-3.0 of "
    "the annotation does not cover them",
)
