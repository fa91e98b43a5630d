"""Shared fixtures: tiny models built in process, clips of every length, the optional folder of real corpora."""

import copy
import os
import signal
from pathlib import Path

# Before any import of transformers: nothing in the tests may reach the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from bibier_hf import BiBiERForEmotionClassification, BiBiERProcessor

from .hub_server import TOKEN, HubServer

REPOSITORY = Path(__file__).resolve().parents[1]


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    """Options of a model, the later ones first; those inside of `audio_config` and `text_config` are merged one by
    one."""
    options: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            before = options.get(name)
            nested = name in ("audio_config", "text_config") and isinstance(before, dict) and isinstance(value, dict)
            options[name] = before | value if nested else copy.deepcopy(value)
    return options


def both(**options: Any) -> dict[str, Any]:
    """The same options for audio and text."""
    return {"audio_config": dict(options), "text_config": dict(options)}


def features_of(**widths: int) -> dict[str, Any]:
    """`features_of(audio=6, text=8)`: no backbones, but precomputed features of these widths."""
    return {f"{name}_config": {"backbone": None, "feature_size": width} for name, width in widths.items()}


TINY = both(hidden_size=16, num_hidden_layers=1) | {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "classifier_size": 16,
    "seg_len": 12,
}
"""Options of the smallest sensible model."""


@pytest.fixture(scope="session")
def tiny_options() -> dict:
    return copy.deepcopy(TINY)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real corpora, where there is one."""
    folder = Path(os.environ.get("BIBIER_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real corpora: {folder} is not there (BIBIER_SHARED names another place)")
    return folder


@pytest.fixture
def model() -> BiBiERForEmotionClassification:
    """A tiny model over the embedded pair, in evaluation mode, the same at every call."""
    torch.manual_seed(0)
    return BiBiERForEmotionClassification.from_backbones(**TINY).eval()


@pytest.fixture(scope="session")
def processor() -> BiBiERProcessor:
    return BiBiERProcessor.from_backbones()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model with its processor."""
    folder = tmp_path_factory.mktemp("checkpoint") / "bibier"
    torch.manual_seed(0)
    BiBiERForEmotionClassification.from_backbones(**TINY).save_pretrained(folder)
    BiBiERProcessor.from_backbones().save_pretrained(folder)
    return folder


def make_clip(seconds: float, seed: int = 0) -> np.ndarray:
    """A sweep with noise at 16 kHz: float32 (samples,)."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(16_000 * seconds)) / 16_000
    sweep = np.sin(2 * np.pi * (150 + 60 * seed + 40 * time) * time)
    return (0.3 * sweep + 0.02 * generator.standard_normal(len(time))).astype(np.float32)


@pytest.fixture(scope="session")
def takes_ctrl_c():
    """`Popen(..., preexec_fn=takes_ctrl_c)`: the child reacts to SIGINT even where the test run ignores it (`nohup make
    test`, a job of a script), which children inherit."""
    return lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)


def about(values):
    """Nested values to compare with: numbers may differ by 1e-4, all else must be equal."""
    if isinstance(values, dict):
        return {key: about(value) for key, value in values.items()}
    return pytest.approx(values, abs=1e-4) if isinstance(values, float) else values


@pytest.fixture(scope="session", name="about")
def about_fixture():
    """`found == about(expected)` for nested values: probabilities depend on the batch in the last digits, and so does
    what they score."""
    return about


@pytest.fixture(scope="session")
def clip():
    """`clip(seconds, seed)` -> float32 (samples,) at 16 kHz"""
    return make_clip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A stand-in for the Hub, which the Hub's client in this process talks to."""
    with HubServer() as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name, value in {"ENDPOINT": server.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(constants, name, value)
        yield server
