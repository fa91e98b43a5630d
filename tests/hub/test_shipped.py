"""The checkpoints that come with the package, and the default of `pipeline("audio-text-emotion")`."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bibier_hf.commands.checkpoint import load_config
from bibier_hf.commands.evaluate import EvaluateArguments
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.metrics import classification_metrics
from bibier_hf.hub import shipped
from bibier_hf.hub.shipped import (
    SHIPPED,
    SMALL,
    TINY,
    DefaultModel,
    checkpoint_source,
    default_checkpoint,
    shipped_checkpoint,
)
from bibier_hf.labels import EMOTIONS
from ship import ship

LARGEST = 10_000_000
"""Bytes of a shipped checkpoint."""


@pytest.mark.parametrize("name", SHIPPED)
def test_a_checkpoint_is_small_and_says_what_it_is(repository, name: str):
    folder = shipped_checkpoint(name)
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert size < LARGEST
    page = (repository / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    assert f"| `{name}` | {size / 1e6:.1f} MB |" in page
    assert not [path for path in files if path.suffix == ".py"], "the package has the code"

    config = load_config(name)
    assert tuple(config.label_names) == EMOTIONS
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert not {"auto_map", "custom_pipelines"} & content.keys()
    assert not re.search(r'"/[^"]*/', json.dumps(content)), "a path of the machine that trained it"

    card = (folder / "README.md").read_text(encoding="utf-8")
    for word in ("license_name: cc-by-nc-sa-4.0-and-gpl-3.0", "RAVDESS", "RESD", "MELD", "commercial"):
        assert word in card


def test_tiny_contains_everything_and_small_names_its_backbones():
    tiny, small = (load_config(name) for name in (TINY, SMALL))
    assert all(part.backbone_stored for part in tiny.modality_configs.values())
    names = {modality: part.backbone_id for modality, part in small.modality_configs.items()}
    assert names == {"audio": "openai/whisper-base", "text": "intfloat/multilingual-e5-small"}


@pytest.mark.parametrize(
    ("name", "end", "given"),
    [
        (SMALL, "## bibier-tiny", {"ravdess": "both", "resd": "both", "meld": "text"}),
        (TINY, "### Limits", {"ravdess": "speech", "resd": "speech", "meld": "text"}),
    ],
)
def test_the_documented_scores_are_those_of_the_stored_answers(repository, name, end, given):
    page = (repository / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    section = page[page.index(f"## {name}") : page.index(end)]
    path = repository / "benchmarks" / "answers" / f"{name.replace('-', '_')}.csv"
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for corpus, read in given.items():
        labels, answers = zip(
            *((int(row["label"]), int(row["answer"])) for row in rows if row["corpus"] == corpus), strict=True
        )
        scores = classification_metrics(labels, answers)
        (line,) = [
            line for line in section.splitlines() if line.startswith(f"| {corpus.upper()}, ") and f"| {read} |" in line
        ]
        _, _, count, _, uar, wf1, _ = (cell.strip() for cell in line.split("|"))
        assert int(count) == len(labels)
        assert float(uar.split()[0]) == round(100 * scores["uar"], 2)
        assert float(wf1) == round(100 * scores["wf1"], 2)


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint_source(TINY) == str(shipped_checkpoint(TINY))
    assert checkpoint_source("owner/name") == "owner/name"
    with pytest.raises(ArgumentError, match=r"^model: bibier-tny is neither .*\. Did you mean bibier-tiny\?$"):
        checkpoint_source("bibier-tny")
    Path(TINY).mkdir()
    assert checkpoint_source(TINY) == TINY, "a folder of the user"
    with pytest.raises(
        ValueError, match="'bibier-huge' does not come with the package; bibier-small and bibier-tiny do"
    ):
        shipped_checkpoint("bibier-huge")


def test_an_evaluation_does_not_hide_the_checkpoint(tmp_path, monkeypatch):
    """Reports do not go to a new folder with its name, which would win."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    places = {TINY: f"outputs/{TINY}", "owner/name": "outputs/name", "own": "own"}
    for name, place in places.items():
        options = EvaluateArguments.from_command_line([name, "--corpus", "resd"])
        assert options.output_dir == f"{place}/evaluation-resd"


def test_the_default_is_small_where_its_backbones_are_cached(monkeypatch):
    cached = {"openai/whisper-base"}
    monkeypatch.setattr(
        shipped, "try_to_load_from_cache", lambda name, file, revision: "/cache/file" if name in cached else None
    )
    assert default_checkpoint().name == TINY
    cached.add("intfloat/multilingual-e5-small")
    assert default_checkpoint().name == SMALL
    assert DefaultModel()["model"] == (str(shipped_checkpoint(SMALL)), "main")


def test_three_lines_without_a_network(tmp_path):
    code = """
import bibier_hf
from transformers import pipeline
pipe = pipeline("audio-text-emotion")
import numpy as np
voice = np.random.default_rng(0).normal(size=16_000).astype("float32") * 0.1
for given in ({"text": "I can't believe it!"}, {"array": voice, "sampling_rate": 16_000}, {"text": "Что за день."}):
    answer = pipe(given)
    print(len(answer), round(sum(label["score"] for label in answer), 3))
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["7 1.0"] * 3
    assert "trust_remote_code" not in run.stderr


def test_nothing_is_removed_for_a_folder_without_a_checkpoint(tmp_path):
    before = sorted(shipped_checkpoint(TINY).iterdir())
    with pytest.raises(FileNotFoundError, match="bibier-tiny is unchanged"):
        ship(tmp_path, TINY)
    assert sorted(shipped_checkpoint(TINY).iterdir()) == before
