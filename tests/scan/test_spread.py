"""Jobs on threads of one core each."""

import threading

import pytest
import torch

import landform as lf
from landform.scan.engine.spread import spread
from landform.scan.plan import build_engine


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


def test_points_are_the_same_on_any_number_of_cores():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(
            torch.nn.Unflatten(1, (1, 8, 8)),
            torch.nn.Conv2d(1, 4, 3),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
        ),
        torch.nn.Linear(144, 10),
    ).eval()
    task = lf.Task(model, data="digits")
    plane = lf.random_plane(task, seed=1)
    h = torch.rand(23, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 0.5
    before = torch.get_num_threads()
    found = []
    try:
        for cores in (1, 2, 3):
            torch.set_num_threads(cores)
            engine = build_engine(task, plane, engine="affine")
            engine.sums(h[:1], 0, 200)
            found.append((engine.sums(h).num, engine.terms(h, 100, 300).num))
    finally:
        torch.set_num_threads(before)
    for sums, terms in found[1:]:
        torch.testing.assert_close(sums, found[0][0], rtol=1e-6, atol=0)
        torch.testing.assert_close(terms, found[0][1], rtol=1e-4, atol=1e-6)
