"""From the clips that a corpus reader found to Parquet in the common schema, whole or not at all.

    reader -> list[Clip] -> checks (every fault at once) -> decode, 16 kHz mono FLAC -> <split>.parquet + corpus.json -> rename into place

Equal input gives identical bytes (with the same versions of pyarrow and libsndfile); an interrupted run leaves the output folder as it was.
"""

import hashlib
import inspect
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features
from datasets.utils import tqdm
from filelock import FileLock
from huggingface_hub.constants import HF_HOME

from ..flac import encode_flac
from ..model.audio_bibier import SAMPLING_RATE, AudioError, decode_audio
from ..model.configuration_bibier import EMOTIONS
from .schema import FEATURES, SOURCES, SPLITS
from .tables import CorpusError, raise_faults

INFO_FILE = "corpus.json"
FORMAT_VERSION = 2
"""Raised when equal input gives another prepared corpus than before; older folders are then refused and caches made anew."""

CACHE_VARIABLE = "BIBIER_CACHE"
ROWS_PER_GROUP = 128
"""Rows of a Parquet row group, which are in memory at a time: about 10 MB of FLAC for utterances."""


@dataclass(frozen=True)
class Clip:
    """One utterance as a reader found it, before its audio is read.

    Args:
        id: unique, telling nothing about the label (see `neutral_id`).
        split: one of `SPLITS`.
        label: one of `EMOTIONS`.
        audio: path of the recording, or a function that makes 16 kHz float32 samples, or None for a row that is text only.
        text: transcript; "" for a row that is audio only.
        soft_label: seven probabilities in the order of `EMOTIONS`.
        where: for messages, such as `metadata.csv line 7`; with a function as audio, a full description of what it makes.
        extra: values of the corpus's own columns (`Corpus.extra_features`).
    """

    id: str
    split: str
    label: str
    language: str
    audio: Path | Callable[[], np.ndarray] | None = None
    text: str = ""
    speaker: str | None = None
    dialogue: str | None = None
    soft_label: Sequence[float] | None = None
    source: str = "recorded"
    license: str = "unknown"
    where: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """What the package knows about one corpus; everything else is common code.

    Args:
        name: key in the registry and value of the column `corpus`.
        title, homepage, license: facts for cards and `corpus.json`; the licence of a row stands in the row.
        read: `read(data_dir, *, option=default, ...) -> list[Clip]`. It reads tables and lists files; it does not decode audio.
            `data_dir` is None for a corpus that is made and not found (`has_source=False`).
        extra_features: columns beyond the common schema.
        column: `(options, data_dir) -> value of the column corpus`, where it is not `name`.
    """

    name: str
    title: str
    homepage: str
    license: str
    read: Callable[..., list[Clip]]
    extra_features: Mapping[str, Any] = field(default_factory=dict)
    has_source: bool = True
    column: Callable[[Mapping[str, Any], Path | None], str] | None = None

    @property
    def features(self) -> Features:
        """The common schema and the corpus's own columns behind it."""
        return Features({**FEATURES, **self.extra_features})

    def complete_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The reader's options with its defaults filled in.

        Raises:
            TypeError: an option that the reader does not have.
        """
        known = {
            name: parameter.default
            for name, parameter in inspect.signature(self.read).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        for name in options:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise TypeError(f"The corpus '{self.name}' has no option {name!r}.{hint} Allowed: {', '.join(known) or 'none'}.")
        return {**known, **options}

    def prepare(self, source: str | os.PathLike | None, output_dir: str | os.PathLike, **options: Any) -> dict[str, Any]:
        """Read the raw corpus and write it to `output_dir` as Parquet; returns the content of its `corpus.json`.

        Raises:
            FileNotFoundError: `source` is not there.
            CorpusError: whatever is wrong with the corpus: missing and unreadable files (all of them), unknown labels, wrong counts.
        """
        complete = self.complete_options(options)
        data_dir = self._check_source(source)
        return write_corpus(self.read(data_dir, **complete), self._facts(complete, data_dir), self.features, output_dir)

    def load(self, data_dir: str | os.PathLike | None = None, *, cache_dir: str | os.PathLike | None = None, **options: Any) -> DatasetDict:
        """The corpus in the common schema, from its raw or its prepared form.

        Args:
            data_dir: a prepared folder (one with a `corpus.json`), or the raw corpus, which is then prepared into the cache, once for
                each content and set of options. For a made corpus: where to keep it, None for the cache.
            cache_dir: default: the environment variable BIBIER_CACHE, else `bibier_hf` in the Hugging Face home.
            options: the reader's. With a prepared folder they must agree with those that it was prepared with.
        """
        complete = self.complete_options(options)
        if data_dir is not None and (Path(data_dir) / INFO_FILE).is_file():
            self._check_prepared(Path(data_dir), options)
            return load_prepared(data_dir)
        source = self._check_source(data_dir)
        clips = self.read(source, **complete)
        facts = self._facts(complete, source)
        if self.has_source or data_dir is None:
            target = cache_folder(cache_dir) / f"{facts['name']}-{_fingerprint(clips, facts)}"
        else:
            target = Path(data_dir)
        with _lock(target, cache_dir):  # several training processes may come at once
            if not (target / INFO_FILE).is_file():
                write_corpus(clips, facts, self.features, target)
        return load_prepared(target)

    def _check_source(self, source: str | os.PathLike | None) -> Path | None:
        if not self.has_source:
            return None
        if source is None:
            raise CorpusError(
                f"The corpus '{self.name}' needs a folder: pass data_dir=... with its raw or prepared form ({self.homepage})."
            )
        if not Path(source).exists():
            raise FileNotFoundError(f"No corpus at '{source}'. '{self.name}' is to be had from {self.homepage}.")
        return Path(source)

    def _check_prepared(self, folder: Path, options: Mapping[str, Any]) -> None:
        info = read_info(folder)
        if info["reader"] != self.name:
            raise CorpusError(f"{folder} holds the prepared corpus '{info['reader']}', not '{self.name}'.")
        for name, value in options.items():
            stored = info["options"].get(name)
            if json.loads(json.dumps(value)) != stored:
                raise CorpusError(
                    f"{folder} was prepared with {name}={stored!r}, but {name}={value!r} was asked for. "
                    "Pass the raw corpus, or prepare it again with that option."
                )

    def _facts(self, options: Mapping[str, Any], data_dir: Path | None) -> dict[str, Any]:
        name = self.column(options, data_dir) if self.column else self.name
        return {"name": name, "reader": self.name, "title": self.title, "homepage": self.homepage, "options": dict(options)}


def neutral_id(corpus: str, name: str) -> str:
    """`corpus-` and twelve hex digits of SHA-256: an id that stays the same in every layout and order of a corpus.

    The names of emotional recordings usually spell out the emotion (RESD: `32_happiness_enthusiasm_h_120`). An id made of them would put
    the label into paths, logs, prompts and features; running numbers would do so too, as long as files are sorted by name.
    """
    return f"{corpus}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def cache_folder(cache_dir: str | os.PathLike | None = None) -> Path:
    """Where corpora that were loaded in their raw form are kept in their prepared form."""
    return Path(cache_dir or os.environ.get(CACHE_VARIABLE) or Path(HF_HOME) / "bibier_hf") / "corpora"


def _lock(target: Path, cache_dir: str | os.PathLike | None) -> FileLock:
    """A lock in the cache, so that no file of ours stands beside a folder of the user's."""
    folder = cache_folder(cache_dir) / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / hashlib.sha256(os.fsencode(target.absolute())).hexdigest()[:16])


def check_counts(clips: Iterable[Clip], expected: Mapping[str, Mapping[str, int]], remedy: str) -> None:
    """Hold the clips of each split and label against published counts.

    Raises:
        CorpusError: one line for each count that differs.
    """
    found = Counter((clip.split, clip.label) for clip in clips)
    wanted = Counter({(split, label): count for split, row in expected.items() for label, count in row.items()})
    faults = [
        f"{split} {label}: {found[split, label]} clips, expected {wanted[split, label]}"
        for split, label in sorted(found.keys() | wanted.keys())
        if found[split, label] != wanted[split, label]
    ]
    raise_faults(faults, "The counts differ from the published ones", remedy)


def check_clips(clips: Sequence[Clip]) -> None:
    """Whatever can be wrong before audio is read.

    Raises:
        CorpusError: lists every clip with an unknown split, label, language or source, without audio and text, with a soft label that
            is no distribution, with an id that is taken, or whose file is missing.
    """
    faults = []
    seen: dict[str, Clip] = {}
    for clip in clips:
        name = clip.where or clip.id
        if clip.id in seen:
            faults.append(f"{name}: the id '{clip.id}' is taken by {seen[clip.id].where or 'another row'}")
        seen.setdefault(clip.id, clip)
        if clip.split not in SPLITS:
            faults.append(f"{name}: unknown split {clip.split!r}; allowed: {', '.join(SPLITS)}")
        if clip.label not in EMOTIONS:
            faults.append(f"{name}: unknown label {clip.label!r}; allowed: {', '.join(EMOTIONS)}")
        if clip.source not in SOURCES:
            faults.append(f"{name}: unknown source {clip.source!r}; allowed: {', '.join(SOURCES)}")
        if not (clip.language.isascii() and clip.language.islower() and 2 <= len(clip.language) <= 3):
            faults.append(f"{name}: the language {clip.language!r} is no ISO 639 code such as en or ru")
        if clip.audio is None and not clip.text:
            faults.append(f"{name}: neither audio nor text")
        if clip.soft_label is not None and not _is_distribution(clip.soft_label):
            faults.append(f"{name}: the soft label {list(clip.soft_label)} is not {len(EMOTIONS)} probabilities with the sum 1")
        if isinstance(clip.audio, Path) and not clip.audio.is_file():
            faults.append(f"{name}: no file {clip.audio}")
    raise_faults(faults, "The corpus cannot be prepared", "Nothing was written. Mend or remove these rows and start again.")


def _is_distribution(values: Sequence[float]) -> bool:
    return len(values) == len(EMOTIONS) and min(values) >= 0 and abs(sum(values) - 1) < 1e-4


def write_corpus(clips: Sequence[Clip], facts: Mapping[str, Any], features: Features, output_dir: str | os.PathLike) -> dict[str, Any]:
    """Write clips as `<split>.parquet` (one file a split, in the given order) and `corpus.json` into `output_dir`.

    The folder appears as a whole at the end. One that is there already is replaced if it is empty or a prepared corpus, else refused.

    Args:
        facts: what `corpus.json` says beyond counts: `name` (the column `corpus`), `reader`, `title`, `homepage`, `options`.

    Raises:
        CorpusError: what `check_clips` finds, audio that cannot be read (all of it is named), or a folder with something else in it.
    """
    output_dir = Path(output_dir).absolute()
    if not clips:
        raise CorpusError("The corpus has no clips.")
    _check_replaceable(output_dir)
    check_clips(clips)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        info = _write_files(clips, facts, features, new)
        (new / INFO_FILE).write_text(json.dumps(info, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        _move_into_place(new, output_dir, Path(scratch) / "old")
    return info


def _write_files(clips: Sequence[Clip], facts: Mapping[str, Any], features: Features, folder: Path) -> dict[str, Any]:
    faults: list[str] = []
    splits: dict[str, Any] = {}
    with tqdm(total=len(clips), desc=f"Preparing {facts['name']}", unit="clip") as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for split in SPLITS:
            chosen = [clip for clip in clips if clip.split == split]
            if not chosen:
                continue
            path = folder / f"{split}.parquet"
            seconds = 0.0
            with pq.ParquetWriter(path, features.arrow_schema) as writer:
                for start in range(0, len(chosen), ROWS_PER_GROUP):
                    group = chosen[start : start + ROWS_PER_GROUP]
                    rows = []
                    # decoding and encoding release the interpreter's lock, so threads are enough; map keeps the order
                    for clip, (audio, duration_s, fault) in zip(group, pool.map(_read_audio, group), strict=True):
                        bar.update()
                        seconds += duration_s or 0.0
                        if fault:
                            faults.append(fault)
                        rows.append(_to_row(clip, facts["name"], audio, duration_s))
                    if not faults:
                        writer.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))
            labels = Counter(clip.label for clip in chosen)
            splits[split] = {
                "rows": len(chosen),
                "labels": {label: labels[label] for label in EMOTIONS},
                "hours": round(seconds / 3600, 4),
                "file": path.name,
            }
    raise_faults(faults, "Audio that cannot be read", "Nothing was written. Replace or remove these files and start again.")
    for entry in splits.values():
        content = (folder / entry["file"]).read_bytes()
        entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return {
        "format_version": FORMAT_VERSION,
        **facts,
        "license": sorted({clip.license for clip in clips}),
        "source": sorted({clip.source for clip in clips}),
        "language": sorted({clip.language for clip in clips}),
        "rows": len(clips),
        "splits": splits,
    }


def _read_audio(clip: Clip) -> tuple[dict[str, Any] | None, float | None, str | None]:
    """(value of the audio column, seconds, what is wrong)"""
    if clip.audio is None:
        return None, None, None
    try:
        samples = decode_audio(clip.audio) if isinstance(clip.audio, Path) else clip.audio()
    except (AudioError, OSError) as error:
        return None, None, f"{clip.where or clip.id}: {error}"
    return {"bytes": encode_flac(samples, clip.source), "path": f"{clip.id}.flac"}, len(samples) / SAMPLING_RATE, None


def _to_row(clip: Clip, corpus: str, audio: dict[str, Any] | None, duration_s: float | None) -> dict[str, Any]:
    return {
        "id": clip.id,
        "corpus": corpus,
        "split": clip.split,
        "audio": audio,
        "text": clip.text,
        "language": clip.language,
        "label": EMOTIONS.index(clip.label),
        "soft_label": None if clip.soft_label is None else list(clip.soft_label),
        "speaker": clip.speaker,
        "dialogue": clip.dialogue,
        "duration_s": duration_s,
        "source": clip.source,
        "license": clip.license,
        **clip.extra,
    }


def _check_replaceable(folder: Path) -> None:
    if folder.is_dir() and not (folder / INFO_FILE).is_file() and any(folder.iterdir()):
        raise CorpusError(f"{folder} is not empty and holds no prepared corpus (no {INFO_FILE}). Choose another folder, or empty it.")
    if folder.exists() and not folder.is_dir():
        raise CorpusError(f"{folder} is a file. Choose a folder.")


def _move_into_place(new: Path, target: Path, aside: Path) -> None:
    """Rename `new` to `target`; a folder that is there comes back if that fails."""
    replaced = target.exists()
    if replaced:
        target.rename(aside)
    try:
        new.rename(target)
    except BaseException:  # Ctrl-C included
        if replaced:
            aside.rename(target)
        raise


def read_info(folder: str | os.PathLike) -> dict[str, Any]:
    """The `corpus.json` of a prepared folder.

    Raises:
        FileNotFoundError: no prepared corpus there.
        CorpusError: prepared by another version of the package.
    """
    path = Path(folder) / INFO_FILE
    if not path.is_file():
        raise FileNotFoundError(f"'{folder}' holds no prepared corpus: there is no {INFO_FILE} in it.")
    info = json.loads(path.read_text(encoding="utf-8"))
    if info.get("format_version") != FORMAT_VERSION:
        raise CorpusError(
            f"{folder} was prepared in format {info.get('format_version')}, this version reads format {FORMAT_VERSION}. Prepare it again."
        )
    return info


def load_prepared(folder: str | os.PathLike) -> DatasetDict:
    """Memory-mapped splits of a prepared corpus, its own columns behind those of the common schema.

    Raises:
        FileNotFoundError: no prepared corpus there.
        CorpusError: another version's format, or files that are not those that `corpus.json` describes (a copy that was cut short).
    """
    folder = Path(folder)
    info = read_info(folder)
    faults = []
    for split, entry in info["splits"].items():
        path = folder / entry["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            faults.append(f"{split}: {entry['file']} has {'no' if size is None else size} bytes, expected {entry['bytes']}")
    raise_faults(faults, f"{folder} is damaged", "Copy or prepare it again.")
    return DatasetDict({split: Dataset.from_parquet(str(folder / entry["file"])) for split, entry in info["splits"].items()})


def _fingerprint(clips: Iterable[Clip], facts: Mapping[str, Any]) -> str:
    """Changes with every value in the tables, with the size or time of a recording, with the options and the format."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, facts], sort_keys=True).encode())
    for clip in clips:
        stat = clip.audio.stat() if isinstance(clip.audio, Path) and clip.audio.is_file() else None
        audio = (
            [str(clip.audio.absolute()), stat and stat.st_size, stat and stat.st_mtime_ns] if isinstance(clip.audio, Path) else clip.where
        )
        values = [clip.id, clip.split, clip.label, clip.language, clip.text, clip.speaker, clip.dialogue]
        values += [clip.soft_label, clip.source, clip.license, dict(clip.extra), audio]
        digest.update(json.dumps(values, sort_keys=True).encode())
    return digest.hexdigest()[:16]
