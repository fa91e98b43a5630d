"""Backbones: pretrained speech and text models from transformers -> features and their masks.

For every backbone, a sample has the same features alone, padded, and anywhere in any batch:

* models that respect an attention mask get one;
* Whisper's encoder ignores masks and expects 30 s: it is run here on the clip's own frames, with the first positions,
  masked in every layer;
* models that mix in padding anyway (group norms, convolutions or downsampling without a mask) are detected by a probe
  when they are loaded, and run in unpadded groups of equal length.

Audio longer than a window is encoded window by window, as if each window were a sample.
"""

import inspect
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import MODEL_MAPPING, AutoConfig, AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.integrations.peft import PeftAdapterMixin
from transformers.modeling_utils import PreTrainedModel

from .audio_bibier import SAMPLING_RATE

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

SPECTRAL_INPUT_RATES = {"wav2vec2-bert": 50, "whisper": 100}
"""Model type -> frames per second of its `input_features`; other speech backbones read the waveform,
`input_values`."""

_WINDOWS_AT_ONCE = 4
"""Windows of a long recording to encode together, so that memory does not grow with its length."""


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a backbone with random weights; of an encoder-decoder model, only the encoder."""
    return _encoder(AutoModel.from_config(config, **_without_pooler(config)))


def load_backbone(source: str, revision: str | None = None, **kwargs) -> PreTrainedModel:
    """Load a pretrained backbone in float32 from a Hub id or a folder."""
    config = AutoConfig.from_pretrained(source, revision=revision, **kwargs)
    backbone = _encoder(
        AutoModel.from_pretrained(source, revision=revision, dtype=torch.float32, **_without_pooler(config), **kwargs)
    )
    if os.path.isdir(source):
        backbone.name_or_path = ""  # a local folder is meaningless in a saved checkpoint
    return backbone


def load_adapter(backbone: PreTrainedModel, folder: str) -> None:
    """Load a LoRA adapter from a folder into a backbone (requires peft)."""
    # wav2vec2 has another method of the same name, hence the full one.
    PeftAdapterMixin.load_adapter(backbone, folder)


def _encoder(backbone: PreTrainedModel) -> PreTrainedModel:
    return backbone.get_encoder() if backbone.config.is_encoder_decoder else backbone


def _without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Leave out the pooler that some text models have: it is not used here, and would get no gradient in training."""
    parameters = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def find_backbone_folder(backbone_dir: str | os.PathLike | dict | None, modality: str, backbone_id: str) -> str | None:
    """Find the folder to use instead of a Hub id.

    Args:
        backbone_dir: `{"audio": folder, "text": folder}`, or a folder that contains `<owner>/<name>`, `<name>` or
            `<owner>--<name>`.
        modality: `"audio"` or `"text"`.
        backbone_id: the Hub id.
    """
    if backbone_dir is None:
        return None
    if isinstance(backbone_dir, dict):
        return os.fspath(backbone_dir[modality]) if modality in backbone_dir else None
    tried = [
        os.path.join(backbone_dir, name)
        for name in (backbone_id, backbone_id.split("/")[-1], backbone_id.replace("/", "--"))
    ]
    for folder in tried:
        if os.path.isdir(folder):
            return folder
    raise FileNotFoundError(
        f"backbone_dir has no copy of the {modality} backbone '{backbone_id}'. Looked for: {', '.join(tried)}."
    )


def audio_input_name(config: PreTrainedConfig) -> str:
    """`"input_features"` (spectral frames) or `"input_values"` (a waveform)."""
    return "input_features" if config.model_type in SPECTRAL_INPUT_RATES else "input_values"


def encode_audio(
    backbone: PreTrainedModel,
    inputs: Tensor,
    mask: Tensor | None,
    layers: Sequence[int],
    max_window_s: float,
    with_cepstrum: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the features of a batch of clips.

    Args:
        backbone: the speech model.
        inputs: waveforms (B, S) at 16 kHz or spectral frames (B, F, M), padded on the right.
        mask: (B, S) or (B, F), 1 = keep; None: all. A row of zeros has no audio.
        layers: hidden states to return, concatenated in each frame; -1 for the output.
        max_window_s: longer clips are encoded in windows of this many seconds.
        with_cepstrum: whether to append the [`cepstrum`] of the input to the features of each frame (Whisper).

    Returns:
        features (B, T, D), bool mask (B, T)
    """
    config = backbone.config
    waveform = audio_input_name(config) == "input_values"
    expected = 2 if waveform else 3
    if inputs.dim() != expected:
        shape = "(batch, samples)" if waveform else "(batch, frames, bands)"
        raise ValueError(
            f"The audio backbone '{config.model_type}' takes a tensor of shape {shape}, got {tuple(inputs.shape)}."
        )

    inputs, mask = kept_first(inputs, as_mask(mask, inputs, "audio_attention_mask"))
    if waveform:  # a clip shorter than one frame is extended into its padding, which must be silent
        inputs = inputs.masked_fill(~mask, 0)
    shortest = receptive_field(config) if waveform else 1
    window = int(max_window_s * (SAMPLING_RATE if waveform else SPECTRAL_INPUT_RATES[config.model_type]))
    if config.model_type == "whisper":
        window = min(window, 2 * config.max_source_positions)

    # Windows become rows. A clip shorter than one frame is extended with silence; a shorter tail is dropped.
    batch, length = mask.shape
    windows = -(-max(length, shortest) // window)
    step = window if windows > 1 else max(length, shortest)
    padding = windows * step - length
    inputs = F.pad(inputs, (0, padding) if waveform else (0, 0, 0, padding))
    inputs = inputs.reshape(batch * windows, step, *inputs.shape[2:])
    lengths = F.pad(mask, (0, padding)).reshape(batch, windows, step).sum(-1)
    lengths[:, 0] = torch.where(lengths[:, 0] > 0, lengths[:, 0].clamp(min=shortest), 0)
    lengths = torch.where(lengths < shortest, 0, lengths).flatten()

    run = audio_states_function(config, with_cepstrum)
    width = len(layers) * config.hidden_size + (config.num_mel_bins if with_cepstrum else 0)
    rows = batch if windows == 1 else _WINDOWS_AT_ONCE
    encoded = [
        _run_present(run, backbone, some_inputs, some_lengths, layers, width)
        for some_inputs, some_lengths in zip(inputs.split(rows), lengths.split(rows), strict=True)
    ]

    frames = max(features.shape[1] for features, _ in encoded)
    features = torch.cat([F.pad(features, (0, 0, 0, frames - features.shape[1])) for features, _ in encoded])
    mask = torch.cat([F.pad(mask, (0, frames - mask.shape[1])) for _, mask in encoded])
    return features.reshape(batch, -1, features.shape[-1]), mask.reshape(batch, -1)  # (B, T, D), (B, T)


def encode_text(
    backbone: PreTrainedModel, input_ids: Tensor, mask: Tensor | None, layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Compute the features of a batch of texts: ids (B, T), mask (B, T) -> features (B, T, D), bool mask (B, T).

    A row of zeros in the mask has no text.
    """
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids must have the shape (batch, tokens), got {tuple(input_ids.shape)}.")
    input_ids, mask = kept_first(input_ids, as_mask(mask, input_ids, "text_attention_mask"))
    width = len(layers) * backbone.config.hidden_size
    return _run_present(text_states, backbone, input_ids, mask.sum(1), layers, width)


def as_mask(mask: Tensor | None, inputs: Tensor, name: str) -> Tensor:
    """Return a bool mask (B, T) of inputs (B, T, ...); None: keep all."""
    if mask is None:
        return torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
    if mask.shape != inputs.shape[:2]:
        raise ValueError(
            f"{name} has the shape {tuple(mask.shape)}; it must be {tuple(inputs.shape[:2])}, as in its input."
        )
    return mask.bool()


def kept_first(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the kept steps of each sample of x (B, T, ...) to the front, in order; return x and its bool mask (B, T).

    This makes padding on the left or in between equivalent to padding on the right.
    """
    if not torch.compiler.is_compiling() and not (mask[:, 1:] & ~mask[:, :-1]).any():
        return x, mask  # already padded on the right

    steps = torch.arange(mask.shape[1], device=mask.device)
    order = torch.where(mask, steps, steps + mask.shape[1]).argsort(dim=1)
    index = order.reshape(*order.shape, *(1,) * (x.dim() - 2)).expand_as(x)
    return x.gather(1, index), mask.gather(1, order)


def receptive_field(config: PreTrainedConfig) -> int:
    """Number of samples that one output frame sees: 400 for wav2vec2 and related models."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


@torch.compiler.disable
def runs_in_equal_lengths(backbone: PreTrainedModel) -> bool:
    """Whether padding changes the output of this backbone, so that only inputs of equal length can share a batch.

    Runs the backbone once on a random input, alone and padded. Random state, modes and hooks are restored.
    """
    if (known := getattr(backbone, "_mixes_padding", None)) is not None:
        return known
    parameters = list(backbone.parameters())
    if any(parameter.is_meta for parameter in parameters):
        return False  # cannot be run

    device = parameters[0].device
    modes = [(module, module.training) for module in backbone.modules()]
    hooks = [
        (registered, dict(registered))
        for module, _ in modes
        for registered in (module._forward_hooks, module._forward_pre_hooks)
        if registered
    ]
    try:
        for registered, _ in hooks:
            registered.clear()
        backbone.eval()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            run, inputs, lengths = _probe(backbone)
            inputs, lengths = inputs.to(device), lengths.to(device)
            short = int(lengths[0])
            alone, kept = run(backbone, inputs[:1, :short], lengths[:1], [-1])
            padded, padded_kept = run(backbone, inputs, lengths, [-1])
    finally:
        for registered, before in hooks:
            registered.update(before)
        for module, mode in modes:
            module.training = mode

    frames = int(kept.sum())
    alone, padded = alone[0, :frames].double(), padded[0, :frames].double()
    rounding = min(128 * torch.finfo(backbone.dtype).eps, 0.1)
    same = int(padded_kept[0].sum()) == frames and (padded - alone).norm() <= rounding * alone.norm()
    mixes = not bool(same)
    backbone._mixes_padding = mixes  # ty: ignore[invalid-assignment] - torch declares tensors and modules only
    return mixes


def _probe(backbone: PreTrainedModel) -> tuple[Callable, Tensor, Tensor]:
    """Return the function that computes features, random inputs of two samples, and their lengths, shorter one first.

    The lengths are odd, because downsampling shows at an odd end.
    """
    config, generator = backbone.config, torch.Generator().manual_seed(0)
    if backbone.main_input_name == "input_ids":
        short, long = 7, 14
        pad = getattr(config, "pad_token_id", None) or 0
        inputs = torch.randint(0, getattr(config, "vocab_size", 128) - 1, (2, long), generator=generator)
        inputs += inputs >= pad  # any token but padding
        inputs[0, short:] = pad
        return text_states, inputs, torch.tensor([short, long])

    if audio_input_name(config) == "input_values":
        short = 20 * receptive_field(config) + 1
        inputs = torch.randn(2, 2 * short, generator=generator)
    else:
        short = 21
        bands = config.num_mel_bins if config.model_type == "whisper" else config.feature_projection_input_dim
        inputs = torch.randn(2, 2 * short, bands, generator=generator)
    inputs[0, short:] = 0
    return audio_states_function(config, False), inputs, torch.tensor([short, 2 * short])


def _run_present(
    run: Callable, backbone: PreTrainedModel, inputs: Tensor, lengths: Tensor, layers: Sequence[int], width: int
) -> tuple[Tensor, Tensor]:
    """Call `run` on the non-empty rows, in one padded batch or in groups of equal length; reassemble the results."""
    equal_lengths = runs_in_equal_lengths(backbone)
    if not equal_lengths and bool((lengths > 0).all()):
        return run(backbone, inputs, lengths, layers)

    values, results = lengths.unique().tolist(), []
    groups = [lengths == value for value in values if value > 0] if equal_lengths else [lengths > 0]
    for rows in groups:
        if rows.any():
            longest = int(lengths[rows].max())
            results.append((rows, *run(backbone, inputs[rows, :longest], lengths[rows], layers)))

    frames = max((features.shape[1] for _, features, _ in results), default=1)
    dtype = results[0][1].dtype if results else backbone.dtype
    features = torch.zeros(len(lengths), frames, width, dtype=dtype, device=inputs.device)
    mask = torch.zeros(len(lengths), frames, dtype=torch.bool, device=inputs.device)
    for rows, some_features, some_mask in results:
        features[rows, : some_features.shape[1]] = some_features
        mask[rows, : some_mask.shape[1]] = some_mask
    return features, mask


def _prefix_mask(lengths: Tensor, size: int) -> Tensor:
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def _all_kept(mask: Tensor) -> bool:
    """Whether there is known to be no padding; a graph that is compiled or exported cannot look."""
    return not torch.compiler.is_compiling() and bool(mask.all())


def _hidden(outputs, layers: Sequence[int]) -> Tensor:
    """Concatenate the hidden states of `layers`: (B, T, D each)."""
    states = [outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer] for layer in layers]
    return states[0] if len(states) == 1 else torch.cat(states, dim=-1)


def audio_states_function(config: PreTrainedConfig, with_cepstrum: bool) -> Callable:
    """Return the function (backbone, inputs, lengths (B,), layers) -> features (B, T, D), bool mask (B, T)."""
    if with_cepstrum:
        return _whisper_states_and_cepstrum
    return whisper_states if config.model_type == "whisper" else audio_states


def audio_states(
    backbone: PreTrainedModel, inputs: Tensor, lengths: Tensor, layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    mask = _prefix_mask(lengths, inputs.shape[1])
    uniform = _all_kept(mask)
    name = audio_input_name(backbone.config)
    outputs = backbone(
        **{name: inputs.to(backbone.dtype)},
        attention_mask=None if uniform else mask.long(),
        output_hidden_states=list(layers) != [-1],
    )
    features = _hidden(outputs, layers)
    # In this order: a trace cannot compare the length of a waveform.
    if name == "input_values" or features.shape[1] != inputs.shape[1]:
        output_lengths: Any = backbone._get_feat_extract_output_lengths  # all speech backbones have it
        lengths = output_lengths(lengths).long()
    return features, _prefix_mask(lengths, features.shape[1])


def text_states(
    backbone: PreTrainedModel, input_ids: Tensor, lengths: Tensor, layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    tokens = input_ids.shape[1]
    shortest = getattr(backbone.config, "downsampling_rate", 1)
    if tokens < shortest:  # CANINE downsamples internally, but not below one step
        input_ids = F.pad(input_ids, (0, shortest - tokens), value=backbone.config.pad_token_id)
    mask = _prefix_mask(lengths, input_ids.shape[1])
    hidden = list(layers) != [-1]
    outputs = backbone(input_ids=input_ids, attention_mask=mask.long(), output_hidden_states=hidden)
    return _hidden(outputs, layers)[:, :tokens], mask[:, :tokens]


def whisper_states(
    encoder: "WhisperEncoder", inputs: Tensor, lengths: Tensor, layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Run Whisper's encoder on as many frames as the clips have.

    Padding is zeroed before each convolution and masked in each attention. Layers above the requested ones are
    skipped.
    """
    keep = _prefix_mask(lengths, inputs.shape[1]).unsqueeze(1)  # (B, 1, F)
    x = F.gelu(encoder.conv1(inputs.to(encoder.dtype).transpose(1, 2) * keep)) * keep
    x = F.gelu(encoder.conv2(x)).transpose(1, 2)  # stride 2: (B, ceil(F / 2), D)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    x = F.dropout(x, encoder.dropout, encoder.training)

    mask = _prefix_mask((lengths + 1) // 2, x.shape[1])
    bias = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask, torch.finfo(x.dtype).min)
    bias = bias[:, None, None].expand(-1, 1, x.shape[1], -1)  # (B, 1, T, T)
    wanted = [len(encoder.layers) if layer == -1 else layer for layer in layers]
    states = [x]
    for block in encoder.layers[: max(wanted)]:
        states.append(block(states[-1], None if _all_kept(mask) else bias))
    if max(wanted) == len(encoder.layers):
        states[-1] = encoder.layer_norm(states[-1])
    return torch.cat([states[layer] for layer in wanted], dim=-1), mask


def _whisper_states_and_cepstrum(
    encoder: "WhisperEncoder", inputs: Tensor, lengths: Tensor, layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    features, mask = whisper_states(encoder, inputs, lengths, layers)
    return torch.cat([features, cepstrum(inputs, lengths).to(features.dtype)], dim=-1), mask


def cepstrum(inputs: Tensor, lengths: Tensor) -> Tensor:
    """Cepstral coefficients of log-mel frames at the rate of Whisper's encoder.

    The orthonormal DCT-II over the bands (all M coefficients, because the high ones carry the pitch), averaged over
    the two input frames of each encoder frame. Frames beyond the end of a clip do not count.

    Args:
        inputs: (B, F, M).
        lengths: frames in each clip, (B,).

    Returns:
        (B, ceil(F / 2), M)
    """
    bands = inputs.shape[2]
    band, order = torch.arange(bands, device=inputs.device), torch.arange(bands, device=inputs.device).unsqueeze(1)
    transform = torch.cos(math.pi * (band + 0.5) * order / bands) * math.sqrt(2 / bands)
    transform[0] /= math.sqrt(2)

    # A convolution shaped like the encoder's second one, whose frame t starts at input frame 2 t.
    pair = torch.tensor([0.0, 1.0, 1.0], device=inputs.device)
    keep = _prefix_mask(lengths, inputs.shape[1]).unsqueeze(1).float()
    count = F.conv1d(keep, pair.reshape(1, 1, 3), stride=2, padding=1).clamp(min=1)
    total = F.conv1d(inputs.float().transpose(1, 2) * keep, transform.unsqueeze(2) * pair, stride=2, padding=1)
    return (total / count).transpose(1, 2)
