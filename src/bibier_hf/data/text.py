"""Repair text: wrongly decoded characters and typographic quotes of corpora that circulate in several forms."""

import re

# Windows-1252 has letters and punctuation where Latin-1 has control characters, so text that was read as Latin-1
# contains these control characters.
_CONTROLS = {code: bytes([code]).decode("cp1252", errors="ignore") or chr(code) for code in range(0x80, 0xA0)}

_BYTES = {character: code for code, character in _CONTROLS.items()}

_QUOTES = {"'": "\u2018\u2019\u201a\u201b", '"': "\u201c\u201d\u201e", "...": "\u2026", " ": "\u00a0"}
_PLAIN = str.maketrans({written: plain for plain, group in _QUOTES.items() for written in group})

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def mend_text(text: str) -> str:
    r"""Return one spelling of texts whose copies differ in encoding.

    Quotes become straight, ellipses three dots, and spaces at both ends are removed. MELD circulates in three forms:
    correct (`he\u2019s`), with Windows-1252 read as Latin-1 (`he\x92s`), and with UTF-8 read as Windows-1252 (three
    characters instead of the quote). All become `he's`, as in the output of speech recognition and in template
    utterances. Accented letters and dashes stay. Applying it again changes nothing.
    """
    text = _NOT_ASCII.sub(lambda run: _reread(run[0]), text)
    return text.translate(_CONTROLS).translate(_PLAIN).strip()


def _reread(run: str) -> str:
    """Decode a run of characters that are UTF-8 bytes read as Windows-1252; return anything else unchanged."""
    try:
        return bytes(_BYTES.get(character, ord(character)) for character in run).decode("utf-8")
    except ValueError:  # a character above 255, or invalid UTF-8: the run is correct as it is
        return run
