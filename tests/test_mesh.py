"""The Kuhn mesh against naive references and laws."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landform.errors import InputError
from landform.mesh import Mesh

CELLS = [(7,), (1,), (4, 4), (3, 5), (2, 3, 4), (4, 4, 4), (2, 2, 2, 2), (1, 2, 3, 1)]
meshes = st.sampled_from(CELLS).map(Mesh)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hat_interpolate(mesh: Mesh, values: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Interpolate by the other route: sum of the hats relu(1 − (max(x, 0) − min(x, 0))), x = n·h − i."""
    x = h[:, None] * torch.tensor(mesh.cells, dtype=torch.float64) - mesh.indices()[None].double()
    x = torch.cat([x, torch.zeros_like(x[..., :1])], -1)
    return torch.relu(1 - (x.amax(-1) - x.amin(-1))) @ values.reshape(mesh.n_nodes, -1)


@pytest.mark.parametrize("cells", CELLS)
def test_interpolation_equals_the_sum_of_hats(cells):
    mesh = Mesh(cells)
    values = torch.rand(mesh.shape, dtype=torch.float64, generator=generator())
    h = torch.rand(200, mesh.z, dtype=torch.float64, generator=generator(1))
    torch.testing.assert_close(mesh.interpolate(values, h), hat_interpolate(mesh, values, h)[:, 0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("cells", CELLS)
def test_nodes_are_reproduced(cells):
    mesh = Mesh(cells)
    values = torch.rand(*mesh.shape, 3, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(mesh.interpolate(values, mesh.nodes()), values.reshape(-1, 3), rtol=0, atol=1e-13)


@given(meshes, st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_weights_are_barycentric(mesh, seed):
    h = torch.rand(50, mesh.z, dtype=torch.float64, generator=generator(seed))
    vertices, weights = mesh.locate(h)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(torch.einsum("pv,pvz->pz", weights, mesh.nodes()[vertices]), h)


@given(meshes, st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_swapping_axes_transposes(mesh, seed):
    values = torch.rand(mesh.shape, dtype=torch.float64, generator=generator(seed))
    h = torch.rand(20, mesh.z, dtype=torch.float64, generator=generator(seed + 1))
    flipped = Mesh(mesh.cells[::-1])
    torch.testing.assert_close(
        mesh.interpolate(values, h), flipped.interpolate(values.permute(*reversed(range(mesh.z))), h.flip(1))
    )


@given(meshes, st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_point_reflection_maps_the_mesh_to_itself(mesh, seed):
    values = torch.rand(mesh.shape, dtype=torch.float64, generator=generator(seed))
    h = torch.rand(20, mesh.z, dtype=torch.float64, generator=generator(seed + 1))
    mirrored = values.flip(list(range(mesh.z)))
    torch.testing.assert_close(mesh.interpolate(values, h), mesh.interpolate(mirrored, 1 - h), rtol=0, atol=1e-12)


@given(meshes, st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_refinement_nests(mesh, seed):
    values = torch.rand(mesh.shape, dtype=torch.float64, generator=generator(seed))
    fine = mesh.refined()
    finer = mesh.interpolate(values, fine.nodes()).reshape(fine.shape)
    h = torch.rand(30, mesh.z, dtype=torch.float64, generator=generator(seed + 1))
    torch.testing.assert_close(fine.interpolate(finer, h), mesh.interpolate(values, h), rtol=0, atol=1e-13)
    surplus = fine.surplus(finer)
    assert surplus[fine.levels() == fine.depth].abs().max() < 1e-13


@pytest.mark.parametrize("cells", [(8,), (8, 8), (4, 8), (4, 4, 8), (2, 2, 2, 4), (3, 3)])
def test_surplus_and_its_inverse(cells):
    mesh = Mesh(cells)
    values = torch.rand(*mesh.shape, 2, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(mesh.from_surplus(mesh.surplus(values)), values, rtol=0, atol=1e-14)


def test_surplus_equals_value_minus_coarse_interpolant():
    mesh = Mesh((8, 4, 8))
    values = torch.rand(mesh.shape, dtype=torch.float64, generator=generator())
    level, surplus = mesh.levels(), mesh.surplus(values)
    for fine in range(1, mesh.depth + 1):
        step = 1 << (mesh.depth - fine + 1)
        coarse = mesh.coarsened(mesh.depth - fine + 1)
        kept = values[tuple(slice(None, None, step) for _ in mesh.cells)].contiguous()
        new = level.reshape(-1) == fine
        expected = values.reshape(-1)[new] - coarse.interpolate(kept, mesh.nodes()[new])
        torch.testing.assert_close(surplus.reshape(-1)[new], expected)


@pytest.mark.parametrize("cells", CELLS)
def test_simplices_tile_the_box(cells):
    mesh = Mesh(cells)
    simplices, nodes = mesh.simplices(), mesh.nodes()
    assert len(simplices) == mesh.n_simplices == len({tuple(sorted(s)) for s in simplices.tolist()})
    corners = nodes[simplices]
    volume = torch.linalg.det(corners[:, 1:] - corners[:, :1]).abs().sum() / math.factorial(mesh.z)
    assert abs(volume.item() - 1) < 1e-12


@pytest.mark.parametrize("cells", CELLS)
def test_edges_are_those_of_the_simplices(cells):
    mesh = Mesh(cells)
    naive = {tuple(sorted(pair)) for s in mesh.simplices().tolist() for pair in itertools.combinations(s, 2)}
    found = [tuple(e) for e in mesh.edges().tolist()]
    assert set(found) == naive
    assert len(found) == len(naive)


def test_boundary_counts():
    assert Mesh((4, 4)).boundary().sum() == 16
    assert Mesh((4,)).boundary().sum() == 2


def test_bad_input_is_named():
    mesh = Mesh((4, 4))
    with pytest.raises(InputError, match=r"lie in \[0, 1\]\^2, got \[0.5, 1.5\]"):
        mesh.locate(torch.tensor([[0.5, 1.5]], dtype=torch.float64))
    with pytest.raises(InputError, match=r"lie in \[0, 1\]"):
        mesh.locate(torch.tensor([[float("nan"), 0.5]], dtype=torch.float64))
    with pytest.raises(InputError, match=r"shape \[points, 2\], got \(3, 3\)"):
        mesh.locate(torch.rand(3, 3, dtype=torch.float64))
    with pytest.raises(InputError, match=r"nodal values must have shape \(5, 5\)"):
        mesh.interpolate(torch.zeros(4, 4, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64))
    with pytest.raises(InputError, match="at least one cell"):
        Mesh((4, 0))
    with pytest.raises(InputError, match="more than the limit"):
        Mesh((100_000, 100_000))
    with pytest.raises(InputError, match="at most 2 times"):
        mesh.coarsened(3)
