"""Text as it should have been: wrongly decoded characters and typographic quotes of corpora that circulate in several
forms."""

import re

# Windows-1252 has letters and punctuation where Latin-1 has control characters: text that was read as the latter still
# holds their numbers.
_CONTROLS = {code: bytes([code]).decode("cp1252", errors="ignore") or chr(code) for code in range(0x80, 0xA0)}

_BYTES = {character: code for code, character in _CONTROLS.items()}

_QUOTES = {"'": "\u2018\u2019\u201a\u201b", '"': "\u201c\u201d\u201e", "...": "\u2026", " ": "\u00a0"}
_PLAIN = str.maketrans({written: plain for plain, group in _QUOTES.items() for written in group})

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def mend_text(text: str) -> str:
    r"""One spelling for texts whose copies differ in encoding: quotes straight, ellipses as three dots, no blank at
    either end.

    MELD is about in three forms: `he\u2019s` as it should be, `he\x92s` where Windows-1252 was read as Latin-1, and
    three characters in the place of the quote where UTF-8 was read as Windows-1252. All become `he's`, as speech
    recognition and template sentences spell it. Letters with accents and dashes stay as they are. Applying it again
    changes nothing.
    """
    text = _NOT_ASCII.sub(lambda run: _reread(run[0]), text)
    return text.translate(_CONTROLS).translate(_PLAIN).strip()


def _reread(run: str) -> str:
    """A run of characters that are the UTF-8 bytes of others, read as Windows-1252, as those others; anything else as
    it is"""
    try:
        return bytes(_BYTES.get(character, ord(character)) for character in run).decode("utf-8")
    except ValueError:  # a character above 255, or bytes that are no UTF-8: the run is what it seems to be
        return run
