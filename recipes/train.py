"""`bibier train` for launchers that start several processes.

accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH/TO/resd
accelerate launch --config_file recipes/accelerate_configs/multi_gpu.yaml recipes/train.py recipes/resd.yaml
python recipes/train.py --help
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("train", sys.argv[1:]))
