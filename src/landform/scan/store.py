"""The store of a scan: every answer, tile by tile, in Zarr on a folder or object store, so that a scan can go on.

A scan's sampler is deterministic: the same answers lead to the same questions. So it is enough to keep the answers,
round by round; a scan that goes on asks again from the first question, and is told what is found here. Zarr v3:

    zarr.json               attributes: the format, and the identity of the scan
    round-00000/zarr.json   attributes: the question (digest of points, samples and which come first), points a tile
        num                 answers [points, quantities(, samples)], float64, one chunk a tile
        den                 denominators [quantities(, samples)], which are those of every tile
        done                a mark a tile, written after its chunk: 2^32 + CRC-32 of num's and den's bytes; 0: not done
    nodes-…/…               the same for metrics of a point (gradient norm, …), a tile a node

Marks decide what is there, so NaN is a value like any other. A chunk that was cut off, altered or lost does not fit its
mark, and its tile is computed again. Chunks are written whole (a temporary file renamed, or one upload), tiles are
the same whoever computes them, and nothing is ever deleted or resized, so several writers do no harm to each other.
"""

import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from landform.data.hashing import hash_tensors
from landform.errors import MissingExtraError, StoreError
from landform.scan.sampler.base import Request
from landform.scan.worker import Answer

FORMAT = 1
NOTED = "versions"
"""The part of an identity that is compared with a warning only: numbers may differ by rounding, not in meaning."""

REMOTE = ("aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "azure", "s3fs")
"""Packages whose errors are those of a file system, though not all of them are OSErrors."""


@dataclass(frozen=True, eq=False)
class Round:
    """One round of a stored scan.

    Attributes:
        points: Number of points.
        tile: Points a tile; that of the first writer, so that later ones cut in the same way.
        where: Name for messages.
    """

    points: int
    tile: int
    where: str
    _num: Any
    _den: Any
    _done: Any
    _marks: "np.ndarray[Any, Any]"
    _written: set[str] = field(default_factory=set)

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return -(-self.points // self.tile)

    def done(self) -> list[int]:
        """Return the tiles that were marked as done when the round was opened."""
        return [int(number) for number in np.flatnonzero(self._marks)]

    def read(self, number: int) -> Answer | None:
        """Read a tile that is marked as done.

        Args:
            number: Which.

        Returns:
            The answer, or None, with a warning, if what is there is not what was written.

        Raises:
            StoreError: The store cannot be read.
        """
        part = slice(number * self.tile, min(self.points, (number + 1) * self.tile))
        try:
            with _said(self.where, "read"):
                num, den = np.ascontiguousarray(self._num[part]), np.ascontiguousarray(self._den[:])
            if int(self._marks[number]) == _mark(num, den):
                return Answer(number, num, den)
        except StoreError:
            raise
        except Exception:  # noqa: S110 - decoders raise what they like at bytes that are not theirs
            pass
        warnings.warn(f"tile {number} of {self.where} is damaged; it is computed again", stacklevel=2)
        return None

    def write(self, answer: Answer) -> None:
        """Keep a tile: its chunks first, then its mark.

        Args:
            answer: The tile.

        Raises:
            StoreError: The store cannot be written: read-only, full, gone.
        """
        start = answer.number * self.tile
        with _said(self.where, "write"):
            if not self._written:  # by this writer; another's would be the same
                self._den[:] = answer.den
                self._written.add("den")
            self._num[start : start + len(answer.num)] = answer.num
            self._done[answer.number] = _mark(answer.num, answer.den)


class ScanStore:
    """A store, open for one scan.

    Args:
        path: A folder, or a URL that fsspec knows (``file://…``, ``s3://bucket/key``, …).
        identity: What the scan is of: hashes of model, data and subspace, the question. Compared with what is stored,
            except ``"versions"``, where a difference is a warning.
        storage_options: Options of the fsspec file system, e.g. ``{"endpoint_url": …}`` for S3.

    Raises:
        StoreError: The store belongs to another scan (what differs is named), holds something else, has a newer
            format, or cannot be read or written.
    """

    def __init__(
        self, path: str | Path, identity: Mapping[str, Any], *, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        self.path = str(path)
        self._store = _backend(self.path, storage_options)
        own = json.loads(json.dumps(dict(identity)))  # as it will be read
        with _said(self.path, "open"):
            self._group = self._open(own)

    def _open(self, identity: dict[str, Any]) -> Any:
        import zarr

        try:
            group = zarr.open_group(self._store, mode="r+", zarr_format=3)
        except FileNotFoundError:
            self._must_be_empty()
            attributes = {"landform-scan": {"format": FORMAT, "identity": identity}}
            try:
                return zarr.create_group(self._store, overwrite=False, attributes=attributes)
            except zarr.errors.ContainsGroupError:  # another writer came first
                group = zarr.open_group(self._store, mode="r+", zarr_format=3)
        held = group.attrs.asdict().get("landform-scan")
        if not isinstance(held, dict) or not isinstance(held.get("identity"), dict):
            raise StoreError(f"{self.path} holds a Zarr group that is no scan's store; choose another path")
        if held.get("format") != FORMAT:
            raise StoreError(
                f"{self.path} has format {held.get('format')}, this version of landform reads {FORMAT}; use the version"
                " that wrote it, or choose another path"
            )
        self._compare(held["identity"], identity)
        return group

    def _must_be_empty(self) -> None:
        folder = Path(self.path.removeprefix("file://"))
        if "://" not in self.path.removeprefix("file://") and folder.exists():
            if not folder.is_dir():
                raise StoreError(f"store {folder} is a file; a store is a folder: choose another path")
            if any(not child.name.endswith(".partial") for child in folder.iterdir()):
                raise StoreError(f"store {folder} has something else in it; choose a new or empty folder for the store")

    def _compare(self, held: dict[str, Any], own: dict[str, Any]) -> None:
        names = [name for name in {**held, **own} if held.get(name) != own.get(name)]
        differences = [f"{name}: {_differing(held.get(name), own.get(name))}" for name in names]
        if names == [NOTED]:
            text = f"{self.path} was begun with other versions ({differences[0]}); numbers may differ by rounding"
            warnings.warn(text, stacklevel=5)
        elif names:
            listed = "; ".join(differences)
            raise StoreError(f"store {self.path} belongs to another scan; what differs: {listed}. Choose another path")

    def agree(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return what the first writer wrote under a name; the first one writes what ``make`` gives.

        Args:
            name: A name.
            make: Gives what JSON can hold; numbers that are not finite too.

        Returns:
            What all writers go by.

        Raises:
            StoreError: The store cannot be read or written.
        """
        import zarr

        with _said(f"{name} of {self.path}", "open"):
            group = self._group.get(name)
            if group is None:
                try:
                    attributes = {"value": json.dumps(dict(make()))}
                    group = self._group.create_group(name, overwrite=False, attributes=attributes)
                except zarr.errors.ContainsGroupError:  # another writer came first
                    group = self._group[name]
            found: dict[str, Any] = json.loads(str(group.attrs["value"]))
            return found

    def round(self, number: int | str, request: Request, quantities: int, tile: int) -> Round:
        """Open a round, or begin it.

        Args:
            number: Counted from 0; or the name of a group for what is asked beside the rounds.
            request: What is asked.
            quantities: How many.
            tile: Points a tile, if it is new.

        Returns:
            The round.

        Raises:
            StoreError: The stored round answers another question.
        """
        import zarr

        name = number if isinstance(number, str) else f"round-{number:05d}"
        where = f"{name} of {self.path}"
        question = {
            "points": len(request.h),
            "digest": hash_tensors([("h", request.h.double())])[:32],
            "samples": [request.start, request.stop],
            "per_sample": request.per_sample,
            "quantities": quantities,
        }
        if request.front is not None:
            question["front"] = hash_tensors([("front", request.front)])[:32]
        with _said(where, "open"):
            group = self._group.get(name)
            if group is None:
                try:
                    attributes = {**question, "tile": tile}
                    group = self._group.create_group(name, overwrite=False, attributes=attributes)
                except zarr.errors.ContainsGroupError:  # another writer came first
                    group = self._group[name]
            held = group.attrs.asdict()
            differing = [key for key in question if held.get(key) != question[key]]
            if differing:
                listed = ", ".join(f"{key}: {held.get(key)}, now {question[key]}" for key in differing)
                order = (
                    "the same number of points, at other places or in another order; "
                    if differing == ["digest"]
                    else ""
                )
                raise StoreError(
                    f"{where} answers another question ({listed}): {order}another version of landform began it, or its"
                    " answers came with another number of threads. Go on with that one, or choose another path to"
                    " measure anew"
                )
            num, den, done = self._arrays(group, question, int(held["tile"]))
            return Round(len(request.h), int(held["tile"]), where, num, den, done, _marks(done))

    def _arrays(self, group: Any, question: dict[str, Any], tile: int) -> tuple[Any, Any, Any]:
        """Open the arrays, creating those that a writer who was killed, or is still at it, has not created."""
        start, stop = question["samples"]
        inner = (question["quantities"], stop - start) if question["per_sample"] else (question["quantities"],)
        points = question["points"]
        tiles = -(-points // tile)
        shapes = {
            "num": ((points, *inner), (tile, *inner), "float64", float("nan")),
            "den": (inner, inner, "float64", float("nan")),
            "done": ((tiles,), (1,), "uint64", 0),
        }
        found = []
        for name, (shape, chunks, dtype, fill) in shapes.items():
            array = group.get(name)
            if array is None:
                array = self._create(group, name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill)
            found.append(array)
        return found[0], found[1], found[2]

    def _create(self, group: Any, name: str, **options: Any) -> Any:
        import zarr

        try:
            return group.create_array(
                name, **options, overwrite=False, compressors=None, config={"write_empty_chunks": True}
            )
        except zarr.errors.ContainsArrayError:
            return group[name]


def _backend(path: str, storage_options: Mapping[str, Any] | None) -> Any:
    from zarr.storage import FsspecStore, LocalStore

    if "://" not in path or path.startswith("file://"):
        return LocalStore(Path(path.removeprefix("file://")).expanduser())
    try:
        return FsspecStore.from_url(path, storage_options=dict(storage_options or {}))
    except ImportError as error:
        extra = "pip install 'landform[s3]'" if path.startswith("s3://") else "install what it names"
        raise MissingExtraError(
            f"a store at {path} needs a package that is not installed ({error}); {extra}"
        ) from error
    except ValueError as error:
        raise StoreError(f"{path} cannot be opened: {error}") from error


def _mark(num: "np.ndarray[Any, Any]", den: "np.ndarray[Any, Any]") -> int:
    checksum = zlib.crc32(np.ascontiguousarray(den).data, zlib.crc32(np.ascontiguousarray(num).data))
    return (1 << 32) + checksum


def _marks(done: Any) -> "np.ndarray[Any, Any]":
    """Read the completion marks; one that cannot be read is none, so that its tile is computed again.

    Codecs raise errors of any kind on damaged bytes; only those of the file system (no access, no disk) are passed on.
    """
    try:
        return np.asarray(done[:])
    except OSError:
        raise
    except Exception:  # some chunk is damaged: find out which, one by one
        marks = np.zeros(done.shape, np.uint64)
        for number in range(len(marks)):
            try:
                marks[number] = done[number]
            except OSError:
                raise
            except Exception:  # noqa: S112
                continue
        return marks


@contextmanager
def _said(where: str, verb: str) -> Iterator[None]:
    """Turn the errors of file systems, and of metadata that cannot be read, into ours."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        home = type(error).__module__.partition(".")[0]
        if verb == "open" or isinstance(error, OSError) or home in REMOTE:
            raise StoreError(
                f"cannot {verb} {where}: {type(error).__name__}: {error}. What is stored already is kept; when that is"
                " put right, the same call goes on from there"
            ) from error
        raise


def _differing(held: object, own: object) -> str:
    """Say what differs; of two mappings, only the entries that do.

    Example:
        >>> _differing({"seed": 0, "shape": [3, 3]}, {"seed": 3, "shape": [3, 3]})
        'seed 0 in the store, seed 3 now'
    """
    if isinstance(held, dict) and isinstance(own, dict):
        names = [name for name in {**held, **own} if held.get(name) != own.get(name)]
        there, here = (", ".join(f"{name} {_short(one.get(name))}" for name in names) for one in (held, own))
        return f"{there} in the store, {here} now"
    return f"{_short(held)} in the store, {_short(own)} now"


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:16]}…" if len(text) == 64 else text
