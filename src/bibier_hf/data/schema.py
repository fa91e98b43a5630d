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

A corpus may add columns after these (RESD adds `fold`, a stacked corpus `components`). Code that mixes corpora selects
`COLUMNS`.
"""

from collections.abc import Iterable

from datasets import Audio, ClassLabel, Features, List, Value

from ..labels import checked_labels
from ..model.audio_bibier import SAMPLING_RATE

SPLITS = ("train", "dev", "test")
SOURCES = ("recorded", "synthetic", "stacked")


def features(labels: Iterable[str] | None = None) -> Features:
    """Return the columns of a corpus with this label set; None: the seven emotions."""
    return Features(
        {
            "id": Value("string"),
            "corpus": Value("string"),
            "split": Value("string"),
            # Undecoded, because datasets would need torchcodec and ffmpeg; decode_audio reads this value directly.
            "audio": Audio(sampling_rate=SAMPLING_RATE, decode=False),
            "text": Value("string"),
            "language": Value("string"),
            "label": ClassLabel(names=list(checked_labels(labels))),
            "soft_label": List(Value("float32")),
            "speaker": Value("string"),
            "dialogue": Value("string"),
            "duration_s": Value("float32"),
            "source": Value("string"),
            "license": Value("string"),
        }
    )


FEATURES = features()
"""The columns with the default label set."""

COLUMNS = tuple(FEATURES)
