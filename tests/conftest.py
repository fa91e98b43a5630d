"""Fixtures that all tests share: tiny models, clips of any length, the optional folder of real corpora.

The other modules at the root of `tests/` help the tests, too:

* `hub_server.py`: a stand-in for the Hugging Face Hub on this machine
* `workspace.py`: a folder with everything that documented commands refer to
* `readme_commands.py`: how `test_readme.py` treats each documented command
* `installs.py`: environments that hold the wheel with one extra
"""

import copy
import gc
import os
import signal
from pathlib import Path

# Set before transformers is imported: tests never use the network.
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


def pytest_collection_finish() -> None:
    """Exempt what imports have created from garbage collection: each Trainer collects, which took a third of the
    time."""
    gc.collect()
    gc.freeze()


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    """Options of a model, where later parts win. `audio_config` and `text_config` are merged key by key."""
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
    """Options for precomputed features of these widths instead of backbones: `features_of(audio=6, text=8)`."""
    return {f"{name}_config": {"backbone": None, "feature_size": width} for name, width in widths.items()}


TINY = both(hidden_size=16, num_hidden_layers=1) | {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "classifier_size": 16,
    "seg_len": 12,
}
"""Options of the smallest model that makes sense."""


@pytest.fixture(scope="session")
def tiny_options() -> dict:
    return copy.deepcopy(TINY)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real corpora; without it, the test is skipped."""
    folder = Path(os.environ.get("BIBIER_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real corpora: {folder} does not exist (BIBIER_SHARED names another folder)")
    return folder


@pytest.fixture
def model() -> BiBiERForEmotionClassification:
    """A tiny model with the embedded pair, in evaluation mode, always with the same weights."""
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
    """For `Popen(..., preexec_fn=takes_ctrl_c)`: let a child react to SIGINT and SIGHUP.

    Children inherit ignored signals, and `nohup make test &` ignores these two.
    """

    def restore() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    return restore


def about(values):
    """Nested values for comparison: floats may differ by 1e-4, everything else must be equal."""
    if isinstance(values, dict):
        return {key: about(value) for key, value in values.items()}
    return pytest.approx(values, abs=1e-4) if isinstance(values, float) else values


@pytest.fixture(scope="session", name="about")
def about_fixture():
    """`found == about(expected)` for nested values: the last digits of probabilities, and of metrics computed from
    them, depend on the batch."""
    return about


@pytest.fixture(scope="session")
def clip():
    """`clip(seconds, seed)` -> float32 (samples,) at 16 kHz"""
    return make_clip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A stand-in for the Hub that the client library in this process uses."""
    with HubServer() as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name, value in {"ENDPOINT": server.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(constants, name, value)
        yield server
