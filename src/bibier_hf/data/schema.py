"""The common schema of a prepared corpus.

A prepared corpus has one row an utterance:

| column | type | meaning |
|---|---|---|
| `id` | string | unique in the corpus, tells nothing about the label |
| `corpus` | string | `resd`, `quickstart`, or the name of a table |
| `split` | string | `train`, `dev` or `test` |
| `audio` | Audio, undecoded | `{"bytes": FLAC at 16 kHz mono, "path": id + ".flac"}`; None for a row that is text only |
| `text` | string | transcript; "" for a row that is audio only |
| `language` | string | ISO 639 code: `en`, `ru` |
| `label` | ClassLabel | index into `EMOTIONS` |
| `soft_label` | list of 7 floats or None | distribution in the order of `EMOTIONS`, sum 1 |
| `speaker` | string or None | who speaks |
| `dialogue` | string or None | what the utterance was recorded in: the group that an honest split keeps whole |
| `duration_s` | float or None | seconds of audio; None for a row that is text only |
| `source` | string | `recorded`, `synthetic` or `stacked` |
| `license` | string | licence of the row |

A corpus may add columns of its own behind these (RESD adds `fold`, a stacked corpus `components`); whoever mixes
corpora selects `COLUMNS`.
"""

from datasets import Audio, ClassLabel, Features, List, Value

from ..model.audio_bibier import SAMPLING_RATE
from ..model.labels_bibier import EMOTIONS

SPLITS = ("train", "dev", "test")
SOURCES = ("recorded", "synthetic", "stacked")

FEATURES = Features(
    {
        "id": Value("string"),
        "corpus": Value("string"),
        "split": Value("string"),
        # decode=False: datasets would need torchcodec and ffmpeg; decode_audio reads this value as it is.
        "audio": Audio(sampling_rate=SAMPLING_RATE, decode=False),
        "text": Value("string"),
        "language": Value("string"),
        "label": ClassLabel(names=list(EMOTIONS)),
        "soft_label": List(Value("float32")),
        "speaker": Value("string"),
        "dialogue": Value("string"),
        "duration_s": Value("float32"),
        "source": Value("string"),
        "license": Value("string"),
    }
)
COLUMNS = tuple(FEATURES)
