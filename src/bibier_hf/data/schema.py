"""The common schema of prepared corpora, with one row per utterance:

| column | type | meaning |
|---|---|---|
| `id` | string | unique within the corpus; does not reveal the label |
| `corpus` | string | `resd`, `quickstart`, or the name of a table |
| `split` | string | `train`, `dev` or `test` |
| `audio` | Audio, undecoded | `{"bytes": FLAC at 16 kHz mono, "path": id + ".flac"}`; None for a text-only row |
| `text` | string | transcript; "" for an audio-only row |
| `language` | string | ISO 639 code: `en`, `ru` |
| `label` | ClassLabel | index into the label set, whose names are `features["label"].names` |
| `soft_label` | list of floats or None | distribution in the order of the label set, sum 1 |
| `speaker` | string or None | who speaks |
| `dialogue` | string or None | the recording session: the group that a fair split keeps together |
| `duration_s` | float or None | seconds of audio; None for a text-only row |
| `source` | string | `recorded`, `synthetic` or `stacked` |
| `license` | string | license of the row |
| `target` | list of 0 and 1, or of numbers | only in a corpus of several labels at once or of values ([`~bibier_hf.data.targets`]); its `label` is None |

A corpus may add columns after these (RESD adds `fold`, a stacked corpus `components`). Code that mixes corpora selects
`COLUMNS`, or [`common_columns`].
"""

from collections.abc import Iterable

import numpy as np
from datasets import Audio, ClassLabel, Dataset, Features, List, Value

from ..labels import checked_labels
from ..model.audio_bibier import SAMPLING_RATE
from ..model.labels_bibier import MULTI_LABEL, REGRESSION, SINGLE_LABEL

SPLITS = ("train", "dev", "test")
SOURCES = ("recorded", "synthetic", "stacked")

TARGET = "target"

TARGETS = {MULTI_LABEL: List(Value("int8")), REGRESSION: List(Value("float64"))}
"""Problem type -> type of the column `target`, by which rows say what they are for."""


def features(labels: Iterable[str] | None = None, problem_type: str = SINGLE_LABEL) -> Features:
    """Return the columns of a corpus with this label set; None: the seven emotions."""
    columns = Features(
        {
            "id": Value("string"),
            "corpus": Value("string"),
            "split": Value("string"),
            # Undecoded, because datasets would need torchcodec and ffmpeg; decode_audio reads this value directly.
            "audio": Audio(sampling_rate=SAMPLING_RATE, decode=False),
            "text": Value("string"),
            "language": Value("string"),
            "label": ClassLabel(names=list(checked_labels(labels, least_labels(problem_type)))),
            "soft_label": List(Value("float32")),
            "speaker": Value("string"),
            "dialogue": Value("string"),
            "duration_s": Value("float32"),
            "source": Value("string"),
            "license": Value("string"),
        }
    )
    if problem_type in TARGETS:
        columns[TARGET] = TARGETS[problem_type]

    return columns


def least_labels(problem_type: str) -> int:
    """Return how many names a label set has at least: one value, or two labels."""
    return 1 if problem_type == REGRESSION else 2


def problem_type_of(columns: Features) -> str:
    """Return what rows with these columns are for, as transformers names it."""
    target = columns.get(TARGET)
    return next((kind for kind, feature in TARGETS.items() if feature == target), SINGLE_LABEL)


def truth_of(rows: Dataset) -> np.ndarray:
    """Return the classes of rows, integers (N,), or their targets, floats (N, K)."""
    if TARGET in rows.column_names:
        return np.array(rows[TARGET], dtype=np.float64).reshape(len(rows), -1)

    return np.asarray(rows["label"], dtype=np.int64)


def common_columns(rows: Dataset) -> list[str]:
    """Return the columns of the common schema that rows have."""
    return [name for name in (*COLUMNS, TARGET) if name in rows.column_names]


FEATURES = features()
"""The columns with the default label set."""

COLUMNS = tuple(FEATURES)
