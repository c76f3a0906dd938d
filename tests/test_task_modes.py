"""How a task runs its model: normalisation, randomness, devices, autocast; and what the probe finds."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from landform.data import Data
from landform.errors import ArchitectureError, InputError, UnknownNameError
from landform.scan import scan
from landform.scan.engine.own import UnsupportedError
from landform.subspace import random_plane
from landform.task import Task
from landform.task.places import check_device

N, D, C = 60, 5, 3
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, D, generator=GENERATOR) * 3 + 1, torch.randint(C, (N,), generator=GENERATOR)


def net(seed=0, norm=None):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(D, 8), norm or nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, C))


def state(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [(m.training, getattr(m, "momentum", None)) for m in model.modules()],
        torch.random.get_rng_state(),
    )


def assert_left(before, model):
    after = state(model)
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert before[1] == after[1]
    assert torch.equal(before[2], after[2])


def test_frozen_statistics_are_the_models_own():
    model = net().train()
    moved = {name: value * 1.3 for name, value in model.named_parameters()}
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, value in other.named_parameters():
            value.copy_(moved[name])
    wanted = F.cross_entropy(other(X).double(), Y)
    torch.testing.assert_close(Task(model, data=(X, Y)).evaluate(moved), wanted.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_recalibrated_statistics_are_those_of_the_network_at_each_point(momentum):
    model = net().train()
    model[1].momentum = momentum
    task = Task(model, data=(X, Y), batch_norm="recalibrate", metrics="accuracy")
    moved = {name: value * 1.7 for name, value in model.named_parameters()}
    before = state(model)
    got = task.evaluate(moved)
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, value in other.named_parameters():
            value.copy_(moved[name])
        hidden = other[0](X)
        other[1].running_mean, other[1].running_var = hidden.mean(0), hidden.var(0)
        wanted = F.cross_entropy(other(X).double(), Y)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(task.evaluate(moved, batch_size=7), wanted, rtol=1e-5, atol=0)
    assert got != pytest.approx(Task(model, data=(X, Y)).evaluate(moved).item(), rel=1e-2)
    assert not task.per_sample
    num, den = task.terms_at(moved, task.batch(slice(0, N)))
    torch.testing.assert_close((num.sum(1) / den.sum(1))[0], got, rtol=1e-6, atol=0)
    prepared = task.prepare(moved)
    assert set(prepared) - set(moved) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert torch.equal(task.evaluate(prepared), got)
    assert_left(before, model)


def test_recalibration_averages_batches_by_their_sizes(monkeypatch):
    monkeypatch.setattr("landform.task.caller.DEFAULT_BATCH", 25)
    model = net()
    prepared = Task(model, data=(X, Y), batch_norm="recalibrate").prepare(None)
    hidden = model[0](X).detach()
    torch.testing.assert_close(prepared["1.running_mean"], hidden.mean(0), rtol=1e-5, atol=1e-6)
    inside = torch.stack([part.var(0) for part in hidden.split(20)]).mean(0)  # 60 samples in three even batches
    torch.testing.assert_close(prepared["1.running_var"], inside, rtol=1e-5, atol=1e-6)


def test_a_test_split_is_normalised_by_the_first():
    parts = {"train": (X, Y), "test": (X[:9] + 5, Y[:9])}
    task = Task(net(), data=parts, batch_norm="recalibrate")
    prepared, other = task.prepare(None), task.split("test").prepare(None)
    assert torch.equal(prepared["1.running_mean"], other["1.running_mean"])


def test_batch_statistics_are_those_of_each_batch():
    model = net().eval()
    task = Task(model, data=(X, Y), batch_norm="batch")
    before = state(model)
    other = copy.deepcopy(model)
    other[1].train()
    with torch.no_grad():
        parts = zip(X.split(20), Y.split(20), strict=True)
        wanted = torch.stack([F.cross_entropy(other(x).double(), y) for x, y in parts])
    torch.testing.assert_close(task.evaluate(batch_size=20), wanted.mean(), rtol=1e-6, atol=0)
    assert not task.per_sample
    assert task.evaluate(batch_size=59).isfinite()  # no batch of one sample, which has no variance
    task.check()
    assert_left(before, model)


class Functional(nn.Module):
    """Forgets to heed its mode."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(D, C), kind

    def forward(self, x):
        x = self.layer(x)
        if self.kind == "dropout":
            return F.dropout(x)
        if self.kind == "attention":
            return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], dropout_p=0.5)[:, 0]
        if self.kind == "noise":
            return x + torch.randn_like(x)
        if self.kind == "batch norm":
            return F.batch_norm(x, None, None, training=True)
        if self.kind == "centred":
            return x - x.mean(0)
        return x


@pytest.mark.parametrize(
    ("model", "name", "match"),
    [
        (Functional("dropout"), "dropout", r"model Functional: dropout\(p=0.5\) is active in evaluation mode"),
        (Functional("attention"), "dropout", r"scaled_dot_product_attention\(dropout_p=0.5\)"),
        (Functional("noise"), "random", "by a random draw; make the model deterministic"),
        (Functional("batch norm"), "batch_norm", r"F.batch_norm\(training=True\) normalises by the batch"),
        (
            net(norm=nn.BatchNorm1d(8, track_running_stats=False)),
            "batch_norm",
            "BatchNorm1d without running statistics",
        ),
        (Functional("centred"), "coupled", "the losses of 4 samples change by .* when others are in their batch"),
    ],
)
def test_the_probe_names_what_it_finds(model, name, match):
    task = Task(model, data=(X, Y))
    before = state(model)
    with pytest.raises(InputError, match=match):
        task.check()
    assert_left(before, model)
    allowed = Task(model, data=(X, Y), allow=name)
    allowed.check()
    assert allowed.per_sample == (name in ("dropout", "random"))
    assert torch.equal(allowed.evaluate(), allowed.evaluate())


class Drifting(nn.Module):
    """Adds a little more in each pass, as kernels do whose order of summation depends on where memory lies."""

    def __init__(self, step, dtype=torch.float32):
        super().__init__()
        self.layer = nn.Linear(X.shape[1], 3, dtype=dtype)
        self.step, self.calls = step, 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x.to(self.layer.weight.dtype)) * (1 + self.calls * self.step)


def test_rounding_that_differs_between_passes_is_no_randomness():
    Task(Drifting(1e-7), data=(X, Y)).check()
    for model in (Drifting(1e-4), Drifting(1e-9, torch.float64)):
        with pytest.raises(InputError, match="even with the same random state"):
            Task(model, data=(X, Y)).check()


def test_permitted_draws_are_the_same_at_every_point():
    task = Task(Functional("noise"), data=(X, Y), allow="random")
    batch = task.batch(slice(20, 40))
    with task.mode():
        first = task.terms_at(None, batch)[0]
        shifted = task.terms_at({"layer.bias": task.model.layer.bias + 1}, batch)[0]  # softmax does not see a shift
    torch.testing.assert_close(first, shifted, rtol=1e-5, atol=1e-6)
    assert not torch.equal(first, task.terms_at(None, task.batch(slice(21, 41)))[0])


@pytest.mark.parametrize("model", [net(), Functional("none"), nn.Sequential(nn.Linear(D, C), nn.Dropout())])
def test_the_probe_finds_nothing_in_what_is_in_order(model):
    for metrics in ((), "accuracy"):
        task = Task(model.train(), data=(X, Y), metrics=metrics)
        assert task.findings() == ()
        task.check()
        assert task.per_sample
    Task(model, data=(X[:1], Y[:1])).check()
    Task(model, lambda p, y: F.cross_entropy(p, y), (X, Y)).check()
    Task(model, step=lambda m, b: F.cross_entropy(m(b[0]), b[1]), data=(X, Y)).check()
    Task(model, data=(X, Y)).split("all").check()
    Task(lambda x: x * float("nan"), data=(X, Y % D)).check()


def test_a_coupled_step_is_found():
    def contrast(model, batch):
        outputs = model(batch[0])
        return (outputs @ outputs.T).logsumexp(1) - outputs.square().sum(1)

    task = Task(nn.Linear(D, C), step=contrast, data=(X, Y))
    assert task.separable
    assert not task.per_sample
    with pytest.raises(InputError, match="allow='coupled'"):
        task.check()


def test_autocast_computes_in_half_precision_and_keeps_weights():
    model = nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, C))
    task = Task(model, data=(X, Y), autocast=True)
    assert task.outputs().dtype == torch.bfloat16
    full = Task(model, data=(X, Y)).evaluate()
    assert task.evaluate() != full
    torch.testing.assert_close(task.evaluate(), full, rtol=0.02, atol=0)
    assert not task.settings.plain
    assert task.replace(data=(X, Y)).settings == task.settings
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert torch.equal(task.outputs(), model(X))
    task.check()


def test_autocast_by_name_is_said_by_the_surface():
    model = nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, C))
    named, typed = (Task(model, data=(X, Y), autocast=kind) for kind in ("float16", torch.float16))
    assert named.settings == typed.settings
    surface = scan(named, random_plane(named, z=1, seed=0), grid=3)
    assert (surface.attrs["autocast"], surface.attrs["dtype"]) == ("float16", "float32")
    with torch.autocast("cpu", dtype=torch.float16), torch.no_grad():
        assert float(surface.loss[1]) == pytest.approx(F.cross_entropy(model(X).double(), Y).item(), abs=1e-12)
    with pytest.raises(UnsupportedError, match=r"autocast=torch\.float16, which engine='functional' follows alone"):
        scan(named, random_plane(named, z=1, seed=0), grid=3, engine="stacked")


def test_the_surface_says_in_which_dtype_it_was_computed():
    model = nn.Linear(D, C).bfloat16()
    for dtype, said in ((None, "float32"), (torch.float64, "float64"), (torch.bfloat16, "bfloat16")):
        task = Task(model, data=(X, Y), dtype=dtype)
        assert scan(task, random_plane(task, z=1), grid=3).attrs["dtype"] == said


def test_a_sharded_model_is_named():
    class DTensor(torch.Tensor):
        pass

    model = nn.Linear(D, C)
    model.weight = nn.Parameter(torch.zeros(C, D).as_subclass(DTensor))
    for call in (lambda: Task(model, data=(X, Y)).evaluate(), lambda: random_plane(model)):
        with pytest.raises(ArchitectureError, match=r"weight is sharded over processes .*get_model_state_dict"):
            call()


def test_dtype_of_a_task():
    task = Task(net(), data=(X, Y), dtype=torch.float64)
    assert task.outputs().dtype == torch.float64
    assert torch.equal(task.evaluate(), Task(net().double(), data=(X.double(), Y)).evaluate())
    assert Task(net(), data=(X, Y), device="cpu").evaluate() == Task(net(), data=(X, Y)).evaluate()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"device": "cuda"}, InputError, "device='cuda' asked for, but .*; use device='cpu'"),
        ({"device": "mps"}, InputError, "device='mps' asked for, but PyTorch sees no Apple GPU"),
        ({"device": "tpu"}, InputError, "device is 'tpu'; wanted 'cpu', 'cuda'"),
        ({"device": "meta"}, InputError, "which holds no values"),
        ({"autocast": torch.float32}, InputError, "autocast is torch.float32"),
        ({"autocast": "bf16"}, InputError, "autocast is 'bf16'; wanted True, 'bfloat16' or 'float16'"),
        ({"dtype": torch.int64}, InputError, "dtype is torch.int64"),
        ({"batch_norm": "recalibrated"}, UnknownNameError, "did you mean 'recalibrate'"),
        ({"allow": "drop_out"}, UnknownNameError, "did you mean 'dropout'"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there are devices here")
def test_unusable_settings(options, error, match):
    with pytest.raises(error, match=match):
        Task(net(), data=(X, Y), **options)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="there are 2 GPUs: cuda:0 … cuda:1"):
        check_device("cuda:2")


def test_weights_enter_after_recalibration():
    data = Data(X, Y).reweight({0: 0.0})
    kept = Data(X[Y > 0], Y[Y > 0])
    task = Task(net(), data={"train": data, "test": kept}, batch_norm="recalibrate")
    torch.testing.assert_close(task.evaluate(), task.split("test").evaluate(), rtol=1e-6, atol=0)


class Writes(nn.Module):
    """Changes its inputs in place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, C)

    def forward(self, x):
        return self.layer(x.mul_(0.5))


def test_data_are_left_alone_by_a_model_that_writes_into_its_inputs():
    before = X.clone()
    for options in ({}, {"step": lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none")}):
        task = Task(Writes(), data=(X, Y), **options)
        wanted = F.cross_entropy(task.model.layer(X * 0.5).double(), Y)
        with task.mode():
            for _ in range(2):
                torch.testing.assert_close(task.evaluate(batch_size=7), wanted.detach(), rtol=1e-6, atol=0)
        assert torch.equal(X, before)


def test_torchscript_is_refused():
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        scripted = torch.jit.trace(nn.Linear(D, C), X)
    with pytest.raises(InputError, match=r"is a TorchScript module, .*pass the module that it was scripted"):
        Task(scripted, data=(X, Y))


@pytest.mark.parametrize("kind", ["lstm", "gru", "encoder", "weight norm", "spectral norm", "compiled inside"])
def test_layers_with_ways_of_their_own(kind):
    class Recurrent(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.out = layer(1, 6, batch_first=True), nn.Linear(6, C)

        def forward(self, x):
            return self.out(self.layer(x[..., None])[0][:, -1])

    linear = nn.Linear(D, C)
    model = {
        "lstm": lambda: Recurrent(nn.LSTM),
        "gru": lambda: Recurrent(nn.GRU),
        "encoder": lambda: nn.Sequential(
            nn.Unflatten(1, (D, 1)), nn.TransformerEncoderLayer(1, 1, 4, batch_first=True), nn.Flatten(), linear
        ),
        "weight norm": lambda: nn.utils.parametrizations.weight_norm(linear),
        "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(linear),
        "compiled inside": lambda: nn.Sequential(nn.Linear(D, D), torch.compile(linear, backend="eager")),
    }[kind]().train()
    task = Task(model, data=(X, Y))
    moved = {name: value * 1.1 for name, value in model.named_parameters()}
    got = task.evaluate(moved)
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(1.1)
        wanted = F.cross_entropy(other(X).double(), Y)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)
