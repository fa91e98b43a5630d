"""Rows of the shipped checkpoints against what a user would take instead: audio classifiers of transformers.

The peers are the published architectures of wav2vec2-base and HuBERT-base with a classifier of seven labels and random
weights, as speed does not depend on them; by `pipeline("audio-classification")`, one clip at a time, which is its
default, and by ONNX Runtime. Speech alone: they read no text.
"""

import functools
import importlib
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    HubertConfig,
    HubertForSequenceClassification,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    pipeline,
)

from bibier_hf.hub.shipped import SMALL, TINY, shipped_checkpoint
from bibier_hf.model.modeling_bibier import BiBiERForEmotionClassification
from bibier_hf.model.pipeline_bibier import AudioTextEmotionPipeline
from bibier_hf.model.processing_bibier import BiBiERProcessor
from measuring import Row, compare, grown_by, peak_bytes
from registry import Materials
from serving_rows import RATE, clips

GOALS = {TINY: 40.0, SMALL: 5.0}
PEERS: dict[str, tuple[Any, Any]] = {
    "wav2vec2": (Wav2Vec2ForSequenceClassification, Wav2Vec2Config),
    "hubert": (HubertForSequenceClassification, HubertConfig),
}
COUNT, SHORTEST_S, LONGEST_S = 64, 1.0, 12.0
WINDOW_S, HOUR_S, PEERS_PART_S = 10, 3600, 120

Classify = Callable[[list[np.ndarray]], Any]
"""Answers clips."""


def peer(name: str) -> PreTrainedModel:
    model_class, config_class = PEERS[name]
    torch.manual_seed(0)
    return model_class(config_class(num_labels=7)).eval()


def by_pipeline(name: str) -> Classify:
    classify: Any = pipeline("audio-classification", model=peer(name), feature_extractor=Wav2Vec2FeatureExtractor())
    return lambda samples: classify([{"raw": clip, "sampling_rate": RATE} for clip in samples])


@functools.cache
def by_onnx(name: str) -> Classify:
    """One clip at a time in ONNX Runtime, after the feature extractor."""
    importlib.import_module("onnxscript")  # the exporter needs it
    onnxruntime = importlib.import_module("onnxruntime")
    extractor = Wav2Vec2FeatureExtractor()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.onnx"
        options: dict[str, Any] = {"input_names": ["input_values"], "dynamic_shapes": ({1: torch.export.Dim.DYNAMIC},)}
        torch.onnx.export(peer(name), (torch.zeros(1, 4 * RATE),), path, dynamo=True, verbose=False, **options)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def classify(samples: list[np.ndarray]) -> list[Any]:
        inputs = (extractor(clip, sampling_rate=RATE, return_tensors="np")["input_values"] for clip in samples)
        return [session.run(None, {"input_values": values}) for values in inputs]

    return classify


def shipped(name: str, backbones: Path | None) -> Classify:
    pipe = shipped_pipeline(name, backbones)
    return lambda samples: pipe([{"array": clip, "sampling_rate": RATE} for clip in samples], batch_size=8)


def shipped_pipeline(name: str, backbones: Path | None) -> AudioTextEmotionPipeline:
    parts = {"audio": "whisper-base", "text": "e5-small"}
    folders = None if backbones is None else {key: str(backbones / part) for key, part in parts.items()}
    source = shipped_checkpoint(name)
    model = BiBiERForEmotionClassification.from_pretrained(source, backbone_dir=folders)
    processor = BiBiERProcessor.from_pretrained(source, backbone_dir=folders)

    return AudioTextEmotionPipeline(model=model, processor=processor, device="cpu")


def sixty_four_clips() -> list[np.ndarray]:
    return [0.1 * clip.numpy() for clip in clips(COUNT, SHORTEST_S, LONGEST_S)]


def operations(classify: Classify, samples: list[np.ndarray]) -> int:
    """Floating point operations of every eighth clip in products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        classify(samples[::8])

    return counter.get_total_flops()


def _load_and_classify(load: Callable[[], Classify]) -> None:
    load()(sorted(sixty_four_clips(), key=len)[-8:])


def against_peer(ours: str, name: str, way: str, materials: Materials) -> Row:
    backbones = materials.folder("backbones") if ours == SMALL else None
    loads = (
        functools.partial(shipped, ours, backbones),
        functools.partial(by_onnx if way == "onnx" else by_pipeline, name),
    )
    samples = sixty_four_clips()
    sides = [load() for load in loads]
    for side in sides:
        side(samples[:2])  # warms up

    run: list[Callable[[], Any]] = [functools.partial(side, samples) for side in sides]
    row = compare(
        f"{ours}_{name}{'_onnx' if way == 'onnx' else ''}",
        f"{name}-base, {'ONNX Runtime' if way == 'onnx' else 'pipeline(audio-classification)'}",
        None if way == "onnx" else GOALS[ours],
        run[0],
        run[1],
        budget_s=5,
        warm_up=False,
    )
    share = operations(sides[0], samples) / operations(by_pipeline(name), samples)
    note = (
        f"{ours}, {COUNT} clips of {SHORTEST_S:.0f} to {LONGEST_S:.0f} s, speech alone; 1/{1 / share:.0f} of the peer's "
        "operations"
    )

    if way != "onnx":  # an export needs more memory than the model
        del sides, run
        peaks = [peak_bytes(functools.partial(_load_and_classify, load)) >> 20 for load in loads]
        note += f"; peak of memory with the model, on the 8 longest clips: {peaks[0]} MiB against {peaks[1]} MiB"

    return replace(row, note=note)


def _timeline(load: Callable[[], Any], path: str) -> float:
    pipe = load()
    start = time.perf_counter()
    pipe(path, chunk_length_s=WINDOW_S, return_timestamps=True, batch_size=8)
    return time.perf_counter() - start


def _windows(load: Callable[[], Classify], path: str) -> float:
    classify = load()
    start = time.perf_counter()
    samples, _ = soundfile.read(path, dtype="float32")
    classify(list(samples.reshape(-1, WINDOW_S * RATE)))
    return time.perf_counter() - start


def hour(ours: str, materials: Materials) -> Row:
    """An hour of a recording, in windows of 10 s; the peer on a part of it."""
    backbones = materials.folder("backbones") if ours == SMALL else None

    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{length}.wav") for length in (HOUR_S, PEERS_PART_S)]
        for path, length in zip(paths, (HOUR_S, PEERS_PART_S), strict=True):
            with soundfile.SoundFile(path, "w", RATE, channels=1, subtype="PCM_16") as file:
                generator = np.random.default_rng(0)
                for _ in range(length):
                    file.write(0.1 * generator.standard_normal(RATE, dtype=np.float32))

        works = (
            functools.partial(_timeline, functools.partial(shipped_pipeline, ours, backbones), paths[0]),
            functools.partial(_windows, functools.partial(by_pipeline, "wav2vec2"), paths[1]),
        )
        measured: list[tuple[float, int]] = [_apart(work) for work in works]

    (our_s, our_peak), (part_s, peer_peak) = measured
    their_s = part_s * HOUR_S / PEERS_PART_S
    note = (
        f"{ours}, {HOUR_S} s of a recording in windows of {WINDOW_S} s, once; the peer on {PEERS_PART_S} s, scaled; "
        f"peak of memory with the model: {our_peak >> 20} MiB against {peer_peak >> 20} MiB"
    )
    against = "wav2vec2-base, pipeline(audio-classification)"

    return Row(
        f"{ours}_hour",
        against,
        their_s / our_s,
        GOALS[ours],
        our_s,
        their_s,
        (our_s, our_s),
        (their_s, their_s),
        1,
        note,
    )


def _apart(work: Callable[[], float]) -> tuple[float, int]:
    """Seconds and peak of a work in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work,))


def _measured(work: Callable[[], float]) -> tuple[float, int]:
    seconds: list[float] = []
    peak = grown_by(lambda: seconds.append(work()))
    return seconds[0], peak


@contextmanager
def _clip_on_disk() -> Generator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "clip.wav")
        soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(4 * RATE, dtype=np.float32), RATE)
        yield path


def _run(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=True, capture_output=True)


def first_answer(name: str, against: str, imports: str, goal: float | None) -> Row:
    """`bibier predict` from the command line to its answer, against an import alone."""
    with _clip_on_disk() as clip:
        run = (
            functools.partial(_run, "-m", "bibier_cli", "predict", TINY, clip),
            functools.partial(_run, "-c", imports),
        )
        row = compare(name, against, goal, *run, budget_s=20)

    note = "import alone / bibier predict bibier-tiny clip.wav, from the command line to the answer of a clip of 4 s"

    return replace(row, note=note)


def first_answer_onnx() -> Row:
    """The exported samples graph from the command line to its answer, against 1.5 s."""
    with _clip_on_disk() as clip, tempfile.TemporaryDirectory() as folder:
        export = ("-m", "bibier_cli", "export", TINY, "--part", "samples", "--output_dir", f"{folder}/onnx")
        _run(*export)
        ours = functools.partial(_run, f"{folder}/onnx/run.py", clip)
        theirs = functools.partial(_run, "-m", "bibier_cli", "predict", TINY, clip)
        row = compare("first_answer_onnx", "bibier predict bibier-tiny", None, ours, theirs, budget_s=20)

    note = (
        f"run.py of an exported bibier-tiny, from the command line to the answer; {row.ours_s:.2f} s of at most 1.5 s"
    )

    return replace(row, note=note)


ROWS = {
    "first_answer": functools.partial(
        first_answer, "first_answer", "import torch, transformers", "import torch, transformers", 1 / 1.1
    ),
    "first_answer_model": functools.partial(
        first_answer,
        "first_answer_model",
        "from transformers import AutoModel, Pipeline",
        "import torch; from transformers import AutoModel, Pipeline; from transformers.modeling_utils import PreTrainedModel",
        None,
    ),
}

FULL_ROWS = {"first_answer_onnx": first_answer_onnx}

DATA_ROWS = {
    **{
        f"{ours}_{name}{suffix}": functools.partial(against_peer, ours, name, way)
        for ours in GOALS
        for name, way, suffix in (
            ("wav2vec2", "pipeline", ""),
            ("wav2vec2", "onnx", "_onnx"),
            ("hubert", "pipeline", ""),
        )  # the graphs of both peers are alike
    },
    **{f"{ours}_hour": functools.partial(hour, ours) for ours in GOALS},
}
