"""The Space: what is in the folder, and that it runs as the Hub runs it, without the package."""

import ast
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from huggingface_hub import SpaceCard

from bibier_hf.demo import space
from bibier_hf.demo.space import PAGE_FILES, REQUIREMENTS, write_space
from bibier_hf.errors import ArgumentError


def test_the_folder(tmp_path):
    folder = write_space(tmp_path / "space", "owner/name")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "app.py",
        "bibier_demo",
        "examples",
        "requirements.txt",
    ]
    card = SpaceCard.load(folder / "README.md")
    assert (card.data.sdk, card.data.sdk_version, card.data.app_file) == ("gradio", version("gradio"), "app.py")
    assert card.data.models == ["owner/name"]
    assert len(card.data.short_description) <= 60  # the Hub allows no more
    for part in ("`owner/name`", "AI Act", "card lists its labels", f"gradio=={version('gradio')}"):
        assert part in card.text
    pins = dict(line.split("==") for line in (folder / "requirements.txt").read_text().splitlines())
    assert tuple(pins) == REQUIREMENTS
    assert "+" not in pins["torch"]
    assert 'os.environ.get("BIBIER_MODEL", "owner/name")' in (folder / "app.py").read_text()


def test_the_page_imports_nothing_of_the_package(repository):
    """Its modules, and only they, go into the Space; what they need stands in its requirements."""
    allowed = {*sys.stdlib_module_names, *REQUIREMENTS, "gradio"}
    package = repository / "src" / "bibier_hf"
    for name in (name for name in PAGE_FILES if name.endswith(".py")):
        path = package / name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                imported = path.parents[node.level - 1] / f"{(node.module or '').replace('.', '/')}.py"
                assert imported.relative_to(package).as_posix() in PAGE_FILES, (name, node.module)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert {module.split(".")[0] for module in modules} <= allowed, name


def test_what_is_replaced_and_what_is_not(tmp_path, monkeypatch):
    folder = write_space(tmp_path / "space", "owner/first")
    write_space(folder, "owner/second")
    assert "owner/second" in (folder / "app.py").read_text()

    def fails(_folder):
        raise RuntimeError("no speech")

    monkeypatch.setattr(space, "write_examples", fails)
    with pytest.raises(RuntimeError, match="no speech"):
        write_space(folder, "owner/third")
    assert "owner/second" in (folder / "app.py").read_text()  # a failure leaves the former Space whole
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="something other than a Space"):
        write_space(tmp_path / "mine", "owner/name")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "space"]


GUARD = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "bibier_hf":
            raise ImportError("the package is not installed here")

sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.slow
def test_it_runs_on_remote_code_alone(tmp_path, checkpoint, recordings):
    folder = write_space(tmp_path / "space", "owner/name")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(GUARD)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "PYTHONPATH": str(site),
        "BIBIER_MODEL": str(checkpoint),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
    }
    command = [sys.executable, "app.py"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "The demo runs at" in line:
                break
        else:
            raise AssertionError("".join(lines))
        client = Client(line.split()[4], verbose=False, analytics_enabled=False)
        for recording, text in (("short", "What a day!"), ("long", "")):
            bars, *_ = client.predict(handle_file(recordings[recording]), text, "en", api_name="/analyze")
            confidences = [entry["confidence"] for entry in bars["confidences"]]
            assert sum(confidences) == pytest.approx(1, abs=1e-4)
        scene = handle_file(Path(folder) / "examples" / "en_scene.flac")
        answers = client.predict(scene, "", "ru", api_name="/analyze")
        (rows,) = [answer["data"] for answer in answers if isinstance(answer, dict) and "data" in answer]
        assert rows[-1][1].startswith("0:")
    finally:
        process.terminate()
        process.communicate(timeout=60)
