"""What ``imprint.json`` must look like, as pydantic models. Imported only when a bundle is read."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from landform.bundle.layout import FORMAT, FORMAT_VERSION
from landform.certify.certificate import Certificate
from landform.errors import BundleError

Size = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]
Name = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^./\\\x00]+$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Model(BaseModel):
    """A part of the document; unknown keys are passed over, so that a later landform may add some."""

    model_config = ConfigDict(frozen=True)


class Layer(BaseModel):
    """A layer; unknown keys are refused, since they would change what the network computes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Name | Literal[""]


class Linear(Layer):
    """`torch.nn.Linear`."""

    type: Literal["Linear"]
    in_features: Size
    out_features: Size
    bias: bool


class ReLU(Layer):
    """`torch.nn.ReLU`."""

    type: Literal["ReLU"]
    inplace: bool


class LeakyReLU(Layer):
    """`torch.nn.LeakyReLU`."""

    type: Literal["LeakyReLU"]
    negative_slope: FiniteFloat
    inplace: bool


class Dropout(Layer):
    """`torch.nn.Dropout`."""

    type: Literal["Dropout"]
    p: Annotated[float, Field(ge=0, le=1)]
    inplace: bool


class Flatten(Layer):
    """`torch.nn.Flatten`."""

    type: Literal["Flatten"]
    start_dim: int
    end_dim: int


class Identity(Layer):
    """`torch.nn.Identity`."""

    type: Literal["Identity"]


class BatchNorm1d(Layer):
    """`torch.nn.BatchNorm1d`."""

    type: Literal["BatchNorm1d"]
    num_features: Size
    eps: Annotated[FiniteFloat, Field(ge=0)]
    momentum: FiniteFloat | None
    affine: bool
    track_running_stats: bool


class Sequential(Layer):
    """`torch.nn.Sequential`."""

    type: Literal["Sequential"]
    layers: "list[Node]"


class Heads(Layer):
    """`landform.imprint.build.Heads`."""

    type: Literal["Heads"]
    trunk: "Node"
    heads: Annotated[list[Linear], Field(min_length=1)]


class OwnClass(Model):
    """A class of the user's; its name is shown and never imported."""

    type: Literal["class"]
    qualified: Annotated[str, Field(alias="class", max_length=1000)]


Node = Annotated[
    Linear | ReLU | LeakyReLU | Dropout | Flatten | Identity | BatchNorm1d | Sequential | Heads,
    Field(discriminator="type"),
]
Architecture = Annotated[
    Linear | ReLU | LeakyReLU | Dropout | Flatten | Identity | BatchNorm1d | Sequential | Heads | OwnClass,
    Field(discriminator="type"),
]


class TensorSpec(Model):
    """One tensor of ``origin.safetensors``."""

    shape: tuple[Annotated[int, Field(ge=0, le=2**40)], ...]
    dtype: str
    buffer: bool = False


class LossSpec(Model):
    """The loss of the task: name and options; ``known`` is False for a function of the user's."""

    name: str
    options: dict[str, Any] = {}
    known: bool


class ResponseSpec(Model):
    """One response; its statistics are ``shape`` numbers of ``targets.npy``."""

    name: str
    outputs: Size
    options: dict[str, Any] = {}
    shape: tuple[Size, Size]
    floor: float


class Responses(Model):
    """Which response each head has."""

    heads: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    distinct: Annotated[list[ResponseSpec], Field(min_length=1)]


class PatternSpec(Model):
    """The pattern, but for its values."""

    kind: Literal["grid", "sum"]
    name: str
    channels: Size | None = None
    resolution: Annotated[list[Size], Field(min_length=1)]
    source: dict[str, Any] = {}


class DataSpec(Model):
    """Which data set the statistics come from."""

    name: str
    split: str
    hash: str
    samples: Size
    sample_shape: list[int]
    classes: int | None = None


class FileSpec(Model):
    """What is known of another file; both may be left out, and are then not checked."""

    sha256: Hash | None = None
    bytes: Annotated[int, Field(ge=0)] | None = None


class Document(Model):
    """The whole of ``imprint.json``."""

    format: Literal["landform-bundle"]
    format_version: Literal[1]
    versions: dict[str, str] = {}
    method: Literal["constant", "offset", "per-sample"]
    architecture: Architecture
    tensors: Annotated[dict[str, TensorSpec], Field(min_length=1)]
    model_hash: str | None = None
    z: Size
    loss: LossSpec | None = None
    responses: Responses
    range: tuple[FiniteFloat, FiniteFloat]
    spline_stage: Annotated[int, Field(ge=0)] | None = None
    pattern: PatternSpec
    task: str | None = None
    data: DataSpec | None = None
    meta: dict[str, Any] = {}
    files: dict[str, FileSpec] = {}


def parse_document(raw: Any, where: str) -> Document:
    """Check a parsed ``imprint.json``.

    Args:
        raw: What the JSON holds.
        where: Path, for the error.

    Returns:
        The document.

    Raises:
        BundleError: Naming the first entry that is wrong; an unknown format version is told apart.
    """
    check_version(raw, where)
    try:
        found = Document.model_validate(raw)
    except (ValidationError, RecursionError) as error:
        raise BundleError(f"{where} is corrupted: {_first(error)}") from error
    if not found.range[0] < found.range[1]:
        raise BundleError(f"{where} is corrupted: range is {list(found.range)}, wanted lo < hi")
    if max(found.responses.heads) >= len(found.responses.distinct):
        raise BundleError(
            f"{where} is corrupted: responses.heads names response {max(found.responses.heads)}, which is absent"
        )
    return found


def check_version(raw: Any, where: str) -> None:
    """Refuse what is no bundle's document or of a version that this landform does not read.

    Raises:
        BundleError: Saying which version was found and which is read.
    """
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        got = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise BundleError(f"{where} is not a landform bundle's: format is {got!r}, wanted {FORMAT!r}")
    version = raw.get("format_version")
    if isinstance(version, bool) or version != FORMAT_VERSION:
        raise BundleError(
            f"{where} has format version {version!r}, this landform reads version {FORMAT_VERSION}; install a landform"
            " that reads it, or make the bundle again"
        )


def parse_certificate(raw: Any, where: str) -> Certificate | None:
    """Check a parsed ``certificate.json``; null stands for no certificate.

    Raises:
        BundleError: Naming the first entry that is wrong.
    """
    if raw is None:
        return None
    try:
        return TypeAdapter(Certificate).validate_python(raw)
    except ValidationError as error:
        raise BundleError(f"{where} is corrupted: {_first(error)}") from error


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "it is nested too deeply"
    found = error.errors(include_url=False, include_context=False)
    place = ".".join(str(part) for part in found[0]["loc"]) or "it"
    got = repr(found[0]["input"])
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    return f"{place}: {found[0]['msg']}, got {got if len(got) < 80 else got[:77] + '…'}{more}"
