"""Files of other programs with random damage: they are read, or reported in a message that names them. Nothing else.

Each test changes good files a fixed number of times, the same way in every run.
"""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bibier_hf import EMOTIONS, BiBiERConfig
from bibier_hf.data.archives import walk_files
from bibier_hf.data.label_tables import read_label_table
from bibier_hf.errors import UserError
from bibier_hf.model.audio_bibier import AudioError, decode_audio
from bibier_hf.model.segments_bibier import Turn
from bibier_hf.timeline.turns import TURN_FORMATS, read_turns
from bibier_hf.training.arguments import read_run

from .bad_inputs import sound

T = TypeVar("T")
Errors = type[Exception] | tuple[type[Exception], ...]

fuzzed = settings(max_examples=200, deadline=None, derandomize=True, database=None)

TURNS = {
    ".rttm": "SPEAKER talk 1 0.50 1.25 <NA> <NA> anna <NA> <NA>\nSPEAKER talk 1 2.00 0.75 <NA> <NA> boris <NA> <NA>\n",
    ".json": '{"segments": [{"start": 0.5, "end": 1.75, "speaker": "anna", "text": "Привет"}, {"timestamp": [2, 3]}]}',
    ".csv": "start,end,speaker,text\n0.5,1.75,anna,Привет\n2.0,2.75,boris,hello\n",
    ".srt": "1\n00:00:00,500 --> 00:00:01,750\nAnna: Привет\n\n2\n00:00:02,000 --> 00:00:02,750\nhello\n",
    ".vtt": "WEBVTT\n\n00:00.500 --> 00:01.750\n<v Anna>Привет</v>\n\n00:02.000 --> 00:02.750\nhello\n",
}
RUN = """
output_dir: outputs/run
corpora:
  - {name: quickstart, options: {train_per_class: 4}}
audio_backbone: openai/whisper-base
model: {fusion: late, audio_config: {layer: [2, 3]}}
num_train_epochs: 3
learning_rate: 1e-3
disturbances: {kinds: ["white:5..30+g711"]}
"""

changes = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "repeat", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=6)
        | st.sampled_from([b"\0", b"\n", b'"', b"-", b"9" * 30, b"nan", b"\xff\xfe"]),
    ),
    min_size=1,
    max_size=6,
)


def damaged(data: bytes, steps: list[tuple[str, float, bytes]]) -> bytes:
    """Apply changes to places that are given as shares of the length."""
    for kind, share, value in steps:
        place = int(share * len(data))
        data = {
            "replace": data[:place] + value + data[place + len(value) :],
            "insert": data[:place] + value + data[place:],
            "delete": data[:place] + data[place + len(value) :],
            "repeat": data[:place] + data[place : place + 40] * 2 + data[place + 40 :],
            "cut": data[:place],
        }[kind]
    return data


def attempt(read: Callable[[], T], errors: Errors = UserError) -> tuple[T | None, str]:
    """What is read, or the message of one of these errors. Any other error is a fault."""
    try:
        return read(), ""
    except errors as error:
        return None, str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("suffix", TURN_FORMATS)
def test_turns(folder, suffix):
    path = folder / f"talk{suffix}"
    path.write_text(TURNS[suffix], encoding="utf-8")
    assert next((turn.start, turn.end) for turn in read_turns(path)) == (0.5, 1.75)

    @fuzzed
    @given(changes)
    def check(steps):
        path.write_bytes(damaged(TURNS[suffix].encode(), steps))
        turns, message = attempt(lambda: read_turns(path))
        if turns is None:
            assert path.name in message
            return
        assert turns
        assert all(isinstance(turn, Turn) and 0 <= turn.start <= turn.end < float("inf") for turn in turns)
        assert [turn.start for turn in turns] == sorted(turn.start for turn in turns)

    check()


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_recordings(format):
    good = sound(3000, format=format)
    assert len(decode_audio(good, sampling_rate=16_000)) >= 3000

    @settings(fuzzed, max_examples=60)  # some are given to ffmpeg
    @given(changes)
    def check(steps):
        samples, message = attempt(lambda: decode_audio(damaged(good, steps), sampling_rate=16_000), AudioError)
        if samples is None:
            assert message
            return
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert np.isfinite(samples).all()

    check()


def test_label_tables(folder):
    path = folder / "labels.csv"
    head = ",".join(["id", "label", "prediction", *EMOTIONS])
    rows = [f"line {number},sad,sad," + ",".join(["0.1"] * 5 + ["0.4", "0.1"]) for number in range(4)]
    good = "\n".join([head, *rows, ""]).encode()
    path.write_bytes(good)
    assert read_label_table(path).labeled.all()

    @fuzzed
    @given(changes)
    def check(steps):
        path.write_bytes(damaged(good, steps))
        table, message = attempt(lambda: read_label_table(path))
        if table is None:
            assert path.name in message
            return
        assert table.probabilities.shape == (len(table.ids), len(EMOTIONS))
        assert np.isfinite(table.probabilities[table.labeled]).all()

    check()


def test_run_files(folder):
    path = folder / "run.yaml"
    path.write_text(RUN, encoding="utf-8")
    assert read_run(path, {}).output_dir == "outputs/run"

    @fuzzed
    @given(changes)
    def check(steps):
        path.write_bytes(damaged(RUN.encode(), steps))
        run, message = attempt(lambda: read_run(path, {}))
        assert run or message

    check()


def test_configurations(folder):
    path = folder / "config.json"
    good = json.dumps(BiBiERConfig().to_diff_dict() | {"fusion": "late"}).encode()
    path.write_bytes(good)
    assert BiBiERConfig.from_pretrained(folder).fusion == "late"

    @fuzzed
    @given(changes)
    def check(steps):
        path.write_bytes(damaged(good, steps))
        config, message = attempt(lambda: BiBiERConfig.from_pretrained(folder), (ValueError, OSError))
        assert message if config is None else config.model_type == "bibier"

    check()


def test_archives(folder):
    path = folder / "corpus.tar.gz"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("a.wav", "folder/b.txt"):
            member = tarfile.TarInfo(name)
            member.size = 400
            archive.addfile(member, io.BytesIO(bytes(400)))
    path.write_bytes(packed.getvalue())
    assert len(list(walk_files(path))) == 2

    @fuzzed
    @given(changes)
    def check(steps):
        path.write_bytes(damaged(packed.getvalue(), steps))
        names, message = attempt(lambda: [str(file.path) for file in walk_files(path)])
        if names is None:
            assert path.name in message
            return
        assert not any(".." in name for name in names)

    check()
