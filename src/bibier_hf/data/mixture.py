"""Which corpora a run or a command reads, and how: protocol, soft labels, augmentation, stored features."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from datasets import Dataset, DatasetDict, concatenate_datasets
from pydantic import Field, model_validator

from ..augmentation.sds import StackedDataSampling
from ..commandline import Section
from ..errors import ArgumentError
from ..model.labels_bibier import SINGLE_LABEL
from .context import Context
from .corpora import load_corpus
from .protocols import apply_protocol
from .schema import SPLITS
from .synthetic import SyntheticRows

LABELS_HELP = "label set, in the order of the model's outputs; null: the seven emotions, or what the corpus brings"
LABEL_MAP_HELP = (
    "labels of the corpus -> labels of the set, null to leave these rows out; or a JSON, YAML or CSV (from,to) file"
)
LABEL_COLUMN_HELP = (
    "column of the label, in a table or a corpus that has several (meld: Sentiment, ravdess: intensity)"
)
PROBLEM_TYPE_HELP = (
    "what the labels are: single_label_classification (one for each clip), multi_label_classification (several at "
    "once), or regression (values)"
)

CONTEXT_HELP = "earlier utterances to append to each text, such as {utterances: 3, speakers: true}; null: none"


class Stacking(StackedDataSampling):
    """Stacked data sampling of the train split of a corpus."""

    draws: Annotated[int, Field(ge=1)] | Literal["every_epoch"] = Field(
        1,
        description="1: draw once; more: as many draws, one per epoch in turn; every_epoch: draw in each epoch "
        "(with feature_cache.enabled false)",
    )


class AugmentationArguments(Section):
    """Augmentation of the train split of a corpus, after it was split off."""

    sds: Stacking | None = Field(None, description="stacked data sampling; null: nothing is stacked")
    synthetic: SyntheticRows | None = Field(None, description="synthetic rows to add; null: none")


class CorpusArguments(Section):
    """One corpus of a run."""

    name: str = Field(description="quickstart, meld, resd, ravdess, csv, or a Python file that defines a corpus")
    data_dir: str | None = Field(None, description="folder of the corpus, raw or prepared")
    protocol: str = Field("official", description="split: official, dialogue_grouped or speaker_independent")
    fold: int = Field(0, ge=0, description="test fold of grouped protocols")
    split_seed: int = Field(42, ge=0, description="seed of the dev split, if the corpus has none")
    dev_share: float = Field(0.12, gt=0, lt=1, description="share of train that becomes dev, if the corpus has none")
    label_map: dict[str, str | None] | str | None = Field(None, description=LABEL_MAP_HELP)
    label_column: str | None = Field(None, description=LABEL_COLUMN_HELP)
    label_table: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="table of soft labels for the training rows, joined by id, or a list of tables to average; see soft_labels",
    )
    context: Context | None = Field(None, description=CONTEXT_HELP)
    options: dict[str, Any] = Field(default_factory=dict, description="options of the loader of this corpus")
    augmentation: AugmentationArguments = Field(default_factory=AugmentationArguments)

    @model_validator(mode="after")
    def _check_context(self) -> Self:
        if self.context is not None and self.augmentation.sds is not None:
            raise ArgumentError("context: stacked texts have no context of their own. Leave augmentation.sds out.")
        return self

    def load(self, labels: Sequence[str] | None = None, problem_type: str = SINGLE_LABEL) -> DatasetDict:
        """Load the corpus with its own splits, in a label set; None: the one that it brings."""
        return load_corpus(self.name, self.data_dir, **self.reader_options(labels, problem_type))

    def reader_options(self, labels: Sequence[str] | None = None, problem_type: str = SINGLE_LABEL) -> dict[str, Any]:
        """Return the options of the loader, with those that every corpus has."""
        of_labels = {"labels": labels, "label_map": self.label_map, "label_column": self.label_column}
        context = {} if self.context is None else {"context": self.context}
        return {**of_labels, "problem_type": problem_type, **context, **self.options}

    def split(self, rows: DatasetDict, needed: Sequence[str] = SPLITS) -> DatasetDict:
        """Arrange the rows of the corpus into train, dev and test, of which those in `needed` are not empty."""
        return apply_protocol(rows, self.protocol, self.fold, self.split_seed, self.dev_share, needed)

    @property
    def label_tables(self) -> list[str]:
        """The tables of `label_table` as a list."""
        return [self.label_table] if isinstance(self.label_table, str) else self.label_table or []


class FeatureCacheArguments(Section):
    """Features that are computed once, before the first epoch."""

    enabled: bool = Field(True, description="false: decode and preprocess every clip in every epoch")
    directory: str | None = Field(
        None, description="folder of the stores; null: `features` in BIBIER_CACHE or the Hugging Face home"
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float32", description="type of stored features; 16 bits halve the files"
    )
    compute_dtype: Literal["bfloat16", "float32", "int8"] = Field(
        "float32",
        description="type that frozen backbones compute in; int8: dynamic quantization of their linear layers (x86 CPUs)",
    )
    batch_size: int = Field(16, ge=1, description="clips per batch")


def load_corpora(
    corpora: Sequence[CorpusArguments],
    labels: Sequence[str] | None = None,
    problem_type: str = SINGLE_LABEL,
    needed: Sequence[str] = SPLITS,
) -> dict[str, DatasetDict]:
    """Load corpora and split them; return train, dev and test by the name of the corpus, in the given order.

    Args:
        corpora: to load.
        labels: the label set of all of them; None: what they bring, which must be the same.
        problem_type: what the labels are; corpora for another one are an error.
        needed: splits that must not be empty in any of them.

    Raises:
        ArgumentError: two corpora have the same name, under which results are kept, or different label sets.
        CorpusError, LabelSetError: a corpus or a label set that cannot be used.
    """
    return by_name(corpus.split(corpus.load(labels, problem_type), needed) for corpus in corpora)


def by_name(corpora: Iterable[DatasetDict]) -> dict[str, DatasetDict]:
    """Return corpora by name, in the given order.

    Raises:
        ArgumentError: two corpora have the same name, under which results are kept, or different label sets.
    """
    named: dict[str, DatasetDict] = {}
    for splits in corpora:
        name = next(rows["corpus"][0] for rows in splits.values() if len(rows))
        if name in named:
            raise ArgumentError(
                f"corpora: '{name}' is given twice. Leave one out, or rename its file: results are kept by this name."
            )
        named[name] = splits

    sets = {name: label_names(splits) for name, splits in named.items()}
    if len(set(sets.values())) > 1:
        shown = "; ".join(f"{name}: {', '.join(found)}" for name, found in sets.items())
        raise ArgumentError(f"labels: the corpora have different label sets ({shown}). Give one set for all of them.")

    return named


def label_names(rows: Dataset | DatasetDict) -> tuple[str, ...]:
    """Return the label set of rows in the common schema."""
    split = next(iter(rows.values())) if isinstance(rows, DatasetDict) else rows
    return tuple(split.features["label"].names)


def protocol_facts(corpus: CorpusArguments, splits: DatasetDict) -> dict[str, Any]:
    """Return how a corpus was split, and the number of samples."""
    facts: dict[str, Any] = {"name": corpus.protocol}
    if corpus.protocol != "official":
        facts["fold"] = corpus.fold
    if corpus.context is not None:
        facts["context"] = corpus.context.model_dump()

    return facts | {"split_seed": corpus.split_seed, "samples": {split: len(rows) for split, rows in splits.items()}}


def data_facts(splits: DatasetDict) -> dict[str, Any]:
    """Return languages, sources, licenses and hours of a corpus."""
    rows = concatenate_datasets(list(splits.values()))
    facts: dict[str, Any] = {name: sorted(set(rows[name])) for name in ("language", "source", "license")}
    seconds = sum(duration or 0.0 for duration in rows["duration_s"])
    return facts | {"hours": round(seconds / 3600, 2)}
