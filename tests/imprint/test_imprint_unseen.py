"""What a traced graph does not show must not slip past the proof."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.errors import ArchitectureError, InputError

DATA = (torch.linspace(0, 1, 120).reshape(30, 4), torch.arange(30) % 3)
PATTERN = lf.Pattern.from_formula("sphere", resolution=4)


class Functional(nn.Module):
    """An MLP with functional dropout, written in one of three ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        sizes = (4, 8, 40, 60, 60)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.last = nn.Linear(60, 3)
        self.way = way

    def forward(self, x):
        for layer in self.hidden:
            x = torch.relu(layer(x))
            if self.way == "always":
                x = nn.functional.dropout(x, 0.5)
            elif self.way == "keyword":
                x = nn.functional.dropout(x, 0.5, training=self.training)
            else:
                x = nn.functional.dropout(x, 0.5, self.training)
        return self.last(x)


@pytest.mark.parametrize("way", ["keyword", "position"])
def test_dropout_that_knows_eval_mode_is_passed_over(way):
    assert lf.imprint(PATTERN, lf.Task(Functional(way).eval(), data=DATA)).certificate.holds


def test_dropout_that_never_stops_is_refused():
    with pytest.raises(ArchitectureError, match=r"drops units in eval mode too; write dropout\(x, p, training="):
        lf.imprint(PATTERN, lf.Task(Functional("always").eval(), data=DATA))


def test_hooks_of_the_users_model_do_not_reach_the_copy():
    model = Functional("keyword").eval()
    model.hidden[1].register_forward_hook(lambda _module, _inputs, output: output + 1)
    made = lf.imprint(PATTERN, lf.Task(model, data=DATA))
    assert made.certificate.holds
    assert float(abs(lf.scan(made).difference).max()) <= made.certificate.bound
    assert len(model.hidden[1]._forward_hooks) == 1


def test_a_hook_added_later_is_not_certified():
    made = lf.imprint(PATTERN, lf.Task(Functional("keyword").eval(), data=DATA))
    made.model.hidden[1].register_forward_pre_hook(lambda _module, inputs: (inputs[0] + 1,))
    proof = lf.certify(made)
    assert not proof.holds
    assert "forward hook" in proof.failures[0]


def test_weight_norm_of_the_old_kind_is_named():
    with pytest.warns(FutureWarning, match="weight_norm"):
        normed = nn.utils.weight_norm(nn.Linear(8, 40))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), normed, nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))
    with pytest.raises(ArchitectureError, match="'2' computes its weight from other parameters"):
        lf.imprint(PATTERN, lf.Task(model.eval(), data=DATA))


def test_outputs_of_another_shape_than_the_labels_are_noticed():
    model = nn.Sequential(*(m for a, b in ((4, 8), (8, 40), (40, 60)) for m in (nn.Linear(a, b), nn.ReLU())))
    model.append(nn.Linear(60, 3))
    with pytest.raises(InputError, match=r"outputs have shape \[2, 2, 3\]"):
        lf.imprint(PATTERN, lf.Task(model.eval(), data=(torch.zeros(30, 2, 4), DATA[1])))


def test_a_task_keeps_its_loss():
    with pytest.raises(InputError, match="the task has a loss of its own"):
        lf.imprint(PATTERN, lf.Task(Functional("keyword").eval(), data=DATA), loss="mse")


def test_the_direct_form_prints_its_gap():
    notes = lf.imprint(PATTERN, "digits", direct=True, certify=False).meta["notes"]
    assert any("sags by up to 0.0" in note for note in notes)


def test_images_of_bytes_in_an_archive(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", x=rng.integers(0, 256, (20, 5, 5), dtype=np.uint8), y=np.arange(20) % 4)
    made = lf.imprint(PATTERN, str(tmp_path / "images.npz"))
    assert made.task.data.inputs.max() <= 1
    assert made.certificate.holds
