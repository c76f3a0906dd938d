"""Small trained networks, made once."""

import pytest
import torch
from torch import nn

import landform as lf


def train(model, x, y, loss, steps=150):
    """Train by full-batch Adam, from a seed of its own."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    return model.eval()


def build(kind, dtype):
    digits = lf.load_data("digits")
    x, y = digits.inputs[:400].to(dtype), digits.targets[:400]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "cnn":
            x = x.reshape(-1, 1, 8, 8)
            model = nn.Sequential(
                *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 10)),
            )
        elif kind == "bn":
            model = nn.Sequential(nn.Flatten())
            for inputs in (64, 24, 24, 24):
                model.extend([nn.Linear(inputs, 24), nn.BatchNorm1d(24), nn.ReLU()])
            model.append(nn.Linear(24, 10))
        else:
            width = {"wide": 96}.get(kind, 24)
            model = nn.Sequential(nn.Flatten())
            for inputs in (64, *[width] * 4):
                model.extend([nn.Linear(inputs, width), nn.LeakyReLU(0.1) if kind == "leaky" else nn.ReLU()])
            model.append(nn.Linear(width, 10))
        model = model.to(dtype)
        loss, name = nn.functional.cross_entropy, "cross_entropy"
        if kind == "mse":
            y, loss, name = nn.functional.one_hot(y, 10).to(dtype), nn.functional.mse_loss, "mse"
        elif kind == "bce":
            y = torch.stack([(y >> bit) & 1 for bit in range(10)], dim=1).to(dtype)
            loss, name = nn.functional.binary_cross_entropy_with_logits, "bce_with_logits"
        train(model, x, y, loss)
    return lf.Task(model, name, (x, y))


@pytest.fixture(scope="session")
def trained():
    """Return a function (kind, dtype) → task, each trained once."""
    made = {}

    def get(kind="mlp", dtype=torch.float64):
        if (kind, dtype) not in made:
            made[kind, dtype] = build(kind, dtype)
        return made[kind, dtype]

    return get
