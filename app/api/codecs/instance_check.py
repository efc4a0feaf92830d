"""The compiled check of a typed request: made once from the signature, strict about every value."""

from typing import Annotated, Any, Final, Literal, NotRequired

import numpy as np
from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, with_config

# pydantic takes only this TypedDict on Python 3.11.
from typing_extensions import TypedDict

from app.bundle.signature import (
    CategoryField,
    ImageField,
    InputField,
    IntegerField,
    NumberField,
    SeriesField,
    Signature,
    TensorField,
    TensorSpec,
    TextField,
    is_padded,
)
from app.bundle.tensors import NUMPY_DTYPES

MAX_CATEGORY_CHARACTERS: Final = 1_000
#: As JSON schemas write it too.
WITHOUT_NUL: Final = r"^[^\u0000]*$"
_STRICT: Final = ConfigDict(extra="forbid", strict=True)
_NUMBERS: Final = "<numbers>"
_ENCODED: Final = "<encoded>"
#: What pydantic puts into the place of a fault to tell an image's two forms apart.
IMAGE_TAGS: Final = frozenset({_NUMBERS, _ENCODED})


def request_adapter(signature: Signature, max_rows: int) -> TypeAdapter[Any]:
    """The compiled check of a request's rows, `{"instances": [row, …]}`."""
    limits = Field(min_length=1, max_length=max_rows)
    rows = {"instances": Annotated[list[_row(signature)], limits]}  # type: ignore
    request = with_config(_STRICT)(TypedDict("request", rows))  # type: ignore
    return TypeAdapter(request)


def row_adapter(signature: Signature) -> TypeAdapter[Any]:
    """The compiled check of one row, the same as in a request."""
    return TypeAdapter(_row(signature))


def _row(signature: Signature) -> Any:
    fields = {
        field.name: _annotation(field, signature)
        if field.required
        else NotRequired[_annotation(field, signature)]
        for field in signature.fields
    }
    # Only the functional form can name fields at run time; type checkers cannot follow it.
    return with_config(_STRICT)(TypedDict("instance", fields))  # type: ignore


def _annotation(field: InputField, signature: Signature) -> Any:
    checked: Any = _value_annotation(field, signature.input(field.tensor))
    return checked | None if field.nullable else checked


def _value_annotation(field: InputField, spec: TensorSpec) -> Any:
    match field:
        case NumberField():
            return _number(field.minimum, field.maximum)
        case IntegerField():
            low, high = integer_range(field, spec)
            return Annotated[int, Field(strict=True, ge=low, le=high)]
        case CategoryField(accept_unknown=True):
            return Annotated[str, Field(strict=True, max_length=MAX_CATEGORY_CHARACTERS)]
        case CategoryField():
            return Literal[field.vocabulary]
        case TextField():
            pattern = WITHOUT_NUL if is_padded(field, spec) else None
            limits = Field(strict=True, max_length=field.max_length, pattern=pattern)
            return Annotated[str, limits]
        case SeriesField():
            return _series(field)
        case ImageField():
            return _picture(field)
        case TensorField():
            return Any


def _number(minimum: float | None, maximum: float | None) -> Any:
    return Annotated[float, Field(strict=True, allow_inf_nan=False, ge=minimum, le=maximum)]


def integer_range(field: IntegerField, spec: TensorSpec) -> tuple[int | None, int | None]:
    """The narrower of the field's own range and that which its tensor's datatype holds exactly."""
    low, high = field.minimum, field.maximum
    dtype = NUMPY_DTYPES[spec.datatype]
    if dtype.kind in "iu":
        least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    elif dtype.kind == "f":
        most = 2 ** (np.finfo(dtype).nmant + 1)
        least = -most
    else:
        return low, high
    return least if low is None else max(low, least), most if high is None else min(high, most)


def _series(field: SeriesField) -> Any:
    count = len(field.channels)
    number: Any = _number(None, None)
    step: Any = Annotated[list[number], Field(min_length=count, max_length=count)]
    # One fault is enough: a series has as many as it has numbers.
    lengths = Field(
        min_length=field.minimum_length, max_length=field.maximum_length, fail_fast=True
    )
    return Annotated[list[step], lengths]


def _picture(field: ImageField) -> Any:
    nested: Any = _number(0, field.maximum)
    for size in reversed(field.shape):
        # One fault is enough: a picture has as many as it has numbers.
        exactly = Field(min_length=size, max_length=size, fail_fast=True)
        nested = Annotated[list[nested], exactly]
    numbers: Any = Annotated[nested, Tag(_NUMBERS)]
    return Annotated[
        numbers | Annotated[str, Tag(_ENCODED)],
        Discriminator(lambda value: _ENCODED if isinstance(value, str) else _NUMBERS),
    ]
