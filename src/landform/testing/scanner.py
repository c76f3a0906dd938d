"""Checks of any tool that measures loss surfaces: closed forms, symmetries, and that the model is left as found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from landform.errors import unknown_name
from landform.testing.laws import CHECKS, Floats, Scanner
from landform.testing.problem import ScanProblem


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: Its name.
        passed: Whether the tool passed.
        text: What is wrong, empty where nothing is.
    """

    check: str
    passed: bool
    text: str


@dataclass(frozen=True)
class ScanReport:
    """What `check_scan` found.

    Attributes:
        findings: One for each check, in the order in which they ran.
    """

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(finding.passed for finding in self.findings)

    @property
    def failures(self) -> dict[str, str]:
        """What is wrong, by the name of the check."""
        return {finding.check: finding.text for finding in self.findings if not finding.passed}

    def raise_if_failed(self) -> None:
        """Raise an AssertionError that lists what is wrong; for use as a test.

        Raises:
            AssertionError: If a check failed.
        """
        if not self.passed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        """List the checks, one a line."""
        width = max(len(finding.check) for finding in self.findings)
        return "\n".join(
            f"{'ok    ' if finding.passed else 'FAILED'}  {finding.check:<{width}}  {finding.text}".rstrip()
            for finding in self.findings
        )


def check_scan(scanner: Scanner, *, only: Sequence[str] | None = None, tolerance: float = 1e-5) -> ScanReport:
    """Hold a tool that measures loss surfaces against surfaces that are known.

    - ``quadratic``, ``regression``: closed forms, on grids with different numbers of nodes an axis; the latter with 101
      samples, three of them far out, so that a mean of batch means shows.
    - ``swap``, ``flip``, ``translate``: swapped directions transpose the surface, a reversed one mirrors it, another
      origin shifts it.
    - ``modes``: BatchNorm statistics and Dropout are those of evaluation, at the first node as at the last.
    - ``not_finite``: infinities and NaN stay where they are.
    - ``axes``: coordinates, if a dataset is returned, are those asked for.
    - ``repeat``: a second run gives the same numbers.
    - ``state``: parameters, buffers, modes, ``requires_grad``, gradients and PyTorch's random state are left as found.

    A tool that raises fails the check with what it raised.

    Args:
        scanner: The tool: a function of a problem and of the coordinates along each axis (evenly spaced) that returns
            the loss at each node.
        only: Names of the checks to run; None for all.
        tolerance: Differences up to this share of the largest value are rounding; 1e-5 by default, as models are in
            float32.

    Returns:
        What was found, with the likely mistake where values differ.

    Raises:
        UnknownNameError: An unknown check, with the nearest.

    Cost:
        About 1,500 evaluations of tiny models: a second for a plain loop.

    Example:
        >>> import copy
        >>> import numpy as np
        >>> def mine(problem, lines):
        ...     values = []
        ...     for h in np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 2):
        ...         moved = copy.deepcopy(problem.model).eval()
        ...         with torch.no_grad():
        ...             for name, value in moved.named_parameters():
        ...                 for step, direction in zip(h, problem.directions):
        ...                     value += float(step) * direction.get(name, torch.zeros(()))
        ...             values.append(float(problem.loss(moved(problem.inputs).double(), problem.targets.double())))
        ...     return np.reshape(values, [len(line) for line in lines])
        >>> check_scan(mine).passed
        True
        >>> print(check_scan(lambda problem, lines: mine(problem, lines)[::-1], only=["quadratic"]))
        FAILED  quadratic  axis 1 runs backwards
    """
    wanted = list(CHECKS) if only is None else list(only)
    for name in wanted:
        if name not in CHECKS:
            raise unknown_name("check", name, CHECKS)
    findings = []
    for name in wanted:
        try:
            text = CHECKS[name](scanner, tolerance)
        except Exception as error:
            text = f"raised {type(error).__name__}: {error}"
        findings.append(Finding(name, text is None, text or ""))
    return ScanReport(tuple(findings))


def landform_scanner(problem: ScanProblem, lines: Sequence[Floats]) -> Any:
    """Measure a problem with `landform.scan`: the scanner that landform's own tests check.

    Args:
        problem: The problem.
        lines: Evenly spaced coordinates.

    Returns:
        The surface.
    """
    import landform as lf

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return problem.loss(outputs, targets.to(outputs.dtype))

    origin = {name: value.detach().clone() for name, value in problem.model.named_parameters()}
    task = lf.Task(problem.model, loss, (problem.inputs, problem.targets))
    ranges = [(float(line[0]), float(line[-1])) for line in lines]
    grid = [len(line) for line in lines]
    return lf.scan(task, lf.Subspace(origin, problem.directions), grid=grid, ranges=ranges, progress=False)
