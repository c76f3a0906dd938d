"""Three heads as red, green and blue: Figure 1 of Czarnecki et al., arXiv 1912.07559."""

from typing import TYPE_CHECKING

import numpy as np

from landform.errors import InputError
from landform.view.read import Floats, axes_of, channels_of, limits

if TYPE_CHECKING:
    import xarray


def in_colour(surface: "xarray.Dataset", variable: str = "loss") -> Floats:
    """Map the losses of three heads to colours.

    Channel c of a pixel is (loss_c − lo)/(hi − lo), cut at 0 and 1, with (lo, hi) the imprint's range, or the least and
    greatest value where the surface records none.

    Args:
        surface: A surface with three heads.
        variable: ``"loss"`` or ``"target"``.

    Returns:
        ``[nodes_1, nodes_2, 3]`` in [0, 1]; grey where a value is not finite.

    Raises:
        InputError: If there are not three heads.

    Example:
        >>> import xarray as xr
        >>> pixel = xr.Dataset({"loss": (("h1", "h2", "channel"), [[[2.0, 3.0, 2.5]]])}, attrs={"range": [2.0, 3.0]})
        >>> in_colour(pixel).tolist()
        [[[0.0, 1.0, 0.5]]]
    """
    if channels_of(surface) != 3:
        raise InputError(f"a colour picture needs three heads, the surface has {channels_of(surface)}")
    values = surface[variable].transpose(*axes_of(surface), "channel").values.astype(np.float64)
    lo, hi = surface.attrs.get("range", limits(values)) if "transfer" not in surface.attrs else limits(values)
    scaled = np.clip((values - lo) / (hi - lo if hi > lo else 1.0), 0.0, 1.0)
    return np.where(np.isfinite(values).all(axis=-1, keepdims=True), scaled, 0.5)
