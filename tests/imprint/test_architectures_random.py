"""Random networks of every covered family: they compile, stay inside their certificates, or say why they cannot."""

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import landform as lf
from landform.errors import CapacityError
from landform.testing import convnets, encoders, perceptrons

torch.set_num_threads(1)
PATTERN = lf.Pattern(torch.from_numpy(np.random.default_rng(3).random((4, 4))))
FAMILIES = {
    "perceptrons": (perceptrons(), 8),
    "1 axis": (convnets(1), 5),
    "2 axes": (convnets(2), 10),
    "3 axes": (convnets(3), 3),
    "transformers": (encoders(depth=(2, 8)), 5),
}
"""Networks by family, and how many of them are tried; EXAMPLES=300 in the environment tries more of each."""


def keeps_its_promise(net, shape, dtype):
    """Imprint a network and hold it against its certificate; say whether it holds the pattern."""
    net = net.to(dtype)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, *shape, generator=generator).to(dtype)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    try:
        imprint = lf.imprint(PATTERN, lf.Task(net, data=(inputs, torch.arange(8) % 4)))
    except CapacityError:
        return False  # too narrow: the message is tested elsewhere
    finally:
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert imprint.certificate.kind == "certified"
    assert imprint.certificate.holds, imprint.certificate.failures
    assert imprint.certificate.relative_bound < 1
    for point in torch.cat([PATTERN.mesh.nodes()[::5], torch.rand(2, 2, dtype=torch.float64, generator=generator)]):
        h = point.to(dtype)
        with torch.no_grad():
            state = {**imprint.subspace.at(h), **dict(imprint.model.named_buffers())}
            outputs, others = (
                torch.func.functional_call(imprint.model, state, (x,)) for x in (inputs[:2], 9 * inputs[2:4])
            )
        assert torch.equal(outputs, others)
        loss = float(imprint.response.loss(outputs[:1].double())[0])
        assert abs(loss - float(imprint.target(h.double()[None])[0])) <= imprint.certificate.bound
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_random_networks_compile_and_stay_inside_their_certificates(family):
    nets, count = FAMILIES[family]
    count = int(os.environ.get("EXAMPLES", count))
    held = []

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(nets, st.sampled_from([torch.float32, torch.float64]))
    def check(made, dtype):
        held.append(keeps_its_promise(*made, dtype))

    check()
    assert sum(held) > count / 2
