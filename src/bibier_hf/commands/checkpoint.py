"""How commands load the trained model that their first argument names."""

import os
from pathlib import Path

from ..errors import ArgumentError
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor


def load_checkpoint(
    name: str, backbone_dir: str | None = None
) -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    """A trained model and its processor.

    Args:
        name: folder or Hub id.
        backbone_dir: folder with local copies of backbones that the checkpoint only names.

    Raises:
        ArgumentError: no checkpoint there.
    """
    if os.path.isdir(name) and not (Path(name) / "config.json").is_file():
        raise ArgumentError(f"model: {name} holds no checkpoint (there is no config.json in it).")
    try:
        model = BiBiERForEmotionClassification.from_pretrained(name, backbone_dir=backbone_dir)
        return model, BiBiERProcessor.from_pretrained(name)
    except OSError as error:
        raise ArgumentError(
            f"model: {name} is neither a folder with a checkpoint nor one on the Hub that can be fetched: {error}"
        ) from error
