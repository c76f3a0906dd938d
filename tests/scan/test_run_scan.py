"""`scan` with samples, stores, workers and several data sets."""

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import InputError, StoreError
from landform.scan import run as runner
from landform.scan import tasks
from landform.scan.engine.functional import FunctionalEngine
from landform.scan.executor import AbstractPool, HerePool
from landform.scan.plan import build_engine


def perceptron():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


@pytest.fixture(scope="module")
def task():
    return lf.Task(perceptron(), data=lf.load_data("digits").subset(range(200)))


@pytest.fixture(scope="module")
def plane(task):
    return lf.random_plane(task, seed=0)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(runner, "TILE_WORK", 1e6)


def measure(task, plane, **options):
    return lf.scan(task, plane, grid=(5, 4), ranges=[(-1, 1), (0, 1)], **options)


@pytest.fixture(scope="module")
def whole(task, plane):
    return measure(task, plane)


def test_a_stored_scan_is_the_same_and_is_not_computed_again(task, plane, whole, tmp_path, monkeypatch):
    first = measure(task, plane, store=tmp_path / "s")
    np.testing.assert_allclose(first.loss, whole.loss, rtol=1e-6)
    monkeypatch.setattr(tasks, "build_engine", lambda *_, **__: Broken())
    again = measure(task, plane, store=tmp_path / "s")
    np.testing.assert_array_equal(again.loss, first.loss)
    assert again.attrs["stored_evaluations"] == 200 * 20
    assert again.attrs["engine"] == first.attrs["engine"]


class Broken:
    def sums(self, *_):
        raise AssertionError("this was to be found in the store")


def test_a_store_of_something_else_is_refused(task, plane, tmp_path):
    measure(task, plane, store=tmp_path / "s")
    other = perceptron()
    with torch.no_grad():
        other[0].bias[3] += 0.25
    for changed, space, options, word in (
        (task.replace(model=other), plane, {}, "model_hash"),
        (task.replace(data=task.data.subset(range(199))), plane, {}, "data_hash"),
        (task.replace(loss="multi_margin"), plane, {}, "loss"),
        (task, lf.random_plane(task, seed=1), {}, "subspace"),
        (task, plane, {"subset": 50}, "question"),
    ):
        with pytest.raises(StoreError, match=f"belongs to another scan; what differs: .*{word}: "):
            measure(changed, space, store=tmp_path / "s", **options)
    with pytest.raises(StoreError, match="points: "):
        lf.scan(task, plane, grid=(5, 4), ranges=[(-1, 1), (0, 2)], store=tmp_path / "s")


def test_code_that_changed_under_the_same_name_is_noticed(task, plane, tmp_path):
    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    measure(task.replace(loss=loss), plane, store=tmp_path / "s")

    def loss(outputs, targets):
        return 2 * nn.functional.cross_entropy(outputs, targets, reduction="none")

    with pytest.raises(StoreError, match=r"the same weights and data give .* so the model's code, the loss"):
        measure(task.replace(loss=loss), plane, store=tmp_path / "s")


def test_an_error_half_way_loses_nothing(task, plane, tmp_path, monkeypatch):
    sums, calls = FunctionalEngine.sums, []

    def failing(self, h, *args):
        calls.append(len(h))
        if len(calls) == 3:
            raise MemoryError
        return sums(self, h, *args)

    monkeypatch.setattr(FunctionalEngine, "sums", failing)
    with pytest.raises(MemoryError):
        measure(task, plane, store=tmp_path / "s", engine="functional")
    done = measure(task, plane, store=tmp_path / "s", engine="functional")
    assert done.attrs["stored_evaluations"] == 200 * sum(calls[:2])
    monkeypatch.undo()
    np.testing.assert_allclose(done.loss, measure(task, plane, engine="functional").loss, rtol=1e-6)


def test_processes_measure_the_same(task, plane, whole):
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        surface = measure(task, plane, executor=executor)
        some = measure(task, plane, executor=executor, subset=40)
    np.testing.assert_allclose(surface.loss, whole.loss, rtol=1e-6)
    here = measure(task, plane, subset=40)
    np.testing.assert_allclose(some.loss, here.loss, rtol=1e-6)
    np.testing.assert_allclose(some.loss_stderr, here.loss_stderr, rtol=1e-4)


def test_workers_start_a_cluster_and_their_number_changes_no_bit(task, plane, whole, tmp_path):
    """The store of one call is finished by the other, with the processes of a cluster that ends with it."""
    one = measure(task, plane, workers=1)
    two = measure(task, plane, workers=2, store=tmp_path / "s")
    np.testing.assert_array_equal(one.loss, two.loss)
    np.testing.assert_allclose(one.loss, whole.loss, rtol=1e-6)


def test_a_subset_has_intervals(task, plane, whole):
    some = measure(task, plane, subset=100, seed=3)
    assert set(some.samples.values.reshape(-1)) == {100}
    assert (some.loss_stderr > 0).all()
    assert (some.loss_lower < some.loss).all()
    assert (some.loss_lower <= whole.loss).all()  # 99 %, seed 3
    assert (whole.loss <= some.loss_upper).all()
    again = measure(task, plane, subset=100, seed=3)
    np.testing.assert_array_equal(again.loss, some.loss)
    assert (measure(task, plane, subset=100, seed=4).loss != some.loss).any()
    assert some.attrs["sample_evaluations"] == 2000
    assert some.attrs["evaluations"] == 10
    many = measure(task, plane, target="population")
    np.testing.assert_allclose(many.loss, whole.loss, rtol=1e-12)
    assert (many.loss_stderr > 0).all()


@pytest.mark.parametrize("name", ["functional", "affine", "stacked", "inplace"])
def test_an_answer_does_not_depend_on_what_was_computed_before(task, plane, name):
    """Else digits would depend on which worker had which tiles, and on where a scan was interrupted."""
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    h = torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def build():
        return build_engine(task, plane, order=order, engine=name, batch_size=64)

    old = build()
    old.sums(h[3:4])
    old.terms(h[:7], 0, 64)
    old.terms(h[2:], 32, 64)
    for start, stop in ((0, 64), (32, 64), (64, 128), (0, 200)):
        fresh = build().terms(h[5:], start, stop)
        assert torch.equal(old.terms(h[5:], start, stop).num, fresh.num), (start, stop)
        assert torch.equal(old.sums(h[5:], start, stop).num, build().sums(h[5:], start, stop).num), (start, stop)


class Stop(AbstractPool):
    """This process, until so many tiles are computed."""

    left = 0

    def __init__(self, factory):
        self.inner = HerePool(factory)

    def compute(self, items):
        for answer in self.inner.compute(items):
            if Stop.left == 0:
                raise KeyboardInterrupt
            Stop.left -= 1
            yield answer


def test_a_scan_to_a_tolerance_goes_on_where_it_was_interrupted(task, plane, tmp_path, monkeypatch):
    def fine(**options):
        return lf.scan(task, plane, grid=33, tolerance=0.05, seed=2, **options)

    monkeypatch.setattr(tasks, "open_pool", lambda factory, **_: Stop(factory))
    Stop.left = 10**6
    whole = fine()
    assert whole.attrs["sample_evaluations"] < 0.6 * 33**2 * 200
    total = 10**6 - Stop.left
    points, stored = [], []
    for tiles in (total // 2, total // 6, total // 6):
        Stop.left = tiles
        with pytest.warns(UserWarning, match="interrupted: .* of 1089 points are measured"):
            part = fine(store=tmp_path / "s")
        points.append(int((part.samples > 0).sum()))
        stored.append(part.attrs["stored_evaluations"])
        assert part.attrs["complete"] is False
    assert 0 < points[0] <= points[1] <= points[2]
    assert stored[0] == 0 < stored[1] < stored[2]
    monkeypatch.undo()
    monkeypatch.setattr(runner, "TILE_WORK", 1e6)
    done = fine(store=tmp_path / "s")
    for name in ("loss", "loss_stderr", "loss_lower", "loss_upper", "samples", "status"):
        np.testing.assert_array_equal(done[name], whole[name], err_msg=name)
    assert done.attrs["complete"] is True


def test_train_and_test_come_out_of_one_call(task, plane, whole, tmp_path):
    test = lf.load_data("digits", split="test")
    both = measure(task, plane, data={"train": task.data, "test": test}, store=tmp_path / "s")
    assert both.loss.dims == ("split", "h1", "h2")
    assert both.split.values.tolist() == ["train", "test"]
    np.testing.assert_allclose(both.loss.sel(split="train"), whole.loss, rtol=1e-6)
    np.testing.assert_allclose(both.loss.sel(split="test"), measure(task, plane, data=test).loss, rtol=1e-6)
    assert both.attrs["n_samples"] == {"train": 200, "test": test.n}
    assert {folder.name for folder in (tmp_path / "s").iterdir()} == {"train", "test"}


def test_metrics_are_measured_beside_the_loss(task, plane):
    both = measure(task.replace(metrics=("accuracy", "top5")), plane)
    parameters = plane.at(torch.tensor([1.0, 1.0]).double())
    outputs = torch.func.functional_call(task.model, parameters, task.data.inputs)
    right = (outputs.argmax(1) == task.data.targets).double().mean()
    assert float(both.accuracy.sel(h1=1, h2=1)) == pytest.approx(float(right))
    assert (both.top5 >= both.accuracy).all()


def test_an_imprint_is_measured_the_long_way_when_samples_are_asked_for(tmp_path):
    made = lf.imprint("formula:sphere", "digits", certify=False)
    short = lf.scan(made, grid=3)
    for options in ({"engine": "functional"}, {"store": tmp_path / "s"}, {"subset": 300}):
        long = lf.scan(made, grid=3, **options)
        width = 4 * float(long.loss_stderr.max())
        np.testing.assert_allclose(long.loss, short.loss, atol=1e-6 + width)
        np.testing.assert_array_equal(long.target, short.target)
        assert long.attrs["engine"] == options.get("engine", "collapsed")


def test_options_that_do_not_fit_are_refused(task, plane):
    whole = task.replace(loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets))
    with pytest.raises(InputError, match="gives one number a batch"):
        measure(whole, plane, subset=100)
    assert (measure(whole, plane).loss > 0).all()
    with pytest.raises(InputError, match="subset is 201 of 200 samples"):
        measure(task, plane, subset=201)
    with pytest.raises(lf.LandformError, match="unknown engine 'afine': did you mean 'affine'"):
        measure(task, plane, engine="afine")


SCRIPT = """
    import sys, time, warnings
    import torch, landform as lf
    from landform.scan import run

    class Slow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 10)

        def forward(self, x):
            if len(x) > 4:
                print("call", flush=True)
                time.sleep(0.05)
            return self.layer(x)

    if __name__ == "__main__":
        run.TILE_WORK = 1
        task = lf.Task(Slow(), data="digits")
        warnings.simplefilter("error")
        try:
            lf.scan(task, lf.random_plane(task), grid=9, {options})
        except UserWarning as warning:
            print(warning)
"""


@pytest.mark.parametrize("options", ["engine='functional'", "engine='functional', workers=1"])
def test_ctrl_c_gives_what_there_is(tmp_path, options):
    """A real interrupt, to the whole group of processes, as a terminal sends it."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(options=options)))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for _ in range(16):
        assert process.stdout.readline() == "call\n", process.communicate()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "interrupted: " in out, err
    assert " of 81 points are measured" in out
    assert process.returncode == 0
