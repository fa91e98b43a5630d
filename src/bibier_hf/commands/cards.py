"""The command behind `recipes/cards.py`: cards anew from their facts."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..hub.card_folders import card_folders, take_facts, write_card
from .common import guarded


def cards_main(arguments: Sequence[str], description: str | None, default_root: Path) -> int:
    """Write cards as the arguments say; returns the exit code.

    Args:
        arguments: `[FOLDER ...]` or `take SOURCE FOLDER`.
        description: for the help.
        default_root: where the folders are when none is given.
    """
    parser = argparse.ArgumentParser(
        prog="recipes/cards.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="folders with facts, or: take SOURCE FOLDER")
    folders = parser.parse_args(arguments).folders
    if folders[:1] == ["take"] and len(folders) != 3:
        parser.error(
            "take needs a SOURCE (folder of a run or a prepared corpus, or a table of soft labels) and a FOLDER."
        )

    def write() -> None:
        if folders[:1] == ["take"]:
            take_facts(*folders[1:])
            print(f"Written: {folders[2]}/README.md")
            return
        for folder in folders or card_folders(default_root):
            write_card(folder)
            print(f"Written: {folder}/README.md")

    return guarded(write)
