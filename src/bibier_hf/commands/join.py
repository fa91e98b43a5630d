"""`bibier join`."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.special import softmax
from transformers.utils import CONFIG_NAME

from ..commandline import Positional
from ..data.mixture import FeatureCacheArguments, load_corpora
from ..data.reader import InputReader
from ..errors import ArgumentError
from ..evaluation.calibration import fit_temperature
from ..evaluation.metrics import classification_metrics
from ..evaluation.prediction import CONDITIONS, predict_conditions
from ..evaluation.unsure import Coverage, least_confidence
from ..files import filled_folder, writes
from ..model.backbones_bibier import find_backbone_folder, load_backbone
from ..model.configuration_bibier import MODALITIES
from ..model.encoders_bibier import StatisticsPooling
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from ..model.validation_bibier import one_line
from ..tables import markdown_table, percent
from ..training.join import fit_weights, join_models, join_processors, mixed, sharpen
from ..training.lora import as_adapter
from .checkpoint import load_checkpoint
from .corpora import CorpusOptions, given_labels, warn_of_context

logger = logging.getLogger(__name__)

_EXACT = 4096
"""Matrices with fewer values than this are stored in 32 bits."""

_SPREAD = 0.125
"""Standard deviation at which few values of a matrix underflow in `float8_e4m3fn`. A power of two."""


class JoinArguments(CorpusOptions):
    """Join a speech checkpoint and a text checkpoint into one bimodal checkpoint.

    Examples:
      bibier join outputs/speech outputs/text --corpus resd --data_dir PATH/TO/resd --output_dir outputs/both

    Calibrates both checkpoints and fits the weights of the late fusion on the dev splits of the corpora, all with equal
    weight. If a checkpoint was trained on these rows (refit_on_dev), pass a twin that was not: --fit_with. Answers to
    speech with text become unsure if their confidence is in the lowest tenth of those on dev (--coverage). The speech
    check comes from the speech checkpoint.
    """

    speech: Annotated[str, Positional("SPEECH")] = Field(description="checkpoint that takes only audio")
    text: Annotated[str, Positional("TEXT")] = Field(description="checkpoint that takes only text")
    output_dir: str = Field(description="folder of the joined checkpoint")
    backbone_dir: str | None = Field(None, description="folder with copies of backbones that a checkpoint only names")
    backbone_ids: dict[str, str] = Field(
        default_factory=dict,
        description="{audio: id, text: id}: Hub ids to store in place of frozen backbones that are local copies",
    )
    adapter_rank: dict[Literal["audio", "text"], Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="{text: 32}: store what training changed in this backbone as a LoRA adapter of this rank on the "
        "backbone of backbone_ids",
    )
    fit_with: dict[Literal["audio", "text"], str] = Field(
        default_factory=dict,
        description="{audio: checkpoint, text: checkpoint}: twins trained without dev, to fit on their predictions, "
        "if SPEECH or TEXT was trained on dev",
    )
    dtype: Literal["float32", "float16", "float8_e4m3fn"] = Field(
        "float32",
        description="type of the stored weights, which are loaded in float32; with float8_e4m3fn, the first convolution keeps 16 bits",
    )
    coverage: Coverage = 0.9
    batch_size: int = Field(32, ge=1, description="utterances per step")
    feature_cache: FeatureCacheArguments = Field(default_factory=FeatureCacheArguments)


@writes(lambda arguments: arguments.output_dir, left="What was there before is whole.")
def join_checkpoints(arguments: JoinArguments) -> str:
    """Join, fit, and save; return a table of dev scores.

    Raises:
        ArgumentError: the checkpoints do not fit together, or the folder already holds one.
        FileNotFoundError, CorpusError, ProtocolError: data is missing or invalid.
    """
    folder = Path(arguments.output_dir)
    if (folder / CONFIG_NAME).is_file():
        raise ArgumentError(f"output_dir: {folder} holds a model already ({CONFIG_NAME}). Give another output_dir.")

    sources = {"audio": arguments.speech, "text": arguments.text}
    joined, processor = _joined(sources, arguments)
    fitted = joined if not arguments.fit_with else _joined(sources | arguments.fit_with, arguments)[0]
    corpora = load_corpora(arguments.corpora, given_labels(arguments, joined.config), needed=["dev"])
    warn_of_context(arguments.corpora, corpora, joined.config)

    # Each temperature is fitted on the rows that have the modality, the weights on those that have both.
    reader = InputReader(fitted, processor, arguments.feature_cache)
    rows = reader.split(corpora, "dev")
    logits = predict_conditions(fitted, rows, reader.collator, arguments.batch_size, list(MODALITIES), "Dev")
    corpus = np.array(rows.metadata["corpus"])
    present = {
        "audio": np.array([duration is not None for duration in rows.metadata["duration_s"]]),
        "text": np.array([bool(text and text.strip()) for text in rows.rows["text"]]),
    }
    for modality in MODALITIES:
        keep = present[modality]
        if not keep.any():
            raise ArgumentError(f"corpora: no row of dev has {modality}. Add a corpus that has.")
        temperature = fit_temperature(logits[modality][keep], rows.labels[keep], corpus[keep]).temperature
        logits[modality] /= temperature
        sharpen(joined, modality, temperature)

    keep = present["audio"] & present["text"]
    if not keep.any():
        raise ArgumentError("corpora: no row of dev has audio and text. Add a corpus that has.")
    fit_weights(joined, {name: values[keep] for name, values in logits.items()}, rows.labels[keep], corpus[keep])

    logits["both"] = mixed(joined, logits)
    probabilities = softmax(logits["both"][keep] / joined.config.temperature, axis=-1)
    joined.config.least_confidence = least_confidence(probabilities, arguments.coverage)

    _name_backbones(joined, arguments.backbone_ids)
    processor.text_backbone_id = arguments.backbone_ids.get("text")
    with filled_folder(folder, last=CONFIG_NAME) as scratch:
        save(joined, scratch, arguments.dtype)
        processor.save_pretrained(scratch)

    table = []
    for name in dict.fromkeys(corpus):
        for condition, values in logits.items():
            chosen = (corpus == name) & np.all([present[modality] for modality in CONDITIONS[condition]], axis=0)
            if chosen.any():
                scores = classification_metrics(rows.labels[chosen], values[chosen].argmax(1))
                table.append(
                    [name, condition, int(chosen.sum()), percent(scores["uar"], 1), percent(scores["wf1"], 1)]
                )
    return markdown_table(["dev of", "reads", "rows", "UAR, %", "WF1, %"], table)


def _joined(
    sources: Mapping[str, str], arguments: JoinArguments
) -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    folder = arguments.backbone_dir
    models, processors = zip(*(load_checkpoint(sources[name], folder) for name in MODALITIES), strict=True)
    joined = join_models(*models)

    for modality, rank in arguments.adapter_rank.items():
        stream = joined.streams[modality]
        name = arguments.backbone_ids.get(modality)
        if name is None:
            raise ArgumentError(f"adapter_rank: also name the published {modality} backbone: --backbone_ids.")

        try:
            published = load_backbone(find_backbone_folder(folder, modality, name) or name)
        except (OSError, ValueError) as error:
            raise ArgumentError(
                f"backbone_ids: {name} cannot be loaded; --backbone_dir names copies: {one_line(error)}"
            ) from error

        stream.backbone, share = as_adapter(stream.require_backbone(), published, rank)
        stream.config.freeze_backbone = True
        logger.info("%s adapter of rank %d: %.1f %% of the squared change", modality, rank, 100 * share)

    return joined, join_processors(*processors)


def _name_backbones(model: BiBiERForEmotionClassification, ids: Mapping[str, str]) -> None:
    for modality, name in ids.items():
        if modality not in model.streams:
            raise ArgumentError(f"backbone_ids: {modality} is not a modality; they are {' and '.join(MODALITIES)}.")
        config = model.streams[modality].config
        if not config.freeze_backbone:
            raise ArgumentError(
                f"backbone_ids: the {modality} backbone was trained, so {name} is not the same. Leave it out."
            )
        config.backbone_id, config.backbone_revision = name, None


def save(model: BiBiERForEmotionClassification, folder: Path, dtype: str) -> None:
    """Save a checkpoint whose matrices and adapters are stored in `dtype`. They are loaded in float32.

    The first convolution of a backbone is stored in at least 16 bits, because everything after it suffers from its
    rounding. Small matrices keep 32 bits.
    """
    stored = getattr(torch, dtype)
    if stored.itemsize == 1:
        for module in model.modules():
            if isinstance(module, StatisticsPooling):
                _spread(module)

    for stream in model.streams.values():
        for name, parameter in stream.require_backbone().named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(stored)
    weights = model.state_dict()
    for name, values in weights.items():
        large = values.dim() > 1 and values.numel() >= _EXACT
        if values.is_floating_point() and large and "lora_" not in name:
            exact = "conv1." in name and stored.itemsize == 1
            weights[name] = values.to(torch.float16 if exact else stored)
    model.config.dtype = torch.float32
    model.save_pretrained(folder, state_dict=weights)


@torch.no_grad()
def _spread(pooling: StatisticsPooling) -> None:
    """Scale a hidden layer, whose thousands of inputs have small weights, so that they keep their precision in 8 bits.

    The LayerNorm after it undoes the scaling. A power of two causes no rounding.
    """
    linear = pooling.hidden[1]
    assert isinstance(linear, torch.nn.Linear)
    scale = 2.0 ** torch.log2(_SPREAD / linear.weight.std()).round().clamp(min=0).item()
    linear.weight.mul_(scale)
    linear.bias.mul_(scale)


def join(arguments: JoinArguments) -> None:
    """Join the checkpoints and print the dev scores of each part."""
    print(join_checkpoints(arguments))
    print(f"\nThe checkpoint is in {arguments.output_dir}. Score it: bibier evaluate {arguments.output_dir} ...")
