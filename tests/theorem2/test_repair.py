"""Repair after reserving: what is left is trained on, and the freed channels stay out of it."""

import copy

import pytest
import torch

import landform as lf
from landform.errors import InputError
from landform.imprint.beside import columns_of, trunk_of
from landform.imprint.lower.network import read
from landform.imprint.repair import repair
from landform.imprint.reserve import reserve

BOWL = lf.Pattern.from_formula("sphere", resolution=4)


@pytest.mark.parametrize("kind", ["wide", "cnn"])
def test_training_lowers_the_loss_and_leaves_freed_channels_out(trained, kind):
    task = trained(kind, torch.float32)
    trunk = trunk_of(read(task.model, task.data.inputs.shape[1:]))
    freed, channels = reserve(task.model, trunk, [layer.width // 2 for layer in trunk.hidden], task)
    state, generator = copy.deepcopy(freed.state_dict()), torch.get_rng_state()
    found = repair(freed, trunk, channels, task, steps=20)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in freed.state_dict().items())
    assert float(task.replace(model=found).evaluate()) < float(task.replace(model=freed).evaluate())
    for member in (*trunk.members, trunk.last):
        if member.kind == "map" and member.reads:
            module = found.get_submodule(member.name)
            assert not bool(module.weight[:, columns_of(module, trunk, member, channels)].any())
    again = repair(freed, trunk, channels, task, steps=20)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in again.state_dict().items())


def test_an_imprint_of_a_repaired_network_is_proved_and_says_what_it_gained(trained):
    task = trained("wide", torch.float32)
    made = lf.imprint(BOWL, task, method="offset", units="reserve", repair=30)
    assert made.certificate.holds
    assert made.meta["loss_repaired"] < made.meta["loss_reserved"]
    assert made.meta["trained_loss"] == pytest.approx(made.meta["loss_repaired"], rel=1e-5)
    assert any("30 steps of repair" in note for note in made.meta["notes"])
    middle = made.subspace.at(torch.tensor([0.5, 0.5]))
    assert float(made.task.evaluate(middle)) == pytest.approx(made.range[0], abs=1e-6)


def test_repair_needs_something_to_repair(trained):
    task = trained("wide", torch.float32)
    with pytest.raises(InputError, match="0 or more, got -1"):
        lf.imprint(BOWL, task, method="offset", units="reserve", repair=-1)
    with pytest.raises(InputError, match="units='reserve'"):
        lf.imprint(BOWL, task, method="offset", repair=10)
