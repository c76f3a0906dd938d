"""What ``landform imprint`` says when it is done: an object for ``--json``, and a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from landform.cli.terminal import table

if TYPE_CHECKING:
    from landform.imprint import Imprint


def report(made: "Imprint", path: Path | None, picture: Path | None, *, loss: str, seconds: float) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    proof, meta = made.certificate, made.meta
    assert made.task is not None
    samples = made.task.data
    return {
        "bundle": None if path is None else str(path),
        "picture": None if picture is None else str(picture),
        "bound": None if proof is None else proof.bound,
        "relative_bound": None if proof is None else proof.relative_bound,
        "kind": None if proof is None else proof.kind,
        "holds": None if proof is None else proof.holds,
        "range": list(made.range),
        "unit": made.response.unit,
        "resolution": list(made.pattern.resolution),
        "z": made.z,
        "channels": made.pattern.channels or 1,
        "parameters": made.parameters,
        "widths": meta["widths"],
        "units": meta["units"],
        "form": meta["form"],
        "schedule": meta["schedule"],
        "loss": loss,
        "data": {"name": samples.name, "split": samples.split, "samples": samples.n, "hash": samples.hash},
        "dtype": str(next(made.model.parameters()).dtype).removeprefix("torch."),
        "notes": list(meta["notes"]),
        "seconds": seconds,
    }


def summary(made: "Imprint", result: dict[str, Any]) -> str:
    """Return the text that a run ends with."""
    lo, hi = made.range
    cells = " × ".join(map(str, result["resolution"][:4])) + (" × …" if made.z > 4 else "")
    data = result["data"]
    channels = f", {result['channels']} channels" if result["channels"] > 1 else ""
    widths = ", ".join(map(str, result["widths"]))
    on = f"{data['name']} ({data['split']}, {data['samples']:,} samples)"
    rows: list[tuple[str, object]] = [
        ("pattern", f"{made.pattern.name}, {cells} cells{channels}"),
        ("network", f"{result['parameters']:,} parameters, {result['dtype']}, hidden widths {widths}"),
        ("loss", f"{result['loss']} on {on}, from {lo:.4g} to {hi:.4g} {result['unit']}"),
    ]
    if made.certificate is None:
        rows += [("bundle", "none: this was a dry run"), ("proved", "nothing: this was a dry run")]
    else:
        rows += [("bundle", result["bundle"]), ("picture", result["picture"])]
        proved = "proved" if made.certificate.kind == "certified" else "measured"
        rows += [(proved if made.certificate.holds else "not proved", str(made.certificate))]
    return table(rows)
