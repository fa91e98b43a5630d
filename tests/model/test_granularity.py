"""Words, sentences, utterances and turns as chunks."""

import numpy as np
import pytest

from bibier_hf.model.granularity_bibier import TurnGroups, WordGroups, lines_at_once, speaker_turns
from bibier_hf.model.segments_bibier import Turn
from bibier_hf.model.words_bibier import Words

SAMPLES = np.arange(64_000, dtype=np.float32)
TIMED = [
    {"text": "Well, yes.", "timestamp": (0.0, 0.9)},
    {"text": "And", "timestamp": (0.9, 1.1)},
    {"text": 'no!"', "timestamp": (2.0, 2.4)},
    {"text": "Who?", "timestamp": (2.4, 2.8), "speaker": "B"},
    {"text": "gone", "timestamp": (4.5, 5.0), "speaker": "B"},
]


def words(timed: list[dict]) -> Words:
    found = Words()
    found.add(timed)
    return found


def cut(segmenter, piece: int) -> list:
    segments = []
    for start in range(0, len(SAMPLES), piece):
        segments += segmenter.push(SAMPLES[start : start + piece])
    return segments + segmenter.close()


@pytest.mark.parametrize("piece", [777, 64_000])
@pytest.mark.parametrize(
    ("granularity", "texts"),
    [
        ("word", ["Well,", "yes.", "And", 'no!"', "Who?", "gone"]),
        ("sentence", ["Well, yes.", 'And no!"', "Who?", "gone"]),
        ("utterance", ["Well, yes. And", 'no!"', "Who?", "gone"]),
    ],
)
def test_groups_of_words(granularity: str, texts: list[str], piece: int):
    segments = cut(WordGroups(words(TIMED), granularity), piece)
    assert [segment.text for segment in segments] == texts
    assert [segment.speaker for segment in segments][-3:] == [None, "B", "B"]
    for segment in segments:
        assert segment.text == " ".join(word["text"] for word in segment.words)
        np.testing.assert_array_equal(segment.samples, SAMPLES[segment.start : segment.end])
    assert len(segments[-1].samples) == 0  # a transcript that goes on after the end
    assert segments[0].start == 0


def test_long_groups_are_divided():
    many = [{"text": "so", "timestamp": (index, index + 1)} for index in range(40)]
    lengths = [len(segment.words) for segment in cut(WordGroups(words(many), "sentence"), 64_000)]
    assert lengths == [15, 15, 10]


def test_groups_within_turns():
    turns = [Turn(0, 2, "A", "One. Two three."), Turn(0.5, 1, "B"), Turn(2, 4, "A"), Turn(3, 3.5, "B")]
    heard = [
        {"text": "x", "timestamp": (0.6, 0.8)},  # in A, too, but she has her own text
        {"text": "Late.", "timestamp": (2.1, 2.4)},
        {"text": "Both", "timestamp": (2.9, 3.2)},  # shares more with A
        {"text": "in", "timestamp": (3.2, 3.4)},  # in both alike: of the first
    ]
    for piece in (500, 64_000):
        segments = cut(TurnGroups(turns, "sentence", words(heard)), piece)
        assert [(segment.speaker, segment.text) for segment in segments] == [
            ("A", "One."),
            ("A", "Two three."),
            ("B", "x"),
            ("A", "Late."),
            ("A", "Both in"),
            ("B", None),
        ]
        for segment in segments:
            np.testing.assert_array_equal(segment.samples, SAMPLES[segment.start : segment.end])
    assert (segments[1].start, segments[1].end) == (round(0.615 * 16_000), 32_000)  # 4 of 13 letters later


def test_turns_of_a_transcript():
    timed = [
        {"text": "a b", "timestamp": (0, 1), "speaker": "A"},
        {"text": "c", "timestamp": (1, 2), "speaker": "A"},
        {"text": "d", "timestamp": (2, 3), "speaker": "B"},
    ]
    assert speaker_turns(timed) == [Turn(0, 2, "A", "a b c"), Turn(2, 3, "B", "d")]
    with pytest.raises(ValueError, match="needs speakers"):
        speaker_turns([{"text": "a", "timestamp": (0, 1)}])


def test_lines_of_speakers_who_speak_at_once_keep_their_times(pipe, clip):
    """Ben interrupts Anna; in the order of time, his words would come after hers."""
    said = [
        {"text": "one two. Three", "timestamp": (0.0, 3.0), "speaker": "Anna"},
        {"text": "but no", "timestamp": (1.0, 2.0), "speaker": "Ben"},
    ]
    assert lines_at_once(said) == [Turn(0.0, 3.0, "Anna", "one two. Three"), Turn(1.0, 2.0, "Ben", "but no")]
    assert lines_at_once(TIMED) is None
    assert lines_at_once([{**said[0], "timestamp": (0.0, 1.05)}, said[1]]) is None  # rounding
    assert lines_at_once([said[0], {**said[1], "speaker": "Anna"}]) is None
    assert lines_at_once([said[0], {**said[1], "timestamp": (1.0, None)}]) is None
    recording = {"audio": (clip(4.0), 16_000), "text": said}
    for granularity, spans in (
        ("sentence", {"Anna": [(0.0, 1.75), (1.75, 3.0)], "Ben": [(1.0, 2.0)]}),
        ("turn", {"Anna": [(0.0, 3.0)], "Ben": [(1.0, 2.0)]}),
    ):
        chunks = pipe(recording, granularity=granularity, return_timestamps=True)["chunks"]
        for name, expected in spans.items():
            found = [chunk["timestamp"] for chunk in chunks if chunk["speaker"] == name]
            np.testing.assert_allclose(found, expected, atol=0.001)
    for times in ((0.0, float("nan")), ("0", "1"), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="times must be numbers of seconds"):
            pipe({**recording, "text": [{"text": "one", "timestamp": times}]}, granularity="word")


def test_in_the_pipeline(pipe, clip, about):
    audio = {"array": clip(4.0, 1), "sampling_rate": 16_000}
    answer = {"text": "", "chunks": [{**timed, "timestamp": timed["timestamp"]} for timed in TIMED[:3]]}
    result = pipe({"audio": audio, "text": answer}, granularity="sentence", return_timestamps=True, batch_size=4)
    for chunk, text in zip(result["chunks"], ("Well, yes.", 'And no!"'), strict=True):
        start, end = (round(16_000 * second) for second in chunk["timestamp"])
        alone = pipe({"audio": {**audio, "array": audio["array"][start:end]}, "text": text})
        assert (chunk["text"], {entry["label"]: entry["score"] for entry in chunk["emotions"]}) == (
            text,
            about({entry["label"]: entry["score"] for entry in alone}),
        )
    assert "speakers" not in result
    quiet = {**audio, "array": np.concatenate([0.001 * clip(0.5), clip(1.0, 1), 0.001 * clip(0.5)])}
    by_energy = pipe(quiet, segmentation="energy", return_timestamps=True)
    assert pipe(quiet, granularity="utterance", return_timestamps=True) == by_energy
