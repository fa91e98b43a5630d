"""`bibier augment`: stacked corpora, template utterances, pages to listen to, components by a language model."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from datasets import DatasetDict
from pydantic import Field, model_validator

from ..augmentation.component_generation import Ask, draw_examples, generate_components, load_prompt
from ..augmentation.preview import render_preview
from ..augmentation.sds import StackedDataSampling
from ..augmentation.tts import TTS_BACKENDS, get_tts
from ..augmentation.tts.checks import SpeechChecks
from ..augmentation.tts.corpus import Failure, speak_all
from ..augmentation.tug import LANGUAGES, PUBLISHED_SIZES, TemplateUtteranceGeneration, load_components
from ..commandline import Section
from ..data.corpora import get_corpus
from ..data.mixture import CorpusArguments, load_corpora
from ..data.prepare import INFO_FILE, describe_counts, load_prepared, read_info
from ..data.synthetic import ESPEAK_VOICES, balancing_counts, plan_utterances, write_stacked, write_utterances
from ..errors import ArgumentError
from ..files import write_json, write_text, writes
from ..llm import LLMError, Sampling, get_backend
from ..model.labels_bibier import EMOTIONS
from .corpora import CorpusOptions

NO_SPEECH = "none"
LEFT = "What was written before is whole."


class _AugmentOptions(Section):
    """What the commands have in common."""

    def after_interrupt(self) -> str:
        return f"{LEFT} The same command continues if it can."


class StackArguments(_AugmentOptions, CorpusOptions, StackedDataSampling):
    """Write a corpus whose train split holds stacked clips (stacked data sampling).

    Examples:
      bibier augment sds --corpus resd --data_dir PATH/TO/resd --output_dir outputs/resd-sds

    Train on it as on any corpus: --corpora.0.data_dir outputs/resd-sds. Several draws, or new ones in every epoch, are
    options of training: --corpora.0.augmentation.sds.share 0.7 --corpora.0.augmentation.sds.draws 4.
    """

    corpora: list[CorpusArguments] = Field(min_length=1, max_length=1, description="the corpus; give --corpus NAME")
    output_dir: str = Field(description="folder of the stacked corpus")
    draw: int = Field(0, ge=0, description="number of the draw: each selects and stacks differently")
    num_proc: int | None = Field(None, ge=1, description="processes; the result does not depend on them")


class TugArguments(_AugmentOptions, CorpusOptions):
    """Write a corpus of template utterances, spoken or as text (template utterance generation).

    Examples:
      bibier augment tug --corpus resd --data_dir PATH/TO/resd --output_dir outputs/tug-ru
      bibier augment tug --count 100 --tts none --output_dir outputs/tug-text
      bibier augment tug --count 10 --tts command --tts_options.template "mytts -t {text} -o {output}" --output_dir OUT

    Give one of --corpus (its classes are balanced), --count, and --counts.EMOTION. Train on the rows next to a recorded
    corpus: --corpora.0.augmentation.synthetic.path outputs/tug-ru.
    """

    corpora: list[CorpusArguments] = Field([], max_length=1, description="corpus whose classes are balanced")
    output_dir: str = Field(description="folder of the synthetic corpus")
    name: str = Field("tug", description="value of the column corpus")
    languages: list[str] | None = Field(None, description="such as en,ru; null: those of the corpus, or both")
    count: int | None = Field(None, ge=1, description="utterances per emotion and language")
    counts: dict[Literal[EMOTIONS], int] | None = Field(None, description="utterances by emotion: --counts.sad 100")
    seed: int = Field(42, ge=0, description="seed of texts, voices and prosody")
    components: str | None = Field(None, description="folder with <language>/<emotion>.json; null: the package's own")
    tts: Literal[(*TTS_BACKENDS, NO_SPEECH)] = Field(
        "espeak", description=f"speech back end: {', '.join(TTS_BACKENDS)}; {NO_SPEECH}: text only"
    )
    tts_options: dict[str, Any] = Field(
        {}, description="options of the back end: --tts_options.model ID, --tts_options.template ..."
    )
    voices: dict[str, list[str]] | None = Field(
        None, description="language -> voices; null: training voices of espeak, else the default"
    )
    license: str | None = Field(None, description="license of the rows; null: MIT for espeak and text, else unknown")
    checks: SpeechChecks = Field(default_factory=SpeechChecks)
    attempts: int = Field(3, ge=1, description="attempts per utterance before it is left out")
    batch_size: int = Field(32, ge=1, description="utterances that the back end gets at a time")
    keep_speech: bool = Field(False, description="keep <output_dir>.speech, from which an interrupted run continues")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.count is not None) + (self.counts is not None) + bool(self.corpora) != 1:
            raise ArgumentError("Give one of --count N, --counts.EMOTION N, --corpus NAME (to balance its classes).")
        return self


class PreviewArguments(_AugmentOptions):
    """Write a page to listen to augmented rows.

    Examples:
      bibier augment preview --augmented outputs/resd-sds --data_dir PATH/TO/resd --output outputs/preview.html
    """

    augmented: str = Field(description="folder that `augment sds` or `augment tug` wrote")
    data_dir: str | None = Field(None, description="folder that a stacked corpus was made from, raw or prepared")
    output: str = Field("outputs/preview.html", description="the page")
    count: int = Field(12, ge=1, description="augmented rows to show")
    seed: int = Field(42, ge=0, description="seed of the choice")


class ComponentsArguments(_AugmentOptions, CorpusOptions):
    """Let a language model write components of template utterances.

    Examples:
      bibier augment components --corpus resd --data_dir PATH/TO/resd --languages ru --model MODEL
          --output_dir outputs/components
    """

    corpora: list[CorpusArguments] = Field(
        min_length=1, max_length=1, description="the corpus with the examples; give --corpus NAME"
    )
    output_dir: str = Field(description="folder for <language>/<emotion>.json")
    llm: str = Field("transformers", description="back end: transformers, openai, vllm")
    model: str = Field(description="Hub id or folder, or the name that a server knows")
    llm_options: dict[str, Any] = Field({}, description="options of the back end")
    emotions: list[Literal[EMOTIONS]] = Field(list(EMOTIONS), description="such as sad,fear")
    languages: list[str] = Field(list(LANGUAGES), description="such as en; the corpus must have utterances of each")
    prompt: str | None = Field(None, description="prompt file; null: the package's own")
    examples: int = Field(20, ge=1, description="utterances of the corpus in the prompt")
    attempts: int = Field(5, ge=1, description="answers before giving up; faults are sent back")
    temperature: float = Field(0.7, ge=0, description="temperature of the model")
    max_new_tokens: int = Field(12_000, ge=1, description="longest answer")
    seed: int = Field(42, ge=0, description="seed of the model and of the choice of examples")


def _load(arguments: CorpusOptions) -> DatasetDict:
    """train, dev and test of the only corpus."""
    (splits,) = load_corpora(arguments.corpora, arguments.labels).values()
    return splits


@writes(lambda arguments: arguments.output_dir, left=LEFT)
def stack(arguments: StackArguments) -> None:
    """Stack the train split of a corpus and write all three splits."""
    (source,) = arguments.corpora
    splits = _load(arguments)
    plan = arguments.plan(splits["train"], arguments.draw)
    stacked = splits | {"train": arguments(splits["train"], arguments.draw, arguments.num_proc)}

    corpus = get_corpus(source.name)
    options = arguments.model_dump(include=set(StackedDataSampling.model_fields) - {"asr_model"})
    if arguments.text == "asr":
        options["asr_model"] = Path(arguments.asr_model).name
    facts = {
        "name": splits["train"]["corpus"][0],
        "reader": corpus.name,
        "title": f"{corpus.title}, stacked",
        "homepage": corpus.homepage,
        "not_to_rehost": corpus.not_to_rehost,
        "options": _reader_options(arguments),
        "protocol": source.model_dump(include={"protocol", "fold", "split_seed", "dev_share"}),
        "sds": options | {"draw": arguments.draw, "counts": dict(plan.report)},
    }
    print(describe_counts(write_stacked(DatasetDict(stacked), facts, arguments.output_dir)))

    counts = plan.report
    print(
        f"{counts['stacked']} of {counts['rows']} train rows stacked ({counts['wanted']} wanted); "
        f"{counts['reached_target']} of them reach {arguments.target_s} s. {counts['short']} were shorter, "
        f"{counts['without_partner']} of these without a partner; {counts['text_only']} rows are text only."
    )
    print(f"Written to {arguments.output_dir}")


def _reader_options(arguments: CorpusOptions) -> dict[str, Any]:
    """The options by which the clips are read from the raw corpus; a prepared corpus keeps its own."""
    (source,) = arguments.corpora
    if source.data_dir is not None and (Path(source.data_dir) / INFO_FILE).is_file():
        return read_info(source.data_dir)["options"]
    return get_corpus(source.name).complete_options(source.reader_options(arguments.labels))


@writes(lambda arguments: arguments.output_dir, left=LEFT)
def utter(arguments: TugArguments) -> None:
    """Write template utterances."""
    counts = _utterance_counts(arguments)
    components = None
    if arguments.components is not None:
        wanted = [(emotion, language) for language in counts for emotion, count in counts[language].items() if count]
        components = {pair: load_components(*pair, arguments.components) for pair in wanted}
    tug = TemplateUtteranceGeneration(arguments.seed, components)

    speaks = arguments.tts != NO_SPEECH
    voices = arguments.voices or (ESPEAK_VOICES if arguments.tts == "espeak" else None)
    if voices and speaks and (missing := sorted(set(counts) - set(voices))):
        raise ArgumentError(f"voices: there is none for {', '.join(missing)}.")

    utterances = plan_utterances(counts, tug, voices if speaks else None, arguments.name)
    speech_dir = Path(arguments.output_dir).with_name(f"{Path(arguments.output_dir).name}.speech")
    files: Mapping[str, Path | None] = {utterance.id: None for utterance in utterances}
    failures: list[Failure] = []
    speech = None
    if speaks:
        tts = get_tts(arguments.tts, **arguments.tts_options)
        speech = tts.settings
        checks, attempts, batch_size = arguments.checks, arguments.attempts, arguments.batch_size
        files, failures = speak_all(utterances, tts, speech_dir, checks, attempts, batch_size)

    info = write_utterances(
        utterances,
        files,
        arguments.output_dir,
        name=arguments.name,
        license=arguments.license or ("MIT" if arguments.tts in ("espeak", NO_SPEECH) else "unknown"),
        options={"seed": arguments.seed, "counts": counts},
        speech=speech,
        left_out=[{"id": each.utterance.id, "text": each.utterance.text, "reason": each.reason} for each in failures],
    )
    if speaks and not arguments.keep_speech:
        shutil.rmtree(speech_dir)

    print(describe_counts(info))
    if failures:
        print(f"{len(failures)} utterances could not be spoken and are left out (listed in left_out of corpus.json):")
        print("\n".join(f"  {failure.utterance.text!r}: {failure.reason}" for failure in failures[:10]))
    print(f"Written to {arguments.output_dir}")


@writes(lambda arguments: arguments.output, left=LEFT, file=True)
def preview(arguments: PreviewArguments) -> None:
    """Write the page."""
    info = read_info(arguments.augmented)
    augmented = load_prepared(arguments.augmented)["train"]
    recorded = _recorded_rows(arguments, info)["train"] if "sds" in info else None

    page = render_preview(augmented, recorded, f"{info['title']}: augmented rows", arguments.count, arguments.seed)
    write_text(arguments.output, page)
    print(f"Written to {arguments.output}")


def _recorded_rows(arguments: PreviewArguments, info: Mapping[str, Any]) -> DatasetDict:
    """The corpus that a stacked one was made from."""
    if arguments.data_dir is None and get_corpus(info["reader"]).has_source:
        raise ArgumentError(
            f"data_dir: {arguments.augmented} was stacked from {info['name']!r}; give its folder, to play the components."
        )

    prepared = arguments.data_dir is not None and (Path(arguments.data_dir) / INFO_FILE).is_file()
    options = {} if prepared else info["options"]
    origin = CorpusArguments(name=info["reader"], data_dir=arguments.data_dir, options=options, **info["protocol"])
    ((name, splits),) = load_corpora([origin]).items()
    if name != info["name"]:
        raise ArgumentError(
            f"data_dir: {arguments.augmented} was stacked from {info['name']!r}; {arguments.data_dir} is {name!r}."
        )
    return splits


@writes(lambda arguments: arguments.output_dir, left=LEFT)
def write_components(arguments: ComponentsArguments) -> None:
    """Ask for the components of each emotion and language that do not exist yet."""
    prompt = load_prompt(arguments.prompt)
    train = _load(arguments)["train"]
    names = train.features["label"].names
    texts = defaultdict(list)
    for row in train.select_columns(["language", "label", "text"]):
        texts[row["language"], names[row["label"]]].append(row["text"])

    ask = language_model(arguments)
    for language in arguments.languages:
        for emotion in arguments.emotions:
            path = Path(arguments.output_dir) / language / f"{emotion}.json"
            if path.is_file():
                print(f"{path}: exists already")
                continue

            examples = draw_examples(texts[language, emotion], arguments.examples, arguments.seed)
            components = generate_components(ask, emotion, language, examples, prompt, arguments.attempts)
            write_json(path, {kind: list(getattr(components, kind)) for kind in PUBLISHED_SIZES})
            print(f"{path}: {components.possible()} utterances possible")


def language_model(arguments: ComponentsArguments) -> Ask:
    """The model as a function of a conversation."""
    backend = get_backend(arguments.llm, arguments.model, **arguments.llm_options)
    sampling = Sampling(**arguments.model_dump(include={"temperature", "seed", "max_new_tokens"}))

    def ask(conversation: Sequence[Mapping[str, str]]) -> str:
        (answer,) = backend.generate([conversation], sampling)
        if answer.error is not None:
            raise LLMError(f"{arguments.model} gave no answer: {answer.error}")
        return answer.text or ""

    return ask


def _utterance_counts(arguments: TugArguments) -> dict[str, dict[str, int]]:
    """language -> emotion -> number"""
    if not arguments.corpora:
        by_emotion = arguments.counts or dict.fromkeys(EMOTIONS, arguments.count or 0)
        return {language: by_emotion for language in arguments.languages or LANGUAGES}

    train = _load(arguments)["train"]
    names = train.features["label"].names
    labels = defaultdict(list)
    for language, label in zip(train["language"], train["label"], strict=True):
        labels[language].append(names[label])

    if others := sorted(set(arguments.languages or ()) - set(labels)):
        raise ArgumentError(f"languages: the corpus has no {', '.join(others)}; it has {', '.join(sorted(labels))}.")
    # The templates know the seven emotions; other labels get no utterances.
    spoken = [name for name in names if name in EMOTIONS]
    counts = {
        language: balancing_counts(labels[language], spoken) for language in arguments.languages or sorted(labels)
    }
    if not any(any(by_emotion.values()) for by_emotion in counts.values()):
        raise ArgumentError("corpus: its classes are balanced already. Give --count or --counts.EMOTION for more.")

    for language, by_emotion in counts.items():
        print(f"{language}: {dict(Counter(labels[language]))} -> {by_emotion} utterances more")
    return counts
