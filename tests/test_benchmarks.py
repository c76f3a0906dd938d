"""The benchmarks run: one tiny case of each, so that they do not rot. Nothing is asserted about time."""

import importlib
import json
import math

import numpy as np
import pytest
import torch
from benchmarks import measure, report
from benchmarks.__main__ import TOPICS, main
from benchmarks.groups import grouped
from benchmarks.growth import fitted

from landform.mesh import Mesh


@pytest.mark.parametrize("topic", TOPICS)
def test_a_tiny_case_of_each_topic_gives_tables_with_numbers(topic):
    module = importlib.import_module(f"benchmarks.{topic}")
    assert {"full", "quick", "tiny"} == set(module.CASES)
    state = torch.random.get_rng_state()
    tables = module.run(**module.CASES["tiny"])
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(state, torch.random.get_rng_state())
    for table in tables:
        assert table.rows
        assert any(isinstance(v, int | float) for row in table.rows for v in row.values()) or "exponent" in table.title
        lines = table.markdown().splitlines()
        assert lines[0] == f"## {table.title}"
        assert {line.count("|") for line in lines[2 : 4 + len(table.rows)]} == {lines[2].count("|")}


def test_the_command_writes_both_files_and_a_topic_replaces_only_itself(tmp_path, monkeypatch, capsys):
    growth = importlib.import_module("benchmarks.growth").CASES
    monkeypatch.setitem(growth, "quick", {"sizes": {"z = 1 hinges": (4, 8)}})
    old = report.Table("Of old", [{"n": 1}])
    for name in ("language", "compile", "growth", "no topic any more"):
        report.add(tmp_path, name, [old], report.machine(), order=(*TOPICS, "no topic any more"), seconds=1.0)
    main(["--quick", "--only", "growth", "--output", str(tmp_path)])
    assert "Fitted exponents" in capsys.readouterr().out
    page = (tmp_path / "results.md").read_text()
    assert page.count("## Of old") == 2  # of three
    assert page.count(", torch ") == 3  # each with its machine
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert list(parts) == ["compile", "growth", "language"]  # in the order of the topics
    assert parts["growth"]["tables"][0]["rows"][0]["n"] == 4
    assert parts["growth"]["machine"]["cores"] >= 1
    (tmp_path / "results.md").unlink()
    main(["--draw", "--output", str(tmp_path)])
    assert (tmp_path / "results.md").read_text() == page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.md"]


@pytest.mark.parametrize(("n", "r"), [(4, 2), (8, 4), (12, 3), (12, 6)])
def test_groups_of_rows_are_the_interpolant(n, r):
    generator = torch.Generator().manual_seed(n + r)
    values = torch.rand(n + 1, n + 1, dtype=torch.float64, generator=generator)
    h = torch.cat([Mesh((n, n)).nodes(), torch.rand(500, 2, dtype=torch.float64, generator=generator)])
    program = grouped(values.numpy(), r)
    assert (program(h)[:, 0] - Mesh((n, n)).interpolate(values, h)).abs().max() < 1e-12
    count = n // r
    assert program.widths == (2, 1 + count, 1 + (n - 1) + count * (1 + (r - 1) + (n + r - 1)), 1 + count * (r - 1))
    x = h.T  # registers that are marked as carried are not negative
    for layer in program.layers:
        before = torch.from_numpy(layer.weight @ x.numpy() + layer.bias[:, None])
        assert before[torch.from_numpy(layer.carried)].min() > -1e-12
        x = before.relu()


def test_fitted_exponent_and_its_r2():
    assert fitted([2, 4, 8], [12, 48, 192]) == (2.0, 1.0)
    exponent, r2 = fitted([1, 2, 4], [1, 8, 1])
    assert exponent == pytest.approx(0, abs=1e-9)
    assert r2 < 0.1


def test_spread_and_ratios_of_paired_repeats():
    spread = measure.ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0])
    assert (spread.median, spread.least, spread.most) == (2.0, 1.0, 3.0)
    assert str(spread) == "2 (1–3)"


def test_sides_alternate_after_one_untimed_call_each():
    calls = []
    seconds = measure.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == list("ababab")
    assert [len(v) for v in seconds.values()] == [2, 2]


def test_stages_count_nested_time_once_and_restore():
    import types

    def wait(seconds):
        import time

        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    module = types.SimpleNamespace(inner=lambda: wait(0.02), absent=None)
    module.outer = lambda: (wait(0.01), module.inner())
    before = module.outer
    with measure.stages(module, {"outer": "outer", "inner": "inner", "gone": "gone"}) as spent:
        module.outer()
    assert module.outer is before
    assert spent["inner"] >= 0.02
    assert "gone" not in spent
    assert spent["outer"] >= 0.01


def test_cells_show_what_they_hold():
    shown = [report.show(v) for v in (4225, 1.5e-7, 0.0, 2.5, 12345.6, True, "hats", math.nan)]
    assert shown == ["4,225", "1.50e-07", "0", "2.5", "12,346", "True", "hats", "nan"]
    assert report.show(np.float64(0.25)) == "0.25"
