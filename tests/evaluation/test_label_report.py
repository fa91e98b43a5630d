"""Reports on label sets, and the figures of the published ones."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bibier_cli import run
from bibier_hf import EMOTIONS
from bibier_hf.data.label_tables import LabelTable, read_label_table
from bibier_hf.evaluation.label_report import compare_labels, describe_labels, entropy_bits, write_label_plots

PUBLISHED = {
    # table: (uar, negative, equal values, gold not highest, mean probability of the gold label)
    "Qwen3-4B_emotions_resd_1.csv": (0.95079, 103, 0, 56, 0.579),
    "Qwen3-4B_emotions_meld_1.csv": (0.95741, 1434, 4, 124, 0.718),
    "Phi-4-mini-instruct_emotions_resd_1.csv": (0.88597, 603, 10, 129, 0.663),
}


def make_table(probabilities, labels, name="t"):
    probabilities = np.asarray(probabilities, dtype=float)
    predictions = np.where(np.isnan(probabilities).any(1), -1, np.nan_to_num(probabilities).argmax(1))
    return LabelTable(name, "", tuple(map(str, range(len(labels)))), np.array(labels), probabilities, predictions)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_figures(shared, tmp_path, capsys, name):
    uar, negative, equal, not_highest, gold = PUBLISHED[name]
    output = tmp_path / "report.json"
    assert run("label report", [str(shared / "data" / "llm_labels" / name), "--json", str(output)]) == 0
    numbers = json.loads(output.read_text())
    assert round(numbers["uar"], 5) == uar
    assert (numbers["defects"]["negative"], numbers["defects"]["equal_values"]) == (negative, equal)
    assert (numbers["defects"]["gold_not_highest"], numbers["defects"]["unnormalized"]) == (not_highest, 0)
    assert round(numbers["gold_probability"]["mean"], 3) == gold
    assert f"{uar:.5f}" in capsys.readouterr().out


def test_numbers_by_hand():
    rows = [
        np.eye(7)[0],
        np.full(7, 1 / 7),
        [0.5, 0.5, 0, 0, 0, 0, 0],
        [-0.1, 1.1, 0, 0, 0, 0, 0],
        [0.5, 0.2, 0, 0, 0, 0, 0],
        [np.nan] * 7,
    ]
    numbers = describe_labels(make_table(rows, [0, 3, 0, 1, 0, 2]))
    assert (numbers["rows"], numbers["failed"]) == (6, 1)
    assert numbers["uar"] == pytest.approx((1 + 0 + 1) / 3)
    assert numbers["confusion"][3][0] == 1
    assert numbers["defects"]["negative"] == numbers["defects"]["above_one"] == numbers["defects"]["unnormalized"] == 1
    np.testing.assert_allclose(entropy_bits(np.array(rows[:3], dtype=float)), [0, np.log2(7), 1], atol=1e-12)


def test_two_sets():
    first = make_table([np.eye(7)[0], np.eye(7)[1], [0.5, 0.5, 0, 0, 0, 0, 0]], [0, 0, 1], "a")
    second = make_table([np.eye(7)[0], np.eye(7)[2], [0.5, 0.5, 0, 0, 0, 0, 0]], [0, 0, 1], "b")
    numbers = compare_labels(first, second)
    assert (numbers["rows"], numbers["agreement"]) == (3, pytest.approx(2 / 3))
    assert numbers["jensen_shannon_bits"]["anger"] == pytest.approx(0.5)  # 0 for one row, 1 bit for the other
    assert numbers["mean_difference"]["anger"][:3] == [0, -0.5, 0.5]


def test_real_sets_differ(shared):
    folder = shared / "data" / "llm_labels"
    tables = [read_label_table(folder / name) for name in PUBLISHED if "resd" in name]
    assert compare_labels(*tables)["rows"] == 1116


def test_pictures(tmp_path):
    table = make_table(np.eye(7) * 0.3 + 0.1, range(7))
    paths = write_label_plots(table, tmp_path / "new")
    assert [path.name for path in paths] == ["labels_confusion.png", "labels_mean.png", "labels_entropy.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert len(EMOTIONS) == 7


@pytest.mark.parametrize("arguments", [["report", "no-such.csv"], ["corpus", "--corpus", "resd", "--output", "x.txt"]])
def test_user_errors_are_told_in_one_line(arguments, capsys):
    assert run(f"label {arguments[0]}", arguments[1:]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def _written(kind: str, folder: Path) -> Path:
    """A file that is no table of soft labels."""
    header = ",".join(["id", "label", *EMOTIONS])
    contents = {
        "empty.csv": b"",
        "header.csv": header.encode(),
        "failed.csv": f"{header}\na,sad,,,,,,,\n".encode(),
        "no-gold.csv": f"{header}\na,,1,0,0,0,0,0,0\n".encode(),
        "columns.csv": b"id,label,anger\na,sad,1\n",
        "binary.csv": bytes(range(256)) * 4,
        "quote.csv": f'{header}\n"a,sad,1,0,0,0,0,0,0\n'.encode(),
        "list.jsonl": (json.dumps({name: ["a"] for name in ["id", "label", *EMOTIONS]}) + "\n").encode(),
        "empty.jsonl": b"\n",
        "empty.parquet": b"",
        "cut.parquet": b"PAR1" + bytes(100),
        "table.xlsx": b"PK",
    }
    path = folder / kind
    if kind == "folder.csv":
        path.mkdir()
    elif kind == "columns.parquet":
        pq.write_table(pa.table({"x": [1, 2]}), path)
    elif kind == "no-rows.parquet":
        pq.write_table(pa.table({name: pa.array([], pa.string()) for name in ["id", "label", *EMOTIONS]}), path)
    elif kind == "billions.parquet":
        # A row costs nothing: the same value again
        column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(6_000_000, np.int8)), ["x"])
        pq.write_table(pa.table({name: column for name in ["id", "label", *EMOTIONS]}), path)
        assert path.stat().st_size < 200_000
    elif kind != "missing.csv":
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    "kind",
    [
        *("empty.csv", "header.csv", "failed.csv", "no-gold.csv", "columns.csv", "binary.csv", "quote.csv"),
        *("list.jsonl", "empty.jsonl", "empty.parquet", "cut.parquet", "columns.parquet", "no-rows.parquet"),
        *("billions.parquet", "table.xlsx", "folder.csv", "missing.csv"),
    ],
)
def test_a_table_that_is_none_is_reported_and_no_traceback(tmp_path, capsys, kind):
    path = _written(kind, tmp_path)
    assert run("label report", [str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert kind in said.err.splitlines()[0]
