"""Cheap acoustic features without a backbone, for the baselines and the leakage audit.

audio -> log-mel spectrogram (64 bands, 100 frames/s) -> 40 MFCC and their slopes -> mean, deviation and percentiles
over time
"""

from collections.abc import Iterator

import numpy as np
import torch
from datasets import Dataset
from scipy.fft import dct
from tqdm.auto import tqdm
from transformers.audio_utils import mel_filter_bank, window_function

from ..model.audio_bibier import SAMPLING_RATE, decode_audio
from ..model.front_end_bibier import mel_energies

FRAMES_PER_SECOND = 100
MEL_BANDS = 64
COEFFICIENTS = 40
PERCENTILES = (5, 25, 50, 75, 95)
FUNCTIONALS = 2 * COEFFICIENTS * (2 + len(PERCENTILES))
"""Values per clip: mean, standard deviation and percentiles of 40 coefficients and their slopes (560)."""

_FRAME_SAMPLES, _FFT_SAMPLES = 400, 512
_WINDOW = torch.from_numpy(window_function(_FRAME_SAMPLES, "hann", periodic=True)).double()
_FILTERS = torch.from_numpy(
    mel_filter_bank(
        num_frequency_bins=_FFT_SAMPLES // 2 + 1,
        num_mel_filters=MEL_BANDS,
        min_frequency=0.0,
        max_frequency=SAMPLING_RATE / 2,
        sampling_rate=SAMPLING_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
).float()


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Return the log-mel spectrogram in dB, (64, T) float32 at 100 frames/s, of 16 kHz samples (S,)."""
    # A clip shorter than a frame cannot be mirrored at its ends, so it is padded with silence.
    samples = np.pad(samples, (0, max(0, _FFT_SAMPLES - len(samples))))
    half = _FRAME_SAMPLES // 2
    mirrored = torch.from_numpy(np.pad(samples.astype(np.float64), half, mode="reflect"))
    energies = mel_energies(mirrored, _WINDOW, SAMPLING_RATE // FRAMES_PER_SECOND, _FFT_SAMPLES, _FILTERS)
    return energies.clamp_(min=1e-10).log10_().mul_(10).T.numpy()


def mfcc_functionals(mel: np.ndarray) -> np.ndarray:
    """Return statistics over time (560,) of the MFCC of a log-mel spectrogram (64, T) and of their slopes."""
    coefficients = dct(mel, axis=0, norm="ortho")[:COEFFICIENTS]
    tracks = np.concatenate([coefficients, np.gradient(coefficients, axis=1)])
    statistics = [tracks.mean(1), tracks.std(1), *np.percentile(tracks, PERCENTILES, axis=1)]

    return np.concatenate(statistics).astype(np.float32)


def decoded_clips(rows: Dataset) -> Iterator[np.ndarray | None]:
    """Yield the 16 kHz samples (S,) of every row in order, with a progress bar; None for a row without audio.

    Raises:
        AudioError: a clip cannot be decoded.
    """
    for row in tqdm(rows.select_columns(["audio"]), desc="Computing MFCC", unit="clip"):
        yield None if row["audio"] is None else decode_audio(row["audio"])


def corpus_functionals(rows: Dataset) -> np.ndarray:
    """Return [`mfcc_functionals`] of every row, (N, 560); NaN for a row without audio."""
    missing = np.full(FUNCTIONALS, np.nan, np.float32)
    return np.stack([missing if clip is None else mfcc_functionals(log_mel(clip)) for clip in decoded_clips(rows)])
