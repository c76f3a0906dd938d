"""Read a network as a chain of stages: Linear → [BatchNorm] → activation, and one Linear a head at the end.

The tracing is `torch.fx`; modules and functions that change nothing in eval mode (Dropout, Flatten, Identity, views)
are passed over. Nothing here knows a pattern: the chain says what a network *is*, `linear.py` writes into it, and the
certificate reads from it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from landform.errors import ArchitectureError

COVERED = "Linear, ReLU, LeakyReLU, Dropout, Flatten, Identity and BatchNorm1d"
_PASS_MODULES = (nn.Dropout, nn.AlphaDropout, nn.Flatten, nn.Unflatten, nn.Identity)
_PASS_CALLS: tuple[Any, ...] = (torch.flatten, "view", "reshape", "flatten", "contiguous")


@dataclass(frozen=True)
class Stage:
    """One hidden layer: the qualified names of its modules and its activation.

    Args:
        linear: Name of the Linear.
        width: Its output features.
        slope: Slope of the activation left of 0: 0 for ReLU, α for LeakyReLU, 1 where there is none.
        before: Names of BatchNorms between the Linear and the activation.
        after: Names of BatchNorms after the activation.
    """

    linear: str
    width: int
    slope: float
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Head:
    """One output: its key in what the model returns (None for a bare tensor), its Linear and its output features.

    A chain ends in its Linear layers: nothing (``end``) comes behind them.
    """

    key: str | int | None
    linear: str
    outputs: int
    end: str = ""


@dataclass(frozen=True)
class Chain:
    """A network as hidden stages and heads that all read the last stage."""

    stages: tuple[Stage, ...]
    heads: tuple[Head, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(stage.width for stage in self.stages)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def remove_hooks(model: nn.Module) -> None:
    """Remove the forward hooks of a copy: they could change what the layers compute, unseen by any proof."""
    for module in model.modules():
        for name in _HOOKS:
            for key in list(getattr(module, name)):
                del getattr(module, name)[key]
                for companion in (f"{name}_with_kwargs", f"{name}_always_called"):
                    getattr(module, companion, {}).pop(key, None)


def require_no_hooks(model: nn.Module) -> None:
    """Refuse a network with forward hooks.

    Raises:
        ArchitectureError: Naming the module.
    """
    for name, module in model.named_modules():
        if any(getattr(module, hooks) for hooks in _HOOKS):
            raise ArchitectureError(
                f"module '{name or type(module).__name__}' has a forward hook, which no proof covers; remove it"
            )


def trace(model: nn.Module) -> Chain:
    """Trace a network into a `Chain`.

    Args:
        model: Any module whose forward is a chain of the covered modules (or their functional forms), with one or
            several Linear heads on the last hidden layer, returned as a tensor, tuple, list or dict.

    Returns:
        The chain.

    Raises:
        ArchitectureError: If the network cannot be traced, or has a module that is not covered (it is named).

    Example:
        >>> chain = trace(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)))
        >>> chain.widths, chain.heads[0].linear
        ((8,), '3')
    """
    if not isinstance(model, nn.Module):
        raise ArchitectureError(f"expected a torch.nn.Module, got {type(model).__name__}")
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:
        raise ArchitectureError(
            f"{type(model).__name__} cannot be traced ({error}); landform needs a forward without data-dependent"
            f" control flow, made of {COVERED}"
        ) from error
    return _walk(model, graph)


def _walk(model: nn.Module, graph: fx.Graph) -> Chain:
    modules = dict(model.named_modules())
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ArchitectureError(f"{type(model).__name__} takes {len(inputs)} inputs; a chain takes one")
    node: fx.Node = inputs[0]
    stages: list[Stage] = []
    used: set[str] = set()
    current: dict[str, Any] | None = None
    while True:
        ends = _heads(node, modules, model)
        if ends is not None:
            if current is not None:
                stages.append(Stage(**current))
            if not stages:
                raise ArchitectureError(
                    f"{type(model).__name__} has no hidden layer; Theorem 1 needs at least an injected layer and one"
                    " more"
                )
            heads = tuple(_head(key, name, modules, used) for key, name in ends)
            return Chain(tuple(stages), heads)
        node = _only_user(node, model)
        what = _kind(node, modules)
        if what == "linear":
            name = str(node.target)
            if name in used:
                raise ArchitectureError(f"module '{name}' is used twice; every layer needs weights of its own")
            used.add(name)
            if current is not None:
                stages.append(Stage(**current))
            width = modules[name].out_features
            current = {"linear": name, "width": width, "slope": 1.0, "before": (), "after": ()}
            acted = False
        elif isinstance(what, float):
            if current is None or acted:
                raise ArchitectureError(
                    f"activation '{node.name}' does not follow a Linear layer; the chain must be Linear, [BatchNorm1d],"
                    " activation, Linear, …"
                )
            current["slope"], acted = what, True
        elif what == "norm":
            if current is None:
                raise ArchitectureError(
                    f"'{node.target}' normalises the input before the first Linear layer; move it into the data"
                )
            key = "after" if acted else "before"
            current[key] = (*current[key], str(node.target))


def _heads(node: fx.Node, modules: dict[str, nn.Module], model: nn.Module) -> list[tuple[str | int | None, str]] | None:
    """Return (key, linear name) of the outputs if everything that reads ``node`` is a head, else None."""
    users = [user for user in node.users if not _is_shape(user)]
    ends: dict[fx.Node, str] = {}
    for user in users:
        if user.op != "call_module" or not isinstance(modules[str(user.target)], nn.Linear):
            return None
        after = _skip(user, modules)
        if any(u.op != "output" and not _packs(u) for u in after.users):
            return None
        ends[after] = str(user.target)
    if not ends:
        raise ArchitectureError(
            f"{type(model).__name__} does not end in a Linear layer; the output must be the Linear's own"
        )
    output = next(n for n in node.graph.nodes if n.op == "output")
    returned = output.args[0]
    if isinstance(returned, fx.Node) and returned in ends:
        return [(None, ends[returned])]
    if isinstance(returned, fx.Node) and _packs(returned):
        returned = returned.args[0]
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(returned, dict):
        pairs = returned.items()
    elif isinstance(returned, (tuple, list)):
        pairs = enumerate(returned)
    else:
        return None
    found = [(key, ends[value]) for key, value in pairs if isinstance(value, fx.Node) and value in ends]
    if len(found) != len(ends) or len(found) != len(list(pairs) if isinstance(returned, dict) else returned):
        raise ArchitectureError(f"{type(model).__name__} returns more than its Linear heads; return the heads alone")
    return found


def _head(key: str | int | None, name: str, modules: dict[str, nn.Module], used: set[str]) -> Head:
    if name in used:
        raise ArchitectureError(f"module '{name}' is used twice; every layer needs weights of its own")
    used.add(name)
    return Head(key, name, modules[name].out_features)  # type: ignore[arg-type]


def _skip(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    """Follow modules that change nothing."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.op not in ("call_module", "call_function", "call_method") or _packs(user):
            break
        if _kind(user, modules) != "pass":
            break
        node = user
    return node


def _packs(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in (tuple, list, dict)


def _is_shape(node: fx.Node) -> bool:
    """Say whether a node only asks for a shape (``x.size(0)``, ``x.shape[0]``)."""
    return node.target == "size" or (node.target is getattr and node.args[1:] == ("shape",))


def _only_user(node: fx.Node, model: nn.Module) -> fx.Node:
    users = [user for user in node.users if not _is_shape(user)]
    if len(users) != 1 or users[0].op == "output":
        names = ", ".join(f"'{user.name}'" for user in users)
        raise ArchitectureError(
            f"{type(model).__name__} is no chain: the value '{node.name}' goes to {names or 'nothing'}; landform lowers"
            f" into chains of {COVERED} with Linear heads at the end"
        )
    user: fx.Node = users[0]
    return user


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> str | float:
    """Classify a node: "linear", "norm", "pass", or the negative slope of an activation."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, nn.Linear):
            return "linear"
        if isinstance(module, nn.ReLU):
            return 0.0
        if isinstance(module, nn.LeakyReLU):
            return _slope(module.negative_slope, str(node.target))
        if isinstance(module, nn.BatchNorm1d):
            return "norm"
        if isinstance(module, _PASS_MODULES):
            return "pass"
        raise ArchitectureError(
            f"module '{node.target}' is a {type(module).__name__}, which is not covered; landform lowers into {COVERED}"
        )
    target: str | Callable[..., Any] = node.target
    if target in (torch.relu, nn.functional.relu, "relu", "relu_"):
        return 0.0
    if target is nn.functional.leaky_relu:
        slope = node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else 0.01)
        return _slope(float(slope), node.name)  # type: ignore[arg-type]
    if target in _PASS_CALLS:
        return "pass"
    if target is nn.functional.dropout:
        # traced in eval mode: training=self.training reads False, a missing argument means True
        if node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True):
            raise ArchitectureError(
                f"'{node.name}' drops units in eval mode too; write dropout(x, p, training=self.training) and call"
                " model.eval(), or use nn.Dropout"
            )
        return "pass"
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    raise ArchitectureError(f"the operation '{name}' is not covered; landform lowers into {COVERED}")


def _slope(slope: float, name: str) -> float:
    if not 0 <= slope < 1:
        raise ArchitectureError(f"'{name}' has negative slope {slope}; the construction needs a slope in [0, 1)")
    return slope
