"""A checkpoint in a clean process: no package, no network, an empty cache of modules."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from transformers import AutoModel, AutoProcessor

REMOTE = (
    "answers audio backbones batching configuration containers context decoding encoders explaining ffmpeg front_end fusion granularity "
    "hashing importing labels losses mamba modeling pipeline processing segments sequence sources speakers streams timeline "
    "unsure validation words"
).split()
ALLOWED_IMPORTS = {"torch", "numpy", "transformers", "huggingface_hub"}

CLEAN_PROCESS = """
import json, socket, sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "bibier_hf":
            raise ModuleNotFoundError("No module named 'bibier_hf'")

def no_network(*args, **kwargs):
    raise OSError("the network is off")

sys.meta_path.insert(0, NoPackage())
socket.socket.connect = no_network

import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AutoProcessor, AutoTokenizer, pipeline

folder, wav, resaved = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)).__name__ == "BiBiERForEmotionClassification"
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    logits = model(**processor(audio=wav, text="Не верю!")).logits[0].tolist()
pipe = pipeline("audio-text-emotion", model=folder, trust_remote_code=True)
scores = pipe({"audio": wav, "text": "Не верю!"})
batch = pipe([wav, {"text": "a"}], batch_size=2, top_k=1)
timeline = pipe(wav, chunk_length_s=0.5, return_timestamps=True)
pipe.save_pretrained(resaved)
again = pipeline("audio-text-emotion", model=resaved, trust_remote_code=True)
assert again({"audio": wav, "text": "Не верю!"}) == scores
by_object = pipeline("audio-text-emotion", model=model, processor=processor, device="cpu")
assert [entry["label"] for entry in by_object({"audio": wav, "text": "Не верю!"})] == [entry["label"] for entry in scores]
assert AutoTokenizer.from_pretrained(folder, trust_remote_code=True)("a")["input_ids"] == processor(text="a")["input_ids"][0].tolist()
assert AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True).to_dict() == processor.feature_extractor.to_dict()
assert "bibier_hf" not in sys.modules
print(json.dumps({"labels": list(config.id2label.values()), "logits": logits, "scores": scores, "batch": len(batch), "timeline": timeline}))
"""


HASHES = """
import json, sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "bibier_hf":
            raise ModuleNotFoundError("No module named 'bibier_hf'")

sys.meta_path.insert(0, NoPackage())

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datasets.fingerprint import Hasher
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

folder = sys.argv[1]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
pipe = pipeline("audio-text-emotion", model=folder, trust_remote_code=True, device="cpu")
if __name__ == "__main__":
    functions = [lambda row: processor(text=row["text"]), lambda row: pipe(row), lambda row: model(**row)]
    answer = pipe({"text": "a"})
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        other = pool.submit(pipe, {"text": "a"}).result()
    assert [entry["label"] for entry in other] == [entry["label"] for entry in answer]
    print(json.dumps([Hasher.hash(value) for value in (processor, model, config, pipe, *functions)]))
"""


@pytest.fixture
def calibrated(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint with a temperature."""
    folder = tmp_path / "calibrated"
    model = AutoModel.from_pretrained(checkpoint)
    model.config.temperature = 2.5
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def test_auto_classes_and_pipeline_without_the_package(checkpoint: Path, calibrated: Path, tmp_path: Path, clip):
    wav = tmp_path / "clip.wav"
    soundfile.write(wav, clip(1.0), 16_000, subtype="FLOAT")
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
    }
    command = [sys.executable, "-c", CLEAN_PROCESS, str(calibrated), str(wav), str(tmp_path / "resaved")]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])

    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        expected = model(**processor(audio=str(wav), text="Не верю!")).logits[0]
    torch.testing.assert_close(torch.tensor(result["logits"]), expected, atol=1e-5, rtol=0)
    assert result["labels"] == ["anger", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert result["batch"] == 2
    assert [chunk["timestamp"] for chunk in result["timeline"]["chunks"]] == [[0.0, 0.5], [0.5, 1.0]]
    best = result["scores"][0]
    assert best["score"] == pytest.approx((expected / 2.5).softmax(-1).max().item(), abs=1e-5)
    assert result["labels"].index(best["label"]) == expected.argmax().item()


def test_hashes_and_copies_of_remote_code(checkpoint: Path, tmp_path: Path):
    """`datasets` finds what a process before has computed, and a pool of processes takes the pipeline."""
    (tmp_path / "hashes.py").write_text(HASHES)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    runs = []
    for _ in range(2):
        command = [sys.executable, str(tmp_path / "hashes.py"), str(checkpoint)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(runs[0])


def test_the_checkpoint_carries_all_of_the_remote_set(checkpoint: Path, repository: Path):
    assert {path.name for path in checkpoint.glob("*.py")} == {f"{name}_bibier.py" for name in REMOTE}
    for name in REMOTE:
        source = repository / "src" / "bibier_hf" / "model" / f"{name}_bibier.py"
        assert (checkpoint / source.name).read_text() == source.read_text()


def test_checkpoint_has_no_path_of_this_machine(checkpoint: Path, repository: Path):
    for path in checkpoint.glob("*.json"):
        text = path.read_text()
        assert str(repository) not in text
        assert str(checkpoint.parent) not in text


@pytest.mark.parametrize("name", REMOTE)
def test_remote_files_import_only_each_other_and_what_every_user_has(name: str, repository: Path):
    tree = ast.parse((repository / "src" / "bibier_hf" / "model" / f"{name}_bibier.py").read_text())
    guarded = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module.removesuffix("_bibier") in REMOTE, node.module
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in guarded:
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            roots = {module.split(".")[0] for module in modules}
            assert roots <= ALLOWED_IMPORTS | set(sys.stdlib_module_names), roots


def test_the_remote_set_does_not_know_the_package(repository: Path):
    """No edge back: the rest of the package may import the remote set, never the reverse."""
    for path in (repository / "src" / "bibier_hf" / "model").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1
                assert not (node.module or "").startswith("bibier_hf")
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("bibier_hf") for alias in node.names)
