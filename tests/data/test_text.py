import pytest

from bibier_hf.data.text import mend_text
from bibier_hf.text import valid_text


@pytest.mark.parametrize(
    ("written", "mended"),
    [
        ("must\u2019ve had \u201ctime\u201d\u2026", 'must\'ve had "time"...'),
        ("must\x92ve had \x93time\x94\x85", 'must\'ve had "time"...'),  # Windows-1252 read as Latin-1
        ("must\u00e2\u20ac\u2122ve", "must've"),  # UTF-8 read as Windows-1252
        ("\u00e2\u20ac\u0153time\u00e2\u20ac\x9d\u00e2\u20ac\u00a6", '"time"...'),
        ("must\u00e2\x80\x99ve", "must've"),  # UTF-8 read as Latin-1
        ("Nestl\u00c3\u00a9", "Nestl\u00e9"),
        ("Nestl\u00e9, Adi\u00f3s \x97 \u2018kay \u2013", "Nestl\u00e9, Adi\u00f3s \u2014 'kay \u2013"),
        ("a\u00a0b\x96", "a b\u2013"),
        ("\u0401\u043b\u043a\u0430 \u00ab\u0436\u00bb", "\u0401\u043b\u043a\u0430 \u00ab\u0436\u00bb"),
        (" plain  text ", "plain  text"),
        ("", ""),
    ],
)
def test_every_form_of_a_text_becomes_the_same(written, mended):
    assert mend_text(written) == mended
    assert mend_text(mended) == mended


@pytest.mark.parametrize(
    ("text", "valid"),
    [("\ud83d\ude00", "\U0001f600"), ("a\ud83d", "a\ufffd"), ("\ude00b", "\ufffdb"), ("\U0001f600 ё", "\U0001f600 ё")],
)
def test_halves_of_surrogate_pairs_are_joined_or_replaced(text, valid):
    assert valid_text(text) == valid
    valid_text(text).encode()
