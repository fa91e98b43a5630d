"""Write the clips that a corpus reader found as Parquet in the common schema, all or nothing.

    reader -> list[Clip] -> checks (all faults at once) -> decoding to 16 kHz mono FLAC (-> missing transcripts by ASR,
        if enabled) -> <split>.parquet + corpus.json -> rename into place

The same input gives the same bytes (with the same versions of pyarrow and libsndfile). An interrupted run leaves the
output folder unchanged.
"""

import hashlib
import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets.exceptions import DatasetGenerationError
from datasets.utils import tqdm
from huggingface_hub.constants import HF_HOME

from ..asr import Transcriber, as_transcriber
from ..files import describe_write_error, is_vacant, locked, replaced_folder, write_json
from ..flac import encode_flac
from ..labels import checked_labels
from ..model.audio_bibier import SAMPLING_RATE, AudioError, decode_audio
from ..model.labels_bibier import MULTI_LABEL, SINGLE_LABEL
from ..text import did_you_mean
from .clips import Clip, check_clips, clips_fingerprint
from .context import as_context, with_context
from .label_maps import LabelReader, read_label_map, relabeled_clips, relabeled_rows
from .schema import SPLITS, TARGET, least_labels, problem_type_of
from .schema import features as schema_features
from .tables import CorpusError, raise_faults
from .targets import check_problem_type, chosen_targets

INFO_FILE = "corpus.json"
FORMAT_VERSION = 3
"""Raise this if the same input gives a different prepared corpus: older folders are then refused and caches
rebuilt."""

CACHE_VARIABLE = "BIBIER_CACHE"
TRANSCRIPT_SOURCE = "text_source"
"""Column of a corpus prepared with ASR: whether the text comes from the "corpus" or from "asr"."""

LABEL_OPTIONS = ("labels", "label_map", "label_column", "problem_type")
"""Options of the labels that every corpus has: the label set, a mapping to it, the column to read, and what the labels
are."""

COMMON_OPTIONS = (*LABEL_OPTIONS, "context")
"""All options that every corpus has."""

ROWS_PER_GROUP = 128
"""Rows per Parquet row group, which are in memory at once: about 10 MB of FLAC for utterances."""


@dataclass(frozen=True)
class Corpus:
    """Everything specific to one corpus; the rest is common code.

    Args:
        name: key in the registry and value of the column `corpus`.
        title, homepage, license: facts for cards and `corpus.json`. Rows carry their own license.
        read: `read(data_dir, *, option=default, ...) -> list[Clip]`. It reads tables and lists files, without decoding
            audio. `data_dir` is None for a generated corpus (`has_source=False`), and may be the id of a data set on
            the Hub (str) with `on_hub`.
        extra_features: columns beyond the common schema.
        has_source: False for a corpus that is generated instead of read.
        hub_id: id of its authors' data set on the Hub, for cards.
        on_hub: whether the reader accepts the id of a data set on the Hub, `hub_id` by default. An existing folder of
            that name takes precedence.
        column: `(options, data_dir) -> value of the column corpus`, if it is not `name`.
        not_to_rehost: why others must not publish the recordings; "" if they may.
        labels: label set that the corpus brings; None: the seven emotions.
        label_columns: other columns that can be the label, such as a sentiment -> the labels that they bring.
        problem_type: what the labels are: one for each clip, or, in `Clip.target`, several or values.
    """

    name: str
    title: str
    homepage: str
    license: str
    read: Callable[..., list[Clip]]
    extra_features: Mapping[str, Any] = field(default_factory=dict)
    has_source: bool = True
    hub_id: str = ""
    on_hub: bool = False
    column: Callable[[Mapping[str, Any], Path | str | None], str] | None = None
    not_to_rehost: str = ""
    labels: tuple[str, ...] | None = None
    label_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problem_type: str = SINGLE_LABEL

    def features(self, labels: Sequence[str] | None = None, problem_type: str | None = None) -> Features:
        """The common schema with a label set (default: that of the corpus), followed by the columns of the corpus."""
        common = schema_features(labels or self.labels, problem_type or self.problem_type)
        return Features({**common, **self.extra_features})

    @property
    def own_options(self) -> dict[str, Any]:
        """The options of the reader, with their defaults."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.read).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in COMMON_OPTIONS
        }

    def complete_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the reader with defaults filled in, and those of the labels that are given.

        Raises:
            TypeError: the reader has no such option.
            LabelSetError, CorpusError: labels, a mapping or a column that cannot be used.
        """
        known = self.own_options
        of_labels = {name: options[name] for name in LABEL_OPTIONS if options.get(name) is not None}
        context = as_context(options.get("context"))
        options = {name: value for name, value in options.items() if name not in COMMON_OPTIONS}

        for name in options:
            if name not in known:
                raise TypeError(
                    f"The corpus '{self.name}' has no option {name!r}.{did_you_mean(name, known)} "
                    f"Allowed: {', '.join([*known, *COMMON_OPTIONS])}."
                )

        if check_problem_type(of_labels.get("problem_type")) == self.problem_type:
            of_labels.pop("problem_type", None)
        elif "problem_type" in of_labels and "problem_type" not in inspect.signature(self.read).parameters:
            raise CorpusError(
                f"problem_type={of_labels['problem_type']!r}: the corpus '{self.name}' is for {self.problem_type}."
            )

        if "label_map" in of_labels:
            of_labels["label_map"] = read_label_map(of_labels["label_map"], self.label_set(of_labels))
        labels = self.label_set(of_labels)
        if of_labels.pop("labels", None) is not None and labels != self.label_set(of_labels):
            of_labels["labels"] = list(labels)  # what the corpus brings anyway is no option

        return known | options | of_labels | ({} if context is None else {"context": context.model_dump()})

    def label_set(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the label set of these options: the given one, that of the chosen column, or that of the corpus.

        Raises:
            LabelSetError: names that cannot be a label set.
        """
        brought = self.label_columns.get(options.get("label_column") or "", self.labels)
        return checked_labels(options.get("labels") or brought, least_labels(self.problem_type_for(options)))

    def problem_type_for(self, options: Mapping[str, Any]) -> str:
        """Return what the labels are with these options."""
        return options.get("problem_type") or self.problem_type

    def read_clips(self, source: Path | str | None, options: Mapping[str, Any]) -> list[Clip]:
        """Read the corpus, with labels of the label set.

        Raises:
            CorpusError: see [`prepare`].
        """
        parameters = inspect.signature(self.read).parameters
        if "label_column" in options and "label_column" not in parameters:
            raise CorpusError(f"label_column={options['label_column']!r}: '{self.name}' has one label. Leave it out.")

        labels = self.label_set(options)
        given = {**options, "labels": labels}
        clips = self.read(source, **{name: value for name, value in given.items() if name in parameters})
        if "labels" not in parameters and self.problem_type_for(options) == SINGLE_LABEL:
            clips = relabeled_clips(clips, LabelReader(labels, options.get("label_map")))

        context = as_context(options.get("context"))
        return clips if context is None else with_context(clips, context)

    def prepare(
        self,
        source: str | os.PathLike | None,
        output_dir: str | os.PathLike,
        *,
        asr: str | Transcriber | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Read the raw corpus, write it to `output_dir` as Parquet, and return the content of its `corpus.json`.

        Args:
            source: folder, file or (RESD) Hub id of the raw corpus; None for a generated one.
            output_dir: a new or empty folder, or a prepared corpus, which is replaced.
            asr: fills in missing transcripts: id or folder of a speech recognition model, or a `Transcriber`. The
                column `text_source` then says where each text comes from. None leaves these rows without text.
            options: options of the reader, and of the labels: `labels`, the label set (default: the seven emotions or
                what the corpus brings), `label_map` ([`read_label_map`]) and `label_column`.

        Raises:
            FileNotFoundError: `source` does not exist.
            CorpusError: missing or unreadable files (all are named), unknown labels, wrong counts.
        """
        complete = self.complete_options(options)
        data_dir = self._check_source(source)
        transcriber = as_transcriber(asr)

        with locked(output_dir, left="The folder is unchanged."):
            clips = self.read_clips(data_dir, complete)
            columns = self.features(self.label_set(complete), self.problem_type_for(complete))
            return write_corpus(clips, self._facts(complete, data_dir), columns, output_dir, transcriber)

    def load(
        self,
        data_dir: str | os.PathLike | None = None,
        *,
        cache_dir: str | os.PathLike | None = None,
        asr: str | Transcriber | None = None,
        **options: Any,
    ) -> DatasetDict:
        """Load the corpus in the common schema, from its raw or prepared form.

        Args:
            data_dir: a prepared folder (with a `corpus.json`), or the raw corpus, which is prepared into the cache
                once for each content, set of options and ASR model. For a generated corpus: where to keep it; None: in
                the cache.
            cache_dir: default: the environment variable BIBIER_CACHE, otherwise `bibier_hf` in the Hugging Face home.
            asr, options: as in `prepare`. With a prepared folder, they must match those it was prepared with.
        """
        transcriber = as_transcriber(asr)
        if data_dir is not None and (Path(data_dir) / INFO_FILE).is_file():
            return self._load_prepared(Path(data_dir), options, transcriber)

        complete = self.complete_options(options)
        source = self._check_source(data_dir)
        clips = self.read_clips(source, complete)
        facts = self._facts(complete, source)

        if self.has_source or data_dir is None:
            folder = cache_folder(cache_dir)
            target = folder / f"{facts['name']}-{_cache_key(clips, facts, transcriber)}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CorpusError(
                    f"Prepared corpora cannot be kept in {folder} ({error.strerror}). Set {CACHE_VARIABLE} to a "
                    "folder that can be written."
                ) from error
        else:
            target = Path(data_dir)

        if not (target / INFO_FILE).is_file():
            with locked(target, wait=True):  # several training processes may come at once
                if not (target / INFO_FILE).is_file():
                    columns = self.features(self.label_set(complete), self.problem_type_for(complete))
                    write_corpus(clips, facts, columns, target, transcriber)

        return load_prepared(target)

    def _check_source(self, source: str | os.PathLike | None) -> Path | str | None:
        if not self.has_source:
            return None

        if source is None and self.hub_id and self.on_hub:
            return self.hub_id

        if source is None:
            raise CorpusError(
                f"The corpus '{self.name}' needs a folder: pass data_dir=... with its raw or prepared form "
                f"({self.homepage})."
            )

        if Path(source).exists():
            return Path(source)

        if self.on_hub and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", os.fspath(source)):
            return os.fspath(source)

        hub = ", and not the id of a data set on the Hub (owner/name)" if self.on_hub else ""
        raise FileNotFoundError(f"No corpus at '{source}'{hub}. Get '{self.name}' from {self.homepage}.")

    def _load_prepared(self, folder: Path, options: Mapping[str, Any], transcriber: Transcriber | None) -> DatasetDict:
        """Load a prepared folder; another label set and a first mapping are applied to its rows."""
        info = read_info(folder)
        if info["reader"] != self.name:
            raise CorpusError(f"{folder} holds the prepared corpus '{info['reader']}', not '{self.name}'.")

        splits = load_prepared(folder)
        first = next(iter(splits.values())).features
        kind = problem_type_of(first)
        if check_problem_type(self.problem_type_for(options)) != kind:
            raise CorpusError(
                f"{folder} was prepared for problem_type={kind!r}. Name it, or prepare the corpus again."
            )

        if info["options"].get("context") and not options.get("context"):
            raise CorpusError(
                f"{folder} was prepared with context={info['options']['context']}, which its texts contain. Ask for the "
                "same context, or pass the raw corpus."
            )
        labels = checked_labels(options.get("labels") or first["label"].names, least_labels(kind))
        if kind != SINGLE_LABEL and options.get("label_map") not in (None, info["options"].get("label_map")):
            raise CorpusError(f"label_map: {folder} holds targets already. Pass the raw corpus, or leave it out.")

        complete = self.complete_options({**options, "labels": labels})
        given = {name: complete[name] for name in options if name in complete and name != "labels"}
        late_map = None if info["options"].get("label_map") else given.pop("label_map", None)

        for name, value in given.items():
            stored = info["options"].get(name)
            if json.loads(json.dumps(value)) != stored:
                raise CorpusError(
                    f"{folder} was prepared with {name}={stored!r}, but {name}={value!r} was requested. "
                    "Pass the raw corpus, or prepare it again with that option."
                )

        if transcriber is not None and (stored := info["asr"] and info["asr"]["model"]) != dict(transcriber.facts):
            raise CorpusError(
                f"{folder} was prepared with asr={stored}, not {dict(transcriber.facts)}. Prepare it again."
            )

        if kind != SINGLE_LABEL:
            return DatasetDict({split: chosen_targets(rows, labels) for split, rows in splits.items()})

        reader = LabelReader(labels, late_map)
        relabeled = {split: relabeled_rows(rows, reader) for split, rows in splits.items()}

        return DatasetDict({split: rows for split, rows in relabeled.items() if len(rows)})

    def _facts(self, options: Mapping[str, Any], data_dir: Path | str | None) -> dict[str, Any]:
        return {
            "name": self.column(options, data_dir) if self.column else self.name,
            "reader": self.name,
            "title": self.title,
            "homepage": self.homepage,
            "not_to_rehost": self.not_to_rehost,
            "options": dict(options),
        }


def cache_folder(cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the folder that caches the prepared form of raw corpora."""
    return Path(cache_dir or os.environ.get(CACHE_VARIABLE) or Path(HF_HOME) / "bibier_hf") / "corpora"


def write_corpus(
    clips: Sequence[Clip],
    facts: Mapping[str, Any],
    features: Features,
    output_dir: str | os.PathLike,
    transcriber: Transcriber | None = None,
) -> dict[str, Any]:
    """Write clips as one `<split>.parquet` per split, in the given order, and `corpus.json` into `output_dir`.

    The folder appears as a whole at the end. An existing one is replaced if it is empty or a prepared corpus;
    otherwise it is refused.

    Args:
        clips: of all splits.
        facts: further content of `corpus.json`: `name` (the column `corpus`), `reader`, `title`, `homepage`,
            `not_to_rehost`, `options`.
        features: the columns.
        output_dir: where to write.
        transcriber: writes the texts of audio-only rows and adds the column `text_source`.

    Raises:
        CorpusError: faults found by `check_clips`, unreadable audio (all files are named), or a folder with other
            content.
    """
    output_dir = Path(output_dir).absolute()
    remarks = Counter(remark for clip in clips for remark in clip.remarks)
    clips = [clip for clip in clips if not clip.left_out]
    if not clips:
        raise CorpusError("The corpus has no clips.")
    if transcriber is not None and facts["options"].get("context") and not all(clip.text for clip in clips):
        raise CorpusError("context: texts that asr is to write have none, and are none. Leave context or asr out.")

    if output_dir.is_file():
        raise CorpusError(f"{output_dir} is a file. Choose a folder.")
    if output_dir.is_dir() and not (output_dir / INFO_FILE).is_file() and not is_vacant(output_dir):
        raise CorpusError(
            f"{output_dir} is not empty and holds no prepared corpus (no {INFO_FILE}). Choose another folder."
        )
    check_clips(clips, features["label"].names, problem_type_of(features))

    with replaced_folder(output_dir) as new:
        info = _write_files(clips, facts, features, new, transcriber) | {"remarks": dict(sorted(remarks.items()))}
        write_json(new / INFO_FILE, info)

    return info


def _write_files(
    clips: Sequence[Clip], facts: Mapping[str, Any], features: Features, folder: Path, transcriber: Transcriber | None
) -> dict[str, Any]:
    faults: list[str] = []
    splits: dict[str, Any] = {}
    filled = Counter()
    names, kind = features["label"].names, problem_type_of(features)

    if transcriber is not None:
        features = Features({**features, TRANSCRIPT_SOURCE: Value("string")})

    with (
        tqdm(total=len(clips), desc=f"Preparing {facts['name']}", unit="clip") as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
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

                    # Threads are enough, since decoding and encoding release the interpreter's lock; map keeps the
                    # order.
                    for clip, (audio, duration_s, fault) in zip(group, pool.map(_read_audio, group), strict=True):
                        bar.update()
                        seconds += duration_s or 0.0

                        if fault:
                            faults.append(fault)

                        rows.append(_to_row(clip, names, facts["name"], audio, duration_s))

                    if faults:
                        continue

                    if transcriber is not None:
                        filled += _fill_texts(rows, transcriber)

                    writer.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))

            splits[split] = {
                "rows": len(chosen),
                **_label_counts(chosen, names, kind),
                "hours": round(seconds / 3600, 4),
                "file": path.name,
            }

    raise_faults(
        faults, "Audio that cannot be read", "Nothing was written. Replace or remove these files and start again."
    )

    for entry in splits.values():
        content = (folder / entry["file"]).read_bytes()
        entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    return {
        "format_version": FORMAT_VERSION,
        **facts,
        "asr": None
        if transcriber is None
        else {"model": dict(transcriber.facts), "filled": filled["text"], "no_speech": filled[""]},
        "labels": list(names),
        "license": sorted({clip.license for clip in clips}),
        "source": sorted({clip.source for clip in clips}),
        "language": sorted({clip.language for clip in clips}),
        "rows": len(clips),
        "splits": splits,
    }


def _label_counts(clips: Sequence[Clip], names: Sequence[str], problem_type: str) -> dict[str, Any]:
    """Return the number of clips with each label, or the range of each target."""
    if problem_type == SINGLE_LABEL:
        labels = Counter(clip.label for clip in clips)
        return {"labels": {label: labels[label] for label in names}}

    by_name = dict(zip(names, zip(*(clip.target or () for clip in clips), strict=True), strict=True))
    if problem_type == MULTI_LABEL:
        return {"labels": {name: int(sum(values)) for name, values in by_name.items()}}
    return {"labels": {}, "ranges": {name: [min(values), max(values)] for name, values in by_name.items()}}


def _read_audio(clip: Clip) -> tuple[dict[str, Any] | None, float | None, str | None]:
    """Return (value of the audio column, seconds, fault)."""
    if clip.audio is None:
        return None, None, None

    try:
        if isinstance(clip.audio, Path):
            samples = decode_audio(clip.audio, channel=clip.channel, refuse_silence=True)
        else:
            samples = decode_audio(clip.audio(), sampling_rate=SAMPLING_RATE, refuse_silence=True)
    except (AudioError, OSError) as error:
        return None, None, f"{clip.where or clip.id}: {error}"

    return {"bytes": encode_flac(samples, clip.source), "path": f"{clip.id}.flac"}, len(samples) / SAMPLING_RATE, None


def _fill_texts(rows: list[dict[str, Any]], transcriber: Transcriber) -> Counter:
    """Fill in missing texts, language by language, from the stored audio.

    Returns:
        counts of `text` and of "" (nothing was recognized).
    """
    missing: dict[str, list[dict[str, Any]]] = {}

    for row in rows:
        row[TRANSCRIPT_SOURCE] = "corpus" if row["text"] else "asr"
        if not row["text"]:
            missing.setdefault(row["language"], []).append(row)

    counts = Counter()

    for language, group in missing.items():
        texts = transcriber([decode_audio(row["audio"]["bytes"]) for row in group], language)
        for row, text in zip(group, texts, strict=True):
            row["text"] = text
            counts["text" if text else ""] += 1

    return counts


def _to_row(
    clip: Clip, names: Sequence[str], corpus: str, audio: dict[str, Any] | None, duration_s: float | None
) -> dict[str, Any]:
    return {
        "id": clip.id,
        "corpus": corpus,
        "split": clip.split,
        "audio": audio,
        "text": clip.text,
        "language": clip.language,
        "label": names.index(clip.label) if clip.target is None else None,
        "soft_label": None if clip.soft_label is None else list(clip.soft_label),
        "speaker": clip.speaker,
        "dialogue": clip.dialogue,
        "duration_s": duration_s,
        "source": clip.source,
        "license": clip.license,
        **({} if clip.target is None else {TARGET: list(clip.target)}),
        **clip.extra,
    }


def read_info(folder: str | os.PathLike) -> dict[str, Any]:
    """Read the `corpus.json` of a prepared folder.

    Raises:
        FileNotFoundError: the folder holds no prepared corpus.
        CorpusError: it was prepared by another version of the package, or is damaged.
    """
    path = Path(folder) / INFO_FILE
    if not path.is_file():
        raise FileNotFoundError(f"'{folder}' holds no prepared corpus: there is no {INFO_FILE} in it.")

    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(info, dict):
            raise TypeError(f"a JSON {type(info).__name__}, not an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise CorpusError(f"{path} is damaged ({error}). Copy or prepare the corpus again.") from error

    if info.get("format_version") != FORMAT_VERSION:
        raise CorpusError(
            f"{folder} was prepared in format {info.get('format_version')}, this version reads format "
            f"{FORMAT_VERSION}. Prepare it again."
        )

    splits = info.get("splits")
    if not isinstance(splits, dict) or not all(map(_is_split, splits.values())):
        raise CorpusError(f"{path} is damaged (it does not name the files of its splits). Prepare the corpus again.")

    return info


def _is_split(entry: Any) -> bool:
    """Whether the entry names a file in the folder itself."""
    return (
        isinstance(entry, dict)
        and {"file", "bytes", "rows"} <= entry.keys()
        and isinstance(entry["file"], str)
        and os.path.basename(entry["file"]) == entry["file"]
    )


def load_prepared(folder: str | os.PathLike) -> DatasetDict:
    """Return the memory-mapped splits of a prepared corpus.

    Raises:
        FileNotFoundError: the folder holds no prepared corpus.
        CorpusError: another version's format, or files that `corpus.json` does not describe, such as a truncated copy.
    """
    folder = Path(folder)
    info = read_info(folder)
    faults = []

    for split, entry in info["splits"].items():
        path = folder / entry["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            faults.append(
                f"{split}: {entry['file']} has {'no' if size is None else size} bytes, expected {entry['bytes']}"
            )

    raise_faults(faults, f"{folder} is damaged", "Copy or prepare it again.")

    return DatasetDict(
        {split: _read_split(folder / entry["file"], entry["rows"]) for split, entry in info["splits"].items()}
    )


def _read_split(path: Path, rows: int) -> Dataset:
    again = "Copy or prepare the corpus again."

    try:
        split = Dataset.from_parquet(str(path))
    except (OSError, ValueError, MemoryError, DatasetGenerationError) as error:
        if describe_write_error(error) is not None:  # the cache cannot be written
            raise
        reason = str(error.__cause__ or error)
        raise CorpusError(f"{path} is damaged ({reason.splitlines()[0] if reason else error!r}). {again}") from error

    if len(split) != rows:
        raise CorpusError(f"{path} has {len(split)} rows, expected {rows}. {again}")

    label, kind = split.features.get("label"), problem_type_of(split.features)
    wanted = schema_features(label.names if isinstance(label, ClassLabel) else None, kind)
    expected = {name: kind for name, kind in wanted.items() if split.features.get(name) != kind}
    if expected:
        raise CorpusError(f"{path} has no columns {', '.join(expected)} of the expected types. {again}")

    least, most = pc.call_function("min_max", [split.data.column("label")]).as_py().values()
    count = len(wanted["label"].names)
    if least is not None and not 0 <= least <= most < count:
        raise CorpusError(f"{path} has labels from {least} to {most}, allowed are 0..{count - 1}. {again}")

    return split


def _cache_key(clips: Sequence[Clip], facts: Mapping[str, Any], transcriber: Transcriber | None) -> str:
    """Return a key that changes with the clips, the options, the ASR model and the format."""
    asr = None if transcriber is None else dict(transcriber.facts)
    values = [FORMAT_VERSION, facts, asr, clips_fingerprint(clips)]

    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def describe_counts(info: dict[str, Any]) -> str:
    """The counts of a `corpus.json` as a plain-text table: a line per split, a column per label."""
    labels = list(next(iter(info["splits"].values()))["labels"])
    header = ["split", *labels, "rows", "hours"]
    lines = [
        [split, *(str(entry["labels"][label]) for label in labels), str(entry["rows"]), f"{entry['hours']:.2f}"]
        for split, entry in info["splits"].items()
    ]
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]

    shown = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *lines]
    ]
    for split, entry in info["splits"].items():
        values = [f"{name} {low:g} to {high:g}" for name, (low, high) in entry.get("ranges", {}).items()]
        shown += [f"{split}: {', '.join(values)}"] if values else []

    return "\n".join(shown)


def describe_remarks(info: dict[str, Any]) -> list[str]:
    """Rows that a `corpus.json` says were changed, left out or transcribed: a line per kind."""
    lines = [f"{count} x {remark}" for remark, count in info["remarks"].items()]

    if info["asr"]:
        asr = info["asr"]
        lines.append(
            f"{asr['filled']} transcripts written by {asr['model']['name']}; it heard nothing in {asr['no_speech']} "
            "recordings"
        )

    return lines
