"""What the typed wire formats share: rows of named values, checked, to arrays; answers from arrays.

Nothing is coerced into another value.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from app.api.codecs import Codec, Content, Decoded, ModelRef, never
from app.api.codecs.instance_check import IMAGE_TAGS
from app.api.codecs.nested import NestedError, array_from_nested, dims_problem, shares_dims
from app.api.codecs.number_rows import NumberRows
from app.api.codecs.predictions import Predictions
from app.bundle.features import (
    FeatureError,
    image_from_base64,
    image_from_numbers,
)
from app.bundle.padding import TooLarge, padded_series, padded_texts
from app.bundle.signature import (
    ImageField,
    InputField,
    SeriesField,
    Signature,
    TensorField,
    TensorSpec,
    TextField,
)
from app.bundle.tensors import NUMPY_DTYPES, Array
from app.errors import (
    Cancelled,
    Detail,
    MalformedBody,
    PayloadTooLarge,
    ValidationFailed,
)

Row = Mapping[str, Any]
Place = tuple[str | int, ...]

MAX_DETAILS: Final = 20
#: Of one input: a small request must not become a huge array by one long row among many short.
MAX_PADDED_BYTES: Final = 16 * 2**20
_MAX_FAULTS: Final = 10_000
#: Where the name of a field is in the place of a fault.
_NAME_AT: Final = 2
#: Faults of an image's form, said better as one.
_FORM_FAULTS: Final = frozenset({"list_type", "too_short", "too_long"})


class RowsCodec(Codec):
    """A typed wire format but for its `parse`.

    Documents are lists of rows here; formats whose documents hold more pass on the rows.
    """

    def __init__(self, signature: Signature, max_rows: int) -> None:
        self._signature = signature
        self._max_rows = max_rows
        self._fields = {field.name: field for field in signature.fields}
        self._images = [f.name for f in signature.fields if isinstance(f, ImageField)]
        self._numbers = NumberRows.of(signature)
        self._fillers = [_filler(spec, signature) for spec in signature.inputs]
        self._dims_to_compare = signature.inputs if shares_dims(signature.inputs) else ()
        self._predictions = Predictions(signature)

    def _too_many_rows(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"more than {self._max_rows} instances in one request")

    def _translate(
        self, error: ValidationError, prefix: Place = ()
    ) -> MalformedBody | PayloadTooLarge | ValidationFailed:
        """pydantic's faults as ours; `prefix` is the place of what was checked."""
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
            return self._too_many_rows()
        details = [
            self._detail(self._place((*prefix, *fault["loc"])), fault["msg"], fault["type"])
            for fault in faults
        ]
        return invalid(list(dict.fromkeys(details))[:MAX_DETAILS])

    def _place(self, loc: Sequence[str | int]) -> Place:
        """A place in the document: without pydantic's tags, a stranger's names cut short."""
        return tuple(
            part[:64] if isinstance(part, str) and part not in self._fields else part
            for at, part in enumerate(loc)
            if at <= _NAME_AT or part not in IMAGE_TAGS  # a field may be named like a tag
        )

    def _detail(self, place: Place, message: str, kind: str) -> Detail:
        """A fault in words that say what would be right."""
        if kind == "extra_forbidden":
            if len(place) == 1:
                return Detail(place, "Unknown name; known: instances", kind)
            known = ", ".join(tuple(self._fields)[:MAX_DETAILS])
            return Detail(place, f"Not a field of the model, leave it out; known: {known}", kind)
        field = self._fields.get(str(place[2])) if len(place) > 2 else None
        if isinstance(field, ImageField) and kind in _FORM_FAULTS:
            wanted = " × ".join(str(size) for size in field.shape)
            form = f"Input must be {wanted} nested numbers, or a picture in base64"
            return Detail(place[:3], form, "image_form")
        if isinstance(field, TextField) and kind == "string_pattern_mismatch":
            return Detail(place, "Input must hold no NUL character", kind)
        return Detail(place, message, kind)

    def takes_long(self, document: Any) -> bool:
        return any(type(row.get(name)) is str for name in self._images for row in document)

    def decode(self, document: Any, is_abandoned: Callable[[], bool] = never) -> Decoded:
        numbers = self._numbers
        if numbers is not None:
            array = numbers.array(document)
            if array is not None:
                return Decoded({numbers.name: array}, len(document))
        inputs = dict([fill(document, is_abandoned) for fill in self._fillers])
        dims: dict[str, int] = {}
        for spec in self._dims_to_compare:
            problem = dims_problem(spec, inputs[spec.name].shape, dims)
            if problem:
                raise invalid([Detail(("instances",), f"Input {problem}", "value_error")])
        return Decoded(inputs, len(document))

    def encode(self, outputs: Mapping[str, Array], decoded: Decoded, model: ModelRef) -> Content:
        return self._predictions.content(outputs, decoded.rows, model)


def invalid(details: Sequence[Detail]) -> ValidationFailed:
    """The error whose message is its first detail."""
    first = details[0]
    place = ".".join(str(part) for part in first.loc) or "body"
    return ValidationFailed(f"{place}: {first.msg}", details)


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
            case TextField() if spec.datatype == "UINT8":
                return functools.partial(_fill_texts, spec, whole)
            case SeriesField():
                return functools.partial(_fill_series, spec, whole)
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


def _fill_texts(
    spec: TensorSpec, field: TextField, rows: Sequence[Row], _: Callable[[], bool]
) -> tuple[str, Array]:
    texts = [row[field.name] for row in rows]
    try:
        return spec.name, padded_texts(texts, MAX_PADDED_BYTES)
    except TooLarge as error:
        raise PayloadTooLarge(f"field {field.name!r}: {error}") from None


def _fill_series(
    spec: TensorSpec, field: SeriesField, rows: Sequence[Row], _: Callable[[], bool]
) -> tuple[str, Array]:
    series = [row[field.name] for row in rows]
    dtype = NUMPY_DTYPES[spec.datatype]
    try:
        with np.errstate(over="ignore"):  # what overflows is refused below
            array = padded_series(series, len(field.channels), dtype, MAX_PADDED_BYTES)
    except TooLarge as error:
        raise PayloadTooLarge(f"field {field.name!r}: {error}") from None
    if np.isinf(array).any():
        row = int(np.argwhere(np.isinf(array))[0, 0])
        raise invalid([_detail(row, field, f"Input does not fit {spec.datatype}")])
    return spec.name, array


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
