"""`bibier augment` as a user launches it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.slow
def test_utterances_are_written_and_trained_on(launch, run_file, tmp_path):
    done = launch(
        "-m", "bibier_cli", "augment", "tug", "--count", "2", "--tts", "none", "--output_dir", tmp_path / "tug"
    )
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


@pytest.mark.slow
def test_ctrl_c_among_workers_is_one_line(environment, run_file, takes_ctrl_c, tmp_path):
    arguments = ["--corpus", "csv", "--num_proc", "2"]
    arguments += ["--data_dir", str(run_file.parent / "small.csv"), "--output_dir", str(tmp_path / "out")]
    # The clips are stacked slowly, in each worker.
    slow = "import time, bibier_hf.augmentation.sds as sds\nmerge = sds.StackedDataSampling.merge\n"
    slow += "sds.StackedDataSampling.merge = lambda *a, **k: (time.sleep(2), merge(*a, **k))[1]\n"
    script = tmp_path / "slow.py"
    start = "import sys\nfrom bibier_cli import run\nsys.exit(run('augment sds', sys.argv[1:]))"
    script.write_text(slow + start)
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=environment | {"HF_DATASETS_CACHE": str(tmp_path / "datasets")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=takes_ctrl_c,
    )
    said = ""
    while "Stacking clips" not in said:
        said += (character := process.stdout.read(1))
        assert character, said
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "Interrupted." in said


def test_a_mistake_is_one_line_and_exit_code_2(launch):
    done = launch("-m", "bibier_cli", "augment", "sds", "--corpus", "ravdess", "--output_dir", "x")
    assert done.returncode == 2
    assert "needs a folder" in done.stderr
    assert "Traceback" not in done.stderr
