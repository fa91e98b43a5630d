"""The command line of the scripts in `dataset_scripts/`: every keyword option of a corpus's reader becomes a
`--option`."""

import argparse
import inspect
import re
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import UserError
from ..model.audio_bibier import AudioError
from .corpora import CORPORA, get_corpus
from .prepare import Corpus


def prepare_any_command(description: str | None, argv: Sequence[str] | None = None) -> int:
    """`prepare_command` for the corpus that the first argument names (or the Python file that defines it)."""
    name, *rest = argv or sys.argv[1:] or ["--help"]
    if name.startswith("-"):
        print(f"usage: NAME_OR_FILE.py [--option value] ...\n\n{description or ''}\nCorpora: {', '.join(CORPORA)}")
        return 0 if name in ("-h", "--help") else 2
    return prepare_command(name, description, rest)


def prepare_command(name: str, description: str | None, argv: Sequence[str] | None = None) -> int:
    """Prepare the corpus `name` as the arguments say and print its counts and remarks.

    Returns:
        exit code: 0 done, 2 the corpus cannot be used (the reasons are printed), 130 interrupted
        (143 by SIGTERM).
    """
    output_dir = "the output folder"
    try:
        corpus = get_corpus(name)
        options = vars(_parser(corpus, description).parse_args(argv))
        source, output_dir = options.pop("source", None), options.pop("output_dir")
        info = corpus.prepare(source, output_dir, **options)
    except (UserError, AudioError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"Interrupted; {output_dir} is as it was.", file=sys.stderr)
        return getattr(error, "exit_code", 130)
    print(describe_counts(info))
    for line in describe_remarks(info):
        print(line)
    print(f"Written to {output_dir}")
    return 0


def describe_counts(info: dict[str, Any]) -> str:
    """The counts of a `corpus.json` as a table of text: one line a split, one column a label."""
    labels = list(next(iter(info["splits"].values()))["labels"])
    header = ["split", *labels, "rows", "hours"]
    lines = [
        [split, *(str(entry["labels"][label]) for label in labels), str(entry["rows"]), f"{entry['hours']:.2f}"]
        for split, entry in info["splits"].items()
    ]
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *lines]
    )


def describe_remarks(info: dict[str, Any]) -> list[str]:
    """What a `corpus.json` says beyond counts: rows that were changed, left out or transcribed, one line a kind."""
    lines = [f"{count} x {remark}" for remark, count in info["remarks"].items()]
    if info["asr"]:
        asr = info["asr"]
        lines.append(
            f"{asr['filled']} transcripts written by {asr['model']['name']}; it heard nothing in {asr['no_speech']} "
            "recordings"
        )
    return lines


def _parser(corpus: Corpus, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if corpus.has_source:
        hub = ", or the id of its data set on the Hub" if corpus.on_hub else ""
        parser.add_argument("--source", required=True, help=f"the raw corpus ({corpus.homepage}){hub}")
    parser.add_argument(
        "--output_dir", required=True, help="folder for the Parquet files; a prepared corpus in it is replaced"
    )
    parser.add_argument(
        "--asr",
        help="writes missing transcripts: id or folder of a speech recognition model, such as openai/whisper-base",
    )
    explained = _explained_arguments(corpus.read.__doc__ or "")
    for name, default in corpus.complete_options({}).items():
        text = f"{explained.get(name, '')} (default: {default})".replace("%", "%%").strip()
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=default, help=text)
        elif isinstance(default, tuple):
            parser.add_argument(f"--{name}", nargs="+", default=default, help=text)
        else:
            kind = str if default is None else type(default)
            if inspect.signature(corpus.read).parameters[name].annotation == (int | None):
                kind = int
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    return parser


def _explained_arguments(docstring: str) -> dict[str, str]:
    """Argument -> its description in the `Args:` section of a docstring"""
    section = re.search(r"^Args:\n(.*?)(?:\n\S|\Z)", inspect.cleandoc(docstring), re.DOTALL | re.MULTILINE)
    explained: dict[str, str] = {}
    for names, text in re.findall(
        r"^    (\w[\w, ]*): (.*(?:\n {8,}.*)*)", section[1] if section else "", re.MULTILINE
    ):
        for name in names.split(", "):
            explained[name] = re.sub(r"\s+", " ", text)
    return explained
