"""What every command answers to the same few command lines: an exit code, at most one line of error, no traceback."""

import io
import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import soundfile

from bibier_cli import COMMANDS, run

from ..bibier_command import bibier

MISSING = {
    "predict": ["nowhere", "--text", "Hello"],
    "evaluate": ["nowhere", "--corpus", "quickstart"],
    "describe": ["nowhere"],
    "demo": ["nowhere"],
    "serve": ["nowhere", "--port", "0"],
    "export": ["nowhere", "--output_dir", "out"],
    "adapt": ["nowhere", "nowhere.csv", "--output_dir", "out"],
    "audit": ["--corpus", "csv", "--data_dir", "nowhere.csv"],
    "augment sds": ["--corpus", "csv", "--data_dir", "nowhere.csv", "--output_dir", "out"],
    "augment tug": ["--corpus", "csv", "--data_dir", "nowhere.csv", "--output_dir", "out"],
    "augment preview": ["--augmented", "nowhere"],
    "augment components": ["--corpus", "csv", "--data_dir", "nowhere.csv", "--model", "m", "--output_dir", "out"],
    "baseline": ["tfidf_logreg", "--corpus", "csv", "--data_dir", "nowhere.csv"],
    "convert": ["--fusion", "nowhere.pt", "--output_dir", "out"],
    "extract": ["nowhere.yaml"],
    "label corpus": ["--corpus", "csv", "--data_dir", "nowhere.csv", "--output", "out.csv"],
    "label recognize": ["--corpus", "csv", "--data_dir", "nowhere.csv", "--output_dir", "out"],
    "label report": ["nowhere.csv"],
    "prepare": ["csv", "--source", "nowhere.csv", "--output_dir", "out"],
    "push model": ["nowhere", "owner/name"],
    "push dataset": ["nowhere", "owner/name"],
    "push space": ["nowhere", "owner/name"],
    "study": ["nowhere.yaml"],
    "search": ["nowhere.yaml"],
    "train": ["nowhere.yaml"],
    "transfer": ["--corpora", "[{name: csv, data_dir: nowhere.csv, test: [dialogue]}]"],
}
"""What is not there, for each command that reads something."""


def check(code: int, output: str, errors: str, allowed: set[int]) -> None:
    assert code in allowed, errors
    assert "Traceback" not in output + errors
    assert not code or errors.strip()


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


LINES = {
    "help": (["--help"], {0}),
    "version": (["--version"], {2}),
    "unknown option": (["--no_such_option", "1"], {2}),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("line", [*LINES, "nothing", "missing file"])
def test_every_command(command, line):
    if line == "nothing" and command in ("train", "kernels"):
        pytest.skip("works without arguments")
    if line == "missing file" and command not in MISSING:
        pytest.skip("reads nothing")

    arguments, allowed = LINES.get(line, (MISSING[command] if line == "missing file" else [], {2}))
    done = bibier(*command.split(), *arguments)
    check(done.exit_code, done.stdout, done.stderr, allowed)
    if line == "help":
        assert done.stdout.startswith(f"usage: bibier {command}")
        assert command in ("kernels",) or f"  bibier {command}" in done.stdout  # an example


def test_a_misspelled_command():
    for arguments, message in (
        (["evalute"], "evalute: unknown command. Did you mean evaluate?"),
        (["augment", "stack"], "Allowed: components, preview, sds, tug."),
    ):
        done = bibier(*arguments)
        assert done.exit_code == 2
        assert message in done.stderr


def test_the_version():
    done = bibier("--version")
    assert (done.exit_code, done.stdout) == (0, f"bibier {version('bibier-hf')}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "CHECKPOINT", "--output_dir", "out", "--split", "banana"], "'train', 'dev' or 'test'"),
        (["export", "CHECKPOINT", "--output_dir", "out", "--format", "banana"], "'onnx' or 'torch'"),
        (["export", "CHECKPOINT", "--output_dir", "out", "--part", "banana"], "'features', 'whole' or 'samples'"),
        (["export", "CHECKPOINT", "--output_dir", "out", "--data_dir", "x"], "--corpus as well"),
        (["evaluate", "CHECKPOINT", "--split", "banana"], "'train', 'dev' or 'test'"),
        (["evaluate", "CHECKPOINT", "--corpus", "quickstart", "--batch_size", "0"], "batch_size:"),
        (["demo", "CHECKPOINT", "--port", "99999999"], "port:"),
        (["demo", "CHECKPOINT", "--port", "0"], "port:"),
        (["demo", "CHECKPOINT", "--asr_language", "ru"], "--asr"),
        (["predict", "CHECKPOINT", "--text", "Hello", "--threshold", "nan"], "threshold:"),
        (["predict", "CHECKPOINT", "a.wav", "--chunk_length_s", "inf"], "chunk_length_s:"),
        (["predict", "CHECKPOINT", "a.wav", "--chunk_length_s", "0"], "chunk_length_s"),
        (["predict", "CHECKPOINT", "a.wav", "--segmentation", "banana"], "banana"),
    ],
    ids=lambda value: " ".join(value[3:] if "export" in value else value[2:]) if isinstance(value, list) else "",
)
def test_values_that_mean_nothing(arguments, message, checkpoint):
    done = bibier(*[checkpoint if argument == "CHECKPOINT" else argument for argument in arguments])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def python(repository, *arguments, **environment) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(repository / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [os.fsencode(argument) for argument in (sys.executable, *arguments)],
        env=environment,
        capture_output=True,
        timeout=300,
        check=False,
    )


def test_without_docstrings_it_says_why_nothing_runs(repository):
    done = python(repository, "-OO", "-m", "bibier_cli", "predict", "nowhere", "--text", "Hello")
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: python -OO")


@pytest.mark.parametrize("call", ["main([])", "main(['--version'])", "sys.exit(run('describe', ['--help']))"])
def test_a_reader_that_goes_away_is_no_error(repository, call):
    done = python(
        repository,
        "-c",
        f"import os, sys; from bibier_cli import main, run; r, w = os.pipe(); os.close(r); os.dup2(w, 1); {call}",
    )
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr


@pytest.fixture
def russian_clip(clip, tmp_path) -> str:
    """A clip whose name is Russian in cp1251: no UTF-8."""
    soundfile.write(tmp_path / "clip.wav", clip(0.5), 16_000)
    name = os.fsdecode("город.wav".encode("cp1251"))
    os.rename("clip.wav", name)
    return name


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1251", "latin-1"])
def test_no_name_and_no_text_ends_in_an_encoding_error(encoding, russian_clip, checkpoint, monkeypatch):
    """The JSON is read back to the same name and text, whatever the terminal can show."""

    def predict(*options: str) -> tuple[bytes, bytes]:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        inputs = [russian_clip, f"nowhere-{russian_clip}"]
        assert run("predict", [str(checkpoint), *inputs, "--text", "Привет 😀", *options]) == 1
        out.flush()
        err.flush()
        return out.buffer.getvalue(), err.buffer.getvalue()

    answers, errors = predict("--json")
    good, bad = (json.loads(line) for line in answers.decode("utf-8").splitlines())
    assert (good["input"], good["text"]) == (russian_clip, "Привет 😀")
    assert bad["input"] == f"nowhere-{russian_clip}"
    assert b"1 of 2 inputs failed." in errors
    shown, _ = predict()
    assert len(shown.splitlines()) == 2


@pytest.mark.slow
def test_paths_on_stdin_are_names_of_files(russian_clip, repository, checkpoint, tmp_path):
    command = [sys.executable, "-m", "bibier_cli", "predict", str(checkpoint), "-"]
    path = os.pathsep.join([str(repository / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        input=os.fsencode(f"{russian_clip}\n"),
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert done.stdout.splitlines()[0] == rb"\udce3\udcee\udcf0\udcee\udce4.wav"
