"""Networks as JSON: built-in families are described and rebuilt, any other class is named and never imported."""

import difflib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landform.errors import ArchitectureError, BundleError
from landform.imprint.build import Heads

_FIELDS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features"),
    nn.ReLU: ("inplace",),
    nn.LeakyReLU: ("negative_slope", "inplace"),
    nn.Dropout: ("p", "inplace"),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Identity: (),
    nn.BatchNorm1d: ("num_features", "eps", "momentum", "affine", "track_running_stats"),
}
_LEAVES = {kind.__name__: kind for kind in _FIELDS}
MAX_DEPTH = 50  # Sequentials inside Sequentials

Shapes = Mapping[str, tuple[int, ...]]


def describe(model: nn.Module) -> dict[str, Any]:
    """Describe a network in JSON types.

    Args:
        model: Any module.

    Returns:
        A tree of ``{"type": …, "name": …, …}`` for (nested) Sequentials of Linear, ReLU, LeakyReLU, Dropout, Flatten,
        Identity and BatchNorm1d, and for `Heads` over them; ``{"type": "class", "class": …}`` for everything else.

    Example:
        >>> describe(nn.Sequential(nn.Linear(2, 3)))["layers"]
        [{'name': '0', 'type': 'Linear', 'in_features': 2, 'out_features': 3, 'bias': True}]
    """
    tree = _node(model, "", 0)
    if tree is not None:
        rebuilt = rebuild(tree)
        if _specs(rebuilt) == _specs(model):
            return tree
    kind = type(model)
    return {"type": "class", "class": f"{kind.__module__}.{kind.__qualname__}"}


def _node(module: nn.Module, name: str, depth: int) -> dict[str, Any] | None:
    kind = type(module)
    if kind in _FIELDS:
        node = {"name": name, "type": kind.__name__} | {key: getattr(module, key) for key in _FIELDS[kind]}
        return node | {"bias": module.bias is not None} if kind is nn.Linear else node
    if depth >= MAX_DEPTH:
        return None
    if kind is nn.Sequential:
        layers = [_node(child, key, depth + 1) for key, child in module._modules.items() if child is not None]
        return None if None in layers else {"name": name, "type": "Sequential", "layers": layers}
    if isinstance(module, Heads) and kind is Heads:
        trunk = _node(module.trunk, "trunk", depth + 1)
        heads = [_node(head, str(i), depth + 1) for i, head in enumerate(module.heads)]
        return (
            None if trunk is None or None in heads else {"name": name, "type": "Heads", "trunk": trunk, "heads": heads}
        )
    return None


def _specs(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    state = model.state_dict()
    return [(key, tuple(value.shape) if isinstance(value, Tensor) else ()) for key, value in state.items()]


def rebuild(tree: Mapping[str, Any]) -> nn.Module:
    """Build a described network on the meta device: shapes without memory.

    Args:
        tree: What `describe` returned.

    Returns:
        The network in evaluation mode.

    Raises:
        BundleError: If the description cannot be built, e.g. two layers of one name.
    """
    try:
        with torch.device("meta"):
            return _build(tree).eval()
    except (RuntimeError, TypeError, ValueError, KeyError, OverflowError) as error:
        raise BundleError(f"imprint.json describes a network that cannot be built: {error}") from error


def _build(tree: Mapping[str, Any]) -> nn.Module:
    kind = tree["type"]
    if kind == "Sequential":
        layers = OrderedDict((layer["name"], _build(layer)) for layer in tree["layers"])
        if len(layers) != len(tree["layers"]):
            raise ValueError("two layers have the same name")
        return nn.Sequential(layers)
    if kind == "Heads":
        heads = [_build(head) for head in tree["heads"]]
        return Heads(_build(tree["trunk"]), heads)  # type: ignore[arg-type]
    options = {key: value for key, value in tree.items() if key not in ("name", "type")}
    return _LEAVES[kind](**options)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's parameters and persistent buffers, parameters first."""
    named = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return named | {name: tuple(b.shape) for name, b in persistent_buffers(model).items()}


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that belong to a network's state, e.g. the running statistics of a BatchNorm."""
    kept = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


def misfits(got: Shapes, wanted: Shapes) -> list[str]:
    """Say in what two sets of named shapes differ, with the nearest name for each that is missing.

    Args:
        got: What a network or file has.
        wanted: What was saved.

    Returns:
        One line a difference, none if they agree.

    Example:
        >>> misfits({"fc.weight": (3, 2)}, {"fc1.weight": (3, 2)})
        ["it has no 'fc1.weight' (3, 2); the nearest is 'fc.weight' (3, 2)"]
    """
    lines = []
    spare = [name for name in got if name not in wanted]
    for name, shape in wanted.items():
        if name in got and got[name] != shape:
            lines.append(f"'{name}' has shape {got[name]}, saved was {shape}")
        elif name not in got:
            near = difflib.get_close_matches(name, spare, n=1, cutoff=0.3)
            hint = f"; the nearest is '{near[0]}' {got[near[0]]}" if near else ""
            lines.append(f"it has no '{name}' {shape}{hint}")
    if not lines:
        lines = [f"it has '{name}' {got[name]}, which was not saved" for name in spare]
    return lines


def listing(lines: Sequence[str], most: int = 8) -> str:
    """Join lines, the first few of them."""
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more


def unknown_class(name: str, wanted: Shapes) -> ArchitectureError:
    """Build the error for a network whose class a bundle does not hold."""
    short = name.rpartition(".")[2]
    sizes = listing([f"{key} {shape}" for key, shape in wanted.items()], 20)
    return ArchitectureError(
        f"this bundle holds the weights of {name}, a class of yours, and no code: build the network and pass it,"
        f" lf.load(path, model={short}()). Its parameters must be: {sizes}"
    )
