"""What a visitor gives becomes scores, or a message in their language."""

import base64
import json
import re
from dataclasses import fields
from itertools import groupby, pairwise
from string import Formatter

import numpy as np
import pytest
import soundfile

from bibier_hf import EMOTIONS
from bibier_hf.demo.analysis import (
    Answer,
    Heard,
    Limits,
    ModelFacts,
    Recording,
    RefusedInput,
    analyze,
    answer_live,
    as_scores,
    inspect_recording,
)
from bibier_hf.demo.texts import LANGUAGE_NAMES, TEXTS
from bibier_hf.demo.timeline_view import axis_times, download_links, timeline_bands, timeline_table
from bibier_hf.model import pipeline_bibier
from bibier_hf.palette import EMOTION_COLORS
from bibier_hf.timeline.formats import clock

ENGLISH = TEXTS["en"]


def test_scores_are_those_of_the_pipeline(pipe, recordings):
    audio, text = str(recordings["short"]), "What a day!"
    for sample in ({"audio": audio, "text": text}, {"audio": audio}, {"text": text}):
        answer = analyze(pipe, sample.get("audio"), f" {sample.get('text', '')}\n", Limits(), ENGLISH)
        assert answer.scores == {entry["label"]: entry["score"] for entry in pipe(sample)}
        assert answer.chunks == []
    assert answer.recording is None


def test_a_long_recording_has_a_timeline(pipe, recordings):
    audio = str(recordings["long"])
    answer = analyze(pipe, audio, "", Limits(), ENGLISH)
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
    assert all(one[1] == other[0] for one, other in pairwise(ends))  # neighbors in the table
    assert [window["timestamp"] for window in answer.windows] == [
        (start, pytest.approx(min(start + 3, 16))) for start in range(0, 16, 3)
    ]
    lengths = [min(3.0, 16 - start) for start in range(0, 16, 3)]
    for label in EMOTIONS:
        mean = sum(length * score_of(label, scores) for length, scores in zip(lengths, windows, strict=True)) / 16
        assert answer.scores[label] == pytest.approx(mean, abs=1e-4)


def test_progress_of_a_long_recording(pipe, recordings):
    calls = []
    analyze(pipe, str(recordings["long"]), "", Limits(), ENGLISH, lambda *seconds: calls.append(seconds))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (16, 16)


def test_voice_and_words_are_shown_apart(pipe, recordings):
    sample = {"audio": str(recordings["short"]), "text": "What a day!"}
    answer = analyze(pipe, sample["audio"], sample["text"], Limits(), ENGLISH)
    output = pipe.model(**pipe.preprocess(sample))
    for modality, logits in (("audio", output.audio_logits), ("text", output.text_logits)):
        expected = (logits[0] / pipe.model.config.temperature).softmax(-1).tolist()
        assert answer.by_modality[modality] == pytest.approx(dict(zip(EMOTIONS, expected, strict=True)), abs=1e-5)
    assert answer.by_modality["audio"] != answer.by_modality["text"]
    assert answer.by_modality["audio"] != answer.scores
    for audio, text in ((sample["audio"], ""), (None, "What a day!")):  # there is nothing to tell apart
        assert analyze(pipe, audio, text, Limits(), ENGLISH).by_modality == {}


def test_heads_that_were_not_trained_are_not_shown(pipe, recordings, monkeypatch):
    arguments = (pipe, str(recordings["short"]), "What a day!", Limits(), ENGLISH)
    monkeypatch.setattr(pipe.model.config, "unimodal_loss_weight", 0)
    assert analyze(*arguments).by_modality == {}
    monkeypatch.setattr(pipe.model.config, "add_unimodal_logits", True)
    assert set(analyze(*arguments).by_modality) == {"audio", "text"}
    assert not pipe.model._forward_hooks


def test_facts_of_the_model(pipe, checkpoint, tmp_path, monkeypatch):
    facts = ModelFacts.of(pipe)
    assert (facts.name, facts.on_hub) == (checkpoint.resolve().name, False)
    assert facts.chance == pytest.approx(1 / 7)
    folder = tmp_path / "my_run"
    folder.mkdir()
    monkeypatch.setattr(pipe.model.config, "name_or_path", str(folder))
    assert ModelFacts.of(pipe) == ModelFacts("my_run", False, {}, {}, 1 / 7)
    results = {
        "data": {"resd": {"source": ["real"]}, "quickstart": {"source": ["synthetic"]}},
        "metrics": {"test": {"resd": {"uar": 0.5}}},
    }
    (folder / "results.json").write_text(json.dumps(results))
    assert ModelFacts.of(pipe) == ModelFacts(
        "my_run", False, {"resd": False, "quickstart": True}, {"resd": 0.5}, 1 / 7
    )


def score_of(label: str, scores: list[dict]) -> float:
    return next(entry["score"] for entry in scores if entry["label"] == label)


def test_a_text_beside_a_long_recording_is_said_to_be_unused(pipe, recordings):
    audio = str(recordings["long"])
    assert analyze(pipe, audio, "Words", Limits(), ENGLISH).text_unused
    assert not analyze(pipe, audio, "", Limits(), ENGLISH).text_unused
    whole = analyze(pipe, audio, "Words", Limits(timeline_from_s=17), ENGLISH)
    assert (whole.text_unused, whole.chunks) == (False, [])


@pytest.mark.parametrize("language", TEXTS)
def test_what_is_refused_and_why(pipe, recordings, language):
    texts = TEXTS[language]

    def message(audio: str | None = None, text: str = "", **limits) -> str:
        with pytest.raises(RefusedInput) as caught:
            analyze(pipe, None if audio is None else str(recordings[audio]), text, Limits(**limits), texts)
        return str(caught.value)

    assert message() == message(text=" \n") == texts.nothing_given
    assert message("silent") == texts.silent
    assert "11" in message(text="a" * 11, characters=10)
    assert "10" in message(text="a" * 11, characters=10)
    assert texts.number(0.3) in message("long", minutes=0.1)
    assert texts.number(0.5) in message("long", megabytes=0)
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
        analyze(pipe, str(tmp_path / "two.wav"), "", Limits(), TEXTS[language])
    assert str(caught.value) == TEXTS[language].canceled


def test_length_and_errors_are_those_of_the_pipeline(pipe, tmp_path, clip):
    """Not what a header says or the audio library raises."""
    soundfile.write(tmp_path / "unknown.flac", clip(2.0), 16_000)
    data = bytearray((tmp_path / "unknown.flac").read_bytes())
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])
    (tmp_path / "unknown.flac").write_bytes(data)
    answer = analyze(pipe, str(tmp_path / "unknown.flac"), "", Limits(), ENGLISH)
    assert answer.recording.duration_s == pytest.approx(2.0)
    with pytest.raises(RefusedInput, match=r"the limit is 0\.01"):
        analyze(pipe, str(tmp_path / "unknown.flac"), "", Limits(minutes=0.01), ENGLISH)
    (tmp_path / "a.raw").write_bytes(bytes(range(256)) * 50)
    with pytest.raises(RefusedInput, match=r"a\.raw cannot be read"):
        analyze(pipe, str(tmp_path / "a.raw"), "", Limits(), ENGLISH)


def test_an_error_of_the_program_is_not_shown_as_one_of_the_visitor(pipe, recordings, monkeypatch):
    def broken(_inputs):
        raise ValueError("a defect")

    monkeypatch.setattr(pipe.model, "forward", broken)
    with pytest.raises(Exception, match=r"a defect|unexpected keyword") as caught:
        analyze(pipe, str(recordings["short"]), "", Limits(), ENGLISH)
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
        assert texts.emotion("anger") == texts.emotions["anger"]
        assert texts.emotion("calm") == "calm"
    assert [texts.number(2.25) for texts in TEXTS.values()] == ["2.2", "2,2"]


CHUNKS = [
    {"timestamp": (0.0, 6.0), "emotions": [{"label": "happy", "score": 0.75}, {"label": "sad", "score": 0.25}]},
    {"timestamp": (6.0, 64.5), "emotions": [{"label": "sad", "score": 0.6}, {"label": "happy", "score": 0.4}]},
]
ANSWER = Answer({"sad": 0.57, "happy": 0.43}, windows=CHUNKS, chunks=CHUNKS, recording=Recording(64.5, 0.5, 'a "b"'))


def test_the_timeline_as_a_table():
    table = timeline_table(ANSWER, ENGLISH)
    assert table["data"] == [["0:00", "0:06", "happy", "75%"], ["0:06", "1:04.5", "sad", "60%"]]
    assert table["headers"] == ["from", "to", "emotion", "score"]
    heard = timeline_table(Answer(ANSWER.scores, chunks=[{**CHUNKS[0], "text": "What a day!"}]), ENGLISH)
    assert heard == {
        "headers": ["from", "to", "emotion", "score", "words"],
        "data": [["0:00", "0:06", "happy", "75%", "What a day!"]],
    }


def test_the_timeline_as_bands():
    bands = timeline_bands(ANSWER, TEXTS["ru"])
    for part in ("радость", "57%", "43%", EMOTION_COLORS["sad"], EMOTION_COLORS["happy"], ">0:00<", ">1:00<"):
        assert part in bands
    assert bands.index("грусть") < bands.index("радость")  # the most frequent first
    assert "гнев" not in bands
    faint, solid = re.findall(r'<polygon points="([^"]+)" fill="#edb211"', bands)
    tops = [[float(point.split(",")[1]) for point in polygon.split()] for polygon in (faint, solid)]
    assert min(tops[0]) == min(tops[1]) < 20  # the highest at the start
    assert max(tops[0][1:-1]) < 60  # the band goes on
    assert max(tops[1][1:-1]) == 100  # and is not solid where sad is the strongest
    assert timeline_bands(Answer({}), ENGLISH) == ""


def test_the_axis_has_a_handful_of_round_times():
    assert [axis_times(0, end) for end in (16, 29.1, 1800)] == [
        [0, 5, 10, 15],
        [0, 5, 10, 15, 20, 25],
        [0, 300, 600, 900, 1200, 1500, 1800],
    ]
    assert [clock(seconds) for seconds in (0, 59.96, 60.04, 3600)] == ["0:00", "1:00", "1:00", "1:00:00"]


def test_the_timeline_to_download():
    links = download_links(ANSWER, TEXTS["ru"])
    files = re.findall(r'<a download="([^"]+)" href="data:[^,]+;base64,([^"]+)">([^<]+)</a>', links)
    assert [(name, caption) for name, _, caption in files] == [
        ("a &quot;b&quot;.srt", TEXTS["ru"].subtitles),
        ("a &quot;b&quot;.csv", TEXTS["ru"].table),
    ]
    subtitles, table = (base64.b64decode(content).decode() for _, content, _ in files)
    assert subtitles.splitlines()[:3] == ["1", "00:00:00,000 --> 00:00:06,000", "радость 75%"]
    assert table.splitlines()[1].startswith("0.0,6.0,happy,0.75,")
    assert download_links(Answer({}), ENGLISH) == ""


def test_the_last_seconds_of_a_live_voice(pipe, clip):
    rate, sound = 48_000, np.int16(32767 * clip(3.0, 2))
    heard = None
    for start in range(0, len(sound), 12_000):
        heard = Heard.of((rate, sound[start : start + 12_000]), heard, longest_s=0.5)
        answer = answer_live(pipe, heard)
        assert (answer is None) == (start < 12_000)  # less than half a second
    assert len(heard.samples) == 24_000
    assert answer.scores == as_scores(pipe((rate, sound[-24_000:])))
    assert Heard.of(None, heard, 0.5) is None
    stereo = np.stack([sound, sound], axis=1)
    assert Heard.of((44_100, stereo), heard, 9.0).samples.tolist() == sound.tolist()  # another microphone
    assert answer_live(pipe, Heard(rate, np.zeros(48_000, np.int16))) is None
