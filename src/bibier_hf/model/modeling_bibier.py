"""BiBiER: bilingual bimodal emotion recognition, from speech and text to seven emotions.

Paper: Ryumina et al., "BiBiER: A Bilingual Bimodal Emotion Recognition Method with Improved Generalization through Data Augmentation",
Expert Systems with Applications, 2025.

    waveform -- audio backbone -- audio encoder --+-- frames --+-- fusion -- classifier -- logits
                                                  +-- audio_logits                |
    text ------ text backbone --- text encoder ---+-- frames --+                  +------- fused_embedding
                                                  +-- text_logits

Either modality may be missing, in a whole batch or in some of its samples: a learned sequence of one step stands in for it.
Padding is masked everywhere, so a sample's result does not depend on its batch.
"""

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, logging

from .backbones_bibier import (
    audio_input_name,
    build_backbone,
    encode_audio,
    encode_text,
    find_backbone_folder,
    kept_first,
    load_backbone,
    weights_hash,
)
from .configuration_bibier import EMBEDDED, TASK, BiBiERConfig
from .encoders_bibier import UnimodalEncoder
from .fusion_bibier import FUSIONS, Classifier
from .mamba_bibier import SelectiveSSM

if TYPE_CHECKING:  # never run: it makes `save_pretrained` put the pipeline's and the processor's code beside the model's
    from .pipeline_bibier import AudioTextEmotionPipeline  # noqa: F401
    from .processing_bibier import BiBiERProcessor  # noqa: F401

logger = logging.get_logger(__name__)

MODALITIES = ("audio", "text")

AUTO_MAP = {
    "AutoConfig": "configuration_bibier.BiBiERConfig",
    "AutoModel": "modeling_bibier.BiBiERForEmotionClassification",
    "AutoModelForAudioClassification": "modeling_bibier.BiBiERForEmotionClassification",
    "AutoProcessor": "processing_bibier.BiBiERProcessor",
}
CUSTOM_PIPELINES = {
    TASK: {"impl": "pipeline_bibier.AudioTextEmotionPipeline", "pt": ["AutoModel"], "tf": [], "type": "multimodal"},
}


@dataclass
class BiBiEROutput(ModelOutput):
    """Output of [`BiBiERForEmotionClassification`]. B samples, K labels in the order of `config.id2label`.

    Args:
        loss: scalar, when `labels` are given.
        logits: (B, K), from the fused modalities.
        audio_logits, text_logits: (B, K), from one modality; zeros (no preference) for a sample without it, None where the batch has none.
        fused_embedding: (B, E), the vector that the classifier reads.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    audio_logits: torch.Tensor | None = None
    text_logits: torch.Tensor | None = None
    fused_embedding: torch.Tensor | None = None


class BiBiERPreTrainedModel(PreTrainedModel):
    """Initialisation, and saving and loading with the backbones inside or beside the checkpoint."""

    config_class = BiBiERConfig
    base_model_prefix = "bibier"
    main_input_name = "input_values"
    input_modalities = ("audio", "text")
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _keep_in_fp32_modules_strict = ["A_log"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SelectiveSSM):
            module.init_parameters()
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, BiBiERForEmotionClassification):
            init.normal_(module.missing_audio, std=self.config.initializer_range)
            init.normal_(module.missing_text, std=self.config.initializer_range)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *args: Any,
        backbone_dir: str | os.PathLike | dict | None = None,
        **kwargs: Any,
    ) -> "BiBiERPreTrainedModel":
        """As in transformers; then fetches the backbones that the checkpoint only names.

        Args:
            pretrained_model_name_or_path: Hub id or folder of the checkpoint.
            args: passed on.
            backbone_dir: where to look for those backbones instead of the Hub: `{"audio": folder, "text": folder}`, or one folder with a
                sub-folder for each (`<owner>/<name>`, `<name>` or `<owner>--<name>`).
            kwargs: passed on.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        fetch = {key: kwargs[key] for key in ("cache_dir", "token", "local_files_only", "force_download") if key in kwargs}
        for modality in MODALITIES:
            if not getattr(model.config, f"{modality}_backbone_stored"):
                model._fetch_backbone(modality, backbone_dir, fetch)
        return loaded

    def save_pretrained(
        self, save_directory: str | os.PathLike, state_dict: dict | None = None, save_original_format: bool = False, **kwargs: Any
    ) -> None:
        """As in transformers; leaves backbones out as `config.save_backbones` says and writes the code for `trust_remote_code=True`.

        Args:
            save_directory: folder, made if needed.
            state_dict: weights to save instead of the model's.
            save_original_format: False, unlike in transformers: keys are written as they are in memory, so that a training checkpoint
                restores every backbone.
            kwargs: passed on.
        """
        stored = {f"{modality}_backbone_stored": not self._is_external(modality) for modality in MODALITIES}
        state_dict = self.state_dict() if state_dict is None else state_dict
        left_out = tuple(f"{modality}_backbone." for modality in MODALITIES if not stored[f"{modality}_backbone_stored"])
        state_dict = {key: value for key, value in state_dict.items() if not key.startswith(left_out)}
        before = {key: getattr(self.config, key) for key in stored}
        self.config.auto_map = dict(AUTO_MAP)
        self.config.custom_pipelines = CUSTOM_PIPELINES
        try:
            for key, value in stored.items():
                setattr(self.config, key, value)
            super().save_pretrained(save_directory, state_dict=state_dict, save_original_format=save_original_format, **kwargs)
        finally:
            for key, value in before.items():
                setattr(self.config, key, value)

    def _is_external(self, modality: str) -> bool:
        """Is this backbone left out of a checkpoint and fetched from the Hub by its id?"""
        config = self.config
        if getattr(config, f"{modality}_config") is None or config.save_backbones == "always":
            return False
        hub_id = getattr(config, f"{modality}_backbone_id")
        if config.save_backbones == "never":
            if hub_id is None:
                raise ValueError(
                    f"save_backbones='never', but the {modality} backbone has no Hub id to fetch it by. "
                    "Use save_backbones='auto' or 'always'."
                )
            return True
        return hub_id is not None and getattr(config, f"freeze_{modality}_backbone")

    def _fetch_backbone(self, modality: str, backbone_dir: str | os.PathLike | dict | None, fetch: dict) -> None:
        backbone_id = getattr(self.config, f"{modality}_backbone_id")
        folder = find_backbone_folder(backbone_dir, modality, backbone_id)
        revision = None if folder else getattr(self.config, f"{modality}_backbone_revision")
        try:
            backbone = load_backbone(folder or backbone_id, revision, **fetch)
        except OSError as error:
            raise OSError(
                f"The checkpoint names its {modality} backbone '{backbone_id}' (revision {revision or 'main'}), "
                f"which could not be fetched: {error}\n"
                "Connect to the Hub once, or pass backbone_dir={...} with a local copy of it."
            ) from error
        self.attach_backbone(modality, backbone)


class BiBiERForEmotionClassification(BiBiERPreTrainedModel):
    """Speech and text -> emotion (module docstring).

    Args:
        config: sizes and options.
        build_backbones: build the backbones that belong into the checkpoint, with random weights; False leaves them to `attach_backbone`.

    Example:
        >>> model = BiBiERForEmotionClassification.from_backbones()  # the embedded pair
        >>> model(audio_features=torch.randn(2, 50, 96)).logits.shape
        torch.Size([2, 7])
    """

    def __init__(self, config: BiBiERConfig, build_backbones: bool = True):
        super().__init__(config)
        for modality in MODALITIES:
            sub_config = getattr(config, f"{modality}_config")
            build = build_backbones and sub_config is not None and getattr(config, f"{modality}_backbone_stored")
            setattr(self, f"{modality}_backbone", build_backbone(sub_config) if build else None)
        self.audio_encoder = UnimodalEncoder(config, "audio")
        self.text_encoder = UnimodalEncoder(config, "text")
        self.missing_audio = nn.Parameter(torch.empty(config.audio_encoder_size))
        self.missing_text = nn.Parameter(torch.empty(config.text_encoder_size))
        self.fusion = FUSIONS[config.fusion](config)
        self.classifier = Classifier(self.fusion.output_size, config)
        self.post_init()
        self._freeze_backbones()

    @classmethod
    def from_backbones(
        cls,
        audio: str | None = EMBEDDED,
        text: str | None = EMBEDDED,
        audio_revision: str | None = None,
        text_revision: str | None = None,
        **options: Any,
    ) -> "BiBiERForEmotionClassification":
        """A new model over pretrained backbones.

        Args:
            audio, text: Hub id or folder of a pretrained model, `"embedded"` (small, trained from scratch), or None (features only).
            audio_revision, text_revision: revision of a Hub id; the commit that it stands for is kept in the config.
            options: fields of [`BiBiERConfig`].
        """
        sources = {"audio": (audio, audio_revision), "text": (text, text_revision)}
        config = BiBiERConfig.from_backbones(audio, text, audio_revision, text_revision, **options)
        model = cls(config, build_backbones=False)
        for modality, (source, _) in sources.items():
            if source == EMBEDDED:
                model.attach_backbone(modality, build_backbone(getattr(config, f"{modality}_config")))
            elif source is not None:
                model.attach_backbone(modality, load_backbone(source, getattr(config, f"{modality}_backbone_revision")))
        return model

    def attach_backbone(self, modality: str, backbone: PreTrainedModel) -> None:
        """Put a backbone in place; it must have the width that the encoder expects."""
        width, expected = backbone.config.hidden_size, self.config.feature_size(modality)
        if width != expected:
            raise ValueError(f"The {modality} backbone has width {width}, but the {modality} encoder of this model expects {expected}.")
        setattr(self, f"{modality}_backbone", backbone.to(device=self.device))
        self._freeze_backbones()
        self.train(self.training)

    def backbone_key(self, modality: str) -> str:
        """What the features of a modality depend on: the backbone's id and revision (or the hash of its weights) and the layer."""
        revision = getattr(self.config, f"{modality}_backbone_revision")
        source = getattr(self.config, f"{modality}_backbone_id")
        name = f"{source}@{revision}" if source and revision else weights_hash(self._require_backbone(modality))
        return f"{name}#{getattr(self.config, f'{modality}_layer')}"

    def _freeze_backbones(self) -> None:
        for modality in MODALITIES:
            backbone = getattr(self, f"{modality}_backbone")
            if backbone is not None and getattr(self.config, f"freeze_{modality}_backbone"):
                backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "BiBiERForEmotionClassification":
        """Frozen backbones stay in evaluation mode: no dropout and no SpecAugment in features that nothing adapts to."""
        super().train(mode)
        for modality in MODALITIES:
            backbone = getattr(self, f"{modality}_backbone", None)
            if backbone is not None and getattr(self.config, f"freeze_{modality}_backbone"):
                backbone.eval()
        return self

    def _require_backbone(self, modality: str) -> PreTrainedModel:
        backbone = getattr(self, f"{modality}_backbone")
        if backbone is None:
            raise ValueError(
                f"This model has no {modality} backbone, so it cannot read raw {modality}. Pass {modality}_features of width "
                f"{self.config.feature_size(modality)}, or load it with from_pretrained(..., backbone_dir=...) "
                f"or attach_backbone('{modality}', model)."
            )
        return backbone

    def encode_audio(self, inputs: torch.Tensor, audio_attention_mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Backbone features of waveforms (B, S) or spectral frames (B, F, M) -> features (B, T, D), bool mask (B, T)"""
        backbone = self._require_backbone("audio")
        with self._grad_if_trained("audio"):
            return encode_audio(backbone, inputs, audio_attention_mask, self.config.audio_layer, self.config.max_window_s)

    def encode_text(self, input_ids: torch.Tensor, text_attention_mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Backbone features of token ids (B, T) -> features (B, T, D), bool mask (B, T)"""
        backbone = self._require_backbone("text")
        with self._grad_if_trained("text"):
            return encode_text(backbone, input_ids, text_attention_mask, self.config.text_layer)

    def _grad_if_trained(self, modality: str) -> contextlib.AbstractContextManager:
        return torch.no_grad() if getattr(self.config, f"freeze_{modality}_backbone") else contextlib.nullcontext()

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        audio_features_mask: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        text_features_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
    ) -> BiBiEROutput | tuple:
        """Raw inputs, or precomputed backbone features, of either modality or both.

        A modality is missing where its tensor is None, and for those samples whose mask is zero throughout.

        Args:
            input_values: waveforms at 16 kHz, (B, S); for backbones that read spectral frames use `input_features`, (B, F, M).
            audio_attention_mask: mask of either, (B, S) or (B, F), 1 = keep.
            input_ids, text_attention_mask: tokens and their mask, (B, T).
            audio_features, audio_features_mask: backbone features (B, T_a, D_a) in place of the waveform, and their mask (B, T_a).
            text_features, text_features_mask: likewise, (B, T_t, D_t) and (B, T_t).
            labels: hard, integers (B,), or soft, (B, K) with rows that sum to one.
            num_items_in_batch: samples of the whole (global) batch; the loss is a sum divided by it. None: B.
            return_dict: False for a plain tuple.

        Raises:
            ValueError: nothing to work on, both forms of one modality, or shapes that do not fit; says which.
        """
        raw_audio = self._one_audio_input(input_values, input_features)
        audio, audio_mask = self._features("audio", raw_audio, audio_attention_mask, audio_features, audio_features_mask)
        text, text_mask = self._features("text", input_ids, text_attention_mask, text_features, text_features_mask)
        if audio is None and text is None:
            raise ValueError(
                "There is neither audio nor text. Pass input_values (or input_features) or audio_features, "
                "and/or input_ids or text_features."
            )
        if audio is not None and text is not None and len(audio) != len(text):
            raise ValueError(f"The batch has {len(audio)} samples of audio and {len(text)} of text; they must be the same samples.")
        batch = len(audio if audio is not None else text)

        audio, audio_logits, audio_mask, has_audio = self._encode(self.audio_encoder, audio, audio_mask, batch)
        text, text_logits, text_mask, has_text = self._encode(self.text_encoder, text, text_mask, batch)
        keep_audio, keep_text = self._modality_dropout(has_audio, has_text)
        audio, audio_mask = self._stand_in(self.missing_audio, audio, audio_mask, keep_audio)
        text, text_mask = self._stand_in(self.missing_text, text, text_mask, keep_text)

        fused = self.fusion(audio, audio_mask, text, text_mask)
        logits = self.classifier(fused)
        loss = None
        if labels is not None:
            loss = self._loss(labels, logits, ((audio_logits, has_audio), (text_logits, has_text)), num_items_in_batch)
        output = BiBiEROutput(loss=loss, logits=logits, audio_logits=audio_logits, text_logits=text_logits, fused_embedding=fused)
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return output if use_dict else output.to_tuple()

    def _one_audio_input(self, input_values: torch.Tensor | None, input_features: torch.Tensor | None) -> torch.Tensor | None:
        if input_values is None and input_features is None:
            return None
        expected = audio_input_name(self._require_backbone("audio").config)
        given = "input_values" if input_features is None else "input_features"
        if given != expected or (input_values is not None and input_features is not None):
            raise ValueError(f"The audio backbone '{self.config.audio_config.model_type}' reads {expected}; leave the other one out.")
        return input_values if input_features is None else input_features

    def _features(
        self,
        modality: str,
        raw: torch.Tensor | None,
        raw_mask: torch.Tensor | None,
        features: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Features (B, T, D) and bool mask (B, T) with the kept steps first, or None and None."""
        if raw is not None and features is not None:
            raise ValueError(f"Raw {modality} and {modality}_features were both given; leave one out.")
        if raw is not None:
            encode = self.encode_audio if modality == "audio" else self.encode_text
            features, mask = encode(raw, raw_mask)
            return features.to(self.missing_audio.dtype), mask
        if features is None:
            return None, None
        width = self.config.feature_size(modality)
        if features.dim() != 3 or features.shape[-1] != width:
            raise ValueError(f"{modality}_features must have the shape (batch, time, {width}), got {tuple(features.shape)}.")
        features = features.to(self.missing_audio.dtype)
        if features.shape[1] == 0:
            features = features.new_zeros(len(features), 1, width)
            return features, torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)
        if mask is None:
            return features, torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        if mask.shape != features.shape[:2]:
            raise ValueError(f"{modality}_features_mask has the shape {tuple(mask.shape)}; it must be {tuple(features.shape[:2])}.")
        return kept_first(features, mask.bool())

    def _encode(
        self, encoder: UnimodalEncoder, features: torch.Tensor | None, mask: torch.Tensor | None, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """(frames, logits, mask, which samples have this modality)"""
        if features is None:
            weight = encoder.final_norm.weight
            frames = weight.new_zeros(batch, 1, len(weight))
            mask = torch.zeros(batch, 1, dtype=torch.bool, device=weight.device)
            return frames, None, mask, mask[:, 0]
        present = mask.any(1)
        frames, logits = encoder(features, mask)
        return frames, logits * present.unsqueeze(1), mask, present

    def _modality_dropout(self, has_audio: torch.Tensor, has_text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """In training, hides one modality of some samples that have both, so that the model learns to do with the other."""
        if not self.training or self.config.modality_dropout == 0:
            return has_audio, has_text
        draw = torch.rand(len(has_audio), device=has_audio.device)
        hide_audio = has_audio & has_text & (draw < self.config.modality_dropout / 2)
        hide_text = has_audio & has_text & (draw > 1 - self.config.modality_dropout / 2)
        return has_audio & ~hide_audio, has_text & ~hide_text

    @staticmethod
    def _stand_in(
        stand_in: torch.Tensor, frames: torch.Tensor, mask: torch.Tensor, present: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For samples without the modality, a sequence of one learned step. Never a branch, so that the parameter always has a gradient."""
        first = torch.where(present.unsqueeze(1), frames[:, 0], stand_in)
        frames = torch.cat([first.unsqueeze(1), frames[:, 1:]], dim=1)
        mask = mask & present.unsqueeze(1)
        first_kept = mask[:, :1] | ~present.unsqueeze(1)
        return frames, torch.cat([first_kept, mask[:, 1:]], dim=1)

    def _loss(
        self,
        labels: torch.Tensor,
        logits: torch.Tensor,
        unimodal: tuple[tuple[torch.Tensor | None, torch.Tensor], ...],
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        targets = _as_distribution(labels, logits.shape[0], logits.shape[1]).to(logits.device)
        weights = None if self.config.class_weights is None else torch.tensor(self.config.class_weights, device=logits.device)
        items = len(logits) if num_items_in_batch is None else num_items_in_batch
        loss = soft_cross_entropy(logits, targets, weights).sum()
        for some_logits, present in unimodal:
            if some_logits is not None and self.config.unimodal_loss_weight > 0:
                loss = loss + self.config.unimodal_loss_weight * (soft_cross_entropy(some_logits, targets, weights) * present).sum()
        return loss / items


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """-sum_c w_c q_c log p_c of each sample.

    Args:
        logits: (B, K).
        targets: q, (B, K), rows sum to one; one-hot for hard labels.
        weights: w, (K,).

    Returns:
        (B,), float32
    """
    log_p = F.log_softmax(logits.float(), dim=-1)
    targets = targets.float() if weights is None else targets.float() * weights
    return -(targets * log_p).sum(-1)


def _as_distribution(labels: torch.Tensor, batch: int, classes: int) -> torch.Tensor:
    """Hard (B,) or soft (B, K) labels -> (B, K)"""
    checked = not torch.compiler.is_compiling()
    if labels.dim() == 1 and len(labels) == batch and not labels.is_floating_point():
        if checked and ((labels < 0) | (labels >= classes)).any():
            raise ValueError(f"Hard labels must be in 0..{classes - 1}, got {sorted(set(labels.tolist()) - set(range(classes)))}.")
        return F.one_hot(labels.long(), classes).float()
    if labels.shape == (batch, classes) and labels.is_floating_point():
        if checked and not ((labels >= 0).all() and torch.allclose(labels.float().sum(-1), torch.ones(()).to(labels.device), atol=1e-3)):
            raise ValueError("Soft labels must be distributions: no value below zero (or NaN), every row with the sum one.")
        return labels
    raise ValueError(
        f"labels have the shape {tuple(labels.shape)} and the type {labels.dtype}; "
        f"allowed are integers ({batch},) or floats ({batch}, {classes})."
    )


BiBiERConfig.register_for_auto_class()
BiBiERForEmotionClassification.register_for_auto_class("AutoModel")
