"""Code that comes with a checkpoint, a tokenizer or a backbone is not run, and nobody is asked whether it may be."""

import json
import shutil
from pathlib import Path

import pytest

from bibier_hf.demo import app as demo_app

from ..bibier_command import bibier


@pytest.fixture
def hostile(checkpoint, tmp_path, monkeypatch) -> Path:
    """A checkpoint each of whose Python files writes a file `ran` when it is imported."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "hostile"
    shutil.copytree(checkpoint, folder)
    trap = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    config = json.loads((folder / "config.json").read_text())
    modules = {reference.split(".")[0] for reference in config["auto_map"].values()} | {"pipeline_bibier"}
    for name in {*modules, *(path.stem for path in folder.glob("*.py"))}:
        (folder / f"{name}.py").write_text(trap)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "--text", "Hello"],
        ["describe"],
        ["export", "--output_dir", "onnx"],
        ["evaluate", "--corpus", "csv", "--data_dir", "few.csv", "--feature_cache.enabled", "false"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_use_the_classes_of_the_package(arguments, hostile, tmp_path):
    (tmp_path / "few.csv").write_text(
        "audio,text,label,split,language\n"
        + "".join(
            f",{split} {label},{label},{split},en\n"
            for split in ("train", "dev", "test")
            for label in ("sad", "happy")
        )
    )
    done = bibier(arguments[0], hostile, *arguments[1:])
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "ran").exists()


def test_the_demo_runs_remote_code_only_when_told_to(hostile, tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(demo_app, "serve", lambda app, limits, **options: served.append(app))
    assert bibier("demo", hostile).exit_code == 0
    assert len(served) == 1
    assert not (tmp_path / "ran").exists()
    with pytest.raises((ImportError, AttributeError)):  # there is nothing in it but the trap
        bibier("demo", hostile, "--trust_remote_code")
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["predict", "demo"])
def test_a_tokenizer_with_code_of_its_own_is_refused_without_a_question(command, hostile, tmp_path):
    config = json.loads((hostile / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (hostile / "tokenizer_config.json").write_text(json.dumps(config))
    (hostile / "own.py").write_text((hostile / "modeling_bibier.py").read_text())
    done = bibier(command, hostile, *(["--text", "Hello"] if command == "predict" else []))
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "[y/N]" not in done.output
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("option", ["--audio_backbone", "--text_backbone"])
def test_a_backbone_with_code_of_its_own_is_refused_without_a_question(option, hostile, tmp_path):
    folder = tmp_path / "backbone"
    folder.mkdir()
    reference = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(reference))
    (folder / "own.py").write_text((hostile / "modeling_bibier.py").read_text())
    (tmp_path / "few.csv").write_text(
        "audio,text,label,split,language\n,a,sad,train,en\n,b,sad,dev,en\n,c,sad,test,en\n"
    )
    (tmp_path / "run.yaml").write_text(
        f"corpora: [{{name: csv, data_dir: {tmp_path / 'few.csv'}}}]\noutput_dir: out\n"
    )
    done = bibier("train", tmp_path / "run.yaml", option, folder)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "[y/N]" not in done.output
    assert not (tmp_path / "ran").exists()
