"""The scripts as a user launches them."""

import os
import subprocess
import sys
from pathlib import Path

from bibier_cli import run
from bibier_hf.data.prepare import read_info


def launch(repository: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(repository / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(repository / "dataset_scripts" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path})


def test_prepare_csv_is_launched(repository, tmp_path, write_csv, table_rows):
    write_csv(tmp_path / "talks.csv", table_rows(tmp_path))
    done = launch(
        repository, "prepare_csv.py", "--source", str(tmp_path / "talks.csv"), "--output_dir", str(tmp_path / "out")
    )
    assert done.returncode == 0, done.stderr
    assert "Written to" in done.stdout
    assert "surprise  rows  hours" in done.stdout
    assert read_info(tmp_path / "out")["rows"] == 42


def test_a_script_that_fails_says_why_and_exits_with_2(repository, tmp_path):
    done = launch(repository, "prepare_resd.py", "--source", str(tmp_path), "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "Allowed layouts" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_every_reader_option_is_an_argument(tiny_resd, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--source", str(tiny_resd), "--output_dir", str(out), "--enthusiasm", "exclude"]
    assert run("prepare", ["resd", *arguments]) == 2
    assert "strict_counts" in capsys.readouterr().err
    assert run("prepare", ["resd", *arguments, "--strict_counts", "false"]) == 0
    assert read_info(out)["options"] == {"enthusiasm": "exclude", "strict_counts": False}
    arguments = [
        "--output_dir",
        str(tmp_path / "quickstart"),
        "--train_per_class",
        "1",
        "--dev_per_class",
        "1",
        "--test_per_class",
        "1",
    ]
    assert run("prepare", ["quickstart", *arguments, "--neutral_share", "0"]) == 0
    assert read_info(tmp_path / "quickstart")["options"]["neutral_share"] == 0.0


def test_help_explains_the_options(capsys):
    assert run("prepare", ["resd", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Convert a corpus to Parquet" in text
    assert "require the published counts per split and label" in text
    assert run("prepare", ["csv", "--help"]) == 0
    assert "--label_map [null]: " in capsys.readouterr().out


def test_an_unknown_argument_is_an_error(capsys):
    assert run("prepare", ["resd", "--source", "x", "--output_dir", "y", "--entusiasm", "keep"]) == 2
    assert "entusiasm: unknown key. Did you mean enthusiasm?" in capsys.readouterr().err


def test_an_interrupted_script_exits_with_130(tiny_resd, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("bibier_hf.data.prepare.decode_audio", interrupted)
    arguments = ["--source", str(tiny_resd), "--output_dir", str(tmp_path / "out"), "--strict_counts", "false"]
    assert run("prepare", ["resd", *arguments]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
