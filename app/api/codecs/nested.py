"""Nested JSON lists to arrays of a protocol datatype, without a value that changes on the way."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np

from app.bundle.signature import Dim, TensorSpec
from app.bundle.tensors import NUMPY_DTYPES, Array, Datatype, is_float


class NestedError(ValueError):
    """What is wrong, worded to follow 'Input' or the name of a tensor."""


_JSON_TYPES: Final[dict[str, frozenset[type]]] = {
    "f": frozenset({int, float}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "b": frozenset({bool}),
    "O": frozenset({str}),
}
_WORDS: Final = {"f": "numbers", "i": "whole numbers", "u": "whole numbers", "b": "booleans",
                 "O": "strings"}  # fmt: skip


def array_from_flat(values: Sequence[Any], datatype: Datatype, shape: Sequence[int]) -> Array:
    """A flat list to an array of `shape`, row-major.

    Raises:
        NestedError: another count, a value of another type or outside the datatype's range.
    """
    count = math.prod(shape)  # Python's integers do not overflow
    if len(values) != count:
        raise NestedError(f"has {len(values)} values, its shape {list(shape)} needs {count}")
    dtype = NUMPY_DTYPES[datatype]
    allowed = _JSON_TYPES[dtype.kind]
    if not set(map(type, values)) <= allowed:
        index = next(i for i, value in enumerate(values) if type(value) not in allowed)
        raise NestedError(
            f"must hold {_WORDS[dtype.kind]} ({datatype}); value {index} is "
            f"{_json_word(values[index])}"
        )
    if dtype.kind in "iu":
        _check_range(values, datatype)
    with np.errstate(over="ignore"):  # refused below
        try:
            array = np.array(values, dtype=dtype)
        except OverflowError:
            raise NestedError(f"holds a value that does not fit {datatype}") from None
    if is_float(datatype) and not np.isfinite(array).all():
        index = int(np.argmin(np.isfinite(array)))
        raise NestedError(f"holds a value that does not fit {datatype} at {index}")
    return array.reshape(tuple(shape))


def _check_range(values: Sequence[int], datatype: Datatype) -> None:
    bounds = np.iinfo(NUMPY_DTYPES[datatype])
    if values and (min(values) < bounds.min or max(values) > bounds.max):
        index = next(i for i, v in enumerate(values) if not bounds.min <= v <= bounds.max)
        raise NestedError(f"holds a value outside {datatype} at {index}")


def flatten(value: Any, shape: Sequence[int]) -> list[Any]:
    """Nested lists of exactly `shape` to a flat list.

    Raises:
        NestedError: ragged, or of another shape.
    """
    level: list[Any] = [value]
    for depth, size in enumerate(shape):
        for part in level:
            if type(part) is not list or len(part) != size:
                got = f"{len(part)} values" if type(part) is list else _json_word(part)
                raise NestedError(
                    f"must have shape {list(shape)}: axis {depth} has {got} instead of {size}"
                )
        level = list(chain.from_iterable(level))
    return level


def array_from_nested(value: Any, datatype: Datatype, dims: Sequence[Dim]) -> Array:
    """Nested lists to an array; a named dim takes the length that it finds.

    Raises:
        NestedError: see `flatten` and `array_from_flat`.
    """
    shape: list[int] = []
    first = value
    for dim in dims:
        found = len(first) if type(first) is list else 0
        shape.append(dim if isinstance(dim, int) else found)
        first = first[0] if type(first) is list and first else None
    return array_from_flat(flatten(value, shape), datatype, shape)


def shares_dims(specs: Sequence[TensorSpec]) -> bool:
    """Whether a named dim, but for the batch, is in more than one place: else none can differ."""
    named = [dim for spec in specs for dim in spec.shape[1:] if isinstance(dim, str)]
    return len(set(named)) < len(named)


def dims_problem(spec: TensorSpec, shape: Sequence[int], dims: dict[str, int]) -> str | None:
    """Whether a named dim has another size than in the request's other inputs; `dims` keeps them.

    Returns:
        What is wrong, or None.
    """
    for dim, size in zip(spec.shape[1:], shape[1:], strict=False):
        if isinstance(dim, str) and dims.setdefault(dim, size) != size:
            return f"has {size} along {dim!r}, where another input has {dims[dim]}"
    return None


def _json_word(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
