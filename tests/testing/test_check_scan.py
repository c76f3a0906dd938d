"""The checks offered to authors of other tools: a right tool passes, and each known mistake is found and named."""

import copy

import numpy as np
import pytest
import torch

import landform as lf
from landform.errors import UnknownNameError
from landform.testing import check_scan, diagnose, landform_scanner
from landform.testing.laws import CHECKS
from landform.testing.problem import pole, quadratic, regression, with_modes


def plain(problem, lines, *, batch=None, training=False):
    """The plain loop: a copy of the model a node."""
    values = []
    for h in np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 2):
        moved = copy.deepcopy(problem.model).train(training)
        with torch.no_grad():
            for name, value in moved.named_parameters():
                for step, direction in zip(h, problem.directions, strict=True):
                    value += float(step) * direction.get(name, torch.zeros(()))
            parts = zip(problem.inputs.split(batch or 1000), problem.targets.split(batch or 1000), strict=True)
            losses = [float(problem.loss(moved(x).double(), y.double())) for x, y in parts]
        values.append(np.mean(losses))
    return np.reshape(values, [len(line) for line in lines])


def test_landform_passes_every_check():
    report = check_scan(landform_scanner)
    assert report.passed, str(report)
    assert [finding.check for finding in report.findings] == list(CHECKS)
    report.raise_if_failed()


def test_a_plain_loop_passes_every_check():
    check_scan(plain).raise_if_failed()


def snake(problem, lines):
    values = plain(problem, lines)
    values[1::2] = values[1::2, ::-1]
    return values


def shifted(problem, lines):
    values = plain(problem, lines)
    values[1::2] = np.roll(values[1::2], 1, axis=1)
    return values


def wrong_cells(problem, lines):
    values = plain(problem, lines)
    return values.T.reshape(values.shape)


def filled(problem, lines):
    values = plain(problem, lines)
    return np.where(np.isfinite(values), values, np.nanmean(np.where(np.isfinite(values), values, np.nan)))


def jittered(problem, lines):
    return plain(problem, lines) + 1e-9 * np.random.default_rng().random()


def moved(problem, lines):
    values = plain(problem, lines)
    with torch.no_grad():
        for value in problem.model.parameters():
            value += 1
    return values


def frozen(problem, lines):
    problem.model.eval().requires_grad_(False)
    torch.rand(1)
    return plain(problem, lines)


def narrow(problem, lines):
    surface = landform_scanner(problem, lines)
    return surface.assign_coords(h1=surface.h1 * 0.8)


@pytest.mark.parametrize(
    ("scanner", "checks", "said"),
    [
        (snake, ["quadratic", "regression"], r"odd rows run backwards \(snake order\)"),
        (shifted, ["quadratic"], "odd rows are shifted by one step"),
        (wrong_cells, ["quadratic", "regression"], "values land in the wrong cells"),
        (lambda p, lines: plain(p, lines).T, ["quadratic"], r"shape is \(8, 5\), wanted \(5, 8\): axes are swapped"),
        (
            lambda p, lines: plain(p, [lines[0][::-1], lines[1]]),
            ["quadratic", "swap"],
            "axis 1 runs backwards|not the transposed one",
        ),
        (lambda p, lines: plain(p, lines, batch=32), ["regression"], "at node"),
        (lambda p, lines: plain(p, lines, training=True), ["modes"], "BatchNorm by the batch"),
        (lambda p, lines: 2 * plain(p, lines), ["quadratic"], "all values are 2 times too large"),
        (
            filled,
            ["not_finite"],
            "15 of 15 values that are not finite were replaced by numbers",
        ),
        (jittered, ["repeat"], "a second run differs by up to"),
        (moved, ["state"], "2.weight was changed"),
        (frozen, ["state"], "requires_grad of 2.weight is False, was True.*in evaluation mode.*random state was used"),
        (narrow, ["axes"], r"h1 runs over \[-0.8, 0.4\] with 5 nodes, wanted \[-1, 0.5\] with 5"),
        (lambda p, lines: 1 / 0, ["axes", "swap"], "raised ZeroDivisionError"),
        (lambda p, lines: np.zeros(3), ["swap"], r"returned shape \(3,\); wanted one value a node"),
    ],
)
def test_known_mistakes_are_found_and_named(scanner, checks, said):
    import re

    report = check_scan(scanner)
    assert not report.passed
    for name in checks:
        assert name in report.failures, str(report)
        assert re.search(said, report.failures[name]), report.failures[name]
    with pytest.raises(AssertionError, match="FAILED"):
        report.raise_if_failed()


def test_symmetry_alone_finds_a_skewed_axis():
    """Without any closed form: a tool whose second axis is stretched by 10 % about its lower end."""

    def skewed(problem, lines):
        return plain(problem, [lines[0], lines[1][0] + 1.1 * (lines[1] - lines[1][0])])

    assert set(check_scan(skewed, only=["swap", "flip", "translate"]).failures) >= {"swap", "flip"}


@pytest.mark.parametrize("problem", [quadratic(), regression(), with_modes(), pole()])
def test_closed_forms_agree_with_the_model_itself(problem):
    lines = [np.linspace(-0.5, 1, 4), np.linspace(-1, 0.25, 3)]
    assert diagnose(plain(problem, lines), problem.on(lines)) is None


def test_the_hessian_of_the_quadratic_is_known():
    problem = quadratic(seed=4)
    h = np.array([[0.0, 0], [1, 0], [2, 0], [0, 1], [1, 1]])
    f = problem.truth(h)
    d1, d2 = (direction["theta"] for direction in problem.directions)
    hessian = torch.autograd.functional.hessian(
        lambda theta: problem.loss(theta + problem.inputs, problem.targets), problem.model.theta.detach()
    )
    assert f[2] - 2 * f[1] + f[0] == pytest.approx(float(d1 @ hessian @ d1))
    assert f[4] - f[1] - f[3] + f[0] == pytest.approx(float(d1 @ hessian @ d2))


def test_only_some_checks_and_unknown_ones():
    assert [f.check for f in check_scan(plain, only=["state"]).findings] == ["state"]
    with pytest.raises(UnknownNameError, match="did you mean 'state'"):
        check_scan(plain, only=["stat"])


def test_the_name_is_public():
    assert lf.testing.check_scan is check_scan
