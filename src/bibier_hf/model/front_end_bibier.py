"""Log-mel frames of a waveform, computed for many frames at once.

transformers computes those of SeamlessM4T and Wav2Vec2-BERT frame by frame in Python, and those of Whisper through
complex intermediate results. The values here are equal to theirs.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import SeamlessM4TFeatureExtractor, WhisperFeatureExtractor

_FRAMES_AT_ONCE = 128
"""Frames in a block, whose intermediate results (512 KiB) stay in the processor's cache."""

_SEAMLESS_FRAME, _SEAMLESS_HOP, _SEAMLESS_FFT = 400, 160, 512  # samples
_SEAMLESS_EMPHASIS = 0.97
_SEAMLESS_FLOOR = float(np.finfo(np.float32).eps)


def front_end_frames(extractor: object, clip: np.ndarray) -> np.ndarray | None:
    """Return what a feature extractor of transformers makes of a clip; None: it has no faster equivalent here.

    Args:
        extractor: of a speech backbone. Subclasses and dithering, which is random, have no equivalent.
        clip: mono float32 (S,), at least 50 ms.

    Returns:
        (F, M), unpadded and contiguous
    """
    if type(extractor) is WhisperFeatureExtractor and extractor.dither == 0:
        return _whisper(extractor, torch.from_numpy(np.ascontiguousarray(clip)))
    if type(extractor) is SeamlessM4TFeatureExtractor:
        return _seamless(extractor, torch.from_numpy(np.ascontiguousarray(clip)))
    return None


def mel_energies(
    waveform: Tensor, window: Tensor, hop: int, fft: int, filters: Tensor, emphasis: float | None = None
) -> Tensor:
    """Return the energy in each mel band of each frame, float32 (F, M).

    Args:
        waveform: (S,), at least as long as a frame; the Fourier transform has its precision.
        window: (samples in a frame,), of the same dtype.
        hop: samples between the starts of two frames.
        fft: samples of the Fourier transform; frames are padded with zeros.
        filters: float32 (fft // 2 + 1, M).
        emphasis: subtract the mean of each frame, then this share of the sample before each sample. None: do neither.
    """
    frames = waveform.unfold(0, len(window), hop)
    emphasized = frames if emphasis is None else _emphasized(waveform, emphasis).unfold(0, len(window), hop)
    energies = filters.new_empty(len(frames), filters.shape[1])
    padded = waveform.new_zeros(min(len(frames), _FRAMES_AT_ONCE), fft)

    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        block = slice(start, start + _FRAMES_AT_ONCE)
        windowed = padded[: len(frames[block]), : len(window)]
        torch.mul(emphasized[block], window, out=windowed)
        if emphasis is not None:  # what the first sample of a frame and the mean of all contribute
            windowed[:, 0] = frames[block, 0] * (window[0] * (1 - emphasis))
            windowed.addcmul_(frames[block].mean(1, keepdim=True), window, value=emphasis - 1)

        spectrum = torch.view_as_real(torch.fft.rfft(padded[: len(windowed)])).float().square_()
        torch.mm(spectrum[..., 0] + spectrum[..., 1], filters, out=energies[block])
    return energies


def _emphasized(waveform: Tensor, emphasis: float) -> Tensor:
    """Subtract a share of the sample before from each sample but the first."""
    emphasized = torch.empty_like(waveform)
    emphasized[0] = waveform[0]
    torch.sub(waveform[1:], waveform[:-1], alpha=emphasis, out=emphasized[1:])

    return emphasized


def _whisper(extractor: WhisperFeatureExtractor, clip: Tensor) -> np.ndarray:
    """log10 of the energies, at most 8 below the loudest, scaled to about -1..1."""
    size = extractor.n_fft
    padded = F.pad(clip[None], (size // 2, size // 2), mode="reflect")[0]
    filters = torch.from_numpy(extractor.mel_filters).float()
    energies = mel_energies(padded, torch.hann_window(size), extractor.hop_length, size, filters)
    levels = energies[: len(clip) // extractor.hop_length].clamp_(min=1e-10).log10_()
    return levels.clamp_(min=levels.max() - 8.0).add_(4.0).div_(4.0).numpy()


def _seamless(extractor: SeamlessM4TFeatureExtractor, clip: Tensor) -> np.ndarray:
    """Logarithm of the energies as Kaldi computes it, each band with zero mean and unit variance, neighboring frames
    stacked."""
    # Double precision: a recording resampled from 8 kHz has bands of almost no energy, which are normalized as well.
    waveform, window = clip.double().mul_(2**15), torch.from_numpy(extractor.window).double()
    filters = torch.from_numpy(extractor.mel_filters).float()
    energies = mel_energies(waveform, window, _SEAMLESS_HOP, _SEAMLESS_FFT, filters, _SEAMLESS_EMPHASIS)
    bands = energies.T.contiguous().clamp_(min=_SEAMLESS_FLOOR).log_().numpy()
    bands -= bands.mean(1, keepdims=True)
    bands /= np.sqrt(np.square(bands).sum(1, keepdims=True) / (bands.shape[1] - 1) + 1e-7)

    count = bands.shape[1] + bands.shape[1] % 2
    frames = np.full((count, len(bands)), extractor.padding_value, np.float32)
    frames[: bands.shape[1]] = bands.T
    return frames[: count // extractor.stride * extractor.stride].reshape(-1, extractor.stride * len(bands))
