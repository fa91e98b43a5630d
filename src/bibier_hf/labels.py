"""Names of emotions: the one place where those of other corpora are translated."""

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
"""Other corpora's names -> EMOTIONS. `calm` (RAVDESS) is left out on purpose: it is none of the seven."""


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
"""Labels of other corpora -> what is suggested for them. They are never translated unasked: whether "excited" is happy
is for the user to say, in a label map."""


class UnknownLabelError(ValueError):
    """A label that is neither one of EMOTIONS nor one of LABEL_ALIASES."""


def normalize_label(name: str) -> str:
    """One of EMOTIONS for any known spelling of it; case and surrounding blanks do not matter.

    Raises:
        UnknownLabelError: anything else; the message lists what is allowed.
    """
    if isinstance(name, str):
        key = name.strip().lower()
        if key in EMOTIONS:
            return key
        if key in LABEL_ALIASES:
            return LABEL_ALIASES[key]
        close = suggest_label(key)
        hint = f" Did you mean '{close}'?" if close else ""
    else:
        hint = " A label is a name; for distributions use soft labels."
    raise UnknownLabelError(f"Unknown label {name!r}.{hint} Allowed: {describe_labels()}.")


def suggest_label(name: str) -> str | None:
    """The label that may be meant; None where there is no good guess."""
    key = name.strip().lower()
    close = difflib.get_close_matches(key, [*EMOTIONS, *LABEL_ALIASES], n=1, cutoff=0.75)  # not "fearful" for "fru"
    return LABEL_SUGGESTIONS.get(key) or (LABEL_ALIASES.get(close[0], close[0]) if close else None)


def describe_labels() -> str:
    """The allowed label names in one line, for messages."""
    aliases = ", ".join(f"{alias} (= {emotion})" for alias, emotion in LABEL_ALIASES.items())
    return f"{', '.join(EMOTIONS)}; also {aliases}"
