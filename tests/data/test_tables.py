import os
import threading

import pytest

from bibier_hf.data import tables
from bibier_hf.data.tables import CorpusError, Row, read_number, read_table


def test_quotes_line_breaks_and_russian_pass_unchanged(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('audio,text\na.wav,"Ну, «ёлка»\nи ""всё"""\nb.wav,Да\n', encoding="utf-8")
    rows = read_table(path)
    assert [row.values["text"] for row in rows] == ['Ну, «ёлка»\nи "всё"', "Да"]
    # the first row fills the lines 2 and 3
    assert [row.where for row in rows] == ["t.csv line 2", "t.csv line 4"]


def test_byte_order_mark_and_empty_lines_do_not_matter(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffaudio,text\r\n\r\na.wav,x\r\n".encode())
    [row] = read_table(path)
    assert row.values == {"audio": "a.wav", "text": "x"}
    assert row.where == "t.csv line 3"


def test_tsv_and_jsonl(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n1,5\tx\n", encoding="utf-8")
    (tmp_path / "t.jsonl").write_text('{"a": "1,5", "b": "x"}\n\n', encoding="utf-8")
    assert (
        read_table(tmp_path / "t.tsv")[0].values
        == read_table(tmp_path / "t.jsonl")[0].values
        == {"a": "1,5", "b": "x"}
    )


def test_every_bad_line_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n1,2,3\n1\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"(?s)cannot be read \(2\).*line 3: 3 cells.*line 4: 1 cells"):
        read_table(path)
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n{"a": \n[1]\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"(?s)line 2: invalid JSON.*line 3: a list"):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n\xcf\xf0\xe8,x\n", "not UTF-8"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"", "no rows"),
        ("t.csv", b"a,a\n1,2\n", "more than once"),
        ("t.csv", b'a,b\n"1,2\n', "line 2"),
        ("t.xlsx", b"", r"Allowed: \.csv, \.tsv, \.jsonl"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_table(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        "audio;text\na.wav;Well, yes\n",
        "audio\ttext\na.wav\tWell, yes\n",
        "sep=;\naudio;text\na.wav;Well, yes\n",
        '"audio";"text"\r\n"a.wav";"Well, yes"\r\n',
        '\n\naudio,text\na.wav,"Well, yes"\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_tables_of_excel(tmp_path, content, encoding, suffix):
    (tmp_path / f"t.{suffix}").write_bytes(content.encode(encoding))
    (row,) = read_table(tmp_path / f"t.{suffix}")
    assert row.values == {"audio": "a.wav", "text": "Well, yes"}
    number = next(n for n, line in enumerate(content.splitlines(), 1) if "Well" in line)
    assert row.where == f"t.{suffix} line {number}"


def test_emptied_rows_and_the_index_of_pandas_do_not_matter(tmp_path):
    (tmp_path / "t.csv").write_text(";;\n;text;label\n0;a;sad\n;;\n1;b;happy\n;;\n")
    rows = read_table(tmp_path / "t.csv")
    assert [row.values for row in rows] == [{"text": "a", "label": "sad"}, {"text": "b", "label": "happy"}]
    assert [row.where for row in rows] == ["t.csv line 3", "t.csv line 5"]
    (tmp_path / "t.csv").write_text(",text\n7,a\n1,b\n")
    assert read_table(tmp_path / "t.csv")[0].values == {"": "7", "text": "a"}


def test_a_header_of_one_column_keeps_the_comma(tmp_path):
    (tmp_path / "t.csv").write_text('text\n"a; b"\nc; d\n')
    assert [row.values for row in read_table(tmp_path / "t.csv")] == [{"text": "a; b"}, {"text": "c; d"}]


def test_the_separator_is_named_where_it_does_not_fit(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n1;2;3\n")
    with pytest.raises(CorpusError, match=r"line 2: 3 cells, but the header has 2 \(separated by ';'\)"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("content", ["audio,text\na.wav,x\n", '{"audio": "a.wav", "text": "x"}\n'])
def test_a_pipe_is_read(tmp_path, content):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(content,))
    writer.start()
    (row,) = read_table(pipe)
    writer.join()
    assert row.values == {"audio": "a.wav", "text": "x"}


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_line_without_end_is_one_error(tmp_path, monkeypatch, name, quote):
    monkeypatch.setattr(tables, "MAX_LINE", 1000)
    (tmp_path / name).write_text(f"a,b\n1,{quote}" + "x" * 5000)
    with pytest.raises(CorpusError, match=r"line 2 is longer than 1000 characters|line 1: invalid JSON"):
        read_table(tmp_path / name)
    # A cell that goes on over many lines
    (tmp_path / "t.csv").write_text('a,b\n1,"' + "x\n" * 5000)
    with pytest.raises(CorpusError, match="field larger than field limit"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("line", ['{"a": ' + "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_json_that_breaks_readers_is_one_fault(tmp_path, line):
    (tmp_path / "t.jsonl").write_text(line + "\n")
    with pytest.raises(CorpusError, match=r"t\.jsonl line 1"):
        read_table(tmp_path / "t.jsonl")


@pytest.mark.parametrize("value", [["a", 1], {"a": 1}, True])
def test_what_is_no_text_is_refused_with_line_and_column(value):
    with pytest.raises(CorpusError, match=r"t\.jsonl line 3: 'text' is .*must be a text"):
        Row({"text": value}, "t.jsonl line 3").text("text")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        ("nan", ""),
        ("NaN", ""),
        ("<NA>", ""),
        ("Nan", "Nan"),
        (7, "7"),
        ("\ud83d\ude00", "😀"),
        ("a\ud83d", "a\ufffd"),
    ],
)
def test_texts_of_pandas_and_json(value, text):
    assert Row({"text": value}, "").text("text") == text


def test_decimal_commas_where_they_can_be_nothing_else():
    assert [read_number(text) for text in ("0,25", " 1,0", "-0,5", "0.25", "3")] == [0.25, 1.0, -0.5, 0.25, 3.0]
    for text in ("1,250", "12,5", "1,5", "0,1,2"):
        with pytest.raises(ValueError, match="could not convert"):
            read_number(text)


def test_a_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")
