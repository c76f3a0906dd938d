"""The certificate is a bound: nothing that can be measured exceeds it, in any order of summation."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import landform as lf
from landform.errors import CapacityError
from landform.imprint.collapsed import losses_at
from landform.imprint.lower.chain import trace
from landform.testing import dense_losses, hard_points, mlps, patterns, sums, tasks, widths

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(30, 4, generator=GENERATOR), torch.arange(30) % 3


def cells_of(pattern):
    return [len(f) - 1 for f in pattern.axes] if isinstance(pattern, lf.SumPattern) else pattern.resolution


def dtype_of(imprint):
    return next(imprint.model.parameters()).dtype


def target_of(imprint, h):
    return imprint.target(h).reshape(len(h), -1)


def permuted(imprint, seed=0):
    """Shuffle the hidden units of every layer: the same function, summed in another order."""
    generator = torch.Generator().manual_seed(seed)
    chain = trace(imprint.model)
    origin = dict(imprint.subspace.origin)
    directions = [dict(d) for d in imprint.subspace.directions]
    model = copy.deepcopy(imprint.model)
    modules = dict(model.named_modules())
    names = [s.linear for s in chain.stages]
    readers = [[name] for name in names[1:]] + [[head.linear for head in chain.heads]]
    with torch.no_grad():
        for stage, reads in zip(chain.stages, readers, strict=True):
            order = torch.randperm(stage.width, generator=generator)
            for part in ("weight", "bias"):
                origin[f"{stage.linear}.{part}"] = origin[f"{stage.linear}.{part}"][order]
            for name in (*stage.before, *stage.after):
                for part in ("weight", "bias"):
                    origin[f"{name}.{part}"] = origin[f"{name}.{part}"][order]
                modules[name].running_mean.copy_(modules[name].running_mean[order])
                modules[name].running_var.copy_(modules[name].running_var[order])
            for name in reads:
                origin[f"{name}.weight"] = origin[f"{name}.weight"][:, order]
            if stage.linear == names[0]:
                directions = [{key: value[order] for key, value in d.items()} for d in directions]
        for name, parameter in model.named_parameters():
            parameter.copy_(origin[name])
    return replace(imprint, model=model, subspace=lf.Subspace(origin, tuple(directions)))


def check(imprint, count=40):
    """Measure at hard points in several ways and compare with the parts and the whole of the bound."""
    certificate = imprint.certificate
    assert certificate.holds, certificate
    assert certificate.kind == "certified"
    h = hard_points(cells_of(imprint.pattern), count, dtype=dtype_of(imprint))
    target = target_of(imprint, h)
    found = losses_at(imprint, h)
    assert (found - target).abs().max() <= certificate.bound
    shuffled = permuted(imprint)
    assert (losses_at(shuffled, h) - target).abs().max() <= certificate.bound
    few = torch.randperm(len(h), generator=torch.Generator().manual_seed(1))[:12]
    alone = torch.cat([losses_at(imprint, point[None]) for point in h[few]])
    assert (alone - target[few]).abs().max() <= certificate.bound
    exact = dense_losses(imprint, h[few])
    scale = max(1.0, float(exact.abs().max()))
    assert (exact - target[few]).abs().max() <= certificate.register + certificate.curve + 1e-12 * scale
    for value in (found[few], alone, losses_at(shuffled, h[few])):
        assert (value - exact).abs().max() <= certificate.rounding + 0.02 * certificate.curve + 1e-12 * scale
    return certificate


SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),  # shrinking a failure would take minutes: each example makes and certifies a network
)


WIDE = {1: (15, 60), 2: (30, 120), 3: (60, 250), 4: (120, 400)}


@pytest.mark.parametrize("z", [1, 2, 3, 4])
def test_measured_losses_stay_below_the_bound(z):
    """Pattern → program → network → measured loss, over n, widths, depths, losses, dtypes, activations, norms."""
    made = []

    @settings(SETTINGS, max_examples=12 if z < 3 else 6)
    @given(
        patterns(z, max_cells=7),
        tasks(mlps(widths(layers=(z + 2, 7), units=WIDE[z]))),
        st.sampled_from(("auto", "hats", *{1: ("hinges",), 2: ("rows", "strips")}.get(z, ()))),
        st.sampled_from((None, True)),
        st.booleans(),
    )
    def run(pattern, task, form, direct, axis_aligned):
        assume(form not in ("rows", "strips") or min(pattern.resolution) > 1)
        try:
            imprint = lf.imprint(pattern, task, form=form, direct=direct, axis_aligned=axis_aligned)
        except CapacityError:
            return
        check(imprint)
        made.append(imprint)

    run()
    assert len(made) >= 3


@settings(SETTINGS, max_examples=10)
@given(sums(), tasks(mlps([8, 60, 60, 90])), st.booleans())
def test_sums_stay_below_the_bound(pattern, task, axis_aligned):
    try:
        imprint = lf.imprint(pattern, task, axis_aligned=axis_aligned)
    except CapacityError:
        return
    check(imprint)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", ["hats", "strips"])
@pytest.mark.parametrize("n", [25, 29])
def test_meshes_whose_nodes_are_no_floats(n, form, dtype):
    pattern = lf.Pattern(torch.from_numpy(np.random.default_rng(n).integers(0, 2, (n + 1, n + 1)).astype(float)))
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 120), nn.ReLU(), nn.Linear(120, 900), nn.ReLU())
    model = nn.Sequential(*model, nn.Linear(900, 60), nn.ReLU(), nn.Linear(60, 3)).to(dtype).eval()
    imprint = lf.imprint(pattern, lf.Task(model, data=(X.to(dtype), Y)), form=form)
    certificate = check(imprint, 20)
    assert certificate.relative_bound < (1e-3 if form == "hats" else 0.1 if dtype == torch.float32 else 1.1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("cells", "kind"), [((29, 29), "random"), ((32, 32), "edge"), ((7, 40), "random"), ((2, 3), "dark")]
)
def test_rows_stay_below_a_bound_that_is_near(cells, kind, dtype):
    """Behind norms, where hinges as large as n would round most; a dark picture has rows of zeros."""
    rng = np.random.default_rng(cells[0])
    shape = (cells[0] + 1, cells[1] + 1)
    values = {
        "random": rng.random,
        "edge": lambda s: np.arange(s[0])[:, None] * 2 > s[0] * np.ones(s),
        "dark": np.zeros,
    }
    norms = [
        [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()] for a, b in itertools.pairwise((4, 5, 200, 200, 80, 41, 80))
    ]
    for norm in (part[1] for part in norms):
        norm.running_mean.copy_(torch.from_numpy(rng.standard_normal(norm.num_features)))
        norm.running_var.copy_(torch.from_numpy(0.5 + rng.random(norm.num_features)))
    model = nn.Sequential(*itertools.chain.from_iterable(norms), nn.Linear(80, 3)).to(dtype).eval()
    pattern = lf.Pattern(torch.from_numpy(values[kind](shape).astype(float)))
    imprint = lf.imprint(pattern, lf.Task(model, data=(X.to(dtype), Y)), form="rows")
    certificate = check(imprint, 20)
    assert certificate.relative_bound < (3e-3 if dtype == torch.float32 else 1.1e-4)


@pytest.mark.parametrize("axis_aligned", [True, False])
@pytest.mark.parametrize("n", [127, 999])
def test_products_with_the_resolution_round_unless_it_is_a_power_of_two(n, axis_aligned):
    """999·h is no float: at n = 999 a bound that took it for exact was exceeded."""
    pattern = lf.Pattern(torch.arange(n + 1, dtype=torch.float64) % 2)
    imprint = lf.imprint(pattern, (X, Y), form="hats", axis_aligned=axis_aligned, epsilon=1e-6)
    check(imprint, 400)


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("mean", [1000.0, 4096.0])
def test_batch_norms_with_a_large_mean_round_more(position, mean):
    """γ is the identity exactly, but not in float32: β − mean·γ/σ cancels and leaves mean·u."""
    variance = (torch.rand(200_000, generator=torch.Generator().manual_seed(0)) * 5).add(0.01)
    gain = (variance.double() + 1e-5).sqrt().float()
    exact = (gain.double() / (variance.double() + 1e-5).sqrt() - 1).abs()
    rounded = (gain * (1 / (variance + 1e-5).sqrt()) != 1) & (gain * (variance + 1e-5).rsqrt() != 1)
    worst = float(variance[(exact < 4e-9) & rounded][0])
    layers, size = [], 4
    for width in (6, 40, 60, 100):
        norm = nn.BatchNorm1d(width)
        norm.running_mean.fill_(mean)
        norm.running_var.fill_(worst)
        layers += [nn.Linear(size, width), *((norm, nn.ReLU()) if position == "before" else (nn.ReLU(), norm))]
        size = width
    model = nn.Sequential(*layers, nn.Linear(size, 3)).eval()
    values = torch.from_numpy(np.random.default_rng(0).random((5, 5)))
    imprint = lf.imprint(lf.Pattern(values), lf.Task(model, data=(X, Y)))
    check(imprint)


def test_the_test_of_bounds_can_fail():

    imprint = lf.imprint(lf.Pattern(torch.rand(5, 5, dtype=torch.float64, generator=GENERATOR)), (X, Y))
    small = replace(imprint.certificate, bound=imprint.certificate.bound * 0.3)
    with pytest.raises(AssertionError, match=r"assert tensor\(.*\) <= "):  # the bound itself, not what comes before it
        check(imprint.with_certificate(small))


class Trunk(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        sizes = [(4, 6), (6, 40), (40, 60), (60, 120)]
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)
        self.ends = nn.ModuleList(nn.Linear(120, 3) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        out = [end(x) for end in self.ends]
        return {"tuple": tuple(out), "list": out, "dict": dict(zip("rgb", out, strict=True))}[self.kind]


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
@pytest.mark.parametrize("channels", [None, 3])
def test_every_head_has_its_bound(kind, channels):
    shape = (5, 5, 3) if channels else (5, 5)
    pattern = lf.Pattern(torch.rand(shape, dtype=torch.float64, generator=GENERATOR), channels=channels)
    imprint = lf.imprint(pattern, lf.Task(Trunk(kind).eval(), data=(X, Y)))
    h = hard_points((4, 4), 40, dtype=torch.float32)
    off = (losses_at(imprint, h) - target_of(imprint, h)).abs().amax(dim=0)
    assert list(imprint.certificate.heads) == ["0", "1", "2"]
    assert all(off[i] <= imprint.certificate.heads[str(i)] for i in range(3))
    assert imprint.certificate.bound == max(imprint.certificate.heads.values())


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("z", [1, 2, 3])
def test_constant_patterns(value, z):
    pattern = lf.Pattern(torch.full((3,) * z, value, dtype=torch.float64))
    imprint = lf.imprint(pattern, (X, Y))
    check(imprint)


@pytest.mark.parametrize("axes", [[[0.0, 1.0, 0.4], [0.0, 0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]]])
def test_sums_with_constant_axes(axes):
    pattern = lf.SumPattern.from_axes([torch.tensor(f, dtype=torch.float64) for f in axes])
    check(lf.imprint(pattern, (X, Y)))


def test_identity_stages_and_mixed_slopes():
    model = nn.Sequential(
        nn.Linear(4, 40), nn.Linear(40, 40), nn.LeakyReLU(0.3), nn.Linear(40, 50), nn.Identity(), nn.Linear(50, 90)
    )
    model = nn.Sequential(
        *model, nn.ReLU(), nn.Linear(90, 90), nn.LeakyReLU(0.1), nn.Dropout(), nn.Linear(90, 3)
    ).eval()
    pattern = lf.Pattern(torch.rand(4, 4, dtype=torch.float64, generator=GENERATOR))
    check(lf.imprint(pattern, lf.Task(model, data=(X, Y))))


def test_a_loss_of_ones_own_is_measured_unless_declared_convex():
    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    pattern = lf.Pattern(torch.rand(4, 4, dtype=torch.float64, generator=GENERATOR))
    measured = lf.imprint(pattern, lf.Task(Trunk("tuple").eval(), loss, (X, Y)))
    assert measured.certificate.kind == "measured"
    assert measured.certificate.holds
    declared = lf.imprint(pattern, lf.Task(Trunk("tuple").eval(), loss, (X, Y)), convex=True)
    assert declared.certificate.kind == "certified"
    assert any("convex" in text for text in declared.certificate.assumptions)
    h = hard_points((3, 3), 40, dtype=torch.float32)
    assert (losses_at(declared, h) - target_of(declared, h)).abs().max() <= declared.certificate.bound
