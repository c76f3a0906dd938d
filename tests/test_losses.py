"""Losses as ratios of sums: equal to PyTorch's own mean on the whole set, whatever the batches."""

import functools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landform.errors import DataError, InputError, UnknownNameError
from landform.losses import LOSS_NAMES, LossSum, resolve_loss

N, C = 23, 5


def outputs(*shape, seed=0):
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.randint(C, (N,), generator=torch.Generator().manual_seed(1))
SOME_IGNORED = torch.where(torch.arange(N) % 4 == 1, -100, LABELS)
CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.0, 2.0])
VALUES = outputs(3, seed=2)

# loss, outputs, targets: PyTorch's own module, called once on everything, is the reference
CASES = {
    "ce": (nn.CrossEntropyLoss(), outputs(C), LABELS),
    "ce weighted": (nn.CrossEntropyLoss(CLASS_WEIGHTS), outputs(C), LABELS),
    "ce ignoring": (nn.CrossEntropyLoss(CLASS_WEIGHTS, ignore_index=2), outputs(C), LABELS),
    "ce smoothed": (nn.CrossEntropyLoss(CLASS_WEIGHTS, label_smoothing=0.3), outputs(C), SOME_IGNORED),
    "ce soft": (nn.CrossEntropyLoss(CLASS_WEIGHTS, label_smoothing=0.1), outputs(C), outputs(C, seed=3).softmax(1)),
    "ce dense": (nn.CrossEntropyLoss(CLASS_WEIGHTS), outputs(C, 4), SOME_IGNORED[:, None].repeat(1, 4).roll(1, 0)),
    "nll": (nn.NLLLoss(CLASS_WEIGHTS), outputs(C).log_softmax(1), SOME_IGNORED),
    "mse": (nn.MSELoss(), outputs(3), VALUES),
    "l1": (nn.L1Loss(), outputs(3), VALUES),
    "smooth_l1": (nn.SmoothL1Loss(beta=0.4), outputs(3), VALUES),
    "huber": (nn.HuberLoss(delta=0.4), outputs(3), VALUES),
    "bce": (
        nn.BCEWithLogitsLoss(torch.tensor([1.0, 2.0, 0.5]), pos_weight=torch.tensor([3.0, 1.0, 1.0])),
        outputs(3),
        VALUES.sigmoid(),
    ),
    "multi_margin": (nn.MultiMarginLoss(p=2, margin=0.7, weight=CLASS_WEIGHTS), outputs(C), LABELS),
    "poisson": (nn.PoissonNLLLoss(full=True), outputs(3), VALUES.abs().round()),
    "poisson plain": (nn.PoissonNLLLoss(log_input=False), outputs(3).exp(), VALUES.abs().round()),
    "soft margin": (nn.SoftMarginLoss(), outputs(3), VALUES.sign()),
}


def reference(module, given, targets):
    import copy

    return copy.deepcopy(module).double()(given, targets)


def batched(loss, given, targets, sizes, weights=None):
    total = LossSum(resolve_loss(loss) if not hasattr(loss, "terms") else loss)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        total.add(given[part], targets[part], None if weights is None else weights[part])
        start += size
    return total.value()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sizes", [(N,), (8, 8, 7), (1, 22), (20, 1, 1, 1)], ids=str)
def test_batches_do_not_matter(case, sizes):
    module, given, targets = CASES[case]
    torch.testing.assert_close(
        batched(module, given, targets, sizes), reference(module, given, targets), rtol=1e-13, atol=0
    )


def test_a_mean_of_batch_means_would_be_wrong():
    """The check above can fail: unequal batches and weights make the naive mean differ."""
    module, given, targets = CASES["ce weighted"]
    naive = torch.stack([reference(module, given[p], targets[p]) for p in (slice(0, 20), slice(20, N))]).mean()
    assert abs(naive - reference(module, given, targets)) > 1e-3


@pytest.mark.parametrize("case", [case for case in CASES if case != "soft margin"])
def test_integer_weights_repeat_samples(case):
    module, given, targets = CASES[case]
    times = torch.arange(N) % 3
    repeated = torch.repeat_interleave(torch.arange(N), times)
    got = batched(module, given, targets, (10, 13), times.double())
    torch.testing.assert_close(got, reference(module, given[repeated], targets[repeated]), rtol=1e-12, atol=0)


def tokens():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(5, (7, 6), generator=generator)
    targets[torch.rand(7, 6, generator=generator) < 0.4] = -100
    return torch.randn(7, 6, 5, generator=generator), targets


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_names_are_the_modules_defaults(name):
    modules = {
        "cross_entropy": nn.CrossEntropyLoss,
        "mse": nn.MSELoss,
        "l1": nn.L1Loss,
        "smooth_l1": nn.SmoothL1Loss,
        "huber": nn.HuberLoss,
        "bce_with_logits": nn.BCEWithLogitsLoss,
        "multi_margin": nn.MultiMarginLoss,
        "poisson_nll": nn.PoissonNLLLoss,
    }
    if name in ("nll", "log_loss"):
        labels = torch.arange(9) % 3
        logs = outputs(3)[:9].log_softmax(1)
        got = batched(name, logs if name == "nll" else logs.exp(), labels, (4, 7))
        wanted = F.nll_loss(logs, labels)
    elif name in ("token_cross_entropy", "causal_lm"):
        given, targets = tokens()
        got = batched(name, given, targets, (3, 4))
        shift = int(name == "causal_lm")
        rows, labels = given[:, : given.shape[1] - shift].flatten(0, 1).double(), targets[:, shift:].flatten()
        wanted = F.cross_entropy(rows, labels)  # the mean over all tokens that count
    elif name == "gaussian_nll":
        mean, log_variance = outputs(3), outputs(3, seed=5)
        got = batched(name, torch.cat([mean, log_variance], 1), VALUES, (9, 14))
        wanted = (0.5 * (log_variance + (mean - VALUES) ** 2 / log_variance.exp())).mean()
        full = batched(nn.GaussianNLLLoss(full=True), torch.cat([mean, log_variance], 1), VALUES, (9, 14))
        assert full.item() == pytest.approx(wanted.item() + 0.5 * torch.log(torch.tensor(2 * torch.pi)).item())
    else:
        labels = name in ("cross_entropy", "multi_margin")
        given, targets = (outputs(C), LABELS) if labels else (outputs(3), VALUES.sigmoid())
        got, wanted = batched(name, given, targets, (9, 14)), modules[name]()(given, targets)
        loss = resolve_loss(modules[name]())
        assert (loss.name, loss.options) == (name, {})
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)


def test_functions_of_torch_are_recognised():
    assert resolve_loss(F.cross_entropy).name == "cross_entropy"
    assert resolve_loss(F.mse_loss).known


def test_options_can_be_written_as_json():
    loss = resolve_loss(nn.CrossEntropyLoss(torch.tensor([1.0, 2.0]), label_smoothing=0.5))
    assert loss.options == {"weight": [1.0, 2.0], "label_smoothing": 0.5}


@settings(deadline=None)
@given(cut=st.integers(1, N - 1), seed=st.integers(0, 1000), exponent=st.integers(-3, 3))
def test_weights_have_no_scale_and_cuts_no_effect(cut, seed, exponent):
    weights = torch.rand(N, generator=torch.Generator().manual_seed(seed)).double() + 0.01
    given = outputs(C, seed=seed)
    whole = batched("cross_entropy", given, SOME_IGNORED, (N,), weights)
    parts = batched("cross_entropy", given, SOME_IGNORED, (cut, N - cut), weights * 10.0**exponent)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)


def test_float32_outputs_are_summed_in_float64():
    given = torch.full((3000, 1), 0.1)
    got = batched("mse", given, torch.zeros(3000, 1), (1000, 2000))
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(float(torch.tensor(0.1)) ** 2, rel=1e-14)


def test_column_targets_are_never_broadcast():
    """[n, 1] against [n] would compare all pairs."""
    given, targets = outputs(1), VALUES[:, 0]
    wanted = ((given[:, 0] - targets) ** 2).mean()
    torch.testing.assert_close(batched("mse", given, targets, (N,)), wanted)
    torch.testing.assert_close(batched("mse", given[:, 0], targets[:, None], (5, 18)), wanted)
    with pytest.raises(InputError, match=r"outputs have shape \[23, 3\], targets \[23\]"):
        batched("mse", outputs(3), targets, (N,))


def per_sample(given, targets):
    return (given - targets).abs().sum(1)


def test_a_function_of_one_value_a_sample_is_exact_and_takes_weights():
    weights = torch.arange(N).double()
    got = batched(per_sample, outputs(3), VALUES, (20, 3), weights)
    torch.testing.assert_close(got, (weights * per_sample(outputs(3), VALUES)).sum() / weights.sum())


def test_a_function_of_one_number_is_called_on_all_outputs_at_once():
    calls = []

    def loss(given, targets):
        calls.append(len(given))
        return F.cross_entropy(given, targets, weight=CLASS_WEIGHTS.double())

    got = batched(loss, outputs(C), LABELS, (20, 3))
    torch.testing.assert_close(got, F.cross_entropy(outputs(C), LABELS, weight=CLASS_WEIGHTS.double()))
    assert calls == [20, 23]  # the first tells what it returns
    with pytest.raises(InputError, match="loss <lambda> returns one number a batch, so sample weights"):
        batched(lambda p, y: (p - y).sum(), outputs(3), VALUES, (N,), torch.ones(N))


def test_beyond_the_limit_chunks_are_averaged_by_size():
    total = LossSum(resolve_loss(lambda p, y: p.mean()), limit=4)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        total.add(torch.full((2, 1), value), torch.zeros(2))
    assert total.value().item() == pytest.approx(3.0)


def test_a_function_with_float32_tensors_of_its_own_works():
    got = batched(functools.partial(F.cross_entropy, weight=CLASS_WEIGHTS), outputs(C), LABELS, (20, 3))
    wanted = F.cross_entropy(outputs(C), LABELS, weight=CLASS_WEIGHTS.double())
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)


def test_a_module_of_ones_own_is_read_once_and_left_alone():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, given, targets):
            assert not self.training
            return self.scale * (given - targets).abs().mean()

    module = Scaled()
    got = batched(module, outputs(3), VALUES, (20, 3))
    torch.testing.assert_close(got.detach(), 2 * (outputs(3) - VALUES).abs().mean())
    assert module.training
    assert module.scale.dtype == torch.float32


def test_gradients_flow():
    given = outputs(C).requires_grad_()
    batched("cross_entropy", given, LABELS, (20, 3)).backward()
    mine, given.grad = given.grad.clone(), None
    F.cross_entropy(given, LABELS).backward()
    torch.testing.assert_close(mine, given.grad)


def test_nothing_counted_is_nan_and_infinities_stay():
    assert batched("cross_entropy", outputs(C), torch.full((N,), -100), (N,)).isnan()
    assert batched("mse", torch.tensor([[float("inf")], [0.0]]), torch.zeros(2, 1), (2,)).isinf()
    skipped = batched("mse", torch.tensor([[float("inf")], [3.0]]), torch.zeros(2, 1), (2,), torch.tensor([0.0, 1.0]))
    assert skipped.item() == 9


@pytest.mark.parametrize(
    ("loss", "given", "targets", "error", "match"),
    [
        (
            "cross_entropy",
            outputs(3),
            LABELS,
            DataError,
            r"labels such as \d are outside 0 … 2; the model has 3 outputs",
        ),
        ("cross_entropy", outputs(C), LABELS - 1, DataError, "labels such as -1"),
        ("multi_margin", outputs(3), LABELS, DataError, "outside 0 … 2"),
        ("cross_entropy", outputs(C), LABELS.double(), InputError, "integer labels .* or soft labels"),
        ("cross_entropy", outputs(C), LABELS[:, None], InputError, r"targets \[23, 1\]"),
        ("cross_entropy", outputs(), LABELS, InputError, r"outputs have shape \[23\]"),
        ("bce_with_logits", outputs(3), VALUES, DataError, r"wanted probabilities in \[0, 1\]"),
        ("gaussian_nll", outputs(3), VALUES, InputError, "even last dimension"),
        ("gaussian_nll", outputs(4), VALUES, InputError, r"outputs have shape \[23, 2\], targets \[23, 3\]"),
        (lambda p, y: 1.0, outputs(3), VALUES, InputError, "returned a float; wanted a tensor"),
        (lambda p, y: p[:4], outputs(3), VALUES, InputError, r"returned shape \[4, 3\] for 23 samples"),
        ("mse", outputs(3)[:4], VALUES, InputError, "4 outputs for 23 targets"),
    ],
)
def test_misfits_name_shapes(loss, given, targets, error, match):
    total = LossSum(resolve_loss(loss))
    with pytest.raises(error, match=match):
        total.add(given, targets)


def test_other_errors_of_a_function_are_its_own():
    with pytest.raises(RuntimeError, match="my own"):
        batched(lambda p, y: (_ for _ in ()).throw(RuntimeError("my own")), outputs(3), VALUES, (N,))


@pytest.mark.parametrize(
    ("loss", "error", "match"),
    [
        ("cross_entrpy", UnknownNameError, "did you mean 'cross_entropy'"),
        (nn.CrossEntropyLoss, InputError, "wanted a name"),
        (3, InputError, "loss is 3"),
        (nn.CrossEntropyLoss(reduction="sum"), InputError, "CrossEntropyLoss has reduction='sum'"),
        (nn.MSELoss(reduction="none"), InputError, "reduction='none'"),
    ],
)
def test_unusable_losses(loss, error, match):
    with pytest.raises(error, match=match):
        resolve_loss(loss)
