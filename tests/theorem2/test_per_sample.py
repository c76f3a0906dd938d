"""Theorem 2, per sample: the loss of every sample that is told apart is the pattern, sample by sample."""

import math

import pytest
import torch

import landform as lf
from landform.errors import CapacityError, InputError, UnknownNameError
from landform.imprint.other_data import per_sample_transfer
from landform.imprint.per_sample import range_of
from landform.imprint.scores import one_against_rest, scores_of, stored
from landform.response.per_sample import PerSampleResponse

BOWL = lf.Pattern.from_formula("sphere", resolution=4)


def each(made, h, index=slice(None)):
    """Return every sample's loss at one point."""
    with torch.no_grad():
        outputs = torch.func.functional_call(made.model, made.subspace.at(h), (made.task.data.inputs[index],))
    return torch.nn.functional.cross_entropy(outputs.double(), made.task.data.targets[index], reduction="none")


def points(count=10):
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["mlp", "bn", "cnn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_served_sample_has_the_loss_of_the_pattern(trained, kind, dtype):
    made = lf.imprint(BOWL, trained(kind, dtype), method="per-sample")
    proof = made.certificate
    served = made.response.served(*made.range, 0.01)
    assert proof.holds
    assert float(served.double().mean()) > 0.9
    worst = max(float((each(made, h) - made.target(h[None])).abs()[served].max()) for h in points())
    assert worst <= proof.bound
    assert worst < 2e-3
    assert "samples" in proof.domain


@pytest.mark.parametrize(("dtype", "epsilon", "wanted"), [(torch.float64, 1e-6, 1e-12), (torch.float32, 1e-5, 5e-7)])
def test_a_fine_curve_leaves_rounding_only(trained, dtype, epsilon, wanted):
    made = lf.imprint(BOWL, trained("mlp", dtype), method="per-sample", scores="own", epsilon=epsilon)
    served = made.response.served(*made.range, 0.01)
    worst = max(float((each(made, h) - made.target(h[None])).abs()[served].max()) for h in points(4))
    assert worst <= made.certificate.curve + wanted  # what is left beyond the response curve's own gap
    assert made.certificate.rounding < 100 * wanted


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_own_margins_keep_every_prediction_and_serve_what_the_network_gets_right(trained, kind, dtype):
    task = trained(kind, dtype)
    made = lf.imprint(BOWL, task, method="per-sample", scores="own")
    with torch.no_grad():
        before = task.model(task.data.inputs)
    two = before.double().topk(2, dim=1).values
    right = before.argmax(dim=1) == task.data.targets
    assert made.meta["predictions_kept"] == 1.0
    assert made.meta["accuracy"] == made.meta["accuracy_given"]
    clear = right & (two[:, 0] - two[:, 1] > (0.02 if dtype == torch.float32 else 1e-9))
    served = lf.account(made, tolerance=made.certificate.bound).worst <= made.certificate.bound
    assert bool(served[clear].all())
    for h in points(3):
        with torch.no_grad():
            after = torch.func.functional_call(made.model, made.subspace.at(h), (task.data.inputs,))
        assert torch.equal(after.argmax(dim=1)[clear], before.argmax(dim=1)[clear])
    assert any("91 and 20 units" in note for note in made.meta["notes"])


def test_own_scores_are_pairwise_differences_and_a_permutation_of_classes_permutes_them():
    generator = torch.Generator().manual_seed(0)
    features, weight, bias = (torch.randn(*s, generator=generator).double() for s in ((7, 3), (4, 3), (4,)))
    logits = features @ weight.T + bias
    found = scores_of("own", features, logits.argmax(dim=1), logits, (weight, bias))
    against = found(features)
    for c in range(4):
        wanted = logits[:, [j for j in range(4) if j != c]] - logits[:, [c]]
        assert torch.allclose(against[:, c], wanted)
    order = torch.tensor([2, 0, 3, 1])
    moved = scores_of("own", features, logits.argmax(dim=1), logits[:, order], (weight[order], bias[order]))
    assert torch.allclose(stored(moved(features), 8.0), stored(against, 8.0)[:, order])
    assert torch.equal(stored(against, 8.0).argmax(dim=1), logits.argmax(dim=1))


def test_many_classes_are_refused_for_pairs():
    logits = torch.zeros(2, 200, dtype=torch.float64)
    with pytest.raises(CapacityError, match="39,800 units for 200 classes"):
        scores_of("own", torch.zeros(2, 3), torch.zeros(2).long(), logits, (torch.zeros(200, 3), torch.zeros(200)))


def test_any_batch_of_served_samples_has_the_full_surface(trained):
    made = lf.imprint(BOWL, trained("mlp"), method="per-sample")
    served = made.response.served(*made.range, 0.01).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(0)
    for h in points(4):
        for size in (1, 7, 64):
            batch = served[torch.randperm(len(served), generator=generator)[:size]]
            assert float((each(made, h, batch).mean() - made.target(h[None])).abs()) <= made.certificate.bound


def test_a_batch_with_others_is_off_by_no_more_than_accounting_says(trained):
    task = trained("mlp")
    labels = task.data.targets.clone()
    labels[::8] = (labels[::8] + 1) % 10  # an eighth is wrong
    task = task.replace(data=(task.data.inputs, labels))
    made = lf.imprint(BOWL, task, method="per-sample", scores="own", certify=False)
    h = points(4)
    found = lf.account(made, points=h)
    assert found.served == 350 / 400
    generator = torch.Generator().manual_seed(0)
    for size in (1, 8, 64):
        says, off, whole = found.batches(size), [], []
        for _ in range(200):
            batch = torch.randperm(400, generator=generator)[:size]
            off.append(float(found.worst[batch].mean()))
            whole.append(bool((found.worst[batch] <= found.tolerance).all()))
        batch = batch.clone()
        for point in h:
            miss = float((each(made, point, batch).mean() - made.target(point[None])).abs())
            assert miss <= off[-1] + 1e-12 <= says["max"] + 2e-12
        share = torch.tensor(whole).double().mean()
        assert abs(float(share) - says["served"]) < 4 * (says["served"] * (1 - says["served"]) / 200) ** 0.5 + 1e-9
    assert found.batches(400)["max"] == pytest.approx(found.batches(400)["mean"])
    with pytest.raises(InputError, match="1 to 400 samples, got 401"):
        found.batches(401)


def test_predictions_are_kept_where_asked_for(trained):
    task = trained("mlp")
    made = lf.imprint(BOWL, task, method="per-sample", scores="predictions", certify=False)
    assert made.meta["predictions_kept"] == 1.0
    with torch.no_grad():
        before = task.model(task.data.inputs).argmax(dim=1)
        at_minimum = made.subspace.at(torch.tensor([0.5, 0.5]))
        after = torch.func.functional_call(made.model, at_minimum, (task.data.inputs,)).argmax(dim=1)
    served = made.response.served(*made.range, 0.01)
    assert torch.equal(before[served], after[served])
    refit = lf.imprint(BOWL, task, method="per-sample", certify=False)
    assert refit.meta["served"] >= made.meta["served"]


def test_trained_weights_stay_but_for_the_head(trained):
    task = trained("mlp")
    made = lf.imprint(BOWL, task, method="per-sample", certify=False)
    for name, value in task.model.named_parameters():
        if not name.startswith("11."):
            now = made.subspace.origin[name]
            assert torch.equal(now[tuple(slice(size) for size in value.shape)], value), name


def test_the_mean_loss_is_within_what_the_certificate_says_of_all_samples(trained):
    made = lf.imprint(BOWL, trained("mlp"), method="per-sample", scores="predictions")
    line = made.certificate.assumptions[-1]
    total = float(line.split("at most ")[1].split(" ")[0])
    found = lf.account(made)
    assert float(found.difference.max()) <= total
    assert (found.difference <= found.mean + 1e-12).all()
    assert found.served == pytest.approx(made.meta["served"], abs=0.01)


def test_other_data_are_predicted_and_then_measured(trained):
    made = lf.imprint(BOWL, trained("mlp"), method="per-sample", certify=False)
    digits = lf.load_data("digits")
    other = (digits.inputs[400:700].double(), digits.targets[400:700])
    guess = per_sample_transfer(made, other)
    assert lf.transfer(made, other).condition == guess.condition
    assert f"e = {guess.error:.4g}" in guess.condition
    rising = guess.remap(torch.linspace(*made.range, 257, dtype=torch.float64)).diff() > 0
    assert guess.identical == bool(rising.all())
    surface = lf.scan(made, grid=3, data=other)
    assert float(abs(surface.difference).max()) < 1e-3
    assert 0 < guess.error < 0.5
    t = torch.linspace(made.range[0], made.range[1], 5, dtype=torch.float64)
    assert float((guess.formula(t) - guess.remap(t)).abs().max()) < 1.0  # samples between the margins are not in it


def test_the_bundle_proves_again_without_data_and_refuses_altered_weights(trained, tmp_path):
    made = lf.imprint(BOWL, trained("mlp"), method="per-sample")
    loaded = lf.load(made.save(tmp_path / "bowl.landform"))
    again = lf.certify(loaded)
    assert again.holds
    assert again.bound == pytest.approx(made.certificate.bound, rel=1e-9)
    for name, place, words in (
        ("11.4.weight", (0, 3), "not differences of its units"),
        ("11.2.weight", (0, 3), "guards"),
        ("11.2.bias", (0,), "guards"),
        ("11.0.weight", (-1, 2), "reads more than the pattern"),
        ("11.0.weight", (2, made.meta["channels"][-1][0]), "not along the ray"),
    ):
        number = loaded.subspace.origin[name][place].item()
        loaded.subspace.origin[name][place] = number + 0.5
        failed = lf.certify(loaded)
        assert not failed.holds
        assert words in failed.failures[0]
        loaded.subspace.origin[name][place] = number
    assert lf.certify(loaded).holds


def test_rho_by_hand_and_its_inverse():
    table = torch.tensor([[1.0, 0.0, 9.0, -9.0, -9.0], [1.0, 1.0, 0.2, 0.1, -9.0]]).double().numpy()
    response = PerSampleResponse(table, top=4.0, cap=4.0, magnitudes=[1.0, 1.0, 1.0])
    s = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    a = 4.0 - s
    wanted = torch.log(torch.exp(a) + 2) - a
    assert torch.allclose(response.along(s), wanted, atol=1e-14)
    assert torch.allclose(response.inverse(wanted), s, atol=1e-12)
    assert torch.allclose(response.sample_losses(s)[:, 0], wanted, atol=1e-14)
    assert response.served(float(wanted[0]), float(wanted[2])).tolist() == [True, False]


def test_scores_separate_what_is_separable():
    x = torch.randn(90, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1
    labels = torch.arange(90) % 3
    x += torch.tensor([[0.0, 3.0], [3.0, -3.0], [-3.0, -3.0]], dtype=torch.float64)[labels]
    weight, bias = one_against_rest(x, labels, 3)
    sign = 2 * torch.nn.functional.one_hot(labels, 3) - 1
    assert bool(((x @ weight.T + bias) * sign > 0.5).all())


def test_the_range_respects_the_error_rate():
    lo, hi = range_of(0.2, 10, "auto")
    assert lo == pytest.approx(-math.log(0.8))
    assert hi < math.log(10)
    with pytest.raises(InputError, match="labels are too noisy"):
        range_of(0.9, 10, "auto")
    with pytest.raises(InputError, match=r"labels are too noisy"):
        range_of(0.9, 2, "auto")


def test_bad_input(trained):
    task = trained("mlp")
    with pytest.raises(UnknownNameError, match="refit"):
        lf.imprint(BOWL, task, method="per-sample", scores="refits")
    with pytest.raises(InputError, match="cross-entropy"):
        lf.imprint(BOWL, trained("mse"), method="per-sample")
    with pytest.raises(InputError, match="trained network"):
        lf.imprint(BOWL, "digits", method="per-sample")
    noisy = (task.data.inputs, torch.randint(10, (400,), generator=torch.Generator().manual_seed(0)))
    with pytest.raises(InputError, match="too noisy"):
        lf.imprint(BOWL, lf.Task(task.model, data=noisy), method="per-sample", scores="predictions")
