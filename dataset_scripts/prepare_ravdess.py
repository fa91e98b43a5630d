"""RAVDESS, speech (raw folder) -> Parquet in the common schema.

python dataset_scripts/prepare_ravdess.py --source PATH/TO/ravdess --output_dir data/ravdess
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.data.command:prepare_command", "ravdess", __doc__))
