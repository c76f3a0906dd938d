"""`save`: write an imprint as a bundle, all of it or nothing."""

import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from landform.bundle import document as doc
from landform.bundle import layout
from landform.bundle.architecture import persistent_buffers
from landform.bundle.arrays import write_array, write_tensors
from landform.bundle.atomic import check_target, locate, publish, recover
from landform.errors import BundleError, InputError, LandformError
from landform.imprint.imprint import Imprint

if TYPE_CHECKING:
    import xarray as xr

_PNG = b"\x89PNG\r\n\x1a\n"


def save(
    imprint: Imprint,
    path: str | PathLike[str],
    *,
    force: bool = False,
    surface: "xr.Dataset | None" = None,
    picture: str | PathLike[str] | bytes | None = None,
) -> Path:
    """Write an imprint as a bundle: a folder of safetensors, ``.npy`` and JSON files, readable without landform.

    The folder is written beside its place under another name, flushed to disk and renamed in. A full disk, Ctrl-C or a
    killed process leaves an old bundle as it was (after a kill in the one moment between two renames the next `save`
    or `load` of the path puts it back), and no half-written one.

    Args:
        imprint: What to save, with its certificate if it has one.
        path: Folder to make, customarily ``name.landform``; missing parents are made too.
        force: Replace a bundle that is there. False, since a bundle may have cost hours. A file, or a folder that holds
            anything but a bundle, is never replaced.
        surface: A measured surface, stored as ``surface.zarr``.
        picture: A PNG, as a path or as bytes, stored as ``surface.png``.

    Returns:
        The path, as given.

    Raises:
        BundleError: If something is there already, or writing failed (full disk, read-only folder).
        InputError: If the imprint has values that are not finite or types that JSON cannot hold, or the picture is no
            PNG.

    Cost:
        The tensors are written once, straight from memory, and read once for their SHA-256.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint(lf.Pattern.parse("formula:sphere", resolution=4), "digits")
        >>> folder = save(made, getfixture("tmp_path") / "bowl.landform")
        >>> sorted(file.name for file in folder.iterdir())[:3]
        ['certificate.json', 'directions.safetensors', 'imprint.json']
    """
    target = locate(path)
    doc.check_imprint(imprint)
    image = _read_picture(picture)
    try:
        recover(target)
        check_target(target, force=force)
        publish(target, lambda folder: _fill(folder, imprint, surface, image))
    except LandformError:
        raise
    except OSError as error:
        kept = "; the bundle that is there is as it was" if os.path.exists(target) else ""  # noqa: PTH110  no error for a name too long
        raise BundleError(
            f"could not write bundle {target}: {error.strerror or error}{kept}. Free some space or choose"
            " another folder"
        ) from error
    return Path(path)


def _fill(folder: Path, imprint: Imprint, surface: "xr.Dataset | None", picture: bytes | None) -> None:
    """Write every file; ``imprint.json`` last, since it holds the hashes of the others."""
    buffers = persistent_buffers(imprint.model)
    write_tensors(folder / layout.ORIGIN, {**imprint.subspace.origin, **buffers}, sorted(buffers))
    moved = {f"{i}/{name}": t for i, part in enumerate(imprint.subspace.directions) for name, t in part.items()}
    write_tensors(folder / layout.DIRECTIONS, moved, [])
    write_array(folder / layout.PATTERN, doc.pattern_array(imprint))
    write_array(folder / layout.TARGETS, doc.targets_array(doc.distinct_responses(imprint)[0]))
    proof = imprint.certificate
    layout.write_json(folder / layout.CERTIFICATE, None if proof is None else layout.plain(proof.to_json()))
    if surface is not None:
        surface.to_zarr(folder / layout.SURFACE, mode="w", consolidated=False, zarr_format=3)
    if picture is not None:
        (folder / layout.PICTURE).write_bytes(picture)
    files = {}
    for file in sorted(folder.iterdir()):
        size = {} if file.is_dir() else {"bytes": file.stat().st_size}
        files[file.name] = {"sha256": layout.digest(file), **size}
    layout.write_json(folder / layout.DOCUMENT, {**doc.make_document(imprint), "files": files})


def _read_picture(picture: str | PathLike[str] | bytes | None) -> bytes | None:
    """Read the picture before anything is written: it may lie in the bundle that is to be replaced."""
    if picture is None:
        return None
    if not isinstance(picture, bytes):
        file = Path(picture)
        try:
            picture = file.read_bytes()
        except OSError as error:
            raise InputError(f"picture {file} cannot be read: {error.strerror}") from error
    if not picture.startswith(_PNG):
        raise InputError(f"the picture of a bundle is a PNG, got bytes that begin with {picture[:8]!r}")
    return picture
