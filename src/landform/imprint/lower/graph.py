"""Read any network as a graph of operations on channels: what it *is*, before anything is written into it.

Every tensor inside an imprint is the same at all positions (pixels, time steps), so an operation is described by what
it does to the channels: a linear *map* (Linear, convolutions at one tap), a *norm* (BatchNorm in eval mode: one factor
and one constant a channel), an *act* (a piecewise-linear activation), *add*, *cat*, *pool* (the identity on constants,
but for rounding), *keep* (Flatten, Dropout, views), *shift* (empty channels beside the others), *gate* (a sigmoid),
*mul* (a product with a gate) or the *end* of a head (a softmax). Each family of layers is one file that turns a call
into an `Op`, writes numbers into its parameters and reads them back:

==================  ==============================================================================================
`affine.py`         Linear, convolutions and transposed ones: any matrix between channels, at one tap of the kernel
`batchnorm.py`      BatchNorm1d, 2d, 3d: carries every register, sets a constant where there is no bias
`groupnorm.py`      GroupNorm, LayerNorm over a sample: the same, with one channel of each group given up
`activation.py`     ReLU, LeakyReLU, PReLU, ReLU6 and the like: the hinges
`pooling.py`        max, average and adaptive pools, means over positions
`merge.py`          residual sums and concatenation
`passing.py`        what changes nothing
`probabilities.py`  a softmax behind a head
==================  ==============================================================================================

`grouping.py` groups the operations into stages with room for units; `write.py` puts a program there; the verifier reads
the same graph with the saved weights and trusts nothing of how they came about.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import fx, nn

from landform.errors import ArchitectureError, InputError, unknown_name

Kind = Literal["input", "map", "norm", "act", "add", "cat", "pool", "keep", "shift", "gate", "mul", "end"]


@dataclass(frozen=True)
class Op:
    """One operation.

    Args:
        kind: What it does to channels.
        name: Qualified name of its module, or of the node for a function.
        inputs: Numbers of the operations it reads.
        channels: Channels of its result; 0 where unknown (the network's input).
        slope: Slope of an activation left of 0.
        cap: Where an activation stops growing (6 for ReLU6).
        terms: How many equal numbers an average adds up.
        groups: Groups of a map; a map with more than one can only carry.
        taps: Along each axis of a convolution's kernel, the taps that are written: none of them ever reads padding.
        last: Whether channels are the last dimension; flattened, they then vary fastest. None: as the input has it.
        fast: Whether a Linear reads a tensor whose channels are last.
        offset: Empty channels that are put in front of the others (a shift).
        pads: Zeros that were put around the positions, (before, after) along each axis, for the next convolution.
        gated: Whether this is a gate, passed on by a view.
        smooth: How far an activation is from a ReLU at most; 0 where it is piecewise linear.
        far: Roundings of a smooth activation of numbers beyond 64; most return these as they are.
        at_zero: Value of a smooth activation at 0: log 2 for softplus, 0 for all others.
        start: Where a clip begins to grow: −1 for Hardtanh, −3 for Hardsigmoid; ``cap`` is counted from there.
        low: Its value up to there: −1 for Hardtanh, 0 for Hardsigmoid.
        rise: Its slope from there: 1 for Hardtanh, 1/6 for Hardsigmoid.
        owns: Whether an activation has parameters (PReLU's slopes), which are set to zero: then it is a ReLU.
        end: What the end of a head is: ``"softmax"`` or ``"log_softmax"``.
        shared: Over how many channels together a norm takes mean and spread (GroupNorm), at ``terms`` positions each.
    """

    kind: Kind
    name: str
    inputs: tuple[int, ...] = ()
    channels: int = 0
    slope: float = 1.0
    cap: float = float("inf")
    terms: int = 1
    groups: int = 1
    taps: tuple[tuple[int, ...], ...] = ()
    last: bool | None = None
    fast: bool = False
    offset: int = 0
    pads: tuple[tuple[int, int], ...] = ()
    gated: bool = False
    smooth: float = 0.0
    far: float = 0.0
    at_zero: float = 0.0
    start: float = 0.0
    low: float = 0.0
    rise: float = 1.0
    owns: bool = False
    shared: int = 0
    end: str = ""

    @property
    def clips(self) -> bool:
        """Whether it is low + rise·min(relu(t − start), cap), and not just min(relu(t), cap)."""
        return self.kind == "act" and (self.start, self.low, self.rise) != (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Output:
    """One head: its key in what the model returns, the number of its map, its outputs, and what it ends in."""

    key: str | int | None
    op: int
    linear: str
    outputs: int
    end: str = ""


@dataclass(frozen=True)
class Graph:
    """Operations in an order in which they can be computed; number 0 is the network's input."""

    ops: tuple[Op, ...]
    heads: tuple[Output, ...]

    @property
    def clips(self) -> tuple[Op, ...]:
        """The activations that clip somewhere else than from 0 on, or at another slope than one."""
        return tuple(op for op in self.ops if op.clips)

    def users(self) -> list[list[int]]:
        """Return, for each operation, the operations that read it (twice if they read it twice)."""
        out: list[list[int]] = [[] for _ in self.ops]
        for number, op in enumerate(self.ops):
            for source in op.inputs:
                out[source].append(number)
        return out


@dataclass(frozen=True)
class Call:
    """What a family sees of a node: its module or function, its arguments, and the operations among them.

    Args:
        name: Qualified name of the module, or of the node.
        module: The module, None for functions and methods.
        target: The function, or the name of the method.
        args: Arguments; tensors are replaced by the numbers of their operations, as `Ref`.
        kwargs: Keyword arguments.
        inputs: Numbers of the operations among the arguments.
        channels: Channels of each of them.
        shapes: Shape of each of them, None where unknown.
        shape: Shape of the result, None where unknown.
        sources: The operations that make them.
    """

    name: str
    module: nn.Module | None
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[int, ...]
    channels: tuple[int, ...]
    shapes: tuple[tuple[int, ...] | None, ...]
    shape: tuple[int, ...] | None
    sources: tuple[Op, ...] = ()

    @property
    def last(self) -> bool:
        """Whether the first tensor has its channels in the last dimension."""
        return bool(self.sources and self.sources[0].last)

    @property
    def what(self) -> str:
        """The module's class or the function's name, for errors."""
        if self.module is not None:
            return type(self.module).__name__
        return self.target if isinstance(self.target, str) else getattr(self.target, "__name__", str(self.target))

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument of a function by position (the tensor is 0) or name."""
        return self.kwargs.get(name, self.args[position] if len(self.args) > position else default)


@dataclass(frozen=True)
class Ref:
    """A tensor among the arguments of a call: the number of the operation that makes it."""

    op: int


def covered() -> str:
    """Return the names of what is covered, for errors."""
    from landform.imprint.lower.families import COVERED

    return COVERED


def read_graph(model: nn.Module, sample: Sequence[int] | None = None, output: str | int | None = None) -> Graph:
    """Trace a network into a `Graph`.

    Args:
        model: A module without data-dependent control flow, made of covered operations, that ends in one Linear a
            head, returned as a tensor, tuple, list or dict.
        sample: Shape of one input, without the batch; only global pools need it, to know how many numbers they add.
        output: Which of several outputs is meant, by its key, name or number; None for all.

    Returns:
        The graph; what only other outputs read is no part of it.

    Raises:
        ArchitectureError: If the network cannot be traced or something in it is not covered: the module is named.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
        >>> [op.kind for op in read_graph(net).ops]
        ['input', 'map', 'act', 'keep', 'map']
    """
    if not isinstance(model, nn.Module):
        raise ArchitectureError(f"expected a torch.nn.Module, got {type(model).__name__}")
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:
        raise ArchitectureError(
            f"{type(model).__name__} cannot be traced ({error}); landform needs a forward without data-dependent"
            f" control flow, made of {covered()}"
        ) from error
    still = not any(module.training for module in model.modules() if any(True for _ in module.buffers(recurse=False)))
    shapes = _shapes(model, traced, sample) if sample is not None and still else {}  # norms in train mode would count
    return _Reader(model, shapes, output).read(traced.graph)


def _shapes(model: nn.Module, traced: fx.GraphModule, sample: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every node for a batch of two, computed without touching data or buffers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    found: dict[str, tuple[int, ...]] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                found[n.name] = tuple(result.shape)
            return result

    parameter = next(model.parameters(), None)
    dtype = parameter.dtype if parameter is not None else torch.float32
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            Shapes(traced).run(torch.zeros((2, *sample), dtype=dtype))
    except Exception:  # a model that does not fit the data: the probe of the task says so, far better
        return {}
    return found


class _Reader:
    """Turns the nodes of an fx graph into operations, one after another."""

    def __init__(
        self, model: nn.Module, shapes: Mapping[str, tuple[int, ...]], output: str | int | None = None
    ) -> None:
        self.model = model
        self.output = output
        self.modules = dict(model.named_modules())
        self.shapes = shapes
        self.ops: list[Op] = [Op("input", "input")]
        self.number: dict[fx.Node, int] = {}
        self.attributes: dict[fx.Node, str] = {}  # parameters that the forward reads by itself
        self.used: set[str] = set()

    def read(self, graph: fx.Graph) -> Graph:
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise ArchitectureError(f"{type(self.model).__name__} takes {len(inputs)} inputs; landform needs one")
        self.number[inputs[0]] = 0
        output: Any = None
        for node in graph.nodes:
            if node.op == "output":
                output = node.args[0]
            elif node.op == "get_attr":
                self.attributes[node] = str(node.target)
            elif node.op != "placeholder" and not _is_shape(node, self.number):
                self._add(node)
        made = _pruned(Graph(tuple(self.ops), self._heads(output)), type(self.model).__name__)
        return _bending(made)

    def _add(self, node: fx.Node) -> None:
        from landform.imprint.lower.families import INSTEAD, read_call
        from landform.imprint.lower.layout import functional_map, placed

        module = self.modules[str(node.target)] if node.op == "call_module" else None
        name = str(node.target) if module is not None else node.name
        attributes = [n for n in _tensors(node) if n in self.attributes]
        if attributes:
            name, module = functional_map(node, self.attributes, self.modules)
        if module is not None and any(True for _ in module.parameters()):
            if name in self.used:
                raise ArchitectureError(f"module '{name}' is used twice; every layer needs weights of its own")
            self.used.add(name)
        args = fx.map_arg(node.args, self._ref)
        kwargs = fx.map_arg(node.kwargs, self._ref)
        sources = tuple(n for n in _tensors(node) if n in self.number)
        call = Call(
            name,
            module,
            node.target,
            tuple(args) if isinstance(args, (tuple, list)) else (args,),
            dict(kwargs) if isinstance(kwargs, Mapping) else {},
            tuple(self.number[n] for n in sources),
            tuple(self.ops[self.number[n]].channels for n in sources),
            tuple(self.shapes.get(n.name) for n in sources),
            self.shapes.get(node.name),
            tuple(self.ops[self.number[n]] for n in sources),
        )
        op = read_call(call)
        if op is None:
            what = f"module '{name}' is a {call.what}" if module is not None else f"the operation '{call.what}'"
            joint = ", which is not covered" if module is not None else " is not covered"
            instead = INSTEAD.get(call.what)
            more = f"; {instead.replace('NAME', name)}" if instead else ""
            raise ArchitectureError(f"{what}{joint}{more}; landform lowers into {covered()}")
        ended = next((source for source in call.sources if source.end), None)
        if ended is not None and op.kind != "keep":
            raise ArchitectureError(
                f"'{name}' reads what '{ended.name}', a {ended.end}, emits; landform covers one at the end of a network"
                " only"
            )
        self.number[node] = len(self.ops)
        self.ops.append(replace(placed(op, call), end=op.end or (ended.end if ended is not None else "")))

    def _ref(self, node: fx.Node) -> Any:
        return Ref(self.number[node]) if node in self.number else None

    def _heads(self, returned: Any) -> tuple[Output, ...]:
        pairs: list[tuple[Any, Any]]
        if isinstance(returned, fx.Node) and returned.op == "call_function" and returned.target in (tuple, list, dict):
            returned = returned.args[0]
        if isinstance(returned, Mapping):
            pairs = list(returned.items())
        elif isinstance(returned, (tuple, list)):
            pairs = list(enumerate(returned))
        else:
            pairs = [(None, returned)]
        if self.output is not None:
            pairs = chosen(pairs, self.output, type(self.model).__name__)
        heads = []
        for key, node in pairs:
            number, end = self.number.get(node) if isinstance(node, fx.Node) else None, ""
            while number is not None and (self.ops[number].kind == "keep" or (self.ops[number].end and not end)):
                end = end or self.ops[number].end
                number = self.ops[number].inputs[0]
            if number is None or self.ops[number].kind != "map" or self.ops[number].groups > 1:
                raise ArchitectureError(
                    f"{type(self.model).__name__} does not end in a Linear layer"
                    + (f" (output {key!r} is none)" if key is not None else "")
                    + "; the output must be the Linear's own"
                )
            op = self.ops[number]
            heads.append(Output(key, number, op.name, op.channels, end))
        if len({head.op for head in heads}) != len(heads):
            raise ArchitectureError(f"{type(self.model).__name__} returns one head twice; return each once")
        return tuple(heads)


def chosen(pairs: Sequence[tuple[Any, Any]], output: str | int, who: str) -> list[tuple[Any, Any]]:
    """Return the one pair of key and output that is meant.

    Raises:
        UnknownNameError: There is none of this key, with those that there are.
        InputError: There is one output only, without a key.
    """
    if [key for key, _ in pairs] == [None]:
        raise InputError(f"{who} returns a single output, and output={output!r} was asked for; leave output= out")
    found = [(key, value) for key, value in pairs if str(key) == str(output)]
    if not found:
        raise unknown_name("output", str(output), [str(key) for key, _ in pairs])
    return found


def _tensors(node: fx.Node) -> list[fx.Node]:
    """Return the nodes among the arguments, in order, with repetitions."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


def _is_shape(node: fx.Node, tensors: Mapping[fx.Node, int]) -> bool:
    """Say whether a node only computes with shapes (``x.size(0)``, ``x.shape[0]``, ``b * t``)."""
    if node.op == "call_method" and node.target in ("size", "dim"):
        return True
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    if node.op != "call_function" or getattr(node.target, "__module__", "") not in (
        "_operator",
        "operator",
        "builtins",
    ):
        return False
    return (node.target is not operator.getitem and all(n not in tensors for n in _tensors(node))) or (
        node.target is operator.getitem and node.args[0] not in tensors
    )


def _pruned(graph: Graph, name: str) -> Graph:
    """Return the graph without operations that no head reads, numbered anew."""
    live: set[int] = {0}
    todo = [head.op for head in graph.heads]
    while todo:
        number = todo.pop()
        if number not in live:
            live.add(number)
            todo += graph.ops[number].inputs
    order = sorted(live)
    new = {old: position for position, old in enumerate(order)}
    ops = tuple(replace(graph.ops[old], inputs=tuple(new[i] for i in graph.ops[old].inputs)) for old in order)
    heads = tuple(replace(head, op=new[head.op]) for head in graph.heads)
    if not any(0 in op.inputs for op in ops):
        raise ArchitectureError(f"no output of {name} reads the input")
    return Graph(ops, heads)


def _bending(graph: Graph) -> Graph:
    """Return the graph with the gates that multiply nothing, and are clips, as the activations that they are."""
    users = graph.users()

    def multiplies(number: int) -> bool:
        return any(graph.ops[n].kind == "mul" or (graph.ops[n].gated and multiplies(n)) for n in users[number])

    bends = {n for n, op in enumerate(graph.ops) if op.kind == "gate" and op.rise != 1.0 and not multiplies(n)}
    views = {n for n, op in enumerate(graph.ops) if op.gated and op.inputs[0] in bends}
    while more := {n for n, op in enumerate(graph.ops) if op.gated and op.inputs[0] in views} - views:
        views |= more
    ops = [
        replace(op, kind="act", slope=0.0) if n in bends else replace(op, gated=False) if n in views else op
        for n, op in enumerate(graph.ops)
    ]
    return replace(graph, ops=tuple(ops))
