"""What a corpus reader returns: a list of `Clip`s, and checks of it that need no audio."""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..model.audio_bibier import printable
from ..model.labels_bibier import MULTI_LABEL, SINGLE_LABEL
from .schema import SOURCES, SPLITS
from .tables import option_forms, raise_faults


@dataclass(frozen=True)
class Clip:
    """One utterance as a reader found it, before its audio is read.

    Args:
        id: unique name that does not reveal the label (see `neutral_id`).
        split: one of `SPLITS`.
        label: one of the label set.
        audio: path of the recording, a function that returns 16 kHz float32 samples, or None for a text-only row.
        channel: channel (from 0) of the recording at that path; None: the mean of all.
        text: transcript; "" for an audio-only row.
        turn: place in the dialogue, if the corpus states it. Utterances with the same turn have no known order.
        soft_label: a probability for each label, in the order of the set.
        target: instead of a label, which is then "": 0 or 1 for each label, or the value of each target.
        where: place for messages, such as `metadata.csv line 7`.
        audio_key: with a function as audio, a full description of its result; when it changes, caches are rebuilt.
        remarks: what was done to the row or is known about it; `corpus.json` counts each remark.
        left_out: do not write the row, and only count its remarks (one of which is the reason).
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
    turn: int | None = None
    soft_label: Sequence[float] | None = None
    target: Sequence[float] | None = None
    source: str = "recorded"
    license: str = "unknown"
    where: str = ""
    audio_key: str = ""
    remarks: Sequence[str] = ()
    left_out: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


def neutral_id(corpus: str, name: str) -> str:
    """Return `corpus-` and twelve hex digits of SHA-256: an id that does not depend on layout and order of a corpus.

    The names of emotional recordings usually contain the emotion (RESD: `32_happiness_enthusiasm_h_120`). Such an id
    would leak the label into paths, logs, prompts and features; so would running numbers of files sorted by name.
    """
    return f"{corpus}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"


def check_counts(clips: Iterable[Clip], expected: Mapping[str, Mapping[str, int]]) -> None:
    """Compare the clips of each split and label with published counts, for a reader with the option `strict_counts`.

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
    raise_count_faults(faults)


def raise_count_faults(faults: list[str]) -> None:
    """Raise a CorpusError that lists the counts that differ, if any do."""
    remedy = f"Fetch the corpus again, or for a part of it give {option_forms('strict_counts', False)}."
    raise_faults(faults, "The counts differ from the published ones", remedy)


def check_clips(clips: Sequence[Clip], labels: Sequence[str], problem_type: str = SINGLE_LABEL) -> None:
    """Check everything that can be checked before audio is read, against a label set.

    Raises:
        CorpusError: lists every clip with an unknown split, label, language or source, without audio and text, with a
            soft label that is not a distribution, with targets that are not those of the problem type, with a repeated
            id, or whose file is missing.
    """
    named = labels if problem_type == SINGLE_LABEL else ("",)
    faults = []
    seen: dict[str, Clip] = {}
    for clip in clips:
        name = clip.where or clip.id
        if clip.id in seen:
            faults.append(f"{name}: the id '{clip.id}' is also that of {seen[clip.id].where or 'another row'}")
        seen.setdefault(clip.id, clip)

        for kind, allowed in (("split", SPLITS), ("label", named), ("source", SOURCES)):
            if (value := getattr(clip, kind)) not in allowed:
                faults.append(f"{name}: unknown {kind} {value!r}; allowed: {', '.join(allowed)}")
        if not (clip.language.isascii() and clip.language.islower() and 2 <= len(clip.language) <= 3):
            faults.append(f"{name}: the language {clip.language!r} is not an ISO 639 code such as en or ru")

        if clip.audio is None and not clip.text:
            faults.append(f"{name}: neither audio nor text")
        if clip.soft_label is not None and not _is_distribution(clip.soft_label, len(labels)):
            faults.append(
                f"{name}: the soft label {list(clip.soft_label)} is not {len(labels)} probabilities with the sum 1"
            )

        if fault := _target_fault(clip.target, labels, problem_type):
            faults.append(f"{name}: {fault}")

        if isinstance(clip.audio, Path) and not clip.audio.is_file():
            faults.append(f"{name}: no file {printable(str(clip.audio))}")
        if callable(clip.audio) and not clip.audio_key:
            faults.append(f"{name}: audio is a function, but there is no audio_key")

    remedy = "Nothing was written. Fix or remove these rows and start again."
    raise_faults(faults, "The corpus cannot be prepared", remedy)


def _target_fault(target: Sequence[float] | None, names: Sequence[str], problem_type: str) -> str | None:
    """Return what is wrong with the targets of a row, or None."""
    if problem_type == SINGLE_LABEL:
        return None if target is None else "a target, but the corpus has one label for each clip"
    if target is None or len(target) != len(names):
        return f"the target {target} is not a number for each of {', '.join(names)}"

    for name, value in zip(names, target, strict=True):
        if problem_type == MULTI_LABEL and value not in (0, 1):
            return f"{name!r} is {value}; it must be 0 (absent) or 1 (present)"
        if not math.isfinite(value):
            return f"{name!r} is {value}; it must be a finite number"

    return None


def _is_distribution(values: Sequence[float], size: int) -> bool:
    return len(values) == size and min(values) >= 0 and abs(sum(values) - 1) < 1e-4


def clips_fingerprint(clips: Iterable[Clip]) -> str:
    """Hash every value of the clips, and the size and time of their recordings."""
    digest = hashlib.sha256()
    for clip in clips:
        # `where` is for messages only, and `turn` shows in the text where it matters.
        values = {
            field.name: getattr(clip, field.name) for field in fields(clip) if field.name not in ("where", "turn")
        }
        if clip.target is None:  # as before there were targets
            del values["target"]
        values |= {"audio": clip.audio_key, "remarks": list(clip.remarks), "extra": dict(clip.extra)}
        if isinstance(clip.audio, Path):
            stat = clip.audio.stat() if clip.audio.is_file() else None
            values["audio"] = [str(clip.audio.absolute()), stat and stat.st_size, stat and stat.st_mtime_ns]
        digest.update(json.dumps(values, sort_keys=True).encode())

    return digest.hexdigest()
