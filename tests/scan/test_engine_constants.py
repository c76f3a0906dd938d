"""Units that no sample reaches: found, computed apart, and the numbers are those of the plain loop."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import landform as lf
from landform.scan.engine.constants import ConstantsEngine
from landform.scan.engine.functional import FunctionalEngine
from landform.scan.engine.own import UnsupportedError
from landform.scan.engine.units import constant_units
from landform.scan.plan import build_engine, plan_scan
from landform.subspace import Subspace
from landform.testing import looped_losses
from landform.testing.zoo import build, space

REACHED, CONSTANT, CLASSES, SAMPLES = 2, 7, 8, 9
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.LeakyReLU, nn.Identity, nn.Softplus)


@st.composite
def networks(draw: st.DrawFn) -> tuple[lf.Task, Subspace]:
    """Draw a perceptron with constant units at any places, and directions that keep them so."""
    seed, depth, z = draw(st.integers(0, 2**16)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()] if draw(st.booleans()) else []
    zeros: dict[str, Tensor] = {}
    deaf = draw(st.integers(0, 5)) == 5
    before = torch.zeros(4, dtype=torch.bool)
    for _ in range(depth):
        here = torch.zeros(REACHED + CONSTANT, dtype=torch.bool)
        here[torch.randperm(len(here), generator=generator)[:CONSTANT]] = True
        zeros[f"{len(layers)}.weight"] = (here | (deaf and not zeros))[:, None] & ~before
        layers += [nn.Linear(len(before), len(here), bias=draw(st.booleans())), draw(st.sampled_from(ACTIVATIONS))()]
        before = here
    model = nn.Sequential(*layers, nn.Linear(len(before), CLASSES)).double()
    kinds = draw(st.sampled_from((("bias",), ("weight",), ("bias", "weight"))))

    def some(name: str, value: Tensor) -> Tensor:
        made = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        return made.masked_fill(zeros[name], 0.0) if name in zeros else made

    origin = {name: some(name, value) for name, value in model.named_parameters()}
    model.load_state_dict(origin)
    moved = [name for name in origin if name.endswith(kinds) and draw(st.booleans())] or [*origin][:1]
    directions = tuple({name: some(name, origin[name]) for name in moved} for _ in range(z))
    inputs = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    return lf.Task(model.eval(), "cross_entropy", (inputs, targets)), Subspace(origin, directions)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[lf.Task, Subspace]:
    """Draw convolutions with channels that are, or but for padding would be, the same everywhere."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    uneven = draw(st.integers(0, 5)) == 5
    layers: list[nn.Module] = []
    zeros: dict[str, Tensor] = {}
    before = torch.zeros(2, dtype=torch.bool)
    for _ in range(draw(st.integers(1, 2))):
        here = torch.zeros(REACHED + CONSTANT, dtype=torch.bool)
        here[torch.randperm(len(here), generator=generator)[:CONSTANT]] = True
        kernel, padding = draw(st.sampled_from(((1, 0), (3, 1), (3, 0), (1, 1), (2, 1))))
        edge = torch.full((kernel, kernel), bool(padding) and not uneven)
        edge[padding : kernel - padding, padding : kernel - padding] = False
        shut = (here[:, None] & ~before)[..., None, None] | (before[None, :, None, None] & edge)
        zeros[f"{len(layers)}.weight"] = shut
        stride = draw(st.sampled_from((1, 2)))
        layers.append(nn.Conv2d(len(before), len(here), kernel, stride, padding, bias=draw(st.booleans())))
        layers += [nn.BatchNorm2d(len(here))] if draw(st.booleans()) else []
        layers.append(draw(st.sampled_from(ACTIVATIONS))())
        pools = (nn.Identity(), nn.MaxPool2d(2, 1, 1), nn.AvgPool2d(2, 1, 1), nn.AvgPool2d(2, 1, ceil_mode=True))
        layers.append(draw(st.sampled_from(pools)))
        before = here
    layers += [nn.AdaptiveAvgPool2d(draw(st.integers(1, 2))), nn.Flatten()]
    size = layers[-2].output_size
    model = nn.Sequential(*layers, nn.Linear(len(before) * int(size) ** 2, CLASSES)).double()  # type: ignore[arg-type]

    def some(name: str, value: Tensor) -> Tensor:
        made = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        return made.masked_fill(zeros[name], 0.0) if name in zeros else made

    origin = {name: some(name, value) for name, value in model.named_parameters()}
    model.load_state_dict(origin, strict=False)
    moved = [name for name in origin if name.endswith("bias") and draw(st.booleans())] or ["0.weight"]
    directions = tuple({name: some(name, origin[name]) for name in moved} for _ in range(2))
    inputs = torch.randn(SAMPLES, 2, 16, 16, generator=generator, dtype=torch.float64)
    targets = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    return lf.Task(model.eval(), "cross_entropy", (inputs, targets)), Subspace(origin, directions)


@pytest.mark.parametrize("drawn", [networks, convolutions])
def test_numbers_are_those_of_the_loop(drawn: Callable[[], st.SearchStrategy[tuple[lf.Task, Subspace]]]) -> None:
    taken = []

    @settings(deadline=None, derandomize=True, database=None, max_examples=40, phases=(Phase.generate, Phase.shrink))
    @given(drawn(), st.data())
    def look(made: tuple[lf.Task, Subspace], data: st.DataObject) -> None:
        task, subspace = made
        order = data.draw(st.permutations(range(task.n)).map(torch.tensor))
        h = torch.rand(4, subspace.z, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 4 - 2
        wanted = looped_losses(task, subspace, h)[:, order]
        try:
            fast = ConstantsEngine(task, subspace, order=order, batch_size=data.draw(st.sampled_from((None, 1, 4))))
        except UnsupportedError:
            return
        taken.append(len(fast._constants.subspace.directions))
        torch.testing.assert_close(fast.terms(h, 2, 7).num[:, 0], wanted[:, 2:7], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(fast.sums(h).num[:, 0], wanted.sum(-1), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(fast.sums(h[:1]).num[:, 0], wanted[:1].sum(-1), rtol=1e-10, atol=1e-10)

    look()
    assert len(taken) >= 12  # or it says little
    assert max(taken) > 5


class Read(nn.Module):
    """Units that are read in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        with torch.no_grad():
            self.a.weight[1:] = 0.0
            self.b.weight[1:, 0] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.c(torch.relu(self.b(self.a(x).tanh() * 2.0)))
        return found


class Summed(Read):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        found: Tensor = self.c(x + torch.relu(self.b(x)))
        return found


class Twice(Read):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.c(self.b(torch.relu(self.b(self.a(x)))))
        return found


@pytest.mark.parametrize(("kind", "layers"), [(Read, ["a", "b"]), (Summed, []), (Twice, [])])
def test_what_is_read_in_another_way_counts_as_reached(kind: type[Read], layers: list[str]) -> None:
    graph = fx.symbolic_trace(kind().eval())
    masks = {node: units.mask for node, units in constant_units(graph, {}, {}).items()}
    assert [node.target for node in masks if node.op == "call_module"] == layers
    assert all(mask.tolist() == [False, True, True] for mask in masks.values())


def test_a_direction_that_reads_the_input_ends_it() -> None:
    graph = fx.symbolic_trace(Read().eval())
    step = torch.zeros(3, 2)
    step[1, 0] = 1e-30
    found = constant_units(graph, {id(graph.get_submodule("a").weight): [None, step]}, {})
    masks = {node: units.mask for node, units in found.items()}
    assert {str(node.target): mask.tolist() for node, mask in masks.items()}["a"] == [False, False, True]
    assert {str(node.target): mask.tolist() for node, mask in masks.items() if str(node.target) == "b"} == {}


EDGES = [(3, 1, 1, 1, True), (3, 1, 1, 0, False), (3, 1, 1, 2, False), (2, 1, 1, 1, False), (2, 1, 1, 0, False)]
EDGES += [(3, 0, 1, 0, True), (5, 1, 1, 1, True), (5, 1, 1, 3, True), (5, 1, 1, 4, False), (3, 2, 2, 1, True)]


@pytest.mark.parametrize(("kernel", "padding", "dilation", "tap", "even"), EDGES)
def test_a_tap_that_meets_the_padding_is_no_constant(
    kernel: int, padding: int, dilation: int, tap: int, even: bool
) -> None:
    first, second = nn.Conv1d(1, 2, 1), nn.Conv1d(2, 1, kernel, padding=padding, dilation=dilation)
    with torch.no_grad():
        first.weight[1] = 0.0
        second.weight[:, 1] = torch.eye(kernel)[tap]
    graph = fx.symbolic_trace(nn.Sequential(first, second).eval())
    assert bool(constant_units(graph, {}, {})) is even
    moving = second(torch.ones(1, 2, 9))[0, 0] - second(torch.tensor([1.0, 0.0])[None, :, None].expand(1, 2, 9))[0, 0]
    assert torch.allclose(moving, torch.ones(len(moving))) is even


@pytest.fixture(scope="module")
def trained() -> lf.Task:
    digits = lf.load_data("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [module for _ in range(5) for module in (nn.Linear(64, 64), nn.ReLU())]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(digits.inputs), digits.targets).backward()
        optimizer.step()
    return lf.Task(model.eval(), data=(digits.inputs, digits.targets))


@pytest.mark.parametrize("options", [{"method": "offset"}, {"method": "per-sample", "scores": "own"}])
def test_a_pattern_beside_a_trained_network_is_computed_apart(trained: lf.Task, options: dict[str, str]) -> None:
    made = lf.imprint(lf.Pattern.from_formula("sphere", resolution=8), trained, certify=False, **options)
    assert made.task is not None
    h = torch.rand(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fast = build_engine(made.task, made.subspace)
    assert isinstance(fast, ConstantsEngine)
    assert fast.written < 1000  # of some ten thousand that the pattern has
    wanted = FunctionalEngine(made.task, made.subspace).terms(h, 0, made.task.n)
    found = fast.terms(h, 0, made.task.n)
    torch.testing.assert_close(found.num, wanted.num, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.den, wanted.den)
    assert "constants: units that no sample reaches" in plan_scan(made.task, made.subspace, h).describe()
    assert lf.scan(made, grid=3, progress=False).attrs["engine"] == "constants"


def test_models_without_such_units_are_refused() -> None:
    task = build("mlp")
    with pytest.raises(UnsupportedError, match="no unit of a layer has weights of zero"):
        ConstantsEngine(task, space(task))
    with torch.no_grad():
        task.model[-1].weight[0] = 0.0  # type: ignore[index,union-attr]
    with pytest.raises(UnsupportedError, match="more than half of the work is left"):
        ConstantsEngine(task, space(task))
