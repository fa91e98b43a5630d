"""Tiny corpora on disk, and caches that stay inside the test's folder."""

import csv
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile


@pytest.fixture(autouse=True)
def _caches_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_datasets")


def _write_tone(
    path: Path, frequency: float = 220.0, seconds: float = 0.2, rate: int = 16_000, channels: int = 1
) -> None:
    """A tone as an audio file of any format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.4 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    # as integers: floats are rounded differently for WAV and for FLAC
    soundfile.write(path, np.tile(np.int16(32767 * tone)[:, None], (1, channels)), rate)


def _write_csv(path: Path, rows: list[dict], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


_NAMES = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")


def _table_rows(folder: Path, per_label: int = 6, speakers: int = 6) -> list[dict]:
    """Rows with recordings: every label `per_label` times, the speakers in turn."""
    rows = []
    for number in range(per_label * len(_NAMES)):
        path = f"wavs/{number:03d}_{_NAMES[number % 7]}.wav"
        _write_tone(folder / path, 150 + 10 * number, seconds=0.05)
        rows.append(
            {
                "audio": path,
                "text": f"Sentence number {number}, ёжик.",
                "label": _NAMES[number % 7],
                "language": "en",
                "speaker": f"s{number % speakers}",
            }
        )
    return rows


@pytest.fixture(scope="session")
def write_tone() -> Callable[..., None]:
    """`write_tone(path, frequency, seconds, rate, channels)`"""
    return _write_tone


@pytest.fixture(scope="session")
def write_csv() -> Callable[..., Path]:
    """`write_csv(path, rows, delimiter)`"""
    return _write_csv


@pytest.fixture(scope="session")
def table_rows() -> Callable[..., list[dict]]:
    """`table_rows(folder, per_label, speakers)`: rows of a table whose recordings are written into the folder"""
    return _table_rows


RESD_CLIPS = [
    # name, emotion, split
    ("02_anger_neutral a_010", "anger", "train"),
    ("02_anger_neutral a_020", "anger", "train"),
    ("02_anger_neutral n_010", "neutral", "test"),
    ("11_happiness_enthusiasm e_010", "enthusiasm", "train"),
    ("11_happiness_enthusiasm h_010", "happiness", "train"),
    ("19_fear_sadness_f_010", "fear", "train"),
    ("19_fear_sadness_s_010", "sadness", "test"),
    ("10_disgust_happiness d_010", "disgust", "train"),
    ("46_sadness_disgust_d_010", "disgust", "test"),
]
"""One dialogue of each of the five folds."""


@pytest.fixture
def tiny_resd(tmp_path: Path) -> Path:
    """RESD's layout with metadata.csv: 9 clips of 5 dialogues."""
    folder = tmp_path / "resd"
    rows = []
    for number, (name, emotion, split) in enumerate(RESD_CLIPS):
        path = f"wavs/{split}/{name.replace(' ', '_')}.flac"
        _write_tone(folder / path, 200 + 20 * number)
        rows.append(
            {
                "file_name": path,
                "text": f"Ну, «ёлка» № {number}!",
                "emotion": emotion,
                "split": split,
                "orig_name": name,
                "dialog_fold": "",
            }
        )
    _write_csv(folder / "metadata.csv", rows)
    return folder


@pytest.fixture
def tiny_resd_original(tmp_path: Path) -> Path:
    """The same clips as `tiny_resd` in the original layout: train.csv, test.csv, recordings in folders, names with
    blanks."""
    folder = tmp_path / "resd_original"
    rows: dict[str, list[dict]] = {"train": [], "test": []}
    for number, (name, emotion, split) in enumerate(RESD_CLIPS):
        _write_tone(folder / split / name.split("_")[0] / f"{name}.wav", 200 + 20 * number)
        rows[split].append({"name": name, "emotion": emotion, "text": f"Ну, «ёлка» № {number}!"})
    for split, table in rows.items():
        _write_csv(folder / f"{split}.csv", table[::-1])
    return folder
