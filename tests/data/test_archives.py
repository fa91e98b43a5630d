"""Archives that claim to hold far more than they can: refused before anything is read into memory or written."""

import gzip
import io
import shutil
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from bibier_hf.data import archives
from bibier_hf.data.archives import walk_files
from bibier_hf.data.tables import CorpusError

CLIP = "MELD.Raw/train_splits/dia0_utt0.mp4"
GIB = 1 << 30


def header(size: int, name: str = CLIP, kind: bytes = tarfile.REGTYPE, **fields) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.PAX_FORMAT if "pax_headers" in fields else tarfile.GNU_FORMAT)


def zeros(path: Path, size: int, before: bytes = b"", after: bytes = b"") -> Path:
    """A gzip file of many zeros, a thousandth of their size."""
    block = gzip.compress(bytes(1 << 24))
    with open(path, "wb") as file:
        file.write(gzip.compress(before))
        for _ in range(size >> 24):
            file.write(block)
        file.write(gzip.compress(after))
    return path


def sparse_tar(tmp_path: Path, form: str) -> Path:
    """30 GB of which nothing is stored, by GNU tar itself."""
    with open(tmp_path / "dia0_utt0.mp4", "wb") as file:
        file.truncate(30 * GIB)
    command = ["tar", "--sparse", f"--format={form}", "-czf", "sparse.tar.gz", "dia0_utt0.mp4"]
    if subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("no GNU tar here")
    return tmp_path / "sparse.tar.gz"


def hostile(kind: str, tmp_path: Path) -> Path:
    path = tmp_path / "hostile.tar.gz"
    if kind in ("gnu", "posix"):
        return sparse_tar(tmp_path, kind)
    if kind == "bomb":
        return zeros(path, 3 * GIB, header(3 * GIB))
    if kind == "declared":
        path.write_bytes(gzip.compress(header(1 << 62) + bytes(1024)))
    if kind == "long name":
        return zeros(path, 1 << 28, header(1 << 28, kind=tarfile.GNUTYPE_LONGNAME))
    if kind == "pax header":
        return zeros(path, 1 << 28, header(1 << 28, kind=tarfile.XHDTYPE))
    if kind == "negative":
        path.write_bytes(gzip.compress(header(-512) + bytes(1024)))
    if kind == "nested":
        inner = gzip.compress(header(3 * GIB) + bytes(1024))
        padding = bytes(-len(inner) % 512)
        path.write_bytes(gzip.compress(header(len(inner), "train.tar.gz") + inner + padding + bytes(1024)))
    return path


@pytest.mark.parametrize(
    "kind",
    ["gnu", "posix", "bomb", "declared", "long name", "pax header", "negative", "nested"],
)
def test_archives_that_hold_too_much_are_refused_before_they_are_read(tmp_path, kind):
    path = hostile(kind, tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(CorpusError) as caught:
            list(walk_files(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "not the official archive" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert peak < 64 << 20


def test_archives_inside_share_the_limit_of_the_outermost(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_RATIO", 0)
    inner = gzip.compress(header(400_000) + bytes(400_384 + 1024))
    members = b"".join(header(len(inner), f"{n}.tar.gz") + inner + bytes(-len(inner) % 512) for n in range(4))
    (tmp_path / "outer.tar.gz").write_bytes(gzip.compress(members + bytes(1024)))
    assert len(list(walk_files(tmp_path / "outer.tar.gz"))) == 4
    monkeypatch.setattr(archives, "FREE_BYTES", 1_000_000)
    with pytest.raises(CorpusError, match="too many bytes for its own size"):
        list(walk_files(tmp_path / "outer.tar.gz"))


def test_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1000)
    many = b"".join(header(0, f"{number}.txt") for number in range(1001))
    (tmp_path / "many.tar.gz").write_bytes(gzip.compress(many + bytes(1024)))
    with pytest.raises(CorpusError, match="too many files"):
        list(walk_files(tmp_path / "many.tar.gz"))


def test_headers_without_end_are_refused(tmp_path):
    """Each long name may be followed by another one."""
    name = header(5, kind=tarfile.GNUTYPE_LONGNAME) + b"name\0".ljust(512, b"\0")
    (tmp_path / "deep.tar").write_bytes(name * 5000 + bytes(1024))
    with pytest.raises(CorpusError, match="cannot be read to its end"):
        list(walk_files(tmp_path / "deep.tar"))


def test_a_large_file_is_passed_over_and_not_read(tmp_path, monkeypatch):
    """Archives hold other things beside clips; what is not asked for does no harm."""
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 100)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, size in (("model.bin", 101), ("clip.mp4", 100)):
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
    read = {}
    for file in walk_files(tmp_path / "a.tar"):
        buffer = io.BytesIO()
        if file.path.name == "clip.mp4":
            file.copy_to(buffer)
            read[file.path.name] = len(buffer.getvalue())
        else:
            with pytest.raises(CorpusError, match=r"'model\.bin' in the archive has 101 bytes; the limit is 100"):
                file.copy_to(buffer)
    assert read == {"clip.mp4": 100}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_ordinary_archives_pass(tmp_path, mode):
    source = tmp_path / "source"
    source.mkdir()
    (source / ("long name " * 15 + ".txt")).write_bytes(b"x" * 5000)
    (source / "ёлка.csv").write_bytes(bytes(200_000))
    with tarfile.open(tmp_path / "a.tar", mode) as archive:
        archive.add(source, "folder")
    files = {}
    for file in walk_files(tmp_path / "a.tar"):
        buffer = io.BytesIO()
        file.copy_to(buffer)
        files[file.path.name] = len(buffer.getvalue())
    assert files == {"long name " * 15 + ".txt": 5000, "ёлка.csv": 200_000}
    shutil.rmtree(source)
