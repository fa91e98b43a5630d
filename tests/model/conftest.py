"""Fixtures of the model's tests."""

from pathlib import Path

import pytest
from transformers import AutoModel, AutoProcessor, pipeline

from bibier_hf import AudioTextEmotionPipeline


@pytest.fixture(scope="module")
def pipe(checkpoint: Path) -> AudioTextEmotionPipeline:
    """The pipeline over the saved tiny model."""
    return pipeline(
        "audio-text-emotion",
        model=AutoModel.from_pretrained(checkpoint),
        processor=AutoProcessor.from_pretrained(checkpoint),
        device="cpu",
    )
