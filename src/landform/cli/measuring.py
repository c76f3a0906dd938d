"""What ``landform scan`` measures: a bundle on its own plane, or the user's network on one that is built here."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from landform.cli.planes import PlaneOptions, build_plane, files, path_on
from landform.cli.terminal import Voice, table

if TYPE_CHECKING:
    import xarray

    from landform.data import Data
    from landform.imprint import Imprint
    from landform.task import Task

Options = Mapping[str, Any]


def measure_bundle(
    bundle: str, source: Options, given: Options, voice: Voice, progress: bool | None
) -> tuple["xarray.Dataset", Any]:
    """Measure a bundle's loss.

    Args:
        bundle: The folder.
        source: What was said about data, loss, model, grid and axes.
        given: Options of `landform.scan` that were set.
        voice: For progress.
        progress: Of `landform.scan`.

    Returns:
        The surface, and the certificate that belongs in its picture.

    Raises:
        DataError: Data that the bundle's network could not be given.
    """
    from landform.bundle import load
    from landform.cli.imprint import plane
    from landform.cli.sources import read_loss, read_model
    from landform.scan import scan

    with voice.step("reading"):
        network = None if source["model"] is None else read_model(source["model"])
        made = load(bundle, model=network, loss=None if source["loss"] is None else read_loss(source["loss"]))
        samples = _data(source["data"], source["split"])
    for part in samples.values() if isinstance(samples, dict) else [samples]:
        if part is not None:
            same_inputs(made, part)
    if made.reads_input and samples is not None:  # it is measured sample by sample, as a task, which has data
        some = next(iter(samples.values())) if isinstance(samples, dict) else samples
        made = load(
            bundle,
            model=network,
            loss=None if source["loss"] is None else read_loss(source["loss"]),
            data=some,
            check_data=False,
        )
    axes, nodes = source["axes"], source["grid"]
    varying = plane(made.z) if axes is None else tuple(axes)
    if axes is None and isinstance(nodes, tuple) and len(nodes) == made.z:
        varying = None
    surface = scan(made, grid=nodes, axes=varying, data=samples, progress=progress, **given)
    if samples is None:
        surface = named(surface, made)
    return surface, made.certificate if samples is None else None


def measure_own(factory: str, source: Options, given: Options, voice: Voice, progress: bool | None) -> "xarray.Dataset":
    """Measure the loss of the user's own network.

    Args:
        factory: ``module:factory``.
        source: What was said about the network, the data and the plane.
        given: Options of `landform.scan` that were set.
        voice: For progress.
        progress: Of `landform.scan`.

    Returns:
        The surface; ``plane`` among its attributes says where it was measured, ``path`` and ``off_plane`` where the
        checkpoints fall.
    """
    from landform.scan import scan

    task, data = _task(factory, source, voice)
    options, space, places = _where(task, source, voice)
    surface = scan(task, space, **places, data=data, progress=progress, **given)
    path = path_on(space, task, options) if space.z == 2 and source["axes"] is None else None
    notes: dict[str, Any] = {"plane": sentence(options, space)}
    if path is not None:
        notes |= {"path": path[0], "off_plane": path[1]}
    return surface.assign_attrs(notes)


def plan_own(factory: str, source: Options, given: Options, voice: Voice) -> tuple[dict[str, Any], str]:
    """Say what a scan would cost, without measuring it.

    Args:
        factory: ``module:factory``.
        source: What was said about the network, the data and the plane.
        given: Options of `landform.scan` that were set.
        voice: For progress.

    Returns:
        What ``--json`` prints, and the text.
    """
    from landform.scan.places import grid_places, task_grid
    from landform.scan.plan import plan_scan

    task, data = _task(factory, source, voice)
    options, space, places = _where(task, source, voice)
    tolerance = given.get("tolerance", 0.0)
    nodes = places["grid"] or task_grid(space.z, places["axes"], sampled=tolerance != 0)
    h = grid_places(space.z, nodes, ranges=places["ranges"], axes=places["axes"]).h
    with voice.step("probing"):
        told = {key: given[key] for key in ("engine", "batch_size") if key in given}
        chosen = plan_scan(task, space, h, **told)
    share = min(1.0, given["subset"] / task.n) if "subset" in given else 1.0
    result = {
        "plane": sentence(options, space),
        "points": len(h),
        "samples": task.n,
        "engine": chosen.engine,
        "reason": chosen.reason,
        "evaluations": len(h) * share,
        "seconds": chosen.seconds * share * (len(data) if data is not None else 1),
        "tile": chosen.tile,
        "memory": chosen.memory,
        "tolerance": tolerance,
    }
    sampled = "; with --tolerance a fraction of that, which only sampling finds out" if tolerance else ""
    rows = [
        ("plane", result["plane"]),
        (
            "points",
            f"{len(h):,}, each a pass over {task.n:,} samples" + (f", of which {share:.2g}" if share < 1 else ""),
        ),
        ("engine", f"{chosen.engine}: {chosen.reason}"),
        ("tiles", chosen.tiles),
        ("memory", chosen.needs),
        ("time", f"about {result['seconds']:.3g} s on one process{sampled}"),
    ]
    return result, table(rows) + "\nnothing was written: this was a dry run"


def sentence(options: PlaneOptions, space: Any) -> str:
    """Say in words where a scan looks.

    Example:
        >>> from landform.subspace import Subspace
        >>> sentence(PlaneOptions("random", seed=3), Subspace({}, ({}, {}), meta={"seed": 3, "norm": "filter"}))
        'random, 2 directions, seed 3, norm filter'
    """
    words = [options.plane, f"{space.z} direction{'s' * (space.z != 1)}"]
    words += [f"{key} {space.meta[key]}" for key in ("seed", "norm") if key in space.meta]
    if "barrier" in space.meta and not options.probe:
        words.append(f"barrier {space.meta['barrier']:.3g}, on the straight line {space.meta['barrier_of_line']:.3g}")
    for key, text in (("explained_variance", "explained variance"), ("eigenvalues", "eigenvalues")):
        if key in space.meta:
            words.append(f"{text} {' and '.join(f'{float(value):.3g}' for value in space.meta[key])}")
    return ", ".join(words)


def named(surface: "xarray.Dataset", made: "Imprint") -> "xarray.Dataset":
    """Say which data the stored label statistics come from."""
    from landform.cli.certify import stored

    name, count = stored(made, "name"), stored(made, "samples")
    if name is None:
        return surface
    data = f"{name} ({stored(made, 'split')})"
    title = f"{made.pattern.name} on {data}"
    return surface.assign(samples=surface["samples"] * 0 + count).assign_attrs(data=data, n_samples=count, title=title)


def same_inputs(made: "Imprint", samples: "Data") -> None:
    """Refuse data that the network could not be given, although its loss follows from their labels alone."""
    from landform.cli.certify import stored
    from landform.errors import DataError

    shape, own = stored(made, "sample_shape"), list(samples.inputs.shape[1:])
    if shape is not None and math.prod(shape) != math.prod(own):
        raise DataError(f"--data {samples.name} has inputs of shape {own}, the bundle's network takes {shape}")


def _data(source: str | None, split: str | None) -> Any:
    """Return the data, or train and test by name."""
    from landform.cli.sources import read_data

    if source is None:
        return None
    if split == "both":
        return {part: read_data(source, part) for part in ("train", "test")}
    return read_data(source, split)


def _task(factory: str, source: Options, voice: Voice) -> tuple["Task", Any]:
    """Return the task, and the data by name where there are several parts."""
    from landform.cli.sources import read_loss, read_model, resolve
    from landform.errors import InputError
    from landform.task import Task

    if source["data"] is None:
        raise InputError(
            "a network of your own needs data to be measured on: --data digits, set.npz or mymodule:loader"
        )
    with voice.step("reading"):
        model = read_model(factory, source["weights"], flag="MODULE:FACTORY")
        assert model is not None
        data = _data(source["data"], source["split"])
        several = data if isinstance(data, dict) else None
        loss = "cross_entropy" if source["loss"] is None else read_loss(source["loss"])
        metrics = [resolve(name, "--metrics") if ":" in name else name for name in source["metrics"] or ()]
        run = {key: source[key] for key in ("device", "batch_norm") if source[key] is not None}
        run |= {} if source["head"] is None else {"output": source["head"]}
        task = Task(model, loss, data["train"] if several else data, metrics=metrics, **run)
    return task, several


def _where(task: "Task", source: Options, voice: Voice) -> tuple[PlaneOptions, Any, dict[str, Any]]:
    """Return the plane, and where on it to measure."""
    options = PlaneOptions(
        plane=source["plane"] or ("pca" if source["checkpoints"] else "random"),
        checkpoints=tuple(source["checkpoints"] or ()),
        z=source["z"],
        seed=source["seed"],
        norm=source["norm"],
        include=tuple(source["include"] or ()),
        exclude=tuple(source["exclude"] or ()),
        biases=bool(source["biases"]),
        probe=bool(source["dry_run"]),
    )
    if options.checkpoints and source["batch_norm"] in (None, "frozen"):
        from landform.cli.statistics import settle_statistics
        from landform.subspace.select import module_of

        note = settle_statistics(
            module_of(task),
            files(options),
            weights=source["weights"],
            between=options.plane in ("between", "curve", "bezier"),
        )
        if note:
            voice.note(note)
    with voice.step("finding the plane"):
        space = build_plane(task, options)
    axes = None if source["axes"] is None else tuple(source["axes"])
    return options, space, {"grid": source["grid"], "axes": axes, "ranges": ranges(source["range"], space)}


def ranges(numbers: list[float] | None, space: Any) -> list[tuple[float, float]]:
    """Return the ends of every axis.

    Args:
        numbers: ``--range``: two, or two for each axis; None for the plane's own, around its
            checkpoints, else [−1, 1].
        space: The subspace.

    Returns:
        One (lo, hi) an axis.

    Raises:
        InputError: Another count of numbers.

    Example:
        >>> from landform.subspace import Subspace
        >>> ranges([-1.0, 1.0, 0.0, 2.0], Subspace({}, ({}, {})))
        [(-1.0, 1.0), (0.0, 2.0)]
    """
    from landform.errors import InputError

    if numbers is None:
        if space.ranges is not None:
            return [(float(lo), float(hi)) for lo, hi in space.ranges]
        return [(-1.0, 1.0)] * space.z
    if len(numbers) == 2:
        return [(numbers[0], numbers[1])] * space.z
    if len(numbers) == 2 * space.z:
        return list(zip(numbers[::2], numbers[1::2], strict=True))
    raise InputError(
        f"--range has {len(numbers)} numbers; wanted LO HI for all {space.z} axes, or LO HI for each ({2 * space.z})"
    )
