"""θ(h) = origin + Σ h_i d_i, bit for bit what it says, and nothing else is touched."""

import pytest
import torch

from landform import Subspace
from landform.errors import InputError

torch.set_num_threads(1)


def space(dtype=torch.float32, z=3):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    origin = {"w": draw(2, 3), "b": draw(4), "still": draw(5)}
    directions = tuple({"w": draw(2, 3)} | ({"b": draw(4)} if i % 2 else {}) for i in range(z))
    return Subspace(origin, directions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_is_affine_and_leaves_the_origin(dtype):
    subspace = space(dtype)
    kept = {name: value.clone() for name, value in subspace.origin.items()}
    h = torch.tensor([0.25, -1.5, 0.125], dtype=torch.float64)
    found = subspace.at(h)
    assert set(found) == {"w", "b", "still"}
    for name, value in found.items():
        want = kept[name].double()
        for coordinate, direction in zip(h, subspace.directions, strict=True):
            want = want + coordinate * direction.get(name, torch.zeros_like(kept[name])).double()
        torch.testing.assert_close(value.double(), want, rtol=1e-5 if dtype == torch.float32 else 1e-14, atol=1e-6)
        assert value.dtype == dtype
        assert torch.equal(subspace.origin[name], kept[name])
    assert found["still"] is subspace.origin["still"]
    assert found["w"] is not subspace.origin["w"]


def test_at_zero_is_the_origin_bit_for_bit():
    subspace = space()
    for name, value in subspace.at(torch.zeros(3)).items():
        assert torch.equal(value, subspace.origin[name])


def test_unit_directions_put_h_into_the_parameter_exactly():
    eye = torch.eye(4)
    subspace = Subspace({"b": torch.zeros(4)}, ({"b": eye[0]}, {"b": eye[1]}))
    h = torch.rand(2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(subspace.at(h)["b"], torch.tensor([float(h[0]), float(h[1]), 0.0, 0.0]))


def test_permuting_directions_permutes_coordinates():
    subspace = space()
    turned = Subspace(subspace.origin, subspace.directions[::-1])
    h = torch.tensor([0.5, 0.25, 0.75])
    for name, value in subspace.at(h).items():
        torch.testing.assert_close(turned.at(h.flip(0))[name], value)


def test_names_of_what_moves_and_how_many():
    subspace = space()
    assert subspace.z == 3
    assert subspace.moved == ("w", "b")
    assert Subspace({"b": torch.zeros(1)}, ()).at(torch.zeros(0))["b"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("h", "message"),
    [
        (torch.zeros(2), "3 finite coordinates"),
        (torch.zeros(3, 1), "3 finite coordinates"),
        (torch.tensor([0.0, float("nan"), 0.0]), "3 finite coordinates.*nan"),
        (torch.tensor([0.0, 0.0, float("inf")]), "3 finite coordinates.*inf"),
    ],
)
def test_bad_points(h, message):
    with pytest.raises(InputError, match=message):
        space().at(h)


def test_directions_must_fit_the_origin():
    origin = {"b": torch.zeros(3)}
    with pytest.raises(InputError, match="direction 2 moves 'c', which is no parameter of the origin"):
        Subspace(origin, ({"b": torch.ones(3)}, {"c": torch.ones(3)}))
    with pytest.raises(InputError, match=r"direction 1 has shape \(2,\) for 'b', the origin \(3,\)"):
        Subspace(origin, ({"b": torch.ones(2)},))


def test_gradients_do_not_reach_the_origin():
    origin = {"b": torch.zeros(2, requires_grad=True)}
    found = Subspace(origin, ({"b": torch.ones(2)},)).at(torch.tensor([0.5]))["b"]
    assert not found.requires_grad
    assert origin["b"].grad is None


def test_parameters_are_moved_piece_by_piece_with_the_same_bits(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    origin, a, b = (torch.randn(7, 5, generator=generator) for _ in range(3))
    plane = Subspace({"w": origin}, ({"w": a}, {"w": b.t().contiguous().t()}))  # of another layout
    h = torch.tensor([0.3, -1.7], dtype=torch.float64)
    wanted = origin + h[0].float() * a + h[1].float() * b
    for piece in (1 << 20, 4):
        monkeypatch.setattr("landform.subspace.subspace.PIECE", piece)
        assert torch.equal(plane.at(h)["w"], wanted)
    assert torch.equal(Subspace({"w": origin.t()}, ({"w": a.t()},)).at(h[:1])["w"], origin.t() + h[0].float() * a.t())


def test_directions_of_half_precision_make_no_stairs():
    step = torch.tensor([1.0]).bfloat16()
    line = Subspace({"w": torch.zeros(1).bfloat16()}, ({"w": step},))
    for h in (0.5, 0.5001, 0.5002):  # one number in bfloat16
        moved = line.at(torch.tensor([h], dtype=torch.float64), dtype=torch.float32)["w"]
        assert float(moved) == pytest.approx(h, rel=1e-6)
