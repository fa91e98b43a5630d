"""`bibier label`: soft labels from a language model (LS-LLM)."""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from datasets import Dataset
from pydantic import Field

from ..augmentation.ls_llm import DEFAULT_PROMPTS, DEFAULT_SAMPLING, WAYS, LLMLabelSmoothing, default_prompt
from ..augmentation.ls_llm_answers import PARSERS
from ..augmentation.ls_llm_prompts import load_prompt
from ..commandline import Positional, Section
from ..data.corpora import load_corpus
from ..data.label_tables import read_label_table, write_label_table
from ..data.mixture import LABEL_COLUMN_HELP, LABEL_MAP_HELP, LABELS_HELP
from ..errors import ArgumentError
from ..evaluation.label_report import compare_labels, describe_labels, report_text, write_label_plots
from ..evaluation.report import Predictions, environment, metrics_table, recall_table, write_split_report
from ..evaluation.results import RecognitionResults
from ..files import write_atomically, write_json, writes
from ..llm import BACKENDS, LLMBackend, LLMError, get_backend


class LabelOptions(Section):
    """A corpus, and a language model to ask about it."""

    corpus: str = Field(description="name of the corpus; csv for any table")
    data_dir: str | None = Field(None, description="its folder or file, raw or prepared")
    options: dict[str, Any] = Field({}, description="options of its loader, such as --options.text_only")
    labels: list[str] | None = Field(None, description=LABELS_HELP)
    label_map: dict[str, str | None] | str | None = Field(None, description=LABEL_MAP_HELP)
    label_column: str | None = Field(None, description=LABEL_COLUMN_HELP)
    limit: int | None = Field(None, ge=1, description="only the first rows")
    backend: Literal[tuple(BACKENDS)] = Field("vllm", description=f"where the model runs: {', '.join(BACKENDS)}")
    model: str = Field("Qwen/Qwen3-4B", description="Hub id or folder, or the name that a server knows")
    revision: str | None = Field(None, description="its branch, tag or commit")
    base_url: list[str] = Field([], description="server of the back end openai; repeat it for several")
    backend_options: dict[str, Any] = Field({}, description="other options of the back end: --backend_options.dtype X")
    prompt: str | None = Field(
        None, description=f"template file, or one of the package's: {', '.join(sorted(DEFAULT_PROMPTS.values()))}"
    )
    calibration: bool = Field(
        True, description="with --way score: correct for words that the model prefers whatever the text"
    )
    seed: int = Field(42, ge=0, description="seed of sampling and of the examples")
    store: str | None = Field(None, description="file of answers, from which a killed run continues")

    @property
    def answers(self) -> str:
        """Where answers are kept."""
        raise NotImplementedError

    def after_interrupt(self) -> str:
        return "Every answer so far is kept. Continue with the same command."

    def kept(self) -> str:
        """What is left after an error of writing."""
        if not Path(self.answers).is_file():
            return ""
        return f"The answers so far are in {self.answers}: the same command continues from them."

    def rows(self, split: str, limit: int | None = None) -> Dataset:
        """The rows of a split, without audio. Rows without text cannot be asked about, and are left out."""
        of_labels: dict[str, Any] = {
            "labels": self.labels,
            "label_map": self.label_map,
            "label_column": self.label_column,
        }
        splits = load_corpus(self.corpus, self.data_dir, **of_labels, **self.options)
        if split not in splits:
            raise ArgumentError(f"split: the corpus {self.corpus} has {', '.join(map(str, splits))}, not {split!r}.")

        rows = splits[split].remove_columns("audio")
        with_text = [index for index, text in enumerate(rows["text"]) if text.strip()]
        if empty := len(rows) - len(with_text):
            print(f"{empty} of {len(rows)} rows have no text and are left out.")
        return rows.select(with_text[:limit])

    def language_model(self) -> LLMBackend:
        options = dict(self.backend_options)
        if self.revision:
            options["revision"] = self.revision
        if self.base_url:
            options["base_urls"] = self.base_url
        return get_backend(self.backend, self.model, **options)


class LabelArguments(LabelOptions):
    """Let a language model label the rows of a split, and write a table of soft labels.

    Examples:
      bibier label corpus --corpus resd --data_dir PATH/TO/resd --model Qwen/Qwen3-4B --output resd_labels.parquet
      bibier label corpus --corpus resd --data_dir PATH/TO/resd --way score --gold_weight 0.2 --output scores.parquet
      bibier label corpus --corpus meld --data_dir PATH/TO/meld --options.text_only --backend openai
          --base_url http://gpu1:8000/v1 --base_url http://gpu2:8000/v1 --output meld_labels.parquet

    The default back end, vLLM, needs its own environment (constraints-vllm.txt). If the command is killed,
    run it again to continue. To train on the labels: --corpora.0.label_table TABLE --soft_labels true.
    """

    output: str = Field(description="table to write, .csv or .parquet")
    split: str = Field("train", description="rows to label")
    way: Literal[WAYS] = Field("generate", description="generate seven numbers, or score the seven words")
    hide_label: bool = Field(False, description="do not state the gold label in the prompt")
    parser: Literal[tuple(PARSERS)] = Field("strict", description="strict, or as tolerant as the published code")
    gold_weight: float | None = Field(
        None, description="share of the gold label to mix in; increased where it would not be the most likely"
    )
    temperature: float = Field(DEFAULT_SAMPLING.temperature, ge=0, description="0: greedy")
    max_new_tokens: int = Field(DEFAULT_SAMPLING.max_new_tokens, ge=1, description="longest answer")
    retries: int = Field(2, ge=0, description="further attempts if an answer cannot be read")

    @property
    def answers(self) -> str:
        return self.store or f"{self.output}.answers.sqlite"


class RecognizeArguments(LabelOptions):
    """Let a language model classify a split without seeing its labels, and score it like any model.

    Examples:
      bibier label recognize --corpus resd --data_dir PATH/TO/resd --shots 2 --output_dir outputs/resd_llm
    """

    output_dir: str = Field(description="folder of the report")
    split: str = Field("test", description="rows to classify")
    way: Literal[WAYS] = Field("score", description="generate seven numbers, or score the seven words")
    shots: int = Field(0, ge=0, description="training examples per emotion in the prompt")

    @property
    def answers(self) -> str:
        return self.store or str(Path(self.output_dir) / "answers.sqlite")


class ReportArguments(Section):
    """Describe a table of soft labels: agreement with the gold labels, entropy, calibration.

    Examples:
      bibier label report outputs/resd_labels.parquet --json outputs/resd_labels.json --plots outputs/resd_labels
      bibier label report outputs/resd_labels.parquet --compare PATH/TO/other.csv
    """

    table: Annotated[str, Positional("TABLE")] = Field(description="table of `bibier label corpus`, or published one")
    labels: list[str] | None = Field(None, description=LABELS_HELP)
    compare: str | None = Field(None, description="another table of labels for the same rows")
    json_file: str | None = Field(None, alias="json", description="file for the figures")
    plots: str | None = Field(None, description="folder for the pictures")


@writes(lambda arguments: arguments.output, left=LabelArguments.kept, file=True)
def label_corpus(arguments: LabelArguments) -> None:
    """Label the rows and write the table."""
    output = Path(arguments.output)
    if output.suffix not in (".csv", ".parquet"):
        raise ArgumentError(f"output: {output} must end in .csv or .parquet.")

    rows = arguments.rows(arguments.split, arguments.limit)
    names = rows.features["label"].names
    chosen = arguments.model_dump(include={"temperature", "seed", "max_new_tokens"})
    smooth = LLMLabelSmoothing(
        arguments.language_model(),
        labels=names,
        way=arguments.way,
        prompt=load_prompt(arguments.prompt or default_prompt(arguments.way, not arguments.hide_label, names)),
        parser=arguments.parser,
        sampling=replace(DEFAULT_SAMPLING, **chosen),
        retries=arguments.retries,
        calibrate=arguments.calibration,
        gold_weight=arguments.gold_weight,
        store=arguments.answers,
    )

    start = time.perf_counter()
    labeled = smooth(rows[:])
    seconds = time.perf_counter() - start

    table = _table(rows, labeled)
    write_atomically(output, lambda temporary: write_label_table(table, temporary))

    failed = labeled["label_status"].count("failed")
    print(f"{len(rows) - failed} rows labeled, {failed} failed, {seconds:.1f} s with loading the model. {output}")
    print_failures(table["id"], labeled["label_status"], labeled["label_reason"])
    _check_some_succeeded(len(rows), failed, f"{output} holds the raw answers and the reasons.")
    if failed:
        print("Failed rows have no distribution; training uses their gold label and counts them.")


@writes(lambda arguments: arguments.output_dir, left=RecognizeArguments.kept)
def recognize_corpus(arguments: RecognizeArguments) -> None:
    """Classify the rows and write the report."""
    split, folder = arguments.split, Path(arguments.output_dir)
    rows = arguments.rows(split, arguments.limit)
    names = rows.features["label"].names
    examples = _examples(arguments) if arguments.shots else ()
    recognize = LLMLabelSmoothing(
        arguments.language_model(),
        labels=names,
        way=arguments.way,
        prompt=load_prompt(arguments.prompt or default_prompt(arguments.way, False, names), examples),
        sampling=replace(DEFAULT_SAMPLING, seed=arguments.seed),
        calibrate=arguments.calibration,
        store=arguments.answers,
    )
    if recognize.prompt.states_label:
        raise ArgumentError(
            f"prompt: {recognize.prompt.name} states the gold label, which a recognizer must not see. Use one without "
            "{label}."
        )

    labeled = recognize(rows[:])
    failed = labeled["label_status"].count("failed")
    print_failures(rows["id"], labeled["label_status"], labeled["label_reason"])
    _check_some_succeeded(len(rows), failed, "No report was written.")

    uniform = [1 / len(names)] * len(names)
    answers = [uniform if soft is None else soft for soft in labeled["soft_label"]]
    predictions = Predictions.of_rows(rows, np.array(answers))
    name = recognize.backend.public_model
    write_split_report(predictions, split, folder, name)
    recognizer = recognize.provenance() | {"shots": arguments.shots}
    results = RecognitionResults(recognizer=recognizer, failed=failed, **environment())
    results.add_split(split, predictions)
    results.write(folder / f"recognition_{split}.json")

    print(f"{name}, {arguments.shots} examples per emotion, {split}:\n")
    print(metrics_table(results.metrics[split]))
    print(f"\n{recall_table(results.metrics[split])}")
    print(f"\n{failed} of {len(rows)} rows failed (scored with equal probabilities). The report is in {folder}.")


def report_labels(arguments: ReportArguments) -> None:
    """Print the figures; write JSON and pictures on request."""
    table = read_label_table(arguments.table, arguments.labels)
    numbers = describe_labels(table)
    print(report_text(numbers))

    if arguments.compare:
        comparison = numbers["comparison"] = compare_labels(
            table, read_label_table(arguments.compare, arguments.labels)
        )
        agreement = 100 * comparison["agreement"]
        divergence = comparison["jensen_shannon_bits"]["mean"]
        print(f"\nagainst {comparison['tables'][1]}: {comparison['rows']} rows in common")
        print(f"equal arg-max {agreement:.2f} %, mean Jensen-Shannon divergence {divergence:.4f} bits")

    if arguments.json_file:
        write_json(arguments.json_file, numbers)
    if arguments.plots:
        for path in write_label_plots(table, arguments.plots):
            print(path)


def print_failures(ids: Sequence[str], status: Sequence[str], reasons: Sequence[str | None], shown: int = 10) -> None:
    """Print how many rows failed for each reason, the most frequent first, with one row of each."""
    found: dict[str, list[int]] = {}
    for index, reason in enumerate(reasons):
        if status[index] == "failed":
            # Reasons that differ only in numbers and quoted text are one.
            kind = re.sub(r"(['\"]).*?\1|\d+(\.\d+)?", "…", reason or "no reason")
            found.setdefault(kind, []).append(index)
    kinds = sorted(found.values(), key=len, reverse=True)
    for members in kinds[:shown]:
        print(f"  {len(members)} failed, such as {ids[members[0]]}: {reasons[members[0]]}")
    if len(kinds) > shown:
        print(f"  {sum(map(len, kinds[shown:]))} failed for {len(kinds) - shown} other reasons")


def _check_some_succeeded(rows: int, failed: int, remark: str) -> None:
    if rows and failed == rows:
        raise LLMError(f"All {rows} rows failed; the reasons are listed above. {remark}")


def _examples(arguments: RecognizeArguments) -> tuple[tuple[str, str, str, str], ...]:
    """`shots` random training utterances per emotion, with their labels as answers."""
    train = arguments.rows("train")
    generator = np.random.default_rng(arguments.seed)
    labels = np.asarray(train["label"])

    drawn = []
    for index, name in enumerate(train.features["label"].names):
        rows = np.flatnonzero(labels == index)
        if len(rows) < arguments.shots:
            raise ArgumentError(f"shots: train has {len(rows)} utterances of {name}, fewer than {arguments.shots}.")
        drawn += [(int(row), name) for row in generator.choice(rows, arguments.shots, replace=False)]

    shuffled = [drawn[place] for place in generator.permutation(len(drawn))]
    return tuple((train[row]["text"], name, train[row]["language"], name) for row, name in shuffled)


def _table(rows: Dataset, labeled: dict[str, list]) -> dict[str, list]:
    """Columns of the written table."""
    soft = labeled.pop("soft_label")
    names = rows.features["label"].names
    return {
        "id": list(rows["id"]),
        "language": list(rows["language"]),
        "text": list(rows["text"]),
        "label": [names[label] for label in rows["label"]],
        "prediction": [None if row is None else names[int(np.argmax(row))] for row in soft],
        **{name: [None if row is None else row[index] for row in soft] for index, name in enumerate(names)},
        **{name.removeprefix("label_"): values for name, values in labeled.items()},
    }
