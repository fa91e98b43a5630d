"""`bibier export` as a user calls it."""

import json
from pathlib import Path

import pytest

from ..bibier_command import bibier

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")


def run(*arguments: object) -> tuple[int, str]:
    result = bibier("export", *arguments)
    return result.exit_code, result.output


@pytest.mark.slow
def test_a_checkpoint(checkpoint: Path, tmp_path: Path):
    code, output = run(checkpoint, "--output_dir", tmp_path / "out", "--part", "whole", "--int8", "--latency")
    assert code == 0, output
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (manifest["part"], manifest["int8"]) == ("whole", True)
    for part in ("largest difference of a logit", "in int8", "torch.export", "onnxruntime int8", "batch of 16"):
        assert part in output


def test_what_cannot_be_followed(checkpoint: Path, tmp_path: Path):
    for arguments, message in (
        ((tmp_path / "nowhere", "--output_dir", tmp_path / "out"), "nowhere"),
        ((checkpoint, "--output_dir", checkpoint), "is not an export"),
        ((checkpoint, "--output_dir", tmp_path / "out", "--part", "head"), "'features', 'whole' or 'samples'"),
        ((checkpoint, "--output_dir", tmp_path / "out", "--part", "samples"), "no graph has the front end"),
        (
            (checkpoint, "--output_dir", tmp_path / "out", "--part", "samples", "--latency"),
            "compare with --part whole",
        ),
        ((checkpoint, "--output_dir", tmp_path / "out", "--format", "tflite"), "'onnx' or 'torch'"),
        ((checkpoint, "--output_dir", tmp_path / "out", "--format", "torch", "--int8"), "int8_copy"),
        (
            (checkpoint, "--output_dir", tmp_path / "out", "--format", "torch", "--corpus", "quickstart"),
            "--format onnx",
        ),
    ):
        code, output = run(*arguments)
        assert code == 2, output
        assert message in output
    assert not list(tmp_path.iterdir())
    assert run(checkpoint)[0] == 2  # no --output_dir
