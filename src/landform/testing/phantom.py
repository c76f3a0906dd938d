"""`phantom`: networks whose loss surface is known in closed form, to test instruments on.

In medical imaging a phantom is a body of known content that a scanner is tried on. Here it is a network on real data,
whose loss along z weight-space directions is a bowl, a saddle, a cliff, …: whatever reads a loss surface should read
that, and how far it is off is the instrument's error, since the phantom's own is bounded.
"""

import contextlib
import difflib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from landform.data import load_data
from landform.errors import InputError, LandformError, unknown_name
from landform.imprint import Imprint
from landform.imprint.make import imprint
from landform.mesh import Mesh
from landform.pattern import Pattern
from landform.response import respond
from landform.subspace import Subspace
from landform.task import Task
from landform.testing.phantoms.shapes import SHAPES, Critical, Shape
from landform.testing.phantoms.smooth import quadratic

CELLS = {1: 64, 2: 32, 3: 8, 4: 4}
"""Default cells an axis: powers of two, at which nodes and their heights are exact in floating point."""
MARGIN = 0.05
EPSILON = 1e-5
"""Error of the response curve, as a fraction of the range: well below what instruments are expected to reach."""


@dataclass(frozen=True, eq=False, repr=False)
class Phantom:
    """A network with a known surface.

    Attributes:
        name: Which shape.
        model: The network, at the origin of the subspace.
        task: Model, loss and data.
        subspace: ``subspace.at(h)`` are the parameters at h ∈ [0, 1]^z.
        critical: Critical points, heights in loss units.
        bound: sup over the box of |loss − true|, in loss units.
        kind: ``"certified"``: the bound is proved.
        smooth: Whether the loss is quadratic in h; else it is affine on the cells of a Kuhn mesh.
        cells: Cells an axis of that mesh.
        parameters: What the shape was asked for.
        imprint: For a sampled phantom, the imprint (it can be saved and certified again); None for a smooth one.
    """

    name: str
    model: nn.Module
    task: Task
    subspace: Subspace
    critical: tuple[Critical, ...]
    bound: float
    kind: str
    smooth: bool
    cells: tuple[int, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    imprint: Imprint | None = None
    _true: Any = None
    _formula: Any = None
    _hessian: Any = None

    @property
    def z(self) -> int:
        """Number of coordinates."""
        return self.subspace.z

    def true(self, h: Float64[Tensor, "points z"]) -> Float64[Tensor, " points"]:
        """Return the loss at h as it is: within `bound` of what the network has, everywhere in the box.

        Args:
            h: Points of [0, 1]^z, shape ``[points, z]``.

        Returns:
            Losses, in loss units.

        Raises:
            InputError: Points of another shape, or outside the box.
        """
        if h.ndim != 2 or h.shape[1] != self.z or bool(((h < 0) | (h > 1)).any()):
            raise InputError(f"points of this phantom have shape [points, {self.z}] and lie in [0, 1], got {h.shape}")
        found: Tensor = self._true(h.double())
        return found

    def formula(self, h: Float64[Tensor, "points z"]) -> Float64[Tensor, " points"]:
        """Return the closed form that was sampled: equal to `true` at the nodes, and smooth between them.

        Args:
            h: Points, shape ``[points, z]``.

        Returns:
            Losses, in loss units. A noise phantom has no other form than its samples.
        """
        found: Tensor = self.true(h) if self._formula is None else self._formula(h.double())
        return found

    def hessian(self) -> Float64[Tensor, "z z"]:
        """Return the second derivatives of the loss over h, the same at every point of a smooth phantom.

        Raises:
            InputError: If the phantom is sampled: its loss is affine in every cell, where the Hessian is 0, and the
                curvature lies in the kinks. ``phantom(name, smooth=True)`` has one, for bowl, ravine, saddle, constant.
        """
        if self._hessian is None:
            raise InputError(
                f"a sampled {self.name} is affine in every cell, so its Hessian is 0 wherever it exists; second"
                " differences over whole cells are those of .formula. For derivatives: phantom(…, smooth=True)"
            )
        found: Tensor = self._hessian
        return found

    def __repr__(self) -> str:
        """Say what it is in one line."""
        form = "smooth" if self.smooth else " × ".join(map(str, self.cells)) + " cells"
        return f"Phantom({self.name!r}, {form}, {len(self.critical)} critical, {self.kind} {self.bound:.1e})"


def phantom(
    name: str,
    *,
    data: object = "digits",
    loss: Any = "cross_entropy",
    model: nn.Module | None = None,
    z: int = 2,
    resolution: int | None = None,
    base: float | None = None,
    dtype: torch.dtype = torch.float32,
    smooth: bool = False,
    **parameters: Any,
) -> Phantom:
    """Make a network whose loss surface is known.

    Args:
        name: ``"bowl"`` (``curvatures``, ``centre``), ``"ravine"`` (``curvature``, ``condition``, ``angle``),
            ``"minima"`` (``positions``, ``depths``, ``curvature``, ``rim``), ``"saddle"`` (``index``, ``curvature``),
            ``"plateau"`` (``radius``, ``slope``), ``"ring"`` (``radius``, ``curvature``), ``"step"`` (``at``,
            ``height``), ``"noise"`` (``slope`` of the spectrum, ``amplitude``, ``seed``), ``"constant"``.
        data: Anything that `landform.data.load_data` takes; handwritten digits by default, since they are always there.
        loss: As `Task` takes it. A smooth phantom has its own, mean squared error.
        model: A network to write into; None builds an MLP that fits.
        z: Number of directions, 1 to 4.
        resolution: Cells an axis; 64 for z = 1, 32 for 2, 8 for 3, 4 for 4. Powers of two keep nodes exact.
        base: Loss at the shape's zero; 0.05 above the least that a constant output can have, by default.
        dtype: Of a network that is built.
        smooth: Make the loss quadratic in h instead of affine in cells, so that derivatives can be tested. For bowl,
            ravine, saddle and constant.
        **parameters: The shape's own, as above; places must be nodes, heights are in loss units.

    Returns:
        The phantom.

    Raises:
        UnknownNameError: Another name.
        InputError: A parameter that the shape lacks, or that is out of range.
        CapacityError: If the model does not hold the pattern.

    Cost:
        Half a second, most of it for the proof.

    Example:
        >>> bowl = phantom("bowl", resolution=8, curvatures=(4.0, 16.0))
        >>> bowl.critical[0].h, bowl.critical[0].curvature, bowl.kind
        ((0.5, 0.5), (4.0, 16.0), 'certified')
        >>> phantom("bowl", smooth=True, curvatures=(4.0, 16.0)).hessian().round(decimals=5).tolist()
        [[4.0, 0.0], [0.0, 16.0]]
    """
    if name not in SHAPES:
        raise unknown_name("phantom", str(name), tuple(SHAPES))
    if z not in CELLS:
        raise InputError(f"a phantom has z = 1, 2, 3 or 4, got {z}")
    cells = (CELLS[z] if resolution is None else int(resolution),) * z
    if cells[0] < 2:
        raise InputError(f"resolution must be at least 2 cells, got {cells[0]}")
    shape = _shaped(name, cells, parameters)
    if smooth:
        return _smooth(name, shape, cells, data, dtype, parameters, model, base)
    return _sampled(name, shape, cells, data, loss, model, base, dtype, parameters)


def _shaped(name: str, cells: tuple[int, ...], parameters: Mapping[str, Any]) -> Shape:
    """Make the shape, and name a parameter that it lacks or cannot read."""
    known = list(inspect.signature(SHAPES[name]).parameters)[1:]
    for key in parameters:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f": did you mean '{near[0]}'? It has:" if near else "; it has:"
            raise InputError(f"a {name} has no parameter '{key}'{hint} {', '.join(known) or 'none'}")
    try:
        return SHAPES[name](cells, **parameters)
    except LandformError:
        raise
    except (TypeError, ValueError, OverflowError) as error:  # float("a"), tuple(3), …
        given = ", ".join(f"{key} = {value!r}" for key, value in parameters.items())
        raise InputError(f"a {name} cannot be made with {given}: {error}") from error


def _sampled(
    name: str,
    shape: Shape,
    cells: tuple[int, ...],
    data: object,
    loss: Any,
    model: nn.Module | None,
    base: float | None,
    dtype: torch.dtype,
    parameters: Mapping[str, Any],
) -> Phantom:
    mesh = Mesh(cells)
    nodal = shape.nodal if shape.nodal is not None else None
    if nodal is None:
        assert shape.formula is not None
        nodal = shape.formula(mesh.nodes()).reshape(mesh.shape)
    found = int(strict_minima(nodal).sum())
    if shape.minima is not None and found != shape.minima:
        raise InputError(
            f"sampled on {cells[0]} cells an axis this {name} has {found} local minima instead of {shape.minima}: a"
            " valley that is narrow and oblique to the mesh falls into pieces. Choose an angle of 0, 45 or 90 degrees,"
            " a smaller condition, or smooth=True"
        )
    samples = load_data(data)
    height = float(nodal.max())
    values = nodal / height if height else nodal
    pattern = Pattern(values, name=f"phantom:{name}", source={"kind": "phantom", "name": name})
    response = respond(loss, samples.targets, outputs=None, weights=samples.weights)
    lo = response.lowest + MARGIN if base is None else float(base)
    bounds = (lo, lo + (height or 1.0))
    if model is None:
        with _default_dtype(dtype):
            made = imprint(pattern, samples, loss=loss, range=bounds, epsilon=EPSILON)
    else:
        made = imprint(pattern, Task(model, loss, samples), range=bounds, epsilon=EPSILON)
    critical = tuple(point.raised(lo) for point in shape.critical)
    record = {"name": name, "base": lo, "parameters": dict(parameters), "critical": [vars(c) for c in critical]}
    made = replace(made, meta={**made.meta, "phantom": record})
    proof = made.certificate
    assert proof is not None
    assert made.task is not None
    above = shape.formula
    return Phantom(
        name=name,
        model=made.model,
        task=made.task,
        subspace=made.subspace.replace(ranges=[(0.0, 1.0)] * made.z),
        critical=critical,
        bound=proof.bound,
        kind=proof.kind,
        smooth=False,
        cells=cells,
        parameters=dict(parameters),
        imprint=made,
        _true=made.target,
        _formula=None if above is None else lambda h: lo + above(h),
    )


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build networks in a dtype, and leave torch's default as it was."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _smooth(
    name: str,
    shape: Shape,
    cells: tuple[int, ...],
    data: object,
    dtype: torch.dtype,
    parameters: Mapping[str, Any],
    model: nn.Module | None,
    base: float | None,
) -> Phantom:
    if shape.hessian is None:
        raise InputError(
            f"smooth=True makes a loss that is quadratic in h, which a {name} is not; bowl, ravine,"
            " saddle and constant are"
        )
    if model is not None or base is not None:
        raise InputError("a smooth phantom has a network and a floor of its own; leave model= and base= out")
    made = quadratic(load_data(data), shape.hessian, shape.centre, dtype=dtype)
    at = torch.tensor([shape.centre], dtype=torch.float64)
    height = float(made.true(at))
    critical = tuple(replace(point, height=height) for point in shape.critical)
    assert isinstance(made.task.model, nn.Module)
    return Phantom(
        name=name,
        model=made.task.model,
        task=made.task,
        subspace=made.subspace,
        critical=critical,
        bound=made.bound,
        kind="certified",
        smooth=True,
        cells=cells,
        parameters=dict(parameters),
        _true=made.true,
        _formula=made.true,
        _hessian=made.hessian,
    )


def strict_minima(nodal: Float64[Tensor, "..."]) -> Tensor:
    """Say of each node whether it lies below all its neighbours on the Kuhn mesh.

    Args:
        nodal: Nodal values, one dim an axis.

    Returns:
        A mask of the same shape: the strict local minima of the P1 function.

    Example:
        >>> strict_minima(torch.tensor([1.0, 0.0, 2.0, 1.0]).double()).tolist()
        [False, True, False, True]
    """
    cells = tuple(n - 1 for n in nodal.shape)
    edges = Mesh(cells).edges()
    flat = nodal.reshape(-1)
    out = torch.ones_like(flat, dtype=torch.bool)
    left, right = edges.T
    out[left[flat[left] >= flat[right]]] = False
    out[right[flat[right] >= flat[left]]] = False
    return out.reshape(nodal.shape)
