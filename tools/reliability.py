"""Break the source on purpose and check that the tests notice.

    python tools/reliability.py                      # every mutant
    python tools/reliability.py --only hop pickle    # some of them
    python tools/reliability.py --list
    python tools/reliability.py --faults             # instead: the faults in tests/faults (takes long)
    python tools/reliability.py --faults -k preview  # some of them (pytest options)
    python tools/reliability.py --inputs             # instead: every bad input to every command
    python tools/reliability.py --load bibier-tiny   # instead: a server under load (options of benchmarks/load_test.py)

Each mutant (`tools/mutants.py`) changes one place in a copy of `src/`. Its test must then fail; without the change,
the same test must pass. Outcomes are stored in `outputs/reliability.json`, and the table in docs/reliability.md is
written from them. So is that of the faults, with one row for each kind of fault; a failed test is a case that did not
hold.
"""

import argparse
import ast
import compileall
import json
import multiprocessing
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mutants import MUTANTS, Mutant

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reliability.md"
OUTCOMES = REPOSITORY / "outputs" / "reliability.json"
FAULT_OUTCOMES = REPOSITORY / "outputs" / "faults.json"
INPUT_OUTCOMES = REPOSITORY / "outputs" / "bad_inputs.json"

TIMEOUT_S = 1800

FAULTS = {
    "test_a_second_writer_is_told_who_writes": ("another process holds the output", "refused in one line"),
    "test_of_two_at_once_one_is_refused_and_the_other_is_whole": ("the same command twice", "one complete result"),
    "test_a_second_extraction_waits_and_finds_the_rows": ("two extractions into one store", "the second waits"),
    "test_a_signal_ends_a_command_cleanly": (
        "SIGTERM, SIGINT, SIGHUP",
        "the exit code of the signal, no scratch files",
    ),
    "test_a_killed_command_is_completed_by_the_next_run": ("kill -9, then the same command", "an equal result"),
    "test_a_kill_leaves_the_earlier_result_whole": ("kill -9 while a result is replaced", "the earlier result"),
    "test_a_full_disk_is_one_line": ("full disk", "one line, no partial result"),
    "test_an_output_that_cannot_be_written_is_one_line": ("an output that cannot be written", "one line"),
    "test_a_deleted_working_folder_is_one_line": ("deleted working folder", "one line"),
    "test_a_deleted_working_folder_is_one_line_before_anything_is_imported": (
        "deleted working folder, in a new process",
        "one line",
    ),
    "test_a_read_only_home_is_no_fault_or_one_line": ("read-only home", "a result, or one line"),
}
"""Test in tests/faults -> the fault, and what it leaves if the test passes."""

KILLED, SURVIVED, NO_RESULT = "killed", "survived", "no result"
NOT_APPLIED, NOT_RUN = "does not apply", "not run"
HELD, FAILED, SKIPPED = "held", "failed", "skipped"
UNSOUND, UNCHECKED = "its test fails without it", "its test fails"


def problems(mutant: Mutant, repository: Path = REPOSITORY) -> list[str]:
    """Return why a mutant no longer fits the source and the tests, or an empty list if it does."""
    found = []
    path = repository / "src" / "bibier_hf" / mutant.file
    times = path.read_text(encoding="utf-8").count(mutant.old) if path.is_file() else 0
    if times != 1:
        found.append(f"{mutant.name}: {mutant.file} has its text {times} times.")

    file, _, function = mutant.test.partition("::")
    path = repository / "tests" / file
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    if function not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
        found.append(f"{mutant.name}: there is no test {mutant.test}.")
    return found


class Recorder:
    """A pytest plugin that records the outcomes of the tests."""

    def __init__(self):
        self.passed = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.passed and report.when == "call":
            self.passed += 1


def run_test(source: Path, test: str, result: Path) -> None:
    """Run a test against a copy of the source and write its outcome. Called in a separate process."""
    import pytest

    os.chdir(REPOSITORY)
    sys.path.insert(0, str(source))
    os.environ["PYTHONPATH"] = str(source)
    with open(result.with_suffix(".log"), "wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)

    recorder = Recorder()
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(REPOSITORY), f"tests/{test}"]
    code = int(pytest.main(arguments, plugins=[recorder]))
    of_the_copy = Path(sys.modules["bibier_hf"].__file__ or "").is_relative_to(source)
    ended = {"code": code, "passed": recorder.passed, "failed": recorder.failed, "of_the_copy": of_the_copy}
    result.write_text(json.dumps(ended))


class Copy:
    """A copy of the source that mutants are applied to, one at a time.

    Args:
        folder: empty.
    """

    def __init__(self, folder: Path):
        self.source = folder / "src"
        self.folder = folder
        shutil.copytree(REPOSITORY / "src", self.source, ignore=shutil.ignore_patterns("__pycache__"))
        # By hash, because a timestamp does not show that a file was changed twice within a second.
        hashed = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(self.source, quiet=2, invalidation_mode=hashed)
        # Children are forked from this process, which has imported the slow libraries that are not under test.
        _import_libraries()
        self.processes = multiprocessing.get_context("fork")

    def run(self, test: str) -> dict | None:
        """Return the outcome of a test, or None if it times out, crashes, or does not run the copy."""
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        process = self.processes.Process(target=run_test, args=(self.source, test, result))
        process.start()
        process.join(TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()
            return None
        ended = json.loads(result.read_text()) if result.is_file() else None
        return ended if ended is not None and ended["of_the_copy"] else None

    def outcome(self, mutant: Mutant) -> tuple[str, str]:
        """Apply a mutant, run its test, and undo the change. Returns the outcome and the test that failed."""
        path = self.source / "bibier_hf" / mutant.file
        original = path.read_text(encoding="utf-8")
        if original.count(mutant.old) != 1:
            return NOT_APPLIED, ""

        path.write_text(original.replace(mutant.old, mutant.new), encoding="utf-8")
        try:
            ended = self.run(mutant.test)
        finally:
            path.write_text(original, encoding="utf-8")
        if ended is None:
            return NO_RESULT, ""
        return (KILLED, ended["failed"][0]) if ended["failed"] else (SURVIVED, "")


def _import_libraries() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch  # noqa: F401
    import transformers

    transformers.Trainer  # noqa: B018 - imported on access


def try_mutants(
    mutants: Sequence[Mutant], outcomes: dict[str, dict[str, str]], kept_in: Path | None = None, quick: bool = False
) -> None:
    """Run the test of each mutant with and without it, and record the outcomes by the names of the mutants.

    Args:
        mutants: which ones.
        outcomes: name -> `outcome`, the `commit`, and the test that `failed`.
        kept_in: file to write them to after each mutant.
        quick: skip the run without the mutant.
    """
    commit = current_commit()
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        sound: dict[str, bool] = {}
        for mutant in mutants:
            start = time.monotonic()
            outcome, failed = copy.outcome(mutant)
            if outcome == KILLED and not quick:
                if mutant.test not in sound:
                    ended = copy.run(mutant.test)
                    sound[mutant.test] = ended is not None and ended["code"] == 0 and ended["passed"] > 0
                outcome = KILLED if sound[mutant.test] else UNSOUND

            if quick and outcome == KILLED:
                outcome = UNCHECKED
            outcomes[mutant.name] = {"outcome": outcome, "commit": commit, "failed": failed}
            if kept_in is not None:
                kept_in.parent.mkdir(parents=True, exist_ok=True)
                kept_in.write_text(json.dumps(outcomes, indent=2) + "\n", encoding="utf-8")
            print(f"{mutant.name}: {outcome} ({time.monotonic() - start:.0f} s) {failed}".rstrip(), flush=True)


def table(outcomes: Mapping[str, Mapping[str, str]]) -> str:
    """Return the outcomes of all mutants as Markdown."""
    rows = [(mutant, outcomes.get(mutant.name, {"outcome": NOT_RUN, "commit": ""})) for mutant in MUTANTS]
    counts = Counter(row["outcome"] for _, row in rows)
    lines = [
        f"{len(rows)} mutants: " + ", ".join(f"{outcome} {count}" for outcome, count in counts.most_common()) + ".",
        "",
        "| what was broken | where | the test that must fail | outcome | commit |",
        "|---|---|---|---|---|",
    ]
    for mutant, row in rows:
        file, _, function = mutant.test.partition("::")
        test = f"`{function}` (`{file}`)"
        lines.append(f"| {mutant.what} | `{mutant.file}` | {test} | {row['outcome']} | {row['commit']} |")
    return "\n".join(lines)


def run_cases(arguments: Sequence[str], outcomes: dict[str, dict[str, str]], kept_in: Path | None = None) -> int:
    """Run tests, and record the outcome of each case by its name as soon as it ends. Returns the exit code.

    Args:
        arguments: of pytest.
        outcomes: name of a case -> `outcome` and the `commit`.
        kept_in: file to write them to after each case.
    """
    import pytest

    os.chdir(REPOSITORY)
    counter = CaseRecorder(outcomes, kept_in)
    return int(pytest.main(["-q", *arguments], plugins=[counter]))


class CaseRecorder:
    """A pytest plugin that stores the outcome of each case; see [`run_cases`]."""

    def __init__(self, outcomes: dict[str, dict[str, str]], kept_in: Path | None = None):
        self.outcomes = outcomes
        self.kept_in = kept_in
        self.commit = current_commit()

    def pytest_runtest_logreport(self, report) -> None:
        if report.when != "call" and report.passed:
            return

        name = report.nodeid.partition("::")[2]
        outcome = FAILED if report.failed else SKIPPED if report.skipped else HELD
        self.outcomes[name] = {"outcome": outcome, "commit": self.commit}
        if self.kept_in is not None:
            self.kept_in.parent.mkdir(parents=True, exist_ok=True)
            self.kept_in.write_text(json.dumps(self.outcomes, indent=2) + "\n", encoding="utf-8")


def faults_table(outcomes: Mapping[str, Mapping[str, str]]) -> str:
    """Return the outcomes of all cases of tests/faults as Markdown, with a row for each kind."""
    counts: dict[str, Counter] = {name: Counter() for name in FAULTS}
    for name, case in outcomes.items():
        counts[name.partition("[")[0]][case["outcome"]] += 1

    commits = sorted({case["commit"] for case in outcomes.values()})
    lines = [
        f"{len(outcomes)} cases, commit {', '.join(commits)}:",
        "",
        "| fault | what it must leave | cases | held | failed | skipped |",
        "|---|---|---|---|---|---|",
    ]
    for name, (fault, left) in FAULTS.items():
        found = counts[name]
        numbers = [found.total(), found[HELD], found[FAILED], found[SKIPPED]]
        lines.append(f"| {fault} | {left} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def inputs_table(outcomes: Mapping[str, Mapping[str, str]]) -> str:
    """Return the outcomes of tests/test_bad_inputs.py as Markdown, with a row for each kind of input."""
    counts: dict[str, Counter] = {}
    entrances: dict[str, list[str]] = {}
    names: dict[str, set[str]] = {}
    for name, case in outcomes.items():
        kind, entrance, rest = name.partition("[")[2].removesuffix("]").split("|", 2)
        counts.setdefault(kind, Counter())[case["outcome"]] += 1
        names.setdefault(kind, set()).add(rest)
        if entrance not in entrances.setdefault(kind, []):
            entrances[kind].append(entrance)

    commits = sorted({case["commit"] for case in outcomes.values()})
    lines = [
        f"{sum(map(len, names.values()))} inputs, {len(outcomes)} cases, commit {', '.join(commits)}:",
        "",
        "| input | inputs | given to | cases | held | failed |",
        "|---|---|---|---|---|---|",
    ]
    for kind, found in counts.items():
        numbers = [found.total(), found[HELD], found[FAILED]]
        given_to = ", ".join(entrances[kind])
        lines.append(f"| {kind} | {len(names[kind])} | {given_to} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def run_load(arguments: Sequence[str], figures: Path) -> int:
    """Run benchmarks/load_test.py with these arguments and write its figures. Returns the exit code."""
    command = [sys.executable, "benchmarks/load_test.py", *arguments, "--json", str(figures)]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


def load_table(figures: Mapping[str, float]) -> str:
    """Return the figures of benchmarks/load_test.py as Markdown."""
    first, last = figures["server's memory, first tenth (MB)"], figures["server's memory, last tenth (MB)"]
    return "\n".join(
        [
            f"Commit {current_commit()}:",
            "",
            "| clients | requests | failed | cut off at the end | p50, p95 | memory, second and last tenth | change |",
            "|---|---|---|---|---|---|---|",
            f"| {figures['clients']} | {figures['requests']} | {figures['failed requests']} | "
            f"{figures['cut off at the end']} | {figures['server, p50 (s)']:.3g} s, {figures['server, p95 (s)']:.3g} s | "
            f"{first:.0f} MB, {last:.0f} MB | {100 * (last / first - 1):+.1f} % |",
        ]
    )


def current_commit() -> str:
    """Return the short hash of the commit, or an empty string outside a repository."""
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def write_section(page: Path, name: str, content: str) -> None:
    """Replace the text between the markers of a section on a page.

    Raises:
        ValueError: the page has no such markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} lacks the markers {begin} and {end}.")
    page.write_text(f"{before}{begin}\n\n{content}\n\n{end}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0 if every mutant was killed, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=[mutant.name for mutant in MUTANTS], help="run only these mutants"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and their tests without running any")
    parser.add_argument("--quick", action="store_true", help="do not run the tests without the mutants")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    parser.add_argument(
        "--faults", nargs=argparse.REMAINDER, help="run the faults instead (followed by pytest options)"
    )
    parser.add_argument(
        "--inputs", nargs=argparse.REMAINDER, help="run the bad inputs instead (followed by pytest options)"
    )
    parser.add_argument(
        "--load",
        nargs=argparse.REMAINDER,
        help="put a server under load instead (followed by options of load_test.py)",
    )
    options = parser.parse_args(arguments)

    if options.list:
        for mutant in MUTANTS:
            print(f"{mutant.name}: {mutant.what} ({mutant.file}; {mutant.test})")
        return 0

    if options.load is not None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "load.json"
            code = run_load(options.load, file)
            if not options.dry and file.is_file():
                write_section(PAGE, "load", load_table(json.loads(file.read_text(encoding="utf-8"))))
        return int(code != 0)
    for given, tests, kept_in, section, write in (
        (options.faults, ["-m", "slow", "tests/faults"], FAULT_OUTCOMES, "faults", faults_table),
        (options.inputs, ["tests/test_bad_inputs.py"], INPUT_OUTCOMES, "inputs", inputs_table),
    ):
        if given is not None:
            cases = json.loads(kept_in.read_text(encoding="utf-8")) if kept_in.is_file() else {}
            code = run_cases([*tests, *given], cases, None if options.dry else kept_in)
            if not options.dry:
                write_section(PAGE, section, write(cases))
            return int(code != 0)

    chosen = [mutant for mutant in MUTANTS if options.only is None or mutant.name in options.only]
    outcomes = json.loads(OUTCOMES.read_text(encoding="utf-8")) if OUTCOMES.is_file() else {}
    try_mutants(chosen, outcomes, None if options.dry else OUTCOMES, options.quick)
    if not options.dry:
        write_section(PAGE, "mutants", table(outcomes))
    return int(any(outcomes[mutant.name]["outcome"] not in (KILLED, UNCHECKED) for mutant in chosen))


if __name__ == "__main__":
    sys.exit(main())
