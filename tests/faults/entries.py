"""Every command that writes, by its name. Imported by the server, so that its children need no imports."""

import importlib
import os
from pathlib import Path

import yaml

from bibier_cli import COMMANDS, run

for module, _ in COMMANDS.values():
    importlib.import_module(f"bibier_hf.commands.{module.partition(':')[0]}")


def call(name: str, out: str, more: list[str]) -> int:
    """Run a command that writes `out`; returns its exit code.

    The environment names the folder of what it reads (INPUTS) and the address of a language model (LANGUAGE_MODEL).
    """
    inputs = Path(os.environ["INPUTS"])
    table, run_file, checkpoint = (str(inputs / name) for name in ("small.csv", "small.yaml", "checkpoint"))
    corpus = ["--corpus", "csv", "--data_dir", str(inputs / "prepared")]
    match name:
        case "prepare":
            return run("prepare", ["csv", "--source", table, "--output_dir", out, *more])
        case "extract":
            return run("extract", [run_file, "--feature_cache.directory", out, *more])
        case "train":
            return run("train", [run_file, "--output_dir", out, *more])
        case "study":
            study = inputs / f"study{os.getpid()}.yaml"
            study.write_text(yaml.safe_dump({"run": run_file, "output_dir": out, "seeds": [1]}))
            return run("study", [str(study), *more])
        case "evaluate":
            return run("evaluate", [checkpoint, *corpus, "--output_dir", out, *more])
        case "label":
            server = ["--backend", "openai", "--base_url", os.environ["LANGUAGE_MODEL"], "--model", "fake"]
            return run("label corpus", [*server, *corpus, "--output", out, *more])
        case "sds":
            return run("augment sds", [*corpus, "--output_dir", out, "--target_s", "0.8", *more])
        case "tug":
            return run("augment tug", ["--count", "2", "--languages", "[en]", "--output_dir", out, *more])
        case "preview":
            return run("augment preview", ["--augmented", str(inputs / "stacked"), *corpus[2:], "--output", out])
        case "export":
            return run("export", [checkpoint, "--output_dir", out, "--format", "torch"])
        case "predict":
            clip = str(inputs / "train00.wav")
            return run("predict", [checkpoint, clip, "--chunk_length_s", "0.1", "--output", out])
        case "audit":
            return run("audit", [*corpus, "--output_dir", out, *more])
        case "baseline":
            return run("baseline", ["tfidf_logreg", *corpus, "--output_dir", out, *more])
        case "space":
            return run("demo", ["--space", out, "--model_id", "owner/name"])
        case "push":
            return run("push dataset", [out, "owner/name"])
    raise ValueError(f"there is no command {name!r}")
