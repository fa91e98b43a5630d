"""The default labels, and the one rule by which names of labels are compared. This module imports nothing, so it can
be used without the model."""

EMOTIONS = ("anger", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""The seven emotions, in the order of the published models: the labels of a model that is given no others."""


def label_key(name: object) -> str:
    """Return the form in which names of labels are compared: without case and surrounding spaces."""
    return name.strip().casefold() if isinstance(name, str) else ""
