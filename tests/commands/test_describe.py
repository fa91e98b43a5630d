"""`bibier describe`: what it says agrees with the model."""

from pathlib import Path

import pytest
import torch

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification

from ..bibier_command import bibier
from ..conftest import both, features_of, merged


def described(source: Path | str) -> str:
    result = bibier("describe", source)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_checkpoint(checkpoint: Path, model: BiBiERForEmotionClassification):
    text = described(checkpoint)
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,}" in text
    for part in (
        "wav2vec2-bert",
        "bert",
        "mamba",
        "biformer",
        "anger, disgust, fear, happy, neutral, sad, surprise",
        "no bug of the published code is reproduced",
    ):
        assert part in text


def test_a_run_file(repository: Path):
    for name in ("quickstart", "resd"):
        assert "mamba" in described(repository / "recipes" / f"{name}.yaml")


def test_a_run_file_by_name(repository: Path):
    assert described("resd").splitlines()[1:] == described(repository / "recipes" / "resd.yaml").splitlines()[1:]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            {"original_behavior": True, "fusion": "bigraph"},
            ["softmax_gate: ", "first_pair_graph: ", "one sample at a time"],
        ),
        ({"modalities": ["audio"], "audio_config": {"encoder": "lstm"}}, ["audio alone", "lstm"]),
        ({"fusion": "late"}, ["late", "mixture"]),
        ({"fusion": "bimamba", "add_unimodal_logits": True}, ["bimamba with unimodal logits", "mixture"]),
        (both(encoder="none"), ["no encoder", "given by the caller"]),
    ],
)
def test_variants(options: dict, parts: list[str], tmp_path: Path, tiny_options: dict):
    torch.manual_seed(0)
    config = BiBiERConfig(**merged(tiny_options, features_of(audio=6, text=8), options))
    BiBiERForEmotionClassification(config).save_pretrained(tmp_path)
    text = described(tmp_path)
    for part in parts:
        assert part in text


def test_a_wrong_source(tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("no_such_key: 1\n")
    for source in (tmp_path / "bad.yaml", tmp_path / "nowhere"):
        result = bibier("describe", source)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
