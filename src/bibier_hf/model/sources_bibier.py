"""Where a backbone comes from: the Hub, a local folder, a configuration, or the embedded pair."""

import os
from typing import Any

from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils.hub import resolve_revision

EMBEDDED = "embedded"
"""Name of the small backbone that is trained from scratch and needs no download."""


def embedded_backbone(modality: str) -> PreTrainedConfig:
    """Return the configuration of the small backbone that is trained from scratch.

    Audio: a Wav2Vec2-BERT over log-mel frames (80 bands, two frames stacked, 50 per second). Text: a BERT over UTF-8
    bytes (the 384 symbols of the ByT5 tokenizer).
    """
    sizes = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}
    if modality == "text":
        return AutoConfig.for_model(
            "bert", vocab_size=384, max_position_embeddings=512, type_vocab_size=1, pad_token_id=0, **sizes
        )
    return AutoConfig.for_model(
        "wav2vec2-bert",
        feature_projection_input_dim=160,
        conv_depthwise_kernel_size=15,
        position_embeddings_type="relative_key",
        left_max_position_embeddings=32,
        right_max_position_embeddings=8,
        add_adapter=False,
        apply_spec_augment=False,
        mask_time_prob=0.0,
        layerdrop=0.0,
        **sizes,
    )


def located_backbone(source: str | PreTrainedConfig | None, revision: str | None) -> dict[str, Any]:
    """Return the options of a modality that depend on the source of its backbone."""
    if source is None or source == EMBEDDED or isinstance(source, PreTrainedConfig):
        return {"backbone": source}

    # A mutable revision ("main") becomes its current commit, if the Hub or the cache knows it.
    revision = resolve_revision(source, revision)
    config = AutoConfig.from_pretrained(source, revision=revision)
    config.dtype = None  # the weights are loaded in the dtype of the whole model
    config._name_or_path = ""  # a local folder is meaningless in a checkpoint
    if os.path.isdir(source):
        return {"backbone": config}
    return {
        "backbone": config,
        "backbone_id": source,
        "backbone_revision": getattr(revision, "resolved", revision),
    }
