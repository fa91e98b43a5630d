"""What a visitor gives becomes scores, or a message in their language."""

from dataclasses import fields
from itertools import groupby, pairwise
from string import Formatter

import numpy as np
import pytest
import soundfile

from bibier_hf import EMOTIONS
from bibier_hf.demo.analysis import Limits, RefusedInput, analyse, inspect_recording
from bibier_hf.demo.texts import LANGUAGE_NAMES, TEXTS
from bibier_hf.demo.timeline_view import COLOURS, clock, timeline_rows, timeline_strip
from bibier_hf.model import pipeline_bibier

ENGLISH = TEXTS["en"]


def test_scores_are_those_of_the_pipeline(pipe, recordings):
    audio, text = str(recordings["short"]), "What a day!"
    for sample in ({"audio": audio, "text": text}, {"audio": audio}, {"text": text}):
        answer = analyse(pipe, sample.get("audio"), f" {sample.get('text', '')}\n", Limits(), ENGLISH)
        assert answer.scores == {entry["label"]: entry["score"] for entry in pipe(sample)}
        assert answer.chunks == []
    assert answer.recording is None


def test_a_long_recording_has_a_timeline(pipe, recordings):
    audio = str(recordings["long"])
    answer = analyse(pipe, audio, "", Limits(), ENGLISH)
    samples, rate = soundfile.read(audio)
    windows = [
        pipe({"array": samples[start : start + 3 * rate], "sampling_rate": rate})
        for start in range(0, len(samples), 3 * rate)
    ]
    best = [scores[0]["label"] for scores in windows]
    assert [chunk["emotions"][0]["label"] for chunk in answer.chunks] == [label for label, _ in groupby(best)]
    assert answer.recording.duration_s == 16
    ends = [chunk["timestamp"] for chunk in answer.chunks]
    assert (ends[0][0], ends[-1][1]) == (0, pytest.approx(16))
    assert all(one[1] == other[0] for one, other in pairwise(ends))  # the strip shows them side by side
    lengths = [min(3.0, 16 - start) for start in range(0, 16, 3)]
    for label in EMOTIONS:
        mean = sum(length * score_of(label, scores) for length, scores in zip(lengths, windows, strict=True)) / 16
        assert answer.scores[label] == pytest.approx(mean, abs=1e-4)


def score_of(label: str, scores: list[dict]) -> float:
    return next(entry["score"] for entry in scores if entry["label"] == label)


def test_a_text_beside_a_long_recording_is_said_to_be_unused(pipe, recordings):
    audio = str(recordings["long"])
    assert analyse(pipe, audio, "Words", Limits(), ENGLISH).text_unused
    assert not analyse(pipe, audio, "", Limits(), ENGLISH).text_unused
    whole = analyse(pipe, audio, "Words", Limits(timeline_from_s=17), ENGLISH)
    assert (whole.text_unused, whole.chunks) == (False, [])


@pytest.mark.parametrize("language", TEXTS)
def test_what_is_refused_and_why(pipe, recordings, language):
    texts = TEXTS[language]

    def message(audio: str | None = None, text: str = "", **limits) -> str:
        with pytest.raises(RefusedInput) as caught:
            analyse(pipe, None if audio is None else str(recordings[audio]), text, Limits(**limits), texts)
        return str(caught.value)

    assert message() == message(text=" \n") == texts.nothing_given
    assert message("silent") == texts.silent
    assert "11" in message(text="a" * 11, characters=10)
    assert "10" in message(text="a" * 11, characters=10)
    assert "0.3" in message("long", minutes=0.1)
    assert "0.5" in message("long", megabytes=0)
    for name, part in (("text", "cannot be read as audio"), ("cut", "is truncated")):
        refusal = message(name)
        assert part in refusal
        assert f"{name}.wav" in refusal
        assert str(recordings[name].parent) not in refusal  # where the server keeps it is nobody's business


def test_a_quiet_recording_is_measured(recordings):
    assert 0 < inspect_recording(str(recordings["quiet"]), Limits(), ENGLISH, pipeline_bibier).peak < 0.01
    assert inspect_recording(str(recordings["short"]), Limits(), ENGLISH, pipeline_bibier).peak > 0.2


@pytest.mark.parametrize("language", TEXTS)
def test_channels_that_cancel_are_refused(pipe, tmp_path, clip, language):
    soundfile.write(tmp_path / "two.wav", np.stack([clip(1.0), -clip(1.0)], axis=1), 16_000)
    with pytest.raises(RefusedInput) as caught:
        analyse(pipe, str(tmp_path / "two.wav"), "", Limits(), TEXTS[language])
    assert str(caught.value) == TEXTS[language].cancelled


def test_length_and_errors_are_those_of_the_pipeline(pipe, tmp_path, clip):
    """Not what a header says or the audio library raises."""
    soundfile.write(tmp_path / "unknown.flac", clip(2.0), 16_000)
    data = bytearray((tmp_path / "unknown.flac").read_bytes())
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])
    (tmp_path / "unknown.flac").write_bytes(data)
    answer = analyse(pipe, str(tmp_path / "unknown.flac"), "", Limits(), ENGLISH)
    assert answer.recording.duration_s == pytest.approx(2.0)
    with pytest.raises(RefusedInput, match="at most"):
        analyse(pipe, str(tmp_path / "unknown.flac"), "", Limits(minutes=0.01), ENGLISH)
    (tmp_path / "a.raw").write_bytes(bytes(range(256)) * 50)
    with pytest.raises(RefusedInput, match=r"a\.raw cannot be read"):
        analyse(pipe, str(tmp_path / "a.raw"), "", Limits(), ENGLISH)


def test_an_error_of_the_program_is_not_shown_as_one_of_the_visitor(pipe, recordings, monkeypatch):
    def broken(_inputs):
        raise ValueError("a defect")

    monkeypatch.setattr(pipe.model, "forward", broken)
    with pytest.raises(Exception, match=r"a defect|unexpected keyword") as caught:
        analyse(pipe, str(recordings["short"]), "", Limits(), ENGLISH)
    assert not isinstance(caught.value, RefusedInput)


def test_both_languages_say_everything():
    assert set(TEXTS) == set(LANGUAGE_NAMES) == {"en", "ru"}
    for field in fields(ENGLISH):
        english, russian = getattr(ENGLISH, field.name), getattr(TEXTS["ru"], field.name)
        if isinstance(english, str):
            assert english.strip()
            assert english != russian
            places = [
                sorted(str(part[1:3]) for part in Formatter().parse(text) if part[1]) for text in (english, russian)
            ]
            assert places[0] == places[1], field.name
    for texts in TEXTS.values():
        assert tuple(texts.emotions) == EMOTIONS
        assert len(set(texts.emotions.values())) == len(EMOTIONS)
    assert set(COLOURS) == set(EMOTIONS)


def test_the_timeline_as_a_strip_and_as_rows():
    chunks = [
        {"timestamp": (0.0, 6.0), "emotions": [{"label": "happy", "score": 0.75}, {"label": "sad", "score": 0.25}]},
        {"timestamp": (6.0, 64.5), "emotions": [{"label": "sad", "score": 0.6}, {"label": "happy", "score": 0.4}]},
    ]
    assert timeline_rows(chunks, ENGLISH) == [["0:00", "0:06", "happy", "75%"], ["0:06", "1:04.5", "sad", "60%"]]
    strip = timeline_strip(chunks, TEXTS["ru"])
    for part in (
        "flex: 6.000 0 0",
        "flex: 58.500 0 0",
        "радость 75%",
        "грусть",
        COLOURS["sad"],
        "<span>0:00</span>",
        "<span>1:04</span>",
    ):
        assert part in strip
    assert "гнев" not in strip
    assert timeline_strip([], ENGLISH) == ""
    assert [clock(seconds) for seconds in (0, 59.96, 60.04, 3600)] == ["0:00", "1:00", "1:00", "60:00"]
