"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song: its speech, 60 acted clips by each of 24
actors.

License: CC BY-NC-SA 4.0, not for commercial use. Source: https://zenodo.org/records/1188976
(Audio_Speech_Actors_01-24.zip)

Every actor speaks the same two sentences in every emotion, so the text does not reveal the label. The eighth emotion,
`calm`, is none of the seven: it is omitted, which leaves 52 clips per actor, unless the label set has it. Song
recordings and videos are omitted as well.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...labels import EMOTIONS
from ..clips import Clip, neutral_id, raise_count_faults
from ..label_maps import LabelMap, LabelReader, relabeled_clips
from ..prepare import Corpus
from ..tables import CorpusError, Row, raise_faults, read_table

LICENSE = "CC-BY-NC-SA-4.0"
EMOTION_CODES = dict(enumerate(("neutral", "calm", "happy", "sad", "anger", "fear", "disgust", "surprise"), start=1))
SENTENCES = {1: "Kids are talking by the door.", 2: "Dogs are sitting by the door."}
SPEECH_AUDIO = (3, 1)
"""Modality: audio only; vocal channel: speech."""

CLIPS_PER_EMOTION = {emotion: 4 if emotion == "neutral" else 8 for emotion in EMOTIONS}
"""Of each actor: 52 in all, plus 8 of `calm` unless they were removed before."""

INTENSITIES = ("normal", "strong")
LABEL_COLUMNS: dict[str, tuple[str, ...] | None] = {"emotion": None, "intensity": INTENSITIES}
"""What can be the label -> the label set that it brings; None: the seven emotions."""

NO_INTENSITY = "left out: neutral speech has only one intensity"
NOT_SPEECH = "left out: song or video"
CALM = "left out: calm is none of the seven emotions"

# modality, vocal channel, emotion, intensity, statement, repetition, actor
_NAME = re.compile(r"(\d\d)-(\d\d)-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")
_AUDIO_SUFFIXES = (".wav", ".flac")


def read_ravdess(
    data_dir: Path,
    *,
    strict_counts: bool = True,
    labels: Sequence[str] | None = None,
    label_map: LabelMap | None = None,
    label_column: str = "emotion",
) -> list[Clip]:
    """Read RAVDESS in one of two layouts.

    * original: `Actor_01/03-01-06-01-02-01-12.wav`, at any depth; actors 1 to 16 are train, 17 to 20 dev, 21 to 24
      test (each half women, half men);
    * `metadata.csv` with `file_name, text, emotion, speaker, split`; its own splits are kept.

    No actor may be in two splits. File names contain the emotion, so ids are hashes of them (`ravdess_id`).

    Args:
        data_dir: the folder.
        strict_counts: require the published 4 neutral clips and 8 of each other emotion from every actor that is
            present; False for a part.
        labels, label_map: see [`~bibier_hf.data.label_maps.LabelReader`]. `calm` is kept where one of them has it.
        label_column: `"emotion"`, or `"intensity"`: normal or strong, of all clips but the neutral ones, which have
            none.

    Raises:
        CorpusError: an unknown layout, names or labels that are not from RAVDESS, an actor in two splits, or different
            counts.
    """
    if label_column not in LABEL_COLUMNS:
        raise CorpusError(f"label_column={label_column!r}; allowed: {', '.join(LABEL_COLUMNS)}.")

    table = data_dir / "metadata.csv"
    found: list[tuple[Row | None, Path]]
    if table.is_file():
        rows = read_table(table, ("file_name", "text", "emotion", "speaker", "split"))
        found = [(row, data_dir / row.text("file_name")) for row in rows]
    else:
        found = [(None, path) for path in _find_files(data_dir)]

    reader = LabelReader(labels or LABEL_COLUMNS[label_column], label_map)
    keeps_calm = label_column == "intensity" or "calm" in reader.labels or reader.maps_any(["calm"])
    intensities = {}
    clips = []
    faults = []

    for row, path in found:
        where = row.where if row else path.relative_to(data_dir).as_posix()
        match = _NAME.fullmatch(path.stem)
        if not match:
            faults.append(f"{where}: '{path.name}' is not a RAVDESS name such as 03-01-06-01-02-01-12.wav")
            continue

        modality, channel, code, intensity, sentence, _, actor = map(int, match.groups())
        emotion = EMOTION_CODES[code]
        if row and not _agrees(row, emotion, SENTENCES[sentence]):
            faults.append(f"{where}: '{row.text('emotion')}', '{row.text('text')}' contradict the name '{path.name}'")

        left_out = ""
        if (modality, channel) != SPEECH_AUDIO:
            left_out = NOT_SPEECH
        elif emotion == "calm" and not keeps_calm:
            left_out = CALM
        clips.append(
            Clip(
                id=ravdess_id(path.stem),
                split=row.text("split") if row else default_split(actor),
                label=emotion,
                language="en",
                audio=path,
                text=SENTENCES[sentence],
                speaker=f"ravdess-{actor:02d}",
                license=LICENSE,
                where=where,
                remarks=(left_out,) if left_out else (),
                left_out=bool(left_out),
            )
        )

        intensities[clips[-1].id] = INTENSITIES[intensity - 1]

    faults += _misplaced_actors(clips)
    raise_faults(faults, f"{data_dir} does not look like RAVDESS")

    if strict_counts:
        _check_actors(clips)

    if label_column == "intensity":
        clips = [_with_intensity(clip, intensities[clip.id]) for clip in clips]

    return relabeled_clips(sorted(clips, key=lambda clip: clip.id), reader)


def _with_intensity(clip: Clip, intensity: str) -> Clip:
    if clip.label == "neutral" and not clip.left_out:
        return replace(clip, label=intensity, left_out=True, remarks=(NO_INTENSITY,))

    return replace(clip, label=intensity)


def ravdess_id(name: str) -> str:
    """Return the id of the clip with this original name (without its suffix)."""
    return neutral_id("ravdess", name)


def default_split(actor: int) -> str:
    """Return the split of an actor: train 1 to 16, dev 17 to 20, test 21 to 24. Odd numbers are men, even ones
    women."""
    return "train" if actor <= 16 else "dev" if actor <= 20 else "test"


def _find_files(data_dir: Path) -> list[Path]:
    if not data_dir.is_dir():
        raise CorpusError(
            f"{data_dir} is a file. Unpack the archive and pass the folder that holds Actor_01, Actor_02, ..."
        )

    by_name = defaultdict(list)

    for path in sorted(data_dir.rglob("Actor_*/*")):
        if path.suffix.lower() in _AUDIO_SUFFIXES and not path.name.startswith("."):
            by_name[path.stem].append(path)

    if not by_name:
        raise CorpusError(
            f"{data_dir} holds no recordings of RAVDESS. Allowed layouts: folders Actor_01, Actor_02, ... with files "
            "such as 03-01-06-01-02-01-12.wav, or metadata.csv (file_name, text, emotion, speaker, split) with its "
            "recordings."
        )

    # A widespread copy of the corpus contains everything twice.
    twice = {
        name: [str(path.relative_to(data_dir)) for path in paths] for name, paths in by_name.items() if len(paths) > 1
    }
    faults = [f"{name}: {', '.join(paths)}" for name, paths in twice.items()]
    raise_faults(faults, f"{data_dir} holds recordings more than once", "Pass the folder of one copy.", shown=3)

    return [path for (path,) in by_name.values()]


def _agrees(row: Row, emotion: str, sentence: str) -> bool:
    named = row.text("emotion")
    named = {"angry": "anger", "fearful": "fear", "surprised": "surprise"}.get(named, named)
    return named == emotion and row.text("text") == sentence


def _misplaced_actors(clips: list[Clip]) -> list[str]:
    splits = defaultdict(set)

    for clip in clips:
        splits[clip.speaker].add(clip.split)

    return [
        f"{speaker} is in the splits {', '.join(sorted(found))}"
        for speaker, found in sorted(splits.items())
        if len(found) > 1
    ]


def _check_actors(clips: list[Clip]) -> None:
    counts = Counter((clip.speaker, clip.label) for clip in clips if NOT_SPEECH not in clip.remarks)
    faults = []

    for speaker in sorted({clip.speaker for clip in clips if clip.speaker}):
        allowed = {emotion: (count,) for emotion, count in CLIPS_PER_EMOTION.items()} | {"calm": (0, 8)}
        faults += [
            f"{speaker} {emotion}: {counts[speaker, emotion]} clips, expected {' or '.join(map(str, numbers))}"
            for emotion, numbers in allowed.items()
            if counts[speaker, emotion] not in numbers
        ]

    raise_count_faults(faults)


CORPUS = Corpus(
    name="ravdess",
    title="RAVDESS: Ryerson Audio-Visual Database of Emotional Speech and Song, speech",
    homepage="https://zenodo.org/records/1188976",
    license=LICENSE,
    label_columns={"intensity": INTENSITIES},
    read=read_ravdess,
)
