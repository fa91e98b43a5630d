"""Backbones: pretrained speech and text models from transformers -> features and their masks.

Whatever the backbone, a sample's features are the same alone, padded, in any batch and at any place in it:

* models that honour an attention mask get one;
* Whisper's encoder ignores masks and wants 30 s: it is run here on a clip's own frames, with the first positions,
  masked at every layer;
* models that mix padding in all the same (group norms, convolutions or down-sampling without a mask) are found by a
  probe when they are loaded, and run in groups of equal length, unpadded.

Audio longer than a window is encoded window by window, as if the windows were samples of their own.
"""

import hashlib
import inspect
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import MODEL_MAPPING, AutoConfig, AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.integrations.peft import PeftAdapterMixin
from transformers.modeling_utils import PreTrainedModel

from .audio_bibier import SAMPLING_RATE

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

SPECTRAL_INPUT_RATES = {"wav2vec2-bert": 50, "whisper": 100}
"""Model type -> frames a second of its `input_features`; every other speech backbone takes the waveform as
`input_values`."""

_WINDOWS_AT_ONCE = 4
"""Windows of long recordings that are encoded together: what a backbone holds meanwhile does not grow with the
recording."""


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone with random weights; the encoder alone of an encoder-decoder model."""
    return _encoder(AutoModel.from_config(config, **_without_pooler(config)))


def load_backbone(source: str, revision: str | None = None, **kwargs) -> PreTrainedModel:
    """A pretrained backbone in float32, from a Hub id or a folder."""
    config = AutoConfig.from_pretrained(source, revision=revision, **kwargs)
    backbone = _encoder(
        AutoModel.from_pretrained(source, revision=revision, dtype=torch.float32, **_without_pooler(config), **kwargs)
    )
    if os.path.isdir(source):
        backbone.name_or_path = ""  # a folder of this machine means nothing in what is saved
    return backbone


def load_adapter(backbone: PreTrainedModel, folder: str) -> None:
    """Put the LoRA adapter of a folder into a backbone (needs peft). By its full name: wav2vec2 has another method of
    the same name."""
    PeftAdapterMixin.load_adapter(backbone, folder)


def _encoder(backbone: PreTrainedModel) -> PreTrainedModel:
    return backbone.get_encoder() if backbone.config.is_encoder_decoder else backbone


def _without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """The pooler that some text models carry is of no use here, and would be left without a gradient in training."""
    parameters = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def weights_hash(backbone: nn.Module) -> str:
    """Hash of names, shapes, types and values of all weights: names a backbone that has no Hub id."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def find_backbone_folder(backbone_dir: str | os.PathLike | dict | None, modality: str, backbone_id: str) -> str | None:
    """The folder that stands in for a Hub id.

    Args:
        backbone_dir: `{"audio": folder, "text": folder}`, or a folder that holds `<owner>/<name>`, `<name>` or
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
    """`"input_features"` (spectral frames) or `"input_values"` (waveform)"""
    return "input_features" if config.model_type in SPECTRAL_INPUT_RATES else "input_values"


def encode_audio(
    backbone: PreTrainedModel,
    inputs: torch.Tensor,
    mask: torch.Tensor | None,
    layer: int,
    max_window_s: float,
    with_cepstrum: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of a batch of clips.

    Args:
        backbone: the speech model.
        inputs: waveforms (B, S) at 16 kHz or spectral frames (B, F, M), padded on the right.
        mask: (B, S) or (B, F), 1 = keep; None: all. A row of zeros has no audio.
        layer: hidden state to return, -1 for the output.
        max_window_s: longer clips are encoded in windows of this length.
        with_cepstrum: put the [`cepstrum`] of the input behind the features of each frame (Whisper).

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
    inputs, mask = kept_first(inputs, _as_mask(mask, inputs, "audio_attention_mask"))
    if waveform:  # what stands in the padding is nothing: a clip shorter than a frame is lengthened into it
        inputs = inputs.masked_fill(~mask, 0)
    shortest = receptive_field(config) if waveform else 1
    window = int(max_window_s * (SAMPLING_RATE if waveform else SPECTRAL_INPUT_RATES[config.model_type]))
    if config.model_type == "whisper":
        window = min(window, 2 * config.max_source_positions)

    # Windows become rows. A clip shorter than one frame is lengthened by silence; a tail shorter than one frame is
    # dropped.
    batch, length = mask.shape
    windows = -(-max(length, shortest) // window)
    step = window if windows > 1 else max(length, shortest)
    padding = windows * step - length
    inputs = F.pad(inputs, (0, padding) if waveform else (0, 0, 0, padding)).reshape(
        batch * windows, step, *inputs.shape[2:]
    )
    lengths = F.pad(mask, (0, padding)).reshape(batch, windows, step).sum(-1)
    lengths[:, 0] = torch.where(lengths[:, 0] > 0, lengths[:, 0].clamp(min=shortest), 0)
    lengths = torch.where(lengths < shortest, 0, lengths).flatten()

    run = audio_states_function(config, with_cepstrum)
    width = config.hidden_size + (config.num_mel_bins if with_cepstrum else 0)
    rows = batch if windows == 1 else _WINDOWS_AT_ONCE
    encoded = [
        _run_present(run, backbone, some_inputs, some_lengths, layer, width)
        for some_inputs, some_lengths in zip(inputs.split(rows), lengths.split(rows), strict=True)
    ]
    frames = max(features.shape[1] for features, _ in encoded)
    features = torch.cat([F.pad(features, (0, 0, 0, frames - features.shape[1])) for features, _ in encoded])
    mask = torch.cat([F.pad(mask, (0, frames - mask.shape[1])) for _, mask in encoded])
    return features.reshape(batch, -1, features.shape[-1]), mask.reshape(batch, -1)


def encode_text(
    backbone: PreTrainedModel, input_ids: torch.Tensor, mask: torch.Tensor | None, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of a batch of texts: ids (B, T) and mask (B, T) -> features (B, T, D), bool mask (B, T). A row of zeros
    has no text."""
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids must have the shape (batch, tokens), got {tuple(input_ids.shape)}.")
    input_ids, mask = kept_first(input_ids, _as_mask(mask, input_ids, "text_attention_mask"))
    return _run_present(text_states, backbone, input_ids, mask.sum(1), layer, backbone.config.hidden_size)


def _as_mask(mask: torch.Tensor | None, inputs: torch.Tensor, name: str) -> torch.Tensor:
    if mask is None:
        return torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
    if mask.shape != inputs.shape[:2]:
        raise ValueError(
            f"{name} has the shape {tuple(mask.shape)}, its input {tuple(inputs.shape)}: the first two sizes must "
            "agree."
        )
    return mask.bool()


def kept_first(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves the kept steps of each sample of x (B, T, ...) to the front, in order: padding on the left or in between
    is as good as on the right. Returns x and its bool mask (B, T)."""
    if not torch.compiler.is_compiling() and not (mask[:, 1:] & ~mask[:, :-1]).any():
        return x, mask  # padded on the right already
    steps = torch.arange(mask.shape[1], device=mask.device)
    order = torch.where(mask, steps, steps + mask.shape[1]).argsort(dim=1)
    index = order.reshape(*order.shape, *(1,) * (x.dim() - 2)).expand_as(x)
    return x.gather(1, index), mask.gather(1, order)


def receptive_field(config: PreTrainedConfig) -> int:
    """Samples under one output frame: 400 for wav2vec2 and its kin."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


@torch.compiler.disable
def runs_in_equal_lengths(backbone: PreTrainedModel) -> bool:
    """Does padding change what this backbone gives, so that only inputs of equal length can share a batch?

    Found by running it once on a random input, alone and padded. Random numbers, modes and hooks stay as they were.
    """
    if (known := getattr(backbone, "_mixes_padding", None)) is not None:
        return known
    parameters = list(backbone.parameters())
    if any(parameter.is_meta for parameter in parameters):
        return False  # nothing can be run
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
            alone, kept = run(backbone, inputs[:1, :short], lengths[:1], -1)
            padded, padded_kept = run(backbone, inputs, lengths, -1)
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


def _probe(backbone: PreTrainedModel) -> tuple[Callable, torch.Tensor, torch.Tensor]:
    """(what computes its features, random inputs of two samples, their lengths, the first one shorter). Odd lengths:
    down-sampling shows where its steps are cut."""
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
    run: Callable, backbone: PreTrainedModel, inputs: torch.Tensor, lengths: torch.Tensor, layer: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Calls `run` on the rows that are there, in one padded batch or in groups of equal length, and puts the results
    back in place."""
    equal_lengths = runs_in_equal_lengths(backbone)
    if not equal_lengths and bool((lengths > 0).all()):
        return run(backbone, inputs, lengths, layer)
    values, results = lengths.unique().tolist(), []
    groups = [lengths == value for value in values if value > 0] if equal_lengths else [lengths > 0]
    for rows in groups:
        if rows.any():
            longest = int(lengths[rows].max())
            results.append((rows, *run(backbone, inputs[rows, :longest], lengths[rows], layer)))
    frames = max((features.shape[1] for _, features, _ in results), default=1)
    dtype = results[0][1].dtype if results else backbone.dtype
    features = torch.zeros(len(lengths), frames, width, dtype=dtype, device=inputs.device)
    mask = torch.zeros(len(lengths), frames, dtype=torch.bool, device=inputs.device)
    for rows, some_features, some_mask in results:
        features[rows, : some_features.shape[1]] = some_features
        mask[rows, : some_mask.shape[1]] = some_mask
    return features, mask


def _prefix_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def _all_kept(mask: torch.Tensor) -> bool:
    """Is there no padding? A graph that is being compiled or exported must not look, and takes the mask."""
    return not torch.compiler.is_compiling() and bool(mask.all())


def _hidden(outputs, layer: int) -> torch.Tensor:
    return outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]


def audio_states_function(config: PreTrainedConfig, with_cepstrum: bool) -> Callable:
    """What computes the features of a batch of windows: (backbone, inputs, lengths (B,), layer) -> features (B, T, D),
    bool mask (B, T)"""
    if with_cepstrum:
        return _whisper_states_and_cepstrum
    return whisper_states if config.model_type == "whisper" else audio_states


def audio_states(
    backbone: PreTrainedModel, inputs: torch.Tensor, lengths: torch.Tensor, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    mask = _prefix_mask(lengths, inputs.shape[1])
    uniform = _all_kept(mask)
    name = audio_input_name(backbone.config)
    outputs = backbone(
        **{name: inputs.to(backbone.dtype)},
        attention_mask=None if uniform else mask.long(),
        output_hidden_states=layer != -1,
    )
    features = _hidden(outputs, layer)
    if (
        name == "input_values" or features.shape[1] != inputs.shape[1]
    ):  # in this order: a waveform's length is not compared in a trace
        output_lengths: Any = backbone._get_feat_extract_output_lengths  # what a speech backbone has
        lengths = output_lengths(lengths).long()
    return features, _prefix_mask(lengths, features.shape[1])


def text_states(
    backbone: PreTrainedModel, input_ids: torch.Tensor, lengths: torch.Tensor, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = input_ids.shape[1]
    shortest = getattr(backbone.config, "downsampling_rate", 1)
    if tokens < shortest:  # CANINE shortens sequences inside, and not below one step
        input_ids = F.pad(input_ids, (0, shortest - tokens), value=backbone.config.pad_token_id)
    mask = _prefix_mask(lengths, input_ids.shape[1])
    outputs = backbone(input_ids=input_ids, attention_mask=mask.long(), output_hidden_states=layer != -1)
    return _hidden(outputs, layer)[:, :tokens], mask[:, :tokens]


def whisper_states(
    encoder: "WhisperEncoder", inputs: torch.Tensor, lengths: torch.Tensor, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whisper's encoder on as many frames as the clips have. Padding is zeroed before each convolution and masked in
    each attention; layers above the wanted one are not run."""
    keep = _prefix_mask(lengths, inputs.shape[1]).unsqueeze(1)  # (B, 1, F)
    x = F.gelu(encoder.conv1(inputs.to(encoder.dtype).transpose(1, 2) * keep)) * keep
    x = F.gelu(encoder.conv2(x)).transpose(1, 2)  # stride 2: (B, ceil(F / 2), D)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    x = F.dropout(x, encoder.dropout, encoder.training)
    mask = _prefix_mask((lengths + 1) // 2, x.shape[1])
    bias = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask, torch.finfo(x.dtype).min)[
        :, None, None
    ]
    bias = bias.expand(-1, 1, x.shape[1], -1)
    depth = len(encoder.layers) if layer == -1 else layer
    for block in encoder.layers[:depth]:
        x = block(x, None if _all_kept(mask) else bias)
    return encoder.layer_norm(x) if depth == len(encoder.layers) else x, mask


def _whisper_states_and_cepstrum(
    encoder: "WhisperEncoder", inputs: torch.Tensor, lengths: torch.Tensor, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    features, mask = whisper_states(encoder, inputs, lengths, layer)
    return torch.cat([features, cepstrum(inputs, lengths).to(features.dtype)], dim=-1), mask


def cepstrum(inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Cepstral coefficients of log-mel frames, at the rate of Whisper's encoder: (B, F, M), lengths (B,) -> (B, ceil(F
    / 2), M)

    The orthonormal DCT-II over the bands (all M coefficients, as the high ones carry the pitch), averaged over the two
    frames under each frame of the encoder; what lies behind a clip's end does not count.
    """
    bands = inputs.shape[2]
    band, order = torch.arange(bands, device=inputs.device), torch.arange(bands, device=inputs.device).unsqueeze(1)
    transform = torch.cos(math.pi * (band + 0.5) * order / bands) * math.sqrt(2 / bands)
    transform[0] /= math.sqrt(2)
    # One convolution of the shape of the encoder's second one, whose frame t begins at input frame 2 t.
    pair = torch.tensor([0.0, 1.0, 1.0], device=inputs.device)
    keep = _prefix_mask(lengths, inputs.shape[1]).unsqueeze(1).float()
    count = F.conv1d(keep, pair.reshape(1, 1, 3), stride=2, padding=1).clamp(min=1)
    total = F.conv1d(inputs.float().transpose(1, 2) * keep, transform.unsqueeze(2) * pair, stride=2, padding=1)
    return (total / count).transpose(1, 2)
