"""Building and loading the kernels: many processes, no compiler, a broken one, a library that is none, what
`BIBIER_KERNEL` says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bibier_hf import kernels
from bibier_hf.kernels import KernelError, build, library_path, load_kernels
from bibier_hf.kernels.operators import register

SCAN = """
import sys, torch
import bibier_hf
from bibier_hf.model.mamba_bibier import selective_scan
used = bibier_hf.load_kernels(build_missing=sys.argv[1] == "build")
y = selective_scan(*(torch.full(shape, 0.5) for shape in ((1, 3, 2), (1, 3, 2), (2, 4), (1, 3, 4), (1, 3, 4), (2,))))
print(used, hasattr(torch.ops.bibier_hf, "selective_scan"), f"{y.sum().item():.4f}")
"""
RESULT = "5.1084"


def start(cache: Path, build: bool) -> subprocess.Popen:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", SCAN, "build" if build else "no"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_that_build_at_once_and_one_that_finds_it_built(tmp_path: Path):
    if not load_kernels(build_missing=True):
        pytest.skip("the kernels cannot be compiled here")
    processes = [start(tmp_path, build=True) for _ in range(3)]
    finished = [process.communicate(timeout=300) for process in processes]
    assert [output.strip() for output, _ in finished] == [f"True True {RESULT}"] * 3, finished
    assert any("Compiling the kernels" in errors for _, errors in finished)
    assert {path.suffix for path in tmp_path.rglob("mamba-*")} <= {".lock", ".so"}
    output, errors = start(tmp_path, build=False).communicate(timeout=300)
    assert output.strip() == f"True True {RESULT}"
    assert "Compiling" not in errors


@pytest.mark.slow
def test_import_and_prediction_compile_nothing(tmp_path: Path):
    output, errors = start(tmp_path, build=False).communicate(timeout=300)
    assert output.strip() == f"False False {RESULT}", errors
    assert not list(tmp_path.rglob("*.so"))


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in a process that has not loaded the kernels yet, with an empty cache."""
    monkeypatch.setattr(kernels, "_state", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("BIBIER_KERNEL", raising=False)
    return tmp_path


def make_fault(fault: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Brings the fault about; returns a part of the message that tells it."""
    if fault == "no compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
        return "no C++ compiler"
    if fault in ("blank CXX", "unclosed quote in CXX"):
        monkeypatch.setenv("CXX", " " if fault == "blank CXX" else 'g++ "-O2')
        return "names no compiler"
    if fault == "broken compiler":
        script = cache / "broken-c++"
        script.write_text("#!/bin/sh\necho 'a header is missing' >&2\nexit 1\n")
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        return "a header is missing"
    if fault == "unwritable cache":
        (cache / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
        return "XDG_CACHE_HOME names another place"
    path = library_path()
    path.parent.mkdir(parents=True)
    path.write_text("not a library")
    return f"Delete {path}"


@pytest.mark.parametrize(
    "fault",
    ["no compiler", "blank CXX", "unclosed quote in CXX", "broken compiler", "unwritable cache", "broken library"],
)
def test_whatever_fails_is_told_once_and_torch_goes_on(fault: str, fresh: Path, monkeypatch: pytest.MonkeyPatch):
    warnings = []
    monkeypatch.setattr(kernels.logger, "warning", warnings.append)
    expected = make_fault(fault, fresh, monkeypatch)
    assert not load_kernels(build_missing=True)
    assert not load_kernels(build_missing=True)
    told = [text for text in warnings if expected in text]
    assert len(told) == 1, warnings
    assert "BIBIER_KERNEL=torch" in told[0]
    assert not list(fresh.rglob("*.part"))


@pytest.mark.parametrize("fault", ["no compiler", "blank CXX", "unclosed quote in CXX", "broken library"])
def test_building_them_a_failure_is_an_error(fault: str, fresh: Path, monkeypatch: pytest.MonkeyPatch):
    expected = make_fault(fault, fresh, monkeypatch)
    with pytest.raises(KernelError) as caught:
        register(library_path()) if fault == "broken library" else build(library_path())
    assert expected in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "message", "arguments"),
    [
        ({"CXX": "no-such-compiler"}, "There is no C++ compiler", ["-m", "bibier_cli", "kernels"]),
        ({"CXX": " "}, "CXX=' ' names no compiler", ["-m", "bibier_cli", "kernels"]),
        ({"BIBIER_KERNEL": "cuda"}, "must be one of auto, torch", ["-m", "bibier_cli", "kernels"]),
        ({"BIBIER_KERNEL": "cuda"}, "must be one of auto, torch", ["-m", "bibier_cli", "train", "none.yaml"]),
    ],
)
def test_a_command_says_in_one_line_why_there_are_no_kernels(tmp_path, repository, variables, message, arguments):
    """The kernels are loaded when the package is imported, before any command runs."""
    environment = os.environ | variables | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(repository / "src")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_torch_is_never_compiled(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BIBIER_KERNEL", "torch")
    assert not load_kernels(build_missing=True)
    assert not list(fresh.rglob("*.so"))


def test_an_unknown_choice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BIBIER_KERNEL", "cuda")
    with pytest.raises(ValueError, match="auto, torch"):
        load_kernels()
