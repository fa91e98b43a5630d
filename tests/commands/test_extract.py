"""Extracting features from the command line: what is printed, found again by training, and survives a kill."""

import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

COMMAND = ("-m", "bibier_cli", "extract")
FROZEN = ("--model.audio_config.freeze_backbone", "true", "--model.text_config.freeze_backbone", "true")
ACCELERATE = (
    *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)


def counts(output: str) -> list[tuple[str, int, int]]:
    """(what, computed, found) of each printed line"""
    found = re.findall(r"small: (\w+) \(\w+\): (\d+) rows computed.*, (\d+) found", output)
    return [(name, int(computed), int(there)) for name, computed, there in found]


def shards(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def test_a_corpus_is_extracted_once_and_the_drift_is_told(launch, run_file, tmp_path):
    arguments = (
        *COMMAND,
        run_file,
        *FROZEN,
        "--feature_cache.directory",
        tmp_path,
        "--feature_cache.compute_dtype",
        "bfloat16",
    )
    first = launch(*arguments, "--drift", "8")
    assert first.returncode == 0, first.stderr
    assert counts(first.stdout) == [
        ("audio_features", 30, 0),
        ("text_features", 7, 0),
    ]  # the texts of a label are the same
    assert "a second" in first.stdout
    assert re.search(
        r"small: audio_features against float32, one clip at a time: relative 0\.0\d+, largest", first.stdout
    )
    # without a run file, and one row changed in what it is compared with
    corpus = yaml.safe_load(run_file.read_text())["corpora"][0]["data_dir"]
    options = ["--feature_cache.directory", tmp_path, "--feature_cache.compute_dtype", "bfloat16"]
    tiny = [
        text
        for name, value in yaml.safe_load(run_file.read_text())["model"].items()
        for text in (f"--model.{name}", value)
    ]
    second = launch(*COMMAND, "--corpora.0.name", "csv", "--data_dir", corpus, *options, *tiny, *FROZEN)
    assert second.returncode == 0, second.stderr
    assert counts(second.stdout) == [("audio_features", 0, 30), ("text_features", 0, 7)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--drift", "many"], "error: drift: "),
        (["--feature_cache.dtyp", "float16"], "Did you mean feature_cache.dtype?"),
        (["--feature_cache.enabled", "false"], "error: feature_cache.enabled: "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(launch, run_file, arguments, message):
    done = launch(*COMMAND, run_file, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_and_a_killed_one_write_the_same(launch, repository, environment, run_file, tmp_path):
    arguments = [*COMMAND, str(run_file), *FROZEN, "--feature_cache.batch_size", "1"]
    whole = launch(*arguments, "--feature_cache.directory", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    two = launch(*arguments, "--feature_cache.directory", tmp_path / "two", launcher=ACCELERATE)
    assert two.returncode == 0, two.stderr
    assert counts(two.stdout) == counts(whole.stdout)
    assert shards(tmp_path / "two") == shards(tmp_path / "whole")
    for seconds in (0.0, 0.3):
        command = [sys.executable, *arguments, "--feature_cache.directory", str(tmp_path / "killed")]
        with subprocess.Popen(
            command, cwd=repository, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while not any((tmp_path / "killed").rglob("*")):
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
    again = launch(*arguments, "--feature_cache.directory", tmp_path / "killed")
    assert again.returncode == 0, again.stderr
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")
