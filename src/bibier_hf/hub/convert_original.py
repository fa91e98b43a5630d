"""The published system's weights -> one checkpoint of this package.

    bibier convert --fusion best_model.pt --num_transformer_heads 8 --output_dir outputs/published
    bibier convert --audio_head A.pt --text_head T.pth --fusion F.pt --num_transformer_heads 8 --output_dir OUT

The result reproduces the original in evaluation mode (`original_behavior=True`). Fusion weights alone give a model
that takes what the original's fusion took: encoded frames as `audio_features` and `text_features`, and for the
`...WithProb` variants `audio_logits` and `text_logits`. One head alone gives a unimodal model over backbone features.
The three together give the whole system; its backbones are named by their ids and fetched when it is loaded (both are
for non-commercial use).

Files are opened with `weights_only=True`: no code in a pickle is run. Sizes are read from the tensors; the heads of
the attention leave no trace in them and must be given.
"""

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import UserError
from ..model.backbones_bibier import load_backbone
from ..model.configuration_bibier import MODALITIES, BiBiERConfig
from ..model.modeling_bibier import BiBiERForEmotionClassification

AUDIO_BACKBONE = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
TEXT_BACKBONE = "jinaai/jina-embeddings-v3-hf"
UNCUT = 8192
"""Tokens. The published system encodes the whole text and cuts its features afterwards, as the model does in original
mode."""

VARIANTS = {  # the original's class name: (fusion, add_unimodal_logits)
    "BiFormer": ("biformer", False),
    "BiGraphFormer": ("bigraph", False),
    "BiGatedFormer": ("bigated", False),
    "BiGatedGraphFormer": ("bigatedgraph", False),
    "BiMamba": ("bimamba", False),
    "BiFormerWithProb": ("biformer", True),
    "BiGraphFormerWithProb": ("bigraph", True),
    "BiGatedGraphFormerWithProb": ("bigatedgraph", True),
    "BiMambaWithProb": ("bimamba", True),
    "PredictionsFusion": ("late", False),
}

Weights = dict[str, torch.Tensor]


class ConversionError(UserError, ValueError):
    """A file that is not what it is declared to be. The message names the keys."""


@dataclass
class Part:
    """One converted file: weights under the names of this package, options given by their sizes, unused keys."""

    weights: Weights
    options: dict
    dead: list[str] = field(default_factory=list)


def read_weights(path: str | Path) -> Weights:
    """Read the tensors of a `.pt`, `.pth` or `.safetensors` file: a bare state dict, or under `model_state_dict`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file at '{path}'.")

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ConversionError(
            f"'{path}' cannot be opened as plain weights, and code in a pickle is never run: {error}"
        ) from error

    if isinstance(content, dict) and "model_state_dict" in content:
        content = content["model_state_dict"]

    tensors = content if isinstance(content, dict) else {}
    if not tensors or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ConversionError(
            f"'{path}' does not contain a state dict (names to tensors, bare or under 'model_state_dict')."
        )

    return dict(tensors)


def convert_audio_head(weights: Weights) -> Part:
    """Convert `CustomMambaClassifier` to an audio encoder of kind `frame_mlp`."""
    names = {"input_proj": "bibier.audio.encoder.input_proj", "fc": "audio_head.linear"}
    taken = _Renamer(weights, "audio head")

    for key in list(taken.left):
        module, _, rest = key.partition(".")
        if module in names:
            taken.rename(key, f"{names[module]}.{rest}")
        elif match := re.fullmatch(r"blocks\.(\d+)\.(in_proj|s_B|s_C|out_proj|norm)\.(weight|bias)", key):
            taken.rename(key, "bibier.audio.encoder.layers.{}.{}.{}".format(*match.groups()))

    size, features = taken.shape("input_proj.weight")
    options = {
        "encoder": "frame_mlp",
        "feature_size": features,
        "hidden_size": size,
        "num_hidden_layers": taken.count(r"blocks\.(\d+)\."),
    }

    return taken.part(options)


def convert_text_head(weights: Weights) -> Part:
    """Convert the text model `Mamba` to a `mamba` text encoder without projection and outer norms."""
    taken = _Renamer(weights, "text head")

    for key in list(taken.left):
        if key.startswith("fc_out."):
            taken.rename(key, f"text_head.linear.{key.removeprefix('fc_out.')}")

    layer = "bibier.text.encoder.layers.{}"
    options = taken.mamba_blocks("layers", block=f"{layer}.block", norm=f"{layer}.norm")

    return taken.part(
        options | {"encoder": "mamba", "feature_size": options["hidden_size"], "input_projection": False}
    )


def convert_fusion(weights: Weights, variant: str | None = None, num_transformer_heads: int | None = None) -> Part:
    """Convert a fusion model to `fusion`, `classifier` and `mixture`.

    Args:
        weights: its state dict.
        variant: the class name in the published code; None: inferred from the keys.
        num_transformer_heads: heads of the cross-modal attention; needed for every variant that has it.
    """
    found = infer_variant(weights)

    if variant is not None and variant != found:
        raise ConversionError(f"--variant {variant} does not match the file, whose keys are those of {found}.")

    fusion, with_logits = VARIANTS[found]
    taken = _Renamer(weights, found)
    options: dict = {"fusion": fusion, "add_unimodal_logits": with_logits}

    if fusion == "late":
        taken.rename("weights", "mixture.weights")
        return taken.part(options)

    if with_logits:
        taken.rename("pred_fusion.weights", "mixture.weights")

    for key in list(taken.left):
        if key.startswith("classifier."):
            taken.rename(key, key)

    options["classifier_size"], width = taken.shape("classifier.0.weight")
    options["hidden_size"] = taken.shape("audio_proj.1.weight")[0]

    for modality in ("audio", "text"):
        projected = f"{modality}_proj.0.weight" in weights
        frames = weights[f"{modality}_proj.0.weight"].shape[1] if projected else options["hidden_size"]
        options[f"{modality}_config"] = {"feature_size": frames, "encoder": "none"}

    if fusion == "bimamba":
        _rename_bimamba(taken, options)
        options["seg_len"] = width - options["hidden_size"]
    else:
        _rename_former(taken, options, fusion, num_transformer_heads)
        options.setdefault("seg_len", width // 2 - options["hidden_size"])

    return taken.part(options)


def infer_variant(weights: Weights) -> str:
    """The original's class name, from the keys."""
    if set(weights) == {"weights"}:
        return "PredictionsFusion"

    mamba, graph, gated, with_logits = (
        any(key.startswith(prefix) for key in weights)
        for prefix in ("mamba_blocks.", "graph_fusion_feat.", "gated_feat.", "pred_fusion.")
    )
    middle = "Mamba" if mamba else f"{'Gated' if gated else ''}{'Graph' if graph else ''}Former"
    name = f"Bi{middle}{'WithProb' if with_logits else ''}"
    if name not in VARIANTS or "classifier.0.weight" not in weights:
        raise ConversionError(f"The keys do not match any known fusion model: {', '.join(sorted(weights)[:8])}, ...")

    return name


def _rename_former(taken: "_Renamer", options: dict, fusion: str, heads: int | None) -> None:
    if heads is None:
        raise ConversionError(
            "The number of attention heads cannot be read from the weights; pass --num_transformer_heads "
            "(published: 8 and 16)."
        )

    options["num_attention_heads"] = heads
    options["num_hidden_layers"] = taken.count(r"audio_to_text_attn\.(\d+)\.")
    options["positional_encoding"] = any(key.endswith("positional_encoding.pe") for key in list(taken.left))
    parts = {
        "self_attention.": "attention.",
        "feed_forward.": "feed_forward.",
        "add_norm_after_attention.norm.": "attention_norm.",
        "add_norm_after_ff.norm.": "feed_forward_norm.",
    }
    sides = {"audio_to_text_attn": "audio_layers", "text_to_audio_attn": "text_layers"}

    for key in list(taken.left):
        if re.fullmatch(r"(audio|text)_proj\.[01]\.(weight|bias)", key):
            taken.rename(key, f"bibier.fusion.cross_modal.{key}")
        elif key.endswith("positional_encoding.pe"):
            taken.take(key)  # a table of sinusoids, computed here
        elif match := re.fullmatch(r"(audio_to_text_attn|text_to_audio_attn)\.(\d+)\.(.+)", key):
            for prefix, ours in parts.items():
                if match[3].startswith(prefix):
                    layer = f"bibier.fusion.cross_modal.{sides[match[1]]}.{match[2]}"
                    taken.rename(key, f"{layer}.{ours}{match[3].removeprefix(prefix)}")

    if fusion in ("bigraph", "bigatedgraph"):
        _rename_graphs(taken, options, used_outputs=fusion == "bigraph")

    if fusion in ("bigated", "bigatedgraph"):
        _rename_gates(taken, options)

    dead = {
        "bigraph": ("fc_feat.", "fc_temp."),
        "bigated": ("fc_gated_feat.", "fc_gated_temp."),
        "bigatedgraph": ("fc_gated_temp.", "graph_fusion_feat.fc.", "graph_fusion_temp.fc."),
    }
    live = {"graph_feat": "nodes_phi", "graph_temp": "nodes_tau", "gated_feat": "gated_phi"}

    for key in list(taken.left):
        if fusion in dead and key.startswith(dead[fusion]):
            taken.bury(key)
        elif fusion == "bigatedgraph" and (match := re.fullmatch(r"fc_(graph_feat|graph_temp|gated_feat)\.(.+)", key)):
            taken.rename(key, f"bibier.fusion.{live[match[1]]}.{match[2]}")


def _rename_graphs(taken: "_Renamer", options: dict, used_outputs: bool) -> None:
    options["num_graph_heads"] = taken.shape("graph_fusion_feat.gat1.att_src")[1]
    options["seg_len"] = taken.shape("graph_fusion_feat.proj_audio.0.weight")[0]

    for key in list(taken.left):
        if not (match := re.fullmatch(r"graph_fusion_(feat|temp)\.(proj_audio|proj_text|gat1|gat2|fc)\.(.+)", key)):
            continue
        pool = {"feat": "phi", "temp": "tau"}[match[1]]
        if match[2] != "fc":
            ours = {"proj_audio": "audio_proj", "proj_text": "text_proj"}.get(match[2], match[2])
            taken.rename(key, f"bibier.fusion.graph_{pool}.{ours}.{match[3]}")
        elif used_outputs:
            taken.rename(key, f"bibier.fusion.out_{pool}.{match[3]}")


def _rename_gates(taken: "_Renamer", options: dict) -> None:
    options["seg_len"], options["gated_size"] = taken.shape("gated_feat.WF1")
    for name, pool in (("gated_feat", "phi"), ("gated_temp", "tau")):
        for theirs, ours in (("WF1", "first"), ("WF2", "second"), ("WF", "gate")):
            taken.rename(f"{name}.{theirs}", f"bibier.fusion.gate_{pool}.{ours}.weight", torch.t)


def _rename_bimamba(taken: "_Renamer", options: dict) -> None:
    for key in list(taken.left):
        if re.fullmatch(r"(audio_proj|text_proj|fusion_proj)\.[01]\.(weight|bias)", key):
            taken.rename(key, f"bibier.fusion.{key}")

    options |= taken.mamba_blocks("mamba_blocks", block="bibier.fusion.blocks.{}", norm="bibier.fusion.norms.{}")


class _Renamer:
    """Takes keys out of a state dict one by one. Keys that are left over or missing are an error that names them."""

    def __init__(self, weights: Weights, name: str):
        self.all, self.left, self.name = weights, dict(weights), name
        self.done: Weights = {}
        self.dead: list[str] = []

    def shape(self, key: str) -> torch.Size:
        if key not in self.all:
            raise ConversionError(
                f"{self.name}: the key '{key}' is missing. Present: {', '.join(sorted(self.all)[:8])}, ..."
            )

        return self.all[key].shape

    def count(self, pattern: str) -> int:
        found = {int(match[1]) for key in self.all if (match := re.match(pattern, key))}
        if found != set(range(len(found))) or not found:
            raise ConversionError(
                f"{self.name}: '{pattern}' has the layers {sorted(found)}; they must be numbered from 0 without a gap."
            )

        return len(found)

    def take(self, key: str) -> torch.Tensor:
        self.shape(key)
        return self.left.pop(key)

    def rename(self, key: str, ours: str, change: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        tensor = self.take(key)
        self.done[ours] = (tensor if change is None else change(tensor)).float().contiguous()

    def bury(self, key: str) -> None:
        """Drop a parameter that the published code saves but never uses."""
        self.take(key)
        self.dead.append(key)

    def mamba_blocks(self, theirs: str, block: str, norm: str) -> dict:
        """Rename numbered Mamba blocks and their norms, and return the options that their sizes give.

        Args:
            theirs: name of the list of (block, norm).
            block, norm: our names, with {} for the number.
        """
        layers = self.count(rf"{theirs}\.(\d+)\.")
        inner, states = self.shape(f"{theirs}.0.0.A")
        size = self.shape(f"{theirs}.0.0.in_proj.weight")[1]
        options = {
            "hidden_size": size,
            "num_hidden_layers": layers,
            "mamba_expand": inner / size,
            "mamba_state_size": states,
            "mamba_conv_kernel": self.shape(f"{theirs}.0.0.conv.weight")[-1],
            "mamba_dt_rank": self.shape(f"{theirs}.0.0.s_D.0.weight")[0],
        }
        for layer in range(layers):
            self.mamba_block(f"{theirs}.{layer}.0.", f"{block.format(layer)}.")
            self.rename(f"{theirs}.{layer}.1.weight", f"{norm.format(layer)}.weight")

        return options

    def mamba_block(self, theirs: str, ours: str) -> None:
        """Rename one block, and merge the published code's three projections of the scan's input into one."""
        names = {
            "in_proj.weight": "in_proj.weight",
            "out_proj.weight": "out_proj.weight",
            "conv.weight": "forward_ssm.conv1d.weight",
            "conv.bias": "forward_ssm.conv1d.bias",
            "A": "forward_ssm.A",
            "D": "forward_ssm.D",
            "s_D.1.weight": "forward_ssm.dt_proj.weight",
        }
        for key, name in names.items():
            self.rename(f"{theirs}{key}", f"{ours}{name}")

        projections = [self.take(f"{theirs}{key}.weight") for key in ("s_D.0", "s_B", "s_C")]
        self.done[f"{ours}forward_ssm.x_proj.weight"] = torch.cat(projections).float()

    def part(self, options: dict) -> Part:
        if self.left:
            raise ConversionError(f"{self.name}: keys that do not belong to it: {', '.join(sorted(self.left))}.")

        return Part(self.done, options, self.dead)


def build_model(
    audio_head: Part | None, text_head: Part | None, fusion: Part | None, backbones: tuple[str, str] | None = None
) -> BiBiERForEmotionClassification:
    """Build one model in original mode from any of the three parts.

    Args:
        audio_head, text_head, fusion: converted parts.
        backbones: speech and text backbone below them, as Hub ids or folders. Hub ids are stored in the configuration,
            not downloaded.

    Raises:
        ConversionError: the widths do not match, or weights are missing or left over.
    """
    heads = {"audio": audio_head, "text": text_head}
    parts = [part for part in (audio_head, text_head, fusion) if part is not None]
    if not parts:
        raise ConversionError("Nothing to convert: pass --audio_head, --text_head, --fusion, or several of them.")

    if fusion is None and len(parts) == 2:
        raise ConversionError(
            "Two heads without a fusion model are two models: convert them one by one, or pass --fusion."
        )

    options: dict = {"original_behavior": True, **(fusion.options if fusion else {})}
    options["modalities"] = [name for name, head in heads.items() if fusion or head]

    for modality, head in heads.items():
        fused = options.get(f"{modality}_config", {"encoder": "none"})
        options[f"{modality}_config"] = fused if head is None else head.options
        width = None if head is None else head.options["hidden_size"]
        if width is not None and fused.get("feature_size", width) != width:
            raise ConversionError(
                f"The {modality} head gives frames of width {width}; the fusion model reads {fused['feature_size']}."
            )

    # With backbones the widths of the features are checked against theirs.
    config = BiBiERConfig.from_backbones(*(backbones or (None, None)), **options)
    model = BiBiERForEmotionClassification(config, build_backbones=False)

    for modality, source in zip(MODALITIES, backbones or (), strict=False):
        if Path(source).is_dir():
            model.attach_backbone(modality, load_backbone(source))

    weights = {name: tensor for part in parts for name, tensor in part.weights.items()}
    result = model.load_state_dict(weights, strict=False)
    missing = [name for name in result.missing_keys if ".missing" not in name and ".backbone." not in name]
    if missing or result.unexpected_keys:
        raise ConversionError(f"Weights that do not fit: missing {missing}, left over {result.unexpected_keys}.")

    return model.eval()
