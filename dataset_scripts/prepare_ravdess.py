"""RAVDESS, speech (raw folder) -> Parquet in the common schema.

python dataset_scripts/prepare_ravdess.py --source PATH/TO/ravdess --output_dir data/ravdess
"""

from bibier_hf.data.command import prepare_command

if __name__ == "__main__":
    raise SystemExit(prepare_command("ravdess", __doc__))
