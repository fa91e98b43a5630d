"""Rows of what a user waits for: features of a backbone, the pipeline, the import."""

import functools
import subprocess
import sys
from dataclasses import replace

import torch
from torch.nn.utils.rnn import pad_sequence

from ..model.backbones_bibier import encode_audio
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.pipeline_bibier import AudioTextEmotionPipeline
from ..model.processing_bibier import BiBiERProcessor
from .measuring import Row, compare

RATE = 16_000


def clips(count: int, shortest_s: float = 0.5, longest_s: float = 16.0) -> list[torch.Tensor]:
    """Noise, from the shortest to the longest, in a shuffled order."""
    generator = torch.Generator().manual_seed(0)
    seconds = torch.linspace(shortest_s, longest_s, count)[torch.randperm(count, generator=generator)]
    return [torch.randn(int(RATE * length), generator=generator) for length in seconds]


def published_backbone() -> torch.nn.Module:
    """The architecture of audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim, random weights: speed does not depend on them."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=1024,
        num_hidden_layers=12,
        num_attention_heads=16,
        intermediate_size=4096,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
    )
    torch.manual_seed(0)
    return Wav2Vec2Model(config).eval()


@torch.no_grad()
def extract(backbone: torch.nn.Module, audio: list[torch.Tensor], batch_s: float) -> list[torch.Tensor]:
    """Features of each clip, in batches of neighbours in length that hold at most `batch_s` seconds, padding included."""
    order = sorted(range(len(audio)), key=lambda index: len(audio[index]))
    features: list[torch.Tensor] = [torch.empty(0)] * len(audio)
    batch: list[int] = []
    for place, index in enumerate(order):
        batch.append(index)
        following = order[place + 1] if place + 1 < len(order) else None
        if following is not None and (len(batch) + 1) * len(audio[following]) <= batch_s * RATE:
            continue
        inputs = pad_sequence([audio[i] for i in batch], batch_first=True)
        mask = torch.arange(inputs.shape[1]) < torch.tensor([len(audio[i]) for i in batch]).unsqueeze(1)
        frames, kept = encode_audio(backbone, inputs, mask, layer=-1, max_window_s=30.0)
        for row, i in enumerate(batch):
            features[i] = frames[row, kept[row]]
        batch = []
    return features


def extraction(count: int = 12) -> Row:
    backbone, audio = published_backbone(), clips(count)
    fast = published_backbone().bfloat16()
    row = compare(
        "extraction",
        "one clip at a time, float32",
        2,
        functools.partial(extract, fast, audio, batch_s=32.0),
        functools.partial(extract, backbone, audio, batch_s=0.0),
        budget_s=5,
        warm_up=False,
    )
    exact, quick = extract(backbone, audio[:4], 0.0), extract(fast, audio[:4], 32.0)
    drift = max(((a - b.float()).norm() / a.norm()).item() for a, b in zip(exact, quick, strict=True))
    instructions = "with" if torch.backends.cpu.get_cpu_capability() == "AVX512" and _has_bf16() else "without"
    note = f"{count} clips of 0.5 to 16 s, bf16 and length buckets, a CPU {instructions} bf16 instructions; relative drift {drift:.1%}"
    return replace(row, note=note)


def _has_bf16() -> bool:
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


@functools.cache
def pipe() -> AudioTextEmotionPipeline:
    torch.manual_seed(0)
    model = BiBiERForEmotionClassification.from_backbones().eval()
    return AudioTextEmotionPipeline(model=model, processor=BiBiERProcessor.from_backbones(), device="cpu")


def inputs(count: int) -> list[dict]:
    return [{"audio": {"array": clip.numpy(), "sampling_rate": RATE}, "text": "a few words"} for clip in clips(count, 0.5, 8.0)]


def pipeline_batch(count: int = 64) -> Row:
    samples = inputs(count)
    run = lambda: pipe()(samples, batch_size=16), lambda: [pipe()(sample) for sample in samples]
    return compare("pipeline_batch", "a loop over the clips", 1.5, *run, note=f"{count} clips of 0.5 to 8 s, batch_size=16")


def pipeline_single(count: int = 16) -> Row:
    samples = inputs(count)

    @torch.no_grad()
    def by_hand() -> None:
        model, processor = pipe().model, pipe().processor
        for sample in samples:
            batch = processor(audio=[sample["audio"]["array"]], text=[sample["text"]], sampling_rate=RATE)
            model(**batch).logits.softmax(-1).tolist()

    run = (lambda: [pipe()(sample) for sample in samples]), by_hand
    return compare("pipeline_single", "processor and model by hand", 1 / 1.15, *run, note="one clip a call; by hand / pipeline")


def import_cost() -> Row:
    def start(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    run = (lambda: start("import transformers.pipelines, bibier_hf")), (lambda: start("import transformers.pipelines"))
    row = compare("import", "import transformers.pipelines alone", 1.0, *run, warm_up=False, budget_s=20)
    note = f"{row.ours_s - row.theirs_s:+.2f} s; (theirs + 0.3 s) / ours"
    return replace(row, ratio=(row.theirs_s + 0.3) / row.ours_s, note=note)


ROWS = {
    "extraction": extraction,
    "pipeline_batch": pipeline_batch,
    "pipeline_single": pipeline_single,
    "import": import_cost,
}

FULL_ROWS = {
    "extraction_64": lambda: replace(extraction(64), name="extraction_64"),
}
