"""Pushing to a stand-in for the Hub: what is sent, what is not, what happens when it goes wrong."""

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, constants

from bibier_cli import run
from bibier_hf.errors import PushError
from bibier_hf.evaluation.report import environment
from bibier_hf.evaluation.results import EvaluationResults
from bibier_hf.hub.cards import write_model_card
from bibier_hf.hub.eval_results import write_eval_results
from bibier_hf.hub.push import open_repository, push_labels, push_model, push_space

from ..hub_server import HubServer, Repository
from .conftest import metrics


@pytest.fixture
def trained(checkpoint: Path, results: dict, tmp_path: Path) -> Path:
    """A folder as a run leaves it, with much that is not for others."""
    folder = tmp_path / "outputs" / "small"
    shutil.copytree(checkpoint, folder)
    for name in ("predictions_test.parquet", "confusion_matrix_test_resd.png", ".hidden"):
        (folder / name).write_bytes(name.encode())
    (folder / "run.yaml").write_text(f"output_dir: {folder}\n")
    for name in ("checkpoint-3", "text_adapter", "evaluation"):
        (folder / name).mkdir()
        (folder / name / "adapter_config.json").write_text("{}")
    results.write(folder / "results.json")
    write_model_card(results, folder / "README.md")
    write_eval_results(results, folder)
    return folder


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_goes_up_whole_and_without_what_is_not_for_others(trained, hub: HubServer, repository: Path):
    before = contents(trained)
    assert push_model(trained, "owner/bibier-small").startswith(f"{hub.url}/owner/bibier-small/commit/")
    stored = hub.repositories["models/owner/bibier-small"]
    assert stored.private
    code = {name for name in before if name.endswith("_bibier.py")}
    assert code == {path.name for path in (repository / "src" / "bibier_hf" / "model").glob("*_bibier.py")}
    wanted = {
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer_config.json",
        "added_tokens.json",
        "results.json",
    }
    served = {"handler.py", "requirements.txt"}  # of an Inference Endpoint
    wanted |= {
        "README.md",
        "confusion_matrix_test_resd.png",
        "text_adapter/adapter_config.json",
        ".eval_results/resd.yaml",
    }
    assert set(stored.files) == code | wanted | served
    for name in set(stored.files) - served - {"README.md", ".eval_results/resd.yaml"}:
        assert stored.files[name] == before[name]
    card = stored.files["README.md"].decode()
    assert 'pipeline("audio-text-emotion", model="owner/bibier-small", trust_remote_code=True)' in card
    assert "PATH/TO" not in card
    assert "![Confusion matrix, resd](confusion_matrix_test_resd.png)" in card
    (entry,) = yaml.safe_load(stored.files[".eval_results/resd.yaml"])
    assert entry["source"]["url"].endswith("/owner/bibier-small/blob/main/results.json")
    assert contents(trained) == before
    assert not any(str(trained.parents[1]).encode() in content for content in stored.files.values())


def test_what_was_evaluated_later_stands_in_the_card(trained, results, hub):
    other = {"name": "dialogue_grouped", "fold": 1}
    evaluation = EvaluationResults(
        checkpoint="small", protocol={"resd": results.protocol["resd"], "other": other}, **environment()
    )
    evaluation.modalities = {
        "test": {"resd": {"audio": metrics(0.61), "text": metrics(0.32)}, "other": {"audio": metrics(0.11)}}
    }
    evaluation.write(trained / "evaluation" / "evaluation_test.json")
    push_model(trained, "owner/small")
    files = hub.repositories["models/owner/small"].files
    card = files["README.md"].decode()
    assert "| audio | 61.00 |" in card
    assert "11.00" not in card  # of another test set
    assert 'model="owner/small"' in card
    assert not any(name.startswith("evaluation/") for name in files)


def test_a_card_that_was_changed_by_hand_stays(trained, hub):
    card = trained / "README.md"
    card.write_text(card.read_text().replace("## Results", "My own words.\n\n## Results"))
    push_model(trained, "owner/small")
    pushed = hub.repositories["models/owner/small"].files["README.md"].decode()
    assert "My own words." in pushed
    assert 'model="owner/small"' in pushed


def test_a_model_without_results_needs_a_card(checkpoint, tmp_path, hub):
    folder = tmp_path / "converted"
    shutil.copytree(checkpoint, folder)
    with pytest.raises(FileNotFoundError, match=r"neither results\.json nor README\.md"):
        push_model(folder, "owner/converted")
    with pytest.raises(FileNotFoundError, match=r"no trained model.*config\.json"):
        push_model(tmp_path, "owner/converted")
    assert not hub.requests
    (folder / "README.md").write_text("By hand, for PATH/TO/THIS/FOLDER.")
    push_model(folder, "owner/converted", private=False)
    stored = hub.repositories["models/owner/converted"]
    assert not stored.private
    assert stored.files["README.md"] == b"By hand, for owner/converted."
    assert not any(name.startswith(".eval_results") for name in stored.files)


def test_pushing_again_sends_only_what_changed(trained, hub):
    push_model(trained, "owner/small")
    stored = hub.repositories["models/owner/small"]
    stored.files |= {
        "model-00001-of-00002.safetensors": b"of a former push",
        "notes.txt": b"written there",
        "onnx/config.json": b"{}",
    }
    commits = len(stored.commits)
    hub.requests.clear()
    (trained / "confusion_matrix_test_resd.png").write_bytes(b"another picture")
    push_model(trained, "owner/small")
    assert sum(request.startswith("PUT /lfs-put/") for request in hub.requests) == 1
    assert stored.files["confusion_matrix_test_resd.png"] == b"another picture"
    assert "model-00001-of-00002.safetensors" not in stored.files  # would be loaded
    assert {"notes.txt", "onnx/config.json"} <= set(stored.files)
    hub.requests.clear()
    push_model(trained, "owner/small")
    assert not any("lfs-put" in request or "/commit/" in request for request in hub.requests)
    assert len(stored.commits) == commits + 1


@pytest.mark.parametrize(
    ("pattern", "status", "said"),
    [
        ("POST /api/repos/create", 403, "status 403 .the token may not write there"),
        ("POST /api/repos/create", 401, "status 401 .it does not recognize the token"),
        ("PUT /lfs-put/", 500, "broke off"),
        ("POST /api/models/owner/small/commit/", 500, "status 500 .try again later"),
        ("POST /owner/small.git/info/lfs", 503, "503"),
    ],
)
def test_a_failed_push_changes_nothing_and_says_how_to_go_on(trained, hub, capsys, pattern, status, said):
    before = contents(trained)
    hub.fail_next(pattern, status, times=20)
    with pytest.raises(PushError, match=said) as refused:
        push_model(trained, "owner/small")
    assert str(refused.value).endswith(f"To continue: bibier push model {trained} owner/small")
    assert contents(trained) == before
    stored = hub.repositories.get("models/owner/small")
    assert stored is None or not stored.files
    arrived = len(hub.blobs)
    hub.forgive()
    hub.requests.clear()
    assert run("push model", [str(trained), "owner/small"]) == 0
    assert "Pushed privately: http" in capsys.readouterr().out
    large = [name for name in hub.repositories["models/owner/small"].files if name.endswith((".safetensors", ".png"))]
    assert (
        sum("lfs-put" in request for request in hub.requests) == len(large) - arrived
    )  # what had arrived is not sent again


def test_one_large_file_fails_the_other_has_arrived(trained, hub):
    weights = (trained / "model.safetensors").read_bytes()
    hub.fail_next(f"PUT /lfs-put/{hashlib.sha256(weights).hexdigest()}", 500, times=20)
    with pytest.raises(PushError, match=r"model\.safetensors.*To continue"):
        push_model(trained, "owner/small")
    hub.forgive()
    push_model(trained, "owner/small")
    assert hub.repositories["models/owner/small"].files["model.safetensors"] == weights


def test_refusals_that_need_no_answer_of_the_hub(trained, hub, monkeypatch, tmp_path):
    with pytest.raises(PushError, match=r"owner/name \("):
        push_model(trained, "a/b/c")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="unset HF_HUB_OFFLINE"):
        push_model(trained, "owner/small")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(PushError, match=r"broke off.*To continue"):
        push_model(trained, "owner/small")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with pytest.raises(PushError, match=r"no token.*hf auth login.*HF_TOKEN.*To continue"):
        push_model(trained, "owner/small")
    assert not hub.repositories


def test_visibility_is_never_changed(trained, hub):
    open_repository("owner/small")
    with pytest.raises(PushError, match="exists and is private, but public was requested"):
        push_model(trained, "owner/small", private=False)
    hub.repositories["models/owner/small"].private = False
    with pytest.raises(PushError, match="exists and is public, but private was requested"):
        open_repository("owner/small")
    with pytest.raises(PushError, match="may not write there"):
        open_repository("others/small")


def test_after_ctrl_c_the_command_says_how_to_go_on(trained, hub, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    before = contents(trained)
    monkeypatch.setattr(HfApi, "create_commit", interrupted)
    assert run("push model", [str(trained), "owner/small", "--public"]) == 130
    assert f"Continue with: bibier push model {trained} owner/small --public" in capsys.readouterr().err
    assert contents(trained) == before
    assert not hub.repositories["models/owner/small"].files


def test_a_space_is_pushed_as_it_is(tmp_path, hub, capsys):
    folder = tmp_path / "space"
    (folder / "examples").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no Space: there must be a README\.md"):
        push_space(folder, "owner/demo")
    (folder / "README.md").write_text("---\ntitle: Demo\nsdk: gradio\nsdk_version: 6.0.0\n---\n")
    (folder / "app.py").write_text("print('hello')\n")
    (folder / "examples" / "clip.png").write_bytes(b"\x00\x01")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "app.pyc").write_bytes(b"\x00")
    assert run("push space", [str(folder), "owner/demo"]) == 0
    assert "Pushed privately: http" in capsys.readouterr().out
    stored = hub.repositories["spaces/owner/demo"]
    assert (stored.private, stored.sdk) == (True, "gradio")
    assert set(stored.files) == {"README.md", "app.py", "examples/clip.png"}


def test_a_table_of_labels_is_pushed_with_its_card(tmp_path, hub):
    table = tmp_path / "labels.csv"
    row = "resd-{},ru,текст,{},{},0.1,0.1,0.1,0.4,0.1,0.1,0.1,Qwen/Qwen3-4B"
    head = "id,language,text,label,prediction,anger,disgust,fear,happy,neutral,sad,surprise,model"
    table.write_text(
        "\n".join([head, row.format(1, "happy", "happy"), row.format(2, "sad", "happy")]) + "\n", encoding="utf-8"
    )
    push_labels(table, "owner/labels")
    stored: Repository = hub.repositories["datasets/owner/labels"]
    assert stored.files["labels.csv"] == table.read_bytes()
    card = stored.files["README.md"].decode()
    assert "* model: `Qwen/Qwen3-4B`" in card
    assert "UAR of the arg-max against gold 0.50000" in card
    assert "hf download owner/labels labels.csv --repo-type dataset" in card
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["language"] == ["ru"]
    assert "license" not in metadata
    with pytest.raises(FileNotFoundError, match="no table of soft labels"):
        push_labels(tmp_path / "none.csv", "owner/labels")
