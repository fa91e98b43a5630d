"""Score a checkpoint on a split of a corpus: metrics, recall of each class, confusion matrix (PNG), predictions (Parquet), JSON.

python recipes/evaluate.py outputs/quickstart                                       # what it was trained on, test split
python recipes/evaluate.py outputs/resd --data_dir PATH/TO/resd --split dev
python recipes/evaluate.py outputs/quickstart --corpus resd --data_dir PATH/TO/resd --output_dir outputs/transfer
python recipes/evaluate.py outputs/resd --data_dir PATH/TO/resd --json              # the report on stdout
python recipes/evaluate.py --help
"""

import sys

from bibier_hf.commands.evaluate import evaluate_main

if __name__ == "__main__":
    sys.exit(evaluate_main(sys.argv[1:]))
