"""``landform scan``: measure a bundle's loss on a grid."""

import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from landform.cli.options import DATA_GROUP, DATA_HELP, OUTPUT_GROUP, Bundle, Json, OwnLoss, OwnModel, Quiet, Split
from landform.cli.terminal import Voice, say, say_json, table

if TYPE_CHECKING:
    import xarray

    from landform.data import Data
    from landform.imprint import Imprint

_WHERE = Group("Where to look", sort_key=1)

SCAN_EPILOGUE = """\
Example:
  landform scan demo.landform                     at the nodes of the pattern
  landform scan demo.landform --grid 129 -o fine.nc
  landform scan demo.landform --data digits --split test   on other data
  landform scan demo.landform -o demo.csv --no-picture

The format follows the name: a .zarr folder (the default), .nc (NetCDF 3), .csv (a row a point), or .png for the \
picture alone. The picture lies beside the surface, under the same name.

--json prints surface, picture, evaluations, samples, seconds, interval (half the width of the widest 95 % interval; \
0 for an exact scan), loss (least and greatest), difference (largest |measured - promised|), unit, data, grid and \
transfer.

Exit codes: 0 done, 2 an error (nothing was written), 130 interrupted (likewise)."""

SUFFIXES = (".zarr", ".nc", ".csv", ".png")


def scan(
    bundle: Bundle,
    /,
    *,
    grid: Annotated[
        list[int] | None,
        Parameter(
            negative="",
            group=_WHERE,
            metavar="N [N…]",
            help="Nodes an axis, one number or one for each; the pattern's own nodes by default.",
        ),
    ] = None,
    axes: Annotated[
        list[int] | None,
        Parameter(
            negative="",
            group=_WHERE,
            metavar="I [J…]",
            help="Coordinates that vary, the others stay in the middle; 1 2 by default above two.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        Parameter(
            group=DATA_GROUP,
            metavar="NAME|PATH|MODULE:LOADER",
            help=f"Measure on these data; by default those whose label statistics are in the bundle. {DATA_HELP}",
        ),
    ] = None,
    split: Split = None,
    loss: OwnLoss = None,
    model: OwnModel = None,
    output: Annotated[
        str | None,
        Parameter(
            name=["--output", "-o"],
            group=OUTPUT_GROUP,
            metavar="FILE",
            help=".zarr, .nc, .csv or .png; <bundle>.surface.zarr by default.",
        ),
    ] = None,
    picture: Annotated[
        bool, Parameter(negative="--no-picture", show_default=False, group=OUTPUT_GROUP, help="Draw it too (default).")
    ] = True,
    force: Annotated[
        bool, Parameter(negative="", show_default=False, group=OUTPUT_GROUP, help="Write over files that exist.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure a bundle's loss on a grid and draw it.

    The loss is measured exactly, over all samples. On other data than the bundle's own, the surface is compared with
    what their labels alone predict.
    """
    begin = time.perf_counter()
    voice = Voice(quiet=quiet)
    from landform.bundle import load
    from landform.cli.imprint import plane
    from landform.cli.sources import read_data, read_loss, read_model
    from landform.errors import InputError
    from landform.scan import scan as measure

    surface_path, picture_path = targets(bundle, output, picture=picture, force=force)
    if split is not None and data is None:
        raise InputError("--split chooses a part of --data; name the data too")
    with voice.step("reading"):
        network = None if model is None else read_model(model)
        made = load(bundle, model=network, loss=None if loss is None else read_loss(loss))
        samples = None if data is None else read_data(data, split)
    if samples is not None:
        same_inputs(made, samples)
    varying = plane(made.z) if axes is None else tuple(axes)
    nodes = None if not grid else grid[0] if len(grid) == 1 else tuple(grid)
    if axes is None and isinstance(nodes, tuple) and len(nodes) == made.z:
        varying = None
    progress = None if voice.animated else False
    surface = measure(made, grid=nodes, axes=varying, data=samples, progress=progress)
    if not surface.attrs["complete"]:
        raise KeyboardInterrupt
    if samples is None:
        surface = named(surface, made)
    with voice.step("writing"):
        write(surface, surface_path, picture_path, made.certificate if samples is None else None)
    result = report(surface, surface_path, picture_path, time.perf_counter() - begin)
    if json:
        say_json(result)
    else:
        say(summary(result))
    return 0


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


def targets(bundle: str, output: str | None, *, picture: bool, force: bool) -> tuple[Path | None, Path | None]:
    """Return where surface and picture go, and refuse early what would be refused after the work."""
    from landform.errors import BundleError, InputError, unknown_name

    surface = Path(f"{Path(bundle).resolve().stem}.surface.zarr" if output is None else output)
    if surface.suffix.lower() not in SUFFIXES:
        raise unknown_name("suffix of --output", surface.suffix or surface.name, SUFFIXES)
    drawn = surface.with_suffix(".png") if picture else None
    if surface.suffix.lower() == ".png":
        if not picture:
            raise InputError("-o names a picture, and --no-picture forbids it; leave one out")
        found: tuple[Path | None, Path | None] = None, surface
    else:
        found = surface, drawn
    for path in found:
        if path is not None and path.exists() and not force:
            raise BundleError(f"{path} exists; pass --force to write over it, or -o FILE to write elsewhere")
        if path is not None and path.is_dir() and not (path / "zarr.json").is_file():
            raise BundleError(f"{path} is a folder that no scan wrote; name another output")
        if path is not None and not path.parent.is_dir():
            raise BundleError(f"{path.parent} is no folder; make it first")
    return found


def write(surface: "xarray.Dataset", surface_path: Path | None, picture_path: Path | None, certificate: Any) -> None:
    """Write both to a temporary folder beside their places, then move them there."""
    first = surface_path or picture_path
    assert first is not None
    with tempfile.TemporaryDirectory(prefix=".landform-", dir=first.parent) as folder:
        moves = []
        for number, path in enumerate((surface_path, picture_path)):
            if path is None:
                continue
            draft = Path(folder) / f"{number}{path.suffix.lower()}"
            if number == 0:
                store(surface, draft)
            else:
                from landform.view import picture

                picture(surface, draft, certificate=certificate)
            moves.append((draft, path))
        for draft, path in moves:
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(draft, path)  # noqa: PTH105 - atomic, over an existing file too


def store(surface: "xarray.Dataset", path: Path) -> None:
    """Write a surface in the format that its name says."""
    import numpy as np

    if path.suffix == ".csv":
        surface.to_dataframe().to_csv(path)
    elif path.suffix == ".nc":
        # NetCDF 3 knows no 64-bit integers, truth values or nested attributes
        flat = surface.assign(samples=surface["samples"].astype(np.int32))
        flat.attrs = {name: flattened(value) for name, value in surface.attrs.items()}
        flat.to_netcdf(path, engine="scipy")
    else:
        surface.to_zarr(path, mode="w", consolidated=False)


def flattened(value: Any) -> str | int | float:
    """Return an attribute as a number or text."""
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else str(value)


def report(surface: "xarray.Dataset", path: Path | None, picture: Path | None, seconds: float) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    attrs = surface.attrs
    return {
        "surface": None if path is None else str(path),
        "picture": None if picture is None else str(picture),
        "evaluations": int(attrs["evaluations"]),
        "samples": int(attrs["n_samples"]),
        "seconds": seconds,
        "interval": 1.96 * float(surface["loss_stderr"].max()),
        "loss": [float(surface["loss"].min()), float(surface["loss"].max())],
        "difference": float(abs(surface["difference"]).max()) if "difference" in surface else None,
        "unit": attrs["unit"],
        "data": attrs["data"],
        "grid": list(surface["samples"].shape),
        "transfer": attrs.get("transfer"),
    }


def summary(result: dict[str, Any]) -> str:
    """Return the text that a run ends with."""
    lo, hi = result["loss"]
    on = f" on {result['data']}, {result['samples']:,} samples" if result["data"] else ""
    return table(
        [
            ("loss", f"from {lo:.4g} to {hi:.4g} {result['unit']} at {result['evaluations']:,} points{on}"),
            ("transfer", result["transfer"]),
            (
                "difference",
                None
                if result["difference"] is None
                else f"at most {result['difference']:.2e} {result['unit']} from what was promised",
            ),
            ("surface", result["surface"]),
            ("picture", result["picture"]),
        ]
    )
