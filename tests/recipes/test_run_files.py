"""Every run file of the project can be followed, as far as that shows without its corpora and backbones."""

from pathlib import Path

import pytest

from bibier_hf import BiBiERConfig
from bibier_hf.training.arguments import parse_run_arguments

from ..conftest import features_of, merged

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_run_file(path: Path):
    run = parse_run_arguments([str(path)])
    assert Path(run.output_dir).name.startswith(path.stem.split("_")[0])
    BiBiERConfig(**merged(features_of(audio=1024, text=1024), {"audio_config": {"cepstrum_size": 80}}, run.model))
    run.training_arguments(use_cpu=True)
    text = path.read_text(encoding="utf-8")
    for name in (
        "audeering/",
        "jinaai/",
    ):  # the backbones that may not be used commercially say so where they are chosen
        assert name not in text or "commercial" in text
