"""The check of a field where its values come as an array, as strict as that of rows."""

from collections.abc import Callable

import numpy as np

from app.api.codecs.instance_check import MAX_CATEGORY_CHARACTERS, integer_range
from app.bundle.padding import NUL, row_lengths, text_of
from app.bundle.signature import (
    CategoryField,
    ImageField,
    InputField,
    IntegerField,
    NumberField,
    SeriesField,
    TensorSpec,
    TextField,
    is_padded,
)
from app.bundle.tensors import Array
from app.errors import Detail


def field_fault(field: InputField, spec: TensorSpec, array: Array) -> Detail | None:
    """The first row whose value the field does not take, None where it takes all.

    Args:
        array: the field's tensor, [rows, …] in the shape and datatype of `spec`.
    """
    values = array if field.column is None else array[:, field.column]
    wrong, message = _wrong(field, spec, values)
    rows = wrong.reshape(len(array), -1).any(axis=1)
    if not rows.any():
        return None
    return Detail(("instances", int(rows.argmax()), field.name), f"Input {message}", "value_error")


def _wrong(field: InputField, spec: TensorSpec, values: Array) -> tuple[Array, str]:
    """Which values are wrong, and what would be right."""
    match field:
        case NumberField():
            said = f"should be a finite number{_between(field.minimum, field.maximum)}"
            wrong = _not_finite(values) | _outside(values, field.minimum, field.maximum)
        case IntegerField():
            low, high = integer_range(field, spec)
            said = f"should be a whole number{_between(low, high)}"
            wrong = _not_finite(values) | _outside(values, low, high)
            if values.dtype.kind == "f":
                wrong |= np.floor(values) != values
        case CategoryField(accept_unknown=True):
            said = f"should have at most {MAX_CATEGORY_CHARACTERS} characters"
            wrong = _where(values, lambda text: len(text) > MAX_CATEGORY_CHARACTERS)
        case CategoryField(vocabulary=vocabulary):
            said = "should be one of the field's categories"
            known = frozenset(vocabulary)
            wrong = _where(values, lambda text: text not in known)
        case TextField(max_length=most) if is_padded(field, spec):
            said = f"should be UTF-8 of at most {most} characters, then zeros"
            wrong = np.array([not _is_text(row, most) for row in values], np.bool_)
        case SeriesField(minimum_length=least, maximum_length=most):
            said = f"should have {least} to {most} steps of finite numbers, then NaN"
            lengths = row_lengths(values)
            numbers = np.isfinite(values).sum(axis=(1, 2))
            wrong = (lengths < least) | (lengths > most) | (numbers < lengths * values.shape[2])
        case TextField(max_length=most):
            said = f"should have at most {most} characters"
            wrong = _where(values, lambda text: len(text) > most)
        case ImageField(maximum=maximum):
            said = f"must hold numbers from 0 to {maximum}"
            wrong = values > maximum
        case _:
            said = "must hold finite numbers"
            wrong = _not_finite(values)
    if field.nullable:
        wrong &= ~_missing(values)
    return wrong, said


def _is_text(row: Array, most: int) -> bool:
    try:
        text = text_of(row)
    except UnicodeDecodeError:
        return False
    return len(text) <= most and NUL not in text


def _missing(values: Array) -> Array:
    return values == "" if values.dtype.hasobject else np.isnan(values)


def _not_finite(values: Array) -> Array:
    if values.dtype.kind != "f":
        return np.zeros(values.shape, np.bool_)
    return ~np.isfinite(values)


def _outside(values: Array, low: float | None, high: float | None) -> Array:
    """Beyond the bounds, as the tensor's datatype rounds them."""
    wrong = np.zeros(values.shape, np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):
        if low is not None:
            wrong |= values < np.array(low).astype(values.dtype)
        if high is not None:
            wrong |= values > np.array(high).astype(values.dtype)
    return wrong


def _where(values: Array, is_wrong: Callable[[str], bool]) -> Array:
    found = [is_wrong(text) for text in values.ravel().tolist()]
    return np.array(found, np.bool_).reshape(values.shape)


def _between(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else f" of at most {high:g}"
    return f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
