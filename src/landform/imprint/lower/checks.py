"""Which parameters may be written, for every family of layers."""

from collections.abc import Sequence

import torch
from torch import nn

from landform.errors import ArchitectureError
from landform.imprint.lower.affine import KINDS as MAPS
from landform.imprint.lower.batchnorm import KINDS as NORMS
from landform.imprint.lower.groupnorm import KINDS as SHARED


def refuse_quantised(model: nn.Module) -> None:
    """Refuse a network with quantised layers, whose weights are no parameters.

    Raises:
        ArchitectureError: Naming the first of them.
    """
    for name, module in model.named_modules():
        if ".quantized." in f"{type(module).__module__}.":
            raise ArchitectureError(
                f"module '{name}' is quantised ({type(module).__module__}.{type(module).__name__}); use the network as"
                " it was before, in float32"
            )


def refuse_computed(model: nn.Module) -> None:
    """Refuse a network with weights that are computed from other parameters, wherever they are.

    Raises:
        ArchitectureError: Naming the module and what to do.
    """
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        old = next(
            (key for key in own if key.endswith(("_g", "_v", "_orig")) and key[: key.rindex("_")] not in own), None
        )
        if hasattr(module, "parametrizations"):
            raise ArchitectureError(
                f"layer '{name}' is parametrised (weight norm or the like); remove it first, with"
                " torch.nn.utils.parametrize.remove_parametrizations"
            )
        if old is not None and hasattr(module, old[: old.rindex("_")]):
            raise ArchitectureError(
                f"layer '{name}' computes its weight from '{old}' (weight or spectral norm); remove that first, e.g."
                " with torch.nn.utils.remove_weight_norm"
            )


def check_module(name: str, module: nn.Module, seen: dict[int, str]) -> None:
    """Refuse parameters of a module that cannot be written.

    Args:
        name: Qualified name of the module.
        module: The module.
        seen: Parameters by identity, to find tied ones; added to.

    Raises:
        ArchitectureError: Naming the parameter and what to do.
    """
    if hasattr(module, "parametrizations"):
        raise ArchitectureError(f"layer '{name}' is parametrised (weight norm or the like); remove it first")
    if isinstance(module, MAPS) and "weight" not in dict(module.named_parameters()):
        raise ArchitectureError(
            f"layer '{name}' computes its weight from other parameters (weight or spectral norm); remove that"
            " first, e.g. with torch.nn.utils.remove_weight_norm"
        )
    for key, parameter in module.named_parameters():
        full = f"{name}.{key}"
        if id(parameter) in seen:
            raise ArchitectureError(f"parameter '{full}' is tied to '{seen[id(parameter)]}'; untie them first")
        seen[id(parameter)] = full
        if parameter.is_meta:
            raise ArchitectureError(f"parameter '{full}' is on the meta device; load the model's weights first")
        if parameter.device.type != "cpu":
            raise ArchitectureError(f"parameter '{full}' is on {parameter.device}; call model.cpu() first")
        if parameter.dtype not in (torch.float32, torch.float64):
            raise ArchitectureError(
                f"parameter '{full}' has dtype {parameter.dtype}; the construction needs float32 or float64:"
                " call model.float() or model.double() first"
            )
        if not parameter.requires_grad:
            raise ArchitectureError(
                f"parameter '{full}' is frozen (requires_grad=False); call model.requires_grad_(True), or imprint a"
                " copy that may be written"
            )
    if isinstance(module, SHARED) and (module.weight is None or module.bias is None):
        raise ArchitectureError(f"'{name}' has no γ and β of its own; the construction sets both: use affine=True")
    if isinstance(module, NORMS):
        if getattr(module, "running_mean", None) is None or getattr(module, "running_var", None) is None:
            raise ArchitectureError(
                f"'{name}' has no running statistics, so its output depends on the batch; load them"
                " (model.load_state_dict), or build it with track_running_stats=True and train"
            )
        if not module.affine:
            raise ArchitectureError(f"'{name}' has affine=False; the construction sets its γ and β")
        assert module.running_mean is not None
        assert module.running_var is not None
        if not (bool(torch.isfinite(module.running_mean).all()) and bool((module.running_var >= 0).all())):
            raise ArchitectureError(f"'{name}' has running statistics that are not finite, or a negative variance")


def check_modules(model: nn.Module, names: Sequence[str], heads: Sequence[str]) -> None:
    """Refuse a model with parameters that cannot be written, or in train mode.

    Args:
        model: The model.
        names: Modules that will be written.
        heads: Those that emit the outputs; they need a bias.

    Raises:
        ArchitectureError: Naming the parameter or module and what to do.
    """
    modules = dict(model.named_modules())
    seen: dict[int, str] = {}
    for name in names:
        check_module(name, modules[name], seen)
    for name in heads:
        if getattr(modules[name], "bias", None) is None:
            raise ArchitectureError(f"layer '{name}' has no bias; use nn.Linear(…, bias=True)")
    dtypes = {p.dtype for p in model.parameters()}
    if len(dtypes) > 1:
        raise ArchitectureError(f"the model mixes dtypes {sorted(map(str, dtypes))}; convert it to one of them")
    dropped = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
    random = [n for n, m in model.named_modules() if isinstance(m, (*dropped, *NORMS, nn.RReLU)) and m.training]
    if random:
        raise ArchitectureError(
            f"module '{random[0]}' is in train mode, where its output is random or depends on the batch; call"
            " model.eval() first"
        )
