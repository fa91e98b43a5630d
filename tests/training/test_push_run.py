"""A run that pushes what it trained, and what a stranger then gets by the id alone: a clean process, a clean cache, no
package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load
from transformers import AutoModel, AutoProcessor

from bibier_hf.commands.train import public_command
from bibier_hf.errors import ArgumentError, PushError
from bibier_hf.training.run import run_training

from ..hub_server import TOKEN

BY_ID = """
import json, sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "bibier_hf":
            raise ModuleNotFoundError("No module named 'bibier_hf'")

sys.meta_path.insert(0, NoPackage())
import torch
from transformers import AutoModel, AutoProcessor, pipeline

name, wav = sys.argv[1:]
model = AutoModel.from_pretrained(name, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
with torch.no_grad():
    logits = model(**processor(audio=wav, text="Не верю!")).logits[0].tolist()
pipe = pipeline("audio-text-emotion", model=name, trust_remote_code=True)
scores = pipe({"audio": wav, "text": "Не верю!"})
assert not any(module.split(".")[0] == "bibier_hf" for module in sys.modules)
print(json.dumps({"logits": logits, "scores": scores}))
"""


def loaded_by_id(hub, name: str, folder: Path, tmp_path: Path, clip) -> None:
    """Compare what a clean process loads by `name` with what lies in `folder`."""
    wav = tmp_path / "clip.wav"
    soundfile.write(wav, clip(0.7), 16_000, subtype="FLOAT")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= hub.client_environment(tmp_path / "home") | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", BY_ID, name, str(wav)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        expected = model(**processor(audio=str(wav), text="Не верю!")).logits[0]
    torch.testing.assert_close(torch.tensor(result["logits"]), expected, atol=1e-5, rtol=0)
    assert result["scores"][0]["label"] == model.config.id2label[expected.argmax().item()]


def assert_nothing_of_this_machine(files: dict[str, bytes], tmp_path: Path) -> None:
    """No folder of the test, which all folders of a run are below, in any file."""
    root = tmp_path.parent.parent  # of the session: fixtures of other scopes have folders beside this test's
    for name, content in files.items():
        assert str(root).encode() not in content, name
        assert str(Path.home()).encode() not in content or Path.home() == Path("/"), name


@pytest.mark.slow
def test_a_run_pushes_what_it_trained(small_run, hub, tmp_path, clip):
    run = small_run(push_to_hub=True, hub_model_id="owner/bibier-small")
    results = run_training(run)
    stored = hub.repositories["models/owner/bibier-small"]
    assert stored.private
    assert len(stored.commits) == 2  # the empty one, and everything at once
    assert {"config.json", "model.safetensors", "README.md", "results.json", "modeling_bibier.py"} <= set(stored.files)
    assert not [name for name in stored.files if name.startswith(("run.yaml", "predictions", "checkpoint"))]
    assert_nothing_of_this_machine(stored.files, tmp_path)
    assert json.loads(stored.files["results.json"]) == results.to_json()
    assert not {"push_to_hub", "hub_model_id", "hub_private_repo"} & results.config.keys()
    assert 'model="owner/bibier-small"' in stored.files["README.md"].decode()
    loaded_by_id(hub, "owner/bibier-small", Path(run.output_dir), tmp_path, clip)


@pytest.mark.slow
def test_adapters_and_local_backbones_go_along_without_their_folders(small_run, backbones, hub, tmp_path, clip):
    run = small_run(
        **backbones,
        lora={"backbones": ["text"], "save": "adapter"},
        num_train_epochs=1,
        push_to_hub=True,
        hub_model_id="owner/adapted",
    )
    run_training(run)
    files = hub.repositories["models/owner/adapted"].files
    assert {"text_adapter/adapter_model.safetensors", "text_adapter/adapter_config.json"} <= set(files)
    assert_nothing_of_this_machine(files, tmp_path)
    card = files["README.md"].decode()
    assert "LoRA adapters are stored next to the backbones (`text_adapter`)" in card
    assert "| audio | `speech` | frozen | `mamba` |" in card
    assert "| audio backbone speech | unknown |" in card
    loaded_by_id(hub, "owner/adapted", Path(run.output_dir), tmp_path, clip)


@pytest.mark.slow
def test_a_frozen_backbone_of_the_hub_is_named_and_fetched_from_there(
    small_run, backbones, hub, tmp_path, clip, monkeypatch
):
    """Its weights do not go along; who loads the model by id gets the very commit that it was trained over."""
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    api = HfApi(endpoint=hub.url, token=TOKEN)
    for modality, folder in backbones.items():
        api.create_repo(f"owner/{modality}")
        api.upload_folder(repo_id=f"owner/{modality}", folder_path=folder)
    commit = hub.repositories["models/owner/audio_backbone"].commits[-1]
    run = small_run(
        audio_backbone="owner/audio_backbone",
        text_backbone="owner/text_backbone",
        num_train_epochs=1,
        push_to_hub=True,
        hub_model_id="owner/frozen",
    )
    run_training(run)
    later = tmp_path / "config.json"
    later.write_text("{}")  # what is published there later does not matter
    api.upload_file(repo_id="owner/audio_backbone", path_or_fileobj=later, path_in_repo="later.json")
    files = hub.repositories["models/owner/frozen"].files
    config = json.loads(files["config.json"])
    audio, text = config["audio_config"], config["text_config"]
    assert (audio["backbone_id"], audio["backbone_revision"]) == ("owner/audio_backbone", commit)
    assert (audio["backbone_stored"], text["backbone_stored"]) == (False, False)
    assert not [name for name in load(files["model.safetensors"]) if "backbone" in name]
    loaded_by_id(hub, "owner/frozen", Path(run.output_dir), tmp_path, clip)


@pytest.mark.slow
def test_a_push_that_fails_after_training_leaves_the_model(small_run, hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.fail_next("/commit/main", 500, times=10)
    run = small_run(push_to_hub=True, hub_model_id="owner/bibier-small", num_train_epochs=1)
    with pytest.raises(PushError, match=f"To continue: bibier push model {run.output_dir} owner/bibier-small"):
        run_training(run)
    folder = Path(run.output_dir)
    assert (folder / "results.json").is_file()
    assert AutoModel.from_pretrained(folder).config.model_type == "bibier"
    assert not hub.repositories["models/owner/bibier-small"].files


def test_the_right_to_push_is_checked_before_training(small_run, hub):
    run = small_run(push_to_hub=True, hub_model_id="others/bibier-small")
    with pytest.raises(PushError, match="the token may not write there"):
        run_training(run)
    assert not Path(run.output_dir).exists()


def test_arguments_of_pushing(small_run, monkeypatch):
    with pytest.raises(ArgumentError, match="hub_model_id: is missing"):
        small_run(push_to_hub=True)
    with pytest.raises(
        ArgumentError, match=r"hub_strategy: not an option of a run; the finished model is pushed, once"
    ):
        small_run(hub_strategy="every_save")
    assert small_run(hub_model_id="owner/name").hub_private_repo is True
    shown = public_command(
        "recipes/resd.yaml",
        {"push_to_hub": True, "hub_model_id": "owner/name", "seed": 7, "data_dir": "/a", "bf16": True},
    )
    assert shown == "bibier train recipes/resd.yaml --seed 7 --data_dir PATH --bf16 true"
    monkeypatch.setattr(sys, "argv", ["recipes/train.py"])
    assert public_command("resd", {}) == "accelerate launch recipes/train.py resd"
