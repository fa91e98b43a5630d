"""Numbers computed once from utterances, kept in memory-mapped shards and found by content.

    features/audio_features-<recipe>/
        manifest.json           what the values depend on apart from the utterance, and the sizes of the shards
        <keys>.safetensors      the values of up to 64 rows of similar length

A store is a folder for one *recipe* (backbone and revision, layer, front end, type of the numbers, ...), whose hash is
in its name. A row is found by the hash of the utterance's content. So any change is a miss; folds, protocols and
corpora that share utterances share their rows; and when a corpus grows, only its new rows are computed.

The plan of the shards depends only on keys and lengths, and each shard is written to a temporary file and renamed. A
finished shard removes its part of the plan and leaves the rest unchanged: however often it is killed and restarted,
the work ends with the bytes of an uninterrupted run. Processes share the shards; a second run waits for the first and
finds its rows.
"""

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets.utils import tqdm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.utils import logging

from ..errors import FeatureStoreError
from ..files import locked, write_atomically, write_json

logger = logging.get_logger(__name__)

ROWS_PER_SHARD = 64
"""About 200 MB of float32 features of width 1024 for clips of 16 s, held in memory until the shard is written."""

MANIFEST_FILE = "manifest.json"
_KEY_BYTES = 16
_LARGEST_PADDED_SHARE = 1.25
"""Largest ratio of the padded size of a batch to its content: beyond it, padding costs more than batching saves."""

_OTHER_PLACE = "Set feature_cache.directory or the environment variable BIBIER_CACHE to use another folder."

Compute = Callable[[list[int]], list[torch.Tensor]]
"""Positions of rows -> their values, (T, D) or (T,) each."""


def row_key(content: bytes) -> bytes:
    """Return the key of the content of an utterance."""
    return hashlib.blake2b(content, digest_size=_KEY_BYTES).digest()


@dataclass(frozen=True)
class Extraction:
    """Report of [`FeatureStore.extract`]. `found` and `computed` count distinct contents; `size` is in bytes."""

    folder: Path
    found: int
    computed: int
    size: int
    seconds: float


class FeatureStore:
    """The rows of one recipe (see the module).

    Args:
        directory: folder of all stores.
        name: name of what is stored, such as `"audio_features"`.
        recipe: what the values depend on apart from the utterance, as JSON values.
        width: D of (T, D) rows; None for (T,) rows.
        dtype: type of the stored numbers.
        rows_per_shard: rows per shard.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        name: str,
        recipe: Mapping[str, Any],
        width: int | None,
        dtype: torch.dtype,
        rows_per_shard: int = ROWS_PER_SHARD,
    ):
        self.recipe = {"name": name, "width": width, "dtype": str(dtype).removeprefix("torch."), **recipe}
        text = json.dumps(self.recipe, sort_keys=True, ensure_ascii=False)
        self.key = hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).hexdigest()
        self.folder = Path(directory) / f"{name}-{self.key}"
        self.width = width
        self.dtype = dtype
        self.rows_per_shard = rows_per_shard

    def extract(
        self,
        keys: Sequence[bytes | None],
        lengths: Sequence[float],
        compute: Compute,
        batch_size: int = 16,
        batch_length: float | None = None,
    ) -> Extraction:
        """Compute the missing rows. With Accelerate, every process calls this and does its share.

        Args:
            keys: (N,) [`row_key`] of each row; None: nothing to compute.
            lengths: (N,) cost of each row (seconds, letters). Rows of similar length are computed together, longest
                first, so that what does not fit into memory fails immediately.
            compute: computes the values of some of the N positions.
            batch_size: rows per batch.
            batch_length: limit of the padded length of a batch with several rows; None: no limit.

        Raises:
            WriteError: a folder that cannot be written, a full disk.
            FeatureStoreError: a damaged shard.
            ValueError: values that are not finite or do not fit the type.
        """
        state = PartialState()
        start = time.perf_counter()
        wanted = {key: position for position, key in reversed(list(enumerate(keys))) if key is not None}

        with self._claimed(state, wanted):
            # The main process decides: others might see shards that it has not seen, and wait for it forever.
            plan = broadcast_object_list([self._plan(wanted, lengths) if state.is_main_process else None])[0]
            own = plan[state.process_index :: state.num_processes]
            with tqdm(
                total=sum(map(len, own)),
                desc=f"features: {str(self.recipe['name']).removesuffix('_features')}",
                unit="row",
                disable=None if own and state.is_local_main_process else True,  # None: only in a terminal
            ) as progress:
                for positions in own:
                    values = []
                    for batch in _batches(positions, lengths, batch_size, batch_length):
                        values += [self._checked(row) for row in compute(batch)]
                        progress.update(len(batch))
                    self._write([keys[position] for position in positions], values)

            state.wait_for_everyone()
            if plan and state.is_main_process:
                self._write_manifest()
            state.wait_for_everyone()

        computed = sum(map(len, plan))
        size = sum(path.stat().st_size for path in self._shard_paths())
        return Extraction(self.folder, len(wanted) - computed, computed, size, time.perf_counter() - start)

    def rows(self, keys: Sequence[bytes | None]) -> "StoredRows":
        """Return the rows of some keys, read on access; a row without a key has no steps.

        Raises:
            FeatureStoreError: a row that was not computed, or a damaged shard.
        """
        paths = self._shard_paths()
        index = self._index(paths)
        if missing := sum(key is not None and key not in index for key in keys):
            raise FeatureStoreError(f"{self.folder}: {missing} of {len(keys)} rows are missing. Extract them first.")

        places = np.array([(-1, -1) if key is None else index[key] for key in keys], dtype=np.int64).reshape(-1, 2)
        empty = torch.zeros((0,) if self.width is None else (0, self.width), dtype=self.dtype)
        return StoredRows([_Shard(path) for path in paths], places, empty)

    def __contains__(self, key: bytes) -> bool:
        return key in self._index(self._shard_paths())

    # Plan

    def _plan(self, wanted: Mapping[bytes, int], lengths: Sequence[float]) -> list[list[int]]:
        """Return the positions of each shard to write."""
        index = self._index(self._shard_paths())
        missing = sorted(wanted.keys() - index.keys(), key=lambda key: (-lengths[wanted[key]], key))
        positions = [wanted[key] for key in missing]
        size = self.rows_per_shard
        return [positions[start : start + size] for start in range(0, len(positions), size)]

    def _index(self, paths: Sequence[Path]) -> dict[bytes, tuple[int, int]]:
        """Return `{key: (number of its shard, place in it)}`."""
        return {
            key: (number, place) for number, path in enumerate(paths) for place, key in enumerate(_Shard(path).keys)
        }

    def _shard_paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    @contextlib.contextmanager
    def _claimed(self, state: PartialState, wanted: Mapping[bytes, int]) -> Generator[None]:
        """Let one run write at a time. Nothing is claimed if nothing is missing, as the folder may be read-only."""
        if not state.is_main_process or not wanted.keys() - self._index(self._shard_paths()).keys():
            yield
            return

        with locked(self.folder, wait=True, left=self._what_is_kept):
            yield

    # Writing

    def _checked(self, values: torch.Tensor) -> torch.Tensor:
        """Convert values to the stored type."""
        name = self.recipe["name"]
        if values.dtype.is_floating_point and not torch.isfinite(values).all():
            raise ValueError(
                f"{name}: the backbone returned NaN or infinite values; its weights are damaged or its type is too narrow."
            )

        stored = values.to(self.dtype).contiguous()
        if self.dtype.is_floating_point and not torch.isfinite(stored).all():
            largest = values.abs().max().item()
            raise ValueError(
                f"{name}: values up to {largest:.3g} do not fit into {self.recipe['dtype']}. Use float32 or bfloat16."
            )

        return stored

    def _write(self, keys: Sequence[bytes], values: list[torch.Tensor]) -> None:
        offsets = np.cumsum([0, *map(len, values)], dtype=np.int64)
        tensors = {
            "keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(-1, _KEY_BYTES),
            "offsets": torch.from_numpy(offsets),
            "checksums": torch.tensor([_checksum(row) for row in values], dtype=torch.int64),
            "values": torch.cat(values),
        }
        table = _checksum(tensors["keys"], tensors["offsets"], tensors["checksums"])
        path = self.folder / f"{hashlib.blake2b(b''.join(keys), digest_size=_KEY_BYTES).hexdigest()}.safetensors"

        def write(unfinished: Path) -> None:
            save_file(tensors, unfinished, metadata={"table": str(table)})
            with open(unfinished, "rb+") as file:
                os.fsync(file.fileno())  # or a power failure could leave the name without the content

        write_atomically(path, write, left=self._what_is_kept)

    def _write_manifest(self) -> None:
        shards = {}
        for path in self._shard_paths():
            shard = _Shard(path)
            steps = int(shard.offsets[-1])
            shards[path.name] = {"rows": len(shard.keys), "steps": steps, "bytes": path.stat().st_size}
        totals = {name: sum(shard[name] for shard in shards.values()) for name in ("rows", "steps", "bytes")}
        write_json(self.folder / MANIFEST_FILE, {"recipe": self.recipe, "total": totals, "shards": shards})

    def _what_is_kept(self) -> str:
        with contextlib.suppress(FeatureStoreError, OSError):
            if rows := len(self._index(self._shard_paths())):
                return f"{rows} rows are stored and kept. {_OTHER_PLACE}"
        return f"No row is stored yet. {_OTHER_PLACE}"


def _batches(
    positions: Sequence[int], lengths: Sequence[float], size: int, length: float | None
) -> Iterator[list[int]]:
    """Split positions, longest first, into batches of at most `size` rows and `length` in total, with little
    padding."""
    batch: list[int] = []
    content = 0.0
    for position in positions:
        padded = lengths[batch[0] if batch else position] * (len(batch) + 1)
        full = len(batch) == size or (length is not None and padded > length)
        if batch and (full or padded > _LARGEST_PADDED_SHARE * (content + lengths[position])):
            yield batch
            batch, content = [], 0.0

        batch.append(position)
        content += lengths[position]

    if batch:
        yield batch


def _checksum(*tensors: torch.Tensor) -> int:
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data, value)
    return value


class _Shard:
    """One file, opened on first access in each process; pickled as its path."""

    def __init__(self, path: Path):
        self.path = path

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    @cached_property
    def _opened(self) -> tuple[Any, dict[str, torch.Tensor]]:
        try:
            file = safe_open(self.path, "pt")
            tables = {name: file.get_tensor(name) for name in ("keys", "offsets", "checksums")}
            sound = int(file.metadata()["table"]) == _checksum(*tables.values())
        except PermissionError as error:
            raise FeatureStoreError(
                f"{self.path} cannot be read (permission denied). Change its permissions. {_OTHER_PLACE}"
            ) from error
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error

        if not sound:
            raise self._damaged("its table does not match its checksum")
        return file.get_slice("values"), tables

    @cached_property
    def keys(self) -> list[bytes]:
        content = self._opened[1]["keys"].numpy().tobytes()
        return [content[start : start + _KEY_BYTES] for start in range(0, len(content), _KEY_BYTES)]

    @cached_property
    def offsets(self) -> np.ndarray:
        return self._opened[1]["offsets"].numpy()

    @cached_property
    def _unchecked(self) -> np.ndarray:
        return np.ones(len(self.offsets) - 1, dtype=bool)

    def read(self, place: int) -> torch.Tensor:
        """Read the values of one row, and verify its checksum the first time."""
        values, tables = self._opened
        row = values[int(self.offsets[place]) : int(self.offsets[place + 1])]
        if self._unchecked[place]:
            if _checksum(row) != tables["checksums"][place]:
                raise self._damaged(f"row {place} does not match its checksum")
            self._unchecked[place] = False
        return row

    def _damaged(self, reason: object) -> FeatureStoreError:
        return FeatureStoreError(
            f"{self.path} is truncated or damaged ({reason}). Delete it and start again: its rows are then recomputed."
        )


class StoredRows(Sequence[torch.Tensor]):
    """N rows of stores in any order, (T, D) or (T,) each, read from mapped files on access.

    Args:
        shards: files of one store, or of several with rows of one kind.
        places: (N, 2) shard and place in it; -1: the row is missing.
        empty: value of a missing row.
    """

    def __init__(self, shards: list[_Shard], places: np.ndarray, empty: torch.Tensor):
        self.shards = shards
        self.places = places
        self.empty = empty

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> torch.Tensor:  # ty: ignore[incompatible-method-override] - `select` slices
        shard, place = self.places[index]
        return self.empty if shard < 0 else self.shards[shard].read(place)

    @property
    def present(self) -> np.ndarray:
        """bool (N,): which rows are not missing."""
        return self.places[:, 0] >= 0

    @property
    def lengths(self) -> np.ndarray:
        """(N,) steps T of each row; 0: missing."""
        lengths = np.zeros(len(self), dtype=np.int64)
        for row in np.flatnonzero(self.present):
            shard, place = self.places[row]
            start, end = self.shards[shard].offsets[place : place + 2]
            lengths[row] = end - start
        return lengths

    @property
    def keys(self) -> list[bytes | None]:
        """(N,) keys of the rows; None: missing."""
        return [None if shard < 0 else self.shards[shard].keys[place] for shard, place in self.places]

    def spread(self, indices: Sequence[int] | np.ndarray, count: int) -> "StoredRows":
        """Return `count` rows with these at `indices`; the others are missing."""
        places = np.full((count, 2), -1)
        places[np.asarray(indices, dtype=np.int64)] = self.places
        return StoredRows(self.shards, places, self.empty)

    def select(self, indices: Sequence[int] | np.ndarray) -> "StoredRows":
        """Return some of the rows."""
        return StoredRows(self.shards, self.places[np.asarray(indices, dtype=np.int64)], self.empty)

    @classmethod
    def concatenate(cls, parts: Sequence["StoredRows"]) -> "StoredRows":
        """Join the rows of several."""
        shards, places = [], []
        for part in parts:
            there = part.places[:, :1] >= 0
            places.append(np.where(there, part.places + np.array([len(shards), 0]), part.places))
            shards += part.shards

        return cls(shards, np.concatenate(places), parts[0].empty)
