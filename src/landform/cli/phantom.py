"""``landform phantom``: a network whose loss surface is known, to try instruments on."""

import json as format_json
import time
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from landform.cli.options import (
    BUNDLE_DEFAULTS,
    COMPILE_GROUP,
    DATA_GROUP,
    DATA_HELP,
    PATTERN_GROUP,
    BundleOptions,
    Json,
    Loss,
    Quiet,
)
from landform.cli.terminal import Voice, say, say_json, table

PHANTOM_EPILOGUE = """\
Example:
  landform phantom bowl
  landform phantom minima --data fashion-mnist -o wells.landform
  landform phantom bowl --with '{"curvatures": [4, 64]}' --json
  landform phantom noise --with '{"slope": 3, "seed": 1}' --resolution 16

Shapes: bowl, ravine, minima, saddle, plateau, ring, step, noise, constant.

--json prints bundle, picture, name, z, resolution, range, critical (kind, h, height, index, curvature, radius, \
principal), bound, kind and seconds. imprint.json in the bundle holds the same under meta.phantom.

Exit codes: 0 done, 2 an error (nothing was written), 130 interrupted."""


def phantom(
    name: Annotated[str, Parameter(help="The shape: bowl, ravine, minima, saddle, plateau, ring, step, noise …")],
    /,
    *,
    parameters: Annotated[
        str | None,
        Parameter(
            name="--with",
            group=PATTERN_GROUP,
            metavar="JSON",
            help="The shape's own parameters as a JSON object; landform.testing.phantom lists them.",
        ),
    ] = None,
    resolution: Annotated[int | None, Parameter(group=PATTERN_GROUP, help="Cells an axis; 32 for z = 2.")] = None,
    z: Annotated[int, Parameter(group=PATTERN_GROUP, help="Number of directions, 1 to 4.")] = 2,
    base: Annotated[
        float | None, Parameter(group=COMPILE_GROUP, help="Loss at the shape's zero; just above the floor by default.")
    ] = None,
    dtype: Annotated[Literal["float32", "float64"], Parameter(help="Arithmetic of the network.")] = "float32",
    data: Annotated[str, Parameter(group=DATA_GROUP, metavar="NAME|PATH|MODULE:LOADER", help=DATA_HELP)] = "digits",
    loss: Loss = "cross_entropy",
    writing: BundleOptions = BUNDLE_DEFAULTS,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make a network on real data whose loss surface is known, and say where its critical points are.

    Whatever reads loss surfaces should read this one; how far it is off is the instrument's error.
    """
    import torch

    from landform.cli.imprint import output_path, write
    from landform.cli.sources import read_data, read_loss
    from landform.errors import InputError
    from landform.testing import phantom as make

    begin = time.perf_counter()
    voice = Voice(quiet=quiet)
    try:
        own = {} if parameters is None else format_json.loads(parameters)
    except ValueError as error:
        raise InputError(f"--with is no JSON: {error}; for instance --with '{{\"radius\": 0.25}}'") from error
    if not isinstance(own, dict):
        raise InputError(f'--with is a {type(own).__name__}; wanted a JSON object such as {{"radius": 0.25}}')
    path = output_path(writing.output, f"phantom:{name}", f"phantom-{name}", force=writing.force)
    with voice.step("making"):
        made = make(
            name,
            data=read_data(data),
            loss=read_loss(loss),
            z=z,
            resolution=resolution,
            base=base,
            dtype=getattr(torch, dtype),
            **own,
        )
    assert made.imprint is not None
    picture = None if writing.dry_run else write(made.imprint, path, writing, voice)
    result: dict[str, Any] = {
        "bundle": None if writing.dry_run else str(path),
        "picture": None if picture is None else str(picture),
        "name": name,
        "z": made.z,
        "resolution": list(made.cells),
        "range": list(made.imprint.range),
        "critical": [vars(point) for point in made.critical],
        "bound": made.bound,
        "kind": made.kind,
        "seconds": time.perf_counter() - begin,
    }
    if json:
        say_json(result)
        return 0
    rows: list[tuple[str, object]] = [("phantom", f"{name}, {' × '.join(map(str, made.cells))} cells")]
    for point in made.critical:
        at = ", ".join(f"{x:g}" for x in point.h)
        radius = "" if point.radius is None else f", radius {point.radius:g}"
        rows.append((point.kind, f"at ({at}){radius}, loss {point.height:.6g}"))
    rows += [("bundle", result["bundle"] or "none: this was a dry run"), ("picture", result["picture"] or "none")]
    rows.append(("proved", f"|loss − truth| ≤ {made.bound:.3g} over [0, 1]^{made.z} [{made.kind}]"))
    say(table(rows))
    return 0
