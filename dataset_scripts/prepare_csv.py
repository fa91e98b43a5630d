"""Any CSV, TSV or JSON-lines table of audio, text, label -> Parquet in the common schema.

python dataset_scripts/prepare_csv.py --source my_corpus/metadata.csv --language en --output_dir data/my_corpus
"""

from bibier_hf.data.command import prepare_command

if __name__ == "__main__":
    raise SystemExit(prepare_command("csv", __doc__))
