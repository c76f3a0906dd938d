"""Memory that a process keeps between operations."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from landform.scan.pages import hold_pages, release_pages

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        values = [torch.empty(1 << 20).fill_(1.0) for _ in range(AT_ONCE)]  # of 4 MB, 1,024 pages
        del values
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
faults()
found = [faults()]
kept = [hold_pages(), hold_pages()]
faults()
found.append(faults())
release_pages()
found.append(faults())  # one still holds
before = resident()
release_pages()
print(*found, before - resident(), all(kept))
"""


def _faults(at_once=1, **variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")} | variables
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("AT_ONCE", str(at_once))],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [float(value) for value in found[:-1]], found[-1] == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their pages in their own way")
def test_values_take_no_fresh_pages_while_they_are_kept():
    (before, one, two, given_back), kept = _faults(MALLOC_TRIM_THRESHOLD_="65536")
    if not kept:
        pytest.skip("the library of C is not glibc")
    assert before > 500
    assert one < 200
    assert two < 200
    assert given_back > 2_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their pages in their own way")
def test_values_of_many_layers_are_kept_where_the_environment_says_nothing():
    (_, one, two, _), kept = _faults(at_once=32)  # 128 MB at once
    if not kept:
        pytest.skip("the library of C is not glibc")
    assert one < 2_000
    assert two < 2_000
