"""The store: what is kept, found again, refused; on a folder, in memory, and on a real S3-compatible server."""

import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from landform.errors import StoreError
from landform.scan.executor import HerePool
from landform.scan.run import run
from landform.scan.sampler import Request
from landform.scan.store import ScanStore

IDENTITY = {"model_hash": "a" * 64, "data_hash": "b" * 64, "grid": [5, 5], "versions": "torch 2"}


@pytest.fixture(scope="module")
def s3():
    """A server that speaks S3, on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    import boto3

    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    url = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(Bucket="scans")
    yield {"endpoint_url": url, "key": "any", "secret": "any"}
    server.stop()


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def place(request, tmp_path):
    """A path and the options that go with it."""
    name = uuid.uuid4().hex
    if request.param == "s3":
        return f"s3://scans/{name}", request.getfixturevalue("s3")
    return {"folder": str(tmp_path / "deep" / name), "file": f"file://{tmp_path}/{name}", "memory": f"memory://{name}"}[
        request.param
    ], None


def measure(store, rounds, recipe, h, size=10, tile=2, per_sample=False, **options):
    return run(
        rounds(h, 7, size, per_sample),
        HerePool(recipe(**options)),
        2,
        tile=lambda *_: tile,
        store=store,
    )


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_second_run_finds_every_bit(recipe, rounds, square, truth, same, place, per_sample):
    path, options = place
    first = measure(ScanStore(path, IDENTITY, storage_options=options), rounds, recipe, square, per_sample=per_sample)
    again = measure(
        ScanStore(path, IDENTITY, storage_options=options), rounds, recipe, square, per_sample=per_sample, log="/none/x"
    )
    same(again.estimate.value, first.estimate.value)
    np.testing.assert_allclose(first.estimate.value, truth, rtol=1e-14)
    assert np.isnan(truth).any()  # NaN is kept as a value
    assert (first.computed, first.reused, again.computed, again.reused) == (175, 0, 0, 175)


def test_an_interrupted_run_goes_on(recipe, rounds, square, same, place):
    path, options = place
    whole = measure(None, rounds, recipe, square)
    with pytest.raises(ArithmeticError):
        measure(ScanStore(path, IDENTITY, storage_options=options), rounds, recipe, square, fail_at=(0.5, 0.75))
    rest = measure(ScanStore(path, IDENTITY, storage_options=options), rounds, recipe, square, tile=5)
    same(rest.estimate.value, whole.estimate.value)
    # point 13 is in the second round, whose tiles of 2 hold 10 and 11, 12 and 13: two tiles of the round are there
    assert rest.reused == (10 + 2) * 7
    assert rest.computed == (25 - 12) * 7


def test_it_is_zarr_that_anyone_can_read(recipe, rounds, square, truth, tmp_path):
    measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square, size=None)
    group = zarr.open_group(tmp_path / "s", mode="r")
    assert group.metadata.zarr_format == 3
    assert group.attrs["landform-scan"] == {"format": 1, "identity": IDENTITY}
    one = group["round-00000"]
    np.testing.assert_allclose(one["num"][:] / one["den"][:], truth, rtol=1e-14)
    assert (one["done"][:] >> 32 == 1).all()
    assert one["num"].chunks == (2, 2)


@pytest.mark.parametrize("other", [{"model_hash": "c" * 64}, {"data_hash": "c" * 64, "grid": [5, 6]}, {"new": 1}])
def test_a_store_of_another_scan_is_refused_and_left_alone(recipe, rounds, square, place, other):
    path, options = place
    measure(ScanStore(path, IDENTITY, storage_options=options), rounds, recipe, square)
    with pytest.raises(StoreError, match="belongs to another scan; what differs: ") as caught:
        ScanStore(path, IDENTITY | other, storage_options=options)
    for name, value in other.items():
        assert f"{name}: " in str(caught.value)
        assert str(value)[:16] in str(caught.value)
    again = measure(ScanStore(path, IDENTITY, storage_options=options), rounds, recipe, square)
    assert again.computed == 0


def test_other_versions_are_a_warning(recipe, rounds, square, tmp_path):
    measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)
    with pytest.warns(UserWarning, match="begun with other versions .versions: torch 2 in the store, torch 3 now"):
        store = ScanStore(tmp_path / "s", IDENTITY | {"versions": "torch 3"})
    assert measure(store, rounds, recipe, square).computed == 0


def test_a_round_of_other_points_is_refused(tmp_path):
    store = ScanStore(tmp_path / "s", IDENTITY)
    h = torch.zeros(4, 2, dtype=torch.float64)
    store.round(0, Request(h, 0, 7, per_sample=False), 2, 2)
    for other in (
        Request(h + 1, 0, 7, per_sample=False),
        Request(h, 0, 5, per_sample=False),
        Request(h, 0, 7, per_sample=True),
    ):
        with pytest.raises(StoreError, match=r"round-00000.* answers another question"):
            ScanStore(tmp_path / "s", IDENTITY).round(0, other, 2, 2)


def test_points_in_another_order_are_named_and_what_to_do(tmp_path):
    h = torch.arange(8, dtype=torch.float64).reshape(4, 2)
    ScanStore(tmp_path / "s", IDENTITY).round(0, Request(h, 0, 7, per_sample=False), 2, 2)
    wanted = (
        r"question \(digest: \w+, now \w+\): the same number of points, at other places or in another order; another"
        r" version of landform began it, or .*\. Go on with that one, or choose another path to measure anew"
    )
    with pytest.raises(StoreError, match=wanted):
        ScanStore(tmp_path / "s", IDENTITY).round(0, Request(h.flip(0), 0, 7, per_sample=False), 2, 2)


def chunk(folder, name, number):
    """Return the file of a chunk of the first round."""
    array = folder / "round-00000" / name / "c"
    return array / str(number) if name == "done" else array / str(number) / "0"


@pytest.mark.parametrize("name", ["num", "done"])
@pytest.mark.parametrize("damage", ["cut", "altered", "lost", "empty"])
@pytest.mark.filterwarnings("ignore:tile 3 of round-00000 .* is damaged:UserWarning")
def test_a_damaged_chunk_is_computed_again(recipe, rounds, square, same, tmp_path, name, damage):
    first = measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)
    file = chunk(tmp_path / "s", name, 3)
    content = file.read_bytes()
    if damage == "lost":
        file.unlink()
    else:
        flipped = content[:5] + bytes([content[5] ^ 1]) + content[6:]
        file.write_bytes({"cut": content[:-3], "altered": flipped, "empty": b""}[damage])
    again = measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)
    same(again.estimate.value, first.estimate.value)
    assert again.computed == 2 * 7
    third = measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)  # and is whole again
    same(third.estimate.value, first.estimate.value)
    assert third.computed == 0


def test_damage_is_said(recipe, rounds, square, tmp_path):
    measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)
    chunk(tmp_path / "s", "num", 3).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match=r"tile 3 of round-00000 .* is damaged; it is computed again"):
        measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)


def test_a_mark_without_its_chunk_is_not_believed(recipe, rounds, square, same, tmp_path):
    """A chunk that is not there reads as NaN, which is a value; the mark's checksum tells."""
    first = measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)
    shutil.rmtree(tmp_path / "s" / "round-00001" / "num" / "c")
    with pytest.warns(UserWarning, match=r"tile . of round-00001 .* is damaged"):
        again = measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)
    same(again.estimate.value, first.estimate.value)
    assert again.computed == 70


def test_damaged_metadata_are_said(recipe, rounds, square, tmp_path):
    measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)
    (tmp_path / "s" / "round-00000" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="cannot open round-00000"):
        measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)
    (tmp_path / "s" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"cannot open .*/s: "):
        ScanStore(tmp_path / "s", IDENTITY)


def test_other_things_are_not_overwritten(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="has something else in it; choose a new or empty folder"):
        ScanStore(tmp_path / "full", IDENTITY)
    with pytest.raises(StoreError, match="file"):
        ScanStore(tmp_path / "file", IDENTITY)
    zarr.create_group(tmp_path / "group", attributes={"mine": 1})
    with pytest.raises(StoreError, match="no scan's store"):
        ScanStore(tmp_path / "group", IDENTITY)
    zarr.create_group(tmp_path / "newer", attributes={"landform-scan": {"format": 9, "identity": {}}})
    with pytest.raises(StoreError, match="has format 9, this version of landform reads 1"):
        ScanStore(tmp_path / "newer", IDENTITY)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "x"


def test_where_nothing_can_be_written_is_said(s3):
    with pytest.raises(StoreError, match="cannot open /proc/landform"):
        ScanStore("/proc/landform", IDENTITY)
    with pytest.raises(StoreError, match="cannot open s3://nobody/here"):
        ScanStore("s3://nobody/here", IDENTITY, storage_options=s3)
    with pytest.raises(StoreError, match="nosuch://a/b"):
        ScanStore("nosuch://a/b", IDENTITY)


WRITER = """
    import sys, signal, time
    sys.path.insert(0, {tests!r})
    import conftest, torch
    from landform.scan.executor import HerePool
    from landform.scan.run import run
    from landform.scan.store import ScanStore

    line = torch.linspace(0, 1, 5, dtype=torch.float64)
    h = torch.cartesian_prod(line, line)
    {before}
    store = ScanStore({path!r}, {identity!r})
    pool = HerePool(conftest.Recipe(log={log!r}, wait={wait}))
    done = run(conftest.Rounds(h, 7, 10), pool, 2, tile=lambda *_: 2, store=store)
    print(done.computed, done.reused)
"""


def writer(path, log, wait=0.0, before="pass"):
    """Start a process that scans into a store."""
    code = WRITER.format(
        tests=str(Path(__file__).parent), path=str(path), identity=IDENTITY, log=str(log), wait=wait, before=before
    )
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_process_killed_at_any_moment_goes_on_from_there(recipe, rounds, square, same, tmp_path):
    """kill -9 three times, at tiles that a clock chooses; each tile is computed once, but for those in flight."""
    whole = measure(None, rounds, recipe, square)
    log = tmp_path / "log"
    for tiles in (3, 6, 9):
        process = writer(tmp_path / "s", log, wait=0.05)
        while not (log.exists() and log.read_text().count("points") >= tiles):
            assert process.poll() is None, process.communicate()
            time.sleep(0.003)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    done = measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square, log=str(log))
    same(done.estimate.value, whole.estimate.value)
    assert done.computed > 0
    assert done.reused > 0
    assert 13 <= log.read_text().count("points") <= 13 + 3  # 5 + 5 + 3 tiles, and one in flight at each death


def test_two_writers_at_once_do_no_harm(recipe, rounds, square, same, tmp_path):
    whole = measure(None, rounds, recipe, square)
    processes = [writer(tmp_path / "s", tmp_path / "log", wait=0.02) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        assert sum(map(int, out.split())) == 175
    done = measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)
    same(done.estimate.value, whole.estimate.value)
    assert done.computed == 0


def test_a_full_disk_is_said_and_nothing_is_lost(recipe, rounds, square, same, tmp_path):
    """A limit of the operating system on the size of files stands for the disk."""
    measure_part = measure(None, rounds, recipe, square)
    with pytest.raises(ArithmeticError):
        measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square, fail_at=(0.5, 0.75))
    full = (
        "import resource; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        " resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))"
    )
    process = writer(tmp_path / "s", "/dev/null", before=full)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "StoreError: cannot write round-00001" in err
    assert "File too large" in err
    done = measure(ScanStore(tmp_path / "s", IDENTITY), rounds, recipe, square)
    assert done.reused == 12 * 7
    same(done.estimate.value, measure_part.estimate.value)
