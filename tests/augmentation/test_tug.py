import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibier_hf.augmentation.tug import (
    SOUND_TAGS,
    ComponentError,
    Components,
    TemplateUtteranceGeneration,
    clean_utterance,
    load_components,
    strip_sound_tags,
)

SMALL = {
    "subjects": ("This day", "That song"),
    "verbs": ("hurts", "ends"),
    "interjections": ("Oh.", "(sighs)..."),
    "contexts": ("and I know it", "(sniffs) and nobody calls"),
    "templates": ("{i} {s} {v}, {c}.", "{s} {v}."),
}


def make(**changes) -> Components:
    return Components(**{**SMALL, **changes})


def test_the_seed_decides_and_a_longer_list_begins_like_a_shorter_one():
    generation = TemplateUtteranceGeneration(seed=7)
    assert generation.sample("sad", "ru", 50) == TemplateUtteranceGeneration(seed=7).sample("sad", "ru", 80)[:50]
    assert generation.sample("sad", "ru", 50) != TemplateUtteranceGeneration(seed=8).sample("sad", "ru", 50)
    # a known value: the same in every process, hash seed and version of this package
    assert TemplateUtteranceGeneration(seed=42, components={("sad", "en"): make()}).sample("sad", "en", 3) == [
        "This day hurts, (sniffs) and nobody calls.",
        "That song hurts.",
        "This day ends.",
    ]


def test_more_than_there_are_is_refused_with_the_number_that_there_is():
    components = make()
    everything = set(components.combinations())
    assert components.possible() == len(everything)
    generation = TemplateUtteranceGeneration(components={("sad", "en"): components})
    assert set(generation.sample("sad", "en", len(everything))) == everything
    assert generation.sample("sad", "en", 0) == []
    with pytest.raises(
        ComponentError, match=f"{len(everything) + 1} utterances .* 0 to {len(everything)} are possible"
    ):
        generation.sample("sad", "en", len(everything) + 1)
    with pytest.raises(ComponentError, match="are possible"):
        generation.sample("sad", "en", -1)


def test_utterances_that_read_the_same_count_once():
    components = make(templates=("{s} {v}.", "{s} {v} ."), interjections=("Oh.",), contexts=("so",))
    assert components.upper_bound() == 8
    assert components.possible() == 4


def test_the_last_few_are_found():
    components = make(
        subjects=tuple(f"Number {n}" for n in range(40)), templates=("{s} {v}.", "{s} {v}, {c}."), verbs=("ends",)
    )
    generation = TemplateUtteranceGeneration(components={("sad", "en"): components})
    assert len(set(generation.sample("sad", "en", components.possible()))) == components.possible() == 120


@given(st.integers(0, 2**32), st.sampled_from(sorted(SOUND_TAGS)), st.sampled_from(sorted(SOUND_TAGS)))
def test_an_utterance_has_at_most_one_sound_tag(seed, one, other):
    components = make(
        interjections=(f"({one})...",), contexts=(f"({other}) and I know it",), templates=("{i} {s} {v}, {c}.",)
    )
    generation = TemplateUtteranceGeneration(seed, components={("sad", "en"): components})
    for utterance in generation.sample("sad", "en", 6):
        assert utterance.count("(") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subjects": ()}, "subjects: empty"),
        ({"verbs": ("hurts", "hurts")}, "verbs: 'hurts' is repeated 2 times"),
        ({"contexts": (" ",)}, "contexts: a blank entry"),
        ({"interjections": ("(roars)...",)}, r"unknown sound tag \(roars\)"),
        ({"interjections": ("(sighs)... (gasps)",)}, "more than one sound tag"),
        ({"subjects": ("(sighs) This",)}, "only interjections and contexts"),
        ({"templates": ("{s} {x}.",)}, r"unknown placeholders \['x'\]"),
        ({"templates": ("Hello.",)}, "must have placeholders"),
        ({"templates": ("{s} {s}.",)}, "at most once"),
    ],
)
def test_components_that_break_the_schema_are_refused(changes, message):
    with pytest.raises(ComponentError, match=message):
        make(**changes)


def test_all_faults_are_named_at_once():
    with pytest.raises(ComponentError, match=r"(?s)subjects: empty.*verbs: 'a'.*templates"):
        make(subjects=(), verbs=("a", "a"), templates=("x",))


@pytest.mark.parametrize(
    "values", [{}, [], {**SMALL, "extra": []}, {**SMALL, "verbs": "hurts"}, {**SMALL, "verbs": [1]}]
)
def test_json_that_is_no_component_file_is_refused(values):
    with pytest.raises(ComponentError, match="must be"):
        Components.from_dict(values)


def test_unknown_emotions_and_languages_are_refused():
    with pytest.raises(ComponentError, match=r"Allowed emotions: anger.*languages: en, ru"):
        load_components("calm", "en")
    with pytest.raises(ComponentError, match="No components for 'sad' in 'de'"):
        load_components("sad", "de")
    with pytest.raises(ComponentError, match="only for"):
        TemplateUtteranceGeneration(components={}).sample("sad", "en", 1)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Oh , no !", "Oh, no!"),
        ("It ends..", "It ends."),
        ("It ends... now", "It ends... now"),
        ("It ends....", "It ends...."),
        ("(sighs)Well", "(sighs) Well"),
        ("  a \t b\n", "a b"),
        ("Ну ,да ..", "Ну,да."),
    ],
)
def test_cleaning_as_published(raw, clean):
    assert clean_utterance(raw) == clean


def test_only_sound_tags_are_stripped():
    assert strip_sound_tags("(sighs) Well (as usual), (clears throat) fine.") == "Well (as usual), fine."
