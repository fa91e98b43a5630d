import io
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio

from bibier_hf import files
from bibier_hf.data.clips import Clip, clips_fingerprint, neutral_id
from bibier_hf.data.corpora import CORPORA, get_corpus, load_corpus
from bibier_hf.data.prepare import load_prepared, read_info, write_corpus
from bibier_hf.data.schema import COLUMNS, FEATURES
from bibier_hf.data.tables import CorpusError
from bibier_hf.flac import SOURCE_MARKS, encode_flac
from bibier_hf.model.audio_bibier import decode_audio
from bibier_hf.model.labels_bibier import EMOTIONS

FACTS = {"name": "toy", "reader": "toy", "title": "Toy", "homepage": "nowhere", "options": {}}


def write(clips: list[Clip], folder: Path) -> dict:
    return write_corpus(clips, FACTS, FEATURES, folder)


def text_clip(number: int, **changes) -> Clip:
    return Clip(
        **(
            {"id": f"toy-{number}", "split": "train", "label": "sad", "language": "ru", "text": f"Ёж № {number}"}
            | changes
        )
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_corpus_survives_the_way_to_parquet_and_back(tmp_path, clip):
    samples = clip(0.4, seed=3)
    soundfile.write(tmp_path / "a.wav", np.stack([samples, samples], axis=1), 16_000)
    soft = [0.1, 0.0, 0.0, 0.6, 0.1, 0.1, 0.1]
    clips = [
        text_clip(
            1, audio=tmp_path / "a.wav", label="happy", speaker="s1", dialogue="d1", soft_label=soft, license="MIT"
        ),
        text_clip(2, split="test", source="synthetic"),
    ]
    info = write(clips, tmp_path / "out")
    loaded = load_prepared(tmp_path / "out")
    assert list(loaded) == ["train", "test"]
    assert loaded["train"].features == FEATURES
    assert loaded["train"].features["audio"] == Audio(sampling_rate=16_000, decode=False)
    row = loaded["train"][0]
    assert list(row) == list(COLUMNS)
    assert row["audio"]["path"] == "toy-1.flac"
    np.testing.assert_allclose(decode_audio(row["audio"]), samples, atol=1 / 32768)
    assert row["duration_s"] == pytest.approx(0.4)
    assert row["label"] == EMOTIONS.index("happy")
    assert row["soft_label"] == pytest.approx(soft)
    assert (row["text"], row["speaker"], row["dialogue"], row["language"]) == ("Ёж № 1", "s1", "d1", "ru")
    other = loaded["test"][0]
    assert (other["audio"], other["duration_s"], other["soft_label"], other["source"]) == (
        None,
        None,
        None,
        "synthetic",
    )
    assert info == read_info(tmp_path / "out")
    assert info["splits"]["train"]["labels"] == {emotion: int(emotion == "happy") for emotion in EMOTIONS}
    assert info["license"] == ["MIT", "unknown"]
    assert info["source"] == ["recorded", "synthetic"]
    assert info["language"] == ["ru"]
    assert info["name"] == "toy"


def test_sixteen_bit_recordings_pass_unchanged_and_excess_is_clipped():
    integers = np.array([-32768, -32767, -1, 0, 1, 32766, 32767], dtype=np.int16)
    samples = decode_audio(encode_flac(integers.astype(np.float32) / 32768))
    np.testing.assert_array_equal(np.rint(samples * 32768), integers)
    np.testing.assert_allclose(
        decode_audio(encode_flac(np.array([2.0, -2.0, 0.0], dtype=np.float32))), [1, -1, 0], atol=1e-4
    )


@pytest.mark.parametrize("source", ["recorded", "synthetic", "stacked"])
def test_audio_that_is_no_recording_says_so_itself(tmp_path, source):
    write(
        [text_clip(1, audio=lambda: np.resize(np.float32([0.1, -0.1]), 1600), audio_key="tone", source=source)],
        tmp_path / "out",
    )
    stored = load_prepared(tmp_path / "out")["train"][0]["audio"]["bytes"]
    with soundfile.SoundFile(io.BytesIO(stored)) as file:
        assert file.comment == SOURCE_MARKS.get(source, "")


def test_other_rates_are_resampled(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(4410) / 20), 44_100)
    write([text_clip(1, audio=tmp_path / "a.wav")], tmp_path / "out")
    stored = load_prepared(tmp_path / "out")["train"][0]["audio"]["bytes"]
    (tmp_path / "stored.flac").write_bytes(stored)
    info = soundfile.info(tmp_path / "stored.flac")
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (16_000, 1, 1600, "PCM_16")


def test_equal_input_gives_identical_bytes(tmp_path, clip):
    for number in range(200):  # more than one row group
        soundfile.write(tmp_path / f"{number}.wav", clip(0.02, seed=number), 16_000)
    clips = [
        text_clip(number, audio=tmp_path / f"{number}.wav", split=("train", "dev")[number % 2])
        for number in range(200)
    ]
    write(clips, tmp_path / "one")
    write(clips, tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_all_missing_files_are_named_and_nothing_is_written(tmp_path):
    clips = [
        text_clip(number, audio=tmp_path / f"gone_{number}.wav", where=f"t.csv line {number}") for number in range(30)
    ]
    with pytest.raises(CorpusError) as error:
        write(clips, tmp_path / "out")
    message = str(error.value)
    assert "(30)" in message
    assert "t.csv line 0: no file" in message
    assert "gone_19.wav" in message
    assert "and 10 more" in message
    assert list(tmp_path.iterdir()) == []


def test_all_unreadable_recordings_are_named_and_nothing_is_written(tmp_path, clip):
    soundfile.write(tmp_path / "good.wav", clip(0.5), 16_000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:3000])
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no audio at all")
    names = ("good", "cut", "empty", "text")
    clips = [
        text_clip(number, audio=tmp_path / f"{name}.wav", where=f"line {number}") for number, name in enumerate(names)
    ]
    with pytest.raises(
        CorpusError, match=r"(?s)\(3\).*line 1: .*is truncated.*line 2: .*is empty.*line 3: .*cannot be read"
    ) as error:
        write(clips, tmp_path / "out")
    assert "good.wav" not in str(error.value)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".wav"]


def test_silence_and_cancelling_channels_are_listed_and_a_channel_can_be_chosen(tmp_path, clip):
    tone = clip(0.5)
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 16_000)
    soundfile.write(tmp_path / "inverted.wav", np.stack([tone, -tone], axis=1), 16_000)
    clips = [text_clip(number, audio=tmp_path / f"{name}.wav") for number, name in enumerate(("silent", "inverted"))]
    with pytest.raises(CorpusError, match=r"(?s)\(2\).*silent\.wav is silent.*inverted\.wav.*cancel.*channel=0"):
        write(clips, tmp_path / "out")
    first = text_clip(1, audio=tmp_path / "inverted.wav", channel=0)
    second = text_clip(1, audio=tmp_path / "inverted.wav", channel=1)
    write([first], tmp_path / "out")
    samples = decode_audio(load_prepared(tmp_path / "out")["train"][0]["audio"])
    np.testing.assert_allclose(samples, tone, atol=1e-4)
    assert clips_fingerprint([first]) != clips_fingerprint([second])  # a cache of its own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "joy"}, "unknown label 'joy'"),
        ({"split": "validation"}, "unknown split 'validation'; allowed: train, dev, test"),
        ({"text": ""}, "neither audio nor text"),
        ({"language": "Russian"}, "not an ISO 639 code"),
        ({"language": ""}, "not an ISO 639 code"),
        ({"source": "found"}, "unknown source"),
        ({"soft_label": [0.5, 0.5]}, "7 probabilities"),
        ({"soft_label": [0.5] * 7}, "7 probabilities"),
        ({"soft_label": [1.5, -0.5, 0, 0, 0, 0, 0]}, "7 probabilities"),
        ({"id": "toy-0"}, "is also that of"),
    ],
)
def test_faulty_clips_are_refused(tmp_path, changes, message):
    with pytest.raises(CorpusError, match=message):
        write([text_clip(0), text_clip(1, **changes)], tmp_path / "out")
    with pytest.raises(CorpusError, match="no clips"):
        write([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("before", [True, False])
def test_an_interruption_leaves_the_folder_as_it_was(tmp_path, before):
    if before:
        write([text_clip(1)], tmp_path / "out")
    found = content(tmp_path / "out") if before else None

    def interrupted() -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write([text_clip(1), text_clip(2, audio=interrupted, audio_key="never made")], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if before else [])
    assert found is None or content(tmp_path / "out") == found


def test_a_failing_exchange_leaves_the_old_corpus(tmp_path, monkeypatch):
    write([text_clip(1)], tmp_path / "out")
    found = content(tmp_path / "out")

    def fails(first: Path, second: Path) -> bool:
        raise OSError("disk gone")

    monkeypatch.setattr(files, "exchange", fails)
    with pytest.raises(OSError, match="disk gone"):
        write([text_clip(2)], tmp_path / "out")
    assert content(tmp_path / "out") == found
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_prepared_corpus_is_replaced_and_read_anew_but_other_content_is_not_touched(tmp_path):
    write([text_clip(1)], tmp_path / "out")
    assert load_prepared(tmp_path / "out")["train"]["id"][0] == "toy-1"
    write([text_clip(2)], tmp_path / "out")
    assert load_prepared(tmp_path / "out")["train"]["id"][0] == "toy-2"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(CorpusError, match="not empty and holds no prepared corpus"):
        write([text_clip(1)], tmp_path / "mine")
    assert content(tmp_path / "mine") == {"thesis.txt": b"precious"}
    with pytest.raises(CorpusError, match="is a file"):
        write([text_clip(1)], tmp_path / "mine" / "thesis.txt")


def test_a_damaged_or_foreign_folder_is_not_loaded(tmp_path):
    write([text_clip(1)], tmp_path / "out")
    table = tmp_path / "out" / "train.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:-10])
    with pytest.raises(CorpusError, match="damaged"):
        load_prepared(tmp_path / "out")
    table.unlink()
    with pytest.raises(CorpusError, match="has no bytes"):
        load_prepared(tmp_path / "out")
    info = json.loads((tmp_path / "out" / "corpus.json").read_text())
    (tmp_path / "out" / "corpus.json").write_text(json.dumps(info | {"format_version": 0}))
    with pytest.raises(CorpusError, match="Prepare it again"):
        load_prepared(tmp_path / "out")
    for damaged in ([info], info | {"splits": None}, info | {"splits": {"train": {"file": "../train.parquet"}}}):
        (tmp_path / "out" / "corpus.json").write_text(json.dumps(damaged))
        with pytest.raises(CorpusError, match=r"corpus\.json is damaged"):
            load_prepared(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no corpus\.json"):
        load_prepared(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: b"PAR1", "is damaged"),
        (lambda table: table.slice(1), "has 1 rows, expected 2"),
        (lambda table: table.drop_columns(["label"]), "no columns label of the expected types"),
        (lambda table: with_labels(table, pa.array(["sad", "sad"])), "no columns label of the expected types"),
        (lambda table: with_labels(table, pa.array([0, 7])), r"labels from 0 to 7, allowed are 0\.\.6"),
    ],
)
def test_a_table_of_the_right_size_that_is_not_the_corpus_is_not_loaded(tmp_path, change, message):
    info = write([text_clip(1), text_clip(2)], tmp_path / "out")
    path = tmp_path / "out" / "train.parquet"
    changed = change(pq.read_table(path))
    path.write_bytes(changed) if isinstance(changed, bytes) else pq.write_table(changed, path)
    info["splits"]["train"]["bytes"] = path.stat().st_size
    (tmp_path / "out" / "corpus.json").write_text(json.dumps(info))
    with pytest.raises(CorpusError, match=message):
        load_prepared(tmp_path / "out")


def with_labels(table: pa.Table, labels: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index("label"), "label", labels)


def test_row_groups_bound_the_memory(tmp_path):
    write([text_clip(number) for number in range(300)], tmp_path / "out")
    table = pq.ParquetFile(tmp_path / "out" / "train.parquet")
    assert [table.metadata.row_group(index).num_rows for index in range(table.num_row_groups)] == [128, 128, 44]


def test_neutral_ids_are_stable_and_say_nothing():
    assert neutral_id("resd", "a") == neutral_id("resd", "a") != neutral_id("resd", "b")
    assert neutral_id("resd", "happiness_h").startswith("resd-")
    assert "happ" not in neutral_id("resd", "happiness_h")


def test_unknown_corpora_and_options_are_refused_with_a_suggestion(tmp_path):
    assert {"resd", "csv", "quickstart"} <= set(CORPORA)
    with pytest.raises(CorpusError, match=r"Did you mean resd\?.*Allowed: .*resd"):
        get_corpus("rest")
    with pytest.raises(TypeError, match="Did you mean enthusiasm"):
        load_corpus("resd", tmp_path, entusiasm="keep")
    with pytest.raises(FileNotFoundError, match="No corpus at"):
        load_corpus("resd", tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="needs a folder"):
        load_corpus("ravdess")


def test_a_raw_corpus_is_prepared_once_for_its_content_and_options(tiny_resd, tmp_path, monkeypatch):
    calls = count_calls(monkeypatch)
    for _ in range(2):
        assert load_corpus("resd", tiny_resd, strict_counts=False).num_rows == {"train": 6, "test": 3}
    assert calls() == 1
    assert load_corpus("resd", tiny_resd, strict_counts=False, enthusiasm="exclude").num_rows == {
        "train": 5,
        "test": 3,
    }
    assert calls() == 2
    table = tiny_resd / "metadata.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("№ 0", "№ zero"), encoding="utf-8")
    texts = load_corpus("resd", tiny_resd, strict_counts=False)["train"]["text"]
    assert calls() == 3
    assert "Ну, «ёлка» № zero!" in list(texts)
    recording = next((tiny_resd / "wavs" / "train").iterdir())
    soundfile.write(recording, 0.2 * np.sin(np.arange(4000) / 20), 16_000)
    assert 0.25 in load_corpus("resd", tiny_resd, strict_counts=False)["train"]["duration_s"]
    assert calls() == 4
    assert load_corpus("resd", tiny_resd, strict_counts=False, cache_dir=tmp_path / "elsewhere").num_rows["train"] == 6
    assert (tmp_path / "elsewhere" / "corpora").is_dir()


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path, tiny_resd):
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"cannot be kept in .*file.*Not a directory.*Set BIBIER_CACHE"):
        load_corpus("resd", tiny_resd, strict_counts=False, cache_dir=tmp_path / "file")


def test_an_option_that_changes_no_clip_has_a_cache_entry_of_its_own(tmp_path, monkeypatch, write_csv):
    """The folder says what it was prepared with, so another set of options cannot be answered from it."""
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    rows = [
        {"text": f"words {split}", "label": "sad", "language": "en", "split": split}
        for split in ("train", "dev", "test")
    ]
    write_csv(tmp_path / "own.csv", rows)
    calls = count_calls(monkeypatch)
    for number, seed in enumerate((1, 2), 1):  # of a split that this table does not need
        load_corpus("csv", tmp_path / "own.csv", seed=seed)
        assert calls() == number
    infos = [read_info(path.parent) for path in (tmp_path / "cache").rglob("corpus.json")]
    assert sorted(info["options"]["seed"] for info in infos) == [1, 2]


def test_processes_that_load_at_once_prepare_once(tiny_resd, monkeypatch):
    calls = count_calls(monkeypatch)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(load_corpus("resd", tiny_resd, strict_counts=False).num_rows))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [{"train": 6, "test": 3}] * 4
    assert calls() == 1


def count_calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a corpus was written since."""
    count = []

    def counted(*arguments, **options):
        count.append(1)
        return write_corpus(*arguments, **options)

    monkeypatch.setattr("bibier_hf.data.prepare.write_corpus", counted)
    return lambda: len(count)


def test_a_prepared_folder_answers_to_its_name_and_options_only(tiny_resd, tmp_path):
    get_corpus("resd").prepare(tiny_resd, tmp_path / "out", strict_counts=False)
    assert load_corpus("resd", tmp_path / "out").num_rows == {"train": 6, "test": 3}
    assert load_corpus("resd", tmp_path / "out", enthusiasm="surprise").num_rows == {"train": 6, "test": 3}
    with pytest.raises(CorpusError, match="prepared with enthusiasm='surprise'"):
        load_corpus("resd", tmp_path / "out", enthusiasm="exclude")
    with pytest.raises(CorpusError, match="holds the prepared corpus 'resd', not 'csv'"):
        load_corpus("csv", tmp_path / "out")
