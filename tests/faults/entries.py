"""Every command that writes, by its name. Imported by the server, so that its children need no imports."""

import os
from pathlib import Path

import yaml

from bibier_cli import run
from bibier_hf.commands.audit import audit_main
from bibier_hf.commands.augment import augment_main
from bibier_hf.commands.baseline import baseline_main
from bibier_hf.commands.demo import demo_main
from bibier_hf.commands.evaluate import evaluate_main
from bibier_hf.commands.export import export_main
from bibier_hf.commands.extract import extract_main
from bibier_hf.commands.label import label_main
from bibier_hf.commands.predict import predict_main
from bibier_hf.commands.push import push_main
from bibier_hf.commands.study import study_main
from bibier_hf.commands.train import train_main


def call(name: str, out: str, more: list[str]) -> int:
    """Run a command that writes `out`; returns its exit code.

    The environment names the folder of what it reads (INPUTS) and the address of a language model (LANGUAGE_MODEL).
    """
    inputs = Path(os.environ["INPUTS"])
    table, run_file, checkpoint = (str(inputs / name) for name in ("small.csv", "small.yaml", "checkpoint"))
    corpus = ["--corpus", "csv", "--data_dir", str(inputs / "prepared")]
    match name:
        case "prepare":
            arguments = ["--source", table, "--output_dir", out, *more]
            return run("bibier_hf.data.command:prepare_command", "csv", "", arguments)
        case "extract":
            return extract_main([run_file, "--feature_cache.directory", out, *more])
        case "train":
            return train_main([run_file, "--output_dir", out, *more])
        case "study":
            study = inputs / f"study{os.getpid()}.yaml"
            study.write_text(yaml.safe_dump({"run": run_file, "output_dir": out, "seeds": [1]}))
            return study_main([str(study), *more])
        case "evaluate":
            return evaluate_main([checkpoint, *corpus, "--output_dir", out, *more])
        case "label":
            server = ["--backend", "openai", "--base_url", os.environ["LANGUAGE_MODEL"], "--model", "fake"]
            return label_main(["label", *server, *corpus, "--output", out, *more])
        case "sds":
            return augment_main(["sds", *corpus, "--output_dir", out, "--target_s", "0.8", *more])
        case "tug":
            return augment_main(["tug", "--count", "2", "--languages", "[en]", "--output_dir", out, *more])
        case "preview":
            return augment_main(["preview", "--augmented", str(inputs / "stacked"), *corpus[2:], "--output", out])
        case "export":
            return export_main(checkpoint, out, format="torch")
        case "predict":
            clip = str(inputs / "train00.wav")
            return predict_main(model=checkpoint, inputs=[clip], chunk_length_s=0.1, output=out)
        case "audit":
            return audit_main([*corpus, "--output_dir", out, *more])
        case "baseline":
            return baseline_main(["tfidf_logreg", *corpus, "--output_dir", out, *more])
        case "space":
            return demo_main(space=out, model_id="owner/name")
        case "push":
            return push_main(["dataset", out, "owner/name"])
    raise ValueError(f"there is no command {name!r}")
