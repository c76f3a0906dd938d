"""`ShownFigure`: a figure that a notebook shows when a cell ends with it or with its axes, pyplot or not."""

import io
from typing import Any

from matplotlib.figure import Figure

from landform.view.style import quiet_style

DPI = 110.0


class ShownFigure(Figure):
    r"""A figure that draws itself in a notebook.

    Notebooks know how to show figures, but only once pyplot is imported, and axes not at all.

    Example:
        >>> figure = ShownFigure(figsize=(2, 1))
        >>> ax = figure.add_subplot()
        >>> figure._repr_png_()[:4] == ax._repr_png_()[:4] == b"\x89PNG"
        True
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_axobserver(_show_axes)

    def _repr_png_(self) -> bytes:
        """Draw it; called by IPython."""
        stream = io.BytesIO()
        with quiet_style():
            self.savefig(stream, format="png", dpi=DPI)
        return stream.getvalue()


def _show_axes(figure: Figure) -> None:
    for ax in figure.axes:
        ax._repr_png_ = figure._repr_png_  # type: ignore[attr-defined]
