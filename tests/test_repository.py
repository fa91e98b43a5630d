"""The files around the package: versions and lock, workflows, Dockerfile, issue forms, notebook."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .workspace import Workspace

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


def locked_packages() -> list[dict]:
    return tomllib.loads((REPOSITORY / "uv.lock").read_text(encoding="utf-8"))["package"]


# Versions


def test_the_lock_holds_the_tested_versions():
    pins = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==(.+)$", read("constraints.txt"), re.MULTILINE)
    }
    locked: dict[str, set[str]] = {}
    for package in locked_packages():
        locked.setdefault(package["name"], set()).add(package.get("version", ""))

    different = {name: (pin, locked.get(name)) for name, pin in pins.items() if pin not in locked.get(name, ())}
    assert not different, "uv.lock and constraints.txt disagree; make lock"


def test_the_lock_belongs_to_the_dependencies():
    """`uv lock --check` asks the index; this compares what was asked for."""
    (own,) = (package for package in locked_packages() if package["name"] == PROJECT["project"]["name"])
    metadata = own["metadata"]
    wanted = [
        *PROJECT["project"]["dependencies"],
        *(line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines),
    ]
    assert {entry["name"] for entry in metadata["requires-dist"]} == {package_of(line) for line in wanted}
    assert set(metadata["provides-extras"]) == set(PROJECT["project"]["optional-dependencies"])

    for group, lines in PROJECT["dependency-groups"].items():
        if all(isinstance(line, str) for line in lines):
            assert {entry["name"] for entry in metadata["requires-dev"][group]} == {package_of(line) for line in lines}


def test_the_lock_names_public_indexes_only():
    hosts = set(re.findall(r"https?://([^/\"]+)", read("uv.lock")))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    assert "file:" not in read("uv.lock")


@pytest.mark.slow
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_the_dependencies_can_be_resolved(resolution, tmp_path):
    if find_spec("uv") is None:
        pytest.skip("uv is not installed")
    command = [sys.executable, "-m", "uv", "pip", "compile", "-q", "--resolution", resolution, "--extra", "all"]
    done = subprocess.run(
        [*command, "--python-version", "3.11", "pyproject.toml", "-o", str(tmp_path / "out.txt")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    if resolution == "lowest-direct":
        resolved = dict(re.findall(r"^([\w.-]+)==(\S+)", (tmp_path / "out.txt").read_text(), re.MULTILINE))
        floors = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
        assert all(resolved[floor.name] in floor.specifier for floor in floors)


# Workflows


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path):
    used = re.findall(r"uses: (.+)", path.read_text(encoding="utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_only_read(path: Path):
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}


def test_every_python_that_is_promised_is_tested():
    promised = {
        line.rpartition(" ")[2]
        for line in PROJECT["project"]["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", line)
    }
    matrix = yaml.safe_load(read(".github/workflows/tests.yml"))["jobs"]["test"]["strategy"]["matrix"]
    assert set(matrix["python"]) == promised
    assert {"pinned", "lowest", "newest"} == {*matrix["versions"], *(entry["versions"] for entry in matrix["include"])}
    assert PROJECT["project"]["requires-python"] == f">={min(promised)}"


def test_targets_that_workflows_and_hooks_call_exist():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    called = [*WORKFLOWS, REPOSITORY / ".ci" / "run"]
    for path in called:
        for line in re.findall(r"^(?:\s+- run: )?make (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert set(line.split()) <= targets, f"{path.name}: make {line}"


def test_hooks_call_installed_tools():
    (local,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    tools = {package_of(line) for line in PROJECT["dependency-groups"]["lint"]}
    assert {hook["entry"].split()[0] for hook in local["hooks"]} <= tools


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_issue_forms(name):
    form = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert {"name", "description", "body"} <= set(form)
    assert all(field["type"] and field["attributes"]["label"] for field in form["body"])
    assert len({field["id"] for field in form["body"]}) == len(form["body"])


# Container


def test_the_container_is_built_from_what_exists():
    lines = read("Dockerfile").replace("\\\n", " ").splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if re.match(r"[A-Z]+ ", line)]
    stages = [rest for name, rest in instructions if name == "FROM"]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+ AS base", stages[0]), "pin the base image"
    assert stages[1:] == ["base AS serve", "base AS demo"], "the demo is the default"

    sources = [word for name, rest in instructions if name == "COPY" for word in rest.split()[:-1]]
    kept = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    assert sources
    assert set(sources) == kept, ".dockerignore keeps what is copied, and nothing else"
    assert all((REPOSITORY / source).exists() for source in sources)

    names = [name for name, _ in instructions]
    assert names.index("USER") < names.index("ENTRYPOINT"), "do not serve as root"
    entries = [json.loads(rest) for name, rest in instructions if name == "ENTRYPOINT"]
    ports = [rest for name, rest in instructions if name == "EXPOSE"]
    assert [entry[:3] for entry in entries] == [["bibier", "serve", "/model"], ["bibier", "demo", "/model"]]
    assert ports == [entry[entry.index("--port") + 1] for entry in entries]
    (check,) = (rest for name, rest in instructions if name == "HEALTHCHECK")
    assert f":{ports[0]}/health" in check

    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", read("Dockerfile"))
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_the_container_passes_its_linter():
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, "Dockerfile"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# Notebook


def notebook_script(path: Path) -> str:
    """The cells of a notebook as one script; shell lines become calls."""
    lines = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            lines += "".join(cell["source"]).splitlines()
    return "\n".join(
        f"import subprocess; subprocess.run(f{line[1:]!r}, shell=True, check=True)" if line.startswith("!") else line
        for line in lines
    )


@pytest.mark.parametrize("name", ["quickstart", "your_labels"])
def test_a_notebook_is_clean(name):
    notebook = json.loads(read(f"notebooks/{name}.ipynb"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    compile(notebook_script(REPOSITORY / "notebooks" / f"{name}.ipynb"), f"{name}.ipynb", "exec")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, checkpoint, clip):
    workspace = Workspace(tmp_path / "clone", REPOSITORY, checkpoint, clip)
    script = notebook_script(REPOSITORY / "notebooks" / "quickstart.ipynb")
    assert "EPOCHS = 12" in script
    (workspace.folder / "notebook.py").write_text(script.replace("EPOCHS = 12", "EPOCHS = 1"), encoding="utf-8")

    done = workspace.run(shlex.join(["python", "notebook.py"]), {"MPLBACKEND": "Agg"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "speech only:" in done.stdout
    assert (workspace.folder / "outputs" / "timeline.png").is_file()


@pytest.mark.slow
def test_the_notebook_about_labels_runs(tmp_path, checkpoint, clip):
    workspace = Workspace(tmp_path / "clone", REPOSITORY, checkpoint, clip)
    script = notebook_script(REPOSITORY / "notebooks" / "your_labels.ipynb")
    assert "EPOCHS = 5" in script
    (workspace.folder / "notebook.py").write_text(script.replace("EPOCHS = 5", "EPOCHS = 1"), encoding="utf-8")

    done = workspace.run(shlex.join(["python", "notebook.py"]))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "cross-validated answers (4 folds over speakers)" in done.stdout
    assert "'no complaint'" in done.stdout
    assert (workspace.folder / "outputs" / "calls" / "trained" / "README.md").is_file()


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def package_of(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)
