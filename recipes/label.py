"""Soft labels from a language model (LS-LLM): label a corpus, recognise with the model itself, report on labels.

python recipes/label.py label --corpus resd --data_dir PATH/TO/resd --model Qwen/Qwen3-4B \
    --output outputs/resd_labels.parquet
python recipes/label.py label --corpus resd --data_dir PATH/TO/resd --way score --gold_weight 0.2 \
    --output outputs/resd_scores.parquet
python recipes/label.py label --corpus meld --data_dir PATH/TO/meld --corpus_option text_only=true --backend openai \
    --base_url http://gpu1:8000/v1 --base_url http://gpu2:8000/v1 --output outputs/meld_labels.parquet
python recipes/label.py recognise --corpus resd --data_dir PATH/TO/resd --shots 2 --output_dir outputs/resd_llm
python recipes/label.py report outputs/resd_labels.parquet --json outputs/resd_labels.json --plots outputs/resd_labels

The default back end is vLLM in this process, in an environment of its own (constraints-vllm.txt). A killed run goes on
with the same command.
To train on the labels: --corpora.0.labels outputs/resd_labels.parquet --soft_labels true.
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.commands.label:label_main", sys.argv[1:], __doc__))
