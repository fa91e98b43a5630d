"""[`InputReader`]: how a model reads corpora, from stored features or batch by batch."""

from collections.abc import Mapping

from datasets import Dataset, DatasetDict

from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from .collator import FeatureCollator, RawCollator
from .disturbances import Voices
from .features import InputDataset, InputExtractor, raw_inputs
from .mixture import FeatureCacheArguments


class InputReader:
    """What a model reads of corpora, and how its rows become batches.

    With a feature cache, everything is computed once, by all processes; without one, clips are processed batch by
    batch.

    Args:
        model: the model.
        processor: its processor.
        cache: whether and how features are stored.

    Attributes:
        extractor: fills the feature stores; None without a cache.
        collator: turns the rows of [`inputs`][InputReader.inputs] into a batch.
    """

    extractor: InputExtractor | None = None
    collator: FeatureCollator | RawCollator

    def __init__(
        self, model: BiBiERForEmotionClassification, processor: BiBiERProcessor, cache: FeatureCacheArguments
    ):
        if cache.enabled:
            self.extractor = InputExtractor(
                model, processor, cache.dtype, cache.compute_dtype, cache.batch_size, cache.directory
            )
            self.collator = FeatureCollator(self.extractor.specs)
        else:
            self.collator = RawCollator(processor)

    def inputs(
        self, splits: DatasetDict | Mapping[str, Dataset], voices: Voices | None = None
    ) -> dict[str, InputDataset]:
        """Return what the model reads of each split; `voices` are for disturbed rows."""
        return raw_inputs(splits, voices) if self.extractor is None else self.extractor.inputs(splits, voices)

    def split(self, corpora: Mapping[str, DatasetDict], name: str) -> InputDataset:
        """Return what the model reads of one split, over all corpora; nothing is computed for the other splits."""
        return InputDataset.concatenate([self.inputs({name: rows[name]})[name] for rows in corpora.values()])
