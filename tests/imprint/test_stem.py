"""Where the first layer has a bias that reaches every token, h is that bias: Linear and patch stems of transformers."""

import copy

import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import InputError
from landform.imprint.lower.post_norm import find_any_stream
from landform.imprint.lower.stem import Stem
from landform.testing.random_networks import Block, Transformer

PATTERN = lf.Pattern.from_formula("himmelblau", resolution=4)
LABELS = torch.arange(24) % 3


def rng():
    return torch.Generator().manual_seed(0)


class Encoder(nn.Module):
    """torch's encoder behind a Linear, or a convolution over patches; the mean of all tokens, or the first one."""

    def __init__(self, norm_first, *, patches=False, positions="parameter", first=False, between=None, width=96):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, width, 4, 4) if patches else nn.Linear(5, width)
            layer = nn.TransformerEncoderLayer(width, 4, 200, 0.0, "gelu", batch_first=True, norm_first=norm_first)
            norm = nn.LayerNorm(width) if norm_first else None
            self.encoder = nn.TransformerEncoder(layer, 4, norm=norm, enable_nested_tensor=False)
            self.head, self.between = nn.Linear(width, 3), between or nn.Identity()
            self.first = nn.Parameter(torch.randn(1, 1, width)) if first else None
            table = 0.1 * torch.randn(1, 4, width)
        if positions == "parameter":
            self.positions = nn.Parameter(table)
        else:
            self.register_buffer("positions", table)

    def forward(self, x):
        x = self.stem(x)
        x = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        x = self.between(x) + self.positions
        if self.first is not None:
            return self.head(self.encoder(torch.cat([self.first.expand(len(x), -1, -1), x], dim=1))[:, 0])
        return self.head(self.encoder(x).mean(1))


def task(model, dtype=torch.float64):
    shape = (24, 3, 8, 8) if isinstance(model.stem, nn.Conv2d) else (24, 4, 5)
    inputs = torch.randn(shape, generator=rng(), dtype=torch.float64).to(dtype)
    return lf.Task(model.to(dtype).eval(), data=(inputs, LABELS))


def stem_of(model):
    return find_any_stream(model.double().eval(), task(model).data.inputs[:2]).stem


def off(made):
    """Return the largest difference at random points, on all data."""
    h = torch.rand(4, 2, generator=rng(), dtype=torch.float64).float().double()
    return max(abs(float(made.task.evaluate(made.subspace.at(p)) - made.target(p[None]))) for p in h)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(("patches", "dtype"), [(False, torch.float64), (True, torch.float32)])
def test_the_coordinates_are_biases_of_the_first_layer(norm_first, patches, dtype):
    made = lf.imprint(PATTERN, task(Encoder(norm_first, patches=patches), dtype), epsilon=1e-4)
    assert made.meta["injected"] == "biases of 'stem', the layer that starts the stream, whose weights are 0"
    for direction in made.subspace.directions:
        assert set(direction) == {"stem.bias"}
        assert int((direction["stem.bias"] != 0).sum()) == 1
        assert float(direction["stem.bias"].max()) == 1
    assert not made.model.stem.weight.any()
    assert not made.model.positions.any()
    assert made.certificate.kind == "certified"
    assert made.certificate.holds
    assert off(made) <= made.certificate.bound < (2.5e-4 if dtype == torch.float32 else 1.01e-4)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_stream_under_rms_norm_starts_with_biases_too(gated, dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = [
            Block(96, 200, lambda: nn.RMSNorm(96), nn.SiLU, gated=gated, first=True, mixes=bool(i % 2))
            for i in range(4)
        ]
        model = Transformer(blocks, 96, lambda: nn.RMSNorm(96), first=True, pooled="mean")
    inputs = torch.randn(24, 5, 6, generator=rng()).to(dtype)
    subject = lf.Task(model.to(dtype).eval(), data=(inputs, LABELS))
    made = lf.imprint(PATTERN, subject, epsilon=1e-4)
    assert made.meta["injected"] == "biases of 'stem', the layer that starts the stream, whose weights are 0"
    assert [set(direction) for direction in made.subspace.directions] == [{"stem.bias"}] * 2
    assert made.certificate.kind == "certified"
    assert made.certificate.holds
    assert off(made) <= made.certificate.bound < (1e-3 if dtype == torch.float32 else 1.01e-4)
    with torch.no_grad():
        made.subspace.origin["stem.weight"][0, 0] = 1e-3
    assert "'stem.weight' is not zero" in lf.certify(made).failures[0]


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_proof_wants_a_stem_that_reads_nothing(norm_first):
    made = lf.imprint(PATTERN, task(Encoder(norm_first)), epsilon=1e-3)
    damaged = copy.deepcopy(made)
    with torch.no_grad():
        damaged.subspace.origin["stem.weight"][0, 0] = 1e-3
    assert "'stem.weight' is not zero" in lf.certify(damaged).failures[0]
    moved = copy.deepcopy(made)
    with torch.no_grad():
        moved.subspace.origin["stem.bias"][made.subspace.directions[0]["stem.bias"].argmax()] += 0.02
    assert not lf.certify(moved).holds  # the whole picture has moved
    other = copy.deepcopy(made)
    with torch.no_grad():
        other.subspace.directions[0]["head.bias"] = torch.ones(3, dtype=torch.float64)
    assert "the proof covers 'stem.bias' and norm" in lf.certify(other).failures[0]


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_first_token_of_its_own_keeps_the_coordinates_at_a_norm(norm_first):
    model = Encoder(norm_first, first=True)
    model.positions = nn.Parameter(torch.zeros(1, 1, 96))
    assert stem_of(model) is None
    made = lf.imprint(PATTERN, task(model), epsilon=1e-3)
    assert "normalisation" in made.meta["injected"]
    assert off(made) <= made.certificate.bound


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize(
    "model",
    [
        Encoder(norm_first=True, between=Doubled()),
        Encoder(norm_first=False, between=Doubled()),
        Encoder(norm_first=True, between=nn.LayerNorm(96)),
        Encoder(norm_first=False, positions="buffer"),
        Encoder(norm_first=True, positions="buffer"),
    ],
    ids=["scale", "scale, after", "norm", "fixed positions, after", "fixed positions"],
)
def test_what_lies_between_stem_and_stream_is_seen(model):
    assert stem_of(model) is None


def test_fixed_positions_behind_a_stem_are_passed_over_by_the_first_norm():
    made = lf.imprint(PATTERN, task(Encoder(norm_first=False, positions="buffer")), epsilon=1e-3)
    assert "the normalisation behind the embeddings" in made.meta["injected"]
    assert off(made) <= made.certificate.bound


def test_of_two_layers_the_last_one_starts_the_stream_unless_nothing_bends_between():
    model = Encoder(norm_first=True)
    model.between = nn.Sequential(nn.ReLU(), nn.Linear(96, 96))
    assert stem_of(model) == Stem("between.1")
    model = Encoder(norm_first=True)
    model.between = nn.Identity()
    assert stem_of(model) == Stem("stem")


def test_one_of_several_outputs_of_a_transformer_is_refused_with_the_way_out():
    class Two(Encoder):
        def forward(self, x):
            found = super().forward(x)
            return {"kind": found, "twice": 2 * found}

    several = lf.Task(Two(norm_first=True).double().eval(), data=task(Encoder(True)).data, output="kind")
    for method in ("constant", "offset"):
        with pytest.raises(InputError, match=r"output='kind', and .* one output; put a module around yours"):
            lf.imprint(PATTERN, several, method=method)


def test_a_bundle_of_it_is_proved_again(tmp_path):
    model = Encoder(norm_first=True)
    made = lf.imprint(PATTERN, task(model), epsilon=1e-3)
    loaded = lf.load(made.save(tmp_path / "stem.landform"), model=model)
    assert lf.certify(loaded).bound == made.certificate.bound
