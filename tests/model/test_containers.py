"""Files whose header does not know their length, or tells a wrong one: what is there is read to its end, and a file is
called cut only where its header proves it."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bibier_hf import AudioError, decode_audio
from bibier_hf.model.audio_bibier import AudioStream
from bibier_hf.model.containers_bibier import Pieces, inspect_container

COUNT = 20_000
SLACK = 1_200
"""Samples by which codecs with frames may be longer."""


def sound() -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(COUNT)
    return (0.3 * np.sin(2 * np.pi * 300 * np.arange(COUNT) / 16_000) + 0.01 * noise).astype(np.float32)


def encoded(
    format: str,
    subtype: str = "PCM_16",
    endian: str | None = None,
    samples: np.ndarray | None = None,
    rate: int = 16_000,
) -> bytes:
    buffer = io.BytesIO()
    samples = sound() if samples is None else samples
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype, endian=endian)
    return buffer.getvalue()


def patched(data: bytes, offset: int, value: int, width: int, order: str) -> bytes:
    return data[:offset] + (value % (1 << 8 * width)).to_bytes(width, order) + data[offset + width :]


def read_every_way(data: bytes, folder: Path) -> np.ndarray:
    """The samples, which must be the same as a path, as bytes and block by block."""
    path = folder / "recording.bin"
    path.write_bytes(data)
    whole = decode_audio(path)
    np.testing.assert_array_equal(decode_audio(data), whole)
    np.testing.assert_array_equal(np.concatenate(list(AudioStream(path, block_s=0.21))), whole)
    return whole


PLACEHOLDERS = (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF - 44, 0x40000000)


@pytest.mark.parametrize("value", [*PLACEHOLDERS, *(2 * COUNT + extra for extra in (1, 2, 8, 36, 44, 200))])
@pytest.mark.parametrize("riff_too", [False, True])
def test_wav_of_unknown_or_slightly_wrong_size(value: int, riff_too: bool, tmp_path: Path):
    data = encoded("WAV")
    data = patched(data, data.index(b"data") + 4, value, 4, "little")
    if riff_too:
        data = patched(data, 4, value + 36, 4, "little")
    np.testing.assert_array_equal(read_every_way(data, tmp_path), decode_audio(encoded("WAV")))


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_24", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"])
@pytest.mark.parametrize("value", [None, 0, 0xFFFFFFFF, 0x7FFFF000])
def test_wav_of_every_coding(subtype: str, value: int | None, tmp_path: Path):
    """GSM 6.10 cannot be sought in, which soundfile's reading of a whole file wants."""
    data = encoded("WAV", subtype)
    if value is not None:
        data = patched(data, data.index(b"data") + 4, value, 4, "little")
    assert COUNT <= len(read_every_way(data, tmp_path)) < COUNT + SLACK


@pytest.mark.parametrize("value", [0, -1, 0x7FFFF000, 0x80000000])
@pytest.mark.parametrize(
    "kind",
    [
        ("WAV", b"data", 4, 4, "big", {"endian": "BIG"}),
        ("AIFF", b"SSND", 4, 4, "big", {}),
        ("AIFF", b"COMM", 10, 4, "big", {}),
        ("AU", b".snd", 8, 4, "big", {}),
    ],
    ids=["RIFX", "AIFF data", "AIFF count", "AU"],
)
def test_other_containers_of_unknown_size(kind: tuple, value: int, tmp_path: Path):
    name, field, skip, width, order, options = kind
    data = encoded(name, **options)
    data = patched(data, data.index(field) + skip, value, width, order)
    assert len(read_every_way(data, tmp_path)) == COUNT


@pytest.mark.parametrize("value", [0, -1, 2**62, 2**63 - 1])
@pytest.mark.parametrize(
    "kind", [("RF64", b"ds64", 16, "little"), ("CAF", b"data", 4, "big"), ("W64", b"data", 16, "little")]
)
def test_containers_with_sizes_of_64_bits(kind: tuple, value: int, tmp_path: Path):
    name, field, skip, order = kind
    data = encoded(name)
    assert len(read_every_way(patched(data, data.index(field) + skip, value, 8, order), tmp_path)) == COUNT


def test_audio_behind_the_end_that_a_crashed_recorder_wrote_last(tmp_path: Path):
    data = encoded("WAV")
    half = patched(patched(data, 40, COUNT, 4, "little"), 4, COUNT + 36, 4, "little")
    assert len(read_every_way(half, tmp_path)) == COUNT


@pytest.mark.parametrize(
    "tail", [b"LIST\x08\0\0\0INFOabcd", b"TAG" + bytes(125), b"ID3\4\0\0\0\0\0\x10" + bytes(16), bytes(3000)]
)
def test_what_follows_the_samples_is_not_read_as_sound(tail: bytes, tmp_path: Path):
    assert len(read_every_way(encoded("WAV") + tail, tmp_path)) == COUNT


@pytest.mark.parametrize("name", ["WAV", "RF64", "AIFF", "AU", "CAF", "W64", "FLAC"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_header_proves_that_the_end_is_missing(name: str, keep: float):
    data = encoded(name)
    with pytest.raises(AudioError, match="is truncated"):
        decode_audio(data[: int(keep * len(data))])


def test_a_header_beyond_4_gib_is_written_anew():
    """A recording that outgrew its 32 bits: the size wraps round."""
    data = encoded("WAV")

    class Huge(io.BytesIO):
        """The header, and zeros without end behind it."""

        def read(self, count: int = -1) -> bytes:
            position = self.tell()
            self.seek(position + count)
            return data[position : position + count].ljust(count, b"\1")

    size = 5 * 2**30
    container = inspect_container(Huge(data), size)
    assert container.view.read(4) == b"RF64"
    container.view.seek(0)
    with soundfile.SoundFile(container.view) as file:
        assert file.frames == (size - 44) // 2


def flac(total: int | None = None) -> bytes:
    data = encoded("FLAC")
    packed = int.from_bytes(data[18:26], "big")
    return data if total is None else patched(data, 18, (packed >> 36 << 36) | total, 8, "big")


def test_flac_of_unknown_length(tmp_path: Path):
    expected = decode_audio(flac())
    np.testing.assert_array_equal(read_every_way(flac(0), tmp_path), expected)
    np.testing.assert_array_equal(read_every_way(flac(0) + b"TAG" + bytes(125), tmp_path), expected)
    np.testing.assert_array_equal(read_every_way(b"ID3\4\0\0\0\0\0\x10" + bytes(16) + flac(0), tmp_path), expected)


def test_flac_of_unknown_length_whose_writer_was_killed(tmp_path: Path):
    begin = read_every_way(flac(0)[: len(flac()) // 2], tmp_path)
    assert COUNT // 4 < len(begin) < COUNT
    np.testing.assert_array_equal(begin, decode_audio(flac())[: len(begin)])


def test_flac_that_promises_more_is_cut():
    with pytest.raises(AudioError, match="promises 25000 samples, but only 20000 are present"):
        decode_audio(flac(25_000))


def test_damage_within_a_flac_file_is_not_called_a_cut():
    data = bytearray(encoded("FLAC", samples=np.tile(sound(), 20)))
    data[len(data) // 4 : len(data) // 4 + 4000] = bytes(4000)
    with pytest.raises(AudioError, match="cannot be read as audio"):
        decode_audio(bytes(data))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_streams_that_follow_one_another_are_read_to_the_end(subtype: str, tmp_path: Path):
    first, second = encoded("OGG", subtype), encoded("OGG", subtype, samples=np.tile(0.5 * sound(), 9))
    parts = [decode_audio(first), decode_audio(second), decode_audio(first)]
    chained = read_every_way(first + second + first, tmp_path)
    np.testing.assert_array_equal(chained, np.concatenate(parts))
    cut = read_every_way(first + second[: len(second) * 3 // 4], tmp_path)
    assert len(parts[0]) < len(cut) < len(parts[0]) + len(parts[1])


def test_ogg_streams_of_different_rates_are_refused_or_left_to_ffmpeg(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(
        AudioError, match="stream 2 of 2 has 8000 Hz and 1 channels, but the first one has 16000 Hz and 1"
    ):
        decode_audio(encoded("OGG", "VORBIS") + encoded("OGG", "VORBIS", rate=8000))


def mp3_frames(bits: tuple[int, ...]) -> bytes:
    """Silent frames (MPEG 2, layer III, 16 kHz, mono) of bit rates by their index, without any tag."""
    frames = []
    for index in bits:
        size = 72 * 1000 * (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[index] // 16_000
        frames.append((bytes([0xFF, 0xF3, index << 4 | 2 << 2, 0xC0])).ljust(size, b"\0"))
    return b"".join(frames)


@pytest.mark.parametrize(
    "bits", [(8,) * 100, (14,) * 3 + (2,) * 97, (2,) * 3 + (14,) * 97], ids=["CBR", "shrinks", "grows"]
)
def test_mp3_without_a_tag_has_the_length_of_its_frames(bits: tuple[int, ...], tmp_path: Path):
    """libsndfile multiplies the size of the file by the bit rate of the first frames."""
    samples = read_every_way(mp3_frames(bits), tmp_path)
    assert 100 * 576 - 600 <= len(samples) <= 100 * 576
    stream = AudioStream(tmp_path / "recording.bin")
    next(iter(stream))
    assert stream.duration_s == pytest.approx(100 * 576 / 16_000)


def test_mp3_without_a_tag_gives_what_the_decoder_gives():
    """Less the 529 samples by which every MP3 decoder is late."""
    tagged = encoded("MP3", "MPEG_LAYER_III")
    untagged = tagged[tagged.index(tagged[:2], 4) :]
    with soundfile.SoundFile(io.BytesIO(untagged)) as file:
        expected = file.read(COUNT // 2, dtype="float32")[529:]
    np.testing.assert_allclose(decode_audio(untagged)[: len(expected)], expected, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"ID3\4\0\0\0\0\x10\0" + bytes(2048) + data,
        lambda data: 2 * (b"ID3\4\0\0\0\0\x10\0" + bytes(2048)) + data + b"TAG" + bytes(125),
        lambda data: data + b"APETAGEX" + bytes(200),
        lambda data: bytes(777) + data,
        lambda data: np.random.default_rng(1).bytes(900) + data,
    ],
    ids=["ID3v2", "two ID3v2 and ID3v1", "APE", "zeros before", "noise before"],
)
def test_mp3_among_other_bytes(change: Callable[[bytes], bytes], tmp_path: Path):
    assert len(read_every_way(change(encoded("MP3", "MPEG_LAYER_III")), tmp_path)) == COUNT


@pytest.mark.parametrize("value", [0, 18, 70, 0xFFFFFFFF])
def test_mp3_with_a_wrong_count_of_frames(value: int, tmp_path: Path):
    data = encoded("MP3", "MPEG_LAYER_III")
    tag = max(data.find(b"Xing"), data.find(b"Info"))
    wrong = patched(data, tag + 8, value, 4, "big")
    assert abs(len(read_every_way(wrong, tmp_path)) - COUNT) <= SLACK


def test_mp3_files_that_were_joined_are_read_to_the_end(tmp_path: Path):
    """The tag of the first one tells of the first one."""
    assert len(read_every_way(2 * encoded("MP3", "MPEG_LAYER_III"), tmp_path)) >= 2 * COUNT - SLACK


def test_mp3_in_wav():
    frames = mp3_frames((2,) * 3 + (14,) * 97)
    form = struct.pack("<HHIIHH", 0x55, 1, 16_000, 2000, 1, 0) + struct.pack("<HHIHHH", 12, 1, 2, 72, 1, 0)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(frames)) + frames
    assert 99 * 576 < len(decode_audio(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)) <= 100 * 576


def test_pieces_read_like_the_file_they_stand_for():
    content = bytes(range(256))
    pieces = Pieces([b"ab", (io.BytesIO(content), 10, 20), b"", (io.BytesIO(content), 200, 3)])
    expected = b"ab" + content[10:30] + content[200:203]
    assert pieces.read() == expected
    for start in range(len(expected)):
        pieces.seek(start)
        assert pieces.read(7) == expected[start : start + 7]
    assert pieces.seek(-1, io.SEEK_END) == len(expected) - 1


@pytest.mark.parametrize(
    "data",
    [
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"fLaC",
        b"FORM",
        b"caff",
        b"OggS",
        b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(90),
        b"\xff" * 5000,
    ],
)
def test_stumps_of_headers_are_refused_in_one_line(data: bytes):
    with pytest.raises(AudioError) as caught:
        decode_audio(data)
    assert "\n" not in str(caught.value)


def test_a_header_that_promises_terabytes_allocates_nothing(tmp_path: Path):
    data = encoded("FLAC")
    packed = int.from_bytes(data[18:26], "big")
    with pytest.raises(AudioError, match="is truncated"):
        decode_audio(patched(data, 18, packed | (2**36 - 1), 8, "big"))
    wav = patched(encoded("WAV"), 22, 60_000, 2, "little")  # channels
    with pytest.raises(AudioError):
        decode_audio(wav)


@pytest.mark.parametrize("name", ["sox_pipe_7ffff000.wav", "hdr_80000000.wav", "unknown_length.flac"])
def test_files_that_users_reported(shared: Path, name: str):
    folder = shared / "cases" / "audio"
    np.testing.assert_array_equal(decode_audio(folder / name), decode_audio(folder / "ref.wav"))


@pytest.mark.parametrize("name", ["cbr_no_tag.mp3", "abr_no_tag.mp3"])
def test_mp3_files_that_users_reported(shared: Path, name: str):
    assert len(decode_audio(shared / "cases" / "audio" / name)) / 16_000 == pytest.approx(12.04, abs=0.02)
