"""One of several outputs, and heads that emit probabilities or their logarithms."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import landform as lf
from landform.certify.ending import behind, largest_logit
from landform.certify.proof_error import ProofError
from landform.certify.prove import Parts
from landform.errors import ArchitectureError, InputError, UnknownNameError
from landform.imprint.lower.network import read
from landform.response import respond
from landform.testing import pretrained

PATTERN = lf.Pattern.from_formula("himmelblau", resolution=4)
X, Y = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


class Several(nn.Module):
    """A small convolutional net with three heads, in a dict or a tuple; the one for classes may end in anything."""

    def __init__(self, end: nn.Module | None = None, *, named: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 40, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
            self.hidden = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())
            self.box, self.face, self.mark = nn.Linear(40, 4), nn.Linear(40, 3), nn.Linear(40, 3)
        self.end, self.named = end or nn.Identity(), named

    def forward(self, x):
        x = self.hidden(self.body(x))
        out = {"box": self.box(x), "face": self.end(self.face(x)), "mark": self.mark(x)}
        return out if self.named else tuple(out.values())


def data(dtype=torch.float32):
    return X.to(dtype), Y


def measured(made):
    """Return the largest difference on a grid, with all data at four points."""
    surface = lf.scan(made, grid=9)
    assert surface.attrs["checked_points"] == 4
    assert surface.attrs["checked_difference"] < 1e-5
    return float(np.abs(surface["difference"]).max())


@pytest.mark.parametrize(("named", "output"), [(True, "face"), (False, 1), (False, "1")])
def test_a_pattern_goes_into_the_output_that_is_meant(named, output, tmp_path):
    net = Several(named=named).eval()
    before = copy.deepcopy(net.state_dict())
    task = lf.Task(net, data=data(), output=output)
    assert task.heads() == ("output",)
    assert task.evaluate().ndim == 0
    made = lf.imprint(PATTERN, task)
    assert made.certificate.holds
    assert made.certificate.kind == "certified"
    assert measured(made) <= made.certificate.bound
    assert made.meta["output"] == output
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    for other in ("box", "mark"):  # what other outputs alone read stays as it was
        assert torch.equal(made.model.get_parameter(f"{other}.weight"), before[f"{other}.weight"])
    again = lf.load(made.save(tmp_path / "a.landform"), model=net, data=data())
    assert again.task.output == output
    assert lf.certify(again).bound == made.certificate.bound
    assert again.task.evaluate() == made.task.evaluate()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("end", "loss"),
    [
        (nn.LogSoftmax(1), "nll"),
        (nn.LogSoftmax(dim=-1), nn.NLLLoss(torch.tensor([1.0, 2.0, 0.5]))),
        (nn.LogSoftmax(1), nn.CrossEntropyLoss(label_smoothing=0.1)),
        (nn.Softmax(1), "log_loss"),
    ],
    ids=["nll", "weights", "smoothing", "softmax"],
)
def test_a_head_may_emit_probabilities(end, loss, dtype, tmp_path):
    net = Several(end).eval().to(dtype)
    made = lf.imprint(PATTERN, lf.Task(net, loss, data(dtype), output="face"), epsilon=1e-3)
    plain = lf.imprint(
        PATTERN, lf.Task(Several().eval().to(dtype), _of_logits(loss), data(dtype), output="face"), epsilon=1e-3
    )
    assert made.certificate.kind == "certified"
    assert measured(made) <= made.certificate.bound
    # the same network but for its end, whose rounding is all that the bound has more
    more = made.certificate.bound - plain.certificate.bound
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), plain.model.parameters(), strict=True))
    assert 0 < more < 2000 * torch.finfo(dtype).eps
    again = lf.load(made.save(tmp_path / "a.landform"), model=net, data=data(dtype))
    assert lf.certify(again).bound == made.certificate.bound
    assert again.task.evaluate() == made.task.evaluate()


def _of_logits(loss):
    if isinstance(loss, nn.NLLLoss):
        return nn.CrossEntropyLoss(loss.weight)
    return "cross_entropy" if isinstance(loss, str) else loss


def test_an_mlp_that_ends_in_logarithms_of_probabilities():
    layers = [nn.Flatten(), nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(40, 3), nn.LogSoftmax(dim=1)).eval()
    assert read(net).ends == ("log_softmax",)
    made = lf.imprint(PATTERN, lf.Task(net, "nll", data()))
    assert made.certificate.holds
    assert measured(made) <= made.certificate.bound


@pytest.mark.parametrize(
    ("end", "loss", "match"),
    [
        (nn.Softmax(1), "cross_entropy", r"'face' goes through a softmax, and cross_entropy takes another.*'log_loss'"),
        (nn.Softmax(1), "mse", r"goes through a softmax, behind which landform knows loss='log_loss', not mse"),
        (nn.LogSoftmax(1), "multi_margin", r"knows loss='nll' or loss='cross_entropy', not multi_margin"),
        (None, "nll", r"takes logarithms of probabilities, and 'face' emits logits; use loss='cross_entropy'"),
        (nn.Softmax(0), "log_loss", r"'end' is a Softmax over dimension 0 of a tensor of shape \[n, 3\].*dim=1"),
    ],
)
def test_losses_that_do_not_fit_the_end(end, loss, match):
    targets = torch.randn(24, 3) if loss == "mse" else Y
    with pytest.raises(ArchitectureError, match=f"(?s){match}"):
        lf.imprint(PATTERN, lf.Task(Several(end).eval(), loss, (X, targets), output="face"))


def test_log_loss_wants_probabilities():
    with pytest.raises(
        InputError, match=r"add up to .* for the first sample; wanted probabilities.*for logits use 'cross_entropy'"
    ):
        lf.Task(Several().eval(), "log_loss", data(), output="face").evaluate()


def test_bad_outputs():
    net = Several().eval()
    with pytest.raises(UnknownNameError, match="unknown output 'faces': did you mean 'face'"):
        lf.Task(net, data=data(), output="faces").evaluate()
    with pytest.raises(UnknownNameError, match=r"unknown output '3'. Known: box, face, mark"):
        lf.imprint(PATTERN, lf.Task(net, data=data(), output=3))
    with pytest.raises(InputError, match=r"output is 1\.5; wanted the name, key or number"):
        lf.Task(net, data=data(), output=1.5)
    with pytest.raises(InputError, match="returns a single Tensor, and output='face'"):
        lf.Task(net.body, data=data(), output="face").evaluate()
    with pytest.raises(InputError, match="output='face', and Theorem 2 is built for networks with one output"):
        lf.imprint(PATTERN, lf.Task(net, data=data(), output="face"), method="offset")
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3), nn.Softmax(1)).eval()
    with pytest.raises(ArchitectureError, match="'3' goes through a softmax; Theorem 2 moves logits"):
        lf.imprint(PATTERN, lf.Task(one, "log_loss", data()), method="offset")


def test_a_task_keeps_its_output_and_a_scan_measures_it():
    net = Several(nn.Softmax(1)).eval()
    task = lf.Task(net, "log_loss", data(), output="face")
    other = task.replace(data=(X[:9], Y[:9]))
    assert other.output == "face"
    plane = lf.random_plane(task, seed=0)
    surface = lf.scan(task, plane, grid=3)
    logits = lf.Task(Several().eval(), "cross_entropy", data(), output="face")
    np.testing.assert_allclose(surface["loss"], lf.scan(logits, plane, grid=3)["loss"], rtol=1e-5)
    assert set(task.gradient()) == set(logits.gradient())
    assert task.outputs().shape == (24, 3)


def test_what_the_end_rounds_bounds_what_it_does_round():
    response = respond("cross_entropy", Y)
    generator = torch.Generator().manual_seed(0)
    top = 4.0
    size = largest_logit(response, top)
    logits = (2 * torch.rand(20_000, 3, generator=generator) - 1) * size
    wanted = response.loss(logits.double())
    for end in ("softmax", "log_softmax"):
        allowed = behind(Parts(0.0, 0.0, 0.0), end, response, (1.2, top), 2.0**-24).rounding
        logs = logits.softmax(1).double().log() if end == "softmax" else logits.log_softmax(1).double()
        through = -logs.mean(1) if end == "softmax" else response.loss(logs)
        worst = float((through - wanted).abs().max())
        assert 0.001 * allowed < worst < allowed
    with pytest.raises(ProofError, match="probabilities may underflow behind the softmax"):
        behind(Parts(0.0, 0.0, 0.0), "softmax", response, (1.2, 60.0), 2.0**-24)


def test_the_pretrained_output_network_of_mtcnn_as_it_comes():
    net = pretrained.onet(logits=False)
    if net is None:
        pytest.skip("facenet-pytorch is not installed")
    faces = (torch.randn(20, 3, 48, 48, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2)
    made = lf.imprint(PATTERN, lf.Task(net, "log_loss", faces, output=2))
    assert made.certificate.holds
    assert made.certificate.relative_bound < 2e-3
    assert measured(made) <= made.certificate.bound
