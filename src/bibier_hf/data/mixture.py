"""The corpora of a run or a command: which ones, under which protocol, with which augmentation."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from datasets import DatasetDict
from pydantic import Field

from ..augmentation.sds import StackedDataSampling
from ..commandline import Section
from ..errors import ArgumentError
from .corpora import load_corpus
from .protocols import apply_protocol
from .synthetic import SyntheticRows


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

    name: str = Field(description="corpus: quickstart, meld, resd, ravdess, csv, or a Python file that defines one")
    data_dir: str | None = Field(None, description="folder of the corpus, as it came or prepared")
    protocol: str = Field("official", description="how it is split: official, dialogue_grouped, speaker_independent")
    fold: int = Field(0, ge=0, description="which fold is the test set, for grouped protocols")
    split_seed: int = Field(42, ge=0, description="seed of the dev split where the corpus has none")
    dev_share: float = Field(0.12, gt=0, lt=1, description="share of train that becomes dev where the corpus has none")
    labels: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="table of soft labels for the training rows, joined by id, or a list of them, for their mean; see soft_labels",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="options of this corpus' loader")
    augmentation: AugmentationArguments = Field(default_factory=AugmentationArguments)

    @property
    def label_tables(self) -> list[str]:
        """The tables of `labels`; none, one or several."""
        return [self.labels] if isinstance(self.labels, str) else self.labels or []


class FeatureCacheArguments(Section):
    """What is computed from audio and text once, before the first epoch, instead of in each."""

    enabled: bool = Field(True, description="false: decode and preprocess each clip anew in every epoch")
    directory: str | None = Field(
        None, description="where the stores are; null: features in BIBIER_CACHE or in the Hugging Face home"
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float32", description="type of stored features; 16 bits halve the files"
    )
    compute_dtype: Literal["bfloat16", "float32", "int8"] = Field(
        "float32",
        description="type that frozen backbones work in; int8: their linear layers, with scales found as they run (x86 CPUs)",
    )
    batch_size: int = Field(16, ge=1, description="clips that go through a backbone together")


def load_corpora(corpora: Sequence[CorpusArguments]) -> dict[str, DatasetDict]:
    """train, dev and test of each corpus under its protocol, by the name that its rows carry, in the given order.

    Raises:
        ArgumentError: two corpora whose rows carry the same name, by which results are kept.
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
                f"corpora: '{name}' stands twice, and results are kept by the name of the corpus. Leave one out."
            )
        splits[name] = rows
    return splits


def protocol_facts(corpus: CorpusArguments, splits: DatasetDict) -> dict[str, Any]:
    """How a corpus was split, and into how many samples."""
    facts = (
        {"name": corpus.protocol, "fold": corpus.fold} if corpus.protocol != "official" else {"name": corpus.protocol}
    )
    return facts | {"split_seed": corpus.split_seed, "samples": {split: len(rows) for split, rows in splits.items()}}
