"""Windows, speech by energy, given segments: what they cut, and that it does not depend on the pieces."""

from types import SimpleNamespace

import numpy as np
import pytest

from bibier_hf.model.segments_bibier import (
    FixedWindows,
    GivenSegments,
    SampleBuffer,
    Segment,
    Segmenter,
    SpeechByEnergy,
    Turn,
    as_turns,
    frame_levels,
)


def cut(segmenter: Segmenter, samples: np.ndarray, piece: int | None = None) -> list[Segment]:
    piece = piece or len(samples)
    segments = [
        segment
        for start in range(0, len(samples), piece)
        for segment in segmenter.push(samples[start : start + piece])
    ]
    return segments + segmenter.close()


def slow_windows(total: int, length: int, hop: int) -> list[tuple[int, int]]:
    windows, start = [], 0
    while True:
        windows.append((start, min(start + length, total)))
        if start + length >= total:
            return windows
        start += hop


@pytest.mark.parametrize(("length", "hop"), [(40, 20), (40, 40), (40, 7), (300, 100)])
@pytest.mark.parametrize("total", [1, 39, 40, 41, 60, 80, 200, 201])
def test_windows_equal_a_slow_loop(total: int, length: int, hop: int):
    samples = np.arange(total, dtype=np.float32)
    for piece in (1, 13, total):
        segments = cut(FixedWindows(length, hop), samples, piece)
        assert [(segment.start, segment.end) for segment in segments] == slow_windows(total, length, hop)
        for segment in segments:
            np.testing.assert_array_equal(segment.samples, samples[segment.start : segment.end])


def talk(*parts: tuple[float, float]) -> np.ndarray:
    """Noise of (seconds, level in dB of full scale)"""
    generator = np.random.default_rng(0)
    noise = [10 ** (level / 20) * generator.standard_normal(round(16_000 * seconds)) for seconds, level in parts]
    return np.concatenate(noise).astype(np.float32)


def seconds(segments: list[Segment]) -> list[tuple[float, float]]:
    return [(segment.start / 16_000, segment.end / 16_000) for segment in segments]


def test_level_of_frames():
    assert frame_levels(np.full(700, 0.1, np.float32)) == pytest.approx([-20, -20], abs=1e-3)
    assert frame_levels(np.zeros(320, np.float32)) == pytest.approx([-100])


def test_speech_is_found_and_widened():
    samples = talk((1, -60), (2, -20), (1, -60), (1.5, -25), (1, -60))
    found = seconds(cut(SpeechByEnergy(15), samples))
    np.testing.assert_allclose(found, [(0.9, 3.1), (3.9, 5.6)], atol=0.021)


def test_hysteresis_keeps_what_wavers_and_ends_in_silence():
    samples = talk(
        (1, -60), (1, -20), (1, -53), (1, -20), (1, -60)
    )  # -53 dB: below where it begins (-50), above where it ends (-55)
    assert len(cut(SpeechByEnergy(15), samples)) == 1
    assert len(cut(SpeechByEnergy(15, off_db=9.0), samples)) == 2
    assert cut(SpeechByEnergy(15), talk((1, -60), (2, -53), (1, -60))) == []


def test_short_pauses_do_not_break_and_clicks_are_no_speech():
    assert len(cut(SpeechByEnergy(15), talk((1, -60), (1, -20), (0.2, -60), (1, -20), (1, -60)))) == 1
    assert cut(SpeechByEnergy(15), talk((1, -60), (0.06, -20), (1, -60))) == []
    assert cut(SpeechByEnergy(15), np.zeros(50_000, np.float32)) == []


def test_quiet_recordings_are_heard_above_their_own_background():
    assert seconds(cut(SpeechByEnergy(15), talk((1, -75), (1, -50), (1, -75)))) == [
        (pytest.approx(0.9, abs=0.021), pytest.approx(2.1, abs=0.021))
    ]


def test_long_speech_is_cut_at_its_quietest_place():
    samples = talk((0.5, -60), (2.5, -20), (0.1, -48), (3, -20), (1, -60))
    first, *others = seconds(cut(SpeechByEnergy(4), samples))
    assert first == (pytest.approx(0.4, abs=0.021), pytest.approx(3.0, abs=0.11))
    assert others[0][0] == first[1]
    assert others[-1][1] == pytest.approx(6.2, abs=0.05)
    assert all(end - start <= 4 for start, end in [first, *others])


@pytest.mark.parametrize("piece", [1000, 321, 16_000])
def test_energy_does_not_depend_on_the_pieces(piece: int):
    generator = np.random.default_rng(1)
    samples = talk(*((float(generator.uniform(0.05, 1.5)), float(generator.uniform(-70, -15))) for _ in range(25)))
    expected = cut(SpeechByEnergy(3), samples)
    pieces = cut(SpeechByEnergy(3), samples, piece)
    assert len(expected) > 3
    assert [(segment.start, segment.end) for segment in pieces] == [
        (segment.start, segment.end) for segment in expected
    ]
    for segment, after in zip(pieces, [*pieces[1:], None], strict=True):
        np.testing.assert_array_equal(segment.samples, samples[segment.start : segment.end])
        assert after is None or segment.end <= after.start


def test_given_segments_with_overlap_and_text():
    samples = np.arange(32_000, dtype=np.float32)
    given = [(0, 1.5), {"start": 0.25, "end": 0.5, "text": "hi"}, {"start": 1.0, "end": 2.05}]
    for piece in (777, 32_000):
        segments = cut(GivenSegments(given), samples, piece)
        assert [(segment.start, segment.end, segment.text) for segment in segments] == [
            (0, 24_000, None),
            (4_000, 8_000, "hi"),
            (16_000, 32_000, None),
        ]
        for segment in segments:
            np.testing.assert_array_equal(segment.samples, samples[segment.start : segment.end])


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([], "at least one"),
        ("0-1", "must be a list"),
        ([(0, 1, 2)], r"segments\[0\] is \(0, 1, 2\)"),
        ([(0, 1), (-1, 2)], r"segments\[1\] is -1 to 2 s; a segment must start at 0"),
        ([(2, 1)], "end after its start"),
        ([(0, float("nan"))], "must be numbers"),
        ([{"start": 0, "end": 1, "text": 5}], "the text a string"),
        ([{"start": 0, "stop": 1}], "allowed"),
        ([{"start": 0, "end": 1, "speaker": 5}], "as well as the speaker"),
        ([(0, 1), Turn(float("inf"), 2.0)], r"segments\[1\] .* must be numbers"),
    ],
)
def test_refused_segments(segments, message: str):
    with pytest.raises(ValueError, match=message):
        GivenSegments(segments)


def test_given_segments_are_sorted_and_may_be_empty():
    given = [(1, 1.5), {"start": 0.5, "end": 0.5, "speaker": "A"}, Turn(0.25, 2.0, "Б", "hi"), (2.0, 2.0)]
    segments = cut(GivenSegments(given), np.zeros(32_000, np.float32), 777)
    assert [(segment.start, segment.end, segment.speaker, segment.text) for segment in segments] == [
        (4_000, 32_000, "Б", "hi"),
        (8_000, 8_000, "A", None),
        (16_000, 24_000, None, None),
        (32_000, 32_000, None, None),
    ]
    assert [len(segment.samples) for segment in segments] == [28_000, 0, 8_000, 0]


class Annotation:
    """What a diarization pipeline returns, as far as it is used."""

    def itertracks(self, yield_label: bool):
        assert yield_label
        yield SimpleNamespace(start=0.5, end=1.5), "A", "SPEAKER_01"
        yield SimpleNamespace(start=0.0, end=1.0), 3, "SPEAKER_00"


def test_the_output_of_a_diarization():
    expected = [Turn(0.0, 1.0, "SPEAKER_00"), Turn(0.5, 1.5, "SPEAKER_01")]
    assert as_turns(Annotation()) == expected
    assert as_turns(SimpleNamespace(speaker_diarization=Annotation())) == expected


def test_names_without_letters_are_no_names_and_arrays_are_lists():
    assert as_turns([Turn(0, 1, " "), Turn(1, 2, ""), Turn(2, 3, "A\n B")]) == [
        Turn(0.0, 1.0),
        Turn(1.0, 2.0),
        Turn(2.0, 3.0, "A B"),
    ]
    assert as_turns(np.array([[1, 2], [0, 1.5]])) == [Turn(0.0, 1.5), Turn(1.0, 2.0)]
    for turn in (Turn(0, 1, "\ud800"), Turn(0, 1, "A", "\udfff")):
        with pytest.raises(ValueError, match=r"segments\[0\] .* half of a surrogate pair"):
            as_turns([turn])


def test_segments_beyond_the_end():
    for segments in ([(0, 1), (0.5, 3)], [(0, 1), (2.0, 2.05)], [(0, 1), (2.2, 2.2)]):
        with pytest.raises(ValueError, match=r"segments\[1\] .* the recording ends at 2.000 s"):
            cut(GivenSegments(segments), np.zeros(32_000, np.float32))


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
