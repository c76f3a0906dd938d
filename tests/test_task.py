"""`Task`: the loss over the data set, and a model left as it was found."""

import collections
import types
import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from landform.data import Data
from landform.errors import ArchitectureError, DataError, InputError, UnknownNameError
from landform.task import Task, model_hash, outputs_probe

N, D, C = 37, 6, 4


def data(seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=generator)
    return Data(x, torch.randint(C, (N,), generator=generator), **options)


def mlp(seed=0, *, dtype=torch.float32, extra=()):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(D, 8), *extra, nn.ReLU(), nn.Linear(8, C)).to(dtype)


def snapshot(model):
    """Everything that a method must not change."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return (
        [(name, id(value), value._version, value.detach().clone()) for name, value in tensors],
        [(name, value.requires_grad, value.grad) for name, value in tensors],
        [module.training for module in model.modules()],
        torch.random.get_rng_state(),
    )


def assert_same(before, after):
    assert [entry[:3] for entry in before[0]] == [entry[:3] for entry in after[0]]
    assert all(torch.equal(a[3], b[3]) for a, b in zip(before[0], after[0], strict=True))
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])


class Noisy(nn.Module):
    """Draws random numbers and counts its calls in a buffer, whatever the mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x + 0 * torch.rand_like(x)


@settings(deadline=None, max_examples=30)
@given(
    layers=st.lists(st.sampled_from(["dropout", "norm", "noisy"]), max_size=3),
    modes=st.lists(st.booleans(), min_size=8, max_size=8),
    frozen=st.booleans(),
    batch_size=st.one_of(st.none(), st.integers(1, 50)),
    call=st.sampled_from(["evaluate", "outputs", "heads", "probe", "hash", "fails"]),
    half=st.booleans(),
)
def test_the_model_is_left_as_found(layers, modes, frozen, batch_size, call, half):
    build = {"dropout": lambda: nn.Dropout(0.5), "norm": lambda: nn.BatchNorm1d(8), "noisy": Noisy}
    model = mlp(extra=[build[layer]() for layer in layers])
    for module, mode in zip(model.modules(), modes, strict=False):
        module.training = mode
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(not frozen)
    task = Task(model, data=data())
    before = snapshot(model)
    given_ = {name: value + 1 for name, value in list(model.named_parameters())[: 2 if half else None]}
    if call == "evaluate":
        task.evaluate(given_, batch_size=batch_size)
        task.evaluate(batch_size=batch_size, dtype=torch.float64)
    elif call == "outputs":
        task.outputs(given_, batch_size=batch_size)
    elif call == "heads":
        task.heads()
    elif call == "probe":
        outputs_probe(task)
    elif call == "hash":
        model_hash(model)
    else:
        with pytest.raises(InputError, match="cannot take inputs"):
            task.outputs(inputs=torch.zeros(3, D + 1))
    assert_same(before, snapshot(model))


def test_evaluate_is_in_evaluation_mode():
    model = mlp(extra=[nn.Dropout(0.9), nn.BatchNorm1d(8)]).train()
    task = Task(model, data=data())
    got = task.evaluate()
    with torch.no_grad():
        wanted = F.cross_entropy(model.eval()(data().inputs).double(), data().targets)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("batch_size", [1, 5, 36, 37, 1000, None])
def test_batches_do_not_matter(batch_size):
    model = mlp(dtype=torch.float64)
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 0.1, 5.0, 2.0]), ignore_index=3)
    task = Task(model, loss, data().reweight({1: 4.0}))
    outputs = model(data().inputs.double()).detach()
    w = task.data.weights * (data().targets != 3) * torch.tensor([1.0, 0.1, 5.0, 0.0]).double()[data().targets]
    wanted = (w * F.cross_entropy(outputs, data().targets, reduction="none")).sum() / w.sum()
    torch.testing.assert_close(task.evaluate(batch_size=batch_size), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(task.losses_from_outputs(outputs), wanted, rtol=1e-12, atol=0)


def test_parameters_replace_the_models_own_wholly_or_in_part():
    model, other = mlp(0), mlp(1)
    task, there = Task(model, data=data()), Task(other, data=data())
    assert torch.equal(task.evaluate(dict(other.named_parameters())), there.evaluate())
    part = {"0.weight": other[0].weight}
    wanted = functional_call(model, part, (data().inputs,))
    assert torch.equal(task.outputs(part), wanted.detach())
    assert not task.outputs(part).requires_grad


def test_dtype_computes_in_another_precision_and_float64_models_get_float64_inputs():
    model = mlp()
    task = Task(model, data=data())
    double = Task(mlp(dtype=torch.float64), data=data())
    assert task.outputs(dtype=torch.float64).dtype == torch.float64
    assert double.outputs().dtype == torch.float64
    torch.testing.assert_close(task.evaluate(dtype=torch.float64), double.evaluate(), rtol=1e-15, atol=0)
    params = {name: value.double() for name, value in model.named_parameters()}
    assert torch.equal(task.evaluate(params), task.evaluate(dtype=torch.float64))
    with pytest.raises(InputError, match=r"dtypes torch.float32, torch.float64: pass dtype="):
        task.evaluate({"0.weight": params["0.weight"]})
    with pytest.raises(InputError, match=r"dtype is torch.int64"):
        task.evaluate(dtype=torch.int64)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(D, D, bias=False)
        self.b = nn.Linear(D, D, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


@pytest.mark.parametrize("names", [("a.weight",), ("b.weight",), ("a.weight", "b.weight")])
def test_tied_parameters_may_go_by_any_name(names):
    model = Tied()
    task = Task(model, "mse", (torch.eye(D), torch.zeros(D, D)))
    weight = torch.full((D, D), 0.5)
    for dtype in (None, torch.float64):
        got = task.evaluate({name: weight.clone() for name in names}, dtype=dtype)
        assert got.item() == pytest.approx((0.25 * D) ** 2)
    with pytest.raises(InputError, match=r"b.weight is tied to a.weight"):
        task.evaluate({"a.weight": weight, "b.weight": weight + 1})


class Heads(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList(mlp(seed) for seed in range(3))

    def forward(self, x):
        values = [layer(x) for layer in self.layers]
        if self.kind == "named tuple":
            return collections.namedtuple("Out", "r g b")(*values)  # noqa: PYI024
        if self.kind == "logits":
            return types.SimpleNamespace(logits=values[0], hidden=values)
        return {"tuple": tuple, "list": list, "dict": lambda v: dict(zip("rgb", v, strict=True))}[self.kind](values)


@pytest.mark.parametrize("kind", ["tuple", "list", "named tuple", "dict"])
def test_one_loss_a_head(kind):
    model = Heads(kind)
    task = Task(model, data=data())
    assert task.heads() == (("0", "1", "2") if kind in ("tuple", "list") else ("r", "g", "b"))
    got = task.evaluate(batch_size=10)
    wanted = [Task(layer, data=data()).evaluate(batch_size=10) for layer in model.layers]
    assert got.tolist() == [value.item() for value in wanted]
    outputs = task.outputs(batch_size=10)
    assert list(outputs) == list(task.heads())
    torch.testing.assert_close(task.losses_from_outputs(outputs), got)
    assert outputs_probe(task) == dict.fromkeys(task.heads(), (2, C))


def test_logits_are_the_output():
    model = Heads("logits")
    task = Task(model, data=data())
    assert task.heads() == ("output",)
    assert torch.equal(task.evaluate(), Task(model.layers[0], data=data()).evaluate())


def test_a_function_is_a_model_too():
    task = Task(lambda x: x[:, :C], data=data())
    wanted = F.cross_entropy(data().inputs[:, :C].double(), data().targets)
    torch.testing.assert_close(task.evaluate(), wanted)
    assert task.name == "<lambda>"
    with pytest.raises(InputError, match="parameters given for the function"):
        task.evaluate({"weight": torch.zeros(1)})


def test_integer_inputs_are_not_cast():
    model = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(6, 2)).double()
    tokens = torch.randint(9, (5, 2))
    assert outputs_probe(Task(model, data=(tokens, torch.tensor([0, 1, 0, 1, 1])))) == {"output": (2, 2)}


def test_losses_from_outputs_keep_gradients_and_take_other_targets():
    task = Task(mlp(), data=data().reweight({0: 9.0}))
    logits = torch.randn(3, C, requires_grad=True)
    value = task.losses_from_outputs(logits, torch.tensor([0, 1, -100]))
    torch.testing.assert_close(value, F.cross_entropy(logits.double(), torch.tensor([0, 1, -100])))
    value.backward()
    assert logits.grad is not None
    with pytest.raises(InputError, match="for 37 samples"):
        task.losses_from_outputs(logits)


def test_losses_of_uniform_outputs_are_the_log_of_classes():
    for dtype in (torch.float16, torch.float32, torch.float64):
        value = Task(mlp(), data=data()).losses_from_outputs(torch.zeros(N, C, dtype=dtype))
        assert value.item() == pytest.approx(torch.tensor(4.0).double().log().item(), rel=1e-15)


def test_not_finite_losses_are_data():
    model = mlp()
    task = Task(model, data=data())
    assert task.evaluate({"2.bias": torch.full((C,), float("nan"))}).isnan()


def test_a_random_loss_leaves_the_random_state():
    task = Task(mlp(), lambda p, y: p.sum(1) * torch.rand(len(p)), data())
    before = torch.random.get_rng_state()
    assert torch.equal(task.evaluate(), task.evaluate())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_replace_changes_what_is_named():
    task = Task(mlp(), data=data(), name="mine")
    other = task.replace(data=data(1), loss="multi_margin")
    assert other.model is task.model
    assert (other.loss, other.name, other.data.hash) == ("multi_margin", "mine", data(1).hash)
    assert task.replace(model=mlp(1)).data is task.data
    assert repr(task).startswith("Task(Sequential, loss='cross_entropy', data=Data('data'")


def test_a_task_without_data():
    task = Task(mlp())
    assert not task.has_data
    assert Task(mlp(), data=data()).has_data
    for call in (task.evaluate, task.heads, task.outputs, lambda: outputs_probe(task)):
        with pytest.raises(DataError, match="task Sequential has no data"):
            call()


@pytest.mark.parametrize(
    ("model", "inputs", "match"),
    [
        (nn.Linear(12, C), torch.zeros(N, 1, 3, 4), r"wants 12 features, a sample has 12: put nn.Flatten\(\) in front"),
        (nn.Linear(13, C), torch.zeros(N, 12), r"shape \[2, 12\].*wants 13 features, a sample has 12"),
        (nn.Linear(12, C), torch.zeros(N, 12, dtype=torch.uint8), "divide by 255"),
        (nn.Conv2d(3, C, 2), torch.zeros(N, 12), r"first convolution wants \[n, 3, rows, columns\]"),
        (nn.Conv1d(3, C, 2), torch.zeros(N, 4, 9), r"first convolution wants \[n, 3, length\]"),
        (nn.Embedding(5, C), torch.zeros(N), "wants integer tokens"),
        (nn.Embedding(5, C), torch.full((N,), 7), "largest token is 7, its table holds 5"),
        (nn.Linear(28, C), torch.zeros(N, 1, 28, 28), r"outputs have shape \[2, 1, 28, 4\], targets \[2\]"),
        (lambda x: x.sum(), torch.zeros(N, 4), r"head output has shape \[\] for 2 samples"),
        (lambda x: x[:1], torch.zeros(N, 4), "one row a sample"),
        (lambda x: 3, torch.zeros(N, 4), "got a int; wanted a tensor"),
        (lambda x: {}, torch.zeros(N, 4), "no heads at all"),
        (lambda x: {"a": 1}, torch.zeros(N, 4), "head a is a int"),
        (lambda x: x[:, :3], torch.zeros(N, 4), "gives 3 outputs .* has 4 classes; make the last layer 4 wide"),
        (lambda x: x @ x, torch.zeros(N, 4), r"model function cannot take inputs of shape \[2, 4\]"),
    ],
)
def test_the_probe_names_shapes(model, inputs, match):
    targets = torch.arange(N) % C
    with pytest.raises((InputError, DataError), match=match):
        outputs_probe(Task(model, data=Data(inputs, targets)))


def test_unusable_arguments():
    with pytest.raises(InputError, match=r"build it first: Linear\(…\)"):
        Task(nn.Linear)
    with pytest.raises(InputError, match="model is 3"):
        Task(3)
    with pytest.raises(UnknownNameError, match="did you mean 'mse'"):
        Task(mlp(), "mes")
    task = Task(mlp(), data=data())
    with pytest.raises(UnknownNameError, match=r"unknown parameter '0.wieght': did you mean '0.weight'"):
        task.evaluate({"0.wieght": torch.zeros(8, D)})
    with pytest.raises(InputError, match=r"0.weight has shape \[3\]; the model's is \[8, 6\]"):
        task.evaluate({"0.weight": torch.zeros(3)})
    with pytest.raises(InputError, match="batch_size is 0"):
        task.evaluate(batch_size=0)
    with pytest.raises(ArchitectureError, match="has no values"):
        Task(mlp().to("meta"), data=data()).evaluate()
    with pytest.raises(ArchitectureError, match="has no values"):
        model_hash(mlp().to("meta"))
    with pytest.raises(ArchitectureError, match="has no weights to hash"):
        model_hash(lambda x: x)


def test_lazy_modules_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of PyTorch call lazy modules experimental
        model = nn.LazyLinear(C)
    with pytest.raises(ArchitectureError, match="lazy module"):
        Task(model, data=data()).evaluate()


def test_model_hash_sees_names_values_shapes_dtypes_and_buffers():
    model = mlp(extra=[nn.BatchNorm1d(8)])
    first = model_hash(model)
    assert first == model_hash(mlp(extra=[nn.BatchNorm1d(8)]))
    assert model_hash(model.double()) != first
    model.float()
    assert model_hash(model) == first
    model[1].running_mean += 1
    assert model_hash(model) != first
    assert model_hash(mlp()) != model_hash(nn.Sequential(collections.OrderedDict(a=mlp())))
