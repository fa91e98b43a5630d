"""Add noise to the audio of a corpus, to measure how robust a model is.

Noise is added to the waveform, before the backbone, from a separate generator for each (seed, id): order and batches
do not change it, and every level scales the same noise.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict

from ..data.disturbances import disturb
from ..data.features import InputDataset, raw_inputs
from ..errors import ArgumentError
from ..model.audio_bibier import SAMPLING_RATE, decode_audio

NoiseKind = Literal["white", "babble"]


class NoisyInputs(InputDataset):
    """Rows of raw audio and text that add noise to the audio when it is read. Stored (clean) features are not used.

    Args:
        clean: rows of `audio` and `text` ([`~bibier_hf.data.features.raw_inputs`]); text-only rows are unchanged.
        snr_db: power of the whole clip relative to the noise, in dB.
        kind: `"white"` (Gaussian), or `"babble"`: six other clips of the corpus at equal power, each repeated from a
            random position.
        seed: of the draws.

    Raises:
        ArgumentError: babble in a corpus with fewer than two recordings.
    """

    def __init__(self, clean: InputDataset, snr_db: float, kind: NoiseKind = "white", seed: int = 0):
        super().__init__(clean.rows)
        self.snr_db = snr_db
        self.kind = kind
        self.seed = seed
        self._ids, self._corpora = list(clean.metadata["id"]), list(clean.metadata["corpus"])
        self._recordings: dict[str, list[int]] = defaultdict(list)

        for index, (corpus, duration) in enumerate(zip(self._corpora, clean.metadata["duration_s"], strict=True)):
            if duration is not None:
                self._recordings[corpus].append(index)

        few = [corpus for corpus, rows in self._recordings.items() if len(rows) < 2]
        if kind == "babble" and few:
            raise ArgumentError(f"noise: babble needs other clips; {', '.join(few)} has one clip. Take white noise.")

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = super().__getitems__(indices)

        for index, row in zip(indices, rows, strict=True):
            if row["audio"] is not None:
                clip = decode_audio(row["audio"])
                noisy = disturb(
                    clip, SAMPLING_RATE, f"{self.kind}:{self.snr_db}", self.seed, self._ids[index], self._voices(index)
                )
                row["audio"] = {"array": noisy, "sampling_rate": SAMPLING_RATE}

        return rows

    def _voices(self, index: int) -> "Voices":
        """The other recordings of the corpus, sorted by id, so that the order of the rows does not matter."""
        recordings = sorted(self._recordings[self._corpora[index]], key=self._ids.__getitem__)
        return Voices(self.rows, [row for row in recordings if row != index])


class Voices(Sequence[np.ndarray]):
    """Some rows of a data set as samples, decoded on access."""

    def __init__(self, rows: Dataset, places: Sequence[int]):
        self.rows = rows
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray:  # ty: ignore[incompatible-method-override] - no slices
        return decode_audio(self.rows[self.places[index]]["audio"])


def noisy_inputs(
    splits: Mapping[str, DatasetDict], split: str, rows: np.ndarray, snr_db: float, kind: NoiseKind, seed: int
) -> NoisyInputs:
    """Return `rows` ([`complete_rows`]) of the split of all corpora, concatenated, with noise."""
    clean = InputDataset.concatenate([raw_inputs(parts)[split] for parts in splits.values()])
    return NoisyInputs(clean.select(rows), snr_db, kind, seed)
