"""Which labels an answer has: some of the model's, merged ones, several at once, values."""

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import pipeline

from bibier_hf import EMOTIONS, AudioTextEmotionPipeline, BiBiERConfig, BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.model.answers_bibier import UNSURE, AnswerLabels
from bibier_hf.timeline import LiveEmotion

from ..conftest import TINY, merged

LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.0, 0.0, -200.0, -210.0])
SHARES = dict(zip(EMOTIONS, LOGITS.softmax(0).tolist(), strict=True))
MERGED = {"positive": ["Happy", " surprise "], "negative": ["anger", "disgust", "fear", "sad"]}


def scores(emotions: list[dict]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in emotions}


def make_pipe(processor: BiBiERProcessor, **options) -> AudioTextEmotionPipeline:
    torch.manual_seed(0)
    model = BiBiERForEmotionClassification.from_backbones(**merged(TINY, options)).eval()
    return pipeline("audio-text-emotion", model=model, processor=processor, device="cpu")


def test_some_labels_sum_to_one():
    answer = AnswerLabels.of(BiBiERConfig(), labels=[" Neutral", "ANGER", "fear"]).scores(LOGITS)
    assert [entry["label"] for entry in answer] == ["anger", "fear", "neutral"]
    whole = SHARES["anger"] + SHARES["neutral"] + SHARES["fear"]
    assert scores(answer) == pytest.approx({label: SHARES[label] / whole for label in ("anger", "neutral", "fear")})


def test_rare_labels_do_not_vanish():
    answer = AnswerLabels.of(BiBiERConfig(), labels=["sad", "surprise"]).scores(LOGITS)
    assert scores(answer) == pytest.approx({"sad": 1 - 4.54e-5, "surprise": 4.54e-5}, abs=1e-6)


def test_merged_labels_add_up():
    answer = AnswerLabels.of(BiBiERConfig(), label_map=MERGED).scores(LOGITS)
    negative = sum(SHARES[label] for label in ("anger", "disgust", "fear", "sad"))
    expected = {"negative": negative, "positive": SHARES["happy"] + SHARES["surprise"], "neutral": SHARES["neutral"]}
    assert scores(answer) == pytest.approx(expected)
    assert [entry["label"] for entry in answer] == sorted(expected, key=expected.get, reverse=True)

    both = AnswerLabels.of(BiBiERConfig(), labels=["Positive", "negative"], label_map=MERGED).scores(LOGITS)
    whole = expected["positive"] + expected["negative"]
    assert scores(both) == pytest.approx({name: expected[name] / whole for name in ("positive", "negative")})

    renamed = AnswerLabels.of(BiBiERConfig(), label_map={"радость": "happy", "sad": ["sad", "fear"]}).scores(LOGITS)
    assert scores(renamed) == pytest.approx(
        {label: SHARES[label] for label in ("anger", "disgust", "neutral", "surprise")}
        | {"радость": SHARES["happy"], "sad": SHARES["sad"] + SHARES["fear"]}
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"labels": ["anger", "calm", "joy"]}, "labels: there is no label 'calm', 'joy'. There are: anger, disgust"),
        ({"labels": "anger"}, "must be a list of labels"),
        ({"labels": 3}, "must be a list of labels"),
        ({"labels": ["anger", 3]}, "no label 3"),
        ({"labels": []}, "at least one label"),
        ({"labels": ["anger", "Anger"]}, "each once"),
        ({"labels": ["anger"]}, "score of a single label is always 1"),
        ({"label_map": ["anger"]}, "new name: \\[labels to merge\\]"),
        ({"label_map": {"bad": ["anger", "calm"]}}, "label_map: there is no label 'calm'"),
        ({"label_map": {"bad": ["anger"], "worse": ["anger", "fear"]}}, "'anger' belongs to 'bad' and 'worse'"),
        ({"label_map": {"Neutral": ["anger"]}}, "'Neutral' is a label of its own"),
        ({"label_map": {"bad": ["anger"], "Bad ": ["fear"]}}, "are the same"),
        ({"label_map": {"": ["anger"]}}, "must be a new name"),
        ({"label_map": {"bad": 3}}, "must be a new name"),
        ({"label_map": {"bad": []}}, "at least one label"),
        ({"label_map": {"all": list(EMOTIONS)}}, "merges all labels into one"),
        ({"label_map": MERGED, "labels": ["happy", "neutral"]}, "no label 'happy'. There are: negative, positive"),
    ],
)
def test_refusals_come_before_the_model_runs(pipe: AudioTextEmotionPipeline, choice: dict, message: str):
    with pytest.raises(ValueError, match=message):
        pipe([{"text": "a"}, "no such file.wav"], **choice)


def test_the_pipeline_in_batches_and_by_default(pipe: AudioTextEmotionPipeline):
    texts = [{"text": "Good"}, {"text": "Не верю! " * 8}, {"text": "no"}]
    every = [scores(pipe(text)) for text in texts]
    answers = pipe(texts, batch_size=3, labels=["anger", "neutral"])
    for answer, all_labels in zip(answers, every, strict=True):
        whole = all_labels["anger"] + all_labels["neutral"]
        expected = {label: all_labels[label] / whole for label in ("anger", "neutral")}
        assert scores(answer) == pytest.approx(expected, abs=1e-4)

    made = AudioTextEmotionPipeline(model=pipe.model, processor=pipe.processor, device="cpu", label_map=MERGED)
    assert {entry["label"] for entry in made(texts[0])} == {"negative", "neutral", "positive"}
    assert {entry["label"] for entry in made(texts[0], labels=["positive", "negative"])} == {"negative", "positive"}
    unsure = made(texts[0], threshold=1.0, top_k=1)
    assert unsure[0]["label"] == UNSURE
    assert len(unsure) == 2
    with pytest.raises(ValueError, match="There are: negative, positive, neutral"):
        made(texts[0], labels=["anger", "neutral"])


def test_a_timeline_has_the_chosen_labels(pipe: AudioTextEmotionPipeline, clip):
    recording, windows = (clip(2.0), 16_000), {"chunk_length_s": 0.5}
    choice = {"label_map": MERGED, "labels": ["positive", "negative"]}
    timeline = pipe(recording, **windows, **choice, return_timestamps=True)
    for chunk in timeline["chunks"]:
        start, end = (round(16_000 * second) for second in chunk["timestamp"])
        alone = pipe((recording[0][start:end], 16_000), **choice)
        assert scores(chunk["emotions"]) == pytest.approx(scores(alone), abs=1e-5)
    means = {
        name: sum(scores(chunk["emotions"])[name] for chunk in timeline["chunks"]) / 4 for name in choice["labels"]
    }
    assert scores(timeline["emotions"]) == pytest.approx(means, abs=1e-5)

    joined = pipe(recording, **windows, **choice, return_timestamps=True, merge=True, top_k=1)["chunks"]
    best = [chunk["emotions"][0]["label"] for chunk in timeline["chunks"]]
    assert len(joined) == 1 + sum(a != b for a, b in pairwise(best))

    live = LiveEmotion(pipe, **windows, **choice)
    live.push(*recording)
    live.close()
    assert scores(live.timeline["emotions"]) == pytest.approx(scores(timeline["emotions"]), abs=1e-5)


def test_several_labels_at_once(processor: BiBiERProcessor, clip):
    names = {0: "гнев и обида", 1: "радость", 2: "text"}
    several = {"problem_type": "multi_label_classification", "id2label": names, "thresholds": [0.0, 0.99, 0.2]}
    pipe = make_pipe(processor, **several, temperature=2.0)
    sample = {"text": "Не верю!"}
    with torch.no_grad():
        logits = pipe.model(**processor(text=sample["text"])).logits[0]
    expected = dict(zip(names.values(), (logits / 2).sigmoid().tolist(), strict=True))

    answer = pipe(sample)
    assert scores(answer) == pytest.approx(expected, abs=1e-5)
    assert list(scores(answer)) == sorted(expected, key=expected.get, reverse=True)
    assert {entry["label"]: entry["present"] for entry in answer} == {
        "гнев и обида": True,
        "радость": False,
        "text": True,
    }
    assert not any(entry["present"] for entry in pipe(sample, threshold=1.0))  # and no "unsure"
    assert scores(pipe(sample, labels=["TEXT"])) == pytest.approx({"text": expected["text"]}, abs=1e-5)
    with pytest.raises(ValueError, match="label_map adds probabilities of classes"):
        pipe(sample, label_map={"a": ["text"]})

    timeline = pipe((clip(1.0), 16_000), chunk_length_s=0.5, return_timestamps=True, merge=True)
    for emotions in (timeline["emotions"], *(chunk["emotions"] for chunk in timeline["chunks"])):
        assert all(entry["present"] is (entry["label"] != "радость") for entry in emotions)

    pipe.model.config.thresholds = None
    assert all(entry["present"] == (entry["score"] >= 0.5) for entry in pipe(sample))


def test_values(processor: BiBiERProcessor, clip, tmp_path: Path):
    values = {"problem_type": "regression", "id2label": {0: "valence", 1: "arousal", 2: "dominance"}}
    pipe = make_pipe(processor, **values)
    sample = {"text": "Не верю!"}
    with torch.no_grad():
        logits = pipe.model(**processor(text=sample["text"])).logits[0].tolist()
    assert [entry["label"] for entry in pipe(sample)] == ["valence", "arousal", "dominance"]
    assert [entry["score"] for entry in pipe(sample)] == pytest.approx(logits, abs=1e-5)
    assert [entry["label"] for entry in pipe(sample, labels=["dominance", "Valence"])] == ["valence", "dominance"]

    clipped = copy.deepcopy(pipe.model)
    clipped.config.label_ranges = [[100, 101], [-1e-9, 1e-9], [-200, -100]]
    pipe.model = clipped
    assert [entry["score"] for entry in pipe(sample)] == pytest.approx([100, 0, -100], abs=1e-6)

    clipped.config.label_ranges = None
    timeline = pipe((clip(1.0), 16_000), chunk_length_s=0.5, return_timestamps=True)
    assert timeline["problem_type"] == "regression"
    first, second = (chunk["emotions"] for chunk in timeline["chunks"])
    for mean, a, b in zip(timeline["emotions"], first, second, strict=True):
        assert mean["label"] == a["label"] == b["label"]
        assert mean["score"] == pytest.approx((a["score"] + b["score"]) / 2, abs=1e-5)

    for refused in ({"top_k": 1}, {"threshold": 0.5}, {"label_map": {"a": ["valence"]}}):
        with pytest.raises(ValueError, match=r"values|none to add"):
            pipe(sample, **refused)
    with pytest.raises(ValueError, match="merge joins chunks"):
        pipe((clip(1.0), 16_000), chunk_length_s=0.5, return_timestamps=True, merge=True)

    pipe.save_pretrained(tmp_path)
    again = BiBiERForEmotionClassification.from_pretrained(tmp_path)
    assert again.config.problem_type == "regression"
