"""Rows on the shipped checkpoints compared with what a user would use instead: audio classifiers in transformers.

The peers are the published architectures of wav2vec2-base and HuBERT-base with a classifier of seven labels and random
weights, as speed does not depend on them; by `pipeline("audio-classification")`, one clip at a time, which is its
default, and by ONNX Runtime. Speech alone: they read no text.
"""

import functools
import importlib
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
from measuring import Row, apart, compare, grown_by, peak_bytes, row_of_times, take_turns
from registry import Materials
from serving_rows import RATE, clips

GOALS = {TINY: 40.0, SMALL: 5.0}
PEERS: dict[str, tuple[Any, Any]] = {
    "wav2vec2": (Wav2Vec2ForSequenceClassification, Wav2Vec2Config),
    "hubert": (HubertForSequenceClassification, HubertConfig),
}
COUNT, SHORTEST_S, LONGEST_S = 64, 1.0, 12.0
WINDOW_S, HOUR_S, PEERS_PART_S = 10, 3600, 120

ONNX_ANSWER_S = 1.5
"""The longest that the exported graph may take to its first answer."""

Classify = Callable[[list[np.ndarray]], Any]
"""Answers clips."""


def peer_model(name: str) -> PreTrainedModel:
    model_class, config_class = PEERS[name]
    torch.manual_seed(0)
    return model_class(config_class(num_labels=7)).eval()


def by_pipeline(name: str) -> Classify:
    classify: Any = pipeline(
        "audio-classification", model=peer_model(name), feature_extractor=Wav2Vec2FeatureExtractor()
    )
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
        torch.onnx.export(peer_model(name), (torch.zeros(1, 4 * RATE),), path, dynamo=True, verbose=False, **options)
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


@functools.cache
def loader(name: str, way: str, backbones: Path | None) -> Callable[[], Classify]:
    """How to load a shipped checkpoint or a peer."""
    if name in GOALS:
        return functools.partial(shipped, name, backbones if name == SMALL else None)

    return functools.partial(by_onnx if way == "onnx" else by_pipeline, name)


@functools.cache
def times(peer: str, way: str, backbones: Path | None) -> dict[str, list[float]]:
    """Seconds that the shipped checkpoints and a peer take for all clips, in turns. Without backbones: `bibier-tiny`
    only."""
    names = [TINY, *([] if backbones is None else [SMALL]), peer]
    samples = sixty_four_clips()
    sides = {name: functools.partial(loader(name, way, backbones)(), samples) for name in names}

    for side in sides.values():
        side.func(samples[:2])  # warms up

    # The peers have one architecture but for the names of its parts: one turn shows that it holds for both.
    return take_turns(sides, budget_s=10 if peer == "hubert" else 60)


@functools.cache
def operations(name: str, backbones: Path | None) -> int:
    """Floating point operations of every eighth clip in products, convolutions and attention."""
    classify = loader(name, "pipeline", backbones)()

    with FlopCounterMode(display=False) as counter:
        classify(sixty_four_clips()[::8])

    return counter.get_total_flops()


@functools.cache
def peak_mib(name: str, backbones: Path | None) -> int:
    """Peak memory of a checkpoint or a peer, including its model, on the 8 longest clips."""
    return peak_bytes(functools.partial(_load_and_classify, loader(name, "pipeline", backbones))) >> 20


def _load_and_classify(load: Callable[[], Classify]) -> None:
    load()(sorted(sixty_four_clips(), key=len)[-8:])


def against_peer(ours: str, peer: str, way: str, materials: Materials) -> Row:
    if ours == SMALL:
        materials.folder("backbones")

    onnx, backbones = way == "onnx", materials.backbones
    found = times(peer, way, backbones)
    share = operations(ours, backbones) / operations(peer, backbones)
    note = (
        f"{ours}, {COUNT} clips of {SHORTEST_S:.0f} to {LONGEST_S:.0f} s, speech alone; 1/{1 / share:.1f} of the "
        "peer's operations"
    )

    if not onnx:  # an export needs more memory than the model
        peaks = [peak_mib(name, backbones) for name in (ours, peer)]
        note += f"; peak of memory with the model, on the 8 longest clips: {peaks[0]} MiB against {peaks[1]} MiB"

    return row_of_times(
        f"{ours}_{peer}{'_onnx' if onnx else ''}",
        f"{peer}-base, {'ONNX Runtime' if onnx else 'pipeline(audio-classification)'}",
        None if onnx else GOALS[ours],
        found[ours],
        found[peer],
        note,
    )


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
        measured: list[tuple[float, int]] = [apart(_measured, work) for work in works]

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


def _measured(work: Callable[[], float]) -> tuple[float, int]:
    """Seconds and peak of a work."""
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
    """`bibier predict` from the command line to its answer, compared with an import alone."""
    with _clip_on_disk() as clip:
        run = (
            functools.partial(_run, "-m", "bibier_cli", "predict", TINY, clip),
            functools.partial(_run, "-c", imports),
        )
        row = compare(name, against, goal, *run, budget_s=20)

    note = "import alone / bibier predict bibier-tiny clip.wav, from the command line to the answer of a clip of 4 s"

    return replace(row, note=note)


def first_answer_onnx() -> Row:
    """The exported samples graph from the command line to its answer, compared with 1.5 s."""
    with _clip_on_disk() as clip, tempfile.TemporaryDirectory() as folder:
        _run("-m", "bibier_cli", "export", TINY, "--part", "samples", "--output_dir", f"{folder}/onnx")
        ours = functools.partial(_run, f"{folder}/onnx/run.py", clip)
        ours()  # warms up
        spent = take_turns({"ours": ours}, budget_s=5)["ours"]

    note = "run.py of an exported bibier-tiny, a new process, from the command line to the answer of a clip of 4 s"

    return row_of_times("first_answer_onnx", f"{ONNX_ANSWER_S} s", 1.0, spent, [ONNX_ANSWER_S], note)


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
