"""Labels other than the seven emotions: the tables of docs/results.md.

    python benchmarks/other_labels.py --resd PATH/TO/resd --ravdess PATH/TO/ravdess --meld PATH/TO/meld
    python benchmarks/other_labels.py --ravdess PATH/TO/ravdess --checkpoint outputs/resd-audio --only few_shot

1. Studies of other targets: `resd_enthusiasm`, `ravdess_intensity`, `meld_sentiment`. Finished runs are kept.
2. Few clips of the labels of another corpus and language. Clips of each emotion are drawn from the RAVDESS actors 1 to
   16, five times, and three models learn from the same clips; they are tested on the actors 17 to 20:

       adapt       `bibier adapt`, from the voice part of `resd_whisper_e5`, trained on RESD (or --checkpoint)
       scratch     the same model over the same backbone, with new weights, trained for --steps steps
       regression  that of `bibier adapt`, on mean and deviation over time of the features that the models read

Every answer is written to `answers/` in the output folder, and both tables are made of these files.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from answer_tables import METHODS, Answers, few_shot_table, target_table
from bibier_hf.commands.checkpoint import load_checkpoint
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.features import InputDataset
from bibier_hf.data.mixture import FeatureCacheArguments
from bibier_hf.data.reader import InputReader
from bibier_hf.evaluation.results import RESULTS_FILE
from bibier_hf.training.adapt import (
    adapt_model,
    cross_validate,
    decisions,
    draw_clips,
    fit_regression,
    make_folds,
    pooled_states,
    replace_labels,
)
from bibier_hf.training.arguments import read_run
from bibier_hf.training.build import build_model
from bibier_hf.training.rows import RunInputs
from bibier_hf.training.run import run_training
from bibier_hf.training.study import StudyArguments, plan_runs, run_study
from bibier_hf.training.trainer import BiBiERTrainer
from published import stored_answers

CLIPS = (8, 16, 32)
DRAWS = 5
RUN = "resd_whisper_e5"
VOICE: dict[str, Any] = {"model.modalities": ["audio"], "stages.plan": "joint", "patience": 5}
STUDIES = {"resd_enthusiasm": "resd", "ravdess_intensity": "ravdess", "meld_sentiment": "meld"}


def main() -> None:
    options = _parser().parse_args()
    folder = Path(options.output_dir)
    wanted = options.only or [*STUDIES, "few_shot"]

    for study, corpus in STUDIES.items():
        if study in wanted and getattr(options, corpus):
            write_study_answers(study, getattr(options, corpus), folder, _backbones(options))

    if "few_shot" in wanted and options.ravdess:
        checkpoint = options.checkpoint or train_on_resd(options.resd, folder, _backbones(options))
        write_few_shot_answers(checkpoint, options, folder)

    answers = folder / "answers"
    print(f"\n{target_table(answers)}")
    if (answers / "few_shot.csv").is_file():
        print(f"\n{few_shot_table(answers)}")


def write_study_answers(study: str, data_dir: str, folder: Path, keys: dict[str, Any]) -> None:
    """Run a study and write the test answers of each protocol, over all of its folds."""
    plan = StudyArguments.read(study).model_copy(update={"output_dir": str(folder / study)})
    used = {key: value for key, value in keys.items() if key != "audio_backbone" or study != "meld_sentiment"}
    runs = plan_runs(plan, used | {"data_dir": data_dir})
    run_study(runs)

    for protocol in dict.fromkeys(run.protocol for run in runs):
        (stored,) = stored_answers([run for run in runs if run.protocol == protocol]).values()
        (answers,) = stored.columns.values()
        replace(stored, columns={"answer": answers}).write(folder / "answers" / f"{study}-{protocol}.csv")


def train_on_resd(data_dir: str, folder: Path, keys: dict[str, Any]) -> str:
    """Train the speech part of `resd_whisper_e5`, unless it exists."""
    output = folder / "resd-audio"
    if not (output / RESULTS_FILE).is_file():
        run_training(read_run(RUN, VOICE | keys | {"data_dir": data_dir, "output_dir": str(output)}))
    return str(output)


def write_few_shot_answers(checkpoint: str, options: argparse.Namespace, folder: Path) -> None:
    """Draw clips, train the three methods on them, and write their answers to the clips of actors 17 to 20."""
    corpus = load_corpus("ravdess", options.ravdess)
    names = corpus["train"].features["label"].names
    cache = FeatureCacheArguments(directory=options.feature_store)

    model, processor = load_checkpoint(checkpoint, None)
    replace_labels(model, names)
    model.eval()
    reader = InputReader(model, processor, cache)
    inputs = reader.inputs({"train": corpus["train"], "test": corpus["dev"]})
    states = {split: pooled_states(model, rows, reader.collator) for split, rows in inputs.items()}
    statistics = {split: backbone_statistics(rows) for split, rows in inputs.items()}
    truth = {split: rows.labels for split, rows in inputs.items()}
    speakers = np.array(corpus["train"]["speaker"])

    file = folder / "answers" / "few_shot.csv"
    columns = dict(Answers.read(file).columns) if file.is_file() else {}
    for method, count, draw in product(options.methods, CLIPS, range(1, DRAWS + 1)):
        name = f"{method} {count} {draw}"
        if name in columns:
            continue

        rows = draw_clips(truth["train"], count, seed=draw)
        labels, who = truth["train"][rows], speakers[rows].tolist()
        start = time.perf_counter()
        if method == "adapt":
            adaptation = adapt_model(model, states["train"].select(rows), labels, who, seed=draw)
            logits = adaptation.decisions(model, states["test"])
        elif method == "scratch":
            logits = train_from_scratch(names, inputs, rows, reader, draw, options, folder)
        else:
            values = statistics["train"][rows]
            folds, *_ = make_folds(labels, who, names, seed=draw)
            strength = cross_validate(values, labels, folds, draw).strength
            logits = decisions(fit_regression(values, labels, strength, draw), statistics["test"])

        seconds = time.perf_counter() - start
        columns[name] = logits.argmax(1)
        print(f"{name}: accuracy {(columns[name] == truth['test']).mean():.3f} ({seconds:.1f} s)", flush=True)
        Answers(corpus["dev"]["id"], corpus["dev"]["speaker"], names, truth["test"], columns).write(file)


def train_from_scratch(
    names: list[str],
    inputs: Mapping[str, InputDataset],
    rows: np.ndarray,
    reader: InputReader,
    seed: int,
    options: argparse.Namespace,
    folder: Path,
) -> np.ndarray:
    """Train a new model with the same run file on some rows, and answer test with its last step."""
    keys = {"seed": seed, "max_steps": options.steps, "output_dir": str(folder / "scratch"), "data_dir": "unused"}
    run = read_run(RUN, VOICE | _backbones(options) | keys)
    model, processor, _ = build_model(run, names)
    data = RunInputs([inputs["train"].select(rows)], inputs["test"], inputs["test"], reader.collator)
    without_selection = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    trainer = BiBiERTrainer(run, model, data, processor, "from scratch", **without_selection)
    trainer.train()
    return trainer.predict_logits(inputs["test"], "test")


def backbone_statistics(rows: InputDataset) -> np.ndarray:
    """Return mean and deviation over time of the stored features of each clip."""
    (name,) = rows.columns
    return np.stack([np.concatenate([each.mean(0), each.std(0)]) for each in rows.columns[name]]).astype(np.float64)


def _backbones(options: argparse.Namespace) -> dict[str, Any]:
    given = {
        "audio_backbone": options.audio_backbone,
        "text_backbone": options.text_backbone,
        "feature_cache.directory": options.feature_store,
    }
    return {key: value for key, value in given.items() if value}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for corpus in ("resd", "ravdess", "meld"):
        parser.add_argument(
            f"--{corpus}", metavar="PATH", help=f"folder of {corpus.upper()}; without it, its parts are skipped"
        )
    parser.add_argument("--checkpoint", help="model trained on RESD; default: train the voice part of resd_whisper_e5")
    parser.add_argument("--audio_backbone", help="a local copy of it")
    parser.add_argument("--text_backbone", help="a local copy of it")
    parser.add_argument("--feature_store", metavar="PATH", help="folder of stored features")
    parser.add_argument("--steps", type=int, default=150, help="training steps from scratch [150]")
    parser.add_argument("--only", nargs="*", choices=[*STUDIES, "few_shot"], help="parts to run; default: all")
    parser.add_argument(
        "--methods", nargs="*", choices=METHODS, default=list(METHODS), help="methods of few_shot; default: all"
    )
    parser.add_argument("--output_dir", default="outputs/other-labels", help="folder of runs and answers")
    return parser


if __name__ == "__main__":
    main()
