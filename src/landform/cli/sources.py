"""From the words on a command line to a pattern, a data set, a loss and a network."""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landform.cli.options import PatternOptions
from landform.errors import ArchitectureError, BundleError, InputError, LandformError, unknown_name

if TYPE_CHECKING:
    from torch import nn

    from landform.data import Data
    from landform.pattern import Pattern, SumPattern

FIT = "fit"


def read_pattern(spec: str, options: PatternOptions) -> "Pattern | SumPattern":
    """Read PATTERN with the options that were given.

    Args:
        spec: What `landform.pattern.Pattern.parse` takes.
        options: Of the command line.

    Returns:
        The pattern; a `SumPattern` for a formula in more than four dimensions.

    Raises:
        InputError: For whatever cannot be read, or an option that this source does not have.
        UnknownNameError: For the name of a formula.
    """
    from landform.pattern import Pattern, SumPattern

    cells = options.resolution
    given: dict[str, Any] = {
        "resolution": None if not cells else cells[0] if len(cells) == 1 else tuple(cells),
        "z": options.z,
        "colour": options.colour,
        "fit": options.fit,
        "invert": options.invert or None,
        "background": options.background,
        "contrast": options.contrast,
        "allow_constant": options.allow_constant or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if spec.startswith("formula:") and options.z is not None and options.z > 4:
        return SumPattern.from_formula(spec.removeprefix("formula:"), **given)
    if spec.lower().endswith(".npy") and "colour" in given:
        given["channels"] = given.pop("colour")
    if given.get("colour") is False and spec.startswith(("text:", "qr:", "formula:")):
        del given["colour"]  # they are grey anyway
    return Pattern.parse(spec, **given)


def read_data(source: str, split: str | None = None) -> "Data":
    """Load a data set by name, path or ``module:loader``."""
    from landform.data import load_data

    return load_data(source, split=split)


def read_loss(name: str) -> Any:
    """Return a loss by name, or the user's own.

    Args:
        name: A name of `landform.losses.LOSS_NAMES`, or ``module:fn``: a function, a module, or a class of modules.

    Returns:
        The name itself, or what the user named.

    Raises:
        UnknownNameError: Neither is known.
    """
    from torch import nn

    from landform.losses import LOSS_NAMES

    if ":" not in name:
        if name not in LOSS_NAMES:
            raise unknown_name("loss", name, LOSS_NAMES)
        return name
    found = resolve(name, "--loss")
    return call(found, name) if isinstance(found, type) and issubclass(found, nn.Module) else found


def read_model(
    name: str, weights: str | None = None, dtype: str | None = None, *, flag: str = "--model"
) -> "nn.Module | None":
    """Return the user's network, or None when one is to be built.

    Args:
        name: ``"fit"``, ``module:factory``, or ``hf:PATH``, a folder that `transformers` wrote.
        weights: A file of weights to load into it.
        dtype: ``"float32"`` or ``"float64"`` to convert it, None to leave it.
        flag: Which option named it, for errors.

    Returns:
        The network in evaluation mode.

    Raises:
        ArchitectureError: The factory returns no module, or the weights do not fit it.
        InputError: The factory fails, or there are weights but no network.
        UnknownNameError: Another name.
    """
    import torch
    from torch import nn

    if name == FIT:
        if weights:
            raise InputError("--weights needs the network they belong to: --model module:factory")
        return None
    if ":" not in name:
        raise unknown_name("model", name, [FIT, "module:factory", "hf:PATH"])
    if name.startswith("hf:"):
        from landform.cli.huggingface import read_folder

        model = read_folder(name.removeprefix("hf:"), flag)
        return (model if dtype is None else model.to(getattr(torch, dtype))).eval()
    found = resolve(name, flag)
    with torch.random.fork_rng(devices=[]):  # a fresh network is the same in each run, or no store could go on
        torch.manual_seed(0)
        model = found if isinstance(found, nn.Module) else call(found, name)
    if not isinstance(model, nn.Module):
        raise ArchitectureError(f"{flag} {name} gave {model!r} ({type(model).__name__}), wanted a torch.nn.Module")
    if weights:
        from landform.checkpoints import load_weights

        state = read_weights(weights)
        try:
            load_weights(model, state)
        except LandformError as error:
            raise ArchitectureError(f"--weights {weights} do not fit {flag} {name}: {error}") from error
    return (model if dtype is None else model.to(getattr(torch, dtype))).eval()


def read_weights(file: str, flag: str = "--weights") -> dict[str, Any]:
    """Read a state dict without running anything that is in the file.

    Args:
        file: ``.safetensors``, or what ``torch.save`` wrote.
        flag: Which option named it, for errors.

    Returns:
        Tensors by name.

    Raises:
        BundleError: A missing or damaged file.
        InputError: Something else than a dict of tensors.
    """
    import pickle

    import torch

    path = Path(file)
    if not path.is_file():
        raise BundleError(f"{flag}: no such file: {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{flag} {path} holds more than tensors, and loading it could run code; save model.state_dict() instead"
        ) from error
    except Exception as error:
        raise BundleError(f"{flag} {path} cannot be read: {error}") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise InputError(f"{flag} {path} holds no state dict of tensors but {type(found).__name__}")
    return found


def resolve(spec: str, flag: str) -> Any:
    """Import ``module:name``; modules in the current folder are found.

    Args:
        spec: ``package.module:name``; the name may have dots.
        flag: Which option it was given to, for errors.

    Returns:
        What is there.

    Raises:
        InputError: The module cannot be imported.
        UnknownNameError: It has no such name, with the nearest.
    """
    module, _, attribute = spec.partition(":")
    if not module or not attribute:
        raise InputError(f"{flag} {spec}: wanted module:name, such as mynet:make")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # for good: the user's code may import more of its own later
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise InputError(
            f"{flag} {spec}: importing {module} failed: {type(error).__name__}: {error} (looked in {here} too)"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if not name.startswith("_")]
            raise unknown_name(f"name in {module}", part, public)
        found = getattr(found, part)
    return found


def call(function: Any, spec: str) -> Any:
    """Call the user's function without arguments; what goes wrong in it is named."""
    if not callable(function):
        raise InputError(f"{spec} is {function!r}, wanted a function without arguments or a module")
    try:
        return function()
    except Exception as error:
        raise InputError(f"{spec}() raised {type(error).__name__}: {error}") from error


def read_range(words: Sequence[str] | None) -> Any:
    """Return ``"auto"`` or two numbers.

    Example:
        >>> read_range(None), read_range(["auto"]), read_range(["2.4", "3"])
        ('auto', 'auto', (2.4, 3.0))
    """
    if not words or list(words) == ["auto"]:
        return "auto"
    try:
        lo, hi = (float(word) for word in words)
    except ValueError:
        raise InputError(f"--range takes two numbers LO HI, or auto; got {' '.join(words)}") from None
    return lo, hi


@contextlib.contextmanager
def default_dtype(name: str | None) -> Iterator[None]:
    """Build networks in a dtype, and put PyTorch's default back."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(before if name is None else getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)
