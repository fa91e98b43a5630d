"""What a corpus reader returns: a list of `Clip`s, and the checks on it that need no audio."""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..model.audio_bibier import printable
from ..model.labels_bibier import EMOTIONS
from .schema import SOURCES, SPLITS
from .tables import CorpusError, raise_faults

CONTEXT_SEPARATOR = " | "
"""Between an utterance and those said before it (`with_context`)."""


@dataclass(frozen=True)
class Clip:
    """One utterance as a reader found it, before its audio is read.

    Args:
        id: unique, telling nothing about the label (see `neutral_id`).
        split: one of `SPLITS`.
        label: one of `EMOTIONS`.
        audio: path of the recording, or a function that makes 16 kHz float32 samples, or None for a row that is text
            only.
        channel: the channel (from 0) of the recording at that path; None: the mean of all.
        text: transcript; "" for a row that is audio only.
        soft_label: seven probabilities in the order of `EMOTIONS`.
        where: for messages, such as `metadata.csv line 7`.
        audio_key: with a function as audio, a full description of what it makes: another one means that a cache is
            made anew.
        remarks: what was done to the row or is known of it; how often each of them was made stands in `corpus.json`.
        left_out: the row is not written, only its remarks (the reason is one) are counted.
        extra: values of the corpus's own columns (`Corpus.extra_features`).
    """

    id: str
    split: str
    label: str
    language: str
    audio: Path | Callable[[], np.ndarray] | None = None
    channel: int | None = None
    text: str = ""
    speaker: str | None = None
    dialogue: str | None = None
    soft_label: Sequence[float] | None = None
    source: str = "recorded"
    license: str = "unknown"
    where: str = ""
    audio_key: str = ""
    remarks: Sequence[str] = ()
    left_out: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


def neutral_id(corpus: str, name: str) -> str:
    """`corpus-` and twelve hex digits of SHA-256: an id that stays the same in every layout and order of a corpus.

    The names of emotional recordings usually spell out the emotion (RESD: `32_happiness_enthusiasm_h_120`). An id made
    of them would put the label into paths, logs, prompts and features; running numbers would do so too, as long as
    files are sorted by name.
    """
    return f"{corpus}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"


def with_context(clips: Sequence[Clip], count: int) -> list[Clip]:
    """Each text followed by those of the `count` clips before it in its dialogue:
    `I can't believe it! | What happened? | Hey, Joey!`

    The utterance itself comes first, the nearest before it second, so that a text that is too long for a model loses
    what is farthest. Emotions in a conversation answer what was said before (https://arxiv.org/abs/2108.12009). It
    does not help every model: see the results in the README.

    Args:
        clips: in the order in which they were said within each dialogue; clips without a dialogue keep their text.
        count: at most so many; 0 changes nothing.

    Raises:
        CorpusError: a negative count.
    """
    if count < 0:
        raise CorpusError(f"context={count}; allowed: 0 (the utterance alone) or a number of utterances before it.")
    said: dict[str, list[str]] = defaultdict(list)
    widened = []
    for clip in clips:
        if clip.dialogue is None or not count:
            widened.append(clip)
            continue
        before = said[clip.dialogue]
        widened.append(
            replace(clip, text=CONTEXT_SEPARATOR.join([clip.text, *before[: -count - 1 : -1]]) if clip.text else "")
        )
        if clip.text:
            before.append(clip.text)
    return widened


def check_counts(clips: Iterable[Clip], expected: Mapping[str, Mapping[str, int]], remedy: str) -> None:
    """Hold the clips of each split and label against published counts.

    Raises:
        CorpusError: one line for each count that differs.
    """
    found = Counter((clip.split, clip.label) for clip in clips)
    wanted = Counter({(split, label): count for split, row in expected.items() for label, count in row.items()})
    faults = [
        f"{split} {label}: {found[split, label]} clips, expected {wanted[split, label]}"
        for split, label in sorted(found.keys() | wanted.keys())
        if found[split, label] != wanted[split, label]
    ]
    raise_faults(faults, "The counts differ from the published ones", remedy)


def check_clips(clips: Sequence[Clip]) -> None:
    """Whatever can be wrong before audio is read.

    Raises:
        CorpusError: lists every clip with an unknown split, label, language or source, without audio and text, with a
            soft label that is no distribution, with an id that is taken, or whose file is missing.
    """
    faults = []
    seen: dict[str, Clip] = {}
    for clip in clips:
        name = clip.where or clip.id
        if clip.id in seen:
            faults.append(f"{name}: the id '{clip.id}' is taken by {seen[clip.id].where or 'another row'}")
        seen.setdefault(clip.id, clip)
        if clip.split not in SPLITS:
            faults.append(f"{name}: unknown split {clip.split!r}; allowed: {', '.join(SPLITS)}")
        if clip.label not in EMOTIONS:
            faults.append(f"{name}: unknown label {clip.label!r}; allowed: {', '.join(EMOTIONS)}")
        if clip.source not in SOURCES:
            faults.append(f"{name}: unknown source {clip.source!r}; allowed: {', '.join(SOURCES)}")
        if not (clip.language.isascii() and clip.language.islower() and 2 <= len(clip.language) <= 3):
            faults.append(f"{name}: the language {clip.language!r} is no ISO 639 code such as en or ru")
        if clip.audio is None and not clip.text:
            faults.append(f"{name}: neither audio nor text")
        if clip.soft_label is not None and not _is_distribution(clip.soft_label):
            faults.append(
                f"{name}: the soft label {list(clip.soft_label)} is not {len(EMOTIONS)} probabilities with the sum 1"
            )
        if isinstance(clip.audio, Path) and not clip.audio.is_file():
            faults.append(f"{name}: no file {printable(str(clip.audio))}")
        if callable(clip.audio) and not clip.audio_key:
            faults.append(f"{name}: audio that a function makes, without an audio_key")
    raise_faults(
        faults, "The corpus cannot be prepared", "Nothing was written. Mend or remove these rows and start again."
    )


def _is_distribution(values: Sequence[float]) -> bool:
    return len(values) == len(EMOTIONS) and min(values) >= 0 and abs(sum(values) - 1) < 1e-4


def clips_fingerprint(clips: Iterable[Clip]) -> str:
    """Changes with every value of a clip and with the size or time of its recording."""
    digest = hashlib.sha256()
    for clip in clips:
        if isinstance(clip.audio, Path):
            stat = clip.audio.stat() if clip.audio.is_file() else None
            audio = [str(clip.audio.absolute()), stat and stat.st_size, stat and stat.st_mtime_ns]
        else:
            audio = clip.audio_key
        values: list[Any] = [clip.id, clip.split, clip.label, clip.language, clip.text, clip.speaker, clip.dialogue]
        values += [
            clip.soft_label,
            clip.source,
            clip.license,
            list(clip.remarks),
            clip.left_out,
            dict(clip.extra),
            audio,
            clip.channel,
        ]
        digest.update(json.dumps(values, sort_keys=True).encode())
    return digest.hexdigest()
