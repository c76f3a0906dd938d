"""From the end of a head and a loss to the response: the loss as a function of what the head's Linear emits.

A head that ends in a softmax emits p = softmax(z). Of such a head −log p_y is the cross-entropy of z, whose response is
known; so is that of a LogSoftmax under the negative log-likelihood.
"""

from collections.abc import Sequence

from torch import Tensor

from landform.data import Data
from landform.errors import ArchitectureError
from landform.imprint.lower.network import Network
from landform.losses import Loss, LossLike, resolve_loss
from landform.response import AbstractResponse, respond

TAKES = {"softmax": ("log_loss",), "log_softmax": ("nll", "cross_entropy")}
"""The losses whose response is known behind each end of a head; softmax(log softmax(z)) = softmax(z)."""
PROBABILITIES = ("nll", "log_loss")
"""Losses that take probabilities or their logarithms."""


def response_of(
    loss: LossLike, data: Data, *, outputs: int | None, end: str = "", name: str = "the output", convex: bool = False
) -> AbstractResponse:
    """Return the response of a data set behind one head.

    Args:
        loss: As of a task.
        data: The data; only labels and weights count.
        outputs: Outputs of the head, None for as many as the labels say.
        end: What it ends in: ``"softmax"``, ``"log_softmax"`` or ``""``.
        name: Its Linear, for errors.
        convex: As in `landform.imprint`.

    Returns:
        The loss as a function of what the Linear emits.

    Raises:
        ArchitectureError: A loss that does not fit the end.

    Example:
        >>> from landform.data import load_data
        >>> response_of("nll", load_data("digits"), outputs=10, end="log_softmax").name
        'cross_entropy'
    """
    form = resolve_loss(loss)
    if not end and form.name not in PROBABILITIES:
        return respond(loss, data.targets, outputs=outputs, weights=data.weights, convex=convex)
    if form.name not in TAKES.get(end, ()):
        raise ArchitectureError(misfit(form, end, name))
    return respond("cross_entropy", data.targets, outputs=outputs, weights=data.weights, **form.options)


def misfit(form: Loss, end: str, name: str) -> str:
    """Say why a loss does not fit the end of a head, and which one does."""
    if not end:
        wanted = "probabilities" if form.name == "log_loss" else "logarithms of probabilities"
        more = "Softmax" if form.name == "log_loss" else "LogSoftmax"
        return (
            f"the loss {form.name} takes {wanted}, and '{name}' emits logits; use loss='cross_entropy', or put a {more}"
            " behind it"
        )
    if end == "softmax" and form.name == "cross_entropy":
        return (
            f"the output of '{name}' goes through a softmax, and cross_entropy takes another one of it, as PyTorch's"
            " does: a loss that cannot come near 0, nor far up. For −log of the probabilities that the network emits"
            " use loss='log_loss'; or take the softmax off (nn.Identity() in its place) and keep cross_entropy"
        )
    names = " or ".join(f"loss='{known}'" for known in TAKES[end])
    return (
        f"the output of '{name}' goes through a {end}, behind which landform knows {names}, not {form.name}; use that,"
        " or take the softmax off (nn.Identity() in its place)"
    )


def signals(outputs: Sequence[Tensor], network: Network) -> tuple[Tensor, ...]:
    """Return what a response takes of what a network returned: probabilities as logarithms, in float64.

    Args:
        outputs: One tensor a head.
        network: Its reading.
    """
    pairs = zip(outputs, network.ends, strict=True)
    return tuple(out.double().log() if end == "softmax" else out for out, end in pairs)
