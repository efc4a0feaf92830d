"""The typed JSON form: `{"instances": [{field: value}]}` to `{"predictions": [{…}]}`.

The check of a request is compiled once from the signature; nothing is coerced into another value.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import orjson
from pydantic import (
    ValidationError,
)

# pydantic takes only this TypedDict on Python 3.11.
from app.api.codecs import Decoded, ModelRef, never
from app.api.codecs.instance_check import IMAGE_TAGS, request_adapter
from app.api.codecs.json_guard import refuse_bulk, refuse_deep_nesting, refuse_duplicate_names
from app.api.codecs.nested import NestedError, array_from_nested, dims_problem
from app.bundle.features import (
    FeatureError,
    image_from_base64,
    image_from_numbers,
)
from app.bundle.signature import (
    ImageField,
    InputField,
    LabelPrediction,
    PredictionField,
    ScoresPrediction,
    Signature,
    TensorField,
    TensorSpec,
    ValuePrediction,
)
from app.bundle.tensors import NUMPY_DTYPES, Array
from app.errors import (
    Cancelled,
    Detail,
    MalformedBody,
    NonFiniteOutput,
    PayloadTooLarge,
    ValidationFailed,
)

Row = Mapping[str, Any]

_MAX_DETAILS: Final = 20
_MAX_FAULTS: Final = 10_000
#: Faults of an image's form, said better as one.
_FORM_FAULTS: Final = frozenset({"list_type", "too_short", "too_long"})


class InstancesCodec:
    """See `app.api.codecs.Codec`."""

    def __init__(self, signature: Signature, max_rows: int) -> None:
        self._signature = signature
        self._max_rows = max_rows
        self._adapter = request_adapter(signature, max_rows)
        self._fields = {field.name: field for field in signature.fields}
        self._images = [f.name for f in signature.fields if isinstance(f, ImageField)]
        self._fillers = [_filler(spec, signature) for spec in signature.inputs]
        self._readers = [(p.name, p.tensor, _reader(p)) for p in signature.predictions]
        self._float_outputs = _float_outputs(signature)

    def parse(self, body: bytes) -> list[Row]:
        refuse_deep_nesting(body)
        too_many = f"more than {self._max_rows} instances in one request, or names without number"
        refuse_bulk(body, 1 + self._max_rows, 1 + self._max_rows * len(self._fields), too_many)
        try:
            rows = cast(list[Row], self._adapter.validate_json(body)["instances"])
        except ValidationError as error:
            raise self._translate(error) from None
        refuse_duplicate_names(body, 1 + sum(map(len, rows)))
        return rows

    def _translate(
        self, error: ValidationError
    ) -> MalformedBody | PayloadTooLarge | ValidationFailed:
        if error.error_count() > _MAX_FAULTS:
            return invalid(
                [Detail(("instances",), "Input has too many faults to list", "too_many")]
            )
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        first = faults[0]
        if first["type"] == "json_invalid":
            reason = first["msg"].removeprefix("Invalid JSON: ")
            return MalformedBody(f"body is not valid JSON: {reason}")
        if (first["type"], first["loc"]) == ("too_long", ("instances",)):
            return PayloadTooLarge(f"more than {self._max_rows} instances in one request")
        details = [self._detail(_place(f["loc"]), f["msg"], f["type"]) for f in faults]
        return invalid(list(dict.fromkeys(details))[:_MAX_DETAILS])

    def _detail(self, place: tuple[str | int, ...], message: str, kind: str) -> Detail:
        """A fault in words that say what would be right."""
        if kind == "extra_forbidden":
            known = ("instances",) if len(place) == 1 else tuple(self._fields)
            return Detail(place, f"Unknown name; known: {', '.join(known[:_MAX_DETAILS])}", kind)
        field = self._fields.get(str(place[2])) if len(place) > 2 else None
        if isinstance(field, ImageField) and kind in _FORM_FAULTS:
            wanted = " × ".join(str(size) for size in field.shape)
            form = f"Input must be {wanted} nested numbers, or a picture in base64"
            return Detail(place[:3], form, "image_form")
        return Detail(place, message, kind)

    def has_pictures(self, document: list[Row]) -> bool:
        return any(type(row.get(name)) is str for name in self._images for row in document)

    def decode(self, document: list[Row], is_abandoned: Callable[[], bool] = never) -> Decoded:
        inputs = dict(fill(document, is_abandoned) for fill in self._fillers)
        dims: dict[str, int] = {}
        for spec in self._signature.inputs:
            problem = dims_problem(spec, inputs[spec.name].shape, dims)
            if problem:
                raise invalid([Detail(("instances",), f"Input {problem}", "value_error")])
        return Decoded(inputs, len(document))

    def encode(self, outputs: Mapping[str, Array], decoded: Decoded, model: ModelRef) -> bytes:
        refuse_non_finite(outputs, self._float_outputs)
        columns = [(name, read(outputs[tensor])) for name, tensor, read in self._readers]
        predictions = [
            {name: column[row] for name, column in columns} for row in range(decoded.rows)
        ]
        return orjson.dumps(
            {"predictions": predictions, "model": model}, option=orjson.OPT_SERIALIZE_NUMPY
        )


def invalid(details: Sequence[Detail]) -> ValidationFailed:
    """The error whose message is its first detail."""
    first = details[0]
    place = ".".join(str(part) for part in first.loc) or "body"
    return ValidationFailed(f"{place}: {first.msg}", details)


def _place(loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """A place in the document: without pydantic's tags, and with a stranger's names cut short."""
    return tuple(
        part[:64] if isinstance(part, str) else part for part in loc if part not in IMAGE_TAGS
    )


Filler = Callable[[Sequence[Row], Callable[[], bool]], tuple[str, Array]]


def _filler(spec: TensorSpec, signature: Signature) -> Filler:
    """How one input tensor is made from rows."""
    fields = sorted(
        (field for field in signature.fields if field.tensor == spec.name),
        key=lambda field: field.column or 0,
    )
    whole = fields[0]
    if whole.column is None:
        match whole:
            case ImageField():
                return functools.partial(_fill_images, spec, whole)
            case TensorField():
                return functools.partial(_fill_tensors, spec, whole)
    return functools.partial(_fill_columns, spec, fields)


def _fill_columns(
    spec: TensorSpec,
    fields: Sequence[InputField],
    rows: Sequence[Row],
    _: Callable[[], bool],
) -> tuple[str, Array]:
    dtype = NUMPY_DTYPES[spec.datatype]
    array = np.empty((len(rows), len(fields)), dtype)
    missing: Any = "" if spec.datatype == "BYTES" else np.nan
    with np.errstate(over="ignore"):  # what overflows is refused below
        for column, field in enumerate(fields):
            name = field.name
            values = [row.get(name) for row in rows]
            if field.nullable:
                values = [missing if value is None else value for value in values]
            array[:, column] = values
    if dtype.kind == "f" and np.isinf(array).any():
        row, column = np.argwhere(np.isinf(array))[0].tolist()
        raise invalid([_detail(row, fields[column], f"Input does not fit {spec.datatype}")])
    shape = tuple(dim for dim in spec.shape[1:] if isinstance(dim, int))
    return spec.name, array.reshape(len(rows), *shape)


def _fill_images(
    spec: TensorSpec, field: ImageField, rows: Sequence[Row], is_abandoned: Callable[[], bool]
) -> tuple[str, Array]:
    pictures = []
    for index, row in enumerate(rows):
        if is_abandoned():
            raise Cancelled("nobody waits for this request any longer")
        value = row[field.name]
        try:
            if isinstance(value, str):
                pictures.append(image_from_base64(value, field))
            else:
                pictures.append(image_from_numbers(value, field))
        except FeatureError as error:
            raise invalid([_detail(index, field, f"Input {error}")]) from None
    return spec.name, np.stack(pictures).astype(NUMPY_DTYPES[spec.datatype], copy=False)


def _fill_tensors(
    spec: TensorSpec, field: TensorField, rows: Sequence[Row], _: Callable[[], bool]
) -> tuple[str, Array]:
    arrays = []
    for index, row in enumerate(rows):
        try:
            arrays.append(array_from_nested(row[field.name], spec.datatype, spec.shape[1:]))
        except NestedError as error:
            raise invalid([_detail(index, field, f"Input {error}")]) from None
    if len({array.shape for array in arrays}) > 1:
        raise invalid([_detail(0, field, "Input must have one shape in all instances")])
    return spec.name, np.stack(arrays)


def _detail(row: int, field: InputField, message: str) -> Detail:
    return Detail(("instances", row, field.name), message, "value_error")


Reader = Callable[[Array], Sequence[Any] | Array]


def _reader(prediction: PredictionField) -> Reader:
    """How one prediction field is read from its tensor: a sequence with a value for each row."""
    match prediction:
        case LabelPrediction():
            return lambda array: array.reshape(-1).tolist()
        case ScoresPrediction(labels=labels):
            return lambda array: [dict(zip(labels, row, strict=True)) for row in _plain(array)]
        case ValuePrediction():
            return lambda array: _plain(array.reshape(-1))
        case _:
            return _plain


def _plain(array: Array) -> Sequence[Any] | Array:
    """Rows that orjson can write: float32 as arrays, which keeps their short form 0.1."""
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array if array.dtype.kind == "f" else array.tolist()


def _float_outputs(signature: Signature) -> tuple[str, ...]:
    read = {prediction.tensor for prediction in signature.predictions}
    return tuple(
        spec.name
        for spec in signature.outputs
        if spec.name in read and NUMPY_DTYPES[spec.datatype].kind == "f"
    )


def refuse_non_finite(outputs: Mapping[str, Array], names: Sequence[str]) -> None:
    """JSON cannot say NaN or infinity, and null would be another answer.

    Raises:
        NonFiniteOutput: naming the output and its first such row.
    """
    for name in names:
        array = outputs[name]
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
            raise NonFiniteOutput(f"output {name!r} of row {row} is not a finite number")
