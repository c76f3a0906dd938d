"""Products of curvature matrices with vectors, through curvlinops."""

import contextlib
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landform.errors import InputError, MissingExtraError
from landform.subspace.objective import Objective

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


def need_curvlinops() -> None:
    """Import curvlinops, or say how to install it.

    Raises:
        MissingExtraError: It is not there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports in turn
            with contextlib.suppress(ImportError):
                importlib.import_module("torch._decomp.decompositions_for_jvp")  # which warns when first needed
            import curvlinops  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "directions of largest curvature need curvlinops: pip install 'landform[hessian]'"
        ) from error


class CurvatureProduct:
    """The product of a curvature matrix with vectors, within `Objective.active`.

    Args:
        objective: The loss.
        names: Parameters that the matrix is over.
        curvature: Which matrix.
    """

    def __init__(self, objective: Objective, names: tuple[str, ...], curvature: str) -> None:
        need_curvlinops()
        from curvlinops import GGNLinearOperator, HessianLinearOperator

        start = objective.start(names)
        if len({(value.dtype, value.device) for value in start.values()}) != 1:
            raise InputError("the parameters have several dtypes or devices; pass dtype=, or include= some of them")
        batches = list(objective.batches())
        pairs = [objective.sums(start, batch) for batch in batches]
        den = float(sum(float(count) for _, count in pairs))
        self.loss = float(sum(float(value.detach()) for value, _ in pairs)) / den
        if not np.isfinite(self.loss):
            raise InputError(f"the loss is {self.loss}, so it has no curvature; is the model one that diverged?")
        self.count = 0
        self.size = sum(value.numel() for value in start.values())
        self._shapes = {name: value.shape for name, value in start.items()}
        self._den = den
        whole = curvature == "hessian"
        if not whole and (objective.task.step is not None or len(objective.task.heads()) != 1):
            raise InputError("the Gauss–Newton matrix needs the outputs of one head; take curvature='hessian'")
        run = (
            (lambda p, k: objective.sums(p, batches[k])[0])
            if whole
            else (lambda p, k: _single(objective.outputs(p, batches[k])))
        )
        add = (lambda out, _k: out) if whole else (lambda out, k: objective.loss_of(out, batches[k])[0])
        wrapped = _Parameters(start, run)
        numbers = [(torch.tensor([k]), torch.tensor([k])) for k in range(len(batches))]
        operator = HessianLinearOperator if whole else GGNLinearOperator
        self._operator = operator(
            wrapped, _Sum(add), wrapped.listed(), numbers, check_deterministic=False, num_data=objective.n
        )
        self._like = next(iter(start.values()))

    def __call__(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Multiply.

        Raises:
            InputError: A loss or layer that cannot be differentiated twice, or a product that is not finite.
        """
        self.count += 1
        flat = torch.as_tensor(np.ascontiguousarray(vector).reshape(-1)).to(self._like)
        try:
            found: NDArray[np.float64] = (self._operator @ flat).detach().cpu().double().numpy() / self._den
        except (RuntimeError, NotImplementedError) as error:
            raise InputError(f"the loss cannot be differentiated twice: {error}") from error
        if not np.isfinite(found).all():
            raise InputError("a product with the curvature is not finite, though the loss is; try dtype=torch.float64")
        return found

    def split(self, vector: NDArray[np.float64]) -> dict[str, Tensor]:
        """Cut a vector into tensors by name."""
        parts = torch.split(torch.as_tensor(vector), [shape.numel() for shape in self._shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def scipy(self) -> "LinearOperator":
        """Return the operator as SciPy has it."""
        from scipy.sparse.linalg import LinearOperator

        return LinearOperator((self.size, self.size), matvec=self, dtype=np.float64)


class _Parameters(nn.Module):
    """A function of parameters as a module that has them, as curvlinops wants it; its input is a batch's number."""

    def __init__(self, start: Mapping[str, Tensor], run: Callable[[Mapping[str, Tensor], int], Any]) -> None:
        super().__init__()
        self._keys = list(start)
        for number, value in enumerate(start.values()):
            self.register_parameter(f"p{number}", nn.Parameter(value.detach()))
        self._run = run

    def listed(self) -> list[nn.Parameter]:
        return [getattr(self, f"p{number}") for number in range(len(self._keys))]

    def forward(self, number: Tensor) -> Any:
        return self._run({name: getattr(self, f"p{i}") for i, name in enumerate(self._keys)}, int(number))


class _Sum(nn.Module):
    """The loss added up over a batch, of whatever the module above gave."""

    reduction = "sum"

    def __init__(self, add: Callable[[Any, int], Tensor]) -> None:
        super().__init__()
        self._add = add

    def forward(self, outputs: Any, number: Tensor) -> Tensor:
        return self._add(outputs, int(number))


def _single(outputs: object) -> Tensor:
    """Return the tensor of a single head."""
    logits = getattr(outputs, "logits", outputs)
    if isinstance(logits, Mapping | tuple | list):
        logits = next(iter(logits.values())) if isinstance(logits, Mapping) else logits[0]
    assert isinstance(logits, Tensor)
    return logits
