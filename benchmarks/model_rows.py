"""Rows of the text encoder and of the training step of each fusion, at the published sizes."""

import functools

import torch
from torch import nn
from torch.nn import functional as F

import textbook
from bibier_hf.model.configuration_bibier import BiBiERConfig
from bibier_hf.model.encoders_bibier import UnimodalEncoder
from bibier_hf.model.fusion_bibier import FUSIONS, Classifier
from measuring import Row, compare
from scan_rows import initialized

TEXT_LENGTH, AUDIO_SIZE, TEXT_SIZE = 95, 256, 1024
GOALS = {"biformer": 1.2, "bigraph": 1.5, "bigated": 1.2, "bigatedgraph": 1.5, "bimamba": 6.0}


def lengths(count: int, shortest: int, longest: int) -> torch.Tensor:
    """Lengths (count,) from a skewed mixture like that of utterances: most are short, and the longest one is
    included."""
    share = torch.linspace(0, 1, count)[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    return (shortest + (longest - shortest) * share.square()).long()


def padded(sizes: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random frames (B, longest, width), zeros after each length, and their mask."""
    mask = torch.arange(int(sizes.max())) < sizes.unsqueeze(1)
    return torch.randn(*mask.shape, width) * mask.unsqueeze(-1), mask


def text_encoder() -> Row:
    torch.manual_seed(0)
    text = {
        "backbone": None,
        "feature_size": TEXT_SIZE,
        "hidden_size": TEXT_SIZE,
        "input_projection": False,
        "mamba_expand": 0.5,
        "mamba_dt_rank": 32,
    }
    config = BiBiERConfig(text_config=text, modalities=["text"], original_behavior=["unidirectional"])
    ours, theirs = (
        initialized(UnimodalEncoder(config, config.modality_configs["text"])).eval(),
        textbook.TextEncoder().eval(),
    )
    features, mask = padded(lengths(32, 3, 60), TEXT_SIZE)
    full = F.pad(features, (0, 0, 0, TEXT_LENGTH - features.shape[1]))
    run = torch.no_grad()(lambda: ours(features, mask)), torch.no_grad()(lambda: theirs(full))
    note = "32 texts of 3 to 60 tokens, inference; theirs padded to 95"

    return compare("text_encoder", "padded to 95, naive scan", 8, *run, note=note)


class OurFusion(nn.Module):
    def __init__(self, config: BiBiERConfig):
        super().__init__()
        self.fusion = FUSIONS[config.fusion](config)
        self.classifier = Classifier(self.fusion.output_size, config)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.fusion(*inputs))


def fusion_config(
    variant: str, own_value: bool = False, audio_size: int = AUDIO_SIZE, text_size: int = TEXT_SIZE
) -> BiBiERConfig:
    """The published sizes, over frames of these widths."""
    return BiBiERConfig(
        audio_config={"backbone": None, "feature_size": audio_size, "hidden_size": audio_size},
        text_config={"backbone": None, "feature_size": text_size, "hidden_size": text_size},
        fusion=variant,
        num_attention_heads=16,
        mamba_expand=1,
        mamba_conv_kernel=6,
        original_behavior=["unidirectional", *(["own_value"] if own_value else [])],
    )


def our_fusion(config: BiBiERConfig) -> OurFusion:
    """With the published initialization."""
    model = OurFusion(config)
    initialized(model)

    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "A_log" not in name:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith((".gat1.bias", ".gat2.bias")):
            nn.init.zeros_(parameter)

    return model


def fusion(variant: str, batch: int, own_value: bool = False) -> Row:
    """One step of training, forward, backward and Adam, on frames of both encoders, clips of 0.6 to 8 s and texts of 3
    to 60 tokens."""
    torch.manual_seed(0)
    ours, theirs = our_fusion(fusion_config(variant, own_value)), textbook.Fusion(variant)
    audio, audio_mask = padded(lengths(batch, 30, 400), AUDIO_SIZE)
    text, text_mask = padded(lengths(batch, 3, 60).flip(0), TEXT_SIZE)
    full_text = F.pad(text, (0, 0, 0, TEXT_LENGTH - text.shape[1]))
    labels = torch.arange(batch) % 7
    run = (
        functools.partial(
            train_step, ours, torch.optim.Adam(ours.parameters()), (audio, audio_mask, text, text_mask), labels
        ),
        functools.partial(train_step, theirs, torch.optim.Adam(theirs.parameters()), (audio, full_text), labels),
    )
    name = f"fusion_{variant}_{batch}" + ("_own" if own_value else "")

    return compare(name, "plain transcription of the published model", GOALS[variant], *run, budget_s=6)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple[torch.Tensor, ...], labels: torch.Tensor
) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(*inputs), labels).backward()
    optimizer.step()


ROWS = {
    "text_encoder": text_encoder,
    **{
        f"fusion_{variant}_{batch}": functools.partial(fusion, variant, batch)
        for variant in GOALS
        for batch in (8, 32)
    },
}
