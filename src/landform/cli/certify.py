"""``landform certify``: prove a bundle again, from its weights and label statistics alone."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from landform.cli.options import DATA_GROUP, DATA_HELP, Bundle, Json, OwnLoss, OwnModel, Quiet, Split
from landform.cli.terminal import Voice, say, say_json

if TYPE_CHECKING:
    from landform.certify import Certificate
    from landform.data import Data
    from landform.imprint import Imprint
    from landform.response import AbstractResponse

CERTIFY_EPILOGUE = """\
Example:
  landform certify demo.landform
  landform certify demo.landform --data digits     are these its data?
  landform certify cat.landform --model mynet:make a bundle of your own class
  landform certify demo.landform --json | jq .holds

--json prints holds, bound, relative_bound, kind, bundle, differences and every field of the certificate; a number \
that is not finite is null.

Exit codes: 0 the bound holds, 1 it does not, 2 an error (no such bundle, damaged files, …), 130 interrupted."""


def certify(
    bundle: Bundle,
    /,
    *,
    data: Annotated[
        str | None,
        Parameter(
            group=DATA_GROUP,
            metavar="NAME|PATH|MODULE:LOADER",
            help=f"Also compare the stored label statistics with these data. {DATA_HELP}",
        ),
    ] = None,
    split: Split = None,
    loss: OwnLoss = None,
    model: OwnModel = None,
    ignore_hashes: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Do not compare files with their recorded hashes; the proof alone then says what the weights do.",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Prove again how closely a bundle's loss follows its pattern.

    The proof reads the saved weights and the label statistics, nothing else, and must come out no larger than the bound
    that was promised when the bundle was made.
    """
    voice = Voice(quiet=quiet)
    from landform.bundle import load
    from landform.certify import certify as prove
    from landform.cli.sources import read_data, read_loss, read_model

    with voice.step("reading"):
        network = None if model is None else read_model(model)
        own = None if loss is None else read_loss(loss)
        made = load(bundle, model=network, loss=own, verify=not ignore_hashes)
        samples = None if data is None else read_data(data, split or stored(made, "split"))
    with voice.step("proving"):
        proof = replace(prove(made), data_hash=stored(made, "hash") or "")
    if proof.resampling is not None and math.isnan(proof.resampling):
        proof = replace(proof, resampling=None, resampling_kind=None)  # the original is not in the bundle
    found: Sequence[str] = () if samples is None else differences(made, samples)
    if found:
        proof = replace(proof, holds=False, failures=(*proof.failures, *found))
    elif samples is not None:
        voice.note(f"the label statistics are those of {samples.name} ({samples.split}, {samples.n:,} samples)")
    if json:
        say_json({**proof.to_json(), "bundle": bundle, "differences": list(found)})
    else:
        say(verdict(proof))
    return 0 if proof.holds else 1


def verdict(proof: "Certificate") -> str:
    """Return the outcome as text."""
    if proof.holds:
        return f"holds: {proof}"
    if proof.failures:
        return "does not hold: " + "; ".join(proof.failures)
    return f"does not hold: promised was {proof.promised:.3g} {proof.unit}, but\n{proof}"


def stored(made: "Imprint", key: str) -> Any:
    """Return what the bundle says of its data: their ``name``, ``split``, ``hash`` or number of ``samples``."""
    from landform.bundle.document import SAVED

    data = (made.meta.get(SAVED) or {}).get("data") or {}
    return data.get(key)


def differences(made: "Imprint", samples: "Data") -> list[str]:
    """Compare the stored label statistics of every head with those of a data set.

    Args:
        made: As loaded.
        samples: The data set.

    Returns:
        What differs, in words; empty if nothing does.
    """
    from landform.errors import DataError, InputError
    from landform.response import respond_like

    name = f"{samples.name} ({samples.split})"
    found: list[str] = []
    for number, response in enumerate(made.responses):
        head = f"head {number}: " if len(made.responses) > 1 else ""
        try:
            other = respond_like(response, samples.targets, weights=samples.weights)
        except (DataError, InputError) as error:
            found.append(f"{head}{name} does not fit the bundle's loss: {error}")
            continue
        words = compare(response, other, name)
        if words:
            found.append(head + words)
    return list(dict.fromkeys(found))


def compare(stored: "AbstractResponse", other: "AbstractResponse", name: str) -> str | None:
    """Say how two responses' statistics differ, or None."""
    import numpy as np

    ours, theirs = stored.statistics(), other.statistics()
    if ours.shape != theirs.shape:
        return f"the label statistics have shape {list(ours.shape)}, those of {name} {list(theirs.shape)}"
    scale = np.abs(theirs).max(initial=1.0)
    wrong = np.argwhere(np.abs(ours - theirs) > 1e-12 * scale)
    if not len(wrong):
        return None
    row, column = (int(i) for i in wrong[0])
    return (
        f"the label statistics differ from those of {name} in {len(wrong)} of {ours.size} numbers; the first, row"
        f" {row} column {column}, is {ours[row, column]:g} in the bundle and {theirs[row, column]:g} there"
    )
