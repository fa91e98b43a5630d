"""Cards of data sets say what `corpus.json` says."""

import pytest

from bibier_hf import EMOTIONS
from bibier_hf.hub.dataset_cards import render_dataset_card


@pytest.fixture
def info() -> dict:
    counts = dict(zip(EMOTIONS, (2, 1, 1, 1, 0, 0, 1), strict=True))
    return {
        "name": "resd",
        "reader": "resd",
        "title": "RESD: Russian Emotional Speech Dialogs",
        "homepage": "https://huggingface.co/datasets/Aniemore/resd_annotated",
        "not_to_rehost": "",
        "options": {"enthusiasm": "surprise", "strict_counts": False},
        "asr": None,
        "license": ["MIT"],
        "source": ["recorded"],
        "language": ["ru"],
        "rows": 6,
        "labels": list(EMOTIONS),
        "splits": {
            "train": {"rows": 6, "labels": counts, "hours": 0.0012, "file": "train.parquet"},
            "test": {"rows": 6, "labels": counts, "hours": 0.0012, "file": "test.parquet"},
        },
        "remarks": {},
        "with_audio": True,
        "own_columns": [],
    }


@pytest.fixture(autouse=True)
def _no_gaps(info):
    yield
    for repo_id in (None, "owner/resd"):
        for gap in ("None", "Undefined", "{{", "{%", "\n\n\n"):
            assert gap not in render_dataset_card(info, repo_id).text, gap


def test_the_card_of_values(info):
    for entry in info["splits"].values():
        entry |= {"labels": {}, "ranges": {"valence": [1.0, 5.0], "arousal": [0.0, 2.0]}}
    info |= {"labels": ["valence", "arousal"], "own_columns": ["target"]}
    card = render_dataset_card(info, "owner/resd").text
    assert "6 utterances with values of valence, arousal (" in card
    assert "| split | rows | hours |" in card
    assert "| train | 6 | 0.00 |" in card


def test_the_card_says_what_the_corpus_says(info):
    info |= {
        "remarks": {"left out: calm": 3, "text mended": 2},
        "source": ["recorded", "synthetic"],
        "own_columns": ["fold", "original_label"],
    }
    card = render_dataset_card(info, "owner/resd")
    assert card.data.license == "mit"
    assert card.data.configs[0]["data_files"] == [
        {"split": "train", "path": "train.parquet"},
        {"split": "test", "path": "test.parquet"},
    ]
    text = card.text
    assert "| train | 2 | 1 | 1 | 1 | 0 | 0 | 1 | 6 | 0.00 |" in text
    assert "* 3 x left out: calm\n* 2 x text mended\n" in text
    assert "`license`, `fold`, `original_label`" in text
    assert 'load_dataset("owner/resd")' in text
    assert "shares every dialogue role with train" in text
    assert "Some rows are synthetic speech" in text
    assert "Article 5(1)(f)" in text
    assert '"strict_counts": false' in text
    for absent in ("The rows are text only", "Not for commercial use", "**Synthetic.**", "Mind the recordings"):
        assert absent not in text


def test_unknown_licenses_are_left_out_of_the_metadata(info):
    info["license"] = ["MIT", "unknown"]
    card = render_dataset_card(info, "owner/resd")
    assert card.data.license is None
    assert "**License of the rows:** MIT, unknown." in card.text


def test_text_alone_and_synthetic_rows(info):
    info |= {"with_audio": False}
    card = render_dataset_card(info, "owner/resd")
    assert "The rows are text only" in card.text
    assert card.data.task_categories == ["text-classification"]
    assert "Recordings were decoded" not in card.text
    info |= {"reader": "tug", "source": ["synthetic"], "homepage": "made by this package", "with_audio": True}
    info |= {"speech": {"backend": "espeak", "seed": 0}}
    text = render_dataset_card(info).text
    assert (
        "**Synthetic.** Nobody said any of this: the sentences come from templates and are spoken by a synthesizer."
        in text
    )
    assert 'spoken by a synthesizer (`{"backend": "espeak", "seed": 0}`)' in text
    assert "This is not the corpus's own publication" not in text
    assert 'load_dataset("OWNER/NAME")' in text


def test_what_is_not_to_be_handed_on_is_a_link_alone(info):
    info |= {"not_to_rehost": "its clips are others'"}
    card = render_dataset_card(info)
    assert "This repository contains nothing of the corpus: its clips are others'." in card.text
    assert "bibier prepare resd --source PATH/TO/IT" in card.text
    assert "load_dataset" not in card.text
    assert "configs" not in card.data.to_dict()
    pushed = render_dataset_card(info, "owner/forced").text
    assert "**Note on the recordings:** its clips are others'." in pushed
    assert 'load_dataset("owner/forced")' in pushed
