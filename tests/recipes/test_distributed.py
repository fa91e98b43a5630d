"""Two processes: the same training as one with the same global batch."""

import json
import shutil
import socket
import sys

import pytest
import torch
from safetensors.torch import load_file

from bibier_hf.training.checkpoints import list_checkpoints

# Each process draws its own dropout, so that there must be none; the backbones have some in them.
STILL = ["--model.dropout", "0.0", "--model.modality_dropout", "0.0"]
STILL += ["--model.audio_config.dropout", "0.0", "--model.text_config.dropout", "0.0"]
STILL += [
    "--model.audio_config.freeze_backbone",
    "true",
    "--model.text_config.freeze_backbone",
    "true",
    "--optimizer",
    "sgd",
]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")


def accelerate_launch() -> tuple[str, ...]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return (
        *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"),
        *(
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            str(port),
        ),
    )


DISTURBED = ("--disturbances.kinds", "[white:5..20, babble:5..20, g711, reverb]")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "options"),
    [
        ("torchrun", ()),
        ("accelerate", ()),
        ("torchrun", (*DISTURBED, "--disturbances.draws", "2")),
        ("torchrun", (*DISTURBED, "--feature_cache.enabled", "false")),
    ],
)
def test_two_processes_train_as_one(launch, run_file, tmp_path, launcher, options, about):
    still = (*STILL, *options)
    one = launch(
        "recipes/train.py", run_file, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", "8", *still
    )
    assert one.returncode == 0, one.stderr
    arguments = [
        "--output_dir",
        tmp_path / "two",
        "--per_device_train_batch_size",
        "4",
        "--ddp_backend",
        "gloo",
        *still,
    ]
    two = launch(
        "recipes/train.py", run_file, *arguments, launcher=TORCHRUN if launcher == "torchrun" else accelerate_launch()
    )
    assert two.returncode == 0, two.stderr
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")}
    assert results["one"]["hardware"]["processes"] == 1
    assert results["two"]["hardware"]["processes"] == 2
    assert results["two"]["selection"]["step"] == results["one"]["selection"]["step"]
    assert results["two"]["metrics"] == about(results["one"]["metrics"])
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert two.stdout.count("| small |") == one.stdout.count("| small |")  # only the main process reports


@pytest.mark.slow
def test_two_processes_resume(launch, run_file, tmp_path):
    arguments = [
        "--output_dir",
        tmp_path,
        "--per_device_train_batch_size",
        "2",
        "--ddp_backend",
        "gloo",
        "--save_total_limit",
        "10",
    ]
    arguments += ["--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "3", "--save_steps", "3"]
    whole = launch("recipes/train.py", run_file, *arguments, launcher=TORCHRUN)
    assert whole.returncode == 0, whole.stderr
    before = load_file(tmp_path / "model.safetensors")
    (tmp_path / "results.json").unlink()
    for checkpoint in list_checkpoints(tmp_path):
        if int(checkpoint.name.rpartition("-")[2]) > 6:  # within the second of four epochs of four steps
            shutil.rmtree(checkpoint)
    resumed = launch("recipes/train.py", run_file, *arguments, "--resume_from_checkpoint", "true", launcher=TORCHRUN)
    assert resumed.returncode == 0, resumed.stderr
    after = load_file(tmp_path / "model.safetensors")
    for name in before:
        torch.testing.assert_close(
            before[name], after[name], rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
