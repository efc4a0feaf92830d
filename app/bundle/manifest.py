"""The manifest: what a published model is, takes and gives, and has been proved to do."""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from app.bundle.quality import Quality
from app.bundle.signature import Record, Signature
from app.errors import BundleCorrupt, BundleUnsupported

#: major.minor of this file's layout. A newer minor is read, another major is refused.
SCHEMA_VERSION: Final = "1.2"
MODEL_FILE: Final = "model.onnx"
GOLDEN_FILE: Final = "golden.npz"
MANIFEST_FILE: Final = "manifest.json"

MODEL_NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
VERSION_PATTERN: Final = r"^[1-9][0-9]{0,8}$"

#: How exact an execution provider's arithmetic is: full FP32, or TF32/FP16/BF16 somewhere inside.
NumericClass = Literal["fp32", "reduced"]
#: Strictest first.
NUMERIC_CLASSES: Final[tuple[NumericClass, ...]] = ("fp32", "reduced")

#: Which of a bundle's graphs: the exported one, or a smaller one that was made from it.
Precision = Literal["fp32", "fp16", "int8"]
VariantName = Literal["fp16", "int8"]

ModelName = Annotated[str, Field(pattern=MODEL_NAME_PATTERN)]
#: A name in the bundle's own folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileRecord(Record):
    size_bytes: int = Field(ge=0)
    sha256: Sha256


class Batching(Record):
    """What is proved of axis 0. Requests share a run only where rows are independent."""

    row_independent: bool
    max_rows: int = Field(ge=1, le=65_536)
    #: Batch sizes at which parity and row independence were checked.
    checked_rows: tuple[int, ...]


class Tolerance(Record):
    """|got - want| <= atol + rtol * |want|."""

    atol: float = Field(ge=0)
    rtol: float = Field(ge=0)


class Gate(Record):
    """A bar that the model had to pass before it could be published."""

    metric: str
    split: Literal["validation", "test"]
    minimum: float | None = None
    maximum: float | None = None
    value: float

    @property
    def passed(self) -> bool:
        """NaN passes nothing."""
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return low <= self.value <= high


class Graph(Record):
    """Facts of the ONNX file that a host wants to know before it loads it."""

    opset: int
    ir_version: int
    #: Operator domains in use ("" is the ONNX standard domain).
    domains: tuple[str, ...]
    node_count: int


class Provenance(Record):
    """Where the model came from; same values, same machine, same weights."""

    run: str
    data_sha256: Sha256
    config_sha256: Sha256
    weights_sha256: Sha256
    #: Of the rows that trained, chose and measured, in order. Since 1.2.
    split_sha256: Sha256 | None = None
    seed: int
    threads: int
    versions: Mapping[str, str]
    git_commit: str | None = None
    config: Mapping[str, Any] = Field(default_factory=dict)


class Variant(Record):
    """Another graph of the same model with fewer bits, held to its own bar by the golden rows."""

    file: FileName
    #: For each float output, against the golden outputs.
    tolerances: Mapping[str, Tolerance]
    #: Least share of golden rows whose labels and whole numbers are the golden ones.
    agreement: float = Field(default=1.0, ge=0, le=1)
    metrics: Mapping[str, Mapping[str, float]] = Field(default_factory=dict)
    #: By batch size in rows: how many times as fast as the first graph where it was made.
    speedup: Mapping[str, float] = Field(default_factory=dict)


class Manifest(Record):
    """The record of one version, written last; its sha256 is the version's digest."""

    schema_version: str = Field(default=SCHEMA_VERSION, pattern=r"^[0-9]+\.[0-9]+$")
    name: ModelName
    version: int = Field(ge=1, le=999_999_999)
    description: str = ""
    task: Literal["classification", "regression", "other"]
    created_at: datetime
    signature: Signature
    batching: Batching
    #: For each numeric class, for each float output.
    tolerances: Mapping[NumericClass, Mapping[str, Tolerance]]
    #: Rows whose two best golden scores are closer than this may differ in label.
    tie_margin: float = Field(default=1e-3, ge=0)
    #: Least share of golden rows, outside of ties, whose labels are the golden ones.
    agreement: float = Field(default=1.0, ge=0, le=1)
    #: Since 1.1.
    variants: Mapping[VariantName, Variant] = Field(default_factory=dict)
    graph: Graph
    metrics: Mapping[str, Mapping[str, float]] = Field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    #: Since 1.2.
    quality: Quality | None = None
    #: Reference distribution of each field on the training split, for drift monitoring.
    drift: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    provenance: Provenance | None = None
    files: Mapping[FileName, FileRecord] = Field(default_factory=dict)

    def model_file(self, precision: Precision = "fp32") -> str:
        """Name of a graph's file; `variants` must have the precision."""
        return MODEL_FILE if precision == "fp32" else self.variants[precision].file

    def variant(self, precision: Precision) -> "Manifest":
        """The same model with the tolerances of one of its graphs."""
        if precision == "fp32":
            return self
        own = self.variants[precision]
        tolerances: Mapping[NumericClass, Mapping[str, Tolerance]] = {"reduced": own.tolerances}
        return self.model_copy(update={"tolerances": tolerances, "agreement": own.agreement})

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=2).encode() + b"\n"


def parse_manifest(raw: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        BundleUnsupported: it was written by another major version of the schema.
        BundleCorrupt: it is not a manifest; the message names the first wrong place.
    """
    try:
        head = TypeAdapter(dict[str, Any]).validate_json(raw)
        version = str(head.get("schema_version", ""))
        if re.fullmatch(r"[0-9]+\.[0-9]+", version) and _major(version) != _major(SCHEMA_VERSION):
            raise BundleUnsupported(
                f"manifest has schema {version}, this build reads {_major(SCHEMA_VERSION)}.x: "
                "publish the model again with this version of Modelport"
            )
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise BundleCorrupt(f"manifest is not valid at {place}: {first['msg']}") from None


def _major(version: str) -> int:
    return int(version.partition(".")[0])
