import shutil
from collections import Counter
from pathlib import Path

import pytest
from datasets import Audio, Dataset, load_dataset

from bibier_hf.data.corpora import get_corpus, load_corpus
from bibier_hf.data.corpora.resd import OFFICIAL_COUNTS, OFFICIAL_FOLDS, read_resd, resd_id
from bibier_hf.data.prepare import load_prepared
from bibier_hf.data.protocols import apply_protocol
from bibier_hf.data.schema import COLUMNS
from bibier_hf.data.tables import CorpusError, read_table
from bibier_hf.model.audio_bibier import decode_audio
from bibier_hf.model.labels_bibier import EMOTIONS


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_metadata_layout(tiny_resd):
    clips = {clip.text: clip for clip in read_resd(tiny_resd, strict_counts=False)}
    assert len(clips) == 9
    enthusiasm = clips["Ну, «ёлка» № 3!"]
    assert (enthusiasm.label, enthusiasm.split, enthusiasm.dialogue, enthusiasm.language) == (
        "surprise",
        "train",
        "resd-11",
        "ru",
    )
    assert (enthusiasm.license, enthusiasm.source) == ("MIT", "recorded")
    happiness = clips["Ну, «ёлка» № 4!"]
    assert happiness.label == "happy"
    assert happiness.dialogue == enthusiasm.dialogue
    assert happiness.speaker != enthusiasm.speaker
    assert clips["Ну, «ёлка» № 0!"].speaker == clips["Ну, «ёлка» № 1!"].speaker
    assert {clip.dialogue: clip.extra["fold"] for clip in clips.values()} == {
        "resd-02": 0,
        "resd-11": 1,
        "resd-19": 2,
        "resd-10": 3,
        "resd-46": 4,
    }


def test_both_layouts_give_the_same_bytes(tiny_resd, tiny_resd_original, tmp_path):
    for source, name in ((tiny_resd, "one"), (tiny_resd_original, "two")):
        get_corpus("resd").prepare(source, tmp_path / name, strict_counts=False)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.fixture
def clone(tiny_resd_original: Path, tmp_path: Path) -> Path:
    """The data set of the Hub, cloned: Parquet with the recordings inside."""
    folder = tmp_path / "resd_annotated"
    for split in ("train", "test"):
        rows = []
        for row in read_table(tiny_resd_original / f"{split}.csv"):
            (path,) = tiny_resd_original.rglob(f"{row.text('name')}.wav")
            speech = {"bytes": path.read_bytes(), "path": path.name}
            rows.append({"name": row.text("name"), "path": path.name, "speech": speech, **row.values})
        (folder / "data").mkdir(parents=True, exist_ok=True)
        # cast afterwards: encoding a row with Audio() would need torchcodec
        Dataset.from_list(rows).cast_column("speech", Audio()).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )
    return folder


def test_the_hub_layout_gives_the_same_bytes(tiny_resd_original, clone, tmp_path):
    for source, name in ((tiny_resd_original, "one"), (clone, "two")):
        get_corpus("resd").prepare(source, tmp_path / name, strict_counts=False)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    loaded = load_corpus("resd", clone, strict_counts=False)
    assert list(loaded["train"]["id"]) == list(load_corpus("resd", tmp_path / "one")["train"]["id"])


def test_an_id_of_the_hub_is_loaded_from_there_unless_a_folder_has_that_name(clone, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "bibier_hf.data.corpora.resd.load_dataset", lambda source: asked.append(source) or load_dataset(str(clone))
    )
    assert load_corpus("resd", "Aniemore/resd_annotated", strict_counts=False).num_rows == {"train": 6, "test": 3}
    without_texts = load_dataset(str(clone)).remove_columns("text")
    monkeypatch.setattr(
        "bibier_hf.data.corpora.resd.load_dataset", lambda source: asked.append(source) or without_texts
    )
    assert set(load_corpus("resd", "Aniemore/resd", strict_counts=False)["test"]["text"]) == {""}
    assert asked == ["Aniemore/resd_annotated", "Aniemore/resd"]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(clone, tmp_path / "Aniemore" / "resd")
    load_corpus("resd", "Aniemore/resd", strict_counts=False)
    assert asked[2:] == ["Aniemore/resd"]  # as a path
    monkeypatch.setattr(
        "bibier_hf.data.corpora.resd.load_dataset", lambda source: without_texts.remove_columns("speech")
    )
    with pytest.raises(CorpusError, match=r"has no columns \['speech'\]"):
        load_corpus("resd", "owner/other")
    with pytest.raises(FileNotFoundError, match="not the id of a data set on the Hub"):
        load_corpus("resd", "not/an/id")


def test_the_label_is_in_no_name(tiny_resd, tmp_path):
    get_corpus("resd").prepare(tiny_resd, tmp_path / "out", strict_counts=False)
    words = {*EMOTIONS, "happiness", "sadness", "enthusiasm"}
    for dataset in load_prepared(tmp_path / "out").values():
        for row in dataset:
            names = f"{row['id']} {row['audio']['path']} {row['speaker']} {row['dialogue']}"
            assert not [word for word in words if word in names]
            assert row["audio"]["path"] == row["id"] + ".flac"
            assert b"happi" not in row["audio"]["bytes"]


def test_a_clip_keeps_its_audio(tiny_resd):
    dataset = load_corpus("resd", tiny_resd, strict_counts=False)["train"]
    row = next(row for row in dataset if row["id"] == resd_id("02_anger_neutral a_010"))
    original = decode_audio(tiny_resd / "wavs" / "train" / "02_anger_neutral_a_010.flac")
    assert (decode_audio(row["audio"]) == original).all()


def test_enthusiasm_can_be_kept_apart_or_left_out(tiny_resd):
    kept = load_corpus("resd", tiny_resd, strict_counts=False, enthusiasm="keep")["train"]
    pairs = {
        (original, EMOTIONS[label]) for original, label in zip(kept["original_label"], kept["label"], strict=True)
    }
    assert ("enthusiasm", "surprise") in pairs
    assert ("happiness", "happy") in pairs
    merged = load_corpus("resd", tiny_resd, strict_counts=False)["train"]
    assert set(merged["original_label"]) == {None}
    assert merged.column_names[: len(COLUMNS)] == list(COLUMNS)
    assert "surprise" not in [clip.label for clip in read_resd(tiny_resd, strict_counts=False, enthusiasm="exclude")]
    with pytest.raises(CorpusError, match="allowed: surprise, keep, exclude"):
        read_resd(tiny_resd, enthusiasm="drop")


def test_enthusiasm_is_a_label_of_a_set_that_has_it(tiny_resd):
    labels = (*EMOTIONS, "enthusiasm")
    splits = load_corpus("resd", tiny_resd, strict_counts=False, labels=labels)
    seven = load_corpus("resd", tiny_resd, strict_counts=False)
    for split, rows in splits.items():
        assert rows.features["label"].names == list(labels)
        assert labels.index("surprise") not in rows["label"]
        assert ["surprise" if labels[label] == "enthusiasm" else labels[label] for label in rows["label"]] == [
            EMOTIONS[label] for label in seven[split]["label"]
        ]
    with pytest.raises(CorpusError, match="'resd' has one label"):
        load_corpus("resd", tiny_resd, strict_counts=False, label_column="mood")


def test_other_counts_than_the_published_ones_are_refused(tiny_resd):
    with pytest.raises(
        CorpusError,
        match=r"(?s)test anger: 0 clips, expected 44.*train anger: 2 clips, expected 175.*strict_counts=False",
    ):
        read_resd(tiny_resd)


@pytest.mark.parametrize("layout", ["tiny_resd", "tiny_resd_original"])
def test_missing_recordings_are_all_named(layout, request, tmp_path):
    folder = request.getfixturevalue(layout)
    for path in folder.rglob("*a_0?0.*"):
        path.unlink()
    with pytest.raises(CorpusError, match=r"(?s)\(2\).*a_010.*a_020"):
        get_corpus("resd").prepare(folder, tmp_path / "out", strict_counts=False)
    assert not (tmp_path / "out").exists()


def test_rows_that_contradict_themselves_are_refused(tiny_resd):
    edit(tiny_resd / "metadata.csv", '№ 0!",anger', '№ 0!",neutral')
    edit(tiny_resd / "metadata.csv", '№ 3!",enthusiasm', '№ 3!",calm')
    edit(tiny_resd / "metadata.csv", "46_sadness_disgust_d_010,", "clip_46,")
    with pytest.raises(
        CorpusError,
        match=r"(?s)line 2: the emotion 'neutral' contradicts.*line 5: Unknown label 'calm'.*'clip_46' is not a RESD name",
    ):
        read_resd(tiny_resd, strict_counts=False)


def test_a_doubled_row_is_refused(tiny_resd, tmp_path):
    table = tiny_resd / "metadata.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([*lines, lines[1]]) + "\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"line 11: the id 'resd-\w+' is also that of metadata.csv line 2"):
        get_corpus("resd").prepare(tiny_resd, tmp_path / "out", strict_counts=False)


def test_what_is_not_resd_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"no train\.csv and no test\.csv.*Allowed layouts"):
        read_resd(tmp_path)
    (tmp_path / "metadata.csv").write_text("audio,text\na,b\n")
    with pytest.raises(CorpusError, match=r"has no columns \['file_name', 'emotion', 'split'\]"):
        read_resd(tmp_path)


def test_the_embedded_folds_cover_every_dialogue_once():
    assert sorted(dialogue for fold in OFFICIAL_FOLDS for dialogue in fold) == list(range(1, 51))
    assert {split: sum(row.values()) for split, row in OFFICIAL_COUNTS.items()} == {"train": 1116, "test": 280}


# The real corpus, where it is at hand


@pytest.fixture(scope="module")
def real(shared: Path) -> Path:
    folder = shared / "data" / "resd"
    if not folder.is_dir():
        pytest.skip(f"RESD is not in {folder}")
    return folder


def test_the_real_corpus_has_the_published_counts_and_its_folds_are_the_embedded_ones(real):
    clips = read_resd(real)
    assert len(clips) == 1396
    assert len({clip.dialogue for clip in clips}) == 50
    assert len({clip.speaker for clip in clips}) == 100
    # one emotion a role: why the official split is not enough
    assert len({(clip.speaker, clip.label) for clip in clips}) == 100
    assert {int(clip.dialogue[-2:]): clip.extra["fold"] for clip in clips} == {
        dialogue: fold for fold, dialogues in enumerate(OFFICIAL_FOLDS) for dialogue in dialogues
    }
    assert Counter(clip.extra["fold"] for clip in clips) == {0: 292, 1: 260, 2: 268, 3: 281, 4: 295}
    assert len(read_resd(real, enthusiasm="exclude")) == 1396 - 198


@pytest.mark.slow
def test_the_real_corpus_is_prepared_twice_to_the_same_bytes_and_splits_as_decided(real, tmp_path):
    for name in ("one", "two"):
        get_corpus("resd").prepare(real, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    shutil.rmtree(tmp_path / "two")
    corpus = load_corpus("resd", tmp_path / "one")
    official = apply_protocol(corpus, "official")
    assert {split: len(dataset) for split, dataset in official.items()} == {"train": 982, "dev": 134, "test": 280}
    assert set(official["train"]["speaker"]) == set(corpus["train"]["speaker"])
    for fold in range(5):
        grouped = apply_protocol(corpus, "dialogue_grouped", fold=fold)
        assert not set(grouped["train"]["dialogue"]) & {*grouped["dev"]["dialogue"], *grouped["test"]["dialogue"]}
    assert sum(len(decode_audio(row["audio"])) for row in corpus["test"]) == pytest.approx(
        0.461 * 3600 * 16_000, rel=1e-2
    )
