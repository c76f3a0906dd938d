"""`imprint`: the entry point that turns a pattern and a task into an `Imprint`."""

import os
from typing import Any, Literal

from torch import nn

from landform.errors import InputError, unknown_name
from landform.imprint.constant import Options, imprint_constant, need_data
from landform.imprint.imprint import Imprint
from landform.imprint.lower.stream import has_stream
from landform.imprint.offset import imprint_offset
from landform.imprint.offset_stream import imprint_offset_stream
from landform.imprint.per_sample import imprint_per_sample
from landform.imprint.stream import imprint_stream
from landform.pattern import Pattern, SumPattern
from landform.program.compile import Form, Schedule
from landform.task import Task

METHODS = ("constant", "offset", "per-sample")


def imprint(
    pattern: Pattern | SumPattern | str | os.PathLike[str],
    task: Task | Any,
    *,
    method: str = "constant",
    range: tuple[float, float] | Literal["auto"] = "auto",  # noqa: A002 - the word users read in every plot
    epsilon: float | None = None,
    form: Form = "auto",
    schedule: Schedule = "auto",
    axis_aligned: bool = True,
    direct: bool | None = None,
    tolerance: float = 0.0,
    convex: bool = False,
    loss: Any = None,
    other: Any = None,
    units: str = "widen",
    scores: str = "refit",
    repair: int = 0,
    certify: bool = True,
) -> Imprint:
    """Make a network whose loss over z weight-space directions is a pattern, with a certificate.

    The loss at h is L(h) = lo + (hi − lo)·T(h) up to the certificate's bound, for every h in [0, 1]^z. Nothing is
    trained: the weights are compiled.

    Args:
        pattern: T, or what `Pattern.parse` takes (``"cat.png"``, ``"text:HELLO"``, ``"qr:…"``, ``"formula:ackley"``).
        task: Model, loss and data. Anything that `landform.data.load_data` takes instead of a `Task` (``"digits"``,
            ``(X, y)``) means a network built to fit, with ``loss``.
        method: ``"constant"``: Theorem 1 of arXiv 1912.07559, an input-independent network. Theorem 2, in a trained
            network: ``"offset"``: its outputs are moved, its loss is the floor; ``"per-sample"``: the loss of every
            sample that it tells apart is the pattern.
        range: (lo, hi) in loss units, where pattern values 0 and 1 go. ``"auto"``: lo just above the least loss that an
            input-independent output can have, hi = lo + 1.
        epsilon: Largest admitted error of the response curve as a fraction of the range; chooses the number of knots.
            None: 1e-4 (a fortieth of a grey level), or as good as the given widths allow.
        form: ``"hats"``, ``"rows"``, ``"strips"``, ``"hinges"`` or ``"auto"``: fewest weights among those accurate
            enough in the model's dtype, rows only where hats do not fit.
        schedule: ``"carry"``, ``"recompute"`` or ``"auto"``.
        axis_aligned: Whether each direction is one coordinate of the first bias (the paper's statement), or a general
            one, which saves a hidden layer.
        direct: Leave the response curve out (exact at nodes, a gap between them). None: only where no layer is left.
        tolerance: Admitted compression error in units of the pattern; 0 keeps every node.
        convex: Declare a loss of your own convex; then its bound counts as proved, under that assumption.
        loss: Where ``task`` is data: the loss, as `Task` takes it; None means cross-entropy. A `Task` has its own.
        other: A second data set: ``range="auto"`` then starts where level sets transfer to it.
        units: Theorem 2: where the pattern's channels come from. ``"widen"``: every layer gets more, the trained
            weights stay bit for bit. ``"reserve"``: the least useful ones of the given widths, at some loss of
            accuracy. Language models are widened: coordinates of the stream, and blocks behind the trained ones.
        scores: Per-sample: what tells the classes apart, linear in the last hidden layer. ``"own"``: the network's own
            pairwise margins, which keep every prediction and serve every sample that it gets right, with C(C − 1)
            units; ``"refit"``: fitted to the labels with C units, which serves samples that it gets wrong too where the
            features allow; ``"predictions"``: fitted to the predictions. ``meta["notes"]`` says what was served and
            kept.
        repair: With ``units="reserve"``: train what is left of the network for so many steps (Adam, 256 samples a
            step), the freed channels staying out of it. 0, the default, trains nothing; ``meta`` has the accuracies.
        certify: Prove the bound now. False leaves ``certificate`` None, for instance to time the compilation.

    Returns:
        The imprint. The model that was given is not changed; ``imprint.model`` is a copy with new weights.

    Raises:
        CapacityError: If the network does not hold the pattern (it says what it holds).
        ArchitectureError: If the network has a layer that is not covered, or parameters that cannot be written.
        FloorError: If the range reaches below the floor.
        InputError, DataError, UnknownNameError: For what is wrong with the arguments.

    Cost:
        40 ms at 64×64; for large networks some five times what writing the weights takes. The certificate adds a second
        or less at 64×64, 15 s at 256×256.

    References:
        Czarnecki, Osindero, Pascanu, Jaderberg, arXiv 1912.07559, Theorem 1 and Lemma 1.

    Example:
        >>> import torch, landform as lf
        >>> made = lf.imprint("formula:sphere", "digits")
        >>> made.certificate.kind, made.certificate.relative_bound < 1e-3
        ('certified', True)
    """
    if method not in METHODS:
        raise unknown_name("method", str(method), METHODS)
    if isinstance(task, Task) and loss is not None:
        raise InputError("the task has a loss of its own; leave loss= out, or use task.replace(loss=…)")
    if isinstance(pattern, (str, os.PathLike)):
        pattern = Pattern.parse(os.fspath(pattern))
    elif callable(pattern) and not isinstance(pattern, (Pattern, SumPattern)):
        raise InputError("pattern is a function; sample it first: lf.Pattern.from_callable(f, resolution=64)")
    if task is None:
        raise InputError("task is None; pass lf.Task(model, data=…), or data such as 'digits' or (X, y)")
    if not isinstance(pattern, (Pattern, SumPattern)):
        raise InputError(
            f"pattern must be a Pattern, SumPattern, string or path, got {type(pattern).__name__}; for numbers there is"
            " lf.Pattern.from_array(values)"
        )
    if not isinstance(task, Task) and callable(task) and hasattr(task, "parameters"):
        raise InputError("task is a model without data; wrap it: lf.Task(model, loss='cross_entropy', data=(X, y))")
    options = Options(range, epsilon, form, schedule, axis_aligned, direct, tolerance, convex, repair)
    if repair and (method == "constant" or units != "reserve"):
        raise InputError(
            "repair trains a network of which channels were reserved: method='offset' or 'per-sample', units='reserve'"
        )
    if isinstance(task, Task) and task.output is not None:
        beside = method != "constant"
        if beside or (isinstance(task.model, nn.Module) and has_stream(task.model)):
            what = "Theorem 2 is built" if beside else "a transformer's stream is read"
            raise InputError(
                f"the task has output={task.output!r}, and {what} for networks with one output; put a module around"
                " yours whose forward returns that one"
            )
    if method != "constant":
        if not isinstance(task, Task):
            raise InputError(f"method='{method}' needs a trained network: lf.Task(model, loss=…, data=…)")
        if method == "offset" and isinstance(task.model, nn.Module) and has_stream(task.model):
            made = imprint_offset_stream(pattern, need_data(task), options, units)
        elif method == "offset":
            made = imprint_offset(pattern, need_data(task), options, units)
        else:
            made = imprint_per_sample(pattern, need_data(task), options, units, scores)
    elif isinstance(task, Task) and isinstance(task.model, nn.Module) and has_stream(task.model):
        made = imprint_stream(pattern, need_data(task), options, other)
    elif isinstance(task, Task):
        made = imprint_constant(pattern, task, need_data(task), options, other)
    else:
        made = imprint_constant(
            pattern, None, data_only(task, "cross_entropy" if loss is None else loss), options, other
        )
    if not certify:
        return made
    from landform.certify import certify as prove

    return made.with_certificate(prove(made))


def data_only(data: object, loss: Any = "cross_entropy") -> Task:
    """Return a task whose model is yet to be built."""
    return Task(_to_be_built, loss, data, name="built to fit")


def _to_be_built(_: object) -> object:
    raise AssertionError("the network is built by imprint")
