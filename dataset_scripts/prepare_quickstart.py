"""The embedded synthetic corpus, spoken by eSpeak NG on the spot -> Parquet in the common schema.

python dataset_scripts/prepare_quickstart.py --output_dir data/quickstart
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.data.command:prepare_command", "quickstart", __doc__))
