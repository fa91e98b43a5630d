"""Any CSV, TSV or JSON-lines table of audio, text, label -> Parquet in the common schema.

python dataset_scripts/prepare_csv.py --source my_corpus/metadata.csv --language en --output_dir data/my_corpus
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.data.command:prepare_command", "csv", __doc__))
