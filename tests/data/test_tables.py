import pytest

from bibier_hf.data.tables import CorpusError, read_table


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
    with pytest.raises(CorpusError, match=r"(?s)line 2: no valid JSON.*line 3: a list"):
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


def test_a_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")
