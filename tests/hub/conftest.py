"""Results of a run as `results.json` holds them."""

import pytest

from bibier_hf import EMOTIONS
from bibier_hf.evaluation.results import RunResults


def metrics(value: float) -> dict:
    numbers = {name: value for name in ("uar", "war", "mf1", "wf1", "mean")}
    return numbers | {"samples": 10, "recall": dict.fromkeys(EMOTIONS, value)}


@pytest.fixture
def results() -> RunResults:
    """Of a bimodal model over frozen backbones, one from a local folder, one from the Hub, on RESD."""
    return RunResults(
        model={
            "audio_backbone": "whisper-base",
            "text_backbone": "intfloat/multilingual-e5-small",
            "audio_backbone_training": "frozen",
            "text_backbone_training": "frozen",
            "audio_encoder": "mamba",
            "text_encoder": "mamba",
            "fusion": "biformer",
            "labels": list(EMOTIONS),
            "parameters": 1_234_567,
            "trained_parameters": 1_000,
        },
        protocol={"resd": {"name": "official", "split_seed": 42, "samples": {"train": 982, "dev": 134, "test": 280}}},
        selection={"metric": "mean of the four", "value": 0.5, "epoch": 3.0},
        stages=None,
        date="2026-11-24",
        seed=7,
        command="accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH",
        config={"model": {}, "lora": None, "refit_on_dev": False},
        data={"resd": {"language": ["ru"], "source": ["recorded"], "license": ["MIT"], "hours": 2.3}},
        hardware={"platform": "Linux x86_64", "processor": "Some CPU", "cores": 2, "processes": 1},
        versions={"python": "3.11.0", "torch": "2.13.0"},
        git={"commit": "0123456789abcdef", "dirty": False},
        seconds=90.0,
        metrics={"test": {"resd": metrics(0.6789)}, "dev": {"resd": metrics(0.5)}},
        metrics_by_language={"test": {"ru": metrics(0.6789)}, "dev": {}},
        metrics_mean={"test": metrics(0.6789), "dev": metrics(0.5)},
    )
