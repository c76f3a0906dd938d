"""Files of an adapter alone, named as peft names them: in the model with the adapter's name, in the file without."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from landform import between, load_weights, pca_plane
from landform.checkpoints import checkpoint
from landform.errors import InputError

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
IN_FILE = {
    "body.lora_A.tuned.weight": "body.lora_A.weight",
    "body.lora_B.tuned.weight": "body.lora_B.weight",
    "head.modules_to_save.tuned.weight": "head.weight",
    "head.modules_to_save.tuned.bias": "head.bias",
}


class Adapted(nn.Module):
    """What peft makes of a Linear and a head that is trained beside the adapter."""

    def __init__(self):
        super().__init__()
        self.peft_config = {"tuned": object()}
        self.body = nn.ModuleDict(
            {
                "base_layer": nn.Linear(4, 5),
                "lora_A": nn.ModuleDict({"tuned": nn.Linear(4, 2, bias=False)}),
                "lora_B": nn.ModuleDict({"tuned": nn.Linear(2, 5, bias=False)}),
            }
        )
        self.head = nn.ModuleDict(
            {"original_module": nn.Linear(5, 3), "modules_to_save": nn.ModuleDict({"tuned": nn.Linear(5, 3)})}
        )

    def forward(self, x):
        body = self.body
        hidden = body["base_layer"](x) + body["lora_B"]["tuned"](body["lora_A"]["tuned"](x))
        return self.head["modules_to_save"]["tuned"](hidden)


def adapted(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Adapted()
        torch.manual_seed(seed)
        with torch.no_grad():
            for name in IN_FILE:
                model.get_parameter(name).normal_()
    return model


def saved(model, folder, form="safetensors"):
    """Write what ``save_pretrained`` of peft writes."""
    folder.mkdir()
    state = {held: model.get_parameter(name).detach().clone() for name, held in IN_FILE.items()}
    if form == "safetensors":
        save_file(state, folder / "adapter_model.safetensors")
    else:
        torch.save(state, folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_an_adapter_is_read_over_the_rest_of_the_model(form, tmp_path):
    one, two = adapted(1), adapted(2)
    point = checkpoint(saved(one, tmp_path / "one", form), model=two)
    assert point.names == tuple(name for name, _ in two.named_parameters())
    assert all(torch.equal(value, one.get_parameter(name)) for name, value in point.state().items())
    assert torch.equal(point.read("body.base_layer.weight", slice(1, 3)), two.body["base_layer"].weight.detach()[1:3])


def test_a_line_between_adapters_moves_nothing_else(tmp_path):
    one, two = adapted(1), adapted(2)
    line = between(saved(one, tmp_path / "one"), saved(two, tmp_path / "two"), model=adapted(3))
    assert set(line.moved) == set(IN_FILE)
    for h, model in ((0.0, one), (1.0, two)):
        found = torch.func.functional_call(adapted(4), line.at(torch.tensor([h])), (X,))
        torch.testing.assert_close(found, model(X))


def test_the_principal_plane_of_a_trainers_folders(tmp_path):
    models = [adapted(seed) for seed in range(1, 5)]
    for step, model in enumerate(models, start=8):
        saved(model, tmp_path / f"checkpoint-{step}")
    plane = pca_plane(str(tmp_path / "checkpoint-*"), model=models[0])
    assert plane.meta["steps"] == [8, 9, 10, 11]
    wanted = pca_plane([dict(model.named_parameters()) for model in models])
    assert plane.meta["explained_variance"] == pytest.approx(wanted.meta["explained_variance"])
    assert set(plane.moved) == set(IN_FILE)


def test_weights_of_an_adapter_leave_the_rest(tmp_path):
    one, two = adapted(1), adapted(2)
    with torch.no_grad():
        two.body["base_layer"].weight.add_(1)
    before = copy.deepcopy(two.body["base_layer"].state_dict())
    load_weights(two, saved(one, tmp_path / "one"))
    assert all(torch.equal(two.get_parameter(name), one.get_parameter(name)) for name in IN_FILE)
    assert all(torch.equal(value, before[name]) for name, value in two.body["base_layer"].state_dict().items())


def test_an_adapter_without_its_model(tmp_path):
    folder = saved(adapted(1), tmp_path / "one")
    with pytest.raises(InputError, match=r"one holds an adapter alone \('body\.lora_A\.weight', …\); pass model= the"):
        checkpoint(folder, model=nn.ModuleDict({"body": nn.Linear(4, 5)}))
    other = adapted(2)
    del other.body["lora_B"]
    with pytest.raises(InputError, match=r"holds an adapter alone"):
        checkpoint(folder, model=other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"nor adapter_model\.safetensors"):
        checkpoint(tmp_path / "empty")
