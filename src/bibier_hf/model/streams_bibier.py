"""One modality's way through the model: raw input -> backbone -> features -> encoder -> frames."""

import contextlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from .backbones_bibier import audio_input_name, build_backbone, encode_audio, encode_text, kept_first, weights_hash
from .configuration_bibier import TASK, BiBiERConfig, ModalityConfig
from .encoders_bibier import UnimodalEncoder
from .sequence_bibier import Mixup, Recorder, masked_mean, random_window


@dataclass
class Encoded:
    """One modality of a batch, encoded. B samples, T steps."""

    frames: torch.Tensor  # (B, T, hidden_size)
    mask: torch.Tensor  # bool (B, T)
    present: torch.Tensor  # bool (B,): which samples have the modality
    pooled: torch.Tensor  # (B, hidden_size)
    from_features: bool  # False: nothing was given, and frames are zeros


Features = tuple[torch.Tensor, torch.Tensor]
"""Features (B, T, D) of a modality and their bool mask (B, T), kept steps first."""


class ModalityStream(nn.Module):
    """Backbone and encoder of one modality.

    Args:
        config: of the model.
        modality: its part for this modality.
        build: build a backbone that belongs into the checkpoint, with random weights; False leaves it to `attach`.
    """

    raw_names: ClassVar[str]
    """The tensors that carry raw input, for messages."""

    def __init__(self, config: BiBiERConfig, modality: ModalityConfig, build: bool):
        super().__init__()
        self.config, self.name = modality, modality.modality
        self.is_read = self.name in config.modalities
        self.is_masked = not config.reproduces("unmasked")

        build = build and modality.backbone is not None and modality.backbone_stored
        self.backbone = self.build_backbone() if build else None
        encodes = self.is_read and modality.encoder != "none"
        self.encoder = UnimodalEncoder(config, modality) if encodes else None

        fused = len(config.modalities) == 2 and config.fusion != "late"
        self.missing = nn.Parameter(torch.empty(modality.hidden_size)) if fused else None
        """One step that stands in for the modality in the fusion, (hidden_size,)."""

    def build_backbone(self) -> PreTrainedModel:
        """A backbone with random weights."""
        assert isinstance(self.config.backbone, PreTrainedConfig)
        return build_backbone(self.config.backbone)

    def attach(self, backbone: PreTrainedModel) -> None:
        """Put a backbone in place; it must have the width that the encoder expects."""
        width, expected = backbone.config.hidden_size, self.config.widths[0]
        if width != expected:
            raise ValueError(
                f"The {self.name} backbone has width {width}, but the {self.name} encoder of this model expects "
                f"{expected}."
            )
        self.backbone = backbone

    def require_backbone(self) -> PreTrainedModel:
        """The backbone; an error with the remedy where there is none."""
        if self.backbone is None:
            raise ValueError(
                f"This model has no {self.name} backbone, so it cannot read raw {self.name}. Pass "
                f"{self.name}_features of width {self.config.feature_size}, or load it with "
                f"from_pretrained(..., backbone_dir=...) or attach_backbone('{self.name}', model)."
            )
        return self.backbone

    @property
    def key(self) -> str:
        """What the features depend on: the backbone's id and revision (or the hash of its weights), and the layer."""
        source, revision = self.config.backbone_id, self.config.backbone_revision
        name = f"{source}@{revision}" if source and revision else weights_hash(self.require_backbone())
        return f"{name}#{self.config.layer}"

    def frozen_modules(self) -> list[nn.Module]:
        """Backbone and encoder, as far as the configuration freezes them."""
        parts = ((self.backbone, self.config.freeze_backbone), (self.encoder, self.config.freeze_encoder))
        return [module for module, frozen in parts if frozen and module is not None]

    def encode_raw(self, inputs: torch.Tensor, mask: torch.Tensor | None) -> Features:
        """Raw input and its mask -> features; no gradient enters a frozen backbone."""
        backbone = self.require_backbone()
        with torch.no_grad() if self.config.freeze_backbone else contextlib.nullcontext():
            return self.run_backbone(backbone, inputs, mask)

    def run_backbone(self, backbone: PreTrainedModel, inputs: torch.Tensor, mask: torch.Tensor | None) -> Features:
        """What `encode_raw` computes, with a given copy of the backbone."""
        raise NotImplementedError

    def features(
        self,
        raw: torch.Tensor | None,
        raw_mask: torch.Tensor | None,
        features: torch.Tensor | None,
        mask: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> Features | None:
        """The features of a batch, from raw input or as they are given; None where the batch has neither."""
        if raw is not None and features is not None:
            raise ValueError(f"Raw {self.name} and {self.name}_features were both given; leave one out.")
        if not self.is_read:
            return None

        if raw is not None:
            features, mask = self.encode_raw(raw, raw_mask)
        elif features is not None:
            features, mask = self._check_features(features, mask)
        else:
            return None
        return features.to(dtype), mask

    def _check_features(self, features: torch.Tensor, mask: torch.Tensor | None) -> Features:
        width = self.config.feature_size
        if features.dim() != 3 or features.shape[-1] != width:
            raise ValueError(
                f"{self.name}_features must have the shape (batch, time, {width}), got {tuple(features.shape)}."
            )
        if features.shape[1] == 0:
            features = features.new_zeros(features.shape[0], 1, width)
            return features, torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)

        if mask is None:
            mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        if mask.shape != features.shape[:2]:
            raise ValueError(
                f"{self.name}_features_mask has the shape {tuple(mask.shape)}; it must be {tuple(features.shape[:2])}."
            )
        return kept_first(features, mask.bool())

    def encode(
        self, features: Features | None, like: torch.Tensor, mixup: Mixup | None, record: Recorder | None
    ) -> Encoded:
        """Features -> frames; zeros that no mask keeps where the batch has no such modality.

        Args:
            features: None: not there.
            like: any tensor (B, ...) of the batch, of the device and type of the frames.
            mixup: mixes the samples, in training.
            record: collects hidden states and attention weights.
        """
        encoder = self.encoder
        if features is None:
            x = like.new_zeros(like.shape[0], 1, self.config.hidden_size)
            mask = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
            encoder = None
        else:
            x, mask = features

        present = mask.any(1)
        if not self.is_masked:
            mask = present.unsqueeze(1).expand_as(mask)
        if mixup is not None:
            present = mixup.present(present)

        if encoder is not None:
            frames, mask, pooled = encoder(x, mask, mixup, record)
        else:
            frames, mask = (x, mask) if mixup is None else mixup.sequences(x, mask)
            pooled = masked_mean(frames, mask)
        return Encoded(frames, mask, present, pooled, features is not None)

    def stand_in(self, encoded: Encoded, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames and mask for the fusion; samples without the modality get a sequence of one learned step.

        Never a branch, so that the parameter always has a gradient.
        """
        assert self.missing is not None  # the model has a fusion
        frames, mask = encoded.frames, encoded.mask
        absent, first = ~present.unsqueeze(1), torch.arange(frames.shape[1], device=frames.device) == 0
        frames = torch.where((absent & first).unsqueeze(-1), self.missing, frames)
        return frames, (mask & ~absent) | (absent & first)


class AudioStream(ModalityStream):
    """Waveforms (B, S) at 16 kHz, or spectral frames (B, F, M)."""

    raw_names = "input_values (or input_features)"

    @property
    def key(self) -> str:
        return f"{super().key}{'+cepstrum' if self.config.cepstrum else ''}"

    def one_input(self, input_values: torch.Tensor | None, input_features: torch.Tensor | None) -> torch.Tensor | None:
        """The one of the two forms that was given; it must be the one that the backbone reads."""
        if (input_values is None and input_features is None) or not self.is_read:
            return None
        config = self.require_backbone().config
        expected = audio_input_name(config)
        given = "input_values" if input_features is None else "input_features"
        if given != expected or (input_values is not None and input_features is not None):
            raise ValueError(f"The audio backbone '{config.model_type}' reads {expected}; leave the other one out.")
        if input_features is not None and input_features.dim() == 3:
            bands = getattr(config, "feature_projection_input_dim", None) or config.num_mel_bins
            if input_features.shape[-1] != bands:
                raise ValueError(
                    f"input_features must have the shape (batch, frames, {bands}), got {tuple(input_features.shape)}. "
                    f"BiBiERProcessor and pipeline({TASK!r}) make them; Whisper's own front end, which "
                    "pipeline('audio-classification') uses, puts the bands first and pads to 30 s."
                )
        return input_values if input_features is None else input_features

    def features(self, *args, **kwargs) -> Features | None:
        found = super().features(*args, **kwargs)
        if found is None or not self.training or self.config.crop_frames is None:
            return found
        return random_window(*found, self.config.crop_frames)

    def run_backbone(self, backbone: PreTrainedModel, inputs: torch.Tensor, mask: torch.Tensor | None) -> Features:
        config = self.config
        return encode_audio(backbone, inputs, mask, config.layer, config.max_window_s, config.cepstrum)


class TextStream(ModalityStream):
    """Token ids (B, T)."""

    raw_names = "input_ids"

    def build_backbone(self) -> PreTrainedModel:
        assert isinstance(self.config.backbone, PreTrainedConfig)
        self.config.backbone.vocab_size = self.config.vocab_size  # which may have been changed
        return super().build_backbone()

    def run_backbone(self, backbone: PreTrainedModel, inputs: torch.Tensor, mask: torch.Tensor | None) -> Features:
        return encode_text(backbone, inputs, mask, self.config.layer)

    def features(self, raw, raw_mask, features, mask, dtype) -> Features | None:
        found = super().features(raw, raw_mask, features, mask, dtype)
        if found is None or self.is_masked or self.config.backbone is None:
            return found

        # The published code encodes the whole text, keeps the first positions and fills up with zeros, unmasked.
        # Features of another origin than the model's backbone are taken as they are.
        features, mask = found
        features = (features * mask.unsqueeze(-1))[:, : self.config.max_tokens]
        features = F.pad(features, (0, 0, 0, self.config.max_tokens - features.shape[1]))
        return features, mask.any(1, keepdim=True).expand(features.shape[:2])
