"""Writing: whole files and folders, one writer, leftovers of killed processes, errors in one line."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bibier_hf import files
from bibier_hf.files import (
    LockedError,
    WriteError,
    exchange,
    locked,
    replaced_folder,
    write_atomically,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(code: str, folder: Path) -> subprocess.Popen:
    """A process that prints a line when it is where the test wants it, and then waits."""
    code = "from bibier_hf.files import *\nimport os, signal, sys, time\nfolder = sys.argv[1]\n" + textwrap.dedent(
        code
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


WAIT = "print('ready', flush=True); time.sleep(600)"


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"seed": 1})

    def fail(temporary: Path) -> None:
        temporary.write_text("half of")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert json.loads(path.read_text()) == {"seed": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "results.json", {"uar": float("nan")})


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    with replaced_folder(target) as new:
        (new / "new").touch()
        assert names(target) == [".lock", "old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_a_folder_as_it_was(tmp_path, there):
    target = tmp_path / "out"
    if there:
        target.mkdir()
        (target / "old").touch()
    with pytest.raises(ZeroDivisionError), replaced_folder(target) as new:
        (new / str(1 // 0)).touch()
    assert names(tmp_path) == (["out"] if there else [])
    assert not there or names(target) == ["old"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with replaced_folder(tmp_path / "out") as new:
        (new / "new").touch()
    assert (tmp_path / "out").is_symlink()
    assert names(tmp_path / "disk") == ["new"]


def test_without_an_exchange_a_kill_between_the_two_moves_loses_nothing(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    code = f"""
        import bibier_hf.files as files
        files.exchange = lambda first, second: False
        replace, moves = os.replace, []
        def first_move_only(*paths):
            replace(*paths)
            {WAIT}
        os.replace = first_move_only
        with replaced_folder(folder) as new:
            open(new / "new", "w").close()
    """
    kill(start(code, target))
    assert not target.exists()
    files.remove_leftovers(tmp_path)
    assert names(target) == ["old"]
    assert names(tmp_path) == ["out"]


def test_without_an_exchange_a_folder_is_replaced_too(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "exchange", lambda first, second: False)
    test_a_folder_is_replaced_as_a_whole(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such call")
def test_folders_are_exchanged_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name / name).mkdir(parents=True)
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange folders")
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "b") == ["a"]


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path):
    process = start(f"with locked(folder): {WAIT}", tmp_path / "out")
    with pytest.raises(LockedError, match=rf"out is being written by process {process.pid} .* since 20\d\d-"):
        locked(tmp_path / "out").__enter__()
    kill(process)
    with locked(tmp_path / "out"), locked(tmp_path / "out"):  # again by the same thread
        assert names(tmp_path / "out") == [".lock"]
    assert names(tmp_path / "out") == []


def test_a_second_writer_can_wait(tmp_path):
    process = start(
        "with locked(folder): print('ready', flush=True); time.sleep(1); open(folder + '/done', 'w')", tmp_path
    )
    with locked(tmp_path, wait=True):
        assert (tmp_path / "done").exists()
    process.communicate()


def test_a_folder_made_for_a_lock_goes_with_it(tmp_path):
    with locked(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


def test_a_replaced_folder_stays_locked_to_the_end(tmp_path):
    code = f"""
        with locked(folder):
            with replaced_folder(folder) as new:
                open(new / "new", "w").close()
            {WAIT}
    """
    process = start(code, tmp_path / "out")
    with pytest.raises(LockedError):
        locked(tmp_path / "out").__enter__()
    kill(process)


def test_a_forked_worker_does_not_keep_the_lock_of_a_killed_parent(tmp_path):
    code = f"""
        with locked(folder):
            if os.fork() == 0:
                time.sleep(5)
                os._exit(0)
            {WAIT}
    """
    kill_at = start(code, tmp_path / "out")
    os.kill(kill_at.pid, signal.SIGKILL)
    kill_at.wait()
    with locked(tmp_path / "out"):
        pass


def test_leftovers_go_and_what_is_in_use_stays(tmp_path):
    living = start(f"with scratch_folder(folder + '/living'): {WAIT}", tmp_path)
    kill(start(f"with scratch_folder(folder + '/dead') as new: open(new / 'half', 'w'); {WAIT}", tmp_path))
    assert len(names(tmp_path)) == 2
    with locked(tmp_path / "another"):
        (left,) = [name for name in names(tmp_path) if name.startswith(".")]
        assert left.startswith(".living.")
    kill(living)


def test_a_file_written_by_a_killed_process_leaves_nothing(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    kill(
        start(f"def write(new):\n    open(new, 'w')\n    {WAIT}\nwrite_atomically(folder + '/a.txt', write)", tmp_path)
    )
    assert (tmp_path / "a.txt").read_text() == "old"
    files._tidied.clear()  # as in a new process
    write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == ["a.txt"]


ERRORS = {
    "full": (OSError(errno.ENOSPC, "x"), "no space is left"),
    "quota": (OSError(errno.EDQUOT, "x"), "the disk quota is used up"),
    "read-only": (OSError(errno.EROFS, "x"), "the file system is read-only"),
    "forbidden": (PermissionError(errno.EACCES, "x"), "permission denied"),
    "torch": (RuntimeError("[enforce fail at inline_container.cc:863] . unexpected pos 64 vs 0"), "no space is left"),
    "arrow": (
        OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
        "no space",
    ),
    "numpy": (OSError("4096 requested and 512 written"), "no space is left"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_of_writing_are_one_line(tmp_path, name):
    error, meaning = ERRORS[name]
    with pytest.raises(WriteError) as told, locked(tmp_path / "out", left="The shards so far are kept."):
        raise error
    message = str(told.value)
    assert message.startswith(f"Cannot write {tmp_path / 'out'}: {meaning}")
    assert message.endswith("The shards so far are kept.")
    assert "\n" not in message


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"), locked(tmp_path):
        raise RuntimeError("CUDA out of memory")
    with pytest.raises(FileNotFoundError), locked(tmp_path):
        (tmp_path / "missing").read_text()


def test_a_file_that_cannot_be_read_is_not_called_unwritable(tmp_path):
    with (
        pytest.raises(WriteError, match=r"Cannot use /elsewhere/input\.wav: permission denied"),
        locked(tmp_path / "out"),
    ):
        raise PermissionError(errno.EACCES, "x", "/elsewhere/input.wav")


def test_a_place_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file: it is a file, not a folder"), replaced_folder(tmp_path / "file"):
        pass
    with pytest.raises(WriteError, match="a part of the path is a file"), locked(tmp_path / "file" / "out"):
        pass
    with pytest.raises(WriteError, match="it is a folder, not a file"):
        write_text(tmp_path, "x")


def test_a_copy_onto_a_full_disk_names_the_target(tmp_path):
    error = OSError(
        errno.ENOSPC, "No space left on device", "/elsewhere/source.json", None, str(tmp_path / "copy.json")
    )
    message = str(files.as_write_error(error, tmp_path, "no space is left on the disk"))
    assert message == f"Cannot write {tmp_path}/copy.json: no space is left on the disk"
