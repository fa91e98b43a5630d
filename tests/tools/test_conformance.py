"""transformers' own common tests pass on the models, the configuration and the processor."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_common_tests_of_transformers(repository: Path, tmp_path: Path):
    command = [sys.executable, str(repository / "tools" / "conformance.py"), "--folder", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    if run.returncode == 3:
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    passed, failed = re.search(r"(\d+) passed, (\d+) failed, \d+ skipped, in", run.stdout).groups()
    assert int(passed) > 500
    assert failed == "0"


def test_without_the_source_distribution_it_says_so(repository: Path, tmp_path: Path):
    """An index that cannot be reached is neither a success nor a failure of the tests."""
    command = [sys.executable, str(repository / "tools" / "conformance.py"), "--folder", str(tmp_path)]
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": "/dev/null"}
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=600)
    assert run.returncode == 3, run.stderr[-1000:]
    assert "Nothing was tested: pip cannot fetch transformers==" in run.stderr
