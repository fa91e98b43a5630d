"""A timeline in each form, read back."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bibier_hf import EMOTIONS, extras
from bibier_hf.extras import MissingPackageError
from bibier_hf.timeline import TIMELINE_FORMATS, save_timeline
from bibier_hf.timeline.picture import EMOTION_COLOURS, clock, drawn_spans

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
        assert {label: float(row[label]) for label in EMOTIONS} == {
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


def test_srt_of_segments_that_begin_together(tmp_path: Path):
    chunks = [{**RESULT["chunks"][0], "timestamp": (1.0, end)} for end in (2.0, 3.0)]
    assert [cue[:3] for cue in read_srt(save_timeline({"chunks": chunks}, tmp_path / "talk.srt"))] == [(1, 1, 3)]


def test_picture_shows_the_colours_of_the_best_labels(tmp_path: Path):
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
    upper = image[: 2 * len(image) // 5, : int(0.85 * image.shape[1])]
    area = {}
    for label, colour in EMOTION_COLOURS.items():
        wanted = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        area[label] = int((np.abs(upper - wanted).max(-1) < 0.01).sum())
    assert area["happy"] > 1.3 * area["sad"] > 10_000  # 3 s of 70 % beside 3 s of 40 %
    assert not any(area[label] for label in EMOTIONS if label not in ("happy", "sad"))


def test_every_form_of_nothing_and_of_the_best_label_alone(tmp_path: Path):
    best = {"emotions": [], "chunks": [{**chunk, "emotions": chunk["emotions"][:1]} for chunk in RESULT["chunks"]]}
    for suffix in TIMELINE_FORMATS:
        assert save_timeline({"emotions": [], "chunks": []}, tmp_path / f"none{suffix}").exists()
        assert save_timeline(best, tmp_path / f"best{suffix}").stat().st_size > 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with (tmp_path / "best.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["sad"] == ""


def test_refusals_leave_what_was_there(tmp_path: Path):
    with pytest.raises(ValueError, match=r"'.txt'; a timeline is written as one of .json, .csv, .rttm, .srt, .png"):
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


def test_spans_without_overlap_and_times():
    assert drawn_spans([(0, 4), (2, 6), (4, 8), (9, 10)]) == [(0, 3), (3, 5), (5, 8), (9, 10)]
    assert [clock(second) for second in (0, 65, 3725)] == ["0:00", "1:05", "1:02:05"]
    assert set(EMOTION_COLOURS) == set(EMOTIONS)
