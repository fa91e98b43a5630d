"""Every run file of the project can be followed, as far as that shows without its corpora and backbones."""

from pathlib import Path

import pytest

from bibier_hf import BiBiERConfig
from bibier_hf.errors import ArgumentError
from bibier_hf.run_files import find_run_file
from bibier_hf.training.arguments import RunFile

from ..conftest import features_of, merged

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_run_file(path: Path):
    run = RunFile.from_command_line([str(path)]).run
    assert Path(run.output_dir).name.startswith(path.stem.split("_")[0])
    BiBiERConfig(**merged(features_of(audio=7 * 1024, text=1024), {"audio_config": {"cepstrum_size": 80}}, run.model))
    run.training_arguments(use_cpu=True)
    text = path.read_text(encoding="utf-8")
    for name in (
        "audeering/",
        "jinaai/",
    ):  # the backbones that may not be used commercially say so where they are chosen
        assert name not in text or "commercial" in text


def test_run_files_studies_and_searches_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_run_file("resd").samefile(RECIPES / "resd.yaml")
    assert find_run_file("resd_grouped", "study").samefile(RECIPES / "studies" / "resd_grouped.yaml")

    assert find_run_file("resd_greedy", "search").samefile(RECIPES / "searches" / "resd_greedy.yaml")

    with pytest.raises(ArgumentError, match=r"There is no search file resd\. .*: resd_greedy, resd_optuna\."):
        find_run_file("resd", "search")
    with pytest.raises(
        ArgumentError, match=r"There is no run file rsed\. .*: .*quickstart, ravdess_robust, resd, resd_whisper_e5\."
    ):
        find_run_file("rsed")
    Path("resd").write_text("seed: 7\n")  # a path comes first
    assert find_run_file("resd") == Path("resd")
