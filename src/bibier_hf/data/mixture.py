"""Which corpora a run or a command reads, and how: protocol, soft labels, augmentation, stored features."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from datasets import DatasetDict
from pydantic import Field

from ..commandline import Section
from ..errors import ArgumentError
from ..model.labels_bibier import EMOTIONS
from .corpora import load_corpus
from .protocols import apply_protocol

Share = Annotated[float, Field(ge=0, le=1)]


class StackingArguments(Section):
    """Stacked data sampling of a train split ([`~bibier_hf.augmentation.sds.StackedDataSampling`])."""

    share: float = Field(0.0, ge=0, le=1, description="share of rows to stack; 0: none. Published: 0.7")
    share_of: Literal["all", "short"] = Field(
        "all", description="share of all rows, or of those shorter than target_s"
    )
    target_s: float = Field(4.0, gt=0, description="stack shorter clips up to this length, in seconds")
    max_s: float | None = Field(None, gt=0, description="maximum length of a stacked clip in seconds; null: no limit")
    gap_s: float = Field(0.0, ge=0, description="silence between two clips, in seconds")
    same_speaker: bool = Field(False, description="stack only clips of the same speaker")
    top_k: int = Field(10, ge=1, description="choose among this many of the longest clips if none is long enough")
    text: Literal["concat", "asr"] = Field(
        "concat", description="concatenate the texts, or transcribe the stacked audio"
    )
    asr_model: str = Field(
        "openai/whisper-base", description="Hub id or folder of the speech recognizer for text: asr"
    )
    mode: Literal["replace", "append"] = Field(
        "replace", description="stacked rows replace the originals, or are added to them"
    )
    draws: Annotated[int, Field(ge=1)] | Literal["every_epoch"] = Field(
        1,
        description="1: one draw; K: K draws, one per epoch in turn; every_epoch: a new one (needs feature_cache.enabled false)",
    )
    seed: int = Field(42, ge=0, description="seed of the draws")


class SyntheticArguments(Section):
    """Synthetic rows for a corpus' train split, such as `bibier augment tug` writes."""

    path: str | None = Field(None, description="prepared corpus with synthetic rows; null: none")
    ratio: Share | dict[Literal[EMOTIONS], Share] = Field(
        1.0, description="share of its rows to use: a number, or {label: number}, where other labels get none"
    )
    seed: int = Field(42, ge=0, description="seed of the choice")


class AugmentationArguments(Section):
    """Augmentation of a train split."""

    sds: StackingArguments = Field(default_factory=StackingArguments)
    synthetic: SyntheticArguments = Field(default_factory=SyntheticArguments)


class CorpusArguments(Section):
    """One corpus of a run."""

    name: str = Field(description="quickstart, meld, resd, ravdess, csv, or a Python file that defines a corpus")
    data_dir: str | None = Field(None, description="folder of the corpus, raw or prepared")
    protocol: str = Field("official", description="split: official, dialogue_grouped or speaker_independent")
    fold: int = Field(0, ge=0, description="test fold of grouped protocols")
    split_seed: int = Field(42, ge=0, description="seed of the dev split, if the corpus has none")
    dev_share: float = Field(0.12, gt=0, lt=1, description="share of train that becomes dev, if the corpus has none")
    labels: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="table of soft labels for the training rows, joined by id, or a list of tables to average; see soft_labels",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="options of the loader of this corpus")
    augmentation: AugmentationArguments = Field(default_factory=AugmentationArguments)

    @property
    def label_tables(self) -> list[str]:
        """The tables of `labels` as a list."""
        return [self.labels] if isinstance(self.labels, str) else self.labels or []


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


def load_corpora(corpora: Sequence[CorpusArguments]) -> dict[str, DatasetDict]:
    """Load corpora and split them; return train, dev and test by the name of the corpus, in the given order.

    Raises:
        ArgumentError: two corpora have the same name, under which results are kept.
    """
    splits = {}
    for corpus in corpora:
        rows = load_corpus(corpus.name, corpus.data_dir, **corpus.options)
        rows = apply_protocol(
            rows, corpus.protocol, fold=corpus.fold, seed=corpus.split_seed, dev_share=corpus.dev_share
        )
        name = rows["train"]["corpus"][0]
        if name in splits:
            raise ArgumentError(
                f"corpora: '{name}' is given twice, but results are kept by the name of the corpus. Leave one out."
            )
        splits[name] = rows
    return splits


def protocol_facts(corpus: CorpusArguments, splits: DatasetDict) -> dict[str, Any]:
    """Return how a corpus was split, and the number of samples."""
    facts: dict[str, Any] = {"name": corpus.protocol}
    if corpus.protocol != "official":
        facts["fold"] = corpus.fold

    return facts | {"split_seed": corpus.split_seed, "samples": {split: len(rows) for split, rows in splits.items()}}
