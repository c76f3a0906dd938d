"""What BatchNorm normalises by: the model's statistics, recomputed ones, or those of each batch."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from landform.calling import Model


def batch_norms(model: Model) -> list[_BatchNorm]:
    """List a model's BatchNorm layers; InstanceNorm and the like know no other samples.

    Args:
        model: The model.

    Returns:
        The layers.
    """
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)] if isinstance(model, nn.Module) else []


@contextlib.contextmanager
def by_batch(model: Model) -> Iterator[None]:
    """Normalise by the statistics of each batch inside; flags and momenta as before afterwards.

    Args:
        model: The model; all other layers stay in the mode that they are in.

    Yields:
        Nothing.
    """
    layers = batch_norms(model)
    before = [(layer.training, layer.momentum) for layer in layers]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer, (training, momentum) in zip(layers, before, strict=True):
            layer.training, layer.momentum = training, momentum


def averaging(model: Model, batches: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    """Set momenta, batch by batch, so that running statistics become the mean over all samples of the batches' own.

    Used inside `by_batch`. The running variance is then the mean variance *within* batches, as after training with
    these batches and as of `torch.optim.swa_utils.update_bn`; batches of a thousand leave out a thousandth.

    Args:
        model: The model.
        batches: Sizes and batches.

    Yields:
        The batches; the model is to be run on each before the next is taken.
    """
    layers, seen = batch_norms(model), 0
    for size, batch in batches:
        seen += size
        for layer in layers:
            layer.momentum = size / seen
        yield batch
