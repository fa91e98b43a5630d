import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bibier_hf import EMOTIONS
from bibier_hf.data.corpora import get_corpus, load_corpus
from bibier_hf.data.corpora.meld import KNOWN_FAULTS, OFFICIAL_COUNTS, meld_id, read_meld
from bibier_hf.data.prepare import load_prepared
from bibier_hf.data.protocols import ProtocolError, apply_protocol
from bibier_hf.data.tables import CorpusError, read_table
from bibier_hf.data.text import mend_text
from bibier_hf.data.video import decode_video
from bibier_hf.errors import ArgumentError
from bibier_hf.files import is_vacant
from bibier_hf.model.audio_bibier import decode_audio

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")

FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}

ROWS = [
    # split, dialogue, utterance, speaker, emotion, text, kind of clip
    ("train", 0, 0, "Chandler", "neutral", "You must\x92ve had your hands full\x85", "5.1"),
    ("train", 0, 1, "The Interviewer", "joy", "That I did.", "stereo"),
    ("train", 125, 3, "Ross", "neutral", "Oh, no-no-no", "broken"),
    ("train", 309, 0, "Joey and Ross", "joy", "Kathy!", "stereo"),
    ("dev", 0, 0, "Phoebe", "sadness", "Oh my God, he’s lost it.", "5.1"),
    ("dev", 110, 7, "Phoebe", "neutral", "Did they tell you anything?", None),
    ("test", 0, 0, "Woman", "surprise", "Why do all youâ€™re mugs have numbers?", "stereo"),
    ("test", 10, 0, "Joey/Drake", "anger", "Oh.", "5.1"),
    ("test", 2, 1, "Phoebe Sr.", "fear", "What?", "stereo"),
]


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """mp4 files with a picture: left channel only; centre of 5.1 only; one that is no mp4."""
    folder = tmp_path_factory.mktemp("videos")
    sounds = {"stereo": "0.6*sin(2*PI*300*t)|0:c=stereo", "5.1": "0|0|0.6*sin(2*PI*300*t)|0|0|0:c=5.1"}
    for name, sound in sounds.items():
        picture = ["-f", "lavfi", "-i", "color=c=black:s=32x32:r=5:d=0.5"]
        tone = ["-f", "lavfi", "-i", f"aevalsrc={sound}:s=48000:d=0.5"]
        command = [
            "ffmpeg",
            "-v",
            "error",
            *picture,
            *tone,
            "-c:v",
            "mpeg4",
            "-c:a",
            "aac",
            str(folder / f"{name}.mp4"),
        ]
        subprocess.run(command, check=True, timeout=60)
    return {name: (folder / f"{name}.mp4").read_bytes() for name in sounds} | {"broken": b"\0" * 500}


def write_tables(folder: Path, write_csv: Callable[..., Path], rows: list[tuple] = ROWS) -> None:
    for split in FOLDERS:
        table = [
            {
                "Sr No.": number,
                "Utterance": text,
                "Speaker": speaker,
                "Emotion": emotion,
                "Sentiment": {"joy": "positive", "neutral": "neutral"}.get(emotion, "negative"),
                "Dialogue_ID": dialogue,
                "Utterance_ID": utterance,
                "Season": 3,
                "Episode": 7,
                "StartTime": "00:16:16,059",
                "EndTime": "00:16:21,731",
            }
            for number, (own, dialogue, utterance, speaker, emotion, text, _) in enumerate(rows)
            if own == split
        ]
        write_csv(folder / f"{split}_sent_emo.csv", table)


@pytest.fixture
def unpacked(tmp_path: Path, videos: dict[str, bytes], write_csv: Callable[..., Path]) -> Path:
    """A folder of the official layout, unpacked to the end, with its strays."""
    folder = tmp_path / "MELD.Raw"
    write_tables(folder, write_csv)
    for split, dialogue, utterance, *_, kind in ROWS:
        if kind:
            path = folder / FOLDERS[split] / f"dia{dialogue}_utt{utterance}.mp4"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(videos[kind])
            os.utime(path, (1_500_000_000, 1_500_000_000))
    (folder / "train_splits" / "._dia0_utt0.mp4").write_bytes(b"a stray of macOS")
    (folder / "output_repeated_splits_test" / "final_videos_testdia0_utt0.mp4").write_bytes(b"another one")
    (folder / "README.txt").write_text("read me")
    return folder


def pack(folder: Path, target: Path) -> Path:
    """The official archive: tables and one archive a split."""
    with tarfile.open(target, "w:gz") as outer:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                outer.add(path, f"MELD.Raw/{path.name}")
                continue
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w:gz") as inner:
                inner.add(path, path.name)
            split = {own: split for split, own in FOLDERS.items()}[path.name]
            member = tarfile.TarInfo(f"MELD.Raw/{split}.tar.gz")
            member.size = buffer.tell()
            buffer.seek(0)
            outer.addfile(member, buffer)
    return target


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def prepare(source: Path, out: Path, **options) -> dict:
    return get_corpus("meld").prepare(source, out, strict_counts=False, **options)


@needs_ffmpeg
def test_the_archive_and_its_unpacked_forms_give_the_same_bytes(unpacked, tmp_path, monkeypatch):
    archive = pack(unpacked, tmp_path / "MELD.Raw.tar.gz")
    half = tmp_path / "half"  # the outer archive unpacked, the inner ones not
    with tarfile.open(archive) as outer:
        outer.extractall(half, filter="data")
    info = prepare(archive, tmp_path / "one")
    for name, source in (("two", unpacked), ("three", half)):
        monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / f"cache-{name}"))
        prepare(source, tmp_path / name)
        assert content(tmp_path / "one") == content(tmp_path / name)
    assert {split: entry["rows"] for split, entry in info["splits"].items()} == {"train": 4, "dev": 2, "test": 3}
    assert info["remarks"] == {
        "kept: the clip is cut wrongly": 1,
        "text mended (quotes, ellipses, wrongly decoded characters, blanks at the ends)": 3,
        "without audio: the clip cannot be decoded": 2,
    }


@needs_ffmpeg
def test_rows_in_the_common_schema(unpacked):
    splits = load_corpus("meld", unpacked, strict_counts=False)
    rows = {row["id"]: row for dataset in splits.values() for row in dataset}
    assert list(splits["test"]["id"]) == ["meld-test-dia0_utt0", "meld-test-dia2_utt1", "meld-test-dia10_utt0"]
    first = rows[meld_id("train", "dia0_utt0")]
    assert first["text"] == "You must've had your hands full..."
    assert (first["speaker"], first["dialogue"], first["language"], first["license"]) == (
        "meld-chandler",
        "meld-train-dia0",
        "en",
        "GPL-3.0",
    )
    assert rows["meld-dev-dia0_utt0"]["text"] == "Oh my God, he's lost it."
    assert rows["meld-test-dia0_utt0"]["text"] == "Why do all you're mugs have numbers?"
    assert rows["meld-train-dia125_utt3"]["audio"] is None
    assert rows["meld-train-dia125_utt3"]["duration_s"] is None
    speakers = {row["id"]: row["speaker"] for row in rows.values()}
    assert speakers["meld-train-dia0_utt1"] == "meld-s03e07-the-interviewer"  # somebody else in another episode
    assert speakers["meld-test-dia0_utt0"] == "meld-s03e07-woman"
    assert speakers["meld-train-dia309_utt0"] is None  # two at once
    assert speakers["meld-test-dia10_utt0"] == "meld-joey"
    assert speakers["meld-test-dia2_utt1"] == "meld-phoebe-sr"
    assert {split: len(dataset) for split, dataset in apply_protocol(splits, "official").items()} == {
        "train": 4,
        "dev": 2,
        "test": 3,
    }
    with pytest.raises(ProtocolError, match="needs the speaker of every clip; 1 of 9 have none"):
        apply_protocol(splits, "speaker_independent")


@needs_ffmpeg
@pytest.mark.parametrize(("kind", "channels"), [("stereo", 2), ("5.1", 6)])
def test_a_clip_is_the_mean_of_its_channels(videos, tmp_path, kind, channels):
    (tmp_path / "clip.mp4").write_bytes(videos[kind])
    samples = decode_video(tmp_path / "clip.mp4")
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(8000, abs=400)
    # a tone of amplitude 0.6 in one channel of several
    assert np.sqrt(2 * np.mean(samples[2000:6000] ** 2)) == pytest.approx(0.6 / channels, rel=0.02)


@needs_ffmpeg
def test_known_faults_are_treated_as_asked(unpacked, tmp_path):
    info = prepare(unpacked, tmp_path / "out", undecodable="drop", outliers="drop")
    assert info["rows"] == 6
    assert info["remarks"]["left out: the clip cannot be decoded"] == 2
    assert info["remarks"]["left out: the clip is cut wrongly"] == 1
    kept = load_corpus("meld", unpacked, strict_counts=False, outliers="text_only")["train"]
    audio = dict(zip(kept["id"], kept["audio"], strict=True))
    assert audio["meld-train-dia309_utt0"] is None
    assert len(decode_audio(audio["meld-train-dia0_utt1"])) > 7000


@needs_ffmpeg
def test_other_faults_are_errors_that_name_all_clips_and_keep_what_is_done(unpacked, tmp_path, videos):
    (unpacked / "train_splits" / "dia0_utt0.mp4").write_bytes(videos["broken"])
    (unpacked / "test" / "nothing").mkdir(parents=True)
    (unpacked / "output_repeated_splits_test" / "dia2_utt1.mp4").unlink()
    with pytest.raises(
        CorpusError, match=r"(?s)\(2\).*train/dia0_utt0.mp4: ffmpeg cannot.*test/dia2_utt1.mp4: there is no such clip"
    ):
        prepare(unpacked, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    flacs = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.flac")}
    assert len(flacs) == 5
    (unpacked / "train_splits" / "dia0_utt0.mp4").write_bytes(videos["5.1"])
    (unpacked / "output_repeated_splits_test" / "dia2_utt1.mp4").write_bytes(videos["stereo"])
    prepare(unpacked, tmp_path / "out")
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.flac")}
    assert len(again) == 7
    assert flacs.items() <= again.items()


@needs_ffmpeg
def test_a_source_is_gone_through_once_and_a_changed_clip_is_noticed(unpacked, tmp_path, videos, monkeypatch):
    before = load_corpus("meld", unpacked, strict_counts=False)["test"][0]["audio"]["bytes"]
    calls = []
    monkeypatch.setattr("bibier_hf.data.video.decode_video", lambda *a: calls.append(a) or decode_video(*a))
    load_corpus("meld", unpacked, strict_counts=False)
    assert calls == []
    (unpacked / "output_repeated_splits_test" / "dia0_utt0.mp4").write_bytes(videos["5.1"])
    assert load_corpus("meld", unpacked, strict_counts=False)["test"][0]["audio"]["bytes"] != before
    assert {path.name for path, _ in calls} == {"dia125_utt3.mp4", "dia0_utt0.mp4"}  # the known fault is tried again


KILLED = """
import sys
import bibier_hf.data.video as video
from bibier_hf.data.corpora import get_corpus
done, decode = [], video.decode_video
def slow(*arguments):
    if len(done) == 3:
        print("half", flush=True)
        import time; time.sleep(600)
    done.append(1)
    return decode(*arguments)
video.decode_video = slow
video.cpu_count = lambda: 1
get_corpus("meld").prepare(sys.argv[1], sys.argv[2], strict_counts=False)
"""


@pytest.mark.slow
@needs_ffmpeg
def test_a_killed_run_goes_on_where_it_was(unpacked, tmp_path, repository):
    archive = pack(unpacked, tmp_path / "MELD.Raw.tar.gz")
    environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "BIBIER_CACHE": str(tmp_path / "killed")}
    command = [sys.executable, "-c", KILLED, str(archive), str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "half\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    flacs = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*.flac") if path.parent.name in FOLDERS
    }
    assert 1 <= len(flacs) <= 3
    assert is_vacant(tmp_path / "out")  # but for the lock of the killed run
    prepare(archive, tmp_path / "whole")
    os.environ["BIBIER_CACHE"] = str(tmp_path / "killed")  # the fixture of the folder restores it
    prepare(archive, tmp_path / "resumed")
    assert content(tmp_path / "whole") == content(tmp_path / "resumed")
    assert all(path.stat().st_mtime_ns == modified for path, modified in flacs.items())
    assert not list((tmp_path / "killed").rglob(".*.bibier"))


def test_texts_alone_need_no_clips_and_no_ffmpeg(tmp_path, write_csv, monkeypatch):
    monkeypatch.setenv("PATH", "")
    write_tables(tmp_path / "texts", write_csv)
    info = prepare(tmp_path / "texts", tmp_path / "out", text_only=True)
    assert info["rows"] == 9
    assert list(load_prepared(tmp_path / "out")["train"]["audio"]) == [None] * 4
    with pytest.raises(CorpusError, match=r"has no clips.*--text_only"):
        prepare(tmp_path / "texts", tmp_path / "out")
    with pytest.raises(CorpusError, match="applies to clips"):
        prepare(tmp_path / "texts", tmp_path / "out", text_only=True, outliers="drop")
    with pytest.raises(CorpusError, match="allowed: keep, text_only, drop"):
        prepare(tmp_path / "texts", tmp_path / "out", outliers="cut")


def test_the_sentiment_can_be_the_label(tmp_path, write_csv):
    write_tables(tmp_path / "texts", write_csv)
    rows = get_corpus("meld").load(
        tmp_path / "texts", text_only=True, strict_counts=False, label_column="Sentiment", cache_dir=tmp_path
    )
    emotions = load_corpus("meld", tmp_path / "texts", text_only=True, strict_counts=False, cache_dir=tmp_path)
    for split, found in rows.items():
        assert found.features["label"].names == ["negative", "neutral", "positive"]
        names = [EMOTIONS[label] for label in emotions[split]["label"]]
        assert list(found["label"]) == [{"happy": 2, "neutral": 1}.get(name, 0) for name in names]
    with pytest.raises(CorpusError, match="allowed: Emotion, Sentiment"):
        read_meld(tmp_path / "texts", text_only=True, label_column="Mood")


def test_the_utterances_before_it_stand_behind_a_text(tmp_path, write_csv):
    said = ["One.", "Two.", "Three.", "Four."]
    rows = [
        ("train", 0, number, "Ross", "neutral", text, None) for number, text in zip((0, 1, 3, 10), said, strict=True)
    ]
    rows += [("train", 1, 0, "Ross", "joy", "Elsewhere.", None), ("dev", 0, 1, "Ross", "joy", "Another split.", None)]
    rows += [("test", 0, 0, "Ross", "joy", "A third.", None)]
    write_tables(tmp_path / "texts", write_csv, rows[::-1])
    context = {"utterances": 2, "speakers": False}
    splits = load_corpus("meld", tmp_path / "texts", text_only=True, strict_counts=False, context=context)
    texts = {row["id"]: row["text"] for rows in splits.values() for row in rows}
    assert texts == {
        "meld-train-dia0_utt0": "One.",
        "meld-train-dia0_utt1": "Two. | One.",
        "meld-train-dia0_utt3": "Three. | Two. | One.",
        "meld-train-dia0_utt10": "Four. | Three. | Two.",
        "meld-train-dia1_utt0": "Elsewhere.",
        "meld-dev-dia0_utt1": "Another split.",
        "meld-test-dia0_utt0": "A third.",
    }
    with pytest.raises(ArgumentError, match=r"utterances"):
        load_corpus("meld", tmp_path / "texts", text_only=True, strict_counts=False, context={"utterances": -1})


def test_a_missing_ffmpeg_and_a_full_disk_are_said_before_anything_is_done(tmp_path, write_csv, monkeypatch):
    write_tables(tmp_path / "meld", write_csv)
    (tmp_path / "meld" / "train_splits").mkdir()
    (tmp_path / "meld" / "train_splits" / "dia0_utt0.mp4").write_bytes(b"")
    monkeypatch.setattr("bibier_hf.data.video.shutil.which", lambda name: None)
    with pytest.raises(CorpusError, match="apt-get install ffmpeg"):
        prepare(tmp_path / "meld", tmp_path / "out")
    monkeypatch.setattr("bibier_hf.data.video.shutil.which", lambda name: "/usr/bin/ffmpeg")
    monkeypatch.setattr(
        "bibier_hf.data.video.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 100_000)
    )
    with pytest.raises(CorpusError, match=r"1 clips to convert need up to 0.00 GB.*BIBIER_CACHE"):
        prepare(tmp_path / "meld", tmp_path / "out")


def hostile(kind: str) -> tarfile.TarInfo:
    names = {"escape": "MELD.Raw/../../train_splits/dia0_utt0.mp4", "absolute": "/tmp/train_splits/dia0_utt0.mp4"}
    member = tarfile.TarInfo(names.get(kind, "MELD.Raw/train_splits/dia0_utt0.mp4"))
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member


@pytest.mark.parametrize("kind", ["escape", "absolute"])
def test_paths_out_of_the_archive_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        archive.addfile(hostile(kind))
    with pytest.raises(CorpusError, match="leads out of it"):
        read_meld(tmp_path / "evil.tar.gz", text_only=True)


@needs_ffmpeg
def test_links_in_an_archive_are_not_followed(tmp_path, unpacked):
    (unpacked / "train_splits" / "dia0_utt0.mp4").unlink()
    archive = pack(unpacked, tmp_path / "whole.tar.gz")
    with tarfile.open(archive) as old, tarfile.open(tmp_path / "linked.tar.gz", "w:gz") as new:
        new.addfile(hostile("link"))
        for member in old:
            new.addfile(member, old.extractfile(member))
    with pytest.raises(CorpusError, match=r"(?s)\(1\).*train/dia0_utt0.mp4: there is no such clip"):
        prepare(tmp_path / "linked.tar.gz", tmp_path / "out")


def test_an_archive_that_is_cut_short_or_none_is_said(tmp_path, write_csv):
    write_tables(tmp_path / "MELD.Raw", write_csv)
    whole = pack(tmp_path / "MELD.Raw", tmp_path / "MELD.Raw.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.tar.gz").write_text("<html>404</html>")
    for name in ("cut", "page"):
        with pytest.raises(CorpusError, match="download it again"):
            read_meld(tmp_path / f"{name}.tar.gz", text_only=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="none of MELD's tables"):
        read_meld(tmp_path / "empty", text_only=True)


def test_faulty_rows_and_other_counts_are_refused(tmp_path, write_csv):
    rows = [*ROWS[:4], ("dev", "x", 0, "Ross", "joy", "Hi", None), ("test", 0, 0, "Ross", "calm", "Hi", None)]
    write_tables(tmp_path / "texts", write_csv, rows)
    with pytest.raises(
        CorpusError, match=r"(?s)dev_sent_emo.csv line 2: Dialogue_ID.*must be numbers.*Unknown label 'calm'"
    ):
        read_meld(tmp_path / "texts", text_only=True)
    write_tables(tmp_path / "few", write_csv)
    with pytest.raises(CorpusError, match=r"(?s)dev anger: 0 clips, expected 153.*strict_counts=False"):
        read_meld(tmp_path / "few", text_only=True)
    shutil.copytree(tmp_path / "few", tmp_path / "twice" / "a")
    shutil.copytree(tmp_path / "texts", tmp_path / "twice" / "b")
    with pytest.raises(CorpusError, match=r"contains \w+_sent_emo.csv twice"):
        read_meld(tmp_path / "twice", text_only=True)


def test_the_published_counts():
    assert {split: sum(row.values()) for split, row in OFFICIAL_COUNTS.items()} == {
        "train": 9989,
        "dev": 1109,
        "test": 2610,
    }


# The real texts, where they are at hand


@pytest.fixture(scope="module")
def real(shared: Path) -> Path:
    return shared / "data" / "meld_text"


def test_the_real_texts_have_the_published_counts(real):
    clips = {clip.id: clip for clip in read_meld(real, text_only=True)}
    assert len(clips) == 13_708
    assert len({clip.dialogue for clip in clips.values()}) == 1432
    for name in KNOWN_FAULTS:
        assert meld_id(*name.split("/")) in clips
    assert sum(bool(clip.remarks) for clip in clips.values()) == 3719
    assert not [clip.text for clip in clips.values() if set(clip.text) & set("\x92\x85\x97’‘“”…\xa0")]


def test_the_published_labels_join_the_real_texts_whatever_their_encoding(real, shared):
    """The published table holds the characters that cp1252 leaves behind; mended, the texts are the same."""
    texts = {clip.id: clip.text for clip in read_meld(real, text_only=True)}
    rows = read_table(shared / "data" / "llm_labels" / "Qwen3-4B_emotions_meld_1.csv")
    assert len(rows) == 9989
    written = {meld_id("train", row.text("video_name")): row.values["text"] for row in rows}
    assert sum("\x92" in text for text in written.values()) > 2000
    assert {name for name, text in written.items() if mend_text(text) != texts[name]} == {
        "meld-train-dia556_utt6"
    }  # another text there
