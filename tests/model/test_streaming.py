"""Audio block by block equals the whole, to the bit."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bibier_hf import AudioError, decode_audio
from bibier_hf.model.streaming_bibier import AudioStream, SampleBuffer, StreamResampler


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
    np.testing.assert_array_equal(np.concatenate([*parts, resampler.close()]), decode_audio(samples, 44_100))


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
    with pytest.raises(AudioError, match="is cut"):
        whole(AudioStream(cut, block_s=1.0))
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match="0 bytes"):
        whole(AudioStream(tmp_path / "empty.wav"))
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    with pytest.raises(AudioError, match="no samples"):
        whole(AudioStream(tmp_path / "none.wav"))
    with pytest.raises(AudioError, match="16000 Hz, but sampling_rate=8000"):
        whole(AudioStream(path, 8_000))


def test_buffer_keeps_what_is_needed():
    samples = np.arange(100, dtype=np.float32)
    buffer = SampleBuffer()
    for start in range(0, 100, 7):
        buffer.append(samples[start : start + 7])
        buffer.forget_before(start - 10)
        np.testing.assert_array_equal(
            buffer.cut(max(0, start - 10), buffer.end), samples[max(0, start - 10) : start + 7]
        )
    assert buffer.end == 100
    assert sum(map(len, buffer._blocks)) <= 24
