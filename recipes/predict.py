"""Print the emotions of clips, through the pipeline.

python recipes/predict.py outputs/quickstart --demo                    # one English and one Russian clip of the embedded corpus
python recipes/predict.py outputs/resd clip.wav other.wav
python recipes/predict.py outputs/resd clip.wav --text "I can't believe it!"
python recipes/predict.py outputs/resd --text "I can't believe it!"
"""

import sys

from bibier_hf.commands.predict import predict_main

if __name__ == "__main__":
    sys.exit(predict_main(sys.argv[1:]))
