"""`load` and `info`: read a bundle back, trusting nothing in it and running nothing from it."""

import math
import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from landform.bundle import layout
from landform.bundle.arrays import dtype_of, read_array, read_tensors
from landform.bundle.atomic import locate, recover
from landform.bundle.document import SAVED
from landform.bundle.restore import check_heads, fill_model, make_pattern, make_responses, make_task, split_directions
from landform.errors import BundleError
from landform.imprint.imprint import Imprint
from landform.losses import LossLike
from landform.subspace import Subspace

if TYPE_CHECKING:
    from landform.bundle.schema import Document


def load(
    path: str | PathLike[str],
    *,
    model: nn.Module | None = None,
    data: object = None,
    loss: LossLike | None = None,
    verify: bool = True,
    check_data: bool = True,
) -> Imprint:
    """Read a bundle.

    Nothing in a bundle is code, and nothing is imported or called because a bundle names it. Headers are compared with
    ``imprint.json`` before data are read, so that memory is bounded by the size of the files.

    Args:
        path: The folder.
        model: A network of the class that was saved, for bundles of your own class; it is copied, not changed. None
            rebuilds Sequentials of Linear, ReLU, LeakyReLU, Dropout, Flatten, Identity and BatchNorm1d from JSON.
        data: Anything that `landform.data.load_data` takes; None gives an imprint without a task, which can still be
            scanned and certified: the bundle holds the label statistics. A name or path is read with the part (train,
            test) that the bundle names.
        loss: The loss, for bundles made with a function of your own, which no file holds.
        verify: Compare the SHA-256 of every file. False reads altered files as far as they are well formed, so that
            the certificate can be proved again on what they hold; so do bundles whose hashes were taken out.
        check_data: Refuse data whose hash is not the one in the bundle. False takes others under the same loss; the
            responses, and so the promise, remain those of the data that the bundle was made for.

    Returns:
        The imprint, with the certificate that was saved. ``meta["saved"]`` holds what the bundle says of task, loss and
        data.

    Raises:
        BundleError: If there is no bundle, a file is missing, damaged or altered (it is named), the format version is
            unknown, or the data are other data.
        ArchitectureError: If the network is of a class that the bundle cannot rebuild and none, or one that does not
            fit, was given.
        InputError: If a loss is missing, or is another one.

    Cost:
        Two passes over the files, one of them for the hashes; memory for one copy of the tensors.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint(lf.Pattern.parse("formula:sphere", resolution=4), "digits")
        >>> again = load(made.save(getfixture("tmp_path") / "bowl.landform"))
        >>> again.certificate == made.certificate, again.task is None
        (True, True)
    """
    folder = _open(path)
    document, certificate = _read_documents(folder)
    if verify:
        _verify(folder, document)
    state = read_tensors(
        folder,
        layout.ORIGIN,
        {name: (t.shape, dtype_of(t.dtype, str(folder / layout.DOCUMENT))) for name, t in document.tensors.items()},
    )
    network = fill_model(document, state, model)
    origin = {name: parameter.detach() for name, parameter in network.named_parameters()}
    moved = read_tensors(folder, layout.DIRECTIONS, None)
    directions = split_directions(moved, document.z, origin, str(folder / layout.DIRECTIONS))
    pattern = make_pattern(document, folder)
    size = sum(r.shape[0] * r.shape[1] for r in document.responses.distinct)
    responses = make_responses(document, read_array(folder, layout.TARGETS, (size,)), loss)
    check_heads(document, network, responses, pattern)
    saved = document.model_dump(mode="json", include={"task", "loss", "data"})
    return Imprint(
        model=network,
        subspace=Subspace(origin, directions),
        pattern=pattern,
        task=make_task(document, network, data, loss, check_data=check_data),
        responses=responses,
        range=document.range,
        certificate=certificate,
        spline_stage=document.spline_stage,
        meta={**document.meta, SAVED: saved},
    )


def info(path: str | PathLike[str]) -> dict[str, Any]:
    """Return what a bundle says of itself, from its JSON files alone.

    Args:
        path: The folder.

    Returns:
        The contents of ``imprint.json``, and beside them ``path``, ``parameters`` (their number) and ``certificate``
        (None if there is none).

    Raises:
        BundleError: If there is no bundle, or a JSON file is missing, damaged or of an unknown version.

    Cost:
        Two small files are read; no tensor is.

    Example:
        >>> import landform as lf
        >>> made = lf.imprint(lf.Pattern.parse("formula:sphere", resolution=4), "digits")
        >>> found = info(made.save(getfixture("tmp_path") / "bowl.landform"))
        >>> found["method"], found["pattern"]["resolution"], found["data"]["name"]
        ('constant', [4, 4], 'digits')
    """
    folder = _open(path)
    document, certificate = _read_documents(folder)
    sizes = [math.prod(t.shape) for t in document.tensors.values() if not t.buffer]
    return {
        **document.model_dump(mode="json", by_alias=True),
        "path": str(folder),
        "parameters": sum(sizes),
        "certificate": None if certificate is None else layout.plain(certificate.to_json()),
    }


def _open(path: str | PathLike[str]) -> Path:
    folder = locate(path)
    recover(folder)
    if not os.path.exists(folder):  # noqa: PTH110  no error for a name too long
        raise BundleError(f"there is no bundle at {folder}")
    if not folder.is_dir():
        raise BundleError(f"{folder} is a file; a bundle is a folder with {', '.join(layout.CONTENT)}")
    return folder


def _read_documents(folder: Path) -> "tuple[Document, Any]":
    from landform.bundle.schema import parse_certificate, parse_document

    where = str(folder / layout.DOCUMENT)
    document = parse_document(layout.read_json(folder, layout.DOCUMENT), where)
    raw = layout.read_json(folder, layout.CERTIFICATE)
    return document, parse_certificate(raw, str(folder / layout.CERTIFICATE))


def _verify(folder: Path, document: "Document") -> None:
    """Compare sizes and hashes of the files that are read; ``imprint.json`` itself has none."""
    for name in layout.CONTENT:
        file, wanted = layout.require_file(folder, name), document.files.get(name)
        if wanted is None or name == layout.DOCUMENT:
            continue
        size = file.stat().st_size
        if wanted.bytes is not None and size != wanted.bytes:
            raise BundleError(
                f"{file} has {size:,} bytes, {layout.DOCUMENT} says {wanted.bytes:,}: it was cut or altered after it"
                " was saved; restore it, or read it all the same with verify=False"
            )
        if wanted.sha256 is not None and (found := layout.digest(file)) != wanted.sha256:
            raise BundleError(
                f"{file} has SHA-256 {found[:12]}…, {layout.DOCUMENT} says {wanted.sha256[:12]}…: it was altered after"
                " it was saved; restore it, or read it all the same with verify=False"
            )
