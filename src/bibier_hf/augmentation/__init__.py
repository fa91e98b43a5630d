"""Data augmentation: template utterances and speech synthesis."""
