"""When answers are unsure: the limits, the speech check, and what the pipeline says about it."""

import math

import numpy as np
import pytest
import torch

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.model.pipeline_bibier import AudioTextEmotionPipeline
from bibier_hf.model.timeline_bibier import judge_chunks
from bibier_hf.model.unsure_bibier import (
    LOW_CONFIDENCE,
    NO_SPEECH,
    TOO_QUIET,
    TOO_SHORT,
    SpeechCheck,
    audio_facts,
    judge,
    level_db,
)

RATE = 16_000


@pytest.fixture
def checked(model) -> BiBiERForEmotionClassification:
    """A model with a speech check whose weights are random."""
    model.config.audio_config.speech_check = True
    check = model.bibier.audio.add_speech_check()
    torch.manual_seed(0)
    check.weight.normal_(0, 0.05)
    check.mean.normal_()
    return model


@pytest.fixture
def pipe_of(processor):
    def build(model: BiBiERForEmotionClassification) -> AudioTextEmotionPipeline:
        return AudioTextEmotionPipeline(model=model, processor=processor, device="cpu")

    return build


def judged(confidence=0.9, seconds=3.0, level=-20.0, not_speech=None, least=None, **limits):
    config = BiBiERConfig(audio_config={**limits})
    return judge(config, confidence, (seconds, level), not_speech, least)


def test_each_reason_and_their_order():
    assert judged() == {"unsure": False, "unsure_score": pytest.approx(0.05), "unsure_reason": None}
    assert judged(seconds=0.29)["unsure_reason"] == TOO_SHORT
    assert judged(level=-60.1)["unsure_reason"] == TOO_QUIET
    assert judged(not_speech=0.1)["unsure_reason"] == NO_SPEECH
    assert judged(least=0.95)["unsure_reason"] == LOW_CONFIDENCE
    assert judged(seconds=0.1, level=-90, not_speech=5, least=0.95)["unsure_reason"] == TOO_SHORT
    assert judged(not_speech=5, least=0.95)["unsure_reason"] == NO_SPEECH
    assert judged(seconds=0.29, shortest_s=0.2)["unsure_reason"] is None
    assert judged(not_speech=0.1, not_speech_threshold=0.6)["unsure_reason"] is None


def test_text_alone_can_only_have_a_low_confidence():
    assert judged(seconds=math.nan, level=math.nan, not_speech=9.0)["unsure_reason"] is None
    assert judged(seconds=math.nan, level=math.nan, least=0.95)["unsure_reason"] == LOW_CONFIDENCE
    config = BiBiERConfig(modalities=["text"])
    assert judge(config, 0.9, (0.01, -90.0), None)["unsure_reason"] is None


@pytest.mark.parametrize("least", [0.0, 0.3, 0.5, 0.99])
def test_the_score_falls_with_the_confidence_and_crosses_one_half_at_the_limit(least):
    confidences = np.linspace(0, 1, 101)
    found = [judged(confidence=value, least=least) for value in confidences]
    scores = [entry["unsure_score"] for entry in found]
    assert scores == sorted(scores, reverse=True)
    assert [entry["unsure"] for entry in found] == [value < least for value in confidences]
    assert [score >= 0.5 for score in scores] == [value < least for value in confidences]


def test_an_answer_without_confidence_is_judged_by_its_audio():
    assert judged(confidence=None) == {"unsure": False, "unsure_score": 0.0, "unsure_reason": None}
    assert judged(confidence=None, least=0.9)["unsure"] is False


def test_the_level_is_that_of_the_loudest_moment_without_the_offset():
    tone = np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE).astype(np.float32)
    assert level_db(tone) == pytest.approx(-3.01, abs=0.05)
    assert level_db(np.pad(0.1 * tone, RATE) + 0.25) == pytest.approx(-23.01, abs=0.3)
    assert level_db(np.full(RATE, 0.5, np.float32)) == -120
    assert level_db(tone[:5]) > -30
    assert audio_facts(tone).tolist() == [[1.0, pytest.approx(-3.01, abs=0.05)]]
    assert audio_facts(None).isnan().all()


def test_the_check_ignores_padding_and_absent_audio():
    torch.manual_seed(0)
    check = SpeechCheck(BiBiERConfig(audio_config={"backbone": None, "feature_size": 6}).audio_config)
    check.weight.normal_()
    features, mask = torch.randn(3, 9, 6), torch.arange(9) < torch.tensor([[9], [4], [0]])
    together = check(features, mask)
    assert together.shape == (3,)
    assert together[2] == 0
    assert together[1] == pytest.approx(check(features[1:2, :4], mask[1:2, :4]).item(), abs=1e-5)
    assert check(features[:1, :1], mask[:1, :1]).isfinite().all()


def test_the_pipeline_says_it_only_when_asked(pipe_of, checked, clip):
    pipe, sample = pipe_of(checked), {"audio": (clip(1.0), RATE), "text": "Hello"}
    plain = pipe(sample, top_k=2)
    answer = pipe(sample, top_k=2, return_unsure=True)
    assert answer.keys() == {"answers", "unsure", "unsure_score", "unsure_reason"}
    assert answer["answers"] == plain
    assert pipe(sample, top_k=2, return_unsure=False) == plain


def test_a_batch_is_judged_as_its_samples_are(pipe_of, checked, clip):
    samples = [
        (clip(1.0), RATE),
        {"text": "Hello"},
        {"audio": (clip(2.5, 1), RATE), "text": "Hello"},
        (clip(0.1), RATE),
        (1e-3 * clip(1.0), RATE),
    ]
    pipe = pipe_of(checked)
    alone = [pipe(sample, return_unsure=True) for sample in samples]
    together = pipe(samples, batch_size=5, return_unsure=True)
    for one, other in zip(alone, together, strict=True):
        assert one["unsure_reason"] == other["unsure_reason"]
        assert one["unsure_score"] == pytest.approx(other["unsure_score"], abs=1e-4)
    assert alone[3]["unsure_reason"] == TOO_SHORT
    assert alone[4]["unsure_reason"] == TOO_QUIET
    assert alone[1]["unsure_reason"] is None
    assert alone[0]["unsure_reason"] in (None, NO_SPEECH)


def test_without_the_check_there_are_only_the_other_reasons(pipe_of, model, clip):
    pipe = pipe_of(model)
    assert model(audio_features=torch.randn(1, 5, 96)).not_speech is None
    assert pipe((clip(1.0), RATE), return_unsure=True)["unsure_reason"] is None
    assert pipe((clip(0.1), RATE), return_unsure=True)["unsure_reason"] == TOO_SHORT
    assert pipe({"text": "Hello"}, return_unsure=True, threshold=0.999)["unsure_reason"] == LOW_CONFIDENCE


def test_the_limit_of_the_configuration_and_the_threshold_of_the_call(pipe_of, model):
    pipe = pipe_of(model)
    model.config.least_confidence = 0.999
    assert pipe({"text": "Hello"}, return_unsure=True)["unsure_reason"] == LOW_CONFIDENCE
    answer = pipe({"text": "Hello"}, return_unsure=True, threshold=0.0)
    assert answer["unsure_reason"] is None


def test_the_check_is_saved_and_loaded_and_stays_in_float32(checked, pipe_of, clip, tmp_path):
    checked.config.least_confidence = 0.2
    checked.save_pretrained(tmp_path)
    loaded = BiBiERForEmotionClassification.from_pretrained(tmp_path)
    assert loaded.config.least_confidence == 0.2
    assert loaded.config.audio_config.speech_check
    before, after = (pipe_of(each)((clip(1.0), RATE), return_unsure=True) for each in (checked, loaded))
    assert after["unsure_score"] == pytest.approx(before["unsure_score"], abs=1e-4)
    assert after["unsure_reason"] == before["unsure_reason"]

    narrow = BiBiERForEmotionClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert narrow.bibier.audio.speech_check.mean.dtype == torch.float32
    assert narrow.dtype == torch.bfloat16


def test_it_is_not_computed_in_training(checked):
    assert checked.train()(audio_features=torch.randn(2, 5, 96)).not_speech is None
    assert checked.eval()(audio_features=torch.randn(2, 5, 96)).not_speech.shape == (2,)


def test_chunks_are_judged_one_by_one_and_together(pipe_of, checked, clip):
    pipe, recording = pipe_of(checked), clip(5.0)
    options = {"chunk_length_s": 2, "return_unsure": True}
    timeline = pipe((recording, RATE), return_timestamps=True, **options)
    assert timeline.keys() == {"emotions", "chunks", "unsure", "unsure_score", "unsure_reason"}
    for place, chunk in enumerate(timeline["chunks"]):
        alone = pipe((recording[place * 2 * RATE :][: 2 * RATE], RATE), return_unsure=True)
        assert chunk["unsure_score"] == pytest.approx(alone["unsure_score"], abs=1e-4)
        assert chunk["unsure_reason"] == alone["unsure_reason"]

    mean = pipe((recording, RATE), **options)
    assert mean["answers"] == timeline["emotions"]
    assert mean["unsure_score"] == timeline["unsure_score"]
    low = pipe((recording, RATE), return_timestamps=True, threshold=1.0, **options)
    assert {chunk["unsure_reason"] for chunk in low["chunks"]} <= {LOW_CONFIDENCE, NO_SPEECH}
    assert all(
        "unsure" not in chunk for chunk in pipe((recording, RATE), chunk_length_s=2, return_timestamps=True)["chunks"]
    )


def test_a_recording_is_unsure_if_half_of_its_time_is():
    def chunk(start, end, score, reason):
        return {"timestamp": (start, end), "unsure_score": score, "unsure_reason": reason}

    quiet, other = chunk(0, 4, 1.0, TOO_QUIET), chunk(4, 5, 0.7, NO_SPEECH)
    fine = chunk(5, 10, 0.2, None)
    assert judge_chunks([quiet, other, fine]) == {"unsure": True, "unsure_score": 0.7, "unsure_reason": TOO_QUIET}
    longer = chunk(5, 11, 0.2, None)
    assert judge_chunks([quiet, other, longer]) == {"unsure": False, "unsure_score": 0.2, "unsure_reason": None}
    assert judge_chunks([])["unsure_reason"] == NO_SPEECH
