"""Memory that workers keep between operations."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from landform.scan.pages import hold_pages, release_pages

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(1 << 20).fill_(1.0)  # 4 MB, 1,024 pages
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20

torch.set_num_threads(1)
faults()
found = [faults()]
kept = [hold_pages(), hold_pages()]
torch.empty(1 << 20).fill_(1.0)
found.append(faults())
release_pages()
found.append(faults())  # one still holds
release_pages()
found.append(faults())
print(*found, all(kept))
"""


def _faults(**variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")} | variables
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    return [float(value) for value in found[:-1]], found[-1] == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their pages in their own way")
def test_values_take_no_fresh_pages_while_they_are_kept():
    (before, one, two, after), kept = _faults(MALLOC_TRIM_THRESHOLD_="65536")
    if not kept:
        pytest.skip("the library of C is not glibc")
    assert before > 500
    assert one < 200
    assert two < 200
    assert after > 500


def test_a_process_that_was_told_nothing_is_left_alone():
    assert not _faults()[1]
