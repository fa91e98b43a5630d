"""The card says what the results say, and nothing that is not known."""

import copy

import pytest
from huggingface_hub import ModelCard

from bibier_hf import EMOTIONS
from bibier_hf.hub.cards import render_model_card, write_model_card


def metrics(value: float) -> dict:
    numbers = {name: value for name in ("uar", "war", "mf1", "wf1", "mean")}
    return numbers | {"samples": 10, "recall": dict.fromkeys(EMOTIONS, value)}


@pytest.fixture
def results() -> dict:
    return {
        "model": {
            "audio_backbone": "whisper-base",
            "text_backbone": "intfloat/multilingual-e5-small",
            "audio_backbone_training": "frozen",
            "text_backbone_training": "frozen",
            "fusion": "biformer",
            "labels": list(EMOTIONS),
            "parameters": 1_234_567,
            "trained_parameters": 1_000,
        },
        "protocol": {"resd": {"name": "official", "split_seed": 42, "samples": {}}},
        "selection": {"metric": "mean of the four", "value": 0.5, "epoch": 3.0},
        "seed": 7,
        "command": "accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH",
        "data": {"resd": {"language": ["ru"], "source": ["recorded"], "license": ["MIT"], "hours": 2.3}},
        "hardware": {"platform": "Linux x86_64", "processor": "Some CPU", "cores": 2, "processes": 1},
        "versions": {"python": "3.11.0", "torch": "2.13.0"},
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "seconds": 90.0,
        "metrics": {"test": {"resd": metrics(0.6789)}, "dev": {"resd": metrics(0.5)}},
        "metrics_by_language": {"test": {"ru": metrics(0.6789)}, "dev": {}},
        "metrics_mean": {"test": metrics(0.6789), "dev": metrics(0.5)},
    }


def test_the_card_states_the_facts(results, tmp_path):
    write_model_card(results, tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "transformers"
    assert data["language"] == ["ru"]
    assert data["base_model"] == ["intfloat/multilingual-e5-small"]  # a local folder is no model of the Hub
    (entry,) = data["model-index"]
    values = {metric["type"]: metric["value"] for metric in entry["results"][0]["metrics"]}
    assert values == {"uar": 67.89, "war": 67.89, "mf1": 67.89, "wf1": 67.89}
    for fact in (
        "# BiBiER biformer (resd)",
        "anger, disgust, fear, happy, neutral, sad, surprise",
        'pipeline("audio-text-emotion"',
        "| audio | `whisper-base` | frozen |",
        "1,234,567 parameters, 1,000 of them trained",
        "| resd | 67.89 | 67.89 | 67.89 | 67.89 | 67.89 |",
        "official protocol",
        "Seed 7; 1.5 minutes on Some CPU, 2 cores.",
        "commit 0123456789ab",
        "accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH",
        "recognising who speaks",
        "(MIT)",
    ):
        assert fact in card.text, fact
    for unknown in ("synthetic", "None", "{{", "{%", "commit 0123456789ab with local"):
        assert unknown not in card.text, unknown


def test_a_synthetic_corpus_is_said_to_be_one(results):
    results["data"]["resd"]["source"] = ["synthetic"]
    text = render_model_card(results).text
    assert "synthetic speech" in text
    assert "Not for claims" in text


def test_a_grouped_protocol_names_its_fold_and_has_no_leak_to_warn_of(results):
    results["protocol"]["resd"] = {"name": "dialogue_grouped", "fold": 3, "split_seed": 42, "samples": {}}
    text = render_model_card(results).text
    assert "dialogue_grouped protocol, fold 3" in text
    assert "recognising who speaks" not in text


def test_unknown_facts_are_left_out(results):
    results |= {"git": None, "command": None}
    text = render_model_card(results).text
    assert "commit" not in text.replace("commitment", "")
    assert "None" not in text
    assert "```\n\n```" not in text


def test_a_non_commercial_backbone_is_said_to_be_one(results):
    results["model"]["text_backbone"] = "jinaai/jina-embeddings-v3-hf"
    assert "not for commercial use" in render_model_card(results).text


def test_several_corpora_have_their_mean(results):
    results = copy.deepcopy(results)
    results["metrics"]["test"]["other"] = metrics(0.1)
    results["protocol"]["other"] = {"name": "official", "split_seed": 42, "samples": {}}
    results["data"]["other"] = {"language": ["en"], "source": ["recorded"], "license": ["CC BY 4.0"], "hours": 1.0}
    results["metrics_mean"]["test"] = metrics(0.38945)
    text = render_model_card(results).text
    assert "| mean | 38.95 |" in text or "| mean | 38.94 |" in text
    assert "English, Russian" in text
