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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--report", "--output_dir", "nowhere"], "Run the same command without --report first"),
        (["--strengths", "{audio: 1.0}"], "strengths: needs a value for text"),
        (["--corpora.0.modalities", "audio,text"], "60 of 60 rows have no audio"),
        (["--corpora.0.test", "[banana]"], "corpora.0.test"),
    ],
)
def test_what_cannot_be_tested(arguments, changes, message, capsys):
    assert run("transfer", [*arguments, *changes]) == 2
    assert message in capsys.readouterr().err
