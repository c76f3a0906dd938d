"""What a scan with a tolerance says about values between its nodes, by losses whose gap there is known."""

import warnings

import pytest
import torch
from torch import nn

import landform as lf
from landform.subspace import Subspace


def parabola(n=64):
    """Loss h² + 1/3 or so along a line: between nodes 1 apart it sags by u·(1 − u) at the place u."""
    model = nn.Linear(1, 1)
    origin = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
    targets = torch.linspace(-1, 1, n)[:, None]
    return lf.Task(model, "mse", (torch.zeros(n, 1), targets)), Subspace(origin, ({"bias": torch.ones(1)},))


def measure(tolerance, grid=3):
    task, line = parabola()
    return lf.scan(task, line, grid=grid, ranges=[(-1, 1)], tolerance=("absolute", tolerance), progress=False)


def test_random_points_off_by_more_than_the_tolerance_are_said_to_be():
    with pytest.warns(UserWarning, match=r"between the nodes the surface is off by more than") as caught:
        surface = measure(1e-6)
    assert caught[0].filename == __file__
    attrs = surface.attrs
    assert attrs["loss_check_outside"] == attrs["loss_check_points"] > 0  # nowhere is u·(1 − u) as small
    assert 0.1 < attrs["loss_check_largest"] <= 0.25
    text = str(caught[0].message)
    points = attrs["loss_check_points"]
    assert f"±1e-06 at {points} of {points} random points, by up to {attrs['loss_check_largest']:.3g};" in text
    assert "with 99 % that is so in up to 100 % of the volume" in text


def test_nothing_is_said_where_the_surface_is_as_near_as_asked_for():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surface = measure(0.26)
    assert surface.attrs["loss_check_outside"] == 0
    assert surface.attrs["loss_check_largest"] > 0.1
