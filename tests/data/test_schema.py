import pytest
from datasets import Dataset

from bibier_hf.data.schema import COLUMNS, FEATURES
from bibier_hf.labels import LABEL_ALIASES, LABEL_SUGGESTIONS, UnknownLabelError, normalize_label
from bibier_hf.model.labels_bibier import EMOTIONS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("anger", "anger"),
        ("Joy", "happy"),
        (" happiness ", "happy"),
        ("SADNESS", "sad"),
        ("enthusiasm", "surprise"),
        ("angry", "anger"),
        ("fearful", "fear"),
        ("surprised", "surprise"),
    ],
)
def test_known_names_are_translated(name, expected):
    assert normalize_label(name) == expected


@pytest.mark.parametrize("name", ["calm", "", "hapy", "гнев", None, 3])
def test_unknown_names_are_refused_with_what_is_allowed(name):
    with pytest.raises(
        UnknownLabelError, match="Allowed: anger, disgust, fear, happy, neutral, sad, surprise; also"
    ) as error:
        normalize_label(name)
    assert repr(name) in str(error.value)


def test_a_mistyped_name_gets_a_suggestion():
    with pytest.raises(UnknownLabelError, match="Did you mean 'surprise'"):
        normalize_label("suprise")


def test_labels_of_other_corpora_are_suggested_and_never_translated():
    for name, emotion in LABEL_SUGGESTIONS.items():
        assert emotion in EMOTIONS
        with pytest.raises(UnknownLabelError, match=f"Did you mean '{emotion}'"):
            normalize_label(name)
    for name in ("fru", "xxx", "oth", "calm", "other", "negative"):
        with pytest.raises(UnknownLabelError, match=f"Unknown label '{name}'. Allowed"):
            normalize_label(name)


def test_aliases_lead_to_the_seven_and_hide_none_of_them():
    assert set(LABEL_ALIASES.values()) <= set(EMOTIONS)
    assert not set(LABEL_ALIASES) & set(EMOTIONS)


def test_the_label_column_has_the_order_of_the_model():
    assert tuple(FEATURES["label"].names) == EMOTIONS


def test_a_row_may_lack_audio_soft_label_speaker_and_dialogue():
    row = dict.fromkeys(COLUMNS) | {"id": "x-1", "label": 3, "text": "Привет, ёж!", "language": "ru"}
    dataset = Dataset.from_list([row], features=FEATURES)
    assert dataset[0] == row
    assert dataset.features["label"].int2str(dataset[0]["label"]) == "happy"
