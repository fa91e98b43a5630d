"""The three graphs that can be traced: `features` (above the backbones), `whole` (from the output of the processor),
and `samples` (from raw audio)."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch._dynamo.exc import UserError
from torch.nn import functional as F
from transformers import ByT5Tokenizer, PreTrainedModel

from ..errors import ExportError
from ..model.audio_bibier import SAMPLING_RATE
from ..model.backbones_bibier import (
    SPECTRAL_INPUT_RATES,
    audio_input_name,
    audio_states_function,
    receptive_field,
    runs_in_equal_lengths,
    text_states,
)
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from .front_end import build_front_end

PARTS = ("features", "whole", "samples")

_WHISPER_MARGIN = 2
"""Frames of silence after a clip. Whisper halves the length, so without them a clip of one frame would need a separate
graph."""

_HOP = SAMPLING_RATE // 100
"""Samples in a frame of the examples of raw audio."""

_WAVEFORM_MARGIN = SAMPLING_RATE // 50
"""Samples of silence after a clip. Without them, a batch of one frame would need a separate graph."""


class Graph(nn.Module):
    """A model as a function of tensors, in the order of `input_names`, that returns tensors in the order of
    `output_names`.

    All inputs are required. A sample without a modality has a mask of zeros for it (with any values, at least one
    step).

    Args:
        model: in evaluation mode.
    """

    part: str

    parity_shapes: tuple[tuple[int, ...], ...] = ((1, 1, 1), (1, 23, 5), (2, 1, 17), (4, 70, 40), (5, 8, 1))
    """Batch size, frames of audio, tokens of text of the examples to compare a graph with its model on."""

    def __init__(self, model: BiBiERForEmotionClassification):
        super().__init__()
        refuse_untraceable(model)
        self.model = model
        modalities = model.config.modalities
        unimodal = len(modalities) == 1
        heads = [] if unimodal else [f"{name}_logits" for name in modalities if model.heads[name] is not None]
        checks = ["not_speech"] if model.base_model.audio.speech_check is not None else []
        self.output_names = ["logits", *heads, *checks]

    @property
    def inputs(self) -> list[tuple[str, str]]:
        """(values, mask) of each modality that the model reads, audio first."""
        raise NotImplementedError

    @property
    def input_names(self) -> list[str]:
        return [name for pair in self.inputs for name in pair]

    def example(self, batch: int, lengths: Sequence[int], seed: int = 0) -> dict[str, torch.Tensor]:
        """Return random inputs: `batch` samples of mixed lengths up to `lengths`, one per modality.

        Of three or more samples, one lacks each modality.
        """
        generator = torch.Generator().manual_seed(seed)
        inputs = {}

        for place, ((name, mask_name), length) in enumerate(zip(self.inputs, lengths, strict=True)):
            kept = torch.randint(1, length + 1, (batch, 1), generator=generator)
            kept[0] = length
            mask = torch.arange(length) < kept

            if len(self.inputs) == 2 and batch > 2:
                mask[1 + place] = False

            inputs[name] = self._example_values(name, batch, length, generator)
            inputs[mask_name] = mask.long()

        return inputs

    def _example_values(self, name: str, batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
        raise NotImplementedError

    def steps(self, lengths: Sequence[int]) -> list[int]:
        """Convert lengths in frames (audio) or tokens (text), one per modality, to steps of the inputs."""
        return [
            length * (SAMPLING_RATE // 50 if name == "input_values" else 1)
            for length, (name, _) in zip(lengths, self.inputs, strict=True)
        ]

    @property
    def longest(self) -> list[int | None]:
        """Most steps of each modality; None: any number."""
        return [None] * len(self.inputs)

    def tracing_example(self) -> dict[str, torch.Tensor]:
        """Return inputs to trace the graph with: no size that may vary is 1."""
        return self.example(3, self.steps([19, 6][: len(self.inputs)]))

    @property
    def dynamic_shapes(self) -> list[dict[int, torch.export.Dim]]:
        """Name the dimensions of each input that may have any size."""
        batch = torch.export.Dim("batch")
        shapes = []

        for modality, longest in zip(self.model.config.modalities, self.longest, strict=True):
            steps = torch.export.Dim(f"{modality}_steps", max=longest)
            shapes += [{0: batch, 1: steps}] * 2

        return shapes

    def reference(self, inputs: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Run the model itself on inputs of the graph."""
        return self.model(**inputs)

    def _outputs(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        output = self.model(**inputs)
        return tuple(output[name] for name in self.output_names)


class FeaturesGraph(Graph):
    """`{audio,text}_features` (B, T, D) float32 and their masks (B, T) int64 -> logits (B, K), also of each
    modality."""

    part = "features"

    @property
    def inputs(self) -> list[tuple[str, str]]:
        return [(f"{modality}_features", f"{modality}_features_mask") for modality in self.model.config.modalities]

    def _example_values(self, name: str, batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
        width = self.model.config.modality_configs[name.removesuffix("_features")].feature_size
        assert width is not None  # of what the model reads
        return torch.randn(batch, length, width, generator=generator)

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._outputs(dict(zip(self.input_names, values, strict=True)))


class WholeGraph(Graph):
    """Output of the processor -> logits.

    Inputs: `input_values` (B, S) or `input_features` (B, F, M), `audio_attention_mask`; `input_ids`,
    `text_attention_mask` (B, T). Padding is on the right; audio is at most `max_window_s` long.

    Raises:
        ExportError: a backbone is missing or not mask-safe.
    """

    part = "whole"

    def __init__(self, model: BiBiERForEmotionClassification):
        super().__init__(model)
        for modality in model.config.modalities:
            backbone = model.streams[modality].backbone
            if backbone is None:
                raise ExportError(
                    f"part='whole': the model has no {modality} backbone for raw {modality}. Use part='features'."
                )
            if runs_in_equal_lengths(backbone):
                raise ExportError(
                    f"part='whole': the {modality} backbone '{backbone.config.model_type}' mixes padding into its "
                    "features, so it runs in groups of equal length, which one graph cannot do. Use part='features' "
                    "and compute the features in PyTorch."
                )

    @property
    def audio_backbone(self) -> PreTrainedModel | None:
        return self.model.streams["audio"].backbone

    @property
    def inputs(self) -> list[tuple[str, str]]:
        names = {"text": ("input_ids", "text_attention_mask")}

        if self.audio_backbone is not None:
            names["audio"] = (audio_input_name(self.audio_backbone.config), "audio_attention_mask")

        return [names[modality] for modality in self.model.config.modalities]

    def _example_values(self, name: str, batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
        if name == "input_ids":
            ids = min(259, self.model.config.modality_configs["text"].vocab_size)
            return torch.randint(3, ids, (batch, length), generator=generator)

        if name == "input_values":
            return torch.randn(batch, length, generator=generator)

        config = self.model.streams["audio"].require_backbone().config
        bands = config.num_mel_bins if config.model_type == "whisper" else config.feature_projection_input_dim

        return torch.randn(batch, length, bands, generator=generator)

    @property
    def longest(self) -> list[int | None]:
        longest = {"text": self.model.config.modality_configs["text"].max_tokens}

        if self.audio_backbone is not None:  # one window
            config = self.audio_backbone.config
            rate = SPECTRAL_INPUT_RATES.get(config.model_type, SAMPLING_RATE)
            steps = int(self.model.config.modality_configs["audio"].max_window_s * rate)
            positions = 2 * config.max_source_positions - _WHISPER_MARGIN if config.model_type == "whisper" else steps
            longest["audio"] = min(steps, positions)

        return [longest[modality] for modality in self.model.config.modalities]

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(self.input_names, values, strict=True))
        inputs = {}

        for modality, (name, mask_name) in zip(self.model.config.modalities, self.inputs, strict=True):
            encode = self._encode_audio if modality == "audio" else self._encode_text
            inputs[f"{modality}_features"], inputs[f"{modality}_features_mask"] = encode(given[name], given[mask_name])

        return self._outputs(inputs)

    def _encode_audio(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the model's `encode_audio` for one window without branching on values: absent rows are masked
        afterwards."""
        return self.model.streams["audio"].pool(*self._audio_frames(values, mask, _WHISPER_MARGIN))

    def _audio_frames(
        self, values: torch.Tensor, mask: torch.Tensor, whisper_margin: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        stream = self.model.streams["audio"]
        backbone, config = stream.require_backbone(), stream.config
        lengths = mask.sum(1)
        present = lengths > 0
        values = values * mask.reshape(*mask.shape, *(1,) * (values.dim() - 2)).to(values.dtype)

        if audio_input_name(backbone.config) == "input_values":
            shortest = receptive_field(backbone.config)
            values, lengths = F.pad(values, (0, shortest + _WAVEFORM_MARGIN)), lengths.clamp(min=shortest)

        if backbone.config.model_type == "whisper":
            values = F.pad(values, (0, 0, 0, whisper_margin))

        run = audio_states_function(backbone.config, config.cepstrum)
        features, kept = run(backbone, values, lengths.clamp(min=1), config.layers)

        return features, kept & present.unsqueeze(1)

    def _encode_text(self, input_ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = mask.sum(1)
        stream = self.model.streams["text"]
        features, kept = text_states(stream.require_backbone(), input_ids, lengths.clamp(min=1), stream.config.layers)

        return stream.pool(features, kept & (lengths > 0).unsqueeze(1))


class SamplesGraph(WholeGraph):
    """Raw samples at 16 kHz and token ids -> logits.

    Inputs: `samples` (B, W, S), W windows of a clip, all of them full but the last, and how many of the samples of
        each
    window count, `sample_counts` (B, W); `input_ids`, `text_attention_mask` (B, T), as in [`WholeGraph`]. A clip of at
    most one window has W = 1 and at least `front_end.shortest` samples, silence included.

    Args:
        model: in evaluation mode.
        processor: with the front end of its audio backbone.

    Raises:
        ExportError: as in [`WholeGraph`]; or the front end, or the tokenizer, cannot leave Python.
    """

    part = "samples"

    def __init__(self, model: BiBiERForEmotionClassification, processor: BiBiERProcessor | None):
        super().__init__(model)
        if processor is None:
            raise ExportError("part='samples': the graph contains the front end, so the processor is needed.")

        tokenizer = processor.tokenizer
        if "text" in model.config.modalities and not (tokenizer.is_fast or isinstance(tokenizer, ByT5Tokenizer)):
            raise ExportError(
                f"part='samples': {type(tokenizer).__name__} has no tokenizer.json, so it needs transformers. Use "
                "part='whole'."
            )

        self.processor = processor
        self.front_end = None
        if "audio" in model.config.modalities:
            self.front_end = build_front_end(processor.feature_extractor, processor.max_window_s)
            self.parity_shapes = (*self.parity_shapes, (1, round(2.3 * self.front_end.window / _HOP), 3))

    @property
    def inputs(self) -> list[tuple[str, str]]:
        names = {"audio": ("samples", "sample_counts"), "text": ("input_ids", "text_attention_mask")}
        return [names[modality] for modality in self.model.config.modalities]

    def steps(self, lengths: Sequence[int]) -> list[int]:
        return [
            length * (_HOP if name == "samples" else 1) for length, (name, _) in zip(lengths, self.inputs, strict=True)
        ]

    def example(self, batch: int, lengths: Sequence[int], seed: int = 0) -> dict[str, torch.Tensor]:
        """Return random inputs as [`Graph.example`] does; the samples have two windows or more if they need to."""
        inputs = super().example(batch, lengths, seed)
        if self.front_end is None:
            return inputs

        counts = inputs["sample_counts"].sum(1)
        inputs["samples"], inputs["sample_counts"] = self.in_windows(inputs["samples"], counts)
        return inputs

    def tracing_example(self) -> dict[str, torch.Tensor]:
        inputs = super().tracing_example()

        if self.front_end is not None:  # two windows, which need not be full here
            samples, counts = inputs["samples"], inputs["sample_counts"]
            inputs["samples"] = torch.cat([samples, samples.flip(2)], dim=1)
            inputs["sample_counts"] = torch.cat([counts, counts // 2], dim=1)

        return inputs

    def in_windows(self, samples: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut samples (B, S), of which `counts` (B,) count, into the windows of the graph."""
        assert self.front_end is not None
        window = self.front_end.window
        windows = -(-samples.shape[1] // window)
        size = window if windows > 1 else max(samples.shape[1], self.front_end.shortest)
        samples = F.pad(samples, (0, windows * size - samples.shape[1])).unflatten(1, (windows, size))

        return samples, (counts.unsqueeze(1) - torch.arange(windows) * size).clamp(0, size)

    def _example_values(self, name: str, batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
        if name == "samples":
            return 0.1 * torch.randn(batch, length, generator=generator)
        return super()._example_values(name, batch, length, generator)

    @property
    def longest(self) -> list[int | None]:
        """Most samples of a window, and most tokens."""
        longest = dict(zip(self.model.config.modalities, super().longest, strict=True))

        if self.front_end is not None:
            longest["audio"] = self.front_end.window

        return list(longest.values())

    @property
    def dynamic_shapes(self) -> list[dict[int, torch.export.Dim]]:
        shapes = super().dynamic_shapes
        if self.front_end is None:
            return shapes

        batch, windows = shapes[0][0], torch.export.Dim("windows")
        steps = torch.export.Dim("samples", min=self.front_end.shortest, max=self.front_end.window)
        return [{0: batch, 1: windows, 2: steps}, {0: batch, 1: windows}, *shapes[2:]]

    def reference(self, inputs: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Run the processor and the model on the same clips."""
        given = dict(inputs)

        if self.front_end is not None:
            rows = zip(given.pop("samples"), given.pop("sample_counts"), strict=True)
            clips = [torch.cat([window[:count] for window, count in zip(*row, strict=True)]).numpy() for row in rows]
            encoded = self.processor.encode([clip if len(clip) else None for clip in clips], ["-"] * len(clips))
            given |= {name: encoded[name] for name in (self.processor.audio_input_name, "audio_attention_mask")}

        return self.model(**given)

    def _encode_audio(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode windows as rows, and join the frames of each clip again."""
        assert self.front_end is not None
        batch, windows = mask.shape

        if self.processor.audio_input_name == "input_values":  # a shorter rest would be no frame
            shortest = receptive_field(self.model.streams["audio"].require_backbone().config)
            rest = torch.arange(windows) > 0
            mask = torch.where(rest & (mask < shortest), 0, mask)

        frames, counts = self.front_end(values.flatten(0, 1), mask.flatten())
        kept = torch.arange(frames.shape[1]) < counts.unsqueeze(1)
        features, kept = self._audio_frames(frames, kept, whisper_margin=0)
        features, kept = features.unflatten(0, (batch, windows)), kept.unflatten(0, (batch, windows))

        return self.model.streams["audio"].pool(features.flatten(1, 2), kept.flatten(1, 2))


def refuse_untraceable(model: BiBiERForEmotionClassification) -> None:
    """Raise an ExportError if no single graph can represent the model."""
    config = model.config
    if config.depends_on_batch:
        raise ExportError(
            "The model reproduces defects of the published code that make a result depend on its batch "
            f"({', '.join(config.reproduced_defects)}); a graph for any batch size would not be that model. Export a "
            "corrected one."
        )

    for modality in config.modalities:
        if config.modality_configs[modality].feature_size is None:
            raise ExportError(
                f"The model mixes {modality} logits that are computed elsewhere (fusion='late', "
                f"{modality}_config.encoder='none'): there is nothing above the backbone to export."
            )


def make_graph(model: BiBiERForEmotionClassification, part: str, processor: BiBiERProcessor | None = None) -> Graph:
    """Return the graph of a copy of the model, in float32 and evaluation mode.

    Args:
        model: a trained model.
        part: one of `PARTS`.
        processor: of the model, for `samples`.

    Raises:
        ExportError: an unknown part, or a model without such a graph; the message says what to do.
    """
    if part not in PARTS:
        raise ExportError(f"part={part!r} is not allowed; it must be one of {', '.join(PARTS)}.")

    model = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    if part == "samples":
        return SamplesGraph(model, processor)

    return (FeaturesGraph if part == "features" else WholeGraph)(model)


def trace(graph: Graph) -> torch.export.ExportedProgram:
    """Trace a graph for any batch size and any lengths from 1 (audio in `whole`: up to one window).

    Raises:
        ExportError: a backbone computes something else for some length.
    """
    inputs = tuple(graph.tracing_example().values())

    try:
        with torch.no_grad():
            return torch.export.export(
                graph,
                inputs,
                dynamic_shapes={"values": tuple(graph.dynamic_shapes)},
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=graph.part == "samples",
            )
    except UserError as error:
        advice = " Use part='features' and compute the features in torch." if graph.part == "whole" else ""
        raise ExportError(
            f"No single graph works for all lengths of this model.{advice} PyTorch reports: {error}"
        ) from error
