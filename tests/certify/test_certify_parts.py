"""The steps of the proof, one by one, against brute force."""

import sys

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import landform as lf
from landform.certify.affine import affine
from landform.certify.certificate import Certificate
from landform.certify.curve import deviation
from landform.certify.field import Field, dilate, shifts, sign_changes, star_sum
from landform.certify.network import Step
from landform.mesh import Mesh
from landform.response import respond

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(30, 4, generator=GENERATOR), torch.arange(30) % 3
propagate_module = sys.modules["landform.certify.propagate"]
rare_module = sys.modules["landform.certify.rare"]


@pytest.mark.parametrize("cells", [(7,), (3, 4), (2, 3, 2), (2, 1, 2, 2)])
def test_sign_changes_bound_how_far_a_relu_is_from_p1(cells):
    mesh = Mesh(cells)
    rng = np.random.default_rng(0)
    value = rng.normal(size=(6, mesh.n_nodes))
    value[0] = np.abs(value[0])
    value[1] = -value[0]
    bound = sign_changes(mesh, value)
    h = torch.from_numpy(rng.random((4000, len(cells))))
    for row, radius in zip(value, bound, strict=True):
        inner = mesh.interpolate(torch.from_numpy(row).reshape(mesh.shape), h).relu()
        outer = mesh.interpolate(torch.from_numpy(row).relu().reshape(mesh.shape), h)
        assert (outer - inner).abs().max() <= radius + 1e-15
    assert bound[0] == bound[1] == 0.0
    assert (bound[2:] > 0).all()


@pytest.mark.parametrize("cells", [(5,), (3, 4), (2, 3, 2)])
def test_neighbours_are_the_nodes_that_share_a_cell(cells):
    mesh = Mesh(cells)
    near = np.eye(mesh.n_nodes, dtype=bool)
    for simplex in mesh.simplices().numpy():
        near[np.ix_(simplex, simplex)] = True
    for node in range(mesh.n_nodes):
        mask = np.zeros((1, mesh.n_nodes), dtype=bool)
        mask[0, node] = True
        assert (dilate(mesh, mask)[0] == near[node]).all()
    counts = np.random.default_rng(0).random((2, mesh.n_nodes))
    np.testing.assert_allclose(star_sum(mesh, counts), counts @ near)
    assert len(shifts(mesh)) == 2 ** len(cells) - 1


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("signed", [False, True])
def test_dot_products_stay_within_their_bound_in_any_order(seed, signed):
    """Sum float32 products in random orders and random trees; compare with float64."""
    rng = np.random.default_rng(seed)
    mesh, inputs, units = Mesh((3,)), 40, 5
    value = rng.normal(size=(inputs, 4)).astype(np.float32).astype(float)
    value = value if signed else np.abs(value)
    weight = (rng.normal(size=(units, inputs)) * (rng.random((units, inputs)) < 0.6)).astype(np.float32).astype(float)
    weight[:, ::3] = np.sign(weight[:, ::3]) * 4.0
    bias = rng.normal(size=units).astype(np.float32).astype(float)
    field = Field.dense(mesh, value, np.zeros_like(value), np.zeros(inputs))
    pre, bound = affine(field, Step.stored(sp.csr_matrix(weight), bias, 1.0, 1), np.arange(units), 2.0**-24)
    np.testing.assert_allclose(pre, weight @ value + bias[:, None], atol=1e-12)
    worst = 0.0
    for unit in range(units):
        for node in range(4):
            for _ in range(10):
                terms = [np.float32(w) * np.float32(x) for w, x in zip(weight[unit], value[:, node], strict=True) if w]
                terms.append(np.float32(bias[unit]))
                while len(terms) > 1:
                    i, j = rng.permutation(len(terms))[:2]
                    joined = np.float32(terms[i] + terms[j])
                    terms = [t for k, t in enumerate(terms) if k not in (i, j)] + [joined]
                error = abs(float(terms[0]) - (weight[unit] @ value[:, node] + bias[unit]))
                assert error <= bound[unit, node]
                worst = max(worst, error / bound[unit, node])
    assert worst > 1e-3  # the bound is not a wild guess


def test_products_by_powers_of_two_are_exact_and_others_are_not():
    mesh = Mesh((1,))
    field = Field.dense(mesh, np.array([[0.3, 1.7]]), np.zeros((1, 2)), np.zeros(1))
    for factor, exact in ((4.0, True), (0.125, True), (3.0, False), (999.0, False)):
        step = Step.stored(sp.csr_matrix([[factor]]), np.zeros(1), 0.0, 1)
        _, bound = affine(field, step, np.arange(1), 2.0**-24)
        assert (bound.max() < 1e-12 * factor) == exact
        _, rescaled = affine(field, step.rescaled(np.ones(1), np.array([1 / factor])), np.arange(1), 2.0**-24)
        assert (rescaled.max() < 1e-12) == exact  # judged as stored, whatever the verifier multiplies by


RESPONSES = [
    respond("cross_entropy", torch.arange(5)),
    respond("mse", torch.tensor([0.0, 2.0])),
    respond("l1", torch.tensor([0.0, 1.0, 4.0])),
    respond("multi_margin", torch.tensor([0, 0, 1, 2]), p=1),
    respond("poisson_nll", torch.tensor([0, 1, 4])),
]


@pytest.mark.parametrize("response", RESPONSES, ids=lambda r: r.name)
@pytest.mark.parametrize("radius", [0.0, 1e-6, 0.05])
def test_deviation_bounds_the_dense_maximum_and_is_sharp(response, radius):
    rng = np.random.default_rng(0)

    def loss(s):
        outputs = response.best.expand(len(s), -1).clone()
        outputs[:, response.output] = torch.from_numpy(s)
        return response.loss(outputs).numpy()

    base = float(response.best[response.output])
    for _ in range(20):
        s0, s1 = base + rng.normal(size=2) * 1.5
        t0, t1 = rng.normal(size=2) * 0.3 + loss(np.array([s0, s1]))
        bound = deviation(loss, *(np.array([v]) for v in (s0, s1, t0, t1, radius)))
        share = np.linspace(0, 1, 3001)
        s, t = s0 + share * (s1 - s0), t0 + share * (t1 - t0)
        worst = max(np.abs(loss(s + shift) - t).max() for shift in (-radius, -radius / 2, 0, radius / 2, radius))
        assert worst <= bound
        slope = np.abs(np.gradient(loss(s), s)).max()
        assert bound <= 1.02 * worst + 2 * radius * (slope + 1) + 1e-3 * abs(s1 - s0) ** 2 + 1e-9


def test_deviation_does_not_lose_nan():
    one = np.array([1.0])
    assert deviation(lambda s: s**2, one, np.nan * one, one, one, 0 * one) == np.inf
    assert deviation(lambda s: s * np.nan, one, 2 * one, one, one, 0 * one) == np.inf
    assert deviation(lambda s: s + np.inf, one, 2 * one, one, one, 0 * one) == np.inf
    several = np.array([1.0, np.nan, 1.0])
    assert deviation(lambda s: s**2, np.ones(3), several, np.ones(3), np.ones(3), np.zeros(3)) == np.inf


@pytest.mark.parametrize(
    ("cells", "dtype"), [((16, 16), torch.float64), ((9, 14), torch.float32), ((3, 3, 4), torch.float32)]
)
def test_following_hats_sparsely_gives_the_same_proof(cells, dtype, monkeypatch):
    values = torch.rand([n + 1 for n in cells], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    values[values < 0.5] = 0.0
    data = (X.to(dtype), Y)
    torch_default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        imprint = lf.imprint(lf.Pattern(values), data, form="hats")
    finally:
        torch.set_default_dtype(torch_default)
    calls = []
    original = propagate_module.rare_units
    monkeypatch.setattr(propagate_module, "rare_units", lambda *a: calls.append(original(*a)) or calls[-1])
    dense = lf.certify(imprint)
    before = len(calls)
    for module in (propagate_module, rare_module):
        monkeypatch.setattr(module, "BLOCK", 1)
    monkeypatch.setattr(rare_module, "TILE", 1)  # a hat is rare on so small a mesh only in small tiles
    sparse = lf.certify(imprint)
    assert before == 0
    assert any(call is not None for call in calls)
    # where many hats meet, the sparse way counts a few more of them as active: looser, never tighter
    assert dense.bound * (1 - 1e-9) <= sparse.bound <= 1.3 * dense.bound
    assert sparse.curve == pytest.approx(dense.curve, rel=1e-9)
    assert sparse.register == pytest.approx(dense.register, rel=1e-9, abs=1e-15)


def test_parts_add_up_and_survive_json():
    certificate = lf.imprint(lf.Pattern(torch.rand(4, 4, dtype=torch.float64, generator=GENERATOR)), (X, Y)).certificate
    total = certificate.register + certificate.curve + certificate.rounding
    assert certificate.bound == pytest.approx(total, rel=1e-9)
    assert certificate.bound >= total
    assert certificate.relative_bound == pytest.approx(
        certificate.bound / (certificate.range[1] - certificate.range[0])
    )
    assert certificate.domain == "[0, 1]^2"
    assert Certificate.from_json(certificate.to_json()) == certificate
    assert "is at most" in str(certificate)
    assert certificate.assumptions


def test_certifying_twice_gives_the_same_bound():
    imprint = lf.imprint(lf.Pattern(torch.rand(5, 5, dtype=torch.float64, generator=GENERATOR)), (X, Y))
    again = lf.certify(imprint)
    assert again.bound == imprint.certificate.bound
    assert again.holds
    assert again.promised == imprint.certificate.bound
