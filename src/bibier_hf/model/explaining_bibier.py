"""Which words and which quarters of a second carried an answer, by leaving out one at a time."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .audio_bibier import SAMPLING_RATE
from .timeline_bibier import Emotions

STRETCH_S = 0.25
"""Length of a stretch of the audio. The last one takes the rest, so it may be up to half as long again."""

CARRIED_SHARE = 0.2
"""The part of the words, and of the stretches, that is said to carry the answer."""

MOST_STRETCHES = 240
"""Of a clip; those of more than a minute are cut into this many longer ones."""

Classify = Callable[[Iterable[dict[str, Any]]], Iterable[Emotions]]
"""Maps `{"audio": float32 (n,) at 16 kHz or None, "text": str or None}`, one after the other, to the scores of all
labels."""


def explain(
    classify: Classify, audio: np.ndarray | None, text: str | None, answer: Emotions, start_s: float = 0.0
) -> dict[str, Any]:
    """Explain the best label of an answer: the effect of a word or a stretch of audio is the probability of the label
    minus that of the same clip with the part cut out.

    Args:
        classify: the model.
        audio: float32 (n,) at 16 kHz, or None.
        text: what is said, or None.
        answer: scores of all labels, best first.
        start_s: where the audio starts in its recording.

    Returns:
        `{"label", "score", "words": [{"text", "effect"}, ...], "audio": [{"timestamp", "effect"}, ...],
        "carried_by": {"words": [place, ...], "audio": [place, ...]}, "additivity": {"sum", "joint"}}`.

        `carried_by` names the fifth of the words and of the stretches with the largest effects, and at least one of
        each. `additivity` compares the sum of their effects with the effect of leaving out all of them at once. The
        two differ as far as the parts depend on each other.
    """
    words, stretches = (text or "").split(), cut_stretches(0 if audio is None else len(audio))
    label, score = answer[0]["label"], answer[0]["score"]
    nothing = 1 / len(answer)

    def without(removed: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[float]:
        """The probability of the label without the words and stretches at these places."""
        variants = (remove(audio, words, stretches, *places) for places in removed)
        kept = [_is_left(words, stretches, *places) for places in removed]
        found = iter(classify(variant for variant, is_left in zip(variants, kept, strict=True) if is_left))
        return (_score(next(found), label) if is_left else nothing for is_left in kept)

    each: list[tuple[list[int], list[int]]] = [([place], []) for place in range(len(words))]
    each += [([], [place]) for place in range(len(stretches))]
    effects = [score - other for other in without(each)]
    by_word, by_stretch = effects[: len(words)], effects[len(words) :]
    carried = strongest(by_word), strongest(by_stretch)
    joint = score - next(without([carried]))

    return {
        "label": label,
        "score": score,
        "words": [{"text": word, "effect": effect} for word, effect in zip(words, by_word, strict=True)],
        "audio": [
            {"timestamp": (start_s + start / SAMPLING_RATE, start_s + end / SAMPLING_RATE), "effect": effect}
            for (start, end), effect in zip(stretches, by_stretch, strict=True)
        ],
        "carried_by": {"words": carried[0], "audio": carried[1]},
        "additivity": {
            "sum": sum(by_word[place] for place in carried[0]) + sum(by_stretch[place] for place in carried[1]),
            "joint": joint,
        },
    }


def cut_stretches(samples: int) -> list[tuple[int, int]]:
    """Cut a clip into stretches: start and end of each, in samples."""
    if not samples:
        return []
    size = max(round(STRETCH_S * SAMPLING_RATE), math.ceil(samples / MOST_STRETCHES))
    borders = [*range(0, samples, size), samples]
    if len(borders) > 2 and borders[-1] - borders[-2] < size / 2:
        del borders[-2]
    return list(pairwise(borders))


def strongest(effects: Sequence[float]) -> list[int]:
    """The places of the largest effects, in order: [`CARRIED_SHARE`] of all, and at least one."""
    count = math.ceil(CARRIED_SHARE * len(effects))
    return sorted(sorted(range(len(effects)), key=lambda place: -effects[place])[:count])


def remove(
    audio: np.ndarray | None,
    words: Sequence[str],
    stretches: Sequence[tuple[int, int]],
    gone_words: Sequence[int],
    gone_stretches: Sequence[int],
) -> dict[str, Any]:
    """A clip without some of its words and stretches, which are cut out: `{"audio", "text"}`, None where nothing is
    left."""
    text = " ".join(word for place, word in enumerate(words) if place not in gone_words)
    parts = (
        []
        if audio is None
        else [audio[slice(*span)] for place, span in enumerate(stretches) if place not in gone_stretches]
    )
    return {"audio": np.concatenate(parts) if parts else None, "text": text or None}


def _is_left(words: Sequence, stretches: Sequence, gone_words: Sequence, gone_stretches: Sequence) -> bool:
    return len(gone_words) < len(words) or len(gone_stretches) < len(stretches)


def _score(emotions: Sequence[Mapping[str, Any]], label: str) -> float:
    return next(entry["score"] for entry in emotions if entry["label"] == label)
