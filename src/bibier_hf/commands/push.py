"""The command behind `recipes/push.py`: a trained model, a data set or a Space to the Hub."""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from ..files import locked
from ..hub.push import push_command, push_corpus, push_labels, push_model, push_space
from .common import guarded

KINDS = {
    "model": "a folder that recipes/train.py wrote",
    "dataset": "a prepared corpus (folder), or a table of soft labels (.parquet, .csv)",
    "space": "a folder with an application and a README.md that names its sdk",
}


def push_main(arguments: Sequence[str], description: str | None = None) -> int:
    """Push as the arguments say; returns the exit code."""
    options = _parser(description).parse_args(arguments)
    private = not options.public

    def push() -> None:
        path = Path(options.path)
        # Nobody else may write meanwhile: what is sent would be half old and half new.
        with locked(path, file=path.is_file(), reading=True) if path.exists() else nullcontext():
            print(f"Pushed {'privately' if private else 'for all to see'}: {send()}")

    def send() -> str:
        if options.kind == "model":
            return push_model(options.path, options.repo_id, private=private)
        if options.kind == "space":
            return push_space(options.path, options.repo_id, private=private)
        if Path(options.path).is_dir() or not Path(options.path).suffix:
            return push_corpus(options.path, options.repo_id, private=private, force_audio=options.force_audio)
        return push_labels(options.path, options.repo_id, private=private)

    again = push_command(options.kind, options.path, options.repo_id, private)
    return guarded(
        push, lambda: f"Interrupted. {options.path} is as it was, and so is what stood on the Hub. Go on with: {again}"
    )


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recipes/push.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="kind", required=True, metavar=" | ".join(KINDS))
    for kind, source in KINDS.items():
        command = commands.add_parser(kind, help=source, allow_abbrev=False)
        command.add_argument("path", metavar="FOLDER", help=source)
        command.add_argument("repo_id", metavar="OWNER/NAME", help="repository on the Hub; made if it is not there")
        command.add_argument("--public", action="store_true", help="for all to see; default: private")
        if kind == "dataset":
            command.add_argument(
                "--force_audio", action="store_true", help="also recordings that are not yours to publish (MELD)"
            )
    return parser
