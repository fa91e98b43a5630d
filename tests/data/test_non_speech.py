"""Synthetic sounds that are not speech."""

import numpy as np
import pytest

from bibier_hf.data.non_speech import FAMILIES, KINDS, non_speech_clip, non_speech_clips
from bibier_hf.model.audio_bibier import SILENCE


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_is_finite_within_full_scale_and_not_silent(kind):
    clip = non_speech_clip(kind)
    assert clip.samples.dtype == np.float32
    assert clip.samples.ndim == 1
    assert np.isfinite(clip.samples).all()
    assert np.abs(clip.samples).max() <= 1
    assert np.ptp(clip.samples) > SILENCE
    assert (clip.kind, clip.family) == (kind, KINDS[kind][0])

    for seconds in (1e-6, 0.001, 0.05):
        short = non_speech_clip(kind, seconds=seconds)
        assert len(short.samples) == max(1, round(seconds * 16_000))
        assert np.isfinite(short.samples).all()


def test_sounds_depend_on_seed_kind_and_number_alone():
    clips = non_speech_clips(1, seed=3)
    assert [clip.kind for clip in clips] == list(KINDS)
    for clip in clips[::5]:
        assert np.array_equal(clip.samples, non_speech_clip(clip.kind, 0, seed=3).samples)
    assert not np.array_equal(non_speech_clip("white", 0, 3).samples[:9], non_speech_clip("white", 1, 3).samples[:9])
    assert not np.array_equal(non_speech_clip("white", 0, 3).samples[:9], non_speech_clip("white", 0, 4).samples[:9])


def test_every_kind_belongs_to_a_family():
    assert {family for family, _ in KINDS.values()} == set(FAMILIES)
    assert len(FAMILIES) >= 8
