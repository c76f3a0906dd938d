"""From options to an imprint: the step of ``landform imprint`` that makes the network."""

from typing import TYPE_CHECKING, Any

from landform.cli.options import CompileOptions

if TYPE_CHECKING:
    from torch import nn

    from landform.data import Data
    from landform.imprint import Imprint
    from landform.pattern import Pattern, SumPattern


def compiled(
    shape: "Pattern | SumPattern",
    samples: "Data",
    compiling: CompileOptions,
    *,
    model: str,
    weights: str | None,
    head: str | None,
    widths: list[int] | None,
    dtype: str | None,
    loss: Any,
    other: str | None,
) -> "Imprint":
    """Compile a pattern as the options say, without the proof."""
    from landform.cli.sources import FIT, default_dtype, read_data, read_model, read_range
    from landform.errors import InputError
    from landform.imprint.make import imprint
    from landform.task import Task

    if widths and model != FIT:
        raise InputError("--widths builds a network; leave it out where --model names one")
    if head is not None and model == FIT:
        raise InputError("--head chooses one of the outputs of --model; name the network too")
    network = read_model(model, weights, dtype)
    second = None if other is None else read_data(other)
    with default_dtype(dtype):
        if widths:
            network = built(widths, samples, loss, shape.channels or 1)
        return imprint(
            shape,
            samples if network is None else Task(network, loss, samples, output=head),
            method=compiling.method,
            units=compiling.units,
            scores=compiling.scores,
            repair=compiling.repair,
            range=read_range(compiling.range),
            epsilon=compiling.epsilon,
            form=compiling.form,
            schedule=compiling.schedule,
            axis_aligned=compiling.axis_aligned,
            direct=compiling.direct,
            tolerance=compiling.tolerance,
            convex=compiling.convex,
            loss=loss if network is None else None,
            other=second,
            certify=False,
        )


def built(widths: list[int], samples: "Data", loss: Any, heads: int) -> "nn.Module":
    """Build an MLP of given hidden widths for a data set."""
    from landform.errors import InputError
    from landform.imprint.build import build_network
    from landform.response import respond

    if min(widths) < 1:
        raise InputError(f"--widths must be positive, got {' '.join(map(str, widths))}")
    outputs = None if isinstance(loss, str) else samples.classes
    size = respond(loss, samples.targets, outputs=outputs, weights=samples.weights).n_outputs
    return build_network(widths, samples.inputs.shape[1:], [size] * heads).to_empty(device="cpu").eval()
