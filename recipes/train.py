"""Train a model, select it on dev, score it once on test, and write model, results and card.

accelerate launch recipes/train.py  # the quickstart
accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH/TO/resd  # a real corpus
accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH/TO/resd --corpora.0.protocol dialogue_grouped
accelerate launch recipes/train.py recipes/meld_resd.yaml --corpora.0.data_dir PATH/TO/meld \
    --corpora.1.data_dir PATH/TO/resd  # two stages
accelerate launch recipes/train.py --help  # every key
"""

import sys
from pathlib import Path

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(
        run(
            "bibier_hf.commands.train:train_main",
            sys.argv[1:],
            default_file=Path(__file__).with_name("quickstart.yaml"),
        )
    )
