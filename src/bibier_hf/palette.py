"""One color for each emotion, in every picture and on every page.

The seven stay apart for people with protanopia, deuteranopia or tritanopia (`tests/test_palette.py` measures it). Only
the standard library is needed: the demo takes this file along to where the package is not installed.
"""

import colorsys
import zlib

EMOTION_COLORS = {
    "anger": "#cc4010",
    "disgust": "#0d6b4a",
    "fear": "#46208f",
    "happy": "#edb211",
    "neutral": "#b8bcc0",
    "sad": "#3d8fea",
    "surprise": "#c04293",
}

UNSURE_COLOR = "#e6e8eb"
"""Of "unsure", the pipeline's answer below its threshold: paler than any emotion."""

ACCENT = "#0f766e"
"""Of what is not an emotion: buttons, curves, bars of measurements."""

SERIES_COLORS = (ACCENT, "#e07b39", "#64748b", "#8a5a9e", "#a3a13a")
"""Of several curves or groups in one picture, in order."""

INK, FAINT = "#1e293b", "#cbd5e1"
"""Of text, and of grids and reference lines."""


def emotion_color(label: str) -> str:
    """The color of a label as `#rrggbb`.

    A label that is none of the seven gets a muted color that depends on its name alone, so that it is the same
    wherever it is drawn. Case and surrounding spaces do not matter.
    """
    key = label.strip().casefold()
    if key in EMOTION_COLORS:
        return EMOTION_COLORS[key]
    if key == "unsure":
        return UNSURE_COLOR

    hue = zlib.crc32(key.encode()) / 2**32
    red, green, blue = colorsys.hls_to_rgb(hue, 0.55, 0.3)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
