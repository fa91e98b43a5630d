"""The label order, defined only here. This module imports nothing, so it can be used without the model."""

EMOTIONS = ("anger", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""The seven emotions, in the order of all logits, probabilities and soft labels (that of the published models)."""
