"""Baselines by scikit-learn that a model has to beat, reported like a training run (results.json, predictions,
confusion matrices).

python recipes/baseline.py mfcc_svm --corpus resd --data_dir PATH/TO/resd
python recipes/baseline.py mfcc_svm --corpus resd --data_dir PATH/TO/resd --protocol dialogue_grouped --fold all
python recipes/baseline.py tfidf_logreg --corpus csv --data_dir PATH/TO/table.csv --class_weights none
python recipes/baseline.py late_fusion --corpus resd --data_dir PATH/TO/resd  # MFCC and TF-IDF, half and half
python recipes/baseline.py late_fusion --corpus resd --data_dir PATH/TO/resd --protocol dialogue_grouped --fold all \\
    --parts "[pooled_audio_logreg, pooled_text_logreg]" --audio_backbone openai/whisper-base --text_backbone
    intfloat/multilingual-e5-small
python recipes/baseline.py who_speaks --corpus resd --data_dir PATH/TO/resd  # names the speaker, hears no emotion
python recipes/baseline.py --help
"""

import sys

from bibier_cli import run

if __name__ == "__main__":
    sys.exit(run("bibier_hf.commands.baseline:baseline_main", sys.argv[1:]))
