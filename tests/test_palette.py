"""One color for each emotion, for everybody's eyes."""

from itertools import combinations

import numpy as np
import pytest

from bibier_hf import EMOTIONS
from bibier_hf.model.answers_bibier import UNSURE
from bibier_hf.palette import EMOTION_COLORS, SERIES_COLORS, UNSURE_COLOR, emotion_color

# Linear RGB as it is seen with a kind of color blindness (Machado et al., 2009, severity 1).
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])


def linear(color: str) -> np.ndarray:
    values = np.array([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def as_lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(TO_XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_emotions_are_told_apart_by_everybody(vision):
    assert tuple(EMOTION_COLORS) == EMOTIONS
    seen = {label: as_lab(VISION[vision] @ linear(color)) for label, color in EMOTION_COLORS.items()}
    distances = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in combinations(EMOTIONS, 2)}
    assert min(distances.values()) > 20, min(distances, key=distances.get)


def test_every_color_is_seen_on_white():
    for color in (*EMOTION_COLORS.values(), *SERIES_COLORS):
        contrast = 1.05 / (TO_XYZ[1] @ linear(color) + 0.05)
        assert contrast > 1.8, color


def test_other_labels_have_a_color_of_their_own():
    others = [emotion_color(label) for label in ("calm", "boredom", "радость")]
    assert others == [emotion_color(label) for label in ("calm", "boredom", "радость")]
    assert len({*others, *EMOTION_COLORS.values(), UNSURE_COLOR}) == 3 + 7 + 1
    assert all(len(bytes.fromhex(color[1:])) == 3 for color in others)
    assert emotion_color(UNSURE) == UNSURE_COLOR
