"""BiBiER configuration: one typed object holds every size and option of the model, and refuses what does not fit
together."""

import difflib
import math
import os
import re
from dataclasses import fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.utils import CONFIG_NAME, logging
from transformers.utils.hub import resolve_revision

from .importing_bibier import make_importable
from .labels_bibier import EMOTIONS

logger = logging.get_logger(__name__)

TASK = "audio-text-emotion"
"""Name of the pipeline task."""

DEFAULT_MODEL_ID: str | None = None
"""Hub id behind a bare `pipeline("audio-text-emotion")`; None as long as no checkpoint is published."""

EMBEDDED = "embedded"
"""Stands for a backbone id: the small one that is trained from scratch and needs no download."""

MODALITIES = ("audio", "text")
ENCODERS = ("mamba", "transformer", "lstm", "frame_mlp", "none")
FUSIONS = ("late", "biformer", "bigraph", "bigated", "bigatedgraph", "bimamba")

ORIGINAL_OPTIONS = {
    # option: (corrected, as in the published code)
    "masked": (True, False),
    "attention_value": ("other", "own"),
    "graph_edges": ("per_sample", "first_pair"),
    "gate": ("sigmoid", "softmax"),
    "share_gate_projection": (False, True),
    "residual_dropout": ("branch", "residual"),
    "positional_encoding_at": ("input", "layers"),
    "ssm_decay": ("exponential", "product"),
    "bidirectional": (True, False),
    "encoder_norms": (True, False),
}
"""What `original_behaviour` sets together; the docstring of [`BiBiERConfig`] says what each defect does."""

_MOST_LAYERS = 1_000
_LARGEST_SIZE = 2**24
"""Beyond these a configuration is damaged: building the model would not end, or not fit into any memory."""

_COUNTS = re.compile("size|dim|width|rank|heads|kernel|len|tokens|frames|positions|embeddings|experts|bins|d_model")
"""What the names of sizes have in them, in the configurations of all backbones."""

# Keyword arguments that transformers passes to every configuration; any other unknown one is a mistake.
_FOREIGN_KEYS = frozenset(
    """
    auto_map custom_pipelines name_or_path num_labels torch_dtype attn_implementation experts_implementation output_attentions
    quantization_config per_layer_config model_type transformers_weights _name_or_path _commit_hash _attn_implementation
    _attn_implementation_internal _experts_implementation_internal
    """.split()
)


class CheckpointError(RuntimeError, ValueError):
    """A checkpoint that cannot be used. Says in one line what is wrong with which file."""


@strict
class BiBiERConfig(PreTrainedConfig):
    r"""Configuration of [`BiBiERForEmotionClassification`].

    Backbones
        audio_config, text_config: configurations of the speech and the text backbone, of any type that `AutoConfig`
            knows (wav2vec2, wavlm, hubert, wav2vec2-bert, whisper (its encoder); jina_embeddings_v3, xlm-roberta,
            bert, modernbert, ...). None: the model has no such backbone and takes precomputed `audio_features` /
            `text_features` of width `audio_feature_size` / `text_feature_size`.
        audio_backbone_id, audio_backbone_revision (text likewise): where the pretrained weights come from on the Hub;
            None for local ones.
        freeze_audio_backbone, freeze_text_backbone: train the backbone or not.
        freeze_audio_encoder, freeze_text_encoder: likewise what stands above it, up to the unimodal logits.
        save_backbones: `"auto"` stores trained and local backbones in the checkpoint and names frozen Hub ones by id
            and revision; `"always"` stores both, `"never"` none.
        audio_backbone_stored, text_backbone_stored: written by `save_pretrained`: are the weights in the checkpoint?
        audio_adapter_stored, text_adapter_stored: likewise: is there a LoRA adapter of the backbone (a folder
            `audio_adapter`)?
        audio_layer, text_layer: which hidden state is the feature: -1 the backbone's output, k >= 0 the k-th of
            `hidden_states`.
        max_window_s: longer audio is encoded in windows of this many seconds.
        max_text_tokens: longer text is cut by the tokenizer, special tokens included.

    Encoders (Section 2.3 and 3.3 of the method: features of one modality -> frames and unimodal logits)
        modalities: `["audio", "text"]`, or one of them for a unimodal model (no fusion).
        audio_encoder, text_encoder: architecture. `"mamba"`: residual selective state-space blocks; `"transformer"`;
            `"lstm"`; `"frame_mlp"`: a residual perceptron on each frame by itself (what the published audio head is,
            under the name of Mamba); `"none"`: the features are encoded already and go to the fusion as they are.
        audio_encoder_size, text_encoder_size: width of the residual stream.
        audio_encoder_layers, text_encoder_layers: number of blocks.
        audio_input_projection, text_input_projection: a linear layer from the features to that width (False needs
            equal widths).
        audio_statistics, text_statistics: give the unimodal classifier mean, standard deviation and quantiles of the
            features over time, too, each standardised over the training set and sent through a hidden layer
            (statistics pooling, as in x-vectors).
        audio_cepstrum: likewise the statistics of the cepstrum of Whisper's log-mel input (80 coefficients), which
            keep voice and pitch. The coefficients stand behind the backbone's features in each frame of
            `audio_features`.
        audio_cepstrum_size: how many there are: derived from the backbone, given where there is none.
        encoder_attention_heads: heads of `"transformer"` encoders.
        bidirectional: Mamba blocks and LSTMs read each utterance from its end, too.
        mamba_expand: width inside a block over `*_encoder_size` (published: 0.5).
        mamba_state_size, mamba_conv_kernel, mamba_dt_rank: N, width of the causal convolution, rank of the step size
            (None: width / 16).
        encoder_dropout: rate in the encoders.

    Fusion
        fusion: `"late"`: learned weights over the unimodal logits; `"biformer"`: cross-modal transformer; `"bigraph"`,
            `"bigated"`, `"bigatedgraph"`: the same, then a two-node graph, a gate, or both over the pooled modalities;
            `"bimamba"`: Mamba blocks over both sequences side by side.
        add_unimodal_logits: mix the logits of fusion and encoders by learned weights (the published `...WithProb`
            models).
        hidden_size, num_fusion_layers, num_attention_heads: width H, depth and heads.
        num_graph_heads: heads of the first graph layer.
        gated_size: width G of the gates.
        fusion_mamba_expand, fusion_mamba_state_size, fusion_mamba_conv_kernel, fusion_mamba_dt_rank: the blocks of
            `"bimamba"`.
        seg_len: length that the feature-mean sequences are resampled to.
        classifier_size: width of the hidden layer of the classifier.
        positional_encoding: add sinusoids to both sequences.
        dropout: rate in the fusion and the classifier.

    Original behaviour: each option's first value is the default, the second one reproduces a defect of the published
    code. None follows `original_behaviour`.
        original_behaviour: take the second value of all of them. Reproduces the published models in evaluation mode.
        masked: True | False: padding takes part in pooling, attention and resampling, so a result depends on the
            batch.
        attention_value: `"other"` | `"own"`: a modality attends with its own sequence as the value, so that the other
            one enters through the attention weights only; both sequences are cut to one length for it.
        graph_edges: `"per_sample"` | `"first_pair"`: only the first sample of a batch exchanges information between
            audio and text.
        gate: `"sigmoid"` | `"softmax"`: the gate is normalised over its width, so that the second modality dominates.
        share_gate_projection: False | True: the projection of the feature gate serves the temporal gate, too, and its
            own one is dead.
        residual_dropout: `"branch"` | `"residual"`: dropout falls on the residual stream instead of the branch.
        positional_encoding_at: `"input"` | `"layers"`: sinusoids are added again to queries, keys and values of every
            layer.
        ssm_decay: `"exponential"` | `"product"`: the state decays by exp(-A) dt instead of exp(-dt exp(A_log)), which
            can exceed one; D is the bias of the step size, too.
        encoder_norms: True | False: no normalisation of the features before, nor of the frames after the encoder.

    Calibration
        temperature: the pipeline divides the logits by it before the softmax, so that its scores say how often it is
            right (temperature scaling; fitted on dev). It changes no ranking. The model's own `logits` and the loss
            know nothing of it.

    Training
        audio_crop_frames: in training, longer clips are read through a random window of so many feature frames,
            another one in each epoch (50 frames are a second for most speech backbones); None: as a whole, as always
            in evaluation.
        mixup_alpha: in training, mix each sample and its label with another one of the batch by a weight from
            Beta(alpha, alpha), after the linear layer of the encoders and in the statistics; 0: not.
        modality_dropout: share of the training samples with both modalities that lose one, at random.
        unimodal_loss_weight: weight of each unimodal head's loss beside that of the fused one.
        class_weights: weight of each class in the loss, in label order; None: all one.

    Raises:
        ValueError: an unknown option or a contradiction, with the remedy. From `from_pretrained` and `from_dict`, where
            unknown keys are kept as they are, [`CheckpointError`].

    Example:
        >>> config = BiBiERConfig.from_backbones("facebook/w2v-bert-2.0", "intfloat/multilingual-e5-small")  # doctest: +SKIP
    """

    model_type = "bibier"
    keys_to_ignore_at_inference = ["audio_logits", "text_logits", "fused_embedding"]
    sub_configs_defaults = {
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2-bert", optional=True),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
    }

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    audio_backbone_id: str | None = None
    audio_backbone_revision: str | None = None
    audio_backbone_stored: bool = True
    text_backbone_id: str | None = None
    text_backbone_revision: str | None = None
    text_backbone_stored: bool = True
    audio_adapter_stored: bool = False
    text_adapter_stored: bool = False
    freeze_audio_backbone: bool = True
    freeze_text_backbone: bool = True
    freeze_audio_encoder: bool = False
    freeze_text_encoder: bool = False
    save_backbones: Literal["auto", "always", "never"] = "auto"
    audio_layer: int = -1
    text_layer: int = -1
    audio_feature_size: int | None = None
    text_feature_size: int | None = None
    max_window_s: float | int = 30.0
    max_text_tokens: int = 95

    modalities: list[str] | None = None
    audio_encoder: str = "mamba"
    text_encoder: str = "mamba"
    audio_encoder_size: int = 256
    text_encoder_size: int = 256
    audio_encoder_layers: int = 2
    text_encoder_layers: int = 2
    audio_input_projection: bool = True
    text_input_projection: bool = True
    audio_statistics: bool = False
    text_statistics: bool = False
    audio_cepstrum: bool = False
    audio_cepstrum_size: int | None = None
    encoder_attention_heads: int = 4
    bidirectional: bool | None = None
    mamba_expand: float | int = 2
    mamba_state_size: int = 16
    mamba_conv_kernel: int = 4
    mamba_dt_rank: int | None = None
    encoder_dropout: float | int = 0.1

    fusion: str = "biformer"
    add_unimodal_logits: bool = False
    hidden_size: int = 256
    num_fusion_layers: int = 5
    num_attention_heads: int = 8
    num_graph_heads: int = 2
    gated_size: int = 128
    fusion_mamba_expand: float | int = 2
    fusion_mamba_state_size: int = 16
    fusion_mamba_conv_kernel: int = 4
    fusion_mamba_dt_rank: int | None = None
    seg_len: int = 95
    classifier_size: int = 256
    positional_encoding: bool = False
    dropout: float | int = 0.15

    original_behaviour: bool = False
    masked: bool | None = None
    attention_value: Literal["other", "own"] | None = None
    graph_edges: Literal["per_sample", "first_pair"] | None = None
    gate: Literal["sigmoid", "softmax"] | None = None
    share_gate_projection: bool | None = None
    residual_dropout: Literal["branch", "residual"] | None = None
    positional_encoding_at: Literal["input", "layers"] | None = None
    ssm_decay: Literal["exponential", "product"] | None = None
    encoder_norms: bool | None = None

    temperature: float | int = 1.0

    audio_crop_frames: int | None = None
    mixup_alpha: float | int = 0.0
    modality_dropout: float | int = 0.1
    unimodal_loss_weight: float | int = 0.3
    class_weights: list[float | int] | None = None
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs):
        self._refuse_unknown(kwargs)
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = dict(enumerate(EMOTIONS))
        label2id = self.label2id
        super().__post_init__(**kwargs)
        self._check_labels(label2id)
        self.modalities = list(MODALITIES) if self.modalities is None else list(self.modalities)
        for option, (corrected, original) in ORIGINAL_OPTIONS.items():
            if getattr(self, option) is None:
                setattr(self, option, original if self.original_behaviour else corrected)
        self._derive_cepstrum_size()
        for modality in MODALITIES:
            self._derive_feature_size(modality)
            if getattr(self, f"{modality}_encoder") == "none" and self.feature_size(modality) is not None:
                setattr(self, f"{modality}_encoder_size", self.backbone_size(modality))
        self._refuse_contradictions()

    @classmethod
    def from_backbones(
        cls,
        audio: str | PreTrainedConfig | None = EMBEDDED,
        text: str | PreTrainedConfig | None = EMBEDDED,
        audio_revision: str | None = None,
        text_revision: str | None = None,
        **options: Any,
    ) -> "BiBiERConfig":
        """The configuration for a pair of backbones; reads their `config.json`, not their weights.

        Args:
            audio, text: a Hub id, a local folder, a configuration, `"embedded"` (small, trained from scratch), or None
                (features only).
            audio_revision, text_revision: revision of a Hub id.
            options: any other field of this class.
        """
        for modality, source, revision in (("audio", audio, audio_revision), ("text", text, text_revision)):
            if source is None:
                continue
            options[f"{modality}_config"], found = _backbone_config(modality, source, revision)
            for key, value in found.items():
                options.setdefault(key, value)
        return cls(**options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any):
        """As in transformers; new labels (`id2label`, `num_labels`) reset what belongs to the old ones.

        Raises:
            CheckpointError: a `config.json` that cannot be used.
            OSError: no `config.json` there.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except CheckpointError as error:
            raise CheckpointError(f"{os.path.join(pretrained_model_name_or_path, CONFIG_NAME)}: {error}") from error

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        try:
            content = super()._dict_from_json_file(json_file)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"This is not valid JSON ({one_line(error)}).") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"This is a JSON {type(content).__name__}; it must be an object of options.")
        return content

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As in transformers. Keys that are no options (the Trainer, peft, or attributes set by a user write them) are
        kept."""
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise CheckpointError(f"This is a checkpoint of {kind!r}; it must be one of {cls.model_type!r}.")
        known = {field.name for field in fields(cls)} | _FOREIGN_KEYS
        others = {key: value for key, value in config_dict.items() if key not in known and not hasattr(cls, key)}
        options = {key: value for key, value in config_dict.items() if key in known}
        try:
            loaded = super().from_dict(_with_labels(options, kwargs), **kwargs)
        except Exception as error:  # whatever the values make of the code that they reach
            raise CheckpointError(one_line(error)) from error
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for key, value in others.items():
            setattr(config, key, value)
        return loaded

    def feature_size(self, modality: str) -> int:
        """Width D of the features of `"audio"` or `"text"`."""
        return getattr(self, f"{modality}_feature_size")

    def backbone_size(self, modality: str) -> int | None:
        """That part of it which the encoder reads frame by frame: without the cepstrum."""
        size = self.feature_size(modality)
        return None if size is None else size - self.cepstrum_size(modality)

    def cepstrum_size(self, modality: str) -> int:
        """Number of cepstral coefficients in each frame of the features."""
        return self.audio_cepstrum_size or 0 if modality == "audio" and self.audio_cepstrum else 0

    @property
    def depends_on_batch(self) -> bool:
        """Is a sample's result allowed to depend on the batch that it is computed in (defects of the published
        code)?"""
        return not self.masked or (self.graph_edges == "first_pair" and self.fusion in ("bigraph", "bigatedgraph"))

    @property
    def batch_warning(self) -> str:
        """What to say where such a model is asked for batches."""
        return (
            "This model reproduces defects of the published code that make a result depend on its batch "
            f"({', '.join(self.reproduced_defects)}); batch_size=1 is used."
        )

    @property
    def reproduced_defects(self) -> dict[str, Any]:
        """The options that are set as in the published code."""
        return {name: original for name, (_, original) in ORIGINAL_OPTIONS.items() if getattr(self, name) == original}

    def _refuse_unknown(self, kwargs: dict) -> None:
        known = {field.name for field in fields(self)}
        unknown = sorted(key for key in kwargs if key not in _FOREIGN_KEYS and key not in known)
        if unknown:
            hints = [f"'{key}'" + _did_you_mean(key, known) for key in unknown]
            raise ValueError(f"BiBiERConfig has no option {', '.join(hints)}. Allowed: {', '.join(sorted(known))}.")

    def _check_labels(self, label2id: dict | None) -> None:
        """Derives `label2id`; refuses labels that do not name each output once."""
        names = [self.id2label.get(index) for index in range(len(self.id2label))]
        named = all(isinstance(name, str) and name for name in names)
        _require(
            names and named and len(set(names)) == len(names),
            "id2label",
            self.id2label,
            "a name for each of 0, 1, 2, ..., no two of them equal",
        )
        self.label2id = {name: index for index, name in enumerate(names)}
        if label2id and label2id != self.label2id:
            raise ValueError(f"label2id={label2id} contradicts id2label={self.id2label}. Leave label2id out.")

    def _derive_cepstrum_size(self) -> None:
        if not self.audio_cepstrum or "audio" not in self.modalities:
            return
        backbone, given = self.audio_config, self.audio_cepstrum_size
        if backbone is None:
            if given is None or not 0 < given < (self.audio_feature_size or 0):
                raise ValueError(
                    "audio_cepstrum=True without audio_config (a backbone) needs audio_cepstrum_size, part of "
                    "audio_feature_size="
                    f"{self.audio_feature_size}; got {given}."
                )
            return
        kind = backbone.model_type
        _require(
            kind == "whisper",
            "audio_cepstrum",
            True,
            f"False for the audio backbone {kind!r}; it needs the log-mel input of Whisper",
        )
        if given not in (None, backbone.num_mel_bins):
            raise ValueError(
                f"audio_cepstrum_size={given} contradicts the audio backbone's {backbone.num_mel_bins} mel bins. "
                "Leave it out."
            )
        self.audio_cepstrum_size = backbone.num_mel_bins

    def _derive_feature_size(self, modality: str) -> None:
        backbone = getattr(self, f"{modality}_config")
        given = getattr(self, f"{modality}_feature_size")
        if backbone is None:
            if given is None and modality in self.modalities and not self._takes_logits_only(modality):
                raise ValueError(
                    f"There is neither {modality}_config (a backbone) nor {modality}_feature_size (the width of "
                    "precomputed features). "
                    f"Set one, or build the config with BiBiERConfig.from_backbones(audio, text)."
                )
            return
        width = getattr(backbone, "hidden_size", None) or getattr(backbone, "d_model", None)
        if width is None:
            raise ValueError(
                f"The {modality} backbone '{backbone.model_type}' names no hidden_size; "
                f"set {modality}_feature_size and leave {modality}_config out."
            )
        width += self.cepstrum_size(modality)
        if given is not None and given != width:
            raise ValueError(
                f"{modality}_feature_size={given} contradicts the {modality} backbone's width {width}. Leave "
                f"{modality}_feature_size out."
            )
        setattr(self, f"{modality}_feature_size", width)

    def _takes_logits_only(self, modality: str) -> bool:
        return self.fusion == "late" and getattr(self, f"{modality}_encoder") == "none"

    def _refuse_contradictions(self) -> None:
        allowed_modalities = (["audio", "text"], ["audio"], ["text"])
        _require(
            self.modalities in allowed_modalities,
            "modalities",
            self.modalities,
            f"one of {', '.join(map(str, allowed_modalities))}",
        )
        for name, allowed in (("audio_encoder", ENCODERS), ("text_encoder", ENCODERS), ("fusion", FUSIONS)):
            _require(getattr(self, name) in allowed, name, getattr(self, name), f"one of {', '.join(allowed)}")
        sizes = """
            audio_encoder_size text_encoder_size encoder_attention_heads mamba_state_size mamba_conv_kernel hidden_size num_attention_heads
            num_graph_heads gated_size fusion_mamba_state_size fusion_mamba_conv_kernel seg_len classifier_size max_text_tokens
        """
        for name in sizes.split():
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("audio_encoder_layers", "text_encoder_layers", "num_fusion_layers"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        _refuse_absurd_sizes("", {name: own[name] for name in own if name not in ("audio_config", "text_config")})
        for modality in MODALITIES:
            if (backbone := own[f"{modality}_config"]) is not None:
                _refuse_absurd_sizes(f"{modality}_config.", backbone.to_dict())
        for name in ("encoder_dropout", "dropout", "modality_dropout"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        for name in ("mamba_dt_rank", "fusion_mamba_dt_rank", "audio_crop_frames"):
            _require(
                getattr(self, name) is None or getattr(self, name) >= 1,
                name,
                getattr(self, name),
                "None or at least 1",
            )
        for name in ("mamba_expand", "fusion_mamba_expand"):
            _require(0 < getattr(self, name) <= _MOST_LAYERS, name, getattr(self, name), f"in (0, {_MOST_LAYERS}]")
        for name in ("unimodal_loss_weight", "mixup_alpha", "initializer_range"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "at least 0 and finite")
        _require(0 < self.temperature < math.inf, "temperature", self.temperature, "above 0 and finite")
        _require(1 <= self.max_window_s < math.inf, "max_window_s", self.max_window_s, "at least 1 second and finite")
        _require(
            self.hidden_size % self.num_attention_heads == 0,
            "hidden_size",
            self.hidden_size,
            f"a multiple of num_attention_heads={self.num_attention_heads}",
        )
        if self.positional_encoding:
            _require(
                self.hidden_size % 2 == 0,
                "hidden_size",
                self.hidden_size,
                "even, as positional_encoding=True pairs sines with cosines",
            )
        if self.class_weights is not None:
            fits = len(self.class_weights) == self.num_labels and all(
                0 <= weight < math.inf for weight in self.class_weights
            )
            _require(fits, "class_weights", self.class_weights, f"{self.num_labels} numbers >= 0, one a label")
        for modality in MODALITIES:
            self._refuse_encoder_contradictions(modality)
            backbone, layer = getattr(self, f"{modality}_config"), getattr(self, f"{modality}_layer")
            depth = getattr(backbone, "num_hidden_layers", None)
            if backbone is not None and depth is not None:
                _require(
                    -1 <= layer <= depth,
                    f"{modality}_layer",
                    layer,
                    f"-1 (output) or 0..{depth}, the hidden states of '{backbone.model_type}'",
                )
            if getattr(backbone, "model_type", None) == "canine":
                _require(
                    layer == -1,
                    f"{modality}_layer",
                    layer,
                    "-1, as the inner states of 'canine' are shortened sequences",
                )
            if backbone is None and not getattr(self, f"{modality}_backbone_stored"):
                raise ValueError(
                    f"{modality}_backbone_stored=False without {modality}_config: there is no backbone to fetch."
                )
            if not getattr(self, f"{modality}_backbone_stored") and getattr(self, f"{modality}_backbone_id") is None:
                raise ValueError(
                    f"{modality}_backbone_stored=False needs {modality}_backbone_id, the Hub id to fetch the weights "
                    "from."
                )

    def _refuse_encoder_contradictions(self, modality: str) -> None:
        encoder, size = getattr(self, f"{modality}_encoder"), getattr(self, f"{modality}_encoder_size")
        if modality not in self.modalities:
            return
        if encoder == "none" and modality == "audio":
            _require(
                not self.audio_cepstrum,
                "audio_cepstrum",
                True,
                "False with audio_encoder='none', which has nothing to read it",
            )
        if encoder == "none" and len(self.modalities) == 1:
            raise ValueError(
                f"{modality}_encoder='none' leaves a model of {modality} alone without anything to train; name an "
                "encoder."
            )
        if encoder == "transformer":
            heads = self.encoder_attention_heads
            _require(
                size % heads == 0 and size % 2 == 0,
                f"{modality}_encoder_size",
                size,
                f"even and a multiple of encoder_attention_heads={heads}",
            )
        if encoder == "lstm" and self.bidirectional:
            _require(size % 2 == 0, f"{modality}_encoder_size", size, "even, as a bidirectional LSTM halves it")
        if (
            not getattr(self, f"{modality}_input_projection")
            and encoder != "none"
            and size != self.backbone_size(modality)
        ):
            raise ValueError(
                f"{modality}_input_projection=False needs {modality}_encoder_size={size} to equal the width of the "
                "features, "
                f"{self.backbone_size(modality)}."
            )


def _require(holds: bool, name: str, value: Any, allowed: str) -> None:
    if not holds:
        raise ValueError(f"BiBiERConfig: {name}={value!r} is not allowed; it must be {allowed}.")


def _refuse_absurd_sizes(prefix: str, options: dict[str, Any]) -> None:
    """Refuses numbers of layers and sizes that no model has, in a configuration and those inside of it."""
    for name, value in options.items():
        if isinstance(value, dict):
            _refuse_absurd_sizes(f"{prefix}{name}.", value)
        elif isinstance(value, (list, tuple)):
            largest = max((step for step in value if isinstance(step, int)), default=0)
            fits = len(value) <= _MOST_LAYERS or not largest
            _require(fits, prefix + name, f"[{len(value)} numbers]", f"at most {_MOST_LAYERS} numbers")
        elif isinstance(value, int):
            limit = _MOST_LAYERS if "layers" in name else _LARGEST_SIZE if _COUNTS.search(name) else math.inf
            _require(value <= limit, prefix + name, value, f"at most {limit}")


def _with_labels(config_dict: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`config_dict` with the labels of `new`, from which they are taken. Other labels than before come with no class
    weights and no temperature: these belong to the old ones."""
    new_labels = {key: new[key] for key in ("id2label", "label2id", "num_labels") if new.get(key) is not None}
    if not new_labels:
        return config_dict
    for key in new_labels:
        del new[key]
    before = config_dict.get("id2label") or dict(enumerate(EMOTIONS))
    if new_labels.keys() == {"num_labels"} and new_labels["num_labels"] == len(before):
        return config_dict
    if new_labels.keys() == {"label2id"}:
        new_labels["id2label"] = {index: name for name, index in new_labels["label2id"].items()}
    after = new_labels.get("id2label")
    if after is not None:
        count = new_labels.pop("num_labels", len(after))
        if count != len(after):
            raise CheckpointError(f"num_labels={count} contradicts id2label={after}. Leave num_labels out.")
        if {int(index): name for index, name in after.items()} == {int(index): name for index, name in before.items()}:
            return config_dict
    config_dict = {key: value for key, value in config_dict.items() if key not in ("id2label", "label2id")}
    reset = [key for key in ("class_weights", "temperature") if config_dict.pop(key, None) not in (None, 1.0)]
    if reset:
        logger.warning(f"The labels are new, so {' and '.join(reset)} of the old ones are reset.")
    return config_dict | new_labels


def one_line(error: BaseException, longest: int = 800) -> str:
    """Message of an error without line breaks, cut where it lists hundreds of names; its kind where it has none."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= longest else f"{message[:longest]} ..."


def _did_you_mean(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _backbone_config(
    modality: str, source: str | PreTrainedConfig, revision: str | None
) -> tuple[PreTrainedConfig, dict]:
    """(the backbone's configuration, the options that follow from where it comes from)"""
    if isinstance(source, PreTrainedConfig):
        return source, {}
    if source == EMBEDDED:
        # Trained from scratch. A byte-level text needs more positions: two bytes a Russian letter.
        config = embedded_audio_config() if modality == "audio" else embedded_text_config()
        options = {f"freeze_{modality}_backbone": False}
        return config, options if modality == "audio" else {**options, "max_text_tokens": 192}
    # From here on a mutable revision ("main") is the commit that it stands for, as far as the Hub or the cache can
    # tell.
    revision = resolve_revision(source, revision)
    config = AutoConfig.from_pretrained(source, revision=revision)
    config.dtype = None  # the weights are loaded in the dtype of the whole model
    config._name_or_path = ""  # a folder of this machine means nothing in a checkpoint
    if os.path.isdir(source):
        return config, {}
    return config, {
        f"{modality}_backbone_id": source,
        f"{modality}_backbone_revision": getattr(revision, "resolved", revision),
    }


def embedded_audio_config() -> PreTrainedConfig:
    """A small Wav2Vec2-BERT over log-mel frames (80 bands, two frames stacked, 50 a second)."""
    return AutoConfig.for_model(
        "wav2vec2-bert",
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        feature_projection_input_dim=160,
        conv_depthwise_kernel_size=15,
        position_embeddings_type="relative_key",
        left_max_position_embeddings=32,
        right_max_position_embeddings=8,
        add_adapter=False,
        apply_spec_augment=False,
        mask_time_prob=0.0,
        layerdrop=0.0,
    )


def embedded_text_config() -> PreTrainedConfig:
    """A small BERT over UTF-8 bytes (the 384 symbols of the ByT5 tokenizer)."""
    return AutoConfig.for_model(
        "bert",
        vocab_size=384,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=512,
        type_vocab_size=1,
        pad_token_id=0,
    )


make_importable(__name__)
