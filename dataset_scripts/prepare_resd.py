"""RESD (raw folder, or its data set on the Hub) -> Parquet in the common schema.

python dataset_scripts/prepare_resd.py --source PATH/TO/resd --output_dir data/resd
python dataset_scripts/prepare_resd.py --source Aniemore/resd_annotated --output_dir data/resd
"""

from bibier_hf.data.command import prepare_command

if __name__ == "__main__":
    raise SystemExit(prepare_command("resd", __doc__))
