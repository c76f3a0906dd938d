"""Executors: real threads, real processes, a real dask cluster; killed workers."""

import concurrent.futures
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster

import landform as lf
from landform.data import spill
from landform.errors import ExecutorError, InputError, MissingExtraError
from landform.scan import cluster as dask_side
from landform.scan.executor import FuturesPool, HerePool, open_pool
from landform.scan.plan import build_engine
from landform.scan.run import run
from landform.scan.worker import Item, Payload, compute, forget, keep, pin_device

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def measure(pool, rounds, h, tile=2, per_sample=False):
    with pool:
        return run(rounds(h, 7, 10, per_sample), pool, 2, tile=lambda *_: tile).estimate.value.numpy()


@pytest.fixture
def here(recipe, rounds, square):
    return measure(HerePool(recipe()), rounds, square)


@pytest.fixture(scope="module")
def processes():
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@pytest.fixture(scope="module")
def cluster():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as started,
        Client(started) as client,
    ):
        yield client


def test_threads_have_an_engine_each(recipe, rounds, square, here, same, tmp_path):
    log = tmp_path / "log"
    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        same(measure(open_pool(recipe(log=str(log), wait=0.01), executor=executor), rounds, square), here)
    assert 2 <= log.read_text().count("built") <= 3


def test_processes_give_the_same_bits_and_get_the_model_once(recipe, rounds, square, here, same, processes, tmp_path):
    log = tmp_path / "log"
    pool = FuturesPool(processes, recipe(log=str(log), wait=0.02))
    same(measure(pool, rounds, square), here)
    built = [line for line in log.read_text().splitlines() if line.startswith("built")]
    assert len(built) == len(set(built)) <= 2
    assert pool.sent <= 2 + 3 * 2  # not with each of the 13 items
    same(measure(FuturesPool(processes, recipe()), rounds, square, per_sample=True), here)


class Fresh(concurrent.futures.Executor):
    """Knows nothing of earlier calls, as batch systems that start a process for each (here: a thread)."""

    _max_workers = 1

    def submit(self, function, *args):
        with concurrent.futures.ThreadPoolExecutor(1) as one:
            future = one.submit(function, *args)
            future.result()
            return future


def test_executors_that_forget_everything_are_noticed(recipe, rounds, square, here, same):
    pool = FuturesPool(Fresh(), recipe())
    same(measure(pool, rounds, square, tile=1), here)
    assert pool._lacking <= 4


class Job:
    """What submitit calls a future: it has done() and result(), and knows nothing of the standard library's."""

    def __init__(self, function, *args):
        self.call, self.asked = (function, args), 0

    def done(self):
        self.asked += 1
        return self.asked > 2

    def result(self):
        function, args = self.call
        return function(*args)

    def cancel(self):
        pass


def test_futures_of_other_kinds_are_asked_in_turn(recipe, rounds, square, here, same):
    class Jobs:
        def submit(self, function, *args):
            return Job(function, *args)

    same(measure(open_pool(recipe(), executor=Jobs()), rounds, square), here)


def test_code_that_a_worker_cannot_import_is_said(rounds, square, cluster, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def factory():\n    raise AssertionError\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with pytest.raises(ExecutorError, match=r"a worker cannot import .*only_here.*client.upload_file"):
        measure(open_pool(only_here.factory, executor=cluster), rounds, square)


def test_a_process_that_dies_is_said(recipe, rounds, square, tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        killer = threading.Thread(target=kill_first, args=(log,))
        killer.start()
        with pytest.raises(ExecutorError, match=r"a worker process died.*with a store= the finished tiles are kept"):
            measure(open_pool(recipe(log=str(log), wait=0.1), executor=executor), rounds, square)
        killer.join()
        with pytest.raises(ExecutorError, match="a worker process died"):
            measure(open_pool(recipe(), executor=executor), rounds, square)


def kill_first(log, after=2):
    """Wait for so many tiles and kill the process that built the first engine."""
    while not (log.exists() and log.read_text().count("points") >= after):
        time.sleep(0.01)
    os.kill(int(log.read_text().split()[1]), signal.SIGKILL)


def test_an_error_of_the_engine_comes_back_from_a_process(recipe, rounds, square, processes, cluster):
    for executor in (processes, cluster):
        with pytest.raises(ArithmeticError, match="no number at"):
            measure(open_pool(recipe(fail_at=(0.25, 0.5)), executor=executor), rounds, square)


def test_an_executor_that_was_shut_down_is_said(recipe, rounds, square):
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(ExecutorError, match="takes no more work"):
        measure(open_pool(recipe(), executor=executor), rounds, square)


def test_a_dask_cluster_gives_the_same_bits_and_gets_the_model_once(
    recipe, rounds, square, here, same, cluster, tmp_path
):
    log = tmp_path / "log"
    same(measure(open_pool(recipe(log=str(log), wait=0.01), dask=cluster.scheduler.address), rounds, square), here)
    built = [line for line in log.read_text().splitlines() if line.startswith("built")]
    assert len(built) == len(set(built)) == 2
    same(measure(open_pool(recipe(), executor=cluster.get_executor()), rounds, square, per_sample=True), here)
    assert cluster.run(lambda: len(sys.modules["landform.scan.worker"]._payloads)) == dict.fromkeys(
        cluster.scheduler_info()["workers"], 0
    )


def test_short_items_travel_together_and_none_is_lost(recipe, rounds, square, same, cluster):
    h = square.repeat(20, 1)
    want = measure(HerePool(recipe()), rounds, h, tile=1)
    sent = []
    pool = open_pool(recipe(), dask=cluster)
    whole = pool._client.map
    pool._client.map = lambda function, *args, **options: sent.extend(args[1]) or whole(function, *args, **options)
    try:
        with pool:
            answers = list(pool.compute([Item(k, h[k : k + 1].numpy(), 0, 7, per_sample=False) for k in range(500)]))
    finally:
        del pool._client.map
    assert sorted(answer.number for answer in answers) == list(range(500))
    assert sum(map(len, sent)) == 500
    assert len(sent) < 100  # the first items alone, to see how long they take, then many in one
    by_number = sorted(answers, key=lambda answer: answer.number)
    same(np.concatenate([answer.num / answer.den for answer in by_number]), want)


def test_a_dask_worker_killed_half_way_loses_nothing(recipe, rounds, square, here, same, cluster, tmp_path):
    log = tmp_path / "log"
    killer = threading.Thread(target=kill_first, args=(log, 3))
    killer.start()
    same(measure(open_pool(recipe(log=str(log), wait=0.1), dask=cluster), rounds, square, tile=1), here)
    killer.join()
    assert log.read_text().count("points") <= 25 + 2  # what it was at, done again
    cluster.wait_for_workers(2)


def test_closing_early_calls_off_the_rest(recipe, square, cluster, processes, tmp_path):
    for name, executor in (("dask", cluster), ("futures", processes)):
        log = tmp_path / name
        with open_pool(recipe(log=str(log), wait=0.2), executor=executor) as pool:
            items = [Item(k, square[k : k + 1].numpy(), 0, 7, per_sample=False) for k in range(20)]
            answers = pool.compute(items)
            next(answers)
            answers.close()
        count, before = log.read_text().count("points"), -1
        while count != before:  # what had begun may end
            time.sleep(1)
            count, before = log.read_text().count("points"), count
        assert count < 20, name


def test_no_scheduler_is_said(recipe, monkeypatch):
    monkeypatch.setattr(dask_side, "CONNECT_SECONDS", 0.5)
    with pytest.raises(ExecutorError, match=r"no dask scheduler answers at tcp://127.0.0.1:1 .*'dask scheduler'"):
        open_pool(recipe(), dask="tcp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers is 0; wanted a number of processes"),
        ({"workers": 2.5}, "workers is 2.5"),
        ({"workers": 2, "dask": "tcp://127.0.0.1:1"}, "workers= and dask= are given"),
        ({"executor": 3}, r"executor is 3; wanted an object with submit"),
    ],
)
def test_bad_options(recipe, options, text):
    with pytest.raises(InputError, match=text):
        open_pool(recipe(), **options)


def test_without_dask_the_install_command_is_said(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "landform.scan.cluster", None)
    with pytest.raises(MissingExtraError, match=r"workers= needs dask.*pip install 'landform\[dask\]'"):
        open_pool(recipe(), workers=1)


def test_a_worker_asks_for_what_it_lacks(recipe, square):
    payload = Payload.of(recipe())
    item = Item(3, square[:2].numpy(), 0, 7, per_sample=True)
    assert compute(payload.key, None, item) is None
    keep(payload)
    found = compute(payload.key, None, item)
    assert (found.number, found.num.shape, found.den.shape) == (3, (2, 2, 7), (2, 7))
    forget(payload.key)
    assert compute(payload.key, None, item) is None
    assert compute(payload.key, payload.data, item) is not None
    forget(payload.key)


def test_workers_share_out_the_devices(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for index, device in ((0, "0"), (3, "1")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        pin_device(index)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == device
    pin_device(0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"  # chosen already


@pytest.mark.skipif(sys.platform != "linux", reason="files without a name are reached through /proc")
def test_data_larger_than_memory_are_named_for_workers_of_this_machine_and_not_copied():
    torch.manual_seed(0)
    x, y = torch.rand(3000, 64), torch.randint(10, (3000,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=500)
    task = lf.Task(torch.nn.Linear(64, 10), data=lf.load_data(loader, max_bytes=100_000))
    plane = lf.random_plane(task, seed=0)
    factory = partial(build_engine, task, plane)
    far, near = Payload.of(factory), Payload.of(factory, same_machine=True)
    assert len(near.data) < 50_000
    assert len(far.data) > x.nbytes
    wanted = lf.scan(task, plane, grid=3)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        assert (lf.scan(task, plane, grid=3, executor=executor).loss == wanted.loss).all()
    before = len(spill._descriptors)
    del task, plane, factory
    gc.collect()
    assert len(spill._descriptors) == before - 2  # of inputs and targets
