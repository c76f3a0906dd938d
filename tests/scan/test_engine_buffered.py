"""Linear layers that write into one buffer."""

import copy

import torch
from torch import fx, nn

from landform.scan.engine.buffered import BufferedLinear, buffered


class Shared(nn.Module):
    """Calls one layer twice, needs both results, and gives out a third that was overwritten in place."""

    def __init__(self):
        super().__init__()
        self.layer, self.last, self.free = nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(6, 4, bias=False)

    def forward(self, x):
        a = self.layer(x)
        b = self.layer(torch.tanh(a))
        return self.last(a * b), torch.relu_(self.free(x))


def test_the_same_bits_as_the_layers_give():
    torch.manual_seed(0)
    net = Shared()
    found = buffered(fx.symbolic_trace(net))
    assert sum(isinstance(part, BufferedLinear) for part in found.modules()) == 2  # one a call; outputs have none
    deep = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3))
    made = buffered(fx.symbolic_trace(deep))
    assert sum(isinstance(part, BufferedLinear) for part in made.modules()) == 2
    with torch.inference_mode():
        for shape in [(7, 6), (3, 6), (2, 5, 6), (7, 6)]:
            x = torch.randn(shape)
            assert all(torch.equal(a, b) for a, b in zip(found(x), net(x), strict=True))
            assert torch.equal(made(x), deep(x))


def test_what_is_given_out_is_not_overwritten():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Dropout(0.0), nn.Flatten())
    found = buffered(fx.symbolic_trace(net)).eval()
    with torch.no_grad():
        first = found(torch.ones(2, 4))
        kept = first.clone()
        found(torch.zeros(2, 4))
    assert torch.equal(first, kept)


def test_the_buffer_is_used_again_and_a_copy_has_its_own():
    layer = BufferedLinear(nn.Linear(3, 2))
    other = copy.deepcopy(layer, {id(layer.weight): layer.weight, id(layer.bias): layer.bias})
    with torch.no_grad():
        one = layer(torch.ones(5, 3))
        two = layer(torch.zeros(5, 3))
        three = other(torch.ones(5, 3))
    assert one is two
    assert other.weight is layer.weight
    assert three.data_ptr() != one.data_ptr()


def test_hooks_are_left_where_they_are():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    traced = fx.symbolic_trace(net)
    traced.get_submodule("0").register_forward_hook(lambda *_: None)
    assert not any(isinstance(part, BufferedLinear) for part in buffered(traced).modules())
