"""Really pushed to a stand-in for the Hub and loaded from there, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bibier_hf.data.corpora import get_corpus
from bibier_hf.data.prepare import read_info
from bibier_hf.data.tables import CorpusError
from bibier_hf.hub.push import push_corpus

from ..hub_server import HubServer

LOAD = """
import json, sys
from datasets import load_dataset
from bibier_hf import decode_audio
corpus = load_dataset(sys.argv[1])
row = corpus["train"][0]
facts = {"rows": corpus.num_rows, "columns": corpus["train"].column_names, "label": corpus["train"].features["label"].names}
print(json.dumps(facts | {"row": {k: v for k, v in row.items() if k != "audio"}, "samples": len(decode_audio(row["audio"]))}))
"""


@pytest.fixture
def prepared(tiny_resd: Path, tmp_path: Path) -> Path:
    get_corpus("resd").prepare(tiny_resd, tmp_path / "resd-prepared", strict_counts=False)
    return tmp_path / "resd-prepared"


def run(hub: HubServer, repository: Path, home: Path, *command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **hub.client_environment(home), "PYTHONPATH": str(repository / "src")}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_a_corpus_is_pushed_privately_and_comes_back(hub, repository, prepared, tmp_path):
    command = ("-m", "bibier_cli", "push", "dataset", str(prepared), "owner/resd-bibier")
    done = run(hub, repository, tmp_path / "one", *command)
    assert done.returncode == 0, done.stderr
    assert "Pushed privately: http://127.0.0.1" in done.stdout
    stored = hub.repositories["datasets/owner/resd-bibier"]
    assert stored.private
    for path in prepared.iterdir():
        assert stored.files[path.name] == path.read_bytes()
    metadata = yaml.safe_load(stored.files["README.md"].decode().split("---")[1])
    assert (metadata["license"], metadata["language"]) == ("mit", ["ru"])
    loaded = run(hub, repository, tmp_path / "two", "-c", LOAD, "owner/resd-bibier")
    assert loaded.returncode == 0, loaded.stderr
    facts = json.loads(loaded.stdout)
    assert facts["rows"] == {"train": 6, "test": 3}
    assert facts["label"][0] == "anger"
    assert facts["samples"] == 3200
    assert facts["row"]["id"].startswith("resd-")
    assert facts["row"]["text"].startswith("Ну, «ёлка»")
    # the same again, publicly: it is private there, and stays so
    refused = run(hub, repository, tmp_path / "one", *command, "--public")
    assert refused.returncode == 2
    assert "exists and is private, but public was requested" in refused.stderr
    assert stored.private


@pytest.fixture
def meld_with_audio(tiny_resd: Path, tmp_path: Path) -> Path:
    """A prepared corpus that says of itself what MELD says."""
    get_corpus("resd").prepare(tiny_resd, tmp_path / "meld", strict_counts=False)
    info = read_info(tmp_path / "meld") | {"not_to_rehost": get_corpus("meld").not_to_rehost, "license": ["GPL-3.0"]}
    (tmp_path / "meld" / "corpus.json").write_text(json.dumps(info))
    return tmp_path / "meld"


def test_recordings_of_others_are_refused_unless_forced(meld_with_audio, hub):
    with pytest.raises(CorpusError, match=r"excerpts of a television series.*without audio.*--force_audio"):
        push_corpus(meld_with_audio, "owner/meld")
    assert not hub.repositories
    push_corpus(meld_with_audio, "owner/meld", force_audio=True)
    stored = hub.repositories["datasets/owner/meld"]
    assert stored.private
    assert "Note on the recordings:** its clips are excerpts" in stored.files["README.md"].decode()


def test_rows_of_unknown_licence_are_not_made_public(tmp_path, write_csv, table_rows, hub):
    write_csv(tmp_path / "talks.csv", table_rows(tmp_path))
    get_corpus("csv").prepare(tmp_path / "talks.csv", tmp_path / "out")
    with pytest.raises(CorpusError, match="unknown license"):
        push_corpus(tmp_path / "out", "owner/talks", private=False)
    with pytest.raises(FileNotFoundError, match=r"no corpus\.json"):
        push_corpus(tmp_path, "owner/talks")
    assert not hub.requests


def test_splits_of_a_former_push_are_removed_and_nothing_else(prepared, hub):
    push_corpus(prepared, "owner/resd")
    stored = hub.repositories["datasets/owner/resd"]
    stored.files |= {"dev.parquet": b"of a former push", "NOTES.md": b"written there"}
    push_corpus(prepared, "owner/resd")
    assert set(stored.files) == {"README.md", "corpus.json", "train.parquet", "test.parquet", "NOTES.md"}
