"""Long recordings in the pipeline: chunks equal the same windows cut by hand, means, merging, words, refusals."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from bibier_hf import AudioError, AudioTextEmotionPipeline, decode_audio
from bibier_hf.model.timeline_bibier import mean_emotions, merge_chunks, time_shares
from bibier_hf.model.words_bibier import WordRecognizer, Words, whisper_language

WINDOWS = {"chunk_length_s": 1.0, "hop_length_s": 0.5, "return_timestamps": True}


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory, clip) -> Path:
    """3.2 s of stereo at 44.1 kHz: two sounds with silence around them."""
    quiet = 0.001 * clip(0.5)
    samples = np.concatenate([quiet, clip(1.0, 1), quiet, clip(0.7, 3), quiet])
    rate = 44_100
    samples = np.interp(
        np.arange(round(len(samples) * rate / 16_000)) * 16_000 / rate, np.arange(len(samples)), samples
    )
    path = tmp_path_factory.mktemp("audio") / "talk.wav"
    soundfile.write(path, np.stack([samples, 0.5 * samples], axis=1), rate, subtype="FLOAT")
    return path


def scores(emotions: list[dict]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in emotions}


def by_hand(pipe: AudioTextEmotionPipeline, samples: np.ndarray, chunk: dict) -> dict[str, float]:
    start, end = (round(16_000 * second) for second in chunk["timestamp"])
    return scores(pipe({"audio": {"array": samples[start:end], "sampling_rate": 16_000}, "text": chunk["text"]}))


@pytest.mark.parametrize(
    "options",
    [
        WINDOWS,
        {"segmentation": "energy", "return_timestamps": True},
        {"segments": [(0, 0.9), {"start": 0.5, "end": 3.2, "text": "Не верю!"}], "return_timestamps": True},
    ],
)
def test_chunks_equal_the_same_stretches_cut_by_hand(pipe: AudioTextEmotionPipeline, talk: Path, options: dict):
    result = pipe(str(talk), batch_size=3, **options)
    samples = decode_audio(talk)
    assert len(result["chunks"]) >= 2
    for chunk in result["chunks"]:
        assert scores(chunk["emotions"]) == pytest.approx(by_hand(pipe, samples, chunk), abs=1e-5)
        told = [entry["score"] for entry in chunk["emotions"]]
        assert told == sorted(told, reverse=True)
    assert sum(scores(result["emotions"]).values()) == pytest.approx(1, abs=1e-5)


def test_the_form_of_the_result(pipe: AudioTextEmotionPipeline, talk: Path):
    result = pipe(str(talk), **WINDOWS)
    assert [chunk["timestamp"] for chunk in result["chunks"]] == [
        (0.0, 1.0),
        (0.5, 1.5),
        (1.0, 2.0),
        (1.5, 2.5),
        (2.0, 3.0),
        (2.5, 3.2),
    ]
    assert set(result) == {"emotions", "chunks"}
    assert all(set(chunk) == {"timestamp", "text", "emotions"} and chunk["text"] is None for chunk in result["chunks"])
    assert pipe(str(talk), chunk_length_s=1.0, hop_length_s=0.5) == result["emotions"]
    best = pipe(str(talk), **WINDOWS, top_k=1)
    assert best["emotions"] == result["emotions"][:1]
    assert [chunk["emotions"] for chunk in best["chunks"]] == [chunk["emotions"][:1] for chunk in result["chunks"]]
    side_by_side = pipe(str(talk), chunk_length_s=2, return_timestamps=True)["chunks"]
    assert [chunk["timestamp"] for chunk in side_by_side] == [(0.0, 2.0), (2.0, 3.2)]


def test_all_forms_of_input_and_batch_sizes_agree(pipe: AudioTextEmotionPipeline, talk: Path):
    expected = pipe(str(talk), **WINDOWS)
    samples, rate = soundfile.read(talk, dtype="float32")
    audio = {"array": samples, "sampling_rate": rate}
    inputs = [
        talk,
        talk.read_bytes(),
        audio,
        {"audio": str(talk), "text": None},
        (rate, samples),
        {"bytes": talk.read_bytes(), "path": None},
    ]
    results = [pipe(item, **WINDOWS, batch_size=size) for item, size in zip(inputs, (1, 2, 3, 5, 8, 64), strict=True)]
    results += pipe([str(talk), audio], **WINDOWS)
    results += list(pipe((item for item in inputs[:1]), **WINDOWS))
    for result in results:
        assert len(result["chunks"]) == len(expected["chunks"])
        for chunk, other in zip(result["chunks"], expected["chunks"], strict=True):
            assert chunk["timestamp"] == other["timestamp"]
            assert scores(chunk["emotions"]) == pytest.approx(scores(other["emotions"]), abs=1e-5)


def test_arguments_may_be_set_when_the_pipeline_is_made(pipe: AudioTextEmotionPipeline, talk: Path):
    made = AudioTextEmotionPipeline(model=pipe.model, processor=pipe.processor, device="cpu", **WINDOWS)
    assert len(made(str(talk))["chunks"]) == 6
    assert len(made(str(talk), hop_length_s=1.0)["chunks"]) == 4
    assert made(str(talk), return_timestamps=False) == made(str(talk))["emotions"]


def test_very_short_empty_and_silent_recordings(pipe: AudioTextEmotionPipeline, tmp_path: Path):
    soundfile.write(tmp_path / "short.wav", np.array([0.1, -0.1]), 16_000)
    (chunk,) = pipe(str(tmp_path / "short.wav"), **WINDOWS)["chunks"]
    assert chunk["timestamp"] == (0.0, 2 / 16_000)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    with pytest.raises(AudioError, match="no samples"):
        pipe(str(tmp_path / "none.wav"), **WINDOWS)
    silence = {"array": np.zeros(16_000, np.float32), "sampling_rate": 16_000}
    assert pipe(silence, segmentation="energy", return_timestamps=True) == {"emotions": [], "chunks": []}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop_length_s": 2}, "hop_length_s without chunks: pass chunk_length_s=4"),
        ({"return_timestamps": True, "merge": True}, "return_timestamps and merge without chunks"),
        ({"chunk_length_s": 2, "hop_length_s": 3}, "would leave gaps"),
        ({"chunk_length_s": -1}, "chunk_length_s=-1 is not allowed; it must be a number of seconds, at least 0.1"),
        ({"chunk_length_s": float("inf")}, "not allowed"),
        ({"chunk_length_s": True}, "not allowed"),
        ({"chunk_length_s": 2, "hop_length_s": 0}, "hop_length_s=0 is not allowed"),
        ({"segmentation": "vad"}, "must be one of 'fixed', 'energy'"),
        ({"segmentation": "fixed"}, "pass chunk_length_s=4"),
        (
            {"segmentation": "energy", "hop_length_s": 1},
            "segmentation='energy' and hop_length_s exclude each other",
        ),
        ({"segments": [(0, 1)], "chunk_length_s": 1}, "segments and chunk_length_s exclude each other"),
        ({"segments": [(0, 1), (2, 9)]}, r"segments\[1\] is 2.0 to 9.0 s, but the recording ends at 3.200 s"),
        ({"segments": [(2, 1)]}, "end after its start"),
        ({"granularity": "syllable"}, "must be one of 'word', 'sentence', 'utterance', 'turn'"),
        ({"granularity": "word"}, "needs words with their times: pass asr="),
        ({"granularity": "turn"}, "needs speakers: pass segments="),
        ({"granularity": "word", "chunk_length_s": 2}, "granularity and chunk_length_s exclude each other"),
    ],
)
def test_refused_arguments(pipe: AudioTextEmotionPipeline, talk: Path, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        pipe(str(talk), **options)


@pytest.mark.parametrize("options", [{"chunk_length_s": 2, "stride_length_s": 1}, {"stride_length_s": 1}])
def test_the_overlap_of_speech_recognition_is_no_argument(pipe: AudioTextEmotionPipeline, talk: Path, options: dict):
    """The same number means another thing there, so that it is never taken for the hop."""
    calls = [
        lambda: pipe(str(talk), **options),
        lambda: pipe.start_timeline(**{"chunk_length_s": 2, **options}),
        lambda: AudioTextEmotionPipeline(model=pipe.model, processor=pipe.processor, device="cpu", **options),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="overlap of two windows"):
            call()


def test_refused_inputs(pipe: AudioTextEmotionPipeline, talk: Path):
    with pytest.raises(ValueError, match=r"Plain text has no timestamps.*asr="):
        pipe({"audio": str(talk), "text": "Hello"}, **WINDOWS)
    with pytest.raises(ValueError, match="the input has none"):
        pipe({"text": "Hello"}, **WINDOWS)
    with pytest.raises(ValueError, match="one recording"):
        pipe([str(talk)], segments=[(0, 1)])
    with pytest.raises(ValueError, match="not a text with its time"):
        pipe({"audio": str(talk), "text": ["Hello"]}, **WINDOWS)
    with pytest.raises(TypeError, match=r"no argument chunk_length\. Allowed: .*chunk_length_s"):
        pipe(str(talk), chunk_length=4)


def test_shares_of_time_by_hand():
    assert time_shares([(0, 4), (4, 6)]).tolist() == [4, 2]
    assert time_shares([(0, 4), (2, 6), (4, 8)]).tolist() == [3, 2, 3]
    assert time_shares([(0, 4), (0, 4), (9, 10)]).tolist() == [2, 2, 1]
    assert time_shares([]).tolist() == []


def test_shares_of_time_equal_a_fine_grid():
    generator = np.random.default_rng(0)
    spans = [
        (start, start + length)
        for start, length in zip(np.sort(generator.uniform(0, 9, 12)), generator.uniform(0.1, 4, 12), strict=True)
    ]
    grid = np.arange(0, 14, 1e-4) + 5e-5
    inside = np.array([(start <= grid) & (grid < end) for start, end in spans])
    np.testing.assert_allclose(time_shares(spans), (inside / np.maximum(inside.sum(0), 1)).sum(1) * 1e-4, atol=1e-3)


def chunk(start: float, end: float, happy: float, text: str | None = None, **more) -> dict:
    emotions = sorted(
        [{"label": "happy", "score": happy}, {"label": "sad", "score": 1 - happy}], key=lambda entry: -entry["score"]
    )
    return {"timestamp": (start, end), "text": text, "emotions": emotions, **more}


def test_mean_by_hand():
    assert scores(mean_emotions([chunk(0, 4, 1.0), chunk(2, 6, 0.5), chunk(4, 8, 0.0)])) == pytest.approx(
        {"happy": 0.5, "sad": 0.5}
    )
    assert scores(mean_emotions([chunk(0, 3, 1.0), chunk(5, 6, 0.0)])) == pytest.approx({"happy": 0.75, "sad": 0.25})
    assert mean_emotions([]) == []
    with pytest.raises(ValueError, match="different labels"):
        mean_emotions([chunk(0, 1, 0.9), {**chunk(1, 2, 0.9), "emotions": [{"label": "happy", "score": 0.9}]}])


def test_merge_by_hand():
    chunks = [chunk(0, 4, 0.9, "a b"), chunk(2, 6, 0.6, "c"), chunk(4, 8, 0.2), chunk(8, 9, 0.4), chunk(9.5, 10, 0.3)]
    merged = merge_chunks(chunks)
    assert [(part["timestamp"], part["emotions"][0]["label"], part["text"]) for part in merged] == [
        ((0, 6), "happy", "a b c"),
        ((4, 9), "sad", None),
        ((9.5, 10), "sad", None),  # a gap before it
    ]
    assert scores(merged[0]["emotions"])["happy"] == pytest.approx((3 * 0.9 + 3 * 0.6) / 6)
    assert scores(merged[1]["emotions"])["sad"] == pytest.approx((4 * 0.8 + 1 * 0.6) / 5)
    assert merge_chunks(merged) == merged
    assert merge_chunks([]) == []


def test_merge_in_the_pipeline(pipe: AudioTextEmotionPipeline, talk: Path):
    plain, merged = pipe(str(talk), **WINDOWS), pipe(str(talk), **WINDOWS, merge=True, top_k=2)
    assert merged["emotions"] == plain["emotions"][:2]
    expected = merge_chunks(plain["chunks"])
    assert [part["timestamp"] for part in merged["chunks"]] == [part["timestamp"] for part in expected]
    assert [part["emotions"] for part in merged["chunks"]] == [part["emotions"][:2] for part in expected]


TIMED = [
    {"text": " One two", "timestamp": (0.2, 0.8)},
    {"text": "three", "timestamp": (1.1, 1.3)},
    {"text": "four", "timestamp": (2.9, None)},
]


def test_words_of_a_transcript_go_to_the_chunks_where_they_are_said(pipe: AudioTextEmotionPipeline, talk: Path):
    result = pipe({"audio": str(talk), "text": TIMED}, **WINDOWS)
    assert [part["text"] for part in result["chunks"]] == ["One two", "two three", "three", None, "four", "four"]
    assert result["chunks"][0]["words"] == [
        {"text": "One", "timestamp": (0.2, 0.5)},
        {"text": "two", "timestamp": (0.5, 0.8)},
    ]
    samples = decode_audio(talk)
    for part in result["chunks"]:
        assert scores(part["emotions"]) == pytest.approx(by_hand(pipe, samples, part), abs=1e-5)
    everything = [{**part, "emotions": result["chunks"][0]["emotions"]} for part in result["chunks"]]
    assert [part["text"] for part in merge_chunks(everything)] == ["One two three four"]  # each word once


class Counting:
    """Stands for a speech recognition pipeline with times: hears a number in each second of a block."""

    type = "ctc"

    def __init__(self):
        self.calls: list[tuple[float, object]] = []

    def __call__(self, audio: dict, return_timestamps: object = None) -> dict:
        length = len(audio["raw"]) / audio["sampling_rate"]
        self.calls.append((length, return_timestamps))
        return {
            "text": "",
            "chunks": [
                {"text": str(second), "timestamp": (second + 0.4, second + 0.6)} for second in range(int(length))
            ],
        }


def test_recognition_with_times(pipe: AudioTextEmotionPipeline, talk: Path):
    asr = Counting()
    result = pipe(str(talk), **WINDOWS, asr=asr)
    assert asr.calls == [(3.2, "word")]
    assert [part["text"] for part in result["chunks"]] == ["0", "0", "1", "1", "2", "2"]
    given = pipe(
        str(talk), segments=[{"start": 0, "end": 1, "text": "mine"}, (1, 3.2)], return_timestamps=True, asr=Counting()
    )
    assert [part["text"] for part in given["chunks"]] == ["mine", "1 2"]


def test_recognition_of_long_recordings_in_blocks_cut_at_quiet_places():
    generator, asr, words = np.random.default_rng(0), Counting(), Words()
    samples = (0.1 * generator.standard_normal(70 * 16_000)).astype(np.float32)
    samples[27 * 16_000 : 28 * 16_000] *= 0.01
    recognizer = WordRecognizer(asr, words)
    given = [recognizer.push(samples[start : start + 50_000]) for start in range(0, len(samples), 50_000)]
    np.testing.assert_array_equal(np.concatenate([*given, recognizer.close()]), samples)
    lengths = [length for length, _ in asr.calls]
    assert 27 < lengths[0] < 28
    assert all(25 <= length <= 30 for length in lengths[:-1])
    assert sum(lengths) == pytest.approx(70)
    first = words.between(lengths[0], lengths[0] + 1)[0]
    assert first == {
        "text": "0",
        "timestamp": (pytest.approx(lengths[0] + 0.4, abs=1e-3), pytest.approx(lengths[0] + 0.6, abs=1e-3)),
    }


def test_recognition_without_times_hears_each_chunk_alone(pipe: AudioTextEmotionPipeline, talk: Path):
    heard = []

    def asr(audio: dict) -> dict:
        heard.append(len(audio["raw"]))
        return {"text": f" text {len(heard)}"}

    result = pipe(str(talk), **WINDOWS, asr=asr)
    assert [part["text"] for part in result["chunks"]] == [f"text {number}" for number in range(1, 7)]
    assert heard == [16_000] * 5 + [11_200]


@pytest.mark.slow
def test_a_real_recognizer_lays_its_words_over_the_pauses(
    pipe: AudioTextEmotionPipeline, shared: Path, tmp_path: Path
):
    """Utterances with half a second of silence between them: each chunk holds the words of one."""
    backbones = os.environ.get("BIBIER_BACKBONES")
    if not backbones:
        pytest.skip("BIBIER_BACKBONES names no folder with whisper-base")
    with open(shared / "data" / "resd" / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[
            1:4
        ]  # "Вы ещё и профессию ...", "Ты знаешь, чем это ...", "Добрый день. Вы хотели бы ..."
    clips = [soundfile.read(shared / "data" / "resd" / row["file_name"], dtype="float32")[0] for row in rows]
    path = tmp_path / "talk.wav"
    soundfile.write(
        path, np.concatenate([part for clip in clips for part in (clip, np.zeros(8000, np.float32))]), 16_000
    )
    asr = str(Path(backbones) / "whisper-base")
    chunks = pipe(str(path), segmentation="energy", return_timestamps=True, asr=asr, asr_language="ru")["chunks"]
    texts = [chunk["text"].lower() for chunk in chunks]
    assert len(texts) == 3
    assert all(word in text for word, text in zip(("профессию", "закончится", "недвижимость"), texts, strict=True))


def test_the_language_of_recognition(pipe: AudioTextEmotionPipeline, talk: Path):
    multilingual = SimpleNamespace(model=SimpleNamespace(generation_config=SimpleNamespace(lang_to_id={"<|ru|>": 1})))
    assert whisper_language(multilingual, "ru") == {"language": "ru", "task": "transcribe"}
    assert whisper_language(multilingual, None) == whisper_language(multilingual, "xx") == {}
    assert whisper_language(SimpleNamespace(model=SimpleNamespace()), "ru") == {}
    with pytest.raises(ValueError, match="pass asr="):
        pipe(str(talk), asr_language="ru")
    with pytest.raises(ValueError, match="generate_kwargs"):
        pipe(str(talk), asr=Counting(), asr_language="ru")


HOUR = """
import math, sys, psutil
import numpy as np, soundfile, torch
from transformers import pipeline

folder, path, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
pipe = pipeline("audio-text-emotion", model=folder, trust_remote_code=True, device="cpu")
peak = 0
forward = pipe.forward
def watched(*args, **kwargs):
    global peak
    answer = forward(*args, **kwargs)
    peak = max(peak, psutil.Process().memory_info().rss)
    return answer
pipe.forward = watched
result = pipe(path, chunk_length_s=8, hop_length_s=7.5, return_timestamps=True, batch_size=8)
chunks = result["chunks"]
assert len(chunks) == math.ceil((seconds - 8) / 7.5) + 1, len(chunks)
worst = 0.0
for index in [0, 1, len(chunks) // 2, len(chunks) - 2, len(chunks) - 1, *range(7, len(chunks), max(1, len(chunks) // 12))]:
    start, end = chunks[index]["timestamp"]
    samples, rate = soundfile.read(path, start=round(start * 16_000), stop=round(end * 16_000), dtype="float32")
    expected = {entry["label"]: entry["score"] for entry in pipe({"array": samples, "sampling_rate": rate})}
    worst = max(worst, *(abs(entry["score"] - expected[entry["label"]]) for entry in chunks[index]["emotions"]))
print(peak, worst)
"""


@pytest.mark.slow
def test_an_hour_in_bounded_memory_equals_its_windows_cut_by_hand(checkpoint: Path, tmp_path: Path):
    """As a user without the package would; peaks of processes of their own."""
    peaks = {}
    for seconds in (300, 3600):
        path, generator = tmp_path / f"{seconds}.wav", np.random.default_rng(0)
        with soundfile.SoundFile(path, "w", 16_000, channels=1, subtype="PCM_16") as file:
            for _ in range(seconds):
                file.write(generator.uniform(0.01, 0.2) * generator.standard_normal(16_000, dtype=np.float32))
        command = [sys.executable, "-c", HOUR, str(checkpoint), str(path), str(seconds)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=3600, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        peak, worst = done.stdout.split()
        peaks[seconds] = int(peak)
        assert float(worst) < 1e-5
    assert peaks[3600] <= 1.2 * peaks[300]
