"""Publish a prepared corpus on the Hugging Face Hub, privately unless told otherwise.

python recipes/push_corpus.py data/resd OWNER/resd-bibier
python recipes/push_corpus.py data/resd OWNER/resd-bibier --public
"""

import sys

from bibier_hf.commands.push_corpus import push_corpus_main

if __name__ == "__main__":
    sys.exit(push_corpus_main(sys.argv[1:]))
