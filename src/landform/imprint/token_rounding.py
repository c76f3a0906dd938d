"""What the last norm and the head of a language model may round, token by token, and what that does to its loss.

The norm gives y_k = (x_k − m)·G_k/σ + b_k, the head Σ_k W_ck y_k, added up in any order. An error of y_k is one for
all classes: it moves the loss by Σ_c r_c W_ck of itself, r = p − e_y, not by the largest |W_ck|. Errors of the sums are
one a class and count with |r_c|; they are bounded as in `landform.imprint.last_sum` for the classes that are likely,
and by γ Σ|W||y| for the others.
"""

import torch
from torch import Tensor, nn

from landform.imprint.last_sum import tree_radii
from landform.imprint.lower.anatomy import Anatomy
from landform.imprint.tokens import Tokens
from landform.response.token_offset import TokenOffsetResponse
from landform.response.token_rounding import TokenRounding, corners

LIKELY = 32
"""Classes of a token whose sums are bounded one by one."""
SECOND = 1.01
"""What errors do to each other: all of them are below 2⁻⁹ of what they are errors of."""
OWN_OPS, ROOT_OPS = 2.0, 18.0
_CHUNK = 1 << 21


def token_rounding(
    network: nn.Module, anatomy: Anatomy, tokens: Tokens, response: TokenOffsetResponse
) -> TokenRounding:
    """Bound what norm and head round, for every token and every corner of its simplex.

    Args:
        network: The network with room, its head as trained.
        anatomy: Its parts.
        tokens: Its logits and streams.
        response: The ray, and so the corners.

    Returns:
        The bounds.

    Cost:
        Some products of all logits with the head's weight, and a sort of `LIKELY` sums a token.
    """
    final, head = anatomy.stream.final, anatomy.stream.head
    parameters = {name: value.detach() for name, value in network.named_parameters(remove_duplicate=False)}
    weight = parameters[head.weight].double()
    weight = weight.T if head.transposed else weight
    outside = parameters.get(f"{head.name}.bias", torch.zeros(len(weight))).double()
    gain = parameters[final.gain].double() + final.gain_offset
    inside = torch.zeros_like(gain) if final.bias is None else parameters[final.bias].double()
    unit = float(torch.finfo(parameters[head.weight].dtype).eps) / 2
    norm_unit = 2.0**-24 if final.single else unit
    layer = _Layer(weight, outside, gain, inside, unit, norm_unit, final.eps, response)
    rows = max(1, _CHUNK // max(weight.shape[0], LIKELY * weight.shape[1]))
    parts = [
        layer.bound(tokens.streams[i : i + rows].double(), tokens.logits[i : i + rows], tokens.labels[i : i + rows])
        for i in range(0, len(tokens.labels), rows)
    ]
    return TokenRounding.of_columns(torch.cat(parts))


class _Layer:
    """The last norm and the head."""

    def __init__(
        self,
        weight: Tensor,
        outside: Tensor,
        gain: Tensor,
        inside: Tensor,
        unit: float,
        norm_unit: float,
        eps: float,
        response: TokenOffsetResponse,
    ) -> None:
        self.weight, self.outside, self.gain, self.inside = weight, outside, gain, inside
        self.unit, self.norm_unit, self.eps, self.response = unit, norm_unit, eps, response
        # how far what was stored is from exact is known in float32; in float64 it is bounded like what will be computed
        self.times = 1.0 if unit > 2.0**-30 else 2.0

    def bound(self, x: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the columns for some tokens."""
        width, u = x.shape[1], self.norm_unit
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        size = centred.square().sum(1)
        inverse = (size / width + self.eps).rsqrt()[:, None]
        read = centred * inverse * self.gain
        y = read + self.inside
        slip = _gamma(width + 1, u) * x.abs().mean(1)
        # roundings of each coordinate by itself: difference, root's product, gain; and the bias
        own = u * (OWN_OPS * centred.abs() + torch.maximum(x.abs(), centred.abs()) + 4 * slip[:, None])
        own = own * inverse * self.gain.abs() + u * torch.where(self.inside != 0, y.abs(), 0.0)
        common = _gamma(width, u) / 2 + ROOT_OPS * u
        sums = self._sums(y, logits, labels)
        scaled, slope = read @ self.weight.T, (self.weight @ self.gain) * inverse
        likely = logits.softmax(1)
        still, scale, shift = [], [], []
        for corner in corners(likely, self.response.classes, self.response.entries):
            r = corner.clone()
            r[torch.arange(len(r)), labels] -= 1
            scale.append((r * scaled).sum(1).abs())
            shift.append((r * slope).sum(1).abs())
            each = (own * (r @ self.weight).abs()).sum(1) + (r.abs() * sums).sum(1)
            still.append(SECOND * self.times * (each + common * scale[-1] + slip * shift[-1]))
        reach = (self.gain.abs() * (x.abs() + x.abs().mean(1, keepdim=True)) * inverse + self.inside.abs()) @ (
            self.weight.abs().T
        )
        columns = [*still, *scale, *shift, (reach + self.outside.abs()).amax(1), slope.abs().amax(1), size, slip]
        return torch.stack(columns, dim=1)

    def _sums(self, y: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Bound how far each sum of the head may be from the stored logit: what is computed, and what was."""
        terms = y.shape[1] + 1
        out = _gamma(terms + 2, self.unit) * (y.abs() @ self.weight.abs().T + self.outside.abs())
        moved = torch.tensor(self.response.classes).expand(len(y), -1)
        chosen = torch.cat([logits.topk(min(LIKELY, logits.shape[1]), dim=1).indices, labels[:, None], moved], dim=1)
        products = torch.cat([y[:, None] * self.weight[chosen], self.outside[chosen][:, :, None]], dim=2)
        out.scatter_(1, chosen, torch.minimum(out.gather(1, chosen), tree_radii(products, self.unit, more=2)))
        exact = y @ self.weight.T + self.outside
        return out + ((logits - exact).abs() if self.times == 1.0 else 0.0)


def _gamma(terms: float, unit: float) -> float:
    return terms * unit / (1 - terms * unit)
