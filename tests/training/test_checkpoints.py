"""What counts as a whole checkpoint."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bibier_hf.training.checkpoints import (
    STAGING_FOLDER,
    checkpoint_problems,
    last_whole_checkpoint,
    list_checkpoints,
    remove_staging,
)


@pytest.fixture
def checkpoints(tmp_path):
    """Three whole checkpoints, of steps 9, 10 and 100."""
    for step in (9, 10, 100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"weight": torch.ones(100)}, folder / "model.safetensors")
        for name in ("config.json", "trainer_state.json"):
            (folder / name).write_text(json.dumps({"global_step": step}))
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"step": step}, folder / name)
    (tmp_path / "checkpoint-none").mkdir()
    return tmp_path


def test_the_newest_is_that_of_the_highest_step(checkpoints):
    assert [path.name for path in list_checkpoints(checkpoints)] == ["checkpoint-100", "checkpoint-10", "checkpoint-9"]
    assert last_whole_checkpoint(checkpoints).name == "checkpoint-100"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
def test_a_missing_or_cut_file_is_found_and_named(checkpoints, name):
    path = checkpoints / "checkpoint-100" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert any(name in problem for problem in checkpoint_problems(path.parent))
    assert last_whole_checkpoint(checkpoints).name == "checkpoint-10"
    path.unlink()
    assert any(f"{name} is missing" in problem for problem in checkpoint_problems(path.parent))
    path.write_bytes(content)
    assert checkpoint_problems(path.parent) == []


def test_a_missing_shard_is_found(checkpoints):
    folder = checkpoints / "checkpoint-100"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert checkpoint_problems(folder) == ["model-00002-of-00002.safetensors is missing"]


def test_no_checkpoint(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    assert last_whole_checkpoint(tmp_path / "nothing") is None
    assert checkpoint_problems(tmp_path / "nothing") == [f"{tmp_path / 'nothing'} is not a folder"]


def test_what_was_left_half_written_is_removed(checkpoints):
    (checkpoints / STAGING_FOLDER / "checkpoint-101").mkdir(parents=True)
    remove_staging(checkpoints)
    assert not (checkpoints / STAGING_FOLDER).exists()
    assert len(list_checkpoints(checkpoints)) == 3
