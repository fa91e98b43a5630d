"""The cards in `model_cards/` are what their facts give, and the command that writes them."""

import shutil
from pathlib import Path

import pytest
import yaml

from render_cards import card_folders, main, write_card

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = card_folders(REPOSITORY / "model_cards")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_card_is_what_its_facts_give(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "again", ignore=shutil.ignore_patterns("README.md", ".eval_results"))
    write_card(tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(folder), "run: python tools/render_cards.py"


def test_what_is_released_has_a_card():
    names = {folder.name for folder in FOLDERS}
    assert {"meld", "resd", "ravdess", "tug-en", "tug-ru"} <= {
        folder.name for folder in FOLDERS if folder.parent.name == "datasets"
    }
    assert any(name.startswith("labels-") for name in names)
    assert any(folder.parent.name == "models" for folder in FOLDERS)
    unread = [path for path in (REPOSITORY / "model_cards").rglob("README.md") if path.parent not in FOLDERS]
    assert unread == [REPOSITORY / "model_cards" / "README.md"]


def card_of(name: str) -> tuple[dict, str]:
    text = (REPOSITORY / "model_cards" / "datasets" / name / "README.md").read_text(encoding="utf-8")
    _, metadata, body = text.split("---\n", 2)
    return yaml.safe_load(metadata), body


def test_data_sets_say_what_they_are():
    metadata, text = card_of("meld")
    assert metadata["license"] == "gpl-3.0"
    assert "configs" not in metadata  # there is nothing to load
    assert "load_dataset" not in text
    assert "excerpts of a television series" in text
    assert "https://huggingface.co/datasets/declare-lab/MELD" in text
    for name, language in (("tug-en", "en"), ("tug-ru", "ru")):
        metadata, text = card_of(name)
        assert text.lstrip().startswith("# Template utterances\n\n**Synthetic.** Nobody said any of this")
        assert metadata["language"] == [language]
        assert "synthetic" in metadata["tags"]
    metadata, text = card_of("ravdess")
    assert metadata["license"] == "cc-by-nc-sa-4.0"
    assert "**Not for commercial use**" in text
    metadata, text = card_of("resd")
    assert metadata["license"] == "mit"
    assert "shares every dialogue role with train" in text


def test_the_command_takes_facts_and_renders(tmp_path: Path, capsys):
    table = tmp_path / "labels.csv"
    table.write_text(
        "id,label,anger,disgust,fear,happy,neutral,sad,surprise\nresd-1,happy,0.1,0.1,0.1,0.4,0.1,0.1,0.1\n"
    )
    target = tmp_path / "cards" / "labels"
    assert main(["take", str(table), str(target)]) == 0
    card = (target / "README.md").read_text()
    assert "# Soft labels: labels.csv" in card
    (target / "README.md").unlink()
    assert main([], root=tmp_path / "cards") == 0
    assert (target / "README.md").read_text() == card
    capsys.readouterr()
    assert main([str(tmp_path)]) == 2
    assert "holds no facts to render a card from" in capsys.readouterr().err
    assert main(["take", str(tmp_path / "none"), str(target)]) == 2
    assert "is not a finished run" in capsys.readouterr().err
