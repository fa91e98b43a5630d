"""Log-mel frames: the same values as the feature extractors of transformers compute."""

import numpy as np
import pytest
from transformers import SeamlessM4TFeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from bibier_hf.evaluation.acoustics import log_mel
from bibier_hf.model.front_end_bibier import front_end_frames

EXTRACTORS = {
    "whisper": WhisperFeatureExtractor(),
    "whisper with 128 bands": WhisperFeatureExtractor(feature_size=128),
    "whisper with 20 ms": WhisperFeatureExtractor(feature_size=16, hop_length=320, n_fft=512),
    "embedded pair, wav2vec2-bert": SeamlessM4TFeatureExtractor(),
    "stride of 3, padded with ones": SeamlessM4TFeatureExtractor(stride=3, padding_value=1.0),
}


def upsampled(clip: np.ndarray) -> np.ndarray:
    """A clip without the upper half of its frequencies."""
    spectrum = np.fft.rfft(clip)
    spectrum[len(spectrum) // 2 :] = 0
    return np.fft.irfft(spectrum, len(clip)).astype(np.float32)


SOUNDS = {
    "speech": lambda clip: clip,
    "quiet": lambda clip: 1e-4 * clip,
    "loud, with an offset": lambda clip: 0.2 + 3 * clip,
    "from 8 kHz": upsampled,
    "then silence": lambda clip: np.where(np.arange(len(clip)) < len(clip) // 2, clip, 0).astype(np.float32),
    "a click": lambda clip: np.eye(1, len(clip), len(clip) // 3, dtype=np.float32)[0],
    "silence": np.zeros_like,
}


@pytest.mark.parametrize("samples", [800, 1_043, 41_123])
@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("name", EXTRACTORS)
def test_frames_equal_those_of_transformers(name: str, sound: str, samples: int, clip):
    extractor = EXTRACTORS[name]
    given = SOUNDS[sound](clip(3.1)[:samples]).astype(np.float32)
    before = given.copy()

    wanted = extractor(given, sampling_rate=16_000, padding="longest", truncation=False, return_tensors="np")
    wanted = wanted["input_features"][0]
    wanted = wanted.T if name.startswith("whisper") else wanted
    found = front_end_frames(extractor, given)

    assert found is not None
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(given, before)
    assert found.shape == wanted.shape
    assert np.all(np.abs(found - wanted) <= (1e-5 if name.startswith("whisper") else tolerance(extractor, given)))


@pytest.mark.parametrize("samples", [1, 300, 41_123])
@pytest.mark.parametrize("sound", SOUNDS)
def test_mfcc_come_from_the_same_spectrogram(sound: str, samples: int, clip):
    given = SOUNDS[sound](clip(3.1)[:samples]).astype(np.float32)
    wanted = spectrogram(
        np.pad(given, (0, max(0, 512 - samples))),
        window_function(400, "hann", periodic=True),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        mel_filters=mel_filter_bank(257, 64, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney"),
        log_mel="dB",
    )
    found = log_mel(given)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def tolerance(extractor: SeamlessM4TFeatureExtractor, clip: np.ndarray) -> np.ndarray:
    """1e-4, or one unit in the last place of a level, which the scaling of a band without variance magnifies."""
    unscaled = {"pad_to_multiple_of": None, "do_normalize_per_mel_bins": False, "return_tensors": "np"}
    levels = SeamlessM4TFeatureExtractor(stride=1)(clip, sampling_rate=16_000, **unscaled)["input_features"][0]
    unit = np.spacing(np.abs(levels).max(0)) / np.sqrt(levels.var(0, ddof=1) + 1e-7)
    return np.maximum(1e-4, 1.1 * np.tile(unit, extractor.stride))


class Own(WhisperFeatureExtractor):
    pass


@pytest.mark.parametrize("extractor", [Own(), WhisperFeatureExtractor(dither=1e-5), object()])
def test_extractors_without_an_equivalent_are_left_alone(extractor, clip):
    assert front_end_frames(extractor, clip(0.1)) is None


def test_a_subclass_is_used_as_it_is(clip):
    from transformers import ByT5Tokenizer

    from bibier_hf import BiBiERProcessor

    processors = [BiBiERProcessor(extractor, ByT5Tokenizer()) for extractor in (Own(), WhisperFeatureExtractor())]
    own, other = (processor(audio=clip(1.0), sampling_rate=16_000)["input_features"] for processor in processors)
    np.testing.assert_allclose(own, other, rtol=0, atol=1e-5)
