"""The way of going through jobs, by a clock that is told how long each takes."""

import threading

import pytest
import torch

from landform.scan.engine.quicker import AGAIN, Quicker
from landform.scan.plan import build_engine
from landform.testing.zoo import build, points, space


@pytest.fixture
def two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Machine:
    """Jobs, and a clock that goes on by so much for a shared one, and by so much for two side by side."""

    def __init__(self, shared, alone):
        self.now, self.costs, self.here = 0.0, (shared, alone / 2), threading.get_ident()
        self.where = []
        self.lock = threading.Lock()

    def work(self, job):
        with self.lock:
            aside = threading.get_ident() != self.here
            self.now += self.costs[aside]
            self.where.append(aside)
        return job * job


@pytest.mark.parametrize(("shared", "alone", "aside"), [(10.0, 1.0, True), (1.0, 1.9, False), (1.0, 1.5, False)])
def test_the_way_that_takes_clearly_less_time_is_gone(two_cores, shared, alone, aside):
    machine = Machine(shared, alone)
    go = Quicker(lambda: machine.now)
    assert list(go(machine.work, range(20))) == [n * n for n in range(20)]
    assert machine.where == [False, False, True, True] + [aside] * 16
    assert list(go(machine.work, range(3))) == [0, 1, 4]  # too few to try again: as before
    assert machine.where[20:] == [aside] * 3


def test_it_is_tried_again_as_the_machine_changes(two_cores):
    machine = Machine(10.0, 1.0)
    go = Quicker(lambda: machine.now)
    list(go(machine.work, range(2 * AGAIN + 4)))
    machine.costs, machine.where = (1.0, 5.0), []
    list(go(machine.work, range(10)))
    assert machine.where == [False, False, True, True] + [False] * 6


def test_convolutions_have_the_same_bits_either_way(two_cores):
    task = build("cnn")
    plane, h = space(task), points(2, 40)
    found = []
    for ratio in (0.1, 10.0):
        engine = build_engine(task, plane, engine="affine", batch_size=8)
        ticks = iter([0.0, 1.0, 1.0, 1.0 + ratio] * 100)
        engine._quicker = Quicker(lambda ticks=ticks: next(ticks))
        found.append(engine.sums(h).num)
        assert engine._quicker._alone == (ratio < 1)
    assert torch.equal(*found)
