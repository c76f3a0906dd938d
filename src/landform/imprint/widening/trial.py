"""Run a network and its wider version side by side, and hold the difference against what rounding explains."""

import torch
from torch import Tensor, nn

from landform.calling import as_found, explain_misfit
from landform.errors import ArchitectureError, InputError, LandformError
from landform.imprint.widening.promise import Batch, outputs, rounding

ALL_OUTPUTS = 32
"""Up to so many outputs the promise is made for each of them, beyond for the two largest of every sample."""


def as_given(model: nn.Module, inputs: Batch) -> Tensor:
    """Return all outputs of the given network, ``[n, outputs]``.

    Raises:
        InputError: If it cannot take these inputs.
    """
    try:
        with torch.no_grad(), as_found(model):
            return outputs(model, inputs)
    except LandformError:
        raise
    except Exception as error:
        raise InputError(explain_misfit(model, model.state_dict(), inputs, error)) from error


def tried(model: nn.Module, wide: nn.Module, inputs: Batch) -> tuple[float, float]:
    """Run both networks, and check the difference; return the largest bound and the largest difference.

    Raises:
        ArchitectureError: If the wider one cannot run, or differs by more than rounding explains.
        InputError: If the given network cannot take these inputs.
    """
    before = as_given(model, inputs)
    try:
        with torch.no_grad(), as_found(wide):
            after = outputs(wide, inputs)
    except Exception as error:
        raise ArchitectureError(
            f"the wider {type(model).__name__} cannot run ({error}): its forward fixes sizes; write"
            " x.flatten(1) in place of x.view(-1, 512) and the like"
        ) from error
    if after.shape != before.shape:
        raise ArchitectureError(
            f"the wider {type(model).__name__} returns shape {list(after.shape)}, not {list(before.shape)}: its forward"
            " fixes sizes; write x.flatten(1) in place of x.view(-1, 512) and the like"
        )
    count = before.shape[1]
    chosen = range(count) if count <= ALL_OUTPUTS else sorted(set(before.topk(2, dim=1).indices.reshape(-1).tolist()))
    allowed = rounding(model, inputs, list(chosen))
    moved = (after.double() - before.double()).abs().cpu()[:, list(chosen)]
    worst = (moved - allowed).max()
    if not bool(worst <= 0):
        raise ArchitectureError(
            f"the wider {type(model).__name__} differs by {float(moved.max()):.3g} where rounding explains"
            f" {float(allowed.max()):.3g}: something in it depends on the number of channels (a mean over them, a scale"
            " by their count)"
        )
    top = before.double().topk(min(2, count), dim=1).values if count > 1 else None
    if top is not None:
        sure = (top[:, 0] - top[:, 1]) > 2 * float(allowed.max())
        if bool((after.argmax(dim=1) != before.argmax(dim=1))[sure].any()):
            raise ArchitectureError(f"the wider {type(model).__name__} predicts another class")
    return float(allowed.max()), float(moved.max())
