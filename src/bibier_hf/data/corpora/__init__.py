"""Corpora by name, each a `DatasetDict` in the common schema (`bibier_hf.data.schema`).

    load_corpus("resd", "path/to/resd")  # raw: prepared into a cache first; or a folder that prepare_resd.py wrote

To add a corpus, put one module here that ends in `CORPUS = Corpus(name=..., read=read_it, ...)`, where `read_it(data_dir, *, options)`
turns tables and file names into a list of `Clip`s; it is found by itself. Checks, decoding, Parquet, caching, protocols and the command
line are common code.
"""

import importlib
import os
import pkgutil
from difflib import get_close_matches
from typing import Any

from datasets import DatasetDict

from ..prepare import Corpus
from ..tables import CorpusError


def _find_corpora() -> dict[str, Corpus]:
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    corpora = [importlib.import_module(f"{__name__}.{name}").CORPUS for name in modules]
    return {corpus.name: corpus for corpus in sorted(corpora, key=lambda corpus: corpus.name)}


CORPORA: dict[str, Corpus] = _find_corpora()
"""Every corpus of the package by its name."""


def get_corpus(name: str) -> Corpus:
    """The corpus of this name; `CorpusError` with the names there are if there is none."""
    if name not in CORPORA:
        close = get_close_matches(name, CORPORA, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise CorpusError(f"Unknown corpus {name!r}.{hint} Allowed: {', '.join(CORPORA)} (any table of audio, text, label is 'csv').")
    return CORPORA[name]


def load_corpus(
    name: str, data_dir: str | os.PathLike | None = None, *, cache_dir: str | os.PathLike | None = None, **options: Any
) -> DatasetDict:
    """Load a corpus in the common schema.

    Args:
        name: key of `CORPORA`.
        data_dir: its raw form (prepared into a cache first, once for each content and set of options), or a prepared folder.
        cache_dir: where that cache is; default: the environment variable BIBIER_CACHE, else `bibier_hf` in the Hugging Face home.
        options: of the corpus's reader, such as `enthusiasm="exclude"`.

    Returns:
        the splits that the corpus has, among train, dev and test; `bibier_hf.data.protocols.apply_protocol` makes the three of them.

    Raises:
        FileNotFoundError: nothing at `data_dir`.
        CorpusError: unknown name, or a corpus that cannot be used as it is; every fault found is listed.
        TypeError: an option that the reader does not have.
    """
    return get_corpus(name).load(data_dir, cache_dir=cache_dir, **options)


def load_resd(data_dir: str | os.PathLike, **options: Any) -> DatasetDict:
    """`load_corpus("resd", ...)`; options: `bibier_hf.data.corpora.resd.read_resd`."""
    return load_corpus("resd", data_dir, **options)


def load_csv(data_dir: str | os.PathLike, **options: Any) -> DatasetDict:
    """`load_corpus("csv", ...)` for any CSV, TSV or JSON-lines file; options: `bibier_hf.data.corpora.table.read_csv`."""
    return load_corpus("csv", data_dir, **options)


def load_quickstart(data_dir: str | os.PathLike | None = None, **options: Any) -> DatasetDict:
    """`load_corpus("quickstart", ...)`, built when absent; options: `bibier_hf.data.corpora.quickstart.read_quickstart`."""
    return load_corpus("quickstart", data_dir, **options)
