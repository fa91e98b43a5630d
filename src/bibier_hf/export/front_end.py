"""The front ends of speech backbones as modules, so that a graph can take raw samples."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from ..errors import ExportError
from ..model.audio_bibier import SAMPLING_RATE
from ..model.processing_bibier import SHORTEST_SPECTRAL_CLIP


class WhisperFrontEnd(nn.Module):
    """Log-mel frames of Whisper, for clips of any length in one batch.

    The windowed Fourier transform is one convolution with fixed weights, which every ONNX runtime has.

    Args:
        extractor: whose frames to compute.
        max_window_s: longest window that the model encodes at once.

    Attributes:
        window: most samples in a window.
        shortest: fewest samples in the input of the graph; shorter clips are padded with silence.
    """

    dft: Tensor
    mel: Tensor

    def __init__(self, extractor: WhisperFeatureExtractor, max_window_s: float):
        super().__init__()
        if extractor.dither:
            raise ExportError("part='samples': the front end adds random noise (dither). Set its dither to 0.")

        self.size, self.hop = extractor.n_fft, extractor.hop_length
        self.window = min(int(max_window_s * SAMPLING_RATE / self.hop) * self.hop, extractor.n_samples)
        self.shortest = SHORTEST_SPECTRAL_CLIP

        bins = self.size // 2 + 1
        step, order = torch.arange(self.size, dtype=torch.float64), torch.arange(bins, dtype=torch.float64)
        angle = 2 * torch.pi * (order.unsqueeze(1) * step % self.size) / self.size
        dft = torch.cat([angle.cos(), -angle.sin()]) * torch.hann_window(self.size, dtype=torch.float64)
        self.register_buffer("dft", dft.float().unsqueeze(1))  # (2 bins, 1, size)
        self.register_buffer("mel", torch.tensor(extractor.mel_filters, dtype=torch.float32))  # (bins, M)

    def forward(self, samples: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Compute frames: samples (N, S), numbers of them that count (N,) -> (N, F, M), numbers of frames (N,).

        A count of zero stays zero.
        """
        samples = samples.masked_fill(torch.arange(samples.shape[1]) >= counts.unsqueeze(1), 0)
        lengths = counts.clamp(min=self.shortest).unsqueeze(1)

        # Each clip is mirrored at its own end, wherever its padding ends.
        place = (torch.arange(samples.shape[1] + self.size) - self.size // 2).abs()
        place = torch.where(place < lengths, place, 2 * (lengths - 1) - place).clamp(min=0)
        mirrored = samples.gather(1, place)

        spectrum = F.conv1d(mirrored.unsqueeze(1), self.dft, stride=self.hop)[..., :-1].transpose(1, 2)
        real, imaginary = spectrum.square().chunk(2, dim=-1)
        frames = ((real + imaginary) @ self.mel).clamp(min=1e-10).log10()  # (N, F, M)

        lengths = lengths // self.hop
        padding = (torch.arange(frames.shape[1]) >= lengths).unsqueeze(-1)
        loudest = frames.masked_fill(padding, -10.0).amax((1, 2), keepdim=True)
        frames = (torch.maximum(frames, loudest - 8) + 4) / 4

        return frames.masked_fill(padding, 0), lengths.squeeze(1) * (counts > 0)


class WaveformFrontEnd(nn.Module):
    """Samples for backbones of the wav2vec2 family: as they are, or with mean 0 and variance 1 in each window.

    Args, attributes: as those of [`WhisperFrontEnd`].
    """

    def __init__(self, extractor: Wav2Vec2FeatureExtractor, max_window_s: float):
        super().__init__()
        self.normalizes = extractor.do_normalize
        self.window = int(max_window_s * SAMPLING_RATE)
        self.shortest = SHORTEST_SPECTRAL_CLIP

    def forward(self, samples: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Normalize samples (N, S), numbers of them that count (N,)."""
        if not self.normalizes:
            return samples, counts

        kept = torch.arange(samples.shape[1]) < counts.unsqueeze(1)
        count = counts.clamp(min=1).unsqueeze(1)
        centered = samples - (samples * kept).sum(1, keepdim=True) / count
        variance = (centered.square() * kept).sum(1, keepdim=True) / count

        return centered / (variance + 1e-7).sqrt(), counts


def build_front_end(extractor: Any, max_window_s: float) -> WhisperFrontEnd | WaveformFrontEnd:
    """Build the front end of a model.

    Raises:
        ExportError: there is none for this feature extractor.
    """
    if isinstance(extractor, WhisperFeatureExtractor):
        return WhisperFrontEnd(extractor, max_window_s)
    if isinstance(extractor, Wav2Vec2FeatureExtractor):
        return WaveformFrontEnd(extractor, max_window_s)

    raise ExportError(
        f"part='samples': no graph has the front end {type(extractor).__name__}, whose frames depend on the whole clip. "
        "Use part='whole'."
    )
