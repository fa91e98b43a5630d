"""Components by a language model: asked, checked, asked again, accepted whole or not at all."""

import json

import pytest

from bibier_hf.augmentation.component_generation import (
    draw_examples,
    generate_components,
    load_prompt,
    read_answer,
)
from bibier_hf.augmentation.tug import SOUND_TAGS, ComponentError, load_components
from bibier_hf.errors import ArgumentError

WORDS = "one two three four five six seven eight nine ten".split()


def good() -> dict[str, list[str]]:
    """Components that meet the published schema."""
    pairs = [f"{first} {second}" for first in WORDS for second in WORDS]
    return {
        "subjects": [f"The {pair}" for pair in pairs[:60]],
        "verbs": [f"takes {pair}" for pair in pairs[:60]],
        "interjections": [f"(sighs) Oh {pair}." for pair in pairs[:20]],
        "contexts": [f"and gives {pair}" for pair in pairs[:60]],
        "templates": ["{i} {s} {v}, {c}.", "{s} {v}, {c}.", "{i} {s} {v}.", "{s} {v}!", "{s}: {v}, {c}!"],
    }


class Scripted:
    """Answers what it is told to, and remembers what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[list[dict]] = []

    def __call__(self, conversation) -> str:
        self.asked.append(list(conversation))
        return self.answers.pop(0)


def test_a_good_answer_is_accepted_at_once_whatever_stands_around_it():
    model = Scripted(f"Here you are:\n```json\n{json.dumps(good())}\n```")
    components = generate_components(model, "sad", "en", ["I miss her.", "It is over."])
    assert list(components.subjects) == good()["subjects"]
    ((message,),) = model.asked
    assert message["role"] == "user"
    for part in (
        "Emotion: sad",
        "Language: English",
        "- I miss her.",
        "{i} {s} {v}, {c}.",
        "60 to 100",
        "5 to 20 words",
    ):
        assert part in message["content"]
    assert all(f"({tag})" in message["content"] for tag in SOUND_TAGS)
    assert "$" not in message["content"]


def test_faults_are_sent_back_until_there_is_none():
    few = good() | {"verbs": good()["verbs"][:3], "interjections": [*good()["interjections"][:19], "(yodels) Hey."]}
    model = Scripted("I cannot do that.", json.dumps(few), json.dumps(good()))
    assert len(generate_components(model, "fear", "ru", ["a b c"]).verbs) == 60
    assert len(model.asked) == 3
    assert [message["role"] for message in model.asked[2]] == ["user", "assistant", "user"]
    assert "no JSON object" in model.asked[1][2]["content"]
    assert model.asked[2][1]["content"] == json.dumps(few)
    assert "(yodels)" in model.asked[2][2]["content"]
    assert model.asked[2][0] == model.asked[0][0]


def test_what_never_gets_right_is_refused_as_a_whole():
    few = json.dumps(good() | {"verbs": good()["verbs"][:3]})
    model = Scripted(few, few)
    with pytest.raises(ComponentError, match=r"2 answers with faults(.|\n)*verbs: 3 entries"):
        generate_components(model, "sad", "en", ["a b c"], attempts=2)
    assert model.answers == []
    with pytest.raises(ComponentError, match="Unknown emotion 'joy'"):
        generate_components(model, "joy", "en", ["a b c"])


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("", "no JSON object"),
        ('{"subjects": [', "not valid"),
        ("{} {}", "more than one"),
        ('{"subjects": []}', "exactly the keys"),
        (json.dumps(good() | {"verbs": "run"}), "verbs must be a list of strings"),
        (json.dumps(good() | {"templates": ["{x} {s}."] * 5}), "unknown placeholders"),
    ],
)
def test_answers_that_are_no_components(answer, fault):
    components, faults = read_answer(answer, "en/sad")
    assert components is None
    assert any(fault in line for line in faults), faults


def test_another_prompt_takes_the_place_of_the_packages_own(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("$language, $emotion:\n$examples\nFor $$5: {s} {v}, $subjects")
    model = Scripted(json.dumps(good()))
    generate_components(model, "happy", "de", ["Das ist schön."], prompt=load_prompt(path))
    assert model.asked[0][0]["content"] == "de, happy:\n- Das ist schön.\nFor $5: {s} {v}, 60 to 100"
    path.write_text("$language $emotion")
    with pytest.raises(ComponentError, match=r"lacks the fields \['examples'\]"):
        load_prompt(path)
    path.write_text("$language $emotion $examples $mood")
    with pytest.raises(ComponentError, match=r"unknown fields \['mood'\]"):
        load_prompt(path)
    path.write_text("$language $emotion $examples 5$")
    with pytest.raises(ComponentError, match="does not begin a field"):
        load_prompt(path)
    with pytest.raises(ArgumentError, match="is neither a file nor one of"):
        load_prompt(tmp_path / "nowhere.txt")


def test_examples_are_short_different_and_do_not_depend_on_order():
    texts = [
        "too short",
        "this is  fine",
        "this is fine",
        "so is this one",
        " ".join(["long"] * 21),
        "and one more here",
    ]
    assert sorted(draw_examples(texts, 10)) == ["and one more here", "so is this one", "this is fine"]
    assert draw_examples(texts, 2, seed=1) == draw_examples(texts[::-1], 2, seed=1)
    with pytest.raises(ComponentError, match="no utterance of 3 to 20 words"):
        draw_examples(["short"], 2)


def test_components_are_read_from_a_folder(tmp_path):
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "sad.json").write_text(json.dumps(good()))
    assert load_components("sad", "en", tmp_path).verbs == tuple(good()["verbs"])
    (tmp_path / "en" / "fear.json").write_text("{")
    with pytest.raises(ComponentError, match="not valid JSON"):
        load_components("fear", "en", tmp_path)
    with pytest.raises(ComponentError, match="no components in"):
        load_components("happy", "en", tmp_path)
