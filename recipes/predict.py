"""Print the emotions of clips and texts, through the pipeline: `bibier predict` under another name.

python recipes/predict.py outputs/quickstart --demo  # one English and one Russian clip of the embedded corpus
python recipes/predict.py outputs/resd clip.wav other.wav
python recipes/predict.py outputs/resd clip.wav --text "I can't believe it!"
python recipes/predict.py outputs/resd --text "I can't believe it!"
python recipes/predict.py outputs/resd recordings/ --json  # every audio file of a folder, a JSON object a line
python recipes/predict.py outputs/resd talk.wav --chunk_length_s 4 --hop_length_s 2 --output talk.srt
"""

import sys

from bibier_cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
