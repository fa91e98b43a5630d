"""`bibier transfer`."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from datasets import DatasetDict, concatenate_datasets
from pydantic import Field, model_validator

from ..commandline import Section
from ..data.context import Context
from ..data.corpora import get_corpus, load_corpus
from ..data.mixture import CONTEXT_HELP, LABELS_HELP, FeatureCacheArguments, by_name, label_names
from ..errors import ArgumentError
from ..evaluation.baselines import pooled_features
from ..evaluation.bootstrap import bootstrap_column
from ..evaluation.plots import TransferPoint, plot_transfer
from ..evaluation.report import environment
from ..evaluation.transfer import (
    FAIR,
    LEAKY,
    ROLE,
    STRENGTHS,
    Cell,
    CorpusRows,
    Sheet,
    Test,
    answer_tests,
    cells_csv,
    matrix_table,
    neighbors_table,
    read_sheets,
    score_sheet,
    systems_of,
    write_sheets,
)
from ..files import write_json, write_text, writes
from ..hub.facts import facts as package_facts

PREDICTIONS_FILE = "predictions.csv.gz"
FACTS_FILE = "transfer.json"

HoldOut = Literal["dev", "test"] | Annotated[list[Literal["dialogue", "speaker", "text"]], Field(min_length=1)]


class TransferCorpus(Section):
    """One corpus of the matrix."""

    name: str = Field(description="name of the corpus, or a Python file that defines one")
    data_dir: str | None = Field(None, description="folder of the corpus, raw or prepared")
    context: Context | None = Field(None, description=CONTEXT_HELP)
    options: dict[str, Any] = Field(default_factory=dict, description="options of its loader")
    splits: list[str] | None = Field(None, description="splits to use; null: all of them")
    modalities: list[Literal["audio", "text"]] = Field(
        ["audio", "text"], min_length=1, description="modalities to use; leave text out if the sentences are fixed"
    )
    test: HoldOut = Field(
        description="dev or test: a split of the corpus. Or columns that share no value between train and test: one or "
        "two of dialogue, speaker, text"
    )
    leaky: HoldOut | None = Field(
        None, description="another test that shares more with train, for comparison; null: none"
    )
    group: Literal["dialogue", "speaker"] | None = Field(
        None,
        description="column whose values the bootstrap draws whole; null: dialogue, or else speaker, or else each clip",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.context is not None and isinstance(self.test, list) and "dialogue" not in self.test:
            raise ArgumentError(
                "test: texts contain others of their dialogue. Hold out dialogue, or leave context out."
            )
        return self


CORPORA: list[dict[str, Any]] = [
    {"name": "resd", "test": ["dialogue"], "leaky": "test"},
    {
        "name": "ravdess",
        "splits": ["train", "dev"],
        "modalities": ["audio"],
        "test": ["speaker", "text"],
        "leaky": ["speaker"],
    },
    {
        "name": "meld",
        "options": {"text_only": True},
        "splits": ["train", "dev"],
        "modalities": ["text"],
        "test": "dev",
    },
]
"""The default matrix: RESD, RAVDESS, and the text of MELD."""


class TransferArguments(Section):
    """Train on each corpus, each pair, and all of them, and test on every corpus, with speech, text, and both.

    Examples:
      bibier transfer --corpora.0.data_dir PATH/TO/resd --corpora.1.data_dir PATH/TO/ravdess
          --corpora.2.data_dir PATH/TO/meld
      bibier transfer --report --output_dir outputs/transfer

    The classifier is a logistic regression on the mean and standard deviation of frozen features, with fixed
    regularization. By default, RESD is tested on new dialogues, RAVDESS (actors 1 to 20) on new speakers and sentences,
    and MELD on its dev split. Writes predictions.csv.gz, transfer.json, transfer.md, transfer.csv, and transfer.png.
    """

    corpora: list[TransferCorpus] = Field(min_length=1, description="corpora; by default RESD, RAVDESS, and MELD")
    labels: list[str] | None = Field(None, description=LABELS_HELP)
    output_dir: str = Field("outputs/transfer", description="folder of the predictions, tables, and picture")
    report: bool = Field(
        False, description="train nothing; rebuild tables and picture from the predictions in output_dir"
    )
    standardize: Literal["corpus", "pooled"] = Field(
        "corpus",
        description="corpus: by the mean and standard deviation of each corpus, even of one that was not trained on, without "
        "its labels; pooled: by those of all training rows",
    )
    audio_backbone: str = Field("openai/whisper-base", description="speech model: Hub id or folder")
    audio_revision: str | None = Field(None, description="its branch, tag or commit on the Hub")
    audio_layer: int | list[int] = Field([2, 3, 4, 5], description="hidden states to pool; -1: the output")
    text_backbone: str = Field("intfloat/multilingual-e5-small", description="text model: Hub id or folder")
    text_revision: str | None = Field(None, description="its branch, tag or commit on the Hub")
    text_layer: int | list[int] = Field(-1, description="hidden states to pool; -1: the output")
    strengths: dict[str, Annotated[float, Field(gt=0)]] = Field(
        dict(STRENGTHS), description="C (inverse regularization) of audio and text; never chosen on a test"
    )
    seen: dict[str, str] = Field(
        default_factory=dict, description="corpus that a backbone was trained on -> the source of that information"
    )
    feature_cache: FeatureCacheArguments = Field(default_factory=FeatureCacheArguments)
    seed: int = Field(42, ge=0, description="seed of the folds and the solver")

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"corpora": json.loads(json.dumps(CORPORA))}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.report and not any(corpus.data_dir for corpus in self.corpora):
            raise ArgumentError("corpora: give the folder of each corpus, as in --corpora.0.data_dir PATH/TO/resd.")
        if set(self.strengths) != {"audio", "text"}:
            raise ArgumentError(f"strengths: needs a value for audio and for text, got {', '.join(self.strengths)}.")
        return self


@writes(lambda arguments: arguments.output_dir, left="What was there before is whole.")
def run_transfer(arguments: TransferArguments) -> tuple[list[Sheet], dict[str, Any]]:
    """Run all tests, and write `predictions.csv.gz` and `transfer.json`.

    Returns:
        the sheets, and the facts that tables need.

    Raises:
        FileNotFoundError, CorpusError, ProtocolError, AudioError: data is missing or invalid.
    """
    loaded = by_name(_load(corpus, arguments.labels) for corpus in arguments.corpora)
    labels = label_names(next(iter(loaded.values())))
    corpora = {}
    facts: dict[str, Any] = {"corpora": {}}
    for corpus, (name, rows) in zip(arguments.corpora, loaded.items(), strict=True):
        pooled = concatenate_datasets(list(rows.values()))
        features = {str(kind): _features(arguments, rows, kind, pooled["id"]) for kind in corpus.modalities}
        names = [name for name in ("id", "speaker", "dialogue", "text", "fold") if name in pooled.column_names]
        columns = {column: list(pooled[column]) for column in names}
        columns["split"] = [split for split, part in rows.items() for _ in range(len(part))]
        languages = "+".join(sorted(set(pooled["language"])))
        corpora[name] = CorpusRows(name, languages, columns, np.array(pooled["label"]), features)
        group = _group(corpus, name, columns)
        facts["corpora"][name] = _facts(corpus, languages, name, arguments) | {"group": group}

    if unknown := sorted(set(arguments.seen) - set(corpora)):
        raise ArgumentError(f"seen: there is no corpus {unknown[0]!r}. Allowed: {', '.join(corpora)}.")

    tests = [
        Test(name, kind, hold_out, facts["corpora"][name]["group"])
        for name, corpus in zip(corpora, arguments.corpora, strict=True)
        for kind, hold_out in ((FAIR, corpus.test), (LEAKY, corpus.leaky))
        if hold_out is not None
    ]

    start = time.perf_counter()
    sheets = answer_tests(corpora, tests, len(labels), arguments.standardize, arguments.strengths, arguments.seed)
    names = ("standardize", "strengths", "audio_layer", "text_layer", "seed")
    facts |= {"labels": list(labels)} | {name: getattr(arguments, name) for name in names}
    facts["backbones"] = {modality: _backbone(arguments, modality) for modality in ("audio", "text")}
    facts |= {"seconds": round(time.perf_counter() - start, 1)} | environment()

    folder = Path(arguments.output_dir)
    write_sheets(sheets, labels, folder / PREDICTIONS_FILE)
    write_json(folder / FACTS_FILE, facts)
    return sheets, facts


def _load(corpus: TransferCorpus, labels: Sequence[str] | None) -> DatasetDict:
    """Load the splits of a corpus that are used."""
    options: dict[str, Any] = {"labels": labels, "context": corpus.context, **corpus.options}
    rows = load_corpus(corpus.name, corpus.data_dir, **options)
    if unknown := sorted(set(corpus.splits or ()) - set(rows)):
        raise ArgumentError(
            f"splits: {corpus.name} has no split {unknown[0]!r}. Allowed: {', '.join(map(str, rows))}."
        )

    return DatasetDict({split: part for split, part in rows.items() if split in (corpus.splits or rows)})


def _features(arguments: TransferArguments, rows: Any, modality: str, ids: Sequence[str]) -> np.ndarray:
    """Pooled features of all rows, in the order of `ids`."""
    values = rows.values()
    present = [
        value is not None if modality == "audio" else bool(value)
        for part in values
        for value in _column(part, modality)
    ]
    if not all(present):
        raise ArgumentError(
            f"corpora: {present.count(False)} of {len(present)} rows have no {modality}. Leave {modality} out of its "
            "modalities."
        )

    cache = arguments.feature_cache.model_dump(include={"dtype", "compute_dtype", "batch_size"})
    source = {name: getattr(arguments, f"{modality}_{name}") for name in ("backbone", "revision", "layer")}
    found = pooled_features(rows, modality, **source, **cache, cache_dir=arguments.feature_cache.directory)
    return np.stack([found[identity] for identity in ids])


def _column(rows: Any, modality: str) -> Sequence[Any]:
    return rows["duration_s"] if modality == "audio" else rows["text"]


def _group(corpus: TransferCorpus, name: str, columns: Mapping[str, Sequence[Any]]) -> str:
    """Return the column whose values the bootstrap draws whole."""
    if corpus.group is not None and (missing := sum(value is None for value in columns[corpus.group])):
        raise ArgumentError(
            f"group: {missing} of {len(columns['id'])} rows of {name} have no {corpus.group}. Leave group out."
        )
    return corpus.group or bootstrap_column(columns)


def _facts(corpus: TransferCorpus, language: str, name: str, arguments: TransferArguments) -> dict[str, Any]:
    """Return what the tables say about a corpus."""
    seen = {}
    for modality in corpus.modalities:
        known = _seen_by(_backbone(arguments, modality))
        seen[modality] = "yes" if name in arguments.seen else known.get(name, known.get("others", "unknown"))
    described = get_corpus(corpus.name)
    title = described.title.partition(":")[0].partition(",")[0] if described.name == name else name  # a table's file
    if corpus.context is not None:
        title += f" with {corpus.context.utterances} earlier utterances"
    tests = {key: _described(getattr(corpus, key)) for key in ("test", "leaky")}
    return {"title": title, "language": language, **tests, "seen": seen}


def _described(hold_out: str | Sequence[str] | None) -> str | None:
    if hold_out is None or isinstance(hold_out, str):
        return hold_out and f"{hold_out} split"
    return "new " + " and ".join({"text": "sentences"}.get(column, f"{column}s") for column in hold_out)


def _backbone(arguments: TransferArguments, modality: str) -> str:
    """The Hub id of a backbone; a folder counts as the published one of its name."""
    given = getattr(arguments, f"{modality}_backbone")
    if not Path(given).is_dir():
        return given
    name = Path(given).resolve().name
    return next((known for known in package_facts()["seen"] if known.endswith(name)), name)


def _seen_by(backbone: str) -> Mapping[str, str]:
    return package_facts()["seen"].get(backbone, {})


def write_report(folder: Path, sheets: Sequence[Sheet], facts: Mapping[str, Any]) -> str:
    """Write `transfer.md`, `transfer.csv`, and `transfer.png`, and return the page."""
    scored = [score_sheet(sheet) for sheet in sheets]
    cells = [cell for found, _ in scored for cell in found]
    neighbors = [pair for _, pairs in scored for pair in pairs]

    explanation = (
        "Each cell is UAR with its 95 % interval, and WF1. →: the corpus of the column was not trained on. Bold: the paired "
        "difference from the best of the column may be 0. Detectable: the smallest difference in UAR that this comparison "
        "finds with a power of 80 %. Nothing is corrected for the number of comparisons."
    )
    known = [
        f"* {facts['backbones'][modality]} was trained on {_seen_by(facts['backbones'][modality]).get('source', 'unknown data')}."
        for modality in ("audio", "text")
    ]
    page = "\n\n".join(
        [
            "# Transfer",
            explanation,
            "\n".join(known),
            matrix_table(cells, facts),
            "## Neighbors",
            neighbors_table(neighbors, facts),
        ]
    )
    write_text(folder / "transfer.md", page + "\n")
    write_text(folder / "transfer.csv", cells_csv(cells, facts))
    _draw(cells, facts, folder / "transfer.png")
    return page


def _draw(cells: Sequence[Cell], facts: Mapping[str, Any], path: Path) -> None:
    order = systems_of(cells, list(facts["corpora"]))
    panels: dict[str, list[TransferPoint]] = {}
    for cell in cells:
        corpus = facts["corpora"][cell.corpus]
        title = f"{corpus['title']} ({corpus['language']})\n{corpus['test']}"
        look = "roles" if cell.unit == ROLE else cell.kind if cell.kind == LEAKY else "new"
        if look == "new" and cell.in_corpus:
            look = "trained on other rows of the corpus"
        point = TransferPoint(order.index((cell.modality, cell.trained)), *cell.uar, look)
        panels.setdefault(title, []).append(point)
    systems = [
        (modality, " + ".join(facts["corpora"][name]["title"] for name in trained)) for modality, trained in order
    ]
    plot_transfer(panels, systems, 1 / len(facts["labels"]), path)


def transfer(arguments: TransferArguments) -> None:
    """Compute the matrix and print it."""
    folder = Path(arguments.output_dir)
    if arguments.report:
        facts_file = folder / FACTS_FILE
        if not facts_file.is_file():
            raise FileNotFoundError(f"No file '{facts_file}'. Run the same command without --report first.")
        facts = json.loads(facts_file.read_text(encoding="utf-8"))
        sheets = read_sheets(folder / PREDICTIONS_FILE, facts["labels"])
    else:
        sheets, facts = run_transfer(arguments)

    print(write_report(folder, sheets, facts))
    print(f"\nPredictions, tables, and the picture are in {folder} ({facts['seconds']:.0f} s for the classifiers).")
