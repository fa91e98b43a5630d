"""The commands behind `recipes/augment.py`: stacked corpora, template utterances, pages to listen to, components by a
language model."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from datasets import DatasetDict
from pydantic import Field

from ..asr import SpeechRecogniser
from ..augmentation.component_generation import Ask, draw_examples, generate_components, load_prompt, read_components
from ..augmentation.preview import render_preview
from ..augmentation.tts import TTS_BACKENDS, get_tts
from ..augmentation.tts.checks import SpeechChecks
from ..augmentation.tug import LANGUAGES, PUBLISHED_SIZES, Components, TemplateUtteranceGeneration
from ..data.command import describe_counts
from ..data.corpora import get_corpus
from ..data.mixture import CorpusArguments, StackingArguments, load_corpora
from ..data.prepare import INFO_FILE, Corpus, load_prepared, read_info
from ..data.synthetic import ESPEAK_VOICES, balancing_counts, plan_utterances, write_stacked, write_utterances
from ..errors import ArgumentError
from ..files import locked, write_json, write_text
from ..llm import LLMError, Sampling, get_backend
from ..model.labels_bibier import EMOTIONS
from ..training.augmentation import make_sds
from ..training.sections import Section, apply_overrides, checked_section, section_help
from .common import guarded

NO_SPEECH = "none"


class SourceArguments(Section):
    """A corpus under its protocol, as a command line names it."""

    corpus: str | None = Field(None, description="corpus: quickstart, resd, csv, ...")
    data_dir: str | None = Field(None, description="its folder, as it came or prepared")
    protocol: str = Field("official", description="how it is split: official, dialogue_grouped")
    fold: int = Field(0, ge=0, description="which fold is the test set, for grouped protocols")
    split_seed: int = Field(42, ge=0, description="seed of the dev split where the corpus has none")
    dev_share: float = Field(0.12, gt=0, lt=1, description="share of train that becomes dev where the corpus has none")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the corpus' loader")

    def load(self) -> DatasetDict:
        """train, dev and test.

        Raises:
            ArgumentError: no corpus was named.
        """
        if self.corpus is None:
            raise ArgumentError("corpus: is missing. Name one, such as --corpus resd --data_dir PATH.")
        fields = {name: getattr(self, name) for name in SourceArguments.model_fields if name != "corpus"}
        (rows,) = load_corpora([CorpusArguments(name=self.corpus, **fields)]).values()
        return rows


class StackCommand(SourceArguments, StackingArguments):
    """`sds`: write a corpus whose train split holds stacked rows."""

    output_dir: str = Field(description="folder of the stacked corpus")
    share: float = Field(0.7, ge=0, le=1, description="share of rows that are stacked")
    # A written corpus holds one draw; several, or fresh ones, are an option of training.
    draws: Literal[1] = Field(1)  # ty: ignore[incompatible-mutable-override]
    draw: int = Field(0, ge=0, description="number of the draw: another one selects and stacks anew")
    num_proc: int | None = Field(None, ge=1, description="processes; they change nothing but the time")


class SpeechCheckArguments(Section):
    """Bounds of acceptable speech ([`~bibier_hf.augmentation.tts.checks.SpeechChecks`])."""

    min_s: float = Field(0.3, ge=0, description="shortest utterance, in seconds")
    max_s: float = Field(15.0, gt=0, description="longest utterance, in seconds")
    min_level_db: float = Field(-45.0, le=0, description="level below which is silence, in dB of full scale")
    max_pause_s: float = Field(2.0, gt=0, description="longest silence within an utterance, in seconds")
    max_clipped: float = Field(0.01, ge=0, le=1, description="share of samples at full scale")
    max_wer: float | None = Field(
        None, ge=0, description="word error rate of a recogniser against the text; null: do not listen"
    )


class TugCommand(SourceArguments):
    """`tug`: write a corpus of template utterances, spoken or as text."""

    output_dir: str = Field(description="folder of the synthetic corpus")
    name: str = Field("tug", description="value of the column corpus")
    languages: list[str] | None = Field(None, description='such as "[en, ru]"; null: those of the corpus, or both')
    count: int | None = Field(
        None, ge=1, description="utterances of each emotion and language; default: what balances the corpus"
    )
    counts: dict[Literal[EMOTIONS], int] | None = Field(None, description="utterances by emotion: --counts.sad 100")
    seed: int = Field(42, ge=0, description="of texts, voices and prosody")
    components: str | None = Field(None, description="folder with <language>/<emotion>.json; null: the package's own")
    tts: Literal[(*TTS_BACKENDS, NO_SPEECH)] = Field(
        "espeak", description=f"who speaks: {', '.join(TTS_BACKENDS)}; {NO_SPEECH}: text only"
    )
    tts_options: dict[str, Any] = Field(
        default_factory=dict, description="of the back end: --tts_options.model ID, --tts_options.template ..."
    )
    voices: dict[str, list[str]] | None = Field(
        None, description="language -> voices; null: training voices of espeak, else the default"
    )
    license: str | None = Field(None, description="of the rows; null: MIT for espeak and text, else unknown")
    checks: SpeechCheckArguments = Field(default_factory=SpeechCheckArguments)
    asr_model: str = Field("openai/whisper-base", description="Hub id or folder of the recogniser, for checks.max_wer")
    attempts: int = Field(3, ge=1, description="how often an utterance is tried before it is left out")
    batch_size: int = Field(32, ge=1, description="utterances that are handed to the back end together")
    keep_speech: bool = Field(False, description="keep <output_dir>.speech, by which an interrupted run goes on")


class PreviewCommand(Section):
    """`preview`: write a page to listen to augmented rows."""

    augmented: str = Field(description="folder that sds or tug wrote")
    data_dir: str | None = Field(
        None, description="of a stacked corpus: the folder it was stacked from, as it came or prepared"
    )
    output: str = Field("outputs/preview.html", description="the page")
    count: int = Field(12, ge=1, description="augmented rows to show")
    seed: int = Field(42, ge=0, description="of the choice")


class ComponentsCommand(SourceArguments):
    """`components`: let a language model write components of template utterances."""

    output_dir: str = Field(description="folder for <language>/<emotion>.json")
    llm: str = Field("transformers", description="back end: transformers, openai, vllm")
    model: str = Field(description="Hub id or folder, or the name that a server knows")
    llm_options: dict[str, Any] = Field(default_factory=dict, description="of the back end")
    emotions: list[Literal[EMOTIONS]] = Field(list(EMOTIONS), description='such as "[sad, fear]"')
    languages: list[str] = Field(list(LANGUAGES), description="such as [en]; the corpus must hold utterances of each")
    prompt: str | None = Field(None, description="another prompt file; null: the package's own")
    examples: int = Field(20, ge=1, description="utterances of the corpus in the prompt")
    attempts: int = Field(5, ge=1, description="answers before giving up; faults are sent back")
    temperature: float = Field(0.7, ge=0, description="of the model")
    max_new_tokens: int = Field(12_000, ge=1, description="where an answer is cut off")
    seed: int = Field(42, ge=0, description="of the model and of the choice of examples")


def augment_main(arguments: Sequence[str]) -> int:
    """Do what the command line says; returns the exit code.

    Args:
        arguments: `sds | tug | preview | components [--key value] ...`.
    """
    name, *rest = arguments or ["--help"]

    def augment() -> None:
        if name in ("-h", "--help"):
            print(augment_help())
            return
        if name not in COMMANDS:
            raise ArgumentError(f"Unknown command {name!r}. Allowed: {', '.join(COMMANDS)}.")
        section, function = COMMANDS[name]
        if any(argument in ("-h", "--help") for argument in rest):
            print("\n".join([f"usage: recipes/augment.py {name} [--key value] ...", "", *section_help(section)]))
            return
        content: dict[str, Any] = {}
        apply_overrides(content, rest, section)
        parsed = checked_section(section, content)
        is_file = not hasattr(parsed, "output_dir")
        place = parsed.output if is_file else parsed.output_dir
        with locked(place, file=is_file, left="What was written before is whole."):
            function(parsed)

    return guarded(
        augment, lambda: "Interrupted. What was written before is whole; the same command goes on where it can."
    )


def augment_help() -> str:
    """The commands, a line each."""
    lines = [
        f"  {name:<11}{(section.__doc__ or '').partition(': ')[2].splitlines()[0]}"
        for name, (section, _) in COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: recipes/augment.py COMMAND [--key value] ...",
            "",
            *lines,
            "",
            "recipes/augment.py COMMAND --help: every key",
        ]
    )


def stack(arguments: StackCommand) -> None:
    """Stack the train split of a corpus and write all three splits."""
    splits = arguments.load()
    sds = make_sds(arguments)
    plan = sds.plan(splits["train"], arguments.draw)
    stacked = splits | {"train": sds(splits["train"], arguments.draw, arguments.num_proc)}
    assert arguments.corpus is not None  # `load` demands it
    corpus = get_corpus(arguments.corpus)
    facts = {
        "name": splits["train"]["corpus"][0],
        "reader": corpus.name,
        "title": f"{corpus.title}, stacked",
        "homepage": corpus.homepage,
    }
    facts |= {"not_to_rehost": corpus.not_to_rehost, "options": _reader_options(arguments, corpus)}
    facts["protocol"] = {name: getattr(arguments, name) for name in ("protocol", "fold", "split_seed", "dev_share")}
    asr = {"asr_model": Path(arguments.asr_model).name} if arguments.text == "asr" else {}
    described = arguments.model_dump(include=set(StackingArguments.model_fields) - {"draws", "asr_model"})
    facts["sds"] = described | asr | {"draw": arguments.draw, "counts": dict(plan.report)}
    print(describe_counts(write_stacked(DatasetDict(stacked), facts, arguments.output_dir)))
    counts = plan.report
    print(
        f"{counts['stacked']} of {counts['rows']} train rows stacked ({counts['wanted']} wanted); "
        f"{counts['reached_target']} of them reach "
        f"{arguments.target_s} s. {counts['short']} were shorter, {counts['without_partner']} of these without a "
        "partner; "
        f"{counts['text_only']} rows are text only."
    )
    print(f"Written to {arguments.output_dir}")


def _reader_options(arguments: StackCommand, corpus: Corpus) -> dict[str, Any]:
    """The options by which the clips are read from the raw corpus; those of a prepared one are in its folder."""
    if arguments.data_dir is not None and (Path(arguments.data_dir) / INFO_FILE).is_file():
        return read_info(arguments.data_dir)["options"]
    return corpus.complete_options(arguments.options)


def utter(arguments: TugCommand) -> None:
    """Write template utterances."""
    counts = _utterance_counts(arguments)
    tug = TemplateUtteranceGeneration(arguments.seed, _own_components(arguments.components, counts))
    speaks = arguments.tts != NO_SPEECH
    voices = arguments.voices or (ESPEAK_VOICES if arguments.tts == "espeak" else None)
    if voices and speaks and (missing := sorted(set(counts) - set(voices))):
        raise ArgumentError(f"voices: there is none for {', '.join(missing)}.")
    utterances = plan_utterances(counts, tug, voices if speaks else None, arguments.name)
    tts = get_tts(arguments.tts, **arguments.tts_options) if speaks else None
    recogniser = SpeechRecogniser(arguments.asr_model) if arguments.checks.max_wer is not None else None
    license = arguments.license or ("MIT" if arguments.tts in ("espeak", NO_SPEECH) else "unknown")
    speech_dir = Path(arguments.output_dir).with_name(f"{Path(arguments.output_dir).name}.speech")
    info, failures = write_utterances(
        utterances,
        arguments.output_dir,
        tts,
        name=arguments.name,
        license=license,
        options={"seed": arguments.seed, "counts": counts},
        checks=SpeechChecks(**arguments.checks.model_dump(), transcribe=recogniser),
        speech_dir=speech_dir,
        attempts=arguments.attempts,
        batch_size=arguments.batch_size,
    )
    if speaks and not arguments.keep_speech:
        shutil.rmtree(speech_dir)
    print(describe_counts(info))
    if failures:
        print(
            f"{len(failures)} utterances could not be spoken and are left out (all of them: left_out in corpus.json):"
        )
        print("\n".join(f"  {failure.utterance.text!r}: {failure.reason}" for failure in failures[:10]))
    print(f"Written to {arguments.output_dir}")


def preview(arguments: PreviewCommand) -> None:
    """Write the page."""
    info = read_info(arguments.augmented)
    augmented = load_prepared(arguments.augmented)["train"]
    recorded = None
    if "sds" in info:
        if arguments.data_dir is None and get_corpus(info["reader"]).has_source:
            raise ArgumentError(
                f"data_dir: {arguments.augmented} was stacked from {info['name']!r}; give its folder, to play the "
                "components."
            )
        prepared = arguments.data_dir is not None and (Path(arguments.data_dir) / INFO_FILE).is_file()
        options = {} if prepared else info["options"]
        origin = CorpusArguments(name=info["reader"], data_dir=arguments.data_dir, options=options, **info["protocol"])
        ((name, splits),) = load_corpora([origin]).items()
        if name != info["name"]:
            raise ArgumentError(
                f"data_dir: {arguments.augmented} was stacked from {info['name']!r}; {arguments.data_dir} is {name!r}."
            )
        recorded = splits["train"]
    page = render_preview(augmented, recorded, f"{info['title']}: augmented rows", arguments.count, arguments.seed)
    write_text(arguments.output, page)
    print(f"Written to {arguments.output}")


def write_components(arguments: ComponentsCommand) -> None:
    """Ask for the components of each emotion and language that are not there yet."""
    prompt = load_prompt(arguments.prompt)
    train = arguments.load()["train"]
    texts: dict[tuple[str, str], list[str]] = {}
    for row in train.select_columns(["language", "label", "text"]):
        texts.setdefault((row["language"], EMOTIONS[row["label"]]), []).append(row["text"])
    ask = language_model(arguments)
    for language in arguments.languages:
        for emotion in arguments.emotions:
            path = Path(arguments.output_dir) / language / f"{emotion}.json"
            if path.is_file():
                print(f"{path}: there already")
                continue
            examples = draw_examples(texts.get((language, emotion), []), arguments.examples, arguments.seed)
            components = generate_components(ask, emotion, language, examples, prompt, arguments.attempts)
            write_json(path, {kind: list(getattr(components, kind)) for kind in PUBLISHED_SIZES})
            print(f"{path}: {components.possible()} utterances possible")


def language_model(arguments: ComponentsCommand) -> Ask:
    """The model that a command line names, as a function of a conversation."""
    backend = get_backend(arguments.llm, arguments.model, **arguments.llm_options)
    sampling = Sampling(
        temperature=arguments.temperature, seed=arguments.seed, max_new_tokens=arguments.max_new_tokens
    )

    def ask(conversation: Sequence[Mapping[str, str]]) -> str:
        (answer,) = backend.generate([conversation], sampling)
        if answer.error is not None:
            raise LLMError(f"{arguments.model} gave no answer: {answer.error}")
        return answer.text or ""

    return ask


def _utterance_counts(arguments: TugCommand) -> dict[str, dict[str, int]]:
    """language -> emotion -> number"""
    if (arguments.count is not None) + (arguments.counts is not None) + (arguments.corpus is not None) != 1:
        raise ArgumentError(
            "Give one of --count N, --counts.EMOTION N and --corpus NAME (whose classes are then balanced)."
        )
    if arguments.corpus is None:
        by_emotion = arguments.counts or dict.fromkeys(EMOTIONS, arguments.count or 0)
        return {language: by_emotion for language in arguments.languages or LANGUAGES}
    train = arguments.load()["train"]
    labels: dict[str, list[str]] = {}
    for language, label in zip(train["language"], train["label"], strict=True):
        labels.setdefault(language, []).append(EMOTIONS[label])
    if others := sorted(set(arguments.languages or ()) - set(labels)):
        raise ArgumentError(f"languages: the corpus has no {', '.join(others)}; it has {', '.join(sorted(labels))}.")
    counts = {language: balancing_counts(labels[language]) for language in arguments.languages or sorted(labels)}
    if not any(any(by_emotion.values()) for by_emotion in counts.values()):
        raise ArgumentError("corpus: its classes are balanced already. Give --count or --counts.EMOTION for more.")
    for language, by_emotion in counts.items():
        print(f"{language}: {dict(Counter(labels[language]))} -> {by_emotion} utterances more")
    return counts


def _own_components(
    folder: str | None, counts: Mapping[str, Mapping[str, int]]
) -> dict[tuple[str, str], Components] | None:
    if folder is None:
        return None
    wanted = [
        (emotion, language)
        for language, by_emotion in counts.items()
        for emotion, count in by_emotion.items()
        if count
    ]
    return {pair: read_components(folder, *pair) for pair in wanted}


COMMANDS: dict[str, tuple[type[Section], Callable[[Any], None]]] = {
    "sds": (StackCommand, stack),
    "tug": (TugCommand, utter),
    "preview": (PreviewCommand, preview),
    "components": (ComponentsCommand, write_components),
}
"""Name -> arguments and function."""
