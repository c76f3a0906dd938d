"""Jobs on threads of one core each."""

import multiprocessing
import os
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


def _heads(seed):
    """A perceptron with two heads, the second of which is affine in h at once: its output lies in a buffer."""
    torch.manual_seed(seed)

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Linear(64, 24)
            self.rest = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(24, 24), torch.nn.ReLU())
            self.first = torch.nn.Linear(24, 10)
            self.second = torch.nn.Linear(64, 10)

        def forward(self, x):
            return self.first(self.rest(self.body(x))), self.second(x)

    x, y = torch.rand(700, 64), torch.randint(10, (700,))
    return lf.Task(Two(), data=(x, y))


def test_outputs_in_buffers_are_read_before_another_point_overwrites_them():
    task = _heads(0)
    plane = lf.random_plane(task, seed=1)
    h = torch.rand(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 0.5
    wanted = build_engine(task, plane, engine="functional").sums(h).num
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        engine = build_engine(task, plane, engine="affine", batch_size=100)
        for _ in range(5):
            torch.testing.assert_close(engine.sums(h).num, wanted, rtol=1e-5, atol=0)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("points", [1, 2, 3, 5, 9])
def test_any_number_of_points_is_shared_out_where_each_is_read_alone(points, cores):
    task = _heads(0)
    plane = lf.random_plane(task, seed=1)
    h = torch.rand(points, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 0.5
    found = build_engine(task, plane, engine="affine").sums(h).num
    wanted = build_engine(task, plane, engine="functional").sums(h).num
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


def test_jobs_of_many_blocks_give_the_same_bits_on_any_number_of_cores():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 300), torch.nn.ReLU(), torch.nn.Linear(300, 200), torch.nn.Tanh())
    task = lf.Task(torch.nn.Sequential(model, torch.nn.Linear(200, 10)), data="digits")
    plane = lf.random_plane(task, seed=1)
    h = torch.rand(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 0.5
    before = torch.get_num_threads()
    found = []
    try:
        for cores in (2, 3, 5):
            torch.set_num_threads(cores)
            engine = build_engine(task, plane, engine="affine", batch_size=128)
            engine.sums(h[:1])  # blocks are prepared with all cores
            torch.set_num_threads(2)
            first = engine.sums(h).num
            torch.set_num_threads(cores)
            assert torch.equal(first, engine.sums(h).num)
            found.append(first)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=0)


def test_threads_stay_from_call_to_call():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        names = [set(spread(lambda _: threading.get_ident(), range(50))) for _ in range(3)]
        assert len(set().union(*names)) <= 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_that_was_forked_makes_threads_of_its_own(cores):
    list(spread(abs, range(5)))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_sum_of_squares, (10,)).get(timeout=60) == 285
        pool.close()
        pool.join()


def _sum_of_squares(count):
    return sum(spread(lambda n: n * n, range(count)))
