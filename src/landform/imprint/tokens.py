"""What Theorem 2 needs of a language model's data: logits, label, weight and stream of every token that counts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from landform.errors import InputError
from landform.imprint.lower.anatomy import Anatomy
from landform.imprint.lower.overhear import outputs_of
from landform.imprint.lower.stream import Norm
from landform.task import Task

TOKENS_AT_ONCE = 1 << 13
TOKEN_LOSSES = ("token_cross_entropy", "causal_lm")
MOST = 1 << 27
"""Most numbers of logits that are kept at once: a gigabyte."""


@dataclass(frozen=True)
class Tokens:
    """All tokens that count, in the order of the data.

    Attributes:
        logits: f_i, ``[tokens, outputs]``, float64.
        labels: y_i.
        weights: w_i > 0: that of the sequence times that of the class.
        streams: x, the stream before the last norm, ``[tokens, width]``, in the network's dtype.
        sizes: Σ (x − mean)² of it.
        means: |mean x|, 0 but for rounding where it was centred.
    """

    logits: Tensor
    labels: Tensor
    weights: Tensor
    streams: Tensor
    sizes: Tensor
    means: Tensor


def token_loss(task: Task) -> tuple[Any, str, Mapping[str, Any]]:
    """Return the loss as a task takes it for tokens, its name, and its options.

    Cross-entropy of labels ``[n, positions]`` is that of tokens, as language models have them: the classes come last.

    Raises:
        InputError: It is no cross-entropy of tokens, or has options that are not covered.
    """
    form = task.loss_form
    labels = task.data.targets
    name, loss = form.name, task.loss
    if name == "cross_entropy" and labels.ndim == 2 and not labels.is_floating_point() and not form.options:
        name = loss = "token_cross_entropy"
    if name not in TOKEN_LOSSES or set(form.options) - {"ignore_index", "weight"}:
        raise InputError(
            f"method='offset' in a language model covers {' and '.join(TOKEN_LOSSES)} (classes last, labels"
            f" [n, positions], −100 where none counts), got {form} on targets of shape {list(labels.shape)}; a model's"
            " own loss is 'causal_lm' for most"
        )
    return loss, name, form.options


def tokens_of(model: nn.Module, anatomy: Anatomy, task: Task, name: str, options: Mapping[str, Any]) -> Tokens:
    """Run a model over all data and keep what Theorem 2 needs of every token that counts.

    Args:
        model: The network.
        anatomy: Its parts.
        task: The data.
        name: Of the loss, see `token_loss`.
        options: Of the loss.

    Returns:
        The tokens.

    Raises:
        InputError: If no token counts, too many do for the memory, or outputs are not finite.

    Cost:
        One pass over the data.
    """
    outputs = anatomy.stream.head.outputs
    total = int((task.data.targets != _ignored(options)).sum())
    if total * outputs > MOST:
        raise InputError(
            f"{total:,} tokens with {outputs:,} logits each do not fit into memory; Theorem 2 needs them all at once:"
            f" use the first {MOST // outputs // max(1, task.data.targets.shape[1]):,} sequences"
        )
    parts: list[tuple[Tensor, ...]] = []
    for part, stream, logits in _passes(model, anatomy.stream.final, task):
        rows, y, w = counting(task, part, logits, name, options)
        x, _, _ = counting(task, part, stream, name, options)
        mean = x.double().mean(1, keepdim=True)
        parts.append((rows.double(), y, w, x, (x.double() - mean).square().sum(1), mean[:, 0].abs()))
    found = Tokens(*(torch.cat(column) for column in zip(*parts, strict=True)))
    if not len(found.labels):
        raise InputError("no label counts: all are ignored")
    if not bool(torch.isfinite(found.logits).all() & torch.isfinite(found.sizes).all()):
        raise InputError("the network's outputs on these data are not finite")
    return found


def _ignored(options: Mapping[str, Any]) -> int:
    return int(options.get("ignore_index", -100))


def counting(
    task: Task, part: slice, rows: Tensor, name: str, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what belongs to the tokens that count: rows, labels, weights.

    Args:
        task: The data.
        part: Which samples.
        rows: Logits or another row a position, ``[n, positions, …]``.
        name: Of the loss: of ``"causal_lm"`` position t is compared with label t + 1.
        options: Of the loss.

    Returns:
        ``[tokens, …]``, and one label and one weight (of the sequence times the class) a token.
    """
    labels = task.data.targets[part]
    weights = torch.ones(len(labels)) if task.data.weights is None else task.data.weights[part]
    weights = weights.double()[:, None].expand(labels.shape)
    if name == "causal_lm":
        rows, labels, weights = rows[:, :-1], labels[:, 1:], weights[:, 1:]
    counts = (labels != _ignored(options)) & (weights > 0)
    y, w = labels[counts], weights[counts]
    if options.get("weight") is not None:
        w = w * torch.as_tensor(options["weight"], dtype=torch.float64)[y]
    return rows[counts], y, w


def step_of(task: Task) -> int:
    """Return how many sequences make a batch."""
    return max(1, TOKENS_AT_ONCE // max(1, task.data.targets.shape[1]))


def inputs_of(task: Task, part: slice) -> Any:
    """Return some samples as the model is called with them: a tensor, or a mapping where the data have extras."""
    data = task.data
    if not data.extras or data.keys is None:
        return data.inputs[part]
    return {data.keys[0]: data.inputs[part], **{name: value[part] for name, value in data.extras.items()}}


def _passes(model: nn.Module, final: Norm, task: Task) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Run the model batch by batch; yield the stream before the last norm, and the logits."""
    seen: list[Tensor] = []
    hook = model.get_submodule(final.name).register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    n = task.data.n
    step = step_of(task)
    try:
        with torch.no_grad():
            for start in range(0, n, step):
                part = slice(start, min(start + step, n))
                logits = outputs_of(model, inputs_of(task, part), part.stop - part.start)
                yield part, seen.pop(), logits
                seen.clear()
    finally:
        hook.remove()
