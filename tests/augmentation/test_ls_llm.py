"""Labelling with a scripted language model: faults, retries, the store, calibration, the batched map."""

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from datasets import Dataset
from scipy.special import softmax

from bibier_hf import EMOTIONS
from bibier_hf.augmentation.ls_llm import NO_CONTENT, LLMLabelSmoothing
from bibier_hf.augmentation.ls_llm_answers import LS_ORDER
from bibier_hf.augmentation.ls_llm_prompts import PromptTemplate, load_prompt
from bibier_hf.augmentation.ls_llm_store import AnswerStore, request_key
from bibier_hf.errors import ArgumentError
from bibier_hf.llm import Answer, LLMBackend, LLMError, Sampling, get_backend

GOOD = "0.10000, 0.50000, 0.05000, 0.15000, 0.12000, 0.05000, 0.03000"


class ScriptedBackend(LLMBackend):
    """Answers by a function of (text of the prompt, sampling); remembers what it was asked."""

    name = "scripted"
    revision = "r1"
    extra = {}

    @property
    def settings(self):
        return super().settings | self.extra

    def __init__(self, respond, single_token=True):
        super().__init__("scripted-model")
        self.respond = respond
        self.single_token = single_token
        self.asked = []

    def tokenize(self, texts):
        return [(index,) if self.single_token else (index, index) for index, _ in enumerate(texts)]

    def close(self):
        pass

    def _generate(self, conversations, sampling, structure) -> Iterator:
        for index, messages in enumerate(conversations):
            self.asked.append((messages[-1]["content"], sampling))
            answer = self.respond(messages[-1]["content"], sampling)
            yield index, answer if isinstance(answer, Answer) else Answer(text=answer)

    def _score(self, conversations, trie) -> Iterator:
        for index, messages in enumerate(conversations):
            self.asked.append((messages[-1]["content"], trie.choices))
            yield index, Answer(log_probabilities=tuple(self.respond(messages[-1]["content"], trie.choices)))


def label(smooth, texts, labels="happy"):
    labels = [labels] * len(texts) if isinstance(labels, str) else labels
    return smooth.label(texts, labels, ["en"] * len(texts))


def smoothing(backend, **options):
    return LLMLabelSmoothing(backend, progress=False, **options)


ANSWERS = {
    "good": (GOOD, "ok"),
    "six": (GOOD.rpartition(",")[0], "failed"),
    "eight": (GOOD + ", 0.0", "failed"),
    "prose": ("She sounds happy to me.", "failed"),
    "negative": (GOOD.replace("0.05000", "-0.05000", 1), "failed"),
    "whole numbers": ("1, 0, 0, 0, 0, 0, 0", "ok"),
    "my assistant left": (GOOD, "ok"),
    "server": (Answer(error="500 for ever"), "failed"),
}


def test_every_row_ends_as_ok_or_failed_once_and_never_as_a_silent_one_hot():
    backend = ScriptedBackend(
        lambda prompt, _: next(answer for key, (answer, _) in ANSWERS.items() if prompt.endswith(key))
    )
    texts = list(ANSWERS)
    rows = label(smoothing(backend, retries=2), texts)
    assert [row.status for row in rows] == [status for _, status in ANSWERS.values()]
    for (answer, status), row in zip(ANSWERS.values(), rows, strict=True):
        assert (row.probabilities is None) == (status == "failed")
        assert (row.reason is None) == (status == "ok")
        assert row.raw == (None if isinstance(answer, Answer) else answer)
    asked = Counter(prompt.rpartition(": ")[2] for prompt, _ in backend.asked)
    # Unreadable answers are asked for three times; what the back end gave up on is not, as it has tried for itself.
    assert asked == {
        text: 3 if rows[place].status == "failed" and text != "server" else 1 for place, text in enumerate(texts)
    }
    assert rows[texts.index("six")].attempts == 3


def test_a_retry_is_sampled_with_another_seed():
    backend = ScriptedBackend(lambda prompt, sampling: GOOD if sampling.seed == 44 else "no")
    (row,) = label(smoothing(backend, retries=3), ["x"])
    assert (row.status, row.attempts) == ("ok", 3)
    assert [(sampling.temperature, sampling.seed) for _, sampling in backend.asked] == [
        (0.0, 42),
        (0.7, 43),
        (0.7, 44),
    ]


def test_nothing_is_asked_twice_and_nothing_lost(tmp_path):
    store = tmp_path / "answers.sqlite"

    def dies_at_third(prompt, _):
        if prompt.endswith("third"):
            raise LLMError("gone")
        return GOOD

    first = ScriptedBackend(dies_at_third)
    texts = ["first", "second", "first", "third", "fourth"]
    with pytest.raises(LLMError, match="gone"):
        label(smoothing(first, store=store), texts)
    second = ScriptedBackend(lambda *_: GOOD)
    rows = label(smoothing(second, store=store), texts)
    assert [row.status for row in rows] == ["ok"] * 5
    assert [prompt.rpartition(": ")[2] for prompt, _ in second.asked] == ["third", "fourth"]
    third = ScriptedBackend(lambda *_: pytest.fail("asked again"))
    again = label(smoothing(third, store=store, gold_weight=0.9), texts)  # another reading of the same answers
    assert again[0].probabilities[EMOTIONS.index("happy")] > rows[0].probabilities[EMOTIONS.index("happy")]
    label(smoothing(second, store=store), ["first"], "sad")  # another label is another question
    assert len(second.asked) == 3


def test_what_determines_an_answer_is_asked_for_anew_when_it_changes(tmp_path):
    """A store of one precision, back end, revision, prompt or way of sampling never answers for another."""
    store = tmp_path / "answers.sqlite"

    def asks(sampling=None, prompt="distribution_gold", structured=False, **changes):
        backend = ScriptedBackend(lambda *_: GOOD)
        backend.enforces_structure = True
        for name, value in changes.items():
            setattr(backend, name, value)
        options = {"prompt": load_prompt(prompt), "structured": structured}
        options |= {} if sampling is None else {"sampling": sampling}
        label(smoothing(backend, store=store, **options), ["x"])
        return len(backend.asked)

    assert asks() == 1
    variants = [
        {"name": "another"},
        {"revision": "r2"},
        {"extra": {"dtype": "bfloat16"}},
        {"extra": {"dtype": "float32"}},
        {"prompt": "distribution"},
        {"structured": True},
        {"sampling": Sampling(max_new_tokens=8)},
        {"sampling": Sampling(temperature=0.5, max_new_tokens=192)},
        {"sampling": Sampling(top_p=0.5, max_new_tokens=192)},
        {"sampling": Sampling(seed=1, max_new_tokens=192)},
    ]
    for first in (1, 0):
        for changes in ({}, *variants):
            assert asks(**changes) == (first if changes else 0), changes


def test_examples_of_the_prompt_and_the_choices_are_part_of_the_question(tmp_path):
    store = tmp_path / "answers.sqlite"

    def asked(**options):
        backend = ScriptedBackend(lambda *_: np.zeros(7))
        label(smoothing(backend, way="score", calibrate=False, store=store, **options), ["x"])
        return len(backend.asked)

    for word in ("Hurray!", "Hooray!"):
        few = load_prompt("word", [(word, "happy", "en", "happy")])
        assert (asked(prompt=few), asked(prompt=few)) == (1, 0)
    assert asked(prompt=few, choice_prefix="") == 1


def test_a_retry_is_never_cooler_than_the_first_try():
    backend = ScriptedBackend(lambda *_: "no")
    label(smoothing(backend, retries=1, sampling=Sampling(temperature=0.9)), ["x"])
    assert [sampling.temperature for _, sampling in backend.asked] == [0.9, 0.9]


def test_back_ends_name_what_determines_their_answers(tmp_path):
    def settings(name, **options):
        urls = {"base_urls": ["http://a/v1"]} if name == "openai" else {}
        (tmp_path / "merges.txt").write_text("a b")
        return get_backend(name, str(tmp_path), **(urls | options)).settings

    for name, options in [
        ("transformers", {"dtype": "bfloat16"}),
        ("openai", {"dialect": "openai"}),
        ("openai", {"revision": "int8"}),
        ("vllm", {"dtype": "float32"}),
        ("vllm", {"quantization": "fp8"}),
        ("vllm", {"max_model_len": 64}),
    ]:
        assert settings(name) != settings(name, **options), options
        json.dumps(settings(name, **options))
    for name, options in [
        ("transformers", {"batch_size": 3, "device": "cpu"}),
        ("openai", {"base_urls": ["http://b/v1"], "concurrency": 3}),
        ("vllm", {"gpu_memory_utilization": 0.5, "chunk_size": 3}),
    ]:
        assert settings(name) == settings(name, **options), options
    before = settings("vllm")
    (tmp_path / "merges.txt").unlink()  # a part of the tokenizer
    (tmp_path / "vocab.txt").write_text("a b")
    assert settings("vllm") != before


def test_an_answer_that_was_cut_off_in_its_thoughts_is_not_asked_for_again():
    backend = ScriptedBackend(lambda *_: Answer(text="<think>Let me", finish_reason="length"))
    (row,) = label(smoothing(backend, retries=3), ["x"])
    assert (row.status, row.attempts, len(backend.asked)) == ("failed", 1, 1)
    assert "raise max_new_tokens (192)" in row.reason


@pytest.mark.parametrize("changed", ["model", "revision"])
@pytest.mark.parametrize("way", ["generate", "score"])
def test_an_answer_is_that_of_its_model_and_revision(tmp_path, changed, way):
    store, asked = tmp_path / "answers.sqlite", []
    for value in ("one", "other", "one"):
        backend = ScriptedBackend(lambda *_: GOOD if way == "generate" else [-1.0] * 7)
        setattr(backend, changed, value)
        options = {"prompt": load_prompt("word"), "calibrate": False} if way == "score" else {}
        label(smoothing(backend, store=store, way=way, **options), ["a text"])
        asked.append(len(backend.asked))
    assert asked == [1, 1, 0]


def test_failures_of_transport_are_asked_again(tmp_path):
    store = tmp_path / "answers.sqlite"
    (row,) = label(smoothing(ScriptedBackend(lambda *_: Answer(error="time-out")), store=store), ["x"])
    assert (row.status, row.reason, row.raw) == ("failed", "time-out", None)
    (row,) = label(smoothing(ScriptedBackend(lambda *_: GOOD), store=store), ["x"])
    assert row.status == "ok"


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("prompt", ["word", "word_gold"])
def test_scores(calibrate, prompt):
    """The model adds a bias for each word and one for the stated label; calibration takes out the first and leaves the
    second."""
    bias = np.array([0.0, 3.0, 0.0, -1.0, 2.0, 0.0, 0.5])
    evidence = np.array([0.1, 0.0, 0.3, 2.0, 0.0, 0.4, 0.0])

    def respond(content, choices):
        assert choices == tuple(f" {name}" for name in EMOTIONS)
        scores = bias + (0 if content.endswith(NO_CONTENT) else evidence)
        stated = [content.count(f"annotators: {name}") for name in EMOTIONS]
        return scores + np.array(stated)

    backend = ScriptedBackend(respond)
    (row,) = label(
        smoothing(backend, way="score", prompt=load_prompt(prompt), calibrate=calibrate), ["Great!"], "fear"
    )
    stated = np.eye(7)[EMOTIONS.index("fear")] if prompt == "word_gold" else 0
    np.testing.assert_allclose(row.probabilities, softmax(evidence + stated + (0 if calibrate else bias)), atol=2e-5)
    assert len(backend.asked) == 1 + calibrate * (7 if prompt == "word_gold" else 1)
    assert len(json.loads(row.raw)) == 7


def test_words_of_several_tokens_are_scored_without_the_blank():
    backend = ScriptedBackend(lambda content, choices: np.zeros(7), single_token=False)
    label(smoothing(backend, way="score"), ["x"])
    assert backend.asked[0][1] == EMOTIONS


def test_as_a_batched_map():
    rows = Dataset.from_dict({"text": ["a", "b", "bad"], "label": [3, 4, 5], "language": ["en", "ru", "en"]})
    backend = ScriptedBackend(lambda prompt, _: "?" if prompt.endswith("bad") else GOOD)
    smooth = smoothing(backend, retries=0)
    labelled = rows.map(smooth, batched=True, batch_size=2, features=smooth.features(rows.features))
    assert labelled["label_status"] == ["ok", "ok", "failed"]
    assert labelled["soft_label"][2] is None
    assert labelled["soft_label"][0] == pytest.approx([0.15, 0.05, 0.03, 0.5, 0.1, 0.05, 0.12])
    first = labelled[0]
    assert (first["label_model"], first["label_revision"], first["label_seed"], first["label_way"]) == (
        "scripted-model",
        "r1",
        42,
        "generate",
    )
    assert first["label_prompt_hash"] == load_prompt("distribution_gold").hash
    assert json.loads(first["label_sampling"])["temperature"] == 0


OWN = ("очень плохо", "так себе", "Хорошо")


def test_another_label_set_is_generated_in_its_own_words_and_order():
    answers = {
        "numbers": ("0.20000, 0.30000, 0.50000", "ok"),
        "object": ('{"так себе": 0.3, "очень плохо": 0.2, "хорошо": 0.5}', "ok"),
        "another": ('{"так себе": 0.3, "очень плохо": 0.2, "радость": 0.5}', "failed"),
        "seven": (GOOD, "failed"),
    }
    backend = ScriptedBackend(
        lambda prompt, _: next(answer for key, (answer, _) in answers.items() if prompt.endswith(key))
    )
    rows = label(smoothing(backend, labels=OWN, retries=0), list(answers), "так себе")
    assert [row.status for row in rows] == [status for _, status in answers.values()]
    for row in rows[:2]:
        np.testing.assert_allclose(row.probabilities, [0.2, 0.3, 0.5])
    prompt, _ = backend.asked[0]
    assert "these 3 labels" in prompt
    assert prompt.count(", ".join(OWN)) == 2
    assert "Label chosen by the annotators: так себе" in prompt


def test_labels_of_several_tokens_are_scored():
    backend = ScriptedBackend(lambda prompt, choices: np.log([0.2, 0.3, 0.5]), single_token=False)
    smooth = smoothing(backend, labels=OWN, way="score", calibrate=False)
    (row,) = label(smooth, ["x"], [2])
    np.testing.assert_allclose(row.probabilities, [0.2, 0.3, 0.5])
    assert [choices for _, choices in backend.asked] == [OWN]
    assert smooth.prompt.name == "labels_word_gold"


def test_prompts():
    for name in ("distribution", "distribution_gold", "word", "word_gold"):
        prompt = load_prompt(name)
        assert prompt.states_label == name.endswith("gold")
        start = prompt.template.split("{")[0]
        assert len(start) > 0.7 * len(prompt.template)  # what differs stands at the end
        assert all(emotion in start for emotion in LS_ORDER)
    (message,) = load_prompt("word_gold").messages("The {label} of {x}", "sad", "ru")
    assert message["content"].endswith("annotators: sad\nUtterance (Russian): The {label} of {x}")
    few = load_prompt("word", [("Hurray!", "happy", "en", "happy")])
    assert [turn["role"] for turn in few.messages("x")] == ["user", "assistant", "user"]
    assert few.hash != load_prompt("word").hash
    with pytest.raises(ArgumentError, match="needed"):
        PromptTemplate("no placeholder")
    with pytest.raises(ArgumentError, match="neither a file nor one of"):
        load_prompt("no-such")
    with pytest.raises(ArgumentError, match="without"):
        load_prompt("word_gold").messages("x")


def test_options_that_cannot_be():
    backend = ScriptedBackend(lambda *_: GOOD)
    few = load_prompt("word", [("Hurray!", "happy", "en", "happy")])
    for options in ({"way": "guess"}, {"parser": "loose"}, {"gold_weight": 2}, {"retries": -1}, {"prompt": few}):
        with pytest.raises(ArgumentError):
            smoothing(backend, **options)
    with pytest.raises(ArgumentError, match="no gold label"):
        smoothing(backend, way="score", prompt=load_prompt("word"), gold_weight=0.1).label(["x"], [None], ["en"])


def test_the_store(tmp_path):
    path = tmp_path / "a" / "answers.sqlite"
    store = AnswerStore(path)
    answer = Answer("text", None, "stop", 3, 4)
    store.put("k", answer)
    store.put("s", Answer(log_probabilities=(-0.5, -1e-9)))
    store.put("k", Answer("another"))  # the first one stays
    with pytest.raises(ValueError, match="not kept"):
        store.put("e", Answer(error="x"))
    other = AnswerStore(path)  # while the first is open
    assert other.get(["k", "s", "missing"]) == {"k": answer, "s": Answer(log_probabilities=(-0.5, -1e-9))}
    assert len(other.get([*map(str, range(3000)), "k"])) == 1
    assert request_key({"a": 1, "b": 2}) == request_key({"b": 2, "a": 1}) != request_key({"a": 1, "b": 3})
    bad = tmp_path / "bad"
    bad.write_text("this is no database, it is a text of some length" * 100)
    with pytest.raises(ArgumentError, match="not a store of answers"):
        AnswerStore(bad)
