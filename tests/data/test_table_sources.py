"""Tables that are no text file: Parquet, saved data sets, the Hub, a folder for each label or split."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, ClassLabel, Dataset, DatasetDict

from bibier_hf.data import table_sources
from bibier_hf.data.corpora import get_corpus, load_corpus
from bibier_hf.data.corpora.table import read_csv
from bibier_hf.data.tables import CorpusError
from bibier_hf.model.labels_bibier import EMOTIONS


@pytest.fixture
def recordings(tmp_path, write_tone):
    """Contents of three files."""
    for number in range(3):
        write_tone(tmp_path / f"{number}.wav", 200 + 50 * number, channels=2)
    return [(tmp_path / f"{number}.wav").read_bytes() for number in range(3)]


@pytest.fixture
def splits(recordings):
    """A data set as others publish it: own names of columns, classes, recordings within."""
    made = {}
    for number, split in enumerate(("train", "validation", "test")):
        clip = {"bytes": recordings[number], "path": "x.wav"}
        columns = {"clip": [clip, None], "words": ["Oh.", "No."], "mood": [0, 1], "who": [1, 2]}
        rows = Dataset.from_dict(columns).cast_column("clip", Audio())
        made[split] = rows.cast_column("mood", ClassLabel(names=["sadness", "joy"]))
    return DatasetDict(made)


NAMES = {"audio_column": "clip", "text_column": ["words"], "label_column": "mood", "speaker_column": "who"}


def check(corpus: DatasetDict) -> None:
    assert list(corpus) == ["train", "dev", "test"]
    for rows in corpus.values():
        assert [EMOTIONS[label] for label in rows["label"]] == ["sad", "happy"]
        assert list(rows["text"]) == ["Oh.", "No."]
        assert list(rows["speaker"]) == ["1", "2"]
        assert rows[0]["duration_s"] == pytest.approx(0.2)
        assert rows[1]["audio"] is None


def test_a_saved_data_set(tmp_path, splits):
    splits.save_to_disk(tmp_path / "saved")
    corpus = load_corpus("csv", tmp_path / "saved", language="en", **NAMES)
    check(corpus)
    assert set(corpus["train"]["corpus"]) == {"saved"}
    assert [clip.where for clip in read_csv(tmp_path / "saved", language="en", **NAMES)][:3] == [
        "saved train row 1",
        "saved train row 2",
        "saved validation row 1",
    ]
    again = load_corpus("csv", tmp_path / "saved", language="en", channel=1, **NAMES)
    assert again["train"]["id"] == corpus["train"]["id"]


def test_one_split_alone_is_split_here(tmp_path, splits):
    rows = datasets.concatenate_datasets([splits["train"]] * 4)
    DatasetDict(train=rows).save_to_disk(tmp_path / "dictionary")
    rows.save_to_disk(tmp_path / "saved")
    for name in ("dictionary", "saved"):
        clips = read_csv(tmp_path / name, language="en", group_by="none", dev_share=0.25, test_share=0.25, **NAMES)
        assert sorted(clip.split for clip in clips) == ["dev"] * 2 + ["test"] * 2 + ["train"] * 4


def test_a_data_set_on_the_hub(splits, monkeypatch):
    asked = []
    monkeypatch.setattr(table_sources, "load_dataset", lambda *given: asked.append(given) or splits)
    corpus = load_corpus("csv", "someone/moods", language="en", subset="en", **NAMES)
    check(corpus)
    assert set(corpus["train"]["corpus"]) == {"moods"}
    assert asked == [("someone/moods", "en")]


def test_what_the_hub_answers_is_one_line(monkeypatch):
    def refuse(*_):
        raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['en', 'ru']")

    monkeypatch.setattr(table_sources, "load_dataset", refuse)
    with pytest.raises(CorpusError, match=r"someone/moods cannot be loaded from the Hub \(Config .* \['en', 'ru'\]\)"):
        load_corpus("csv", "someone/moods", language="en")
    with pytest.raises(FileNotFoundError, match="No corpus at 'nothing'"):
        load_corpus("csv", "nothing", language="en")
    with pytest.raises(CorpusError, match="needs a folder"):
        load_corpus("csv", language="en")


def test_splits_of_other_names_are_refused(tmp_path, splits):
    DatasetDict(train=splits["train"], extra=splits["test"]).save_to_disk(tmp_path / "saved")
    with pytest.raises(CorpusError, match=r"has the splits \['extra'\]; allowed: train, dev, test, val"):
        read_csv(tmp_path / "saved", language="en", **NAMES)


@pytest.mark.parametrize("form", ["Audio", "bytes with a path", "bytes"])
def test_parquet_with_recordings(tmp_path, splits, recordings, form):
    path = tmp_path / "t.parquet"
    if form == "Audio":
        datasets.concatenate_datasets([splits["train"]] * 2).to_parquet(path)
    else:
        clips = [recordings[0] if form == "bytes" else {"bytes": recordings[0], "path": "a.wav"}, None]
        columns = {"clip": clips, "words": ["Oh.", "No."], "mood": ["sad", "joy"], "who": [1, 2]}
        pq.write_table(pa.table({name: values * 2 for name, values in columns.items()}), path)
    clips = read_csv(path, language="en", group_by="none", dev_share=0.25, test_share=0.25, **NAMES)
    assert [clip.label for clip in clips] == ["sad", "happy"] * 2
    assert [clip.where for clip in clips][:2] == ["t.parquet row 1", "t.parquet row 2"]
    assert clips[0].audio().shape == (3200,)
    assert clips[1].audio is None


def test_parquet_with_paths_and_faults(tmp_path, recordings):
    table = {"audio": ["0.wav", "1.wav", "2.wav"], "label": ["sad"] * 3, "split": ["train", "dev", "test"]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    assert load_corpus("csv", tmp_path / "t.parquet", language="en").num_rows == {"train": 1, "dev": 1, "test": 1}
    with pytest.raises(CorpusError, match=r"encoding does not apply to \.parquet"):
        read_csv(tmp_path / "t.parquet", language="en", encoding="cp1251")
    with pytest.raises(CorpusError, match=r"subset='a' is for data sets on the Hub"):
        read_csv(tmp_path / "t.parquet", language="en", subset="a")
    pq.write_table(pa.table({"clip": [b"no audio"], "label": ["sad"], "split": ["test"]}), tmp_path / "t.parquet")
    with pytest.raises(CorpusError, match=r"(?s)Audio that cannot be read.*t\.parquet row 1"):
        load_corpus("csv", tmp_path / "t.parquet", language="en", audio_column="clip")
    with pytest.raises(CorpusError, match=r"t\.parquet row 1: 'clip' is .*it must be a text or a number"):
        read_csv(tmp_path / "t.parquet", language="en", text_column=["clip"])
    (tmp_path / "t.parquet").write_bytes(b"no Parquet")
    with pytest.raises(CorpusError, match="not a readable Parquet file"):
        read_csv(tmp_path / "t.parquet", language="en")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    with pytest.raises(CorpusError, match="has no rows"):
        read_csv(tmp_path / "empty.parquet", language="en")


def _label_folders(folder: Path, write_tone) -> None:
    for number, name in enumerate(("Joy", "sad", "anger")):
        for take in range(4):
            write_tone(folder / name / f"{take}.wav", 200 + 50 * number + 5 * take)


def test_a_folder_for_each_label(tmp_path, write_tone):
    folder = tmp_path / "moods"
    _label_folders(folder, write_tone)
    (folder / "sad" / ".DS_Store").touch()
    corpus = load_corpus("csv", folder, language="en", dev_share=0.25, test_share=0.25)
    assert corpus.num_rows == {"train": 6, "dev": 3, "test": 3}
    assert {EMOTIONS[label] for label in corpus["test"]["label"]} == {"happy", "sad", "anger"}
    assert set(corpus["test"]["corpus"]) == {"moods"}
    assert read_csv(folder, language="en")[0].where == "moods/Joy/0.wav"
    (folder / "sad" / "notes.txt").touch()
    (folder / "sad" / "more").mkdir()
    with pytest.raises(
        CorpusError, match=r"(?s)LABEL/FILE \(2\):.*sad/more: a folder.*sad/notes\.txt: not audio; allowed"
    ):
        read_csv(folder, language="en")


def test_folders_of_splits(tmp_path, write_csv, write_tone):
    for split in ("train", "validation", "test"):
        _label_folders(tmp_path / "moods" / split, write_tone)
    assert load_corpus("csv", tmp_path / "moods", language="en").num_rows == {"train": 12, "dev": 12, "test": 12}
    for split in ("train", "test"):
        folder = tmp_path / "tables" / split
        write_tone(folder / "a.wav", 300)
        write_csv(folder / "metadata.csv", [{"file_name": "a.wav", "label": "sad", "language": "en"}])
    assert [(clip.split, clip.audio) for clip in read_csv(tmp_path / "tables")] == [
        ("test", tmp_path / "tables" / "test" / "a.wav"),
        ("train", tmp_path / "tables" / "train" / "a.wav"),
    ]
    write_csv(tmp_path / "tables" / "test" / "metadata.csv", [{"text": "a", "label": "sad", "split": "dev"}])
    with pytest.raises(CorpusError, match="names splits twice: by files or folders, and in the column 'split'"):
        read_csv(tmp_path / "tables", language="en")


def test_a_table_for_each_split(tmp_path, write_csv):
    for name in ("train", "val", "test"):
        write_csv(tmp_path / "talks" / f"{name}.csv", [{"text": name, "label": "sad"}])
    info = get_corpus("csv").prepare(tmp_path / "talks", tmp_path / "out", language="en")
    assert info["name"] == "talks"
    assert {split: entry["rows"] for split, entry in info["splits"].items()} == {"train": 1, "dev": 1, "test": 1}


def test_an_empty_folder_says_what_it_may_hold(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="hold a folder for each label, or hold exactly one; found: none"):
        read_csv(tmp_path / "empty", language="en")
