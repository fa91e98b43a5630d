"""The command behind `recipes/push_corpus.py`: a prepared corpus to the Hub."""

import argparse
from collections.abc import Sequence

from ..data.publish import publish_corpus
from .common import guarded


def push_corpus_main(arguments: Sequence[str]) -> int:
    """Publish as the arguments say; returns the exit code."""
    parser = argparse.ArgumentParser(prog="recipes/push_corpus.py", description="A prepared corpus to the Hugging Face Hub, with a card.")
    parser.add_argument("folder", help="what a script of dataset_scripts/ wrote")
    parser.add_argument("repo_id", help="owner/name on the Hub; made if it is not there")
    parser.add_argument("--public", action="store_true", help="for all to see; default: private")
    parser.add_argument("--force_audio", action="store_true", help="also recordings that are not yours to publish (MELD)")
    options = parser.parse_args(arguments)

    def push() -> None:
        url = publish_corpus(options.folder, options.repo_id, private=not options.public, force_audio=options.force_audio)
        print(f"Pushed: {url}")

    return guarded(push, lambda: "Interrupted; on the Hub everything is as it was.")
