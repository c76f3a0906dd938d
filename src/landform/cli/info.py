"""``landform info``: what there is to choose from, or what a bundle holds."""

import os
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from landform.cli.options import Json
from landform.cli.terminal import say, say_json, table

INFO_EPILOGUE = """\
Example:
  landform info
  landform info demo.landform
  landform info --json | jq -r '.formulas | keys[]'

--json prints versions, patterns, formulas, losses, models, data and folders; with a bundle, what its imprint.json \
says, certificate, parameters and the sizes of its files.

Exit codes: 0 done, 2 an error (no such bundle, …)."""

PACKAGES = ("landform", "torch", "numpy", "scipy", "xarray", "zarr", "matplotlib", "scikit-learn")

PATTERNS = {
    "FILE": "an image: PNG, JPEG, WebP, GIF, BMP, TIFF",
    "FILE.npy": "nodal values, value[i1, …, iz] is T(i/N)",
    "text:WORDS": r"text; \n starts a new line",
    "qr:TEXT": "a QR code",
    "formula:NAME": "a formula, see below",
    "demo": "a photograph that comes with landform",
}
"""What PATTERN may be."""

DATA = {
    "digits": "8×8 images, 10 classes (scikit-learn)",
    "wine": "13 measurements, 3 classes (scikit-learn)",
    "breast_cancer": "30 measurements, 2 classes (scikit-learn)",
    "diabetes": "10 measurements, a regression (scikit-learn)",
    "fashion-mnist": "28×28 images, 10 classes",
    "mnist": "28×28 images, 10 classes",
}
"""One line on each data set."""


def version() -> str:
    """Return the installed version of landform."""
    return installed("landform") or "unknown (run from a source tree)"


def installed(package: str) -> str | None:
    """Return a package's version without importing it."""
    try:
        return version_of(package)
    except PackageNotFoundError:
        return None


def info(
    bundle: Annotated[
        str | None,
        Parameter(help="A folder that 'landform imprint' wrote; without one: what there is to choose from."),
    ] = None,
    /,
    *,
    json: Json = False,
) -> int:
    """List patterns, formulas, losses, data sets and versions, or say what a bundle holds."""
    result = about() if bundle is None else about_bundle(Path(bundle))
    if json:
        say_json(result)
    else:
        say(listing(result) if bundle is None else bundle_listing(result))
    return 0


def about() -> dict[str, Any]:
    """Return everything that can be named on the command line."""
    from landform.data import NAMES
    from landform.losses import LOSS_NAMES
    from landform.pattern import formulas

    return {
        "versions": {"python": platform.python_version()} | {name: installed(name) for name in PACKAGES},
        "patterns": PATTERNS,
        "formulas": formulas(),
        "losses": list(LOSS_NAMES),
        "models": {"fit": "an MLP just large enough", "module:factory": "your own network"},
        "data": {name: DATA.get(name, "") for name in NAMES},
        "folders": {name: found_at(name) for name in ("fashion-mnist", "mnist")},
    }


def found_at(name: str) -> str | None:
    """Return the folder where a data set of idx files lies, or None."""
    from landform.data.idx import _FOLDERS, SYSTEM_FOLDER, _has_idx

    own = os.environ.get("LANDFORM_DATA")
    places = [Path(own) / sub for sub in _FOLDERS[name]] if own else []
    return next((str(place) for place in (*places, SYSTEM_FOLDER / name) if _has_idx(place)), None)


def listing(result: dict[str, Any]) -> str:
    """Return what there is to choose from as text."""
    data = [(name, line + where(result["folders"], name)) for name, line in result["data"].items()]
    parts = [
        ("versions", [(name, value or "not installed") for name, value in result["versions"].items()]),
        ("PATTERN", list(result["patterns"].items())),
        ("formulas", list(result["formulas"].items())),
        ("--model", list(result["models"].items())),
        ("--data", [*data, ("PATH", "an .npz, a .csv, a folder of idx files"), ("module:loader", "your own")]),
        ("--loss", [(name, "") for name in result["losses"]] + [("module:fn", "your own loss(outputs, targets)")]),
    ]
    return "\n\n".join(f"{title}\n{table(rows, indent='  ')}" for title, rows in parts)


def where(folders: dict[str, str | None], name: str) -> str:
    """Say where a data set was found, if it is one that has to be."""
    if name not in folders:
        return ""
    place = folders[name]
    return f", found in {place}" if place else f", not found; 'landform imprint demo --data {name}' says how to get it"


def about_bundle(path: Path) -> dict[str, Any]:
    """Return what a bundle says of itself, and the sizes of its files; no weight is read."""
    from landform.bundle import info as read

    return {"bundle": str(path), **read(path), "sizes": {item.name: size_of(item) for item in sorted(path.iterdir())}}


def size_of(item: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = item.rglob("*") if item.is_dir() else [item]
    return sum(file.stat().st_size for file in files if file.is_file())


def bundle_listing(result: dict[str, Any]) -> str:
    """Return what a bundle holds as text."""
    from landform.bundle.schema import parse_certificate

    pattern, meta, loss, data = (result.get(key) or {} for key in ("pattern", "meta", "loss", "data"))
    architecture, proof = result["architecture"], result["certificate"]
    cells = pattern["resolution"]
    lo, hi = result["range"]
    on = f" on {data['name']} ({data['split']}, {data['samples']:,} samples)" if data else ""
    shown = " × ".join(map(str, cells[:4])) + (" × …" if len(cells) > 4 else "")
    kind = architecture.get("class") or architecture["type"]
    widths = ", ".join(map(str, meta.get("widths", [])))
    rows: list[tuple[str, object]] = [
        ("bundle", result["bundle"]),
        ("pattern", f"{pattern['name']}, {shown} cells" + (f", {c} channels" if (c := pattern["channels"]) else "")),
        ("network", f"{kind}, {result['parameters']:,} parameters, hidden widths {widths}"),
        ("form", f"{meta.get('form')}, {meta.get('schedule')}"),
        ("loss", f"{loss.get('name')}{on}, from {lo:.4g} to {hi:.4g}"),
        ("certificate", "none" if proof is None else str(parse_certificate(proof, "certificate.json"))),
        ("made with", ", ".join(f"{name} {value}" for name, value in result["versions"].items())),
        ("files", "\n".join(f"{name}  {size:,} bytes" for name, size in result["sizes"].items())),
    ]
    return table(rows)
