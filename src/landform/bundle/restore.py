"""From the checked contents of a bundle to the parts of an `Imprint`."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from landform.bundle import layout
from landform.bundle.architecture import listing, misfits, persistent_buffers, rebuild, shapes, unknown_class
from landform.bundle.arrays import read_array
from landform.errors import ArchitectureError, BundleError, InputError, LandformError
from landform.imprint.lower.chain import remove_hooks
from landform.imprint.lower.network import read
from landform.losses import LOSS_NAMES, LossLike
from landform.pattern import Pattern, SumPattern
from landform.response import AbstractResponse, response_from_state
from landform.task import Task

if TYPE_CHECKING:
    from landform.bundle.schema import Document, LossSpec

_LOSSES: dict[str, type[nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "smooth_l1": nn.SmoothL1Loss,
    "huber": nn.HuberLoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "multi_margin": nn.MultiMarginLoss,
    "poisson_nll": nn.PoissonNLLLoss,
    "gaussian_nll": nn.GaussianNLLLoss,
    "nll": nn.NLLLoss,
}
_SPLITS = ("train", "test", "all")


def fill_model(document: "Document", state: Mapping[str, Tensor], model: nn.Module | None) -> nn.Module:
    """Return a network that holds the saved tensors: rebuilt, or a copy of the one given.

    Raises:
        ArchitectureError: If it cannot be rebuilt and none was given, or the one given does not fit.
        BundleError: If the description and the tensors contradict each other.
    """
    saved = {name: spec.shape for name, spec in document.tensors.items()}
    form = document.architecture
    if model is None:
        if form.type == "class":
            raise unknown_class(form.qualified, {n: s for n, s in saved.items() if not document.tensors[n].buffer})
        network = rebuild(form.model_dump())
        lines = misfits(shapes(network), saved)
        if lines:
            raise BundleError(
                f"{layout.DOCUMENT} describes a network that does not fit its own tensors: {listing(lines)}"
            )
        network.load_state_dict(dict(state), assign=True)
        return network.eval()
    if not isinstance(model, nn.Module):
        raise ArchitectureError(f"model must be a torch.nn.Module, got {type(model).__name__}; build it first: MyNet()")
    _check_model(model, state, saved)
    network = copy.deepcopy(model)
    remove_hooks(network)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *persistent_buffers(network).items()]:
            tensor.copy_(state[name])
            tensor.grad = None
    return network.eval()


def _check_model(model: nn.Module, state: Mapping[str, Tensor], saved: Mapping[str, tuple[int, ...]]) -> None:
    kind = type(model).__name__
    lines = misfits(shapes(model), saved)
    if lines:
        raise ArchitectureError(f"{kind} does not fit the bundle: {listing(lines)}; build it as it was when saved")
    for name, tensor in [*model.named_parameters(), *persistent_buffers(model).items()]:
        if tensor.device.type != "cpu":
            raise ArchitectureError(f"'{name}' of {kind} is on {tensor.device}; build the network on the CPU")
        if tensor.dtype != state[name].dtype:
            to = "double" if state[name].dtype == torch.float64 else "float"
            raise ArchitectureError(
                f"'{name}' of {kind} has dtype {tensor.dtype}, saved was {state[name].dtype}; pass model.{to}()"
            )


def split_directions(
    moved: Mapping[str, Tensor], z: int, origin: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], ...]:
    """Return one mapping a coordinate from tensors named ``"<coordinate>/<parameter>"``.

    Raises:
        BundleError: If a name is of another form, or a tensor does not fit the parameter it moves.
    """
    directions: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(min(z, len(moved) + 1)))
    for key, tensor in moved.items():
        match = re.fullmatch(r"(0|[1-9][0-9]{0,8})/(.+)", key)
        if match is None or int(match[1]) >= z or match[2] not in origin:
            raise BundleError(
                f"{where} has a tensor {key!r}; wanted '<coordinate>/<parameter>', coordinate 0 … {z - 1} and a"
                f" parameter of {layout.ORIGIN}"
            )
        like = origin[match[2]]
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise BundleError(
                f"{where}: {key!r} is {tensor.dtype} {tuple(tensor.shape)}, the parameter {like.dtype}"
                f" {tuple(like.shape)}"
            )
        if int(match[1]) < len(directions):
            directions[int(match[1])][match[2]] = tensor
    empty = [i for i, part in enumerate(directions) if not part]
    if empty or len(directions) != z:
        raise BundleError(
            f"{where} has no tensor for coordinate {empty[0] if empty else len(directions)}; it has z = {z}"
        )
    return directions


def make_pattern(document: "Document", folder: Path) -> Pattern | SumPattern:
    """Read ``pattern.npy`` into a pattern.

    Raises:
        BundleError: If it is damaged, or is no pattern.
    """
    spec = document.pattern
    nodes = tuple(n + 1 for n in spec.resolution)
    if len(nodes) != document.z:
        raise BundleError(
            f"{folder / layout.DOCUMENT}: the pattern has {len(nodes)} axes and the subspace {document.z}"
        )
    grid = spec.kind == "grid"
    shape = (*nodes, *(() if spec.channels is None else (spec.channels,))) if grid else (sum(nodes),)
    values = torch.from_numpy(read_array(folder, layout.PATTERN, shape))
    try:
        if grid:
            return Pattern(values, name=spec.name, channels=spec.channels, source=spec.source)
        return SumPattern(
            tuple(part.clone() for part in torch.split(values, list(nodes))), name=spec.name, source=spec.source
        )
    except InputError as error:
        raise BundleError(f"{folder / layout.PATTERN} holds no pattern: {error}") from error


def make_responses(document: "Document", numbers: np.ndarray, loss: LossLike | None) -> tuple[AbstractResponse, ...]:
    """Rebuild one response a head from ``targets.npy``.

    Raises:
        BundleError: If the statistics are none of that loss.
        InputError: If a function of the user's is missing, is another one, or is given where the bundle needs none.
    """
    own = document.loss is not None and not document.loss.known
    own = own or any(r.name == "callable" for r in document.responses.distinct)
    name = document.loss.name if document.loss is not None else "a function"
    if own and loss is None:
        raise InputError(
            f"this bundle was made with a loss of your own ({name}), which no file holds; pass load(path, loss=…)"
        )
    if loss is not None and not own:
        raise InputError(f"the loss of this bundle ({name}) is rebuilt from the file; leave loss= out")
    made, start = [], 0
    for spec in document.responses.distinct:
        size = spec.shape[0] * spec.shape[1]
        matrix = np.array(numbers[start : start + size]).reshape(spec.shape)
        start += size
        config = {"name": spec.name, "outputs": spec.outputs, "options": spec.options}
        function = loss if spec.name == "callable" and not isinstance(loss, str) else None
        try:
            response = response_from_state(config, matrix, function)
        except (LandformError, TypeError, ValueError, KeyError, IndexError, RuntimeError, ArithmeticError) as error:
            raise BundleError(
                f"{layout.TARGETS} and {layout.DOCUMENT} do not make a response of {spec.name}: {error}"
            ) from error
        if function is not None and not abs(response.floor - spec.floor) <= 1e-9 * max(1.0, abs(spec.floor)):
            raise InputError(
                f"the loss given has floor {response.floor:.6g} on these targets, the saved one {spec.floor:.6g}; pass"
                " the function that the bundle was made with"
            )
        made.append(response)
    return tuple(made[number] for number in document.responses.heads)


def check_heads(
    document: "Document", network: nn.Module, responses: tuple[AbstractResponse, ...], pattern: Pattern | SumPattern
) -> None:
    """Compare network, responses and pattern: as many heads, outputs and channels, and stages enough for ψ.

    Raises:
        BundleError: If they do not fit each other.
        ArchitectureError: If the network has something that is not covered.
    """
    if document.meta.get("network", "").endswith("stream"):
        return
    if document.method != "constant":
        _check_beside(document, network, responses)
        return
    chain = read(network, output=document.meta.get("output"))
    outputs, sizes = [head.outputs for head in chain.heads], [r.n_outputs for r in responses]
    if outputs != sizes:
        raise BundleError(
            f"the network has heads of {outputs} outputs and the responses are for {sizes}; a file is of another bundle"
        )
    if (pattern.channels or 1) not in (1, len(sizes)):
        raise BundleError(f"the pattern has {pattern.channels} channels and the network {len(sizes)} heads")
    stage = document.spline_stage
    if stage is not None and not 0 <= stage < len(chain.rooms):
        raise BundleError(
            f"{layout.DOCUMENT} is corrupted: spline_stage is {stage}, the network has {len(chain.rooms)} stages"
        )


def _check_beside(document: "Document", network: nn.Module, responses: tuple[AbstractResponse, ...]) -> None:
    """Compare a trained network with the channels that are recorded as the pattern's.

    Raises:
        BundleError: If they do not fit.
    """
    from landform.imprint.beside import trunk_of

    trunk = trunk_of(read(network, document.meta.get("sample")))
    channels = document.meta.get("channels")
    widths = [layer.width for layer in trunk.hidden]
    if document.method == "per-sample":
        widths = widths[:-2]  # guards and 2C units are not the pattern's
    fits = isinstance(channels, list) and len(channels) == len(widths) and len(responses) == 1
    if not fits or not all(
        isinstance(part, list) and part and all(isinstance(c, int) and 0 <= c < width for c in part)
        for part, width in zip(channels or [], widths, strict=True)
    ):
        raise BundleError(
            f"{layout.DOCUMENT} is corrupted: its channels do not fit a network of hidden widths {widths}"
        )
    size = getattr(responses[0], "outputs", trunk.outputs)
    if size != trunk.outputs:
        raise BundleError(
            f"the network has {trunk.outputs} outputs and the response is for {size}; a file is of another bundle"
        )


def make_task(
    document: "Document", network: nn.Module, data: object, loss: LossLike | None, *, check_data: bool
) -> Task | None:
    """Return model, loss and data as a task, or None without data.

    Raises:
        BundleError: If the data are not those that the bundle was made for.
        InputError: If the bundle does not say which loss it was made with.
    """
    if data is None:
        return None
    from landform.data import load_data

    saved = document.data
    named = isinstance(data, (str, Path)) and saved is not None and saved.split in _SPLITS
    found = load_data(data, split=saved.split) if named and saved is not None else load_data(data)
    if check_data and saved is not None and found.hash != saved.hash:
        raise BundleError(
            f"these data ({found.name}, {found.split}, {found.n} samples) are not those of the bundle ({saved.name},"
            f" {saved.split}, {saved.samples} samples): SHA-256 {found.hash[:12]}… against {saved.hash[:12]}…; pass the"
            " same data, or measure on others with check_data=False"
        )
    if loss is None:
        if document.loss is None:
            raise InputError("the bundle does not say which loss it was made with; load it without data")
        loss = _known_loss(document.loss)
    return Task(network, loss, found, output=document.meta.get("output"), name=document.task)


def _known_loss(spec: "LossSpec") -> LossLike:
    """Return a loss by its name, with its options."""
    if spec.name in LOSS_NAMES and not spec.options:
        return spec.name
    try:
        options: dict[str, Any] = {
            key: torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value
            for key, value in spec.options.items()
        }
        return _LOSSES[spec.name](**options)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(
            f"{layout.DOCUMENT} is corrupted: there is no loss {spec.name} of options {spec.options}"
        ) from error
