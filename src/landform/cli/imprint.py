"""``landform imprint``: from a picture to a network, a proof and a bundle."""

import contextlib
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from landform.cli.options import (
    BUNDLE_DEFAULTS,
    COMPILE_DEFAULTS,
    DATA_GROUP,
    DATA_HELP,
    NETWORK_GROUP,
    PATTERN_DEFAULTS,
    BundleOptions,
    CompileOptions,
    Head,
    Json,
    Loss,
    Model,
    PatternOptions,
    Quiet,
    Split,
    Weights,
    Widths,
)
from landform.cli.report import report, summary
from landform.cli.terminal import Voice, say, say_json

if TYPE_CHECKING:
    from landform.imprint import Imprint

VIEWS = ("view.slices.png", "view.errors.png")
"""Pictures beside surface.png, for imprints in a trained network."""
TOLERANCE = 0.01
"""Of the pictures of a trained network: half-width of every value, of the range."""

IMPRINT_EPILOGUE = """\
Example:
  landform imprint demo
  landform imprint cat.jpg --data fashion-mnist --resolution 128
  landform imprint qr:https://example.org --dtype float64 -o code.landform
  landform imprint photo.png --colour              three heads, one a colour
  landform imprint formula:ackley --range 2.5 4 --json
  landform imprint text:HI --model mynet:make --dry-run   does it fit there?
  landform imprint demo --model mynet:make --weights trained.safetensors --method per-sample --scores own

--json prints bundle, picture, bound, relative_bound, kind, holds, range, unit, resolution, z, channels, parameters, \
widths, units, form, schedule, loss, data, dtype, notes and seconds; a number that is not finite is null.

In a trained network (--method offset or per-sample) the bundle also gets view.slices.png, the same network on random \
directions, and view.errors.png, how many samples miss the pattern by how much.

Exit codes: 0 made, 2 an error (nothing was written), 130 interrupted (likewise)."""


def imprint(
    pattern: Annotated[str, Parameter(help="An image file, text:HELLO, qr:TEXT, formula:NAME, an .npy file, or demo.")],
    /,
    *,
    model: Model = "fit",
    weights: Weights = None,
    head: Head = None,
    widths: Widths = None,
    dtype: Annotated[
        Literal["float32", "float64"] | None,
        Parameter(group=NETWORK_GROUP, help="Arithmetic of the network; float32, or what --model has."),
    ] = None,
    data: Annotated[str, Parameter(group=DATA_GROUP, metavar="NAME|PATH|MODULE:LOADER", help=DATA_HELP)] = "digits",
    split: Split = None,
    loss: Loss = "cross_entropy",
    other: Annotated[
        str | None,
        Parameter(
            group=DATA_GROUP,
            metavar="DATA",
            help="A second data set: --range auto then starts where the level sets carry over to it.",
        ),
    ] = None,
    reading: PatternOptions = PATTERN_DEFAULTS,
    compiling: CompileOptions = COMPILE_DEFAULTS,
    writing: BundleOptions = BUNDLE_DEFAULTS,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make a network whose loss over a data set, along a few biases, is a picture.

    Nothing is trained: the weights are compiled from the picture and the labels, and how closely the loss follows is
    proved over the whole box, not sampled.
    """
    begin = time.perf_counter()
    voice = Voice(quiet=quiet)
    from landform.cli.compiling import compiled
    from landform.cli.sources import read_data, read_loss, read_pattern

    with voice.step("reading"):
        shape = read_pattern(pattern, reading)
        samples = read_data(data, split)
        chosen = read_loss(loss)
        path = output_path(writing.output, pattern, shape.name, force=writing.force)
    with voice.step("compiling"):
        made = compiled(
            shape,
            samples,
            compiling,
            model=model,
            weights=weights,
            head=head,
            widths=widths,
            dtype=dtype,
            loss=chosen,
            other=other,
        )
    for note in made.meta["notes"]:
        voice.note(note)
    picture = None
    if not writing.dry_run:
        from landform.certify import certify

        with voice.step("proving"):
            made = made.with_certificate(certify(made))
        picture = write(made, path, writing, voice)
    result = report(made, None if writing.dry_run else path, picture, loss=loss, seconds=time.perf_counter() - begin)
    if json:
        say_json(result)
    else:
        say(summary(made, result))
    return 0 if made.certificate is None or made.certificate.holds else 1


def output_path(output: str | None, spec: str, name: str, *, force: bool) -> Path:
    """Return where the bundle goes, and refuse early what would be refused after the work.

    Example:
        >>> output_path(None, "text:HELLO", "text:HELLO", force=False).name
        'text-HELLO.landform'
    """
    from landform.bundle.atomic import check_target, locate

    if output is None:
        stem = Path(spec).stem if Path(spec).suffix and ":" not in spec else name
        slug = re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:60] or "pattern"
        path = Path(f"{slug}.landform")
    else:
        path = Path(output)
    check_target(locate(path), force=force)
    return path


def write(made: "Imprint", path: Path, writing: BundleOptions, voice: Voice) -> Path | None:
    """Measure, draw and save; return the picture's path."""
    from landform.bundle import save

    if not writing.picture:
        with voice.step("writing"):
            save(made, path, force=writing.force)
        return None
    from landform.scan import scan
    from landform.view import picture
    from landform.view.picture import rendered

    tolerance = TOLERANCE if made.reads_input else 0.0  # what reads its input costs a pass of all samples a node
    with for_a_picture():
        surface = scan(made, axes=plane(made.z), tolerance=tolerance, progress=None if voice.animated else False)
    if not surface.attrs["complete"]:
        raise KeyboardInterrupt
    if made.z > 2:
        voice.note(f"the picture is the plane (h1, h2) through the middle of [0, 1]^{made.z}")
    with voice.step("drawing"):
        drawn = rendered(picture(surface, certificate=made.certificate))
    with voice.step("writing"):
        save(made, path, force=writing.force, surface=surface, picture=drawn)
    if made.reads_input and made.z >= 2:
        write_views(made, path, voice)
    return path / "surface.png"


def write_views(made: "Imprint", path: Path, voice: Voice) -> None:
    """Draw what only a trained network has: the same network on random directions, and the errors of its samples.

    They are `VIEWS` in the bundle's folder.
    """
    from landform.imprint.accounting import account
    from landform.view import error_histogram, slices
    from landform.view.files import write_atomically
    from landform.view.picture import rendered
    from landform.view.style import new_figure

    with voice.step("drawing the network on random directions"), for_a_picture():
        write_atomically(path / VIEWS[0], rendered(slices(made, tolerance=TOLERANCE)))
    with voice.step("counting samples"):
        found = account(made)
        figure = new_figure(6.6, 3.1)
        error_histogram(found, ax=figure.add_subplot(), title=made.pattern.name)
        write_atomically(path / VIEWS[1], rendered(figure))
    for line in str(found).splitlines():
        voice.note(line)


@contextlib.contextmanager
def for_a_picture() -> Iterator[None]:
    """Leave out what a scan says of the space between its nodes: a picture shows nodes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="between the nodes")
        yield


def plane(z: int) -> tuple[int, int] | None:
    """Return the coordinates that a picture shows: all of one or two, else the first two."""
    return None if z <= 2 else (1, 2)
