"""The package's fourteen component files, and the validator of the published schema."""

import dataclasses
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibier_hf.augmentation.tug import (
    LANGUAGES,
    PUBLISHED_SIZES,
    ComponentError,
    Components,
    TemplateUtteranceGeneration,
    clean_utterance,
    count_words,
    load_components,
    schema_faults,
    strip_sound_tags,
)
from bibier_hf.model.labels_bibier import EMOTIONS

ALL = list(itertools.product(EMOTIONS, LANGUAGES))
PARTS = ("subjects", "verbs", "interjections", "contexts")

PUBLISHED_COUNTS = {"anger": 3600, "disgust": 4438, "fear": 4441, "happy": 2966, "sad": 4026, "surprise": 3504}
"""Utterances of the published synthetic corpus: what lifts every class of MELD's training split to the largest."""

GOOD = load_components("sad", "en")

ADVERBS = {"just", "still", "never", "almost"}
CONJUNCTIONS = {
    "en": ("and ", "so ", "but ", "because "),
    "ru": ("и ", "и, ", "а ", "но ", "так что ", "так что, ", "потому что "),
}
LETTERS = {"en": r"[A-Za-z]", "ru": r"[А-Яа-яЁё]"}
# Words that end like a Russian past tense and are none.
NO_PAST_TENSE = {"горла", "горло", "недели", "около", "печали", "предел", "сериала", "сил", "тяжело"}


def changed(**changes) -> Components:
    return dataclasses.replace(GOOD, **changes)


# --- the fourteen files


@pytest.mark.parametrize(("emotion", "language"), ALL)
def test_every_file_meets_the_published_schema(emotion, language):
    assert schema_faults(load_components(emotion, language)) == []


@pytest.mark.parametrize(("emotion", "language"), ALL)
def test_every_file_has_sound_tags_and_they_leave_whole_sentences_behind(emotion, language):
    components = load_components(emotion, language)
    assert sum("(" in entry for entry in components.interjections) >= 5
    assert sum("(" in entry for entry in components.contexts) >= 2
    spoken = components.without_sound_tags()
    assert len(spoken.interjections) == len(components.interjections)
    assert not any("(" in entry for kind in PARTS for entry in getattr(spoken, kind))
    assert schema_faults(spoken) == []


@pytest.mark.parametrize(("emotion", "language"), ALL)
def test_capitals_and_punctuation_fit_in_every_template(emotion, language):
    components = load_components(emotion, language).without_sound_tags()
    letter = LETTERS[language]
    for subject in components.subjects:
        # a Russian subordinate clause ("То, что он сделал,") ends with its comma
        assert subject[0].isupper(), subject
        assert re.search(rf"{letter}{',?' if language == 'ru' else ''}$", subject), subject
    for verb in components.verbs:
        # a Russian nominal predicate ("— это слишком") brings its dash along
        assert verb.removeprefix("— ")[0].islower(), verb
        assert re.search(rf"{letter}$", verb), verb
    for interjection in components.interjections:
        assert interjection[0].isupper(), interjection
        assert re.search(rf"{letter}[.!?]$", interjection), interjection
    for context in components.contexts:
        assert context.startswith(CONJUNCTIONS[language]), context
        assert re.search(rf"{letter}'?$", context), context
    for kind in PARTS:
        for entry in getattr(components, kind):
            assert re.fullmatch(rf"(?:{letter}|[ ,.!?'’—-])+", entry), (
                f"{entry!r} holds a character of another alphabet"
            )
            assert not re.search(r"[,.!?]{2}", entry), entry
    for template in components.templates:
        # subjects and interjections open a sentence; a comma (or three dots) stands before the conjunction of a
        # context
        assert re.fullmatch(r"(?:\{i\} |[^{}]+[.!?] )?\{s\} \{v\}(?:(?:,|\.\.\.) \{c\})?[.!](?: \{i\})?", template), (
            template
        )


@pytest.mark.parametrize(("emotion", "language"), ALL)
def test_sampled_utterances_read_well(emotion, language):
    utterances = TemplateUtteranceGeneration().sample(emotion, language, 500)
    assert len(set(utterances)) == 500
    for utterance in utterances:
        assert 5 <= count_words(utterance) <= 20
        assert utterance == clean_utterance(utterance)
        assert utterance.count("(") <= 1
        spoken = strip_sound_tags(utterance)
        assert spoken[0].isupper()
        assert spoken[-1] in ".!?"
        assert not re.search(r"[,.!?]{2}", spoken.replace("...", "")), utterance


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_english_subjects_and_verbs_are_third_person_singular(emotion):
    components = load_components(emotion, "en")
    for subject in components.subjects:
        assert subject.split()[0] not in {"I", "We", "You", "They", "These", "Those"}, subject
    for verb in components.verbs:
        finite = next(word for word in verb.split() if word not in ADVERBS and not word.endswith("ly"))
        assert finite.endswith("s"), verb


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_russian_verbs_fit_every_gender_and_no_context_tells_that_of_the_speaker(emotion):
    components = load_components(emotion, "ru")
    past = re.compile(r"\w(?:л|ла|ло|ли)(?:ся|сь)?$")
    for verb in components.verbs:
        assert not [word for word in verb.split() if past.search(word) and word not in NO_PAST_TENSE], verb
    for context in components.contexts:
        assert not re.search(r"\b(?:я|ты)(?: \w+){0,2} \w+(?:л|ла)(?:ся|сь)?\b", context), context
        assert not {"рад", "рада", "один", "одна", "сам", "сама", "должен", "должна", "первым", "первой"} & set(
            context.split()
        ), context


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ["subjects", "verbs", "contexts"])
def test_no_two_emotions_share_an_entry(language, kind):
    owners: dict[str, list[str]] = {}
    for emotion in EMOTIONS:
        for entry in getattr(load_components(emotion, language), kind):
            owners.setdefault(strip_sound_tags(entry).casefold(), []).append(emotion)
    assert {entry: emotions for entry, emotions in owners.items() if len(emotions) > 1} == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_published_number_of_utterances_is_there(language):
    generation = TemplateUtteranceGeneration()
    utterances = {emotion: generation.sample(emotion, language, count) for emotion, count in PUBLISHED_COUNTS.items()}
    assert sum(map(len, utterances.values())) == 22_975
    # none is of two emotions
    assert len(set(itertools.chain.from_iterable(utterances.values()))) == 22_975


# --- the validator


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"subjects": GOOD.subjects[:59]}, "subjects: 59 entries; 60 to 100 are wanted"),
        ({"verbs": tuple(f"hurts me {n}" for n in range(101))}, "verbs: 101 entries; 60 to 100 are wanted"),
        ({"interjections": GOOD.interjections[:19]}, "interjections: 19 entries; 20 to 40 are wanted"),
        ({"contexts": GOOD.contexts[:2]}, "contexts: 2 entries; 60 to 100 are wanted"),
        ({"templates": GOOD.templates[:4]}, "templates: 4 entries; 5 or more are wanted"),
        ({"verbs": (*GOOD.verbs, "Hurts so badly!")}, "verbs: 'hurts so badly' and 'Hurts so badly!' read the same"),
        ({"contexts": (*GOOD.contexts, "and it will (sighs) never stop")}, "read the same"),
        ({"subjects": (*GOOD.subjects, "That  day")}, "subjects: 'That  day' is not clean; write 'That day'"),
        (
            {"subjects": (*GOOD.subjects, "That (bad day")},
            "subjects: 'That (bad day' has a bracket outside a sound tag",
        ),
        ({"verbs": (*GOOD.verbs, "hurts {c}")}, "verbs: 'hurts {c}' has a bracket outside a sound tag"),
        (
            {"interjections": (*GOOD.interjections, "Well(sighs)")},
            "interjections: 'Well(sighs)' has no blank before its sound tag",
        ),
        ({"templates": (*GOOD.templates, "{i}{s} {v}, {c}.")}, "templates: '{i}{s} {v}, {c}.' runs words together"),
        ({"templates": (*GOOD.templates, "Oh{s} {v}, {c}.")}, "templates: 'Oh{s} {v}, {c}.' runs words together"),
        ({"templates": (*GOOD.templates, "{s}.")}, "templates: '{s}.' gives 2 to 4 words; 5 to 20 are allowed"),
        ({"verbs": (*GOOD.verbs, "hurts " + "so " * 20 + "much")}, "5 to 20 are allowed"),
        (
            {"templates": tuple(f"{{s}} {{v}}, {{c}}{end}" for end in (".", "!", "...", "!!", "?"))},
            "interjections: no template uses {i}",
        ),
    ],
)
def test_every_fault_is_named(changes, fault):
    faults = schema_faults(changed(**changes))
    assert any(fault in line for line in faults), faults
    # nothing else is found, but for the templates that one long verb breaks
    assert len(faults) == 1 or all("5 to 20 are allowed" in line for line in faults)


def test_smaller_sizes_can_be_asked_for():
    small = Components(
        subjects=("This day",),
        verbs=("hurts",),
        interjections=("Oh.",),
        contexts=("and I know it",),
        templates=("{i} {s} {v}, {c}.",),
    )
    assert len(schema_faults(small)) == 5
    assert schema_faults(small, sizes=dict.fromkeys(PUBLISHED_SIZES, (1, None))) == []
    assert schema_faults(small, sizes={}, words=(1, 7)) == [
        "templates: '{i} {s} {v}, {c}.' gives 8 to 8 words; 1 to 7 are allowed"
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("(sighs)...", 0),
        ("(sighs) Well-known, isn't it?", 3),
        ("Кто-то — это что-то (не всё).", 5),
        ("Wait... what?! (gasps)", 2),
        ("It's 9 o'clock", 3),
    ],
)
def test_words_are_runs_of_letters_and_digits(text, words):
    assert count_words(text) == words


ENTRY = st.text("ab'-,.!? ", min_size=1, max_size=12).filter(str.strip)
TAGGED = st.one_of(ENTRY, ENTRY.map(lambda entry: f"(sighs) {entry}"), st.just("(gasps)..."))


def entries(strategy):
    return st.lists(strategy, min_size=1, max_size=3, unique=True).map(tuple)


@given(entries(ENTRY), entries(ENTRY), entries(TAGGED), entries(TAGGED))
def test_the_range_of_words_is_that_of_all_combinations(subjects, verbs, interjections, contexts):
    for template in ("{s} {v}.", "{i} {s}, {v}... {c}!", "Oh, well. {c}: {s}"):
        components = Components(subjects, verbs, interjections, contexts, (template,))
        counts = [count_words(utterance) for utterance in components.combinations()]
        assert components.word_range(template) == (min(counts), max(counts))


def test_entries_without_tags_stand_once_and_blank_ones_fall_away():
    components = changed(interjections=("(sighs) Oh.", "Oh.", "(gasps)", "Why?"), contexts=("and so on (sniffs)",))
    spoken = components.without_sound_tags()
    assert spoken.interjections == ("Oh.", "Why?")
    assert spoken.contexts == ("and so on",)
    assert spoken.subjects == components.subjects
    with pytest.raises(ComponentError, match="interjections: empty"):
        changed(interjections=("(sighs)",)).without_sound_tags()
