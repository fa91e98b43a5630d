"""What carried an answer, on the page."""

import re

from bibier_hf.demo.explanation_view import explanation_view
from bibier_hf.demo.texts import TEXTS
from bibier_hf.palette import emotion_color

FOUND = {
    "label": "anger",
    "score": 0.8,
    "words": [{"text": "<b>no", "effect": 0.4}, {"text": "well", "effect": -0.1}],
    "audio": [{"timestamp": (0.0, 0.25), "effect": 0.2}, {"timestamp": (0.25, 0.6), "effect": 0.0}],
}


def test_words_and_sound_are_as_strong_as_their_effects():
    page = explanation_view(FOUND, TEXTS["ru"])
    assert "&lt;b&gt;no" in page
    assert "<b>" not in page
    assert re.findall(r"(\d+)%, transparent", page) == ["100", "0"]
    assert re.findall(r'opacity="([\d.]+)"', page) == ["0.50", "0.00"]
    assert re.findall(r'width="([\d.]+)"', page) == ["0.250", "0.350"]
    assert page.count(emotion_color("anger")) == 4
    assert TEXTS["ru"].emotion("anger") in page


def test_one_modality_or_none():
    assert "<svg" not in explanation_view({**FOUND, "audio": []}, TEXTS["en"])
    assert "<mark" not in explanation_view({**FOUND, "words": []}, TEXTS["en"])
    assert explanation_view(None, TEXTS["en"]) == ""
