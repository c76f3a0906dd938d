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
    widths: list[int] | None,
    dtype: str | None,
    loss: Any,
    other: str | None,
) -> "Imprint":
    """Compile a pattern as the options say, without the proof."""
    from landform.cli.sources import FIT, default_dtype, read_data, read_model, read_range
    from landform.errors import InputError, unknown_name
    from landform.imprint.constant import Options, imprint_constant
    from landform.imprint.make import METHODS, data_only
    from landform.task import Task

    if compiling.method not in METHODS:
        raise unknown_name("method", compiling.method, METHODS)
    if widths and model != FIT:
        raise InputError("--widths builds a network; leave it out where --model names one")
    network = read_model(model, weights, dtype)
    options = Options(
        range=read_range(compiling.range),
        epsilon=compiling.epsilon,
        form=compiling.form,
        schedule=compiling.schedule,
        axis_aligned=compiling.axis_aligned,
        direct=compiling.direct,
        tolerance=compiling.tolerance,
        convex=compiling.convex,
    )
    second = None if other is None else read_data(other)
    with default_dtype(dtype):
        if widths:
            network = built(widths, samples, loss, shape.channels or 1)
        if network is None:
            return imprint_constant(shape, None, data_only(samples, loss), options, second)
        task = Task(network, loss, samples)
        return imprint_constant(shape, task, task, options, second)


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
