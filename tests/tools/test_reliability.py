"""The mutants fit the source, and the tests notice each of them."""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mutants import MUTANTS
from reliability import (
    FAULTS,
    KILLED,
    PAGE,
    REPOSITORY,
    CaseRecorder,
    faults_table,
    inputs_table,
    load_table,
    problems,
    table,
    write_section,
)


def test_every_mutant_changes_one_place_and_has_a_test():
    assert [problem for mutant in MUTANTS for problem in problems(mutant)] == []
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
    assert all(mutant.old != mutant.new for mutant in MUTANTS)


def test_a_mutant_that_no_longer_fits_is_named():
    (text,) = problems(replace(MUTANTS[0], old="no such text"))
    assert text == f"{MUTANTS[0].name}: {MUTANTS[0].file} has its text 0 times."
    (text,) = problems(replace(MUTANTS[0], test="test_files.py::test_nothing"))
    assert text == f"{MUTANTS[0].name}: there is no test test_files.py::test_nothing."
    assert len(problems(replace(MUTANTS[0], file="nowhere.py", test="nowhere.py::test_nothing"))) == 2


def test_every_mutant_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition("<!-- mutants: begin -->")[2].partition("<!-- mutants: end -->")[0]
    missing = [mutant.name for mutant in MUTANTS if f"| {mutant.what} | `{mutant.file}` |" not in section]
    assert missing == [], "run: python tools/reliability.py"


def test_a_section_is_replaced_and_the_rest_stays(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- mutants: begin -->\nold\n<!-- mutants: end -->\n\nAfter.\n")
    write_section(page, "mutants", table({MUTANTS[0].name: {"outcome": KILLED, "commit": "abc"}}))
    text = page.read_text()
    assert text.startswith(
        f"Before.\n\n<!-- mutants: begin -->\n\n{len(MUTANTS)} mutants: not run {len(MUTANTS) - 1}, killed 1.\n"
    )
    assert text.endswith("<!-- mutants: end -->\n\nAfter.\n")
    assert "\nold\n" not in text
    assert text.count("| not run |") == len(MUTANTS) - 1
    with pytest.raises(ValueError, match="lacks the markers"):
        write_section(page, "faults", "")


def test_every_fault_has_a_row():
    tree = ast.parse((REPOSITORY / "tests" / "faults" / "test_faults.py").read_text(encoding="utf-8"))
    assert list(FAULTS) == [
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def test_faults_are_counted(tmp_path: Path):
    kept = tmp_path / "outputs" / "faults.json"
    recorder = CaseRecorder({"test_a_full_disk_is_one_line[old]": {"outcome": "held", "commit": "abc"}}, kept)
    for name, when, outcome in (
        ("train-0.1", "setup", "passed"),
        ("train-0.1", "call", "passed"),
        ("train-0.4", "call", "failed"),
        ("train-0.8", "setup", "skipped"),
    ):
        case = f"tests/faults/test_faults.py::test_a_full_disk_is_one_line[{name}]"
        ends = {each: each == outcome for each in ("passed", "failed", "skipped")}
        recorder.pytest_runtest_logreport(SimpleNamespace(nodeid=case, when=when, **ends))
    text = faults_table(json.loads(kept.read_text()))
    assert text.startswith("4 cases, commit ")
    assert "| full disk | one line, no partial result | 4 | 2 | 1 | 1 |" in text
    assert text.count("| 0 | 0 | 0 | 0 |") == len(FAULTS) - 1


def test_bad_inputs_are_counted():
    cases = {"text|demo|a": "held", "text|demo|b|c": "failed", "text|server|a": "held", "table|audit|a": "held"}
    outcomes = {f"test_a_bad_input[{name}]": {"outcome": end, "commit": "abc"} for name, end in cases.items()}
    text = inputs_table(outcomes)
    assert text.startswith("3 inputs, 4 cases, commit abc:\n")
    assert "| text | 2 | demo, server | 3 | 2 | 1 |" in text
    assert "| table | 1 | audit | 1 | 1 | 0 |" in text


def test_the_load_is_one_row():
    figures = {"clients": 8, "requests": 500, "failed requests": 0, "cut off at the end": 0}
    figures |= {"server, p50 (s)": 0.12345, "server, p95 (s)": 0.5}
    figures |= {"server's memory, first tenth (MB)": 500.0, "server's memory, last tenth (MB)": 510.0}
    assert load_table(figures).endswith("| 8 | 500 | 0 | 0 | 0.123 s, 0.5 s | 500 MB, 510 MB | +2.0 % |")


@pytest.mark.slow
def test_every_mutant_is_killed():
    run = subprocess.run(
        [sys.executable, "tools/reliability.py", "--dry"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count(": killed (") == len(MUTANTS)
