import json
import os
import threading
from collections import Counter

import pytest

from bibier_hf.data.corpora import get_corpus, load_corpus
from bibier_hf.data.corpora.table import read_csv
from bibier_hf.data.protocols import apply_protocol
from bibier_hf.data.schema import FEATURES
from bibier_hf.data.tables import CorpusError
from bibier_hf.model.labels_bibier import EMOTIONS


def test_a_table_becomes_a_corpus_that_the_protocols_take(tmp_path, write_csv, table_rows):
    rows = table_rows(tmp_path)
    write_csv(tmp_path / "talks.csv", rows)
    corpus = load_corpus("csv", tmp_path / "talks.csv", license="CC-BY-4.0")
    assert list(corpus) == ["train", "dev", "test"]
    assert sum(corpus.num_rows.values()) == len(rows)
    assert corpus["train"].features == FEATURES
    everything = [row for dataset in corpus.values() for row in dataset]
    assert {row["corpus"] for row in everything} == {"talks"}
    assert {row["license"] for row in everything} == {"CC-BY-4.0"}
    texts = {row["text"]: row for row in everything}
    assert EMOTIONS[texts["Sentence number 3, ёжик."]["label"]] == "happy"
    # the file names spell the label out; the corpus does not
    assert not [
        row
        for row in everything
        if any(word in row["id"] + row["audio"]["path"] for word in ("joy", "anger", "sad", "fear"))
    ]
    assert {split: len(dataset) for split, dataset in apply_protocol(corpus).items()} == corpus.num_rows


def test_speakers_stay_whole(tmp_path, write_csv, table_rows):
    write_csv(tmp_path / "t.csv", table_rows(tmp_path, speakers=7))
    homes: dict[str, set[str]] = {}
    for clip in read_csv(tmp_path / "t.csv"):
        homes.setdefault(clip.speaker, set()).add(clip.split)
    assert len(homes) == 7
    assert all(len(splits) == 1 for splits in homes.values())


def test_without_groups_the_split_is_stratified_and_the_same_in_any_order(tmp_path, write_csv, table_rows):
    rows = [{**row, "text": f"{row['text']} {row['speaker']}"} for row in table_rows(tmp_path, per_label=10)]
    for row in rows:
        del row["speaker"]
    write_csv(tmp_path / "t.csv", rows)
    clips = read_csv(tmp_path / "t.csv", dev_share=0.1, test_share=0.2)
    assert Counter((clip.label, clip.split) for clip in clips) == {
        (emotion, split): count for emotion in EMOTIONS for split, count in (("train", 7), ("dev", 1), ("test", 2))
    }
    write_csv(tmp_path / "t.csv", rows[::-1])
    again = read_csv(tmp_path / "t.csv", dev_share=0.1, test_share=0.2)
    assert {clip.id: clip.split for clip in again} == {clip.id: clip.split for clip in clips}
    other = read_csv(tmp_path / "t.csv", dev_share=0.1, test_share=0.2, seed=7)
    assert {clip.id: clip.split for clip in other} != {clip.id: clip.split for clip in clips}


def test_too_few_groups_are_refused_with_the_way_out(tmp_path, write_csv, table_rows):
    write_csv(tmp_path / "t.csv", table_rows(tmp_path, speakers=2))
    with pytest.raises(CorpusError, match=r"2 groups cannot fill 3 splits.*Add the column.*none"):
        read_csv(tmp_path / "t.csv")
    assert {clip.split for clip in read_csv(tmp_path / "t.csv", group_by="none")} == {"train", "dev", "test"}


def test_an_own_split_is_kept(tmp_path, write_csv, table_rows):
    names = ("train", "VAL", "test")
    rows = [row | {"split": names[number % 3]} for number, row in enumerate(table_rows(tmp_path))]
    write_csv(tmp_path / "t.csv", rows)
    assert [clip.split for clip in read_csv(tmp_path / "t.csv")][:3] == ["train", "dev", "test"]
    rows[4]["split"] = ""
    rows[5]["split"] = "trian"
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(
        CorpusError, match=r"(?s)line 6: the split is ''.*line 7: the split is 'trian'; allowed: train, dev, test, val"
    ):
        read_csv(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("dev", "dev"), ("val", "dev"), ("valid", "dev"), ("Validation", "dev"), ("TEST", "test")],
)
def test_every_name_of_a_split(tmp_path, write_csv, table_rows, name, split):
    write_csv(tmp_path / "t.csv", [row | {"split": name} for row in table_rows(tmp_path)])
    assert {clip.split for clip in read_csv(tmp_path / "t.csv")} == {split}


def test_audio_only_and_text_only_rows_are_fine_but_not_neither(tmp_path, write_csv, write_tone):
    write_tone(tmp_path / "a.wav")
    rows = [
        {"audio": "a.wav", "text": "", "label": "fear"},
        {"audio": "", "text": "Ой, боюсь!", "label": "fear"},
        {"audio": "", "text": "Ой, боюсь!", "label": "sad"},
    ]
    rows = [row | {"split": split} for row, split in zip(rows, ("train", "dev", "test"), strict=True)]
    write_csv(tmp_path / "t.csv", rows)
    corpus = load_corpus("csv", tmp_path / "t.csv", language="ru")
    assert corpus["train"][0]["text"] == ""
    assert corpus["train"][0]["audio"]["bytes"]
    assert corpus["dev"][0]["audio"] is None
    assert corpus["dev"][0]["text"] == "Ой, боюсь!"
    assert corpus["dev"][0]["id"] != corpus["test"][0]["id"]
    write_csv(tmp_path / "t.csv", [*rows, {"audio": "", "text": "  ", "label": "sad", "split": "test"}])
    with pytest.raises(CorpusError, match=r"t\.csv line 5: neither audio nor text"):
        read_csv(tmp_path / "t.csv", language="ru")


def test_unknown_labels_are_listed_with_what_is_allowed(tmp_path, write_csv, table_rows):
    rows = table_rows(tmp_path)
    rows[0]["label"] = rows[2]["label"] = "calm"
    rows[3]["label"] = ""
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(CorpusError) as error:
        read_csv(tmp_path / "t.csv")
    message = str(error.value)
    assert "(2)" in message
    assert "line 2, column 'label': unknown label 'calm'" in message
    assert "line 5, column 'label': unknown label ''" in message
    assert "Allowed labels: anger, disgust, fear, happy, neutral, sad, surprise; also" in message


IEMOCAP = {"ang": "anger", "exc": "happy", "HAP": "joy", "fru": None}


@pytest.mark.parametrize("form", ["mapping", "json", "csv", "json text"])
def test_labels_of_another_corpus_are_translated(tmp_path, form):
    """Null leaves rows out, and counts them; other labels are read as always."""
    lines = ["text,label,language,split", "a,ang,en,train", "b,exc,en,train", "c,hap,en,dev", "d,fru,en,test"]
    (tmp_path / "t.csv").write_text("\n".join([*lines, "e,sadness,en,test"]) + "\n")
    given = json.dumps(IEMOCAP) if form == "json text" else IEMOCAP
    if form == "json":
        given = str(tmp_path / "map.json")
        (tmp_path / "map.json").write_text(json.dumps(IEMOCAP))
    if form == "csv":
        given = str(tmp_path / "map.csv")
        rows = [f"{name};{emotion or ''}" for name, emotion in IEMOCAP.items()]
        (tmp_path / "map.csv").write_text("\n".join(["from;to", *rows]) + "\n")
    clips = read_csv(tmp_path / "t.csv", label_map=given)
    assert [(clip.text, clip.label) for clip in clips if not clip.left_out] == [
        ("a", "anger"),
        ("b", "happy"),
        ("c", "happy"),
        ("e", "sad"),
    ]
    out = tmp_path / "out"
    info = get_corpus("csv").prepare(tmp_path / "t.csv", out, label_map=given)
    assert info["remarks"] == {"left out: the label 'fru'": 1}
    assert info["options"]["label_map"] == {"ang": "anger", "exc": "happy", "HAP": "happy", "fru": None}
    load_corpus("csv", out, label_map=given)
    with pytest.raises(CorpusError, match="was prepared with label_map"):
        load_corpus("csv", out, label_map={"ang": "sad"})


def test_rows_that_are_left_out_are_not_split(tmp_path, write_csv, table_rows):
    rows = table_rows(tmp_path)
    write_csv(tmp_path / "t.csv", [*rows, rows[0] | {"audio": "", "label": "xxx"}])
    clips = read_csv(tmp_path / "t.csv", label_map={"xxx": None})
    assert [clip.left_out for clip in clips].count(True) == 1
    assert all(clip.split for clip in clips if not clip.left_out)


def test_an_unknown_label_comes_with_a_label_map_to_begin_with(tmp_path):
    (tmp_path / "t.csv").write_text("text,label,language\na,ang,en\nb,гнев,ru\nc,fru,en\nd,ang,en\n")
    with pytest.raises(CorpusError) as caught:
        read_csv(tmp_path / "t.csv")
    assert '--label_map FILE.json with {"ang": "anger", "гнев": "anger", "fru": null}' in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ang": "wrath"}, "label_map: 'ang': Unknown label 'wrath'"),
        ("none.json", "no file none.json"),
        ("[1", "invalid JSON"),
        ("[1]", "must be an object"),
        ('{"ang": ', "invalid JSON"),
        ("a,b\n1,2\n", "columns from and to"),
    ],
)
def test_label_maps_that_are_none_are_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_text("text,label,language,split\na,ang,en,train\n")
    given = content
    if isinstance(content, str) and not content.startswith(("none", "{")):
        given = tmp_path / ("map.json" if content.startswith("[") else "map.csv")
        given.write_text(content)
    with pytest.raises(CorpusError, match=message):
        read_csv(tmp_path / "t.csv", label_map=given)


def test_cells_that_are_no_text_are_all_named(tmp_path):
    lines = [
        {"text": ["a", 1], "label": "sad"},
        {"text": "x", "label": ["sad"]},
        {"text": float("nan"), "label": "sad"},
    ]
    content = "\n".join(json.dumps({**line, "language": "en", "split": "train"}) for line in lines)
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(CorpusError) as caught:
        read_csv(tmp_path / "t.jsonl")
    assert "t.jsonl line 1: 'text' is [\"a\", 1]" in str(caught.value)
    assert "t.jsonl line 2: 'label' is [\"sad\"]" in str(caught.value)
    assert "t.jsonl line 3: neither audio nor text" in str(caught.value)


def test_a_table_from_a_pipe_and_from_excel(tmp_path, monkeypatch):
    emotions = ";".join(EMOTIONS)
    content = f"text;language;split;{emotions}\nWell;en;train;0,5;0;0;0,25;0,25;0;0\n"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(content,))
    writer.start()
    (clip,) = read_csv(pipe)
    writer.join()
    assert clip.soft_label == [0.5, 0, 0, 0.25, 0.25, 0, 0]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"speeker": "a"}, {}, r"unknown column 'speeker'\. Did you mean speaker\?"),
        ({"file_name": "a"}, {}, "unknown column 'file_name'"),
        ({"anger": "0.5", "sad": "0.5"}, {}, "soft labels need all 7"),
        ({"language": None}, {}, "no column 'language'.*language='en'"),
        ({"label": None}, {}, "no column 'label'"),
        ({"audio": None, "text": None}, {}, "neither a column 'audio' nor a column 'text'"),
        ({}, {"group_by": "speakers"}, "allowed: auto, speaker, dialogue, none"),
        ({}, {"group_by": "dialogue"}, "no column 'dialogue'"),
        ({}, {"dev_share": 0.8, "test_share": 0.3}, "shares"),
    ],
)
def test_columns_and_options_that_do_not_fit_are_refused(tmp_path, columns, options, message, write_csv, table_rows):
    rows = [
        {name: value for name, value in (row | columns).items() if value is not None} for row in table_rows(tmp_path)
    ]
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(CorpusError, match=f"(?s){message}"):
        read_csv(tmp_path / "t.csv", **options)


def test_known_foreign_columns_can_be_ignored(tmp_path, write_csv, table_rows):
    write_csv(tmp_path / "t.csv", [row | {"camera": "left"} for row in table_rows(tmp_path)])
    assert len(read_csv(tmp_path / "t.csv", ignore_columns=["camera"])) == 42


def test_doubled_recordings_and_ids_are_refused(tmp_path, write_csv, table_rows):
    rows = [row | {"id": f"u{number}"} for number, row in enumerate(table_rows(tmp_path))]
    rows[5]["audio"] = rows[4]["audio"]
    rows[7]["id"] = rows[6]["id"]
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(
        CorpusError,
        match=r"(?s)\(2\).*line 7: the recording .* is already in t.csv line 6.*line 9: the id 'u6' is already in t.csv line 8",
    ):
        read_csv(tmp_path / "t.csv")


def test_missing_files_are_all_named(tmp_path, write_csv, table_rows):
    rows = table_rows(tmp_path)
    for number in (1, 8):
        (tmp_path / rows[number]["audio"]).unlink()
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(CorpusError, match=r"(?s)\(2\).*t\.csv line 3: no file.*t\.csv line 10: no file"):
        load_corpus("csv", tmp_path / "t.csv")


def test_soft_labels_by_name(tmp_path, write_csv):
    votes = {
        "neutral": 1,
        "happy": 3,
        "sad": 0,
        "anger": 0,
        "surprise": 4,
        "disgust": 0,
        "fear": 0,
    }  # the published order
    write_csv(tmp_path / "t.csv", [{"text": "Wow.", "language": "en", "split": "train", **votes}])
    [clip] = read_csv(tmp_path / "t.csv")
    assert clip.label == "surprise"
    assert clip.soft_label == pytest.approx([0, 0, 0, 3 / 8, 1 / 8, 0, 4 / 8])
    line = {
        "text": "Wow.",
        "language": "en",
        "split": "train",
        "label": "joy",
        "soft_label": {"joy": 0.75, "surprise": 0.25},
    }
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    [clip] = read_csv(tmp_path / "t.jsonl")
    assert clip.label == "happy"
    assert clip.soft_label == [0, 0, 0, 0.75, 0, 0, 0.25]
    line["soft_label"] = {"joy": 1.5e308, "surprise": 0.5e308}  # the sum is beyond every float
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert read_csv(tmp_path / "t.jsonl")[0].soft_label == pytest.approx([0, 0, 0, 0.75, 0, 0, 0.25])


@pytest.mark.parametrize(
    ("soft", "message"),
    [
        ([0.1] * 7, "must name its labels"),
        ({"calm": 1.0}, "Unknown label 'calm'"),
        ({"anger": -0.5, "sad": 1.5}, "at least 0"),
        ({"anger": 0.0}, "not all 0"),
        ({"anger": "much"}, "could not convert"),
        ({"anger": 0.5, "sad": 0.5}, "no single maximum"),
        ({"anger": float("nan")}, "at least 0"),
        ({"anger": 10**400}, "too large"),
        ({"anger": 1e308, "angry": 1e308}, "at least 0"),
    ],
)
def test_soft_labels_that_are_none_are_refused(tmp_path, soft, message):
    line = {"text": "Wow.", "language": "en", "split": "train", "soft_label": soft}
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        read_csv(tmp_path / "t.jsonl")


def test_a_folder_stands_for_its_only_table(tmp_path, write_csv, table_rows):
    folder = tmp_path / "talks"
    write_csv(folder / "metadata.csv", table_rows(folder))
    assert load_corpus("csv", folder)["train"]["corpus"][0] == "talks"
    assert load_corpus("csv", folder, corpus="other")["train"]["corpus"][0] == "other"
    write_csv(folder / "notes.csv", table_rows(folder))
    assert load_corpus("csv", folder)["train"]["corpus"][0] == "talks"
    (folder / "metadata.csv").rename(folder / "more.csv")
    with pytest.raises(CorpusError, match=r"hold exactly one; found: more\.csv, notes\.csv"):
        load_corpus("csv", folder)


def test_two_tables_of_the_same_content_keep_their_names(tmp_path, write_csv, table_rows):
    rows = table_rows(tmp_path)
    for name in ("one", "two"):
        write_csv(tmp_path / f"{name}.csv", rows)
        assert load_corpus("csv", tmp_path / f"{name}.csv")["test"]["corpus"][0] == name


def test_recordings_of_wrong_headers_and_of_one_channel(tmp_path, write_csv, write_tone):
    write_tone(tmp_path / "two.wav", 300, channels=2)
    data = bytearray((tmp_path / "two.wav").read_bytes())
    data[40:44] = b"\0\xf0\xff\x7f"  # as sox writes it to a pipe
    (tmp_path / "two.wav").write_bytes(data)
    write_csv(tmp_path / "t.csv", [{"audio": "two.wav", "label": "sad", "language": "en", "split": "train"}])
    mean = load_corpus("csv", tmp_path / "t.csv")["train"][0]
    assert load_corpus("csv", tmp_path / "t.csv", channel=1)["train"][0]["duration_s"] == mean["duration_s"]
    with pytest.raises(CorpusError, match="no channel 2: it has 2"):
        load_corpus("csv", tmp_path / "t.csv", channel=2)


def test_every_recording_that_cannot_be_read_is_listed(tmp_path, write_csv):
    (tmp_path / "a.raw").write_bytes(bytes(range(256)) * 50)
    (tmp_path / "b.wav").write_bytes(b"RIFF, but no audio")
    rows = [{"audio": name, "label": "sad", "language": "en", "split": "train"} for name in ("a.raw", "b.wav")]
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(CorpusError, match=r"(?s)\(2\).*a\.raw cannot be read.*b\.wav cannot be read"):
        load_corpus("csv", tmp_path / "t.csv")


def test_what_a_row_says_of_itself(tmp_path, write_csv, write_tone):
    write_tone(tmp_path / "a.wav", seconds=36)
    row = {"audio": "a.wav", "label": "sad", "language": "en", "split": "train", "speaker": "s", "dialogue": "d"}
    write_csv(tmp_path / "t.csv", [row | {"license": "CC0-1.0", "source": "acted", "id": "one"}])
    (clip,) = read_csv(tmp_path / "t.csv", license="CC-BY-4.0")
    assert (clip.id, clip.speaker, clip.dialogue, clip.license, clip.source) == ("one", "s", "d", "CC0-1.0", "acted")
    write_csv(tmp_path / "t.csv", [row | {"license": ""}])
    (clip,) = read_csv(tmp_path / "t.csv", license="CC-BY-4.0")
    assert (clip.license, clip.source) == ("CC-BY-4.0", "recorded")
    info = get_corpus("csv").prepare(tmp_path / "t.csv", tmp_path / "out")
    assert info["splits"]["train"]["hours"] == 0.01


def test_the_shares_of_a_table_without_splits(tmp_path, write_csv):
    rows = [
        {"text": f"{label} {number}", "label": label, "language": "en", "speaker": f"{label} {number // 2}"}
        for label in EMOTIONS
        for number in range(50)
    ]
    write_csv(tmp_path / "t.csv", rows)
    clips = read_csv(tmp_path / "t.csv")
    counts = Counter(clip.split for clip in clips)
    assert counts["dev"] == pytest.approx(0.12 * 350, abs=7)
    assert counts["test"] == pytest.approx(0.2 * 350, abs=7)
    assert len({(clip.speaker, clip.split) for clip in clips}) == 7 * 25  # speakers are whole


OWN_NAMES = {
    "label_column": "эмоция",
    "audio_column": "файл",
    "text_column": ["corrected", "asr"],
    "speaker_column": "актёр",
    "dialogue_column": "scene",
    "language_column": "язык",
    "split_column": "part",
    "id_column": "n",
}


def test_columns_of_any_name(tmp_path, write_tone):
    """As Excel saves it on a Russian system."""
    write_tone(tmp_path / "a.wav")
    lines = [
        "n;файл;corrected;asr;эмоция;актёр;scene;язык;part;label",
        "1;a.wav;Да!;да;Joy;Анна;s1;ru;train;unused",
        "2;;;Нет;sad;Олег;s1;ru;test;unused",
    ]
    (tmp_path / "t.csv").write_bytes("\r\n".join(lines).encode("cp1251"))
    with pytest.raises(CorpusError, match=r"line 1; as cp1251 it is 'n;файл;.*--encoding cp1251"):
        read_csv(tmp_path / "t.csv", **OWN_NAMES)
    first, second = read_csv(tmp_path / "t.csv", encoding="cp1251", **OWN_NAMES)
    assert (first.id, first.audio, first.text, first.label) == ("1", tmp_path / "a.wav", "Да!", "happy")
    assert (first.speaker, first.dialogue, first.language, first.split) == ("Анна", "s1", "ru", "train")
    assert (second.audio, second.text, second.label) == (None, "Нет", "sad")
    info = get_corpus("csv").prepare(tmp_path / "t.csv", tmp_path / "out", encoding="cp1251", **OWN_NAMES)
    assert info["remarks"] == {
        "read as CP1251, separated by ';'": 2,
        "the column 'label' is not read: label_column names эмоция": 2,
    }
    skipped = OWN_NAMES | {"encoding": "cp1251", "ignore_columns": ["label"]}
    assert all("not read" not in remark for clip in read_csv(tmp_path / "t.csv", **skipped) for remark in clip.remarks)
    assert load_corpus("csv", tmp_path / "out", **OWN_NAMES)["train"][0]["text"] == "Да!"


@pytest.mark.parametrize("option", [name for name in OWN_NAMES if name != "text_column"])
def test_a_column_that_is_not_there_is_one_line(tmp_path, option):
    (tmp_path / "t.csv").write_text("text,label,language\na,sad,en\n")
    with pytest.raises(
        CorpusError, match=rf"^{option}='labels': .*Did you mean label\? It has text, label, language\.$"
    ):
        read_csv(tmp_path / "t.csv", **{option: "labels"})


def test_a_transcript_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / "t.csv").write_text("text,label,language\na,sad,en\n")
    with pytest.raises(CorpusError, match=r"^text_column='words': .* It has text, label, language\.$"):
        read_csv(tmp_path / "t.csv", text_column=["text", "words"])


def test_faults_name_the_line_and_the_column(tmp_path):
    lines = [{"words": "a", "mood": "calm"}, {"words": ["a"], "mood": "sad"}, {"words": "b", "mood": 1.5}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(CorpusError) as caught:
        read_csv(tmp_path / "t.jsonl", language="en", text_column="words", label_column="mood")
    for message in (
        "t.jsonl line 1, column 'mood': unknown label 'calm'",
        "t.jsonl line 2: 'words' is [\"a\"]",
        "t.jsonl line 3, column 'mood': unknown label '1.5'",
    ):
        assert message in str(caught.value)


def test_columns_that_nobody_named_come_with_the_option_that_skips_them(tmp_path):
    (tmp_path / "t.csv").write_text("text,label,camera,take\na,sad,left,1\n")
    with pytest.raises(CorpusError, match="--ignore_columns camera,take"):
        read_csv(tmp_path / "t.csv", language="en")
