"""Inputs that cannot be used, or only look so: what `test_bad_inputs.py` gives to every entrance that takes them.

Everything is made here, from a few bytes that are cut, changed, or written by hand. A case that is fit for use has
`answered`: its answer must then be a valid one.
"""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bibier_hf import EMOTIONS

RATE = 16_000


@dataclass(frozen=True)
class BadInput:
    """One case.

    Attributes:
        kind: what it was meant to be; it decides on the entrances.
        name: what is wrong with it.
        given: the content of a file, a value, or a function that damages a copy of something good.
        file: name of the file that holds it.
        answered: it can be used, though it looks odd; a tuple: only by these entrances.
    """

    kind: str
    name: str
    given: Any
    file: str = ""
    answered: bool | tuple[str, ...] = False


# Recordings

CANCELED = ("processor", "live", "predict in windows")
SILENT = (*CANCELED, "predict", "server")
"""Entrances that answer silence: those that say that the answer is unsure, and live voices."""


def sound(count: int = 8000, **options: Any) -> bytes:
    """A file of noise."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(count)
    return written(samples.astype(np.float32), **options)


def written(samples: np.ndarray, format: str = "WAV", **options: Any) -> bytes:
    """A file with these samples."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=format, **options)
    return file.getvalue()


def patched(data: bytes, place: int, value: bytes) -> bytes:
    """Bytes of which some are replaced."""
    return data[:place] + value + data[place + len(value) :]


def wav(fmt: bytes, data: bytes = bytes(range(256)) * 16, size: int | None = None) -> bytes:
    """A RIFF file with a format chunk of any content."""
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt
    chunks += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def fmt(coding: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, block: int | None = None) -> bytes:
    """The content of a format chunk."""
    block = channels * bits // 8 if block is None else block
    return struct.pack("<HHIIHH", coding, channels, rate, (rate * block) % 2**32, block % 2**16, bits)


def recordings() -> Iterator[BadInput]:
    """Containers and headers."""
    good = {name: sound(format=name) for name in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64")}
    noise = np.random.default_rng(1).bytes(10_000)
    voice = soundfile.read(io.BytesIO(good["WAV"]), dtype="float32")[0]

    foreign = {
        "no bytes": b"",
        "one byte": b"R",
        "a text": "Не звук, а текст.\n".encode() * 50,
        "a page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "JSON": b'{"error": "not found"}',
        "a picture": b"\x89PNG\r\n\x1a\n" + noise[:500],
        "a PDF": b"%PDF-1.7\n" + noise[:500],
        "a ZIP archive": b"PK\x03\x04" + noise[:500],
        "gzip": gzip.compress(good["WAV"]),
        "a pickle": pickle.dumps({"array": [0.1] * 1000}),
        "NumPy's own format": b"\x93NUMPY\x01\x00" + noise[:500],
        "random bytes": noise,
        "zeros": bytes(10_000),
        "0xFF": b"\xff" * 10_000,
        "a playlist": b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "UTF-16": "RIFF and WAVE".encode("utf-16"),
        "MP4 without a track": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0\0\0\x08moov",
        "WebM of a header": b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01" + bytes(20),
        "ID3 and nothing": b"ID3\4\0\0\0\0\0\x10" + bytes(16),
        "MP3 sync words": b"\xff\xfb\x90\x00" * 20,
    }
    headers = {
        "WAV without a size": wav(fmt(), b""),
        "WAV of no channels": wav(fmt(channels=0)),
        "WAV of 65535 channels": wav(fmt(channels=65535, block=2)),
        "WAV at 0 Hz": wav(fmt(rate=0)),
        "WAV at 1 Hz": wav(fmt(rate=1)),
        "WAV at 4 GHz": wav(fmt(rate=2**32 - 1)),
        "WAV of 0 bits": wav(fmt(bits=0, block=0)),
        "WAV of 1000 bits": wav(fmt(bits=1000)),
        "WAV of an unknown coding": wav(fmt(coding=0x1234)),
        "WAV whose format is empty": wav(b""),
        "WAV whose format is cut": wav(fmt()[:10]),
        "WAV without a format": b"RIFF\x24\x08\0\0WAVEdata\0\x08\0\0" + bytes(2048),
        "WAV without data": good["WAV"][:36],
        "WAV of half a sample": wav(fmt(), b"\1"),
        "WAV with a format of 4 GB": patched(good["WAV"], 16, b"\xff\xff\xff\xff"),
        "WAV that is called AVI": patched(good["WAV"], 8, b"AVI "),
        "FLAC with a hole": patched(good["FLAC"], len(good["FLAC"]) // 2, bytes(2000)),
        "AU of an unknown coding": patched(good["AU"], 12, b"\0\0\0\x63"),
        "AU at 0 Hz": patched(good["AU"], 16, b"\0\0\0\0"),
        "AU of no channels": patched(good["AU"], 20, b"\0\0\0\0"),
        "AIFF of no channels": patched(good["AIFF"], good["AIFF"].index(b"COMM") + 8, b"\0\0"),
        "AIFF at 0 Hz": patched(good["AIFF"], good["AIFF"].index(b"COMM") + 16, bytes(10)),
        "AIFF at no number of Hz": patched(good["AIFF"], good["AIFF"].index(b"COMM") + 16, b"\x7f\xff" + b"\xff" * 8),
        "Ogg without its second page": good["OGG"][:58],
        "Ogg with a wrong checksum": patched(good["OGG"], 22, b"\0\0\0\0"),
    }
    headers |= {f"{name} of {size} bytes": data[:size] for name, data in good.items() for size in (4, 11, 30)}
    headers |= {f"{name} cut in the middle": good[name][: len(good[name]) // 2] for name in ("WAV", "FLAC", "AIFF")}
    samples = {
        "NaN in a file": written(np.where(np.arange(8000) == 17, np.nan, voice), subtype="FLOAT"),
        "infinity in a file": written(np.where(np.arange(8000) == 17, np.inf, voice), subtype="DOUBLE"),
        "integers in a file of floats": written(np.round(30_000 * voice), subtype="FLOAT"),
        "floats of 1e30": written(1e30 * voice, subtype="FLOAT"),
    }
    silent = {
        "channels that cancel": written(np.stack([voice, -voice], axis=1)),
        "one sample": written(voice[:1]),
        "samples of 1e-30": written(1e-30 * voice, subtype="DOUBLE"),
    }
    fit = {
        "three samples": written(voice[:3]),
        "8-bit samples": written(voice, subtype="PCM_U8"),
        "WAV of 7 bits": wav(fmt(bits=7)),
        "FLAC at 0 Hz, with a rate in each frame": patched(good["FLAC"], 18, b"\0\0\0"),
        "FLAC of blocks of 0": patched(good["FLAC"], 8, b"\0\0\0\0"),
        "RF64 without its sizes": patched(good["RF64"], 12, b"JUNK"),
        "a size of 4 GB": patched(good["WAV"], 40, b"\xff\xff\xff\xff"),
        "a chunk of 3 bytes behind the data": good["WAV"] + b"junk\3\0\0\0abc",
        "MP3 behind an empty ID3": b"ID3\4\0\0\0\0\0\0" + good["MP3"],
    }
    for name, content in (foreign | headers | samples | silent | fit).items():
        answered = (CANCELED if "cancel" in name else SILENT) if name in silent else name in fit
        yield BadInput("recording", name, content, "odd.wav", answered)


def arrays() -> Iterator[BadInput]:
    """Samples in memory."""
    voice = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)

    def at(rate: Any, array: Any = voice) -> dict[str, Any]:
        return {"array": array, "sampling_rate": rate}

    refused: dict[str, Any] = {
        "no samples": at(RATE, np.zeros(0, np.float32)),
        "a list of nothing": at(RATE, []),
        "NaN": at(RATE, np.append(voice, np.nan)),
        "infinity": at(RATE, np.append(voice, -np.inf)),
        "complex numbers": at(RATE, voice.astype(complex)),
        "truth values": at(RATE, voice > 0),
        "objects": at(RATE, np.array([object()] * 10)),
        "strings": at(RATE, np.array(["0.1"] * 10)),
        "dates": at(RATE, np.zeros(10, "datetime64[s]")),
        "three axes": at(RATE, np.zeros((2, 3, 400), np.float32)),
        "no axis": at(RATE, np.float32(0.5)),
        "500 channels": at(RATE, np.zeros((500, 600), np.float32)),
        "a ragged list": at(RATE, [[0.1, 0.2], [0.3]]),
        "a list of None": at(RATE, [None, None]),
        "nested dictionaries": at(RATE, {"array": voice}),
        "integers of an unknown scale": at(RATE, (30_000 * voice).astype(np.int64)),
        "floats that hold integers": at(RATE, np.round(30_000 * voice)),
        "floats of 1e300": at(RATE, 1e300 * voice.astype(float)),
        "no rate": {"array": voice},
        "a rate of None": at(None),
        "a rate of 0": at(0),
        "a negative rate": at(-RATE),
        "a rate of NaN": at(float("nan")),
        "an infinite rate": at(float("inf")),
        "a rate of 1 GHz": at(10**9),
        "half a hertz": at(16_000.5),
        "a rate in words": at("16 kHz"),
        "a list as rate": at([16_000]),
        "None as samples": at(RATE, None),
        "an unknown key only": {"samples": voice},
        "a number": 0.5,
        "truth": True,
        "a set": {0.1, 0.2},
        "an object": object(),
        "an empty name": "",
        "a name with a zero byte": "a\0b.wav",
        "a name of 5000 letters": "a" * 5000 + ".wav",
        "a text instead of a name": "I can't believe it!",
        "an unknown scheme": "gopher://example.org/a.wav",
        "base64 of a file": {"bytes": "UklGRg=="},
    }
    silent: dict[str, Any] = {
        "channels that cancel": at(RATE, np.stack([voice, -voice])),
        "one sample": at(RATE, voice[:1]),
        "denormal numbers": at(RATE, np.full(8000, 1e-42, np.float32)),
    }
    fit: dict[str, Any] = {
        "a read-only array": at(RATE, np.frombuffer(voice.tobytes(), np.float32)),
        "every second sample": at(RATE, np.repeat(voice, 2)[::2]),
        "big-endian floats": at(RATE, voice.astype(">f4")),
        "half precision": at(RATE, voice.astype(np.float16)),
        "a list": at(RATE, voice[:500].tolist()),
        "a rate of NumPy's": at(np.int64(RATE)),
    }
    nothing = ("no samples", "a list of nothing")
    for name, value in (refused | silent | fit).items():
        answered = SILENT if name in silent else ("live",) if name in nothing else name in fit
        yield BadInput("array", name, value, answered=answered)


# Texts


def texts() -> Iterator[BadInput]:
    """What is said."""
    refused: dict[str, Any] = {
        "half of a surrogate pair": "So \ud83d.",
        "the other half": "\udc00",
        "bytes": b"So.",
        "a number": 5,
        "truth": True,
        "a list of numbers": [1, 2],
        "a dictionary": {"said": "So."},
        "a list of None": [None],
        "an object": object(),
    }
    fit = {
        "zero bytes": "So\0 it\0 is.",
        "control characters": "\x01\x02\x1b[31mSo.\x7f",
        "characters of no width": "\u200b\u200d\ufeff\u2060So",
        "marks on marks": "S" + "\u0301" * 500,
        "right to left": "\u202eos it si\u202c",
        "private characters": "\ue000\U0010ffff",
        "emoji": "😀" * 200,
        "one letter 20,000 times": "a" * 20_000,
        "words without an end": "so " * 20_000,
        "no spaces between signs": "很好" * 3000,
        "a template": "{{ 7 * 7 }} {label} %s %n",
        "special tokens": "<s></s><pad><mask>[CLS][SEP]<unk>",
        "a path": "../../etc/passwd",
        "markup": "<script>alert(1)</script>",
        "lines": "a\r\nb\u2028c\u0085d",
    }
    replaced = ("pipeline", "processor", "predict", "demo")
    for name, value in (refused | fit).items():
        surrogates = isinstance(value, str) and name not in fit
        yield BadInput("text", name, value, answered=replaced if surrogates else name in fit)


# Tables


COLUMNS = "audio,text,label,split,language,speaker,dialogue"


def good_rows() -> list[str]:
    """Rows of a table that is fit for use, for clips `train0.wav` to `test1.wav`."""
    return [
        f"{split}{number}.wav,said {split} {number},{label},{split},en,{split}{number},d{split}{number}"
        for split in ("train", "dev", "test")
        for number, label in enumerate(("anger", "sad"))
    ]


def table(*rows: str, header: str = COLUMNS) -> bytes:
    """A table with these rows in front of the good ones."""
    return ("\n".join([header, *rows, *good_rows()]) + "\n").encode("utf-8", "surrogateescape")


def tables() -> Iterator[BadInput]:
    """Tables of recordings."""
    row = "train0.wav,x,anger,train,en,s,d"
    refused = {
        "no bytes": b"",
        "a blank line": b"\n",
        "a header alone": COLUMNS.encode(),
        "no header": "\n".join(good_rows()).encode(),
        "random bytes": np.random.default_rng(2).bytes(3000),
        "zeros": bytes(3000),
        "UTF-16 that is cut": table().decode().encode("utf-16")[:301],
        "an XLSX file by another name": b"PK\x03\x04" + bytes(500),
        "a page": b"<html><table><tr><td>audio</td></tr></table></html>",
        "a column twice": table(header=COLUMNS.replace("speaker", "text")),
        "no column of audio": table(header=COLUMNS.replace("audio", "path_of_it")),
        "an unknown label": table("train0.wav,x,joyous,train,en,s,d"),
        "no label": table("train0.wav,x,,train,en,s,d"),
        "a label of a number": table("train0.wav,x,12,train,en,s,d"),
        "an unknown split": table("train0.wav,x,anger,holdout,en,s,d"),
        "no split in one row": table("train0.wav,x,anger,,en,s,d"),
        "an unknown language": table("train0.wav,x,anger,train,klingon,s,d"),
        "a recording that is not there": table("nowhere.wav,x,anger,train,en,s,d"),
        "a folder as a recording": table(".,x,anger,train,en,s,d"),
        "a path to a device": table("/dev/null,x,anger,train,en,s,d"),
        "a name with a zero byte": table("a\0b.wav,x,anger,train,en,s,d"),
        "too few cells": table("train0.wav,x"),
        "too many cells": table(row + ",y,z"),
        "a quote without an end": table('train0.wav,"x,anger,train,en,s,d'),
        "a byte that is no UTF-8": table("train0.wav,\udcff,anger,train,en,s,d"),
        "one row of a split": "\n".join([COLUMNS, row.replace("train,", "valid,", 1)]).encode(),
    }
    for name, content in refused.items():
        answered = ("prepare",) if name == "one row of a split" else ()
        yield BadInput("table", name, content, "odd.csv", answered)

    lines = {
        "JSON that is cut": b'[{"audio": "train0.wav"',
        "JSON of a number": b"5",
        "JSON of names": b'["train0.wav"]',
        "nested JSON": b"[" * 100_000,
        "JSON of a number of 5000 digits": b'[{"audio": ' + b"1" * 5000 + b"}]",
    }
    for name, content in lines.items():
        yield BadInput("table", name, content, "odd.json")
        yield BadInput("table", name + ", by lines", content, "odd.jsonl")
    sheets = {
        "a sheet of random bytes": np.random.default_rng(3).bytes(3000),
        "a sheet that is cut": b"PK\x03\x04" + bytes(100),
        "an archive of something else": zipped({"a.txt": b"no sheet"}),
        "a sheet without its parts": zipped({"[Content_Types].xml": b"<Types/>", "xl/workbook.xml": b"<workbook/>"}),
    }
    for name, content in sheets.items():
        yield BadInput("table", name, content, "odd.xlsx")

    fit = {
        "a row of a text alone": table(",x,anger,train,en,s,d"),
        "a mark in front": b"\xef\xbb\xbf" + table(),
        "lines of Windows": table().replace(b"\n", b"\r\n"),
        "semicolons": table().replace(b",", b";"),
        "blank lines": table().replace(b"\n", b"\n\n"),
    }
    for name, content in fit.items():
        yield BadInput("table", name, content, "odd.csv", answered=True)


def zipped(files: dict[str, bytes]) -> bytes:
    """A ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def label_tables() -> Iterator[BadInput]:
    """Tables of soft labels."""
    header = ",".join(["id", "label", *EMOTIONS])

    def of(*rows: str) -> bytes:
        return "\n".join([header, *rows, ""]).encode("utf-8", "surrogateescape")

    csv = {
        "no bytes": b"",
        "a header alone": header.encode(),
        "random bytes": np.random.default_rng(4).bytes(2000),
        "zeros": bytes(2000),
        "a page": b"<html></html>",
        "no id": of("a,sad,0,0,0,0,0,1,0").replace(b"id,", b"row,", 1),
        "a missing emotion": of("a,sad,0,0,0,0,0,1,0").replace(b",fear", b"", 1),
        "an id twice": of("a,sad,0,0,0,0,0,1,0", "a,sad,0,0,0,0,0,1,0"),
        "an unknown label": of("a,joyous,0,0,0,0,0,1,0"),
        "a word as a number": of("a,sad,0,0,0,x,0,1,0"),
        "no number": of("a,sad,0,0,0,,0,1,0"),
        "NaN": of("a,sad,0,0,0,nan,0,1,0"),
        "infinity": of("a,sad,0,0,0,inf,0,1,0"),
        "a number of 1e308": of("a,sad,0,0,0,1e308,0,1e308,0"),
        "a negative number": of("a,sad,-1,0,0,0,0,2,0"),
        "too few cells": of("a,sad,0,0"),
        "too many cells": of("a,sad,0,0,0,0,0,1,0,0,0"),
        "a quote without an end": of('a,"sad,0,0,0,0,0,1,0'),
        "a byte that is no UTF-8": of("\udcff,sad,0,0,0,0,0,1,\udcff"),
    }
    for name, content in csv.items():
        # Published tables hold such numbers; training refuses them.
        answered = ("label report",) if name == "a negative number" else ()
        yield BadInput("label table", name, content, "odd.csv", answered)
    parquet = {
        "Parquet of no bytes": b"",
        "Parquet of random bytes": b"PAR1" + np.random.default_rng(5).bytes(500) + b"PAR1",
        "Parquet that is cut": b"PAR1\x15\x04\x15",
        "a table by another name": of("a,sad,0,0,0,0,0,1,0"),
    }
    for name, content in parquet.items():
        yield BadInput("label table", name, content, "odd.parquet")


# Run files


def run_files() -> Iterator[BadInput]:
    """YAML."""
    contents = {
        "no bytes": b"",
        "a comment alone": b"# nothing\n",
        "a list": b"- 1\n- 2\n",
        "a text": b"train\n",
        "a number": b"5\n",
        "null": b"null\n",
        "brackets without an end": b"a: [1, 2",
        "a tab": b"a:\n\t- 1\n",
        "no UTF-8": b"output_dir: \xff\xfe\n",
        "UTF-16 without a mark": "seed: 1\n".encode("utf-16-le"),
        "zeros": bytes(100),
        "random bytes": np.random.default_rng(6).bytes(2000),
        "a key twice": b"seed: 1\nseed: 2\n",
        "an unknown key": b"sead: 1\n",
        "a number as key": b"1: 2\n",
        "a list as key": b"? [1, 2]\n: 3\n",
        "a mapping as key": b"? {a: b}\n: 3\n",
        "an unknown anchor": b"seed: *nothing\n",
        "an anchor in itself": b"&a [*a]\n",
        "a mapping in itself": b"run: &a\n  model: *a\n",
        "a bomb of anchors": b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (97 + i, 97 + i, b", ".join([b"*%c" % (96 + i)] * 9)) for i in range(1, 9)),
        "nested lists": b"a: " + b"[" * 20_000,
        "nested mappings": b"{a: " * 5000,
        "a Python object": b"!!python/object/apply:os.system ['true']\n",
        "a tag": b"seed: !secret 1\n",
        "two documents": b"seed: 1\n---\nseed: 2\n",
        "a date": b"seed: 2026-11-29\n",
        "no date": b"seed: 2026-99-99\n",
        "a number of 10,000 digits": b"seed: " + b"9" * 10_000 + b"\n",
        "binary without base64": b"seed: !!binary '***'\n",
        "a merge of a number": b"<<: 5\n",
        "an escape of nothing": b'output_dir: "\\q"\n',
        "half of a surrogate pair": b'output_dir: "\\ud800"\n',
        "JSON that is cut": b'{"seed": 1',
        "the file of something else": b"name: CI\non: [push]\njobs: {test: {runs-on: ubuntu}}\n",
    }
    for name, content in contents.items():
        yield BadInput("run file", name, content, "odd.yaml")


# Checkpoints

NO_CONFIGURATION: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "list": b"[1, 2]",
    "null": b"null",
    "number": b"7",
    "text": b'"bibier"',
    "true": b"true",
    "no JSON": b"model_type: bibier",
    "cut": b'{"model_type": "bibier", "hidden_size": 1',
    "not UTF-8": '{"model_type": "бибир"}'.encode("cp1251"),
    "UTF-16": '{"model_type": "bibier"}'.encode("utf-16"),
    "nested": b'{"x": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
    "nested objects": b'{"x":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of 10,000 digits": b'{"hidden_size": ' + b"9" * 10_000 + b"}",
    "no options": b"{}",
    "two documents": b"{}{}",
    "binary": bytes(range(256)),
}
"""Contents of `config.json` that hold no configuration."""


def in_file(name: str, change: Callable[[bytes], bytes | None]) -> Callable[[Path], None]:
    """A function that changes a file of a folder; None removes it."""

    def damage(folder: Path) -> None:
        path = folder / name
        content = change(path.read_bytes())
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    return damage


def with_options(**options: Any) -> Callable[[bytes], bytes]:
    """Change keys of a JSON file."""
    return lambda content: json.dumps(json.loads(content) | options).encode()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def checkpoints() -> Iterator[BadInput]:
    """Configurations and weights."""
    for name, content in NO_CONFIGURATION.items():
        yield BadInput("checkpoint", f"config: {name}", in_file("config.json", lambda _, content=content: content))
    options: list[dict[str, Any]] = [
        {"model_type": "bert"},
        {"model_type": None},
        {"hidden_size": "big"},
        {"hidden_size": 10**12},
        {"hidden_size": 32},
        {"num_hidden_layers": 2},
        {"fusion": "magic"},
        {"temperature": 0},
        {"id2label": {"0": "anger", "2": "sad"}},
        {"audio_config": 5},
        {"text_config": None},
        {"dtype": "float77"},
    ]
    for each in options:
        yield BadInput("checkpoint", f"config: {json.dumps(each)}", in_file("config.json", with_options(**each)))

    header = struct.pack("<Q", 2**40) + b"{}"
    weights: dict[str, Callable[[bytes], bytes | None]] = {
        "no weights": lambda _: None,
        "no bytes": lambda _: b"",
        "cut": half,
        "cut in the header": lambda content: content[:100],
        "a header of a terabyte": lambda _: header,
        "a header that is no JSON": lambda content: content[:8] + b"x" * 100 + content[108:],
        "a pickle": lambda _: pickle.dumps({"a": 1}),
        "reversed": lambda content: content[::-1],
        "zeros": lambda content: bytes(len(content)),
        "a pointer of Git LFS": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }
    for name, change in weights.items():
        yield BadInput("checkpoint", f"weights: {name}", in_file("model.safetensors", change))


def processors() -> Iterator[BadInput]:
    """Files of the processor."""
    contents: dict[str, Callable[[bytes], bytes | None]] = {
        "gone": lambda _: None,
        "no bytes": lambda _: b"",
        "cut": half,
        "a list": lambda _: b"[]",
        "null": lambda _: b"null",
        "nested": lambda _: b"[" * 100_000,
        "binary": lambda _: bytes(range(256)),
    }
    for file in ("processor_config.json", "tokenizer_config.json"):
        for name, change in contents.items():
            yield BadInput("processor", f"{file}: {name}", in_file(file, change))


# Folders that commands write and read again


def flipped(share: float) -> Callable[[bytes], bytes]:
    """Turn over the bits of 8 bytes at some place."""

    def change(content: bytes) -> bytes:
        place = int(share * (len(content) - 8))
        return patched(content, place, bytes(byte ^ 0xFF for byte in content[place : place + 8]))

    return change


def stores() -> Iterator[BadInput]:
    """Feature stores."""
    changes = {f"8 bytes at {round(100 * share)} %": flipped(share) for share in np.linspace(0, 1, 9)}
    values = list(changes)[5:8]
    changes |= {"no bytes": lambda _: b"", "cut": half, "a byte more": lambda content: content + b"\0"}
    for name, change in changes.items():
        # Only training reads the values.
        answered = ("extract",) if name in values else ()
        yield BadInput("store", f"shard: {name}", ("*.safetensors", change), answered=answered)
    contents: dict[str, Callable[[bytes], bytes]] = {
        "no bytes": lambda _: b"",
        "cut": half,
        "a list": lambda _: b"[]",
        "null": lambda _: b"null",
        "binary": lambda _: bytes(range(256)),
        "nothing known": lambda _: b"{}",
    }
    for name, change in contents.items():
        yield BadInput("store", f"manifest: {name}", ("manifest.json", change), answered=True)


def prepared() -> Iterator[BadInput]:
    """Prepared corpora."""
    changes: dict[str, Callable[[bytes], bytes | None]] = {
        f"8 bytes at {round(100 * share)} %": flipped(share) for share in np.linspace(0, 1, 9)
    }
    samples = list(changes)[1:7]
    changes |= {"gone": lambda _: None, "no bytes": lambda _: b"", "cut": half}
    for name, change in changes.items():
        # This baseline reads texts alone.
        answered = ("baseline",) if name in samples else ()
        yield BadInput("prepared corpus", f"rows: {name}", in_file("test.parquet", change), answered=answered)
    contents: dict[str, Callable[[bytes], bytes | None]] = {
        "no bytes": lambda _: b"",
        "cut": half,
        "a list": lambda _: b"[]",
        "null": lambda _: b"null",
        "binary": lambda _: bytes(range(256)),
        "nested": lambda _: b"[" * 100_000,
    }
    for name, change in contents.items():
        yield BadInput("prepared corpus", f"facts: {name}", in_file("corpus.json", change))


# Archives


def tar(mode: str = "w:gz", **files: bytes) -> bytes:
    """An archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # ty: ignore[no-matching-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def linked(kind: bytes, name: str, target: str = "") -> bytes:
    """An archive with one member that is no file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return buffer.getvalue()


def archives() -> Iterator[BadInput]:
    """Archives of MELD."""
    clip = "MELD.Raw/train_splits/dia0_utt0.mp4"
    noise = np.random.default_rng(7).bytes(3000)
    for suffix, mode in ((".tar.gz", "w:gz"), (".tar", "w"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")):
        whole = tar(mode, **{clip: noise, "MELD.Raw/train_sent_emo.csv": b"a,b\n"})
        contents = {
            "no bytes": b"",
            "random bytes": noise,
            "cut": half(whole),
            "a damaged middle": flipped(0.5)(whole),
            "a damaged start": flipped(0)(whole),
            "an HTML page": b"<!DOCTYPE html><html>Sign in</html>",
        }
        for name, content in contents.items():
            yield BadInput("archive", f"{suffix}: {name}", content, f"odd{suffix}")
    members = {
        "empty": tar(),
        "a path above": tar(**{"../../odd.mp4": noise}),
        "an absolute path": tar(**{"/tmp/odd.mp4": noise}),
        "a link to a password": linked(tarfile.SYMTYPE, clip, "/etc/passwd"),
        "a hard link to nothing": linked(tarfile.LNKTYPE, clip, "nothing"),
        "a device": linked(tarfile.CHRTYPE, clip),
        "a pipe": linked(tarfile.FIFOTYPE, clip),
        "an archive in itself that is cut": tar(**{"train.tar.gz": half(tar(**{clip: noise}))}),
        "only a table": tar(**{"MELD.Raw/train_sent_emo.csv": b"a,b\n"}),
        "a zip by another name": zipped({clip: noise}),
    }
    for name, content in members.items():
        yield BadInput("archive", name, content, "odd.tar.gz")


# Turns and transcripts

TURNS: list[tuple[str, str, str]] = [
    ("a.rttm", "", "holds no turns"),
    ("a.rttm", "SPEAKER x 1 1\n", "line 1: a SPEAKER line has at least 8 fields, this one has 4"),
    ("a.rttm", "SPEAKER x 1 nan 1 <NA> <NA> A <NA> <NA>\n", "line 1: .*must be numbers of seconds"),
    ("a.rttm", "SPEAKER x 1 -1 2 <NA> <NA> A <NA> <NA>\n", "line 1: -1.0 to 1.0 s; a segment must start at 0"),
    ("a.rttm", "SPEAKER x 1 3 -2 <NA> <NA> A <NA> <NA>\n", "line 1: 3.0 to 1.0 s; .* end after its start"),
    ("a.csv", "a,b\n1,2\n", "columns start and end"),
    ("a.csv", "start,end\n1,two\n", "line 2: 'two' is not a number of seconds"),
    ("a.json", "{", "line 1: this is not JSON"),
    ("a.json", "{}", "allowed is a list"),
    ("a.json", "[" * 100_000, "too deep"),
    ("a.json", '[{"start": 0, "end": ' + "1" * 5000 + "}]", "too large a number"),
    ("a.json", '[{"start": 0, "end": ' + "1" * 400 + "}]", "entry 0: .* is not a number of seconds"),
    ("a.json", '[{"start": 0, "end": 1e999}]', "entry 0: .*must be numbers"),
    ("a.json", '[{"start": 0, "end": {}}]', "entry 0: {} is not a number of seconds"),
    ("a.csv", 'start,end,text\n0,1,"' + "x" * 200_000 + '"\n', "line 1: this is not CSV"),
    ("a.csv", "start,end\n0\n", "line 2: None is not a number of seconds"),
    ("a.json", "[1]", "entry 0 is 1; allowed"),
    ("a.json", '[{"timestamp": 1}]', "entry 0: its timestamp 1 is not"),
    ("a.json", '[{"start": 0, "end": NaN}]', "entry 0: .*must be numbers"),
    ("a.srt", "1:2:3:4,000 --> 5\n", "line 1: '1:2:3:4,000' is not a time"),
    ("a.txt", "", "turns are read from .rttm, .json, .csv, .srt, .vtt"),
]
"""Name of a file, its content, and what the error says."""


def turns() -> Iterator[BadInput]:
    """Files with times."""
    for name, content, message in TURNS:
        if "x" * 200_000 not in content:  # depends on a limit of the csv module
            yield BadInput("turns", f"{name}: {message[:60]}", content.encode(), name)
    late = "SPEAKER a 1 50 2 <NA> <NA> A <NA> <NA>\n"
    contents = {
        "a.vtt": {"no bytes": b"", "a header alone": b"WEBVTT\n", "zeros": bytes(500), "no UTF-8": b"WEBVTT\n\xff"},
        "a.srt": {"a picture": b"\x89PNG\r\n\x1a\n", "backwards": b"1\n00:00:02,000 --> 00:00:01,000\nHi\n"},
        "a.rttm": {"after the end": late.encode(), "UTF-16": late.encode("utf-16")},
        "a.json": {"null": b"null", "texts": b'["a"]', "an infinite start": b'[{"start": -Infinity, "end": 1}]'},
        "a.csv": {
            "no bytes": b"",
            "zeros": bytes(500),
            "infinite": b"start,end\n0,inf\n",
            "negative": b"start,end\n-1,1\n",
        },
    }
    for file, each in contents.items():
        for name, content in each.items():
            # What is said after the end belongs to no window.
            answered = ("predict --transcript",) if name == "after the end" else ()
            yield BadInput("turns", f"{file}: {name}", content, file, answered)


# Requests


def requests() -> Iterator[BadInput]:
    """Bodies of JSON that a client sends to the server."""
    bodies = {
        "no bytes": b"",
        "no JSON": b"{",
        "a list": b"[]",
        "null": b"null",
        "a text": b'"So."',
        "nested": b'{"text": ' + b"[" * 100_000 + b"}",
        "no UTF-8": b'{"text": "\xff"}',
        "UTF-16": '{"text": "So."'.encode("utf-16"),
        "nothing given": b"{}",
        "null as a text": b'{"text": null}',
        "a number as a text": b'{"text": 5}',
        "a list as a text": b'{"text": ["So."]}',
        "an unknown field": b'{"text": "So.", "topk": 1}',
        "top_k of 0": b'{"text": "So.", "top_k": 0}',
        "top_k of 1e999": b'{"text": "So.", "top_k": 1e999}',
        "a threshold of NaN": b'{"text": "So.", "threshold": NaN}',
        "a threshold of 2": b'{"text": "So.", "threshold": 2}',
        "an unknown label": b'{"text": "So.", "labels": ["rage"]}',
        "no labels": b'{"text": "So.", "labels": []}',
        "labels of numbers": b'{"text": "So.", "labels": [1]}',
        "a map to nothing": b'{"text": "So.", "label_map": {"bad": []}}',
        "a map to itself": b'{"text": "So.", "label_map": "anger"}',
        "a path as audio": b'{"audio": "/etc/passwd"}',
        "an address as audio": b'{"audio": "http://127.0.0.1/a.wav"}',
        "audio that is no base64": b'{"audio": "***"}',
        "audio that is no sound": b'{"audio": "bm8gYXVkaW8="}',
        "audio of a number": b'{"audio": 5}',
        "windows of a text": b'{"text": "So.", "chunk_length_s": 4}',
        "windows of 0 s": b'{"text": "So.", "chunk_length_s": 0}',
        "half of a surrogate pair": rb'{"text": "\ud800"}',
        "a number of 10,000 digits": b'{"text": "So.", "top_k": ' + b"9" * 10_000 + b"}",
    }
    for name, content in bodies.items():
        yield BadInput("request", name, content)


BAD_INPUTS: tuple[BadInput, ...] = tuple(
    case
    for cases in (
        recordings,
        arrays,
        texts,
        tables,
        label_tables,
        run_files,
        checkpoints,
        processors,
        stores,
        prepared,
        archives,
        turns,
        requests,
    )
    for case in cases()
)
