"""decode_audio: every form of input, and a clear refusal of what is wrong."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from bibier_hf import AudioError, decode_audio


def encoded(samples: np.ndarray, rate: int = 16_000, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


@pytest.fixture
def tone() -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32)


def test_all_forms_give_the_same_samples(tone: np.ndarray, tmp_path: Path):
    data = encoded(tone)
    path = tmp_path / "клип 1.wav"
    path.write_bytes(data)
    expected = decode_audio(str(path))
    assert expected.dtype == np.float32
    assert expected.shape == (16_000,)
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(expected)[None], sample_rate=16_000)
    )
    forms = [
        path,
        data,
        bytearray(data),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
        {"array": expected, "sampling_rate": 16_000},
        {"raw": expected, "sampling_rate": 16_000},
        {"array": torch.from_numpy(expected), "sampling_rate": 16_000},
        (16_000, expected),
        decoder,
    ]
    for form in forms:
        np.testing.assert_array_equal(decode_audio(form), expected)
    np.testing.assert_array_equal(decode_audio(expected, sampling_rate=16_000), expected)
    np.testing.assert_array_equal(decode_audio(expected.tolist(), sampling_rate=16_000), expected)


@pytest.mark.parametrize(
    ("format", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "FLOAT")]
)
def test_formats(tone: np.ndarray, format: str, subtype: str):
    decoded = decode_audio(encoded(tone, format=format, subtype=subtype))
    assert decoded.shape == (16_000,)
    assert np.corrcoef(decoded[1000:-1000], tone[1000:-1000])[0, 1] > 0.99


def test_channels_are_averaged_in_either_layout():
    left, right = np.full(100, 0.5, np.float32), np.full(100, -0.1, np.float32)
    for stereo in (np.stack([left, right]), np.stack([left, right], axis=1)):
        np.testing.assert_allclose(decode_audio(stereo, sampling_rate=16_000), np.full(100, 0.2), atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_duration_and_pitch(rate: int):
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    decoded = decode_audio(tone, sampling_rate=rate)
    assert len(decoded) == 16_000
    assert np.abs(np.fft.rfft(decoded)).argmax() == 440


@pytest.mark.parametrize(("dtype", "half"), [(np.int16, 2**14), (np.int32, 2**30), (np.int8, 2**6), (np.uint8, 192)])
def test_integers_are_scaled(dtype: type, half: int):
    np.testing.assert_allclose(decode_audio(np.full(10, half, dtype), sampling_rate=16_000), 0.5)


def test_one_sample_is_a_clip():
    assert decode_audio(np.ones(1, np.float32), sampling_rate=16_000).shape == (1,)
    assert decode_audio(np.ones(1, np.float32), sampling_rate=48_000).shape == (1,)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(100, np.float32), None, "sampling rate"),
        ({"array": np.zeros(100, np.float32)}, None, "sampling_rate"),
        (np.zeros(100, np.float32), 16, "outside"),
        (np.zeros(100, np.float32), 10_000_000, "outside"),
        (np.zeros(100, np.float32), -16_000, "outside"),
        (np.zeros(100, np.float32), "16k", "whole number"),
        (np.zeros(100, np.float32), 16_000.5, "whole number"),
        (np.zeros(100, np.float32), float("nan"), "whole number"),
        (np.array([0.0, np.nan]), 16_000, "NaN or infinite"),
        (np.array([0.0, np.inf]), 16_000, "NaN or infinite"),
        (np.zeros(0, np.float32), 16_000, "no samples"),
        (np.zeros((3, 4, 5), np.float32), 16_000, "shape"),
        (np.zeros((100, 200), np.float32), 16_000, "channels"),
        (np.array(["a"]), 16_000, "type"),
        (b"", None, "empty"),
        (b"no audio at all", None, "cannot be read"),
        (None, None, "None"),
        (3.5, None, "3.5"),
        ("", None, "empty string"),
        ({}, None, "no audio"),
        ({"bytes": None, "path": None}, None, "no audio"),
    ],
)
def test_refusals(audio, rate, message: str):
    with pytest.raises(AudioError, match=message):
        decode_audio(audio, sampling_rate=rate)


def test_contradicting_rates_are_refused(tone: np.ndarray):
    with pytest.raises(AudioError, match="8000"):
        decode_audio(encoded(tone), sampling_rate=8_000)


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="never text"):
        decode_audio(str(tmp_path / "nowhere.wav"))
    with pytest.raises(AudioError, match="folder"):
        decode_audio(tmp_path)


@pytest.mark.parametrize(("format", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_cut_files_are_refused(tone: np.ndarray, tmp_path: Path, format: str, subtype: str, keep: float):
    data = encoded(tone, format=format, subtype=subtype)
    cut = data[: int(keep * len(data))]
    path = tmp_path / "cut"
    path.write_bytes(cut)
    for form in (cut, path):
        with pytest.raises(AudioError, match=r"cut|cannot be read"):
            decode_audio(form)


def test_streamed_wav_header_is_accepted(tone: np.ndarray):
    """Writers to a pipe do not know the length and leave a placeholder."""
    data = bytearray(encoded(tone))
    position = data.index(b"data") + 4
    data[4:8] = data[position : position + 4] = b"\xff\xff\xff\xff"
    assert decode_audio(bytes(data)).shape == (16_000,)


def test_unreachable_url_is_a_clear_error():
    with pytest.raises(AudioError, match="could not be downloaded"):
        decode_audio("http://127.0.0.1:9/clip.wav")
