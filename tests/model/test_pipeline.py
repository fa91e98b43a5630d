"""The pipeline: every form of input, batches, refusals."""

import copy
import io
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import soundfile
import torch
from datasets.fingerprint import Hasher
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from bibier_hf import EMOTIONS, AudioError, AudioTextEmotionPipeline, BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.model import audio_bibier, pipeline_bibier, processing_bibier

TEXT = "I can't believe it!"


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory, clip) -> Path:
    path = tmp_path_factory.mktemp("audio") / "clip.wav"
    soundfile.write(path, clip(1.2), 16_000, subtype="FLOAT")
    return path


def close(a: list[dict], b: list[dict]) -> bool:
    scores = {entry["label"]: entry["score"] for entry in b}
    return all(abs(entry["score"] - scores[entry["label"]]) < 1e-4 for entry in a)


def test_all_labels_sorted_and_summing_to_one(pipe: AudioTextEmotionPipeline, wav: Path):
    result = pipe(str(wav))
    assert type(pipe) is AudioTextEmotionPipeline
    assert {entry["label"] for entry in result} == set(EMOTIONS)
    scores = [entry["score"] for entry in result]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)


def test_forms_of_audio(pipe: AudioTextEmotionPipeline, wav: Path, clip):
    samples, expected = clip(1.2), pipe(str(wav))
    forms = [
        wav,
        wav.read_bytes(),
        {"array": samples, "sampling_rate": 16_000},
        {"raw": samples, "sampling_rate": 16_000},
        {"bytes": wav.read_bytes(), "path": None},
        {"audio": str(wav)},
        {"audio": str(wav), "text": None},
        {"audio": {"array": samples, "sampling_rate": 16_000}, "text": "  "},
        (16_000, samples),
        (samples, 16_000),
        (torch.from_numpy(samples)[None], 16_000),
        {"audio": samples, "sampling_rate": 16_000},
        {"waveform": samples, "sample_rate": 16_000},
        {"audio": (samples, 16_000)},
        {"audio": io.BytesIO(wav.read_bytes())},
        io.BytesIO(wav.read_bytes()),
    ]
    for form in forms:
        assert close(pipe(form), expected), form
    assert close(pipe(samples, sampling_rate=16_000), expected)
    assert close(pipe(samples.tolist(), sampling_rate=16_000), expected)


def test_forms_of_many_clips(pipe: AudioTextEmotionPipeline, wav: Path):
    expected, path = pipe(str(wav)), str(wav)
    column = datasets.Dataset.from_dict({"audio": [path, path]})["audio"]
    assert not isinstance(column, list)
    encoded = datasets.Dataset.from_list([{"audio": {"bytes": wav.read_bytes(), "path": None}}] * 2)["audio"]
    series = pandas.Series([path, path], index=[7, 9])
    for many in (column, encoded, series, np.array([path, path]), {"a": path, "b": path}.values(), iter([path, path])):
        answers = list(pipe(many, batch_size=2))
        assert len(answers) == 2
        assert all(close(answer, expected) for answer in answers)
    timelines = list(pipe(series, chunk_length_s=0.6, return_timestamps=True))
    assert [len(timeline["chunks"]) for timeline in timelines] == [2, 2]
    with pytest.raises(AudioError, match=r"columns audio, label.*table\['audio'\]"):
        pipe(pandas.DataFrame({"audio": [path], "label": ["sad"]}))


def test_an_open_file_is_one_recording_of_a_timeline(pipe: AudioTextEmotionPipeline, wav: Path):
    expected = pipe(str(wav), chunk_length_s=0.6, return_timestamps=True)
    assert pipe(io.BytesIO(wav.read_bytes()), chunk_length_s=0.6, return_timestamps=True) == expected


def test_a_channel_is_judged(pipe: AudioTextEmotionPipeline, clip):
    left, right = clip(1.2), clip(1.2, seed=3)
    stereo = (np.stack([left, right]), 16_000)
    for channel, samples in ((0, left), (1, right), (None, (left + right) / 2)):
        assert close(pipe(stereo, channel=channel), pipe((samples, 16_000)))
        chunks = pipe(stereo, channel=channel, chunk_length_s=0.6, return_timestamps=True)["chunks"]
        expected = pipe((samples, 16_000), chunk_length_s=0.6, return_timestamps=True)["chunks"]
        assert all(close(a["emotions"], b["emotions"]) for a, b in zip(chunks, expected, strict=True))
    with pytest.raises(AudioError, match="no channel 2"):
        pipe(stereo, channel=2)


@pytest.mark.parametrize("windows", [{}, {"chunk_length_s": 0.5}])
def test_silence_has_no_emotion(pipe: AudioTextEmotionPipeline, windows: dict, clip):
    with pytest.raises(AudioError, match="is silent"):
        pipe((np.zeros(16_000), 16_000), **windows)
    inverted = (np.stack([clip(1.0), -clip(1.0)]), 16_000)
    with pytest.raises(AudioError, match=r"channels cancel.*channel=0"):
        pipe(inverted, **windows)
    assert close(pipe(inverted, channel=0), pipe((clip(1.0), 16_000)))


def test_silence_in_a_batch_is_unsure_and_changes_no_other_answer(pipe: AudioTextEmotionPipeline, clip):
    clips = [clip(1.0), np.zeros(16_000), clip(0.7, 2), np.full(8_000, 0.25)]
    inputs = [{"audio": (samples, 16_000), "text": TEXT} for samples in clips]
    for batch_size in (1, 4):
        answers = pipe(inputs, batch_size=batch_size, return_unsure=True)
        for place in (1, 3):
            assert answers[place]["unsure_reason"] == "too quiet"
            assert (answers[place]["unsure"], answers[place]["unsure_score"]) == (True, 1.0)
            assert len(answers[place]["answers"]) == 7
        for place in (0, 2):
            alone = pipe(inputs[place], return_unsure=True)
            assert close(answers[place]["answers"], alone["answers"])
            assert answers[place]["unsure_reason"] == alone["unsure_reason"] != "too quiet"

    recording = pipe((np.zeros(32_000), 16_000), chunk_length_s=1, return_timestamps=True, return_unsure=True)
    assert [chunk["unsure_reason"] for chunk in recording["chunks"]] == ["too quiet"] * 2
    assert recording["unsure_reason"] == "too quiet"
    explained = pipe({"audio": (np.zeros(8_000), 16_000)}, return_unsure=True, explain=True)
    assert explained["unsure_reason"] == "too quiet"
    assert len(explained["explanation"]["audio"]) == 2

    inverted = (np.stack([clip(1.0), -clip(1.0)]), 16_000)
    for windows in ({}, {"chunk_length_s": 0.5}):
        with pytest.raises(AudioError, match=r"channels cancel.*channel=0"):
            pipe(inverted, return_unsure=True, **windows)


@pytest.mark.parametrize("name", ["return_unsure", "explain", "return_timestamps", "merge"])
def test_switches_are_true_or_false(pipe: AudioTextEmotionPipeline, wav: Path, name: str):
    windows = {"chunk_length_s": 0.5} if name in ("return_timestamps", "merge") else {}
    for value in ("yes", 1, "False"):
        with pytest.raises(ValueError, match=f"{name}=.* must be True or False"):
            pipe(str(wav), **{name: value}, **windows)
    assert pipe(str(wav), **{name: np.bool_(False)}, **windows) == pipe(str(wav), **windows)


def test_text_matters_and_may_be_alone(pipe: AudioTextEmotionPipeline, wav: Path):
    both = pipe({"audio": str(wav), "text": TEXT})
    assert not close(both, pipe(str(wav)))
    assert not close(both, pipe({"text": TEXT}))
    assert not close(pipe({"text": TEXT}), pipe({"text": "Не могу поверить!"}))


def test_top_k(pipe: AudioTextEmotionPipeline, wav: Path):
    assert pipe(str(wav), top_k=2) == pipe(str(wav))[:2]
    assert len(pipe([str(wav), {"text": TEXT}], top_k=1)[1]) == 1
    assert len(pipe(str(wav), top_k=100)) == 7


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_of_mixed_inputs_equal_one_by_one(pipe: AudioTextEmotionPipeline, wav: Path, clip, batch_size: int):
    inputs = [
        str(wav),
        {"text": TEXT},
        {"audio": {"array": clip(0.06), "sampling_rate": 16_000}, "text": "Привет"},
        {"array": clip(5.0), "sampling_rate": 16_000},
        {"text": "a"},
    ]
    alone = [pipe(item) for item in inputs]
    for together in (
        pipe(inputs, batch_size=batch_size),
        list(pipe((item for item in inputs), batch_size=batch_size)),
    ):
        assert len(together) == len(alone)
        assert all(close(a, b) for a, b in zip(together, alone, strict=True))


def test_tuple_iterator_and_empty_list(pipe: AudioTextEmotionPipeline, wav: Path):
    assert pipe([]) == []
    assert len(pipe((str(wav), {"text": TEXT}))) == 2
    assert len(list(pipe(iter([str(wav)])))) == 1


def test_datasets(pipe: AudioTextEmotionPipeline, wav: Path):
    rows = {"audio": [{"bytes": wav.read_bytes(), "path": None}] * 3, "text": ["a", None, "b"], "label": [0, 1, 2]}
    dataset = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    expected = [pipe(row) for row in dataset]
    assert all(close(a, b) for a, b in zip(pipe(dataset, batch_size=2), expected, strict=True))
    audio_only = list(pipe(KeyDataset(dataset, "audio"), batch_size=2))
    assert all(close(entry, pipe(str(wav))) for entry in audio_only)


def test_asr_fills_a_missing_text_only(pipe: AudioTextEmotionPipeline, wav: Path):
    heard = []

    def asr(audio: dict) -> dict:
        heard.append(audio)
        return {"text": TEXT}

    assert close(pipe(str(wav), asr=asr), pipe({"audio": str(wav), "text": TEXT}))
    assert (heard[0]["sampling_rate"], heard[0]["raw"].shape) == (16_000, (19_200,))
    pipe({"audio": str(wav), "text": "given"}, asr=asr)
    pipe({"text": "given"}, asr=asr)
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ("no/such/file.wav", FileNotFoundError, "never text"),
        ({"text": ""}, ValueError, "neither audio nor text"),
        ({"text": 5}, TypeError, "must be a string"),
        ({"speech": "x.wav"}, AudioError, "speech"),
        (None, ValueError, "neither audio nor text"),
        (np.zeros(100, np.float32), AudioError, "sampling rate"),
        ({"array": np.zeros(0), "sampling_rate": 16_000}, AudioError, "no samples"),
        ({"array": np.full(100, np.inf), "sampling_rate": 16_000}, AudioError, "infinite"),
        (b"not audio", AudioError, "cannot be read"),
    ],
)
def test_refusals(pipe: AudioTextEmotionPipeline, inputs, error: type, message: str):
    with pytest.raises(error, match=message):
        pipe(inputs)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, True])
def test_bad_top_k(pipe: AudioTextEmotionPipeline, top_k):
    with pytest.raises(ValueError, match="top_k"):
        pipe({"text": TEXT}, top_k=top_k)


@pytest.fixture
def temperature(pipe: AudioTextEmotionPipeline):
    """Sets the temperature of the model's config, for one test."""
    yield lambda value: setattr(pipe.model.config, "temperature", value)
    pipe.model.config.temperature = 1.0


@pytest.mark.parametrize("value", [0.25, 3.0])
def test_the_temperature_is_applied_to_the_scores_alone(pipe: AudioTextEmotionPipeline, temperature, value: float):
    inputs = pipe.processor(text=TEXT)
    with torch.no_grad():
        logits = pipe.model(**inputs).logits[0]
    plain = pipe({"text": TEXT})
    temperature(value)
    scaled = pipe({"text": TEXT})
    assert [entry["label"] for entry in scaled] == [entry["label"] for entry in plain]
    scores = {entry["label"]: entry["score"] for entry in scaled}
    assert [scores[label] for label in EMOTIONS] == pytest.approx((logits / value).softmax(-1).tolist(), abs=1e-6)
    with torch.no_grad():
        assert torch.equal(pipe.model(**inputs).logits[0], logits)


def test_below_the_threshold_the_answer_is_unsure(pipe: AudioTextEmotionPipeline, temperature):
    plain = pipe({"text": TEXT})
    best = plain[0]["score"]
    unsure = {"label": "unsure", "score": best}
    assert pipe({"text": TEXT}, threshold=best) == plain
    assert pipe({"text": TEXT}, threshold=1.0) == [unsure, *plain]
    assert pipe({"text": TEXT}, threshold=1.0, top_k=1) == [unsure, plain[0]]
    assert [answer[0]["label"] for answer in pipe([{"text": TEXT}, {"text": TEXT}], threshold=1.0, batch_size=2)] == [
        "unsure"
    ] * 2
    temperature(1e-3)  # the scores that count are the calibrated ones
    assert pipe({"text": TEXT}, threshold=0.999, top_k=1)[0]["label"] == plain[0]["label"]


def test_the_threshold_may_be_set_when_the_pipeline_is_made(pipe: AudioTextEmotionPipeline):
    careful = pipeline("audio-text-emotion", model=pipe.model, processor=pipe.processor, device="cpu", threshold=1)
    assert careful({"text": TEXT})[0]["label"] == "unsure"
    assert careful({"text": TEXT}, threshold=0.0)[0]["label"] != "unsure"


@pytest.mark.parametrize("threshold", [-0.1, 1.1, True, "0.5", float("nan")])
def test_bad_threshold(pipe: AudioTextEmotionPipeline, threshold):
    with pytest.raises(ValueError, match="threshold"):
        pipe({"text": TEXT}, threshold=threshold)


@pytest.mark.parametrize("options", [{}, {"chunk_length_s": 0.5}])
@pytest.mark.parametrize("batch_size", [0, -1, True, 1.5])
def test_bad_batch_size(pipe: AudioTextEmotionPipeline, wav: Path, batch_size, options: dict):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} is not allowed; it must be a whole number from 1"):
        pipe([str(wav)] * 2, batch_size=batch_size, **options)


def test_unknown_argument(pipe: AudioTextEmotionPipeline):
    with pytest.raises(TypeError, match="topk"):
        pipe({"text": TEXT}, topk=1)


def test_save_pretrained_carries_the_processor(pipe: AudioTextEmotionPipeline, tmp_path: Path):
    pipe.save_pretrained(tmp_path)
    again = pipeline("audio-text-emotion", model=str(tmp_path), trust_remote_code=True)
    assert close(again({"text": TEXT}), pipe({"text": TEXT}))


def test_a_pipeline_in_another_precision_can_be_saved(checkpoint: Path, tmp_path: Path):
    pipe = pipeline("audio-text-emotion", model=str(checkpoint), dtype=torch.bfloat16, trust_remote_code=True)
    pipe.save_pretrained(tmp_path)
    again = pipeline("audio-text-emotion", model=str(tmp_path), trust_remote_code=True)
    assert again.model.dtype == torch.bfloat16
    assert close(again({"text": TEXT}), pipe({"text": TEXT}))


def test_the_default_model(tmp_path, monkeypatch):
    monkeypatch.setattr("bibier_hf.hub.shipped.try_to_load_from_cache", lambda *_, **__: None)
    assert Path(pipeline("audio-text-emotion").model.name_or_path).name == "bibier-tiny"


def test_the_pipelines_of_one_modality(checkpoint: Path, clip):
    """What the tags of the cards promise."""
    model = BiBiERForEmotionClassification.from_pretrained(checkpoint).eval()
    processor = BiBiERProcessor.from_pretrained(checkpoint)
    samples = {"audio-classification": {"audio": clip(1.0)}, "text-classification": {"text": "I am so happy!"}}
    for task, sample in samples.items():
        with torch.no_grad():
            expected = model(**processor(**sample, sampling_rate=16_000)).logits.softmax(-1)[0]
        (given,) = sample.values()
        answers = pipeline(task, model=str(checkpoint), top_k=7, device="cpu")(given)
        answers = answers[0] if isinstance(answers[0], list) else answers  # of a text, a list in a list
        found = {answer["label"]: answer["score"] for answer in answers}
        assert len(found) == 7
        for index, name in model.config.id2label.items():
            assert found[name] == pytest.approx(expected[index].item(), abs=1e-4)
    with pytest.raises(ValueError, match="audio_attention_mask"):
        model(**processor(audio=clip(1.0), text="a", sampling_rate=16_000), attention_mask=torch.ones(1, 3))


@pytest.mark.parametrize(("batch_size", "num_workers"), [(2, 0), (2, 1), (1, 2)])
def test_an_input_that_fails_raises_in_its_place(pipe: AudioTextEmotionPipeline, clip, batch_size, num_workers):
    """A batch of one would answer the inputs before it first, too."""
    long, short = ({"array": clip(seconds), "sampling_rate": 16_000} for seconds in (2.0, 0.5))
    stream = iter(
        pipe(datasets.Dataset.from_dict({"text": ["a", "b"]}), batch_size=batch_size, num_workers=num_workers)
    )
    assert close(next(stream), pipe({"text": "a"}))
    rows = KeyDataset([{"audio": item} for item in (long, short, "nowhere.wav", long)], "audio")
    stream = iter(pipe(rows, batch_size=batch_size, num_workers=num_workers))
    assert len(stream) == 4
    assert close(next(stream), pipe(long))
    assert close(next(stream), pipe(short))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        next(stream)
    assert close(next(stream), pipe(long))
    with pytest.raises(StopIteration):
        next(stream)


def test_one_recording_that_fails_leaves_the_others(pipe: AudioTextEmotionPipeline, wav: Path):
    stream = pipe(iter([str(wav), "nowhere.wav", str(wav)]), chunk_length_s=0.5)
    first = next(stream)
    with pytest.raises(FileNotFoundError):
        next(stream)
    assert close(next(stream), first)


def test_padding_is_that_of_similar_lengths(pipe: AudioTextEmotionPipeline, clip, monkeypatch: pytest.MonkeyPatch):
    seen = []
    forward = pipe._forward
    monkeypatch.setattr(
        pipe, "_forward", lambda inputs: seen.append(inputs["input_features"].shape) or forward(inputs)
    )
    inputs = [{"array": clip(seconds), "sampling_rate": 16_000} for seconds in (2.0, 0.2, 1.9, 0.3)]
    together = pipe(inputs, batch_size=2)
    assert sorted(shape[:2] for shape in seen) == [(2, 14), (2, 99)]
    for answer, item in zip(together, inputs, strict=True):
        assert close(answer, pipe(item))


def test_columns_series_and_files(pipe: AudioTextEmotionPipeline, wav: Path, clip):
    expected = pipe(str(wav))
    table = datasets.Dataset.from_dict({"audio": [str(wav)] * 3})
    for column in (table["audio"], pandas.Series([str(wav)] * 3), np.array([str(wav)] * 3), (str(wav),) * 3):
        found = list(pipe(column, batch_size=2))
        assert len(found) == 3
        assert all(close(answer, expected) for answer in found)
    assert len(pipe(table["audio"])) == 3  # a progress bar knows its end
    assert close(pipe(io.BytesIO(wav.read_bytes())), expected)
    assert close(pipe({"audio": str(wav), "text": float("nan")}), expected)
    assert pipe(io.BytesIO(wav.read_bytes()), chunk_length_s=0.6) == pipe(str(wav), chunk_length_s=0.6)


def test_audio_is_decoded_once(pipe: AudioTextEmotionPipeline, wav: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return audio_bibier.decode_audio(*args, **kwargs)

    for module in (pipeline_bibier, processing_bibier):
        monkeypatch.setattr(module, "decode_audio", counted)
    pipe({"audio": str(wav), "text": "a"})
    pipe([str(wav), str(wav)], batch_size=2)
    assert len(calls) == 3
    assert len(pipe(str(wav), chunk_length_s=0.3, return_timestamps=True)["chunks"]) == 4
    assert len(calls) == 3  # a recording is read block by block


def test_hashing(pipe: AudioTextEmotionPipeline):
    """Equal pipelines have equal hashes, whatever they have answered; other weights, labels or options another one."""
    same = copy.deepcopy(pipe)
    assert Hasher.hash(same) == Hasher.hash(pipe)
    assert Hasher.hash(same.model) == Hasher.hash(pipe.model)

    def answer(row: dict) -> dict:
        return {"emotions": same(row)}

    before = Hasher.hash(answer)
    answer({"text": "a"})
    assert Hasher.hash(answer) == before
    assert Hasher.hash(same) == Hasher.hash(pipe)
    with torch.no_grad():
        next(same.model.parameters()).view(-1)[0] += 1e-3
    assert Hasher.hash(same) != Hasher.hash(pipe)
    assert Hasher.hash(same.model) != Hasher.hash(pipe.model)
    other = AudioTextEmotionPipeline(model=pipe.model, processor=pipe.processor, device="cpu", top_k=2)
    assert Hasher.hash(other) != Hasher.hash(pipe)
    same = copy.deepcopy(pipe)
    same.model.config.temperature = 2.0
    assert Hasher.hash(same) != Hasher.hash(pipe)


def test_hashing_copies_no_weights(pipe: AudioTextEmotionPipeline):
    from datasets.utils._dill import dumps

    weights = sum(value.nbytes for value in pipe.model.state_dict().values())
    assert len(dumps(pipe)) < len(pickle.dumps(pipe)) - weights / 2
    assert close(pickle.loads(pickle.dumps(pipe))({"text": TEXT}), pipe({"text": TEXT}))


def test_into_another_process(pipe: AudioTextEmotionPipeline, wav: Path):
    """Spawned, as everywhere but on Linux: it shares nothing with this one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert close(pool.submit(pipe, str(wav)).result(), pipe(str(wav)))
