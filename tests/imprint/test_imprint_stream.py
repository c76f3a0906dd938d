"""Transformers: the pattern in a residual stream, in the widths they come with."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.imprint.lower.post_norm import find_any_stream
from landform.imprint.lower.smooth import balances, weigh
from landform.imprint.lower.stream import find_stream
from landform.imprint.stream import outputs_at
from landform.pattern import Pattern
from landform.program.compile import compile_pattern
from landform.program.stream import to_stream
from landform.response import fit_spline, respond
from landform.testing.random_networks import Block, Transformer
from landform.testing.transformers import NETWORKS, Encoder, bert, encoder, gpt2, llama, token_data, vit


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]()


def rough(n=16):
    values = torch.rand(n + 1, n + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return Pattern(values, name="rough")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_is_the_pattern_and_the_output_ignores_the_input(network, dtype):
    model, (x, y) = network
    model = model.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    made = lf.imprint(rough(), lf.Task(model, data=(x, y)))
    lo, hi = made.range
    h = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5 / 16, 0.5], [0.3, 0.71], [0.999, 0.001]], dtype=torch.float64)
    h = h.to(dtype).double()
    for point in h:
        with torch.no_grad():
            out = outputs_at(made.model, made.subspace, point, x[:3], 3).double()
            other = outputs_at(made.model, made.subspace, point, x[5:8], 3).double()
        assert torch.equal(out, other)
        rows = out.reshape(-1, out.shape[-1])
        assert torch.allclose(rows, rows[:1].expand_as(rows), rtol=1e-5, atol=1e-5)  # GEMMs sum edge rows otherwise
        loss = float(made.response.loss(rows[:1]))
        assert abs(loss - float(made.target(point[None]))) < 4e-4 * (hi - lo)


def test_the_model_is_left_as_it_was(network):
    model, data = network
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    lf.imprint(rough(4), lf.Task(model, data=data))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_a_scan_takes_many_points_in_a_batch_and_agrees_with_one_by_one(network):
    model, data = network
    made = lf.imprint(rough(8), lf.Task(model, data=data))
    surface = lf.scan(made, check=0)
    h = torch.tensor([[3 / 8, 7 / 8]], dtype=torch.float64)
    with torch.no_grad():
        out = outputs_at(made.model, made.subspace, h[0], data[0][:1], 1).double()
    one = float(made.response.loss(out.reshape(-1, out.shape[-1])[:1]))
    assert abs(float(surface.loss.sel(h1=3 / 8, h2=7 / 8)) - one) < 1e-6
    assert float(abs(surface.difference).max()) < 3e-4


def test_where_the_coordinates_enter_is_said():
    model, data = gpt2()
    made = lf.imprint(rough(4), lf.Task(model, data=data))
    assert "biases of 'transformer.h.0.ln_2', a normalisation" in made.meta["injected"]
    assert made.subspace.moved == ("transformer.h.0.ln_2.bias",)
    model, data = llama()
    made = lf.imprint(rough(4), lf.Task(model, data=data))
    assert "no biases" in made.meta["injected"]


@pytest.mark.parametrize("z", [1, 2, 3])
def test_any_number_of_coordinates(z):
    torch.manual_seed(0)
    model, data = gpt2(width=192)
    pattern = Pattern.from_formula("ackley", z=z, resolution={1: 32, 2: 8, 3: 3}[z])
    made = lf.imprint(pattern, lf.Task(model, data=data))
    surface = lf.scan(made, check=0)
    assert float(abs(surface.difference).max()) < 3e-4


def test_a_bundle_comes_back(tmp_path):
    model, data = vit()
    made = lf.imprint(rough(8), lf.Task(model, data=data))
    made.save(tmp_path / "vit.landform")
    again = lf.load(tmp_path / "vit.landform", model=vit()[0])
    same = lf.scan(again, grid=5, check=0).loss.values == lf.scan(made, grid=5, check=0).loss.values
    assert same.all()


@pytest.mark.parametrize("form", ["hats", "strips"])
def test_a_program_on_a_stream_is_the_program(form):
    response = respond("cross_entropy", torch.arange(200) % 7)
    lo = response.floor + 0.1
    program = compile_pattern(
        rough(12), lambda _: [fit_spline(response, lo, lo + 1, units=20)], form=form, dtype=torch.float64
    )
    stream = to_stream(program, room=90, hidden=[64] * 5)
    h = np.random.default_rng(0).random((50, 2))
    assert np.abs(stream(h) - program(torch.from_numpy(h)).numpy()).max() < 1e-12
    assert len(stream.blocks) == (5 if form == "hats" else 3)  # 47 hinges, 169 hats or 11 strips, 20 knots


def test_what_stands_behind_the_last_norm_is_named():
    class Strange(Encoder):
        def forward(self, x):
            x = self.encoder(self.embed(x)).mean(1)
            return self.out(torch.sin(self.out2(x)))

    model = Strange()
    model.out2 = nn.Linear(96, 96)
    with pytest.raises(lf.LandformError, match=r"after the last norm 'encoder.norm' come 'out2', 'out'"):
        lf.imprint(rough(4), lf.Task(model.eval(), data=encoder()[1]))


def test_what_it_holds_is_said():
    model, data = gpt2()
    with pytest.raises(lf.LandformError, match=r"stream of 96 coordinates, 4 perceptrons of 384 units\) does not hold"):
        lf.imprint(rough(200), lf.Task(model, data=data))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.half(), "float16"),
        (lambda m: m.requires_grad_(False), "frozen"),
        (lambda m: m.to("meta"), "load the weights"),
        (lambda m: setattr(m.transformer.h[1], "mlp", m.transformer.h[0].mlp), "used more than once"),
    ],
)
def test_bad_networks_are_named_and_left_alone(change, match):
    model, data = gpt2()
    change(model)
    with pytest.raises(lf.LandformError, match=match):
        lf.imprint(rough(4), lf.Task(model, data=data))


def test_a_second_path_is_found_out():
    class Leaky(Encoder):
        def forward(self, x):
            return super().forward(x) + 0.01 * x.mean()

    with pytest.raises(lf.LandformError, match="still depends on its input"):
        lf.imprint(rough(4), lf.Task(Leaky().eval(), data=encoder()[1]))


def test_structure_is_found_in_the_numbers():
    found = find_stream(llama()[0], token_data()[0][:2])
    assert found.mlps[0].activation == "silu"
    assert found.mlps[0].gate is not None
    assert found.final.kind == "rms"
    assert find_stream(encoder("relu")[0], torch.randn(2, 7, 8)).mlps[1].activation == "relu"


@pytest.mark.parametrize("loss", ["cross_entropy", "token_cross_entropy", "causal_lm"])
def test_the_loss_of_a_language_model_is_that_of_its_tokens(loss):
    model, (inputs, following) = gpt2()
    data = (inputs, inputs if loss == "causal_lm" else following)
    made = lf.imprint(rough(8), lf.Task(model, loss=loss, data=data))
    surface = lf.scan(made, grid=5, check=3)
    assert surface.attrs["checked_difference"] < 1e-6  # all tokens of all sequences through the network
    assert float(abs(surface.difference).max()) < 3e-4


@pytest.mark.parametrize("build", [gpt2, encoder, lambda: bert(masked=True)])
def test_the_stream_has_no_mean_that_a_norm_could_take_away(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, data = build()
    made = lf.imprint(rough(6), lf.Task(model, data=data))
    stream = find_any_stream(made.model, data[0][:2])
    weights = dict(made.model.named_parameters())
    written = 0
    for mlp in stream.mlps[: made.spline_stage]:
        down = weights[mlp.down.weight].detach().double()
        down = down if mlp.down.transposed else down.T  # [units, coordinates]
        size = down.abs().sum(1)
        constant = size > 1e4  # the unit that writes ±C, and 64s for tied heads
        assert (down.sum(1)[~constant].abs() <= 1e-6 * size[~constant]).all()
        written += int((size > 0).sum())
    assert written > 49


def test_balancing_takes_only_what_is_left_and_stays_light():
    program = compile_pattern(rough(8), None, form="hats", clear=True)
    layers = to_stream(program, room=60, hidden=[200, 200])
    nodes = rough(8).mesh.nodes().numpy()
    weight = layers.weight_to_balance()
    assert weight == np.abs(layers.held(nodes)[1:].sum(0)).max()
    assert [balances(layers, spare, 2.0**20) for spare in (0, 1, 3, 7, 100)] == [0, 1, 2, 4, 8]
    assert balances(layers, 4, 100 * weight) == 4
    assert balances(layers, 4, weight) == 0
    write = np.array([[1.0, 2.0], [3.0, -5.0], [0.0, 0.0], [0.0, 0.0]])
    weigh(write, slice(0, 2), slice(2, 4))
    assert write.sum(0).tolist() == [0.0, 0.0]
    assert write[2].tolist() == write[3].tolist() == [-2.0, 1.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("act", [nn.SiLU, nn.ReLU])
def test_gated_perceptrons_normalised_after_the_sum(act, dtype):
    def norm():
        return nn.LayerNorm(64)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = [Block(64, 96, norm, act, gated=True, first=False, mixes=number != 1) for number in range(4)]
        net = Transformer(blocks, 64, norm, first=False, pooled="mean").eval().to(dtype)
        data = torch.randn(20, 5, 6, dtype=dtype), torch.arange(20) % 4
    made = lf.imprint(rough(4), lf.Task(net, loss="cross_entropy", data=data))
    assert made.certificate.kind == "certified"
    assert made.certificate.holds
    assert made.certificate.relative_bound < 1e-3
    assert abs(lf.scan(made, grid=9).difference).max() <= made.certificate.bound
