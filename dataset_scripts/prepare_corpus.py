"""Any corpus by its name, or one of your own by the Python file that defines it -> Parquet in the common schema.

python dataset_scripts/prepare_corpus.py my_corpus.py --source PATH/TO/recordings --output_dir data/mine
python dataset_scripts/prepare_corpus.py my_corpus.py --help    # the options of its reader
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.data.command:prepare_any_command", __doc__))
