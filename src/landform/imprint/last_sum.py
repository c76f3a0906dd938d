"""How far the sums of the last layer may be off, sample by sample, in any order of summation.

A sum of n terms a_k, added up along any binary tree, is off by at most u·(Σ|a_k| + Σ_nodes |S|)/(1 − (n + 1)u): each
product rounds once and each of the n − 1 nodes once (Higham, *Accuracy and Stability of Numerical Algorithms*, §4.2;
exact zeros round nowhere). Ordered by size, the i-th node holds at most i + 1 terms (whatever lies below a node is
smaller), so |S| is at most the larger of the i + 1 greatest positive and the i + 1 greatest negative terms. That is
known for every sample, and far below γ_K Σ|w||x| of the worst one: half of the units are 0, and signs cancel.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

_CHUNK = 1 << 22


def sum_radii(
    inputs: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Float64[Tensor, "samples outputs"], Float64[Tensor, " samples"]]:
    """Bound how far inputs @ weight.T + bias may be off in its dtype, one number a sample and output.

    Args:
        inputs: What the layer reads, ``[samples, k]``, of the dtype in which it computes.
        weight: Its weight, ``[outputs, k]``.
        bias: Its bias, ``[outputs]``.

    Returns:
        The radii, and how many terms each sample's sums have (inputs that are not 0 and are read, and the bias).

    Cost:
        A sort of samples × outputs × k numbers.

    Example:
        >>> x, w, b = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[4.0, 9.0, -1.0]]), torch.tensor([1.0])
        >>> radii, terms = sum_radii(x, w, b)  # terms 4, −2, 1: products 6, nodes 4 + 1 and 4 + 1
        >>> round(float(radii / 2.0**-24), 3), float(terms)
        (16.0, 3.0)
    """
    unit = torch.finfo(inputs.dtype).eps / 2
    x = inputs.detach().double()
    w, b = weight.detach().double(), bias.detach().double()
    terms = ((x != 0) & (w != 0).any(dim=0)).sum(dim=1).double() + 1
    out = torch.empty(len(x), len(w), dtype=torch.float64)
    rows = max(1, _CHUNK // (w.numel() + len(b)))
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        products = part[:, None, :] * w
        every = torch.cat([products, b.expand(len(part), -1)[:, :, None]], dim=2)
        greatest = torch.maximum(_greatest(every), _greatest(-every))
        count = torch.arange(1, every.shape[2] + 1)
        nodes = (count > 1) & (count <= terms[start : start + rows, None])
        sums = (greatest * nodes[:, None, :]).sum(dim=2)
        out[start : start + rows] = products.abs().sum(dim=2) + sums
    tiny = torch.finfo(inputs.dtype).tiny * terms[:, None]  # where products underflow
    return unit * out / (1 - (terms[:, None] + 2) * unit) + tiny, terms


def tree_radii(products: Tensor, unit: float, *, more: int = 0) -> Tensor:
    """Bound how far sums may be off when they are added up along any tree, see above.

    Args:
        products: Terms, exact, ``[…, terms]``.
        unit: Unit roundoff of the sums.
        more: Terms that are added beside these and bounded elsewhere: they add as many nodes.

    Returns:
        The radii, ``[…]``.

    Example:
        >>> tree_radii(torch.tensor([4.0, -2.0, 1.0], dtype=torch.float64)[None, None], 1.0 / 4096)[0, 0] * 4096 > 17
        tensor(True)
    """
    greatest = torch.maximum(_greatest(products), _greatest(-products))
    nodes = greatest[..., 1:].sum(-1) + more * greatest[..., -1]
    found: Tensor = unit * (products.abs().sum(-1) + nodes) / (1 - (products.shape[-1] + more + 2) * unit)
    return found


def _greatest(values: Tensor) -> Tensor:
    """Return the sum of the m greatest positive values along the last axis, for every m."""
    return values.clamp(min=0).sort(dim=-1, descending=True).values.cumsum(dim=-1)
