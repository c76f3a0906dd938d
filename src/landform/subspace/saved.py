"""Subspaces on disk: a folder of safetensors and JSON; of directions made from a seed, the recipe alone."""

import json
import math
import os
import shutil
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from landform.calling import unwrap
from landform.checkpoints.files import open_weights, write_weights
from landform.data.hashing import hash_tensors
from landform.errors import InputError
from landform.subspace.curve import Curve
from landform.subspace.seeded import Recipe, SeededDirection, recipe_from_json
from landform.subspace.subspace import Subspace

FORMAT, VERSION = "landform-subspace", 1
DOCUMENT, ORIGIN, DIRECTIONS = "subspace.json", "origin.safetensors", "directions.safetensors"


def save_subspace(space: Subspace | Curve, path: str | PathLike[str], *, origin: bool | None = None) -> Path:
    """Write a subspace or curve to a folder.

    ``subspace.json`` has ``meta``, ranges and hashes; ``origin.safetensors`` the parameters at h = 0;
    ``directions.safetensors`` the directions as ``number/name``, numbers from 0. Of directions made from a seed the
    recipe goes into the JSON, and nothing else.

    Args:
        space: What to write.
        path: The folder; one that holds a subspace is replaced, anything else never.
        origin: Also write the origin. None: yes, unless all directions are made from a seed; then the model is needed
            again to `load_subspace`, and is compared by its hash.

    Returns:
        The folder.

    Raises:
        InputError: Something else is in the way, or the disk is full or read-only; what was there is kept.

    Cost:
        A pass over what is written, and one for the hash.

    Example:
        >>> import tempfile, torch
        >>> space = Subspace({"w": torch.zeros(2)}, ({"w": torch.tensor([0.0, 1.0])},), {"kind": "mine"})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load_subspace(save_subspace(space, folder + "/line"))
        >>> again.at(torch.tensor([3.0]))["w"].tolist(), again.meta, again.hash == space.hash
        ([0.0, 3.0], {'kind': 'mine'}, True)
    """
    target = Path(path)
    plane = space.plane if isinstance(space, Curve) else space
    if origin is None:
        origin = not (plane.z and all(isinstance(direction, SeededDirection) for direction in plane.directions))
    if os.path.lexists(target) and _kind(target) != FORMAT:
        raise InputError(f"{target} exists and is no saved subspace, so it is never overwritten; choose another path")
    beside, aside = (target.with_name(f".{target.name}.{word}-{os.getpid()}") for word in ("new", "old"))
    try:
        beside.mkdir(parents=True)
        _fill(beside, space, plane, origin)
        if target.exists():
            target.rename(aside)
        beside.rename(target)
    except OSError as error:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise InputError(f"subspace {target} cannot be written: {error}; choose another path") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
    return target


def load_subspace(path: str | PathLike[str], *, model: nn.Module | None = None) -> Subspace | Curve:
    """Read what `save_subspace` wrote.

    Args:
        path: The folder.
        model: The model that the subspace goes through, where the origin was not written; its parameters become the
            origin, not copies of them.

    Returns:
        The subspace or curve, with the hash of the one that was saved.

    Raises:
        InputError: Not there, damaged, of a later version, or a model that is needed, or is another than the one saved
            with.

    Cost:
        Reads the files and hashes what was read.
    """
    folder = Path(path)
    said = _document(folder)
    try:
        start = _origin(folder, said, model)
        recipes = [recipe_from_json(content, start) for content in said["recipes"]]
        plane = Subspace(start, _directions(folder, said, recipes), said["plane_meta"], _pairs(said["plane_ranges"]))
        space: Subspace | Curve = plane
        if said["type"] == "curve":
            space = Curve(plane, said["meta"], _pairs(said["ranges"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / DOCUMENT} is damaged: {type(error).__name__} {error}") from error
    if space.hash != said["hash"]:
        raise InputError(f"subspace {folder} is damaged: its tensors are not those that were saved (hash differs)")
    return space


def _fill(folder: Path, space: Subspace | Curve, plane: Subspace, origin: bool) -> None:
    recipes: list[Recipe] = []
    listed: list[dict[str, int]] = []
    kept: dict[str, Tensor] = {}
    for number, direction in enumerate(plane.directions):
        if isinstance(direction, SeededDirection):
            if not any(direction.recipe is known for known in recipes):
                recipes.append(direction.recipe)
            where = next(k for k, known in enumerate(recipes) if direction.recipe is known)
            listed.append({"recipe": where, "number": direction.number})
        else:
            kept |= {f"{number}/{name}": value for name, value in direction.items()}
            listed.append({"tensors": len(direction)})
    if kept:
        write_weights(folder / DIRECTIONS, kept)
    if origin:
        write_weights(folder / ORIGIN, plane.origin)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "type": "curve" if isinstance(space, Curve) else "subspace",
        "z": space.z,
        "meta": space.meta,
        "ranges": space.ranges,
        "plane_meta": plane.meta,
        "plane_ranges": plane.ranges,
        "directions": listed,
        "recipes": [recipe.to_json() for recipe in recipes],
        "names": list(plane.origin),
        "origin": origin,
        "origin_hash": _origin_hash(plane.origin),
        "hash": space.hash,
    }
    text = json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / DOCUMENT).write_text(text + "\n", encoding="utf-8")


def _kind(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))["format"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _document(folder: Path) -> dict[str, Any]:
    file = folder / DOCUMENT
    if (folder / "imprint.json").is_file():
        raise InputError(f"{folder} is a bundle; its subspace is landform.load({str(folder)!r}).subspace")
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"no saved subspace at {folder}: {file.name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{file} is damaged: {error}") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise InputError(f"{file} is no saved subspace: wanted format '{FORMAT}'")
    if said.get("version") != VERSION:
        raise InputError(f"{file} has version {said.get('version')!r}; this landform reads {VERSION}: get a newer one")
    return said


def _origin(folder: Path, said: Mapping[str, Any], model: nn.Module | None) -> dict[str, Tensor]:
    names = said["names"]
    if said["origin"]:
        stored = open_weights(folder / ORIGIN)
        if set(stored.names()) != set(names):
            raise InputError(f"{folder / ORIGIN} is damaged: it lacks parameters that {DOCUMENT} lists")
        return {name: stored.read(name).clone() for name in names}
    if model is None:
        raise InputError(
            f"subspace {folder} was saved without its origin; pass the model that it goes through: model=…"
        )
    inner = unwrap(model)
    own = dict(inner.named_parameters()) if isinstance(inner, nn.Module) else {}
    lacking = [name for name in names if name not in own]
    if lacking:
        raise InputError(f"the model has no '{lacking[0]}', which the origin of {folder} has; is it another model?")
    start = {name: own[name].detach() for name in names}
    if _origin_hash(start) != said["origin_hash"]:
        raise InputError(
            f"the model's parameters are not those that {folder} was saved with (hash differs): load those weights, or"
            " draw the directions anew"
        )
    return start


def _directions(folder: Path, said: Mapping[str, Any], recipes: list[Recipe]) -> tuple[Mapping[str, Tensor], ...]:
    stored = open_weights(folder / DIRECTIONS) if any("tensors" in one for one in said["directions"]) else None
    found: list[Mapping[str, Tensor]] = []
    for number, one in enumerate(said["directions"]):
        if "recipe" in one:
            found.append(SeededDirection(recipes[one["recipe"]], one["number"]))
            continue
        assert stored is not None
        head = f"{number}/"
        keys = [key for key in stored.names() if key.startswith(head)]
        found.append({key.removeprefix(head): stored.read(key).clone() for key in keys})
    return tuple(found)


def _origin_hash(origin: Mapping[str, Tensor]) -> str:
    return hash_tensors(sorted(origin.items()))


def _pairs(ranges: Any) -> tuple[tuple[float, float], ...] | None:
    return None if ranges is None else tuple((float(lo), float(hi)) for lo, hi in ranges)


def _plain(value: Any) -> Any:
    """Bring a value into what JSON has; numbers that are not finite as words."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
