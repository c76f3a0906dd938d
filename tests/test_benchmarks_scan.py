"""The benchmarks of measuring run, and a part that is measured again replaces only itself."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.report import machine
from benchmarks.scan import accuracy, beside, collect, memory, peers, scaling
from benchmarks.scan.__main__ import main
from benchmarks.scan.workloads import WORKLOADS, mlp

import landform as lf

TURNS = {"landform": [1.0, 2.0, 4.0], "landscaper": [3.0, 3.0, 3.0], "loop of 2018": [9.0, 9.0, 9.0]}


def found(name="tiny", turns=TURNS):
    return peers.Found(name, WORKLOADS[name], turns, {tool: [5.0] for tool in turns}, [])


def test_the_best_other_tool_has_the_least_median_and_ratios_are_of_turns():
    assert found().best == {"tool": "landscaper", "median": 1.5, "least": 0.75, "most": 3.0}
    assert found(turns={"landform": [1.0]}).best is None
    yardstick = TURNS | {"matrix product": [1.0] * 3, "bare forward": [0.1] * 3}
    assert found(turns=yardstick).best == found().best
    rows = found("mlp", yardstick).table().rows
    assert [row["tool"] for row in rows] == ["landform", "landscaper", "loop of 2018", "bare forward"]
    left = 1e4 * 2 * (15 * 15 * (512 * 512 + 512 * 10) + 3 * 784 * 512)  # three products of layer 1
    share = left / 2 / (20 * 2 * 1024**3)  # in 2 s, where 20 products of 1024 × 1024 take one
    assert rows[0]["share of the peak on what is left"].startswith(f"{share:.3g} (")


def test_patterns_beside_trained_networks_are_scanned_by_their_own_engines(monkeypatch):
    one = beside.networks()["perceptron"]
    monkeypatch.setattr(beside, "networks", lambda: {"perceptron": one})
    rows = beside.run(**beside.CASES["quick"])[0].rows
    assert [(row["form"], row["engine"]) for row in rows] == [("offset", "constants"), ("per-sample", "constants")]
    assert all(row["losses differ by"] < 1e-6 and row["times as fast"] > 0 for row in rows)


def test_a_part_replaces_only_itself_and_the_page_shows_all(tmp_path):
    for name in ("tiny", "mlp", "tiny"):
        part = found(name)
        collect.add(tmp_path, f"peers/{name}", [part.table()], machine(), **{"best other / landform": part.best})
    collect.add(tmp_path, "memory", memory.run(width=16, dense=16), machine())
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert list(parts) == ["peers/mlp", "peers/tiny", "memory"]
    page = (tmp_path / "results.md").read_text()
    assert "| mlp | landscaper | 1.5 (0.75–3) | 2.5 | no |" in page
    assert page.count("load ") >= 3
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "results.md").unlink()
    main(["--draw", "--output", str(tmp_path)])
    assert (tmp_path / "results.md").read_text() == page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.md", "results.png"]


def test_a_workload_is_written_when_it_is_done_and_missing_tools_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PEERS", str(tmp_path / "nowhere"))
    monkeypatch.setattr(peers, "TOOLS", ("loss-landscapes", "loop of 2018", "bare forward"))
    main(["--quick", "--only", "peers", "--workload", "tiny", "--output", str(tmp_path)])
    part = json.loads((tmp_path / "results.json").read_text())["parts"]["peers/tiny"]
    assert [row["tool"] for row in part["tables"][0]["rows"]] == ["loop of 2018", "bare forward"]
    assert "loss-landscapes: not measured" in part["tables"][0]["notes"][1]
    assert len(part["turns"]["loop of 2018"]) == 1


def test_a_tool_that_fails_says_its_last_words(monkeypatch):
    monkeypatch.setattr(peers, "SIDE", Path(__file__).with_name("no such script.py"))
    with pytest.raises(RuntimeError, match="No such file"):
        peers.Side("loop of 2018", "tiny", WORKLOADS["tiny"])


@pytest.mark.filterwarnings("ignore:between the nodes")  # a coarse grid, to be quick
def test_growth_is_fitted_without_touching_random_state():
    state = torch.random.get_rng_state()
    full, tolerance = scaling.run(**scaling.CASES["quick"])
    assert [row["of"] for row in full.rows] == ["points", "samples", "directions"]
    assert len(tolerance.rows) == 3
    assert torch.equal(state, torch.random.get_rng_state())


def test_equal_accuracy_compares_with_rows_computed_in_full_and_goes_on_where_it_stopped(tmp_path):
    data = lf.load_data("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = lf.Task(mlp(64, 16, 10), data=(data.inputs.float(), data.targets))
    plane = lf.random_plane(task, seed=0)
    engine = accuracy.sampled(task, plane, tmp_path, grid=9, tolerance=0.05, repeats=1)
    assert accuracy.sampled(task, plane, tmp_path, grid=9, tolerance=0.05, repeats=1) == engine
    settings = {"grid": 9, "nodes": 5, "engine": engine}
    assert not accuracy.full(task, plane, tmp_path, until=0.0, **settings)
    assert not list(tmp_path.glob("*.npz"))
    assert accuracy.full(task, plane, tmp_path, until=time.time() + 100, **settings)
    row = accuracy.compared("mlp", tmp_path, grid=9, nodes=5, tolerance=0.05)
    exact = lf.scan(task, plane, grid=5, ranges=[(-1, 1)] * 2, progress=False).loss.transpose("h1", "h2").values
    rows = np.stack([np.load(tmp_path / f"full5-{i}.npz")["loss"] for i in range(5)])
    np.testing.assert_allclose(rows, exact, rtol=1e-6)
    assert row["nodes compared"] == 25
    assert row["outside the tolerance"] == row["outside their interval"] == 0
    bent = dict(np.load(tmp_path / "full5-2.npz"))
    np.savez(tmp_path / "full5-2.npz", **bent | {"loss": bent["loss"] + [0, 0, 9, 0, 0]})
    row = accuracy.compared("mlp", tmp_path, grid=9, nodes=5, tolerance=0.05)
    assert row["outside the tolerance"] == row["outside their interval"] == 1
    accuracy.write(tmp_path, row, machine())
    accuracy.write(tmp_path, row, machine())
    assert (tmp_path / "accuracy.md").read_text().count("| mlp |") == 1
