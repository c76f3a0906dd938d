"""What an imprint's surface becomes on another data set: predicted, to be measured by `landform.scan`."""

from typing import TYPE_CHECKING, Union

from landform.data import load_data

if TYPE_CHECKING:
    from landform.imprint.imprint import Imprint
    from landform.imprint.other_data import OffsetTransfer, PerSampleTransfer
    from landform.response import Transfer


def transfer(
    imprint: "Imprint", data: object, *, head: int = 0
) -> Union["Transfer", "OffsetTransfer", "PerSampleTransfer"]:
    """Predict the surface of an imprint on another data set.

    At h the other set's loss is ρ̃(s(h)), with ρ̃ that set's own response along the imprint's ray: the level sets are
    unions of the old ones, identical iff ρ̃ is injective on the range, and heights move by ``.remap``. Only the labels
    of the other set enter. ``scan(imprint, data=…)`` then measures it, beside this prediction.

    In Theorem 2 the network reads its input, so what enters are the trained network's outputs on the other set
    (``method="offset"``: ``.start`` is ρ̃'(0), and where it is negative the lowest level sets fold) or its scores
    (``"per-sample"``: (1 − e)·t + e·(log(C − 1) − log(1 − e^(−t))), ``.error`` is e).

    Args:
        imprint: Any imprint.
        data: Anything `landform.data.load_data` takes, under the same loss.
        head: Which head of a network with several.

    Returns:
        The prediction: ``.order``, ``.identical``, ``.condition`` in words, ``.remap(t)``.

    Raises:
        DataError: If the labels do not fit the loss.
        InputError: If the losses differ.

    Cost:
        Constant imprints: none; Theorem 2: one pass over the other data.

    References:
        Czarnecki et al., arXiv 1912.07559, after Theorem 1: "transfers to every data set with the same label marginal";
        the condition for level sets is sharper.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint("formula:sphere", "digits", certify=False)
        >>> lf.transfer(made, lf.load_data("digits", split="test")).order
        'kept'
    """
    from landform.imprint.other_data import offset_transfer, per_sample_transfer  # it builds, which scans need not load
    from landform.response import respond_like
    from landform.response import transfer as compare
    from landform.response.offset import OffsetResponse
    from landform.response.per_sample import PerSampleResponse
    from landform.response.token_offset import TokenOffsetResponse

    response = imprint.responses[head]
    if isinstance(response, PerSampleResponse):
        return per_sample_transfer(imprint, data)
    if isinstance(response, OffsetResponse | TokenOffsetResponse):
        return offset_transfer(imprint, data)
    other = load_data(data)
    return compare(response, respond_like(response, other.targets, weights=other.weights), *imprint.range)
