"""What `landform.widen` would have to add for a resolution to fit, for ``landform plan``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landform.imprint.lower.network import Network
    from landform.program.room import Room


def wider_of(
    network: Any,
    found: "Network | None",
    samples: Any,
    wanted: tuple[int, ...],
    knots: int | None,
    *,
    channels: int,
    axis_aligned: bool,
) -> dict[str, int] | None:
    """Return the arguments of a call of `landform.widen` that makes room, None where none would.

    Args:
        network: The network, which does not hold the pattern.
        found: Its reading, None for a transformer.
        samples: Its data.
        wanted: Cells an axis.
        knots: Units of the response curve, None for too many.
        channels: Channels of the pattern.
        axis_aligned: Whether h itself is injected.
    """
    if network is None or knots is None:
        return None
    if found is None:
        return _of_stream(network, samples, wanted, knots)
    from landform.imprint.widening.enough import least_extra
    from landform.program.capacity import fits

    def fitting(rooms: "Sequence[Room]", check: Any) -> bool:
        return fits(
            rooms,
            wanted,
            knots=knots,
            channels=channels,
            per_hinge=found.per_hinge,
            axis_aligned=axis_aligned,
            check=check,
        )

    extra = least_extra(found, network, fitting)
    return None if extra is None else {"extra": extra}


def _of_stream(network: Any, samples: Any, wanted: tuple[int, ...], knots: int) -> dict[str, int] | None:
    from landform.imprint.lower.post_norm import find_any_stream
    from landform.imprint.widening.configured import is_configured
    from landform.imprint.widening.enough import least_hidden
    from landform.program.stream import to_stream
    from landform.program.stream_capacity import generic_program, stream_forms

    stream, z = find_any_stream(network, samples.inputs[:2]), len(wanted)
    made = [generic_program(max(wanted), z, form, knots) for form in stream_forms(z)]
    programs = [program for program in made if program is not None]
    for repeat in (1, 2, 3, 4) if is_configured(network) else (1,):
        found = []
        for program in programs:

            def fitting(room: int, hidden: list[int], per_linear: int, program: Any = program) -> bool:
                to_stream(program, room=room, hidden=hidden, per_linear=per_linear)
                return True

            found.append(least_hidden(stream, z, fitting, repeat))
        counts = [count for count in found if count is not None]
        if counts:
            return {"extra": min(counts)} | ({"repeat": repeat} if repeat > 1 else {})
    return None


def call_of(arguments: dict[str, int]) -> str:
    """Return a call of `landform.widen` as one would type it.

    Example:
        >>> call_of({"extra": 8, "repeat": 2})
        'lf.widen(model, 8, repeat=2)'
    """
    more = "".join(f", {name}={value}" for name, value in arguments.items() if name != "extra")
    return f"lf.widen(model, {arguments['extra']}{more})"
