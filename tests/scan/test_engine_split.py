"""The engine that keeps samples and points apart: the loop's numbers, and masks that leave nothing out."""

import pytest
import torch
from torch import nn

import landform as lf
from landform.scan.engine.functional import FunctionalEngine
from landform.scan.engine.own import UnsupportedError
from landform.scan.engine.reach import reaches
from landform.scan.engine.split import SplitEngine
from landform.scan.engine.trace import trace
from landform.scan.plan import plan_scan
from landform.subspace import Subspace
from landform.testing.networks import ResNet, with_statistics


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Mixed(nn.Module):
    """Convolutions in groups, sums, concatenations, norms, pools: 3 channels in, 4 numbers out."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.deep, self.act = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.PReLU(8)
        self.skip, self.side = nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 4, 1)
        self.down, self.pool = nn.Conv2d(12, 8, 3, stride=2), nn.MaxPool2d(2)
        self.last, self.head = nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = self.skip(x) + self.act(self.deep(x))
        x = torch.cat([x, self.side(x).relu()], 1)
        x = self.pool(self.down(x)).mean((2, 3))
        return self.head(torch.relu(self.last(torch.flatten(x, 1))))


def apart(seed=0, mixing=0.0):
    """Return a task and a plane: every other channel is reached by samples, the others by points, up to the head."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = with_statistics(Mixed()).double()
        x = torch.randn(12, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        net.stem.weight[1::2] = 0
        for module in (net.skip, net.side, net.down, net.last):
            module.weight[::2, 1::2] = 0
            module.weight[1::2, ::2] = 0
        net.last.weight[0, 1] = mixing
    plane = Subspace(
        dict(net.named_parameters()),
        (
            {"stem.bias": torch.eye(8, dtype=torch.float64)[1]},
            {"stem.bias": torch.eye(8, dtype=torch.float64)[3], "norm.weight": torch.eye(8, dtype=torch.float64)[5]},
        ),
    )
    return lf.Task(net.eval(), data=(x, torch.arange(12) % 4), metrics=["accuracy"]), plane


@pytest.mark.parametrize("batch_size", [None, 5])
def test_the_numbers_are_those_of_the_loop(batch_size):
    task, plane = apart()
    h = torch.rand(7, 2, dtype=torch.float64, generator=rng()) * 2 - 1
    order = torch.randperm(12, generator=rng())
    fast = SplitEngine(task, plane, order=order, batch_size=batch_size)
    plain = FunctionalEngine(task, plane, order=order)
    for start, stop in ((0, 12), (3, 9), (3, 9)):
        for found, wanted in zip(
            (fast.sums(h, start, stop), fast.terms(h, start, stop)),
            (plain.sums(h, start, stop), plain.terms(h, start, stop)),
            strict=True,
        ):
            torch.testing.assert_close(found.num, wanted.num, rtol=1e-12, atol=1e-12)
            assert torch.equal(found.den, wanted.den)
    again = h.flip(0)
    torch.testing.assert_close(fast.sums(again).num, plain.sums(again).num, rtol=1e-12, atol=1e-12)
    assert fast.held > 0


def test_samples_run_through_the_trained_part_once():
    task, plane = apart()
    fast = SplitEngine(task, plane)
    rows = []
    fast._head.register_forward_pre_hook(lambda _module, given: rows.append(len(given[0])))
    h = torch.rand(5, 2, dtype=torch.float64, generator=rng())
    fast.sums(h)
    fast.sums(h)
    fast.sums(h + 1)
    assert sorted(rows) == [1] * 10 + [12]


@pytest.mark.parametrize("seed", range(4))
def test_masks_leave_out_nothing_that_moves(seed):
    """Whatever a random sparse network does, a channel that changes is marked."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = with_statistics(Mixed()).double()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter *= torch.rand_like(parameter) < 0.25
        step = (torch.rand(8, dtype=torch.float64) < 0.3).double()
        x, other = torch.randn(2, 3, 3, 9, 9, dtype=torch.float64)
    graph = trace(net)
    bias = graph.get_submodule("stem").bias
    found = reaches(graph, {id(bias): [step]})
    values = {}

    class Look(torch.fx.Interpreter):
        def run_node(self, node):
            values[node] = super().run_node(node)
            return values[node]

    def run(inputs, h):
        with torch.no_grad():
            bias.add_(h * step)
            Look(graph).run(inputs)
            bias.sub_(h * step)
        return dict(values)

    base, by_sample, by_point = run(x, 0.0), run(other, 0.0), run(x, 0.7)
    checked = 0
    for node, reach in found.items():
        if node.op == "placeholder":
            continue
        axes = [axis for axis in range(base[node].ndim) if axis != 1]
        for mask, moved in ((reach.sample, by_sample[node]), (reach.point, by_point[node])):
            changed = (moved != base[node]).any(dim=axes[0]) if len(axes) == 1 else (moved != base[node]).amax(axes)
            assert not bool((changed & ~mask).any()), node
            checked += int((~mask.expand(len(changed))).sum())
    assert checked > 10  # or the masks would say nothing


def test_one_weight_that_mixes_moves_the_cut():
    task, plane = apart(mixing=0.5)
    fast = SplitEngine(task, plane)
    assert any(node.target == "last" for node in fast._tail.graph.nodes)  # in the kept half no longer
    h = torch.rand(3, 2, dtype=torch.float64, generator=rng())
    torch.testing.assert_close(fast.sums(h).num, FunctionalEngine(task, plane).sums(h).num, rtol=1e-12, atol=1e-12)


def test_what_is_refused():
    task, plane = apart()
    with torch.no_grad():
        task.model.stem.weight[1] = 1.0  # the point's channel reads the sample
    with pytest.raises(UnsupportedError, match="no value tells"):
        SplitEngine(task, Subspace(dict(task.model.named_parameters()), plane.directions))
    task, plane = apart()
    weight = torch.zeros_like(task.model.stem.weight)
    weight[1, 0, 0, 0] = 1.0  # zero at the origin, but not on the way
    moving = Subspace(dict(task.model.named_parameters()), (*plane.directions, {"stem.weight": weight}))
    with pytest.raises(UnsupportedError, match="no value tells"):
        SplitEngine(task, moving)
    head = Subspace(dict(task.model.named_parameters()), ({"head.bias": torch.ones(4, dtype=torch.float64)},))
    with pytest.raises(UnsupportedError, match="no value tells"):
        SplitEngine(task, head)


@pytest.mark.parametrize("method", ["offset", "per-sample"])
def test_a_pattern_in_a_trained_residual_net_is_scanned_so(method):
    digits = lf.load_data("digits")
    images = digits.inputs.reshape(-1, 1, 8, 8)[:200].repeat(1, 3, 1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(12, ((12, 1), (24, 2)), 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), digits.targets[:200]).backward()
        optimizer.step()
    task = lf.Task(model.double().eval(), data=(images.double(), digits.targets[:200]))
    pattern = lf.Pattern.from_formula("sphere", resolution=4)
    made = lf.imprint(pattern, task, method=method, scores="own", certify=False)
    h = torch.rand(4, 2, dtype=torch.float64, generator=rng())
    assert "split: samples and points reach different channels" in plan_scan(made.task, made.subspace, h).describe()
    fast, plain = (engine(made.task, made.subspace).sums(h).num for engine in (SplitEngine, FunctionalEngine))
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)
    assert lf.scan(made, grid=3, progress=False).attrs["engine"] == "split"
