"""Run by test_hub_kernels.py where the package `kernels` is installed: the model with kernels from a local folder in
the layout of the Hub, against the model without. Prints JSON.

Arguments: the folder to write the kernels into.
"""

import copy
import json
import os
import sys
import tempfile
from pathlib import Path

import torch

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.model import mamba_bibier
from kernels import LocalLayerRepository, Mode, kernelize, use_kernel_mapping

NAMES = ("selective_scan_fn", "causal_conv1d_fn")
METADATA = {"name": "stand-in", "id": "stand_in", "version": 1, "license": "MIT", "python-depends": []}
LAYERS = """
import os

import torch
from torch import nn
from torch.nn import functional as F


class selective_scan_fn(nn.Module):
    def forward(
        self, hidden_states, dt, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False,
        use_mambapy=False, use_associative_scan=False, **kwargs,
    ):
        os.environ["selective_scan_fn"] += "x"
        state, outputs = 0, []
        for t in range(hidden_states.shape[2]):
            step = dt[:, :, t, None]
            state = torch.exp(step * A) * state + step * hidden_states[:, :, t, None] * B[:, None, :, t]
            outputs.append((state * C[:, None, :, t]).sum(-1))
        return torch.stack(outputs, 2) + hidden_states * D[:, None]


class causal_conv1d_fn(nn.Module):
    def forward(self, hidden_states, weight, bias=None, activation=None, **kwargs):
        os.environ["causal_conv1d_fn"] += "x"
        padded = F.pad(hidden_states, (weight.shape[1] - 1, 0))
        y = (padded.unfold(2, weight.shape[1], 1) * weight[:, None]).sum(-1) + bias[:, None]
        return F.silu(y) if activation == "silu" else y
"""


def main() -> None:
    """Compare logits and gradients, in both modes of the kernels."""
    folder = Path(sys.argv[1])
    build = folder / "build" / "torch-cpu"
    build.mkdir(parents=True)
    (build / "__init__.py").write_text("from . import layers\n")
    (build / "layers.py").write_text(LAYERS)
    (build / "metadata.json").write_text(json.dumps(METADATA | {"backend": {"type": "cpu"}}))

    torch.manual_seed(0)
    modality = {"hidden_size": 16, "num_hidden_layers": 1, "dropout": 0.0}
    config = BiBiERConfig(
        audio_config=modality,
        text_config=modality,
        fusion="bimamba",
        hidden_size=16,
        num_hidden_layers=1,
        dropout=0.0,
        modality_dropout=0.0,
    )
    model = BiBiERForEmotionClassification(config)
    batch = {
        "audio_features": torch.randn(3, 20, 96),
        "audio_features_mask": (torch.arange(20) < torch.tensor([20, 5, 13])[:, None]).long(),
        "text_features": torch.randn(3, 9, 96),
        "text_features_mask": (torch.arange(9) < torch.tensor([2, 9, 4])[:, None]).long(),
        "labels": torch.tensor([1, 2, 3]),
    }
    logits, gradients = run(model, batch)

    mamba_bibier._on_accelerator = lambda x: True
    mamba_bibier._compiled = lambda name, x: None
    mapping = {name: {"cpu": LocalLayerRepository(folder, layer_name=name)} for name in NAMES}
    for mode in (Mode.INFERENCE, Mode.TRAINING):
        os.environ.update(dict.fromkeys(NAMES, ""))
        with use_kernel_mapping(mapping, inherit_mapping=False):
            for module in model.modules():
                if isinstance(module, mamba_bibier.SelectiveSSM):
                    kernelize(module, mode=mode, device="cpu", use_fallback=False)
        found, found_gradients = run(model, batch)
        report = {
            "calls": [len(os.environ[name]) for name in NAMES],
            "logits": (found - logits).abs().max().item(),
            "gradients": max(
                (found_gradients[name] - gradient).abs().max().item() for name, gradient in gradients.items()
            ),
        }
        print(json.dumps(report))

    copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as checkpoint:
        model.save_pretrained(checkpoint)
        BiBiERForEmotionClassification.from_pretrained(checkpoint, use_kernels=True)  # none for a CPU


def run(
    model: BiBiERForEmotionClassification, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradients of all parameters that have one."""
    model.train().zero_grad()
    output = model(**batch)
    output.loss.backward()
    return output.logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    main()
