"""The labels, and how names used by other corpora map to them."""

import difflib
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any

from .errors import UserError
from .model import labels_bibier
from .model.labels_bibier import EMOTIONS

LABEL_ALIASES = MappingProxyType(
    {
        "angry": "anger",
        "disgusted": "disgust",
        "fearful": "fear",
        "scared": "fear",
        "happiness": "happy",
        "joy": "happy",
        "joyful": "happy",
        "neutrality": "neutral",
        "sadness": "sad",
        "surprised": "surprise",
        # RESD has no surprise; the published system counts its enthusiasm as such.
        "enthusiasm": "surprise",
    }
)
"""Names used by other corpora -> one of the seven. `calm` (RAVDESS) is left out on purpose: it is none of them."""

LABEL_SUGGESTIONS = MappingProxyType(
    {
        # IEMOCAP, CREMA-D
        "ang": "anger",
        "dis": "disgust",
        "exc": "happy",
        "excited": "happy",
        "fea": "fear",
        "hap": "happy",
        "neu": "neutral",
        "sur": "surprise",
        # TESS
        "pleasant_surprise": "surprise",
        "pleasant surprise": "surprise",
        "pleasant_surprised": "surprise",
        "ps": "surprise",
        # Dusha, sentiment of other corpora
        "positive": "happy",
        # Russian
        "восторг": "happy",
        "гнев": "anger",
        "грусть": "sad",
        "злость": "anger",
        "испуг": "fear",
        "нейтрально": "neutral",
        "нейтральная": "neutral",
        "нейтральный": "neutral",
        "отвращение": "disgust",
        "печаль": "sad",
        "радость": "happy",
        "раздражение": "anger",
        "спокойствие": "neutral",
        "страх": "fear",
        "счастье": "happy",
        "удивление": "surprise",
        "энтузиазм": "surprise",
    }
)
"""Labels of other corpora -> a suggestion. They are never mapped automatically: whether "excited" means happy is the
user's decision, made in a label map."""


class UnknownLabelError(ValueError):
    """A name that is neither a label nor an alias of one."""


class LabelSetError(UserError, ValueError):
    """Names that cannot be a label set."""


def checked_labels(names: Iterable[str] | None, least: int = 2) -> tuple[str, ...]:
    """Check a label set; None is the default, the seven emotions.

    Names are kept as written, but two that differ only in case or surrounding spaces are the same name.

    Args:
        names: in the order of the model's outputs.
        least: number of names that are enough.

    Raises:
        LabelSetError: fewer than two names, an empty name, or the same name twice.
    """
    if names is None:
        return EMOTIONS

    labels = tuple(names)
    keys = [label_key(name) for name in labels]
    if len(labels) < least:
        count = "two names" if least > 1 else "one name"
        raise LabelSetError(f"labels: {list(labels)} is too small; a label set has at least {count}.")
    if not all(keys):
        raise LabelSetError(f"labels: name {keys.index('') + 1} of {list(labels)} is empty. Remove or name it.")

    for name, key in zip(labels, keys, strict=True):
        if (first := labels[keys.index(key)]) is not name and keys.count(key) > 1:
            raise LabelSetError(
                f"labels: {first!r} and {name!r} are the same name, since case and surrounding spaces do not count. "
                "Remove one."
            )

    return labels


def label_key(name: Any) -> str:
    """Return the form in which names are compared: without case and surrounding spaces.

    Raises:
        LabelSetError: not a text. (YAML reads `yes`, `no` and numbers as something else.)
    """
    if not isinstance(name, str):
        raise LabelSetError(f"labels: {name!r} is not a text. Put it in quotes.")

    return labels_bibier.label_key(name)


def normalize_label(name: str, labels: Sequence[str] | None = None) -> str:
    """Return the label that a name means: the one with that name, or the one that it is an alias of.

    Case and surrounding spaces do not matter. A label comes before an alias: in a set with `enthusiasm`, that name is
    no alias of `surprise`.

    Args:
        name: as a corpus writes it.
        labels: the label set; None: the seven emotions.

    Raises:
        UnknownLabelError: any other name; the message lists the allowed ones.
    """
    if not isinstance(name, str):
        raise UnknownLabelError(
            f"Unknown label {name!r}. A label is a name; for distributions use soft labels. Allowed: "
            f"{allowed_labels(labels)}."
        )

    key = label_key(name)
    by_key = {label_key(label): label for label in checked_labels(labels)}
    if label := by_key.get(key) or by_key.get(LABEL_ALIASES.get(key, "")):
        return label

    close = suggest_label(key, labels)
    hint = f" Did you mean '{close}'?" if close else ""
    raise UnknownLabelError(f"Unknown label {name!r}.{hint} Allowed: {allowed_labels(labels)}.")


def suggest_label(name: str, labels: Sequence[str] | None = None) -> str | None:
    """Return the label that `name` may mean, or None without a good guess."""
    key = label_key(name)
    meant = dict(_aliases(labels)) | {label_key(label): label for label in checked_labels(labels)}
    if LABEL_SUGGESTIONS.get(key) in meant.values():
        return LABEL_SUGGESTIONS[key]

    # The cutoff keeps "fru" from suggesting "fearful".
    close = difflib.get_close_matches(key, meant, n=1, cutoff=0.75)
    return meant[close[0]] if close else None


def allowed_labels(labels: Sequence[str] | None = None) -> str:
    """Return the labels and their aliases in one line, for messages."""
    aliases = ", ".join(f"{name} (= {label})" for name, label in _aliases(labels))
    names = ", ".join(checked_labels(labels))

    return f"{names}; also {aliases}" if aliases else names


def _aliases(labels: Sequence[str] | None) -> list[tuple[str, str]]:
    """The aliases of these labels; a name that is a label itself is none."""
    by_key = {label_key(label): label for label in checked_labels(labels)}
    return [(name, by_key[label]) for name, label in LABEL_ALIASES.items() if label in by_key and name not in by_key]
