"""``landform scan``: measure the loss of a bundle, or of your own network, on a line, plane or box."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from landform.cli.options import DATA_GROUP, DATA_HELP, NETWORK_GROUP, OUTPUT_GROUP, Head, Json, OwnModel, Quiet
from landform.cli.surfaces import report, summary, targets, write
from landform.cli.terminal import Voice, say, say_json

_WHERE = Group("Where to look", sort_key=1)
_HOW = Group("How well", sort_key=4)
_WITH = Group("With what", sort_key=5)

SCAN_EPILOGUE = """\
Example:
  landform scan demo.landform                     at the nodes of the pattern
  landform scan demo.landform --grid 129 -o fine.nc
  landform scan demo.landform --data digits --split test    on other data

Your own network, mynet.py with a function make:
  landform scan mynet:make --data digits --weights w.pt     a random plane
  landform scan mynet:make --data digits --grid 129 --tolerance 0.005
  landform scan mynet:make --data digits --checkpoints 'ckpt/*.pt'
  landform scan mynet:make --data digits --plane between --checkpoints a.pt b.pt
  landform scan mynet:make --data digits --plane bezier --checkpoints a.pt b.pt
  landform scan mynet:make --data digits --store runs/a --workers 4
  landform scan mynet:make --data digits --dry-run          what would it cost?

MODULE:FACTORY is your own function or class that returns an nn.Module; it is run because you name it, and a bundle \
never runs code.

The format follows the name of -o: a .zarr folder (the default), .nc (NetCDF), .csv (a row a point), .png for the \
picture alone, or .html for a landscape to turn with the mouse. The picture lies beside the surface, under the same \
name.

--json prints surface, picture, evaluations (passes over all samples, or what amounts to them), sample_evaluations, \
samples, seconds, interval (half the width of the widest interval; 0 for an exact scan), confidence, reached (whether \
--tolerance is kept; null without one), between (how far off values between the nodes are: an estimate, the largest \
difference at random points, how many of these lie beyond the tolerance, and in what part of the volume others may), \
complete, loss (least and greatest), difference (largest |measured - \
promised|), unit, data, grid, plane and transfer.

Exit codes: 0 done, 2 an error (nothing was written, unless the error says where), 130 interrupted (what was measured \
is written; a --store goes on from there)."""


def scan(
    subject: Annotated[
        str,
        Parameter(
            name="BUNDLE|MODULE:FACTORY",
            help="The folder that 'landform imprint' wrote, or your own function or class that returns an nn.Module.",
        ),
    ],
    /,
    *,
    plane: Annotated[
        str | None,
        Parameter(
            group=_WHERE,
            metavar="NAME|DIR",
            help="Around your own network: random (the default), pca (of --checkpoints), between (the line through two"
            " --checkpoints, the plane through three), curve (a Bézier curve of low loss between two --checkpoints,"
            " trained for it), bezier (the plane that it lies in), hessian (largest curvature), gradient, worst (the"
            " steepest way up); or a folder that lf.save_subspace wrote.",
        ),
    ] = None,
    checkpoints: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            consume_multiple=True,
            group=_WHERE,
            metavar="FILE [FILE…]",
            help="Weights along training, in order; a pattern in quotes is expanded and sorted by number. On any plane"
            " but 'between' they are also drawn as a path, with their distance from it.",
        ),
    ] = None,
    grid: Annotated[
        list[int] | None,
        Parameter(
            negative="",
            group=_WHERE,
            metavar="N [N…]",
            help="Nodes an axis, one number or one for each; the pattern's own nodes by default, for your own network"
            " 65 on a line and 33 × 33 on a plane, with --tolerance 257 and 129 × 129.",
        ),
    ] = None,
    span: Annotated[
        list[float] | None,
        Parameter(
            name="--range",
            negative="",
            group=_WHERE,
            metavar="LO HI",
            help="Ends of every axis, or LO HI for each in turn; -1 1 by default (pca, between: around the"
            " checkpoints).",
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
    z: Annotated[int | None, Parameter(group=_WHERE, help="Number of directions; 2 by default.")] = None,
    seed: Annotated[
        int | None, Parameter(group=_WHERE, help="Of random directions, and of the order of samples; 0 by default.")
    ] = None,
    norm: Annotated[
        str | None, Parameter(group=_WHERE, help="Of random directions: filter (the default), layer, model or none.")
    ] = None,
    include: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            consume_multiple=True,
            group=_WHERE,
            metavar="PATTERN",
            help="Move only parameters whose names fit, e.g. 'layer1.*'.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        Parameter(negative="", consume_multiple=True, group=_WHERE, metavar="PATTERN", help="Leave these out."),
    ] = None,
    biases: Annotated[
        bool,
        Parameter(negative="", show_default=False, group=_WHERE, help="Random directions move biases and norms, too."),
    ] = False,
    weights: Annotated[
        str | None,
        Parameter(
            group=NETWORK_GROUP,
            metavar="FILE",
            help="Load these weights into your network first: .safetensors, or a .pt state dict (never a pickled"
            " object). Without it, a network whose BatchNorm statistics were never set takes those of the last of"
            " --checkpoints.",
        ),
    ] = None,
    head: Head = None,
    model: OwnModel = None,
    data: Annotated[
        str | None,
        Parameter(
            group=DATA_GROUP,
            metavar="NAME|PATH|MODULE:LOADER",
            help=f"Measure on these data; for a bundle by default those whose label statistics are in it. {DATA_HELP}",
        ),
    ] = None,
    split: Annotated[
        Literal["train", "test", "all", "both"] | None,
        Parameter(group=DATA_GROUP, help="Part of the data; 'both': train and test in one surface."),
    ] = None,
    loss: Annotated[
        str | None,
        Parameter(
            group=DATA_GROUP,
            metavar="NAME|MODULE:FN",
            help="Of your own network: a name that 'landform info' lists, or your own loss(outputs, targets);"
            " cross_entropy by default. Of a bundle made with a loss of your own: that loss.",
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            consume_multiple=True,
            group=DATA_GROUP,
            metavar="NAME|MODULE:FN",
            help="Measure these too: accuracy, error, top5, the name of a loss, your own function of (outputs, targets)"
            " with one value a sample, gradient_norm, top_hessian_eigenvalue.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        Parameter(
            group=_HOW,
            metavar="T",
            help="Sample until every node is known to ±T, a fraction of the range of losses (0.005 for half a per"
            " cent); 0, the default, uses every sample at every node.",
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        Parameter(group=_HOW, metavar="C", help="With which the intervals hold at all nodes at once; 0.99 by default."),
    ] = None,
    subset: Annotated[
        int | None, Parameter(group=_HOW, metavar="M", help="Use M random samples, the same at every node.")
    ] = None,
    batch_norm: Annotated[
        Literal["frozen", "recalibrate", "batch"] | None,
        Parameter(
            group=_HOW,
            help="Normalise by the network's statistics (frozen, the default), by statistics recomputed at each node,"
            " or by those of each batch.",
        ),
    ] = None,
    engine: Annotated[str | None, Parameter(group=_WITH, help="How points are computed; chosen by default.")] = None,
    batch_size: Annotated[int | None, Parameter(group=_WITH, metavar="N", help="Samples a forward pass.")] = None,
    device: Annotated[
        str | None, Parameter(group=_WITH, help="cpu, cuda, cuda:1, mps; where the network is by default.")
    ] = None,
    workers: Annotated[
        int | None, Parameter(group=_WITH, metavar="N", help="Processes of a cluster on this machine.")
    ] = None,
    dask: Annotated[
        str | None, Parameter(group=_WITH, metavar="ADDRESS", help="A dask scheduler, tcp://host:8786.")
    ] = None,
    store: Annotated[
        str | None,
        Parameter(
            group=OUTPUT_GROUP,
            metavar="DIR|URL",
            help="Keep what is measured here as it comes; the same command goes on from there after a crash.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        Parameter(
            name=["--output", "-o"],
            group=OUTPUT_GROUP,
            metavar="FILE",
            help=".zarr, .nc, .csv, .png or .html; <name>.surface.zarr by default.",
        ),
    ] = None,
    picture: Annotated[
        bool, Parameter(negative="--no-picture", show_default=False, group=OUTPUT_GROUP, help="Draw it too (default).")
    ] = True,
    force: Annotated[
        bool, Parameter(negative="", show_default=False, group=OUTPUT_GROUP, help="Write over files that exist.")
    ] = False,
    dry_run: Annotated[
        bool,
        Parameter(negative="", show_default=False, group=OUTPUT_GROUP, help="Say what it would cost; write nothing."),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure the loss of a bundle or of your own network on a grid, and draw it.

    By default the loss is exact: every sample at every node. With --tolerance it is sampled, and each node has an
    interval; the intervals hold at all nodes at once.
    """
    begin = time.perf_counter()
    voice = Voice(quiet=quiet)
    given: dict[str, Any] = {
        "tolerance": tolerance, "confidence": confidence, "subset": subset, "engine": engine, "batch_size": batch_size,
        "workers": workers, "dask": dask, "store": store,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    around: dict[str, Any] = {
        "plane": plane, "checkpoints": checkpoints, "z": z, "norm": norm, "include": include, "exclude": exclude,
        "biases": biases or None, "weights": weights, "metrics": metrics, "batch_norm": batch_norm, "device": device,
        "range": span, "dry_run": dry_run or None, "head": head,
    }  # fmt: skip
    if seed is not None:
        given["seed"] = seed
    from landform.errors import InputError

    if split is not None and data is None:
        raise InputError("--split chooses a part of --data; name the data too")
    own = ":" in subject and not Path(subject).exists()
    name = subject.replace(":", ".") if own else Path(subject).resolve().stem
    surface_path, picture_path = (None, None) if dry_run else targets(name, output, picture=picture, force=force)
    progress = None if voice.animated else False
    nodes: Any = None if not grid else grid[0] if len(grid) == 1 else tuple(grid)
    if own:
        from landform.cli.measuring import measure_own, plan_own

        if model is not None:
            raise InputError("--model makes the network of a bundle; your own is named first: landform scan mynet:make")
        source = {"data": data, "split": split, "loss": loss, "grid": nodes, "axes": axes, "seed": seed}
        if dry_run:
            result, text = plan_own(subject, source | around, given, voice)
            say_json(result) if json else say(text)
            return 0
        surface, certificate = measure_own(subject, source | around, given, voice, progress), None
    else:
        from landform.cli.measuring import measure_bundle

        useless = [f"--{key.replace('_', '-')}" for key, value in around.items() if value is not None]
        if useless:
            raise InputError(
                f"{useless[0]} is for a network of your own (landform scan mynet:make …); a bundle has its own plane"
                " and network"
            )
        source = {"data": data, "split": split, "loss": loss, "model": model, "grid": nodes, "axes": axes}
        surface, certificate = measure_bundle(subject, source, given, voice, progress)
    with voice.step("writing"):
        write(surface, surface_path, picture_path, certificate)
    result = report(surface, surface_path, picture_path, time.perf_counter() - begin)
    say_json(result) if json else say(summary(result))
    if not result["complete"]:
        raise KeyboardInterrupt
    return 0
