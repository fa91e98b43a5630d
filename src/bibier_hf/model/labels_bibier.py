"""The label order, defined here and nowhere else. Imports nothing, so that it can be had without the model."""

EMOTIONS = ("anger", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""The seven emotions in the order of every logit, probability and soft label (that of the published models)."""
