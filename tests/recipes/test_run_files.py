"""Every run file of the project can be followed, as far as that shows without its corpora and backbones."""

from pathlib import Path

import pytest

from bibier_hf import BiBiERConfig
from bibier_hf.training.arguments import parse_run_arguments

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_run_file(path: Path):
    run = parse_run_arguments([str(path)])
    assert Path(run.output_dir).name.startswith(path.stem.split("_")[0])
    BiBiERConfig(audio_feature_size=1024, audio_cepstrum_size=80, text_feature_size=1024, **run.model)
    run.training_arguments(use_cpu=True)
    text = path.read_text(encoding="utf-8")
    for name in (
        "audeering/",
        "jinaai/",
    ):  # the backbones that may not be used commercially say so where they are chosen
        assert name not in text or "commercial" in text
