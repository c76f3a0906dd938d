import gc
import subprocess
import sys

import pytest

from landform.loading import loading


def full_collections():
    return gc.get_stats()[2]["collections"]


def test_no_collection_runs_however_much_is_made():
    before = full_collections(), gc.get_stats()[0]["collections"]
    with loading():
        kept = [[k] for k in range(100_000)]
    assert full_collections() == before[0]
    assert gc.get_stats()[0]["collections"] <= before[1] + 1  # none within; one may begin as it is switched on again
    assert len(kept) == 100_000
    assert gc.isenabled()


def test_what_was_made_is_still_collected():
    with loading():
        ring = []
        ring.append(ring)
        del ring
    assert gc.collect() >= 1


def test_it_nests_and_ends_with_an_error():
    with loading():
        with loading():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), loading():
        1 / 0  # noqa: B018
    assert gc.isenabled()


def test_the_callers_collector_stays_as_it_was():
    code = """
import gc
from landform.loading import loading
gc.disable()
with loading():
    pass
assert not gc.isenabled()
gc.enable()
gc.freeze()
held = gc.get_freeze_count()
with loading():
    pass
assert held == gc.get_freeze_count() > 0 and gc.isenabled()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
