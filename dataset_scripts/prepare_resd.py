"""RESD (raw folder, or its data set on the Hub) -> Parquet in the common schema.

python dataset_scripts/prepare_resd.py --source PATH/TO/resd --output_dir data/resd
python dataset_scripts/prepare_resd.py --source Aniemore/resd_annotated --output_dir data/resd
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.data.command:prepare_command", "resd", __doc__))
