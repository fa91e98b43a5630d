"""decode_audio: every form of input, and a clear refusal of what is wrong."""

import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import soundfile
import soxr
import torch

from bibier_hf import AudioError, decode_audio
from bibier_hf.model import audio_bibier, decoding_bibier, ffmpeg_bibier
from bibier_hf.model.audio_bibier import AudioStream, SilentAudioError, StreamResampler


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
        {"audio": expected, "sampling_rate": 16_000},
        {"audio": {"array": expected, "sampling_rate": 16_000}},
        {"waveform": torch.from_numpy(expected)[None], "sample_rate": 16_000},
        (16_000, expected),
        (expected, 16_000),
        (torch.from_numpy(expected)[None], 16_000),
        (expected, np.int64(16_000)),
        pandas.Series({"array": expected, "sampling_rate": 16_000}).to_dict(),
        io.BytesIO(data),
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


@pytest.mark.parametrize(
    "samples",
    [
        [0, 120, -3000, 1],
        np.array([0, 120, -3000, 1]),
        np.array([1, 2, 3], np.uint16),
        np.array([1, 2, 3], np.uint32),
        torch.tensor([0, 120, -3000]),
        [[0, 1, 2], [3, 4, 5]],
    ],
    ids=["list", "int64", "uint16", "uint32", "torch", "stereo list"],
)
def test_integers_of_unknown_scale_are_refused(samples):
    with pytest.raises(AudioError, match=r"scale of .* unknown"):
        decode_audio(samples, sampling_rate=16_000)


def test_floats_that_hold_integers_are_refused_wherever_they_come_from(tmp_path: Path):
    samples = np.array([0.0, 120.0, -3000.0, 1.0] * 100)
    soundfile.write(tmp_path / "scaled_wrongly.wav", samples, 16_000, subtype="FLOAT")
    for form in ((samples, 16_000), (samples.tolist(), 16_000), tmp_path / "scaled_wrongly.wav"):
        with pytest.raises(AudioError, match=r"amplitude 3000 is far outside \[-1, 1\].*32768"):
            decode_audio(form)
        with pytest.raises(AudioError, match="amplitude 3000"):
            list(AudioStream(form))
    loud = np.array([1.5, -2.0], np.float32)  # a clipped mix is no mistake of scale
    np.testing.assert_array_equal(decode_audio(loud, sampling_rate=16_000), loud)


def test_bfloat16_tensors_are_samples():
    np.testing.assert_array_equal(decode_audio(torch.tensor([0.5, -0.25]).bfloat16(), 16_000), [0.5, -0.25])


def test_a_channel_is_chosen(tmp_path: Path):
    stereo = np.stack([np.full(3000, 0.5), np.full(3000, -0.25)], axis=1).astype(np.float32)
    soundfile.write(tmp_path / "two.wav", stereo, 16_000, subtype="FLOAT")
    for form in (tmp_path / "two.wav", (stereo, 16_000), (stereo.T, 16_000)):
        for channel, value in ((0, 0.5), (1, -0.25), (None, 0.125)):
            np.testing.assert_array_equal(decode_audio(form, channel=channel), np.full(3000, value, np.float32))
            streamed = np.concatenate(list(AudioStream(form, channel=channel)))
            np.testing.assert_array_equal(streamed, np.full(3000, value, np.float32))
        with pytest.raises(AudioError, match="no channel 2: it has 2"):
            decode_audio(form, channel=2)
    with pytest.raises(AudioError, match="channel=-1"):
        decode_audio(tmp_path / "two.wav", channel=-1)


def test_silence_and_cancelling_channels_are_told_apart(tone: np.ndarray, tmp_path: Path):
    noise = 1e-4 * np.random.default_rng(0).standard_normal(len(tone))
    cases = {
        "silent": (np.zeros(8000), "is silent"),
        "dithered": (np.random.default_rng(0).uniform(-6e-5, 6e-5, 8000), "is silent"),
        "inverted": (np.stack([tone, -tone], axis=1), "channels cancel .*channel=0"),
        "nearly inverted": (np.stack([tone, noise - tone], axis=1), "channels cancel .*channel=0"),
        "silent stereo": (np.zeros((8000, 2)), "is silent"),
        "constant": (np.full(8000, 0.3), "is silent"),
        "inverted with an offset": (np.stack([tone + 0.1, 0.1 - tone], axis=1), "is silent"),
    }
    for name, (samples, message) in cases.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
        for form in ((samples, 16_000), tmp_path / f"{name}.wav"):
            with pytest.raises(SilentAudioError, match=message):
                decode_audio(form, refuse_silence=True)
            assert len(decode_audio(form)) == len(samples)  # features of silence are no judgement
            stream = AudioStream(form)
            for _ in stream:
                pass
            with pytest.raises(SilentAudioError, match=message):
                stream.refuse_silence()
    fine = (
        tone,
        0.001 * tone,
        0.001 * tone + 0.3,
        np.stack([tone, np.zeros_like(tone)], axis=1),
        np.stack([tone, tone], axis=1),
    )
    for samples in fine:
        decode_audio(samples, 16_000, refuse_silence=True)
    decode_audio(cases["inverted"][0], 16_000, channel=1, refuse_silence=True)


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
        with pytest.raises(AudioError, match=r"is truncated: .* promises"):
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


def test_open_files(tone: np.ndarray, tmp_path: Path):
    data = encoded(tone)
    path = tmp_path / "open.wav"
    path.write_bytes(data)
    expected = decode_audio(path)
    with open(path, "rb") as file:
        for _ in range(2):  # its position is where it was
            np.testing.assert_array_equal(decode_audio(file), expected)
        file.seek(0, io.SEEK_END)
        with pytest.raises(AudioError, match=r"open\.wav is at its end: call \.seek\(0\)"):
            decode_audio(file)
    with pytest.raises(AudioError, match="cannot be read"):
        decode_audio(file)  # closed
    with open(path, encoding="latin-1") as text, pytest.raises(AudioError, match="mode 'rb'"):
        decode_audio(text)
    with pytest.raises(AudioError, match="empty"):
        decode_audio(io.BytesIO())


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (pandas.Series(["a.wav", "b.wav"]), "Series.*not one clip"),
        (np.array(["a.wav", "b.wav"]), "not one clip"),
        (object(), "object is not one clip"),
        ({"a.wav"}, "set is not one clip"),
        (np.array([1 + 2j]), "type complex128"),
        (np.array([True, False]), "type bool"),
    ],
)
def test_what_is_no_clip_is_called_what_it_is(audio, message: str):
    with pytest.raises(AudioError, match=message):
        decode_audio(audio, sampling_rate=16_000)


class _Broken:
    """A decoder that fails in ways of its own."""

    samplerate, channels, frames, format = 16_000, 1, 100, "WAV"

    def __init__(self, error: Exception):
        self.error = error
        self._info = SimpleNamespace(seekable=1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def read(self, *_, **__):
        raise self.error


@pytest.mark.parametrize(
    "error", [ValueError("a"), TypeError("b"), RuntimeError("c"), UnicodeDecodeError("utf-8", b"", 0, 1, "d")]
)
def test_whatever_a_decoder_raises_is_one_error_with_the_name(error: Exception, tone, tmp_path: Path, monkeypatch):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(tone))
    monkeypatch.setattr(soundfile, "SoundFile", lambda *_, **__: _Broken(error))
    for read in (decode_audio, lambda audio: list(AudioStream(audio))):
        with pytest.raises(AudioError, match=r"a\.wav cannot be read as audio"):
            read(path)


def test_headerless_samples_are_refused_by_name(tone: np.ndarray, tmp_path: Path):
    path = tmp_path / "a.raw"
    path.write_bytes(np.int16(32767 * tone).tobytes())
    with pytest.raises(AudioError, match=r"a\.raw cannot be read as audio.*without a header"):
        decode_audio(path)
    path.write_bytes(encoded(tone))  # a name says nothing of the content
    assert len(decode_audio(path)) == len(tone)


@pytest.mark.skipif(os.name != "posix", reason="file names are text there")
def test_names_that_are_not_utf_8(tone: np.ndarray, tmp_path: Path):
    path = os.fsencode(tmp_path) + b"/\xef\xf0\xe8\xe2\xe5\xf2.wav"  # cp1251
    try:
        with open(path, "wb") as file:
            file.write(encoded(tone))
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert len(decode_audio(os.fsdecode(path))) == len(tone)
    with open(path, "wb") as file:
        file.write(b"no audio")
    with pytest.raises(AudioError, match=r"\\xef\\xf0.*cannot be read") as caught:
        decode_audio(os.fsdecode(path))
    str(caught.value).encode()
    with pytest.raises(FileNotFoundError) as caught:
        decode_audio(os.fsdecode(path + b"x"))
    str(caught.value).encode()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_another_user(tone: np.ndarray, tmp_path: Path):
    path = tmp_path / "secret.wav"
    path.write_bytes(encoded(tone))
    path.chmod(0)
    with pytest.raises(AudioError, match=r"secret\.wav cannot be read: permission denied"):
        decode_audio(path)


def test_permission_denied_is_said(tone: np.ndarray, tmp_path: Path, monkeypatch):
    path = tmp_path / "secret.wav"
    path.write_bytes(encoded(tone))

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(decoding_bibier, "open", denied, raising=False)
    with pytest.raises(AudioError, match=r"secret\.wav cannot be read: permission denied"):
        decode_audio(path)


@pytest.mark.skipif(os.name != "posix", reason="no named pipes")
def test_a_named_pipe(tone: np.ndarray, tmp_path: Path):
    path, data = tmp_path / "pipe", encoded(tone)
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    found = decode_audio(path)
    writer.join()
    np.testing.assert_array_equal(found, decode_audio(data))


def test_what_is_endless_is_not_read_into_memory(tone: np.ndarray, monkeypatch):
    monkeypatch.setattr(audio_bibier, "DOWNLOAD_LIMIT_BYTES", 2**20)
    monkeypatch.setattr(audio_bibier, "LARGEST_CLIP_SAMPLES", 10_000)

    class Endless(io.RawIOBase):
        def read(self, count: int = -1) -> bytes:
            return bytes(count)

    with pytest.raises(AudioError, match="more than 1 MiB"):
        decode_audio(Endless())
    with pytest.raises(AudioError, match="in chunks"):
        decode_audio(encoded(tone, format="FLAC"))
    assert sum(map(len, AudioStream(encoded(tone, format="FLAC")))) == len(tone)


FFMPEG = pytest.mark.skipif(ffmpeg_bibier.ffmpeg_path() is None, reason="ffmpeg is not installed")


@pytest.fixture
def converted(tone: np.ndarray, tmp_path: Path):
    """`converted(name, *options)`: the tone through ffmpeg"""

    def convert(name: str, *options: str) -> Path:
        source, target = tmp_path / "source.wav", tmp_path / name
        source.write_bytes(encoded(np.stack([tone, np.zeros_like(tone)], axis=1)))
        command = ["ffmpeg", "-v", "error", "-y", "-i", str(source), *options, str(target)]
        subprocess.run(command, check=True)
        return target

    return convert


@FFMPEG
@pytest.mark.parametrize(
    "name", ["a.m4a", "a.mp4", "a.webm", "a.mka", "a.aac", "a.wma", "with space; $(x).m4a", "-i.m4a"]
)
def test_what_phones_and_browsers_record(name: str, converted, tone: np.ndarray):
    path = converted("plain" + Path(name).suffix)
    path = path.rename(path.with_name(name))
    decoded = decode_audio(path)
    assert len(decoded) / 16_000 == pytest.approx(1.0, abs=0.2)
    assert np.abs(np.fft.rfft(decoded[2000:14_000])).argmax() == pytest.approx(440 * 12_000 / 16_000, abs=1)
    assert np.abs(decoded).max() == pytest.approx(0.25, abs=0.05)  # the mean of both channels
    assert np.abs(decode_audio(path, channel=0)).max() == pytest.approx(0.5, abs=0.06)
    np.testing.assert_array_equal(decode_audio(path.read_bytes()), decoded)
    np.testing.assert_array_equal(np.concatenate(list(AudioStream(path, block_s=0.21))), decoded)


@FFMPEG
def test_ffmpeg_reads_no_playlists_and_no_other_files(converted, tmp_path: Path):
    secret = converted("secret.mp4")
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match="cannot be read"):
            decode_audio(tmp_path / name)


@FFMPEG
def test_a_video_without_sound_and_a_cut_one(converted, tmp_path: Path):
    silent = tmp_path / "silent.mp4"
    source = ["-f", "lavfi", "-i", "color=size=16x16:duration=0.2"]
    subprocess.run(["ffmpeg", "-v", "error", *source, str(silent)], check=True)
    cut = converted("cut.m4a")
    cut.write_bytes(cut.read_bytes()[:3000])
    for path in (silent, cut):
        with pytest.raises(AudioError, match=rf"{path.name} cannot be read"):
            decode_audio(path)


def test_without_ffmpeg_it_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(ffmpeg_bibier, "PROGRAM", "no-such-program")
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x1cftypM4A " + bytes(100))
    with pytest.raises(AudioError, match=r"a\.m4a cannot be read .*need the program ffmpeg, which is not installed"):
        decode_audio(tmp_path / "a.m4a")


@pytest.mark.skipif(os.name != "posix", reason="a script as a program")
@pytest.mark.parametrize(
    "body", ["import time; time.sleep(60)", "import sys; sys.stderr.write('x' * 9999); sys.exit(1)"]
)
def test_a_program_that_hangs_or_fails_is_ended(body: str, tmp_path: Path, monkeypatch):
    program = tmp_path / "stand-in"
    program.write_text(f"#!{sys.executable}\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(ffmpeg_bibier, "PROGRAM", str(program))
    monkeypatch.setattr(ffmpeg_bibier, "PATIENCE_S", 1.0)
    with pytest.raises(AudioError, match="cannot read it either"):
        decode_audio(b"\0\0\0\x1cftypM4A " + bytes(100))


def whole(stream: AudioStream) -> np.ndarray:
    return np.concatenate(list(stream))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_files_equal_decode_audio_whatever_the_blocks(tmp_path: Path, rate: int, channels: int):
    samples = np.random.default_rng(rate).uniform(-0.5, 0.5, (int(2.3 * rate) + 7, channels)).astype(np.float32)
    for name in ("a.wav", "a.flac", "a.ogg"):
        path = tmp_path / name
        soundfile.write(path, samples, rate)
        expected = decode_audio(path)
        mono = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1, dtype=np.float32)
        np.testing.assert_array_equal(expected, soxr.resample(mono, rate, 16_000, quality="HQ"))
        for block_s in (0.011, 0.5, 10.0):
            stream = AudioStream(path, block_s=block_s)
            np.testing.assert_array_equal(whole(stream), expected)
            assert stream.duration_s == pytest.approx(len(samples) / rate, abs=0.01)
        np.testing.assert_array_equal(whole(AudioStream(path.read_bytes(), block_s=0.3)), expected)


def test_arrays_equal_decode_audio(clip):
    stereo = np.stack([clip(1.0), clip(1.0, 1)])
    for audio, rate in [
        (clip(1.0), 16_000),
        (stereo, 44_100),
        ((stereo.T * 2**15).astype(np.int16), 8_000),
        (clip(0.001).tolist(), 22_050),
    ]:
        np.testing.assert_array_equal(whole(AudioStream(audio, rate, block_s=0.1)), decode_audio(audio, rate))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_samples_are_still_a_clip(tmp_path: Path, count: int):
    path = tmp_path / "few.wav"
    soundfile.write(path, np.full((count, 2), 0.25), 192_000, subtype="FLOAT")
    np.testing.assert_array_equal(whole(AudioStream(path)), decode_audio(path))
    assert len(decode_audio(path)) == 1


def test_pieces_of_any_sizes_are_resampled_as_the_whole(clip):
    samples, generator = clip(2.0), np.random.default_rng(0)
    resampler, parts, position = StreamResampler(44_100), [], 0
    while position < len(samples):
        count = int(generator.integers(0, 3000))
        parts.append(resampler.push(samples[position : position + count]))
        position += count
    np.testing.assert_array_equal(
        np.concatenate([*parts, resampler.close()]), soxr.resample(samples, 44_100, 16_000, quality="HQ")
    )


def test_faults_are_told_where_they_stand(tmp_path: Path, clip):
    broken = clip(3.0)
    broken[40_000] = np.nan
    path = tmp_path / "nan.wav"
    soundfile.write(path, broken, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan.wav: sample 40000 is NaN"):
        whole(AudioStream(path, block_s=1.0))
    content = io.BytesIO()
    soundfile.write(content, clip(3.0), 16_000, format="WAV")
    cut = tmp_path / "cut.wav"
    cut.write_bytes(content.getvalue()[:50_000])
    with pytest.raises(AudioError, match="is truncated"):
        whole(AudioStream(cut, block_s=1.0))
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match="0 bytes"):
        whole(AudioStream(tmp_path / "empty.wav"))
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    with pytest.raises(AudioError, match="no samples"):
        whole(AudioStream(tmp_path / "none.wav"))
    with pytest.raises(AudioError, match="16000 Hz, but sampling_rate=8000"):
        whole(AudioStream(path, 8_000))
