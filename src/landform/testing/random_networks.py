"""Hypothesis strategies for networks of every covered family: perceptrons, convolutional nets, transformers.

They are up to eight blocks deep, and wide enough for a small pattern more often than not. Weights come from a seed that
is drawn, and statistics of norms are as after training.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from landform.testing.networks import with_statistics
from landform.testing.strategies import _strategies

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Made = tuple[nn.Module, tuple[int, ...]]
"""A network in eval mode, and the shape of one input."""
Act = Callable[[], nn.Module]

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
GLOBAL = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
SIZES = (8, 8, 4)
"""Positions along each axis, by the number of axes."""


def _prelu() -> nn.Module:
    return nn.PReLU(init=-0.3)


STYLES: dict[str, list[Act]] = {
    "relu": [nn.ReLU],
    "capped": [nn.ReLU, nn.ReLU6, _prelu],
    "leaky": [lambda: nn.LeakyReLU(0.1)],
    "slopes": [nn.ReLU, _prelu, lambda: nn.LeakyReLU(0.2), nn.RReLU],
    "saturating": [nn.ReLU, nn.ReLU, nn.Tanh, nn.Softsign],
    "smooth": [nn.GELU, lambda: nn.GELU("tanh"), nn.SiLU, nn.Hardswish, nn.ELU, nn.CELU, nn.Mish, nn.ReLU],
    "positive": [nn.Softplus, lambda: nn.Softplus(beta=2.0), nn.GELU],
}
"""Activations that may stand in one network, by a name for the choice."""


class Residual(nn.Module):
    """A sum of a branch and an identity, or a map, with an activation behind it or none."""

    def __init__(self, branch: nn.Module, skip: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.branch, self.skip, self.last = branch, skip, last

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = self.last(self.skip(x) + self.branch(x))
        return out


class Concatenated(nn.Module):
    """Branches side by side; the identity may be one of them."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class Gated(nn.Module):
    """Channels times a gate made of their means: squeeze and excitation (Hu et al., CVPR 2018)."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate."""
        out: Tensor = x * self.gate(x)
        return out


def _group_norm(width: int) -> nn.Module:
    """Return a GroupNorm with as many groups of at least four channels as there can be."""
    return nn.GroupNorm(max((n for n in range(1, width // 4 + 1) if width % n == 0), default=1), width)


class _Maker:
    """Draws the parts of one network; ``dims`` 0 is a perceptron."""

    def __init__(self, draw: Callable[[Any], Any], dims: int, style: str) -> None:
        self.draw, self.dims, self.style = draw, dims, style
        self.st = _strategies()

    def pick(self, *choices: Any) -> Any:
        return self.draw(self.st.sampled_from(choices))

    def width(self, least: int = 24, most: int = 48) -> int:
        found: int = self.draw(self.st.integers(least // 4, most // 4))
        return 4 * found

    def act(self) -> nn.Module:
        made: nn.Module = self.pick(*STYLES[self.style])()
        return made

    def map(self, inputs: int, width: int, kernel: int = 1, *, bias: bool | None = None, groups: int = 1) -> nn.Module:
        """Return a Linear, or a convolution that keeps positions."""
        own = self.pick(True, False) if bias is None else bias
        if not self.dims:
            return nn.Linear(inputs, width, bias=own)
        made: nn.Module = CONVS[self.dims - 1](
            inputs,
            width,
            kernel,
            padding=kernel // 2,
            groups=groups,
            bias=own,
            padding_mode=self.pick("zeros", "zeros", "circular"),
        )
        return made

    def norm(self, width: int, *, shared: bool = True) -> nn.Module:
        """Return any norm that fits, ``shared``: also one that takes the mean of several channels."""
        kinds: list[Callable[[int], nn.Module]] = [BATCH[max(self.dims, 1) - 1]]
        kinds += [_group_norm] if shared else []
        if self.dims:
            kinds.append(lambda n: INSTANCE[self.dims - 1](n, affine=True, track_running_stats=True))
        elif shared:
            kinds.append(nn.LayerNorm)
        made: nn.Module = self.pick(*kinds)(width)
        return made

    def optional_norm(self, width: int, *, shared: bool = True) -> nn.Module:
        return self.norm(width, shared=shared) if self.pick(True, True, False) else nn.Identity()

    # one block each: returns the module and the channels that it makes

    def plain(self, inputs: int) -> tuple[nn.Module, int]:
        width = self.width()
        if not self.dims:
            made = self.map(inputs, width, bias=True)
        else:
            kernel, padding, dilation = self.pick((1, 0, 1), (3, 1, 1), (3, 2, 2), (5, 2, 1))
            made = CONVS[self.dims - 1](inputs, width, kernel, padding=padding, dilation=dilation)
        return nn.Sequential(made, self.optional_norm(width), self.act()), width

    def normed_after(self, inputs: int) -> tuple[nn.Module, int]:
        width = self.width()
        return nn.Sequential(self.map(inputs, width, bias=True), self.act(), self.norm(width, shared=False)), width

    def passing(self, inputs: int) -> tuple[nn.Module, int]:
        """Return what changes nothing: a pool of one position, dropout, a depthwise convolution, identity."""
        if not self.dims:
            return self.pick(nn.Dropout, nn.Identity, nn.AlphaDropout)(), inputs
        pool = AVERAGES[self.dims - 1](3, stride=1, padding=1, count_include_pad=False)
        depthwise = self.map(inputs, inputs, 3, groups=inputs, bias=True)
        return self.pick(MAXIMA[self.dims - 1](1), pool, nn.Dropout(), depthwise), inputs

    def residual(self, inputs: int) -> tuple[nn.Module, int]:
        first, width = self.pick(True, False), self.pick(inputs, max(inputs, self.width()))
        inner = self.width()
        layers: list[nn.Module] = [self.norm(inputs, shared=False), self.act()] if first else []
        layers += [self.map(inputs, inner, 3, bias=True), self.optional_norm(inner), self.act()]
        if self.pick(True, False, False):
            layers += [self.map(inner, inner, 1, bias=True), self.optional_norm(inner), self.act()]
        layers += [self.map(inner, width, bias=True), self.optional_norm(width)]
        maps = inputs != width or self.pick(True, False)
        skip = nn.Sequential(self.map(inputs, width), self.optional_norm(width)) if maps else nn.Identity()
        return Residual(nn.Sequential(*layers), skip, nn.Identity() if first else self.act()), width

    def inverted(self, inputs: int) -> tuple[nn.Module, int]:
        """Return a bottleneck with a depthwise convolution and perhaps a gate (MobileNet, EfficientNet)."""
        wide = 2 * inputs
        layers = [self.map(inputs, wide, bias=False), self.norm(wide), self.act()]
        if self.dims and self.style not in ("leaky", "slopes"):
            layers += [self.map(wide, wide, 3, groups=wide, bias=False), self.norm(wide, shared=False), self.act()]
        layers += [self.gate(wide)] if self.pick(True, False) else []
        layers += [self.map(wide, inputs, bias=False), self.norm(inputs, shared=False)]
        layers += [self.gate(inputs)] if self.pick(True, False, False) else []
        return Residual(nn.Sequential(*layers), nn.Identity(), nn.Identity()), inputs

    def gate(self, width: int) -> nn.Module:
        pool = [GLOBAL[self.dims - 1](1)] if self.dims else []
        last = self.pick(nn.Sigmoid, nn.Hardsigmoid)()
        return Gated(
            nn.Sequential(*pool, self.map(width, 8, bias=True), nn.ReLU(), self.map(8, width, bias=True), last)
        )

    def gated(self, inputs: int) -> tuple[nn.Module, int]:
        block, width = self.plain(inputs)
        return nn.Sequential(block, self.gate(width)), width

    def dense(self, inputs: int) -> tuple[nn.Module, int]:
        growth = self.width(20, 28)
        layers = [self.norm(inputs, shared=False), self.act()]
        wide = inputs
        if self.pick(True, False):
            wide = 4 * growth
            layers += [self.map(inputs, wide, bias=False), self.norm(wide), self.act()]
        layers.append(self.map(wide, growth, 3))
        return Concatenated(nn.Identity(), nn.Sequential(*layers)), inputs + growth

    def fire(self, inputs: int) -> tuple[nn.Module, int]:
        """Return maps side by side behind another one (SqueezeNet, Inception)."""
        width, out = self.width(), [self.width(), self.width()]
        sides = [nn.Sequential(self.map(width, n, k, bias=True), self.act()) for n, k in zip(out, (1, 3), strict=True)]
        return nn.Sequential(self.map(inputs, width, bias=True), self.act(), Concatenated(*sides)), sum(out)

    def up(self, inputs: int) -> tuple[nn.Module, int]:
        """Return a transposed convolution, and a pool that takes its positions back."""
        width = self.width(24, 36)
        kernel, stride, padding, more = self.pick((2, 2, 0, 0), (3, 1, 1, 0), (3, 2, 1, 1), (4, 2, 1, 0))
        made = TRANSPOSED[self.dims - 1](inputs, width, kernel, stride, padding, more)
        pool = self.pick(MAXIMA, AVERAGES)[self.dims - 1](stride)
        return nn.Sequential(made, self.optional_norm(width), self.act(), pool), width


def perceptrons(*, depth: tuple[int, int] = (3, 8)) -> "SearchStrategy[Made]":
    """Draw perceptrons: any activation, BatchNorm, GroupNorm or LayerNorm, residual sums, concatenations, gates.

    Args:
        depth: Least and greatest number of blocks behind the first layer.

    Returns:
        A strategy of networks of 6 inputs and 4 outputs, with the shape ``(6,)``.

    Raises:
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=3, database=None, deadline=None, derandomize=True)
        ... @given(perceptrons())
        ... def test_shapes(made):
        ...     net, shape = made
        ...     assert net(torch.zeros(2, *shape)).shape == (2, 4)
        >>> test_shapes()
    """
    return _graphs(0, depth)


def convnets(dims: int = 2, *, depth: tuple[int, int] = (3, 8)) -> "SearchStrategy[Made]":
    """Draw convolutional nets: plain, transposed, depthwise; residual, dense, gated and inverted blocks; any norm.

    Args:
        dims: Axes of positions, 1 to 3.
        depth: Least and greatest number of blocks behind the first layer.

    Returns:
        A strategy of networks of 3 channels and 4 outputs, with the shape of one input.

    Raises:
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=3, database=None, deadline=None, derandomize=True)
        ... @given(convnets(1))
        ... def test_shapes(made):
        ...     net, shape = made
        ...     assert net(torch.zeros(2, *shape)).shape == (2, 4)
        >>> test_shapes()
    """
    return _graphs(dims, depth)


def _graphs(dims: int, depth: tuple[int, int]) -> "SearchStrategy[Made]":
    st = _strategies()

    @st.composite  # type: ignore[untyped-decorator]
    def draw_one(draw: Callable[[Any], Any]) -> Made:
        make = _Maker(draw, dims, draw(st.sampled_from(list(STYLES))))
        with torch.random.fork_rng():
            torch.manual_seed(draw(st.integers(0, 2**16)))
            return _network(make, draw(st.integers(*depth)))

    strategy: SearchStrategy[Made] = draw_one()
    return strategy


def _network(make: _Maker, depth: int) -> Made:
    width, dims = make.width(28, 40), make.dims
    shape = (3, *[SIZES[dims - 1]] * dims) if dims else (6,)
    layers: list[nn.Module] = [make.map(shape[0], width, 3, bias=True), make.optional_norm(width), make.act()]
    blocks = [make.plain, make.plain, make.normed_after, make.passing, make.gated, make.fire]
    if make.style != "positive":
        blocks += [make.residual, make.residual, make.inverted]
    if make.style not in ("leaky", "slopes"):
        blocks.append(make.dense)
    blocks += [make.up] if dims else []
    for _ in range(depth):
        block, width = make.pick(*blocks)(width)
        layers.append(block)
    tail: list[nn.Module] = [make.norm(width, shared=False), make.act()] if make.pick(True, False) else []
    tail += [GLOBAL[dims - 1](1), nn.Flatten()] if dims else []
    return with_statistics(nn.Sequential(*layers, *tail, nn.Linear(width, 4))), shape


class Block(nn.Module):
    """A transformer's block: attention or none, then a plain or gated perceptron, normalised before or after.

    Args:
        width: Coordinates of the stream.
        hidden: Units of the perceptron.
        norm: Makes a norm.
        act: The activation.
        gated: Whether a second map multiplies what the activation gives.
        first: Whether norms come before maps (GPT-2), or behind sums (BERT).
        mixes: Whether there is attention.
    """

    def __init__(self, width: int, hidden: int, norm: Act, act: Act, *, gated: bool, first: bool, mixes: bool) -> None:
        super().__init__()
        self.first, self.act = first, act()
        self.mixer = nn.MultiheadAttention(width, 2, batch_first=True) if mixes else None
        self.before = norm() if mixes else nn.Identity()
        self.norm = norm()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gate = nn.Linear(width, hidden) if gated else None

    def _mixed(self, x: Tensor) -> Tensor:
        assert self.mixer is not None
        out: Tensor = self.mixer(x, x, x, need_weights=False)[0]
        return out

    def _perceptron(self, x: Tensor) -> Tensor:
        inner = self.up(x) if self.gate is None else self.up(x) * self.act(self.gate(x))
        out: Tensor = self.down(self.act(inner) if self.gate is None else inner)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        if self.mixer is not None:
            x = x + self._mixed(self.before(x)) if self.first else self.before(x + self._mixed(x))
        out: Tensor = x + self._perceptron(self.norm(x)) if self.first else self.norm(x + self._perceptron(x))
        return out


class Transformer(nn.Module):
    """A stem, blocks, and a head that reads the mean over positions, the first of them, or all."""

    def __init__(self, blocks: Sequence[nn.Module], width: int, norm: Act, *, first: bool, pooled: str) -> None:
        super().__init__()
        self.stem = nn.Linear(6, width) if first else nn.Sequential(nn.Linear(6, width), norm())
        self.blocks = nn.Sequential(*blocks)
        self.last = norm() if first else nn.Identity()
        self.head, self.pooled = nn.Linear(width, 4), pooled

    def forward(self, x: Tensor) -> Tensor:
        """Return four logits a sample."""
        x = self.last(self.blocks(self.stem(x)))
        out: Tensor = self.head(x.mean(1) if self.pooled == "mean" else x[:, 0])
        return out


def encoders(*, depth: tuple[int, int] = (3, 8)) -> "SearchStrategy[Made]":
    """Draw transformers: torch's encoder, or blocks with or without attention and gates, any norm first or one last.

    Args:
        depth: Least and greatest number of blocks.

    Returns:
        A strategy of networks that read five vectors of six numbers and emit four outputs, with the shape ``(5, 6)``.

    Raises:
        MissingExtraError: Without hypothesis.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=3, database=None, deadline=None, derandomize=True)
        ... @given(encoders())
        ... def test_shapes(made):
        ...     net, shape = made
        ...     assert net(torch.zeros(2, *shape)).shape == (2, 4)
        >>> test_shapes()
    """
    st = _strategies()

    @st.composite  # type: ignore[untyped-decorator]
    def draw_one(draw: Callable[[Any], Any]) -> Made:
        with torch.random.fork_rng():
            torch.manual_seed(draw(st.integers(0, 2**16)))
            width, hidden = 8 * draw(st.integers(5, 9)), 8 * draw(st.integers(8, 16))
            first, count = draw(st.booleans()), draw(st.integers(*depth))
            pooled = draw(st.sampled_from(["mean", "first"]))
            if draw(st.booleans()):
                act = draw(st.sampled_from(["relu", "gelu"]))
                options = {"batch_first": True, "norm_first": first, "activation": act}
                blocks: list[nn.Module] = [
                    nn.TransformerEncoderLayer(width, 2, hidden, **options) for _ in range(count)
                ]
                norm: Act = lambda: nn.LayerNorm(width)  # noqa: E731
                return Transformer(blocks, width, norm, first=first, pooled=pooled).eval(), (5, 6)
            gated, acts = draw(st.booleans()), st.sampled_from([nn.ReLU, nn.GELU, nn.SiLU, lambda: nn.GELU("tanh")])
            kinds = [nn.LayerNorm, nn.RMSNorm] if first else [nn.LayerNorm]  # last, LayerNorm alone is covered
            kind, used = draw(st.sampled_from(kinds)), draw(acts)
            norm = lambda: kind(width)  # noqa: E731
            blocks = [
                Block(width, hidden, norm, used, gated=gated, first=first, mixes=draw(st.booleans()))
                for _ in range(count)
            ]
            return Transformer(blocks, width, norm, first=first, pooled=pooled).eval(), (5, 6)

    strategy: SearchStrategy[Made] = draw_one()
    return strategy
