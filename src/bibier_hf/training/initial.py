"""A trained checkpoint as the start of a run (`init_from`)."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from transformers.utils import logging

from ..errors import ArgumentError
from ..hub.shipped import checkpoint_source, not_found
from ..model.configuration_bibier import BiBiERConfig
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from ..model.validation_bibier import CheckpointError, one_line
from .arguments import RunArguments

logger = logging.get_logger(__name__)

_FREE_OPTIONS = frozenset(
    """
    dropout mixup_alpha modality_dropout unimodal_loss_weight save_backbones
    audio_config.dropout audio_config.freeze_backbone audio_config.freeze_encoder audio_config.crop_frames
    text_config.dropout text_config.freeze_backbone text_config.freeze_encoder
    """.split()
)
"""Options that a run may change, because the trained weights do not depend on them."""

_COMPUTED = {"temperature": 1.0} | dict.fromkeys(("class_weights", "thresholds", "label_ranges", "least_confidence"))
"""Options that a run computes itself."""


def load_initial(
    run: RunArguments, of_labels: Mapping[str, Any]
) -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    """Load the checkpoint that a run starts from. If its labels are others, its classifiers are replaced by new ones.

    Args:
        run: with `init_from`; its `model` may hold options that the weights do not depend on.
        of_labels: `id2label`, `problem_type` and `label_ranges` of the run.

    Raises:
        ArgumentError: a checkpoint that cannot be used, or an option that contradicts it.
    """
    assert run.init_from is not None  # or there is nothing to load
    name = checkpoint_source(run.init_from, "init_from")
    labels = list(of_labels["id2label"].values())
    try:
        trained = BiBiERConfig.from_pretrained(name)
        _refuse_contradictions(run, trained)

        options = _with_options(trained, run.model) | _COMPUTED
        config = BiBiERConfig.from_dict(options, **of_labels)
        replaces = trained.label_names != labels
        model = BiBiERForEmotionClassification.from_pretrained(name, config=config, ignore_mismatched_sizes=replaces)
        processor = BiBiERProcessor.from_pretrained(name)
    except (CheckpointError, OSError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        is_missing = isinstance(error, OSError) and not os.path.isdir(name)
        problem = not_found(name) if is_missing else f"{name} cannot be used:"
        raise ArgumentError(f"init_from: {problem} {one_line(error)}") from error

    if run.text_prefix not in (None, processor.text_prefix):
        raise ArgumentError(f"text_prefix: {name} was trained with {processor.text_prefix!r}. Leave it out.")

    if replaces:
        new = {id(layer) for layer in (*model.output_layers(), model.mixture)}
        names = ", ".join(path for path, module in model.named_modules() if id(module) in new)
        logger.warning(
            f"{name} has the labels {', '.join(trained.label_names)}; for {', '.join(labels)} these layers are new: "
            f"{names}."
        )
    return model, processor


def _refuse_contradictions(run: RunArguments, trained: BiBiERConfig) -> None:
    content = trained.to_dict()
    for key, value in _dotted(run.model):
        found = content
        for part in key.split("."):
            found = found.get(part, {})
        if key not in _FREE_OPTIONS and _plain(found) != _plain(value):
            raise ArgumentError(
                f"model.{key}: {run.init_from} was trained with {found!r}, so {value!r} does not fit its weights. Leave "
                "it out, or train without init_from."
            )

    for modality, part in trained.modality_configs.items():
        if part.adapter_stored:
            raise ArgumentError(
                f"init_from: {run.init_from} keeps a LoRA adapter of its {modality} backbone apart. Train it with "
                "lora.save: merged."
            )


def _dotted(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return the options of a model with a dot before those of a modality."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _with_options(trained: BiBiERConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a configuration with other options.

    A trained backbone no longer has the weights of its id, so it loses the id: it is stored in checkpoints, and its
    features get another key.
    """
    content = trained.to_dict()
    for modality, part in trained.modality_configs.items():
        inside = content[f"{modality}_config"]
        if not part.freeze_backbone:
            inside |= {"backbone_id": None, "backbone_revision": None}
        inside |= options.get(f"{modality}_config", {})
    return content | {key: value for key, value in options.items() if not isinstance(value, Mapping)}
