"""Room in a language model: a wider stream and silent blocks leave the outputs as they were."""

import pytest
import torch

from landform.errors import ArchitectureError
from landform.imprint.lower.anatomy import anatomy_of
from landform.imprint.lower.grow import grow
from landform.imprint.lower.overhear import outputs_of
from landform.testing.transformers import encoder, gpt2, llama, vit

pytest.importorskip("transformers")


@pytest.mark.parametrize("build", [lambda: gpt2(tied=False), lambda: gpt2(tied=True), llama])
def test_a_grown_model_computes_the_same(build):
    model, (inputs, _) = build()
    model = model.double()
    with torch.no_grad():
        for value in model.parameters():  # gains, biases, whatever training makes of them
            value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=value.dtype)
        before = outputs_of(model, inputs, len(inputs))
        parts = anatomy_of(model, inputs[:2])
        room = grow(model, parts, coordinates=21, hidden=[70, 90])
        after = outputs_of(room.model, inputs, len(inputs))
    assert (before - after).abs().max() < 1e-6 * before.abs().max()  # llama's norms work in float32
    again = anatomy_of(room.model, inputs[:2])
    assert (again.stream.width, len(again.stream.mlps)) == (parts.stream.width + 21, len(parts.stream.mlps) + 2)
    assert [mlp.hidden for mlp in again.stream.mlps[-2:]] == [70, 90]
    assert room.untied == (parts.stream.tied is not None)
    assert again.stream.tied is None


@pytest.mark.parametrize(("build", "match"), [(vit, "answer at every position"), (encoder, "answer at every position")])
def test_what_is_no_language_model_is_refused(build, match):
    model, (inputs, _) = build()
    with pytest.raises(ArchitectureError, match=match):
        anatomy_of(model, inputs[:2])
