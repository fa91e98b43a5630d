"""The commands behind `recipes/label.py`: labelling with a language model, recognising with one, reports on
labels."""

import argparse
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import Dataset

from ..augmentation.ls_llm import DEFAULT_PROMPTS, DEFAULT_SAMPLING, WAYS, LLMLabelSmoothing
from ..augmentation.ls_llm_answers import PARSERS
from ..augmentation.ls_llm_prompts import load_prompt
from ..data.corpora import load_corpus
from ..data.label_tables import read_label_table, write_label_table
from ..errors import ArgumentError
from ..evaluation.label_report import compare_labels, describe_labels, report_text, write_label_plots
from ..evaluation.report import (
    Predictions,
    environment,
    metrics_table,
    recall_table,
    write_split_report,
)
from ..evaluation.results import RecognitionResults
from ..files import locked, write_atomically, write_json, writes
from ..llm import BACKENDS, LLMBackend, LLMError, get_backend
from ..model.labels_bibier import EMOTIONS
from .common import guarded


def _what_is_kept(options: argparse.Namespace) -> str:
    store = _store(options)
    return f"The answers so far are in {store}: the same command goes on from them." if Path(store).is_file() else ""


def _store(options: argparse.Namespace) -> str:
    """Where answers are kept."""
    output = getattr(options, "output", None)
    default = f"{output}.answers.sqlite" if output else str(Path(options.output_dir) / "answers.sqlite")
    return options.store or default


def label_main(arguments: Sequence[str], description: str | None = None) -> int:
    """Run one of the sub-commands; returns the exit code.

    Args:
        arguments: `label | recognise | report`, and its options.
        description: for `--help`.
    """
    options = _parser(description).parse_args(arguments)
    return guarded(
        lambda: options.run(options), lambda: "Interrupted; every answer so far is kept. Go on with the same command."
    )


def label_corpus(options: argparse.Namespace) -> None:
    """Label the rows of one split and write the table."""
    output = Path(options.output)
    if output.suffix not in (".csv", ".parquet"):
        raise ArgumentError(f"output: {output} must end in .csv or .parquet.")
    with locked(output, file=True, left=lambda: _what_is_kept(options)):
        _label_rows(options, output)


def _label_rows(options: argparse.Namespace, output: Path) -> None:
    rows = _rows(options, options.split)
    smooth = LLMLabelSmoothing(
        _backend(options),
        way=options.way,
        prompt=load_prompt(options.prompt or DEFAULT_PROMPTS[options.way, not options.hide_label]),
        parser=options.parser,
        sampling=replace(
            DEFAULT_SAMPLING, temperature=options.temperature, seed=options.seed, max_new_tokens=options.max_new_tokens
        ),
        retries=options.retries,
        calibrate=not options.no_calibration,
        gold_weight=options.gold_weight,
        store=_store(options),
    )
    start = time.perf_counter()
    labelled = smooth(rows[:])
    seconds = time.perf_counter() - start
    table = _table(rows, labelled)
    write_atomically(output, lambda temporary: write_label_table(table, temporary))
    failed = labelled["label_status"].count("failed")
    print(f"{len(rows) - failed} rows labelled, {failed} failed, {seconds:.1f} s with loading the model. {output}")
    print_failures(table["id"], labelled["label_status"], labelled["label_reason"])
    _check_some_succeeded(len(rows), failed, f"{output} holds the raw answers and the reasons.")
    if failed:
        print("Failed rows have no distribution; training uses their gold label and counts them.")


@writes(lambda options: options.output_dir, left=_what_is_kept)
def recognise_corpus(options: argparse.Namespace) -> None:
    """Classify a split without its labels and score it like any model."""
    rows = _rows(options, options.split)
    examples = _examples(options) if options.shots else ()
    recognise = LLMLabelSmoothing(
        _backend(options),
        way=options.way,
        prompt=load_prompt(options.prompt or DEFAULT_PROMPTS[options.way, False], examples),
        sampling=replace(DEFAULT_SAMPLING, seed=options.seed),
        calibrate=not options.no_calibration,
        store=_store(options),
    )
    if recognise.prompt.states_label:
        raise ArgumentError(
            f"prompt: {recognise.prompt.name} states the gold label; a recogniser must not see it. Take one without "
            f"{{label}}."
        )
    labelled = recognise(rows[:])
    uniform = [1 / len(EMOTIONS)] * len(EMOTIONS)
    failed = labelled["label_status"].count("failed")
    print_failures(rows["id"], labelled["label_status"], labelled["label_reason"])
    _check_some_succeeded(len(rows), failed, "No report was written.")
    predictions = Predictions(
        ids=list(rows["id"]),
        corpora=list(rows["corpus"]),
        languages=list(rows["language"]),
        labels=np.asarray(rows["label"]),
        probabilities=np.array([uniform if soft is None else soft for soft in labelled["soft_label"]]),
    )
    write_split_report(predictions, options.split, options.output_dir, recognise.backend.public_model)
    results = RecognitionResults(
        recognizer=recognise.provenance() | {"shots": options.shots}, failed=failed, **environment()
    )
    results.add_split(options.split, predictions)
    results.write(Path(options.output_dir) / f"recognition_{options.split}.json")
    print(f"{recognise.backend.public_model}, {options.shots} examples an emotion, {options.split}:\n")
    print(metrics_table(results.metrics[options.split]))
    print(f"\n{recall_table(results.metrics[options.split])}")
    print(
        f"\n{failed} of {len(rows)} rows failed (scored with equal probabilities). The report is in "
        f"{options.output_dir}."
    )


def report_labels(options: argparse.Namespace) -> None:
    """Print what a table of labels is like; write JSON and pictures where they are asked for."""
    table = read_label_table(options.table)
    numbers = describe_labels(table)
    print(report_text(numbers))
    if options.compare:
        numbers["comparison"] = compare_labels(table, read_label_table(options.compare))
        comparison = numbers["comparison"]
        divergence = comparison["jensen_shannon_bits"]["mean"]
        print(f"\nagainst {comparison['tables'][1]}: {comparison['rows']} rows in common")
        print(
            f"equal arg-max {100 * comparison['agreement']:.2f} %, mean Jensen-Shannon divergence {divergence:.4f} "
            "bits"
        )
    if options.json:
        write_json(options.json, numbers)
    if options.plots:
        for path in write_label_plots(table, options.plots):
            print(path)


def _rows(options: argparse.Namespace, split: str) -> Dataset:
    """The rows to ask about, without their audio; a row without text cannot be asked about and is left out with a
    word."""
    splits = load_corpus(options.corpus, options.data_dir, **_key_values(options.corpus_option))
    if split not in splits:
        raise ArgumentError(f"split: the corpus {options.corpus} has {', '.join(map(str, splits))}, not {split!r}.")
    rows = splits[split].remove_columns("audio")
    empty = sum(not text.strip() for text in rows["text"])
    if empty:
        print(f"{empty} of {len(rows)} rows have no text and are left out.")
        rows = rows.select([index for index, text in enumerate(rows["text"]) if text.strip()])
    return rows.select(range(min(len(rows), options.limit))) if options.limit else rows


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


def _examples(options: argparse.Namespace) -> tuple[tuple[str, str, str, str], ...]:
    """`--shots` training utterances an emotion, drawn by the seed, with their labels as answers."""
    limit, options.limit = options.limit, None
    train = _rows(options, "train")
    options.limit = limit
    generator = np.random.default_rng(options.seed)
    labels = np.asarray(train["label"])
    drawn = []
    for index, name in enumerate(EMOTIONS):
        rows = np.flatnonzero(labels == index)
        if len(rows) < options.shots:
            raise ArgumentError(f"shots: train has {len(rows)} utterances of {name}, fewer than {options.shots}.")
        drawn += [(int(row), name) for row in generator.choice(rows, options.shots, replace=False)]
    order = generator.permutation(len(drawn))
    return tuple(
        (train[row]["text"], name, train[row]["language"], name) for row, name in (drawn[place] for place in order)
    )


def _table(rows: Dataset, labelled: dict[str, list]) -> dict[str, list]:
    """Columns of the written table."""
    soft = labelled.pop("soft_label")
    return {
        "id": list(rows["id"]),
        "language": list(rows["language"]),
        "text": list(rows["text"]),
        "label": [EMOTIONS[label] for label in rows["label"]],
        "prediction": [None if row is None else EMOTIONS[int(np.argmax(row))] for row in soft],
        **{name: [None if row is None else row[index] for row in soft] for index, name in enumerate(EMOTIONS)},
        **{name.removeprefix("label_"): values for name, values in labelled.items()},
    }


def _backend(options: argparse.Namespace) -> LLMBackend:
    given = _key_values(options.backend_option)
    if options.revision:
        given["revision"] = options.revision
    if options.base_url:
        given["base_urls"] = options.base_url
    return get_backend(options.backend, options.model, **given)


def _key_values(pairs: Sequence[str]) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ArgumentError(f"{pair!r}: give KEY=VALUE.")
        values[key] = yaml.safe_load(text)
    return values


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recipes/label.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="label | recognise | report")

    def command(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=(run.__doc__ or "").splitlines()[0], description=run.__doc__, allow_abbrev=False
        )
        added.set_defaults(run=run)
        return added

    label = command("label", label_corpus)
    label.add_argument("--output", required=True, help="table to write, .csv or .parquet")
    label.add_argument("--hide_label", action="store_true", help="do not state the gold label in the prompt")
    label.add_argument(
        "--parser", choices=sorted(PARSERS), default="strict", help="strict, or as tolerant as the published code"
    )
    label.add_argument(
        "--gold_weight", type=float, help="share of the gold label mixed in, more where it would not be highest"
    )
    label.add_argument("--temperature", type=float, default=DEFAULT_SAMPLING.temperature, help="0: greedy")
    label.add_argument(
        "--max_new_tokens", type=int, default=DEFAULT_SAMPLING.max_new_tokens, help="where an answer is cut off"
    )
    label.add_argument("--retries", type=int, default=2, help="further tries for an answer that cannot be read")
    _add_model(label)
    _add_corpus(label, split="train", way="generate")

    recognise = command("recognise", recognise_corpus)
    recognise.add_argument("--output_dir", required=True, help="folder of the report")
    recognise.add_argument("--shots", type=int, default=0, help="training examples an emotion in the prompt")
    _add_model(recognise)
    _add_corpus(recognise, split="test", way="score")

    report = command("report", report_labels)
    report.add_argument("table", help="table of labels, written by label or published")
    report.add_argument("--compare", help="another table of labels for the same rows")
    report.add_argument("--json", help="file for the numbers")
    report.add_argument("--plots", help="folder for the pictures")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=list(BACKENDS), default="vllm", help="where the language model runs")
    parser.add_argument(
        "--model",
        default="Qwen/Qwen3-4B",
        help="Hub id or folder (microsoft/Phi-4-mini-instruct, ...), or the server's name for it",
    )
    parser.add_argument("--revision", help="its branch, tag or commit")
    parser.add_argument("--base_url", action="append", help="server of the back end openai; several times for several")
    parser.add_argument(
        "--backend_option", action="append", default=[], metavar="KEY=VALUE", help="any further option of the back end"
    )


def _add_corpus(parser: argparse.ArgumentParser, split: str, way: str) -> None:
    parser.add_argument("--corpus", required=True, help="corpus by its name; csv for any table")
    parser.add_argument("--data_dir", help="its folder, as it came or prepared")
    parser.add_argument(
        "--corpus_option", action="append", default=[], metavar="KEY=VALUE", help="option of its loader"
    )
    parser.add_argument("--split", default=split, help="rows to ask about")
    parser.add_argument("--limit", type=int, help="the first so many rows alone")
    parser.add_argument("--way", choices=WAYS, default=way, help="generate seven numbers, or score the seven words")
    parser.add_argument(
        "--prompt", help="template file, or one of the package's: " + ", ".join(sorted(DEFAULT_PROMPTS.values()))
    )
    parser.add_argument(
        "--no_calibration", action="store_true", help="score: leave out the correction by a prompt without content"
    )
    parser.add_argument("--seed", type=int, default=42, help="of sampling and of the drawn examples")
    parser.add_argument("--store", help="file of answers, by which a killed run goes on")
