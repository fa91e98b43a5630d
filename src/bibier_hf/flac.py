"""The form in which audio is stored: 16-bit FLAC at 16 kHz mono, marked where it is no recording."""

import io
from collections.abc import Mapping

import numpy as np
import soundfile

from .model.audio_bibier import SAMPLING_RATE

SOURCE_MARKS: Mapping[str, str] = {
    "synthetic": "Synthetic speech, not a recording of a person.",
    "stacked": "Several utterances one after the other, not one recording.",
}
"""Value of the schema's column `source` -> what the file itself says in its comment (Vorbis comment `COMMENT`)."""


def encode_flac(samples: np.ndarray, source: str = "recorded") -> bytes:
    """16 kHz mono float samples -> a 16-bit FLAC file; 16-bit recordings pass unchanged, what exceeds [-1, 1] is
    clipped.

    Recordings are written anew even if they have this form already, so that no tag of the original file (which may
    name the emotion) gets into a corpus.

    Args:
        samples: (samples,) at 16 kHz.
        source: where they come from; audio that is not a recording carries a mark of `SOURCE_MARKS` wherever the file
            goes.
    """
    # Converted here, as libsndfile scales by 32767 on writing but by 32768 on reading.
    integers = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", SAMPLING_RATE, channels=1, format="FLAC", subtype="PCM_16") as file:
        if source in SOURCE_MARKS:
            file.comment = SOURCE_MARKS[source]  # before the samples: the tags stand at the head of the file
        file.write(integers)
    return buffer.getvalue()
