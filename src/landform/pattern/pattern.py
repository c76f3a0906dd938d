"""The pattern T: nodal values in [0, 1] on a Kuhn mesh, from wherever they come."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal, final

import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import InputError
from landform.mesh import Mesh
from landform.pattern.normalise import require_finite
from landform.pattern.original import Function, Pixels
from landform.pattern.resolution import MAX_CHANNELS, check_cells

Resolution = int | Sequence[int]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Pattern:
    """A function T from [0,1]^z to [0,1], linear on each simplex of a Kuhn mesh.

    ``values[i1, …, iz]`` is T(i1/N1, …, iz/Nz): a resolution of N cells an axis has (N + 1)^z nodal values. In
    pictures h1 points right and h2 up, so ``values[i1, i2]`` is the picture at the fraction i1/N1 from the left and
    i2/N2 from the *bottom*; white is high (1) and black low (0).

    Attributes:
        values: Nodal values in [0,1], ``[*nodes]``, or ``[*nodes, channels]`` where there are channels.
        name: A short name for titles and reports.
        channels: None for one unnamed channel, else the size of the trailing dim: one channel a head.
        source: Where the values come from, in JSON types: ``kind``, the file's name (not its path), the options, and
            ``range`` (lo, hi), the original values that became 0 and 1 (before ``invert``).
        original: What was sampled, in the pattern's units, for `landform.pattern.resampling_error`; None where the
            values are themselves the original, or where a picture had too many pixels to keep.

    Raises:
        InputError: If values are no float64 tensor, not finite, outside [0,1], or on a grid beyond the limits
            (65536 cells for z = 1, 1024 for z = 2, 64 for z = 3, 16 for z = 4).

    Example:
        >>> ramp = Pattern(torch.tensor([[0.0, 0.0], [0.5, 1.0]], dtype=torch.float64), name="ramp")
        >>> ramp.resolution, ramp.floor, ramp.ceiling
        ((1, 1), 0.0, 1.0)
        >>> ramp(torch.tensor([[1.0, 0.5]], dtype=torch.float64)).tolist()
        [0.75]
    """

    values: Float64[Tensor, "..."]
    name: str = "pattern"
    channels: int | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    original: Pixels | Function | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the promises made by the class docstring."""
        values = self.values
        if not isinstance(values, Tensor) or values.dtype != torch.float64:
            got = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise InputError(f"pattern values must be a float64 tensor, got {got}; Pattern.from_array converts")
        if self.channels is not None and (values.ndim == 0 or values.shape[-1] != self.channels):
            raise InputError(f"channels = {self.channels}, but values have shape {tuple(values.shape)}")
        if self.channels is not None and not 1 <= self.channels <= MAX_CHANNELS:
            raise InputError(f"channels = {self.channels}: a pattern has 1 to {MAX_CHANNELS} channels")
        check_cells(self.resolution)
        require_finite(values, "the pattern")
        if self.floor < 0 or self.ceiling > 1:
            raise InputError(
                f"pattern values lie in [{self.floor}, {self.ceiling}], wanted [0, 1]; Pattern.from_array normalises"
            )

    def __repr__(self) -> str:
        """Say what it is in one line."""
        cells = " × ".join(map(str, self.resolution))
        colour = "" if self.channels is None else f", {self.channels} channels"
        return f"Pattern({self.name!r}, {cells} cells{colour}, values {self.floor:.3g} … {self.ceiling:.3g})"

    @property
    def resolution(self) -> tuple[int, ...]:
        """Cells per axis."""
        shape = self.values.shape if self.channels is None else self.values.shape[:-1]
        return tuple(nodes - 1 for nodes in shape)

    @property
    def z(self) -> int:
        """Number of dimensions."""
        return len(self.resolution)

    @property
    def mesh(self) -> Mesh:
        """The Kuhn mesh that carries the nodal values."""
        return Mesh(self.resolution)

    @functools.cached_property
    def floor(self) -> float:
        """Least value over the box, attained at a node."""
        return float(self.values.min())

    @functools.cached_property
    def ceiling(self) -> float:
        """Greatest value over the box, attained at a node."""
        return float(self.values.max())

    @property
    def is_constant(self) -> bool:
        """Whether all values agree to within rounding (1e-12)."""
        return self.ceiling - self.floor <= 1e-12

    def __call__(self, h: Float64[Tensor, "points z"]) -> Float64[Tensor, "points *channels"]:
        """Interpolate linearly on each simplex.

        Args:
            h: Points of [0,1]^z.

        Returns:
            T(h): one value, or one per channel, for each point.
        """
        result: Tensor = self.mesh.interpolate(self.values, h)
        return result

    @classmethod
    def from_image(
        cls,
        path: str | PathLike[str],
        *,
        resolution: Resolution = 64,
        colour: bool = False,
        fit: Literal["keep", "stretch"] = "keep",
        background: str = "white",
        invert: bool = False,
        contrast: Literal["none", "stretch"] = "none",
        allow_constant: bool = False,
    ) -> "Pattern":
        """Read a picture: PNG, JPEG, WebP, GIF, BMP, TIFF and whatever else of the kind Pillow decodes by itself.

        Node (i1, i2) sits at (i1·W/N1, i2·H/N2) on a picture of W × H pixels, so the outermost nodes lie on the
        picture's edges. Its value is the mean of the picture over the rectangle of one cell (at least one pixel)
        around it, clipped to the picture: an exact area average, in floating point, that neither rings nor leaves
        the range of the pixels. When the grid is finer than the picture that is bilinear interpolation.

        EXIF rotation is applied, transparency is laid on the background, 16-bit greys keep their depth, colour
        profiles are ignored, and animations give their first frame. Reading never runs code from the file.

        Args:
            path: The file.
            resolution: Cells an axis, or one number per axis. Default 64.
            colour: False for grey, 0.299 R + 0.587 G + 0.114 B (ITU-R 601-2); True for three channels R, G, B.
            fit: ``"keep"`` (default, since a stretched face is a wrong face) pads the shorter side with background
                to a square; ``"stretch"`` fills the box.
            background: Colour name or ``#rrggbb`` for padding and transparency.
            invert: Use 1 − value, so that dark is high.
            contrast: ``"stretch"`` maps the least nodal value to 0 and the greatest to 1 (jointly over channels).
            allow_constant: Accept a picture of one shade, which makes a flat loss. Default False: it is usually an
                accident.

        Returns:
            The pattern, with its pixels in ``original`` up to 16 million values.

        Raises:
            InputError: If the file is missing, not an image, damaged, over 64 megapixels, of size 0 or constant, or
                an option is wrong.

        Example:
            >>> Pattern.from_image(getfixture("tmp_path") / "no.png")
            Traceback (most recent call last):
            landform.errors.InputError: no such file: .../no.png
        """
        from landform.pattern import image

        return image.read(
            path,
            resolution=resolution,
            colour=colour,
            fit=fit,
            background=background,
            invert=invert,
            contrast=contrast,
            allow_constant=allow_constant,
        )

    @classmethod
    def from_text(
        cls, text: str, *, resolution: Resolution = 64, margin: float | int = 0.06, invert: bool = False
    ) -> "Pattern":
        r"""Draw text, black (low) on white (high), as large as fits the square.

        Args:
            text: One or more lines, separated by ``\n``.
            resolution: Cells an axis. Default 64, enough for about ten letters a line.
            margin: White on each side, as a fraction of the box, at least; in [0, 0.45]. Default 0.06.
            invert: White on black instead.

        Returns:
            The pattern.

        Raises:
            InputError: If the text is empty or too long, or DejaVu Sans lacks one of its characters.

        Example:
            >>> hill = Pattern.from_text("HILL", resolution=32)
            >>> hill.name, hill.floor < 0.2, float(hill.values[0, 0])
            ('text:HILL', True, 1.0)
        """
        from landform.pattern import text as source

        return source.draw(text, resolution=resolution, margin=margin, invert=invert)

    @classmethod
    def from_qr(
        cls,
        text: str,
        *,
        resolution: int | None = None,
        scale: int | None = None,
        error: Literal["l", "m", "q", "h"] = "m",
        border: int = 4,
        invert: bool = False,
    ) -> "Pattern":
        """Make a QR code whose modules are sampled at the nodes; dark modules are low (0).

        A code of M × M modules, border included, has scale × scale nodes a module, so N = M·scale − 1. Each node
        lies inside its own module.

        Args:
            text: What the code says.
            resolution: Cells an axis; must be M·scale − 1 for some scale. Default: from ``scale``.
            scale: Nodes a module and axis. Default 2: each module keeps a flat core, so readers bear blur and tilt.
                With 1 a clean rendering is read as well, from a quarter of the nodes.
            error: Error correction: l, m (default), q or h recovers about 7, 15, 25 or 30 % of the code.
            border: Modules of white around the code. Default 4, which the QR standard asks for.
            invert: Dark modules high instead. Some readers do not accept this.

        Returns:
            The pattern.

        Raises:
            InputError: If the text is empty or too long, or the resolution fits no whole scale (the message lists
                those that do).

        Example:
            >>> Pattern.from_qr("landform").resolution  # 21 modules and 2·4 of border, 2 nodes each
            (57, 57)
        """
        from landform.pattern import qr

        return qr.encode(text, resolution=resolution, scale=scale, error=error, border=border, invert=invert)

    @classmethod
    def from_formula(
        cls,
        name: str,
        *,
        resolution: Resolution | None = None,
        z: int = 2,
        log: bool = False,
        domain: tuple[float | int, float | int] | None = None,
        invert: bool = False,
        **parameters: float | int,
    ) -> "Pattern":
        """Sample a formula from the catalogue (`landform.pattern.formulas`) at the nodes.

        The formula's customary domain is mapped to [0,1]^z and its nodal values f to T = (f − lo)/(hi − lo) with lo
        and hi their extremes, recorded in ``source["range"]``.

        Args:
            name: A name in the catalogue.
            resolution: Cells an axis. Default 64, or 16 for z = 4.
            z: Number of dimensions. Default 2.
            log: Use T = log(1 + f − lo)/log(1 + hi − lo), for formulas whose valley drowns in a large range, such as
                rosenbrock. Default False, so that a name means the formula it names.
            domain: (low, high) for every axis in place of the customary domain.
            invert: Use 1 − T.
            **parameters: The formula's own, such as ``squares`` of checkerboard.

        Returns:
            The pattern.

        Raises:
            UnknownNameError: If no formula has that name.
            InputError: If the formula is not defined for z, or a parameter is unknown or out of range.

        Example:
            >>> sphere = Pattern.from_formula("sphere", resolution=4)
            >>> sphere.values[:, 2].tolist()  # x² along the axis, divided by 2·5.12²
            [0.5, 0.125, 0.0, 0.125, 0.5]
        """
        from landform.pattern import formula

        return formula.sample(
            name, resolution=resolution, z=z, log=log, domain=domain, invert=invert, parameters=parameters
        )

    @classmethod
    def from_callable(
        cls,
        function: Callable[[Any], Any],
        *,
        resolution: Resolution | None = None,
        z: int = 2,
        channels: int | None = None,
        normalise: bool | None = None,
        name: str | None = None,
    ) -> "Pattern":
        """Sample a vectorised function at the nodes.

        Args:
            function: Takes a float64 tensor ``[points, z]`` of points in [0,1]^z and returns ``[points]`` (or
                ``[points, channels]``). Functions that want and return NumPy arrays work too.
            resolution: Cells an axis. Default 64, or 16 for z = 4.
            z: Number of dimensions. Default 2.
            channels: None for one unnamed channel.
            normalise: Map the nodal values' range to [0,1]; None (default) does so only if some lie outside.
            name: Default: the function's own name.

        Returns:
            The pattern; the function is kept in ``original``.

        Raises:
            InputError: If the result has another shape or is not finite, or leaves [0,1] with ``normalise=False``.

        Example:
            >>> Pattern.from_callable(lambda h: h[:, 0] * h[:, 1], resolution=2).values[1].tolist()
            [0.0, 0.25, 0.5]
        """
        from landform.pattern import function as source

        return source.sample(function, resolution=resolution, z=z, channels=channels, normalise=normalise, name=name)

    @classmethod
    def from_array(
        cls, values: Any, *, channels: bool = False, normalise: bool | None = None, name: str = "array"
    ) -> "Pattern":
        """Take nodal values as they are: ``values[i1, …, iz]`` is T(i/N).

        Args:
            values: A tensor, NumPy array or nested list of real numbers with 1 to 4 dims; copied.
            channels: Whether the last dim counts channels; it then comes on top of the 1 to 4.
            normalise: Map the values' range (jointly over channels) to [0,1]; None (default) does so only if some
                lie outside.
            name: The pattern's name.

        Returns:
            The pattern.

        Raises:
            InputError: If values are complex, text or objects, not finite, of the wrong shape, constant outside
                [0,1], or outside [0,1] with ``normalise=False``.

        Example:
            >>> heights = Pattern.from_array([10.0, 20.0, 14.0])
            >>> heights.values.tolist(), heights.source["range"]
            ([0.0, 1.0, 0.4], [10.0, 20.0])
        """
        from landform.pattern import array

        return array.wrap(values, channels=channels, normalise=normalise, name=name)

    @classmethod
    def from_npy(cls, path: str | PathLike[str], *, channels: bool = False, normalise: bool | None = None) -> "Pattern":
        """Read nodal values from an ``.npy`` file, as `from_array` takes them.

        The header is checked before any data is read: dtype, shape and limits. Pickled objects are refused.

        Args:
            path: The file.
            channels: Whether the last dim counts channels.
            normalise: As for `from_array`.

        Returns:
            The pattern.

        Raises:
            InputError: If the file is missing, no ``.npy``, truncated, pickled, or its array unfit.

        Example:
            >>> import numpy as np
            >>> file = getfixture("tmp_path") / "steps.npy"
            >>> np.save(file, np.array([0.0, 0.5, 1.0]))
            >>> Pattern.from_npy(file).name
            'steps.npy'
        """
        from landform.pattern import npy

        return npy.read(path, channels=channels, normalise=normalise)

    @classmethod
    def parse(cls, spec: str, **options: Any) -> "Pattern":
        """Make a pattern from one string, as the command line takes it.

        Args:
            spec: ``cat.png`` or any image file, ``text:HELLO``, ``qr:https://…``, ``formula:rastrigin``, ``x.npy``,
                or ``demo``, a bundled photograph.
            **options: Those of the source named (``resolution=``, ``z=``, ``colour=``, …); None means not given.

        Returns:
            The pattern.

        Raises:
            UnknownNameError: If the formula or the prefix is unknown.
            InputError: If there is no such file, or the source has no such option (the message lists its options).

        Example:
            >>> Pattern.parse("formula:ackley", resolution=16, z=1).resolution
            (16,)
        """
        from landform.pattern import parse

        return parse.parse(spec, **options)
