"""Render cards anew from their facts, after a change of a template, of `hub/facts.yaml` or of the facts.

python recipes/cards.py  # every card of model_cards/
python recipes/cards.py outputs/resd  # that of a run
python recipes/cards.py take outputs/resd model_cards/models/resd  # the facts of a run, and their card
python recipes/cards.py take data/resd model_cards/datasets/resd  # of a prepared corpus
python recipes/cards.py take labels.csv model_cards/datasets/labels  # of a table of soft labels
"""

import sys
from pathlib import Path

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(
        run("bibier_hf.commands.cards:cards_main", sys.argv[1:], __doc__, Path(__file__).parents[1] / "model_cards")
    )
