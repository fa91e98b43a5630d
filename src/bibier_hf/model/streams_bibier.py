"""The path of one modality through the model: raw input -> backbone -> features -> encoder -> frames."""

import contextlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from .backbones_bibier import as_mask, audio_input_name, build_backbone, encode_audio, encode_text, kept_first
from .configuration_bibier import TASK, BiBiERConfig, ModalityConfig
from .encoders_bibier import StatisticsPooling, build_encoder
from .hashing_bibier import weights_hash
from .sequence_bibier import Mixup, Recorder, masked_mean, random_window
from .unsure_bibier import SpeechCheck


@dataclass
class Encoded:
    """One encoded modality of a batch with B samples of T steps."""

    frames: Tensor  # (B, T, hidden_size)
    mask: Tensor  # bool (B, T)
    present: Tensor  # bool (B,), which samples have the modality
    pooled: Tensor  # (B, hidden_size)
    from_features: bool  # False: there was no input, and frames are zeros


Features = tuple[Tensor, Tensor]
"""Features (B, T, D) of a modality and their bool mask (B, T), with the kept steps first."""


class ModalityStream(nn.Module):
    """Backbone and encoder of one modality.

    Args:
        config: of the model.
        modality: of this modality.
        build: whether to build a backbone that belongs in the checkpoint, with random weights, instead of leaving it
            to `attach`.
    """

    raw_names: ClassVar[str]
    """Names of the raw input tensors, for messages."""

    def __init__(self, config: BiBiERConfig, modality: ModalityConfig, build: bool):
        super().__init__()
        self.config, self.name = modality, modality.modality
        self.is_read = self.name in config.modalities
        self.is_masked = not config.reproduces("unmasked")

        build = build and modality.backbone is not None and modality.backbone_stored
        self.backbone = self.build_backbone() if build else None
        encodes = self.is_read and modality.encoder != "none"
        self.encoder = build_encoder(config, modality) if encodes else None

        fused = len(config.modalities) == 2 and config.fusion != "late"
        self.missing = nn.Parameter(torch.empty(modality.hidden_size)) if fused else None
        """The step that replaces a missing modality in the fusion, (hidden_size,)."""

    def build_backbone(self) -> PreTrainedModel:
        """Build a backbone with random weights."""
        assert isinstance(self.config.backbone, PreTrainedConfig)
        return build_backbone(self.config.backbone)

    def attach(self, backbone: PreTrainedModel) -> None:
        """Set the backbone, which must have the width that the encoder expects."""
        width = len(self.config.layers) * backbone.config.hidden_size
        expected = self.config.frame_size - self.config.extra_width
        if width != expected:
            raise ValueError(
                f"The {self.name} backbone has width {width}, but the {self.name} encoder of this model expects "
                f"{expected}."
            )
        self.backbone = backbone

    def require_backbone(self) -> PreTrainedModel:
        """Return the backbone; raise ValueError if there is none."""
        if self.backbone is None:
            raise ValueError(
                f"This model has no {self.name} backbone, so it cannot read raw {self.name}. Pass "
                f"{self.name}_features of width {self.config.feature_size}, or load it with "
                f"from_pretrained(..., backbone_dir=...) or attach_backbone('{self.name}', model)."
            )
        return self.backbone

    @property
    def key(self) -> str:
        """What determines the features: the backbone's id and revision (or a hash of its weights), and the layer."""
        source, revision = self.config.backbone_id, self.config.backbone_revision
        name = f"{source}@{revision}" if source and revision else weights_hash(self.require_backbone())
        layers = "+".join(map(str, self.config.layers))
        return f"{name}#{layers}{'+statistics' if self.config.encoder == 'statistics' else ''}"

    def frozen_modules(self) -> list[nn.Module]:
        """Return those of backbone and encoder that the configuration freezes."""
        parts = ((self.backbone, self.config.freeze_backbone), (self.encoder, self.config.freeze_encoder))
        return [module for module, frozen in parts if frozen and module is not None]

    def encode_raw(self, inputs: Tensor, mask: Tensor | None) -> Features:
        """Compute features from raw input and its mask, without gradients for a frozen backbone."""
        backbone = self.require_backbone()
        with torch.no_grad() if self.config.freeze_backbone else contextlib.nullcontext():
            return self.run_backbone(backbone, inputs, mask)

    def run_backbone(self, backbone: PreTrainedModel, inputs: Tensor, mask: Tensor | None) -> Features:
        """Compute features with a given copy of the backbone."""
        return self.pool(*self._frames(backbone, inputs, mask))

    def _frames(self, backbone: PreTrainedModel, inputs: Tensor, mask: Tensor | None) -> Features:
        raise NotImplementedError

    def pool(self, frames: Tensor, mask: Tensor) -> Features:
        """Turn frames (B, T, D), bool mask (B, T), into features: the same, or their statistics (B, 1, 7 D)."""
        if self.config.encoder != "statistics":
            return frames, mask
        statistics = StatisticsPooling.statistics(frames, mask).unsqueeze(1)
        present = mask.any(1, keepdim=True)
        return statistics * present.unsqueeze(-1), present

    def features(
        self,
        raw: Tensor | None,
        raw_mask: Tensor | None,
        features: Tensor | None,
        mask: Tensor | None,
        dtype: torch.dtype,
    ) -> Features | None:
        """Return the features of a batch, computed from raw input or given; None if the batch has neither."""
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

    def _check_features(self, features: Tensor, mask: Tensor | None) -> Features:
        width = self.config.feature_size
        if features.dim() != 3 or features.shape[-1] != width:
            raise ValueError(
                f"{self.name}_features must have the shape (batch, time, {width}), got {tuple(features.shape)}."
            )
        mask = as_mask(mask, features, f"{self.name}_features_mask")
        if features.shape[1] == 0:  # one masked step
            features, mask = F.pad(features, (0, 0, 0, 1)), F.pad(mask, (0, 1))
        return kept_first(features, mask)

    def encode(
        self,
        features: Features | None,
        like: Tensor,
        mixup: Mixup | None,
        record: Recorder | None,
        reads_frames: bool = True,
    ) -> Encoded:
        """Encode features into frames, which are one masked step of zeros if the batch does not have the modality.

        Args:
            features: of the batch; None: it does not have the modality.
            like: any tensor (B, ...) of the batch with the device and dtype of the frames.
            mixup: mixes the samples, in training.
            record: collects hidden states and attention weights.
            reads_frames: whether the model reads more than which samples have the modality; otherwise frames are
                zeros.
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
        if not reads_frames:
            zeros = like.new_zeros(like.shape[0], 1, self.config.hidden_size)
            return Encoded(zeros, present.unsqueeze(1), present, zeros[:, 0], features is not None)

        if encoder is not None:
            frames, mask, pooled = encoder(x, mask, mixup, record)
        else:
            frames, mask = (x, mask) if mixup is None else mixup.sequences(x, mask)
            pooled = masked_mean(frames, mask)
        return Encoded(frames, mask, present, pooled, features is not None)

    def stand_in(self, encoded: Encoded, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames and mask for the fusion, with one learned step for samples without the modality.

        There is no branch, so that the parameter always gets a gradient.
        """
        assert self.missing is not None  # the model has a fusion
        frames, mask = encoded.frames, encoded.mask
        absent, first = ~present.unsqueeze(1), torch.arange(frames.shape[1], device=frames.device) == 0
        frames = torch.where((absent & first).unsqueeze(-1), self.missing, frames)
        return frames, (mask & ~absent) | (absent & first)


class AudioStream(ModalityStream):
    """Waveforms (B, S) at 16 kHz, or spectral frames (B, F, M)."""

    raw_names = "input_values (or input_features)"

    def __init__(self, config: BiBiERConfig, modality: ModalityConfig, build: bool):
        super().__init__(config, modality, build)
        self.speech_check: SpeechCheck | None = None
        if self.is_read and getattr(modality, "speech_check", False):
            self.add_speech_check()

    def add_speech_check(self) -> SpeechCheck:
        """Add a [`SpeechCheck`] that is still to be fitted, and return it."""
        self.speech_check = SpeechCheck(self.config)
        return self.speech_check

    def not_speech(self, features: Features | None) -> Tensor | None:
        """Logit of "this is not speech" of each sample, (B,); None in training, without audio, or without the
        check."""
        return None if features is None or self.speech_check is None or self.training else self.speech_check(*features)

    @property
    def key(self) -> str:
        return f"{super().key}{'+cepstrum' if self.config.cepstrum else ''}"

    def one_input(self, input_values: Tensor | None, input_features: Tensor | None) -> Tensor | None:
        """Return the given one of the two forms; it must be the one that the backbone reads."""
        if (input_values is None and input_features is None) or not self.is_read:
            return None
        config = self.require_backbone().config
        expected = audio_input_name(config)
        given = "input_values" if input_features is None else "input_features"
        if given != expected or (input_values is not None and input_features is not None):
            raise ValueError(f"The audio backbone '{config.model_type}' reads {expected}. Leave out the other one.")
        if input_features is not None and input_features.dim() == 3:
            bands = getattr(config, "feature_projection_input_dim", None) or config.num_mel_bins
            if input_features.shape[-1] != bands:
                raise ValueError(
                    f"input_features must have the shape (batch, frames, {bands}), got {tuple(input_features.shape)}. "
                    f"Use BiBiERProcessor or pipeline({TASK!r}): Whisper's own front end, which "
                    "pipeline('audio-classification') uses, puts the bands first and pads to 30 s."
                )
        return input_values if input_features is None else input_features

    def features(self, *args, **kwargs) -> Features | None:
        found = super().features(*args, **kwargs)
        if found is None or not self.training or self.config.crop_frames is None:
            return found
        return random_window(*found, self.config.crop_frames)

    def _frames(self, backbone: PreTrainedModel, inputs: Tensor, mask: Tensor | None) -> Features:
        config = self.config
        return encode_audio(backbone, inputs, mask, config.layers, config.max_window_s, config.cepstrum)


class TextStream(ModalityStream):
    """Token ids (B, T)."""

    raw_names = "input_ids"

    def build_backbone(self) -> PreTrainedModel:
        assert isinstance(self.config.backbone, PreTrainedConfig)
        self.config.backbone.vocab_size = self.config.vocab_size  # may have been changed
        return super().build_backbone()

    def _frames(self, backbone: PreTrainedModel, inputs: Tensor, mask: Tensor | None) -> Features:
        return encode_text(backbone, inputs, mask, self.config.layers)

    def features(self, raw, raw_mask, features, mask, dtype) -> Features | None:
        found = super().features(raw, raw_mask, features, mask, dtype)
        if found is None or self.is_masked or self.config.backbone is None:
            return found

        # The published code encodes the whole text, keeps the first positions and pads with unmasked zeros. Features
        # that do not come from the model's own backbone stay as they are.
        features, mask = found
        features = (features * mask.unsqueeze(-1))[:, : self.config.max_tokens]
        features = F.pad(features, (0, 0, 0, self.config.max_tokens - features.shape[1]))
        return features, mask.any(1, keepdim=True).expand(features.shape[:2])
