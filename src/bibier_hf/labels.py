"""The labels, and how names used by other corpora map to them."""

import difflib
from types import MappingProxyType

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
"""Names used by other corpora -> one of EMOTIONS. `calm` (RAVDESS) is left out on purpose: it is not one of the seven."""

_ALSO = ", ".join(f"{name} (= {label})" for name, label in LABEL_ALIASES.items())
ALLOWED_LABELS = f"{', '.join(EMOTIONS)}; also {_ALSO}"
"""The allowed names in one line, for messages."""

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
    """A label that is neither in EMOTIONS nor in LABEL_ALIASES."""


def normalize_label(name: str) -> str:
    """Return the emotion for any known spelling of it; case and surrounding spaces do not matter.

    Raises:
        UnknownLabelError: any other name; the message lists the allowed ones.
    """
    if not isinstance(name, str):
        raise UnknownLabelError(
            f"Unknown label {name!r}. A label is a name; for distributions use soft labels. Allowed: {ALLOWED_LABELS}."
        )

    key = name.strip().lower()
    label = LABEL_ALIASES.get(key, key)
    if label in EMOTIONS:
        return label

    close = suggest_label(key)
    hint = f" Did you mean '{close}'?" if close else ""
    raise UnknownLabelError(f"Unknown label {name!r}.{hint} Allowed: {ALLOWED_LABELS}.")


def suggest_label(name: str) -> str | None:
    """Return the label that `name` may mean, or None without a good guess."""
    key = name.strip().lower()
    if key in LABEL_SUGGESTIONS:
        return LABEL_SUGGESTIONS[key]

    # The cutoff keeps "fru" from suggesting "fearful".
    close = difflib.get_close_matches(key, [*EMOTIONS, *LABEL_ALIASES], n=1, cutoff=0.75)
    return LABEL_ALIASES.get(close[0], close[0]) if close else None
