"""The fit of the speech check and of the least confidence, and where they are kept."""

import json

import numpy as np
import pytest
import torch
from datasets import DatasetDict

from bibier_hf import BiBiERForEmotionClassification
from bibier_hf.data.non_speech import non_speech_clip
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.calibration import COVERAGES, risk_coverage
from bibier_hf.evaluation.unsure import (
    Speech,
    UnsureSection,
    clip_statistics,
    fit_speech_check,
    fit_unsure,
    least_confidence,
    read_speech,
    store_unsure,
    unsure_text,
)

SECTION = UnsureSection(clips=20, sounds=2)


@pytest.fixture
def speech(voice) -> list[Speech]:
    return [Speech(f"clip {number}", f"speaker {number % 6}", voice(90 + 7 * number, number)) for number in range(18)]


def test_the_fit_tells_tones_from_voices(model, processor, speech, voice, tmp_path):
    facts = fit_speech_check(model, processor, speech, SECTION)
    assert facts["speakers"] == 6
    assert facts["speech_clips"] == 18
    assert set(facts["false_alarms"]) == {"clean", "disturbed", "part"}
    assert sum(facts["false_alarms"].values()) / 3 <= SECTION.false_alarms + 1 / 54
    assert facts["at_5_percent"] >= 0.4  # of families it has not heard, with a random backbone

    def found(samples):
        statistics = torch.from_numpy(clip_statistics(model, processor, [samples]))
        return model.bibier.audio.speech_check.score(statistics).item()

    voices = [found(voice(100 + 11 * number, 50 + number)) for number in range(4)]
    sounds = [found(non_speech_clip(kind, 7, 9).samples) for kind in ("tone", "white", "dtmf", "hum")]
    assert np.mean(voices) < 0 < np.mean(sounds)

    model.save_pretrained(tmp_path / "before")
    inputs = processor.encode([voice(120, 99)], None)
    alone = model(**inputs).not_speech
    assert alone.item() == pytest.approx(found(voice(120, 99)), abs=1e-3)
    loaded = BiBiERForEmotionClassification.from_pretrained(tmp_path / "before")
    assert loaded(**inputs).not_speech.item() == pytest.approx(alone.item(), abs=1e-3)


def test_the_fit_is_the_same_every_time(model, processor, speech):
    facts = [fit_speech_check(model, processor, speech[:4], SECTION) for _ in range(2)]
    assert facts[0] == facts[1]


@pytest.fixture
def rows_of(make_row, make_splits, voice):
    """`rows_of(speakers)`: a training clip for each speaker, without audio where there is none"""

    def build(speakers: list[str | None]) -> DatasetDict:
        clips = [None if speaker is None else voice(100, number) for number, speaker in enumerate(speakers)]
        return make_splits(
            [make_row(number, "train", 0, clip, speaker=speakers[number]) for number, clip in enumerate(clips)]
        )

    return build


def test_speech_is_drawn_from_the_training_rows_with_audio(rows_of):
    splits = {"x": rows_of([None] + [f"speaker {number % 4}" for number in range(24)])}
    speech = read_speech(splits, SECTION)
    assert len(speech) == SECTION.clips
    assert {clip.speaker for clip in speech} == {f"x/speaker {number}" for number in range(4)}
    assert [clip.name for clip in read_speech(splits, SECTION)] == [clip.name for clip in speech]

    with pytest.raises(ArgumentError, match="at least two speakers"):
        read_speech({"x": rows_of(["one", "one"])}, SECTION)


def test_a_model_of_texts_gets_only_a_least_confidence(tiny_options, processor):
    model = BiBiERForEmotionClassification.from_backbones(None, **tiny_options | {"modalities": ["text"]})
    dev = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.5, 0.5], [0.2, 0.8]])
    facts = fit_unsure(model, processor, {}, dev, UnsureSection(coverage=0.8))
    assert facts == {"least_confidence": pytest.approx(0.58), "coverage": 0.8}
    assert model.config.least_confidence == pytest.approx(0.58)
    assert "low confidence: 20 % of those on dev" in unsure_text(facts)
    with pytest.raises(ArgumentError, match="reads only text"):
        fit_speech_check(model, processor, [], SECTION)


def test_no_clips_keep_the_check_that_there_is(model, processor, speech):
    fit_speech_check(model, processor, speech[:4], SECTION)
    before = model.bibier.audio.speech_check
    facts = fit_unsure(model, processor, {}, np.full((3, 7), 1 / 7), UnsureSection(clips=0))
    assert facts.keys() == {"least_confidence", "coverage"}
    assert model.bibier.audio.speech_check is before


def test_the_least_confidence_leaves_the_stated_share():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(7), 1000)
    for coverage in (0.5, 0.9):
        least = least_confidence(probabilities, coverage)
        assert (probabilities.max(1) >= least).mean() == pytest.approx(coverage, abs=0.002)
    assert least_confidence(probabilities, None) is None
    assert least_confidence(probabilities, 1.0) is None


def test_it_is_stored_in_a_checkpoint_that_stays_as_it_is(model, processor, speech, tmp_path, clip):
    model.save_pretrained(tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    fit_speech_check(model, processor, speech[:4], SECTION)
    model.config.least_confidence = 0.25
    store_unsure(tmp_path, model)

    after = json.loads((tmp_path / "config.json").read_text())
    assert after.pop("least_confidence") == 0.25
    assert after["audio_config"].pop("speech_check") is True
    before.pop("least_confidence", None)
    before["audio_config"].pop("speech_check", None)
    assert after == before

    loaded = BiBiERForEmotionClassification.from_pretrained(tmp_path)
    inputs = processor.encode([clip(1.0)], ["Hello"])
    found, expected = loaded(**inputs), model(**inputs)
    assert found.not_speech.item() == pytest.approx(expected.not_speech.item(), abs=1e-3)
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)


def test_risk_falls_where_confidence_says_what_is_right():
    labels = np.zeros(10, dtype=int)
    confidence = np.linspace(0.55, 0.95, 10)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    probabilities[:3] = probabilities[:3, ::-1]  # the least confident ones are wrong
    points = risk_coverage(labels, probabilities)
    assert [point["coverage"] for point in points] == list(COVERAGES)
    assert points[0]["risk"] == pytest.approx(0.3)
    assert points[-1]["risk"] == 0
    risks = [point["risk"] for point in points]
    assert risks == sorted(risks, reverse=True)
    with pytest.raises(ValueError, match="no samples"):
        risk_coverage([], np.zeros((0, 7)))
