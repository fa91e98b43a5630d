"""The metrics as a module of `evaluate`: loaded by path, in a clean process without the package and without a
network."""

import json
import os
import runpy
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import yaml

from bibier_hf.evaluation.metrics import METRIC_MODULE, classification_metrics

CLEAN_PROCESS = """
import json, socket, sys

def no_network(*args, **kwargs):
    raise OSError("the network is off")

socket.socket.connect = no_network
sys.modules["bibier_hf"] = None  # its import fails

import evaluate

module = evaluate.load(sys.argv[1])
print(json.dumps(module.compute(references=[0, 0, 0, 3], predictions=[0, 0, 3, 3])))
"""


def slow_averages(references, predictions):
    """UAR, WAR, MF1, WF1 by counting."""
    recalls, f1s, sizes = [], [], []
    for label in sorted(set(references)):
        hits = sum(r == p == label for r, p in zip(references, predictions, strict=True))
        size, given = references.count(label), predictions.count(label)
        recall, precision = hits / size, hits / given if given else 0.0
        recalls.append(recall)
        f1s.append(2 * precision * recall / (precision + recall) if hits else 0.0)
        sizes.append(size)
    found = {
        "uar": sum(recalls) / len(recalls),
        "war": sum(size * recall for size, recall in zip(sizes, recalls, strict=True)) / sum(sizes),
        "mf1": sum(f1s) / len(f1s),
        "wf1": sum(size * f1 for size, f1 in zip(sizes, f1s, strict=True)) / sum(sizes),
    }
    return found | {"mean": sum(found.values()) / 4}


def test_the_module_equals_the_package_and_a_slow_twin():
    module, generator = evaluate.load(str(METRIC_MODULE)), np.random.default_rng(0)
    cases = [([0, 0, 0, 3], [0, 0, 3, 3]), ([0, 0], [0, 2])]
    for classes in (7, 3, 1):  # classes that do not occur, and such that are only predicted
        cases.append((generator.integers(0, classes, 40).tolist(), generator.integers(0, 7, 40).tolist()))
    for references, predictions in cases:
        metrics = module.compute(references=references, predictions=predictions)
        assert metrics == pytest.approx(slow_averages(references, predictions))
        assert metrics == classification_metrics(references, predictions)
    module.add_batch(references=[0, 0, 0], predictions=[0, 0, 3])
    module.add(reference=3, prediction=3)
    assert module.compute()["uar"] == pytest.approx(5 / 6)


@pytest.mark.slow
def test_the_module_loads_without_the_package_and_a_network(tmp_path):
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", CLEAN_PROCESS, str(METRIC_MODULE)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(slow_averages([0, 0, 0, 3], [0, 0, 3, 3]))


def test_the_folder_is_a_space():
    names = {path.name for path in METRIC_MODULE.iterdir() if path.name != "__pycache__"}
    assert names == {"README.md", "app.py", "averages.py", "bibier_metrics.py", "requirements.txt"}
    assert f"{METRIC_MODULE.name}.py" in names  # what evaluate.load looks for, by path and by id
    front_matter = yaml.safe_load((METRIC_MODULE / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert front_matter["sdk"] == "gradio"
    assert {"evaluate", "metric"} <= set(front_matter["tags"])
    assert (METRIC_MODULE / front_matter["app_file"]).is_file()


def test_the_page_of_the_space_scores_a_table(monkeypatch, tmp_path):
    pytest.importorskip("gradio", reason="the page needs gradio")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.chdir(tmp_path)
    app = runpy.run_path(str(METRIC_MODULE / "app.py"), run_name="app")
    assert app["page"].fn([[0, 0], [0, 0], [0, 3], [3, 3]])["uar"] == pytest.approx(5 / 6)
