"""What engines use of a task: batches, terms of each sample, sums, steps and metrics."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landform.data import Data
from landform.errors import InputError, UnknownNameError
from landform.task import Task

N, D, C = 23, 5, 4


def data(seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(C, (N,), generator=generator)
    return Data(torch.randn(N, D, generator=generator), targets, classes=C, **options)


def mlp(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, C))


def step(model, batch):
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets, reduction="none")


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(D, C), nn.Linear(D, C)

    def forward(self, x):
        return {"left": self.left(x), "right": self.right(x)}


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 5),
    weighted=st.booleans(),
    ignore=st.booleans(),
    order=st.permutations(range(N)),
    cuts=st.lists(st.integers(1, N - 1), max_size=4),
)
def test_terms_of_any_parts_in_any_order_add_up_to_the_whole(seed, weighted, ignore, order, cuts):
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5, 3.0]), ignore_index=1 if ignore else -100)
    whole = data(seed).reweight({0: 3.0, 2: 0.0}) if weighted else data(seed)
    task = Task(mlp(seed), loss, whole, metrics=("accuracy", "top2", "error", "cross_entropy"))
    moved = {name: value + 0.1 for name, value in task.model.named_parameters()}
    edges = [0, *sorted(set(cuts)), N]
    parts = [torch.tensor(order[a:b]) for a, b in itertools.pairwise(edges)]
    with task.mode():
        found = [task.terms_at(moved, task.batch(part)) for part in parts]
    num, den = (torch.cat([pair[i] for pair in found], dim=1) for i in (0, 1))
    assert num.dtype == den.dtype == torch.float64
    assert num.shape == den.shape == (5, N)
    whole_num, whole_den = task.sums(moved, batch_size=7)
    torch.testing.assert_close(num.sum(1) / den.sum(1), whole_num / whole_den, rtol=1e-6, atol=0)
    torch.testing.assert_close((num.sum(1) / den.sum(1))[0], task.evaluate(moved), rtol=1e-6, atol=0)
    part_num, part_den = task.sums(moved, index=parts[0])
    torch.testing.assert_close(part_num, found[0][0].sum(1), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(part_den, found[0][1].sum(1), rtol=1e-12, atol=0)


def test_the_loss_and_metrics_of_the_whole_set_are_those_of_pytorch():
    task = Task(mlp(), nn.CrossEntropyLoss(ignore_index=2), data(), metrics=["accuracy", "top3"])
    with torch.no_grad():
        logits = task.model.eval()(data().inputs).double()
    task.model.train()
    num, den = task.sums()
    kept = data().targets != 2
    ranks = logits.argsort(1, descending=True)
    hits = [(ranks[:, :k] == data().targets[:, None]).any(1)[kept].double().mean() for k in (1, 3)]
    wanted = [F.cross_entropy(logits, data().targets, ignore_index=2), *hits]
    torch.testing.assert_close(num / den, torch.stack(wanted), rtol=1e-6, atol=0)
    assert task.model.training


def test_every_head_has_its_quantities():
    task = Task(TwoHeads(), data=data(), metrics=("accuracy",))
    assert task.quantities() == ("loss:left", "loss:right", "accuracy:left", "accuracy:right")
    num, den = task.sums()
    left = Task(task.model.left, data=data(), metrics=("accuracy",))
    assert left.quantities() == ("loss", "accuracy")
    torch.testing.assert_close((num / den)[[0, 2]], torch.divide(*left.sums()))


def test_a_step_gives_what_its_loss_gives():
    model = mlp()
    by_step, by_loss = Task(model, step=step, data=data()), Task(model, data=data())
    assert by_step.per_sample
    assert by_loss.per_sample
    assert by_step.quantities() == ("loss",)
    torch.testing.assert_close(by_step.evaluate(), by_loss.evaluate(), rtol=1e-6, atol=0)
    moved = {name: value * 1.5 for name, value in model.named_parameters()}
    torch.testing.assert_close(by_step.evaluate(moved), by_loss.evaluate(moved), rtol=1e-6, atol=0)
    batch = by_loss.batch(torch.tensor([3, 0, 7]))
    for a, b in zip(by_step.terms_at(moved, batch), by_loss.terms_at(moved, batch), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def test_a_step_may_reach_into_the_model_and_return_metrics():
    def half(model, batch):
        hidden = model[0](batch[0])
        return {"hidden": hidden.square().mean(1), "loss": hidden.sum(1)}

    model = mlp()
    task = Task(model, step=half, data=data())
    assert task.quantities() == ("loss", "hidden")
    moved = {"0.weight": torch.zeros(8, D), "0.bias": torch.arange(8.0)}
    num, den = task.sums(moved)
    assert (num / den).tolist() == [28.0, 17.5]
    assert model[0].bias.requires_grad
    assert not torch.equal(model[0].bias, moved["0.bias"])


def test_a_scalar_step_counts_by_batch_sizes_and_claims_no_samples():
    task = Task(mlp(), step=lambda m, b: F.cross_entropy(m(b[0]), b[1]), data=data())
    assert not task.per_sample
    torch.testing.assert_close(task.evaluate(batch_size=4), Task(task.model, data=data()).evaluate(), rtol=1e-6, atol=0)
    with pytest.raises(InputError, match="one number a batch"):
        task.terms_at(None, task.batch(slice(0, 4)))
    with pytest.raises(InputError, match="sample weights cannot enter"):
        task.replace(data=data().reweight({0: 2.0})).evaluate()


def test_a_loss_of_one_number_claims_no_samples():
    task = Task(mlp(), lambda p, y: F.cross_entropy(p, y), data(), metrics=("accuracy",))
    assert not task.per_sample
    with pytest.raises(InputError, match="one number a batch"):
        task.terms_at(None, task.batch(slice(0, 4)))
    num, den = task.sums(batch_size=5)
    known = Task(task.model, data=data(), metrics=("accuracy",))
    torch.testing.assert_close(num / den, torch.divide(*known.sums()), rtol=1e-6, atol=0)


def test_a_metric_of_ones_own():
    def margin(outputs, targets):
        return outputs.gather(1, targets[:, None])[:, 0] - outputs.mean(1)

    task = Task(mlp(), data=data(), metrics=(margin, "gradient_norm"))
    assert task.quantities() == ("loss", "margin")
    assert task.node_metrics == ("gradient_norm",)
    num, den = task.sums()
    outputs = task.outputs().double()
    torch.testing.assert_close((num / den)[1], margin(outputs, data().targets).mean())
    with pytest.raises(InputError, match="metric mean_margin returned one number for 23 samples"):
        Task(mlp(), data=data(), metrics=mean_margin).sums()


def mean_margin(outputs, targets):
    return outputs.mean()


def test_accuracy_of_other_losses():
    logits, ones = torch.tensor([[2.0], [-1.0], [-3.0]]), torch.tensor([[1.0], [1.0], [0.0]])
    binary = Task(nn.Identity(), "bce_with_logits", (logits, ones), metrics=("accuracy",))
    assert torch.divide(*binary.sums())[1] == pytest.approx(2 / 3)
    soft = Task(nn.Identity(), data=(torch.eye(3), torch.eye(3).roll(1, 0)), metrics=("accuracy",))
    assert torch.divide(*soft.sums())[1] == 0
    tokens = torch.tensor([[0, 1, 2, -100]])
    scores = F.one_hot(torch.tensor([[1, 2, 0, 0]]), 3).float()
    following = Task(nn.Identity(), "causal_lm", (scores, tokens), metrics=("accuracy",))
    assert torch.divide(*following.sums())[1] == 1  # 0 → 1 → 2, and what follows 2 is ignored
    aligned = Task(nn.Identity(), "token_cross_entropy", (scores, tokens), metrics=("accuracy",))
    assert torch.divide(*aligned.sums())[1] == 0
    broken = Task(nn.Identity(), data=(torch.zeros(2, 3), torch.tensor([0, 1])), metrics=("accuracy",))
    num, _ = broken.terms(torch.tensor([[float("nan"), 0, 0], [0, 1, 0]]), broken.batch(slice(0, 2)))
    assert num[1].isnan().tolist() == [True, False]


def test_ties_go_to_the_first_class_as_in_argmax():
    task = Task(nn.Identity(), data=(torch.zeros(3, 3), torch.arange(3)), metrics=("top1", "top2", "top3"))
    assert torch.divide(*task.sums())[1:].tolist() == pytest.approx([1 / 3, 2 / 3, 1])


def test_extras_go_to_the_model_by_name():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(D, C)

        def forward(self, features, mask):
            return self.layer(features * mask)

    mask = torch.randint(2, (N, D)).float()
    held = Data(data().inputs, data().targets, extras={"mask": mask}, keys=("features", "label"))
    task = Task(Masked(), data=held)
    wanted = Task(task.model.layer, data=(data().inputs * mask, data().targets))
    torch.testing.assert_close(task.evaluate(batch_size=4), wanted.evaluate())
    raw = task.batch(torch.tensor([2, 1])).raw
    assert list(raw) == ["features", "mask", "label"]
    assert torch.equal(raw["label"], data().targets[[2, 1]])
    idle = Data(held.inputs, held.targets, extras={"mask": mask, "idx": mask}, keys=held.keys)
    with pytest.raises(InputError, match="takes features, mask; the data also give idx: leave that out"):
        Task(task.model, data=idle).evaluate()
    whole = Task(lambda batch: task.model(**batch), data=held)
    torch.testing.assert_close(whole.evaluate(), wanted.evaluate())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"step": step, "loss": "mse"}, "pass a function step"),
        ({"step": 3}, "pass a function step"),
        ({"step": step, "metrics": "accuracy"}, "accuracy need outputs, which a step keeps to itself"),
        ({"metrics": [3]}, "metric is 3"),
        ({"metrics": ["accuracy", "accuracy"]}, "'accuracy' is taken twice"),
    ],
)
def test_unusable_options(options, match):
    with pytest.raises(InputError, match=match):
        Task(mlp(), data=data(), **options)


def test_unknown_metrics_name_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown metric 'acuracy': did you mean 'accuracy'"):
        Task(mlp(), data=data(), metrics="acuracy")
    with pytest.raises(InputError, match="top9: the model has 4 outputs"):
        Task(mlp(), data=data(), metrics="top9").sums()


@pytest.mark.parametrize(
    ("returned", "match"),
    [
        (lambda m, b: torch.zeros(2, 3), r"loss of shape \[2, 3\] for 2 samples"),
        (lambda m, b: torch.zeros(5), r"loss of shape \[5\] for 2 samples"),
        (lambda m, b: "loss", "returned a str as loss"),
        (lambda m, b: {"accuracy": torch.zeros(2)}, "returned accuracy; wanted 'loss' among them"),
    ],
)
def test_what_a_step_may_not_return(returned, match):
    with pytest.raises(InputError, match=match):
        Task(mlp(), step=returned, data=data()).quantities()


def test_half_precision_weights_are_computed_in_float32():
    model = mlp().to(torch.bfloat16)
    task = Task(model, data=data())
    float_ = Task(as_float(model), data=data())
    assert task.outputs().dtype == torch.float32
    torch.testing.assert_close(task.evaluate(), float_.evaluate(), rtol=1e-6, atol=0)
    assert task.outputs(dtype=torch.bfloat16).dtype == torch.bfloat16
    tiny = {"0.bias": model[0].bias.float() + 1e-5}  # far below what bfloat16 resolves
    assert not torch.equal(task.evaluate(tiny), task.evaluate())
    assert model[0].weight.dtype == torch.bfloat16


def as_float(model):
    other = mlp()
    other.load_state_dict(
        {name: value.to(other.state_dict()[name].dtype) for name, value in model.state_dict().items()}
    )
    return other


def test_wrappers_of_compiled_and_parallel_models_are_taken_off():
    model = mlp()
    plain = Task(model, data=data())
    compiled = torch.compile(model, backend="eager")
    task = Task(compiled, data=data())
    assert task.model is model
    assert Task(nn.DataParallel(compiled), data=data()).model is model
    assert set(dict(compiled.named_parameters())) == {f"_orig_mod.{name}" for name, _ in model.named_parameters()}
    moved = {name: value + 1 for name, value in model.named_parameters()}
    for prefix in ("_orig_mod.", "module.", "module._orig_mod.", "_fsdp_wrapped_module."):
        prefixed = {prefix + name: value for name, value in moved.items()}
        assert torch.equal(task.evaluate(prefixed), plain.evaluate(moved))


def test_a_mode_may_be_entered_twice_and_leaves_everything():
    task = Task(mlp(), data=data())
    wanted = task.evaluate()
    with task.mode(), task.mode():
        assert not task.model.training
        assert torch.equal(task.evaluate(), wanted)
        assert task.evaluate(dtype=torch.float64).dtype == torch.float64
    assert task.model.training
