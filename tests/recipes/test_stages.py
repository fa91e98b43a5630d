"""Two stages from the command line: killed in the middle of one, and in two processes."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

TWO_STAGES = (
    "--stages.plan",
    "two_stage",
    "--stages.folds",
    "2",
    "--model.add_unimodal_logits",
    "true",
    "--num_train_epochs",
    "2",
)
FROZEN = ("--model.audio_config.freeze_backbone", "true", "--model.text_config.freeze_backbone", "true")
# Each process draws its own dropout, so that there must be none.
STILL = (
    "--model.dropout",
    "0.0",
    "--model.audio_config.dropout",
    "0.0",
    "--model.text_config.dropout",
    "0.0",
    "--model.modality_dropout",
    "0.0",
    "--optimizer",
    "sgd",
)


@pytest.fixture(scope="module")
def whole(launch, run_file, tmp_path_factory):
    """The output of an uninterrupted run with dropout."""
    output = tmp_path_factory.mktemp("whole") / "out"
    done = launch("recipes/train.py", run_file, "--output_dir", output, *TWO_STAGES, *FROZEN)
    assert done.returncode == 0, done.stderr
    assert "encoder audio, fold 2 of 2: up to" in done.stdout
    return output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "title"), [("audio-fold-1", "encoder audio, fold 2 of 2"), ("text", "encoder text (stage 2 of 3)")]
)
def test_killed_within_a_stage_it_ends_with_the_same_weights(
    launch, repository, environment, run_file, whole, tmp_path, stage, title
):
    output = tmp_path / "out"
    command = [sys.executable, "recipes/train.py", str(run_file), "--output_dir", str(output), *TWO_STAGES, *FROZEN]
    process = subprocess.Popen(
        command, cwd=repository, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 240
    while not list((output / "stages" / stage).glob("checkpoint-*")):
        assert process.poll() is None
        assert time.monotonic() < end, "the run did not get that far"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = launch(*command[1:], "--resume_from_checkpoint", "true")
    assert resumed.returncode == 0, resumed.stderr
    assert f"{title}: up to" in resumed.stdout
    assert "encoder audio, fold 1 of 2" not in resumed.stdout
    assert (output / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    results = [json.loads((folder / "results.json").read_text()) for folder in (output, whole)]
    assert results[0]["stages"] == results[1]["stages"]


@pytest.mark.slow
def test_two_processes_train_both_stages_as_one(launch, run_file, tmp_path):
    options = (*TWO_STAGES, *FROZEN, *STILL)
    one = launch(
        "recipes/train.py", run_file, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", "4", *options
    )
    assert one.returncode == 0, one.stderr
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    arguments = ("--output_dir", tmp_path / "two", "--per_device_train_batch_size", "2", "--ddp_backend", "gloo")
    two = launch("recipes/train.py", run_file, *arguments, *options, launcher=launcher)
    assert two.returncode == 0, two.stderr
    assert json.loads((tmp_path / "two" / "results.json").read_text())["hardware"]["processes"] == 2
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert left.keys() == right.keys()
    for name in left:
        assert torch.isfinite(right[name]).all()
        # The folds do not divide by the batch, so that their last one is filled up, and the logits that the fusion
        # reads differ.
        if name.startswith(("bibier.audio.encoder.", "bibier.text.encoder.", "audio_head.", "text_head.")):
            torch.testing.assert_close(
                left[name], right[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
