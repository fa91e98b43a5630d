"""Freed memory stays with the process."""

import platform
import resource
import subprocess
import sys

import pytest

KEEP_AND_COUNT_PAGE_FAULTS = """
import resource
import torch
from bibier_hf.memory import keep_freed_memory
assert keep_freed_memory()
blocks = lambda: [torch.zeros(48 * 2**20, dtype=torch.uint8) for _ in range(6)]
for _ in range(3):
    blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc, which alone can be told so")
def test_blocks_of_the_next_batch_are_those_of_the_last():
    command = [sys.executable, "-c", KEEP_AND_COUNT_PAGE_FAULTS]
    faults = int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
    pages = 20 * 6 * 48 * 2**20 // resource.getpagesize()  # that new memory for every block would touch
    assert faults < pages / 10
