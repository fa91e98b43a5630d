"""Rows of log-mel frames: the processor's own, compared with the feature extractors of transformers."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import SeamlessM4TFeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from bibier_hf.evaluation.acoustics import log_mel
from bibier_hf.model.audio_bibier import SAMPLING_RATE
from bibier_hf.model.front_end_bibier import front_end_frames
from measuring import Row
from serving_rows import clips

EXTRACTORS = {
    "embedded": (SeamlessM4TFeatureExtractor(), "SeamlessM4TFeatureExtractor of transformers", 5.0),
    "whisper": (WhisperFeatureExtractor(), "WhisperFeatureExtractor of transformers", None),
}


def front_end(name: str) -> Row:
    extractor, against, goal = EXTRACTORS[name]
    options: dict[str, Any] = {"padding": "longest", "truncation": False, "return_tensors": "np"}

    def theirs(clip: np.ndarray) -> np.ndarray:
        return extractor(clip, sampling_rate=SAMPLING_RATE, **options)["input_features"][0]

    return _compare(f"front_end_{name}", against, goal, functools.partial(front_end_frames, extractor), theirs)


def front_end_mfcc() -> Row:
    options = {
        "window": window_function(400, "hann"),
        "frame_length": 400,
        "hop_length": 160,
        "fft_length": 512,
        "power": 2.0,
        "mel_filters": mel_filter_bank(257, 64, 0.0, 8000.0, SAMPLING_RATE, norm="slaney", mel_scale="slaney"),
        "log_mel": "dB",
    }
    theirs = functools.partial(spectrogram, **options)

    return _compare("front_end_mfcc", "transformers.audio_utils.spectrogram", None, log_mel, theirs)


def _compare(
    name: str,
    against: str,
    goal: float | None,
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    repeats: int = 15,
) -> Row:
    """Clip by clip, on one thread, by the time of the processor: both are short, and a busy machine disturbs them."""
    samples = [clip.numpy() for clip in clips(16, 1.0, 12.0)]
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    try:
        for _ in range(repeats):
            for side, function in (("ours", ours), ("theirs", theirs)):
                start = time.process_time()
                for clip in samples:
                    function(clip)
                times[side].append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)

    medians = {side: statistics.median(values) for side, values in times.items()}
    ranges = [(min(values), max(values)) for values in times.values()]
    ratio = medians["theirs"] / medians["ours"]
    note = f"{len(samples)} clips of 1 to 12 s, one by one on one thread; processor time"

    return Row(name, against, ratio, goal, medians["ours"], medians["theirs"], *ranges, repeats, note)


ROWS = {
    **{f"front_end_{name}": functools.partial(front_end, name) for name in EXTRACTORS},
    "front_end_mfcc": front_end_mfcc,
}
