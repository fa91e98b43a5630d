"""Turns from the files of other tools, and what a conversation becomes."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pydantic import BaseModel
from transformers import AutoModel, AutoProcessor

from bibier_hf import AudioTextEmotionPipeline, decode_audio
from bibier_hf.errors import ArgumentError
from bibier_hf.timeline import TIMELINE_FORMATS, Turn, per_minute, read_turns, save_timeline, timed_texts
from bibier_hf.timeline.schema import SCHEMA_FILE, Timeline, timeline_schema

from ..bad_inputs import TURNS

VTT = """WEBVTT

NOTE not a --> cue

1
00:01.000 --> 00:02.500 align:start
<v Anna>Hi &amp; <i>bye</i></v>
<v.loud 王伟>No

01:00:00.000 --> 01:00:01.000
- Анна Иванова: Привет
- Ben: Yo: yes
"""
SRT = """1
00:00:01,000 --> 00:00:02,000
[SPEAKER_00]: So it is: fine

2
00:00:03,000 --> 00:00:04,500
So it is: fine
and more
"""
RTTM = """SPKR-INFO talk 1 <NA> <NA> <NA> unknown A <NA>
SPEAKER talk 1 1.5 2.0 <NA> <NA> A <NA> <NA>
SPEAKER talk 1 0.5 0.000 <NA> <NA> <NA> <NA> <NA>
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.rttm", RTTM, [Turn(0.5, 0.5), Turn(1.5, 3.5, "A")]),
        (
            "a.vtt",
            VTT,
            [
                Turn(1, 2.5, "Anna", "Hi & bye"),
                Turn(1, 2.5, "王伟", "No"),
                Turn(3600, 3601, "Анна Иванова", "Привет"),
                Turn(3600, 3601, "Ben", "Yo: yes"),
            ],
        ),
        ("a.srt", SRT, [Turn(1, 2, "SPEAKER_00", "So it is: fine"), Turn(3, 4.5, None, "So it is: fine and more")]),
        ("a.csv", "Start;Duration;Speaker\n2;1;B\n0.5;1;\n", [Turn(0.5, 1.5), Turn(2, 3, "B")]),
        ("a.csv", "start,end,speaker,text\n0,1,A,hi\n", [Turn(0, 1, "A", "hi")]),
        ("a.json", '[{"start": 0, "end": 1, "speaker": "A", "words": []}]', [Turn(0, 1, "A")]),
        ("a.json", '{"segments": [{"start": 0, "end": 1, "text": " hi"}]}', [Turn(0, 1, None, "hi")]),
        ("a.json", '{"chunks": [{"timestamp": [0, 1], "speaker": "A", "text": null}]}', [Turn(0, 1, "A")]),
    ],
)
def test_turns_of_each_format(tmp_path: Path, name: str, text: str, expected: list[Turn]):
    assert read_turns(written(tmp_path, name, "\ufeff" + text)) == expected


@pytest.mark.parametrize(("name", "text", "message"), TURNS)
def test_files_that_hold_no_turns(tmp_path: Path, name: str, text: str, message: str, default_csv_limit):
    with pytest.raises(ArgumentError, match=message):
        read_turns(written(tmp_path, name, text))


@pytest.fixture
def default_csv_limit() -> Iterator[None]:
    """Reading tables raises the limit of the csv module for the whole process."""
    before = csv.field_size_limit(131_072)
    yield
    csv.field_size_limit(before)


def test_a_file_with_several_recordings(tmp_path: Path):
    path = written(tmp_path, "all.rttm", "".join(f"SPEAKER {n} 1 0 1 <NA> <NA> of_{n} <NA> <NA>\n" for n in "ab"))
    assert read_turns(path, "b") == [Turn(0, 1, "of_b")]
    with pytest.raises(ArgumentError, match=r"several recordings \(a, b\), but not of c"):
        read_turns(path, "c")
    with pytest.raises(ArgumentError, match="Leave one in the file"):
        read_turns(path)
    (tmp_path / "latin.csv").write_bytes("start,end,speaker\n0,1,André\n".encode("latin-1"))
    with pytest.raises(ArgumentError, match="not UTF-8"):
        read_turns(tmp_path / "latin.csv")
    with pytest.raises(ArgumentError, match="is a folder; turns are read from a file"):
        read_turns(tmp_path)
    with pytest.raises(ArgumentError, match="cannot be read: No such file"):
        read_turns(tmp_path / "nowhere.csv")


@pytest.fixture(scope="module")
def pipe(checkpoint: Path) -> AudioTextEmotionPipeline:
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    return AudioTextEmotionPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory, clip) -> Path:
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, clip(4.0, 2), 16_000, subtype="FLOAT")
    return path


TURNS = [
    Turn(2.0, 3.5, "Анна", "Не верю!"),
    Turn(0.0, 1.5, "Анна"),
    Turn(1.0, 2.5, "Ben $1_x"),  # overlaps both of hers
    Turn(3.0, 3.0, "Ben $1_x"),  # empty
    Turn(3.5, 4.05),  # nobody, and a little beyond the end
]


@pytest.fixture(scope="module")
def conversation(pipe: AudioTextEmotionPipeline, talk: Path) -> dict:
    return pipe(str(talk), segments=TURNS, return_timestamps=True, batch_size=2)


def test_every_turn_is_answered_like_its_clip(pipe: AudioTextEmotionPipeline, talk: Path, conversation: dict, about):
    chunks = conversation["chunks"]
    assert [(chunk["speaker"], *chunk["timestamp"]) for chunk in chunks] == [
        ("Анна", 0, 1.5),
        ("Ben $1_x", 1, 2.5),
        ("Анна", 2, 3.5),
        ("Ben $1_x", 3, 3),
        (None, 3.5, 4),
    ]
    samples = decode_audio(talk)
    for chunk in chunks:
        start, end = (round(16_000 * second) for second in chunk["timestamp"])
        if start == end:
            assert chunk["emotions"] == []
            continue
        alone = pipe({"audio": {"array": samples[start:end], "sampling_rate": 16_000}, "text": chunk["text"]})
        scores = {entry["label"]: entry["score"] for entry in chunk["emotions"]}
        assert scores == about({entry["label"]: entry["score"] for entry in alone})


def test_an_empty_turn_with_a_text_is_answered_by_its_text(pipe: AudioTextEmotionPipeline, talk: Path, about):
    (chunk,) = pipe(str(talk), segments=[Turn(1, 1, "A", "Не верю!")], return_timestamps=True)["chunks"]
    assert chunk["emotions"] == [about(entry) for entry in pipe({"text": "Не верю!"})]


def test_the_summary_of_the_speakers_is_pooled(conversation: dict, about):
    anna, ben, nobody = conversation["speakers"]
    assert [(part["speaker"], part["turns"], part["seconds"]) for part in (anna, ben, nobody)] == [
        ("Анна", 2, pytest.approx(3)),
        ("Ben $1_x", 2, pytest.approx(1.5)),
        (None, 1, pytest.approx(0.5)),
    ]
    own = [chunk for chunk in conversation["chunks"] if chunk["speaker"] == "Анна"]
    pooled = {
        entry["label"]: np.mean(
            [one["score"] for chunk in own for one in chunk["emotions"] if one["label"] == entry["label"]]
        )
        for entry in anna["emotions"]
    }
    assert {entry["label"]: entry["score"] for entry in anna["emotions"]} == pytest.approx(pooled)
    assert sum(anna["shares"].values()) == pytest.approx(1)
    assert anna["confidence"] == pytest.approx(np.mean([chunk["emotions"][0]["score"] for chunk in own]))
    first, last = ({entry["label"]: entry["score"] for entry in chunk["emotions"]} for chunk in own)
    # Two turns of equal length, two seconds apart.
    assert anna["trend"] == pytest.approx({label: 30 * (last[label] - first[label]) for label in first})
    assert ben["trend"] is None
    assert [minute["timestamp"] for minute in anna["minutes"]] == [(0, 60)]
    assert anna["minutes"][0]["emotions"] == [about(entry) for entry in anna["emotions"]]


def test_a_turn_over_two_minutes_counts_in_both():
    from bibier_hf.model.speakers_bibier import summarize_speakers

    def chunk(start: float, end: float, happy: float, speaker: str = "A") -> dict:
        emotions = [{"label": "happy", "score": happy}, {"label": "sad", "score": 1 - happy}]
        emotions.sort(key=lambda entry: -entry["score"])
        return {"timestamp": (start, end), "speaker": speaker, "text": None, "emotions": emotions}

    chunks = [chunk(0, 10, 0.9), chunk(50, 70, 0.3), chunk(60, 60, 0.5, "B"), chunk(115, 120, 0.8)]
    a, b = summarize_speakers(chunks, lambda emotions: [emotions[0]["label"]])
    first, second = a["minutes"]
    assert (first["seconds"], first["turns"], second["seconds"], second["turns"]) == (20, 2, 15, 2)
    assert {entry["label"]: entry["score"] for entry in first["emotions"]} == pytest.approx({"happy": 0.6, "sad": 0.4})
    assert second["shares"] == pytest.approx({"sad": 2 / 3, "happy": 1 / 3})
    assert second["confidence"] == pytest.approx((10 * 0.7 + 5 * 0.8) / 15)
    assert (b["seconds"], b["turns"], b["shares"], len(b["minutes"])) == (0, 1, {b["emotions"][0]["label"]: 1}, 1)
    weights, middles = np.array([10, 20, 5]), np.array([5, 60, 117.5]) / 60
    slope = np.polyfit(middles, [0.9, 0.3, 0.8], 1, w=np.sqrt(weights))[0]
    assert a["trend"] == pytest.approx({"happy": slope, "sad": -slope})


def test_every_file_of_a_conversation(conversation: dict, tmp_path: Path):
    for result, name in ((conversation, "talk"), (per_minute(conversation), "minutes")):
        paths = {suffix: save_timeline(result, tmp_path / f"{name}{suffix}") for suffix in TIMELINE_FORMATS}
        rows = list(csv.DictReader(paths[".csv"].open(encoding="utf-8", newline="")))
        assert {row["speaker"] for row in rows} == {"Анна", "Ben $1_x", ""}
        assert ("share_anger" in rows[0], "confidence" in rows[0]) == (name == "minutes", name == "minutes")
        for suffix in (".json", ".csv", ".rttm"):
            turns = read_turns(paths[suffix])
            answered = [chunk for chunk in result["chunks"] if chunk["emotions"] or suffix != ".rttm"]
            assert [(turn.start, turn.end) for turn in turns] == [chunk["timestamp"] for chunk in answered]
            spoken = [(turn.speaker or "").replace(" ", "_") for turn in turns]
            assert spoken == [(chunk["speaker"] or "").replace(" ", "_") for chunk in answered]
        for suffix in (".srt", ".vtt"):
            assert {turn.speaker for turn in read_turns(paths[suffix])} == {"Анна", "Ben $1_x", None}
        assert paths[".png"].stat().st_size > 1000


def test_the_picture_says_how_to_read_it(conversation: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from bibier_hf.timeline import picture

    figures = []
    monkeypatch.setattr(picture.Figure, "savefig", lambda figure, *args, **options: figures.append(figure))
    explanation = {"audio": [{"timestamp": (0, 1), "effect": 0.2}], "carried_by": {"words": [], "audio": [0]}}
    chunks = [{**chunk, "unsure": place == 1} for place, chunk in enumerate(conversation["chunks"])]
    chunks[0] |= {"speaker": "A name of more than thirty letters", "explanation": explanation}
    picture.draw_timeline({**conversation, "chunks": chunks}, tmp_path / "a.png", "talk")
    picture.draw_timeline(conversation, tmp_path / "b.png", "talk")
    marked, plain = (figure.axes[0] for figure in figures)
    assert "pale if unsure; dark marks: what carried it" in marked.get_xlabel()
    assert plain.get_xlabel().endswith("a bar is as high as the probability of its emotion")
    assert marked.get_yticklabels()[0].get_text() == "A name of more than thirty le…"
    assert [label.get_text() for label in plain.get_yticklabels()] == ["Анна", "Ben $1_x", "unknown"]


def test_a_hundred_speakers(pipe: AudioTextEmotionPipeline, talk: Path, tmp_path: Path):
    turns = [Turn(0.01 * number, 0.01 * number + 0.3, f"Speaker {number}") for number in range(100)]
    result = pipe(str(talk), segments=turns, return_timestamps=True, batch_size=32)
    assert [summary["speaker"] for summary in result["speakers"]] == [turn.speaker for turn in turns]
    assert save_timeline(result, tmp_path / "talk.png").stat().st_size > 10_000


def fields_in_order(content: object, kind: object) -> bool:
    """Whether the fields of a JSON object and of all objects in it have the order of their types."""
    if isinstance(content, list):
        return all(fields_in_order(part, kind) for part in content)
    if not (isinstance(content, dict) and isinstance(kind, type) and issubclass(kind, BaseModel)):
        return True
    order = [name for name in kind.model_fields if name in content]
    inner = {name: _part(field.annotation) for name, field in kind.model_fields.items()}
    return list(content) == order and all(fields_in_order(content[name], inner[name]) for name in order)


def _part(annotation: object) -> object:
    """The type of the objects in `list[Word] | None`, and so on."""
    inner = getattr(annotation, "__args__", ())
    return next((found for one in inner if (found := _part(one)) is not None), None) if inner else annotation


def test_the_schema(pipe: AudioTextEmotionPipeline, talk: Path, conversation: dict, tmp_path: Path):
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == timeline_schema()
    said = timed_texts([Turn(0, 2, "A", "one two. Three"), Turn(2, 3, "B", "four")])
    results = [conversation, pipe(str(talk), chunk_length_s=2, return_timestamps=True, top_k=2, threshold=0.9)]
    everything = {"return_timestamps": True, "return_unsure": True, "explain": True}
    results += [pipe(str(talk), segments=TURNS[:4], **everything)]
    empty = results[-1]["chunks"][-1]
    assert (empty["emotions"], empty["unsure"], empty["unsure_reason"]) == ([], True, "too short")
    assert "explanation" not in empty
    results += [
        pipe({"audio": str(talk), "text": said}, granularity=granularity, return_timestamps=True)
        for granularity in ("word", "sentence", "utterance", "turn")
    ]
    assert [len(result["chunks"]) for result in results[3:]] == [4, 3, 2, 2]
    for result in results:
        content = json.loads(save_timeline(result, tmp_path / "talk.json").read_text(encoding="utf-8"))
        Timeline.model_validate(content)
        assert fields_in_order(content, Timeline)
