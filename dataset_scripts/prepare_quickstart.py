"""The embedded synthetic corpus, spoken by eSpeak NG on the spot -> Parquet in the common schema.

python dataset_scripts/prepare_quickstart.py --output_dir data/quickstart
"""

from bibier_hf.data.command import prepare_command

if __name__ == "__main__":
    raise SystemExit(prepare_command("quickstart", __doc__))
