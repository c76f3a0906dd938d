"""Widening transformers: hidden units, heads, the stream; the configuration grows with them."""

import copy

import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import ArchitectureError, InputError, UnknownNameError
from landform.imprint.widening.promise import rounding
from landform.testing.transformers import NETWORKS

HUGGING_FACE = ["gpt2", "gpt2, untied", "llama", "llama, tied", "vit", "bert, masked", "bert, classifier"]
UP = {"gpt2": "transformer.h.2.mlp.c_fc", "llama": "model.layers.2.mlp.up_proj", "encoder": "encoder.layers.2.linear1"}


def made(name: str):
    """Return a network in float64 with all its parameters as after training (no gain 1, no bias 0), and inputs."""
    if not name.startswith("encoder"):
        pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, (x, _) = NETWORKS[name]()
        with torch.no_grad():
            for value in net.parameters():
                value += 0.1 * torch.randn(value.shape)
    x = x[:2]
    return net.double(), x.double() if x.is_floating_point() else x


def answer(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = net(x)
    return getattr(out, "logits", out)


@pytest.mark.parametrize("name", NETWORKS)
def test_hidden_units(name):
    net, x = made(name)
    before, state = answer(net, x), copy.deepcopy(net.state_dict())
    wide = lf.widen(net, 5, inputs=x, seed=0)
    # some norms cast to float32 inside, whatever the dtype
    assert (answer(wide.model, x) - before).abs().max() <= 1e-12 * before.abs().max() + 1e-12
    assert wide.difference <= wide.bound
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert len(wide.columns) == 4
    assert all(len(new) == 5 for new in (*wide.channels.values(), *wide.columns.values()))


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_a_repeated_stream(name):
    net, x = made(name)
    before = answer(net, x)
    wide = lf.widen(net, 3, inputs=x, repeat=2)
    assert wide.model.config.hidden_size == 2 * net.config.hidden_size
    # the norms of Llama cast to float32, so that 1e-7 is rounding there
    assert (answer(wide.model, x) - before).abs().max() <= (2e-6 if "llama" in name else 1e-12) * before.abs().max()
    assert not torch.equal(answer(wide.model, x[[1, 0]]), before), "the outputs do depend on the input"


@pytest.mark.parametrize("name", ["gpt2", "llama, tied", "vit", "bert, masked"])
def test_the_original_weights_are_there_bit_for_bit(name):
    net, x = made(name)
    wide = lf.widen(net, 3, inputs=x, repeat=2)
    new = dict(wide.model.named_modules())
    for key, module in net.named_modules():
        for part, value in module.named_parameters(recurse=False):
            found = getattr(new[key], part).detach()
            for dim, (before, after) in enumerate(zip(value.shape, found.shape, strict=True)):
                if before == after:
                    continue
                fresh = {*wide.channels.get(key, ())}
                if after - len(fresh) != before or (value.ndim > 1 and _reads(module) == dim):
                    fresh = {*wide.columns.get(key, ())}
                found = found.index_select(dim, torch.tensor([n for n in range(after) if n not in fresh]))
            assert torch.equal(found, value.detach()), f"{key}.{part}"


def _reads(module: nn.Module) -> int | None:
    return {"Linear": 1, "Conv1D": 0}.get(type(module).__name__)


@pytest.mark.parametrize(("name", "wish"), [("gpt2", {"repeat": 2}), ("llama", {"heads": 1}), ("bert, masked", {})])
def test_saved_and_loaded_by_the_library_itself(name, wish, tmp_path):
    net, x = made(name)
    wide = lf.widen(net, 3, inputs=x, seed=1, **wish).model
    wide.save_pretrained(tmp_path)
    back = type(net).from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert torch.equal(answer(back, x), answer(wide, x))
    assert net.config.hidden_size == made(name)[0].config.hidden_size


def test_heads_come_in_groups_that_share_keys():
    net, x = made("llama")
    wide = lf.widen(net, inputs=x, heads=3, seed=0)
    config = wide.model.config
    assert (config.num_attention_heads, config.num_key_value_heads) == (8, 4)
    name = "model.layers.0.self_attn."
    assert wide.channels[name + "q_proj"] == tuple(range(96, 192))
    assert wide.columns[name + "o_proj"] == tuple(range(96, 192))
    assert not wide.model.get_submodule(name + "o_proj").weight[:, 96:].any()
    assert wide.model.get_submodule(name + "k_proj").weight[48:].any()
    assert (answer(wide.model, x) - answer(net, x)).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["gpt2", "llama", "encoder"])
def test_one_perceptron_by_name(name):
    net, x = made(name)
    wide = lf.widen(net, {UP[name]: 4}, inputs=x)
    assert set(wide.channels) <= {UP[name], UP[name].replace("up_proj", "gate_proj")}
    assert len(wide.columns) == 1
    assert (answer(wide.model, x) - answer(net, x)).abs().max() < 1e-12


def test_nobody_reads_the_new_units():
    net, x = made("gpt2")
    wide = lf.widen(net, 4, inputs=x)
    before = answer(net, x)
    with torch.no_grad():
        for key, new in wide.channels.items():
            wide.model.get_submodule(key).weight[:, list(new)] = 1.0  # Conv1D keeps its outputs last
            wide.model.get_submodule(key).bias[list(new)] = -1.0
        assert (answer(wide.model, x) - before).abs().max() < 1e-12
        name, columns = next(iter(wide.columns.items()))
        wide.model.get_submodule(name).weight[columns[0], 0] = 1.0
        assert (answer(wide.model, x) - before).abs().max() > 1e-3, "the test could pass idly"


def test_modes_flags_and_random_state_are_kept():
    net, x = made("gpt2")
    net.train()
    net.transformer.wpe.weight.requires_grad_(False)
    state = torch.get_rng_state()
    wide = lf.widen(net, 2, inputs=x, repeat=2, seed=0).model
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in wide.modules())
    assert all(module.training for module in net.modules())
    assert not wide.transformer.wpe.weight.requires_grad
    assert wide.lm_head.weight is wide.transformer.wte.weight


@pytest.mark.parametrize("name", ["gpt2", "llama", "encoder"])
def test_the_promise_is_kept_by_float32(name):
    """The same weights in both precisions differ by more than a new order of sums; it must explain that too."""
    net, x = made(name)
    single, given = copy.deepcopy(net).float(), x.float() if x.is_floating_point() else x
    exact = copy.deepcopy(single).double()
    columns = [0, 3]
    allowed = rounding(single, given, columns)
    moved = (answer(single, given).double() - answer(exact, x.float().double() if x.is_floating_point() else x)).abs()
    moved = moved.reshape(len(moved), -1)[:, columns]
    assert (moved > 0).any()
    assert (moved <= allowed).all()


def test_bad_input():
    net, x = made("encoder")
    with pytest.raises(InputError, match="pass inputs="):
        lf.widen(net, 2)
    with pytest.raises(ArchitectureError, match="Encoder and its heads are in its code"):
        lf.widen(net, inputs=x, repeat=2)
    with pytest.raises(UnknownNameError, match=r"did you mean 'encoder\.layers\.0\.linear1'"):
        lf.widen(net, {"encoder.layers.0.linear": 2}, inputs=x)
    with pytest.raises(InputError, match="repeat=0: wanted a whole number of at least 1"):
        lf.widen(net, inputs=x, repeat=0)
    with pytest.raises(ArchitectureError, match="no attention heads"):
        lf.widen(nn.Linear(2, 2), inputs=x, heads=2)


@pytest.mark.parametrize("wish", [{"extra": 2}, {"extra": 0, "repeat": 2}])
def test_inputs_that_do_not_fit_are_named(wish):
    net, x = made("gpt2")
    with pytest.raises(InputError, match=r"GPT2LMHeadModel cannot take inputs.*the largest token is \d+"):
        lf.widen(net, inputs=x + 10**6, **wish)


def test_what_a_configuration_cannot_say():
    net, x = made("gpt2")
    with pytest.raises(ArchitectureError, match="hidden_size / heads wide"):
        lf.widen(net, inputs=x, heads=1)
    net, x = made("llama")
    with pytest.raises(InputError, match="heads and repeat in one call"):
        lf.widen(net, inputs=x, heads=1, repeat=2)
    net, x = made("convnext")
    with pytest.raises(ArchitectureError, match="no single width"):
        lf.widen(net, inputs=x, repeat=2)
    with pytest.raises(ArchitectureError, match="no number of attention heads"):
        lf.widen(net, inputs=x, heads=2)
