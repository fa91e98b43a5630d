"""BiBiER configuration: one typed object for the model, with a nested one for each modality."""

import math
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .context_bibier import check_text_context
from .importing_bibier import make_importable
from .labels_bibier import EMOTIONS, MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
from .sources_bibier import EMBEDDED, embedded_backbone, located_backbone
from .validation_bibier import CheckedConfig, check_labels

TASK = "audio-text-emotion"
"""Name of the pipeline task."""

MODALITIES = ("audio", "text")
NUM_STATISTICS = 7
"""Mean, standard deviation and five quantiles over time."""

ENCODERS = ("mamba", "transformer", "lstm", "frame_mlp", "statistics", "none")
FUSIONS = ("late", "biformer", "bigraph", "bigated", "bigatedgraph", "bimamba")

ORIGINAL_BEHAVIOR = {
    "unmasked": "padding takes part in attention, pooling and resampling, so a result depends on its batch",
    "own_value": "a modality attends to its own values; the other affects only the weights; both get one length",
    "first_pair_graph": "the graph connects audio and text only in the first sample of a batch",
    "softmax_gate": "the gate is normalized over its width: the first modality gets about 1 / width of the weight",
    "shared_gate_projection": "one projection serves the gates of both pools, and the other is never used",
    "residual_dropout": "dropout applies to the residual stream, not to what is added to it",
    "layer_positions": "positions are added again to queries, keys and values in every layer",
    "product_decay": "the state decays by exp(-A) dt, which can exceed one and then grows with time, instead of "
    "exp(-dt exp(A)); one parameter is both skip weight and bias of the step size",
    "unidirectional": "Mamba blocks and LSTMs read forward only",
    "unnormalized_encoders": "neither the features before an encoder nor the frames after it are normalized",
}
"""Bug of the published code that `original_behavior` reproduces -> its effect."""


class ModalityConfig(CheckedConfig):
    r"""One modality of a [`BiBiERConfig`]: its backbone, and the encoder that maps features to frames and logits.

    Args:
        backbone (`PreTrainedConfig`, `dict` or `str`, *optional*, defaults to `"embedded"`): Configuration of the
            backbone, of any type that `AutoConfig` knows: wav2vec2, wavlm, hubert, wav2vec2-bert or whisper (its
            encoder) for audio; jina_embeddings_v3, xlm-roberta, bert, modernbert and others for text. `"embedded"` is
            a small one that is trained from scratch. None: the model has no backbone and reads precomputed features of
            width `feature_size`.
        backbone_id (`str`, *optional*): Hub id of the pretrained weights; None for local ones.
        backbone_revision (`str`, *optional*): Commit of that id.
        backbone_stored (`bool`, *optional*, defaults to `True`): Whether the checkpoint contains its weights. Set by
            `save_pretrained`.
        adapter_stored (`bool`, *optional*, defaults to `False`): Whether the checkpoint contains a LoRA adapter of the
            backbone. Set by `save_pretrained`.
        freeze_backbone (`bool`, *optional*): Whether to freeze the backbone. None: unless it is the embedded one.
        layer (`int` or `list[int]`, *optional*, defaults to -1): The hidden state of the backbone to use as features:
            -1 for its output, k >= 0 for the k-th of `hidden_states`. Several are concatenated in each frame.
        feature_size (`int`, *optional*): Width of the features. Derived from the backbone if there is one.
        encoder (`str`, *optional*, defaults to `"mamba"`): Architecture of the encoder. `"mamba"`: residual selective
            state-space blocks; `"transformer"`; `"lstm"`; `"frame_mlp"`: a residual perceptron on each frame
            separately (the published audio head, which is called Mamba there); `"statistics"`: statistics over time
            are the features, one vector per sample instead of one per frame, so that stores are small and training is
            fast; `"none"`: the fusion reads the features directly.
        freeze_encoder (`bool`, *optional*, defaults to `False`): Whether to freeze the encoder and its unimodal head.
        hidden_size (`int`, *optional*, defaults to 256): Width of the encoder's residual stream.
        num_hidden_layers (`int`, *optional*, defaults to 2): Number of encoder blocks.
        num_attention_heads (`int`, *optional*, defaults to 4): Heads of a `"transformer"` encoder.
        input_projection (`bool`, *optional*, defaults to `True`): Whether a linear layer maps features to
            `hidden_size`. False requires equal widths.
        statistics (`bool`, *optional*, defaults to `False`): Whether the unimodal classifier also reads mean, standard
            deviation and quantiles of the features over time, each standardized over the training set (statistics
            pooling, as in x-vectors). The encoder `"statistics"` reads nothing else.
        dropout (`float`, *optional*, defaults to 0.1): Dropout rate in the encoder.
        mamba_expand (`float`, *optional*, defaults to 2): Width inside a Mamba block, relative to `hidden_size`
            (0.5 in the published code).
        mamba_state_size (`int`, *optional*, defaults to 16): States per channel.
        mamba_conv_kernel (`int`, *optional*, defaults to 4): Width of the causal convolution.
        mamba_dt_rank (`int`, *optional*): Rank of the step size's projection. None: `hidden_size / 16`.
    """

    modality: ClassVar[str] = ""
    at_least_one: ClassVar[str] = (
        "hidden_size num_attention_heads mamba_state_size mamba_conv_kernel mamba_dt_rank feature_size"
    )

    backbone: dict | PreTrainedConfig | str | None = EMBEDDED
    backbone_id: str | None = None
    backbone_revision: str | None = None
    backbone_stored: bool = True
    adapter_stored: bool = False
    freeze_backbone: bool | None = None
    layer: int | list[int] = -1
    feature_size: int | None = None
    encoder: str = "mamba"
    freeze_encoder: bool = False
    hidden_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    input_projection: bool = True
    statistics: bool = False
    dropout: float | int = 0.1
    mamba_expand: float | int = 2
    mamba_state_size: int = 16
    mamba_conv_kernel: int = 4
    mamba_dt_rank: int | None = None

    def __post_init__(self, **kwargs):
        self.refuse_unknown(kwargs)
        embedded = self.backbone == EMBEDDED
        if embedded:
            self.backbone = embedded_backbone(self.modality)
        if self.freeze_backbone is None:
            self.freeze_backbone = not embedded
        super().__post_init__(**kwargs)

        self._derive_feature_size()
        if self.encoder == "none" and self.feature_size is not None:
            self.hidden_size = self.widths[0]
        self._refuse_contradictions()

    @property
    def layers(self) -> list[int]:
        """The hidden states that make up the features."""
        return self.layer if isinstance(self.layer, list) else [self.layer]

    @property
    def frame_size(self) -> int:
        """Width of one frame, before any statistics over time. Zero without a `feature_size`."""
        return (self.feature_size or 0) // (NUM_STATISTICS if self.encoder == "statistics" else 1)

    @property
    def widths(self) -> list[int]:
        """Widths of the two parts of a feature frame: what the encoder reads, and the cepstrum after it.

        Zero without a `feature_size`: nothing reads the modality then.
        """
        return [self.feature_size or 0, 0]

    def path(self, name: str) -> str:
        return f"{self.modality}_config.{name}".rstrip(".")

    def _derive_feature_size(self) -> None:
        if not isinstance(self.backbone, PreTrainedConfig):
            return

        kind, given = self.backbone.model_type, self.feature_size
        width = getattr(self.backbone, "hidden_size", None) or getattr(self.backbone, "d_model", None)
        if width is None:
            raise ValueError(
                f"The {self.modality} backbone '{kind}' has no hidden_size. Set {self.path('feature_size')} and "
                f"{self.path('backbone')}=None."
            )

        self.feature_size = None
        width = max(len(self.layers), 1) * width + self.extra_width
        if self.encoder == "statistics":
            width *= NUM_STATISTICS
        if given not in (None, width):
            raise ValueError(
                f"{self.path('feature_size')}={given} contradicts the width of the {self.modality} backbone, {width}. "
                "Leave it out."
            )
        self.feature_size = width

    @property
    def extra_width(self) -> int:
        """Width of what follows the backbone's hidden states in each frame."""
        return 0

    def _refuse_contradictions(self) -> None:
        self.require(self.encoder in ENCODERS, "encoder", f"one of {', '.join(ENCODERS)}")
        if self.encoder == "statistics":
            self.require(
                (self.feature_size or 0) % NUM_STATISTICS == 0,
                "feature_size",
                f"a multiple of {NUM_STATISTICS}, the number of statistics of each feature",
            )
        self.check_bounds()

        kind = getattr(self.backbone, "model_type", None)
        depth = getattr(self.backbone, "num_hidden_layers", None)
        if depth is not None:
            allowed = f"-1 (output) or 0..{depth}, the hidden states of '{kind}', or a list of different ones"
            distinct = len(set(self.layers)) == len(self.layers) > 0
            self.require(distinct and all(-1 <= layer <= depth for layer in self.layers), "layer", allowed)
        if kind == "canine":
            self.require(
                self.layers == [-1], "layer", "-1, because the inner states of 'canine' are downsampled sequences"
            )

        if not self.backbone_stored and (self.backbone is None or self.backbone_id is None):
            raise ValueError(
                f"{self.path('backbone_stored')}=False requires {self.path('backbone')} and "
                f"{self.path('backbone_id')}, the Hub id of the weights."
            )

        if self.encoder == "transformer":
            self.require(
                self.hidden_size % self.num_attention_heads == 0 and self.hidden_size % 2 == 0,
                "hidden_size",
                f"even and a multiple of num_attention_heads={self.num_attention_heads}",
            )
        if not self.input_projection and self.encoder != "none" and self.feature_size is not None:
            self.require(
                self.hidden_size == self.widths[0],
                "hidden_size",
                f"the width of the features, {self.widths[0]}, with input_projection=False",
            )


@strict
class BiBiERAudioConfig(ModalityConfig):
    r"""The speech part of a [`BiBiERConfig`]: all options of [`ModalityConfig`], and these.

    Args:
        cepstrum (`bool`, *optional*, defaults to `False`): Whether the unimodal classifier also reads statistics of
            the cepstrum of Whisper's log-mel input, which preserve voice and pitch. The coefficients follow the
            backbone's features in each frame.
        cepstrum_size (`int`, *optional*): Number of coefficients. Derived from the backbone if there is one.
        max_window_s (`float`, *optional*, defaults to 30): Longer audio is encoded in windows of this many seconds.
        crop_frames (`int`, *optional*): In training, crop longer clips to a random window of this many feature frames,
            a new one in each epoch (most speech backbones have 50 frames per second). None: no cropping, as always in
            evaluation.
        speech_check (`bool`, *optional*, defaults to `False`): Whether the model also tells whether a clip is speech. Set
            by [`~bibier_hf.evaluation.unsure.fit_speech_check`].
        not_speech_threshold (`float`, *optional*, defaults to 0.5): The probability of not being speech from which the
            pipeline calls an answer unsure.
        shortest_s (`float`, *optional*, defaults to 0.3): Seconds that a clip must last, or its answer is unsure.
        quietest_db (`float`, *optional*, defaults to -60): Level that the loudest 50 ms of a clip must reach, in dB of
            full scale, or its answer is unsure.
    """

    model_type = "bibier_audio"
    modality: ClassVar[str] = "audio"
    at_least_one: ClassVar[str] = f"{ModalityConfig.at_least_one} crop_frames max_window_s"
    sub_configs_defaults = {"backbone": SubConfigSpec(AutoConfig, model_type="wav2vec2-bert", optional=True)}

    cepstrum: bool = False
    cepstrum_size: int | None = None
    max_window_s: float | int = 30.0
    crop_frames: int | None = None
    speech_check: bool = False
    not_speech_threshold: float | int = 0.5
    shortest_s: float | int = 0.3
    quietest_db: float | int = -60

    @property
    def widths(self) -> list[int]:
        # The statistics of both are one vector.
        extra = 0 if self.encoder == "statistics" else self.extra_width
        return [(self.feature_size or extra) - extra, extra]

    @property
    def extra_width(self) -> int:
        return self.cepstrum_size or 0 if self.cepstrum else 0

    def _derive_feature_size(self) -> None:
        if self.cepstrum and not isinstance(self.backbone, PreTrainedConfig):
            self.require(
                self.feature_size is None or 0 < (self.cepstrum_size or 0) < self.feature_size,
                "cepstrum_size",
                f"a part of feature_size={self.feature_size} if there is no backbone",
            )
        elif self.cepstrum and isinstance(self.backbone, PreTrainedConfig):
            kind = self.backbone.model_type
            self.require(
                kind == "whisper",
                "cepstrum",
                f"False for the audio backbone {kind!r}: it needs Whisper's log-mel input",
            )
            bands = self.backbone.num_mel_bins
            self.require(
                self.cepstrum_size in (None, bands), "cepstrum_size", f"the backbone's {bands} mel bins; leave it out"
            )
            self.cepstrum_size = bands
        super()._derive_feature_size()

    def _refuse_contradictions(self) -> None:
        super()._refuse_contradictions()
        if self.encoder == "none":
            self.require(not self.cepstrum, "cepstrum", "False with encoder='none', which cannot read it")
        if self.encoder == "statistics":
            self.require(
                self.crop_frames is None, "crop_frames", "None with encoder='statistics', which has no frames to crop"
            )
        self.require(0 < self.not_speech_threshold < 1, "not_speech_threshold", "between 0 and 1")
        self.require(0 <= self.shortest_s < math.inf, "shortest_s", "at least 0 and finite")
        self.require(self.quietest_db < math.inf, "quietest_db", "a level in dB of full scale, such as -60")


@strict
class BiBiERTextConfig(ModalityConfig):
    r"""The text part of a [`BiBiERConfig`]: all options of [`ModalityConfig`], and these.

    Args:
        max_tokens (`int`, *optional*): Longer text is truncated by the tokenizer, counting special tokens. None: 95,
            or 192 for the embedded backbone, which reads bytes.
        vocab_size (`int`, *optional*): Number of tokens of the backbone. Derived from it; another value resizes its
            embeddings when the model is built.
    """

    model_type = "bibier_text"
    modality: ClassVar[str] = "text"
    at_least_one: ClassVar[str] = f"{ModalityConfig.at_least_one} max_tokens"
    sub_configs_defaults = {"backbone": SubConfigSpec(AutoConfig, model_type="bert", optional=True)}

    max_tokens: int | None = None
    vocab_size: int | None = None

    def __post_init__(self, **kwargs):
        if self.max_tokens is None:
            self.max_tokens = 192 if self.backbone == EMBEDDED else 95
        super().__post_init__(**kwargs)
        if self.vocab_size is None:
            self.vocab_size = getattr(self.backbone, "vocab_size", None)


MODALITY_CONFIGS = {config.modality: config for config in (BiBiERAudioConfig, BiBiERTextConfig)}


@strict
class BiBiERConfig(CheckedConfig):
    r"""Configuration of [`BiBiERModel`] and [`BiBiERForEmotionClassification`].

    Args:
        audio_config (`BiBiERAudioConfig` or `dict`, *optional*): Speech backbone and encoder. None: the embedded one.
        text_config (`BiBiERTextConfig` or `dict`, *optional*): Text backbone and encoder. None: the embedded one.
        modalities (`list[str]`, *optional*, defaults to `["audio", "text"]`): What the model reads. One name makes a
            unimodal model without fusion.
        save_backbones (`str`, *optional*, defaults to `"auto"`): `"auto"` stores trained and local backbones in the
            checkpoint and refers to frozen ones by Hub id and revision; `"always"` stores both; `"never"` stores none.
        fusion (`str`, *optional*, defaults to `"biformer"`): `"late"`: learned weights over the unimodal logits;
            `"biformer"`: cross-modal transformer; `"bigraph"`, `"bigated"`, `"bigatedgraph"`: the same, then a
            two-node graph, a gate, or both over the pooled modalities; `"bimamba"`: Mamba blocks over both sequences.
        add_unimodal_logits (`bool`, *optional*, defaults to `False`): Whether to mix the logits of fusion and encoders
            with learned weights (the published `...WithProb` models).
        hidden_size (`int`, *optional*, defaults to 256): Width of the fusion.
        num_hidden_layers (`int`, *optional*, defaults to 5): Number of fusion layers.
        num_attention_heads (`int`, *optional*, defaults to 8): Heads of the cross-modal attention.
        num_graph_heads (`int`, *optional*, defaults to 2): Heads of the first graph layer.
        gated_size (`int`, *optional*, defaults to 128): Width of the gates.
        mamba_expand (`float`, *optional*, defaults to 2): Width inside the blocks of `"bimamba"`, relative to
            `hidden_size`.
        mamba_state_size (`int`, *optional*, defaults to 16): States per channel of these blocks.
        mamba_conv_kernel (`int`, *optional*, defaults to 4): Width of their causal convolution.
        mamba_dt_rank (`int`, *optional*): Rank of their step size's projection. None: `hidden_size / 16`.
        seg_len (`int`, *optional*, defaults to 95): Length to which the means over features are resampled.
        classifier_size (`int`, *optional*, defaults to 256): Width of the classifier's hidden layer.
        positional_encoding (`bool`, *optional*, defaults to `False`): Whether to add sinusoids to both sequences.
        dropout (`float`, *optional*, defaults to 0.15): Dropout rate in the fusion and the classifier.
        original_behavior (`bool` or `list[str]`, *optional*, defaults to `False`): Bugs of the published code to
            reproduce: True for all of them, or their names (see [`ORIGINAL_BEHAVIOR`]). True reproduces the published
            models in evaluation mode.
        temperature (`float`, *optional*, defaults to 1.0): The pipeline divides the logits by it before the softmax,
            so that scores match accuracy (temperature scaling, fitted on dev). It changes no ranking; `logits` and the
            loss ignore it.
        least_confidence (`float`, *optional*): The score that the best label must reach, or the pipeline calls an answer
            unsure (fitted on dev). None: any.
        text_context (`dict`, *optional*): Earlier utterances that training appended to each text, such as
            `{"utterances": 3, "speakers": True}`; the pipeline then takes them as `context`. None: none.
        mixup_alpha (`float`, *optional*, defaults to 0.0): In training, mix each sample and its label with another one
            of the batch by a weight from Beta(alpha, alpha), after the encoders' linear layer and in the statistics.
            0: off.
        modality_dropout (`float`, *optional*, defaults to 0.1): Share of bimodal training samples that lose a
            modality.
        unimodal_loss_weight (`float`, *optional*, defaults to 0.3): Weight of each unimodal loss, relative to the
            fused one.
        class_weights (`list[float]`, *optional*): Weight of each class in the loss, in label order. None: all one.
        problem_type (`str`, *optional*, defaults to `"single_label_classification"`): What the labels are.
            `"single_label_classification"`: one class for each sample (softmax). `"multi_label_classification"`:
            several at once, or none (sigmoid). `"regression"`: values, such as valence and arousal; the loss is one
            minus the concordance correlation coefficient.
        thresholds (`list[float]`, *optional*): The score from which each label of `"multi_label_classification"` counts
            as present, in label order (fitted on dev). None: 0.5.
        label_ranges (`list[list[float]]`, *optional*): Lowest and highest value of each target of `"regression"`, in
            label order. The pipeline clips its values to them. None: any value.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the initial step that replaces
            a missing modality.

    Raises:
        ValueError: an option is unknown or contradicts another. `from_pretrained` and `from_dict`, which keep unknown
            keys, raise [`CheckpointError`].

    Examples:
        >>> config = BiBiERConfig(audio_config={"encoder": "transformer"}, fusion="bigated")
        >>> config.audio_config.hidden_size, config.fusion
        (256, 'bigated')
    """

    model_type = "bibier"
    keys_to_ignore_at_inference = [
        "audio_logits",
        "text_logits",
        "fused_embedding",
        "hidden_states",
        "attentions",
        "not_speech",
    ]
    at_least_one: ClassVar[str] = """
        hidden_size num_attention_heads num_graph_heads gated_size mamba_state_size mamba_conv_kernel mamba_dt_rank
        seg_len classifier_size
    """
    sub_configs_defaults = {
        "audio_config": SubConfigSpec(BiBiERAudioConfig),
        "text_config": SubConfigSpec(BiBiERTextConfig),
    }

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    modalities: list[str] | tuple[str, ...] = MODALITIES
    save_backbones: Literal["auto", "always", "never"] = "auto"
    fusion: str = "biformer"
    add_unimodal_logits: bool = False
    hidden_size: int = 256
    num_hidden_layers: int = 5
    num_attention_heads: int = 8
    num_graph_heads: int = 2
    gated_size: int = 128
    mamba_expand: float | int = 2
    mamba_state_size: int = 16
    mamba_conv_kernel: int = 4
    mamba_dt_rank: int | None = None
    seg_len: int = 95
    classifier_size: int = 256
    positional_encoding: bool = False
    dropout: float | int = 0.15
    original_behavior: bool | list[str] = False
    temperature: float | int = 1.0
    least_confidence: float | int | None = None
    text_context: dict | None = None
    mixup_alpha: float | int = 0.0
    modality_dropout: float | int = 0.1
    unimodal_loss_weight: float | int = 0.3
    class_weights: list[float | int] | None = None
    thresholds: list[float | int] | None = None
    label_ranges: list[list[float | int]] | None = None
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs):
        self.refuse_unknown(kwargs)
        self.modalities = list(self.modalities)
        self.require(
            self.modalities in (["audio", "text"], ["audio"], ["text"]),
            "modalities",
            "['audio', 'text'], ['audio'] or ['text']",
        )

        self.audio_config = self._without_unread_backbone("audio", self.audio_config)
        self.text_config = self._without_unread_backbone("text", self.text_config)

        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = dict(enumerate(EMOTIONS))
        if self.problem_type is None:
            self.problem_type = SINGLE_LABEL
        label2id = self.label2id
        super().__post_init__(**kwargs)
        check_labels(self, label2id)

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
        """Create the configuration for a pair of backbones, from their `config.json` without their weights.

        Args:
            audio, text: a Hub id, a local folder, a configuration, `"embedded"` (small, trained from scratch), or None
                (features only).
            audio_revision, text_revision: revision of a Hub id.
            options: any other field of this class.
        """
        for name, source, revision in (("audio_config", audio, audio_revision), ("text_config", text, text_revision)):
            options[name] = located_backbone(source, revision) | dict(options.get(name) or {})
        return cls(**options)

    def _without_unread_backbone(self, modality: str, given: Any) -> Any:
        """Give a modality that the model does not read no backbone, unless there is one in its options."""
        is_options = given is None or isinstance(given, dict)
        return {"backbone": None} | (given or {}) if is_options and modality not in self.modalities else given

    @property
    def modality_configs(self) -> dict[str, ModalityConfig]:
        """Both modalities, by name."""
        configs = {"audio": self.audio_config, "text": self.text_config}
        return {name: config for name, config in configs.items() if isinstance(config, ModalityConfig)}

    @property
    def label_names(self) -> list[str]:
        """The labels in the order of the logits."""
        names: dict[Any, str] = self.id2label or {}
        return [names[index] for index in range(len(names))]

    def reproduces(self, defect: str) -> bool:
        """Whether the model reproduces a bug of the published code, by its name in `ORIGINAL_BEHAVIOR`."""
        return defect in self.reproduced_defects

    @property
    def reproduced_defects(self) -> list[str]:
        """The bugs of the published code that the model reproduces."""
        if isinstance(self.original_behavior, bool):
            return list(ORIGINAL_BEHAVIOR) if self.original_behavior else []
        return list(self.original_behavior)

    @property
    def depends_on_batch(self) -> bool:
        """Whether a sample's result may depend on its batch (a bug of the published code)."""
        graph = self.fusion in ("bigraph", "bigatedgraph")
        return self.reproduces("unmasked") or (graph and self.reproduces("first_pair_graph"))

    @property
    def batch_warning(self) -> str:
        """The warning if such a model is used with batches."""
        return (
            "This model reproduces bugs of the published code that make a result depend on its batch "
            f"({', '.join(self.reproduced_defects)}); batch_size=1 is used."
        )

    def _refuse_contradictions(self) -> None:
        self.require(self.fusion in FUSIONS, "fusion", f"one of {', '.join(FUSIONS)}")
        unknown = sorted(set(self.reproduced_defects) - set(ORIGINAL_BEHAVIOR))
        self.require(not unknown, "original_behavior", f"True, False, or a list of {', '.join(ORIGINAL_BEHAVIOR)}")

        self.check_bounds()
        self.require(0 <= self.modality_dropout < 1, "modality_dropout", "in [0, 1)")
        for name in ("unimodal_loss_weight", "mixup_alpha", "initializer_range"):
            self.require(0 <= getattr(self, name) < math.inf, name, "at least 0 and finite")
        self.require(0 < self.temperature < math.inf, "temperature", "above 0 and finite")
        if self.least_confidence is not None:
            self.require(0 <= self.least_confidence < 1, "least_confidence", "in [0, 1), or None")
        valid = check_text_context(self.text_context)
        self.require(valid, "text_context", "None, or {'utterances': a number above 0, 'speakers': True or False}")
        heads = self.num_attention_heads
        self.require(self.hidden_size % heads == 0, "hidden_size", f"a multiple of num_attention_heads={heads}")
        if self.positional_encoding:
            self.require(
                self.hidden_size % 2 == 0, "hidden_size", "even, because positional_encoding pairs sines with cosines"
            )
        if self.class_weights is not None:
            fits = len(self.class_weights) == self.num_labels and all(
                0 <= weight < math.inf for weight in self.class_weights
            )
            self.require(fits, "class_weights", f"{self.num_labels} numbers >= 0, one per label")
        self._refuse_problem()
        for modality in self.modalities:
            self._refuse_modality(self.modality_configs[modality])

    def _refuse_problem(self) -> None:
        """Check the options that belong to one `problem_type`."""
        count, kind = self.num_labels, self.problem_type
        self.require(kind in PROBLEM_TYPES, "problem_type", f"one of {', '.join(PROBLEM_TYPES)}")
        if kind == REGRESSION:
            self.require(self.temperature == 1, "temperature", "1.0 with problem_type='regression'")
        if self.thresholds is not None:
            fits = len(self.thresholds) == count and all(0 <= value <= 1 for value in self.thresholds)
            self.require(
                kind == MULTI_LABEL and fits,
                "thresholds",
                f"{count} numbers from 0 to 1, one per label, with problem_type='{MULTI_LABEL}', or None",
            )
        if self.label_ranges is not None:
            fits = len(self.label_ranges) == count and all(
                len(bounds) == 2 and -math.inf < bounds[0] < bounds[1] < math.inf for bounds in self.label_ranges
            )
            self.require(
                kind == REGRESSION and fits,
                "label_ranges",
                f"{count} pairs [low, high], one per label, with problem_type='{REGRESSION}', or None",
            )

    def _refuse_modality(self, config: ModalityConfig) -> None:
        """Check a modality that the model reads."""
        logits_only = self.fusion == "late" and config.encoder == "none" and len(self.modalities) == 2
        if config.feature_size is None and not logits_only:
            raise ValueError(
                f"Neither {config.path('backbone')} nor {config.path('feature_size')} (the width of precomputed "
                "features) is set. Set one, or create the config with BiBiERConfig.from_backbones(audio, text)."
            )
        if len(self.modalities) == 1:
            config.require(
                config.encoder != "none", "encoder", f"an encoder, which a model of {config.modality} alone needs"
            )
        if config.encoder == "lstm" and not self.reproduces("unidirectional"):
            config.require(config.hidden_size % 2 == 0, "hidden_size", "even, because a bidirectional LSTM halves it")


BiBiERConfig.register_for_auto_class()
make_importable(__name__)
