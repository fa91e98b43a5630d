"""Earlier utterances as context: only what was said before, in the same dialogue, and never unnoticed."""

from typing import ClassVar

import numpy as np
import pytest
import soundfile

from bibier_hf.data.clips import Clip
from bibier_hf.data.context import Context, as_context, with_context
from bibier_hf.data.corpora import get_corpus, load_corpus
from bibier_hf.data.corpora.resd import read_resd
from bibier_hf.data.mixture import CorpusArguments, protocol_facts
from bibier_hf.data.tables import CorpusError
from bibier_hf.errors import ArgumentError
from bibier_hf.model.context_bibier import add_context, check_text_context, text_with_context


def clip(name: str, turn: int | None, speaker: str | None = "s", dialogue: str | None = "d", **options) -> Clip:
    return Clip(name, "train", "happy", "en", text=name, turn=turn, speaker=speaker, dialogue=dialogue, **options)


def texts(clips, **context) -> list[str]:
    return [widened.text for widened in with_context(clips, Context(**context))]


def test_the_nearest_comes_first_and_only_so_many():
    clips = [clip("one", 1), clip("two", 2), clip("three", 5), clip("elsewhere", 1, dialogue="e")]
    assert texts(clips, utterances=1, speakers=False) == ["one", "two | one", "three | two", "elsewhere"]
    assert texts(clips[::-1], utterances=3, speakers=False) == ["elsewhere", "three | two | one", "two | one", "one"]


def test_speakers_are_letters_seen_from_the_utterance():
    clips = [clip("one", 1, "x"), clip("two", 2, "y"), clip("three", 3, "x"), clip("four", 4, None)]
    assert texts(clips, utterances=3, speakers=True) == [
        "A: one",
        "A: two | B: one",
        "A: three | B: two | A: one",
        "A: four | B: three | C: two | B: one",
    ]
    assert texts([*clips, clip("five", 5, "y")], utterances=1)[-1] == "A: five | ?: four"


def test_utterances_of_the_same_turn_are_no_context():
    """Their order is not known; of earlier turns, the other speaker counts as nearer."""
    clips = [clip("a1", 10, "a"), clip("b1", 10, "b"), clip("a2", 20, "a"), clip("b2", 20, "b")]
    assert texts(clips, utterances=4) == ["A: a1", "A: b1", "A: a2 | B: b1 | A: a1", "A: b2 | B: a1 | A: b1"]


def test_rows_without_a_dialogue_or_a_text_and_rows_that_are_left_out():
    silent = Clip("silent", "train", "happy", "en", dialogue="d", turn=2)
    clips = [clip("one", 1, left_out=True), silent, clip("three", 3), clip("alone", None, dialogue=None)]
    assert texts(clips, speakers=False) == ["one", "", "three | one", "alone"]


def test_an_order_is_not_invented():
    with pytest.raises(CorpusError, match="the columns 'dialogue' and 'turn'"):
        texts([clip("one", None), clip("two", None)])
    with pytest.raises(CorpusError, match="1 of 2 rows have a dialogue but no turn, such as two"):
        texts([clip("one", 1), clip("two", None)])


def test_resd_has_turns(tiny_resd):
    assert {type(clip.turn) for clip in read_resd(tiny_resd, strict_counts=False)} == {int}


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    lines = ["text,label,split,language,dialogue,turn,speaker"]
    for split in ("train", "dev", "test"):
        lines += [f"{split} {turn},happy,{split},en,{split},{turn},s{turn % 2}" for turn in (2, 10, 1)]
    path = tmp_path / "talks.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_table_with_turns(table):
    context = {"utterances": 1, "speakers": True}
    rows = load_corpus("csv", table, context=context)
    assert set(rows["dev"]["text"]) == {"A: dev 1", "A: dev 2 | B: dev 1", "A: dev 10 | A: dev 2"}
    assert set(load_corpus("csv", table)["dev"]["text"]) == {"dev 1", "dev 2", "dev 10"}

    table.write_text(table.read_text().replace(",10,", ",ten,"), encoding="utf-8")
    with pytest.raises(CorpusError, match="the turn is 'ten'; it must be a whole number"):
        load_corpus("csv", table, context=context)


def test_a_prepared_corpus_says_that_it_has_context(table, tmp_path):
    context = {"utterances": 2, "speakers": False}
    get_corpus("csv").prepare(table, tmp_path / "prepared", context=context)
    assert load_corpus("csv", tmp_path / "prepared", context=context)["dev"].num_rows == 3
    with pytest.raises(CorpusError, match="was prepared with context="):
        load_corpus("csv", tmp_path / "prepared")
    with pytest.raises(CorpusError, match="was prepared with context="):
        load_corpus("csv", tmp_path / "prepared", context={"utterances": 3})


def test_results_name_the_context(table):
    corpus = CorpusArguments(name="csv", data_dir=str(table), context=Context(utterances=2))
    rows = corpus.split(corpus.load())
    assert protocol_facts(corpus, rows)["context"] == {"utterances": 2, "speakers": True}
    plain = corpus.model_copy(update={"context": None})
    assert "context" not in protocol_facts(plain, rows)


def test_values_that_mean_nothing():
    for value in ({"utterances": 0}, {"speakers": "yes"}, {"turns": 3}):
        with pytest.raises(ArgumentError):
            as_context(value)
    assert as_context(None) is None
    assert check_text_context({"utterances": 3, "speakers": True})
    assert not check_text_context({"utterances": True, "speakers": True})
    assert not check_text_context({"utterances": 3})


def test_the_pipeline_writes_the_text_that_training_wrote():
    clips = [clip("one", 1, "x"), clip("two", 2, "y"), clip("three", 3, "x")]
    settings = {"utterances": 2, "speakers": True}
    said = [{"speaker": "x", "text": "one"}, {"speaker": "y", "text": "two"}]
    inputs = {"text": "three", "speaker": "x", "context": said}
    assert add_context(inputs, "three", settings) == texts(clips, **settings)[-1]
    assert add_context({"text": "three", "context": ["one"]}, "three", settings) == "A: three | ?: one"
    assert add_context("clip.wav", None, settings) is None
    assert add_context({"text": "one"}, "one", settings) == texts(clips, **settings)[0]
    assert add_context({"text": "one"}, "one", None) == "one"

    with pytest.raises(ValueError, match="trained without context"):
        add_context(inputs, "three", None)
    for context in ("one", [1], [{"speaker": "x"}]):
        with pytest.raises(TypeError):
            add_context({"text": "three", "context": context}, "three", settings)


def test_no_more_than_26_speakers_have_letters():
    before = [(f"s{number}", "hi") for number in range(30)]
    assert text_with_context("now", before, "me", 30, True).count("?: hi") == 5


def test_utterances_without_text_are_no_context():
    settings = {"utterances": 1, "speakers": False}
    assert add_context({"text": "now", "context": ["before", " ", ""]}, "now", settings) == "now | before"


@pytest.mark.parametrize("labels", ["a|b", "a"])
def test_a_prepared_corpus_without_context_does_not_get_it(tmp_path, labels):
    """Also not one of several labels at once."""
    lines = [
        f"{split} {turn},{labels},{split},en,{split},{turn}" for split in ("train", "dev", "test") for turn in (1, 2)
    ]
    path = tmp_path / "talks.csv"
    path.write_text("\n".join(["text,label,split,language,dialogue,turn", *lines]) + "\n", encoding="utf-8")
    kind = "multi_label_classification" if "|" in labels else "single_label_classification"
    options = {"labels": ["a", "b"], "problem_type": kind}
    get_corpus("csv").prepare(path, tmp_path / "prepared", **options)
    assert load_corpus("csv", tmp_path / "prepared", **options)["dev"].num_rows == 2
    with pytest.raises(CorpusError, match=r"was prepared with context=None, but context=\{'utterances': 3"):
        load_corpus("csv", tmp_path / "prepared", context={}, **options)


def test_texts_that_are_still_to_be_transcribed_have_no_context(tmp_path):
    class Recognizer:
        facts: ClassVar = {"name": "none"}

        def __call__(self, clips, language):
            return ["heard"] * len(clips)

    soundfile.write(tmp_path / "clip.wav", np.sin(np.arange(8000) / 20), 16_000)
    lines = ["audio,text,label,split,language,dialogue,turn", "clip.wav,,happy,train,en,d,1", ",hi,happy,train,en,d,2"]
    (tmp_path / "talks.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="Leave context or asr out"):
        get_corpus("csv").prepare(tmp_path / "talks.csv", tmp_path / "out", asr=Recognizer(), context={})
    assert not (tmp_path / "out").exists()
