"""Push a trained model, a data set or a Space to the Hugging Face Hub, privately unless told otherwise.

python recipes/push.py model outputs/resd OWNER/bibier-resd
python recipes/push.py dataset data/resd OWNER/resd-bibier
python recipes/push.py dataset outputs/resd_labels.parquet OWNER/resd-labels
python recipes/push.py space outputs/space OWNER/bibier-demo --public
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.commands.push:push_main", sys.argv[1:], __doc__))
