import datetime
import os
import threading

import pytest

from bibier_hf import extras
from bibier_hf.data import tables
from bibier_hf.data.tables import CorpusError, Row, read_number, read_table
from bibier_hf.extras import MissingPackageError


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
        ("t.csv", b"a,b\n\xcf\xf0\xe8,x\n", r"not UTF-8 \(line 2; as cp1251 it is 'При,x'\).*--encoding cp1251"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16-le"), r"line 1 has null characters.*--encoding utf-16-le"),
        ("t.csv", b"a;b,c\n1;2,3\n", r"header 'a;b,c' has several separators \(comma, semicolon\).*--separator"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"", "no rows"),
        ("t.csv", b"a,a\n1,2\n", "more than once"),
        ("t.csv", b'a,b\n"1,2\n', "line 2"),
        ("t.xls", b"", r"Allowed: \.csv, \.tsv, \.jsonl, \.json, \.xlsx"),
        ("t.json", b'{"a": 1}', "is a dict; it must be a list of objects"),
        ("t.json", b'[{"a": 1}, 2]', "entry 2: a int"),
        ("t.json", b'[{"a": 1},\n {"a" 2}]', r"line 2 column 7: invalid JSON"),
        ("t.json", b'{"a": 1}\n{"a": 2}\n', r"line 2 column 1: .*call it \.jsonl"),
        ("t.json", b'[{"a": "\xcf\xf0"}]', "not UTF-8.*as cp1251"),
        ("t.json", b"[" * 100_000, "unreadable JSON"),
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


def test_what_differs_from_utf_8_and_commas_is_said(tmp_path):
    for content, encoding, said in [
        ("text,label\nДа,joy\n", "utf-8", ""),
        ("text|label\nДа|joy\n", "utf-8", "read as UTF-8, separated by '|'"),
        ("text;label\nДа;joy\n", "utf-16", "read as UTF-16, separated by ';'"),
    ]:
        (tmp_path / "t.csv").write_bytes(content.encode(encoding))
        (row,) = read_table(tmp_path / "t.csv")
        assert row.values == {"text": "Да", "label": "joy"}
        assert row.read_as == said


def test_an_encoding_and_a_separator_are_read_when_given(tmp_path):
    (tmp_path / "t.csv").write_bytes("text;label, old\r\nДа, да;joy\r\n".encode("cp1251"))
    (row,) = read_table(tmp_path / "t.csv", encoding="cp1251", separator="semicolon")
    assert row.values == {"text": "Да, да", "label, old": "joy"}
    assert row.read_as == "read as CP1251, separated by ';'"


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        (
            "t.csv",
            b"\xef\xbb\xbfa\n1\n",
            {"encoding": "cp1251"},
            "byte order mark of UTF-8. Leave out encoding='cp1251'",
        ),
        ("t.csv", b"a\n1\n", {"encoding": "cp12511"}, "encoding='cp12511': unknown encoding"),
        ("t.csv", b"a\n1\n", {"encoding": "base64"}, "'base64' is not a text encoding"),
        ("t.csv", b"a\n\x98\n", {"encoding": "cp1251"}, "not CP1251"),
        ("t.csv", b"a\n1\n", {"separator": ";"}, "separator=';'; allowed: comma, semicolon, tab, pipe"),
        ("t.csv", b"a\n1\n", {"sheet": "a"}, "sheet='a' does not apply to .csv"),
        ("t.jsonl", b'{"a": 1}', {"separator": "tab"}, "separator='tab' does not apply to .jsonl"),
        ("t.xlsx", b"", {"encoding": "utf-8"}, "encoding='utf-8' does not apply to .xlsx"),
    ],
)
def test_options_that_do_not_fit_the_file_are_refused(tmp_path, name, content, options, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_table(tmp_path / name, **options)


def test_json(tmp_path):
    (tmp_path / "t.json").write_text('\ufeff[{"a": "1,5", "b": "ё"}, {"a": 2}]', encoding="utf-8")
    rows = read_table(tmp_path / "t.json")
    assert [row.values for row in rows] == [{"a": "1,5", "b": "ё"}, {"a": 2}]
    assert [row.where for row in rows] == ["t.json entry 1", "t.json entry 2"]


@pytest.fixture
def write_xlsx(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")

    def write(**sheets):
        book = openpyxl.Workbook()
        book.remove(book.active)
        for name, lines in sheets.items():
            page = book.create_sheet(name)
            for line in lines:
                page.append(line)
        book.save(tmp_path / "t.xlsx")
        return tmp_path / "t.xlsx"

    return write


def test_a_workbook(write_xlsx):
    lines = [[], ["text", "label", "age", None], ["Да; нет, да", "joy", 7, None], [None, None], [" ", "sad", 1.5, " "]]
    rows = read_table(write_xlsx(Лист1=lines, Лист2=[]))
    assert [[row.text(column) for column in ("text", "label", "age")] for row in rows] == [
        ["Да; нет, да", "joy", "7"],
        ["", "sad", "1.5"],
    ]
    assert [row.where for row in rows] == ["t.xlsx sheet 'Лист1' row 3", "t.xlsx sheet 'Лист1' row 5"]
    assert {row.read_as for row in rows} == {"read from the sheet 'Лист1'"}


def test_a_sheet_of_a_workbook(write_xlsx):
    path = write_xlsx(one=[["a"], [1]], two=[["a"], [2]])
    assert read_table(path, sheet="two")[0].values == {"a": 2}
    with pytest.raises(CorpusError, match=r"has the sheets \['one', 'two'\]\. Pass one: .*--sheet one"):
        read_table(path)
    with pytest.raises(CorpusError, match=r"sheet='three': .*it has \['one', 'two'\]"):
        read_table(path, sheet="three")


def test_workbooks_that_cannot_be_used_are_refused(tmp_path, write_xlsx, monkeypatch):
    with pytest.raises(
        CorpusError, match=r"(?s)lines that cannot be read \(1\).*row 2: the cell B2 is the error #N/A"
    ):
        read_table(write_xlsx(a=[["a", "b"], [1, "#N/A"]]))
    row = read_table(write_xlsx(a=[["day"], [datetime.date(2026, 1, 2)]]))[0]
    with pytest.raises(CorpusError, match=r"row 2: 'day' is \"2026-01-02.*it must be a text or a number"):
        row.text("day")
    with pytest.raises(CorpusError, match="has no rows"):
        read_table(write_xlsx(a=[]))
    (tmp_path / "t.xlsx").write_bytes(b"no workbook")
    with pytest.raises(CorpusError, match=r"not a readable \.xlsx workbook"):
        read_table(tmp_path / "t.xlsx")


def test_without_the_package_a_workbook_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.xlsx").touch()
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"openpyxl.*bibier-hf\[excel\]"):
        read_table(tmp_path / "t.xlsx")


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
