"""`bibier transfer` over tables of texts, with the embedded backbone."""

import json

import pytest

from bibier_cli import run

LABELS = ("anger", "happy", "sad")


def table(path, language: str) -> str:
    lines = ["text,label,split,language,dialogue,speaker"]
    for number in range(60):
        split = ("train", "train", "dev", "test")[number % 4]
        place = number // 6
        label = LABELS[place % 3]
        lines.append(f"line {number} {label} {label},{label},{split},{language},d{place // 2},s{place}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    common = {"name": "csv", "modalities": ["text"]}
    corpora = [
        common | {"data_dir": table(tmp_path / "here.csv", "en"), "test": ["dialogue"], "leaky": "test"},
        common | {"data_dir": table(tmp_path / "there.csv", "ru"), "test": "dev"},
    ]
    return ["--corpora", json.dumps(corpora), "--text_backbone", "embedded", "--labels", ",".join(LABELS)]


def test_the_matrix_and_its_report(arguments, tmp_path, capsys):
    folder = tmp_path / "out"
    assert run("transfer", [*arguments, "--output_dir", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "| reads | trained on |" in printed

    facts = json.loads((folder / "transfer.json").read_text())
    assert facts["corpora"]["here"]["leaky"] == "test split"
    assert facts["corpora"]["there"] | {"seen": {}} == {
        "title": facts["corpora"]["there"]["title"],
        "language": "ru",
        "test": "dev split",
        "leaky": None,
        "group": "dialogue",
        "seen": {},
    }

    # The report needs nothing but the stored predictions.
    page = (folder / "transfer.md").read_text()
    for name in ("transfer.md", "transfer.csv", "transfer.png"):
        (folder / name).unlink()
    assert run("transfer", ["--report", "--output_dir", str(folder)]) == 0
    assert (folder / "transfer.md").read_text() == page
    assert (folder / "transfer.png").is_file()


def own_table(path, rows: list[str]) -> str:
    path.write_text("\n".join(["text,label,split,speaker,dialogue,language", *rows]) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (
            [f"t{n},{LABELS[n % 3]},train,s{n},d,en" for n in range(9)],
            {"test": ["dialogue"]},
            "nothing is left to train on",
        ),
        ([f"t{n},sad,train,s{n},d{n},en" for n in range(9)], {"test": ["speaker"]}, "have the same label"),
        (
            [f"t{n},{LABELS[n % 3]},train,,,en" for n in range(9)],
            {"test": ["text"], "group": "speaker"},
            "have no speaker",
        ),
    ],
)
def test_tables_that_cannot_be_tested(arguments, tmp_path, capsys, rows, changes, message):
    entry = {"name": "csv", "modalities": ["text"], "data_dir": own_table(tmp_path / "own.csv", rows)} | changes
    options = ["--corpora", json.dumps([entry]), "--output_dir", str(tmp_path / "out")]
    assert run("transfer", [*arguments[2:], *options]) == 2
    assert message in capsys.readouterr().err


def test_one_corpus_cannot_be_given_twice(arguments, capsys):
    corpora = json.loads(arguments[1])
    assert run("transfer", ["--corpora", json.dumps([corpora[0], corpora[0]]), *arguments[2:]]) == 2
    assert "'here' is given twice" in capsys.readouterr().err


def test_tables_keep_their_names_and_clips_are_drawn_one_by_one(arguments, tmp_path):
    """Without dialogues and speakers, each clip is drawn by itself: the intervals are not points."""
    texts = [f"line {number} {LABELS[(number + number // 7) % 3]}" for number in range(48)]
    rows = [f"{text},{LABELS[n % 3]},{('train', 'dev')[n % 2]},,,en" for n, text in enumerate(texts)]
    entry = {"name": "csv", "modalities": ["text"], "data_dir": own_table(tmp_path / "own.csv", rows), "test": "dev"}
    options = ["--corpora", json.dumps([entry]), "--output_dir", str(tmp_path / "out")]
    assert run("transfer", [*arguments[2:], *options]) == 0

    facts = json.loads((tmp_path / "out" / "transfer.json").read_text())["corpora"]["own"]
    assert (facts["title"], facts["group"]) == ("own", "id")
    head, line = (text.split(",") for text in (tmp_path / "out" / "transfer.csv").read_text().splitlines())
    cell = dict(zip(head, line, strict=True))
    assert cell["groups"] == cell["rows"] == "24"
    assert float(cell["uar_lower"]) < float(cell["uar"]) < float(cell["uar_upper"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--report", "--output_dir", "nowhere"], "Run the same command without --report first"),
        (["--strengths", "{audio: 1.0}"], "strengths: needs a value for audio and for text, got audio"),
        (["--corpora.0.modalities", "audio,text"], "60 of 60 rows have no audio"),
        (["--corpora.0.test", "[banana]"], "corpora.0.test"),
        (["--corpora.0.test", "[]"], "corpora.0.test"),
        (
            ["--corpora.0.test", "[speaker]", "--corpora.0.context.utterances", "2"],
            "Hold out dialogue, or leave context out",
        ),
        (["--strengths", "{audio: 1.0, text: 0}"], "strengths.text: Input should be greater than 0"),
        (["--corpora.0.splits", "[train, banana]"], "no split 'banana'. Allowed: train, dev, test"),
        (["--corpora.1.test", "[text, dialogue]", "--seen", "{banana: paper}"], "seen: there is no corpus 'banana'"),
        (
            ["--text_layer", "99"],
            "text_backbone: embedded cannot be used as asked for: BiBiERConfig: text_config.layer=99",
        ),
    ],
)
def test_what_cannot_be_tested(arguments, changes, message, capsys):
    assert run("transfer", [*arguments, *changes]) == 2
    assert message in capsys.readouterr().err
