"""Small networks of every covered family, in CIFAR shapes, with statistics as after training.

They are written as people write them, and are neither downloaded nor trained: what the compiler sees of a network is
its structure, its shapes and the statistics of its norms.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Images = Float[Tensor, "n channels height width"]


class Padded(nn.Module):
    """Every second position or so, with channels of zeros around.

    Args:
        more: Channels to add, half of them in front.
        stride: Which positions are kept.
    """

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Images) -> Images:
        """Leave out and pad."""
        before = self.more // 2
        kept = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, before, self.more - before))


class Basic(nn.Module):
    """The residual block of He et al., CVPR 2016, with a map on the other path where shapes change.

    Args:
        inputs: Channels that it reads.
        width: Channels that it makes.
        stride: Of the first convolution.
        maps: Whether that map is a convolution (their option B); else positions are left out and channels of zeros are
            put around (option A, as in their networks for CIFAR).
        act: Makes an activation.
    """

    def __init__(
        self, inputs: int, width: int, stride: int, *, maps: bool = True, act: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.act = act()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.down: nn.Module | None = None
        if (stride != 1 or inputs != width) and not maps:
            self.down = Padded(width - inputs, stride)
        elif stride != 1 or inputs != width:
            self.down = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Images) -> Images:
        """Apply the block."""
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        total: Tensor = self.act(out + (x if self.down is None else self.down(x)))
        return total


class ResNet(nn.Module):
    """A residual net: a stem, groups of blocks, a mean over positions, a Linear.

    Args:
        stem: Channels of the first convolution.
        widths: (channels, stride) of each group.
        blocks: Blocks in a group.
        classes: Outputs.
        maps: Whether blocks that change shapes have a map on the other path (see `Basic`).
        act: Makes an activation.
    """

    def __init__(
        self,
        stem: int = 64,
        widths: tuple[tuple[int, int], ...] = ((64, 1), (128, 2), (256, 2), (512, 2)),
        blocks: int = 2,
        classes: int = 10,
        *,
        maps: bool = True,
        act: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        layers, channels = [], stem
        for width, stride in widths:
            for number in range(blocks):
                layers.append(Basic(channels, width, stride if number == 0 else 1, maps=maps, act=act))
                channels = width
        self.blocks = nn.Sequential(*layers)
        self.fc, self.act = nn.Linear(channels, classes), act()

    def forward(self, x: Images) -> Float[Tensor, "n classes"]:
        """Return the logits."""
        x = self.blocks(self.act(self.bn1(self.conv1(x))))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class Preact(nn.Module):
    """A block that normalises first; the stream has no activation (He et al., ECCV 2016).

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Images) -> Images:
        """Apply the block."""
        out = self.conv1(functional.relu(self.bn1(x)))
        total: Tensor = x + self.conv2(functional.relu(self.bn2(out)))
        return total


class Inverted(nn.Module):
    """An inverted bottleneck with a depthwise convolution and ReLU6 (Sandler et al., CVPR 2018).

    Args:
        width: Channels of the stream.
        expansion: By how much the branch is wider.
    """

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        wide = width * expansion
        self.body = nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Images) -> Images:
        """Apply the block."""
        out: Tensor = x + self.body(x)
        return out


class Squeezed(nn.Module):
    """An inverted bottleneck with a gate (Hu et al., CVPR 2018), as MobileNetV3 and EfficientNet have them.

    Args:
        width: Channels of the stream.
        act: Makes an activation.
        inside: Whether the gate is between the depthwise convolution and the last one; else it is at the end.
    """

    def __init__(self, width: int, act: type[nn.Module] = nn.Hardswish, *, inside: bool = True) -> None:
        super().__init__()
        wide = 4 * width
        self.expand = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), act())
        self.depth = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), act()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))
        gated = wide if inside else width
        pool, less, more = nn.AdaptiveAvgPool2d(1), nn.Conv2d(gated, gated // 4, 1), nn.Conv2d(gated // 4, gated, 1)
        self.gate = nn.Sequential(pool, less, nn.ReLU(), more, nn.Hardsigmoid() if inside else nn.Sigmoid())
        self.inside = inside

    def forward(self, x: Images) -> Images:
        """Apply the block."""
        out = self.depth(self.expand(x))
        if self.inside:
            out = out * self.gate(out)
        out = self.project(out)
        total: Tensor = x + (out if self.inside else self.gate(out) * out)
        return total


class Dense(nn.Module):
    """A layer of a DenseNet (Huang et al., CVPR 2017).

    Args:
        inputs: Channels that it reads.
        growth: Channels that it adds.
        bottleneck: Whether a 1×1 convolution to four times as many comes first.
    """

    def __init__(self, inputs: int, growth: int, *, bottleneck: bool = True) -> None:
        super().__init__()
        wide = 4 * growth if bottleneck else inputs
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, wide, 1, bias=False) if bottleneck else nn.Identity()
        self.bn2 = nn.BatchNorm2d(wide) if bottleneck else nn.Identity()
        self.conv2 = nn.Conv2d(wide, growth, 3, padding=1, bias=False)

    def forward(self, x: Images) -> Images:
        """Return the channels that came in, and behind them the new ones."""
        out = functional.relu(self.bn1(x))
        if not isinstance(self.bn2, nn.Identity):
            out = functional.relu(self.bn2(self.conv1(out)))
        joined: Tensor = torch.cat([x, self.conv2(out)], 1)
        return joined


def with_statistics(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm (InstanceNorm) statistics and parameters as after training, and set the net to eval mode.

    Args:
        net: The net; it is changed.
        seed: Of the random numbers.

    Returns:
        The net.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if not isinstance(module, nn.modules.batchnorm._NormBase):
            continue
        if module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
        if module.weight is not None:
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(generator=generator)
    return net.eval()


def lenet(size: int = 16) -> nn.Sequential:
    """Build a LeNet-like net (LeCun et al., 1998) for images of 3 × size × size."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (size // 4) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    ).eval()


def vgg(*widths: int, pooled: tuple[int, ...] | None = None, hidden: int = 64, classes: int = 10) -> nn.Sequential:
    """Build convolutions with BatchNorm and max pools, then two Linear (Simonyan & Zisserman, 2014).

    Args:
        widths: Channels of each convolution.
        pooled: After which of them there is a pool; None: after each.
        hidden: Width of the hidden Linear.
        classes: Outputs.
    """
    layers: list[nn.Module] = []
    channels = 3
    for number, width in enumerate(widths):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        if pooled is None or number in pooled:
            layers.append(nn.MaxPool2d(2))
        channels = width
    head = [nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, classes)]
    net = nn.Sequential(*layers, *head)
    with_statistics(net)
    return net


def vgg11() -> nn.Sequential:
    """Build VGG-11 with BatchNorm for 3 × 32 × 32."""
    return vgg(64, 128, 256, 256, 512, 512, 512, 512, pooled=(0, 1, 3, 5, 7), hidden=512)


def grouped(net: nn.Module, groups: int) -> nn.Module:
    """Put a GroupNorm in the place of every BatchNorm2d of a network, which is changed and returned.

    Args:
        net: The network.
        groups: Groups of each norm.

    Example:
        >>> grouped(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), 4).get_submodule("1").num_groups
        4
    """
    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(net, name, nn.GroupNorm(groups, child.num_features))
        else:
            grouped(child, groups)
    return net.eval()


def resnet18() -> nn.Module:
    """Build ResNet-18 for 3 × 32 × 32 (a 3×3 stem, no pool)."""
    return with_statistics(ResNet())


def resnet20(*, maps: bool = True, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Build ResNet-20 for 3 × 32 × 32: 16, 32 and 64 channels; ``maps=False``: without parameters on shortcuts."""
    return with_statistics(ResNet(16, ((16, 1), (32, 2), (64, 2)), 3, maps=maps, act=act))


def _stem(width: int) -> list[nn.Module]:
    return [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def _tail(width: int, classes: int = 10) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def preact(width: int = 48, blocks: int = 4) -> nn.Module:
    """Build a residual net of pre-activation blocks."""
    body = [Preact(width) for _ in range(blocks)]
    return with_statistics(nn.Sequential(*_stem(width), *body, nn.BatchNorm2d(width), nn.ReLU(), *_tail(width)))


def mobile(width: int = 32, blocks: int = 4) -> nn.Module:
    """Build a net of inverted bottlenecks, as MobileNetV2 and EfficientNet-Lite have them."""
    return with_statistics(nn.Sequential(*_stem(width), *[Inverted(width) for _ in range(blocks)], *_tail(width)))


def squeezed(width: int = 32, blocks: int = 4, act: type[nn.Module] = nn.Hardswish) -> nn.Module:
    """Build a net of gated inverted bottlenecks, as MobileNetV3 and EfficientNet have them."""
    stem = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), act()]
    body = [Squeezed(width, act, inside=number != 1) for number in range(blocks)]
    return with_statistics(nn.Sequential(*stem, *body, *_tail(width)))


def upsampling(width: int = 48) -> nn.Module:
    """Build a net that halves positions and doubles them again by transposed convolutions, with SiLU."""
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.SiLU()]
    layers += [nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.SiLU()]
    layers += [nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
    layers += [nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.SiLU()]
    layers += [nn.ConvTranspose2d(2 * width, width, 2, 2), nn.SiLU()]
    return with_statistics(nn.Sequential(*layers, *_tail(width)))


def densenet(growth: int = 24, blocks: tuple[int, ...] = (3, 3), *, bottleneck: bool = True) -> nn.Module:
    """Build a DenseNet: blocks of layers with halving transitions between them."""
    channels = 2 * growth
    layers = _stem(channels)
    for number, count in enumerate(blocks):
        for _ in range(count):
            layers.append(Dense(channels, growth, bottleneck=bottleneck))
            channels += growth
        if number < len(blocks) - 1:
            half = channels // 2
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, half, 1, bias=False), nn.AvgPool2d(2)]
            channels = half
    return with_statistics(nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *_tail(channels)))
