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
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise, product
from typing import Any

from ...augmentation.tts import EMOTION_PROSODY, EspeakTextToSpeech, Prosody
from ...augmentation.tug import TemplateUtteranceGeneration, load_components
from ...labels import EMOTIONS
from ..clips import Clip, neutral_id
from ..prepare import Corpus
from ..schema import SPLITS
from ..tables import CorpusError

VARIANTS = {
    "train": ("m1", "f1", "m3", "f3", "m5", "f5", "m7", "Annie"),
    "dev": ("m2", "f2", "Michael", "linda"),
    "test": ("m4", "f4", "Alex", "Andrea"),
}
"""eSpeak's voice variants by split, alternating men and women."""

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
    train_per_class: int = 40,
    dev_per_class: int = 8,
    test_per_class: int = 12,
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
        neutral = _share_out(_neutral_sentences(language, seed), sizes)
        for emotion in EMOTIONS:
            emotional = _share_out(generation.sample(emotion, language, sum(sizes.values())), sizes)
            for split, size in sizes.items():
                # One generator per cell, so that its size does not affect the others.
                rng = random.Random(f"{seed}/{language}/{emotion}/{split}")
                number_neutral = round(neutral_share * size)
                if number_neutral > len(neutral[split]):
                    raise CorpusError(
                        f"{number_neutral} neutral sentences per emotion are needed for {split}, but there are "
                        f"{len(neutral[split])}. Lower neutral_share or the number of utterances."
                    )

                texts = rng.sample(neutral[split], number_neutral) + list(emotional[split][: size - number_neutral])
                voices = _voices(split, language, rng)

                for number, text in enumerate(texts):
                    voice = next(voices)
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
    """Return the first test clip of each language, as rows of the common schema: `{"en": row, "ru": row}`."""
    test = CORPUS.load(data_dir, **options)["test"]
    languages = test["language"]

    return {language: test[list(languages).index(language)] for language in ACCENTS}


def _neutral_sentences(language: str, seed: int) -> list[str]:
    choices = (part.split("/") for part in NEUTRAL_SENTENCES[language])
    sentences = [" ".join(parts) + "." for parts in product(*choices)]
    random.Random(f"{seed}/{language}/sentences").shuffle(sentences)
    return sentences


def _share_out(items: Sequence[str], sizes: dict[str, int]) -> dict[str, Sequence[str]]:
    """Cut the items into consecutive pieces in proportion to the sizes, without overlap."""
    ends = list(accumulate(sizes.values()))
    borders = [0, *(len(items) * end // ends[-1] for end in ends)]

    return {split: items[start:end] for split, (start, end) in zip(sizes, pairwise(borders), strict=True)}


def _voices(split: str, language: str, rng: random.Random) -> Iterator[str]:
    """Yield the voices of the split in turn, so that no voice favors an emotion; all of them speak neutral and
    emotional sentences.
    """
    accents = ACCENTS[language]
    names = [
        f"{accents[place // 2 % len(accents)]}+{variant}" for place, variant in enumerate(VARIANTS[split])
    ]  # both sexes in each accent

    while True:
        yield from rng.sample(names, len(names))


CORPUS = Corpus(
    name="quickstart",
    title="Embedded synthetic quickstart corpus",
    homepage="made by this package",
    license="MIT",
    read=read_quickstart,
    has_source=False,
)
