"""What ``landform scan`` writes and says when it is done: a surface, a picture, one JSON object or a table."""

import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landform.cli.terminal import table
from landform.errors import OutputError

if TYPE_CHECKING:
    import xarray

SUFFIXES = (".zarr", ".nc", ".csv", ".png", ".html")


def targets(name: str, output: str | None, *, picture: bool, force: bool) -> tuple[Path | None, Path | None]:
    """Return where surface and picture go, and refuse early what would be refused after the work.

    Args:
        name: What is scanned; the default is named after it.
        output: ``--output``.
        picture: Whether a picture is wanted.
        force: Whether files that exist may be replaced.

    Returns:
        Two paths, None for what is not written.

    Raises:
        UnknownNameError: A suffix that is none of `SUFFIXES`.
        InputError: A picture alone, but none wanted.
        BundleError: A file that exists, or a folder that does not.
    """
    from landform.errors import BundleError, InputError, unknown_name

    surface = Path(f"{name}.surface.zarr" if output is None else output)
    suffix = surface.suffix.lower()
    if suffix not in SUFFIXES:
        raise unknown_name("suffix of --output", surface.suffix or surface.name, SUFFIXES)
    drawn = surface.with_suffix(".png") if picture else None
    if suffix in (".png", ".html"):
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
    """Write each to a temporary folder beside its place, then move it there; what was measured is not lost.

    Args:
        surface: The surface.
        surface_path: Where it goes; None for nowhere.
        picture_path: Where its picture goes; None for nowhere.
        certificate: What is promised, for the picture.

    Raises:
        OutputError: A file that cannot be written. The message says where the surface is: at its place, if only the
            picture is missing, else among the system's temporary files, if there is room.
    """
    try:
        if surface_path is not None:
            _place(surface_path, lambda draft: store(surface, draft))
    except OSError as error:
        raise _rescued(surface, surface_path, error) from error
    try:
        if picture_path is not None:
            _place(picture_path, lambda draft: draw(surface, draft, certificate))
    except OSError as error:
        if surface_path is None:
            raise _rescued(surface, picture_path, error) from error
        raise OutputError(f"cannot write {picture_path}: {_reason(error)}; the surface is in {surface_path}") from error


def _place(path: Path, make: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix=".landform-", dir=path.parent, ignore_cleanup_errors=True) as folder:
        draft = Path(folder) / f"surface{path.suffix.lower()}"
        make(draft)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(draft, path)  # noqa: PTH105 - atomic, over an existing file too


def _rescued(surface: "xarray.Dataset", path: Path | None, error: OSError) -> OutputError:
    """Write the surface among temporary files, and return the error that says so."""
    assert path is not None
    said = f"cannot write {path}: {_reason(error)}"
    name = path.name if path.suffix.lower() not in (".png", ".html") else path.with_suffix(".zarr").name
    try:
        kept = Path(tempfile.mkdtemp(prefix="landform-")) / name
        store(surface, kept)
    except OSError:
        return OutputError(f"{said}; nor is there room for what was measured in {tempfile.gettempdir()}: it is lost")
    return OutputError(f"{said}; what was measured is in {kept}, move it to where there is room")


def _reason(error: OSError) -> str:
    """Return what an error of the system says, whoever reported it.

    Example:
        >>> _reason(OSError(28, "No space left on device")), _reason(OSError("cannot write a.nc: read-only"))
        ('No space left on device', 'read-only')
    """
    return error.strerror or re.sub(r"^cannot write [^:]*: ", "", str(error))


def store(surface: "xarray.Dataset", path: Path) -> None:
    """Write a surface in the format that its name says."""
    from landform.view import to_csv, to_netcdf

    if path.suffix == ".csv":
        to_csv(surface, path)
    elif path.suffix == ".nc":
        to_netcdf(surface, path)
    else:
        import warnings

        # without it, xarray warns every reader; with it, zarr warns the writer that this part of its format is new
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            surface.to_zarr(path, mode="w", consolidated=True)


def draw(surface: "xarray.Dataset", path: Path, certificate: Any) -> None:
    """Draw a surface; losses over more than two orders of magnitude get a logarithmic scale, where none is promised."""
    from landform.view import interactive, picture

    if path.suffix == ".html":
        interactive(surface, path, log=wide(surface), path=_path(surface))
    else:
        picture(surface, path, certificate=certificate, log=wide(surface), trajectory=_path(surface))


def wide(surface: "xarray.Dataset") -> bool:
    """Return whether the finite losses span more than two orders of magnitude."""
    import numpy as np

    values = surface["loss"].values
    finite = values[np.isfinite(values)]
    return "target" not in surface and bool(finite.size) and 0 < 100 * float(finite.min()) < float(finite.max())


def _path(surface: "xarray.Dataset") -> Any:
    path, off = surface.attrs.get("path"), surface.attrs.get("off_plane")
    return None if path is None else (path, off) if off is not None else path


def report(surface: "xarray.Dataset", path: Path | None, picture: Path | None, seconds: float) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    attrs = surface.attrs
    return {
        "surface": None if path is None else str(path),
        "picture": None if picture is None else str(picture),
        "evaluations": attrs["evaluations"],
        "sample_evaluations": attrs.get("sample_evaluations"),
        "samples": attrs["n_samples"],
        "seconds": seconds,
        "interval": interval(surface),
        "confidence": attrs.get("confidence"),
        "reached": _reached(attrs.get("tolerance_reached")),
        "between": _between(attrs),
        "complete": bool(attrs["complete"]) if not isinstance(attrs["complete"], dict) else False,
        "loss": [float(surface["loss"].min()), float(surface["loss"].max())],
        "difference": float(abs(surface["difference"]).max()) if "difference" in surface else None,
        "unit": attrs["unit"],
        "data": attrs["data"],
        "grid": [surface.sizes[name] for name in surface["samples"].dims if name != "split"],
        "plane": attrs.get("plane"),
        "transfer": attrs.get("transfer"),
    }


def _between(attrs: Mapping[str, Any]) -> dict[str, float] | None:
    """Return what is known of the error between nodes, of that head and part of the data where least is promised.

    An estimate, and what random points show that were measured in full: how many there are, how many lie beyond the
    tolerance, the largest difference, and in what part of the volume there may be others.
    """
    from landform.scan.notices import loss_heads

    parts = next((list(value) for key, value in attrs.items() if key == "data" and isinstance(value, dict)), [None])
    keys = ("truncation", "check_points", "check_outside", "check_largest", "volume_beyond")
    found = []
    for part in parts:
        notes = {key: value.get(part) if isinstance(value, dict) else value for key, value in attrs.items()}
        found += [{key: head[key] for key in keys} for head in loss_heads(notes) if head.get("check_points")]
    return max(found, key=lambda one: (one["volume_beyond"], one["check_largest"]), default=None)


def _reached(value: Any) -> bool | None:
    """Return whether every part of the data is known to the tolerance; None where none was asked for."""
    return all(value.values()) if isinstance(value, dict) else value


def interval(surface: "xarray.Dataset") -> float:
    """Return half the width of the widest interval; 0 where every value is a mean over all samples.

    Example:
        >>> import xarray as xr
        >>> ends = {"loss": ("h1", [1.0]), "loss_lower": ("h1", [0.5]), "loss_upper": ("h1", [1.5])}
        >>> interval(xr.Dataset(ends))
        0.5
    """
    if "loss_lower" in surface and "loss_upper" in surface:
        return float((surface["loss_upper"] - surface["loss_lower"]).max()) / 2
    return math.nan


def summary(result: dict[str, Any]) -> str:
    """Return the text that a run ends with."""
    lo, hi = result["loss"]
    cost = f"{_rounded(result['evaluations'])} evaluations of all samples"
    on = f" on {_words(result['data'])}, {_words(result['samples'])} samples" if result["data"] else ""
    half, sure = result["interval"], result["confidence"]
    known = None
    if half > 0:
        known = f"±{half:.2g} {result['unit']} at most" + (
            f", at all nodes at once with {100 * sure:g} %" if sure else ""
        )
    return table(
        [
            ("loss", f"from {lo:.4g} to {hi:.4g} {result['unit']} at {math.prod(result['grid']):,} points{on}"),
            ("interval", known),
            ("between", None if result["between"] is None else _nodes_apart(result["between"], result["unit"], sure)),
            ("cost", None if half == 0 else cost),
            ("plane", result["plane"]),
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


def _nodes_apart(known: Mapping[str, float], unit: str, sure: float) -> str:
    """Say how far off a value between nodes may be, which no interval covers.

    Example:
        >>> known = {"truncation": 0.25, "check_points": 20, "check_outside": 0, "check_largest": 0.125}
        >>> print(_nodes_apart(known | {"volume_beyond": 0.206}, "nat", 0.99))
        nodes, off by an estimated 0.25 nat; by at most 0.12 nat at 20 random points
        0 of them beyond the tolerance; with 99 % at most 20.6 % of the volume is
    """
    estimate = f"an estimated {known['truncation']:.2g} {unit}; by " if math.isfinite(known["truncation"]) else ""
    largest, points = f"{known['check_largest']:.2g} {unit}", known["check_points"]
    volume = f"with {100 * sure:g} % at most {100 * known['volume_beyond']:.3g} % of the volume is"
    return (
        f"nodes, off by {estimate}at most {largest} at {points} random points\n"
        f"{known['check_outside']} of them beyond the tolerance; {volume}"
    )


def _rounded(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_rounded(part)}" for name, part in value.items())
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_words(part)}" for part in value.values())
    return f"{value:,}" if isinstance(value, int) else str(value)
