"""`bibier extract`."""

import torch
from accelerate import PartialState
from pydantic import Field

from ..commandline import section_help
from ..data.disturbances import Voices
from ..data.feature_store import Extraction
from ..data.features import InputExtractor, read_columns
from ..data.mixture import label_names, load_corpora
from ..data.reader import InputReader
from ..errors import ArgumentError
from ..memory import keep_freed_memory
from ..training.arguments import RunArguments, RunFile
from ..training.build import build_model

_KEYS = ("  --audio_", "  --text_", "  --disturbances", "  --feature_cache.")


class ExtractArguments(RunFile):
    """Compute the features of a run's backbones once, before training, on any number of processes and machines.

    Examples:
      bibier extract resd_whisper_e5 --data_dir PATH/TO/resd
      bibier extract --corpora.0.name resd --data_dir PATH/TO/resd --feature_cache.dtype float16 --drift 16
      accelerate launch --config_file recipes/accelerate_configs/multi_gpu.yaml -m bibier_cli extract resd

    `bibier train` with the same keys finds the features. If the command is killed, run it again to continue.
    Only the options below affect the features; the run file may contain others.
    """

    drift: int = Field(0, ge=0, description="compare this many stored rows per corpus with float32, one clip a time")

    @classmethod
    def option_help(cls) -> list[str]:
        keys = [line for line in section_help(RunArguments) if line.startswith(_KEYS)]
        model = "  --model.audio_config.layer, --model.text_config.layer, ...: as in `bibier train`"
        corpora = "  --corpora.0.name, --corpora.0.data_dir, ...: as in `bibier train`; --data_dir for the only corpus"
        return [*section_help(cls), corpora, *keys, model]

    def after_interrupt(self) -> str:
        return "The finished shards (64 rows each) are kept. Continue with the same command."


def extract(arguments: ExtractArguments) -> None:
    """Compute and store what a run's model reads, and print where and how fast."""
    run = arguments.run
    if not run.feature_cache.enabled:
        raise ArgumentError("feature_cache.enabled: training reads no features if this is false. Leave it out.")

    if run.keep_freed_memory:
        keep_freed_memory()
    state = PartialState(cpu=not torch.cuda.is_available())

    with state.main_process_first():  # it prepares and fetches what the others then find
        splits = load_corpora(run.corpora, run.labels, run.problem_type)
        model, processor, _ = build_model(run, label_names(next(iter(splits.values()))))
    extractor = InputReader(model.to(state.device), processor, run.feature_cache).extractor
    assert extractor is not None  # the cache is enabled

    for name, corpus in splits.items():
        parts = list(corpus.values())
        if run.disturbances is not None:
            parts += run.disturbances.stored_versions(corpus["train"])
        pooled = read_columns(parts)
        done = extractor.extract(pooled, voices=Voices(corpus["train"]))
        if not state.is_main_process:
            continue

        for modality, extraction in done.items():
            print(f"{name}: {describe_extraction(extractor, modality, extraction)}")
        if arguments.drift:
            for modality, numbers in extractor.drift(read_columns(list(corpus.values())), arguments.drift).items():
                figures = ", ".join(f"{key} {value:.3g}" for key, value in numbers.items())
                print(f"{name}: {extractor.specs[modality].name} against float32, one clip at a time: {figures}")

    state.wait_for_everyone()


def describe_extraction(extractor: InputExtractor, modality: str, extraction: Extraction) -> str:
    """What was done, in one line."""
    spec, rate = extractor.specs[modality], ""
    if extraction.computed:
        rate = f" in {extraction.seconds:.1f} s, {extraction.computed / extraction.seconds:.1f} a second"

    return (
        f"{spec.name} ({spec.dtype}): {extraction.computed} rows computed{rate}, {extraction.found} found; "
        f"{extraction.size / 2**20:.1f} MiB in {extraction.folder}"
    )
