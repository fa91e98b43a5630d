"""The command behind `recipes/extract_features.py`: the features of a run's corpora, computed before any training."""

import argparse
from collections.abc import Sequence

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from datasets import concatenate_datasets

from ..data.feature_store import Extraction
from ..data.features import InputExtractor
from ..data.mixture import load_corpora
from ..errors import ArgumentError
from ..memory import keep_freed_memory
from ..training.arguments import RunArguments, parse_run_arguments, run_arguments
from ..training.fit import build_model, make_extractor
from ..training.sections import apply_overrides, section_help
from .common import guarded

_KEYS = ("corpora.", "audio_", "text_", "feature_cache.")


def extract_main(arguments: Sequence[str]) -> int:
    """Extract as the command line says; returns the exit code.

    Args:
        arguments: `[FILE.yaml] [--key value] ... [--drift N]`.
    """

    def extract() -> None:
        if any(argument in ("-h", "--help") for argument in arguments):
            print(extract_help())
            return
        run, drift_rows = parse_extract_arguments(arguments)
        if run.keep_freed_memory:
            keep_freed_memory()
        extract_features(run, drift_rows)

    return guarded(
        extract,
        lambda: "Interrupted; the shards that were written are kept (64 rows each). Go on with the same command.",
    )


def parse_extract_arguments(arguments: Sequence[str]) -> tuple[RunArguments, int]:
    """The run whose inputs are wanted, and how many rows to compare with float32.

    Raises:
        ArgumentError: anything that cannot be followed.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--drift", type=int, default=0)
    try:
        own, rest = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise ArgumentError(f"drift: {error.message}; give a number of rows.") from error
    if rest and not rest[0].startswith("-"):
        run = parse_run_arguments(rest)
    else:
        content = {"output_dir": ""}  # nothing is written there
        apply_overrides(content, rest, RunArguments)
        run = run_arguments(content)
    if own.drift < 0:
        raise ArgumentError(f"drift: {own.drift} is not allowed; give a number of rows, 0 for none.")
    if not run.feature_cache.enabled:
        raise ArgumentError(
            "feature_cache.enabled: it is false, so that training would not look for any features. Leave it out."
        )
    return run, own.drift


def extract_features(run: RunArguments, drift_rows: int = 0) -> dict[str, dict[str, Extraction]]:
    """Compute and store what a run's model reads, and print where and how fast.

    Args:
        run: corpora, backbones and `feature_cache`; what concerns training has no influence.
        drift_rows: compare so many stored rows a corpus with float32 features of one clip at a time; 0: none.

    Returns:
        corpus -> modality -> what was done.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    set_seed(run.training.get("seed", 42))
    with state.main_process_first():  # it prepares and fetches, the others find it done
        splits = load_corpora(run.corpora)
        model, processor = build_model(run, run.training.get("seed", 42))
    extractor = make_extractor(model.to(state.device), processor, run.feature_cache)
    done = {}
    for name, corpus in splits.items():
        pooled = concatenate_datasets(
            [rows.select_columns(["audio", "text", "duration_s"]) for rows in corpus.values()]
        )
        done[name] = extractor.extract(pooled)
        if state.is_main_process:
            for modality, extraction in done[name].items():
                print(f"{name}: {describe_extraction(extractor, modality, extraction)}")
            if drift_rows:
                for modality, numbers in extractor.drift(pooled, drift_rows).items():
                    figures = ", ".join(f"{key} {value:.3g}" for key, value in numbers.items())
                    print(f"{name}: {extractor.specs[modality].name} against float32, one clip at a time: {figures}")
    state.wait_for_everyone()
    return done


def describe_extraction(extractor: InputExtractor, modality: str, extraction: Extraction) -> str:
    """What was done, in one line."""
    rate = (
        f" in {extraction.seconds:.1f} s, {extraction.computed / extraction.seconds:.1f} a second"
        if extraction.computed
        else ""
    )
    return (
        f"{extractor.specs[modality].name} ({extractor.specs[modality].dtype}): {extraction.computed} rows "
        f"computed{rate}, "
        f"{extraction.found} found; {extraction.size / 2**20:.1f} MiB in {extraction.folder}"
    )


def extract_help() -> str:
    """Every key that matters to an extraction."""
    lines = ["usage: recipes/extract_features.py [FILE.yaml] [--key value] [--key=value] [--drift N] ...", ""]
    lines += ["  --data_dir: short for --corpora.0.data_dir when there is one corpus"]
    lines += [line for line in section_help(RunArguments) if line.strip().removeprefix("--").startswith(_KEYS)]
    lines += [
        "  --model.audio_config.layer, --model.text_config.layer, --model.audio_config.max_window_s, ...: as in training"
    ]
    return "\n".join(
        [*lines, "  --drift [0]: compare so many stored rows a corpus with float32 features of one clip at a time"]
    )
