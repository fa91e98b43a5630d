"""Render the cards of released models and data sets from their facts.

    python tools/render_cards.py                                          # every card in model_cards/
    python tools/render_cards.py outputs/resd                             # the card of one run
    python tools/render_cards.py take outputs/resd model_cards/models/resd       # copy the facts of a run, render
    python tools/render_cards.py take data/resd model_cards/datasets/resd        # of a prepared corpus
    python tools/render_cards.py take labels.csv model_cards/datasets/labels     # of a table of soft labels

Run it after a change to a template, to `hub/facts.yaml`, or to the facts in a folder:

| facts | card of |
|---|---|
| `results.json` | a trained model |
| `corpus.json` with `with_audio` and `own_columns` | a prepared corpus |
| `labels.json` | a table of soft labels |
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bibier_hf.data.prepare import INFO_FILE
from bibier_hf.errors import ArgumentError, UserError
from bibier_hf.evaluation.results import RESULTS_FILE
from bibier_hf.files import write_atomically, write_json
from bibier_hf.hub.cards import CARD_FILE, read_results, write_model_card
from bibier_hf.hub.dataset_cards import corpus_facts, label_facts, render_dataset_card, render_labels_card
from bibier_hf.hub.eval_results import write_eval_results

LABELS_FILE = "labels.json"
MODEL_CARDS = Path(__file__).parents[1] / "model_cards"
EXIT_USER_ERROR = 2


def main(arguments: Sequence[str], root: Path = MODEL_CARDS) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: `[FOLDER ...]` or `take SOURCE FOLDER`.
        root: where to look for folders if none is passed.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="folders with facts, or take SOURCE FOLDER"
    )
    folders = parser.parse_args(arguments).folders

    take = folders[:1] == [Path("take")]
    if take and len(folders) != 3:
        parser.error("take needs a SOURCE (a run, a prepared corpus or a table of soft labels) and a FOLDER.")

    try:
        if take:
            take_facts(*folders[1:])
            folders = folders[2:]

        for folder in folders or card_folders(root):
            write_card(folder)
            print(f"Written: {folder}/{CARD_FILE}")
    except (UserError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR

    return 0


def take_facts(source: Path, folder: Path) -> None:
    """Write the facts of a run, a prepared corpus or a table of soft labels into a folder, which is created if needed.

    Raises:
        FileNotFoundError, CorpusError: `source` is none of the three, or unusable.
    """
    if (source / RESULTS_FILE).is_file():
        read_results(source).write(folder / RESULTS_FILE)
    elif (source / INFO_FILE).is_file():
        write_json(folder / INFO_FILE, corpus_facts(source))
    elif source.is_file():
        write_json(folder / LABELS_FILE, label_facts(source))
    else:
        raise FileNotFoundError(
            f"'{source}' is not a finished run ({RESULTS_FILE}), a prepared corpus ({INFO_FILE}) or a table of soft "
            "labels."
        )


def write_card(folder: Path) -> None:
    """Render the card of a folder from the facts in it.

    Raises:
        FileNotFoundError: there are no facts.
        ArgumentError: the folder is a prepared corpus itself, not a folder of facts.
    """
    if (folder / RESULTS_FILE).is_file():
        results = read_results(folder)
        write_model_card(results, folder / CARD_FILE)
        write_eval_results(results, folder)
    elif (folder / INFO_FILE).is_file():
        facts = _read_json(folder / INFO_FILE)
        if "with_audio" not in facts:
            raise ArgumentError(
                f"'{folder}' is a prepared corpus, which gets its card when it is pushed. To render it into another "
                f"folder: take {folder} FOLDER."
            )
        write_atomically(folder / CARD_FILE, render_dataset_card(facts).save)
    elif (folder / LABELS_FILE).is_file():
        write_atomically(folder / CARD_FILE, render_labels_card(_read_json(folder / LABELS_FILE)).save)
    else:
        raise FileNotFoundError(
            f"'{folder}' holds no facts to render a card from: {RESULTS_FILE}, {INFO_FILE} or {LABELS_FILE}."
        )


def card_folders(root: Path) -> list[Path]:
    """Return the folders with facts below `root`, sorted."""
    return sorted({path.parent for name in (RESULTS_FILE, INFO_FILE, LABELS_FILE) for path in root.rglob(name)})


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
