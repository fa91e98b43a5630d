"""Rows in the common schema, made in process."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from bibier_hf.data.schema import FEATURES
from bibier_hf.flac import encode_flac


def make_rows(lengths: Sequence[int | None], with_audio: bool = True, **columns: Sequence) -> Dataset:
    """A train split with clips of these lengths in samples at 16 kHz (None: text only), in two languages and three
    labels.

    Each clip is a constant of its own, so that it can be found again in a stacked one.
    """
    rows = []
    for index, length in enumerate(lengths):
        samples = None if length is None else np.full(length, (index + 1) / 100, np.float32)
        rows.append(
            {
                "id": f"row-{index:03d}",
                "corpus": "toy",
                "split": "train",
                "audio": {"bytes": encode_flac(samples), "path": f"{index}.flac"}
                if with_audio and samples is not None
                else None,
                "text": f"text {index}",
                "language": "en" if index % 2 else "ru",
                "label": index % 3,
                "soft_label": None,
                "speaker": f"speaker-{index % 4}",
                "dialogue": f"dialogue-{index % 5}",
                "duration_s": None if length is None else length / 16_000,
                "source": "recorded",
                "license": "MIT",
                **{name: values[index] for name, values in columns.items()},
            }
        )
    return Dataset(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema))


@pytest.fixture(scope="session")
def rows() -> Callable[..., Dataset]:
    """`rows(lengths, with_audio, column=values, ...)`"""
    return make_rows
