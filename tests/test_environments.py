"""The command gives the same answers wherever and however Python is started."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Environment:
    """How the command is started: options of Python, variables that are set (None: removed), and the folder."""

    options: tuple[str, ...] = ()
    variables: dict[str, str | None] = field(default_factory=dict)
    folder: str = "."


ENVIRONMENTS = {
    "C locale": Environment(
        variables={"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
    ),
    "python -O": Environment(options=("-O",)),
    "deprecations are errors": Environment(options=("-W", "error::DeprecationWarning:bibier_hf")),
    "no TMPDIR": Environment(variables={"TMPDIR": None, "TEMP": None, "TMP": None}),
    "another working folder": Environment(folder="/"),
    "no ffmpeg, no compiler": Environment(variables={"PATH": "/nowhere", "CXX": None}),
    "another hash seed": Environment(variables={"PYTHONHASHSEED": "7"}),
}


def predict(environment: Environment, repository: Path, folder: Path) -> list[dict]:
    variables = os.environ | {"PYTHONPATH": str(repository / "src"), "OMP_NUM_THREADS": "1"} | environment.variables
    done = subprocess.run(
        [sys.executable, *environment.options, "-m", "bibier_cli", "predict", "bibier-tiny", "--demo", "--json"],
        env={name: value for name, value in variables.items() if value is not None},
        cwd=folder / environment.folder,
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]


@pytest.fixture(scope="module")
def expected(repository, tmp_path_factory) -> list[dict]:
    answers = predict(Environment(), repository, tmp_path_factory.mktemp("plain"))
    assert len(answers) == 2
    return answers


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_answers_are_the_same(name, expected, repository, tmp_path, about):
    found = predict(ENVIRONMENTS[name], repository, tmp_path)
    for answer, other in zip(found, expected, strict=True):
        assert (answer["input"], answer["text"]) == (other["input"], other["text"])
        assert [about(entry) for entry in other["emotions"]] == answer["emotions"]
