"""What an imprint's surface becomes on another data set, predicted from its labels alone."""

from landform.data import load_data
from landform.imprint.imprint import Imprint
from landform.response import Transfer, respond_like
from landform.response import transfer as compare


def transfer(imprint: Imprint, data: object, *, head: int = 0) -> Transfer:
    """Predict the surface of a constant imprint on another data set.

    At h the other set's loss is ρ̃(s(h)), with ρ̃ that set's own response along the imprint's ray: the level sets are
    unions of the old ones, identical iff ρ̃ is injective on the range, and heights move by ``.remap``. Only the labels
    of the other set enter. ``scan(imprint, data=…)`` then measures it, beside this prediction.

    Args:
        imprint: A constant imprint.
        data: Anything `landform.data.load_data` takes, under the same loss.
        head: Which head of a network with several.

    Returns:
        The prediction: ``.order``, ``.identical``, ``.condition`` in words, ``.remap(t)``.

    Raises:
        DataError: If the labels do not fit the loss.
        InputError: If the losses differ.

    References:
        Czarnecki et al., arXiv 1912.07559, after Theorem 1: "transfers to every data set with the same label marginal";
        the condition for level sets is sharper.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint("formula:sphere", "digits", certify=False)
        >>> lf.transfer(made, lf.load_data("digits", split="test")).order
        'kept'
    """
    other = load_data(data)
    response = imprint.responses[head]
    return compare(response, respond_like(response, other.targets, weights=other.weights), *imprint.range)
