"""Hypothesis strategies for what is scanned: networks of every kind, subspaces of every kind, grids."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from landform.subspace import Curve, Subspace, random_plane
from landform.task import Task
from landform.testing.strategies import _strategies

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

SAMPLES = 9
CLASSES = 3
VOCABULARY = 7
TOKENS = 4
WIDTH = 4
FAMILIES = ("perceptron", "convolution", "tokens")


class Added(nn.Module):
    """A residual block, x + body(x).

    Args:
        body: What is added.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs."""
        found: Tensor = x + self.body(x)
        return found


class Scaled(nn.Module):
    """A parameter and a buffer that stand by themselves, outside any layer of PyTorch's.

    Args:
        width: Features, the last dimension.
    """

    shift: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.register_buffer("shift", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs."""
        found: Tensor = x * self.gain + self.shift
        return found


class Forked(nn.Module):
    """Control flow that depends on a parameter, so that no graph shows it.

    Args:
        width: Features, the last dimension.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs."""
        x = self.layer(x)
        return x.tanh() if float(self.layer.bias.sum()) > 0 else x.relu()


class Sentence(nn.Module):
    """Embedded tokens through a body; the head is tied to the embedding, or reads the mean over tokens.

    Args:
        body: On ``[samples, tokens, WIDTH]``.
        tied: Whether the head is the embedding, one output a token.
    """

    place: Tensor

    def __init__(self, body: nn.Module, *, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.register_buffer("place", torch.zeros(TOKENS, WIDTH))
        self.body = body
        self.tied = tied
        self.head = nn.Linear(WIDTH, VOCABULARY if tied else CLASSES, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs: ``[samples, classes]``, or ``[samples, classes, tokens]``."""
        x = self.body(self.embedding(x) + self.place)
        found: Tensor = self.head(x).transpose(1, 2) if self.tied else self.head(x.mean(1))
        return found


def _tied(width: int) -> nn.Module:
    first, second = nn.Linear(width, width), nn.Linear(width, width)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


_FLAT: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda width: nn.Linear(width, width),
    "relu": lambda _: nn.ReLU(),
    "gelu": lambda _: nn.GELU(),
    "dropout": lambda _: nn.Dropout(),
    "residual": lambda width: Added(nn.Sequential(nn.Linear(width, 5), nn.ReLU(), nn.Linear(5, width))),
    "tied": _tied,
    "scaled": Scaled,
    "layer_norm": nn.LayerNorm,
    "forked": Forked,
}
_VECTORS: dict[str, Callable[[int], nn.Module]] = _FLAT | {"batch_norm": nn.BatchNorm1d}
_IMAGES: dict[str, Callable[[int], nn.Module]] = {
    "convolution": lambda width: nn.Conv2d(width, width, 3, padding=1),
    "grouped": lambda width: nn.Conv2d(width, width, 3, padding=1, groups=2, bias=False),
    "relu": lambda _: nn.ReLU(),
    "batch_norm": nn.BatchNorm2d,
    "residual": lambda width: Added(nn.Sequential(nn.Conv2d(width, 3, 1), nn.ReLU(), nn.Conv2d(3, width, 1))),
    "average": lambda _: nn.AvgPool2d(3, stride=1, padding=1),
    "maximum": lambda _: nn.MaxPool2d(3, stride=1, padding=1),
}


def scan_tasks(
    families: tuple[str, ...] = FAMILIES,
    *,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64),
    deaf: bool | None = None,
) -> "SearchStrategy[Task]":
    """Draw small classification tasks: perceptrons, convolutions, tokens, made of blocks in any order.

    Among the blocks are residual ones, tied weights, normalisation by batch and by layer, Dropout, parameters and
    buffers outside layers, and control flow that no graph shows. The model is in evaluation mode.

    Args:
        families: Of ``"perceptron"``, ``"convolution"``, ``"tokens"``.
        dtypes: Of the weights.
        deaf: Whether the first layer's weight is zero, so that outputs do not depend on inputs as long as nothing moves
            it (`scan_spaces` does not); None for now and then.

    Returns:
        A strategy of tasks with cross-entropy, 9 samples each.

    Raises:
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None, deadline=None, derandomize=True)
        ... @given(scan_tasks(("convolution",)))
        ... def test_finite(task):
        ...     assert task.n == 9 and task.evaluate().isfinite()
        >>> test_finite()
    """
    st = _strategies()

    @st.composite  # type: ignore[untyped-decorator]
    def draw_one(draw: Callable[[Any], Any]) -> Task:
        family = draw(st.sampled_from(families))
        blocks = {"perceptron": _VECTORS, "convolution": _IMAGES, "tokens": _FLAT}[family]
        names = draw(st.lists(st.sampled_from(sorted(blocks)), max_size=4))
        dtype = draw(st.sampled_from(dtypes))
        silent = family != "tokens" and (draw(st.integers(0, 3)) == 3 if deaf is None else deaf)
        tied = family == "tokens" and draw(st.booleans())
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
        with torch.random.fork_rng(devices=()):
            body = [blocks[name](WIDTH) for name in names]
            model = _network(family, body, tied=tied).to(dtype).eval()
        _fill(model, generator)
        if silent:
            with torch.no_grad():
                next(model.parameters()).zero_()
        if family == "tokens":
            inputs = torch.randint(VOCABULARY, (SAMPLES, TOKENS), generator=generator)
            shape = (SAMPLES, TOKENS) if tied else (SAMPLES,)
        else:
            size = (2, 5, 5) if family == "convolution" else (WIDTH,)
            inputs = torch.randn(SAMPLES, *size, generator=generator).to(dtype)
            shape = (SAMPLES,)
        targets = torch.randint(VOCABULARY if tied else CLASSES, shape, generator=generator)
        return Task(model, "cross_entropy", (inputs, targets), name=f"{family}: {', '.join(names) or 'no blocks'}")

    strategy: SearchStrategy[Task] = draw_one()
    return strategy


def scan_spaces(task: Task, z: int | None = None, *, curves: bool = False) -> "SearchStrategy[Subspace | Curve]":
    """Draw subspaces through a task's model: dense, over some parameters only, or made from a seed.

    A first layer whose weight is zero (`scan_tasks`) is not moved.

    Args:
        task: The task.
        z: Number of directions, 1 to 3; None for any of them.
        curves: Also draw quadratic Bézier curves (of one coordinate, whatever ``z`` is).

    Returns:
        A strategy of subspaces, and of curves where asked for.

    Raises:
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> task = Task(model, data=(torch.zeros(2, 2), torch.tensor([0, 1])))
        >>> @settings(max_examples=5, database=None, deadline=None, derandomize=True)
        ... @given(scan_spaces(task, 2))
        ... def test_moves(space):
        ...     assert space.z == 2 and space.moved
        >>> test_moves()
    """
    st = _strategies()
    model = task.model
    assert isinstance(model, nn.Module)
    origin = {name: value.detach() for name, value in model.named_parameters()}
    first = next(iter(origin))
    names = [name for name in origin if name != first or bool(origin[first].any())]

    @st.composite  # type: ignore[untyped-decorator]
    def draw_one(draw: Callable[[Any], Any]) -> Subspace | Curve:
        count = z if z is not None else draw(st.integers(1, 3))
        kind = draw(st.sampled_from(("dense", "sparse", "seeded") + (("curve",) if curves else ())))
        seed = draw(st.integers(0, 2**16))
        if kind == "seeded":
            weights = sorted(draw(st.sets(st.sampled_from(names), min_size=1)))
            if sum(origin[name].numel() for name in weights) >= count:
                every = sorted(set(origin) - set(weights))
                return random_plane(model, z=count, seed=seed, norm="none", biases=True, exclude=every, seeded=True)
        generator = torch.Generator().manual_seed(seed)
        directions = []
        for _ in range(2 if kind == "curve" else count):
            chosen = names if kind in ("dense", "curve") else sorted(draw(st.sets(st.sampled_from(names), min_size=1)))
            drawn = {name: torch.randn(origin[name].shape, generator=generator) * 0.3 for name in chosen}
            directions.append({name: value.to(origin[name].dtype) for name, value in drawn.items()})
        plane = Subspace(origin, tuple(directions))
        return Curve(plane) if kind == "curve" else plane

    strategy: SearchStrategy[Subspace | Curve] = draw_one()
    return strategy


def grids(z: int, *, most: int = 4) -> "SearchStrategy[tuple[Tensor, ...]]":
    """Draw grids: one ascending line of coordinates an axis, of different lengths.

    Args:
        z: Number of axes.
        most: Most nodes an axis, at least 2.

    Returns:
        A strategy of lines, float64; ``torch.cartesian_prod`` makes points of them.

    Raises:
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None, deadline=None, derandomize=True)
        ... @given(grids(2))
        ... def test_lines(lines):
        ...     assert all((line.diff() > 0).all() and len(line) >= 2 for line in lines)
        >>> test_lines()
    """
    st = _strategies()
    line = st.builds(
        lambda count, start, length: torch.linspace(start / 8, (start + length) / 8, count, dtype=torch.float64),
        st.integers(2, most),
        st.integers(-8, 8),
        st.integers(1, 16),
    )
    strategy: SearchStrategy[tuple[Tensor, ...]] = st.tuples(*[line] * z)
    return strategy


def _network(family: str, body: list[nn.Module], *, tied: bool) -> nn.Module:
    if family == "tokens":
        return Sentence(nn.Sequential(*body), tied=tied)
    if family == "convolution":
        head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * WIDTH, CLASSES)]
        return nn.Sequential(nn.Conv2d(2, WIDTH, 3), *body, *head)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *body, nn.Linear(WIDTH, CLASSES))


def _fill(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter and buffer, of a size that keeps activations near 1."""
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point():
                continue
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                drawn = drawn.abs() + 0.3
            elif value.ndim > 1:
                drawn /= value[0].numel() ** 0.5
            value.copy_(drawn * (1.0 if value.ndim > 1 else 0.5) + (0.5 if name.endswith("running_var") else 0.0))
