"""Training from the command line: exit codes, messages, and runs that are killed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bibier_hf.training.checkpoints import STAGING_FOLDER, checkpoint_problems, list_checkpoints

ACCELERATE = (sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch")


@pytest.fixture(scope="module")
def trained(launch, run_file, tmp_path_factory) -> Path:
    """The output of a whole run, started by Accelerate."""
    output = tmp_path_factory.mktemp("trained")
    launcher = (*ACCELERATE, "--config_file", "recipes/accelerate_configs/cpu.yaml")
    done = launch("recipes/train.py", run_file, "--output_dir", output, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert "| small |" in done.stdout
    return output


@pytest.fixture
def start(repository, environment, takes_ctrl_c):
    """`start(*arguments)` -> a running recipes/train.py, killed at the end of the test at the latest."""
    started = []

    def run(*arguments) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "recipes/train.py", *map(str, arguments)],
            cwd=repository,
            env=environment,
            preexec_fn=takes_ctrl_c,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_until(condition, process, limit_s=240):
    end = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "the run did not get that far"
        time.sleep(0.0005)


def test_a_run_leaves_everything_a_user_needs(trained):
    names = {path.name for path in trained.iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "processor_config.json",
        "modeling_bibier.py",
        "README.md",
        "results.json",
    } <= names
    assert {
        "run.yaml",
        "predictions_dev.parquet",
        "predictions_test.parquet",
        "confusion_matrix_test_small.png",
    } <= names
    results = json.loads((trained / "results.json").read_text())
    assert results["command"].startswith("accelerate launch recipes/train.py")
    assert str(trained.parent) not in results["command"]


def test_evaluating_from_the_command_line(launch, trained, about, tmp_path):
    arguments = ("--conditions", "babble:20", "babble:0", "g711", "--add_to_results", "true")
    done = launch("-m", "bibier_cli", "evaluate", trained, "--output_dir", tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "evaluation_test.json").read_text())
    results = json.loads((trained / "results.json").read_text())
    assert again["metrics"]["test"] == about(results["metrics"]["test"])
    assert "| corpus | anger |" in done.stdout
    assert f"Calibration, temperature {results['calibration']['temperature']:.3f}" in done.stdout
    keys = ("modalities", "conditions", "conditions_audio")
    modalities, heard, heard_alone = (again[key]["test"]["small"] for key in keys)
    assert set(modalities) == {"both", "audio", "text"}
    assert modalities["both"] == about(results["metrics"]["test"]["small"])  # every row has both
    assert list(heard) == list(heard_alone) == ["clean", "babble:20", "babble:0", "g711"]
    assert heard["babble:20"]["nll"] != heard["babble:0"]["nll"] != heard_alone["babble:0"]["nll"]
    assert heard["clean"]["uar"] - heard["g711"]["uar"] == pytest.approx(heard["g711"]["loss"]["uar"]["difference"])
    assert again["conditions_settings"] == {"test": {"seed": 0, "intervals_over": {"small": "clips"}}}
    assert all(results[key] == again[key] for key in (*keys, "conditions_settings"))
    assert "Disturbed speech, speech alone (loss against clean speech, in points):" in done.stdout
    assert {"reliability_test_small.png", "conditions_test_small.png"} <= {path.name for path in tmp_path.iterdir()}


def test_predicting_from_the_command_line(launch, trained, run_file):
    done = launch(
        "-m", "bibier_cli", "predict", trained, run_file.parent / "test00.wav", "--text", "text 0", "--top_k", "2"
    )
    assert done.returncode == 0, done.stderr
    assert "test00.wav: 'text 0'" in done.stdout
    missing = launch("-m", "bibier_cli", "predict", trained, "nowhere.wav")
    assert missing.returncode == 1
    assert "error: " in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rat", "1"], "error: learning_rat: unknown key. Did you mean learning_rate?"),
        (["--data_dir", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(launch, run_file, tmp_path, arguments, message):
    done = launch("recipes/train.py", run_file, "--output_dir", tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_quiet_launcher_adds_nothing_to_the_one_line(launch, run_file, tmp_path):
    launcher = (*ACCELERATE, "--quiet", "--config_file", "recipes/accelerate_configs/cpu.yaml")
    done = launch("recipes/train.py", run_file, "--output_dir", tmp_path, "--learning_rat", "1", launcher=launcher)
    assert done.returncode == 1  # Accelerate's own
    assert done.stderr == "error: learning_rat: unknown key. Did you mean learning_rate?\n"


def test_help_exits_with_zero(launch):
    done = launch("recipes/train.py", "--help")
    assert done.returncode == 0
    assert "--corpora.0.data_dir" in done.stdout


def test_killed_while_saving_it_resumes_to_the_same_weights(start, launch, trained, run_file, tmp_path):
    output = tmp_path / "killed"
    process = start(run_file, "--output_dir", output)
    # kill -9 in the middle of a save, after the first checkpoint
    wait_until(lambda: list_checkpoints(output) and (output / STAGING_FOLDER).exists(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "results.json").exists()
    for checkpoint in list_checkpoints(output):
        assert checkpoint_problems(checkpoint) == []
    refused = launch("recipes/train.py", run_file, "--output_dir", output)
    assert refused.returncode == 2
    assert "--resume_from_checkpoint true" in refused.stderr
    resumed = launch("recipes/train.py", run_file, "--output_dir", output, "--resume_from_checkpoint", "true")
    assert resumed.returncode == 0, resumed.stderr
    assert (output / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert not (output / STAGING_FOLDER).exists()


def test_ctrl_c_says_how_to_go_on(start, run_file, tmp_path):
    output = tmp_path / "interrupted"
    process = start(run_file, "--output_dir", output, "--num_train_epochs", "1000", "--patience", "null")
    wait_until(lambda: list_checkpoints(output), process)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume_from_checkpoint true" in text
    assert "Traceback" not in text
