"""Explanations by leaving out one part at a time."""

import numpy as np
import pytest

from bibier_hf.model.explaining_bibier import MOST_STRETCHES, cut_stretches, explain, strongest

BAD = {"awful": 0.3, "worse": 0.2}


def classify(samples):
    """A model that adds up: bad words, and loud quarters of a second."""
    for sample in samples:
        loud = 0.0 if sample["audio"] is None else 0.1 * sample["audio"].sum() / 4000
        score = 0.1 + loud + sum(BAD.get(word, 0.0) for word in (sample["text"] or "").split())
        yield [{"label": "anger", "score": score}, {"label": "neutral", "score": 1 - score}]


def test_effects_by_hand():
    audio = np.repeat([0, 1, 0, 0, 2, 0], 4000).astype(np.float32)
    text = "this is awful and even worse"
    answer = next(classify([{"audio": audio, "text": text}]))
    found = explain(classify, audio, text, answer, start_s=10.0)
    assert list(found) == ["label", "score", "words", "audio", "carried_by", "additivity"]
    assert (found["label"], found["score"]) == ("anger", pytest.approx(0.9))
    assert [word["text"] for word in found["words"]] == text.split()
    assert [word["effect"] for word in found["words"]] == pytest.approx([0, 0, 0.3, 0, 0, 0.2])
    assert [part["effect"] for part in found["audio"]] == pytest.approx([0, 0.1, 0, 0, 0.2, 0])
    assert [part["timestamp"] for part in found["audio"]][:2] == [(10.0, 10.25), (10.25, 10.5)]
    assert found["carried_by"] == {"words": [2, 5], "audio": [1, 4]}
    assert found["additivity"] == {"sum": pytest.approx(0.8), "joint": pytest.approx(0.8)}


def test_one_modality_and_a_single_part():
    answer = next(classify([{"audio": None, "text": "awful"}]))
    found = explain(classify, None, "awful", [{"label": "neutral", "score": 0.6}, {"label": "anger", "score": 0.4}])
    assert (found["audio"], found["carried_by"]) == ([], {"words": [0], "audio": []})
    assert found["words"] == [{"text": "awful", "effect": pytest.approx(0.1)}]  # nothing is left: one half each
    sound = np.ones(4000, np.float32)
    assert explain(classify, sound, None, answer)["carried_by"] == {"words": [], "audio": [0]}


def test_stretches():
    assert cut_stretches(0) == []
    assert cut_stretches(100) == [(0, 100)]
    assert cut_stretches(9000) == [(0, 4000), (4000, 9000)]
    assert cut_stretches(11_000) == [(0, 4000), (4000, 8000), (8000, 11_000)]
    long = cut_stretches(120 * 16_000)
    assert (len(long), long[0], long[-1][1]) == (MOST_STRETCHES, (0, 8000), 120 * 16_000)
    assert strongest([0.1, -0.5, 0.3, 0.2, 0.0, 0.3]) == [2, 5]
    assert strongest([]) == []


def test_in_the_pipeline(pipe, clip, about):
    audio = {"array": clip(1.1, 1), "sampling_rate": 16_000}
    sample = {"audio": audio, "text": "I cannot believe it"}
    found = pipe(sample, explain=True, top_k=2)
    assert found["answers"] == [about(entry) for entry in pipe(sample, top_k=2)]
    explanation = found["explanation"]
    assert explanation["label"] == found["answers"][0]["label"]
    for place, word in enumerate(explanation["words"]):
        rest = " ".join(other["text"] for other in explanation["words"][:place] + explanation["words"][place + 1 :])
        scores = {entry["label"]: entry["score"] for entry in pipe({"audio": audio, "text": rest})}
        assert word["effect"] == pytest.approx(explanation["score"] - scores[explanation["label"]], abs=1e-4)
    assert [part["timestamp"] for part in explanation["audio"]] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.1)]
    cut = {**audio, "array": np.delete(audio["array"], slice(4000, 8000))}
    scores = {entry["label"]: entry["score"] for entry in pipe({**sample, "audio": cut})}
    second = explanation["audio"][1]["effect"]
    assert second == pytest.approx(explanation["score"] - scores[explanation["label"]], abs=1e-4)

    judged = pipe(sample, explain=True, top_k=2, return_unsure=True)
    assert list(judged) == ["answers", "unsure", "unsure_score", "unsure_reason", "explanation"]
    assert judged["explanation"]["label"] == explanation["label"]
    several = pipe([sample, {"text": "So."}], explain=True, batch_size=4)
    assert several[1]["explanation"]["audio"] == []

    timeline = pipe(audio, chunk_length_s=0.6, return_timestamps=True, explain=True)
    second = timeline["chunks"][1]["explanation"]
    assert [part["timestamp"] for part in second["audio"]] == [(0.6, 0.85), (0.85, 1.1)]
    with pytest.raises(ValueError, match="Leave one out"):
        pipe(audio, chunk_length_s=0.6, return_timestamps=True, merge=True, explain=True)
