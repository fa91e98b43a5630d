"""Loading the trained model that the first argument of a command names."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field
from transformers import pipeline
from transformers.utils import CONFIG_NAME

from ..commandline import Positional, Section
from ..errors import ArgumentError
from ..hub.shipped import SHIPPED, checkpoint_source, not_found
from ..model.configuration_bibier import TASK, BiBiERConfig
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.pipeline_bibier import AudioTextEmotionPipeline
from ..model.processing_bibier import BiBiERProcessor
from ..model.validation_bibier import CheckpointError, one_line

T = TypeVar("T")


class CheckpointOptions(Section):
    """Which trained model a command uses."""

    checkpoint: Annotated[str, Positional("CHECKPOINT")] = Field(
        description=f"folder or Hub id of a trained model, or {' or '.join(SHIPPED)}, which come with the package"
    )
    backbone_dir: str | None = Field(None, description="folder with copies of backbones that a checkpoint only names")


def load_checkpoint(
    name: str, backbone_dir: str | None = None
) -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    """Load a trained model and its processor.

    Args:
        name: folder or Hub id, or the name of a shipped checkpoint.
        backbone_dir: folder with local copies of backbones that the checkpoint only names.

    Raises:
        ArgumentError: no such checkpoint, or a damaged one; the message names the file.
    """
    name = checkpoint_source(name)
    model = _load(name, lambda: BiBiERForEmotionClassification.from_pretrained(name, backbone_dir=backbone_dir))
    return model, load_processor(name, backbone_dir)


def load_pipeline(
    name: str, backbone_dir: str | None = None, asr: str | None = None, asr_language: str | None = None
) -> AudioTextEmotionPipeline:
    """Load a checkpoint as a pipeline of the package's own classes. Code that comes with the checkpoint is not run.

    Args:
        name, backbone_dir: as for [`load_checkpoint`].
        asr: Hub id or folder of a speech recognizer for recordings without text.
        asr_language: ISO 639 code of the spoken language.

    Raises:
        ArgumentError: a checkpoint or recognizer that does not exist or cannot be used.
    """
    model, processor = load_checkpoint(name, backbone_dir)
    options = {} if asr is None else {"asr": asr, "asr_language": asr_language}
    try:
        return pipeline(  # ty: ignore[no-matching-overload] - transformers lists its own tasks only
            TASK, model=model, processor=processor, **options
        )
    except OSError as error:
        raise ArgumentError(f"asr: {asr} is not a speech recognition model to load: {one_line(error)}") from error
    except ValueError as error:  # the language, or a recognizer with its own code
        raise ArgumentError(one_line(error)) from error


def load_config(name: str) -> BiBiERConfig:
    """Load the configuration of a checkpoint; see [`load_checkpoint`]."""
    name = checkpoint_source(name)
    return _load(name, lambda: BiBiERConfig.from_pretrained(name))


def load_processor(name: str, backbone_dir: str | None = None) -> BiBiERProcessor:
    """Load the processor of a checkpoint; see [`load_checkpoint`]."""
    name = checkpoint_source(name)
    try:
        return BiBiERProcessor.from_pretrained(name, backbone_dir=backbone_dir)
    except Exception as error:  # damaged files make libraries raise anything
        raise ArgumentError(
            f"model: {name} has no usable processor (processor_config.json, tokenizer_config.json and its vocabulary): "
            f"{one_line(error)}"
        ) from error


def _load(name: str, read: Callable[[], T]) -> T:
    if os.path.isdir(name) and not (Path(name) / CONFIG_NAME).is_file():
        raise ArgumentError(f"model: {name} holds no checkpoint (there is no {CONFIG_NAME} in it).")
    try:
        return read()
    except CheckpointError as error:
        raise ArgumentError(f"model: {error}") from error
    except OSError as error:
        problem = f"{name} cannot be read:" if os.path.isdir(name) else not_found(name)
        raise ArgumentError(f"model: {problem} {one_line(error)}") from error
