"""The package as it is installed: what the wheel carries, what importing costs, which way the imports run."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import soundfile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bibier_hf.extras import EXTRAS
from bibier_hf.hub.shipped import SHIPPED

from .installs import build_wheel, install

USES = {
    "": """
pipe = load_pipeline()
assert len(pipe({"text": "Hello"})) == 7
refused(lambda: bibier_hf.load_corpus("csv", "table.csv"), "datasets", "train")
refused(lambda: bibier_hf.BiBiERTrainer, "accelerate", "train")
timeline = pipe("clip.wav", chunk_length_s=1, return_timestamps=True)
refused(lambda: bibier_hf.timeline.save_timeline(timeline, "timeline.png"), "matplotlib", "train")
assert command("predict", "checkpoint", "clip.wav", "--text", "Hello").returncode == 0
assert command("describe", "checkpoint").returncode == 0
assert command("--help").returncode == command("completion", "bash").returncode == 0
assert command("predict", "checkpoint", "--text", "Hello").returncode == 0
refused_command("evaluate", "checkpoint", "--corpus", "quickstart", package="datasets", extra="train")
refused_command("predict", "checkpoint", "--demo", package="datasets", extra="train")
refused_command("export", "checkpoint", "--output_dir", "onnx", package="onnx", extra="export")
refused_command("demo", "checkpoint", package="gradio", extra="demo")
refused_script("recipes/train.py", package="datasets", extra="train")
refused_script("dataset_scripts/prepare_csv.py", "--help", package="datasets", extra="train")
""",
    "train": """
import evaluate
from bibier_hf.evaluation.metrics import METRIC_MODULE
from bibier_hf.hub.cards import write_model_card
from bibier_hf.training.arguments import RunFile

assert evaluate.load(str(METRIC_MODULE)).compute(references=[0, 1], predictions=[0, 0])["uar"] == 0.5
lines = [f",{label} {split},{label},{split},en" for label in bibier_hf.EMOTIONS for split in ("train", "dev", "test")]
Path("few.csv").write_text("\\n".join(["audio,text,label,split,language", *lines]))
assert len(bibier_hf.load_corpus("csv", "few.csv")["test"]) == 7
options = ["--data_dir", "few.csv", "--output_dir", "report", "--feature_cache.enabled", "false"]
done = command("evaluate", "checkpoint", "--corpus", "csv", *options)
assert "| few |" in done.stdout, done.stderr
refused_command("predict", "checkpoint", "--demo", package="espeakng-loader", extra="tts")
done = command("predict", "checkpoint", "clip.wav", "--chunk_length_s", "1", "--output", "timeline.png")
assert done.returncode == 0 and Path("timeline.png").is_file(), done.stderr
refused_command("export", "checkpoint", "--output_dir", "onnx", package="onnx", extra="export")
refused_command("demo", "checkpoint", package="gradio", extra="demo")
""",
    "tts": """
from bibier_hf.augmentation.tts import EspeakTextToSpeech
from bibier_hf.augmentation.tts.checks import word_error_rate

assert len(EspeakTextToSpeech().synthesize("Hello", language="en")) > 1000
assert word_error_rate("one two", "one three") == 0.5
""",
    "llm": """
from bibier_hf.llm import get_backend

get_backend("openai", "any", base_urls=["http://localhost:1/v1"])
refused(lambda: bibier_hf.LLMLabelSmoothing, "datasets", "train")
""",
    "demo": """
from bibier_hf.demo.app import build_app, serve
from bibier_hf.demo.analysis import Limits
from bibier_hf.demo.examples import write_examples

app = build_app(load_pipeline(), write_examples("examples"))
serve(app, Limits(), wait=False)
app.close()
assert command("demo", "--space", "space", "--model_id", "owner/name").returncode == 0
assert command("predict", "checkpoint", "clip.wav").returncode == 0
refused_command("evaluate", "checkpoint", "--corpus", "quickstart", package="datasets", extra="train")
""",
    "export": """
from bibier_hf.export import OnnxPipeline

done = command("export", "checkpoint", "--output_dir", "onnx", "--part", "whole", "--int8")
assert done.returncode == 0, done.stderr
assert len(OnnxPipeline.from_pretrained("onnx")({"text": "Hello"})) == 7
refused_command("export", "checkpoint", "--output_dir", "other", "--corpus", "quickstart", package="datasets", extra="train")
""",
}
"""Extra -> what it is for; "": the package without any."""

PRELUDE = """
import re, subprocess, sys
from pathlib import Path
from transformers import pipeline
import bibier_hf, bibier_hf.timeline

repository, site = Path(sys.argv[1]), sys.argv[2]
assert bibier_hf.__file__.startswith(site), bibier_hf.__file__

def load_pipeline():
    model = bibier_hf.BiBiERForEmotionClassification.from_pretrained("checkpoint")
    return pipeline("audio-text-emotion", model=model, processor=bibier_hf.BiBiERProcessor.from_pretrained("checkpoint"))

def command(*arguments):
    return subprocess.run([sys.executable, "-m", "bibier_cli", *arguments], capture_output=True, text=True)

def message(package, extra):
    return rf"{package}\\b.*pip install 'bibier-hf\\[{extra}\\]'"

def refused(use, package, extra):
    try:
        use()
    except ImportError as error:
        assert re.search(message(package, extra), str(error)), error
    else:
        raise AssertionError(f"{package} is here")

def check(done, package, extra):
    assert done.returncode == 2, done.stderr
    assert re.search(message(package, extra), done.stderr), done.stderr
    assert "Traceback" not in done.stderr, done.stderr

def refused_command(*arguments, package, extra):
    check(command(*arguments), package, extra)

def refused_script(script, *arguments, package, extra):
    done = subprocess.run([sys.executable, str(repository / script), *arguments], capture_output=True, text=True)
    check(done, package, extra)
"""


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory) -> Path:
    return build_wheel(repository, tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_what_the_wheel_holds(repository: Path, wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = repository / "src" / "bibier_hf"
    data = {
        f"bibier_hf/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*.*")
        if path.suffix not in (".py", ".pyc")
    }
    assert data <= names  # components, prompts, templates, the kernels' sources
    assert {
        "bibier_hf/py.typed",
        "bibier_hf/kernels/selective_scan.cpp",
        "bibier_hf/evaluation/bibier_metrics/README.md",
    } <= data
    assert {
        "bibier_cli/__init__.py",
        "bibier_hf/recipes/resd.yaml",
        "bibier_hf/recipes/studies/resd_grouped.yaml",
        "bibier_hf/recipes/searches/resd_greedy.yaml",
    } <= names
    assert not any("tests" in name for name in names)
    weights = {name for name in names if name.endswith((".pt", ".safetensors"))}
    assert {Path(name).parts[:3] for name in weights} == {("bibier_hf", "checkpoints", name) for name in SHIPPED}


@pytest.mark.slow
@pytest.mark.parametrize("extra", USES)
def test_each_extra_alone(extra: str, wheel: Path, repository: Path, checkpoint: Path, clip, tmp_path: Path):
    """The wheel with one extra and nothing that the extra does not ask for: it does what the extra is for, and names
    the extra that brings whatever is missing."""
    python = install(wheel, [extra] if extra else [], tmp_path / "environment")
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    soundfile.write(tmp_path / "clip.wav", clip(2.0), 16_000)

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-c", PRELUDE + USES[extra], repository, tmp_path / "environment"]
    done = subprocess.run(
        command,
        env=environment | {"HF_HUB_OFFLINE": "1", "BIBIER_CACHE": str(tmp_path / "cache")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_import_is_declared(repository: Path):
    """Each package that the sources import is a dependency, or comes with the extra that errors name."""
    declared = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {
        extra: {canonicalize_name(Requirement(line).name) for line in lines}
        for extra, lines in declared["optional-dependencies"].items()
    }
    core = {canonicalize_name(Requirement(line).name) for line in declared["dependencies"]}
    distributions = packages_distributions()

    imported = set()
    for path in (repository / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "bibier_hf", "bibier_cli", "vllm", "bibier_demo"}

    extra_of = {module: extra for extra, modules in EXTRAS.items() for module in modules}
    for module in sorted(imported):
        found = {canonicalize_name(name) for name in distributions.get(module, [module])}
        if not found & core:
            assert module in extra_of, f"{module} is imported, and no extra brings it"
            assert found & names[extra_of[module]], f"{module} is not declared in the extra {extra_of[module]}"


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
