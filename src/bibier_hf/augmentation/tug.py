"""TUG, template-based utterance generation: components by emotion and language -> utterances.

A component file `components/<language>/<emotion>.json` has five lists: `subjects`, `verbs`, `interjections`,
`contexts`, and `templates` with the placeholders `{s}`, `{v}`, `{i}`, `{c}`. An utterance draws one of each uniformly,
fills the template and cleans it.

Differences from the published procedure: utterances keep the order in which they were drawn (a set shuffled them
between processes), and a request for more utterances than possible is an error that states their number.
"""

import json
import math
import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..model.labels_bibier import EMOTIONS

LANGUAGES = ("en", "ru")

SOUND_TAGS = frozenset(
    "laughs,clears throat,sighs,gasps,coughs,singing,sings,mumbles,beep,groans,sniffs,claps,screams,inhales,exhales,"
    "applause,burps,humming,sneezes,chuckle,whistles".split(",")
)
"""The published list of tags, which some synthesizers perform when in parentheses: "(sighs)"."""

PLACEHOLDERS = {"s": "subjects", "v": "verbs", "i": "interjections", "c": "contexts"}
_TAG = re.compile(r"\([^()]*\)")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

# A word is a run of letters and digits, with inner hyphens and apostrophes ("well-known", "don't", "кто-то").
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
_GLUED = re.compile(r"[\w'\u2019}-]\{|\}[\w'\u2019{-]")

PUBLISHED_SIZES: Mapping[str, tuple[int, int | None]] = {
    "subjects": (60, 100),
    "verbs": (60, 100),
    "interjections": (20, 40),
    "contexts": (60, 100),
    "templates": (5, None),
}
"""Entries of each kind in the published schema: (fewest, most); None for no limit."""

PUBLISHED_WORDS = (5, 20)
"""Fewest and most words of an utterance, without sound tags."""

# With more combinations than this, utterances are not counted one by one. Two templates may give the same utterance,
# so the number of combinations is an upper bound.
_COUNTABLE = 200_000


class ComponentError(UserError, ValueError):
    """Components that violate the schema, or that do not give enough utterances."""


@dataclass(frozen=True)
class Components:
    """The building blocks of one emotion in one language.

    Raises:
        ComponentError: an empty list, blank or repeated entries, a template without placeholders or with an unknown
            one, an unknown sound tag, or a tag in a subject, verb or template. Lists all faults.
    """

    subjects: tuple[str, ...]
    verbs: tuple[str, ...]
    interjections: tuple[str, ...]
    contexts: tuple[str, ...]
    templates: tuple[str, ...]
    name: str = "components"

    def __post_init__(self) -> None:
        faults = []
        for kind in (*PLACEHOLDERS.values(), "templates"):
            entries = getattr(self, kind)
            if not entries:
                faults.append(f"{kind}: empty")
            for entry in sorted({entry for entry in entries if entries.count(entry) > 1}):
                faults.append(f"{kind}: {entry!r} is repeated {entries.count(entry)} times")
            for entry in entries:
                if not entry.strip():
                    faults.append(f"{kind}: a blank entry")
                tags = [tag[1:-1] for tag in _TAG.findall(entry)]
                if tags and kind not in ("interjections", "contexts"):
                    faults.append(f"{kind}: {entry!r} has a sound tag; only interjections and contexts may")
                for tag in set(tags) - SOUND_TAGS:
                    faults.append(f"{kind}: unknown sound tag ({tag}); allowed: {', '.join(sorted(SOUND_TAGS))}")
                if len(tags) > 1:
                    faults.append(f"{kind}: {entry!r} has more than one sound tag")

        for template in self.templates:
            names = _PLACEHOLDER.findall(template)
            if unknown := sorted(set(names) - PLACEHOLDERS.keys()):
                faults.append(f"templates: {template!r} has the unknown placeholders {unknown}; allowed: s, v, i, c")
            if not names or len(set(names)) < len(names):
                faults.append(f"templates: {template!r} must have placeholders, each at most once")

        if faults:
            listed = "\n".join(f"  {fault}" for fault in faults)
            raise ComponentError(f"{self.name} violates the schema:\n{listed}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str = "components") -> "Components":
        """Create components from the content of a JSON file; ComponentError unless it is the five lists of strings."""
        keys = sorted(PUBLISHED_SIZES)
        if not isinstance(values, Mapping) or sorted(values) != keys:
            raise ComponentError(f"{name} must be an object with exactly the keys {keys}, not {sorted(values)}.")

        for key in keys:
            if not isinstance(values[key], (list, tuple)) or not all(isinstance(entry, str) for entry in values[key]):
                raise ComponentError(f"{name}: {key} must be a list of strings.")
        return cls(**{key: tuple(values[key]) for key in keys}, name=name)

    def fill(self, template: str, **parts: str) -> str:
        """Fill a template with its parts (`s=`, `v=`, `i=`, `c=`) and clean the utterance."""
        # Stripping the tag of an interjection that is only a tag ("(sighs)...") leaves its dots.
        return clean_utterance(_PLACEHOLDER.sub(lambda match: parts[match[1]], template)).lstrip(" .,!?")

    def draw(self, rng: random.Random) -> str:
        """Draw subject, verb, context, interjection and template uniformly, in that order, and fill the template."""
        parts = {"s": rng.choice(self.subjects), "v": rng.choice(self.verbs), "c": rng.choice(self.contexts)}
        parts["i"] = rng.choice(self.interjections)
        template = rng.choice(self.templates)

        if _TAG.search(parts["i"]) and _TAG.search(parts["c"]):
            # At most one sound tag per utterance.
            stripped = "c" if rng.random() < 0.5 else "i"
            parts[stripped] = strip_sound_tags(parts[stripped])

        return self.fill(template, **parts)

    def combinations(self) -> Iterator[str]:
        """Iterate over every utterance that `draw` can give; combinations that read the same are repeated."""
        for template in self.templates:
            choices = self._choices(template)
            for entries in product(*choices.values()):
                parts = dict(zip(choices, entries, strict=True))
                if all(name in parts and _TAG.search(parts[name]) for name in ("i", "c")):
                    for stripped in ("c", "i"):
                        yield self.fill(template, **{**parts, stripped: strip_sound_tags(parts[stripped])})
                else:
                    yield self.fill(template, **parts)

    def _choices(self, template: str) -> dict[str, tuple[str, ...]]:
        """Return the entries for each placeholder of a template."""
        return {name: getattr(self, PLACEHOLDERS[name]) for name in _PLACEHOLDER.findall(template)}

    def word_range(self, template: str) -> tuple[int, int]:
        """Return (fewest, most) words of the utterances of a template.

        The words of an utterance are those of its parts and of the text between them, provided that no placeholder
        touches a letter or another placeholder (a fault in `schema_faults`): cleaning only removes blanks before
        punctuation, which separates words too. So the shortest and the longest parts give tight bounds.
        """
        own = count_words(_PLACEHOLDER.sub(" ", template))
        counts = [list(map(count_words, entries)) for entries in self._choices(template).values()]
        return own + sum(map(min, counts)), own + sum(map(max, counts))

    def without_sound_tags(self) -> "Components":
        """Return the components for a voice that cannot perform sound tags, without blank or repeated entries."""

        def stripped(entries: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(entry for entry in map(strip_sound_tags, entries) if entry))

        return replace(self, interjections=stripped(self.interjections), contexts=stripped(self.contexts))

    def upper_bound(self) -> int:
        """Return the number of combinations; two of them may read the same."""
        return sum(math.prod(map(len, self._choices(template).values())) for template in self.templates)

    def possible(self) -> int:
        """Return the number of different utterances: exact up to 200,000 combinations, an upper bound beyond."""
        bound = self.upper_bound()
        return len(set(self.combinations())) if bound <= _COUNTABLE else bound


def schema_faults(
    components: Components,
    sizes: Mapping[str, tuple[int, int | None]] = PUBLISHED_SIZES,
    words: tuple[int, int] = PUBLISHED_WORDS,
) -> list[str]:
    """List what keeps valid components from meeting the published schema, one line per fault.

    Faults are: too few or too many entries; entries of a kind that differ only in capitals, punctuation or sound tags;
    entries that cleaning would change, or with unmatched brackets or no blank before a tag; templates that run words
    together or give utterances outside the word bounds; a kind that no template uses.

    Args:
        components: components to check.
        sizes: (fewest, most) entries of each kind; None for no limit.
        words: (fewest, most) words of every utterance that can be drawn.
    """
    faults = []
    for kind, (least, most) in sizes.items():
        count = len(getattr(components, kind))
        if count < least or (most is not None and count > most):
            wanted = f"{least} or more" if most is None else f"{least} to {most}"
            faults.append(f"{kind}: {count} entries; {wanted} are wanted")

    for name, kind in PLACEHOLDERS.items():
        first: dict[str, str] = {}
        for entry in getattr(components, kind):
            # Entries of only a tag and dots differ by the tag.
            key = " ".join(_WORD.findall(strip_sound_tags(entry).casefold())) or entry
            if first.setdefault(key, entry) != entry:
                faults.append(f"{kind}: {first[key]!r} and {entry!r} read the same")
            if entry != clean_utterance(entry):
                faults.append(f"{kind}: {entry!r} is not clean; write {clean_utterance(entry)!r}")
            if set("{}()") & set(_TAG.sub("", entry)):
                faults.append(f"{kind}: {entry!r} has a bracket outside a sound tag")
            if re.search(r"\w\(", entry):
                faults.append(f"{kind}: {entry!r} has no blank before its sound tag")
        if not any(name in _PLACEHOLDER.findall(template) for template in components.templates):
            faults.append(f"{kind}: no template uses {{{name}}}")

    for template in components.templates:
        if _GLUED.search(template):
            faults.append(
                f"templates: {template!r} runs words together; separate placeholders by blanks or punctuation"
            )
        shortest, longest = components.word_range(template)
        if shortest < words[0] or longest > words[1]:
            faults.append(
                f"templates: {template!r} gives {shortest} to {longest} words; {words[0]} to {words[1]} are allowed"
            )

    return faults


def load_components(emotion: str, language: str, folder: str | os.PathLike | None = None) -> Components:
    """Load components from `<language>/<emotion>.json` in a folder; None for the package's own.

    Raises:
        ComponentError: no such file, or one that cannot be used.
    """
    if folder is None and (emotion not in EMOTIONS or language not in LANGUAGES):
        raise ComponentError(
            f"No components for {emotion!r} in {language!r}. Allowed emotions: {', '.join(EMOTIONS)}; languages: "
            f"{', '.join(LANGUAGES)}."
        )

    own = resources.files("bibier_hf.augmentation") / "components"
    path = (own if folder is None else Path(folder)) / language / f"{emotion}.json"
    if not path.is_file():
        raise ComponentError(f"There are no components in {path}.")

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ComponentError(f"{path} is not valid JSON: {error}") from error
    return Components.from_dict(values, f"{language}/{emotion}.json" if folder is None else str(path))


class TemplateUtteranceGeneration:
    """Generates utterances of an emotion in a language, the same for the same seed in every process.

    Args:
        seed: seed of every emotion and language, so that the count of one does not change the others.
        components: `(emotion, language) -> Components`; None for the package's own.
    """

    def __init__(self, seed: int = 42, components: Mapping[tuple[str, str], Components] | None = None) -> None:
        self.seed = seed
        self._components = components

    def components(self, emotion: str, language: str) -> Components:
        """Return the components of an emotion and language."""
        if self._components is None:
            return load_components(emotion, language)
        if (emotion, language) not in self._components:
            raise ComponentError(
                f"No components for {emotion!r} in {language!r}, only for {sorted(self._components)}."
            )
        return self._components[emotion, language]

    def sample(self, emotion: str, language: str, count: int) -> list[str]:
        """Return `count` different utterances in the order drawn. A longer list begins with the shorter one.

        Raises:
            ComponentError: more than the components can give; the message states how many they can.
        """
        components = self.components(emotion, language)
        # Counting one by one takes a while, and is only needed if the count may fall short.
        if count < 0 or (2 * count > components.upper_bound() and count > components.possible()):
            raise ComponentError(
                f"{count} utterances of {components.name} were requested; 0 to {components.possible()} are possible."
            )

        rng = random.Random(f"{self.seed}/{language}/{emotion}")
        phrases: dict[str, None] = {}
        attempts = 0
        while len(phrases) < count and attempts < 50 * count:
            phrases.setdefault(components.draw(rng))
            attempts += 1

        if len(phrases) < count and components.upper_bound() <= _COUNTABLE:
            # Drawing finds the last few slowly: take the rest in shuffled order.
            rest = sorted(set(components.combinations()) - phrases.keys())
            rng.shuffle(rest)
            phrases.update(dict.fromkeys(rest[: count - len(phrases)]))

        if len(phrases) < count:
            raise ComponentError(
                f"{count} utterances of {components.name} were requested; {attempts} attempts gave {len(phrases)}."
            )
        return list(phrases)


def clean_utterance(text: str) -> str:
    """Apply the published cleaning, in its order: no blank before . , ! ?; "." for ".."; a blank between ")" and a
    word; single blanks."""
    text = re.sub(r"\s+([,.!?])", r"\1", text)
    text = re.sub(r"(?<!\.)\.\.(?!\.)", ".", text)
    text = re.sub(r"\)(?=\w)", ") ", text)
    return re.sub(r"\s+", " ", text).strip()


def count_words(text: str) -> int:
    """Count the words of a text without its sound tags. Hyphens and apostrophes do not separate words."""
    return len(_WORD.findall(_TAG.sub(lambda match: " " if match[0][1:-1] in SOUND_TAGS else match[0], text)))


def strip_sound_tags(text: str) -> str:
    """Remove the sound tags of a text; other parentheses stay."""
    return clean_utterance(_TAG.sub(lambda match: "" if match[0][1:-1] in SOUND_TAGS else match[0], text))
