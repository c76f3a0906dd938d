"""Any other loss: a callable evaluated on constant outputs, its best constant searched, its ray checked."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from landform.errors import DataError, InputError
from landform.response.base import AbstractResponse
from landform.response.constant import LossFunction, Mode, constant_loss, find_mode
from landform.response.search import find_minimum, find_ray, last_minimum
from landform.response.solve import solve_rise
from landform.response.targets import read_targets, read_weights

_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float64, torch.float32, torch.int64, torch.bool)}


@final
class CallableResponse(AbstractResponse):
    """σ(p) = loss(p repeated for every sample, targets), for any ``loss(outputs, targets)``.

    The loss gets outputs of shape [samples, outputs] in float64 and returns a scalar mean, or one loss per sample,
    which is averaged. Where it is a mean of per-sample losses (probed), equal targets are evaluated once. p0 is
    searched from several starts, and ρ is checked on a grid for being non-decreasing; kind is ``"measured"``. With
    ``convex=True`` you vouch for convexity along the ray, kind is ``"certified"`` and that is among the assumptions.

    The statistics are one row per distinct target: its weight, then the target, flattened.
    """

    def __init__(
        self,
        statistics: np.ndarray,
        function: LossFunction,
        *,
        best: list[float],
        output: int,
        sign: float,
        shape: list[int],
        dtype: str,
        mode: Mode,
        convex: bool,
    ) -> None:
        point = torch.tensor(best, dtype=torch.float64)
        targets = torch.from_numpy(np.array(statistics[:, 1:])).reshape(-1, *shape).to(_DTYPES[dtype])
        self.function = function
        self._sigma = constant_loss(function, targets, torch.from_numpy(np.array(statistics[:, 0])), mode)
        self._move = torch.zeros(len(best), dtype=torch.float64)
        self._move[output] = sign
        assumptions = ["the floor is the lowest loss that a search over constant outputs found"]
        if convex:
            assumptions.append("the loss is convex along the ray, as declared by convex=True")
        else:
            assumptions.append("the loss does not decrease along the ray, as observed on a grid")
        options = {"output": output, "sign": sign, "shape": shape, "dtype": dtype, "mode": mode, "convex": convex}
        super().__init__(
            name="callable",
            unit="loss",
            floor_name="least loss found for a constant output",
            statistics=statistics,
            options={"best": best, **options},
            best=point,
            output=output,
            sign=sign,
            floor=float(self._sigma(point[None, :])),
            convex=convex,
            kind="certified" if convex else "measured",
            assumptions=tuple(assumptions),
        )

    @classmethod
    def from_targets(
        cls, targets: Any, function: LossFunction, *, outputs: int, weights: Any = None, convex: bool = False
    ) -> "CallableResponse":
        """Build the response of a data set under a callable loss.

        Args:
            targets: Targets of shape [N, ...], as the loss takes them.
            function: ``loss(outputs, targets)``, outputs of shape [N, outputs] in float64.
            outputs: Output size of the network.
            weights: One weight per sample; the loss must then be a mean of per-sample losses.
            convex: Declare that the loss is convex along the ray.

        Returns:
            The response.

        Raises:
            DataError: If targets are missing or not finite.
            InputError: If the loss cannot be evaluated, falls without bound, or rises along no axis.

        Cost:
            Some thousand evaluations of the loss over the distinct targets.

        Example:
            >>> response = CallableResponse.from_targets(
            ...     torch.tensor([[0.0], [2.0]]), lambda p, y: ((p - y) ** 2).mean(), outputs=1)
            >>> round(response.floor, 9), response.kind
            (1.0, 'measured')
        """
        tensor = read_targets(targets, "this loss")
        kept = tensor.dtype if tensor.dtype in _DTYPES.values() else torch.int64
        rows, share = tensor.reshape(len(tensor), -1).to(torch.float64), read_weights(weights, tensor.shape[:1])
        distinct, index = torch.unique(rows, dim=0, return_inverse=True)
        counts = np.bincount(index.numpy(), weights=share, minlength=len(distinct))
        shape = list(tensor.shape[1:])
        distinct, counts = distinct[counts > 0], counts[counts > 0]
        mode = find_mode(function, distinct.reshape(-1, *shape).to(kept), torch.from_numpy(counts), outputs)
        if mode == "batch" and not np.array_equal(counts, np.round(counts)):
            raise DataError("weights need a loss that is the mean of per-sample losses; this one is not")
        sigma = constant_loss(function, distinct.reshape(-1, *shape).to(kept), torch.from_numpy(counts), mode)
        best = find_minimum(sigma, outputs)
        output, sign = find_ray(sigma, best)
        best = last_minimum(sigma, best, output, sign)
        return cls(
            np.column_stack([counts, distinct.numpy()]),
            function,
            best=best.tolist(),
            output=output,
            sign=sign,
            shape=shape,
            dtype=str(kept).removeprefix("torch."),
            mode=mode,
            convex=convex,
        )

    @classmethod
    def from_state(
        cls, config: Mapping[str, Any], statistics: np.ndarray, function: LossFunction | None = None
    ) -> "CallableResponse":
        """Rebuild from `config`, `statistics` and the loss itself, which no file can hold.

        Args:
            config: What `config` returned.
            statistics: Weights and targets, one row each.
            function: The loss.

        Returns:
            An equal response.

        Raises:
            InputError: If no loss is given.
        """
        if function is None:
            raise InputError("this response was made from a callable loss, which is not saved; pass loss=")
        return cls(statistics, function, **config["options"])

    def _loss(self, outputs: Float64[Tensor, "points outputs"]) -> Float64[Tensor, " points"]:
        return self._sigma(outputs)

    def _rise(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return self._sigma(self.best + s[:, None] * self._move) - self.lowest

    def _slope(self, s: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        try:
            with torch.enable_grad():
                position = s.detach().clone().requires_grad_(True)
                (slope,) = torch.autograd.grad(self._rise(position).sum(), position)
        except RuntimeError:  # not differentiable by autograd
            step = 1e-6 * (1.0 + s)
            slope = (self._rise(s + step) - self._rise(s)) / step
        return slope

    def _unrise(self, rise: Float64[Tensor, " points"]) -> Float64[Tensor, " points"]:
        return solve_rise(self._rise, self._slope, rise, base=self.lowest)
