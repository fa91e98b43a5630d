"""Small helpers for text: languages, suggestions, encodings."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

LANGUAGE_NAMES: Mapping[str, str] = MappingProxyType({"en": "English", "ru": "Russian"})
"""Language codes of the corpora and their English names, for prompts and cards."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def did_you_mean(name: str, allowed: Iterable[str], prefix: str = "") -> str:
    """Return a sentence such as " Did you mean happy?" for a misspelled name, or "" if nothing is close.

    Args:
        name: what was given.
        allowed: the valid names.
        prefix: put in front of the suggestion.
    """
    close = get_close_matches(name, list(allowed), n=1)
    return f" Did you mean {prefix}{close[0]}?" if close else ""


def valid_text(text: str) -> str:
    r"""Return `text` in a form that can be encoded as UTF-8.

    Halves of surrogate pairs, as in the JSON string `"\ud83d"`, are joined, or replaced with U+FFFD if the other half
    is missing. The processor does the same.
    """
    if not _SURROGATE.search(text):
        return text

    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
