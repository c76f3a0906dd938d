"""Where channels lie in a tensor, zeros around positions, and parameters that a forward reads by itself.

Channels are dimension 1, or the last one behind a permutation; flattened, a channel's positions lie together or apart.
Zeros put around a tensor make its positions differ: only a convolution whose tap never reads them may follow.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import fx, nn
from torch.nn import functional

from landform.errors import ArchitectureError
from landform.imprint.lower.graph import Call, Op

_CONVOLUTIONS: dict[Any, type[nn.Module]] = {
    functional.conv1d: nn.Conv1d,
    functional.conv2d: nn.Conv2d,
    functional.conv3d: nn.Conv3d,
    functional.linear: nn.Linear,
}
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def placed(op: Op, call: Call) -> Op:
    """Return an operation with the layout of its result.

    Args:
        op: What a family made of the call.
        call: The call.

    Raises:
        ArchitectureError: If it cannot work on channels that lie where they do, or on padded positions.
    """
    if any(source.pads for source in call.sources) and op.kind != "map":
        raise ArchitectureError(
            f"'{call.name}' reads a tensor padded with zeros, whose edges differ; landform covers padding before a"
            " convolution"
        )
    if op.kind == "keep" and call.sources and (call.sources[0].kind == "gate" or call.sources[0].gated):
        op = replace(op, gated=True)
    if op.last is not None or op.kind == "map":
        return op
    lasts = {bool(source.last) for source in call.sources if source.channels}
    if len(lasts) > 1:
        raise ArchitectureError(f"'{call.name}' joins tensors with channels in different dimensions")
    last = lasts == {True}
    per_channel = op.kind in ("norm", "pool", "cat", "shift") or (op.owns and many_slopes(call.module))
    if last and per_channel:
        raise ArchitectureError(
            f"'{call.name}' ({call.what}) follows a permutation that puts channels last; landform covers it with"
            " channels in dimension 1"
        )
    return replace(op, last=last)


def many_slopes(module: nn.Module | None) -> bool:
    """Say whether a module is a PReLU with a slope a channel."""
    return isinstance(module, nn.PReLU) and module.num_parameters > 1


def functional_map(
    node: fx.Node, attributes: Mapping[fx.Node, str], modules: Mapping[str, nn.Module]
) -> tuple[str, nn.Module]:
    """Return the module whose weight a functional convolution or linear map reads, and its name.

    Layers that pad for themselves are written like this: a subclass of `nn.Conv2d` whose forward pads and then calls
    ``conv2d(x, self.weight, self.bias, self.stride, …)``.

    Args:
        node: The call.
        attributes: Names of the parameters read by the forward.
        modules: The network's modules by name.

    Raises:
        ArchitectureError: If it is another function, the parameters are no layer's, or the settings are not its own.
    """
    from landform.imprint.lower.graph import covered

    kind = _CONVOLUTIONS.get(node.target) if node.op == "call_function" else None
    given = _arguments(node)
    weight = attributes.get(given.get("weight"))  # type: ignore[arg-type]
    owner, _, key = (weight or "").rpartition(".")
    module = modules.get(owner)
    if kind is None or key != "weight" or not isinstance(module, kind):
        read = ", ".join(f"'{name}'" for n, name in attributes.items() if n in node.all_input_nodes)
        raise ArchitectureError(f"the forward reads {read} by itself; landform writes into layers: {covered()}")
    bias = given.get("bias")
    if attributes.get(bias) != (None if module.bias is None else f"{owner}.bias"):  # type: ignore[arg-type]
        raise ArchitectureError(f"'{owner}' is called with a bias that is not its own")
    for name in ("stride", "padding", "dilation", "groups"):
        own = getattr(module, name, None)
        if name in given and own is not None and _pair(given[name], own) != _pair(own, own):
            raise ArchitectureError(f"'{owner}' is called with {name} {given[name]}, its own is {own}")
        if name not in given and own is not None and _pair(own, own) != _pair(0 if name == "padding" else 1, own):
            raise ArchitectureError(f"'{owner}' is called without its {name} {own}; pass self.{name}")
    return owner, module


def _arguments(node: fx.Node) -> dict[str, Any]:
    return dict(zip(_NAMES, node.args, strict=False)) | dict(node.kwargs)


def _pair(value: Any, like: Any) -> Any:
    """Return a setting as a tuple where the module's own is one."""
    if isinstance(value, (tuple, list)):
        return tuple(value)
    return (value,) * len(like) if isinstance(like, (tuple, list)) else value
