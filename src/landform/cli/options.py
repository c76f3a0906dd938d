"""The options that commands share, in groups, as they are shown in help."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter

PATTERN_GROUP = Group("Pattern", sort_key=1)
NETWORK_GROUP = Group("Network", sort_key=2)
DATA_GROUP = Group("Data and loss", sort_key=3)
COMPILE_GROUP = Group("Compilation", sort_key=4)
OUTPUT_GROUP = Group("Output", sort_key=5)

Quiet = Annotated[
    bool,
    Parameter(
        name=["--quiet", "-q"], negative="", show_default=False, group=OUTPUT_GROUP, help="No notes, no progress."
    ),
]
Json = Annotated[
    bool,
    Parameter(
        negative="", show_default=False, group=OUTPUT_GROUP, help="Print one JSON object on stdout instead of text."
    ),
]
Bundle = Annotated[str, Parameter(help="The folder that 'landform imprint' wrote.")]
Model = Annotated[
    str,
    Parameter(
        group=NETWORK_GROUP,
        metavar="NAME|MODULE:FACTORY",
        help="'fit' builds an MLP just large enough; module:factory is your own function or class, called without"
        " arguments, that returns an nn.Module. It is never changed: a copy gets the new weights.",
    ),
]
OwnModel = Annotated[
    str | None,
    Parameter(
        group=NETWORK_GROUP, metavar="MODULE:FACTORY", help="For a bundle of your own class: what makes such a network."
    ),
]
OwnLoss = Annotated[
    str | None,
    Parameter(
        group=DATA_GROUP,
        metavar="MODULE:FN",
        help="For a bundle made with a loss of your own, which no file holds: that loss.",
    ),
]
Weights = Annotated[
    str | None,
    Parameter(
        group=NETWORK_GROUP,
        metavar="FILE",
        help="Load these weights into --model first: .safetensors, or a .pt state dict (never a pickled object).",
    ),
]
Head = Annotated[
    str | None,
    Parameter(
        group=NETWORK_GROUP,
        metavar="NAME|N",
        help="For a network that returns several outputs: the one that the loss gets, by its key or number.",
    ),
]
Widths = Annotated[
    list[int] | None,
    Parameter(
        negative="",
        group=NETWORK_GROUP,
        metavar="N [N…]",
        help="Hidden widths of an MLP to use instead of one built to fit, the first layer first.",
    ),
]
Loss = Annotated[
    str,
    Parameter(
        group=DATA_GROUP,
        metavar="NAME|MODULE:FN",
        help="A name that 'landform info' lists, or your own loss(outputs, targets).",
    ),
]
Split = Annotated[
    Literal["train", "test", "all"] | None,
    Parameter(group=DATA_GROUP, help="Part of the data; 'train' where the data have parts of their own."),
]
DATA_HELP = "A name ('landform info' lists them), a file (.npz, .csv), a folder of idx files, or module:loader."


@Parameter(name="*", group=PATTERN_GROUP)
@dataclass(frozen=True, kw_only=True)
class PatternOptions:
    """How PATTERN is read; None leaves the source's own default."""

    resolution: Annotated[
        list[int] | None,
        Parameter(
            negative="",
            metavar="N [N…]",
            help="Cells an axis, one number or one for each axis; N cells have N + 1 nodes. Default 64 (QR: 2 nodes a"
            " module; .npy: as it is).",
        ),
    ] = None
    z: Annotated[int | None, Parameter(help="Coordinates of a formula, 2 by default; above 4 for sums only.")] = None
    colour: Annotated[
        bool | None,
        Parameter(
            negative="--grey",
            show_default=False,
            help="Keep red, green and blue, one head of the network each (an .npy: its last dimension holds channels),"
            " or make it grey, the default.",
        ),
    ] = None
    fit: Annotated[
        Literal["keep", "stretch"] | None,
        Parameter(help="Image: keep the aspect and pad to a square (default), or stretch to the box."),
    ] = None
    invert: Annotated[bool, Parameter(negative="", show_default=False, help="Dark becomes high, bright low.")] = False
    background: Annotated[
        str | None, Parameter(metavar="COLOUR", help="Image: behind transparency and padding; white by default.")
    ] = None
    contrast: Annotated[
        Literal["none", "stretch"] | None, Parameter(help="Image: stretch its values to the whole range.")
    ] = None
    allow_constant: Annotated[
        bool, Parameter(negative="", show_default=False, help="Image: accept one of a single shade.")
    ] = False


@Parameter(name="*", group=COMPILE_GROUP)
@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """How a pattern becomes weights."""

    method: Annotated[
        str,
        Parameter(
            help="'constant': Theorem 1, a network that does not read its input. 'offset', 'per-sample': Theorem 2, in"
            " a trained --model."
        ),
    ] = "constant"
    units: Annotated[
        Literal["widen", "reserve"],
        Parameter(
            help="Theorem 2: 'widen' gives every layer more channels; 'reserve' frees the least useful ones, at some"
            " loss of accuracy."
        ),
    ] = "widen"
    repair: Annotated[
        int,
        Parameter(metavar="STEPS", help="--units reserve: train what is left of the network for so many steps."),
    ] = 0
    scores: Annotated[
        Literal["refit", "predictions", "own"],
        Parameter(
            help="--method per-sample: what tells the classes apart. 'own': the network's own margins, so that every"
            " prediction is kept; 'refit': fitted to the labels; 'predictions': fitted to those."
        ),
    ] = "refit"
    range: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            metavar="LO HI|auto",
            allow_leading_hyphen=True,
            help="Losses that pattern values 0 and 1 become. auto, the default: from just above the least loss that"
            " such a network can have, one unit high.",
        ),
    ] = None
    epsilon: Annotated[
        float | None,
        Parameter(
            metavar="E",
            help="Largest error of the response curve as a fraction of the range; chooses its knots. Default 1e-4, or"
            " as good as the widths allow.",
        ),
    ] = None
    form: Annotated[
        Literal["auto", "hats", "rows", "strips", "hinges"],
        Parameter(help="Which program; auto takes the fewest weights that are accurate enough."),
    ] = "auto"
    schedule: Annotated[Literal["auto", "carry", "recompute"], Parameter(help="How units are spread over layers.")] = (
        "auto"
    )
    axis_aligned: Annotated[
        bool,
        Parameter(help="Each direction is one coordinate of the first bias; --no-axis-aligned saves a layer."),
    ] = True
    direct: Annotated[
        bool | None,
        Parameter(
            show_default=False,
            help="Leave the response curve out: exact at nodes, a gap between them. By default only where no layer is"
            " left for it.",
        ),
    ] = None
    tolerance: Annotated[
        float, Parameter(metavar="T", help="Compression: error admitted, in units of the pattern (0 … 1).")
    ] = 0.0
    convex: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Declare a loss of your own convex: its bound then counts as proved under that assumption.",
        ),
    ] = False


@Parameter(name="*", group=OUTPUT_GROUP)
@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """Where an imprint goes."""

    output: Annotated[
        str | None,
        Parameter(name=["--output", "-o"], metavar="DIR", help="The bundle; <pattern>.landform by default."),
    ] = None
    force: Annotated[bool, Parameter(negative="", show_default=False, help="Write over a bundle that exists.")] = False
    picture: Annotated[
        bool, Parameter(negative="--no-picture", show_default=False, help="Measure the loss and draw it (default).")
    ] = True
    dry_run: Annotated[
        bool,
        Parameter(
            negative="", show_default=False, help="Say what would be made: widths, units, parameters. Writes nothing."
        ),
    ] = False


PATTERN_DEFAULTS = PatternOptions()
COMPILE_DEFAULTS = CompileOptions()
BUNDLE_DEFAULTS = BundleOptions()
