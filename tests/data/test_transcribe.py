"""Missing transcripts: with a stand-in that tells what it hears, and with a real model where there is one."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bibier_cli import run
from bibier_hf import decode_audio
from bibier_hf.asr import SpeechRecognizer
from bibier_hf.data.corpora import get_corpus, load_corpus
from bibier_hf.data.prepare import TRANSCRIPT_SOURCE, load_prepared
from bibier_hf.data.tables import CorpusError


class Loudness:
    """Writes down how long and how loud a clip is, and hears nothing in short ones."""

    def __init__(self, version: int = 1):
        self.facts = {"name": "loudness", "version": version}
        self.calls: list[tuple[int, str]] = []

    def __call__(self, clips: Sequence[np.ndarray], language: str) -> list[str]:
        self.calls.append((len(clips), language))
        return [f"{language} {len(clip)} {np.abs(clip).max():.2f}" if len(clip) > 700 else "" for clip in clips]


@pytest.fixture
def table(tmp_path, write_csv, table_rows) -> Path:
    """42 recordings in two languages: two of three without text, one of them very short."""
    rows = table_rows(tmp_path)
    for number, row in enumerate(rows):
        row["text"] = "" if number % 3 else row["text"]
        row["language"] = "ru" if number % 2 else "en"
    return write_csv(tmp_path / "talks.csv", rows)


def test_missing_texts_are_written_and_marked(table, tmp_path, write_tone):
    write_tone(tmp_path / "wavs" / "001_disgust.wav", seconds=0.02)
    asr = Loudness()
    info = get_corpus("csv").prepare(table, tmp_path / "out", asr=asr)
    rows = [row for dataset in load_prepared(tmp_path / "out").values() for row in dataset]
    assert {row[TRANSCRIPT_SOURCE] for row in rows if row["text"].startswith("Sentence")} == {"corpus"}
    written = [row for row in rows if row[TRANSCRIPT_SOURCE] == "asr"]
    assert len(written) == 28
    assert sorted(row["text"] for row in written)[0] == ""
    assert all(row["text"] == f"{row['language']} 800 0.40" for row in written if row["text"])
    assert info["asr"] == {"model": asr.facts, "filled": 27, "no_speech": 1}
    assert sum(number for number, _ in asr.calls) == 28
    assert {language for _, language in asr.calls} == {"en", "ru"}


def test_the_same_model_gives_the_same_bytes_and_another_another_cache(table, tmp_path):
    for name in ("one", "two"):
        get_corpus("csv").prepare(table, tmp_path / name, asr=Loudness())
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    first, second, other = Loudness(), Loudness(), Loudness(version=2)
    for asr in (first, second, other, None):
        load_corpus("csv", table, asr=asr)
    assert first.calls
    assert second.calls == []  # from the cache
    assert other.calls
    assert TRANSCRIPT_SOURCE not in load_corpus("csv", table)["train"].column_names
    load_corpus("csv", tmp_path / "one", asr=Loudness())
    with pytest.raises(CorpusError, match="was prepared with asr="):
        load_corpus("csv", tmp_path / "one", asr=Loudness(version=2))


def test_what_is_no_model_is_said(table, tmp_path, capsys):
    arguments = [
        "csv",
        "--source",
        str(table),
        "--output_dir",
        str(tmp_path / "out"),
        "--asr",
        str(tmp_path / "nowhere"),
    ]
    assert run("prepare", arguments) == 2
    assert "is not a speech recognition model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_whisper_writes_russian(shared, tmp_path, write_csv):
    backbones = os.environ.get("BIBIER_BACKBONES")
    if not backbones:
        pytest.skip("BIBIER_BACKBONES names no folder with whisper-base")
    clips = sorted((shared / "data" / "resd" / "wavs" / "test").iterdir())[:3]
    rows = [{"audio": str(path), "label": "joy", "language": "ru", "split": "test"} for path in clips]
    table = write_csv(tmp_path / "talks.csv", rows)
    asr = SpeechRecognizer(f"{backbones}/whisper-base", batch_size=2)
    for name in ("one", "two"):
        info = get_corpus("csv").prepare(table, tmp_path / name, asr=asr)
    assert (tmp_path / "one" / "test.parquet").read_bytes() == (tmp_path / "two" / "test.parquet").read_bytes()
    assert info["asr"]["model"]["name"] == "whisper-base"
    assert len(info["asr"]["model"]["revision"]) == 40
    texts = list(load_prepared(tmp_path / "one")["test"]["text"])
    assert all("а" <= letter.lower() <= "я" or letter in "ёЁ" for text in texts for letter in text if letter.isalpha())
    assert any("туфли на размер меньше" in text for text in texts)  # as the corpus's own transcript says
    alone = SpeechRecognizer(f"{backbones}/whisper-base")
    assert {alone([decode_audio(path)], "ru")[0] for path in clips} == set(texts)
    long = np.concatenate([np.tile(np.float32(0.1) * np.sin(np.arange(16_000, dtype=np.float32) / 20), 31)])
    assert isinstance(asr([long], "ru")[0], str)  # longer than one window
