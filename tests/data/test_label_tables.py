"""Tables of soft labels: reading, writing, what is refused, the published ones."""

import numpy as np
import pytest

from bibier_hf import EMOTIONS
from bibier_hf.augmentation.ls_llm_answers import LS_ORDER
from bibier_hf.data.corpora.resd import resd_id
from bibier_hf.data.label_tables import mean_label_table, published_id, read_label_table, write_label_table
from bibier_hf.data.tables import CorpusError

PUBLISHED_HEADER = ",".join(["video_name", "text", "ground_truth", "llm_best_label", *LS_ORDER])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    path = tmp_path / f"labels{suffix}"
    values = np.full(7, 0.1)
    values[3] = 0.4
    columns = {
        "id": ["a", "b", "c"],
        "label": ["happy", "sad", "fear"],
        "raw": ['a "quoted", text\nin two lines', None, "x"],
    }
    columns |= {name: [float(value), None, float(value)] for name, value in zip(EMOTIONS, values, strict=True)}
    write_label_table(columns, path)
    table = read_label_table(path)
    assert table.ids == ("a", "b", "c")
    assert table.labels.tolist() == [3, 5, 2]
    assert table.labeled.tolist() == [True, False, True]
    assert table.predictions.tolist() == [3, -1, 3]
    assert list(table.soft_labels()) == ["a", "c"]
    np.testing.assert_allclose(table.soft_labels()["a"], values)


def test_published_columns_are_found_by_name_and_mended(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(f"{PUBLISHED_HEADER}\ndia0_utt3,Oh,joy,happy,-0.00001,0.40000,0.0,0.1,0.1,0.00001,0.4\n")
    table = read_label_table(path)
    assert table.ids == ("meld-train-dia0_utt3",)
    assert table.probabilities[0, EMOTIONS.index("neutral")] == -0.00001  # as it stands there
    assert EMOTIONS[table.predictions[0]] == "happy"  # of happy and fear, equally high, the table names this one
    (soft,) = table.soft_labels().values()
    assert soft.min() == 0
    assert round(soft.sum(), 12) == 1


def test_the_mean_of_several_tables(tmp_path):
    header = ",".join(["id", "label", *EMOTIONS])
    rows = {
        "one": ["a,happy,1,0,0,0,0,0,0", "b,sad,0,0,0,0,1,0,0", "c,,,,,,,,"],
        "two": ["c,fear,0,0,1,0,0,0,0", "a,happy,0,0,0,1,0,0,0", "b,sad,,,,,,,"],
        "three": ["a,happy,0,0,0,0.5,0.5,0,0"],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")
    table = mean_label_table([read_label_table(tmp_path / f"{name}.csv") for name in rows])
    found = dict(zip(table.ids, table.probabilities.tolist(), strict=True))
    assert found["a"] == pytest.approx([1 / 3, 0, 0, 0.5, 1 / 6, 0, 0])
    assert found["b"] == [0, 0, 0, 0, 1, 0, 0]  # labelled in one table alone
    assert found["c"] == [0, 0, 1, 0, 0, 0, 0]
    assert dict(zip(table.ids, table.labels.tolist(), strict=True)) == {"a": 3, "b": 5, "c": 2}
    assert dict(zip(table.ids, table.predictions.tolist(), strict=True)) == {"a": 3, "b": 4, "c": 2}


def test_names_become_ids():
    assert published_id("dia12_utt3") == "meld-train-dia12_utt3"
    assert published_id("01_anger_fear a_001") == resd_id("01_anger_fear_a_001")
    assert published_id("clip7") == "clip7"


def test_every_fault_is_named(tmp_path):
    path = tmp_path / "labels.csv"
    header = ",".join(["id", "label", *EMOTIONS])
    path.write_text(
        f"{header}\na,happy,1,0,0,0,0,0,0\na,happy,1,0,0,0,0,0,0\nb,joyous,1,0,0,0,0,0,0\nc,sad,x,0,0,0,0,0,0\nd,sad,inf,0,0,0,0,0,0\ne,sad,nan,0,0,0,0,0,0\nf,sad,1e308,0,0,0,0,0,0\n"
    )
    with pytest.raises(CorpusError) as error:
        read_label_table(path)
    for part in (
        "'a' is repeated",
        "joyous",
        "'x'",
        "not finite",
        "line 7: no number for anger",
        "line 8: the distribution",
    ):
        assert part in str(error.value)
    path.write_text("id,label,anger\na,happy,1\n")
    with pytest.raises(CorpusError, match="lacks the columns"):
        read_label_table(path)
    path.write_text(f"{header}\na,sad,0,0,0,0,0,0,0\n")
    with pytest.raises(CorpusError, match="are not distributions"):
        read_label_table(path).soft_labels()
    with pytest.raises(FileNotFoundError):
        read_label_table(tmp_path / "none.csv")
