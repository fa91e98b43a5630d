"""Augment a corpus, and listen to the result.

python recipes/augment.py sds --corpus resd --data_dir PATH/TO/resd --share 0.7 \
    --output_dir outputs/resd-sds  # stacked clips
python recipes/augment.py tug --corpus resd --data_dir PATH/TO/resd --output_dir outputs/tug-ru  # balances the classes
python recipes/augment.py tug --count 100 --tts none --output_dir outputs/tug-text  # both languages, text only
python recipes/augment.py tug --count 10 --tts command --tts_options.template "mytts -t {text} -o {output}" \
    --output_dir OUT
python recipes/augment.py preview --augmented outputs/resd-sds --data_dir PATH/TO/resd --output outputs/preview.html
python recipes/augment.py components --corpus resd --data_dir PATH/TO/resd --languages [ru] --model MODEL \
    --output_dir outputs/components
python recipes/augment.py COMMAND --help  # every key

A written corpus is trained on as any other (`--corpora.0.data_dir outputs/resd-sds`), synthetic rows beside a recorded
corpus (`--corpora.0.augmentation.synthetic.path outputs/tug-ru`). Several draws of stacked clips, or fresh ones in
every epoch, are options of training (`--corpora.0.augmentation.sds.share 0.7 --corpora.0.augmentation.sds.draws 4`).
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.commands.augment:augment_main", sys.argv[1:]))
