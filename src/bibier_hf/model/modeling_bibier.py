"""BiBiER: bilingual bimodal emotion recognition, from speech and text to seven emotions.

Paper: Ryumina et al., "BiBiER: A Bilingual Bimodal Emotion Recognition Method with Improved Generalization through
    Data Augmentation",
Expert Systems with Applications, 2025.

    waveform -- audio backbone -- audio encoder --+-- frames --+-- fusion -- classifier -- logits
                                                  +-- audio_logits                |
    text ------ text backbone --- text encoder ---+-- frames --+                  +------- fused_embedding
                                                  +-- text_logits

A model of one modality ends after its encoder. Of two modalities either may be missing, in a whole batch or in some of
its samples: a learned sequence of one step stands in for it. Padding is masked everywhere, so a sample's result does
not depend on its batch.
"""

import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
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
    load_adapter,
    load_backbone,
    runs_in_equal_lengths,
    weights_hash,
)
from .configuration_bibier import EMBEDDED, MODALITIES, TASK, BiBiERConfig, CheckpointError, one_line
from .encoders_bibier import StatisticsPooling, UnimodalEncoder
from .fusion_bibier import FUSIONS, Classifier, GraphAttention, LogitMixture, UnevenLayerNorm
from .hashing_bibier import is_hashed, model_digest
from .importing_bibier import make_importable
from .mamba_bibier import SelectiveSSM
from .pipeline_bibier import register_task
from .sequence_bibier import Mixup, masked_mean, random_window

if TYPE_CHECKING:  # never run: it makes `save_pretrained` put the processor's code beside the model's
    from .processing_bibier import BiBiERProcessor  # noqa: F401

logger = logging.get_logger(__name__)

AUTO_MAP = {
    "AutoConfig": "configuration_bibier.BiBiERConfig",
    "AutoModel": "modeling_bibier.BiBiERForEmotionClassification",
    "AutoModelForAudioClassification": "modeling_bibier.BiBiERForEmotionClassification",
    "AutoModelForSequenceClassification": "modeling_bibier.BiBiERForEmotionClassification",
    "AutoProcessor": "processing_bibier.BiBiERProcessor",
}
_HEAD_PREFIXES = ("audio_encoder.", "text_encoder.", "fusion.", "classifier.", "mixture.")

CUSTOM_PIPELINES = {
    TASK: {"impl": "pipeline_bibier.AudioTextEmotionPipeline", "pt": ["AutoModel"], "tf": [], "type": "multimodal"},
}


ADAPTER_FOLDER = "{}_adapter"
"""Where in a checkpoint the LoRA adapter of a modality's backbone stands."""


@dataclass
class BiBiEROutput(ModelOutput):
    """Output of [`BiBiERForEmotionClassification`]. B samples, K labels in the order of `config.id2label`.

    Args:
        loss: scalar, when `labels` are given.
        logits: (B, K), from the fused modalities.
        audio_logits, text_logits: (B, K), from one modality; zeros (no preference) for a sample without it, None where
            the batch has none.
        fused_embedding: (B, E), the vector that the classifier reads; without one, the mean frames of the modalities.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    audio_logits: torch.Tensor | None = None
    text_logits: torch.Tensor | None = None
    fused_embedding: torch.Tensor | None = None


@dataclass
class _Encoded:
    """One modality of a batch, encoded. `present`: which samples have it, (B,)."""

    frames: torch.Tensor  # (B, T, size)
    mask: torch.Tensor  # bool (B, T)
    present: torch.Tensor  # bool (B,)
    pooled: torch.Tensor  # (B, size)
    logits: torch.Tensor | None  # (B, K)
    has_logits: torch.Tensor  # bool (B,)


class BiBiERPreTrainedModel(PreTrainedModel):
    """Initialisation, and saving and loading with the backbones inside or beside the checkpoint."""

    config_class = BiBiERConfig
    base_model_prefix = "bibier"
    main_input_name = "input_values"
    input_modalities = ("audio", "text")
    accepts_loss_kwargs = True
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _keep_in_fp32_modules_strict = ["A_log", "A"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SelectiveSSM):
            module.init_parameters()
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, GraphAttention):
            init.xavier_uniform_(module.att_src)
            init.xavier_uniform_(module.att_dst)
            init.zeros_(module.bias)
        elif isinstance(module, UnevenLayerNorm):
            init.normal_(module.weight, mean=1.0, std=0.1)
            init.zeros_(module.bias)
        elif isinstance(module, StatisticsPooling):
            init.zeros_(module.mean)
            init.ones_(module.std)
        elif isinstance(module, LogitMixture):
            init.uniform_(module.weights)
        elif isinstance(module, BiBiERForEmotionClassification):
            for name in ("missing_audio", "missing_text"):
                if hasattr(module, name):
                    init.normal_(getattr(module, name), std=self.config.initializer_range)
            init.copy_(module.trained_labels, encoded_labels(self.config).to(module.trained_labels.device))
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
            backbone_dir: where to look for those backbones instead of the Hub: `{"audio": folder, "text": folder}`, or
                one folder with a sub-folder for each (`<owner>/<name>`, `<name>` or `<owner>--<name>`).
            kwargs: passed on. `ignore_mismatched_sizes=True` allows labels other than those of the weights: the
                classifiers then start from random weights.

        Raises:
            CheckpointError: a `config.json` or weights that cannot be used; weights that do not fit the configuration.
            OSError: no checkpoint there.
        """
        source = pretrained_model_name_or_path
        try:
            loaded = super().from_pretrained(source, *args, **kwargs)
        except (CheckpointError, OSError):
            raise
        except Exception as error:  # whatever damaged weights, or sizes that nothing can have, end in
            if not isinstance(kwargs.get("config"), BiBiERConfig):
                BiBiERConfig.from_pretrained(
                    source, **_download_options(kwargs)
                )  # says more where the config is wrong
            if source is None or (isinstance(error, TypeError) and "unexpected keyword argument" in str(error)):
                raise
            if sys.flags.optimize > 1:
                raise CheckpointError(
                    "python -OO (PYTHONOPTIMIZE=2) removes the docstrings that transformers reads. Use -O, or neither."
                ) from error
            raise CheckpointError(f"{source}: the weights cannot be loaded: {one_line(error)}") from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._check_labels(source, kwargs.get("ignore_mismatched_sizes", False))
        fetch = _download_options(kwargs)
        for modality in MODALITIES:
            if not getattr(model.config, f"{modality}_backbone_stored"):
                model._fetch_backbone(modality, backbone_dir, fetch)
        adapted = [modality for modality in MODALITIES if getattr(model.config, f"{modality}_adapter_stored")]
        if adapted:
            folder = _checkpoint_folder(
                pretrained_model_name_or_path, adapted, revision=kwargs.get("revision"), **fetch
            )
            for modality in adapted:
                load_adapter(
                    getattr(model, f"{modality}_backbone"), os.path.join(folder, ADAPTER_FOLDER.format(modality))
                )
        for modality in MODALITIES:
            if (backbone := getattr(model, f"{modality}_backbone")) is not None:
                runs_in_equal_lengths(backbone)
        model.freeze()  # loading has made every parameter anew
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        state_dict: dict | None = None,
        save_original_format: bool = False,
        **kwargs: Any,
    ) -> None:
        """As in transformers; leaves backbones out as `config.save_backbones` says and writes the code for
        `trust_remote_code=True`.

        Args:
            save_directory: folder, made if needed.
            state_dict: weights to save instead of the model's.
            save_original_format: False, unlike in transformers: keys are written as they are in memory, so that a
                training checkpoint restores every backbone.
            kwargs: passed on.
        """
        stored = {f"{modality}_backbone_stored": not self._is_external(modality) for modality in MODALITIES}
        state_dict = self.state_dict() if state_dict is None else state_dict
        left_out = tuple(
            f"{modality}_backbone." for modality in MODALITIES if not stored[f"{modality}_backbone_stored"]
        )
        state_dict = {key: value for key, value in state_dict.items() if not key.startswith(left_out)}
        for modality in MODALITIES:
            backbone = getattr(self, f"{modality}_backbone")
            stored[f"{modality}_adapter_stored"] = adapted = getattr(backbone, "_hf_peft_config_loaded", False)
            if adapted:  # the base as if it had no adapter, which has a folder of its own
                state_dict = _without_adapter(state_dict, f"{modality}_backbone.")
                backbone.save_pretrained(os.path.join(save_directory, ADAPTER_FOLDER.format(modality)))
        before = {key: getattr(self.config, key) for key in stored}
        self.config.auto_map = dict(AUTO_MAP)
        self.config.custom_pipelines = CUSTOM_PIPELINES
        try:
            for key, value in stored.items():
                setattr(self.config, key, value)
            super().save_pretrained(
                save_directory, state_dict=state_dict, save_original_format=save_original_format, **kwargs
            )
        finally:
            for key, value in before.items():
                setattr(self.config, key, value)

    @staticmethod
    def _finalize_model_loading(model: "BiBiERPreTrainedModel", load_config: Any, loading_info: Any) -> Any:
        """Refuses weights that do not fit, where transformers only warns, before anything gets random numbers."""
        model.mark_tied_weights_as_initialized(loading_info)
        model._adjust_missing_and_unexpected_keys(loading_info)
        source, replace = load_config.pretrained_model_name_or_path, load_config.ignore_mismatched_sizes
        mismatched = {name: (tuple(found), tuple(wanted)) for name, found, wanted in loading_info.mismatched_keys}
        if mismatched.keys() == {"trained_labels"} and not replace:
            raise model._label_error(source)
        problems = {
            "missing": loading_info.missing_keys - model.all_tied_weights_keys.keys(),
            "unknown to the model": loading_info.unexpected_keys,
            "of another shape": [f"{name} {found}, not {wanted}" for name, (found, wanted) in mismatched.items()],
        }
        if replace:
            del problems["of another shape"]
        if source is not None and any(problems.values()):  # without a source the caller has given the weights
            told = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
            hint = "; or replace them: ignore_mismatched_sizes=True" if problems.get("of another shape") else ""
            raise CheckpointError(
                f"{source}: the weights do not fit config.json ({told}). Restore the file that was changed{hint}."
            )
        loading_info = PreTrainedModel._finalize_model_loading(model, load_config, loading_info)
        if "trained_labels" in mismatched:
            model.trained_labels = model.trained_labels[:0]  # unlike any labels
        return loading_info

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
        build_backbones: build the backbones that belong into the checkpoint, with random weights; False leaves them to
            `attach_backbone`.

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
        for modality in MODALITIES:
            encodes = modality in config.modalities and getattr(config, f"{modality}_encoder") != "none"
            setattr(self, f"{modality}_encoder", UnimodalEncoder(config, modality) if encodes else None)
        bimodal = len(config.modalities) == 2
        self.fusion = self.classifier = self.mixture = None
        if bimodal and config.fusion != "late":
            self.missing_audio = nn.Parameter(torch.empty(config.audio_encoder_size))
            self.missing_text = nn.Parameter(torch.empty(config.text_encoder_size))
            self.fusion = FUSIONS[config.fusion](config)
            self.classifier = Classifier(self.fusion.output_size, config)
        if bimodal and (config.fusion == "late" or config.add_unimodal_logits):
            self.mixture = LogitMixture(2 if config.fusion == "late" else 3, config.num_labels)
        # Saved with the weights, so that a config.json with other labels or another order of them is noticed.
        self.register_buffer("trained_labels", encoded_labels(config))
        self.post_init()
        self.freeze()

    def _label_error(self, source: str | os.PathLike | None, trained: str = "others") -> CheckpointError:
        return CheckpointError(
            f"{source}: config.json has the labels {', '.join(self.config.id2label.values())}; the weights were trained "
            f"with {trained}. Restore id2label, or pass ignore_mismatched_sizes=True to train new classifiers."
        )

    def __reduce_ex__(self, protocol: int) -> Any:
        if is_hashed():  # by a digest of its weights, not by a copy of them
            return tuple, (model_digest(self),)
        return super().__reduce_ex__(protocol)

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any) -> None:
        # Weights from elsewhere have no record of their labels.
        state_dict.setdefault(f"{prefix}trained_labels", self.trained_labels)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_labels(self, source: str | os.PathLike | None, replace: bool) -> None:
        """Compares the labels of the configuration with those that the weights were trained with.

        Args:
            source: named in the error.
            replace: start the classifiers from random weights where the labels differ.

        Raises:
            CheckpointError: other labels, or another order.
        """
        expected = encoded_labels(self.config).to(self.trained_labels.device)
        if self.trained_labels.is_meta or torch.equal(self.trained_labels, expected):
            return
        if not replace:
            names = bytes(self.trained_labels.tolist()).decode(errors="replace").splitlines()
            raise self._label_error(source, f"{', '.join(names)}, in this order")
        logger.warning("The labels are not those of the weights: the classifiers start from random weights.")
        self.trained_labels = expected
        for module in self.modules():
            if isinstance(module, LogitMixture):
                nn.init.uniform_(module.weights)
        for module in (self.classifier, *(getattr(self, f"{modality}_encoder") for modality in MODALITIES)):
            if module is not None:
                head = module[-1] if isinstance(module, Classifier) else module.classifier
                nn.init.xavier_uniform_(head.weight)
                nn.init.zeros_(head.bias)

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
            audio, text: Hub id or folder of a pretrained model, `"embedded"` (small, trained from scratch), or None
                (features only).
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
                model.attach_backbone(
                    modality, load_backbone(source, getattr(config, f"{modality}_backbone_revision"))
                )
        return model

    def attach_backbone(self, modality: str, backbone: PreTrainedModel) -> None:
        """Put a backbone in place; it must have the width that the encoder expects."""
        width, expected = backbone.config.hidden_size, self.config.backbone_size(modality)
        if width != expected:
            raise ValueError(
                f"The {modality} backbone has width {width}, but the {modality} encoder of this model expects "
                f"{expected}."
            )
        setattr(self, f"{modality}_backbone", backbone.to(device=self.device))
        runs_in_equal_lengths(backbone)  # found now, before hooks and wrappers are around it
        self.freeze()
        self.train(self.training)

    def backbone_key(self, modality: str) -> str:
        """What the features of a modality depend on: the backbone's id and revision (or the hash of its weights) and
        the layer."""
        revision = getattr(self.config, f"{modality}_backbone_revision")
        source = getattr(self.config, f"{modality}_backbone_id")
        name = f"{source}@{revision}" if source and revision else weights_hash(self._require_backbone(modality))
        cepstrum = "+cepstrum" if modality == "audio" and self.config.audio_cepstrum else ""
        return f"{name}#{getattr(self.config, f'{modality}_layer')}{cepstrum}"

    def freeze(self) -> None:
        """Let no gradient into the backbones and encoders that the configuration calls frozen."""
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def _frozen_modules(self) -> list[nn.Module]:
        names = [f"{modality}_{part}" for modality in MODALITIES for part in ("backbone", "encoder")]
        frozen = [getattr(self, name, None) for name in names if getattr(self.config, f"freeze_{name}")]
        return [module for module in frozen if module is not None]

    def train(self, mode: bool = True) -> "BiBiERForEmotionClassification":
        """What is frozen stays in evaluation mode: no dropout and no SpecAugment in features that nothing adapts
        to."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _require_backbone(self, modality: str) -> PreTrainedModel:
        backbone = getattr(self, f"{modality}_backbone")
        if backbone is None:
            raise ValueError(
                f"This model has no {modality} backbone, so it cannot read raw {modality}. Pass {modality}_features "
                "of width "
                f"{self.config.feature_size(modality)}, or load it with from_pretrained(..., backbone_dir=...) "
                f"or attach_backbone('{modality}', model)."
            )
        return backbone

    def encode_audio(
        self, inputs: torch.Tensor, audio_attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Backbone features of waveforms (B, S) or spectral frames (B, F, M) -> features (B, T, D), bool mask (B,
        T)"""
        backbone = self._require_backbone("audio")
        with self._grad_if_trained("audio"):
            config = self.config
            return encode_audio(
                backbone, inputs, audio_attention_mask, config.audio_layer, config.max_window_s, config.audio_cepstrum
            )

    def encode_text(
        self, input_ids: torch.Tensor, text_attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
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
        audio_logits: torch.Tensor | None = None,
        text_logits: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> BiBiEROutput | tuple:
        """Raw inputs, or precomputed backbone features, of either modality or both.

        A modality is missing where its tensor is None, and for those samples whose mask is zero throughout.

        Args:
            input_values: waveforms at 16 kHz, (B, S); for backbones that read spectral frames use `input_features`,
                (B, F, M).
            audio_attention_mask: mask of either, (B, S) or (B, F), 1 = keep.
            input_ids, text_attention_mask: tokens and their mask, (B, T).
            audio_features, audio_features_mask: backbone features (B, T_a, D_a) in place of the waveform, and their
                mask (B, T_a).
            text_features, text_features_mask: likewise, (B, T_t, D_t) and (B, T_t).
            audio_logits, text_logits: (B, K), taken in place of those of the model's own encoders; features beside
                them say which samples have the modality.
            labels: hard, integers (B,), or soft, (B, K) with rows that sum to one.
            num_items_in_batch: samples of the whole (global) batch; the loss is a sum divided by it. None: B.
            return_dict: False for a plain tuple.
            attention_mask: mask of the only raw input, under the name that transformers' pipelines of one modality
                (`"audio-classification"`, `"text-classification"`) give it.

        Raises:
            ValueError: nothing to work on, both forms of one modality, or shapes that do not fit; says which.
        """
        raw_audio = self._one_audio_input(input_values, input_features)
        if attention_mask is not None:
            if (raw_audio is None) == (input_ids is None):
                raise ValueError(
                    "attention_mask is for either audio or text; name the masks audio_attention_mask and "
                    "text_attention_mask, as BiBiERProcessor does."
                )
            if raw_audio is None:
                text_attention_mask = attention_mask
            else:
                audio_attention_mask = attention_mask
        audio, audio_mask = self._features(
            "audio", raw_audio, audio_attention_mask, audio_features, audio_features_mask
        )
        if self.training and audio is not None and self.config.audio_crop_frames is not None:
            audio, audio_mask = random_window(audio, audio_mask, self.config.audio_crop_frames)
        text, text_mask = self._features("text", input_ids, text_attention_mask, text_features, text_features_mask)
        batch = self._batch_size(audio=audio, text=text, audio_logits=audio_logits, text_logits=text_logits)
        mixup = (
            Mixup(batch, self.config.mixup_alpha, self.device)
            if self.training and self.config.mixup_alpha > 0
            else None
        )
        encoded_audio = self._encode("audio", audio, audio_mask, audio_logits, batch, mixup)
        encoded_text = self._encode("text", text, text_mask, text_logits, batch, mixup)

        if len(self.config.modalities) == 1:
            logits, fused = self._unimodal(encoded_audio if self.config.modalities == ["audio"] else encoded_text)
            heads = ()
        else:
            logits, fused = self._fuse(encoded_audio, encoded_text)
            heads = (encoded_audio, encoded_text)
        loss = None if labels is None else self._loss(labels, logits, heads, num_items_in_batch, mixup)
        output = BiBiEROutput(
            loss=loss,
            logits=logits,
            audio_logits=encoded_audio.logits,
            text_logits=encoded_text.logits,
            fused_embedding=fused,
        )
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return output if use_dict else output.to_tuple()

    def _batch_size(self, **inputs: torch.Tensor | None) -> int:
        sizes = {name: tensor.shape[0] for name, tensor in inputs.items() if tensor is not None}
        if not sizes:
            names = {
                "audio": "input_values (or input_features) or audio_features",
                "text": "input_ids or text_features",
            }
            wanted = ", and/or ".join(names[modality] for modality in self.config.modalities)
            raise ValueError(
                f"There is neither audio nor text that this model reads ({' and '.join(self.config.modalities)}). "
                f"Pass {wanted}."
            )
        batch = next(iter(sizes.values()))
        if any(size != batch for size in sizes.values()):
            raise ValueError(f"The batch has different numbers of samples: {sizes}; they must be the same samples.")
        return batch

    def _unimodal(self, encoded: _Encoded) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits, embedding) of a model of one modality"""
        name = self.config.modalities[0]
        if encoded.logits is None or not (torch.compiler.is_compiling() or bool(encoded.has_logits.all())):
            raise ValueError(
                f"This model reads {name} alone (modalities={[name]}), and a sample of the batch has no {name}."
            )
        return encoded.logits, encoded.pooled

    def _fuse(self, audio: _Encoded, text: _Encoded) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits, embedding) from both modalities"""
        if self.config.fusion == "late":
            candidates, embedding = [], torch.cat([audio.pooled, text.pooled], dim=-1)
        else:
            keep_audio, keep_text = self._modality_dropout(audio.present, text.present)
            embedding = self.fusion(
                *self._stand_in(self.missing_audio, audio.frames, audio.mask, keep_audio),
                *self._stand_in(self.missing_text, text.frames, text.mask, keep_text),
            )
            logits = self.classifier(embedding)
            if self.mixture is None:
                return logits, embedding
            candidates = [(logits, torch.ones_like(audio.present))]
        # The mixture gives the weight of an absent modality to the others.
        for encoded in (text, audio):
            logits = (
                encoded.logits
                if encoded.logits is not None
                else embedding.new_zeros(embedding.shape[0], self.config.num_labels)
            )
            candidates.insert(0, (logits, encoded.has_logits))
        return self.mixture(*map(list, zip(*candidates, strict=True))), embedding

    def _one_audio_input(
        self, input_values: torch.Tensor | None, input_features: torch.Tensor | None
    ) -> torch.Tensor | None:
        if (input_values is None and input_features is None) or "audio" not in self.config.modalities:
            return None
        expected = audio_input_name(self._require_backbone("audio").config)
        given = "input_values" if input_features is None else "input_features"
        if given != expected or (input_values is not None and input_features is not None):
            raise ValueError(
                f"The audio backbone '{self.config.audio_config.model_type}' reads {expected}; leave the other one "
                "out."
            )
        if input_features is not None and input_features.dim() == 3:
            backbone = self.config.audio_config
            bands = getattr(backbone, "feature_projection_input_dim", None) or backbone.num_mel_bins
            if input_features.shape[-1] != bands:
                raise ValueError(
                    f"input_features must have the shape (batch, frames, {bands}), got {tuple(input_features.shape)}. "
                    f"BiBiERProcessor and pipeline({TASK!r}) make them; Whisper's own front end, which "
                    "pipeline('audio-classification') uses, puts the bands first and pads to 30 s."
                )
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
        if raw is not None and modality in self.config.modalities:
            encode = self.encode_audio if modality == "audio" else self.encode_text
            features, mask = encode(raw, raw_mask)
            return self._as_published(modality, features.to(self._compute_dtype), mask)
        if features is None or modality not in self.config.modalities:
            return None, None
        width = self.config.feature_size(modality)
        if features.dim() != 3 or features.shape[-1] != width:
            raise ValueError(
                f"{modality}_features must have the shape (batch, time, {width}), got {tuple(features.shape)}."
            )
        features = features.to(self._compute_dtype)
        if features.shape[1] == 0:
            features = features.new_zeros(features.shape[0], 1, width)
            return features, torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)
        if mask is None:
            mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        if mask.shape != features.shape[:2]:
            raise ValueError(
                f"{modality}_features_mask has the shape {tuple(mask.shape)}; it must be {tuple(features.shape[:2])}."
            )
        return self._as_published(modality, *kept_first(features, mask.bool()))

    @property
    def _compute_dtype(self) -> torch.dtype:
        """Of everything above the backbones."""
        return next(parameter.dtype for name, parameter in self.named_parameters() if name.startswith(_HEAD_PREFIXES))

    def _as_published(
        self, modality: str, features: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The published code encodes the whole text, keeps the first `max_text_tokens` positions and fills up with
        zeros, unmasked. Features of another origin than the model's backbone are taken as they are."""
        if modality != "text" or self.config.masked or self.config.text_config is None:
            return features, mask
        features = (features * mask.unsqueeze(-1))[:, : self.config.max_text_tokens]
        features = F.pad(features, (0, 0, 0, self.config.max_text_tokens - features.shape[1]))
        return features, mask.any(1, keepdim=True).expand(features.shape[:2])

    def _encode(
        self,
        modality: str,
        features: torch.Tensor | None,
        mask: torch.Tensor | None,
        logits: torch.Tensor | None,
        batch: int,
        mixup: Mixup | None,
    ) -> _Encoded:
        encoder, size = getattr(self, f"{modality}_encoder"), getattr(self.config, f"{modality}_encoder_size")
        features_given = features is not None
        if not features_given:
            features = torch.zeros(batch, 1, size, dtype=self._compute_dtype, device=self.device)
            mask = torch.zeros(batch, 1, dtype=torch.bool, device=self.device)
            encoder = None
        present = mask.any(1)
        if not self.config.masked:
            mask = present.unsqueeze(1).expand_as(mask)
        if mixup is not None:
            present = mixup.present(present)
        if encoder is None:
            frames, mask = (features, mask) if mixup is None else mixup.sequences(features, mask)
            pooled, own = masked_mean(frames, mask), None
        else:
            frames, mask, pooled, own = encoder(features, mask, mixup)
            own = own * present.unsqueeze(1)
        has_logits = present if own is not None else torch.zeros_like(present)
        if logits is not None:
            if logits.shape != (batch, self.config.num_labels):
                raise ValueError(
                    f"{modality}_logits must have the shape {(batch, self.config.num_labels)}, got "
                    f"{tuple(logits.shape)}."
                )
            own = (logits if mixup is None else mixup(logits)).to(frames.dtype)
            # With features beside them, logits count for the samples that have the modality.
            has_logits = present if features_given else torch.ones_like(present)
        return _Encoded(frames, mask, present, pooled, own, has_logits)

    def _modality_dropout(self, has_audio: torch.Tensor, has_text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """In training, hides one modality of some samples that have both, so that the model learns to do with the
        other."""
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
        """For samples without the modality, a sequence of one learned step. Never a branch, so that the parameter
        always has a gradient."""
        absent, first = ~present.unsqueeze(1), torch.arange(frames.shape[1], device=frames.device) == 0
        frames = torch.where((absent & first).unsqueeze(-1), stand_in, frames)
        return frames, (mask & ~absent) | (absent & first)

    def _loss(
        self,
        labels: torch.Tensor,
        logits: torch.Tensor,
        heads: tuple[_Encoded, ...],
        num_items_in_batch: torch.Tensor | int | None,
        mixup: Mixup | None,
    ) -> torch.Tensor:
        targets = _as_distribution(labels, logits.shape[0], logits.shape[1]).to(logits.device)
        if mixup is not None:
            targets = mixup(targets)
        weights = (
            None
            if self.config.class_weights is None
            else torch.tensor(self.config.class_weights, device=logits.device)
        )
        items = len(logits) if num_items_in_batch is None else num_items_in_batch
        loss = soft_cross_entropy(logits, targets, weights).sum()
        for head in heads:
            if head.logits is not None and self.config.unimodal_loss_weight > 0:
                loss = (
                    loss
                    + self.config.unimodal_loss_weight
                    * (soft_cross_entropy(head.logits, targets, weights) * head.has_logits).sum()
                )
        return loss / items


def encoded_labels(config: BiBiERConfig) -> torch.Tensor:
    """Names of the labels in order, as UTF-8 with a line each: uint8 (N,)"""
    names = "\n".join(config.id2label[index] for index in range(config.num_labels))
    return torch.tensor(list(names.encode()), dtype=torch.uint8)


def _download_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Of the arguments of `from_pretrained`, those that say how to fetch from the Hub."""
    return {key: kwargs[key] for key in ("cache_dir", "token", "local_files_only", "force_download") if key in kwargs}


def _some(names: Iterable[str], limit: int = 5) -> str:
    names = sorted(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _without_adapter(state_dict: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The weights of a model whose module `prefix` has a LoRA adapter, under the names that they have without it."""
    inside = {key for key in state_dict if key.startswith(prefix)}
    kept = {key: value for key, value in state_dict.items() if key not in inside or ".lora_" not in key}
    return {key.replace(".base_layer.", ".") if key in inside else key: value for key, value in kept.items()}


def _checkpoint_folder(name: str | os.PathLike, adapted: list[str], **fetch: Any) -> str:
    """The folder of a checkpoint, fetched from the Hub (its adapters alone) where it is no folder."""
    if os.path.isdir(name):
        return os.fspath(name)
    return snapshot_download(
        name, allow_patterns=[f"{ADAPTER_FOLDER.format(modality)}/*" for modality in adapted], **fetch
    )


def soft_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
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
            raise ValueError(
                f"Hard labels must be in 0..{classes - 1}, got {sorted(set(labels.tolist()) - set(range(classes)))}."
            )
        return F.one_hot(labels.long(), classes).float()
    if labels.shape == (batch, classes) and labels.is_floating_point():
        if checked and not (
            (labels >= 0).all() and torch.allclose(labels.float().sum(-1), torch.ones(()).to(labels.device), atol=1e-3)
        ):
            raise ValueError(
                "Soft labels must be distributions: no value below zero (or NaN), every row with the sum one."
            )
        return labels
    raise ValueError(
        f"labels have the shape {tuple(labels.shape)} and the type {labels.dtype}; "
        f"allowed are integers ({batch},) or floats ({batch}, {classes})."
    )


BiBiERConfig.register_for_auto_class()
BiBiERForEmotionClassification.register_for_auto_class("AutoModel")
make_importable(__name__)
register_task()
