"""Gradient norm and top eigenvalue of the Hessian: closed forms, and PyTorch's own on the whole set."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from torch import nn
from torch.func import functional_call, grad, jacrev

from landform.data import Data
from landform.errors import InputError
from landform.task import Task

N, D, C = 23, 4, 3
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, D, generator=GENERATOR), torch.randint(C, (N,), generator=GENERATOR)
BOTH = ("gradient_norm", "top_hessian_eigenvalue")


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(D, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, C)).double()


def test_linear_regression_has_a_closed_form():
    x, y = X.double(), X.double().sum(1, keepdim=True) + 1
    model = nn.Linear(D, 1, bias=False).double()
    task = Task(model, "mse", (x, y), metrics=BOTH)
    slope = 2 * x.T @ (x @ model.weight.T - y) / N
    top = torch.linalg.eigvalsh(2 * x.T @ x / N)[-1]
    assert task.node_quantities() == BOTH
    torch.testing.assert_close(task.node_values(), torch.stack([slope.norm(), top]).detach(), rtol=1e-6, atol=0)
    at = {"weight": torch.zeros(1, D)}
    torch.testing.assert_close(task.gradient(at)["weight"], (-2 * y.T @ x / N), rtol=1e-6, atol=1e-12)


def dense(model, loss):
    """Gradient norm and top eigenvalue from the Hessian as a matrix."""
    names, values = zip(*((n, p.detach()) for n, p in model.named_parameters()), strict=True)
    sizes = [value.numel() for value in values]

    def function(flat):
        parts = [part.reshape(value.shape) for part, value in zip(flat.split(sizes), values, strict=True)]
        return loss(dict(zip(names, parts, strict=True)))

    flat = torch.cat([value.reshape(-1) for value in values])
    return grad(function)(flat).norm(), torch.linalg.eigvalsh(jacrev(grad(function))(flat))[-1]


@pytest.mark.parametrize("kind", ["loss", "step", "scalar"])
def test_a_network_with_weights_and_ignored_labels(kind, monkeypatch):
    monkeypatch.setattr("landform.task.probed.DEFAULT_BATCH", 10)
    model = net()
    weight = torch.tensor([1.0, 4.0, 0.5]).double()
    if kind == "loss":
        task = Task(model, nn.CrossEntropyLoss(weight, ignore_index=2), Data(X, Y).reweight({0: 2.0}), metrics=BOTH)
        each = task.data.weights * weight[Y] * (Y != 2)
    elif kind == "step":
        task = Task(
            model, step=lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none"), data=(X, Y), metrics=BOTH
        )
        each = torch.ones(N).double()
    else:
        task = Task(model, lambda p, y: F.cross_entropy(p, y), (X, Y), metrics=BOTH)
        each = torch.ones(N).double()
    before = [p.grad for p in model.parameters()], [m.training for m in model.modules()], model.state_dict()
    got = task.node_values()

    def loss(parameters):
        model.eval()
        outputs = functional_call(model, parameters, (X.double(),))
        return (each * F.cross_entropy(outputs, Y, reduction="none")).sum() / each.sum()

    after = [p.grad for p in model.parameters()], [m.training for m in model.modules()], model.state_dict()
    assert before[:2] == after[:2]
    assert all(torch.equal(value, after[2][name]) for name, value in before[2].items())
    torch.testing.assert_close(got, torch.stack(dense(model, loss)).detach(), rtol=1e-4, atol=0)
    assert torch.equal(got, task.node_values())


def test_each_head_has_its_own():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(D, C).double(), nn.Linear(D, C).double()

        def forward(self, x):
            return {"a": self.a(x), "b": self.b(x)}

    task = Task(Heads(), data=(X, Y), metrics=BOTH)
    assert task.node_quantities() == tuple(f"{name}:{head}" for name in BOTH for head in "ab")
    alone = [Task(getattr(task.model, head), data=(X, Y), metrics=BOTH).node_values() for head in "ab"]
    torch.testing.assert_close(task.node_values(), torch.stack(alone, dim=1).flatten(), rtol=1e-4, atol=0)
    assert not bool(task.gradient(head=1)["a.weight"].any())


def test_attention_is_differentiated_twice():
    config = transformers.GPT2Config(
        n_layer=1, n_head=1, n_embd=4, vocab_size=6, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).double()
    ids = torch.randint(6, (5, 7), generator=GENERATOR)
    task = Task(model, "causal_lm", ids, metrics=BOTH)
    model.eval()

    def loss(parameters):
        logits = functional_call(model, parameters, (ids,)).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    model.set_attn_implementation("eager")
    wanted = torch.stack(dense(model, loss)).detach()
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(task.node_values(), wanted, rtol=1e-4, atol=0)


def test_what_is_not_finite_stays_so_and_what_is_linear_is_flat():
    task = Task(net(), data=(X, Y), metrics=BOTH)
    assert task.node_values({"3.bias": torch.full((C,), float("nan")).double()}).isnan().all()
    flat = Task(nn.Linear(D, 1), lambda p, y: p.sum(1), (X, Y), metrics=BOTH).node_values()
    assert flat[1] == 0
    with pytest.raises(InputError, match="cannot be differentiated"):
        Task(nn.Linear(D, C), lambda p, y: p.detach().sum(1), (X, Y), metrics="gradient_norm").node_values()
