"""Template utterances as a corpus: counts, uniqueness, tags, and the same bytes in every process."""

import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bibier_hf.augmentation.tts import get_tts
from bibier_hf.augmentation.tts.checks import SpeechChecks
from bibier_hf.augmentation.tts.corpus import speak_all
from bibier_hf.augmentation.tug import LANGUAGES, SOUND_TAGS, ComponentError, TemplateUtteranceGeneration, count_words
from bibier_hf.data.synthetic import ESPEAK_VOICES, plan_utterances
from bibier_hf.model.labels_bibier import EMOTIONS

PUBLISHED_COUNTS = {
    "anger": 3600,
    "disgust": 4438,
    "fear": 4441,
    "happy": 2966,
    "neutral": 0,
    "sad": 4026,
    "surprise": 3504,
}
"""What brings MELD's classes to the 4709 of its neutral one: 22 975 utterances."""


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_published_number_of_utterances_is_there(language):
    tug = TemplateUtteranceGeneration()
    texts = [text for emotion, count in PUBLISHED_COUNTS.items() for text in tug.sample(emotion, language, count)]
    assert len(texts) == 22_975
    assert len(set(texts)) > 0.999 * len(texts)  # unique within an emotion; hardly any is shared by two


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(LANGUAGES), st.dictionaries(st.sampled_from(EMOTIONS), st.integers(0, 30)), min_size=1
    ),
    st.integers(0, 5),
    st.booleans(),
)
def test_what_holds_for_every_plan(counts, seed, with_voices):
    planned = plan_utterances(counts, TemplateUtteranceGeneration(seed), ESPEAK_VOICES if with_voices else None)
    found = Counter((utterance.language, utterance.emotion) for utterance in planned)
    assert found == Counter(
        {(language, emotion): n for language, by_emotion in counts.items() for emotion, n in by_emotion.items() if n}
    )
    assert len({utterance.id for utterance in planned}) == len(planned)
    assert [utterance.id for utterance in planned] == sorted(utterance.id for utterance in planned)
    for utterance in planned:
        assert 5 <= count_words(utterance.text) <= 20
        tags = re.findall(r"\(([^()]*)\)", utterance.text)
        assert len(tags) <= 1
        assert set(tags) <= SOUND_TAGS
        assert utterance.voice is None or utterance.voice in ESPEAK_VOICES[utterance.language]
        assert not any(emotion in utterance.id for emotion in EMOTIONS)


def test_more_of_one_emotion_does_not_change_the_others():
    few = plan_utterances({"en": {"sad": 5, "fear": 5}}, TemplateUtteranceGeneration(1), ESPEAK_VOICES)
    more = plan_utterances(
        {"ru": {"sad": 3}, "en": {"fear": 9, "sad": 5}}, TemplateUtteranceGeneration(1), ESPEAK_VOICES
    )
    assert {utterance.id: utterance for utterance in few}.items() <= {
        utterance.id: utterance for utterance in more
    }.items()


def test_more_than_there_are_is_refused_with_the_number_that_is_possible():
    with pytest.raises(
        ComponentError, match=r"10000000000 utterances of en/sad.json were requested; 0 to \d+ are possible"
    ):
        plan_utterances({"en": {"sad": 10**10}}, TemplateUtteranceGeneration())


@pytest.mark.slow
def test_the_same_corpus_in_every_process_and_hash_seed(repository, tmp_path):
    contents = set()
    for hash_seed in ("0", "1"):
        out = tmp_path / hash_seed
        command = [sys.executable, "-m", "bibier_cli", "augment", "tug", "--count", "3", "--output_dir", str(out)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        subprocess.run(command, cwd=repository, env=environment, check=True, timeout=300, capture_output=True)
        contents.add(((out / "train.parquet").read_bytes(), (out / "corpus.json").read_bytes()))
    assert len(contents) == 1


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_two_hundred_utterances_are_spoken_offline(language, tmp_path):
    counts = dict(zip(EMOTIONS, (29, 29, 29, 29, 28, 28, 28), strict=True))
    planned = plan_utterances({language: counts}, TemplateUtteranceGeneration(), ESPEAK_VOICES)
    files, failures = speak_all(planned, get_tts("espeak"), tmp_path, SpeechChecks())
    assert failures == []
    assert len(files) == len(planned) == 200
