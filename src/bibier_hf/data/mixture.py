"""The corpora of a run or a command: which ones, under which protocol, with which augmentation."""

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
    """Stacked data sampling of a corpus' train split ([`~bibier_hf.augmentation.sds.StackedDataSampling`])."""

    share: float = Field(0.0, ge=0, le=1, description="share of rows that are stacked; 0: none. Published: 0.7")
    share_of: Literal["all", "short"] = Field("all", description="of all rows, or of those below target_s")
    target_s: float = Field(4.0, gt=0, description="shorter clips are stacked until they are as long, in seconds")
    max_s: float | None = Field(None, gt=0, description="no stacked clip is longer; null: no limit of its own")
    gap_s: float = Field(0.0, ge=0, description="silence between two clips")
    same_speaker: bool = Field(False, description="stack clips of one speaker only")
    top_k: int = Field(10, ge=1, description="how many of the longest clips to choose among where none is long enough")
    text: Literal["concat", "asr"] = Field("concat", description="joined texts, or a transcript of the stacked audio")
    asr_model: str = Field(
        "openai/whisper-base", description="Hub id or folder of the speech recogniser, for text asr"
    )
    mode: Literal["replace", "append"] = Field(
        "replace", description="stacked rows in the place of their rows, or beside them"
    )
    draws: Annotated[int, Field(ge=1)] | Literal["every_epoch"] = Field(
        1,
        description="1: drawn once; more: so many draws, one an epoch in turn; every_epoch: anew (with feature_cache.enabled false)",
    )
    seed: int = Field(42, ge=0, description="of the draws")


class SyntheticArguments(Section):
    """Synthetic rows for a corpus' train split, such as `bibier augment tug` writes."""

    path: str | None = Field(None, description="prepared corpus with synthetic rows; null: none")
    ratio: Share | dict[Literal[EMOTIONS], Share] = Field(
        1.0, description="share of its rows to take: one number, or {label: number} with nothing of the others"
    )
    seed: int = Field(42, ge=0, description="of the choice")


class AugmentationArguments(Section):
    """What is done to a corpus' train split, after it was split off."""

    sds: StackingArguments = Field(default_factory=StackingArguments)
    synthetic: SyntheticArguments = Field(default_factory=SyntheticArguments)


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
