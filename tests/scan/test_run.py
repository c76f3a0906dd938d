"""The runner: tiles, rounds, interruption, progress."""

import math
import signal

import numpy as np
import pytest
import torch

from landform.scan.executor import AbstractPool, HerePool
from landform.scan.run import TILE_NUMBERS, run, tiling
from landform.scan.sampler import Request


def by(points):
    return lambda request, quantities: points


@pytest.mark.parametrize("tile", [1, 3, 25, 64])
@pytest.mark.parametrize(("size", "per_sample"), [(None, False), (10, False), (4, True)])
def test_tiles_and_rounds_do_not_matter(recipe, rounds, square, truth, same, tile, size, per_sample):
    sampler = rounds(square, 7, size, per_sample)
    done = run(sampler, HerePool(recipe()), 2, tile=by(tile))
    np.testing.assert_allclose(done.estimate.value, truth, rtol=1e-14)
    assert np.isnan(truth).any()
    assert done.complete
    assert done.rounds == math.ceil(25 / (size or 25))
    assert (done.computed, done.reused) == (25 * 7, 0)
    if per_sample:
        assert sampler.told[0].num.shape == (4, 2, 7)


class Stops(AbstractPool):
    """Gives so many answers, then is interrupted as by Ctrl-C; from the last item to the first."""

    def __init__(self, factory, answers):
        self.inner, self.left, self.closed = HerePool(factory), answers, False

    def compute(self, items):
        try:
            for answer in self.inner.compute(reversed(list(items))):
                if not self.left:
                    raise KeyboardInterrupt
                self.left -= 1
                yield answer
        finally:
            self.closed = True


@pytest.mark.parametrize("per_sample", [False, True])
def test_an_interruption_leaves_what_was_measured(recipe, rounds, square, truth, per_sample):
    pool = Stops(recipe(), 3)
    done = run(rounds(square, 7, 10, per_sample), pool, 2, tile=by(4))
    assert not done.complete
    assert pool.closed
    got = done.estimate.samples > 0  # round 1 has tiles of 4, 4 and 2; answers came from its end
    assert got.nonzero().reshape(-1).tolist() == list(range(10))
    pool.left = 2
    done = run(rounds(square, 7, 10, per_sample), pool, 2, tile=by(4))
    got = done.estimate.samples > 0
    assert got.nonzero().reshape(-1).tolist() == list(range(4, 10))
    np.testing.assert_allclose(done.estimate.value[got], truth[got], rtol=1e-14)
    assert bool(done.estimate.value[~got].isnan().all())
    assert bool(done.estimate.stderr[~got].isnan().all())
    assert bool((done.estimate.stderr[got] == 0).all())


def test_ctrl_c_waits_until_a_round_is_told(recipe, rounds, square, truth):
    """Half-done sums of a sampler would be lost, or worse, taken for whole ones."""
    sampler = rounds(square, 7, 10)
    tell, ends = sampler.tell, []

    def interrupted(request, found):
        signal.raise_signal(signal.SIGINT)
        tell(request, found)

    sampler.tell = interrupted
    sampler.tell_part = lambda rows, found: ends.append((len(rows), found))
    before = signal.getsignal(signal.SIGINT)
    done = run(sampler, HerePool(recipe()), 2, tile=by(4))
    assert (done.complete, done.rounds, ends) == (False, 1, [(0, None)])
    np.testing.assert_allclose(done.estimate.value[:10], truth[:10], rtol=1e-14)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interruption_before_anything_is_measured_is_passed_on(recipe, rounds, square):
    with pytest.raises(KeyboardInterrupt):
        run(rounds(square, 7), Stops(recipe(), 0), 2, tile=by(4))


def test_an_error_of_the_engine_is_passed_on(recipe, rounds, square):
    with pytest.raises(ArithmeticError, match="no number at"):
        run(rounds(square, 7), HerePool(recipe(fail_at=(0.25, 0.5))), 2, tile=by(4))


def test_the_bar_tells_points_samples_uncertainty_and_time_left(recipe, rounds, square, capsys, monkeypatch):
    run(rounds(square, 7, 10), HerePool(recipe()), 2, tile=by(4))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    run(rounds(square, 7, 10), HerePool(recipe(wait=0.12)), 2, tile=by(4), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "scan:" in err
    assert "175" in err  # sample evaluations in all
    assert "points, ±25 % of the range" in err
    assert "<00:" in err


def test_tiles_follow_from_work_alone():
    whole = Request(torch.zeros(5000, 2), 0, 1000, per_sample=False)
    assert tiling(1e9)(whole, 1) == 1
    assert tiling(1e9, least=16)(whole, 1) == 16
    assert tiling(1e5)(whole, 1) == 32  # 40 would be 4·10⁹
    assert tiling(0)(whole, 1) == 1 << 12
    some = Request(torch.zeros(5000, 2), 0, 50_000, per_sample=True)
    size = tiling(0)(some, 3)
    assert size * 3 * 50_000 <= TILE_NUMBERS < 2 * size * 3 * 50_000
