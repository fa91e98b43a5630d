"""Text that every tokenizer, file and server can take."""

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def valid_text(text: str) -> str:
    """A text that can be encoded: halves of surrogate pairs, as in JSON such as `"\\ud83d"`, are joined, or replaced
    by U+FFFD where the other half is missing. The processor has the same rule."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
