"""Two processes at once, signals, a kill at any moment, full disks, folders that cannot be written: every command that
writes ends in one line, leaves what was there as it was, and is completed by the next run."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bibier_hf.files import locked

from .conftest import Runner, content

pytestmark = pytest.mark.slow

FOLDERS = {
    "prepare": "corpus.json",
    "extract": None,
    "train": "results.json",
    "study": "study.json",
    "evaluate": "evaluation_test.json",
    "sds": "corpus.json",
    "tug": "corpus.json",
    "export": "export.json",
    "audit": None,
    "baseline": "results.json",
    "space": "README.md",
}
"""Commands that write a folder, and the file that says that it is complete (None: each file counts for itself)."""

FILES = {"label": "out.csv", "predict": "out.json", "preview": "out.html"}
"""Commands that write a file."""

COMMANDS = (*FOLDERS, *FILES)
NOT_INTERRUPTED = ("preview",)  # over before a signal arrives


def output_of(name: str) -> str:
    return FILES.get(name, "out")


def assert_one_line(code: int, text: str) -> str:
    """The command ended with one line of error; returns it."""
    assert "Traceback" not in text, text
    assert code == 2, text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert text.rstrip().endswith(line), text
    return line


def leftovers(folder: Path) -> list[str]:
    """Scratch folders and locks below a folder."""
    return [str(path) for path in folder.rglob("*") if path.name.endswith((".bibier", ".lock"))]


# Two processes


@pytest.mark.parametrize("name", [*(name for name in COMMANDS if name not in ("extract", "predict")), "push"])
def test_a_second_writer_is_told_who_writes(runner: Runner, tmp_path, name):
    out = tmp_path / output_of(name)
    with locked(out, file=name in FILES):
        line = assert_one_line(*runner.run(name, out))
        assert f"{out} is being written by process {os.getpid()} " in line
        assert " since 2" in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["train", "prepare", "sds"])
def test_of_two_at_once_one_is_refused_and_the_other_is_whole(runner, uninterrupted, tmp_path, name):
    expected = uninterrupted(name, "out").content
    runs = [runner.start(name, tmp_path / "out") for _ in range(2)]
    ended = [run.wait() for run in runs]
    codes = sorted(code for code, _ in ended)
    if codes != [0, 0]:  # one after the other, where the first was done before the second began to write
        assert codes == [0, 2], ended
    assert content(tmp_path) == expected


def test_a_second_extraction_waits_and_finds_the_rows(runner, uninterrupted, tmp_path):
    expected = uninterrupted("extract", "out").content
    runs = [runner.start("extract", tmp_path / "out") for _ in range(2)]
    assert [run.wait()[0] for run in runs] == [0, 0]
    assert content(tmp_path) == expected


# Signals and kills


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in NOT_INTERRUPTED])
def test_a_signal_ends_a_command_cleanly(runner, uninterrupted, tmp_path, name, number):
    before = uninterrupted(name, output_of(name))
    out = tmp_path / output_of(name)
    run = runner.start(name, out)
    time.sleep(0.5 * before.seconds)
    code, text = run.end(number)
    if code == -number:  # it had not begun, or it was done
        assert content(tmp_path) in ({}, before.content), text
        return
    assert "Traceback" not in text, text
    assert code in (128 + number, 0), text  # 0: it was done
    assert code == 0 or "nterrupted" in text, text
    assert leftovers(tmp_path) == []
    assert os.listdir(runner.folder / "tmp") == []


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in NOT_INTERRUPTED])
def test_a_killed_command_is_completed_by_the_next_run(runner, uninterrupted, tmp_path, name, share):
    whole = uninterrupted(name, output_of(name))
    out = tmp_path / output_of(name)
    run = runner.start(name, out)
    time.sleep(share * whole.seconds)
    run.end()
    finished = (out / "results.json").is_file()
    code, text = runner.run(name, out, *(["--overwrite", "true"] if name == "train" and finished else []))
    if name == "train" and "--resume_from_checkpoint" in text:
        code, text = runner.run(name, out, "--resume_from_checkpoint", "true")
    assert code == 0, text
    assert content(tmp_path) == whole.content
    assert os.listdir(runner.folder / "tmp") == []


@pytest.mark.parametrize("name", ["prepare", "sds", "tug", "export", "space"])
def test_a_kill_leaves_the_earlier_result_whole(runner, uninterrupted, tmp_path, name):
    whole = uninterrupted(name, "out")
    assert runner.run(name, tmp_path / "out")[0] == 0
    for share in (0.5, 1.0):
        run = runner.start(name, tmp_path / "out")
        time.sleep(share * whole.seconds)
        run.end()
        found = {key: value for key, value in content(tmp_path).items() if not key.startswith((".", "out/."))}
        found = {key: value for key, value in found.items() if not key.startswith("out.speech")}
        assert found == whole.content


# Disks


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line(runner, uninterrupted, small_disk, name, share):
    whole = uninterrupted(name, output_of(name))
    disk = small_disk(max(4096, int(share * whole.size) // 4096 * 4096))
    out = disk / output_of(name)
    code, text = runner.run(name, out)
    if code == 0:
        assert content(disk).keys() == whole.content.keys()
        return
    line = assert_one_line(code, text)
    assert f"Cannot write {disk}" in line
    assert "no space is left on the disk" in line
    assert leftovers(disk) == []
    if FOLDERS.get(name):
        assert not (out / FOLDERS[name]).exists()
    else:
        found = content(disk)
        assert all(value == whole.content[key] for key, value in found.items())


@pytest.mark.parametrize("fault", ["read-only disk", "read-only folder", "file", "below a file", "long name"])
@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_cannot_be_written_is_one_line(runner, tmp_path, read_only_disk, name, fault):
    out = tmp_path / output_of(name)
    match fault:
        case "read-only disk":
            out = read_only_disk() / output_of(name)
            meaning = "the file system is read-only"
        case "read-only folder":
            (tmp_path / "mine").mkdir(mode=0o555)
            out = tmp_path / "mine" / output_of(name)
            meaning = "permission denied"
        case "file":
            if name in FILES:
                out.mkdir()
            else:
                out.write_text("mine")
            own = {"export": "is not an export", "space": "something other than a Space"}
            meaning = "it is a folder, not a file" if name in FILES else own.get(name, "is a file")
        case "below a file":
            (tmp_path / "file").write_text("mine")
            out = tmp_path / "file" / output_of(name)
            meaning = "is a file"
        case "long name":
            out = tmp_path / ("x" * 300 + output_of(name))
            meaning = "the name is too long"
    line = assert_one_line(*runner.run(name, out, obey_permissions=True))
    assert meaning in line
    assert str(out.parent) in line
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_deleted_working_folder_is_one_line(runner, tmp_path, name):
    line = assert_one_line(*runner.run(name, Path(output_of(name)), folder_is_gone=True))
    assert "The working folder has been deleted" in line


def test_a_deleted_working_folder_is_one_line_before_anything_is_imported(repository, tmp_path):
    """transformers cannot be imported there."""
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f'rmdir "{gone}"; exec "{sys.executable}" -m bibier_cli predict nowhere --text Hello'
    environment = os.environ | {"PYTHONPATH": str(repository / "src")}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, cwd=gone, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stderr == "error: The working folder has been deleted. Change to another one (cd) and start again.\n"
    assert done.returncode == 2


@pytest.mark.parametrize("name", ["prepare", "train", "extract", "evaluate", "label", "export", "predict", "baseline"])
def test_a_read_only_home_is_no_fault_or_one_line(runner, tmp_path, name):
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    out = tmp_path / output_of(name)
    names = {"HOME": home, "XDG_CACHE_HOME": home / ".cache", "HF_HOME": home / "hf", "BIBIER_CACHE": home / "bibier"}
    arguments = [sys.executable, "-c", "import sys, server; server.obey_permissions(); import entries; "
                 "sys.exit(entries.call(sys.argv[1], sys.argv[2], []))", name, str(out)]  # fmt: skip
    environment = os.environ | runner.environment | {key: str(value) for key, value in names.items()}
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    done = subprocess.run(
        arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    text = done.stdout + done.stderr
    if done.returncode != 0:
        line = assert_one_line(done.returncode, text)
        assert re.search(r"Cannot (write|use) .*home", line)
