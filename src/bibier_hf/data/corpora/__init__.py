"""Corpora by name; each loads as a `DatasetDict` in the common schema (`bibier_hf.data.schema`).

    load_corpus("resd", "path/to/resd")  # raw: prepared into a cache first; or a folder that prepare_resd.py wrote

Your own corpus is one small file, anywhere. It turns tables and file names into `Clip`s; checks, decoding, Parquet,
caching, protocols, speech recognition for missing transcripts, publishing and the command line are common code:

    # my_corpus.py
    from pathlib import Path

    from bibier_hf.data.clips import Clip, neutral_id
    from bibier_hf.data.prepare import Corpus
    def read(data_dir: Path, *, language: str = "en") -> list[Clip]:
        '''Files called SPEAKER_EMOTION_NUMBER.wav.

        Args:
            language: of all clips.
        '''
        clips = []
        for path in sorted(data_dir.glob("*.wav")):
            speaker, emotion, number = path.stem.split("_")
            split = "test" if speaker == "s3" else "train"
            clips.append(
                Clip(neutral_id("mine", path.stem), split, emotion, language, audio=path, speaker=speaker,
                where=path.name)
            )
        return clips

    CORPUS = Corpus(name="mine", title="My corpus", homepage="https://example.org", license="CC BY 4.0", read=read)

The path of that file can then be used wherever a corpus is named:

    load_corpus("my_corpus.py", "path/to/recordings", language="ru")
    accelerate launch recipes/train.py recipes/resd.yaml --corpora.0.name my_corpus.py --data_dir path/to/recordings
    bibier prepare my_corpus.py --source path/to/recordings --output_dir data/mine

`register_corpus(CORPUS)` gives it a name of its own in the running program; in the package itself, a module in this
folder that ends in `CORPUS = ...` is found by itself. The label is what the corpus writes: common code looks it up in
the label set (`labels`, by default the seven emotions, or `Corpus(labels=...)`), after a `label_map`. Keyword-only
arguments of `read` are its options, with their lines in `Args:` as help.
"""

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ...asr import Transcriber
from ...text import did_you_mean
from ..context import Context
from ..label_maps import LabelMap
from ..prepare import Corpus
from ..tables import CorpusError


def _find_corpora() -> dict[str, Corpus]:
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    corpora = [importlib.import_module(f"{__name__}.{name}").CORPUS for name in modules]
    return {corpus.name: corpus for corpus in sorted(corpora, key=lambda corpus: corpus.name)}


CORPORA: dict[str, Corpus] = _find_corpora()
"""All corpora of the package, and registered ones, by name."""


def register_corpus(corpus: Corpus) -> None:
    """Register a corpus under its name for `load_corpus`.

    Raises:
        CorpusError: another corpus has this name.
    """
    if CORPORA.setdefault(corpus.name, corpus) is not corpus:
        raise CorpusError(f"The name {corpus.name!r} is taken by '{CORPORA[corpus.name].title}'. Choose another.")


def get_corpus(name: str) -> Corpus:
    """Return the corpus with this name, or the one that a Python file defines as `CORPUS`.

    Raises:
        CorpusError: an unknown name (the known ones are listed), or a file without a corpus.
        FileNotFoundError: there is no such file.
    """
    if name in CORPORA:
        return CORPORA[name]

    if name.endswith(".py"):
        return _corpus_in_file(Path(name))

    raise CorpusError(
        f"Unknown corpus {name!r}.{did_you_mean(name, CORPORA)} Allowed: {', '.join(CORPORA)} ('csv' reads any table "
        "of audio, text and label), or the path of a Python file that defines CORPUS."
    )


def _corpus_in_file(path: Path) -> Corpus:
    if not path.is_file():
        raise FileNotFoundError(f"No file '{path}' that would define a corpus.")

    specification = importlib.util.spec_from_file_location(f"bibier_corpus_{path.stem}", path)
    assert specification is not None  # its name ends in .py
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    corpus = getattr(module, "CORPUS", None)
    if not isinstance(corpus, Corpus):
        raise CorpusError(f"{path} must define CORPUS = Corpus(...); see the documentation of bibier_hf.data.corpora.")

    return corpus


def load_corpus(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    cache_dir: str | os.PathLike | None = None,
    asr: str | Transcriber | None = None,
    labels: Sequence[str] | None = None,
    label_map: LabelMap | str | None = None,
    label_column: str | None = None,
    problem_type: str | None = None,
    context: Context | Mapping[str, Any] | None = None,
    **options: Any,
) -> DatasetDict:
    """Load a corpus in the common schema.

    Args:
        name: a key of `CORPORA`, or the path of a Python file that defines `CORPUS`.
        data_dir: its raw form (prepared into a cache first, once for each content and set of options), or a prepared
            folder. None: RESD is read from the Hub, and the quickstart corpus is synthesized.
        cache_dir: location of that cache; default: the environment variable BIBIER_CACHE, otherwise `bibier_hf` in the
            Hugging Face home.
        asr: id or folder of a speech recognition model that fills in missing transcripts.
        labels: the label set; None: what the corpus brings, usually the seven emotions.
        label_map: labels of the corpus -> labels of the set, or None to leave these rows out; or a file
            ([`~bibier_hf.data.label_maps.read_label_map`]).
        label_column: column of the label, in corpora that have several.
        problem_type: what the labels are, as transformers names it; None: what the corpus brings, usually one label
            for each clip.
        context: earlier utterances to append to each text ([`~bibier_hf.data.context.Context`], or a mapping like it).
        options: options of the corpus's reader, such as `enthusiasm="exclude"`.

    Returns:
        the splits of the corpus, among train, dev and test; `bibier_hf.data.protocols.apply_protocol` makes all three.

    Raises:
        FileNotFoundError: there is nothing at `data_dir`.
        CorpusError: an unknown name, or an unusable corpus; every fault is listed.
        LabelSetError: names that cannot be a label set.
        TypeError: the reader has no such option.
    """
    of_labels = {"labels": labels, "label_map": label_map, "label_column": label_column, "problem_type": problem_type}
    if context is not None:
        options["context"] = context
    return get_corpus(name).load(data_dir, cache_dir=cache_dir, asr=asr, **of_labels, **options)
