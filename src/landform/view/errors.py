"""How many samples miss the pattern by how much: the histogram of an accounting, drawn."""

from typing import TYPE_CHECKING

import numpy as np

from landform.errors import InputError
from landform.view.style import MEASURED, QUIET, TARGET, new_figure, plain, quiet_style

if TYPE_CHECKING:
    import matplotlib.axes

    from landform.imprint.accounting import Accounting

LOWEST = 1e-16
"""Errors below are drawn here: a logarithmic axis has no 0."""


def error_histogram(
    *found: "Accounting", ax: "matplotlib.axes.Axes | None" = None, bins: int = 4, title: str | None = None
) -> "matplotlib.axes.Axes":
    """Draw the samples' worst errors ε_i on a logarithmic axis, in shares of each data set.

    A line marks the error up to which a sample counts as served; the legend gives the share served, the largest error
    of those, and the bound on the mean loss, 1/N Σ ε_i, with what was measured of it.

    Args:
        found: One or more accountings of one imprint, such as those of train and test data (`landform.account`).
        ax: Where to draw; a new figure by default.
        bins: Bars a decade; 4 show the gap between samples served and not.
        title: Above; none by default.

    Returns:
        The axes.

    Raises:
        InputError: If there is none, or their units differ.

    Example:
        >>> import torch
        >>> h, one = torch.zeros(1, 2), torch.ones(1, dtype=torch.float64)
        >>> worst = torch.tensor([1e-6, 1e-6, 1e-6, 0.5], dtype=torch.float64)
        >>> from landform.imprint.accounting import Accounting
        >>> ax = error_histogram(Accounting("train", h, one, worst, one, one, 1e-3, "nat"))
        >>> [round(float(bar.get_height()), 2) for bar in ax.patches if bar.get_height()]
        [0.75, 0.25]
    """
    if not found or len({each.unit for each in found}) > 1:
        raise InputError("a histogram of errors needs accountings in one unit: error_histogram(lf.account(made))")
    unit = found[0].unit
    worst = [each.worst.numpy().clip(LOWEST) for each in found]
    low = np.floor(np.log10(min(each.min() for each in worst)))
    high = max(np.ceil(np.log10(max(each.max() for each in worst))), low + 1)
    edges = 10.0 ** np.linspace(low, high, int(high - low) * bins + 1)
    edges[-1] *= 1 + 1e-9
    with quiet_style():
        own = new_figure(6.6, 3.1).add_subplot() if ax is None else ax
        for values, each, colour in zip(worst, found, _colours(len(found)), strict=True):
            r = each.row
            most = f", at most {r['max_served']:.1e}" if r["served"] else ""
            label = (
                f"{plain(each.name)}: {100 * r['served']:.2f} % served{most}\n"
                f"mean of errors {r['mean']:.1e}, |L − T| {r['loss']:.1e}"
            )
            own.hist(
                values,
                edges.tolist(),
                weights=np.full(len(values), 1 / len(values)),
                alpha=0.6,
                color=colour,
                label=label,
            )
        own.axvline(found[0].tolerance, color=QUIET, linestyle="--", linewidth=1.0)
        own.annotate(
            "served", (found[0].tolerance, 1.0), xycoords=("data", "axes fraction"), xytext=(-4, -10),
            textcoords="offset points", ha="right", color=QUIET, fontsize=8,
        )  # fmt: skip
        own.set(xscale="log", yscale="linear", ylim=(0, 1.0), ylabel="share of the samples")
        own.set(
            xlabel=f"worst error of a sample, max over h of |loss − target|{'' if unit == 'loss' else f' ({unit})'}"
        )
        own.set_xlim(left=min(float(edges[0]), found[0].tolerance / 10))  # the word "served" has its place in the axes
        own.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=max(1, min(2, len(found))))
        if title:
            own.set_title(plain(title))
    return own


def _colours(count: int) -> list[str]:
    return [MEASURED, TARGET, "#5a9367", "#b8860b"][:count] + [QUIET] * max(0, count - 4)
