"""Jobs on threads of one core each."""

import threading

import pytest
import torch

from landform.scan.engine.spread import spread


@pytest.fixture(params=[1, 3])
def cores(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_jobs(cores):
    assert list(spread(lambda n: n * n, range(50))) == [n * n for n in range(50)]


def test_each_job_computes_on_one_core_and_the_callers_number_is_left(cores):
    seen = list(spread(lambda _: (torch.get_num_threads(), threading.get_ident()), range(20)))
    assert {count for count, _ in seen} == {1}
    assert (threading.get_ident() in {who for _, who in seen}) == (cores == 1)
    assert torch.get_num_threads() == cores


def test_an_error_of_a_job_is_the_callers_and_the_number_of_threads_is_left(cores):
    def fail(n):
        if n == 3:
            raise ValueError("job 3")
        return n

    found = []
    with pytest.raises(ValueError, match="job 3"):
        found.extend(spread(fail, range(100)))
    assert torch.get_num_threads() == cores


def test_who_stops_reading_ends_the_jobs(cores):
    done = []
    jobs = spread(done.append, range(10_000))
    next(jobs)
    jobs.close()
    count = len(done)
    assert count < 10_000
    assert torch.get_num_threads() == cores
    assert len(done) == count
