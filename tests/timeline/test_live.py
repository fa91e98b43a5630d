"""A live signal in pieces of any sizes gives the chunks of the whole recording."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel, AutoProcessor

from bibier_hf import AudioError, AudioTextEmotionPipeline
from bibier_hf.timeline import LiveEmotion

RATE = 22_050


@pytest.fixture(scope="module")
def pipe(checkpoint: Path) -> AudioTextEmotionPipeline:
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    return AudioTextEmotionPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture(scope="module")
def signal(clip) -> np.ndarray:
    """Two sounds with silence between them, at 22.05 kHz"""
    return np.concatenate([0.001 * clip(0.7), clip(1.5, 1), 0.001 * clip(1.0), clip(1.0, 2), 0.001 * clip(0.4)])


@pytest.mark.parametrize(
    "options", [{"chunk_length_s": 1.0, "hop_length_s": 0.5}, {"segmentation": "energy", "chunk_length_s": 1.0}]
)
@pytest.mark.parametrize("longest", [500, 9000, 200_000])
def test_chunks_equal_those_of_the_whole(
    pipe: AudioTextEmotionPipeline, signal: np.ndarray, options: dict, longest: int
):
    expected = pipe(signal, sampling_rate=RATE, return_timestamps=True, **options)
    live, chunks, position, generator = (
        LiveEmotion(pipe, **options, batch_size=4),
        [],
        0,
        np.random.default_rng(longest),
    )
    while position < len(signal):
        count = int(generator.integers(0, longest))
        chunks += live.push(signal[position : position + count], RATE)
        position += count
    chunks += live.close()
    assert [chunk["timestamp"] for chunk in chunks] == [chunk["timestamp"] for chunk in expected["chunks"]]
    for chunk, other in zip([*chunks, live.timeline], [*expected["chunks"], expected], strict=True):
        scores = {entry["label"]: entry["score"] for entry in other["emotions"]}
        assert {entry["label"]: entry["score"] for entry in chunk["emotions"]} == pytest.approx(scores, abs=1e-5)
    assert live.timeline["chunks"] == chunks


def test_a_chunk_comes_as_soon_as_it_is_complete(pipe: AudioTextEmotionPipeline, clip):
    live = LiveEmotion(pipe, chunk_length_s=1.0, batch_size=8)
    stereo = np.stack([clip(2.5)] * 2)
    assert live.push(stereo[:, :15_999], 16_000) == []
    assert live.push(np.zeros(0, np.float32), 16_000) == []
    assert [chunk["timestamp"] for chunk in live.push(stereo[:, 15_999:33_000], 16_000)] == [(0.0, 1.0), (1.0, 2.0)]
    assert [chunk["timestamp"] for chunk in live.push(stereo[:, 33_000:], 16_000)] == []
    assert [chunk["timestamp"] for chunk in live.close()] == [(2.0, 2.5)]


def test_refusals(pipe: AudioTextEmotionPipeline, clip):
    with pytest.raises(ValueError, match="needs chunks: pass chunk_length_s=4"):
        LiveEmotion(pipe)
    with pytest.raises(TypeError, match="chunk_length"):
        LiveEmotion(pipe, chunk_length_s=1, chunk_length=4)
    live = LiveEmotion(pipe, chunk_length_s=1)
    live.push(clip(0.1), 16_000)
    with pytest.raises(AudioError, match="began at 16000 Hz, but these samples are at 8000 Hz"):
        live.push(clip(0.1), 8_000)
    with pytest.raises(AudioError, match="NaN or infinite"):
        live.push(np.full(10, np.nan), 16_000)
    assert len(live.close()) == 1
    with pytest.raises(RuntimeError, match="closed"):
        live.push(clip(0.1), 16_000)
    assert LiveEmotion(pipe, chunk_length_s=1).close() == []


def test_the_last_seconds_before_a_chunk_is_complete(pipe: AudioTextEmotionPipeline, clip):
    sound = clip(2.6, 5)
    live = LiveEmotion(pipe, chunk_length_s=1.0)
    assert live.now() is None
    pushed = 2000
    live.push(sound[:pushed], 16_000)
    assert live.now() is None  # less than a quarter of a second
    for start, end in ((0.0, 0.5), (0.5, 1.5), (1.6, 2.6)):
        live.push(sound[pushed : round(16_000 * end)], 16_000)
        pushed = round(16_000 * end)
        now = live.now()
        assert now["timestamp"] == (start, end)
        expected = pipe(sound[round(16_000 * start) : round(16_000 * end)], sampling_rate=16_000)
        scores = {entry["label"]: entry["score"] for entry in expected}
        assert {entry["label"]: entry["score"] for entry in now["emotions"]} == pytest.approx(scores, abs=1e-5)
    live.push(np.zeros(16_000, np.float32), 16_000)
    assert live.now() is None  # silence
