"""The embedded corpus: English and Russian sentences for the seven emotions, synthesized by eSpeak NG without a
download.

It is entirely synthetic: template sentences, a formant synthesizer, and prosody from a table (`EMOTION_PROSODY`). It
exists to try training, evaluation and prediction offline. A score on it shows that the system works; it does not say
anything about people.

To make it nontrivial, and to require both modalities:

* a share of the sentences has emotionally neutral words ("My brother called the office this morning."), so that only
  the voice is informative;
* the prosody of each utterance is randomly weakened or strengthened, and jittered in rate, pitch, range and loudness;
* no sentence and no voice of one split occurs in another. (Parts of sentences do, since the templates are the same.)
"""

import random
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count, product
from typing import Any

from ...augmentation.tts import EMOTION_PROSODY, EspeakTextToSpeech, Prosody
from ...augmentation.tug import TemplateUtteranceGeneration, load_components
from ...labels import EMOTIONS
from ...sampling import sample_by_hash, seeded_hash
from ..clips import Clip, neutral_id
from ..prepare import Corpus
from ..schema import SPLITS
from ..tables import CorpusError

VARIANTS = {
    "train": (
        *("m1", "f1", "m3", "f3", "m5", "f5", "m7", "Annie"),
        *("m6", "Alicia", "m8", "belinda", "Andy", "steph", "david", "anika"),
        *("benjamin", "aunty", "robert", "shelby", "adam", "grandma", "john", "steph3"),
    ),
    "dev": ("m2", "f2", "Michael", "linda"),
    "test": ("m4", "f4", "Alex", "Andrea"),
}
"""eSpeak's voice variants by split, alternating men and women."""

SENTENCE_SPLITS = ("train", "train", "train", "train", "train", "dev", "test", "test")
"""The hash of a sentence chooses one of these."""

ACCENTS = {"en": ("en-us", "en"), "ru": ("ru",)}

# Every first, second and third part fit together; each language gives 8 x 8 x 6 sentences.
NEUTRAL_SENTENCES = {
    "en": (
        "My brother/The neighbor/Our teacher/Your cousin/The driver/My colleague/The new guy/Her friend",
        "called the office/left the keys here/came by the house/took the early bus/asked about you/brought the boxes/"
        "talked to my mother/painted the door",
        "this morning/last night/on Friday/before dinner/after the game/an hour ago",
    ),
    "ru": (
        "Мой брат/Наш сосед/Твой учитель/Её двоюродный брат/Этот водитель/Мой коллега/Новый сотрудник/Её приятель",
        "позвонил в офис/оставил здесь ключи/заходил к нам домой/уехал на автобусе/спрашивал о тебе/привёз коробки/"
        "говорил с моей мамой/покрасил дверь",
        "сегодня утром/вчера вечером/в пятницу/перед ужином/после матча/час назад",
    ),
}


def read_quickstart(
    data_dir: None = None,
    *,
    train_per_class: int = 72,
    dev_per_class: int = 12,
    test_per_class: int = 20,
    neutral_share: float = 0.3,
    seed: int = 42,
) -> list[Clip]:
    """Plan the corpus; the clips are synthesized when they are written.

    Args:
        data_dir: not used, since the corpus is generated.
        train_per_class, dev_per_class, test_per_class: utterances per emotion and language.
        neutral_share: share of them with neutral words, 0 to 1.
        seed: of sentences, voices and prosody.

    Raises:
        CorpusError: impossible counts or share.
        ComponentError: more sentences than the templates can generate.
        SynthesisError: eSpeak is not installed.
    """
    sizes = dict(zip(SPLITS, (train_per_class, dev_per_class, test_per_class), strict=True))

    if not 0 <= neutral_share <= 1:
        raise CorpusError(f"neutral_share={neutral_share}; it must lie between 0 and 1.")

    if min(sizes.values()) < 1:
        raise CorpusError(f"{sizes} utterances per emotion and language; each must be at least 1.")

    tts = EspeakTextToSpeech()
    # eSpeak cannot laugh or sigh, so a text with sound tags would not match the audio.
    components = {
        (emotion, language): load_components(emotion, language).without_sound_tags()
        for emotion in EMOTIONS
        for language in ACCENTS
    }
    generation = TemplateUtteranceGeneration(seed, components)
    clips = []

    for language in ACCENTS:
        neutral = _by_split(_neutral_sentences(language), seed)
        for emotion in EMOTIONS:
            emotional = _emotional_sentences(generation, emotion, language, sizes)
            for split, size in sizes.items():
                cell = (seed, language, emotion, split)
                number_neutral = round(neutral_share * size)
                if number_neutral > len(neutral[split]):
                    raise CorpusError(
                        f"{number_neutral} neutral sentences per emotion are needed for {split}, but there are "
                        f"{len(neutral[split])}. Lower neutral_share or the number of utterances."
                    )

                neutral_texts = iter(sample_by_hash(neutral[split], number_neutral, str, *cell))
                emotional_texts = iter(emotional[split])

                for number, voice in zip(range(size), _voices(split, language, cell), strict=False):
                    # Spread evenly, so that a smaller split is the beginning of a larger one.
                    is_neutral = round(neutral_share * (number + 1)) > round(neutral_share * number)
                    text = next(neutral_texts if is_neutral else emotional_texts)
                    rng = random.Random("/".join(map(str, (*cell, number))))
                    prosody = vary_prosody(EMOTION_PROSODY[emotion], rng)
                    what = f"'{text}' by {voice} with {prosody}"
                    clips.append(
                        Clip(
                            id=neutral_id("quickstart", f"{language}/{emotion}/{split}/{number}"),
                            split=split,
                            label=emotion,
                            language=language,
                            audio=partial(tts.synthesize, text, language=language, voice=voice, prosody=prosody),
                            text=text,
                            speaker=voice,
                            source="synthetic",
                            license="MIT",
                            where=what,
                            audio_key=what,
                        )
                    )

    return sorted(clips, key=lambda clip: clip.id)  # emotions and languages mixed


def vary_prosody(prosody: Prosody, rng: random.Random) -> Prosody:
    """Return the prosody at a random strength (0.7 to 1.1 of its distance from neutral), with random deviations."""
    strength = rng.uniform(0.7, 1.1)
    neutral = EMOTION_PROSODY["neutral"]

    def toward(name: str) -> float:
        start = getattr(neutral, name)
        return start + strength * (getattr(prosody, name) - start)

    return Prosody.clipped(
        rate_wpm=toward("rate_wpm") * rng.lognormvariate(0, 0.08),
        pitch=toward("pitch") + rng.gauss(0, 6),
        pitch_range=toward("pitch_range") + rng.gauss(0, 8),
        volume=toward("volume") * rng.lognormvariate(0, 0.2),
    )


def demo_clips(data_dir: Any = None, **options: Any) -> dict[str, dict[str, Any]]:
    """Return the first test clip of each language whose words express an emotion other than neutral, as rows of the
    common schema: `{"en": row, "ru": row}`.
    """
    test = CORPUS.load(data_dir, **options)["test"]
    neutral = test.features["label"].str2int("neutral")
    clips = {}

    for language in ACCENTS:
        plain = set(_neutral_sentences(language))
        columns = zip(test["language"], test["label"], test["text"], strict=True)
        clear = [of == language and label != neutral and text not in plain for of, label, text in columns]
        clips[language] = test[clear.index(True)]

    return clips


def _neutral_sentences(language: str) -> list[str]:
    choices = (part.split("/") for part in NEUTRAL_SENTENCES[language])
    return [" ".join(parts) + "." for parts in product(*choices)]


def _emotional_sentences(
    generation: TemplateUtteranceGeneration, emotion: str, language: str, sizes: dict[str, int]
) -> dict[str, list[str]]:
    """Draw until every split has enough; a longer draw begins with the shorter one."""
    drawn = sum(sizes.values())
    while True:
        sentences = _by_split(generation.sample(emotion, language, drawn), generation.seed)
        if all(len(sentences[split]) >= size for split, size in sizes.items()):
            return sentences
        drawn *= 2


def _by_split(sentences: Iterable[str], seed: int) -> dict[str, list[str]]:
    """Assign each sentence to a split by its own hash, whatever the sizes of the splits."""
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for sentence in sentences:
        by_split[SENTENCE_SPLITS[seeded_hash(seed, sentence)[0] % len(SENTENCE_SPLITS)]].append(sentence)

    return by_split


def _voices(split: str, language: str, cell: tuple[Any, ...]) -> Iterator[str]:
    """Yield the voices of the split in turn, so that no voice favors an emotion; all of them speak neutral and
    emotional sentences.
    """
    accents = ACCENTS[language]
    names = [
        f"{accents[place // 2 % len(accents)]}+{variant}" for place, variant in enumerate(VARIANTS[split])
    ]  # both sexes in each accent

    for turn in count():
        yield from sample_by_hash(names, len(names), str, *cell, turn)


CORPUS = Corpus(
    name="quickstart",
    title="Embedded synthetic quickstart corpus",
    homepage="made by this package",
    license="MIT",
    read=read_quickstart,
    has_source=False,
)
