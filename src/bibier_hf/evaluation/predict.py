"""Emotions of clips and texts, printed."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import pipeline

import bibier_hf  # noqa: F401  registers the pipeline

from ..data.corpora import load_quickstart
from ..model.configuration_bibier import EMOTIONS, TASK
from ..training.command_line import guarded


def predict_main(arguments: Sequence[str]) -> int:
    """Print what a checkpoint says to clips, to a text, or to examples of the embedded corpus; returns the exit code."""
    parser = argparse.ArgumentParser(prog="recipes/predict.py")
    parser.add_argument("model", help="folder or Hub id of a checkpoint")
    parser.add_argument("clips", nargs="*", help="audio files")
    parser.add_argument("--text", help="what is said (in each of the clips), or a text alone")
    parser.add_argument("--examples", action="store_true", help="one English and one Russian test clip of the embedded corpus")
    parser.add_argument("--top_k", type=int, default=3, help="emotions to print, best first")
    options = parser.parse_args(arguments)
    if not (options.clips or options.text or options.examples):
        parser.error("give audio files, --text or --examples")

    def predict() -> None:
        samples = [(Path(clip).name, {"audio": clip, "text": options.text}) for clip in options.clips]
        if options.text and not options.clips:
            samples.append(("text", {"text": options.text}))
        if options.examples:
            samples += example_clips()
        pipe = pipeline(TASK, model=options.model, trust_remote_code=True)
        for (name, sample), answer in zip(samples, pipe([sample for _, sample in samples], top_k=options.top_k), strict=True):
            scores = ", ".join(f"{entry['label']} {entry['score']:.2f}" for entry in answer)
            print(f"{name}{': ' + repr(sample['text']) if sample.get('text') else ''}\n    {scores}")

    return guarded(predict)


def example_clips() -> list[tuple[str, dict[str, Any]]]:
    """The first English and the first Russian clip of the embedded corpus' test split, as (description, pipeline input)."""
    rows = load_quickstart()["test"]
    examples = []
    for language in ("en", "ru"):
        row = rows[list(rows["language"]).index(language)]
        examples.append((f"{language}, truth: {EMOTIONS[row['label']]}", {"audio": row["audio"], "text": row["text"]}))
    return examples
