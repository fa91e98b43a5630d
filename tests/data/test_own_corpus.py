"""A corpus in one small file outside of the package, exactly as the documentation of `bibier_hf.data.corpora` shows
it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bibier_hf.data import corpora
from bibier_hf.data.corpora import CORPORA, get_corpus, load_corpus, register_corpus
from bibier_hf.data.protocols import apply_protocol
from bibier_hf.data.tables import CorpusError

from ..workspace import own_corpus_code


@pytest.fixture
def own(tmp_path: Path, write_tone) -> Path:
    """The file of the documentation, and recordings beside it."""
    (tmp_path / "my_corpus.py").write_text(own_corpus_code(), encoding="utf-8")
    for number, (speaker, emotion) in enumerate(
        (s, e) for s in ("s1", "s2", "s3", "s4", "s5") for e in ("joy", "anger", "fear")
    ):
        write_tone(tmp_path / "recordings" / f"{speaker}_{emotion}_{number}.wav", 200 + 10 * number, 0.05)
    return tmp_path / "my_corpus.py"


def test_the_file_is_a_name(own, tmp_path):
    loaded = load_corpus(str(own), tmp_path / "recordings", language="ru")
    assert loaded.num_rows == {"train": 12, "test": 3}
    assert set(loaded["train"]["corpus"]) == {"mine"}
    assert set(loaded["train"]["language"]) == {"ru"}
    arranged = apply_protocol(loaded, "speaker_independent", fold=2)
    assert {split: len(dataset) for split, dataset in arranged.items()} == {"train": 9, "dev": 3, "test": 3}


def test_it_is_prepared_by_a_script(own, tmp_path, repository):
    script = [sys.executable, str(repository / "dataset_scripts" / "prepare_corpus.py"), str(own)]
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    arguments = ["--source", str(tmp_path / "recordings"), "--output_dir", str(tmp_path / "out"), "--language", "en"]
    done = subprocess.run(
        [*script, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert load_corpus(str(own), tmp_path / "out").num_rows == {"train": 12, "test": 3}


def test_it_is_registered_by_its_name(own, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "CORPORA", dict(CORPORA))
    corpus = get_corpus(str(own))
    register_corpus(corpus)
    register_corpus(corpus)
    assert load_corpus("mine", tmp_path / "recordings").num_rows == {"train": 12, "test": 3}
    with pytest.raises(CorpusError, match="The name 'mine' is taken by 'My corpus'"):
        register_corpus(get_corpus(str(own)))


def test_files_without_a_corpus_are_refused(tmp_path):
    (tmp_path / "none.py").write_text("x = 1\n")
    with pytest.raises(CorpusError, match="must define CORPUS"):
        get_corpus(str(tmp_path / "none.py"))
    with pytest.raises(FileNotFoundError, match="No file"):
        get_corpus(str(tmp_path / "gone.py"))
