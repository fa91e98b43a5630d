"""Decide when not to trust an answer: the audio is too short, too quiet, or not speech, or the confidence is low."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .audio_bibier import SAMPLING_RATE
from .configuration_bibier import BiBiERConfig, ModalityConfig
from .sequence_bibier import masked_mean

TOO_SHORT, TOO_QUIET, NO_SPEECH, LOW_CONFIDENCE = REASONS = ("too short", "too quiet", "no speech", "low confidence")
"""Why an answer is unsure. If several reasons apply, the first one is reported."""

_LEVEL_S = 0.05
"""Seconds over which the level of a clip is measured."""


class SpeechCheck(nn.Module):
    """Logistic regression that distinguishes speech from other sounds, on statistics over time of the backbone's
    features.

    The statistics are standardized over the sounds that it was fitted on. It is fitted after training
    ([`~bibier_hf.evaluation.unsure.fit_speech_check`]), and computes in float32, whatever the type of the model.

    Args:
        config: of the modality, whose frames have the width D. There are F = 3 D statistics, or only the first 2 D if
            the encoder itself computes statistics.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, config: ModalityConfig):
        super().__init__()
        self.are_statistics = config.encoder == "statistics"
        size = (2 if self.are_statistics else 3) * config.frame_size
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.register_buffer("weight", torch.zeros(size))
        self.register_buffer("bias", torch.zeros(1))

    def statistics(self, features: Tensor, mask: Tensor) -> Tensor:
        """Mean, standard deviation, and mean absolute change from frame to frame: (B, T, D), bool (B, T) -> (B, F)."""
        features = features.float()
        mean = masked_mean(features, mask)
        if self.are_statistics:
            return mean[:, : len(self.mean)]
        variance = masked_mean((features - mean.unsqueeze(1)).square(), mask)
        # Padded, not shortened by a step, so that the same exported graph also works for clips of a single frame.
        before, has_before = F.pad(features, (0, 0, 1, 0))[:, :-1], F.pad(mask, (1, 0))[:, :-1]
        change = masked_mean((features - before).abs(), mask & has_before)
        return torch.cat([mean, variance.sqrt(), change], dim=-1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Logit of "not speech": (B, T, D), bool (B, T) -> float32 (B,); 0 for a sample without audio."""
        return self.score(self.statistics(features, mask)) * mask.any(1)

    def score(self, statistics: Tensor) -> Tensor:
        """Logit of "not speech" for statistics (B, F): float32 (B,)."""
        mean, std, weight, bias = self.mean.float(), self.std.float(), self.weight.float(), self.bias.float()
        return ((statistics.float() - mean) / std).clamp(-10, 10) @ weight + bias


def level_db(samples: np.ndarray) -> float:
    """Level of the loudest 50 ms of mono samples (S,) in dB of full scale, after removing the DC offset."""
    size = round(_LEVEL_S * SAMPLING_RATE)
    samples = samples.astype(np.float64) - samples.mean(dtype=np.float64)
    whole = len(samples) // size * size
    parts = samples[:whole].reshape(-1, size) if whole else samples[None]
    return 10 * math.log10(max(float(np.square(parts).mean(1).max()), 1e-12))


def audio_facts(samples: np.ndarray | None) -> Tensor:
    """Duration in seconds and level in dB of mono samples at 16 kHz, as a tensor (1, 2); NaN without audio."""
    values = [math.nan] * 2 if samples is None else [len(samples) / SAMPLING_RATE, level_db(samples)]
    return torch.tensor([values], dtype=torch.float32)


def judge(
    config: BiBiERConfig,
    confidence: float | None,
    facts: Sequence[float],
    not_speech: float | None = None,
    least_confidence: float | None = None,
) -> dict[str, Any]:
    """Decide whether to trust an answer.

    Args:
        config: of the model, with the limits.
        confidence: score of the best label; None if the model does not choose one.
        facts: duration and level of the audio; NaN without audio.
        not_speech: logit of the [`SpeechCheck`]; None without one.
        least_confidence: overrides the limit of the configuration.

    Returns:
        `{"unsure": bool, "unsure_score": 0 to 1, "unsure_reason": one of `REASONS` or None}`. An answer is unsure if
        the score is 0.5 or more.
    """
    limits: Any = config.audio_config
    seconds, level = facts
    has_audio = "audio" in config.modalities and not math.isnan(seconds)
    scores = dict.fromkeys(REASONS, 0.0)
    if has_audio:
        scores[TOO_SHORT] = float(seconds < limits.shortest_s)
        scores[TOO_QUIET] = float(level < limits.quietest_db)
    if has_audio and not_speech is not None:
        scores[NO_SPEECH] = _sigmoid(not_speech - _logit(limits.not_speech_threshold))
    if confidence is not None:
        least = config.least_confidence if least_confidence is None else least_confidence
        scores[LOW_CONFIDENCE] = _doubt(confidence, least or 0.0)

    reason = next((reason for reason, score in scores.items() if score >= 0.5), None)
    return {"unsure": reason is not None, "unsure_score": max(scores.values()), "unsure_reason": reason}


def _doubt(confidence: float, least: float) -> float:
    """Map a confidence to a doubt: 1 to 0, the least confidence to (just below) 0.5, and 0 to 1."""
    if confidence < least:
        return 1 - 0.5 * confidence / least
    return min(0.5 * (1 - confidence) / max(1 - least, 1e-9), math.nextafter(0.5, 0))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
