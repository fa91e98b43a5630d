"""Compute the features of a run's backbones once, before training, on any number of processes and machines.

python recipes/extract_features.py recipes/resd.yaml --data_dir PATH/TO/resd --audio_backbone openai/whisper-base \\
    --text_backbone intfloat/multilingual-e5-small --model.audio_config.layer 2
python recipes/extract_features.py --corpora.0.name resd --data_dir PATH/TO/resd --feature_cache.dtype float16 \\
    --feature_cache.compute_dtype bfloat16 --drift 16                           # smaller, faster, and what that costs
accelerate launch --config_file recipes/accelerate_configs/multi_gpu.yaml recipes/extract_features.py recipes/resd.yaml
python recipes/extract_features.py --help

recipes/train.py with the same keys finds them. Killed at any moment, the same command goes on where it stopped.
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.commands.extract:extract_main", sys.argv[1:]))
