"""Folders that hold facts and the card that is rendered from them: a run's own, and those of `model_cards/`.

| facts | card of |
|---|---|
| `results.json` | a trained model |
| `corpus.json` with `with_audio` and `own_columns` | a prepared corpus |
| `labels.json` | a table of soft labels |
"""

import json
import os
from pathlib import Path

from ..data.prepare import INFO_FILE
from ..errors import ArgumentError
from ..evaluation.report import RESULTS_FILE
from ..files import write_atomically, write_json, writes
from .cards import CARD_FILE, read_results, write_model_card
from .dataset_cards import corpus_facts, label_facts, render_dataset_card, render_labels_card
from .eval_results import write_eval_results

LABELS_FILE = "labels.json"


@writes(lambda source, folder: folder)
def take_facts(source: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Write the facts of a run, a prepared corpus or a table of soft labels into a folder, and their card beside them.

    Args:
        source: folder of the run or the corpus, or file of the table.
        folder: made if it is not there.

    Raises:
        FileNotFoundError, CorpusError: a source that is none of the three, or that cannot be used.
    """
    source, folder = Path(source), Path(folder)
    if (source / RESULTS_FILE).is_file():
        write_json(folder / RESULTS_FILE, read_results(source))
    elif (source / INFO_FILE).is_file():
        write_json(folder / INFO_FILE, corpus_facts(source))
    elif source.is_file():
        write_json(folder / LABELS_FILE, label_facts(source))
    else:
        raise FileNotFoundError(
            f"'{source}' is no finished run ({RESULTS_FILE}), no prepared corpus ({INFO_FILE}) and no table of soft "
            "labels."
        )
    write_card(folder)


@writes(lambda folder: folder)
def write_card(folder: str | os.PathLike) -> None:
    """Render the card of a folder anew from the facts in it.

    Raises:
        FileNotFoundError: no facts there.
        ArgumentError: a prepared corpus itself, whose folder holds nothing of others.
    """
    folder = Path(folder)
    if (folder / RESULTS_FILE).is_file():
        results = read_results(folder)
        write_model_card(results, folder / CARD_FILE)
        write_eval_results(results, folder)
        return
    name = next((name for name in (INFO_FILE, LABELS_FILE) if (folder / name).is_file()), None)
    if name is None:
        raise FileNotFoundError(
            f"'{folder}' holds no facts to render a card from: {RESULTS_FILE}, {INFO_FILE} or {LABELS_FILE}."
        )
    facts = json.loads((folder / name).read_text(encoding="utf-8"))
    if name == INFO_FILE and "with_audio" not in facts:
        raise ArgumentError(
            f"'{folder}' is a prepared corpus: it gets its card when it is pushed, or in another folder: take "
            f"{folder} FOLDER."
        )
    card = render_dataset_card(facts) if name == INFO_FILE else render_labels_card(facts)
    write_atomically(folder / CARD_FILE, card.save)


def card_folders(root: str | os.PathLike) -> list[Path]:
    """The folders with facts below `root`, sorted."""
    return sorted({path.parent for name in (RESULTS_FILE, INFO_FILE, LABELS_FILE) for path in Path(root).rglob(name)})
