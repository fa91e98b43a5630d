"""MELD (official archive or a folder) -> Parquet in the common schema.

python dataset_scripts/prepare_meld.py --source MELD.Raw.tar.gz --output_dir data/meld
python dataset_scripts/prepare_meld.py --source PATH/TO/extracted --output_dir data/meld --outliers drop
python dataset_scripts/prepare_meld.py --source FOLDER/WITH/CSVS --output_dir data/meld_text --text_only
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.data.command:prepare_command", "meld", __doc__))
