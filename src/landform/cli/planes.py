"""From ``--plane`` and its options to a subspace around the user's own network."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landform.task import Task

PLANES = ("random", "pca", "between", "curve", "bezier", "hessian", "gradient", "worst")
CURVE_POINTS = 41
"""Points of a curve that are drawn over its plane."""


@dataclass(frozen=True)
class PlaneOptions:
    """What was said about the plane; None leaves a default."""

    plane: str
    checkpoints: tuple[str, ...] = ()
    z: int | None = None
    seed: int | None = None
    norm: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    biases: bool = False
    probe: bool = False
    """Only to see what it costs: a curve is not trained."""


def build_plane(task: "Task", options: PlaneOptions) -> Any:
    """Build the subspace that ``--plane`` names.

    Args:
        task: The task, whose model is the origin.
        options: Of the command line.

    Returns:
        The subspace.

    Raises:
        UnknownNameError: An unknown plane, with the nearest.
        InputError: Checkpoints that are missing or too few, or an option that this plane does not have.
    """
    from landform.errors import unknown_name

    if options.plane not in PLANES and Path(options.plane).is_dir():
        return _saved(task, options)
    if options.plane not in PLANES:
        raise unknown_name("plane", options.plane, PLANES)
    return _BUILDERS[options.plane](task, options)


def path_on(plane: Any, task: "Task", options: PlaneOptions) -> tuple[list[list[float]], list[float]] | None:
    """Project the checkpoints on a plane, where there are some and it is not they that it goes through.

    Args:
        plane: The subspace.
        task: The task.
        options: Of the command line.

    Returns:
        Coordinates and distances from the plane of each checkpoint, or None.
    """
    if "coordinates" in plane.meta:
        return plane.meta["coordinates"], plane.meta["off_plane"]
    if not options.checkpoints or options.plane == "between":
        return None
    from landform.checkpoints import Trajectory
    from landform.subspace import project
    from landform.subspace.select import module_of

    found = project(plane, Trajectory.from_files(files(options), model=module_of(task)))
    return found.coordinates.tolist(), found.off_plane.tolist()


def files(options: PlaneOptions) -> list[Path]:
    """Return the checkpoint files: patterns expanded and sorted by the numbers in their names, names in their order.

    Raises:
        BundleError: A pattern or name that matches nothing.
    """
    import glob

    from landform.errors import BundleError

    found: list[Path] = []
    for word in options.checkpoints:
        matched = [word] if Path(word).exists() else sorted(glob.glob(word), key=_natural)  # noqa: PTH207 - absolute too
        if not matched:
            raise BundleError(f"--checkpoints {word}: no such file, and no file that fits the pattern")
        found += [Path(name) for name in matched]
    return found


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort step-9 before step-10."""
    import re

    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _random(task: "Task", options: PlaneOptions) -> Any:
    from landform.subspace import random_plane

    given = _chosen(options, ("z", "seed", "norm", "include", "exclude"))
    return random_plane(task, **given, biases=options.biases)


def _pca(task: "Task", options: PlaneOptions) -> Any:
    from landform.errors import InputError
    from landform.subspace import pca_plane

    _refuse(options, ("seed", "norm"))
    if not options.checkpoints:
        raise InputError("--plane pca is the plane of a trajectory; name its files: --checkpoints 'ckpt/*.pt'")
    return pca_plane(files(options), model=task, **_chosen(options, ("z", "include", "exclude")))


def _between(task: "Task", options: PlaneOptions) -> Any:
    from landform.cli.sources import read_weights
    from landform.errors import InputError
    from landform.subspace import between, plane_through
    from landform.subspace.select import module_of

    _refuse(options, ("z", "seed", "norm", "include", "exclude"))
    found = files(options)
    if len(found) not in (1, 2, 3):
        raise InputError(
            f"--plane between is the line through two checkpoints or the plane through three, --checkpoints names"
            f" {len(found)}; with one, the line goes from it to the network itself"
        )
    states: list[Any] = [read_weights(str(file), "--checkpoints") for file in found]
    if len(states) == 1:
        states.append(task.model)
    own = module_of(task)
    return between(*states, model=own) if len(states) == 2 else plane_through(*states, model=own)


def _curve(task: "Task", options: PlaneOptions) -> Any:
    from landform.cli.sources import read_weights
    from landform.errors import InputError
    from landform.subspace import bezier

    _refuse(options, ("z", "norm", "include", "exclude"))
    found = files(options)
    if len(found) not in (1, 2):
        raise InputError(
            f"--plane {options.plane} is a curve of low loss between two checkpoints, --checkpoints names {len(found)};"
            " with one, the curve goes from it to the network itself"
        )
    ends: list[Any] = [read_weights(str(file), "--checkpoints") for file in found]
    if len(ends) == 1:
        ends.append(task.model)
    cheap: dict[str, Any] = {"steps": 1, "points": 2} if options.probe else {}
    return bezier(task, ends[0], ends[-1], **cheap, **_chosen(options, ("seed",)))


def _bezier(task: "Task", options: PlaneOptions) -> Any:
    """Return the plane that the curve lies in, with the curve as a path on it."""
    import torch

    curve = _curve(task, options)
    along = curve.coordinates(torch.linspace(0, 1, CURVE_POINTS, dtype=torch.float64)[:, None])
    notes = {"coordinates": along.tolist(), "off_plane": [0.0] * len(along)}
    return curve.plane.replace(meta={**curve.meta, **notes})


def _saved(task: "Task", options: PlaneOptions) -> Any:
    from landform.subspace import load_subspace
    from landform.subspace.select import module_of

    _refuse(options, ("z", "seed", "norm", "include", "exclude"))
    return load_subspace(options.plane, model=module_of(task))


def _by_name(name: str) -> Callable[["Task", PlaneOptions], Any]:
    def build(task: "Task", options: PlaneOptions) -> Any:
        import landform.subspace as subspace

        function: Any = getattr(subspace, name)
        known = inspect.signature(function).parameters
        wanted = ("z", "seed", "norm", "include", "exclude")
        _refuse(options, tuple(key for key in wanted if key not in known))
        return function(task, **_chosen(options, tuple(key for key in wanted if key in known)))

    return build


_BUILDERS: dict[str, Callable[["Task", PlaneOptions], Any]] = {
    "random": _random,
    "pca": _pca,
    "between": _between,
    "curve": _curve,
    "bezier": _bezier,
    "hessian": _by_name("hessian_plane"),
    "gradient": _by_name("gradient_line"),
    "worst": _by_name("worst_direction"),
}


def _chosen(options: PlaneOptions, names: Sequence[str]) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in names}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value not in (None, ())
    }


def _refuse(options: PlaneOptions, names: Sequence[str]) -> None:
    from landform.errors import InputError

    for name in names:
        if getattr(options, name) not in (None, ()):
            raise InputError(f"--{name} does not belong to --plane {options.plane}; leave it out")
