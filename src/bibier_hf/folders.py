"""Answers for many recordings as one table, written by any number of processes and resumable at any moment.

The recordings are divided into parts. A part is answered as a whole, as JSON lines in a hidden folder next to the
table, so a killed job loses at most one part of each process. The last step joins the parts and removes the folder.
"""

import csv
import hashlib
import itertools
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .errors import ArgumentError
from .extras import require
from .files import locked_by_first_process, write_atomically, write_json, write_text
from .model.audio_bibier import SAMPLING_RATE, AudioError, decode_audio, printable
from .model.batching_bibier import LOOK_AHEAD
from .model.configuration_bibier import REGRESSION
from .model.hashing_bibier import model_digest
from .timeline.formats import named_entries, scores_of

TABLE_FORMATS = (".parquet", ".csv", ".jsonl")
"""Suffixes of the files that the answers to many recordings can be written to."""

JOB_FILE = "job.json"
READ_AHEAD = 32
"""Recordings to decode while the model answers others."""

ROWS_IN_GROUP = 50_000
"""Rows of a Parquet file that are written together."""

_POLL_S = 0.2


@dataclass(frozen=True)
class AnswerTable:
    """A table of answers, one row per recording, in the order of the recordings.

    The columns are `input`, `label` and `score` of the best label, `unsure` and `unsure_reason` (whether to trust it),
    `error`, and `p_<label>` for each label. A recording that cannot be used has an `error` and nothing else. Of
    several labels at once, `label` is each that is present; a regression has `value_<name>` instead of labels. JSON
    lines hold what `bibier predict --json` prints.

    Args:
        path: the file to write; the suffix selects the format.
        pipe: the pipeline.
        labels: of the answers, in order.
        text: what is said in each of the recordings.
        channel: use this channel (from 0) instead of the mean of all.
        batch_size: recordings per step.
        options: further arguments of the pipeline's call.
        facts: what else the answers depend on, such as the recognizer of the pipeline.
    """

    path: Path
    pipe: Any
    labels: Sequence[str]
    text: str | None = None
    channel: int | None = None
    batch_size: int = 16
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parts_folder(self) -> Path:
        return self.path.parent / f".{self.path.name}.parts"

    def write(self, recordings: Sequence[str]) -> int:
        """Answer all recordings, and write the table; returns how many failed.

        Several processes of one launcher share the work; the first of them writes the table.

        Raises:
            ArgumentError: there are parts of a different job.
            WriteError, LockedError: the table cannot be written, or another job is writing it.
        """
        if self.path.suffix.lower() == ".parquet":
            require("pyarrow")
        rank, world = _process()
        self._use_device(world)
        size = LOOK_AHEAD * self.batch_size  # what the pipeline sorts by length
        parts = [recordings[start : start + size] for start in range(0, len(recordings), size)]
        left = "What has been answered is kept. Continue with the same command."

        with locked_by_first_process(self.parts_folder, left):
            self._check_job(recordings, is_first=rank == 0)
            mine = [number for number in range(rank, len(parts), world) if not self._part(number).exists()]
            self._answer(mine, parts)
            if rank:
                return 0

            while not all(self._part(number).exists() for number in range(len(parts))):
                time.sleep(_POLL_S)  # for the other processes
            failed = self._join(len(parts))
            shutil.rmtree(self.parts_folder)
        return failed

    def _use_device(self, world: int) -> None:
        """Give each process of this machine a GPU of its own."""
        if world > 1 and torch.cuda.is_available():
            place = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
            self.pipe.device = torch.device("cuda", place)
            self.pipe.model.to(self.pipe.device)

    def _part(self, number: int) -> Path:
        return self.parts_folder / f"part-{number:06}.jsonl"

    def _check_job(self, recordings: Sequence[str], is_first: bool) -> None:
        """Make sure that the parts in the folder belong to this job."""
        job = json.loads(json.dumps(self._describe_job(recordings), ensure_ascii=True))
        file = self.parts_folder / JOB_FILE
        if is_first and not file.exists():
            write_json(file, job)
        while not file.exists():
            time.sleep(_POLL_S)

        found = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name, value in job.items() if found.get(name) != value]
        if changed:
            raise ArgumentError(
                f"output: {self.parts_folder} holds answers of an unfinished job with other {', '.join(changed)}. "
                "Delete it to start again, or choose another output."
            )

    def _describe_job(self, recordings: Sequence[str]) -> dict[str, Any]:
        """What the bytes of the table depend on."""
        _, config, weights = model_digest(self.pipe.model)
        options = {**self.options, **self.facts, "text": self.text, "channel": self.channel}
        options["batch_size"] = self.batch_size
        return {
            "model": _digest([weights, json.dumps(config, sort_keys=True, default=str)]),
            "recordings": _digest(f"{printable(path)} {_state(path)}" for path in recordings),
            "options": {name: value for name, value in options.items() if value is not None},
        }

    def _answer(self, numbers: Sequence[int], parts: Sequence[Sequence[str]]) -> None:
        """Write some of the parts."""
        count = sum(map(len, parts))
        done = sum(len(part) for number, part in enumerate(parts) if self._part(number).exists())
        waiting = (path for number in numbers for path in parts[number])

        with (
            ThreadPoolExecutor(2, thread_name_prefix="decode") as pool,
            tqdm(desc="Predicting", unit="clip", total=count, initial=done, smoothing=0.05) as progress,
        ):
            clips = _ahead(pool, self._decode, waiting)
            for number in numbers:
                rows = self._answer_part(parts[number], clips, progress)
                write_text(self._part(number), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
                others = sum(len(part) for place, part in enumerate(parts) if self._part(place).exists())
                progress.update(others - progress.n)

    def _decode(self, path: str) -> np.ndarray | str:
        """The samples of a recording, or what is wrong with it."""
        try:
            return decode_audio(path, channel=self.channel, refuse_canceled=True)
        except (AudioError, OSError) as error:
            return str(error)

    def _answer_part(
        self, paths: Sequence[str], clips: Iterator[np.ndarray | str], progress: tqdm
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"input": printable(path)} for path in paths]
        asked: deque[dict[str, Any]] = deque()

        def samples() -> Iterator[dict[str, Any]]:
            for row, clip in zip(rows, itertools.islice(clips, len(rows)), strict=True):
                if isinstance(clip, str):
                    row["error"] = clip
                    progress.update()
                    continue
                asked.append(row)
                yield {"audio": {"array": clip, "sampling_rate": SAMPLING_RATE}, "text": self.text}

        answers = iter(self.pipe(samples(), batch_size=self.batch_size, return_unsure=True, **self.options))
        while True:
            try:
                answer = next(answers)
            except StopIteration:
                return rows
            except (AudioError, ValueError) as error:
                asked.popleft()["error"] = str(error)
            else:
                emotions = answer.pop("answers")
                asked.popleft().update(text=self.text, emotions=emotions, **answer)
            progress.update()

    def _join(self, count: int) -> int:
        """Write the table from the parts; returns the number of rows with an error."""
        failed = 0

        def rows() -> Iterator[dict[str, Any]]:
            nonlocal failed
            for number in range(count):
                for line in self._part(number).read_text(encoding="utf-8").splitlines():
                    row = json.loads(line)
                    failed += "error" in row
                    yield row

        write = {".parquet": self._write_parquet, ".csv": self._write_csv, ".jsonl": self._write_lines}
        write_atomically(self.path, lambda new: write[self.path.suffix.lower()](new, rows()))
        return failed

    @property
    def _is_regression(self) -> bool:
        return self.pipe.model.config.problem_type == REGRESSION

    def _columns(self) -> list[str]:
        prefix, facts = ("value_", []) if self._is_regression else ("p_", ["label", "score"])
        return ["input", *facts, "unsure", "unsure_reason", "error", *(prefix + label for label in self.labels)]

    def _values(self, row: Mapping[str, Any]) -> list[Any]:
        """The cells of a row, in the order of the columns."""
        named, scores = ([], {}) if "error" in row else (named_entries(row), scores_of(row))
        best = named[0]["score"] if named else None
        answer = [] if self._is_regression else ["; ".join(entry["label"] for entry in named) or None, best]
        verdict = [row.get(name) for name in ("unsure", "unsure_reason", "error")]
        return [row["input"], *answer, *verdict, *(scores.get(label) for label in self.labels)]

    def _write_lines(self, path: Path, rows: Iterator[dict[str, Any]]) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def _write_csv(self, path: Path, rows: Iterator[dict[str, Any]]) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self._columns())
            writer.writerows(map(self._values, rows))

    def _write_parquet(self, path: Path, rows: Iterator[dict[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = dict.fromkeys(("input", "label", "unsure_reason", "error"), pa.string()) | {"unsure": pa.bool_()}
        schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in self._columns()])
        with pq.ParquetWriter(path, schema) as writer:
            values = map(self._values, rows)
            while group := list(itertools.islice(values, ROWS_IN_GROUP)):
                columns = [
                    pa.array(column, kind) for column, kind in zip(zip(*group, strict=True), schema.types, strict=True)
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _process() -> tuple[int, int]:
    """Number of this process, and how many there are, as a launcher (torchrun, accelerate) says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _digest(texts: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def _state(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:  # also a URL
        return "-"
    return f"{found.st_size} {found.st_mtime_ns}"


def _ahead(pool: ThreadPoolExecutor, function: Callable[[str], Any], paths: Iterator[str]) -> Iterator[Any]:
    """Map paths to results, in order, with some of them computed ahead."""
    waiting: deque[Future] = deque(pool.submit(function, path) for path in itertools.islice(paths, READ_AHEAD))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(function, path) for path in itertools.islice(paths, 1))
        yield result
