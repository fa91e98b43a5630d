"""Checkpoints that come with the package, and the default one of `pipeline("audio-text-emotion")`.

bibier-small    heads and a text adapter over openai/whisper-base and intfloat/multilingual-e5-small, which it names
bibier-tiny     everything inside, nothing to download
"""

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME

from ..errors import ArgumentError
from ..text import did_you_mean

SMALL, TINY = SHIPPED = ("bibier-small", "bibier-tiny")
FOLDER = Path(__file__).parents[1] / "checkpoints"

_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME)


def shipped_checkpoint(name: str) -> Path:
    """Return the folder of `"bibier-small"` or `"bibier-tiny"`."""
    if name not in SHIPPED:
        raise ValueError(f"{name!r} does not come with the package; {' and '.join(SHIPPED)} do.")
    return FOLDER / name


def checkpoint_source(name: str, option: str = "model") -> str:
    """Return the folder of a shipped checkpoint, or else the name itself, which is a folder or a Hub id.

    A folder of that name in the working directory wins.

    Args:
        name: what was given.
        option: that it was given for.

    Raises:
        ArgumentError: the name can be none of these, so the Hub is not asked.
    """
    if name in SHIPPED and not os.path.isdir(name):
        return str(shipped_checkpoint(name))
    if "/" not in name and not os.path.isdir(name):
        raise ArgumentError(f"{option}: {not_found(name)}")
    return name


def not_found(name: str) -> str:
    """Say that a name is no checkpoint, for an error message."""
    known = " or ".join(SHIPPED)
    text = f"{name} is neither a folder with a checkpoint, nor a checkpoint OWNER/NAME on the Hub, nor {known}"
    return f"{text}, which come with the package.{did_you_mean(name, SHIPPED)}"


def default_checkpoint() -> Path:
    """Return `bibier-small` if its backbones are in the local cache of the Hub, or else `bibier-tiny`.

    The adapter of `bibier-small` also needs peft.
    """
    small = shipped_checkpoint(SMALL)
    runs = importlib.util.find_spec("peft") and all(_is_cached(*backbone) for backbone in _named_backbones(small))
    return small if runs else shipped_checkpoint(TINY)


def _named_backbones(checkpoint: Path) -> Iterator[tuple[str, str | None]]:
    """Yield Hub id and revision of the backbones that a checkpoint does not contain."""
    config = json.loads((checkpoint / CONFIG_NAME).read_text(encoding="utf-8"))
    for modality in config["modalities"]:
        part = config[f"{modality}_config"]
        if not part["backbone_stored"]:
            yield part["backbone_id"], part.get("backbone_revision")


def _is_cached(hub_id: str, revision: str | None) -> bool:
    found = [try_to_load_from_cache(hub_id, name, revision=revision) for name in _WEIGHTS]
    return any(isinstance(path, str) for path in found)


class DefaultModel(dict):
    """The entry `"default"` of the task: the checkpoint is chosen when a pipeline asks for it, not at import."""

    def __init__(self):
        super().__init__(model=None)

    def __getitem__(self, key: str) -> Any:
        return (str(default_checkpoint()), "main") if key == "model" else super().__getitem__(key)
