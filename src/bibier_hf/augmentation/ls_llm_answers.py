"""Answers of a language model -> distributions over the seven emotions.

    parse_distribution("0.1, 0.5, ...")   strictly: seven numbers, or the reason why not
    parse_original(...)                   as tolerantly as the published code
    finish_distribution(values)           five decimals that add up to exactly one

Numbers come in the published order `LS_ORDER`; everything that leaves this module is in the order of `EMOTIONS`.
"""

import json
import re
from collections.abc import Sequence

import numpy as np

from ..llm import Structure
from ..model.labels_bibier import EMOTIONS

LS_ORDER = ("neutral", "happy", "sad", "anger", "surprise", "disgust", "fear")
"""The order in which a model writes the seven numbers, and in which the published tables have their columns."""

UNITS = 100_000
"""A published probability is a whole number of these parts of one: five decimals."""

SUM_TOLERANCE = 0.1
"""How far from one the numbers of an answer may add up: rounding, not another quantity."""

_NUMBER = r"(?:0\.\d{5}|1\.00000)"
DISTRIBUTION_FORM = Structure(
    regex=rf"{_NUMBER}(?:, {_NUMBER}){{6}}",
    json_schema={
        "type": "object",
        "properties": {name: {"type": "number"} for name in LS_ORDER},
        "required": list(LS_ORDER),
        "additionalProperties": False,
    },
)
"""The form that a back end with structured output enforces."""

_TO_EMOTIONS = [LS_ORDER.index(name) for name in EMOTIONS]
_DECIMAL = re.compile(r"\d+\.\d+")
_COLON_DECIMAL = re.compile(r":\s*(\d+\.\d+)")


class AnswerError(ValueError):
    """An answer that is no distribution; the message says what is wrong with it."""


def parse_distribution(answer: str) -> np.ndarray:
    """Seven numbers, (7,) in the order of `EMOTIONS`, not yet normalised.

    The answer must be the seven numbers separated by commas, in `LS_ORDER`, or a JSON object that names the seven
    emotions, and nothing else; each number in [0, 1], the sum within `SUM_TOLERANCE` of one.

    Raises:
        AnswerError: anything else.
    """
    text = answer.strip()
    if text.startswith("{"):
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise AnswerError(f"no valid JSON: {error.msg}") from error
        if set(content) != set(LS_ORDER):
            raise AnswerError(f"the keys {sorted(content)} are not the seven emotions")
        parts = [content[name] for name in LS_ORDER]
        if not all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in parts):
            raise AnswerError("a value is not a number")
    else:
        parts = text.split(",")
        if len(parts) != len(LS_ORDER):
            raise AnswerError(f"{len(parts)} parts between commas instead of {len(LS_ORDER)}")
        # Not everything that float() reads: no "nan", no "1_0", no exponent.
        if bad := [part.strip() for part in parts if not re.fullmatch(r"\s*-?(\d+(\.\d*)?|\.\d+)\s*", part)]:
            raise AnswerError(f"{bad[0][:40]!r} is not a number")
    values = np.array([float(part) for part in parts])[_TO_EMOTIONS]
    if (values < 0).any() or (values > 1).any():
        raise AnswerError(f"the number {values[(values < 0) | (values > 1)][0]:g} is outside 0..1")
    if abs(values.sum() - 1) > SUM_TOLERANCE:
        raise AnswerError(f"the numbers add up to {values.sum():g}")
    return values


def parse_original(answer: str) -> np.ndarray:
    """Seven numbers, (7,) in the order of `EMOTIONS`, read as the published code reads them; all zero where it finds
    none.

    It takes what follows the last "assistant", wherever that stands; then the last line that holds exactly seven
    decimal numbers; else the last seven decimal numbers that follow a colon. Signs and whole numbers are not seen.
    """
    lines = answer.rpartition("assistant")[2].strip().splitlines()
    for line in reversed(lines):
        numbers = _DECIMAL.findall(line)
        if len(numbers) == len(LS_ORDER):
            return np.array([float(number) for number in numbers])[_TO_EMOTIONS]
    named: list[str] = []
    for line in reversed(lines):
        if match := _COLON_DECIMAL.search(line):
            named.insert(0, match[1])
        if len(named) == len(LS_ORDER):
            return np.array([float(number) for number in named])[_TO_EMOTIONS]
    return np.zeros(len(EMOTIONS))


def parse_leniently(answer: str) -> np.ndarray:
    """[`parse_original`], with the reason where it finds nothing.

    Raises:
        AnswerError: no seven numbers, where the published code puts the one-hot label.
    """
    values = parse_original(answer)
    if not values.any():
        raise AnswerError("no seven decimal numbers")
    return values


PARSERS = {"strict": parse_distribution, "original": parse_leniently}


def finish_distribution(
    values: Sequence[float], gold: int | None = None, gold_weight: float | None = None
) -> np.ndarray:
    """A distribution (7,) of five decimals that add up to exactly one.

    Negative numbers count as zero; then normalised, mixed with the gold label, rounded; what rounding leaves goes to
    the largest. Unlike the published code there is no jitter against equal numbers, which made zeros negative.

    Args:
        values: (7,) in the order of `EMOTIONS`.
        gold: index of the gold label.
        gold_weight: as for [`blend_with_gold`].

    Raises:
        AnswerError: numbers that are not finite, or none above zero.
    """
    clipped = np.clip(np.asarray(values, dtype=np.float64), 0, None)
    if clipped.shape != (len(EMOTIONS),) or not np.isfinite(clipped).all() or clipped.sum() <= 0:
        raise AnswerError("there are no seven finite numbers of which one is above zero")
    probabilities = blend_with_gold(clipped / clipped.sum(), gold, gold_weight)
    units = np.rint(probabilities * UNITS).astype(int)
    units[units.argmax()] += UNITS - units.sum()
    while gold_weight is not None and (np.delete(units, gold) >= units[gold]).any():
        # Rounding has made equal what was only just larger.
        other = int(np.where(np.arange(len(units)) == gold, -1, units).argmax())
        units[[gold, other]] += 1, -1
    return units / UNITS


def blend_with_gold(probabilities: np.ndarray, gold: int | None, gold_weight: float | None) -> np.ndarray:
    """`(1 - w) probabilities + w one_hot(gold)`, with the gold label highest.

    Args:
        probabilities: (7,), sum one.
        gold: index of the gold label.
        gold_weight: smallest w, in [0, 1]; it grows where the gold label would not be highest. None: no blending.
    """
    if gold_weight is None:
        return probabilities
    if gold is None or not 0 <= gold_weight <= 1:
        raise ValueError(f"gold_weight={gold_weight} with the gold label {gold}: give a weight in [0, 1] and a label.")
    # How far another emotion is above it. (1 - w) p_gold + w = (1 - w) p_other at the w where both are equally high.
    lead = np.delete(probabilities, gold).max() - probabilities[gold]
    weight = min(1.0, max(gold_weight, (lead + 2 / UNITS) / (1 + lead))) if lead > -0.5 else gold_weight
    return (1 - weight) * probabilities + weight * np.eye(len(probabilities))[gold]


def softmax(log_probabilities: Sequence[float]) -> np.ndarray:
    """(..., K) log-probabilities up to a constant -> probabilities."""
    scores = np.asarray(log_probabilities, dtype=np.float64)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)
