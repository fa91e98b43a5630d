"""Noise: its level, that it depends on nothing but the clip, and what it leaves alone."""

import numpy as np
import pytest

from bibier_hf.data.disturbances import mix
from bibier_hf.data.features import InputDataset, raw_inputs
from bibier_hf.evaluation.noise import NoisyInputs
from bibier_hf.model.audio_bibier import decode_audio


@pytest.fixture(scope="module")
def clean(make_row, make_splits, voice) -> InputDataset:
    """Eight rows: the third a text alone, the fourth silence."""
    samples = [voice(110 + 20 * number, number, 0.3 + 0.05 * number) for number in range(8)]
    samples[2], samples[3] = None, np.zeros(4000, np.float32)
    return raw_inputs(make_splits([make_row(number, "test", number % 7, samples[number]) for number in range(8)]))[
        "test"
    ]


def snr_db(clean: np.ndarray, noisy: np.ndarray) -> float:
    return 10 * np.log10(np.mean(clean.astype(float) ** 2) / np.mean((noisy.astype(float) - clean) ** 2))


@pytest.mark.parametrize("level", [30.0, 5.0, 0.0, -10.0])
def test_the_ratio_is_what_was_asked_for(clip, level):
    samples = clip(1.0)
    noise = np.random.default_rng(0).standard_normal(len(samples))
    assert snr_db(samples, mix(samples, noise, level)) == pytest.approx(level, abs=0.01)


def test_without_power_there_is_no_ratio(clip):
    silence, samples = np.zeros(100, np.float32), clip(1.0)
    assert mix(silence, np.ones(100), 0) is silence
    assert mix(samples, np.zeros(len(samples)), 0) is samples


@pytest.mark.parametrize("kind", ["white", "babble"])
def test_noise_depends_on_clip_and_seed_alone(clean, kind):
    noisy = NoisyInputs(clean, 5, kind)
    expected = [row["audio"] for row in noisy.__getitems__(range(8))]
    order = [5, 0, 7, 2, 1]
    shuffled = [row["audio"] for row in NoisyInputs(clean, 5, kind).__getitems__(order)]
    moved = NoisyInputs(clean.select([7, 6, 5, 4, 3, 2, 1, 0]), 5, kind)
    for place, index in enumerate(order):
        if index == 2:
            assert shuffled[place] is expected[index] is None
        else:
            np.testing.assert_array_equal(shuffled[place]["array"], expected[index]["array"])
            np.testing.assert_array_equal(moved[7 - index]["audio"]["array"], expected[index]["array"])
    other = NoisyInputs(clean, 5, kind, seed=1)
    assert not np.array_equal(other[0]["audio"]["array"], expected[0]["array"])
    assert not np.allclose(expected[0]["array"][:4000], expected[1]["array"][:4000])


@pytest.mark.parametrize("kind", ["white", "babble"])
def test_rows_keep_all_but_their_clean_audio(clean, kind):
    noisy = NoisyInputs(clean, 10, kind)
    for index in range(8):
        row, before = noisy[index], clean[index]
        assert (row["text"], row["label"]) == (before["text"], before["label"])
        if index == 3:
            np.testing.assert_array_equal(row["audio"]["array"], np.zeros(4000))
        elif index != 2:
            samples = decode_audio(before["audio"])
            assert snr_db(samples, decode_audio(row["audio"])) == pytest.approx(10, abs=0.05)


def test_every_level_scales_the_same_noise(clean):
    samples = decode_audio(clean[0]["audio"]).astype(float)
    loud, quiet = (NoisyInputs(clean, level)[0]["audio"]["array"] - samples for level in (0, 20))
    np.testing.assert_allclose(loud, 10 * quiet, atol=1e-5)


def test_babble_needs_others(make_row, make_splits, voice):
    alone = raw_inputs(make_splits([make_row(0, "test", 0, voice(100, 0))]))["test"]
    with pytest.raises(ValueError, match="planted has one clip"):
        NoisyInputs(alone, 5, "babble")
