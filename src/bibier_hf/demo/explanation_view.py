"""What carried the answer to a clip: its words, and a strip for its sound."""

import html
from collections.abc import Mapping
from typing import Any

from ..palette import emotion_color
from ..timeline.formats import clock
from .texts import Texts

STYLE = """
.carried { padding: 12px; font-size: 18px; line-height: 1.9; background: var(--block-background-fill);
  border: 1px solid var(--border-color-primary); border-radius: var(--block-radius); }
.carried p { margin: 0 0 8px; font-size: 14px; }
.carried mark { color: inherit; padding: 2px 4px; border-radius: 4px; }
.carried svg { width: 100%; height: 28px; margin-top: 8px; display: block; border-bottom: 1px solid var(--border-color-primary); }
"""

_READABLE = "8c"
"""Opacity of the strongest color behind a word, which stays readable in the light and in the dark."""


def explanation_view(explanation: Mapping[str, Any] | None, texts: Texts) -> str:
    """HTML: the words, and the stretches of the sound, in the color of the answer: the more they raise its
    probability, the stronger. "" without an explanation.

    Args:
        explanation: of the pipeline, with `explain=True`.
        texts: language of the names.
    """
    if explanation is None:
        return ""
    color, parts = emotion_color(explanation["label"]), [*explanation["words"], *explanation["audio"]]
    largest = max([part["effect"] for part in parts] + [1e-6])

    def strength(part: Mapping[str, Any]) -> int:
        return round(100 * max(0.0, part["effect"]) / largest)

    words = " ".join(
        f'<mark style="background: color-mix(in srgb, {color}{_READABLE} {strength(word)}%, transparent)" '
        f'title="{100 * word["effect"]:+.0f}">{html.escape(word["text"])}</mark>'
        for word in explanation["words"]
    )
    strip = ""
    if explanation["audio"]:
        first, last = explanation["audio"][0]["timestamp"][0], explanation["audio"][-1]["timestamp"][1]
        bars = []
        for part in explanation["audio"]:
            start, end = part["timestamp"]
            bars.append(
                f'<rect x="{start - first:.3f}" y="0" width="{end - start:.3f}" height="1" fill="{color}" '
                f'opacity="{strength(part) / 100:.2f}"><title>{clock(start)}: {100 * part["effect"]:+.0f}</title></rect>'
            )
        strip = f'<svg viewBox="0 0 {last - first:.3f} 1" preserveAspectRatio="none" role="img">{"".join(bars)}</svg>'

    name = texts.emotion(explanation["label"])
    hint = html.escape(texts.carried_hint.format(emotion=name))
    return f'<div class="carried"><p>{hint}</p><div>{words}</div>{strip}</div>'
