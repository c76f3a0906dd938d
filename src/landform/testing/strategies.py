"""Hypothesis strategies for patterns, networks, losses and tasks.

They draw small things that shrink to readable ones; nothing touches PyTorch's global random state.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from landform.errors import InputError, MissingExtraError
from landform.pattern import Pattern, SumPattern
from landform.task import Task
from landform.testing.reference import LOSSES, targets_for

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

SAMPLES = 24
INPUTS = 4


def _strategies() -> Any:
    """Import hypothesis.strategies, or name what installs it."""
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise MissingExtraError(
            "the strategies of landform.testing need hypothesis, not installed; pip install 'landform[testing]'"
        ) from error
    return strategies


def patterns(
    z: int | None = None, *, max_cells: int = 6, channels: int | None = None, dyadic: bool = False
) -> "SearchStrategy[Pattern]":
    """Draw patterns: any grid, any nodal values.

    Args:
        z: Number of axes, 1 to 4, or None for any of them.
        max_cells: Most cells an axis for z = 1 and 2 (z = 3: at most 3, z = 4: at most 2, to keep examples small).
            Cells are not powers of two in general, so nodes are no floats.
        channels: Number of channels, or None for one unnamed channel.
        dyadic: Only multiples of 1/256, which floats hold exactly; by default multiples of 1/241 appear too.

    Returns:
        A strategy; it shrinks to the one-cell pattern of zeros.

    Raises:
        InputError: If z is not 1 … 4.
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None, deadline=None, derandomize=True)
        ... @given(patterns(z=2))
        ... def test_range(pattern):
        ...     assert 0 <= pattern.floor and pattern.ceiling <= 1 and pattern.z == 2
        >>> test_range()
    """
    st = _strategies()
    if z not in (None, 1, 2, 3, 4):
        raise InputError(f"z = {z}: patterns on grids have 1 to 4 axes")

    @st.composite  # type: ignore[untyped-decorator]
    def draw_one(draw: Callable[[Any], Any]) -> Pattern:
        axes = z if z is not None else draw(st.integers(1, 4))
        most = min(max_cells, {3: 3, 4: 2}.get(axes, max_cells))
        shape = [draw(st.integers(1, most)) + 1 for _ in range(axes)] + ([channels] if channels else [])
        top = 256 if dyadic else draw(st.sampled_from((256, 241)))
        size = math.prod(shape)
        values = draw(st.lists(st.integers(0, top), min_size=size, max_size=size))
        return Pattern(torch.tensor(values, dtype=torch.float64).reshape(shape) / top, "drawn", channels)

    strategy: SearchStrategy[Pattern] = draw_one()
    return strategy


def sums(z: int | None = None, *, max_cells: int = 6) -> "SearchStrategy[SumPattern]":
    """Draw sums Σ f_i(h_i), constant axes included (but not all of them).

    Args:
        z: Number of axes, or None for 1 to 8.
        max_cells: Most cells an axis.

    Returns:
        A strategy.

    Raises:
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None, deadline=None, derandomize=True)
        ... @given(sums(z=3))
        ... def test_axes(pattern):
        ...     assert len(pattern.axes) == 3
        >>> test_axes()
    """
    st = _strategies()

    @st.composite  # type: ignore[untyped-decorator]
    def draw_one(draw: Callable[[Any], Any]) -> SumPattern:
        count = z if z is not None else draw(st.integers(1, 8))
        axis = st.lists(st.integers(0, 32), min_size=2, max_size=max_cells + 1)
        axes = draw(st.lists(axis, min_size=count, max_size=count).filter(lambda fs: any(len(set(f)) > 1 for f in fs)))
        return SumPattern.from_axes([torch.tensor(f, dtype=torch.float64) for f in axes])

    strategy: SearchStrategy[SumPattern] = draw_one()
    return strategy


def widths(*, layers: tuple[int, int] = (3, 6), units: tuple[int, int] = (4, 120)) -> "SearchStrategy[list[int]]":
    """Draw hidden widths.

    Args:
        layers: Fewest and most layers; 3 is what an axis-aligned imprint with a response curve needs for z = 1.
        units: Least and greatest width.

    Returns:
        A strategy of lists.

    Raises:
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None, deadline=None, derandomize=True)
        ... @given(widths(layers=(3, 4)))
        ... def test_layers(hidden):
        ...     assert len(hidden) in (3, 4)
        >>> test_layers()
    """
    st = _strategies()
    found: SearchStrategy[list[int]] = st.lists(st.integers(*units), min_size=layers[0], max_size=layers[1])
    return found


def losses(outputs: int = 3) -> "SearchStrategy[str]":
    """Draw names of losses that are convex and have a response of their own.

    Args:
        outputs: Outputs of the network; losses that want another number are left out.

    Returns:
        A strategy of names, for `targets_for` and `landform.Task`.

    Raises:
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None, deadline=None, derandomize=True)
        ... @given(losses())
        ... def test_known(name):
        ...     assert name != "gaussian_nll"  # which wants two outputs
        >>> test_known()
    """
    st = _strategies()
    names = [name for name in LOSSES if (name == "gaussian_nll") == (outputs == 2) or name == "mse"]
    found: SearchStrategy[str] = st.sampled_from(names)
    return found


def mlps(
    hidden: "SearchStrategy[list[int]] | Sequence[int] | None" = None,
    *,
    inputs: int = INPUTS,
    outputs: int = 3,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64),
) -> "SearchStrategy[nn.Sequential]":
    """Draw MLPs in evaluation mode: ReLU or LeakyReLU, BatchNorm before, after or nowhere, Dropout, Identity.

    Weights and BatchNorm statistics are random, from a generator of their own.

    Args:
        hidden: Widths, or a strategy for them; `widths` by default.
        inputs: Input features.
        outputs: Output features.
        dtypes: Dtypes to choose from.

    Returns:
        A strategy of modules.

    Raises:
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None, deadline=None, derandomize=True)
        ... @given(mlps([5, 7]))
        ... def test_mode(model):
        ...     assert not model.training and model(torch.zeros(2, 4, dtype=model[0].weight.dtype)).shape == (2, 3)
        >>> test_mode()
    """
    st = _strategies()
    if hidden is None:
        sizes: SearchStrategy[list[int]] = widths()
    else:
        sizes = st.just(list(hidden)) if isinstance(hidden, Sequence) else hidden

    @st.composite  # type: ignore[untyped-decorator]
    def draw_one(draw: Callable[[Any], Any]) -> nn.Sequential:
        slope = draw(st.sampled_from((0.0, 0.01, 0.2)))
        norm = draw(st.sampled_from(("none", "before", "after")))
        extra = draw(st.sampled_from((None, nn.Dropout, nn.Identity)))
        layers: list[nn.Module] = []
        size = inputs
        for width in draw(sizes):
            layers.append(nn.Linear(size, width, device="meta"))
            layers += [nn.BatchNorm1d(width, device="meta")] if norm == "before" else []
            layers.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
            layers += [nn.BatchNorm1d(width, device="meta")] if norm == "after" else []
            layers += [extra()] if extra else []
            size = width
        layers.append(nn.Linear(size, outputs, device="meta"))
        model = nn.Sequential(*layers).to_empty(device="cpu").to(draw(st.sampled_from(dtypes)))
        return _filled(model, draw(st.integers(0, 2**16))).eval()

    strategy: SearchStrategy[nn.Sequential] = draw_one()
    return strategy


def _filled(model: nn.Sequential, seed: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.1, 2.0, generator=generator)
            elif value.is_floating_point():
                value.normal_(0.0, 0.5, generator=generator)
            else:
                value.fill_(1)
    return model


def tasks(
    models: "SearchStrategy[nn.Sequential] | None" = None, *, outputs: int = 3, samples: int = SAMPLES
) -> "SearchStrategy[Task]":
    """Draw tasks: an MLP, a loss, and random data that fit both.

    Args:
        models: Strategy for the model; `mlps` by default. It must take four inputs.
        outputs: Output features of the models.
        samples: Samples of the data set.

    Returns:
        A strategy of tasks.

    Raises:
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None, deadline=None, derandomize=True)
        ... @given(tasks(mlps([5, 7])))
        ... def test_finite(task):
        ...     assert task.evaluate().isfinite()
        >>> test_finite()
    """
    st = _strategies()
    chosen = models if models is not None else mlps(outputs=outputs)

    def build(model: nn.Sequential, loss: str, seed: int) -> Task:
        generator = torch.Generator().manual_seed(seed)
        dtype = next(model.parameters()).dtype
        inputs: Tensor = torch.randn(samples, INPUTS, generator=generator, dtype=dtype)
        return Task(model, loss, (inputs, targets_for(loss, samples, outputs, generator=generator)))

    found: SearchStrategy[Task] = st.builds(build, chosen, losses(outputs), st.integers(0, 2**16))
    return found
