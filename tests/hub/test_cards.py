"""The card says what the results say, and nothing that is not known."""

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from bibier_hf.hub.cards import render_model_card, write_model_card
from bibier_hf.hub.eval_results import render_eval_results, write_eval_results

from .conftest import metrics

NEVER = ("None", "Undefined", "{{", "{%", "\n\n\n")


@pytest.fixture(autouse=True)
def _no_gaps(results):
    """Whatever a test makes of the results, nothing of Python or Jinja shows through."""
    yield
    text = render_model_card(results).text
    for gap in NEVER:
        assert gap not in text, gap


def test_the_card_states_the_facts(results, tmp_path):
    for name in ("confusion_matrix_test_resd.png", "confusion_matrix_dev_resd.png", "reliability_test_resd.png"):
        (tmp_path / name).touch()
    write_model_card(results, tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "transformers"
    assert data["language"] == ["ru"]
    assert data["base_model"] == ["intfloat/multilingual-e5-small"]  # a local folder is no model of the Hub
    assert data["datasets"] == ["Aniemore/resd_annotated"]
    (entry,) = data["model-index"]
    values = {metric["type"]: metric["value"] for metric in entry["results"][0]["metrics"]}
    assert values == {"uar": 67.89, "war": 67.89, "mf1": 67.89, "wf1": 67.89}
    for fact in (
        "# BiBiER biformer (resd)",
        "from speech and text (Russian). Either of the two may be missing",
        "anger, disgust, fear, happy, neutral, sad, surprise",
        'pipeline("audio-text-emotion", model="PATH/TO/THIS/FOLDER"',
        "| audio | `whisper-base` | frozen | `mamba` |",
        "| text | [`intfloat/multilingual-e5-small`](https://huggingface.co/intfloat/multilingual-e5-small) | frozen "
        "| `mamba` |",
        "1,234,567 parameters, 1,000 of them trained",
        "| resd | 67.89 | 67.89 | 67.89 | 67.89 | 67.89 |",
        "![Confusion matrix, resd](confusion_matrix_test_resd.png)\n",
        "![Reliability, resd](reliability_test_resd.png)\n",
        "* `resd`: 982 train, 134 dev, 280 test; 2.3 h, ru, recorded; license: MIT. Split: official protocol (the "
        "corpus's own test set).",
        "Seed 7; 1.5 minutes on Some CPU, 2 cores.",
        "commit 0123456789ab",
        "accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH",
        "recognizing the speaker",
        "Regulation (EU) 2024/1689",
        "Article 5(1)(f)",
        "Annex III, point 1(c)",
        "Article 50(3)",
        "## Intended use",
        "| corpus resd | MIT |",
        "| text backbone intfloat/multilingual-e5-small | MIT |",
        "| audio backbone whisper-base | unknown |",
    ):
        assert fact in card.text, fact
    assert str(tmp_path) not in str(card)
    absent = (
        "synthetic",
        "with local changes",
        "dev_resd.png",
        "Calibration",
        "Two stages",
        "LoRA",
        "commercial",
        "anew on train",
        "co2",
    )
    for unknown in absent:
        assert unknown not in card.text, unknown


def test_the_license_of_the_model_follows_from_its_sources(results):
    assert "license" not in render_model_card(results).data.to_dict()  # that of the local folder is not known
    expected = {
        ("embedded", "embedded", "MIT"): ("mit", None),
        ("openai/whisper-base", "intfloat/multilingual-e5-small", "MIT"): ("apache-2.0", None),
        ("openai/whisper-base", "embedded", "GPL-3.0"): ("gpl-3.0", None),
        ("embedded", "jinaai/jina-embeddings-v3-hf", "MIT"): ("cc-by-nc-4.0", None),
        ("embedded", "jinaai/jina-embeddings-v3-hf", "GPL-3.0"): ("other", "cc-by-nc-4.0-and-gpl-3.0"),
        ("embedded", "embedded", "Own Terms"): ("other", "own-terms"),
        ("embedded", "embedded", "unknown"): (None, None),
        ("someone/speech", "embedded", "MIT"): (None, None),
    }
    for (audio, text, license), (wanted, name) in expected.items():
        results.model |= {"audio_backbone": audio, "text_backbone": text}
        results.data["resd"]["license"] = [license]
        data = render_model_card(results).data.to_dict()
        assert (data.get("license"), data.get("license_name")) == (wanted, name)


def test_the_published_backbones_are_said_to_be_non_commercial(results):
    results.model["audio_backbone"] = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
    results.model["text_backbone"] = "jinaai/jina-embeddings-v3-hf"
    card = render_model_card(results)
    assert card.data.license == "cc-by-nc-sa-4.0"
    assert "**Not for commercial use:** audio backbone audeering/wav2vec2" in card.text
    assert "| text backbone jinaai/jina-embeddings-v3-hf | CC BY-NC 4.0, not for commercial use |" in card.text
    assert "The model may not be used commercially" in card.text
    results.model["text_backbone"] = "embedded"
    assert "forbids it" in render_model_card(results).text


@pytest.mark.parametrize(
    ("modality", "other", "tag"), [("audio", "text", "audio-classification"), ("text", "audio", "text-classification")]
)
def test_a_model_of_one_modality_shows_nothing_of_the_other(results, modality, other, tag):
    results.config["model"]["modalities"] = [modality]
    card = render_model_card(results)
    assert f"# BiBiER {modality} (resd)" in card.text
    assert card.data.pipeline_tag == tag
    assert "multimodal" not in card.data.tags
    assert f"| {modality} | " in card.text
    assert f"| {other} | " not in card.text
    assert f"{other} backbone" not in card.text
    for absent in ("fusion (`", "Either of the two", '"audio": "clip.wav", "text"'):
        assert absent not in card.text
    assert ('pipe("clip.wav")' in card.text) == (modality == "audio")
    assert (card.data.base_model is None) == (modality == "audio")


def test_adapters_and_stages_are_named(results):
    results.model["text_backbone_training"] = "LoRA, rank 4"
    results.config["lora"] = {"save": "adapter", "backbones": ["text"]}
    text = render_model_card(results).text
    assert "| LoRA, rank 4 |" in text
    assert "LoRA adapters are stored next to the backbones (`text_adapter`)" in text
    results.config["lora"]["save"] = "merged"
    assert "stored next to" not in render_model_card(results).text
    selections = {
        "audio": {"selection": {"epoch": 4.0, "value": 0.31}},
        "text": {"selection": {"epoch": 7.0, "value": 0.42}},
    }
    results.stages = selections | {"logits": "out_of_fold", "folds": {"count": 5}}
    text = render_model_card(results).text
    assert "Two stages: first each encoder" in text
    assert (
        "The audio encoder was selected at epoch 4 (dev: 31.00). The text encoder was selected at epoch 7 (dev: "
        "42.00)." in text
    )
    assert "(5 folds)" in text
    results.stages = selections | {"logits": "not used"}
    assert "the fusion read" not in render_model_card(results).text
    results.config["refit_on_dev"] = True
    assert "again, on train and dev together" in render_model_card(results).text


def test_a_late_fusion_of_pooled_features_claims_no_blocks(results):
    results.model["fusion"] = "late"
    results.config["model"] = {"audio_config": {"num_hidden_layers": 0}}
    text = render_model_card(results).text
    assert "a learned weighting of their predictions (`late`)" in text
    assert "cross-modal" not in text
    (audio,) = [line for line in text.splitlines() if line.startswith("| audio |")]
    (other,) = [line for line in text.splitlines() if line.startswith("| text |")]
    assert audio.endswith("| pooled over time |")
    assert other.endswith("| `mamba` |")


def test_the_parts_of_a_trained_backbone_that_are_frozen_are_named(results):
    results.config["frozen"] = [
        "bibier.text.backbone.embeddings",
        "bibier.text.backbone.encoder.layer.0.",
        "bibier.audio.encoder",
    ]
    assert "`embeddings`" not in render_model_card(results).text  # all of it is frozen, which is said already
    results.model["text_backbone_training"] = "trained"
    text = render_model_card(results).text
    assert "| trained, but for `embeddings`, `encoder.layer.0` |" in text
    assert "audio.encoder`" not in text


def test_calibration_modalities_and_noise_are_shown_where_they_were_measured(results):
    results.metrics["test"]["resd"] |= {"ece": 0.0512, "brier": 0.4321, "nll": 1.25}
    results.calibration = {"temperature": 1.4142, "fitted_on": "dev, answered by the selected checkpoint"}
    results.modalities = {"test": {"resd": {"both": metrics(0.7), "audio": metrics(0.6), "text": metrics(0.3)}}}
    interval = {"interval": {"uar": [0.2, 0.3], "wf1": [0.2, 0.3]}}
    loss = {name: {"difference": 0.45, "lower": 0.4, "upper": 0.5} for name in ("uar", "wf1")}
    heard = {"clean": metrics(0.7) | interval, "white:0": metrics(0.25) | interval | {"loss": loss}}
    results.conditions = {"test": {"resd": heard}}
    results.config["disturbances"] = {"probability": 0.8, "kinds": ["white", "mp3:16..32"], "draws": 4, "seed": 42}
    text = render_model_card(results).text
    assert "| resd | 5.12 | 0.4321 | 1.2500 |" in text
    assert "divided by the temperature 1.414, fitted on dev" in text
    assert "| input | UAR |" in text
    assert "| audio | 60.00 |" in text
    assert "| corpus | condition | UAR | 95 % | loss | 95 % | WF1 |" in text
    assert "| resd | white:0 | 25.0 | 20.0 to 30.0 | 45.0 | 40.0 to 50.0 |" in text
    assert "In training, 80 % of the recordings in an epoch were disturbed at random: `white`, `mp3:16..32`." in text
    results.calibration = {}
    assert "temperature" not in render_model_card(results).text


def test_when_not_to_answer_is_shown_where_it_was_measured(results):
    assert "When not to answer" not in render_model_card(results).text
    points = [{"coverage": share, "confidence": 1 - share / 2, "risk": share / 4} for share in (1.0, 0.5)]
    results.risk_coverage = {"test": {"resd": points}, "dev": {"resd": points}}
    text = render_model_card(results).text
    assert "### When not to answer" in text
    assert "| 50 | 87.5 | 0.75 |" in text
    assert "speech check" not in text

    check = {"detected": 0.987, "at_5_percent": 0.995, "sounds": 450, "by_family": {"near_silence": 1.0}}
    check["false_alarms"] = {"clean": 0.001, "disturbed": 0.02, "part": 0.03}
    results.unsure = {"speech_check": check, "least_confidence": 0.3104, "coverage": 0.9}
    text = render_model_card(results).text
    assert "98.7 % of 450 sounds" in text
    assert "clean 0.1 %, disturbed 2.0 %, part 3.0 %" in text
    assert "| near silence | 100.0 |" in text
    assert "a score below 0.310 have low confidence: 10 % of those on dev" in text


def test_a_synthetic_corpus_is_said_to_be_one(results):
    results.data["resd"]["source"] = ["synthetic"]
    text = render_model_card(results).text
    assert "synthetic speech" in text
    assert "Do not base claims on them" in text


def test_a_grouped_protocol_names_its_fold_and_has_no_leak_to_warn_of(results):
    results.protocol["resd"] = {"name": "dialogue_grouped", "fold": 3, "split_seed": 42, "samples": {}}
    text = render_model_card(results).text
    assert "dialogue_grouped protocol, fold 3 (no dialogue of the test set occurs in training)" in text
    assert "recognizing the speaker" not in text


def test_unknown_facts_are_left_out(results):
    results.git = results.command = None
    text = render_model_card(results).text
    assert "commit" not in text.replace("commitment", "")
    assert "```\n\n```" not in text


def test_several_corpora_have_their_mean(results):
    results.metrics["test"]["other"] = metrics(0.1)
    results.protocol["other"] = {"name": "official", "split_seed": 42, "samples": {}}
    results.data["other"] = {"language": ["en"], "source": ["recorded"], "license": ["CC BY 4.0"], "hours": 0.0}
    results.augmentation = {"other": {"sds": {"stacked": 7, "rows": 10, "draws": 1}}}
    results.soft_labels = {"other": {"table": "labels.parquet", "rows": 10, "soft": 8}}
    results.metrics_mean["test"] = metrics(0.38945)
    text = render_model_card(results).text
    assert "| mean | 38.95 |" in text or "| mean | 38.94 |" in text
    assert "English, Russian" in text
    assert "* `other`: text only, en" in text
    assert "Training rows: 7 of 10 rows stacked from clips of the same label (drawn once)." in text
    assert "Soft labels for 8 of 10 training rows (`labels.parquet`)." in text


def test_evaluation_results_have_the_form_of_the_hub(results, tmp_path):
    results.protocol["resd"] = {"name": "dialogue_grouped", "fold": 3, "split_seed": 42, "samples": {}}
    results.metrics["test"]["mine"] = metrics(0.5)  # not on the Hub
    (content,) = render_eval_results(results, "owner/name").values()
    (written,) = yaml.safe_load(content)
    assert written == {
        "dataset": {"id": "Aniemore/resd_annotated", "task_id": "dialogue_grouped_fold_3"},
        "value": 67.89,
        "date": "2026-11-24",
        "source": {"url": "https://huggingface.co/owner/name/blob/main/results.json", "name": "results.json"},
        "notes": "UAR in percent, dialogue_grouped protocol, fold 3, test, 10 samples; WAR 67.89, MF1 67.89, WF1 "
        "67.89",
    }
    write_eval_results(results, tmp_path)
    (path,) = tmp_path.rglob("*.yaml")
    assert path == tmp_path / ".eval_results" / "resd.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text()))  # the Hub's own reader
    assert (entry.value, entry.source_url, entry.verify_token) == (67.89, None, None)
    del results.metrics["test"]["mine"]
    results.date = None
    assert "date" not in render_eval_results(results)[".eval_results/resd.yaml"]
