"""Rows on what a user waits for: the pipeline and the import."""

import functools
import subprocess
import sys
from dataclasses import replace

import torch

from bibier_hf.model.modeling_bibier import BiBiERForEmotionClassification
from bibier_hf.model.pipeline_bibier import AudioTextEmotionPipeline
from bibier_hf.model.processing_bibier import BiBiERProcessor
from measuring import Row, compare

RATE = 16_000

RESD_SECONDS = (0.37, 1.76, 2.47, 3.2, 3.94, 5.04, 6.23, 7.67, 9.52, 12.43, 20.14)
"""Deciles of the durations of RESD's clips."""


def clips(count: int, shortest_s: float = 0.5, longest_s: float = 16.0) -> list[torch.Tensor]:
    """Noise, from the shortest to the longest, in a shuffled order."""
    generator = torch.Generator().manual_seed(0)
    seconds = torch.linspace(shortest_s, longest_s, count)[torch.randperm(count, generator=generator)]

    return [torch.randn(int(RATE * length), generator=generator) for length in seconds]


@functools.cache
def pipe() -> AudioTextEmotionPipeline:
    torch.manual_seed(0)
    model = BiBiERForEmotionClassification.from_backbones().eval()
    return AudioTextEmotionPipeline(model=model, processor=BiBiERProcessor.from_backbones(), device="cpu")


def inputs(count: int) -> list[dict]:
    return [
        {"audio": {"array": clip.numpy(), "sampling_rate": RATE}, "text": "a few words"}
        for clip in clips(count, 0.5, 8.0)
    ]


def pipeline_batch(count: int = 64) -> Row:
    samples = inputs(count)
    run = lambda: pipe()(samples, batch_size=16), lambda: [pipe()(sample) for sample in samples]
    return compare(
        "pipeline_batch", "a loop over the clips", 1.5, *run, note=f"{count} clips of 0.5 to 8 s, batch_size=16"
    )


def pipeline_real_lengths(count: int = 200) -> Row:
    """A batch must not cost more than clips by themselves, although clips of a corpus differ in length."""
    generator = torch.Generator().manual_seed(1)
    quantiles = torch.tensor(RESD_SECONDS)
    position = torch.rand(count, generator=generator) * (len(quantiles) - 1)
    seconds = torch.lerp(quantiles[position.long()], quantiles[position.long() + 1], position % 1)
    samples = [
        {"array": torch.randn(int(RATE * length), generator=generator).numpy(), "sampling_rate": RATE}
        for length in seconds.tolist()
    ]
    run = lambda: pipe()(samples, batch_size=16), lambda: pipe()(samples)
    note = f"{count} clips as long as those of RESD, batch_size=16"

    return compare("pipeline_real_lengths", "batch_size=1", 1.0, *run, note=note)


def pipeline_single(count: int = 16) -> Row:
    samples = inputs(count)

    @torch.no_grad()
    def by_hand() -> None:
        model, processor = pipe().model, pipe().processor
        for sample in samples:
            batch = processor(audio=[sample["audio"]["array"]], text=[sample["text"]], sampling_rate=RATE)
            model(**batch).logits.softmax(-1).tolist()

    run = (lambda: [pipe()(sample) for sample in samples]), by_hand

    return compare(
        "pipeline_single", "processor and model by hand", 1 / 1.15, *run, note="one clip a call; by hand / pipeline"
    )


def import_cost() -> Row:
    def start(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    run = (lambda: start("import transformers.pipelines, bibier_hf")), (lambda: start("import transformers.pipelines"))
    row = compare("import", "import transformers.pipelines alone", 1.0, *run, warm_up=False, budget_s=20)
    note = f"{row.ours_s - row.theirs_s:+.2f} s; (theirs + 0.3 s) / ours"

    return replace(row, ratio=(row.theirs_s + 0.3) / row.ours_s, note=note)


ROWS = {
    "pipeline_batch": pipeline_batch,
    "pipeline_real_lengths": pipeline_real_lengths,
    "pipeline_single": pipeline_single,
    "import": import_cost,
}
