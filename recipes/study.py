"""Compare variants of a run over seeds and folds: each is trained as by recipes/train.py; folds are pooled, seeds
averaged.

python recipes/study.py recipes/studies/resd_grouped.yaml --data_dir PATH/TO/resd
python recipes/study.py recipes/studies/resd_augmentation.yaml --data_dir PATH/TO/resd --only base,sds  # some variants
python recipes/study.py recipes/studies/resd_augmentation.yaml --data_dir PATH/TO/resd --report  # what is finished
python recipes/study.py --help

What a run takes (--audio_backbone FOLDER, --num_train_epochs 3) goes to every run. Finished runs are kept, so that a
study goes on where it was stopped.
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.commands.study:study_main", sys.argv[1:]))
