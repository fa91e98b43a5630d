"""The package as it is installed: what the wheel carries, what importing costs, which way the imports run."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECK_INSTALLED = """
import sys
import bibier_hf
import evaluate
from transformers import pipeline
from bibier_hf.augmentation.tug import TemplateUtteranceGeneration
from bibier_hf.data.corpora import CORPORA
from bibier_hf.evaluation.metrics import METRIC_MODULE
from bibier_hf.hub.cards import write_model_card
from bibier_hf.training.arguments import parse_run_arguments

assert bibier_hf.__file__.startswith(sys.argv[1]), bibier_hf.__file__
assert len(TemplateUtteranceGeneration(seed=1).sample("happy", "ru", 5)) == 5
assert {"quickstart", "resd", "csv"} <= set(CORPORA)
assert evaluate.load(str(METRIC_MODULE)).compute(references=[0, 1], predictions=[0, 0])["uar"] == 0.5
torch_model = bibier_hf.BiBiERForEmotionClassification.from_backbones(hidden_size=16, num_attention_heads=2, num_fusion_layers=1)
pipe = pipeline("audio-text-emotion", model=torch_model.eval(), processor=bibier_hf.BiBiERProcessor.from_backbones(), device="cpu")
assert len(pipe({"text": "Hello"})) == 7
"""


@pytest.mark.slow
def test_a_built_wheel_works(repository: Path, tmp_path: Path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(repository)], check=True, timeout=600)
    (wheel,) = tmp_path.glob("bibier_hf-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    package = repository / "src" / "bibier_hf"
    data = {
        f"bibier_hf/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*.*")
        if path.suffix not in (".py", ".pyc")
    }
    assert data <= set(names)  # components, prompts, templates, the kernels' sources
    assert {
        "bibier_hf/py.typed",
        "bibier_hf/kernels/selective_scan.cpp",
        "bibier_hf/evaluation/bibier_metrics/README.md",
    } <= data
    assert "bibier_cli/app.py" in names
    assert not any("tests" in name or name.endswith((".pt", ".safetensors")) for name in names)
    subprocess.run(
        [*pip, "install", "-q", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True, timeout=600
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", CHECK_INSTALLED, str(tmp_path / "site")]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    command = [sys.executable, str(tmp_path / "site" / "bin" / "bibier"), "--help"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert "bibier [OPTIONS] COMMAND" in done.stdout, done.stderr[-3000:]


def test_importing_the_package_leaves_training_alone():
    """`import bibier_hf` must not drag in what only training, data and plots need."""
    heavy = {"datasets", "accelerate", "matplotlib", "evaluate"}
    code = f"import sys, bibier_hf; print(sorted({{m.split('.')[0] for m in sys.modules}} & {heavy}))"
    baseline = code.replace("bibier_hf", "transformers.pipelines, torch")
    loaded, before = (
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=120).stdout
        for text in (code, baseline)
    )
    assert loaded == before


OLD_TRANSFORMERS = """
import sys

for name in ("accelerate", "peft", "lion_pytorch"):
    sys.modules[name] = None  # its import fails, as if it were not installed
import transformers
transformers.__version__ = "5.19.0"
import bibier_hf, bibier_hf.commands.label
assert bibier_hf.EMOTIONS[0] == "anger"
assert not [name for name in sys.modules if name.startswith(("bibier_hf.model.conf", "bibier_hf.model.modeling", "bibier_hf.training"))]
try:
    bibier_hf.BiBiERProcessor
except ImportError as error:
    assert "needs transformers 5.20 or newer; 5.19.0 is installed" in str(error)
else:
    raise AssertionError("no error")
"""


def test_labelling_works_beside_the_transformers_of_vllm():
    """Its environment has an older transformers, and lacks what only the model and its training need."""
    done = subprocess.run(
        [sys.executable, "-c", OLD_TRANSFORMERS], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_lazy_names_resolve():
    import bibier_hf

    for name in bibier_hf.__all__:
        assert getattr(bibier_hf, name) is not None
        assert name in dir(bibier_hf)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = bibier_hf.no_such_name


LAYERS = (
    *(
        "kernels",
        "model",
        "timeline",
        "llm",
        "augmentation",
        "data",
        "evaluation",
        "hub",
        "training",
        "export",
        "benchmark",
        "demo",
    ),
    "commands",
)


def test_imports_run_one_way(repository: Path):
    """No cycle between the folders of the package: each imports only what stands before it in some order."""
    package = repository / "src" / "bibier_hf"
    edges = {layer: set() for layer in LAYERS}
    for path in package.rglob("*.py"):
        layer = path.relative_to(package).parts[0]
        if layer not in LAYERS:
            continue
        depth = len(path.relative_to(package).parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.level == depth and node.module:
                edges[layer].add(node.module.split(".")[0])
    remaining = {layer: targets & set(LAYERS) - {layer} for layer, targets in edges.items()}
    while remaining:
        free = [layer for layer, targets in remaining.items() if not targets & set(remaining)]
        assert free, f"a cycle of imports: {remaining}"
        for layer in free:
            del remaining[layer]
