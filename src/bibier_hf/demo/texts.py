"""What the page says, in English and in Russian: `texts_en.json` and `texts_ru.json`."""

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Texts:
    """The page in one language; `{...}` are filled in where a text is shown."""

    introduction: str
    model: str
    trained_on: str
    synthetic: str
    score: str
    percent: str
    audio: str
    upload: str
    microphone: str
    live: str
    live_hint: str
    text: str
    text_hint: str
    button: str
    working: str
    result: str
    voice: str
    words: str
    carried: str
    carried_hint: str
    timeline: str
    timeline_hint: str
    subtitles: str
    table: str
    columns: list[str]
    examples: str
    notice: str
    emotions: dict[str, str]
    decimal_point: str
    refused: str
    please_note: str
    nothing_given: str
    text_too_long: str
    file_too_large: str
    recording_too_long: str
    silent: str
    canceled: str
    unsure: dict[str, str]
    quiet: str
    text_unused: str
    unreadable: str

    def emotion(self, label: str) -> str:
        """The name of a label; one that is none of the seven is shown as it is."""
        return self.emotions.get(label.strip().casefold(), label)

    def names(self, labels: Collection[str]) -> dict[str, str]:
        """Labels -> their names, each a different one: labels of the same name are shown as they are."""
        counts = Counter(self.emotion(label) for label in labels)
        return {label: self.emotion(label) if counts[self.emotion(label)] == 1 else label for label in labels}

    def number(self, value: float) -> str:
        """A number with one decimal place."""
        return f"{value:.1f}".replace(".", self.decimal_point)


LANGUAGE_NAMES = {"en": "English", "ru": "Русский"}

TEXTS = {
    language: Texts(**json.loads(Path(__file__).with_name(f"texts_{language}.json").read_text(encoding="utf-8")))
    for language in LANGUAGE_NAMES
}
"""Language -> texts."""
