"""The signature: what goes into a model and what comes out, on two levels.

*Tensors* are what the graph takes and gives. *Fields* are what a person sends and *predictions*
what a person gets; each says which tensor (and column) it feeds or reads. Validation, the OpenAPI
document and the card are all made from this one description.
"""

import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.bundle.tensors import Datatype

DIM_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"
MAX_NAME_CHARACTERS: Final = 128


def name_problem(name: str) -> str | None:
    """Why a field cannot have this name, None where it can.

    A field is named as people name the columns of their tables, so blanks, brackets and umlauts
    are welcome. What cannot be seen, or could be written in two ways, is not.
    """
    if not name or len(name) > MAX_NAME_CHARACTERS:
        return f"must have 1 to {MAX_NAME_CHARACTERS} characters"
    if not name.isprintable():
        return "must hold no control characters and no other blanks than spaces"
    if name != name.strip():
        return "must not begin or end with a blank"
    if not unicodedata.is_normalized("NFC", name):
        return "must be in Unicode's normal form C"
    return None


def _check_name(name: str) -> str:
    problem = name_problem(name)
    if problem:
        raise ValueError(f"name {name!r} {problem}")
    return name


Dim = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=DIM_PATTERN)]
FieldName = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS), AfterValidator(_check_name)
]


class Record(BaseModel):
    """Frozen; unknown keys are kept out of the way so that a newer minor can be read."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class TensorSpec(Record):
    """One input or output of the graph. A named dim is free; the first dim is the batch."""

    name: str = Field(min_length=1)
    datatype: Datatype
    shape: tuple[Dim, ...]
    description: str = ""


class _Field(Record):
    name: FieldName
    tensor: str
    #: Column of a [batch, columns] tensor; None when the field is the whole row.
    column: Annotated[int, Field(ge=0)] | None = None
    description: str = ""
    #: May be left out of a request (then it is missing, which the graph handles).
    required: bool = True
    #: May be null in a request (the same as missing).
    nullable: bool = False

    @model_validator(mode="after")
    def _absent_is_null(self) -> Self:
        if not self.required and not self.nullable:
            raise ValueError(f"field {self.name!r}: one that may be left out must be nullable")
        return self


class NumberField(_Field):
    """A finite number; missing reaches the graph as NaN."""

    kind: Literal["number"] = "number"
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    example: float | None = None


class IntegerField(_Field):
    """A whole number; missing reaches the graph as NaN, so only a float tensor can be nullable."""

    kind: Literal["integer"] = "integer"
    unit: str | None = None
    minimum: int | None = None
    maximum: int | None = None
    example: int | None = None


class CategoryField(_Field):
    """One of a vocabulary; missing reaches the graph as the empty string."""

    kind: Literal["category"] = "category"
    vocabulary: tuple[str, ...] = Field(min_length=1)
    #: A value outside the vocabulary is answered (the graph has a slot for it) instead of refused.
    accept_unknown: bool = False
    example: str | None = None


class TextField(_Field):
    """Free text of at most `max_length` characters.

    The graph takes it in a BYTES tensor, or as its UTF-8 in UINT8 [batch, "length"], padded with 0
    by `app.bundle.padding`; then it must hold no NUL.
    """

    kind: Literal["text"] = "text"
    max_length: int = Field(default=10_000, ge=1)
    example: str | None = None


class ImageField(_Field):
    """A picture, sent as nested numbers [height][width] or as an encoded file in base64.

    The graph takes UINT8 [batch, height, width] for one channel, [batch, height, width, 3] for
    three. Encoded pictures are decoded and resized by `app.bundle.features`, and their 0–255 is
    scaled to 0–`maximum`.
    """

    kind: Literal["image"] = "image"
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: Literal[1, 3] = 1
    maximum: int = Field(default=255, ge=1, le=255)
    example: tuple[Any, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row: (height, width), or (height, width, 3)."""
        size = (self.height, self.width)
        return size if self.channels == 1 else (*size, self.channels)


class SeriesField(_Field):
    """Steps in their order, as nested numbers [length][channels].

    The graph takes FP32 [batch, "length", channels], padded with NaN by `app.bundle.padding`.
    """

    kind: Literal["series"] = "series"
    #: What the numbers of a step are, in order.
    channels: tuple[FieldName, ...] = Field(min_length=1)
    minimum_length: int = Field(default=1, ge=1)
    maximum_length: int = Field(default=10_000, ge=1)
    example: tuple[tuple[float, ...], ...] | None = None

    @model_validator(mode="after")
    def _lengths_are_a_range(self) -> Self:
        if self.minimum_length > self.maximum_length:
            raise ValueError(f"field {self.name!r}: its longest is shorter than its shortest")
        return self


class TensorField(_Field):
    """Nested numbers of the tensor's own row shape."""

    kind: Literal["tensor"] = "tensor"
    example: tuple[Any, ...] | None = None


InputField = Annotated[
    NumberField | IntegerField | CategoryField | TextField | ImageField | SeriesField | TensorField,
    Field(discriminator="kind"),
]


class _Prediction(Record):
    name: FieldName
    tensor: str
    description: str = ""


class LabelPrediction(_Prediction):
    """The chosen class: a BYTES [batch] tensor whose values are among `labels`."""

    kind: Literal["label"] = "label"
    labels: tuple[str, ...] = Field(min_length=2)
    #: The scores tensor behind the choice; golden comparison uses it to recognise ties.
    scores_tensor: str | None = None
    #: Of two labels, the second is chosen where its score reaches this; None for the best score.
    threshold: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _threshold_is_of_two(self) -> Self:
        if self.threshold is not None and (len(self.labels) != 2 or self.scores_tensor is None):
            raise ValueError("a threshold needs two labels and the scores behind them")
        return self


class ScoresPrediction(_Prediction):
    """A score for each label: a float [batch, len(labels)] tensor."""

    kind: Literal["scores"] = "scores"
    labels: tuple[str, ...] = Field(min_length=2)


class ValuePrediction(_Prediction):
    """One value a row: a [batch] or [batch, 1] tensor."""

    kind: Literal["value"] = "value"
    unit: str | None = None


class TensorPrediction(_Prediction):
    """The output tensor's row as it is, in nested lists."""

    kind: Literal["tensor"] = "tensor"


PredictionField = Annotated[
    LabelPrediction | ScoresPrediction | ValuePrediction | TensorPrediction,
    Field(discriminator="kind"),
]


class Signature(Record):
    """Both levels of the interface, checked against each other."""

    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    fields: tuple[InputField, ...] = Field(min_length=1)
    predictions: tuple[PredictionField, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        inputs = {spec.name: spec for spec in self.inputs}
        outputs = {spec.name: spec for spec in self.outputs}
        for kind, names in (
            ("input", [s.name for s in self.inputs]),
            ("output", [s.name for s in self.outputs]),
            ("field", [f.name for f in self.fields]),
            ("prediction", [p.name for p in self.predictions]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"two {kind}s share a name")
        fed: dict[str, list[int | None]] = {}
        for field in self.fields:
            if field.tensor not in inputs:
                raise ValueError(f"field {field.name!r} feeds unknown tensor {field.tensor!r}")
            fed.setdefault(field.tensor, []).append(field.column)
            _check_carrier(field, inputs[field.tensor])
            _check_missing(field, inputs[field.tensor])
        for spec in self.inputs:
            _check_columns(spec, fed.get(spec.name, []))
        for field in self.fields:
            _check_row_shape(field, inputs[field.tensor])
        for prediction in self.predictions:
            if prediction.tensor not in outputs:
                raise ValueError(
                    f"prediction {prediction.name!r} reads unknown tensor {prediction.tensor!r}"
                )
            _check_prediction(prediction, outputs[prediction.tensor])
        return self

    def input(self, name: str) -> TensorSpec:
        return next(spec for spec in self.inputs if spec.name == name)

    def output(self, name: str) -> TensorSpec:
        return next(spec for spec in self.outputs if spec.name == name)


_FLOATS: Final = frozenset({"FP16", "FP32", "FP64"})
_INTEGERS: Final = frozenset(
    {"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"}
)
#: Datatypes that carry the values of a field without changing them. A tensor field takes any.
_CARRIERS: Final[Mapping[str, frozenset[str]]] = {
    "number": _FLOATS,
    "integer": _FLOATS | _INTEGERS,
    "category": frozenset({"BYTES"}),
    "text": frozenset({"BYTES", "UINT8"}),
    "image": frozenset({"UINT8"}),
    "series": _FLOATS,
}


def _check_carrier(field: InputField, spec: TensorSpec) -> None:
    carriers = _CARRIERS.get(field.kind)
    if carriers is not None and spec.datatype not in carriers:
        raise ValueError(
            f"field {field.name!r}: {spec.datatype} tensor {spec.name!r} cannot carry "
            f"values of kind {field.kind}"
        )


def _check_missing(field: InputField, spec: TensorSpec) -> None:
    """Missing needs a value that says so in the tensor: NaN, or the empty string."""
    if field.nullable and spec.datatype not in _FLOATS | {"BYTES"}:
        raise ValueError(f"field {field.name!r} is nullable, {spec.datatype} cannot say missing")
    if field.nullable and isinstance(field, ImageField | SeriesField | TensorField):
        raise ValueError(f"field {field.name!r}: values of kind {field.kind} cannot be missing")


def _check_columns(spec: TensorSpec, columns: list[int | None]) -> None:
    """Every column of an input is fed exactly once, or the whole row is."""
    if columns == [None]:
        return
    width = spec.shape[1] if len(spec.shape) == 2 else None
    wanted = list(range(width)) if isinstance(width, int) else []
    if None in columns or sorted(c for c in columns if c is not None) != wanted or not wanted:
        raise ValueError(f"fields do not feed each column of tensor {spec.name!r} exactly once")


def _check_row_shape(field: InputField, spec: TensorSpec) -> None:
    """A field that feeds a whole row has as many values as the row."""
    if is_padded(field, spec):
        _check_padded(field, spec)
        return
    if field.column is not None or isinstance(field, TensorField):
        return
    shape = field.shape if isinstance(field, ImageField) else ()
    row = spec.shape[1:]
    if row != shape and not (shape == () and row == (1,)):
        raise ValueError(
            f"field {field.name!r} has values of shape {list(shape)}, "
            f"rows of tensor {spec.name!r} have {list(row)}"
        )


def is_padded(field: InputField, spec: TensorSpec) -> bool:
    """Whether rows of the field's tensor have lengths of their own, and are padded to one."""
    return isinstance(field, SeriesField) or (
        isinstance(field, TextField) and spec.datatype == "UINT8"
    )


def _check_padded(field: InputField, spec: TensorSpec) -> None:
    inner = (len(field.channels),) if isinstance(field, SeriesField) else ()
    length, *found = spec.shape[1:] or (0,)
    if field.column is not None or not isinstance(length, str) or tuple(found) != inner:
        wanted = ", ".join(("batch", "length", *map(str, inner)))
        raise ValueError(
            f"field {field.name!r} needs a tensor of shape [{wanted}] with a free length for "
            f"itself, {spec.name!r} has {list(spec.shape)}"
        )


def _check_prediction(prediction: PredictionField, spec: TensorSpec) -> None:
    """A prediction is read row by row: its tensor must have as many values a row as it says."""
    one_a_row = len(spec.shape) == 1 or spec.shape[1:] == (1,)
    match prediction:
        case LabelPrediction():
            fits = spec.datatype == "BYTES" and one_a_row
        case ScoresPrediction(labels=labels):
            fits = spec.datatype in _FLOATS and spec.shape[1:] == (len(labels),)
        case ValuePrediction():
            fits = one_a_row
        case _:
            fits = len(spec.shape) >= 1
    if not fits:
        raise ValueError(
            f"prediction {prediction.name!r} of kind {prediction.kind} cannot be read from "
            f"{spec.datatype} tensor {spec.name!r} of shape {list(spec.shape)}"
        )
