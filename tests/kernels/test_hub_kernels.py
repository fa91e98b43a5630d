"""Kernels from the Hub take the place of the scan and the convolution on accelerators."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers.models.mamba import modeling_mamba

from bibier_hf.model import mamba_bibier

PACKAGES = ("kernels==0.17.2", "transformers>=5.20,<5.23")
"""A version of `kernels`, and those of transformers that work with it."""


@pytest.mark.parametrize(
    ("name", "reference"), [("selective_scan_fn", "mamba_selective_scan"), ("causal_conv1d_fn", "causal_conv1d_fn")]
)
def test_the_parameters_are_those_of_the_functions_that_the_hub_has_kernels_for(name: str, reference: str):
    """`kernels` refuses to replace a function with other parameters."""
    own, other = (
        inspect.signature(function).parameters.values()
        for function in (getattr(mamba_bibier, name), getattr(modeling_mamba, reference))
    )
    assert [(p.name, p.kind) for p in own] == [(p.name, p.kind) for p in other]


@pytest.mark.slow
def test_kernels_from_the_hub_are_called_and_change_nothing(repository: Path, tmp_path: Path):
    """In both directions, with masks, in training and inference."""
    target = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target"]
    installed = subprocess.run([*pip, str(target), *PACKAGES], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"pip cannot install {' and '.join(PACKAGES)}")

    paths = os.pathsep.join([str(target), str(repository / "src")])
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("hub_environment.py")), str(tmp_path / "kernels")],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    reports = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(reports) == 2
    for report in reports:
        assert report["calls"] == [6, 6]  # three blocks, each in two directions
        assert report["logits"] < 1e-5
        assert report["gradients"] < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("reverse", [False, True])
def test_accelerators_run_the_functions_that_the_hub_replaces(monkeypatch: pytest.MonkeyPatch, reverse: bool):
    """Here with their torch form, which must give what a CPU gives."""
    torch.manual_seed(0)
    u, dt, B, C = torch.randn(2, 9, 8), torch.rand(2, 9, 8), torch.randn(2, 9, 4), torch.randn(2, 9, 4)
    A, D, weight, bias = -torch.rand(8, 4), torch.randn(8), torch.randn(8, 4), torch.randn(8)
    mask = torch.arange(9) < torch.tensor([9, 4])[:, None]

    def results() -> list[torch.Tensor]:
        scanned = mamba_bibier.selective_scan(u, dt, A, B, C, D, mask=mask, reverse=reverse)
        return [scanned, mamba_bibier.causal_conv(u, weight, bias, mask, reverse) * mask.unsqueeze(-1)]

    expected, calls = results(), []
    monkeypatch.setattr(mamba_bibier, "_compiled", lambda name, x: None)
    monkeypatch.setattr(mamba_bibier, "_on_accelerator", lambda x: True)
    for name in ("selective_scan_fn", "causal_conv1d_fn"):
        function = getattr(mamba_bibier, name)
        monkeypatch.setattr(
            mamba_bibier, name, lambda *a, _f=function, _n=name, **k: (calls.append(_n), _f(*a, **k))[1]
        )
    torch.testing.assert_close(results(), expected, atol=1e-5, rtol=0)
    assert calls == ["selective_scan_fn", "causal_conv1d_fn"]
