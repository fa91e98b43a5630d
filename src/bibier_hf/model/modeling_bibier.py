"""BiBiER: bilingual bimodal emotion recognition, from speech and text to emotions.

Paper: Ryumina et al., "BiBiER: A Bilingual Bimodal Emotion Recognition Method with Improved Generalization through
    Data Augmentation",
Expert Systems with Applications, 2025.

    waveform -- audio backbone -- audio encoder --+-- frames --+-- fusion -- classifier -- logits
                                                  +-- audio_logits                |
    text ------ text backbone --- text encoder ---+-- frames --+                  +------- fused_embedding
                                                  +-- text_logits

A unimodal model ends after its encoder. In a bimodal model either modality may be missing, in a whole batch or in some
of its samples: one learned step replaces it. Padding is masked everywhere, so a sample's result does not depend on its
batch.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple, logging

from .backbones_bibier import (
    audio_input_name,
    find_backbone_folder,
    load_adapter,
    load_backbone,
    runs_in_equal_lengths,
)
from .configuration_bibier import EMBEDDED, TASK, BiBiERConfig
from .encoders_bibier import StatisticsPooling
from .fusion_bibier import FUSIONS, Classifier, GraphAttention, LogitMixture, UnevenLayerNorm
from .hashing_bibier import is_hashed, model_digest
from .importing_bibier import make_importable
from .losses_bibier import checked_targets, make_loss
from .mamba_bibier import SelectiveSSM
from .pipeline_bibier import register_task
from .sequence_bibier import Dropout, Mixup, Recorder
from .streams_bibier import AudioStream, Encoded, Features, ModalityStream, TextStream
from .unsure_bibier import SpeechCheck
from .validation_bibier import CheckpointError, one_line

if TYPE_CHECKING:  # never run: it makes `save_pretrained` save the processor's code with the model's
    from .processing_bibier import BiBiERProcessor  # noqa: F401

logger = logging.get_logger(__name__)

_takes_any_weights: ContextVar[bool] = ContextVar("_takes_any_weights", default=False)
"""Whether the caller of `from_pretrained` asked for the loading info, and will judge it."""

AUTO_MAP = {
    "AutoConfig": "configuration_bibier.BiBiERConfig",
    "AutoModel": "modeling_bibier.BiBiERForEmotionClassification",
    "AutoModelForAudioClassification": "modeling_bibier.BiBiERForEmotionClassification",
    "AutoModelForSequenceClassification": "modeling_bibier.BiBiERForEmotionClassification",
    "AutoProcessor": "processing_bibier.BiBiERProcessor",
}

CUSTOM_PIPELINES = {
    TASK: {"impl": "pipeline_bibier.AudioTextEmotionPipeline", "pt": ["AutoModel"], "tf": [], "type": "multimodal"},
}

ADAPTER_FOLDER = "{}_adapter"
"""Folder in a checkpoint with the LoRA adapter of a modality's backbone."""


@dataclass
class BiBiERModelOutput(ModelOutput):
    """Output of [`BiBiERModel`] for B samples; a modality that the batch does not have is one masked step of zeros.

    Args:
        fused_embedding: (B, E), the output of the fusion; without a fusion, the concatenated mean frames.
        audio_frames, text_frames: (B, T, hidden_size of the modality), the encoded sequences.
        audio_mask, text_mask: integers (B, T), 1 for the steps that count.
        hidden_states: with `output_hidden_states=True`, a tuple of (B, T, width): the input of the audio encoder, the
            output of each of its blocks, the same for text, then audio and text after each pair of cross-modal layers,
            or both in one sequence after each block of `"bimamba"`.
        attentions: with `output_attentions=True`, a tuple of (B, heads, T, S) in the same order: self-attention of
            transformer encoders, then audio to text and text to audio for each pair of cross-modal layers.
    """

    fused_embedding: Tensor | None = None
    audio_frames: Tensor | None = None
    audio_mask: Tensor | None = None
    text_frames: Tensor | None = None
    text_mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class BiBiEROutput(ModelOutput):
    """Output of [`BiBiERForEmotionClassification`] for B samples and K labels in the order of `config.id2label`.

    Args:
        loss: scalar, if `labels` are given.
        logits: (B, K), from the fused modalities.
        audio_logits, text_logits: (B, K), from one modality; zeros (no preference) for a sample without it, None if
            the whole batch is without it.
        fused_embedding: (B, E), the input of the classifier; without one, the mean frames of the modalities.
        hidden_states, attentions: those of [`BiBiERModelOutput`].
        not_speech: (B,), the logit of the audio being anything but speech; zero for a sample without audio, None in
            training and in a model without the check (`audio_config.speech_check`).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    audio_logits: Tensor | None = None
    text_logits: Tensor | None = None
    fused_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    not_speech: Tensor | None = None


class BiBiERPreTrainedModel(PreTrainedModel):
    """Initializes, saves and loads the models, with backbones inside the checkpoint or fetched from the Hub."""

    config: BiBiERConfig
    if TYPE_CHECKING:
        base_model: "BiBiERModel"
    base_model_prefix = "bibier"
    main_input_name = "input_values"
    input_modalities = ["audio", "text"]
    accepts_loss_kwargs = True
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def post_init(self) -> None:
        # Decay rates and the scale of statistics are too imprecise in 16 bits. Only names that a model has are
        # allowed.
        names = {name.rsplit(".", 1)[-1] for name, _ in (*self.named_parameters(), *self.named_modules())}
        self._keep_in_fp32_modules_strict = sorted(names & {"A_log", "A", "speech_check"})
        self.main_input_name = main_input_name(self.config)
        super().post_init()
        self.freeze()

    @property
    def streams(self) -> dict[str, ModalityStream]:
        """Both modalities by name."""
        base = self.base_model
        return {"audio": base.audio, "text": base.text}

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
        elif isinstance(module, SpeechCheck):
            init.ones_(module.std)
            for tensor in (module.mean, module.weight, module.bias):
                init.zeros_(tensor)
        elif isinstance(module, LogitMixture):
            init.uniform_(module.weights)
        elif isinstance(module, ModalityStream):
            if module.missing is not None:
                init.normal_(module.missing, std=self.config.initializer_range)
        elif isinstance(module, BiBiERForEmotionClassification):
            init.copy_(module.trained_labels, encoded_labels(self.config).to(module.trained_labels.device))
            if module.config.label_ranges is not None:
                for layer in module.output_layers():
                    init.copy_(layer.weight, layer.weight * module.first_scales().to(layer.weight))
                    init.copy_(layer.bias, module.first_values().to(layer.bias))
        else:
            super()._init_weights(module)

    @classmethod
    def from_backbones(
        cls,
        audio: str | None = EMBEDDED,
        text: str | None = EMBEDDED,
        audio_revision: str | None = None,
        text_revision: str | None = None,
        **options: Any,
    ) -> Self:
        """Create a new model over pretrained backbones.

        Args:
            audio, text: Hub id or folder of a pretrained model, `"embedded"` (small, trained from scratch), or None
                (features only).
            audio_revision, text_revision: revision of a Hub id; the config stores its commit.
            options: fields of [`BiBiERConfig`].
        """
        config = BiBiERConfig.from_backbones(audio, text, audio_revision, text_revision, **options)
        model = cls(config, build_backbones=False)
        for stream, source in zip(model.streams.values(), (audio, text), strict=True):
            if source == EMBEDDED:
                model.attach_backbone(stream.name, stream.build_backbone())
            elif source is not None:
                model.attach_backbone(stream.name, load_backbone(source, stream.config.backbone_revision))
        return model

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *args: Any,
        backbone_dir: str | os.PathLike | dict | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load as in transformers, then fetch the backbones that the checkpoint only names.

        Args:
            pretrained_model_name_or_path: Hub id or folder of the checkpoint.
            args: passed on.
            backbone_dir: where to find those backbones instead of the Hub: `{"audio": folder, "text": folder}`, or one
                folder with a subfolder for each (`<owner>/<name>`, `<name>` or `<owner>--<name>`).
            kwargs: passed on. `ignore_mismatched_sizes=True` allows labels that differ from those of the weights: the
                classifiers then start from random weights. With `output_loading_info=True`, missing or unexpected
                weights are not an error but part of the info.

        Raises:
            CheckpointError: `config.json` or the weights are unusable, or do not fit each other.
            OSError: there is no checkpoint.
        """
        source = pretrained_model_name_or_path
        token = _takes_any_weights.set(kwargs.get("output_loading_info", False))
        try:
            loaded = super().from_pretrained(source, *args, **kwargs)
        except (CheckpointError, OSError):
            raise
        except Exception as error:  # damaged weights and impossible sizes can raise anything
            if not isinstance(kwargs.get("config"), BiBiERConfig):  # if the config is at fault, its error says more
                BiBiERConfig.from_pretrained(source, **_download_options(kwargs))
            if source is None or (isinstance(error, TypeError) and "unexpected keyword argument" in str(error)):
                raise
            if sys.flags.optimize > 1:
                raise CheckpointError(
                    "python -OO (PYTHONOPTIMIZE=2) removes the docstrings that transformers reads. Use -O, or neither."
                ) from error
            raise CheckpointError(f"{source}: the weights cannot be loaded: {one_line(error)}") from error
        finally:
            _takes_any_weights.reset(token)

        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._check_labels(source, kwargs.get("ignore_mismatched_sizes", False))
        fetch = _download_options(kwargs)
        for stream in model.streams.values():
            if not stream.config.backbone_stored:
                model._fetch_backbone(stream, backbone_dir, fetch)

        adapted = [stream for stream in model.streams.values() if stream.config.adapter_stored]
        if adapted:
            names = [stream.name for stream in adapted]
            folder = _checkpoint_folder(source, names, revision=kwargs.get("revision"), **fetch)
            for stream in adapted:
                load_adapter(stream.require_backbone(), os.path.join(folder, ADAPTER_FOLDER.format(stream.name)))

        for stream in model.streams.values():
            if stream.backbone is not None:
                runs_in_equal_lengths(stream.backbone)
        model.freeze()  # loading has replaced every parameter
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        state_dict: dict | None = None,
        save_original_format: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save as in transformers, without the backbones that `config.save_backbones` leaves out, and with the code
        for `trust_remote_code=True`.

        Args:
            save_directory: folder, created if needed.
            state_dict: weights to save instead of the model's own.
            save_original_format: False, unlike in transformers: keys are saved as they are in memory, so that a
                training checkpoint restores every backbone.
            kwargs: passed on.
        """
        state_dict = self.state_dict() if state_dict is None else state_dict
        configs = [stream.config for stream in self.streams.values()]
        before = [(config.backbone_stored, config.adapter_stored) for config in configs]
        self.config.auto_map = dict(AUTO_MAP)
        self.config.custom_pipelines = CUSTOM_PIPELINES
        try:
            for stream in self.streams.values():
                state_dict = self._prepare_to_save(stream, state_dict, save_directory)
            super().save_pretrained(
                save_directory, state_dict=state_dict, save_original_format=save_original_format, **kwargs
            )
        finally:
            for config, stored in zip(configs, before, strict=True):
                config.backbone_stored, config.adapter_stored = stored

    def _prepare_to_save(
        self, stream: ModalityStream, state_dict: dict[str, Tensor], folder: str | os.PathLike
    ) -> dict[str, Tensor]:
        """Record in the configuration what a checkpoint will contain of a backbone, and return the weights without the
        rest. An adapter gets its own folder."""
        prefix = f"{'' if self.base_model is self else self.base_model_prefix + '.'}{stream.name}.backbone."
        stream.config.backbone_stored = not self._is_external(stream)
        stream.config.adapter_stored = getattr(stream.backbone, "_hf_peft_config_loaded", False)
        if not stream.config.backbone_stored:
            state_dict = {key: value for key, value in state_dict.items() if not key.startswith(prefix)}
        if stream.config.adapter_stored:
            state_dict = _without_adapter(state_dict, prefix)
            stream.require_backbone().save_pretrained(os.path.join(folder, ADAPTER_FOLDER.format(stream.name)))
        return state_dict

    @staticmethod
    def _finalize_model_loading(model: "BiBiERPreTrainedModel", load_config: Any, loading_info: Any) -> Any:
        """Refuse weights that do not fit, where transformers would warn and initialize them randomly."""
        model.mark_tied_weights_as_initialized(loading_info)
        model._adjust_missing_and_unexpected_keys(loading_info)
        source, replace = load_config.pretrained_model_name_or_path, load_config.ignore_mismatched_sizes
        mismatched = {name: (tuple(found), tuple(wanted)) for name, found, wanted in loading_info.mismatched_keys}
        classifies = isinstance(model, BiBiERForEmotionClassification)
        if classifies and mismatched.keys() == {"trained_labels"} and not replace:
            raise model._label_error(source)

        missing = loading_info.missing_keys - model.all_tied_weights_keys.keys()
        if model.config.architectures == [BiBiERModel.__name__]:  # new classifiers only get a warning
            missing = {name for name in missing if name.startswith(f"{model.base_model_prefix}.")}
        problems = {
            "missing": missing,
            "unknown to the model": loading_info.unexpected_keys,
            "of another shape": [f"{name} {found}, not {wanted}" for name, (found, wanted) in mismatched.items()],
        }
        if replace:
            del problems["of another shape"]

        # Without a source, the caller passed the weights.
        checked = source is not None and not _takes_any_weights.get()
        if checked and any(problems.values()):
            found = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
            hint = ", or pass ignore_mismatched_sizes=True to replace them" if problems.get("of another shape") else ""
            raise CheckpointError(
                f"{source}: the weights do not fit config.json ({found}). Restore the file that was changed{hint}."
            )

        loading_info = PreTrainedModel._finalize_model_loading(model, load_config, loading_info)
        if classifies and "trained_labels" in mismatched:
            model.trained_labels = model.trained_labels[:0]  # equal to no labels
        return loading_info

    def _check_labels(self, source: str | os.PathLike | None, replace: bool) -> None:
        """Compare the labels of the configuration with those of the weights, if there are classifiers."""

    def _is_external(self, stream: ModalityStream) -> bool:
        """Whether this backbone is left out of checkpoints and fetched from the Hub by its id."""
        config, policy = stream.config, self.config.save_backbones
        if config.backbone is None or policy == "always":
            return False
        if policy == "never" and config.backbone_id is None:
            raise ValueError(
                f"save_backbones='never' is not allowed, because the {stream.name} backbone has no Hub id to fetch it "
                "by. Use save_backbones='auto' or 'always'."
            )
        return config.backbone_id is not None and (policy == "never" or bool(config.freeze_backbone))

    def _fetch_backbone(
        self, stream: ModalityStream, backbone_dir: str | os.PathLike | dict | None, fetch: dict
    ) -> None:
        backbone_id = stream.config.backbone_id
        assert backbone_id is not None  # the configuration requires it for a backbone that is not stored
        folder = find_backbone_folder(backbone_dir, stream.name, backbone_id)
        revision = None if folder else stream.config.backbone_revision
        try:
            backbone = load_backbone(folder or backbone_id, revision, **fetch)
        except OSError as error:
            raise OSError(
                f"The {stream.name} backbone '{backbone_id}' (revision {revision or 'main'}) could not be fetched: {error}\n"
                "Connect to the Hub once, or pass backbone_dir={...} with a local copy."
            ) from error
        self.attach_backbone(stream.name, backbone)

    def attach_backbone(self, modality: str, backbone: PreTrainedModel) -> None:
        """Set the backbone of a modality, which must have the width that the encoder expects."""
        self.streams[modality].attach(backbone.to(device=self.device))
        runs_in_equal_lengths(backbone)  # now, before it gets hooks and wrappers
        self.freeze()
        self.train(self.training)

    def backbone_key(self, modality: str) -> str:
        """What determines the features of a modality: the backbone's id and revision (or a hash of its weights), and
        the layer."""
        return self.streams[modality].key

    def freeze(self) -> None:
        """Disable gradients for the backbones and encoders that the configuration freezes."""
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def _frozen_modules(self) -> list[nn.Module]:
        return [module for stream in self.streams.values() for module in stream.frozen_modules()]

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but keep frozen modules in evaluation mode: no dropout or SpecAugment in fixed features."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings of the text backbone.

        Raises:
            NotImplementedError: there is no text backbone, as transformers expects of models without tokens.
        """
        return self._text_backbone().get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of the text backbone."""
        self._text_backbone().set_input_embeddings(value)

    def _text_backbone(self) -> PreTrainedModel:
        backbone = self.streams["text"].backbone
        if backbone is None:
            raise NotImplementedError("This model has no text backbone, and thus no token embeddings.")
        return backbone

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the token embeddings of the text backbone, as in transformers.

        Raises:
            ValueError: the checkpoint would not contain them.
        """
        text = self.streams["text"]
        if new_num_tokens is not None and self._is_external(text):
            raise ValueError(
                "The text backbone stays on the Hub, so new token embeddings would not be saved. First set "
                "config.save_backbones='always'."
            )
        embeddings = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        configs: list[Any] = [text.config, text.config.backbone, text.require_backbone().config]
        for config in configs:
            config.vocab_size = embeddings.weight.shape[0]
        return embeddings

    def encode_audio(self, inputs: Tensor, audio_attention_mask: Tensor | None = None) -> Features:
        """Encode waveforms (B, S) or spectral frames (B, F, M) -> backbone features (B, T, D), bool mask (B, T)."""
        return self.streams["audio"].encode_raw(inputs, audio_attention_mask)

    def encode_text(self, input_ids: Tensor, text_attention_mask: Tensor | None = None) -> Features:
        """Encode token ids (B, T) -> backbone features (B, T, D), bool mask (B, T)."""
        return self.streams["text"].encode_raw(input_ids, text_attention_mask)


class BiBiERModel(BiBiERPreTrainedModel):
    """Speech and text -> encoded sequences and one vector, without a classifier.

    Args:
        config: sizes and options.
        build_backbones: whether to build the backbones that belong in the checkpoint, with random weights, instead of
            leaving them to `attach_backbone`.
    """

    # From a checkpoint with classifiers.
    _keys_to_ignore_on_load_unexpected = [r"^(audio_head|text_head|classifier|mixture)\.", "^trained_labels$"]

    def __init__(self, config: BiBiERConfig, build_backbones: bool = True):
        super().__init__(config)
        self.audio = AudioStream(config, config.modality_configs["audio"], build_backbones)
        self.text = TextStream(config, config.modality_configs["text"], build_backbones)
        fuses = len(config.modalities) == 2 and config.fusion != "late"
        self.fusion = FUSIONS[config.fusion](config) if fuses else None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        audio_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_features_mask: Tensor | None = None,
        text_features: Tensor | None = None,
        text_features_mask: Tensor | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BiBiERModelOutput | tuple:
        """Encode and fuse raw inputs, or precomputed backbone features, of either modality or both.

        See [`BiBiERForEmotionClassification.forward`] for the arguments.
        """
        record, dtype = Recorder(self.config, output_hidden_states, output_attentions), self.compute_dtype
        raw_audio = self.audio.one_input(input_values, input_features)
        features = {
            "audio": self.audio.features(raw_audio, audio_attention_mask, audio_features, audio_features_mask, dtype),
            "text": self.text.features(input_ids, text_attention_mask, text_features, text_features_mask, dtype),
        }

        audio, text = self.encode(features, record)
        return BiBiERModelOutput(
            fused_embedding=self.fuse(audio, text, record),
            audio_frames=audio.frames,
            audio_mask=audio.mask.long(),
            text_frames=text.frames,
            text_mask=text.mask.long(),
            **record.outputs,
        )

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of everything above the backbones."""
        found = (parameter.dtype for name, parameter in self.named_parameters() if ".backbone." not in name)
        return next(found, torch.float32)

    def encode(
        self,
        features: dict[str, Features | None],
        record: Recorder,
        mixup: Mixup | None = None,
        logits: dict[str, Tensor | None] | None = None,
    ) -> tuple[Encoded, Encoded]:
        """Encode both modalities of a batch.

        Args:
            features: by modality.
            record: collects hidden states and attention weights.
            mixup: mixes the samples, in training.
            logits: given ones of the same batch, by modality.

        Raises:
            ValueError: there is no input, or the numbers of samples differ.
        """
        logits = logits or {}
        like = self.check_batch(features, logits).to(self.compute_dtype)
        audio, text = (
            stream.encode(features[name], like, mixup, record, self._reads_frames(stream, logits.get(name), record))
            for name, stream in self.streams.items()
        )
        return audio, text

    def _reads_frames(self, stream: ModalityStream, logits: Tensor | None, record: Recorder) -> bool:
        """Whether anything reads the frames of a modality. A late fusion that learns from given logits does not."""
        learns_late = self.training and self.fusion is None and len(self.config.modalities) == 2
        return bool(record) or logits is None or not (learns_late and stream.config.freeze_encoder)

    def check_batch(self, features: dict[str, Features | None], logits: dict[str, Tensor | None]) -> Tensor:
        """Return the first tensor (B, ...) of a batch, after checking that all have the same B."""
        given = {name: found[0] for name, found in features.items() if found is not None}
        given |= {f"{name}_logits": found for name, found in logits.items() if found is not None}
        if not given:
            streams = [self.streams[modality] for modality in self.config.modalities]
            wanted = ", and/or ".join(f"{stream.raw_names} or {stream.name}_features" for stream in streams)
            raise ValueError(
                f"There is neither audio nor text that this model reads ({' and '.join(self.config.modalities)}). "
                f"Pass {wanted}."
            )

        first = next(iter(given.values()))
        if any(tensor.shape[0] != first.shape[0] for tensor in given.values()):  # sizes in an export cannot be hashed
            sizes = {name: tensor.shape[0] for name, tensor in given.items()}
            raise ValueError(f"The batch has different numbers of samples: {sizes}; they must be the same samples.")

        return first

    def fuse(self, audio: Encoded, text: Encoded, record: Recorder) -> Tensor:
        """Return the vector of the fusion, (B, E), or else the mean frames of what the model reads."""
        if len(self.config.modalities) == 1:
            return audio.pooled if self.config.modalities == ["audio"] else text.pooled
        if self.fusion is None:
            return torch.cat([audio.pooled, text.pooled], dim=-1)

        keep_audio, keep_text = self._modality_dropout(audio.present, text.present)
        sequences = (*self.audio.stand_in(audio, keep_audio), *self.text.stand_in(text, keep_text))
        return self.fusion(*sequences, record) if record else self.fusion(*sequences)

    def _modality_dropout(self, has_audio: Tensor, has_text: Tensor) -> tuple[Tensor, Tensor]:
        """In training, hide one modality of some samples that have both, so that the model learns to use the other."""
        if not self.training or self.config.modality_dropout == 0:
            return has_audio, has_text

        draw = torch.rand(len(has_audio), device=has_audio.device)
        hide_audio = has_audio & has_text & (draw < self.config.modality_dropout / 2)
        hide_text = has_audio & has_text & (draw > 1 - self.config.modality_dropout / 2)
        return has_audio & ~hide_audio, has_text & ~hide_text


class UnimodalHead(nn.Module):
    """Logits of one modality: dropout, then a linear layer."""

    def __init__(self, stream: ModalityStream, num_labels: int):
        super().__init__()
        self.dropout = Dropout(stream.config.dropout)
        self.linear = nn.Linear(stream.config.hidden_size, num_labels)

    def forward(self, encoded: Encoded) -> Tensor:
        """Return (B, K), with zeros for samples without the modality."""
        return self.linear(self.dropout(encoded.pooled)) * encoded.present.unsqueeze(1)


@dataclass
class _UnimodalLogits:
    """The prediction of one modality by itself."""

    logits: Tensor | None  # (B, K)
    present: Tensor  # bool (B,), which samples have logits


class BiBiERForEmotionClassification(BiBiERPreTrainedModel):
    """Speech and text -> emotion (see the diagram at the top of this module).

    Args:
        config: sizes and options.
        build_backbones: whether to build the backbones that belong in the checkpoint, with random weights, instead of
            leaving them to `attach_backbone`.

    Examples:
        >>> model = BiBiERForEmotionClassification(BiBiERConfig())  # the embedded pair
        >>> model(audio_features=torch.randn(2, 50, 96)).logits.shape
        torch.Size([2, 7])
    """

    trained_labels: Tensor

    def __init__(self, config: BiBiERConfig, build_backbones: bool = True):
        super().__init__(config)
        self.bibier = BiBiERModel(config, build_backbones)
        self.audio_head = self._unimodal_head(self.bibier.audio)
        self.text_head = self._unimodal_head(self.bibier.text)
        fusion, bimodal = self.bibier.fusion, len(config.modalities) == 2
        self.classifier = None if fusion is None else Classifier(fusion.output_size, config)
        mixes = bimodal and (fusion is None or config.add_unimodal_logits)
        self.mixture = LogitMixture(2 if fusion is None else 3, len(config.label_names)) if mixes else None

        # Saved with the weights, to detect a config.json whose labels or their order have changed.
        self.register_buffer("trained_labels", encoded_labels(config))
        self.post_init()

    def _label_error(self, source: str | os.PathLike | None, trained: str = "other labels") -> CheckpointError:
        return CheckpointError(
            f"{source}: config.json has the labels {', '.join(self.config.label_names)}, but the weights were "
            f"trained with {trained}. Restore id2label, or pass ignore_mismatched_sizes=True to train new classifiers."
        )

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> Any:
        if is_hashed():  # by a digest of its weights, without copying them
            return tuple, (model_digest(self),)
        return super().__reduce_ex__(protocol)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any):
        # Weights from other code do not record their labels.
        state_dict.setdefault(f"{prefix}trained_labels", self.trained_labels)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_labels(self, source: str | os.PathLike | None, replace: bool) -> None:
        """Compare the labels of the configuration with those that the weights were trained with.

        Args:
            source: named in the error.
            replace: whether to start the classifiers from random weights if the labels differ.

        Raises:
            CheckpointError: the labels or their order differ.
        """
        expected = encoded_labels(self.config).to(self.trained_labels.device)
        if self.trained_labels.is_meta or torch.equal(self.trained_labels, expected):
            return
        if not replace:
            names = bytes(self.trained_labels.tolist()).decode(errors="replace").splitlines()
            raise self._label_error(source, f"{', '.join(names)}, in this order")

        logger.warning("The labels differ from those of the weights: the classifiers start from random weights.")
        self.trained_labels = expected
        for module in self.output_layers():
            nn.init.xavier_uniform_(module.weight)
            module.weight.data.mul_(self.first_scales())
            module.bias.data.copy_(self.first_values())
        if self.mixture is not None:
            nn.init.uniform_(self.mixture.weights)

    def first_values(self) -> Tensor:
        """Return the outputs before training, (K,): the middle of each range of a regression, or else zero."""
        ranges = self.config.label_ranges or [[0.0, 0.0]] * len(self.config.label_names)
        return torch.tensor(ranges, dtype=torch.float32).mean(1)

    def first_scales(self) -> Tensor:
        """Return the scales of the last weights before training, (K, 1): half of each range of a regression, or else
        one."""
        ranges = self.config.label_ranges or [[-1.0, 1.0]] * len(self.config.label_names)
        low, high = torch.tensor(ranges, dtype=torch.float32).unbind(1)
        return ((high - low) / 2).unsqueeze(1)

    def output_layers(self) -> list[nn.Linear]:
        """Return the last linear layer, with a row per label, of each unimodal head and of the classifier."""
        layers = [head.linear for head in self.heads.values() if head is not None]
        if self.classifier is not None:
            layers.append(self.classifier[-1])  # ty: ignore[invalid-argument-type] - its last layer is linear
        return layers

    @torch.no_grad()
    def shift_logits(self, shift: Sequence[float]) -> None:
        """Add `shift` (K,) to the logits of the fusion and of each modality, for good.

        A mixture weighs them by weights that sum to one for each class, so its logits move by the same amount.
        """
        for layer in self.output_layers():
            layer.bias.add_(torch.tensor(shift, dtype=layer.bias.dtype, device=layer.bias.device))

    def _unimodal_head(self, stream: ModalityStream) -> UnimodalHead | None:
        return None if stream.encoder is None else UnimodalHead(stream, len(self.config.label_names))

    @property
    def heads(self) -> dict[str, UnimodalHead | None]:
        """The unimodal classifiers by modality, None without an encoder."""
        return {"audio": self.audio_head, "text": self.text_head}

    def _frozen_modules(self) -> list[nn.Module]:
        heads = [
            head
            for head, stream in zip(self.heads.values(), self.streams.values(), strict=True)
            if head is not None and stream.config.freeze_encoder
        ]
        return super()._frozen_modules() + heads

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        audio_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_features_mask: Tensor | None = None,
        text_features: Tensor | None = None,
        text_features_mask: Tensor | None = None,
        audio_logits: Tensor | None = None,
        text_logits: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BiBiEROutput | tuple:
        """Classify raw inputs, or precomputed backbone features, of either modality or both.

        A modality is missing from the batch if its tensor is None, and from a sample if its mask is all zeros.

        Args:
            input_values: waveforms at 16 kHz, (B, S); for backbones that read spectral frames use `input_features`,
                (B, F, M).
            audio_attention_mask: mask of either, (B, S) or (B, F), 1 = keep.
            input_ids, text_attention_mask: tokens and their mask, (B, T).
            audio_features, audio_features_mask: backbone features (B, T_a, D_a) instead of the waveform, and their
                mask (B, T_a).
            text_features, text_features_mask: likewise, (B, T_t, D_t) and (B, T_t).
            audio_logits, text_logits: (B, K), used instead of those of the model's own encoders. If features are given
                as well, they determine which samples have the modality.
            labels: by `config.problem_type`: classes, integers (B,), or soft, (B, K) with rows that sum to one;
                several labels at once, (B, K) from 0 to 1; values of a regression, (B, K).
            num_items_in_batch: samples in the whole (global) batch, by which the summed loss is divided; None: B.
            attention_mask: mask of the only raw input, under the name that the unimodal pipelines of transformers
                (`"audio-classification"`, `"text-classification"`) use.
            output_hidden_states, output_attentions: whether to return them; None: as the configuration says.
            kwargs: `return_dict=False` for a plain tuple; other arguments that transformers passes are ignored.

        Raises:
            ValueError: there is no input, both forms of one modality, or a wrong shape.
        """
        base, config = self.bibier, self.config
        record, dtype = Recorder(config, output_hidden_states, output_attentions), base.compute_dtype
        if attention_mask is not None:
            has_audio = input_values is not None or input_features is not None
            if has_audio == (input_ids is not None):
                raise ValueError(
                    "attention_mask is for either audio or text, not both. Name the masks audio_attention_mask and "
                    "text_attention_mask, as BiBiERProcessor does."
                )
            if has_audio:
                audio_attention_mask = attention_mask
            else:
                text_attention_mask = attention_mask

        raw_audio = base.audio.one_input(input_values, input_features)
        features = {
            "audio": base.audio.features(raw_audio, audio_attention_mask, audio_features, audio_features_mask, dtype),
            "text": base.text.features(input_ids, text_attention_mask, text_features, text_features_mask, dtype),
        }
        given = {"audio": audio_logits, "text": text_logits}
        mixup = self._mixup(features, given)

        audio, text = base.encode(features, record, mixup, given)
        own_audio = self._unimodal_logits("audio", audio, audio_logits, mixup)
        own_text = self._unimodal_logits("text", text, text_logits, mixup)
        embedding = base.fuse(audio, text, record)
        if len(config.modalities) == 1:
            logits, heads = self._only(own_audio if config.modalities == ["audio"] else own_text), ()
        else:
            logits, heads = self._mix(embedding, own_audio, own_text), (own_audio, own_text)

        loss = None if labels is None else self._loss(labels, logits, heads, num_items_in_batch, mixup)
        return BiBiEROutput(
            loss=loss,
            logits=logits,
            audio_logits=own_audio.logits,
            text_logits=own_text.logits,
            fused_embedding=embedding,
            not_speech=base.audio.not_speech(features["audio"]),
            **record.outputs,
        )

    def _mixup(self, features: dict[str, Features | None], logits: dict[str, Tensor | None]) -> Mixup | None:
        """Draw how to mix the samples of this batch; None outside of training."""
        if not self.training or self.config.mixup_alpha == 0:
            return None
        like = self.bibier.check_batch(features, logits)
        return Mixup(like.shape[0], self.config.mixup_alpha, like.device)

    def _unimodal_logits(
        self, modality: str, encoded: Encoded, given: Tensor | None, mixup: Mixup | None
    ) -> _UnimodalLogits:
        """Return the logits of the modality's own head, or the given ones."""
        head = self.heads[modality]
        if given is None:
            if head is None or not encoded.from_features:
                return _UnimodalLogits(None, torch.zeros_like(encoded.present))
            return _UnimodalLogits(head(encoded), encoded.present)

        shape = (encoded.frames.shape[0], len(self.config.label_names))
        if given.shape != shape:
            raise ValueError(f"{modality}_logits must have the shape {shape}, got {tuple(given.shape)}.")

        logits = (given if mixup is None else mixup(given)).to(encoded.frames.dtype)
        # Given features determine which samples have the modality.
        return _UnimodalLogits(logits, encoded.present if encoded.from_features else torch.ones_like(encoded.present))

    def _only(self, own: _UnimodalLogits) -> Tensor:
        """Return the logits of a unimodal model."""
        if own.logits is None or not (torch.compiler.is_compiling() or bool(own.present.all())):
            name = self.config.modalities[0]
            raise ValueError(
                f"This model reads only {name} (modalities={[name]}), but a sample has no {name}. Leave it out."
            )
        return own.logits

    def _mix(self, embedding: Tensor, audio: _UnimodalLogits, text: _UnimodalLogits) -> Tensor:
        """Return (B, K) from the fused vector, the unimodal logits, or both.

        The mixture gives the weight of an absent modality to the others.
        """
        candidates = [audio, text]
        if self.classifier is not None:
            fused = self.classifier(embedding)
            if self.mixture is None:
                return fused
            candidates.append(_UnimodalLogits(fused, torch.ones_like(audio.present)))

        assert self.mixture is not None  # every model without a classifier has one
        nothing = embedding.new_zeros(embedding.shape[0], len(self.config.label_names))
        logits = [nothing if candidate.logits is None else candidate.logits for candidate in candidates]
        return self.mixture(logits, [candidate.present for candidate in candidates])

    def _loss(
        self,
        labels: Tensor,
        logits: Tensor,
        heads: tuple[_UnimodalLogits, ...],
        num_items_in_batch: Tensor | int | None,
        mixup: Mixup | None,
    ) -> Tensor:
        targets = checked_targets(labels, logits.shape[0], self.config).to(logits.device)
        if mixup is not None:
            targets = mixup(targets)  # (B, K)

        loss_of = make_loss(self.config, logits.device)
        everybody = torch.ones(logits.shape[0], dtype=torch.bool, device=logits.device)
        loss = loss_of(logits, targets, everybody)
        for head in heads:
            if head.logits is not None and self.config.unimodal_loss_weight > 0:
                loss = loss + self.config.unimodal_loss_weight * loss_of(head.logits, targets, head.present)
        return loss / (len(logits) if num_items_in_batch is None else num_items_in_batch)


def main_input_name(config: BiBiERConfig) -> str:
    """Return the name of a model's first input, from which transformers infers the batch size."""
    modality = config.modality_configs[config.modalities[0]]
    if not isinstance(modality.backbone, PreTrainedConfig):
        return f"{modality.modality}_features"
    return "input_ids" if modality is config.text_config else audio_input_name(modality.backbone)


def encoded_labels(config: BiBiERConfig) -> Tensor:
    """Encode the label names in order, as UTF-8 lines: uint8 (N,)."""
    return torch.tensor(list("\n".join(config.label_names).encode()), dtype=torch.uint8)


def _download_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Select the arguments of `from_pretrained` for downloads from the Hub."""
    return {key: kwargs[key] for key in ("cache_dir", "token", "local_files_only", "force_download") if key in kwargs}


def _some(names: Iterable[str], limit: int = 5) -> str:
    names = sorted(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _without_adapter(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the adapter of the module `prefix` from the names of a model's weights, and with it the layers that the
    adapter replaces (peft's `modules_to_save`)."""
    kept = {}
    for key, value in state_dict.items():
        if not key.startswith(prefix):
            kept[key] = value
        elif ".lora_" not in key and ".modules_to_save." not in key:
            kept[key.replace(".base_layer.", ".").replace(".original_module.", ".")] = value
    return kept


def _checkpoint_folder(name: str | os.PathLike, adapted: list[str], **fetch: Any) -> str:
    """Return the folder of a checkpoint; from the Hub, only its adapters are downloaded."""
    if os.path.isdir(name):
        return os.fspath(name)
    adapters = [f"{ADAPTER_FOLDER.format(modality)}/*" for modality in adapted]
    return snapshot_download(os.fspath(name), allow_patterns=adapters, **fetch)


BiBiERConfig.register_for_auto_class()
BiBiERForEmotionClassification.register_for_auto_class("AutoModel")
make_importable(__name__)
register_task()
