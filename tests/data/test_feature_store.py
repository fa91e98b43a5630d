"""The store: values come back as they were, a kill costs nothing, and damage is named."""

import json
import multiprocessing
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from bibier_hf.data import feature_store
from bibier_hf.data.feature_store import MANIFEST_FILE, FeatureStore, FeatureStoreError, StoredRows, _batches, row_key
from bibier_hf.files import WriteError

FORK = multiprocessing.get_context("fork")
WIDTH = 3


def make_rows(count: int, seed: int = 0) -> list[torch.Tensor | None]:
    """Rows of 1 to 20 steps; every seventh is missing."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 21, (count,), generator=generator).tolist()
    return [
        None if index % 7 == 6 else torch.randn(length, WIDTH, generator=generator)
        for index, length in enumerate(lengths)
    ]


def keys_of(rows):
    return [None if row is None else row_key(row.numpy().tobytes()) for row in rows]


def lengths_of(rows):
    return [0 if row is None else len(row) for row in rows]


def make_store(folder, dtype=torch.float32, **recipe) -> FeatureStore:
    return FeatureStore(folder, "audio_features", recipe, WIDTH, dtype, rows_per_shard=8)


def fill(store: FeatureStore, rows, **options):
    return store.extract(
        keys_of(rows), lengths_of(rows), lambda positions: [rows[position] for position in positions], **options
    )


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a store but the lock."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_come_back_in_the_stored_type_and_any_order(tmp_path, dtype):
    rows = make_rows(50)
    store = make_store(tmp_path, dtype)
    done = fill(store, rows)
    assert (done.found, done.computed) == (0, sum(row is not None for row in rows))
    order = np.random.default_rng(0).permutation(50).tolist()
    stored = store.rows(keys_of(rows)).select(order)
    for index, values in zip(order, stored, strict=True):
        wanted = torch.zeros(0, WIDTH) if rows[index] is None else rows[index]
        assert values.dtype == dtype
        assert torch.equal(values, wanted.to(dtype))
    assert stored.present.tolist() == [rows[index] is not None for index in order]
    manifest = json.loads((store.folder / MANIFEST_FILE).read_text())
    assert manifest["total"]["rows"] == done.computed
    assert manifest["total"]["steps"] == sum(lengths_of(rows))
    assert manifest["recipe"]["dtype"] == str(dtype).removeprefix("torch.")


def test_rows_without_a_width(tmp_path):
    store = FeatureStore(tmp_path, "input_ids", {}, None, torch.int32)
    rows = [torch.arange(count) for count in (3, 1, 5)]
    fill(store, rows)
    assert [row.tolist() for row in store.rows([*keys_of(rows), None])] == [[0, 1, 2], [0], [0, 1, 2, 3, 4], []]


def test_only_new_rows_are_computed_and_equal_ones_once(tmp_path):
    rows = make_rows(40)
    store = make_store(tmp_path)
    fill(store, rows[:20])
    more = fill(store, rows + rows)
    assert more.computed == sum(row is not None for row in rows[20:])
    assert more.found == sum(row is not None for row in rows[:20])
    assert fill(store, rows[::-1]).computed == 0
    assert sum(len(load_file(path)["keys"]) for path in store.folder.glob("*.safetensors")) == len(
        set(keys_of(rows)) - {None}
    )


def test_another_recipe_is_a_miss(tmp_path):
    rows = make_rows(10)
    stores = [
        make_store(tmp_path),
        make_store(tmp_path, torch.float16),
        make_store(tmp_path, layer=1),
        make_store(tmp_path, layer=2),
    ]
    assert [fill(store, rows).found for store in stores] == [0, 0, 0, 0]
    assert len({store.folder for store in stores}) == 4
    with pytest.raises(FeatureStoreError, match="1 of 1 rows are missing"):
        stores[0].rows([row_key(b"something else")])


def test_batches_hold_similar_lengths_within_the_limit(tmp_path):
    rows, seen = make_rows(60), []
    store = make_store(tmp_path)

    def compute(positions):
        seen.append([len(rows[position]) for position in positions])
        return [rows[position] for position in positions]

    store.extract(keys_of(rows), lengths_of(rows), compute, batch_size=4, batch_length=30)
    flat = [length for batch in seen for length in batch]
    assert flat == sorted(flat, reverse=True)
    assert all(len(batch) <= 4 and (len(batch) == 1 or batch[0] * len(batch) <= 30) for batch in seen)
    assert all(batch[0] * len(batch) <= 1.25 * sum(batch) for batch in seen)
    assert list(_batches([0, 1], [1000.0, 0.0], 8, 10)) == [[0], [1]]
    assert list(_batches([0, 1, 2, 3], [10.0, 9.0, 4.0, 4.0], 8, None)) == [[0, 1], [2, 3]]


def extract_slowly(folder, delay_s=0.0, started=None) -> None:
    """Fill a store slowly enough to be killed anywhere; printed is what was done."""
    rows, store, state = make_rows(150), make_store(folder), PartialState(cpu=True)

    def compute(positions):
        if started is not None:
            started.set()
        time.sleep(delay_s)
        return [rows[position] for position in positions]

    done = store.extract(keys_of(rows), lengths_of(rows), compute, batch_size=4)
    print(f"{state.process_index} of {state.num_processes}: {done.computed} computed", flush=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, bytes]:
    """The files of a store that one process wrote at a stretch."""
    store, rows = make_store(tmp_path_factory.mktemp("whole")), make_rows(150)
    fill(store, rows, batch_size=4)
    return content(store.folder)


def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path, uninterrupted):
    folder, started = tmp_path / "store", FORK.Event()
    process = FORK.Process(target=extract_slowly, args=(folder, 0.02, started))
    process.start()
    assert started.wait(60)
    time.sleep(random.uniform(0, 0.6))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store, rows = make_store(folder), make_rows(150)
    written = {name for name in content(store.folder) if name.endswith(".safetensors")}
    assert written < uninterrupted.keys()
    (store.folder / ".x.0123abcd.bibier").mkdir(parents=True)  # what a kill in the middle of a write leaves
    (store.folder / ".x.0123abcd.bibier" / ".lock").touch()
    (store.folder / ".x.0123abcd.bibier" / ".tmp123").write_bytes(b"half a shard")
    done = fill(store, rows, batch_size=4)
    assert not [path for path in store.folder.iterdir() if path.name.startswith(".")]
    assert done.found == 8 * len(written)
    assert content(store.folder) == uninterrupted


def test_any_part_of_the_shards_leads_to_the_same_bytes(tmp_path, uninterrupted):
    shards = [name for name in uninterrupted if name.endswith(".safetensors")]
    for number in range(12):
        store = make_store(tmp_path / str(number))
        store.folder.mkdir(parents=True)
        for name in random.Random(number).sample(shards, number):
            (store.folder / name).write_bytes(uninterrupted[name])
        fill(store, make_rows(150), batch_size=4)
        assert content(store.folder) == uninterrupted


def test_two_runs_at_the_same_time_share_the_work(tmp_path, uninterrupted, capfd):
    processes = [FORK.Process(target=extract_slowly, args=(tmp_path / "store", 0.005)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(line for line in capfd.readouterr().out.splitlines() if "computed" in line) == [
        "0 of 1: 0 computed",
        "0 of 1: 129 computed",
    ]
    assert content(make_store(tmp_path / "store").folder) == uninterrupted


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path, uninterrupted):
    (tmp_path / "worker.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import test_feature_store; test_feature_store.extract_slowly({str(tmp_path / 'store')!r})\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = subprocess.run(
        [*launcher, tmp_path / "worker.py"], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {line for line in done.stdout.splitlines() if "of 2" in line} == {
        f"{rank} of 2: 129 computed" for rank in range(2)
    }
    assert content(make_store(tmp_path / "store").folder) == uninterrupted


def damage(path: Path, name: str) -> None:
    """Change one number of one table and leave the file whole."""
    tensors = load_file(path)
    tensors[name].view(torch.uint8).flatten()[5] ^= 1
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    save_file(tensors, path, metadata=header["__metadata__"])


@pytest.mark.parametrize("part", ["keys", "offsets", "checksums", "values", "end", "all"])
def test_a_damaged_shard_is_named(tmp_path, part):
    rows, store = make_rows(30), make_store(tmp_path)
    fill(store, rows)
    shard = max(store.folder.glob("*.safetensors"))
    if part in ("end", "all"):
        shard.write_bytes(shard.read_bytes()[: -10 if part == "end" else 0])
    else:
        damage(shard, part)
    with pytest.raises(FeatureStoreError, match=f"{shard.name} is truncated or damaged.*Delete it and start again"):
        list(store.rows(keys_of(rows)))
    shard.unlink()
    fill(store, rows)
    assert len(list(store.rows(keys_of(rows)))) == 30


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"Cannot write .*a part of the path is a file.*feature_cache\.directory"):
        fill(make_store(tmp_path / "file"), make_rows(3))


def fill_a_full_disk(folder) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing beyond the limit is then an error, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with pytest.raises(WriteError, match=r"Cannot write .*: the file is too large.*No row is stored yet"):
        fill(make_store(folder), make_rows(30))


def test_a_full_disk_is_named_and_leaves_nothing_half(tmp_path):
    process = FORK.Process(target=fill_a_full_disk, args=(tmp_path / "store",))
    process.start()
    process.join()
    assert process.exitcode == 0
    store = make_store(tmp_path / "store")
    assert not store.folder.exists()
    assert fill(store, make_rows(30)).computed == 26


def test_a_shard_that_is_being_written_is_no_shard_yet(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    save = feature_store.save_file

    def killed_halfway(tensors, path, **options):
        save(tensors, path, **options)
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])
        raise Killed

    store = make_store(tmp_path)
    monkeypatch.setattr(feature_store, "save_file", killed_halfway)
    with pytest.raises(Killed):
        fill(store, make_rows(20))
    assert not list(store.folder.glob("*.safetensors"))
    monkeypatch.undo()
    assert fill(store, make_rows(20)).computed == 18
    assert {path.suffix for path in store.folder.iterdir()} <= {".safetensors", ".json", ""}


def test_a_finished_store_is_only_read(tmp_path):
    rows, store = make_rows(20), make_store(tmp_path)
    fill(store, rows)
    before = {path.name: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    fill(store, rows)
    store.rows(keys_of(rows))
    assert {path.name: path.stat().st_mtime_ns for path in store.folder.iterdir()} == before


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_reading_a_row_does_not_load_the_file(tmp_path):
    # a gigabyte in two rows of which one is short; the file is sparse, and takes no room on the disk
    store = FeatureStore(tmp_path, "audio_features", {}, 1024, torch.float32)
    short = torch.ones(2, 1024)
    keys = [row_key(b"short"), row_key(b"long")]
    store.extract(keys, [1, 2], lambda positions: [(short, torch.zeros(4, 1024))[position] for position in positions])
    (path,) = store.folder.glob("*.safetensors")
    stored, before = store.rows(keys), resident_mb()
    assert torch.equal(stored[0], short)
    content_of_file = path.read_bytes()
    size = int.from_bytes(content_of_file[:8], "little")
    header = json.loads(content_of_file[8 : 8 + size])
    data = content_of_file[8 + size :]
    begin, end = header["values"]["data_offsets"]
    grown = begin + 2**30 - end
    header["values"]["shape"] = [2**30 // 4096, 1024]
    header["values"]["data_offsets"] = [begin, begin + 2**30]
    for name, entry in header.items():
        if name not in ("__metadata__", "values") and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset + grown for offset in entry["data_offsets"]]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data[:end])
        file.seek(grown, os.SEEK_CUR)
        file.write(data[end:])
    assert torch.equal(store.rows(keys)[0], short)
    assert resident_mb() - before < 100


class Steps(Dataset):
    """Sums of stored rows, for workers."""

    def __init__(self, rows: StoredRows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index].sum()


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_rows_are_read_by_workers(tmp_path, start):
    rows, store = make_rows(30), make_store(tmp_path)
    fill(store, rows)
    stored = store.rows(keys_of(rows))
    wanted = torch.stack([row.sum() for row in stored])  # opened here, before the workers start
    loader = DataLoader(Steps(stored), batch_size=4, num_workers=2, multiprocessing_context=start)
    assert torch.equal(torch.cat(list(loader)), wanted)
    assert torch.equal(torch.stack([row.sum() for row in pickle.loads(pickle.dumps(stored))]), wanted)


def test_rows_of_several_stores_are_put_together(tmp_path):
    parts = []
    for seed in range(2):
        rows, store = make_rows(20, seed), make_store(tmp_path, corpus=seed)
        fill(store, rows)
        parts.append((rows, store.rows(keys_of(rows))))
    both = StoredRows.concatenate([part for _, part in parts])
    wanted = [row for rows, _ in parts for row in rows]
    assert len(both) == 40
    for values, row in zip(both, wanted, strict=True):
        assert torch.equal(values, torch.zeros(0, WIDTH) if row is None else row)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [(float("nan"), torch.float32, "NaN or infinite"), (1e6, torch.float16, "do not fit into float16")],
)
def test_values_that_cannot_be_stored_are_refused(tmp_path, value, dtype, message):
    with pytest.raises(ValueError, match=message):
        fill(make_store(tmp_path, dtype), [torch.full((2, WIDTH), value)])


def test_a_shard_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append("synced") or fsync(file))
    monkeypatch.setattr(os, "replace", lambda old, new: done.append(Path(new).suffix) or rename(old, new))
    store = FeatureStore(tmp_path, "audio_features", {}, WIDTH, torch.float32)
    fill(store, make_rows(75))  # 65 of them are there: one more than a shard holds
    assert done[:4] == ["synced", ".safetensors"] * 2
    assert sorted(len(shard.keys) for shard in store.rows([]).shards) == [1, 64]
