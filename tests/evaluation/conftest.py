"""Corpora with planted leaks, and clean ones."""

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from datasets import Dataset, DatasetDict

from bibier_hf.data.clips import neutral_id
from bibier_hf.data.schema import FEATURES

WORDS = "amber basket candle dragon engine forest garden hammer island jacket kettle ladder mirror needle orange pencil".split()


def _flac(samples: np.ndarray) -> dict:
    content = io.BytesIO()
    soundfile.write(content, samples, 16_000, format="FLAC", subtype="PCM_16")
    return {"bytes": content.getvalue(), "path": None}


def _voice(pitch: float, seed: int, seconds: float = 1.6) -> np.ndarray:
    """Syllables at a pitch, with pauses and noise that the seed draws: nothing of it tells the label."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16_000)) / 16_000
    loudness = np.repeat(generator.uniform(0, 1, 16), len(time) // 16)
    loudness = np.pad(loudness, (0, len(time) - len(loudness)))
    timbre = np.repeat(generator.uniform(0, 1, (6, 16)), len(time) // 16, axis=1)
    tones = [strength * np.sin(2 * np.pi * pitch * (number + 1) * time) for number, strength in enumerate(timbre)]
    return (0.1 * loudness * np.sum(tones, axis=0) + 0.003 * generator.standard_normal(len(time))).astype(np.float32)


@pytest.fixture(scope="session")
def voice() -> Callable[..., np.ndarray]:
    """`voice(pitch, seed, seconds)` -> float32 (samples,) at 16 kHz"""
    return _voice


@pytest.fixture(scope="session")
def make_row() -> Callable[..., dict]:
    """`make_row(number, split, label, **columns)`: a row of the common schema; `samples` becomes its audio."""

    def row(number: int, split: str, label: int, samples: np.ndarray | None = None, **columns) -> dict:
        words = np.random.default_rng(number).choice(WORDS, 6)
        return {
            "id": neutral_id("x", str(number)),
            "corpus": "planted",
            "split": split,
            "audio": None if samples is None else _flac(samples),
            "text": " ".join(words),
            "language": "en",
            "label": label,
            "soft_label": None,
            "speaker": None,
            "dialogue": None,
            "duration_s": None if samples is None else len(samples) / 16_000,
            "source": "recorded",
            "license": "MIT",
        } | columns

    return row


@pytest.fixture(scope="session")
def make_splits() -> Callable[[list[dict]], DatasetDict]:
    """`make_splits(rows)`: train, dev and test of the common schema"""

    def splits(rows: list[dict]) -> DatasetDict:
        tables = {
            split: pa.Table.from_pylist([row for row in rows if row["split"] == split], schema=FEATURES.arrow_schema)
            for split in ("train", "dev", "test")
        }
        return DatasetDict({split: Dataset(table) for split, table in tables.items()})

    return splits


@pytest.fixture(scope="session")
def corpus_of_speakers(make_row, make_splits, voice) -> Callable[..., DatasetDict]:
    """`corpus_of_speakers(shared)`: fourteen speakers, two an emotion, each with a pitch of their own and that one
    emotion.

    shared=True: every speaker is in every split. False: those of test and dev speak nowhere else, and have another's
    emotion's pitch.
    """

    @cache
    def corpus(shared: bool) -> DatasetDict:
        rows = []
        for split, count in (("train", 5), ("dev", 2), ("test", 2)):
            for speaker in range(14):
                for _ in range(count):
                    number = len(rows)
                    name = f"s{speaker}" if shared else f"{split}-s{speaker}"
                    label = speaker % 7 if shared else (number * 5 + speaker // 2) % 7
                    rows.append(
                        make_row(
                            number,
                            split,
                            label,
                            voice(110 + 23 * speaker, number),
                            speaker=name,
                            dialogue=f"{split}-{number}",
                        )
                    )
        return make_splits(rows)

    return corpus
