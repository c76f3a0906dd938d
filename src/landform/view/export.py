"""Surfaces as files that other programs read: NetCDF and CSV."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from landform.errors import InputError, MissingExtraError
from landform.view.files import draft_beside, said, write_atomically

if TYPE_CHECKING:
    import xarray

Version = Literal["auto", 3, 4]


def to_netcdf(surface: "xarray.Dataset", path: str | Path, *, version: Version = "auto") -> int:
    """Write a surface as NetCDF, the file replaced whole or not at all.

    Args:
        surface: The surface.
        path: A file in an existing folder.
        version: 4, which is HDF5 and needs the netCDF4 package (``pip install landform[netcdf]``); 3, the classic
            format, which needs nothing but has no 64-bit integers, so that those become 32-bit; ``"auto"``: 4 where
            it can be written, else 3.

    Returns:
        The version that was written.

    Raises:
        InputError: If there is no such folder or version.
        MissingExtraError: Version 4 without the netCDF4 package.
        OutputError: No room, or no permission.

    Example:
        >>> import xarray as xr
        >>> file = getfixture("tmp_path") / "line.nc"
        >>> line = xr.Dataset({"loss": ("h1", [1.0, 2.0])}, attrs={"complete": True, "range": [0, 1]})
        >>> to_netcdf(line, file, version=3)
        3
        >>> with xr.open_dataset(file) as again:
        ...     again.loss.values.tolist(), again.attrs["complete"]
        ([1.0, 2.0], 'True')
    """
    file = Path(path)
    if version not in ("auto", 3, 4):
        raise InputError(f"version is {version!r}; wanted 3, 4 or 'auto'")
    if not file.parent.is_dir():
        raise InputError(f"no such folder: {file.parent}; create it first")
    able = _has_netcdf4()
    if version == 4 and not able:
        raise MissingExtraError("NetCDF 4 needs the netCDF4 package; pip install 'landform[netcdf]', or pass version=3")
    chosen = 4 if able and version != 3 else 3
    flat = plain_attrs(surface)
    if chosen == 3:
        wide = [name for name, values in flat.variables.items() if values.dtype == np.int64]
        flat = flat.assign({name: flat[name].astype(np.int32) for name in wide})
    with said(file), draft_beside(file) as draft:
        try:
            flat.to_netcdf(draft, engine="netcdf4" if chosen == 4 else "scipy")
        except OSError:
            draft.write_bytes(bytes(flat.nbytes))  # HDF5 says "permission denied" whatever is wrong; this says what is
            raise
        content = draft.read_bytes()
    write_atomically(file, content)
    return chosen


def to_csv(surface: "xarray.Dataset", path: str | Path | None = None) -> str:
    """Write one row a node (and head, and part of the data): places, then every variable, in numbers that read back.

    Args:
        surface: The surface.
        path: A file, replaced whole or not at all; None only returns the text.

    Returns:
        The text.

    Raises:
        OutputError: No room, no permission, no such folder.

    Example:
        >>> import xarray as xr
        >>> print(to_csv(xr.Dataset({"loss": ("h1", [0.5, 2.0])}, {"h1": [0.0, 1.0]})))
        h1,loss
        0.0,0.5
        1.0,2.0
        <BLANKLINE>
    """
    frame = surface.to_dataframe().reset_index()
    places = [name for name in ("split", "node", *_coordinates(surface), "channel") if name in frame]
    ordered = frame[places + [name for name in frame.columns if name not in places]]
    text: str = ordered.to_csv(index=False)
    if path is not None:
        write_atomically(Path(path), text.encode())
    return text


def plain_attrs(surface: "xarray.Dataset") -> "xarray.Dataset":
    """Return a copy whose attributes are numbers, texts and lists of them: all that NetCDF holds.

    Example:
        >>> import xarray as xr
        >>> plain_attrs(xr.Dataset(attrs={"a": True, "b": {"c": 1}, "d": [0.5, 1], "e": None})).attrs
        {'a': 'True', 'b': "{'c': 1}", 'd': [0.5, 1], 'e': ''}
    """
    flat = surface.copy()
    holders: list[Any] = [flat, *flat.variables.values()]
    for holder in holders:
        holder.attrs = {str(key): _plain(value) for key, value in holder.attrs.items()}
    return flat


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, str | int | float | np.number):
        return value
    if isinstance(value, list | tuple) and value:
        if all(isinstance(item, int | float | np.number) and not isinstance(item, bool) for item in value):
            return list(value)
        return ", ".join(map(str, value))
    return str(value)


def _has_netcdf4() -> bool:
    try:
        import netCDF4  # noqa: F401 - whether xarray can write it
    except ImportError:
        return False
    return True


def _coordinates(surface: "xarray.Dataset") -> list[str]:
    names = [str(name) for name in surface.coords if str(name)[:1] == "h" and str(name)[1:].isdigit()]
    return sorted(names, key=lambda name: int(name[1:]))
