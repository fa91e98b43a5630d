"""The parts of a run: model, inputs, collator, and the statistics of pooled features."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from datasets import DatasetDict
from transformers import set_seed

from ..data.collator import FeatureCollator, RawCollator
from ..data.features import InputDataset, InputExtractor, input_specs, raw_inputs
from ..data.mixture import FeatureCacheArguments
from ..errors import ArgumentError
from ..model.configuration_bibier import EMBEDDED, MODALITIES
from ..model.encoders_bibier import StatisticsPooling
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from .arguments import RunArguments
from .augmentation import AugmentedCorpus
from .rows import RowSource, TrainingRows


def build_model(run: RunArguments, seed: int) -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    """Build a new model and its processor, with the same weights in every process and after every resume.

    Args:
        run: with backbones and model options.
        seed: of the initial weights.

    Raises:
        ArgumentError: model options are unknown or contradict each other, or a backbone cannot be used.
    """
    set_seed(seed)
    read = run.model.get("modalities") or MODALITIES
    audio, text = (
        name if modality in read else None
        for modality, name in (("audio", run.audio_backbone), ("text", run.text_backbone))
    )
    revisions = {"audio_revision": run.audio_revision, "text_revision": run.text_revision}
    try:
        model = BiBiERForEmotionClassification.from_backbones(audio, text, **revisions, **run.model)
    except ValueError as error:
        raise ArgumentError(str(error)) from error
    except OSError as error:
        raise ArgumentError(
            f"audio_backbone {audio!r} or text_backbone {text!r} cannot be loaded; each is a Hub id, a folder with a "
            "config.json, "
            f"or {EMBEDDED!r}: {error}"
        ) from error
    _freeze(model, run.frozen)
    # The processor always handles both modalities; the unused one costs nothing.
    processor = BiBiERProcessor.from_backbones(
        audio or EMBEDDED,
        text or EMBEDDED,
        **revisions,
        max_text_tokens=model.config.modality_configs["text"].max_tokens,
        max_window_s=model.config.modality_configs["audio"].max_window_s,
        text_prefix=run.text_prefix,
    )
    return model, processor


def _freeze(model: BiBiERForEmotionClassification, prefixes: Sequence[str]) -> None:
    for prefix in prefixes:
        parameters = [parameter for name, parameter in model.named_parameters() if name.startswith(prefix)]
        if not parameters:
            parts = sorted({".".join(name.split(".")[:4]) for name, _ in model.named_parameters()})
            raise ArgumentError(
                f"frozen: no parameter's name begins with '{prefix}'. They begin with {', '.join(parts)}."
            )
        for parameter in parameters:
            parameter.requires_grad_(False)


class RunInputs(NamedTuple):
    """What the model reads in a run, over all corpora. The training rows stay apart by corpus ([`TrainingRows`] joins
    them)."""

    train: list[RowSource]
    dev: InputDataset
    test: InputDataset


def make_inputs(
    corpora: Iterable[AugmentedCorpus],
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    cache: FeatureCacheArguments,
) -> RunInputs:
    """Return what the model reads: computed once, by all processes, or batch by batch in training."""
    compute = make_extractor(model, processor, cache).inputs if cache.enabled else raw_inputs
    train, dev, test = zip(*(corpus.inputs(compute) for corpus in corpora), strict=True)
    return RunInputs(list(train), InputDataset.concatenate(dev), InputDataset.concatenate(test))


def inputs_of_split(
    corpora: Mapping[str, DatasetDict],
    split: str,
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    cache: FeatureCacheArguments,
) -> InputDataset:
    """Return what the model reads of one split, over all corpora; nothing is computed for the other splits."""
    compute = make_extractor(model, processor, cache).inputs if cache.enabled else raw_inputs
    return InputDataset.concatenate([compute({split: rows[split]})[split] for rows in corpora.values()])


def make_extractor(
    model: BiBiERForEmotionClassification, processor: BiBiERProcessor, cache: FeatureCacheArguments
) -> InputExtractor:
    """Return what fills the feature stores of a run."""
    return InputExtractor(model, processor, cache.dtype, cache.compute_dtype, cache.batch_size, cache.directory)


def make_collator(
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    cache: FeatureCacheArguments,
) -> FeatureCollator | RawCollator:
    """Return the collator for the rows of [`make_inputs`]."""
    if not cache.enabled:
        return RawCollator(processor)
    return FeatureCollator(input_specs(model, processor, cache.dtype))


def fit_statistics(model: BiBiERForEmotionClassification, train: TrainingRows) -> None:
    """Standardize the statistics of encoders that pool them ([`~bibier_hf.model.encoders_bibier.StatisticsPooling`])
    over the training set.

    Raises:
        ArgumentError: no features are stored, because the backbone is trained or the feature cache is off.
    """
    for modality, stream in model.streams.items():
        encoder, name = stream.encoder, f"{modality}_features"
        pools = encoder is not None and any(isinstance(module, StatisticsPooling) for module in encoder.modules())
        if not pools or stream.config.freeze_encoder:
            continue
        found: dict[StatisticsPooling, list[torch.Tensor]] = defaultdict(list)
        for index in range(len(train)):
            row = train[index]
            if name not in row:
                option = "statistics" if encoder.statistics is not None else "cepstrum"
                raise ArgumentError(
                    f"model.{modality}_config.{option} needs stored features of a frozen backbone. Leave feature_cache enabled and "
                    f"model.{modality}_config.freeze_backbone true, or leave it out."
                )
            if len(row[name]):
                features = row[name].unsqueeze(0)
                mask = torch.ones(features.shape[:2], dtype=torch.bool)
                for pooling, part in encoder.pooled_parts(features):
                    found[pooling].append(pooling.statistics(part, mask))
        for pooling, rows in found.items():
            statistics = torch.cat(rows)
            pooling.fit(statistics.mean(0), statistics.std(0, correction=0))
