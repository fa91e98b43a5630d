import shutil
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from bibier_hf import EMOTIONS
from bibier_hf.data.corpora import get_corpus, load_corpus
from bibier_hf.data.corpora.ravdess import EMOTION_CODES, default_split, ravdess_id, read_ravdess
from bibier_hf.data.prepare import load_prepared
from bibier_hf.data.protocols import ProtocolError, apply_protocol
from bibier_hf.data.tables import CorpusError


def names(actor: int) -> list[str]:
    """The 60 names of an actor's clips: neutral in one intensity, everything else in two."""
    cells = product(EMOTION_CODES, (1, 2), (1, 2), (1, 2))
    return [f"03-01-{code:02d}-{i:02d}-{s:02d}-{r:02d}-{actor:02d}" for code, i, s, r in cells if (code, i) != (1, 2)]


@pytest.fixture
def original(tmp_path: Path, write_tone) -> Path:
    """The original layout, actors 1, 17 and 24, and what else lies in such a folder; the clips are one and the same
    tone."""
    folder = tmp_path / "ravdess"
    write_tone(tmp_path / "tone.wav", seconds=0.02)
    for actor in (1, 17, 24):
        target = folder / "Audio_Speech_Actors_01-24" / f"Actor_{actor:02d}"
        target.mkdir(parents=True)
        for name in names(actor):
            shutil.copy(tmp_path / "tone.wav", target / f"{name}.wav")
    shutil.copy(
        tmp_path / "tone.wav", folder / "Audio_Speech_Actors_01-24" / "Actor_01" / "03-02-03-01-01-01-01.wav"
    )  # a song
    (folder / "Audio_Speech_Actors_01-24" / "Actor_01" / ".DS_Store").write_bytes(b"")
    return folder


def test_the_original_layout(original, tmp_path):
    info = get_corpus("ravdess").prepare(original, tmp_path / "out")
    assert {split: entry["rows"] for split, entry in info["splits"].items()} == {"train": 52, "dev": 52, "test": 52}
    assert info["splits"]["test"]["labels"] == {
        "anger": 8,
        "disgust": 8,
        "fear": 8,
        "happy": 8,
        "neutral": 4,
        "sad": 8,
        "surprise": 8,
    }
    assert info["remarks"] == {"left out: calm is none of the seven emotions": 24, "left out: song or video": 1}
    assert info["license"] == ["CC-BY-NC-SA-4.0"]
    rows = {row["id"]: row for row in load_prepared(tmp_path / "out")["test"]}
    row = rows[ravdess_id("03-01-05-02-02-01-24")]
    assert (row["label"], row["speaker"], row["text"]) == (0, "ravdess-24", "Dogs are sitting by the door.")
    assert not [name for name in rows if "03-01" in name]


@pytest.mark.parametrize(
    ("code", "label"),
    [
        ("01", "neutral"),
        ("03", "happy"),
        ("04", "sad"),
        ("05", "anger"),
        ("06", "fear"),
        ("07", "disgust"),
        ("08", "surprise"),
    ],
)
@pytest.mark.parametrize(
    ("sentence", "text"), [("01", "Kids are talking by the door."), ("02", "Dogs are sitting by the door.")]
)
def test_the_published_codes(tmp_path, code, label, sentence, text):
    """As the corpus's own page lists them."""
    folder = tmp_path / "Actor_03"
    folder.mkdir()
    (folder / f"03-01-{code}-01-{sentence}-01-03.wav").write_bytes(b"")
    (clip,) = read_ravdess(tmp_path, strict_counts=False)
    assert (clip.label, clip.text, clip.left_out) == (label, text, False)


def test_the_metadata_layout_gives_the_same_rows(original, tmp_path, write_csv):
    folder = original / "Audio_Speech_Actors_01-24"
    rows = []
    for clip in read_ravdess(original):
        if not clip.left_out:
            path = next(path for path in folder.rglob("*.wav") if ravdess_id(path.stem) == clip.id)
            row = {"file_name": path.relative_to(folder).as_posix(), "text": clip.text, "emotion": clip.label}
            rows.append(row | {"speaker": clip.speaker, "split": clip.split})
    write_csv(folder / "metadata.csv", rows)
    one = [clip for clip in read_ravdess(original) if not clip.left_out]
    two = read_ravdess(folder)
    assert [(a.id, a.label, a.split, a.audio) for a in one] == [(b.id, b.label, b.split, b.audio) for b in two]
    rows[0]["split"] = "test" if rows[0]["split"] == "train" else "train"
    rows[1]["emotion"] = "fear" if rows[1]["emotion"] != "fear" else "sad"
    write_csv(folder / "metadata.csv", rows)
    with pytest.raises(CorpusError, match=r"(?s)metadata.csv line 3:.*contradict the name.*is in the splits"):
        read_ravdess(folder)


def test_what_is_not_whole_is_refused(original, tmp_path):
    folder = original / "Audio_Speech_Actors_01-24" / "Actor_17"
    for name in ("03-01-08-01-01-01-17", "03-01-02-01-01-01-17"):
        (folder / f"{name}.wav").unlink()
    with pytest.raises(
        CorpusError, match=r"(?s)\(2\).*ravdess-17 surprise: 7 clips, expected 8.*calm: 7 clips, expected 0 or 8"
    ):
        read_ravdess(original)
    assert len(read_ravdess(original, strict_counts=False)) == 3 * 60 - 2 + 1
    shutil.copytree(original / "Audio_Speech_Actors_01-24", original / "copy")
    with pytest.raises(CorpusError, match=r"(?s)more than once \(179\).*Pass the folder of one copy"):
        read_ravdess(original)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="Allowed layouts"):
        read_ravdess(tmp_path / "empty")


def test_default_splits_keep_as_many_men_as_women():
    actors = Counter((default_split(actor), actor % 2) for actor in range(1, 25))
    assert actors == {("train", 0): 8, ("train", 1): 8, ("dev", 0): 2, ("dev", 1): 2, ("test", 0): 2, ("test", 1): 2}


@pytest.mark.slow
def test_the_real_corpus_is_prepared_twice_to_the_same_bytes(shared, tmp_path):
    real = shared / "data" / "ravdess"
    for name in ("one", "two"):
        get_corpus("ravdess").prepare(real, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    corpus = load_corpus("ravdess", tmp_path / "one")
    assert corpus.num_rows == {"train": 832, "dev": 208}
    with pytest.raises(ProtocolError, match=r"or speaker_independent\."):
        apply_protocol(corpus, "official")
    for fold in range(5):
        arranged = apply_protocol(corpus, "speaker_independent", fold=fold)
        assert {split: len(dataset) for split, dataset in arranged.items()} == {"train": 624, "dev": 208, "test": 208}
        assert len({(split, speaker) for split, dataset in arranged.items() for speaker in dataset["speaker"]}) == 20


def test_calm_is_a_label_of_a_set_that_has_it(original):
    labels = (*EMOTIONS, "calm")
    test = load_corpus("ravdess", original, labels=labels)["test"]
    assert test.features["label"].names == list(labels)
    assert list(test["label"]).count(labels.index("calm")) == 8
    assert len(test) == 60

    merged = load_corpus("ravdess", original, label_map={"calm": "neutral"})["test"]
    assert list(merged["label"]).count(EMOTIONS.index("neutral")) == 12


def test_intensity_can_be_the_label(original, tmp_path):
    info = get_corpus("ravdess").prepare(original, tmp_path / "out", label_column="intensity")
    assert info["labels"] == ["normal", "strong"]
    assert info["remarks"]["left out: neutral speech has only one intensity"] == 12
    assert info["splits"]["test"]["labels"] == {"normal": 28, "strong": 28}
    with pytest.raises(CorpusError, match="label_column='arousal'; allowed: emotion, intensity"):
        load_corpus("ravdess", original, label_column="arousal")
