"""A timeline in each form, read back."""

import csv
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bibier_hf import EMOTIONS, extras
from bibier_hf.extras import MissingPackageError
from bibier_hf.palette import EMOTION_COLORS
from bibier_hf.timeline import TIMELINE_FORMATS, read_turns, save_timeline
from bibier_hf.timeline.formats import clock, smooth_curves

matplotlib_image = pytest.importorskip("matplotlib.image")


def emotions(best: str, score: float) -> list[dict]:
    rest = [{"label": label, "score": (1 - score) / 6} for label in EMOTIONS if label != best]
    return [{"label": best, "score": score}, *rest]


RESULT = {
    "emotions": emotions("happy", 0.5),
    "chunks": [
        {"timestamp": (0.0, 4.0), "text": 'Well, "yes"\nand no', "emotions": emotions("happy", 0.7)},
        {"timestamp": (2.0, 6.0), "text": None, "emotions": emotions("sad", 0.4)},
        {"timestamp": (3725.5, 3729.25), "text": "Не верю!", "emotions": emotions("anger", 0.91)},
    ],
}


def read_rttm(path: Path) -> list[tuple]:
    """(recording, start, duration, label, confidence) of each line"""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, recording, channel, start, duration, orthography, subtype, label, confidence, lookahead = line.split(" ")
        assert (kind, channel, orthography, subtype, lookahead) == ("SPEAKER", "1", "<NA>", "<NA>", "<NA>")
        rows.append((recording, float(start), float(duration), label, float(confidence)))
    return rows


def read_srt(path: Path) -> list[tuple]:
    """(number, start, end, lines) of each subtitle"""
    cues = []
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        number, times, *lines = block.split("\n")
        fields = re.fullmatch(r"(\d\d):(\d\d):(\d\d),(\d\d\d) --> (\d\d):(\d\d):(\d\d),(\d\d\d)", times).groups()
        h, m, s, ms, h2, m2, s2, ms2 = map(int, fields)
        cues.append((int(number), 3600 * h + 60 * m + s + ms / 1000, 3600 * h2 + 60 * m2 + s2 + ms2 / 1000, lines))
    return cues


def test_json(tmp_path: Path):
    path = save_timeline(RESULT, tmp_path / "new" / "talk.json")
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read["emotions"] == RESULT["emotions"]
    assert [{**chunk, "timestamp": tuple(chunk["timestamp"])} for chunk in read["chunks"]] == RESULT["chunks"]


def test_csv(tmp_path: Path):
    with save_timeline(RESULT, tmp_path / "talk.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for row, chunk in zip(rows, RESULT["chunks"], strict=True):
        assert (float(row["start"]), float(row["end"])) == chunk["timestamp"]
        assert (row["label"], float(row["score"])) == tuple(chunk["emotions"][0].values())
        assert row["text"] == (chunk["text"] or "")
        assert {label: float(row[f"p_{label}"]) for label in EMOTIONS} == {
            entry["label"]: entry["score"] for entry in chunk["emotions"]
        }


def test_rttm(tmp_path: Path):
    rows = read_rttm(save_timeline(RESULT, tmp_path / "my talk.rttm"))
    assert rows == [
        ("my_talk", 0, 4, "happy", 0.7),
        ("my_talk", 2, 4, "sad", 0.4),
        ("my_talk", 3725.5, 3.75, "anger", 0.91),
    ]
    assert read_rttm(save_timeline(RESULT, tmp_path / "talk.rttm", name="call 7"))[0][0] == "call_7"


def test_srt(tmp_path: Path):
    assert read_srt(save_timeline(RESULT, tmp_path / "talk.srt")) == [
        (1, 0, 2, ["happy 70%", 'Well, "yes"', "and no"]),  # until the next one begins
        (2, 2, 6, ["sad 40%"]),
        (3, 3725.5, 3729.25, ["anger 91%", "Не верю!"]),
    ]


def test_subtitles_and_rttm_of_names_and_words_that_look_like_their_syntax(tmp_path: Path):
    said = "00:00:07,000 --> 00:00:09,000\r\n\r\nNOTE <b>5 > 4</b> & more"
    names = ["Anna\n\n1", " \t", "<v Ben> --> C", "A: B"]
    chunks = [
        {"timestamp": (float(place), place + 1.0), "speaker": name, "text": said, "emotions": emotions("happy", 0.7)}
        for place, name in enumerate(names)
    ]
    result = {"emotions": [], "chunks": chunks}
    for suffix in (".srt", ".vtt"):
        path = save_timeline(result, tmp_path / f"talk{suffix}")
        assert path.read_text(encoding="utf-8").count("-->") == 4
        assert sorted({(turn.start, turn.end) for turn in read_turns(path)}) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert [turn.speaker for turn in read_turns(tmp_path / "talk.vtt")] == ["Anna 1", None, "<v Ben> --> C", "A: B"]
    turns = read_turns(save_timeline(result, tmp_path / "talk.rttm"))
    assert [turn.speaker for turn in turns] == ["Anna_1", None, "<v_Ben>_-->_C", "A:_B"]


def test_srt_of_segments_that_begin_together(tmp_path: Path):
    chunks = [{**RESULT["chunks"][0], "timestamp": (1.0, end)} for end in (2.0, 3.0)]
    assert [cue[:3] for cue in read_srt(save_timeline({"chunks": chunks}, tmp_path / "talk.srt"))] == [(1, 1, 3)]


def test_picture_is_solid_where_a_label_is_the_best(tmp_path: Path):
    result = {
        "chunks": [
            {**chunk, "timestamp": span}
            for chunk, span in zip(RESULT["chunks"], [(0, 4), (2, 6), (6, 9)], strict=True)
        ]
    }
    result["chunks"][2] = {
        **result["chunks"][2],
        "emotions": [{"label": "unsure", "score": 0.91}, *emotions("anger", 0.91)],
    }
    image = matplotlib_image.imread(save_timeline(result, tmp_path / "talk.png"))[:, :, :3]
    area = {}
    for label, color in EMOTION_COLORS.items():
        wanted = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        area[label] = int((np.abs(image - wanted).max(-1) < 0.01).sum())
    assert area["happy"] > 1.3 * area["sad"] > 3_000  # 70 % for more than 3 s, 40 % for less
    others = [area[label] for label in EMOTIONS if label not in ("happy", "sad")]
    assert max(others) < 100  # edges of gray letters


def test_every_form_of_nothing_and_of_the_best_label_alone(tmp_path: Path):
    best = {"emotions": [], "chunks": [{**chunk, "emotions": chunk["emotions"][:1]} for chunk in RESULT["chunks"]]}
    for suffix in TIMELINE_FORMATS:
        assert save_timeline({"emotions": [], "chunks": []}, tmp_path / f"none{suffix}").exists()
        assert save_timeline(best, tmp_path / f"best{suffix}").stat().st_size > 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with (tmp_path / "best.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["p_sad"] == ""


def test_refusals_leave_what_was_there(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"'.txt'; a timeline is written as one of .json, .csv, .rttm, .srt, .vtt, .png"
    ):
        save_timeline(RESULT, tmp_path / "talk.txt")
    with pytest.raises(ValueError, match="return_timestamps=True"):
        save_timeline(RESULT["emotions"], tmp_path / "talk.json")
    path = save_timeline(RESULT, tmp_path / "talk.json")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_timeline({"emotions": [], "chunks": [], "level": float("nan")}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"needs the package matplotlib.*bibier-hf\[train\]"):
        save_timeline(RESULT, tmp_path / "talk.png")
    assert list(tmp_path.iterdir()) == []


def chunk(start: float, end: float, **scores: float) -> dict:
    best_first = sorted(scores.items(), key=lambda item: -item[1])
    return {"timestamp": (start, end), "emotions": [{"label": label, "score": score} for label, score in best_first]}


def test_curves_are_the_smoothed_scores():
    chunks = [chunk(3 * i, 3 * i + 3, **dict(zip(("happy", "sad"), (p, 1 - p), strict=True))) for i, p in PATTERN]
    curves = smooth_curves(chunks, points=601)
    assert (curves.times[0], curves.times[-1]) == (0, 30)
    assert sum(curves.values.values()) == pytest.approx(np.ones(601))
    for index, share in PATTERN:  # in the middle of a chunk its own score counts for most
        middle = curves.values["happy"][60 * index + 30]
        assert middle == pytest.approx(share, abs=0.1)
    assert np.abs(np.diff(curves.values["happy"])).max() < 0.03  # no steps
    assert list(curves.values) == ["happy", "sad"]


PATTERN = list(enumerate([0.9, 0.9, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1]))


def test_a_long_recording_is_no_barcode():
    """Half an hour that changes every three seconds: what is the strongest changes much less often."""
    generator = np.random.default_rng(0)
    chunks = [
        chunk(3 * i, 3 * i + 3, **dict(zip(EMOTIONS, generator.dirichlet([1] * 7), strict=True))) for i in range(600)
    ]
    best = [entry["emotions"][0]["label"] for entry in chunks]
    curves = smooth_curves(chunks)
    assert sum(one != other for one, other in pairwise(best)) > 400
    assert 0 < (curves.strongest[1:] != curves.strongest[:-1]).sum() < 100
    assert curves.highest == max(curve.max() for curve in curves.values.values())


def test_curves_of_overlaps_gaps_doubts_and_nothing():
    curves = smooth_curves([chunk(0, 4, happy=1.0), chunk(2, 6, sad=1.0), chunk(10, 12, sad=1.0)], points=121)
    assert curves.values["happy"][30] == pytest.approx(0.5, abs=1e-3)  # the middle of the overlap
    assert curves.values["sad"][80] == 0  # nothing is said at 8 s
    assert curves.where_strongest("happy")[50] == 0 < curves.where_strongest("sad")[50]
    doubt = smooth_curves([chunk(0, 4, unsure=0.4, sad=0.4, calm=0.3), chunk(4, 8, calm=0.8, sad=0.2)], points=81)
    assert list(doubt.values) == ["sad", "calm"]
    assert not doubt.where_strongest("sad").any()
    assert not doubt.where_strongest("calm")[:35].any()
    assert doubt.where_strongest("calm")[45:].all()
    assert smooth_curves([]).values == {}


def test_a_model_with_other_labels_has_columns_for_them(tmp_path: Path):
    result = {"chunks": [chunk(0, 4, calm=0.8, sad=0.2)]}
    for labels, columns in ((None, ["sad", "calm"]), (["calm", "happy", "sad"], ["calm", "happy", "sad"])):
        path = save_timeline(result, tmp_path / "talk.csv", labels=labels)
        with path.open(encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file))
        assert list(row)[5:] == [f"p_{label}" for label in columns]
        assert (row["p_calm"], row["p_sad"], row.get("p_happy", "")) == ("0.8", "0.2", "")


def test_times():
    assert [clock(second) for second in (0, 65, 3725)] == ["0:00", "1:05", "1:02:05"]
    assert [clock(second) for second in (59.96, 60.04, 72.5, 3600)] == ["1:00", "1:00", "1:12.5", "1:00:00"]
