"""The default labels, the kinds of answers, and the one rule by which names of labels are compared. This module
imports nothing, so it can be used without the model."""

EMOTIONS = ("anger", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""The seven emotions, in the order of the published models: the labels of a model that is given no others."""

SINGLE_LABEL, MULTI_LABEL, REGRESSION = PROBLEM_TYPES = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
)
"""Values of `problem_type`, as transformers names them."""


def label_key(name: object) -> str:
    """Return the form in which names of labels are compared: without case and surrounding spaces."""
    return name.strip().casefold() if isinstance(name, str) else ""
