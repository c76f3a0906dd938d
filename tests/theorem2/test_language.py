"""Theorem 2 in a language model: a trained GPT-2 keeps its predictions, and its loss over tokens is the pattern."""

import copy
import pydoc_data.topics

import pytest
import torch
from torch.func import functional_call

import landform as lf
from landform.errors import ArchitectureError, FloorError, InputError
from landform.imprint.other_data import offset_transfer
from landform.testing.transformers import bert, gpt2, llama
from landform.view.slices import measure_slices, trained_part

pytest.importorskip("transformers")

BOWL = lf.Pattern.from_formula("sphere", resolution=4)
CENTRE = torch.tensor([0.5, 0.5], dtype=torch.float64)


def letters():
    """Return English text as 40 classes: letters, and blanks for the rest."""
    text = " ".join(" ".join(topic.split()) for topic in pydoc_data.topics.topics.values()).lower()
    return torch.tensor([ord(c) - 96 if "a" <= c <= "z" else 0 for c in text[:60000]])


def pieces(count, length=12, start=0):
    return letters()[start : start + count * length].reshape(count, length)


@pytest.fixture(scope="module")
def trained():
    """Return a small GPT-2 that has learned a little English, with gains and biases that are not 1 and 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, _ = gpt2(tied=True, width=32)
        for name, value in model.named_parameters():
            if "ln_" in name or name.endswith("bias"):
                value.data += 0.1 * torch.randn(value.shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    tokens = pieces(30)
    for _ in range(60):
        optimizer.zero_grad()
        logits = model(input_ids=tokens).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    return model.eval()


def task(trained, dtype=torch.float64, count=30):
    tokens = pieces(count)
    return lf.Task(copy.deepcopy(trained).to(dtype), "causal_lm", (tokens, tokens))


def logits(model, inputs, parameters=None):
    with torch.no_grad():
        return functional_call(model, parameters or dict(model.named_parameters()), (inputs,)).logits


def losses(made, points):
    return torch.stack([made.task.evaluate(made.subspace.at(h)).double().reshape(()) for h in points])


def some_points(made, count=4):
    h = torch.rand(count, made.z, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return torch.cat([h.float().double(), made.pattern.mesh.nodes()[:: max(1, made.pattern.mesh.n_nodes // 5)]])


@pytest.fixture(scope="module")
def made(trained):
    return lf.imprint(BOWL, task(trained), method="offset", epsilon=1e-3)


def test_the_loss_over_tokens_follows_the_pattern_within_the_proof(made):
    h = some_points(made)
    assert made.certificate.kind == "certified"
    assert made.certificate.holds
    assert made.certificate.register < 1e-12
    assert made.certificate.rounding < 2e-9
    assert (losses(made, h) - made.target(h)).abs().max() <= made.certificate.bound < 1.1e-3


def test_float32_stays_within_its_proof_too(trained):
    made = lf.imprint(BOWL, task(trained, torch.float32), method="offset", epsilon=1e-5)
    h = some_points(made)
    assert made.certificate.holds
    off = (losses(made, h) - made.target(h)).abs().max()
    assert off <= made.certificate.bound < 1e-3
    assert off < 3e-5  # what makes s exactly 0 at the minimum costs nothing above it


def test_at_the_minimum_every_prediction_is_the_trained_one(trained, made):
    given = task(trained)
    before = logits(given.model, given.data.inputs)
    after = logits(made.model, given.data.inputs, made.subspace.at(CENTRE))
    assert (before - after).abs().max() < 1e-7
    assert torch.equal(before.argmax(-1), after.argmax(-1))
    assert float(made.task.evaluate(made.subspace.at(CENTRE))) == pytest.approx(float(given.evaluate()), abs=1e-9)
    assert made.response.start() >= 0
    assert losses(made, some_points(made)).min() >= made.range[0] - 1e-9


def test_the_logits_are_trained_ones_plus_gain_times_signal(made):
    """A reference by another route: the gains from the stream itself, the signal from one token's logits."""
    inputs = made.task.data.inputs
    h = torch.tensor([0.1, 0.7], dtype=torch.float64)
    rest = logits(made.model, inputs, made.subspace.at(CENTRE))
    moved = logits(made.model, inputs, made.subspace.at(h)) - rest
    a = made.response.classes[0]
    signal = moved[:, :-1, a].flatten() / made.response.gains
    assert (signal - signal.mean()).abs().max() < 1e-8
    assert float(signal.mean()) == pytest.approx(float(made.response.inverse(made.target(h[None])).mean()), abs=1e-2)
    others = [c for c in range(40) if c not in made.response.classes]
    assert moved[..., others].abs().max() < 1e-7
    ratio = moved[..., made.response.classes[1]] / moved[..., a]
    assert (ratio - made.response.v[made.response.classes[1]]).abs().max() < 1e-7


def stream_at(made, h):
    """Return the stream before the last norm, and every token's loss."""
    seen, inputs = [], made.task.data.inputs
    hook = made.model.transformer.ln_f.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    out = logits(made.model, inputs, made.subspace.at(h))[:, :-1].flatten(0, 1).double()
    hook.remove()
    each = torch.nn.functional.cross_entropy(out, inputs[:, 1:].flatten(), reduction="none")
    return seen[0][:, :-1].flatten(0, 1), each


def test_registers_move_the_mean_of_the_stream_and_the_proof_knows(made):
    """At the minimum s is 0, but the last norm sees the other registers: that is what moves the loss there."""
    stream, each = stream_at(made, CENTRE)
    known = made.response.rounding
    moved = (each - made.response.losses).abs()
    shift = stream.mean(1).abs()
    factor = stream[:, 32:].square().sum(1) / (2 * known.size)
    allowed = known.still[:, 0] + factor * known.scale[:, 0] + shift * known.shift[:, 0]
    assert (moved <= 1.001 * allowed).all()
    assert (moved > 2 * (known.still[:, 0] + factor * known.scale[:, 0])).any()
    nothing = torch.zeros_like(factor)
    most = made.response.moved_by(0.0, factor=factor, shift=float(shift.max()), ends=nothing, roundoff=0.0)
    assert float(moved.mean()) <= most <= made.certificate.rounding


def test_no_order_of_the_heads_sums_leaves_what_is_kept_of_each_token(trained):
    """The last norm and the head again, in float32, sums in a random order: each token's loss stays in its radius."""
    made = lf.imprint(BOWL, task(trained, torch.float32), method="offset", epsilon=1e-2, certify=False)
    stream, known = stream_at(made, CENTRE)[0][:, :32], made.response.rounding
    width, generator = made.model.transformer.ln_f.weight.shape[0], torch.Generator().manual_seed(0)
    gain, bias = (part[:32].detach() for part in (made.model.transformer.ln_f.weight, made.model.transformer.ln_f.bias))
    weight, labels = made.model.lm_head.weight[:, :32].detach(), made.task.data.inputs[:, 1:].flatten()
    seen = 0.0
    for _ in range(6):
        mean = sum(stream[:, k] for k in torch.randperm(32, generator=generator).tolist()) / width
        away = stream - mean[:, None]
        total = sum(away[:, k] ** 2 for k in torch.randperm(32, generator=generator).tolist())
        inverse = 1 / ((total + (width - 32) * mean**2) / width + made.model.transformer.ln_f.eps).sqrt()
        y = away * inverse[:, None] * gain + bias
        order = torch.randperm(32, generator=generator).tolist()
        out = sum(y[:, k, None] * weight[:, k] for k in order)
        each = torch.nn.functional.cross_entropy(out.double(), labels, reduction="none")
        share = (each - made.response.losses).abs() / known.still[:, 0]
        seen = max(seen, float(share.max()))
    assert 0.02 < seen <= 1


def test_no_trained_block_sees_the_pattern(made):
    """The streams behind the trained blocks are equal bit for bit, whatever h."""
    seen = []
    hook = made.model.transformer.h[3].register_forward_hook(lambda _m, _i, out: seen.append(out))
    for h in (CENTRE, torch.tensor([0.9, 0.2], dtype=torch.float64)):
        logits(made.model, made.task.data.inputs, made.subspace.at(h))
    hook.remove()
    first, second = (out[0] if isinstance(out, tuple) else out for out in seen)
    assert torch.equal(first, second)
    assert not first[..., 32:].any()


def test_the_given_model_is_left_alone(trained):
    given = task(trained)
    before = {name: value.clone() for name, value in given.model.named_parameters()}
    lf.imprint(BOWL, given, method="offset", epsilon=0.05, certify=False)
    assert given.model.lm_head.weight is given.model.transformer.wte.weight  # still tied
    assert given.model.config.num_hidden_layers == 4
    for name, value in given.model.named_parameters():
        assert torch.equal(value, before[name]), name
        assert value.grad is None


def test_ignored_labels_and_weights_count_as_the_task_says(trained):
    tokens = pieces(20)
    labels = tokens.clone()
    labels[::3, 5:] = -100
    weights = torch.linspace(0.0, 2.0, 20, dtype=torch.float64)
    mask = torch.ones_like(tokens)
    mask[1::2, 9:] = 0
    data = lf.Data(tokens, labels, weights=weights, extras={"attention_mask": mask}, keys=("input_ids", "labels"))
    given = lf.Task(copy.deepcopy(trained).double(), "causal_lm", data)
    made = lf.imprint(BOWL, given, method="offset", epsilon=1e-3, certify=False)
    assert len(made.response.share) == int((labels[1:, 1:] != -100).sum())
    assert made.range[0] == pytest.approx(float(given.evaluate()), abs=1e-9)
    h = some_points(made)
    assert (losses(made, h) - made.target(h)).abs().max() < 1.1e-3


def test_labels_at_every_position_are_those_of_token_cross_entropy(trained):
    tokens = pieces(20)
    given = lf.Task(copy.deepcopy(trained).double(), "token_cross_entropy", (tokens[:, :-1], tokens[:, 1:]))
    made = lf.imprint(BOWL, given, method="offset", epsilon=1e-3, certify=False)
    h = some_points(made)
    assert (losses(made, h) - made.target(h)).abs().max() < 1.1e-3


@pytest.mark.parametrize("form", ["strips", "hats"])
def test_every_form_carries_its_registers_through_the_norms(trained, form):
    pattern = lf.Pattern.from_formula("himmelblau", resolution=6)
    made = lf.imprint(pattern, task(trained, count=10), method="offset", form=form, epsilon=1e-2)
    h = some_points(made)
    assert made.certificate.holds
    assert (losses(made, h) - made.target(h)).abs().max() <= made.certificate.bound < 0.012


@pytest.mark.parametrize("z", [1, 3])
def test_other_numbers_of_coordinates(trained, z):
    made = lf.imprint(
        lf.Pattern.from_formula("sphere", resolution=2, z=z), task(trained, count=10), method="offset", epsilon=1e-2
    )
    h = some_points(made)
    assert made.certificate.holds
    assert (losses(made, h) - made.target(h)).abs().max() <= made.certificate.bound < 0.012


@pytest.mark.parametrize(
    ("part", "match"),
    [
        ("transformer.h.3.mlp.c_proj.weight", "writes where it must not"),
        ("transformer.h.5.attn.c_proj.weight", "writes where it must not"),
        ("transformer.h.5.mlp.c_fc.bias", "reads the trained stream, or has a bias"),
        ("transformer.wte.weight", "starts the stream"),
        ("lm_head.weight", "head reads other|not along the ray"),
        ("transformer.h.4.ln_2.weight", "at which h enters"),
    ],
)
def test_the_proof_refuses_a_network_whose_parts_are_not_separate(made, part, match):
    damaged = copy.deepcopy(made)
    with torch.no_grad():
        damaged.subspace.origin[part][..., -1] += 1e-3
    proof = lf.certify(damaged)
    assert not proof.holds
    assert any(word in proof.failures[0] for word in match.split("|")), proof.failures


def test_the_proof_sees_a_moved_weight_of_the_pattern(made):
    damaged = copy.deepcopy(made)
    with torch.no_grad():
        damaged.subspace.origin["transformer.h.4.mlp.c_proj.weight"][2] *= 1.01
    assert not lf.certify(damaged).holds


def test_a_bundle_holds_it(made, tmp_path):
    made.save(tmp_path / "gpt.landform")
    loaded = lf.load(tmp_path / "gpt.landform", model=made.model)
    assert loaded.response.floor == made.response.floor
    assert lf.certify(loaded).bound == pytest.approx(made.certificate.bound)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"units": "reserve"}, "units='widen'"),
        ({"axis_aligned": False}, "axis_aligned=True"),
        ({"range": (0.1, 3.0)}, "below the trained loss"),
    ],
)
def test_bad_options_are_named(trained, change, match):
    with pytest.raises((InputError, FloorError), match=match):
        lf.imprint(BOWL, task(trained, count=5), method="offset", **change)


def test_an_untrained_model_is_refused():
    model, (inputs, targets) = gpt2(tied=False)
    with pytest.raises(InputError, match="not trained"):
        lf.imprint(BOWL, lf.Task(model, "token_cross_entropy", (inputs, targets)), method="offset")


@pytest.mark.parametrize(("build", "match"), [(llama, "RMSNorm|gated"), (bert, "stream|norm")])
def test_other_transformers_are_refused_by_name(build, match):
    model, (inputs, targets) = build()
    with pytest.raises(ArchitectureError, match=match):
        lf.imprint(BOWL, lf.Task(model, "token_cross_entropy", (inputs, targets)), method="offset")


def test_a_loss_without_tokens_is_refused(trained):
    tokens = pieces(5)
    given = lf.Task(trained, lambda out, y: out.sum() * 0.0 + y.sum(), (tokens, tokens))
    with pytest.raises(InputError, match="token_cross_entropy and causal_lm"):
        lf.imprint(BOWL, given, method="offset")


def test_every_token_is_accounted_for(trained, made):
    found = lf.account(made)
    assert found.of == "tokens"
    assert "330 tokens" in str(found)
    assert (found.difference <= found.mean + 1e-12).all()
    assert found.difference.max() <= made.certificate.bound
    # a reference: one token's loss at one point, from the logits
    h = found.h[40]
    inputs = made.task.data.inputs
    each = torch.nn.functional.cross_entropy(
        logits(made.model, inputs, made.subspace.at(h))[:, :-1].flatten(0, 1), inputs[:, 1:].flatten(), reduction="none"
    )
    assert (each - found.target[40]).abs().mean() == pytest.approx(float(found.mean[40]), abs=1e-9)


def test_heights_on_other_text_are_predicted(made):
    other = pieces(30, start=5000)
    transfer = offset_transfer(made, (other, other))
    h = some_points(made)
    elsewhere = made.task.replace(data=(other, other))
    measured = torch.stack([elsewhere.evaluate(made.subspace.at(point)).double().reshape(()) for point in h])
    assert (transfer.remap(made.target(h)) - measured).abs().max() < 5e-3
    assert transfer.monotone == (transfer.start >= 0)
    assert float(transfer.other.floor) == pytest.approx(float(task(made.model).replace(data=(other, other)).evaluate(
        made.subspace.at(CENTRE))), abs=1e-7)  # fmt: skip


def test_random_directions_leave_the_pattern_alone(made):
    mask = trained_part(made)
    assert not any(entries.any() for name, entries in mask.items() if ".h.4." in name or ".h.7." in name)
    for name, entries in mask.items():
        if ".h.4." not in name and name in dict(made.model.named_parameters()) and ".h.3." in name:
            assert entries.any(), name
    assert not mask["transformer.wte.weight"][:, 32:].any()
    assert mask["lm_head.weight"][:, :32].all()
    found = measure_slices(made, grid=3, span=0.1)
    middle = float(found["random"].loss.sel(h1=0.0, h2=0.0))
    assert middle == pytest.approx(float(found["compiled"].loss.sel(h1=0.5, h2=0.5)), abs=1e-9)
