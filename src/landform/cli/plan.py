"""``landform plan``: what an architecture holds, and what a resolution or an error would take."""

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from landform.cli.options import (
    COMPILE_GROUP,
    DATA_GROUP,
    DATA_HELP,
    NETWORK_GROUP,
    PATTERN_GROUP,
    Head,
    Json,
    Loss,
    Quiet,
    Split,
    Widths,
)
from landform.cli.terminal import Voice, say, say_json, table
from landform.cli.wider import call_of, wider_of

if TYPE_CHECKING:
    from landform.imprint.lower.network import Network
    from landform.program.capacity import Capacity
    from landform.response import AbstractResponse

PLAN_EPILOGUE = """\
Example:
  landform plan --widths 512 512 512 64             what do these layers hold?
  landform plan --model mynet:make --resolution 64  does 64 × 64 fit there?
  landform plan --resolution 128 --epsilon 1e-5     which widths would do?

--json prints capacity (null without a network), stages (units, and registers carried beside them), more (the finest \
resolution of a network twice as wide, or deeper by a stage), fits, widen (arguments of lf.widen that would make it \
fit), needed (widths and parameters, a form each) and \
knots (the units that each epsilon takes in the last hidden layer).

Exit codes: 0 done, 2 an error, 130 interrupted."""

EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6)
MOST_KNOTS = 4096  # more than this reaches rounding


def plan(
    *,
    model: Annotated[
        str | None,
        Parameter(
            group=NETWORK_GROUP,
            metavar="MODULE:FACTORY|hf:PATH",
            help="Your own function or class that makes a network, or a folder of transformers.",
        ),
    ] = None,
    head: Head = None,
    widths: Widths = None,
    resolution: Annotated[
        list[int] | None,
        Parameter(negative="", group=PATTERN_GROUP, metavar="N [N…]", help="Cells an axis that are wanted."),
    ] = None,
    z: Annotated[int, Parameter(group=PATTERN_GROUP, help="Coordinates, 1 to 4.")] = 2,
    channels: Annotated[
        int, Parameter(group=PATTERN_GROUP, help="Channels of the pattern; 3 for a picture in colour.")
    ] = 1,
    epsilon: Annotated[
        float, Parameter(group=COMPILE_GROUP, metavar="E", help="Error of the response curve, a fraction of the range.")
    ] = 1e-4,
    axis_aligned: Annotated[
        bool, Parameter(group=COMPILE_GROUP, help="Each direction is one coordinate of the first bias.")
    ] = True,
    data: Annotated[str, Parameter(group=DATA_GROUP, metavar="NAME|PATH|MODULE:LOADER", help=DATA_HELP)] = "digits",
    split: Split = None,
    loss: Loss = "cross_entropy",
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Say what a network's hidden layers hold, and what a resolution or an error would take.

    With --widths or --model: the finest pattern that our best schedule packs into them, a lower bound on what they can
    hold. With --resolution: which widths would do. Always: how many units the response curve takes.
    """
    voice = Voice(quiet=quiet)
    from landform.cli.sources import FIT, read_data, read_loss, read_model
    from landform.errors import InputError
    from landform.imprint.lower.network import read
    from landform.imprint.lower.stream import has_stream

    if widths and model is not None:
        raise InputError("--widths and --model both name a network; give one of them")
    if model == FIT:
        raise InputError("--model fit builds whatever is needed; give --resolution to see what that is")
    if head is not None and model is None:
        raise InputError("--head chooses one of the outputs of --model; name the network too")
    wanted = cells(resolution, z)
    with voice.step("reading"):
        samples = read_data(data, split)
        network = None if model is None else read_model(model)
        chosen = read_loss(loss)
        found = None if network is None or has_stream(network) else read(network, output=head)
        response = curve(chosen, samples, network, found)
    transformer = network is not None and found is None
    with voice.step("packing"):
        held, more = (
            transformer_of(network, samples, z)
            if transformer
            else capacity_of(network, found, widths, z=z, channels=channels, axis_aligned=axis_aligned)
        )
        knots = {e: knots_for(response, e) for e in sorted({*EPSILONS, epsilon}, reverse=True)}
        shape = tuple(samples.inputs.shape[1:])
        take = needs(
            wanted, knots[epsilon] or MOST_KNOTS, channels, response.n_outputs, shape, axis_aligned=axis_aligned
        )
    fitting = None if held is None or not wanted else holds(network, found, held, wanted, knots[epsilon])
    if held is None and not wanted:
        voice.note("for more than the response curve, give --widths, --model or --resolution")
    result: dict[str, Any] = {
        "capacity": None if held is None else held.to_json(),
        "fits": fitting,
        "widen": None
        if fitting is not False
        else wider_of(network, found, samples, wanted, knots[epsilon], channels=channels, axis_aligned=axis_aligned),
        "stages": perceptrons_of(held, network, samples) if transformer else stages_of(found),
        "more": more,
        "epsilon": None if held is None else attained(response, held.best.knots),
        "resolution": list(wanted),
        "needed": take,
        "knots": [{"epsilon": e, "knots": k} for e, k in knots.items()],
        "loss": loss,
        "data": {"name": samples.name, "split": samples.split},
    }
    if json:
        say_json(result)
    else:
        say(words(result, held))
    return 0


def holds(network: Any, found: "Network | None", held: "Capacity", wanted: tuple[int, ...], knots: int | None) -> bool:
    """Say whether the layers hold this pattern and a response curve of that many knots."""
    if held.best.schedule == "stream":
        return knots is not None and max(wanted) <= held.best.cells
    from landform.program.capacity import fits

    return knots is not None and fits(
        held.widths if found is None else found.rooms,
        wanted,
        knots=knots,
        channels=held.channels,
        per_hinge=held.per_hinge,
        axis_aligned=held.axis_aligned,
        check=None if found is None else found.checker(network),
    )


def transformer_of(network: Any, samples: Any, z: int) -> "tuple[Capacity, dict[str, int]]":
    """Return what a transformer holds, and what one twice as wide, or with one more block, would."""
    from landform.imprint.stream import rooms_of
    from landform.program.stream_capacity import stream_capacity

    room, hidden, per_linear = rooms_of(network, samples.inputs[:2], z)
    held = stream_capacity(room=room, hidden=hidden, per_linear=per_linear, z=z)
    wider = stream_capacity(room=2 * room, hidden=[2 * units for units in hidden], per_linear=per_linear, z=z)
    deeper = stream_capacity(room=room, hidden=[*hidden, hidden[-1]], per_linear=per_linear, z=z)
    return held, {"wider": wider.best.cells, "deeper": deeper.best.cells}


def perceptrons_of(held: "Capacity | None", network: Any, samples: Any) -> list[dict[str, Any]]:
    """Return the perceptrons of a transformer as stages."""
    from landform.imprint.lower.post_norm import find_any_stream

    assert held is not None
    stream = find_any_stream(network, samples.inputs[:2])
    return [{"module": mlp.up.name, "units": mlp.hidden, "beside": stream.width, "curve": True} for mlp in stream.mlps]


def stages_of(found: "Network | None") -> list[dict[str, Any]]:
    """Return what each stage of a network holds: its module, units, and registers carried beside them."""
    if found is None:
        return []
    rows = zip(found.stage_names, found.rooms, strict=True)
    return [{"module": name, "units": room.units, "beside": room.beside, "curve": room.curve} for name, room in rows]


def cells(resolution: list[int] | None, z: int) -> tuple[int, ...]:
    """Return cells per axis, checked, or nothing."""
    from landform.pattern.resolution import cells_of

    if resolution is None:
        return ()
    return cells_of(resolution[0] if len(resolution) == 1 else tuple(resolution), z)


def curve(loss: Any, samples: Any, network: Any, found: "Network | None") -> "AbstractResponse":
    """Return the response that the knots are counted for."""
    from landform.imprint.heads import response_of
    from landform.imprint.lower.post_norm import find_any_stream
    from landform.response import respond

    if found is not None:
        head = found.heads[0]
        return response_of(loss, samples, outputs=head.outputs, end=head.end, name=head.linear)
    outputs = None if network is None else find_any_stream(network, samples.inputs[:2]).head.outputs
    if outputs is None and not isinstance(loss, str):
        outputs = samples.classes
    return respond(loss, samples.targets, outputs=outputs, weights=samples.weights)


def capacity_of(
    network: Any,
    found: "Network | None",
    widths: list[int] | None,
    *,
    z: int,
    channels: int,
    axis_aligned: bool,
) -> "tuple[Capacity | None, dict[str, int]]":
    """Return what a network or given widths hold (None where there are neither), and what more of it would.

    The second is the finest resolution with every stage twice as wide, and with one more stage like the last.
    """
    from dataclasses import replace

    from landform.program.capacity import capacity, finest_cells
    from landform.program.room import rooms

    per_hinge, check = 1, None
    usable = None if widths is None else rooms(widths)
    if found is not None:
        usable, per_hinge = list(found.rooms), found.per_hinge
        check = found.checker(network)
    if usable is None:
        return None, {}

    options: dict[str, Any] = {"z": z, "channels": channels, "per_hinge": per_hinge, "axis_aligned": axis_aligned}
    held = capacity(usable, check=check, **options)
    wider = [replace(room, units=2 * room.units, beside=2 * room.beside) for room in usable]
    more = {
        "wider": finest_cells(wider, at_least=held.best.cells, **options),
        "deeper": finest_cells([*usable, usable[-1]], at_least=held.best.cells, **options),
    }
    return held, more


def knots_for(response: "AbstractResponse", epsilon: float) -> int | None:
    """Return how many units a response curve takes on the automatic range, None if too many."""
    from landform.errors import CapacityError
    from landform.response import fit_spline

    lo, hi = response.auto_range()
    try:
        return fit_spline(response, lo, hi, epsilon=epsilon, max_units=MOST_KNOTS).units
    except CapacityError:
        return None


def attained(response: "AbstractResponse", units: int) -> float | None:
    """Return the error of the response curve with a number of units, as a fraction of the range."""
    from landform.response import fit_spline

    if units < 1:
        return None
    lo, hi = response.auto_range()
    return fit_spline(response, lo, hi, units=min(units, MOST_KNOTS)).gap / (hi - lo)


def needs(
    wanted: tuple[int, ...], knots: int, channels: int, outputs: int, sample: tuple[int, ...], *, axis_aligned: bool
) -> list[dict[str, Any]]:
    """Return widths and parameters that each form takes for a resolution."""
    import itertools
    import math

    from landform.program.capacity import needed

    if not wanted:
        return []
    forms = {1: ("hinges", "hats"), 2: ("hats", "rows", "strips") if min(wanted) > 1 else ("hats",)}.get(
        len(wanted), ("hats",)
    )
    found = []
    for form in forms:
        widths = needed(wanted, form=form, knots=knots, channels=channels, axis_aligned=axis_aligned)
        sizes = [math.prod(sample), *widths, outputs * channels]
        parameters = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
        found.append({"form": form, "widths": widths, "parameters": parameters})
    return found


def words(result: dict[str, Any], held: "Capacity | None") -> str:
    """Return the plan as text."""
    parts = []
    if held is not None:
        if result["stages"]:
            lines = [
                (s["module"], f"{s['units']:,} units" + (f", {s['beside']:,} registers beside" if s["beside"] else ""))
                for s in result["stages"]
            ]
            parts.append("stages, the coordinates enter at the first\n" + table(lines, indent="  "))
        parts.append(str(held))
        power = f"^{held.z}" if held.z > 1 else ""
        more = result["more"]
        parts.append(
            f"  twice as wide: n = {more['wider']}{power}; one more stage like the last: n = {more['deeper']}{power}"
        )
        if result["epsilon"] is not None:
            parts.append(
                f"  with {held.best.knots} knots the response curve is within {result['epsilon']:.1e} of the range"
            )
        if result["fits"] is not None:
            size = " × ".join(map(str, result["resolution"]))
            parts.append(f"  {size} cells {'fit' if result['fits'] else 'do not fit'}")
            if result["widen"] is not None:
                parts.append(f"  {call_of(result['widen'])} would make room for them")
    if result["needed"]:
        parts.append(f"{' × '.join(map(str, result['resolution']))} cells take at least")
        rows: list[tuple[str, object]] = [
            (n["form"], f"hidden widths {', '.join(map(str, n['widths']))}: {n['parameters']:,} parameters")
            for n in result["needed"]
        ]
        parts.append(table(rows, indent="  "))
    parts.append(f"units of the response curve, {result['loss']} on {result['data']['name']}")
    rows = [
        (f"epsilon {k['epsilon']:g}", k["knots"] if k["knots"] is not None else f"more than {MOST_KNOTS:,}")
        for k in result["knots"]
    ]
    parts.append(table(rows, indent="  "))
    return "\n".join(parts)
