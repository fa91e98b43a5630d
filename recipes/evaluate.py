"""Score a checkpoint on a split of a corpus: metrics, recall of each class, calibration, pictures (PNG), predictions
(Parquet), JSON.

python recipes/evaluate.py outputs/quickstart  # what it was trained on, test split
python recipes/evaluate.py outputs/resd --data_dir PATH/TO/resd --split dev
python recipes/evaluate.py outputs/quickstart --corpus resd --data_dir PATH/TO/resd --output_dir outputs/transfer
python recipes/evaluate.py outputs/resd --data_dir PATH/TO/resd --modalities true  # and speech alone, text alone
python recipes/evaluate.py outputs/resd --data_dir PATH/TO/resd --noise_snr_db "[20, 10, 5, 0]" --noise babble
python recipes/evaluate.py outputs/resd --data_dir PATH/TO/resd --json  # the report on stdout
python recipes/evaluate.py --help
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.commands.evaluate:evaluate_main", sys.argv[1:]))
