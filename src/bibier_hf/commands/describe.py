"""A readable summary of a checkpoint or of the model that a run file would train: modules, shapes, parameters,
options."""

import copy
from pathlib import Path

import torch

from ..model.configuration_bibier import MODALITIES, ORIGINAL_OPTIONS, BiBiERConfig
from ..model.modeling_bibier import BiBiERForEmotionClassification
from .checkpoint import load_config as load_checkpoint_config
from .common import guarded


def load_config(source: str | Path) -> BiBiERConfig:
    """The configuration behind a checkpoint (folder or Hub id) or a run file (`.yaml`); no weights are read.

    Raises:
        ArgumentError: a run file that cannot be followed; no such checkpoint, or one that cannot be used.
    """
    if Path(source).suffix in (".yaml", ".yml"):
        from ..training.arguments import parse_run_arguments

        run = parse_run_arguments([str(source)])
        return BiBiERConfig.from_backbones(
            run.audio_backbone, run.text_backbone, run.audio_revision, run.text_revision, **run.model
        )
    return load_checkpoint_config(str(source))


def describe(source: str | Path) -> str:
    """The summary of [`load_config`]'s model, some thirty lines of plain text."""
    config = load_config(source)
    lines = [f"BiBiER, {_kind(config)}: {source}", "", f"labels    {', '.join(config.id2label.values())}"]
    for modality in config.modalities:
        lines.append(f"{modality:<9} {_backbone(config, modality)} -> {_encoder(config, modality)}")
    if len(config.modalities) == 2:
        lines.append(f"fusion    {_fusion(config)}")
    lines += ["", *_parameter_table(config), "", *_defects(config)]
    return "\n".join(lines)


def describe_main(source: str) -> int:
    """[`describe`] as a command; returns the exit code."""
    return guarded(lambda: print(describe(source)))


def _kind(config: BiBiERConfig) -> str:
    if len(config.modalities) == 1:
        return f"{config.modalities[0]} alone"
    return config.fusion + (" with unimodal logits" if config.add_unimodal_logits else "")


def _backbone(config: BiBiERConfig, modality: str) -> str:
    backbone = getattr(config, f"{modality}_config")
    if backbone is None:
        return f"features of width {config.feature_size(modality)}, given by the caller"
    name = getattr(config, f"{modality}_backbone_id") or "weights in the checkpoint"
    layer = getattr(config, f"{modality}_layer")
    layer = "output" if layer == -1 else f"hidden state {layer}"
    state = "frozen" if getattr(config, f"freeze_{modality}_backbone") else "trained"
    return f"{backbone.model_type} ({name}; {layer}, width {config.feature_size(modality)}, {state})"


def _encoder(config: BiBiERConfig, modality: str) -> str:
    encoder = getattr(config, f"{modality}_encoder")
    if encoder == "none":
        return "no encoder"
    text = f"{encoder}, {getattr(config, f'{modality}_encoder_layers')} layers of width {getattr(config, f'{modality}_encoder_size')}"
    return text + (", both directions" if config.bidirectional and encoder in ("mamba", "lstm") else "")


def _fusion(config: BiBiERConfig) -> str:
    if config.fusion == "late":
        return "late: learned weights over the unimodal logits"
    text = (
        f"{config.fusion}, {config.num_fusion_layers} layers of width H = {config.hidden_size}, L = {config.seg_len}"
    )
    return text + ("" if config.fusion == "bimamba" else f", {config.num_attention_heads} heads")


def _parameter_table(config: BiBiERConfig) -> list[str]:
    whole = copy.deepcopy(config)  # with backbones that the checkpoint only names
    for modality in MODALITIES:
        setattr(whole, f"{modality}_backbone_stored", True)
    with torch.device("meta"):
        model = BiBiERForEmotionClassification(whole)
    outputs = {
        "audio_backbone": f"(B, T_a, {config.feature_size('audio')})",
        "audio_encoder": f"(B, T_a, {config.audio_encoder_size}), (B, {config.num_labels})",
        "text_backbone": f"(B, T_t, {config.feature_size('text')})",
        "text_encoder": f"(B, T_t, {config.text_encoder_size}), (B, {config.num_labels})",
        "missing_audio": f"(1, {config.audio_encoder_size}), stands in for audio",
        "missing_text": f"(1, {config.text_encoder_size}), stands in for text",
        "fusion": f"(B, {getattr(model.fusion, 'output_size', 0)})",
        "classifier": f"(B, {config.num_labels})",
        "mixture": f"(B, {config.num_labels})",
    }
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        entry = counts.setdefault(name.split(".")[0], [0, 0])
        entry[0] += parameter.numel()
        entry[1] += parameter.numel() if parameter.requires_grad else 0
    rows = [(name, outputs[name], *counts[name]) for name in outputs if name in counts]
    rows.append(("all", "", sum(row[2] for row in rows), sum(row[3] for row in rows)))
    width = max(len(row[1]) for row in rows)
    head = f"{'module':<16} {'output':<{width}} {'parameters':>13} {'trained':>13}"
    return [
        head,
        *(f"{name:<16} {output:<{width}} {total:>13,} {trained:>13,}" for name, output, total, trained in rows),
    ]


def _defects(config: BiBiERConfig) -> list[str]:
    if not config.reproduced_defects:
        return ["original behaviour: none of the published code's defects is reproduced"]
    lines = ["original behaviour: these options reproduce defects of the published code"]
    for option, value in config.reproduced_defects.items():
        lines.append(f"  {option} = {value!r} (corrected: {ORIGINAL_OPTIONS[option][0]!r})")
    if config.depends_on_batch:
        lines.append("  a result depends on its batch; the pipeline takes one sample at a time")
    return lines
