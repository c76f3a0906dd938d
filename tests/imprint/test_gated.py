"""Networks whose only activation is tanh: hinges in which one unit gates another, certified."""

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import ArchitectureError, CapacityError
from landform.imprint.lower.activation import TANH_ROUNDINGS
from landform.imprint.lower.gated import SATURATED, SIZE
from landform.imprint.lower.network import read
from landform.imprint.lower.registers import unit_bounds, unit_tops
from landform.program.capacity import capacity
from landform.program.compile import compile_pattern

torch.set_num_threads(1)
PATTERN = lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((5, 5))))


def perceptron(width=64, hidden=7):
    layers = [nn.Flatten(), nn.Linear(64, width), nn.Tanh()]
    for _ in range(hidden - 1):
        layers += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 10)).eval()


def le_net(*more):
    """Convolutions, tanh and average pools, as in LeNet, and linear layers behind them."""
    layers = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 32, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2)]
    layers += [nn.Conv2d(32, 64, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()]
    for inputs, outputs in zip((256, *more), more, strict=False):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(more[-1], 10)).eval()


def imprinted(net, pattern=PATTERN, **options):
    return lf.imprint(pattern, lf.Task(net, loss="cross_entropy", data="digits"), **options)


def inside(made, relative):
    """Hold an imprint against its certificate, at nodes and between them."""
    proof = made.certificate
    assert proof.kind == "certified"
    assert proof.holds, proof.failures
    assert proof.relative_bound < relative
    measured = lf.scan(made, grid=6 * made.pattern.resolution[0] + 1)
    assert float(abs(measured.difference).max()) <= proof.bound
    return made


@pytest.mark.parametrize(("form", "relative"), [("hats", 1e-4), ("strips", 1e-4)])
def test_a_perceptron_of_tanh(form, relative):
    made = inside(imprinted(perceptron(128).double(), form=form), relative)
    assert not made.meta["direct"]
    inputs = torch.randn(4, 64, dtype=torch.float64)
    state = made.subspace.at(torch.tensor([0.3, 0.8], dtype=torch.float64))
    one, two = (torch.func.functional_call(made.model, state, (x,)) for x in (inputs, 100 * inputs))
    assert torch.equal(one, two)


@pytest.mark.parametrize("extra", [(), (64,)])  # an odd and an even number of hidden layers
def test_convolutions_and_average_pools(extra):
    inside(imprinted(le_net(120, 120, 84, 84, 64, *extra).double()), 3e-4)


def test_the_layers_of_le_net_hold_a_curve():
    values = torch.from_numpy(np.random.default_rng(1).random(9))
    made = inside(imprinted(le_net(120, 84).double(), lf.Pattern(values)), 0.3)
    assert made.meta["direct"]  # no layer is left for the response curve
    assert float(abs(lf.scan(made, grid=9).difference).max()) < 1e-6  # at the nodes


def test_three_coordinates_in_a_regression():
    net = perceptron(160, 11).double()
    values = torch.from_numpy(np.random.default_rng(2).random((3, 3, 3)))
    targets = torch.randn(40, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(40, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    made = lf.imprint(lf.Pattern(values), lf.Task(net, loss="mse", data=(inputs, targets)))
    inside(made, 2e-3)


def test_float32_follows_the_pattern_more_coarsely():
    made = imprinted(perceptron(96), form="strips")
    measured = lf.scan(made, grid=25)
    assert float(abs(measured.difference).max()) < 5e-3
    assert float(abs(measured.difference).max()) <= made.certificate.bound
    assert made.certificate.relative_bound < 0.05
    assert any("float32" in note and "double()" in note for note in made.meta["notes"])


def test_sixteen_cells_an_axis_are_proved_as_well_as_the_response_curve():
    inside(
        imprinted(perceptron(160).double(), lf.Pattern(torch.from_numpy(np.random.default_rng(0).random((17, 17))))),
        1.1e-4,
    )


@pytest.mark.parametrize("form", ["hats", "strips"])
def test_units_are_largest_at_nodes(form):
    program = compile_pattern(PATTERN, None, form=form)
    tops, x = unit_tops(program), torch.rand(2, 2000, generator=torch.Generator().manual_seed(0)).double().numpy()
    for layer, top, bound in zip(program.layers, tops, unit_bounds(program), strict=True):
        x = np.maximum(layer.weight @ x + layer.bias[:, None], 0.0)
        assert (x.max(axis=1) <= top + 1e-12).all()
        assert (x.max(axis=1) >= 0.5 * top - 1e-12).all()
        assert (top <= bound).all()


@pytest.mark.parametrize("dtype", SATURATED)
def test_tanh_saturates_where_it_has_to(dtype):
    numbers = torch.cat([torch.linspace(SATURATED[dtype] - 0.5, 200, 4099), torch.logspace(2, 37, 999)]).to(dtype)
    assert (numbers.tanh() == 1).all()
    assert ((-numbers).tanh() == -1).all()
    x = torch.linspace(-2 * SIZE[dtype], 2 * SIZE[dtype], 1001, dtype=torch.float64).to(dtype)
    error = (x.tanh().double() - x.double()).abs()
    assert (error <= x.double().abs() ** 3 / 3 + TANH_ROUNDINGS * torch.finfo(dtype).eps / 2 * x.double().abs()).all()


def test_a_hinge_takes_two_layers_and_two_units_in_each():
    found = read(perceptron(64, 7))
    assert [room.units for room in found.rooms] == [64, 64, 64, 64]
    assert found.per_hinge == 2
    half = capacity(read(perceptron(64, 7)).rooms, per_hinge=2).best.cells
    assert 3 <= half < capacity(found.rooms, per_hinge=1).best.cells


def test_saved_and_proved_again(tmp_path):
    made = imprinted(perceptron().double())
    again = lf.load(made.save(tmp_path / "tanh.landform"), model=perceptron().double())
    assert lf.certify(again).bound == made.certificate.bound


def gate_of(made, layer="3"):
    """Return a unit of the first layer of a pair that is a gate, and the row that reads it with another number."""
    second = made.subspace.origin["5.weight"]
    row = int(((second != 0).sum(1) == 2).nonzero()[0])
    gate = int((second[row] == SATURATED[second.dtype] / 2).nonzero()[0])
    return row, gate


def _less_steep(origin, row, gate):
    origin["3.weight"][gate] *= 2.0**-60
    origin["3.bias"][gate] *= 2.0**-60


def _other_gate(origin, row, gate):
    origin["3.weight"][gate] *= 1.5


def _less_closed(origin, row, gate):
    origin["5.bias"][row] *= 0.5


def _larger(origin, row, gate):
    origin["5.weight"][row, gate] *= 1.0
    other = [int(c) for c in origin["5.weight"][row].nonzero().reshape(-1) if int(c) != gate]
    origin["5.weight"][row, other[0]] *= 2.0**8


def _one_sided(origin, row, gate):
    column = origin["7.weight"][:, row]
    column[column.nonzero()[0]] *= 1.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_less_steep, ""),
        (_other_gate, "does not read a power of two times"),
        (_less_closed, "neither carried nor gated"),
        (_larger, "stops growing"),
        (_one_sided, "weights that are not opposite"),
    ],
)
def test_what_was_changed_is_seen_by_the_proof(change, message):
    made = imprinted(perceptron().double())
    before = made.certificate.bound
    change(made.subspace.origin, *gate_of(made))
    again = lf.certify(made)
    if message:
        assert message in again.failures[0]
    else:
        assert again.bound > 10 * before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: perceptron(32, 2), r"2 hidden layers of Tanh; a hinge takes two, and h one more"),
        (
            lambda: nn.Sequential(*[nn.Linear(8, 8), nn.Softsign()] * 1, nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)),
            r"'1' approaches its ends too slowly to be a gate",
        ),
        (
            lambda: nn.Sequential(
                nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
            ),
            r"without norms, groups and sums, and '1' is one of",
        ),
        (
            lambda: nn.Sequential(
                nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
            ),
            r"'2' is not followed by one Tanh",
        ),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ArchitectureError, match=message):
        read(make().eval())


def test_a_network_that_is_too_narrow_says_what_would_do():
    with pytest.raises(CapacityError, match=r"hidden widths of at least (\d+), (\d+), \2, (\d+), \3"):
        imprinted(perceptron(16, 7).double(), form="strips", epsilon=1e-3)
