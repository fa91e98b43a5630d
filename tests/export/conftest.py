"""One export of the whole tiny model, for all tests of what is done with it."""

from pathlib import Path

import pytest

from bibier_hf import BiBiERForEmotionClassification, BiBiERProcessor

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")

from bibier_hf.export import export_model

TEMPERATURE = 1.7
"""Of the exported model's scores, as if it had been fitted."""


@pytest.fixture(scope="session")
def exported(checkpoint: Path, processor: BiBiERProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ONNX export of `checkpoint`, from what the processor gives."""
    folder = tmp_path_factory.mktemp("export") / "whole"
    model = BiBiERForEmotionClassification.from_pretrained(checkpoint).eval()
    model.config.temperature = TEMPERATURE
    export_model(model, processor, folder, part="whole")
    return folder
