"""recipes/augment.py as a user launches it."""

import json

import pytest


@pytest.mark.slow
def test_utterances_are_written_and_trained_on(launch, run_file, tmp_path):
    done = launch("recipes/augment.py", "tug", "--count", "2", "--tts", "none", "--output_dir", tmp_path / "tug")
    assert done.returncode == 0, done.stderr
    assert f"Written to {tmp_path / 'tug'}" in done.stdout
    augmentation = (
        "--corpora.0.augmentation.synthetic.path",
        tmp_path / "tug",
        "--corpora.0.augmentation.sds.share",
        "0.5",
    )
    done = launch(
        "recipes/train.py", run_file, "--output_dir", tmp_path / "run", "--num_train_epochs", "1", *augmentation
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "run" / "results.json").read_text())["augmentation"]["small"]
    assert facts["sds"]["stacked"] == 4  # of 16 rows, two pairs share language and label
    assert {counts["used"] for counts in facts["synthetic"].values()} == {4}


def test_a_mistake_is_one_line_and_exit_code_2(launch):
    done = launch("recipes/augment.py", "sds", "--corpus", "resd", "--output_dir", "x")
    assert done.returncode == 2
    assert "needs a folder" in done.stderr
    assert "Traceback" not in done.stderr
