"""The command behind `recipes/predict.py`: emotions of clips and texts, printed."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import pipeline

import bibier_hf  # noqa: F401  registers the pipeline

from ..data.corpora.quickstart import demo_clips
from ..model.configuration_bibier import TASK
from ..model.labels_bibier import EMOTIONS
from .common import guarded


def predict_main(arguments: Sequence[str]) -> int:
    """Print what a checkpoint says to clips, to a text, or to examples of the embedded corpus; returns the exit code."""
    parser = argparse.ArgumentParser(prog="recipes/predict.py")
    parser.add_argument("model", help="folder or Hub id of a checkpoint")
    parser.add_argument("clips", nargs="*", help="audio files")
    parser.add_argument("--text", help="what is said (in each of the clips), or a text alone")
    parser.add_argument("--demo", action="store_true", help="one English and one Russian test clip of the embedded corpus")
    parser.add_argument("--top_k", type=int, default=3, help="emotions to print, best first")
    options = parser.parse_args(arguments)
    if not (options.clips or options.text or options.demo):
        parser.error("give audio files, --text or --demo")

    def predict() -> None:
        samples = [(Path(clip).name, {"audio": clip, "text": options.text}) for clip in options.clips]
        if options.text and not options.clips:
            samples.append(("text", {"text": options.text}))
        if options.demo:
            samples += demo_samples()
        pipe = pipeline(TASK, model=options.model, trust_remote_code=True)
        for (name, sample), answer in zip(samples, pipe([sample for _, sample in samples], top_k=options.top_k), strict=True):
            scores = ", ".join(f"{entry['label']} {entry['score']:.2f}" for entry in answer)
            print(f"{name}{': ' + repr(sample['text']) if sample.get('text') else ''}\n    {scores}")

    return guarded(predict)


def demo_samples() -> list[tuple[str, dict[str, Any]]]:
    """One English and one Russian test clip of the embedded corpus, as (description, pipeline input)."""
    return [
        (f"{language}, truth: {EMOTIONS[row['label']]}", {"audio": row["audio"], "text": row["text"]})
        for language, row in demo_clips().items()
    ]
