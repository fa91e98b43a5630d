"""The transfer matrix: what is held out stays out, and every number follows from the stored predictions."""

import numpy as np
import pytest

from bibier_hf.commands.transfer import write_report
from bibier_hf.data.protocols import ProtocolError
from bibier_hf.evaluation.bootstrap import drawn_scores, paired_difference
from bibier_hf.evaluation.metrics import classification_metrics
from bibier_hf.evaluation.transfer import (
    FAIR,
    LEAKY,
    ROLE,
    UTTERANCE,
    CorpusRows,
    Test,
    _geometric_mean,
    answer_tests,
    divide,
    read_sheets,
    score_sheet,
    training_sets,
    write_sheets,
)

LABELS = ("anger", "happy", "sad")
CLASSES = len(LABELS)


def corpus(name: str, modalities=("audio", "text"), seed=0, shift=0.0) -> CorpusRows:
    """Ten dialogues of two roles with one label each; features say the label, and where the corpus is."""
    random = np.random.default_rng(seed)
    columns: dict[str, list] = {column: [] for column in ("id", "split", "speaker", "dialogue", "text")}
    labels = []
    for dialogue in range(10):
        for role in range(2):
            for line in range(6):
                columns["id"].append(f"{name}-{dialogue}-{role}-{line}")
                columns["split"].append(("train", "train", "dev", "test")[line % 4])
                columns["speaker"].append(f"{name}-s{dialogue}{role}")
                columns["dialogue"].append(f"{name}-d{dialogue}")
                columns["text"].append(f"sentence {line % 2}")
                labels.append((dialogue + role) % CLASSES)

    truth = np.array(labels)
    features = {
        modality: np.eye(CLASSES)[truth] + random.normal(0, 0.8, (len(truth), CLASSES)) + shift * np.eye(CLASSES)[0]
        for modality in modalities
    }
    return CorpusRows(name, {"one": "en", "two": "ru"}.get(name, "de"), columns, truth, features)


@pytest.fixture(scope="module")
def corpora():
    return {
        "one": corpus("one"),
        "two": corpus("two", ("audio",), seed=1, shift=50.0),
        "three": corpus("three", ("text",), 2),
    }


TESTS = [
    Test("one", FAIR, ["dialogue"], "dialogue"),
    Test("one", LEAKY, "test", "dialogue"),
    Test("two", FAIR, ["speaker", "text"], "speaker"),
    Test("three", FAIR, "dev", "dialogue"),
]


@pytest.fixture(scope="module")
def sheets(corpora):
    return answer_tests(corpora, TESTS, CLASSES)


def shared(rows: CorpusRows, column: str, train: np.ndarray, test: np.ndarray) -> set:
    values = np.asarray(rows.columns[column])
    return set(values[train]) & set(values[test])


@pytest.mark.parametrize("hold_out", [["dialogue"], ["speaker"], ["speaker", "text"], ["dialogue", "speaker"]])
def test_nothing_that_is_held_out_is_in_train(corpora, hold_out):
    rows = corpora["one"]
    divisions = divide(rows, hold_out)
    for train, test in divisions:
        assert len(train)
        assert not any(shared(rows, column, train, test) for column in hold_out)
    tested = np.concatenate([test for _, test in divisions])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(rows.labels)))  # each row once


def test_splits_and_columns_that_do_not_exist(corpora):
    rows = corpora["one"]
    ((train, test),) = divide(rows, "dev")
    splits = np.asarray(rows.columns["split"])
    assert (set(splits[train]), set(splits[test])) == ({"train"}, {"dev"})
    ((train, test),) = divide(rows, "test")
    assert (set(splits[train]), set(splits[test])) == ({"train", "dev"}, {"test"})
    with pytest.raises(ProtocolError, match="no split 'banana'"):
        divide(rows, "banana")

    nameless = CorpusRows("x", "en", {**rows.columns, "speaker": [None] * 120}, rows.labels, rows.features)
    with pytest.raises(ProtocolError, match="120 of 120 rows have no speaker"):
        divide(nameless, ["speaker"])


def test_training_sets():
    assert list(training_sets("abc")) == [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
    assert list(training_sets("a")) == [("a",)]


def test_the_sheets(sheets):
    kinds = [(sheet.corpus, sheet.kind, sheet.unit, len(sheet.labels)) for sheet in sheets]
    assert kinds == [
        ("one", FAIR, UTTERANCE, 120),
        ("one", FAIR, ROLE, 20),
        ("one", LEAKY, UTTERANCE, 20),
        ("two", FAIR, UTTERANCE, 120),
        ("two", FAIR, ROLE, 20),
        ("three", FAIR, UTTERANCE, 20),
        ("three", FAIR, ROLE, 20),
    ]
    fair, _, leaky, two, _, three, _ = sheets
    assert set(fair.predictions) == {
        *("audio:one", "audio:two", "audio:one+two", "text:one", "text:three", "text:one+three"),
        *("both:one", "both:one+two", "both:one+three", "both:two+three", "both:one+two+three"),
    }
    assert "audio:two" not in leaky.predictions  # nothing leaks from another corpus
    assert all(system.startswith("audio:") for system in two.predictions)
    assert all(system.startswith("text:") for system in three.predictions)


def test_what_is_learned_and_transferred(sheets):
    for sheet in sheets:
        for system, found in sheet.predictions.items():
            assert classification_metrics(sheet.labels, found)["uar"] > 0.5, (sheet.corpus, system)
    utterances, roles = (
        classification_metrics(sheet.labels, sheet.predictions["audio:two"])["uar"] for sheet in sheets[:2]
    )
    assert roles > utterances


def test_test_labels_do_not_reach_the_answers(corpora, sheets):
    """Labels of one dialogue change; its own answers stay."""
    rows = corpora["one"]
    held = np.array([name == "one-d3" for name in rows.columns["dialogue"]])
    changed = np.where(held, (rows.labels + 1) % CLASSES, rows.labels)
    tampered = {**corpora, "one": CorpusRows("one", "en", {**rows.columns, "fold": FOLDS}, changed, rows.features)}
    honest = {**corpora, "one": CorpusRows("one", "en", {**rows.columns, "fold": FOLDS}, rows.labels, rows.features)}
    (one, *_), (other, *_) = (answer_tests(found, TESTS[:1], CLASSES) for found in (honest, tampered))
    for system, found in one.predictions.items():
        np.testing.assert_array_equal(found[held], other.predictions[system][held])


FOLDS = [dialogue % 5 for dialogue in range(10) for _ in range(12)]


def test_a_new_corpus_has_its_own_mean_if_each_is_standardized(corpora):
    """A feature of `two` is 50 higher: pooled moments do not transfer."""
    (pooled, *_) = answer_tests(corpora, TESTS[:1], CLASSES, standardize="pooled")
    (own, *_) = answer_tests(corpora, TESTS[:1], CLASSES, standardize="corpus")
    score = [classification_metrics(sheet.labels, sheet.predictions["audio:two"])["uar"] for sheet in (pooled, own)]
    assert score[0] < 0.4 < 0.6 < score[1]


def test_scores_follow_from_the_stored_predictions(sheets, tmp_path):
    for name in ("a", "b"):
        write_sheets(sheets, LABELS, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    again = read_sheets(tmp_path / "a", LABELS)
    for sheet, stored in zip(sheets, again, strict=True):
        cells, pairs = score_sheet(sheet)
        stored_cells, stored_pairs = score_sheet(stored)
        assert sorted(cells, key=str) == sorted(stored_cells, key=str)
        assert [pair.uar for pair in pairs] == [pair.uar for pair in stored_pairs]


def test_cells_and_neighbors(sheets):
    cells, pairs = score_sheet(sheets[0])
    assert len(pairs) == len(cells) - 1
    for cell in cells:
        value, lower, upper = cell.uar
        assert lower <= value <= upper
        assert (cell.rows, cell.groups) == (120, 10)
    best = max(cells, key=lambda cell: cell.uar)
    assert best.ties_with_best
    assert all(pair.uar.difference >= 0 and pair.uar.detectable >= 0 for pair in pairs)


def test_a_paired_difference():
    labels = np.tile(np.arange(2), 200)
    groups = np.repeat(np.arange(40), 10)
    random = np.random.default_rng(0)
    good, poor = (np.where(random.random(400) < share, labels, 1 - labels) for share in (0.9, 0.6))
    draws = [drawn_scores(labels, found, groups) for found in (good, poor)]
    found = paired_difference(draws[0], draws[1], 0.3)
    assert 0 < found.lower < 0.3 < found.upper
    assert not found.tie
    assert 0 < found.detectable < 0.2

    same = paired_difference(draws[0], draws[0], 0.0)
    assert same.tie
    assert same.detectable == 0


def test_the_report(sheets, tmp_path):
    titles = {"one": ("One", "en"), "two": ("Two", "ru"), "three": ("Three", "de")}
    facts = {
        "labels": list(LABELS),
        "backbones": {"audio": "openai/whisper-base", "text": "mine"},
        "corpora": {
            name: {
                "title": title,
                "language": language,
                "test": "new dialogues",
                "leaky": "test split",
                "seen": {"audio": "yes", "text": "no"},
            }
            for name, (title, language) in titles.items()
        },
    }
    page = write_report(tmp_path, sheets, facts)
    assert "| reads | trained on | One (en), new dialogues | One (en), new dialogues, roles |" in page
    assert "| audio | Two (ru) | → " in page
    assert "(seen)" in page
    rows = (tmp_path / "transfer.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(len(sheet.predictions) for sheet in sheets)
    assert any("ru -> en" in row for row in rows)
    assert (tmp_path / "transfer.png").stat().st_size > 10_000


def test_speech_and_text_are_fused_by_the_geometric_mean():
    audio, text = np.array([[0.64, 0.36, 0.0], [0.5, 0.5, 0.0]]), np.array([[0.36, 0.04, 0.6], [1.0, 0.0, 0.0]])
    fused = _geometric_mean(audio, text)
    np.testing.assert_allclose(fused[0], np.array([0.48, 0.12, 0.6]) / 1.2)  # speech does not know the third label
    np.testing.assert_allclose(fused.sum(1), 1.0)
    assert fused[1].argmax() == 0
