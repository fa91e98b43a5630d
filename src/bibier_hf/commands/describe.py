"""`bibier describe`."""

import copy
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedConfig

from ..commandline import Positional, Section
from ..model.configuration_bibier import ORIGINAL_BEHAVIOR, SINGLE_LABEL, BiBiERConfig, ModalityConfig
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..run_files import FOLDER
from .checkpoint import load_config as load_checkpoint_config


class DescribeArguments(Section):
    """Print modules, shapes and parameters of a model, and which bugs of the published code it reproduces.

    Examples:
      bibier describe outputs/resd
      bibier describe recipes/resd.yaml
      bibier describe resd
    """

    source: Annotated[str, Positional("SOURCE")] = Field(
        description="checkpoint (folder, Hub id) or run file (path or name)"
    )


def load_config(source: str | Path) -> BiBiERConfig:
    """The configuration of a checkpoint (folder or Hub id) or of a run file (path or name). No weights are
    read.

    Raises:
        ArgumentError: an invalid run file, or a checkpoint that does not exist or is damaged.
    """
    is_name = not Path(source).exists() and (FOLDER / f"{source}.yaml").is_file()
    if is_name or Path(source).suffix in (".yaml", ".yml"):
        from ..training.arguments import read_run

        run = read_run(source)
        backbones = run.audio_backbone, run.text_backbone, run.audio_revision, run.text_revision
        return BiBiERConfig.from_backbones(*backbones, **run.model)
    return load_checkpoint_config(str(source))


def describe(arguments: DescribeArguments) -> None:
    """Print the summary."""
    print(summary(arguments.source))


def summary(source: str | Path) -> str:
    """About thirty lines of plain text on the model of [`load_config`]."""
    config = load_config(source)
    lines = [f"BiBiER, {_kind(config)}: {source}", "", f"labels    {', '.join(config.label_names)}"]
    if config.problem_type != SINGLE_LABEL:
        lines.append(f"answers   {config.problem_type}")
    for modality in config.modalities:
        part = config.modality_configs[modality]
        lines.append(f"{modality:<9} {_backbone(part)} -> {_encoder(config, part)}")
    if len(config.modalities) == 2:
        lines.append(f"fusion    {_fusion(config)}")
    lines += ["", *_parameter_table(config), "", *_defects(config)]
    return "\n".join(lines)


def _kind(config: BiBiERConfig) -> str:
    if len(config.modalities) == 1:
        return f"{config.modalities[0]} alone"
    return config.fusion + (" with unimodal logits" if config.add_unimodal_logits else "")


def _backbone(part: ModalityConfig) -> str:
    if not isinstance(part.backbone, PreTrainedConfig):
        return f"features of width {part.feature_size}, given by the caller"

    name = part.backbone_id or "weights in the checkpoint"
    layer = ", ".join("output" if layer == -1 else f"hidden state {layer}" for layer in part.layers)
    state = "frozen" if part.freeze_backbone else "trained"
    return f"{part.backbone.model_type} ({name}; {layer}, width {part.feature_size}, {state})"


def _encoder(config: BiBiERConfig, part: ModalityConfig) -> str:
    if part.encoder == "none":
        return "no encoder"
    if part.encoder == "statistics":
        return f"statistics over time, then a layer of width {part.hidden_size}"

    text = f"{part.encoder}, {part.num_hidden_layers} layers of width {part.hidden_size}"
    both = part.encoder in ("mamba", "lstm") and not config.reproduces("unidirectional")
    return text + (", both directions" if both else "")


def _fusion(config: BiBiERConfig) -> str:
    if config.fusion == "late":
        return "late: learned weights over the unimodal logits"

    size = f"{config.num_hidden_layers} layers of width H = {config.hidden_size}, L = {config.seg_len}"
    return f"{config.fusion}, {size}" + ("" if config.fusion == "bimamba" else f", {config.num_attention_heads} heads")


def _parameter_table(config: BiBiERConfig) -> list[str]:
    whole = copy.deepcopy(config)  # with backbones that the checkpoint only names
    for part in whole.modality_configs.values():
        part.backbone_stored = True
    with torch.device("meta"):
        model = BiBiERForEmotionClassification(whole)

    rows = []
    for name, stream in model.streams.items():
        step, size = f"(B, T_{name[0]}", stream.config.hidden_size
        rows += [
            (f"{name} backbone", f"{step}, {stream.config.feature_size})", stream.backbone),
            (f"{name} encoder", f"{step}, {size})", stream.encoder),
            (f"{name} stand-in", f"(1, {size})", stream.missing),
            (f"{name} head", f"(B, {config.num_labels})", model.heads[name]),
        ]
    rows += [
        ("fusion", f"(B, {getattr(model.bibier.fusion, 'output_size', 0)})", model.bibier.fusion),
        ("classifier", f"(B, {config.num_labels})", model.classifier),
        ("mixture", f"(B, {config.num_labels})", model.mixture),
    ]
    rows = [(name, output, *_parameters(module)) for name, output, module in rows if module is not None]
    rows.append(("all", "", sum(row[2] for row in rows), sum(row[3] for row in rows)))
    width = max(len(row[1]) for row in rows)
    head = f"{'module':<16} {'output':<{width}} {'parameters':>13} {'trained':>13}"
    return [
        head,
        *(f"{name:<16} {output:<{width}} {total:>13,} {trained:>13,}" for name, output, total, trained in rows),
    ]


def _parameters(module: nn.Module | nn.Parameter) -> tuple[int, int]:
    """(all, trained)"""
    found = [module] if isinstance(module, nn.Parameter) else list(module.parameters())
    return sum(one.numel() for one in found), sum(one.numel() for one in found if one.requires_grad)


def _defects(config: BiBiERConfig) -> list[str]:
    if not config.reproduced_defects:
        return ["original behavior: no bug of the published code is reproduced"]

    lines = ["original behavior: these bugs of the published code are reproduced"]
    lines += [f"  {name}: {ORIGINAL_BEHAVIOR[name]}" for name in config.reproduced_defects]
    if config.depends_on_batch:
        lines.append("  results depend on the batch, so the pipeline takes one sample at a time")
    return lines
