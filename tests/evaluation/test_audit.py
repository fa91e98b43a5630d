"""The audit finds what was planted, says nothing where nothing is, and says what it could not look at."""

import io

import numpy as np
import pytest
import soundfile
import soxr

from bibier_hf.evaluation.acoustics import FUNCTIONALS, log_mel, mfcc_functionals
from bibier_hf.evaluation.audit.duplicates import (
    AUDIO_SIMILARITY,
    audit_audio,
    audit_texts,
    fingerprint,
    fingerprint_similarity,
    hear_corpus,
    normalise_text,
)
from bibier_hf.evaluation.audit.give_away import answer_by_key, give_away, score_answers
from bibier_hf.evaluation.audit.groups import audit_group
from bibier_hf.evaluation.audit.names import audit_names, label_words_in_texts, name_fields
from bibier_hf.evaluation.audit.report import audit_splits, render_page

KEYS = {"verdict", "samples", "groups", "who_speaks", "duplicates", "label_tokens"}


def test_a_key_answers_with_its_commonest_label_of_train():
    answers, known = answer_by_key(["a", "a", "a", "b", None], [3, 3, 1, 2, 3], ["a", "b", "c", None])
    assert answers.tolist() == [3, 2, 3, 3]  # c is unknown: the commonest label of all
    assert known.tolist() == [True, True, False, False]


def test_chance_is_what_the_shuffled_labels_score():
    labels = np.repeat(np.arange(4), 10)
    blind = score_answers(labels, np.zeros(40, dtype=int))
    assert blind["uar"] == blind["chance_uar"] == 0.25
    assert blind["p_value"] == 1.0
    assert not blind["leaks"]
    seeing = score_answers(labels, labels)
    assert seeing["leaks"]
    assert seeing["p_value"] == pytest.approx(1 / 1001)


def test_few_rows_raise_no_alarm():
    """One right answer of two is far above chance in numbers, and no evidence."""
    assert not give_away(["a", "b"], [0, 1], ["a", "b"], [0, 1])["leaks"]


def test_shared_speakers_are_a_leak_that_can_be_heard(corpus_of_speakers):
    splits = corpus_of_speakers(shared=True)
    audit = audit_splits(splits, hear_corpus(splits))
    assert set(audit) == KEYS
    assert audit["verdict"]["leaks"]
    group = audit["groups"]["speaker"]
    assert group["share_of_test_rows"] == 1.0
    assert len(group["crossing"]["train+test"]) == 14
    assert group["label_from_group"]["uar"] == 1.0
    voices = audit["who_speaks"]
    assert voices["speakers"] == 14
    assert voices["speaker_accuracy"] > 0.8
    assert voices["label_from_voice"]["leaks"]
    assert not audit["groups"]["dialogue"]["crossing"]["train+test"]
    assert not audit["groups"]["dialogue"]["label_from_group"]["leaks"]
    page = render_page([audit | {"title": "planted, official"}])
    assert "## planted, official: leaks" in page
    assert "28 of 28 test rows have a speaker that is in train too" in page


def test_a_clean_corpus_is_called_clean(corpus_of_speakers):
    splits = corpus_of_speakers(shared=False)
    audit = audit_splits(splits, hear_corpus(splits))
    assert audit["verdict"]["reasons"] == []
    assert not audit["verdict"]["leaks"]
    assert audit["groups"]["speaker"]["known_rows"] == 0
    assert audit["who_speaks"]["speaker_accuracy"] is None
    assert audit["duplicates"]["audio"]["pairs"] == []
    assert "none found" in render_page([audit | {"title": "clean"}])


def test_speakers_that_tell_nothing_are_a_note(make_row, make_splits):
    rows = [
        make_row(n, split, n % 7, speaker=f"s{n % 3}")
        for split in ("train", "dev", "test")
        for n in _numbers(split, 42)
    ]
    splits = make_splits(rows)
    group = audit_group(splits, "speaker")
    assert group["share_of_test_rows"] == 1.0
    assert not group["label_from_group"]["leaks"]
    verdict = audit_splits(splits, {})["verdict"]
    assert not verdict["leaks"]
    assert any("no better than chance" in note for note in verdict["notes"])


def _numbers(split: str, count: int) -> range:
    start = ("train", "dev", "test").index(split) * 1000
    return range(start, start + count)


def _coded(samples: np.ndarray, container: str, codec: str, rate: int = 16_000) -> np.ndarray:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=container, subtype=codec)
    content.seek(0)
    return soundfile.read(content, dtype="float32")[0]


CHANGES = {
    "vorbis": lambda x: _coded(x, "OGG", "VORBIS"),
    "mp3": lambda x: _coded(x, "MP3", "MPEG_LAYER_III"),
    "telephone": lambda x: _coded(soxr.resample(x, 16_000, 8_000), "WAV", "ULAW", 8_000),
    "softer": lambda x: 0.25 * x,
    "cut": lambda x: x[3_500:],
    "later": lambda x: np.pad(x, (4_000, 0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_has_the_same_fingerprint(change, voice):
    original = voice(180, 1)
    copy = CHANGES[change](original)
    if change == "telephone":
        copy = soxr.resample(copy, 8_000, 16_000)
    similarity = fingerprint_similarity(fingerprint(log_mel(original)), fingerprint(log_mel(copy.astype(np.float32))))
    assert similarity >= AUDIO_SIMILARITY


def test_two_clips_of_one_voice_have_different_fingerprints(voice):
    prints = [fingerprint(log_mel(voice(180, seed))) for seed in range(8)]
    similarities = [fingerprint_similarity(one, other) for place, one in enumerate(prints) for other in prints[:place]]
    assert max(similarities) < AUDIO_SIMILARITY
    assert fingerprint_similarity(prints[0], np.zeros_like(prints[0])) == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_the_same_words_in_two_voices_are_two_recordings(seed, voice):
    """Read speech: the rhythm and the timbre of every syllable agree, the voices do not."""
    one, other = (fingerprint(log_mel(voice(pitch, seed))) for pitch in (140, 190))
    assert fingerprint_similarity(one, other) < AUDIO_SIMILARITY


def test_recordings_on_both_sides_are_found_by_id(make_row, make_splits, voice):
    clips = [voice(120 + 20 * number, number) for number in range(6)]
    rows = [make_row(number, "train", number, clip) for number, clip in enumerate(clips)] + [
        make_row(50, "dev", 0, voice(300, 50))
    ]
    rows.append(make_row(60, "test", 1, clips[1]))
    rows.append(make_row(61, "test", 2, _coded(0.5 * clips[4][2_000:], "OGG", "VORBIS")))
    rows.append(make_row(62, "test", 3, voice(333, 62)))
    splits = make_splits(rows)
    found = audit_audio(splits, hear_corpus(splits))
    assert (found["exact_rows"], found["near_rows"]) == (1, 1)
    assert [(pair["test"], pair["train"], pair["same_label"]) for pair in found["pairs"]] == [
        (rows[7]["id"], rows[1]["id"], True),
        (rows[8]["id"], rows[4]["id"], False),
    ]
    audit = audit_splits(splits, hear_corpus(splits))
    assert "2 of 3 test rows have a recording that is in train too (1 exactly)" in audit["verdict"]["reasons"]


def test_texts_on_both_sides_are_found(make_row, make_splits):
    texts = ["I never said that to anybody!", "Where on earth is my yellow coat?", "Oh no."]
    rows = [make_row(number, "train", number, text=text) for number, text in enumerate(texts)] + [
        make_row(3, "dev", 0)
    ]
    rows += [
        make_row(10, "test", 0, text="i never said that   to anybody"),
        make_row(11, "test", 0, text="Where on earth is my yellow coat now?"),
        make_row(12, "test", 0, text="Oh no no."),  # too short to be nearly the same as anything
        make_row(13, "test", 0, text="..."),
    ]
    found = audit_texts(make_splits(rows))
    assert [(pair["test"], pair["train"]) for pair in found["pairs"]] == [
        (rows[4]["id"], rows[0]["id"]),
        (rows[5]["id"], rows[1]["id"]),
    ]
    assert (found["exact_rows"], found["near_rows"]) == (1, 1)
    assert [pair["same_label"] for pair in found["pairs"]] == [True, False]


def test_texts_that_carry_their_label_across_are_a_leak(make_row, make_splits):
    rows = [make_row(n, split, n % 7) for split in ("train", "dev", "test") for n in _numbers(split, 42)]
    for row in rows:
        if row["split"] == "test":
            row["text"] = rows[row["label"]]["text"]  # a train row of this label
    verdict = audit_splits(make_splits(rows), {})["verdict"]
    assert verdict["leaks"]
    assert "42 of 42 test rows have a text that is in train too (42 exactly)" in verdict["reasons"][0]


def test_normalised_texts():
    assert normalise_text("  «Ну, ЁЛКА…»\tNo. 5!") == "ну ёлка no 5"
    assert normalise_text("?!") == ""


def test_a_label_in_names_is_found_as_a_word_and_as_a_code(make_row, make_splits):
    rows = [make_row(n, split, n % 7) for split in ("train", "dev", "test") for n in _numbers(split, 42)]
    splits = make_splits(rows)
    assert name_fields("03-01-Happy_a07.wav") == ["03", "01", "happy", "a", "07", "wav"]
    words = {
        row["id"]: f"{row['speaker']}_{splits['train'].features['label'].int2str(row['label'])}_{place}"
        for place, row in enumerate(rows)
    }
    assert audit_names(words, splits)["word_rows"] == len(rows)
    codes = {row["id"]: f"03-01-0{row['label'] + 1}-{place}" for place, row in enumerate(rows)}
    found = audit_names(codes, splits)
    assert found["word_rows"] == 0
    assert [code["field"] for code in found["code_fields"]] == [2]
    assert found["code_fields"][0]["uar"] == 1.0
    assert not audit_names({row["id"]: row["id"] for row in rows}, splits)["leaks"]
    notes = audit_splits(splits, {}, codes)["verdict"]["notes"]
    assert any("file names of the raw corpus carry the label: field 2" in note for note in notes)


def test_ids_that_spell_the_label_are_a_leak(make_row, make_splits):
    rows = [make_row(n, split, 3, id=f"joy-{n}") for split in ("train", "dev", "test") for n in _numbers(split, 2)]
    assert (
        "the ids carry the label: 6 of 6 spell out their label"
        in audit_splits(make_splits(rows), {})["verdict"]["reasons"]
    )


def test_label_words_in_texts_are_counted_in_english_alone(make_row, make_splits):
    rows = [
        make_row(0, "train", 0),
        make_row(1, "dev", 0),
        make_row(2, "test", 0, text="I am so angry"),
        make_row(3, "test", 1, text="angry"),
    ]
    rows.append(make_row(4, "test", 0, text="angry", language="ru"))
    assert label_words_in_texts(make_splits(rows)) == {"english_rows": 2, "word_rows": 1}


def test_what_is_not_there_is_named(make_row, make_splits):
    rows = [make_row(n, split, n % 7) for split in ("train", "dev", "test") for n in _numbers(split, 7)]
    audit = audit_splits(make_splits(rows), {})
    skipped = "\n".join(audit["verdict"]["skipped"])
    for what in (
        "speakers: train or test names none",
        "dialogues: ",
        "duplicate recordings: train or test has no audio",
        "file names: ",
    ):
        assert what in skipped
    assert audit["who_speaks"] is None
    assert audit["duplicates"]["audio"] is None
    assert "– | – | – |" in render_page([audit | {"title": "texts"}])


def test_functionals_of_the_shortest_clip():
    values = mfcc_functionals(log_mel(np.array([0.1], np.float32)))
    assert values.shape == (FUNCTIONALS,)
    assert np.isfinite(values).all()
