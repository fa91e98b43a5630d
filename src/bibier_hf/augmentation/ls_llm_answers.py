"""Answers of a language model -> distributions over a label set, by default the seven emotions.

    parse_distribution("0.1, 0.5, ...")   strict: seven numbers, or the reason why not
    parse_original(...)                   as tolerant as the published code

Answers about the seven emotions are in the published order `LS_ORDER`, others in label order; results are in label
order.
"""

import json
import re
from collections.abc import Sequence

import numpy as np

from ..labels import LABEL_ALIASES, UnknownLabelError, checked_labels, normalize_label
from ..llm import Structure
from ..llm.reading import without_fence, without_thinking

LS_ORDER = ("neutral", "happy", "sad", "anger", "surprise", "disgust", "fear")
"""The order in which a model writes the seven numbers, and of the columns in the published tables."""

SUM_TOLERANCE = 0.1
"""Largest distance of the sum of an answer from one: enough for rounding."""

_NUMBER = r"(?:0\.\d{5}|1\.00000)"
_DECIMAL = re.compile(r"\d+\.\d+")
_COLON_DECIMAL = re.compile(r":\s*(\d+\.\d+)")

_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb"
_READABLE = re.compile(r"(?P<number>-?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?)\s*(?P<percent>%?)")
_PAIR = re.compile(
    rf"\s*[-*]*\s*[{_QUOTES}*]*(?P<name>[^\W\d]+)[{_QUOTES}*]*\s*[:=]\s*"
    rf"(?P<value>[{_QUOTES}]?[-+\w.%]+(?:,\d+)?\s*%?[{_QUOTES}]?)\s*(?:[,;\n]|$)"
)


def answer_order(labels: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the order in which a model writes its numbers: the published one for the seven emotions, else label
    order."""
    names = checked_labels(labels)
    return LS_ORDER if set(names) == set(LS_ORDER) else names


def distribution_form(labels: Sequence[str] | None = None) -> Structure:
    """Return the form that a back end with structured output enforces."""
    order = answer_order(labels)
    return Structure(
        regex=rf"{_NUMBER}(?:, {_NUMBER}){{{len(order) - 1}}}",
        json_schema={
            "type": "object",
            "properties": {name: {"type": "number"} for name in order},
            "required": list(order),
            "additionalProperties": False,
        },
    )


class AnswerError(ValueError):
    """An answer that is not a distribution; the message says why."""


def parse_distribution(answer: str, labels: Sequence[str] | None = None) -> np.ndarray:
    """Parse a number for each label, (K,) in label order, not yet normalized.

    The answer is either the numbers in [`answer_order`] and nothing else, or the numbers with the names of their
    labels, such as a JSON object, possibly within other text. Thoughts (`<think>`) and a code fence are skipped.
    Quotes of any kind, percent signs and decimal commas are read if they are unambiguous. Each number must be in [0,
    1], and the sum within `SUM_TOLERANCE` of one.

    Raises:
        AnswerError: anything else.
        UnfinishedAnswerError: an answer that was cut off before the numbers.
    """
    order = answer_order(labels)
    text = without_fence(without_thinking(answer)).strip()
    if not text:
        raise AnswerError("the answer is empty")
    if "{" in text or ":" in text:
        numbers = _read_named(text, order)
    else:
        numbers = [_read_number(part) for part in _split_numbers(text.strip("[]()"), len(order))]
    values = _in_label_order(numbers, order, labels)
    if (values < 0).any() or (values > 1).any():
        raise AnswerError(f"the number {values[(values < 0) | (values > 1)][0]:g} is outside 0..1")
    if abs(values.sum() - 1) > SUM_TOLERANCE:
        raise AnswerError(f"the numbers add up to {values.sum():g}")
    return values


def _in_label_order(numbers: Sequence[float], order: Sequence[str], labels: Sequence[str] | None) -> np.ndarray:
    return np.array(numbers)[[order.index(name) for name in checked_labels(labels)]]


def _split_numbers(text: str, count: int) -> list[str]:
    """Split at commas, semicolons or line breaks. A comma within a number is a decimal comma if blanks or other
    separators separate the numbers: `0,1; 0,5; ...`."""
    parts = [part for part in re.split(r",\s+|[;\n\t]\s*", text.strip()) if part]
    if len(parts) != count or (any("," in part for part in parts) and any("." in part for part in parts)):
        parts = text.split(",")
    if len(parts) != count:
        raise AnswerError(f"{len(parts)} parts between commas instead of {count}")
    return parts


def _read_named(text: str, order: Sequence[str]) -> list[float]:
    """Read the numbers, in this order, of the only set of `name: number` pairs that names all labels."""
    groups = [group for group in re.findall(r"\{([^{}]*)\}", text) if ":" in group] or [text.strip("{}")]
    found: list[list[float]] = []
    fault = None
    for group in groups:
        try:
            numbers = _read_pairs(group) if order == LS_ORDER else _read_object(group, order)
        except AnswerError as error:
            fault = fault or error
        else:
            if numbers not in found:
                found.append(numbers)
    if fault is not None and not found:
        raise fault
    if len(found) > 1:
        raise AnswerError(f"{len(found)} different distributions in one answer")
    return found[0]


def _read_pairs(text: str) -> list[float]:
    pairs = []
    place = 0
    while text[place:].strip():
        if not (match := _PAIR.match(text, place)):
            raise AnswerError(f"{text[place:].strip()[:40]!r} is not a pair of a name and a number")
        pairs.append((match["name"].lower(), match["value"]))
        place = match.end()
    names = [LABEL_ALIASES.get(name, name) for name, _ in pairs]
    if sorted(names) != sorted(LS_ORDER):
        raise AnswerError(f"the keys {sorted(names)} are not the seven emotions")
    values = dict(zip(names, (value for _, value in pairs), strict=True))
    return [_read_number(values[name]) for name in LS_ORDER]


def _read_object(text: str, order: Sequence[str]) -> list[float]:
    """Read the content of a JSON object, whose names may be of several words."""
    try:
        content = json.loads(f"{{{text}}}")
        values = {normalize_label(name, order): value for name, value in content.items()}
    except (ValueError, UnknownLabelError) as error:
        raise AnswerError(f"{text.strip()[:40]!r} is no JSON object of the labels ({error})") from error

    if len(content) != len(order) or len(values) != len(order):
        raise AnswerError(f"the keys {sorted(content)} are not the {len(order)} labels")
    return [_read_number(str(values[name])) for name in order]


def _read_number(text: str) -> float:
    # Not everything that float() reads: no "nan", no "1_0".
    if not (match := _READABLE.fullmatch(text.strip(_QUOTES + " \n\t"))):
        raise AnswerError(f"{text.strip()[:40]!r} is not a number")
    value = float(match["number"].replace(",", "."))
    return value / 100 if match["percent"] else value


def parse_original(answer: str, labels: Sequence[str] | None = None) -> np.ndarray:
    """Parse a number for each label, (K,) in label order, as the published code does; all zero if it finds none.

    It takes what follows the last "assistant"; then the last line with exactly K decimal numbers, or else the last
    K decimal numbers that follow a colon. Signs and whole numbers are ignored.
    """
    order = answer_order(labels)
    lines = answer.rpartition("assistant")[2].strip().splitlines()
    for line in reversed(lines):
        numbers = _DECIMAL.findall(line)
        if len(numbers) == len(order):
            return _in_label_order([float(number) for number in numbers], order, labels)
    named: list[str] = []
    for line in reversed(lines):
        if match := _COLON_DECIMAL.search(line):
            named.insert(0, match[1])
        if len(named) == len(order):
            return _in_label_order([float(number) for number in named], order, labels)
    return np.zeros(len(order))


def parse_leniently(answer: str, labels: Sequence[str] | None = None) -> np.ndarray:
    """Apply [`parse_original`] after skipping thoughts (`<think>`), and raise an error if it finds nothing.

    Raises:
        UnfinishedAnswerError: an answer that was cut off while the model was thinking.
        AnswerError: no such numbers, where the published code substitutes the one-hot label.
    """
    values = parse_original(without_thinking(answer), labels)
    if not values.any():
        raise AnswerError("no decimal number for each label")
    return values


PARSERS = {"strict": parse_distribution, "original": parse_leniently}
